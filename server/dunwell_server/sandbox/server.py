"""Runs the gateway with uvicorn, with the one ability ASGI lacks: cutting a connection."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from dunwell_server.sandbox.app import create_app
from dunwell_server.sandbox.exchange import ABORT_EXTENSION

KEEP_ALIVE_SECONDS = 75


class AbortableProtocol(H11Protocol):
    """HTTP/1.1 that lets the application cut its connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        inner: ASGIApp = self.app

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            extensions: dict[str, Any] = scope.setdefault("extensions", {})
            extensions[ABORT_EXTENSION] = transport.abort
            await inner(scope, receive, send)

        self.app = app


class _Server(uvicorn.Server):
    """Says where it listens once it does; whoever started it reads that line."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            print(f"sandbox gateway listening on http://{host}:{port}", flush=True)


def public_url_of(host: str, port: int) -> str:
    """Where a browser on this machine finds what listens on ``host`` and ``port``."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"


async def serve(
    host: str,
    port: int,
    data_path: Path,
    *,
    allow_reset: bool = False,
    webhook_url: str = "",
    public_url: str | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT. Port 0 takes a free one; the first line of output names it.

    ``webhook_url`` is where events go (``{account}`` in it is the account's name; empty: nowhere), ``public_url`` where
    browsers find the hosted pages, if that is not where it listens.
    Raises OSError when the port is taken, sqlite3.OperationalError when another gateway holds the book.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        app = await create_app(
            data_path,
            allow_reset=allow_reset,
            webhook_url=webhook_url,
            public_url=public_url or public_url_of(host, listener.getsockname()[1]),
        )
        config = uvicorn.Config(
            app,
            http=AbortableProtocol,
            ws="none",
            access_log=False,
            log_level="warning",
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=1,
            backlog=2048,
        )
        await _Server(config).serve(sockets=[listener])
