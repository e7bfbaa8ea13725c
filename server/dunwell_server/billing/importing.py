"""Bulk records: rows of a file as use cases take them, and what is wrong with rows. Pure.

Columns are named as in `server/docs/import.md`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from dunwell_server.kernel.errors import DunwellError, Reason

MAX_ROWS: Final = 10_000
MAX_BYTES: Final = 4 * 1024 * 1024


class RecordKind(StrEnum):
    """What a file is about."""

    CLIENTS = "CLIENTS"
    ENGAGEMENTS = "ENGAGEMENTS"
    INVOICES = "INVOICES"


@dataclass(frozen=True, slots=True)
class RowError:
    """What is wrong in a row, counted as spreadsheets count: the header is row 1, 0 is the whole file. An empty column: the whole row."""

    row: int
    column: str
    message: str
    reason: Reason = Reason.FIELD_INVALID


@dataclass(frozen=True, slots=True)
class ClientReference:
    """The client of a row: by our id, or by the caller's own."""

    id: UUID | None
    external_id: str | None


@dataclass(frozen=True, slots=True)
class OpenInvoice:
    """An invoice of another system with what is still owed of it; `amount` is in the currency's major unit. `number` is the old one."""

    number: str
    external_id: str | None
    issue_date: date
    due_date: date
    amount: Decimal
    currency_code: str | None
    description: str
    memo: str | None
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class Record:
    """One row that could be read. `new` is a NewClient, a NewEngagement (its client and fee still open) or an OpenInvoice."""

    row: int
    new: Any
    client: ClientReference | None = None
    fee: Decimal | None = None

    @property
    def external_id(self) -> str | None:
        """The caller's own id of it."""
        value: str | None = self.new.external_id
        return value


@dataclass(slots=True)
class Batch:
    """A file as it was read: `count` rows, of which those in `records` could be read."""

    kind: RecordKind
    count: int = 0
    records: list[Record] = field(default_factory=list)
    errors: list[RowError] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a file. `errors` are in the order of the rows."""

    rows: int
    valid: int
    imported: int
    errors: Sequence[RowError]


_COLUMNS: Final[dict[str, str]] = {
    "address.lines": "address_line1",
    "address.city": "city",
    "address.region": "region",
    "address.postal_code": "postal_code",
    "address.country_code": "country_code",
    "package": "fee",
    "package.fee": "fee",
    "package.fee.amount_minor": "fee",
    "package.fee.currency_code": "currency_code",
    "package.interval": "interval",
    "hourly.interval": "interval",
    "package.anchor": "anchor",
    "hourly.anchor": "anchor",
    "package.timing": "timing",
    "package.partial_periods": "partial_periods",
    "package.line_description": "line_description",
    "hourly": "default_rate",
    "hourly.default_rate": "default_rate",
    "hourly.billing_increment_minutes": "billing_increment_minutes",
    "lines": "open_amount",
    "lines.unit_price": "open_amount",
    "lines.description": "description",
}


def column_of(path: str) -> str:
    """The column of a field as the contract and use cases name it: `client.address.city` is `city`."""
    plain = re.sub(r"\[\d+\]", "", path)
    name = plain.partition(".")[2] if plain.startswith(("client.", "engagement.", "invoice.")) else plain
    keyed = re.fullmatch(r'metadata\["([^"]*)"\]', name)
    return f"metadata.{keyed[1]}" if keyed else _COLUMNS.get(name, name)


def errors_of(row: int, error: DunwellError) -> list[RowError]:
    """A refusal of the contract's rules or of a use case as errors of a row: one for each field."""
    found = [
        RowError(row, column_of(each.field), each.description, error.reason) for each in error.violations if each.field
    ]
    return found or [RowError(row, column_of(error.field or ""), error.message, error.reason)]
