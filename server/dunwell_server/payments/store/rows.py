"""Rows as model objects. The order of nothing matters: columns are taken by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import cache
from operator import itemgetter
from typing import Any, Final, LiteralString, TypeVar

from dunwell_server.payments.model import (
    Attempt,
    AttemptState,
    MethodState,
    Payment,
    PaymentKind,
    PaymentMethod,
    PaymentState,
)
from dunwell_server.platform.database import Row

T = TypeVar("T", Payment, Attempt, PaymentMethod)

_ELSEWHERE: Final = ("is_default", "reachable", "near_ceiling", "seen_on")
"""What of a payment method stands in no column of its own."""

PAYMENT_COLUMNS: Final = tuple(field.name for field in fields(Payment))
ATTEMPT_COLUMNS: Final = tuple(field.name for field in fields(Attempt))
METHOD_COLUMNS: Final = tuple(field.name for field in fields(PaymentMethod) if field.name not in _ELSEWHERE)

_CONVERSIONS: Final[dict[type[Any], dict[str, Any]]] = {
    Payment: {"kind": PaymentKind, "state": PaymentState},
    Attempt: {"state": AttemptState},
    PaymentMethod: {"state": MethodState},
}
_FIELDS: Final[dict[type[Any], tuple[str, ...]]] = {
    Payment: PAYMENT_COLUMNS,
    Attempt: ATTEMPT_COLUMNS,
    PaymentMethod: METHOD_COLUMNS,
}


def columns(names: tuple[str, ...], alias: str, prefix: str = "") -> LiteralString:
    """A select list of one table's columns, each renamed with `prefix`. The names are those of our own dataclasses."""
    return ", ".join(f"{alias}.{name} AS {prefix}{name}" if prefix else f"{alias}.{name}" for name in names)


def build(kind: type[T], row: Row, prefix: str = "", **more: Any) -> T:
    """The model object in the columns of `row` whose names begin with `prefix`."""
    values = dict(zip(_FIELDS[kind], _reader(_FIELDS[kind], prefix)(row), strict=True))
    for name, conversion in _CONVERSIONS[kind].items():
        values[name] = conversion(values[name])
    return kind(**values, **more)


@cache
def _reader(names: tuple[str, ...], prefix: str) -> Callable[[Row], tuple[Any, ...]]:
    """What takes the columns of a kind out of a row at once."""
    return itemgetter(*(prefix + name for name in names))
