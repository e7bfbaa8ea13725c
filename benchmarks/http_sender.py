"""Sends webhooks over HTTP: a process of its own, which loads nothing that it does not need.

    python -m benchmarks.http_sender HOST PORT PATH SECRET COUNT SECONDS RATE CONNECTIONS

COUNT events are made and signed first; then `ready` is written, and a line on standard input begins the sending. At RATE 0 each
connection always has one webhook in progress; otherwise RATE of them are begun per second at fixed times, whatever the server does.
The result is a line of JSON: begin and end (machine's clock), and each webhook's milliseconds. What is not answered 200 ends it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import uvloop

from benchmarks.stripe_events import HEADER, signed_events

_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where webhooks go, and the secret that signs them."""

    host: str
    port: int
    path: str
    secret: str


def _request(endpoint: Endpoint, body: bytes, signature: str) -> bytes:
    head = (
        f"POST {endpoint.path} HTTP/1.1\r\nhost: {endpoint.host}:{endpoint.port}\r\nuser-agent: Stripe/1.0\r\naccept: */*\r\n"
        f"content-type: application/json; charset=utf-8\r\ncontent-length: {len(body)}\r\n{HEADER}: {signature}\r\n\r\n"
    )
    return head.encode("ascii") + body


class _Connection:
    """One connection with one request in progress at most."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, endpoint: Endpoint) -> _Connection:
        return cls(*await asyncio.open_connection(endpoint.host, endpoint.port))

    async def post(self, request: bytes) -> None:
        """RuntimeError where the answer is not 200."""
        self._writer.write(request)
        async with asyncio.timeout(_SECONDS):
            head = await self._reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(f"a webhook was not accepted: {head.splitlines()[0]!r}")
            length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
            await self._reader.readexactly(length)

    def close(self) -> None:
        self._writer.close()


async def _deliveries(
    endpoint: Endpoint, requests: Sequence[bytes], seconds: float, rate: float, count: int
) -> tuple[float, float, list[float]]:
    latencies: list[float] = []
    waiting = iter(requests)
    connections = [await _Connection.open(endpoint) for _ in range(count)]
    free: asyncio.LifoQueue[_Connection] = asyncio.LifoQueue()
    for connection in connections:
        free.put_nowait(connection)
    print("ready", flush=True)
    sys.stdin.readline()
    begin = time.time()
    until = time.perf_counter() + seconds

    async def worker(connection: _Connection) -> None:
        for request in waiting:
            since = time.perf_counter()
            if since >= until:
                return
            await connection.post(request)
            latencies.append((time.perf_counter() - since) * 1000)

    async def planned(request: bytes, since: float) -> None:
        connection = await free.get()
        await connection.post(request)
        latencies.append((time.perf_counter() - since) * 1000)
        free.put_nowait(connection)

    if not rate:
        await asyncio.gather(*(worker(connection) for connection in connections))
    else:
        started = []
        due = time.perf_counter()
        for request in waiting:
            if due >= until:
                break
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            started.append(asyncio.create_task(planned(request, due)))
            due += 1.0 / rate
        await asyncio.gather(*started)
    end = time.time()
    for connection in connections:
        connection.close()
    return begin, end, latencies


def main() -> None:
    """See the module."""
    host, port, path, secret, count, seconds, rate, connections = sys.argv[1:]
    endpoint = Endpoint(host, int(port), path, secret)
    requests = [_request(endpoint, event.body, event.signature) for event in signed_events(secret, int(count))]
    print(json.dumps(uvloop.run(_deliveries(endpoint, requests, float(seconds), float(rate), int(connections)))))


if __name__ == "__main__":
    main()
