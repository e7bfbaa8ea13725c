"""Reading Stripe's JSON without trusting it: each reader gives a value of its type, or raises ValueError."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeAlias

Body: TypeAlias = Mapping[str, Any]

_REFERENCE: Final = re.compile(r"[A-Za-z0-9_\-]{1,255}")


class Unmapped(ValueError):
    """Something well formed that has no meaning here, such as a status invented after this was written."""


def obj(value: Any) -> Body:
    """A JSON object."""
    if not isinstance(value, Mapping):
        raise ValueError("not an object")
    return value


def maybe_obj(value: Any) -> Body:
    """A JSON object, or an empty one for null, a missing field or an id that was not expanded."""
    return value if isinstance(value, Mapping) else {}


def text(body: Body, name: str) -> str:
    """A text that is there and not empty."""
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is no text")
    return value


def maybe_text(body: Body, name: str) -> str | None:
    """A text, or None where there is none (null, missing, empty, or something else)."""
    value = body.get(name)
    return value if isinstance(value, str) and value else None


def maybe_int(body: Body, name: str) -> int | None:
    """An integer, or None."""
    value = body.get(name)
    return value if type(value) is int else None


def reference(value: Any) -> str | None:
    """The id of what is an id, an expanded object, or nothing."""
    if isinstance(value, Mapping):
        value = value.get("id")
    return value if isinstance(value, str) and value else None


def is_reference(value: str) -> bool:
    """Whether a text can be an id at Stripe; anything else is never put into a path."""
    return _REFERENCE.fullmatch(value) is not None


def instant(value: Any) -> datetime:
    """Stripe's seconds since 1970 as a UTC instant."""
    if type(value) is not int:
        raise ValueError("not an instant")
    try:
        return datetime.fromtimestamp(value, UTC)
    except (OverflowError, OSError) as error:
        raise ValueError("not an instant") from error


def maybe_instant(value: Any) -> datetime | None:
    """As `instant`; None for null, a missing field, and 0, with which Stripe says that there is none."""
    return instant(value) if value else None


def moment(value: Any) -> datetime | None:
    """A time in either of the forms that events have: seconds, or (thin events) text; None where there is none."""
    if isinstance(value, str):
        found = datetime.fromisoformat(value)
        return found.astimezone(UTC) if found.tzinfo is not None else found.replace(tzinfo=UTC)
    return maybe_instant(value)


def metadata(body: Body) -> dict[str, str]:
    """An object's metadata; what is no text is left out."""
    return {k: v for k, v in maybe_obj(body.get("metadata")).items() if isinstance(k, str) and isinstance(v, str)}


def items(value: Any) -> list[Body]:
    """The objects of one of Stripe's lists (``{"object": "list", "data": […]}``), or of a bare array."""
    data = value.get("data") if isinstance(value, Mapping) else value
    return [item for item in data if isinstance(item, Mapping)] if isinstance(data, list) else []


def ids(values: Iterable[Any]) -> Iterator[str]:
    """The ids among values that may be ids, objects, or nothing."""
    for value in values:
        found = reference(value)
        if found is not None:
            yield found
