"""Lists as parameters: those of ids, whole numbers and days are written at once.

The driver writes a list item by item and looks at each for characters to quote. Bulk statements send thousands of ids, in which there are none.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any, Final
from uuid import UUID

from psycopg.abc import AdaptContext, Buffer
from psycopg.types.array import ListDumper

_PLAIN: Final[dict[type, Callable[[Any], str]]] = {
    UUID: lambda value: "NULL" if value is None else value.hex,
    int: lambda value: "NULL" if value is None else str(value),
    date: lambda value: "NULL" if value is None else value.isoformat(),
}
"""How a value of the type, or None, is written inside of an array."""


class PlainListDumper(ListDumper):
    """As the driver's, but faster for lists of one plain type, with or without None."""

    def dump(self, obj: list[Any]) -> Buffer | None:
        """The text of the array."""
        types = set(map(type, obj))
        types.discard(type(None))
        write = _PLAIN.get(types.pop()) if len(types) == 1 else None
        return super().dump(obj) if write is None else ("{" + ",".join(map(write, obj)) + "}").encode()


def register(context: AdaptContext) -> None:
    """Have lists given to the connection written so."""
    context.adapters.register_dumper(list, PlainListDumper)
