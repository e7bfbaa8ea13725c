"""How commands speak: results on standard output, progress and problems on standard error, one JSON object with `--json`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dunwell_server.kernel.money import Money, format_money

PIPE_WIDTH: Final = 120
"""Columns of a table that does not go to a terminal."""


class Output:
    """The two streams of one command. With `as_json` standard output carries one JSON object and nothing else."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        # A file or a pipe has no width of its own: what is written there is read later, in something wide.
        width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH
        self.out = Console(highlight=False, soft_wrap=False, width=width)
        self.err = Console(stderr=True, highlight=False)

    def say(self, text: str | Text | Table = "") -> None:
        """A line or table for people; nothing with `--json`."""
        if self.as_json:
            return
        if isinstance(text, Table):
            self.out.print()
            self.out.print(text)
        else:
            # Text is not broken into lines: whoever reads it in a narrow window or a pipe gets whole lines.
            self.out.print(text, soft_wrap=True)

    def note(self, text: str) -> None:
        """Progress for people, on standard error; nothing with `--json`."""
        if not self.as_json:
            self.err.print(text)

    def result(self, data: Mapping[str, Any]) -> None:
        """The command's result as one JSON object, with `--json` only."""
        if self.as_json:
            self.out.file.write(json.dumps(data, default=_plain, ensure_ascii=False, indent=2) + "\n")
            self.out.file.flush()


def table(*columns: str, right: Iterable[str] = (), title: str | None = None) -> Table:
    """A table in the house style; the columns named in `right` are numbers."""
    result = Table(
        box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False, show_edge=False
    )
    numbers = set(right)
    for name in columns:
        result.add_column(
            name, justify="right" if name in numbers else "left", overflow="fold", no_wrap=name in numbers
        )
    return result


def money(minor: int, currency: str) -> str:
    """An amount for people: `USD 1,234.50`."""
    return format_money(Money(currency, minor), "en_IN" if currency == "INR" else None)


def amounts(by_currency: Mapping[str, int]) -> str:
    """Sums per currency for people: `EUR 12.00 + USD 1,234.50`; a dash for nothing."""
    return " + ".join(money(int(minor), currency) for currency, minor in sorted(by_currency.items())) or "–"


def amount_lines(by_currency: Mapping[str, int]) -> str:
    """The same for a cell of a table: one line per currency."""
    return "\n".join(money(int(minor), currency) for currency, minor in sorted(by_currency.items())) or "–"


def sum_amounts(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Adds sums per currency; currencies are never mixed."""
    total: dict[str, int] = {}
    for part in parts:
        for key, value in part.items():
            total[key] = total.get(key, 0) + int(value)
    return total


def _plain(value: object) -> object:
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
