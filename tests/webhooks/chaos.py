"""What a hostile way does to webhooks: repeats, another order, delays, and forgeries of every kind between the genuine ones."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import httpx

HEADER = "Dunwell-Sandbox-Signature"
TOO_LONG = 330
"""Seconds: half a minute past what a signature is good for."""


def signature(secret: str, body: bytes, *, seconds_from_now: int = 0, scheme: str = "v1") -> str:
    """A header as the gateway makes it."""
    stamp = str(int(time.time()) + seconds_from_now)
    return f"t={stamp},{scheme}={hmac.new(secret.encode(), stamp.encode() + b'.' + body, hashlib.sha256).hexdigest()}"


@dataclass(frozen=True)
class Delivery:
    """One request to the sidecar and how it must be answered."""

    kind: str
    path: str
    body: bytes
    signature: Callable[[], str | None]
    """Made when it is sent."""
    statuses: tuple[int, ...]
    cut: bool = False
    """The connection breaks in the middle of the body."""


@dataclass
class Storm:
    """Deliveries for one account."""

    dice: random.Random
    path: str
    foreign_path: str
    """Another account's."""
    unknown_path: str
    """Nobody's."""
    secret: str
    deliveries: list[Delivery] = field(default_factory=list)

    def genuine(self, body: bytes) -> None:
        """The event itself, one to five times."""
        for _ in range(self.dice.randint(1, 5)):
            self._add("genuine", body, lambda: signature(self.secret, body), (200,))

    def forgeries(self, body: bytes) -> None:
        """Of the event, one of each kind: under its own id, so that it would be taken for the event if it were believed, or under another."""
        altered = bytearray(body)
        altered[self.dice.randrange(len(body))] ^= 1
        # A refused forgery must not keep the true event out, so about half of them bear its id.
        forged = body if self.dice.random() < 0.5 else body.replace(b'"evt_', b'"evt_forged', 1)
        half = body[: self.dice.randrange(1, len(body))]
        secret = self.secret
        self._add("wrong secret", forged, lambda: signature("whsec_of_somebody_else", forged), (400,))
        self._add("altered byte", bytes(altered), lambda: signature(secret, body), (400,))
        self._add("old", forged, lambda: signature(secret, forged, seconds_from_now=-TOO_LONG), (400,))
        self._add("future", forged, lambda: signature(secret, forged, seconds_from_now=TOO_LONG), (400,))
        self._add("no header", forged, lambda: None, (400,))
        self._add("other scheme", forged, lambda: signature(secret, forged, scheme="v0"), (400,))
        self._add("truncated", half, lambda: signature(secret, body), (400,))
        self._add("other account", body, lambda: signature(secret, body), (400,), self.foreign_path)
        self._add("unknown account", body, lambda: signature(secret, body), (404,), self.unknown_path)
        if self.dice.random() < 0.1:
            self.deliveries.append(Delivery("cut off", self.path, body, lambda: signature(secret, body), (), cut=True))

    def _add(
        self,
        kind: str,
        body: bytes,
        signed: Callable[[], str | None],
        statuses: tuple[int, ...],
        path: str | None = None,
    ) -> None:
        self.deliveries.append(Delivery(kind, path or self.path, body, signed, statuses))

    @property
    def refusals(self) -> int:
        """How many of them the server must have refused and counted."""
        return sum(each.statuses not in ((200,), ()) for each in self.deliveries)

    async def send(
        self, client: httpx.AsyncClient, halfway: Callable[[], Awaitable[None]], *, at_once: int = 24
    ) -> Counter[str]:
        """Everything, shuffled and with delays, several at a time; `halfway` happens in the middle of it. Every answer is checked."""
        self.dice.shuffle(self.deliveries)
        middle, counted = len(self.deliveries) // 2, Counter[str]()
        await self._part(client, self.deliveries[:middle], counted, at_once)
        await halfway()
        await self._part(client, self.deliveries[middle:], counted, at_once)
        return counted

    async def _part(
        self, client: httpx.AsyncClient, waiting: list[Delivery], counted: Counter[str], at_once: int
    ) -> None:
        await asyncio.gather(*(self._sender(client, waiting, counted) for _ in range(at_once)))

    async def _sender(self, client: httpx.AsyncClient, waiting: list[Delivery], counted: Counter[str]) -> None:
        while waiting:
            delivery = waiting.pop()
            if self.dice.random() < 0.05:
                await asyncio.sleep(self.dice.random() * 0.2)
            if delivery.cut:
                await cut_off(client.base_url, delivery)
            else:
                status = await post(client, delivery)
                assert status in delivery.statuses, f"{delivery.kind} was answered {status}"
            counted[delivery.kind] += 1


async def post(client: httpx.AsyncClient, delivery: Delivery) -> int:
    """One request; what cannot be taken just now (503) comes again, as with every provider."""
    while True:
        signed = delivery.signature()
        headers = {"content-type": "application/json"} | ({HEADER: signed} if signed is not None else {})
        answer = await client.post(delivery.path, content=delivery.body, headers=headers)
        if answer.status_code != 503:
            return answer.status_code
        await asyncio.sleep(0.05)


async def cut_off(url: httpx.URL, delivery: Delivery) -> None:
    """Promise the whole body, send half of it and hang up."""
    _, writer = await asyncio.open_connection(url.host, url.port)
    head = f"POST {delivery.path} HTTP/1.1\r\nhost: {url.host}\r\ncontent-length: {len(delivery.body)}\r\n{HEADER}: {delivery.signature()}\r\n\r\n"
    writer.write(head.encode() + delivery.body[: len(delivery.body) // 2])
    await writer.drain()
    writer.close()


async def in_order(client: httpx.AsyncClient, path: str, secret: str, bodies: Sequence[bytes]) -> None:
    """The quiet way: each event once, in the order in which it happened."""
    for body in bodies:
        delivery = Delivery("genuine", path, body, lambda body=body: signature(secret, body), (200,))  # type: ignore[misc]
        assert await post(client, delivery) == 200
