"""What is taken of a webhook's HTTP request: a bounded body, the headers that matter, and where it came from. Pure but for reading."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from starlette.requests import Request

MAX_BODY_BYTES: Final = 256 * 1024
MAX_HEADERS: Final = 50
MAX_HEADER_CHARS: Final = 4096
MAX_ADDRESS_CHARS: Final = 64

PROVIDER: Final = re.compile(r"[a-z][a-z0-9_]{1,31}")
ACCOUNT: Final = re.compile(r"pva_[0-7][0-9a-hjkmnp-tv-z]{25}")

_HEADER_NAME: Final = re.compile(r"[a-z0-9-]{1,64}")
_NAMES: Final = frozenset({"content-type", "content-encoding", "user-agent", "request-id", "x-request-id"})
_PREFIXES: Final = ("stripe-", "paypal-", "x-razorpay-", "dunwell-", "webhook-")
"""`webhook-` is Standard Webhooks. The provider's own name is a prefix too, so that a new provider needs no word here."""


class BodyTooLarge(Exception):
    """The body has more than MAX_BODY_BYTES."""


async def read_body(request: Request) -> bytes:
    """The body, byte for byte. BodyTooLarge as soon as that is known: nothing beyond the cap is kept. ClientDisconnect."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > MAX_BODY_BYTES:
        raise BodyTooLarge
    body = bytearray()
    async for chunk in request.stream():
        if len(body) + len(chunk) > MAX_BODY_BYTES:
            raise BodyTooLarge
        body += chunk
    return bytes(body)


def headers_for(provider: str, headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The headers that signatures and identity may depend on, with lower-case names; one given several times is joined by commas.

    A header that is too long is left out: whatever needed it will be refused for lacking it.
    """
    own = provider.replace("_", "-")
    prefixes = (*_PREFIXES, f"{own}-", f"x-{own}-")
    kept: dict[str, str] = {}
    for raw, value in headers:
        name = raw.lower()
        if (name not in _NAMES and not name.startswith(prefixes)) or not _HEADER_NAME.fullmatch(name):
            continue
        if name in kept:
            value = f"{kept[name]},{value}"
        elif len(kept) == MAX_HEADERS:
            continue
        kept[name] = value
    return {name: value for name, value in kept.items() if len(value) <= MAX_HEADER_CHARS}


def source_of(request: Request) -> str:
    """The sender's address, for logs of forged webhooks; empty where it is not known."""
    return request.client.host[:MAX_ADDRESS_CHARS] if request.client is not None else ""
