"""What the gateway answers: bodies, refusals, and how the bytes reach (or do not reach) the caller."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]


class Delivery(StrEnum):
    """How an answer travels once the work behind it is done."""

    SEND = "send"
    HOLD = "hold"  # keep the connection open for the delay, then send
    DROP = "drop"  # cut the connection, no byte sent
    GARBLE = "garble"  # status 200 and half a page of something else


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, its body already JSON text."""

    status: int
    body: str
    delivery: Delivery = Delivery.SEND
    delay_seconds: float = 0.0
    replayed: bool = False
    retry_after_seconds: int | None = None
    land_after_seconds: float | None = None
    """The request was lost on its way and arrives only this much later (the caller hears nothing)."""

    def delivered(self, delivery: Delivery, delay_seconds: float = 0.0) -> Answer:
        return replace(self, delivery=delivery, delay_seconds=delay_seconds)


class Refusal(Exception):
    """A request that is refused before anything is executed; never remembered under its key."""

    def __init__(self, status: int, kind: str, code: str, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_seconds: int | None = None

    def answer(self) -> Answer:
        return Answer(
            self.status,
            error_body(self.kind, self.code, self.message, param=self.param),
            retry_after_seconds=self.retry_after_seconds,
        )


def invalid(code: str, message: str, param: str | None = None) -> Refusal:
    """A malformed or impossible request (400)."""
    return Refusal(400, "invalid_request_error", code, message, param=param)


def missing(what: str, identifier: str, param: str | None = None) -> Refusal:
    """Something named in the request does not exist (404 for the object itself, 400 when named in a field)."""
    status = 400 if param else 404
    return Refusal(status, "invalid_request_error", "resource_missing", f"No such {what}: {identifier}", param=param)


def conflict() -> Refusal:
    """The key is in use by a request still being executed."""
    return Refusal(
        409, "idempotency_error", "idempotency_key_in_use", "A request with this Idempotency-Key is in progress."
    )


def rate_limited(retry_after_seconds: int = 1) -> Refusal:
    """Too many requests; nothing was executed."""
    refusal = Refusal(429, "rate_limit_error", "rate_limit", "Too many requests.")
    refusal.retry_after_seconds = retry_after_seconds
    return refusal


def error_body(kind: str, code: str, message: str, **more: Any) -> str:
    error = {"type": kind, "code": code, "message": message}
    error.update({name: value for name, value in more.items() if value is not None})
    return dumps({"error": error})


def dumps(body: Json) -> str:
    return json.dumps(body, separators=(",", ":"))


def instant(ms: int) -> str:
    """Milliseconds since 1970 as RFC 3339."""
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ms % 1000:03d}Z"


def parse_instant(value: Any, param: str) -> int:
    """RFC 3339 text (with an offset) or a number of seconds, as milliseconds since 1970."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value * 1000)
    try:
        parsed = datetime.fromisoformat(str(value))
    except ValueError:
        raise invalid("parameter_invalid", f"{param} is not an instant.", param) from None
    if parsed.tzinfo is None:
        raise invalid("parameter_invalid", f"{param} has no offset from UTC.", param)
    whole = int(parsed.replace(microsecond=0).timestamp())
    return whole * 1000 + parsed.microsecond // 1000
