"""The `dunwell` command: what operators type. One module per command; the work itself is done by the contexts."""

import sys


def main() -> None:
    """The console script: parse, run, exit with the command's code. Ctrl-C is no traceback, also while modules load."""
    try:
        from dunwell_server.cli.app import app

        app()
    except KeyboardInterrupt:
        sys.exit(130)
