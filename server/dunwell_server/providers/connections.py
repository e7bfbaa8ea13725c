"""HTTP/1.1 connections on asyncio and h11, for one exchange at a time each.

No more than adapters need: one write for a request, the whole answer in memory, and no cookies, redirects, proxies or retries. Charges are
sent by the hundred per second, and a client made for browsing costs several times what the rest of a charge does.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any, Final, NamedTuple, cast

import h11
import httpx

NEXT_ADDRESS_SECONDS: Final = 0.25
"""How long the next address of a host waits for the one before it to connect (happy eyeballs)."""
_Address = tuple[int, int, int, str, Any]


class Origin(NamedTuple):
    """Where a connection leads."""

    secure: bool
    host: str
    port: int

    @property
    def name(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"


class Connection(asyncio.Protocol):
    """One connection. An exchange that does not end well closes it; whoever holds it asks `usable` before the next."""

    def __init__(self) -> None:
        self._http = h11.Connection(h11.CLIENT)
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[httpx.Response] | None = None
        self._head: h11.Response | None = None
        self._body: list[bytes] = []
        self._idle_since = time.monotonic()

    def usable(self, idle_seconds: float) -> bool:
        """Whether a request may be sent: open, at rest, and not for longer than `idle_seconds`."""
        return (
            self._transport is not None
            and not self._transport.is_closing()
            and self._answer is None
            and self._http.our_state is h11.IDLE
            and time.monotonic() - self._idle_since < idle_seconds
        )

    async def exchange(
        self, method: str, target: str, headers: Sequence[tuple[str, str]], body: bytes
    ) -> httpx.Response:
        """Send a request and return the whole answer. Raises what went wrong, after which the connection is closed."""
        assert self._transport is not None
        request = self._http.send(h11.Request(method=method, target=target, headers=list(headers))) or b""
        if body:
            request += self._http.send(h11.Data(data=body)) or b""
        request += self._http.send(h11.EndOfMessage()) or b""
        self._answer = asyncio.get_running_loop().create_future()
        try:
            self._transport.write(request)
            return await self._answer
        except BaseException:
            self.close()
            raise
        finally:
            self._answer, self._head, self._body = None, None, []
            self._idle_since = time.monotonic()

    def close(self) -> None:
        """Give the connection up at once."""
        if self._transport is not None:
            self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._receive(data)

    def eof_received(self) -> bool:
        self._receive(b"")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(exc or ConnectionResetError("the connection was closed before the answer was complete"))

    def _receive(self, data: bytes) -> None:
        if self._answer is None:
            self.close()  # Nothing was asked: the other side closes, or says what nobody can attribute.
            return
        try:
            self._http.receive_data(data)
            while (event := self._http.next_event()) is not h11.NEED_DATA:
                if not self._take(event):
                    return
        except Exception as error:
            self._fail(error)
            self.close()

    def _take(self, event: Any) -> bool:
        """Take one event of the answer; False: there is nothing more to come."""
        if isinstance(event, h11.Response):
            self._head = event
        elif isinstance(event, h11.Data):
            self._body.append(bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            self._complete()
            return False
        elif not isinstance(event, h11.InformationalResponse):
            raise h11.RemoteProtocolError("the answer breaks off")
        return True

    def _complete(self) -> None:
        assert self._answer is not None
        assert self._head is not None
        answer = httpx.Response(
            self._head.status_code, headers=self._head.headers.raw_items(), content=b"".join(self._body)
        )
        more, _ = self._http.trailing_data
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE and not more:
            self._http.start_next_cycle()
        elif self._transport is not None:
            self._transport.close()
        if not self._answer.done():
            self._answer.set_result(answer)

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)


async def connect(origin: Origin, tls: ssl.SSLContext, seconds: float) -> Connection:
    """A new connection within `seconds`. Raises OSError (TLS and time-out included) where none can be made."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(seconds):
        found = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        ready = await _first_connected(_interleaved(found))
        try:
            # No delay for small writes: the answer is waited for, and nothing else is to come.
            ready.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            options: dict[str, Any] = {"ssl": tls, "server_hostname": origin.host} if origin.secure else {}
            _, connection = await loop.create_connection(Connection, sock=ready, **options)
        except BaseException:
            ready.close()
            raise
    return connection


def _interleaved(addresses: Sequence[_Address]) -> list[_Address]:
    """The addresses, families in turn, beginning with the system's first choice."""
    first = [each for each in addresses if each[0] == addresses[0][0]]
    others = [each for each in addresses if each[0] != addresses[0][0]]
    return [each for each in chain.from_iterable(zip_longest(first, others)) if each is not None]


async def _first_connected(addresses: Sequence[_Address]) -> socket.socket:
    """A socket connected to the first address that answers; each waits a little for those before it, or for their failure."""
    trying: set[asyncio.Task[socket.socket]] = set()
    trouble: BaseException = OSError("the host has no address")
    rest = list(addresses)
    try:
        while rest or trying:
            if rest:
                trying.add(asyncio.create_task(_connected(rest.pop(0))))
            done, trying = await asyncio.wait(
                trying, timeout=NEXT_ADDRESS_SECONDS if rest else None, return_when=asyncio.FIRST_COMPLETED
            )
            connected = [task.result() for task in done if task.exception() is None]
            for surplus in connected[1:]:
                surplus.close()
            if connected:
                return connected[0]
            trouble = next((error for task in done if (error := task.exception())), trouble)
        raise trouble
    finally:
        for task in trying:
            task.add_done_callback(_discard)
            task.cancel()


async def _connected(address: _Address) -> socket.socket:
    family, kind, protocol, _, target = address
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(made, target)
    except BaseException:
        made.close()
        raise
    return made


def _discard(task: asyncio.Task[socket.socket]) -> None:
    """Close what connected although another was first."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
