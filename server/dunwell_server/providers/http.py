"""HTTP as adapters need it: no retries, bounded time, and an honest word on whether anything was sent.

`exchange` gives the response, or tells the two kinds of failure apart: `NothingSent` is proof that no byte of the
request left (no connection could be made), every other trouble is `NoAnswer`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from itertools import chain
from json import dumps
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import httpx

from dunwell_server.providers.base import CONNECT_TIMEOUT_SECONDS, TOTAL_TIMEOUT_SECONDS
from dunwell_server.providers.connections import Connection, Origin, connect

_log = logging.getLogger(__name__)

USER_AGENT: Final = "dunwell"
KEEP_ALIVE_SECONDS: Final = 30.0
"""Idle connections are given up before servers usually do: a connection dying under a request costs an UNKNOWN."""


class NothingSent(Exception):
    """No connection could be made (refused, no such host, TLS failure, none free in time): nothing was sent."""


class NoAnswer(Exception):
    """Something may have been sent and no usable answer came."""


class _NotConnected(Exception):
    """No connection could be had. Its text is the kind of trouble."""


class Client:
    """Connections to whatever origins are asked for, at most `max_connections` at once.

    A request takes the connection used last, which keeps few of them warm and lets surplus ones go. A connection is given back only after
    a whole answer: whatever else happens, a cancellation included, ends it.
    """

    def __init__(self, base_url: str, *, max_connections: int, connect_timeout: float) -> None:
        """``base_url`` goes before every path; empty where whole URLs are given."""
        self.base_url = base_url.rstrip("/")
        self._connect_timeout = connect_timeout
        self._slots = asyncio.Semaphore(max_connections)
        self._free: dict[Origin, list[Connection]] = {}
        self._tls = httpx.create_ssl_context(trust_env=True)
        self._tls.set_alpn_protocols(["http/1.1"])
        self._closed = False

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str | int] | None = None,
        json: Any = None,
        content: str | bytes | None = None,
    ) -> httpx.Response:
        """One exchange. Raises `_NotConnected`, or whatever went wrong on the way."""
        origin, target = _parts(self.base_url + path)
        if params:
            target += ("&" if "?" in target else "?") + urlencode(params)
        body, content_type = _body(json, content)
        sent = _headers(method, origin, headers or {}, body, content_type)
        async with self._slot():
            connection = await self._connection(origin)
            response = await connection.exchange(method, target, sent, body)
            _log.debug("%s %s: %d", method, path, response.status_code)
            if self._closed:
                connection.close()
            else:
                self._free[origin].append(connection)
        return response

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._connect_timeout):
                await self._slots.acquire()
        except TimeoutError:
            raise _NotConnected("no free connection") from None
        try:
            yield
        finally:
            self._slots.release()

    async def _connection(self, origin: Origin) -> Connection:
        free = self._free.setdefault(origin, [])
        while free:
            connection = free.pop()
            if connection.usable(KEEP_ALIVE_SECONDS):
                return connection
            connection.close()
        try:
            return await connect(origin, self._tls, self._connect_timeout)
        except (
            OSError,
            ValueError,
        ) as error:  # TimeoutError and the errors of TLS are OSErrors; ValueError: a name that is none.
            raise _NotConnected(type(error).__name__) from None

    async def aclose(self) -> None:
        """Close what is free; what is in use is closed when its exchange ends."""
        self._closed = True
        for connection in chain.from_iterable(self._free.values()):
            connection.close()
        self._free.clear()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


@lru_cache(maxsize=4096)
def _parts(url: str) -> tuple[Origin, str]:
    """Where a URL leads, and what is asked for there. Raises `_NotConnected` for what is no HTTP URL."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _NotConnected("no such scheme")
    secure = parts.scheme == "https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Origin(secure, parts.hostname, parts.port or (443 if secure else 80)), target


def _body(json: Any, content: str | bytes | None) -> tuple[bytes, str | None]:
    if json is not None:
        return dumps(json, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode(), "application/json"
    return (content.encode() if isinstance(content, str) else content or b""), None


def _headers(
    method: str, origin: Origin, given: Mapping[str, str], body: bytes, content_type: str | None
) -> list[tuple[str, str]]:
    headers = {"Host": origin.name, "Accept": "*/*", "User-Agent": USER_AGENT}
    if body or method in ("POST", "PUT", "PATCH"):
        headers["Content-Length"] = str(len(body))
    if content_type is not None:
        headers["Content-Type"] = content_type
    own = {name.lower() for name in given}
    return [(name, value) for name, value in headers.items() if name.lower() not in own] + list(given.items())


def new_client(base_url: str, *, max_connections: int, connect_timeout: float = CONNECT_TIMEOUT_SECONDS) -> Client:
    """A client that neither retries nor follows redirects: both could send a charge twice. Proxies of the environment are not used.

    Waiting for a free connection is bounded by the connect timeout too, so that it cannot eat up the time to answer.
    """
    return Client(base_url, max_connections=max_connections, connect_timeout=connect_timeout)


async def exchange(
    client: Client, method: str, path: str, *, total_timeout: float = TOTAL_TIMEOUT_SECONDS, **options: Any
) -> httpx.Response:
    """Sends one request once and reads the whole answer within ``total_timeout`` seconds.

    Raises `NothingSent` or `NoAnswer`; their text names the kind of error only, never the request.
    """
    try:
        async with asyncio.timeout(total_timeout):
            return await client.request(method, path, **options)
    except _NotConnected as error:
        raise NothingSent(str(error)) from None
    except TimeoutError:
        raise NoAnswer("Timeout") from None
    except Exception as error:  # Whatever else went wrong, bytes may have left.
        raise NoAnswer(type(error).__name__) from None


def retry_after(response: httpx.Response) -> float | None:
    """The seconds of a ``Retry-After`` header; None without one, or for a date."""
    text = response.headers.get("retry-after", "").strip()
    return float(text) if text.isascii() and text.isdigit() and len(text) < 7 else None
