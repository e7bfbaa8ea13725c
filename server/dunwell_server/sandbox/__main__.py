"""``python -m dunwell_server.sandbox``: the sandbox gateway as a process of its own."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import Sequence
from pathlib import Path

from dunwell_server.sandbox.server import serve

WEBHOOK_URL_VARIABLE = "DUNWELL_SANDBOX_WEBHOOK_URL"
PUBLIC_URL_VARIABLE = "DUNWELL_SANDBOX_PUBLIC_URL"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line (or `arguments`) and serves. Exit code 1 when the port or the book is not to be had."""
    parser = argparse.ArgumentParser(prog="python -m dunwell_server.sandbox", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=4280, help="port to listen on; 0 takes a free one")
    parser.add_argument("--data", type=Path, required=True, help="file of the gateway's own book (SQLite)")
    parser.add_argument("--allow-reset", action="store_true", help="allow POST /control/reset to empty the book")
    parser.add_argument(
        "--webhook-url",
        default=os.environ.get(WEBHOOK_URL_VARIABLE, ""),
        help="where events are sent unless an account says otherwise; {account} in it is the account's name; "
        f"empty: nowhere (default: {WEBHOOK_URL_VARIABLE})",
    )
    parser.add_argument(
        "--public-url",
        default=os.environ.get(PUBLIC_URL_VARIABLE) or None,
        help=f"where browsers find the hosted pages, if not where it listens (default: {PUBLIC_URL_VARIABLE})",
    )
    options = parser.parse_args(arguments)
    # uvicorn finishes its work and then raises the signal again, for the handler that was there before it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        import uvloop
    except ImportError:
        run = asyncio.run
    else:
        run = uvloop.run
    try:
        run(
            serve(
                options.host,
                options.port,
                options.data,
                allow_reset=options.allow_reset,
                webhook_url=options.webhook_url,
                public_url=options.public_url,
            )
        )
    except (OSError, sqlite3.OperationalError, ValueError) as error:
        print(f"sandbox gateway: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
