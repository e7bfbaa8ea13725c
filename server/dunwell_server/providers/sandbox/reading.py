"""Reading what the gateway answers, strictly: what is not as documented raises."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import httpx

from dunwell_server.providers.base import MethodDetails, MethodKind

Body: TypeAlias = Mapping[str, Any]
MALFORMED: Final = Exception
"""Whatever goes wrong while an answer is read means that it was not understood. Nothing is sent in those places."""


def path(collection: str, reference: str, action: str | None = None) -> str:
    """The path of an object, or of something done to it."""
    made = f"{collection}/{quote(reference, safe='')}"
    return made if action is None else f"{made}/{action}"


def json_of(response: httpx.Response) -> Body:
    """The object in a body."""
    return obj(response.json())


def obj(value: Any) -> Body:
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def text(body: Body, name: str) -> str:
    value = body[name]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is no text")
    return value


def maybe_text(body: Body, name: str) -> str | None:
    return None if body[name] is None else text(body, name)


def instant(value: Any) -> datetime:
    moment = datetime.fromisoformat(value)
    if moment.tzinfo is None:
        raise ValueError("an instant needs an offset")
    return moment.astimezone(UTC)


def texts(value: Any) -> dict[str, str]:
    """Metadata: texts by name."""
    found = dict(obj(value))
    if not all(isinstance(item, str) for item in found.values()):
        raise ValueError("metadata has texts only")
    return found


def method_details(method: Body) -> MethodDetails:
    """A kept payment method."""
    card = obj(method["card"])
    return MethodDetails(
        provider_reference=text(method, "id"),
        kind=MethodKind.CARD if method["type"] == "card" else MethodKind.OTHER,
        brand=card["brand"],
        last4=card["last4"],
        exp_month=int(card["exp_month"]),
        exp_year=int(card["exp_year"]),
        fingerprint=card["fingerprint"],
        country=card["country"],
    )


def maybe_method(value: Any) -> MethodDetails | None:
    return None if value is None else method_details(obj(value))
