"""HTTP as the gateway speaks it: who asks, what was sent, and delivering (or not delivering) the answer."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from contextlib import suppress

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from dunwell_server.sandbox.answers import Answer, Delivery, Json, Refusal, invalid
from dunwell_server.sandbox.instruments import refuse_card_data

ABORT_EXTENSION = "dunwell.sandbox.abort"
"""Key of the ASGI scope's extensions under which the server puts a function that cuts the connection."""

MAX_BODY_BYTES = 64 * 1024
_SECRET = re.compile(r"Bearer sk_test_([A-Za-z0-9_-]{1,64})")
_PUBLISHABLE = re.compile(r"Bearer pk_test_([A-Za-z0-9_-]{1,64})")


class Delivered(Response):
    """A Starlette response that plays the faults of delivery."""

    def __init__(self, answer: Answer, more: Mapping[str, str] | None = None) -> None:
        self._answer = answer
        headers = {"Idempotent-Replayed": "true"} if answer.replayed else {}
        if answer.retry_after_seconds is not None:
            headers["Retry-After"] = str(answer.retry_after_seconds)
        body, status = answer.body, answer.status
        if answer.delivery is Delivery.GARBLE:
            body, status = '<html><body><h1>upstream</h1>{"id": "pay_', 200
        super().__init__(body, max(status, 200), headers | dict(more or {}), media_type="application/json")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._answer
        if answer.delivery is Delivery.HOLD:
            with suppress(TimeoutError):
                async with asyncio.timeout(answer.delay_seconds):
                    while (await receive())["type"] != "http.disconnect":
                        pass
        if answer.delivery is Delivery.DROP:
            scope["extensions"][ABORT_EXTENSION]()
            await receive()  # Returns once the server has noticed, so that it writes no error page.
            return
        await super().__call__(scope, receive, send)


def account_of(request: Request) -> str:
    """The account named by the secret key. The refusal never repeats what was sent."""
    match = _SECRET.fullmatch(request.headers.get("authorization", ""))
    if match is None:
        raise Refusal(401, "authentication_error", "api_key_invalid", "Send Authorization: Bearer sk_test_<account>.")
    return match[1]


def browser_account_of(request: Request) -> str | None:
    """The account named by a publishable key, with which a browser shows itself; None without one."""
    match = _PUBLISHABLE.fullmatch(request.headers.get("authorization", ""))
    return None if match is None else match[1]


async def read_body(request: Request, most: int = MAX_BODY_BYTES) -> bytes:
    """The raw body. Raises Refusal when it has more than ``most`` bytes."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise invalid("body_too_large", f"A body has at most {most} bytes.")
        parts.append(part)
    return b"".join(parts)


async def read_json(request: Request) -> tuple[bytes, Json]:
    """The raw body and the object in it, which holds no card data. An empty body is an empty object."""
    raw = await read_body(request)
    try:
        body = json.loads(raw) if raw else {}
        refuse_card_data(body)
    except (ValueError, RecursionError):
        raise invalid("body_invalid", "The body is not JSON.") from None
    if not isinstance(body, dict):
        raise invalid("body_invalid", "The body is not a JSON object.")
    return raw, body
