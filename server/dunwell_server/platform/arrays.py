"""Lists as parameters: those of one plain type are written at once.

The driver writes a list item by item and looks at each for characters to quote. Bulk statements send thousands of ids, in which there are
none, and of texts and JSON, which may as well all be quoted.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

from psycopg.abc import AdaptContext, Buffer
from psycopg.types.array import ListDumper
from psycopg.types.json import Jsonb

from dunwell_server.platform.json_text import json_text


def _quoted(text: str) -> str:
    if "\0" in text:
        raise ValueError("no text of PostgreSQL")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _json(value: Jsonb) -> str:
    if value.dumps is not None:
        raise ValueError("written its own way")
    return _quoted(json_text(value.obj))


_PLAIN: Final[dict[type, Callable[[Any], str]]] = {
    UUID: lambda value: "NULL" if value is None else value.hex,
    int: lambda value: "NULL" if value is None else str(value),
    date: lambda value: "NULL" if value is None else value.isoformat(),
    datetime: lambda value: "NULL" if value is None else f'"{value}"',
    bool: lambda value: "NULL" if value is None else "t" if value else "f",
    str: lambda value: "NULL" if value is None else _quoted(value),
    Jsonb: lambda value: "NULL" if value is None else _json(value),
}
"""How a value of the type, or None, is written inside of an array. ValueError: not so."""


class PlainListDumper(ListDumper):
    """As the driver's, but faster for lists of one plain type, with or without None."""

    def dump(self, obj: list[Any]) -> Buffer | None:
        """The text of the array."""
        types = set(map(type, obj))
        types.discard(type(None))
        write = _PLAIN.get(types.pop()) if len(types) == 1 else None
        if write is None:
            return super().dump(obj)
        try:
            return ("{" + ",".join(map(write, obj)) + "}").encode()
        except ValueError:
            return super().dump(obj)


def register(context: AdaptContext) -> None:
    """Have lists given to the connection written so."""
    context.adapters.register_dumper(list, PlainListDumper)
