"""A small HTTP server on the loopback for what no real stand-in does: answers of any shape, dropped and stalled ones.

It runs in the test's own event loop, closes every connection after one exchange, and keeps what it was sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        """The fields of a form body, names as sent (``metadata[key]``)."""
        return dict(parse_qsl(self.body.decode(), keep_blank_values=True))


@dataclass(frozen=True)
class Reply:
    """An answer."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def of(value: Any, status: int = 200, **headers: str) -> Reply:
        """A JSON answer; underscores in the names of headers stand for hyphens."""
        return Reply(status, json.dumps(value).encode(), {k.replace("_", "-"): v for k, v in headers.items()})


class Drop(Exception):
    """Instead of an answer: the connection is cut."""


class Stall(Exception):
    """Instead of an answer: nothing, until the client gives up."""


Handler = Callable[[Seen], Awaitable[Reply]]


@dataclass
class Loopback:
    """A running server."""

    url: str
    seen: list[Seen]


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Loopback]:
    """A server that answers with ``handler``, which may raise Drop or Stall."""
    seen: list[Seen] = []
    open_writers: set[asyncio.StreamWriter] = set()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_writers.add(writer)
        try:
            request = await _request(reader)
            if request is None:
                return
            seen.append(request)
            try:
                writer.write(_bytes(await handler(request)))
                await writer.drain()
            except Drop:
                writer.transport.abort()
            except Stall:
                with contextlib.suppress(ConnectionError):
                    await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            open_writers.discard(writer)
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Loopback(f"http://127.0.0.1:{port}", seen)
    finally:
        server.close()
        for writer in list(open_writers):
            writer.transport.abort()


async def _request(reader: asyncio.StreamReader) -> Seen | None:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _ = first.split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    parts = urlsplit(target)
    return Seen(method, parts.path, parse_qsl(parts.query, keep_blank_values=True), headers, body)


def _bytes(reply: Reply) -> bytes:
    headers = {"content-type": "application/json", **reply.headers, "content-length": str(len(reply.body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {reply.status} Status\r\n{lines}connection: close\r\n\r\n".encode("latin-1") + reply.body
