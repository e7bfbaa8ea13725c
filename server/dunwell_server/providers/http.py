"""HTTP as adapters need it: no retries, bounded time, and an honest word on whether anything was sent.

`exchange` gives the response, or tells the two kinds of failure apart: `NothingSent` is proof that no byte of the
request left (no connection could be made), every other trouble is `NoAnswer`.
"""

from __future__ import annotations

import asyncio
import importlib.util
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final

import httpx

from dunwell_server.providers.base import CONNECT_TIMEOUT_SECONDS, TOTAL_TIMEOUT_SECONDS

if importlib.util.find_spec("sniffio") is None:
    # The HTTP library asks for it before every request, and Python looks in every folder each time it is not there: a tenth of a charge.
    sys.modules["sniffio"] = None  # type: ignore[assignment]

KEEP_ALIVE_SECONDS: Final = 30.0
"""Idle connections are given up before servers usually do: a connection dying under a request costs an UNKNOWN."""


class NothingSent(Exception):
    """No connection could be made (refused, no such host, TLS failure, none free in time): nothing was sent."""


class NoAnswer(Exception):
    """Something may have been sent and no usable answer came."""


class ConnectionStack(httpx.AsyncBaseTransport):
    """A pool that stays cheap with hundreds of connections: a stack of transports of one connection each.

    The HTTP library's own pool walks over all connections several times for every request, with a cost that grows
    with the square of their number. Here a request takes the transport used last, which keeps connections warm
    and lets surplus ones idle away. Waiting for a free one longer than ``wait_seconds`` is a PoolTimeout.
    """

    def __init__(self, *, max_connections: int, wait_seconds: float, trust_env: bool) -> None:
        self._free: list[httpx.AsyncHTTPTransport] = []
        self._all: list[httpx.AsyncHTTPTransport] = []
        self._slots = asyncio.Semaphore(max_connections)
        self._wait_seconds = wait_seconds
        self._closing: set[asyncio.Task[None]] = set()
        self._tls: ssl.SSLContext = httpx.create_ssl_context(trust_env=trust_env)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            async with asyncio.timeout(self._wait_seconds):
                await self._slots.acquire()
        except TimeoutError:
            raise httpx.PoolTimeout("no free connection", request=request) from None
        transport = self._free.pop() if self._free else self._new()
        try:
            response = await transport.handle_async_request(request)
            assert isinstance(response.stream, httpx.AsyncByteStream)
            response.stream = _Lease(response.stream, self, transport)
            return response
        except BaseException:
            self.discard(transport)
            raise

    def _new(self) -> httpx.AsyncHTTPTransport:
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEP_ALIVE_SECONDS)
        transport = httpx.AsyncHTTPTransport(verify=self._tls, limits=limits, retries=0)
        self._all.append(transport)
        return transport

    def give_back(self, transport: httpx.AsyncHTTPTransport) -> None:
        """Makes a transport free for the next request."""
        self._free.append(transport)
        self._slots.release()

    def discard(self, transport: httpx.AsyncHTTPTransport) -> None:
        """Makes room for a new transport in place of one whose exchange was broken off.

        Interrupted at the wrong moment a transport believes that its only connection is in use, for ever; the last one
        used being the next one taken, every later request would wait for it in vain.
        """
        self._slots.release()
        if transport in self._all:
            self._all.remove(transport)
            task = asyncio.ensure_future(_close(transport))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        transports, self._all, self._free = self._all, [], []
        for transport in transports:
            await transport.aclose()
        if self._closing:
            await asyncio.wait(self._closing, timeout=self._wait_seconds)


async def _close(transport: httpx.AsyncHTTPTransport) -> None:
    with suppress(Exception):  # It is given up already; nobody waits for a proper end.
        await transport.aclose()


class _Lease(httpx.AsyncByteStream):
    """A response's body; closing it gives the connection back."""

    def __init__(
        self, inner: httpx.AsyncByteStream, stack: ConnectionStack, transport: httpx.AsyncHTTPTransport
    ) -> None:
        self._inner = inner
        self._stack = stack
        self._transport: httpx.AsyncHTTPTransport | None = transport

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._inner:
            yield part

    async def aclose(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            try:
                await self._inner.aclose()
            except BaseException:
                self._stack.discard(transport)
                raise
            self._stack.give_back(transport)


def new_client(
    base_url: str,
    *,
    max_connections: int,
    connect_timeout: float = CONNECT_TIMEOUT_SECONDS,
    total_timeout: float = TOTAL_TIMEOUT_SECONDS,
) -> httpx.AsyncClient:
    """A pooled client. Retries are off and redirects are not followed: both could send a charge twice.

    Waiting for a free connection is bounded by the connect timeout too, so that it cannot eat up the time to answer.
    Proxies of the environment are not used.
    """
    return httpx.AsyncClient(
        base_url=base_url,
        timeout=httpx.Timeout(total_timeout, connect=connect_timeout),
        transport=ConnectionStack(max_connections=max_connections, wait_seconds=connect_timeout, trust_env=True),
        follow_redirects=False,
        trust_env=False,
    )


async def exchange(
    client: httpx.AsyncClient, method: str, path: str, *, total_timeout: float = TOTAL_TIMEOUT_SECONDS, **options: Any
) -> httpx.Response:
    """Sends one request once and reads the whole answer within ``total_timeout`` seconds.

    Raises `NothingSent` or `NoAnswer`; their text names the kind of error only, never the request.
    """
    try:
        async with asyncio.timeout(total_timeout):
            return await client.request(method, path, **options)
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol) as error:
        raise NothingSent(type(error).__name__) from None
    except TimeoutError:
        raise NoAnswer("Timeout") from None
    except Exception as error:  # Whatever else went wrong, bytes may have left.
        raise NoAnswer(type(error).__name__) from None


def retry_after(response: httpx.Response) -> float | None:
    """The seconds of a ``Retry-After`` header; None without one, or for a date."""
    text = response.headers.get("retry-after", "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 7 else None
