"""Posting to endpoints over HTTP/1.1 connections that are kept: a small client, for a gateway that sends much.

Redirects are not followed and nothing is repeated here. A general HTTP library costs several times the processor time
of the request itself, which the gateway would take from the very calls it is to answer.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

import h11

IDLE_SECONDS = 30.0
CHUNK_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 1024 * 1024


class PostFailed(Exception):
    """No answer that can be understood; the text is a word on why."""


@dataclass(slots=True)
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    protocol: h11.Connection
    used_at: float

    def close(self) -> None:
        self.writer.close()


class Poster:
    """Connections to any number of endpoints."""

    def __init__(self, timeout_seconds: float) -> None:
        """``timeout_seconds`` is for the whole of one exchange."""
        self._timeout_seconds = timeout_seconds
        self._idle: dict[tuple[str, str, int], list[_Connection]] = defaultdict(list)
        self._tls: ssl.SSLContext | None = None

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        """The status of the answer. Raises PostFailed."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._post(url, headers, body)
        except PostFailed:
            raise
        except Exception as error:  # Whatever went wrong, there is no answer.
            raise PostFailed(type(error).__name__) from None

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        parts = urlsplit(url)
        place = (parts.scheme, parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80))
        connection = self._kept(place) or await self._connect(*place)
        try:
            status, again = await _exchange(connection, parts, headers, body)
        except BaseException:
            connection.close()
            raise
        if again:
            connection.used_at = time.monotonic()
            self._idle[place].append(connection)
        else:
            connection.close()
        return status

    def _kept(self, place: tuple[str, str, int]) -> _Connection | None:
        """The connection used last, unless the other side has closed it or may be about to."""
        kept = self._idle[place]
        while kept:
            connection = kept.pop()
            fresh = time.monotonic() - connection.used_at < IDLE_SECONDS
            if fresh and not connection.reader.at_eof() and not connection.writer.is_closing():
                return connection
            connection.close()
        return None

    async def _connect(self, scheme: str, host: str, port: int) -> _Connection:
        if scheme == "https" and self._tls is None:
            self._tls = ssl.create_default_context()
        reader, writer = await asyncio.open_connection(host, port, ssl=self._tls if scheme == "https" else None)
        return _Connection(reader, writer, h11.Connection(h11.CLIENT), time.monotonic())

    async def close(self) -> None:
        """Closes the connections that are idle."""
        for kept in self._idle.values():
            for connection in kept:
                connection.close()
                with suppress(OSError, ssl.SSLError):
                    await connection.writer.wait_closed()
        self._idle.clear()


async def _exchange(
    connection: _Connection, parts: SplitResult, headers: Mapping[str, str], body: bytes
) -> tuple[int, bool]:
    """Status, and whether the connection can be used again."""
    protocol = connection.protocol
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = h11.Request(
        method="POST",
        target=target,
        headers=[("Host", parts.netloc.rpartition("@")[2]), ("Content-Length", str(len(body))), *headers.items()],
    )
    parcel = (protocol.send(head) or b"") + (protocol.send(h11.Data(data=body)) or b"")
    connection.writer.write(parcel + (protocol.send(h11.EndOfMessage()) or b""))
    await connection.writer.drain()
    status, read = 0, 0
    while True:
        event = protocol.next_event()
        if event is h11.NEED_DATA:
            data = await connection.reader.read(CHUNK_BYTES)
            read += len(data)
            if read > MAX_ANSWER_BYTES:
                raise PostFailed("AnswerTooLong")
            protocol.receive_data(data)
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.ConnectionClosed):
            raise PostFailed("ConnectionClosed")
        elif isinstance(event, h11.EndOfMessage):
            break
    again = protocol.our_state is h11.DONE and protocol.their_state is h11.DONE
    if again:
        protocol.start_next_cycle()
    return status, again
