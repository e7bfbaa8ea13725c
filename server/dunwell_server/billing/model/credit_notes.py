"""What reduces a sent invoice: credit notes. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from dunwell_server.billing.crediting import LinePart


class Excess(StrEnum):
    """What becomes of the part of a credit note that was paid already."""

    CREDIT = "CREDIT"
    REFUND_PAYABLE = "REFUND_PAYABLE"


@dataclass(frozen=True, slots=True)
class CreditedLine:
    """What a note takes back of one line; `deferred_minor` of its revenue was still deferred."""

    part: LinePart
    deferred_minor: int = 0


@dataclass(frozen=True, slots=True)
class CreditNote:
    """What was billed and is taken back, wholly or in part. Of `amount_minor`, `tax_minor` is tax and `deferred_minor` revenue that was
    deferred. Its number follows from series and sequence, which it gets when it is written.

    Where no refund issued it, `amount_minor` is the sum of `applied_minor` (was owed, and is not any more), `credited_minor` (new credit of the
    client), `released_minor` (credit that had paid for the invoice, given back) and `payable_minor` (to be paid back). A refund's note is paid
    out by that refund: all four are zero.
    """

    id: UUID
    client_id: UUID
    invoice_id: UUID
    refund_id: UUID | None
    currency_code: str
    amount_minor: int
    tax_minor: int
    deferred_minor: int
    reason: str | None
    issue_date: date
    lines: tuple[CreditedLine, ...] = ()
    applied_minor: int = 0
    credited_minor: int = 0
    released_minor: int = 0
    payable_minor: int = 0


@dataclass(frozen=True, slots=True)
class NoteTax:
    """Tax that a note takes back by one rate of its invoice."""

    name: str
    percentage: Decimal
    tax_minor: int


@dataclass(frozen=True, slots=True)
class IssuedNote:
    """A credit note as it is stored and shown. `descriptions` are the lines' texts, `paid_out_minor` what refunds have paid of it."""

    note: CreditNote
    number: str
    create_time: datetime
    paid_out_minor: int
    descriptions: dict[int, str]
    taxes: tuple[NoteTax, ...]
