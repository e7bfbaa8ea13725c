"""An endpoint that receives webhooks over real HTTP and remembers every byte of them."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Received:
    """One request as it arrived. ``at`` is monotonic, in seconds."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def event(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(self.body)
        return result

    @property
    def signature(self) -> str:
        return self.headers["dunwell-sandbox-signature"]


class Receiver:
    """A server on a free loopback port, in threads of its own: tests may block.

    ``answer`` gives the status of each request, by default 200; 0 hangs up without a word.
    """

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.connections = 0
        self.answer: Callable[[Received], int] = lambda _: 200
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                receiver.connections += 1
                super().setup()

            def handle(self) -> None:
                with suppress(ConnectionError):  # The sender may be killed at any time.
                    super().handle()

            def do_POST(self) -> None:
                receiver._received(self)

            def log_message(self, format: str, *args: Any) -> None:
                """Nothing is printed."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def types(self) -> Counter[str]:
        return Counter(request.event["type"] for request in self.requests)

    @property
    def ids(self) -> list[str]:
        return [request.event["id"] for request in self.requests]

    async def wait_for(self, count: int, seconds: float = 15.0) -> list[Received]:
        """Until so many requests have come; fails when they do not."""
        deadline = time.monotonic() + seconds
        while len(self.requests) < count:
            assert time.monotonic() < deadline, f"{len(self.requests)} of {count} webhooks came"
            await asyncio.sleep(0.01)
        return self.requests

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _received(self, handler: BaseHTTPRequestHandler) -> None:
        at = time.monotonic()
        length = int(handler.headers.get("content-length", "0"))
        body = handler.rfile.read(length)
        if len(body) < length:  # The sender died in the middle of it.
            handler.close_connection = True
            return
        headers = {name.lower(): value for name, value in handler.headers.items()}
        received = Received(handler.path, headers, body, at)
        self.requests.append(received)
        status = self.answer(received)
        if status == 0:
            handler.close_connection = True
            return
        handler.send_response(status)
        if 300 <= status < 400:
            handler.send_header("Location", "/elsewhere")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
