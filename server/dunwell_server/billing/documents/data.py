"""What a document shows: every text as it is printed, in order. Pure.

The templates place these texts and format nothing. No text is ever read as markup: PDF templates get them as data, HTML escapes them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Final

_ROWS_AT_ONCE: Final = 500


class Kind(StrEnum):
    """What a document is; also the name of its templates."""

    INVOICE = "INVOICE"
    RECEIPT = "RECEIPT"
    CREDIT_NOTE = "CREDIT_NOTE"
    STATEMENT = "STATEMENT"


@dataclass(frozen=True, slots=True)
class Party:
    """Who a document is from, or to. `lines` are the address and the tax id."""

    name: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fact:
    """A label and what it says; of sums the strong ones are set apart."""

    label: str
    value: str
    strong: bool = False


@dataclass(frozen=True, slots=True)
class Logo:
    """A picture: its media type, its bytes in base64, and its size in pixels."""

    media_type: str
    base64: str
    width: int
    height: int
    svg: str = ""
    """The same as an SVG picture, which takes the bytes as text."""


@dataclass(frozen=True, slots=True)
class Branding:
    """How the firm's documents look. `color` is #rrggbb and dark enough to be read on white."""

    color: str
    logo: Logo | None = None
    logo_url: str = ""
    footer: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """One line: what is charged, for which time and reductions, and the numbers, right-aligned."""

    description: str
    details: tuple[str, ...]
    quantity: str
    unit_price: str
    amount: str


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of texts under heads. The last `numbers` columns are numbers, right-aligned."""

    title: str
    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    numbers: int
    last: tuple[str, ...] = ()
    """A row of sums under the others; empty: none."""


@dataclass(frozen=True, slots=True)
class PayOption:
    """How to pay at once: a link, or a picture to scan (SVG). Empty: none."""

    link: str = ""
    link_label: str = ""
    until: str = ""
    qr_svg: str = ""
    qr_label: str = ""


@dataclass(frozen=True, slots=True)
class Document:
    """A document. What of it is empty is not printed."""

    kind: Kind
    locale: str
    language: str
    title: str
    number: str
    mark: str
    """A word over the whole document, such as Draft; empty: it is as it should be."""
    seller: Party
    buyer: Party
    buyer_label: str
    branding: Branding
    facts: tuple[Fact, ...]
    page_label: str
    """With {page} and {pages} in it."""
    line_heads: tuple[str, ...] = ()
    lines: tuple[Line, ...] = ()
    totals: tuple[Fact, ...] = ()
    taxes: Table | None = None
    tables: tuple[Table, ...] = ()
    memo: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    pay: PayOption | None = None
    annex: Table | None = None


def to_json(document: Document) -> str:
    """The document as the PDF templates read it.

    Long tables are encoded in parts: one long encoding would keep every other thread of the process waiting.
    """
    parts = [f"{_text(name)}:{_encoded(getattr(document, name))}" for name in _names(Document)]
    return "{" + ",".join(parts) + "}"


def _encoded(value: Any) -> str:
    if isinstance(value, Table):
        inner = [
            f"{_text(name)}:{_rows(value.rows) if name == 'rows' else _text(getattr(value, name))}"
            for name in _names(Table)
        ]
        return "{" + ",".join(inner) + "}"
    if isinstance(value, tuple):
        return "[" + ",".join(_encoded(item) for item in value) + "]"
    return _text(value)


def _rows(rows: Sequence[tuple[str, ...]]) -> str:
    return "[" + ",".join(_text(part)[1:-1] for part in _parts(rows)) + "]"


def _parts(rows: Sequence[tuple[str, ...]]) -> Iterator[Sequence[tuple[str, ...]]]:
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        yield rows[start : start + _ROWS_AT_ONCE]


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_fields)


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in _names(type(value))}


def _names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(each.name for each in fields(kind))
