"""Credit that clients hold with the firm: entries that are appended, and what was done with them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID


class CreditKind(StrEnum):
    """Where credit comes from."""

    GOODWILL = "GOODWILL"
    PREPAYMENT = "PREPAYMENT"
    OVERPAYMENT = "OVERPAYMENT"
    PROMOTION = "PROMOTION"
    REFUND_TO_CREDIT = "REFUND_TO_CREDIT"
    DISPUTE_ADJUSTMENT = "DISPUTE_ADJUSTMENT"


MONEY: Final = frozenset(
    {CreditKind.PREPAYMENT, CreditKind.OVERPAYMENT, CreditKind.REFUND_TO_CREDIT, CreditKind.DISPUTE_ADJUSTMENT}
)
"""Kinds that the client has paid for: only these are ever paid out, or taken by a lost dispute."""
GRANTABLE: Final = frozenset(
    {CreditKind.GOODWILL, CreditKind.PROMOTION, CreditKind.PREPAYMENT, CreditKind.DISPUTE_ADJUSTMENT}
)
"""Kinds that a person may give; the others come of payments, refunds and credit notes."""

DEFAULT_PRIORITY: Final = 50


class CreditSource(StrEnum):
    """What an entry, or a use, came of."""

    GRANT = "grant"
    PAYMENT = "payment"
    REFUND = "refund"
    DISPUTE = "dispute"
    CREDIT_NOTE = "credit_note"
    CREDIT_ENTRY = "credit_entry"
    OPENING = "opening"


class CreditUseKind(StrEnum):
    """What was done with credit. RELEASED adds to what is left of the entry, all others take from it."""

    APPLIED = "APPLIED"
    RELEASED = "RELEASED"
    EXPIRED = "EXPIRED"
    REVERSED = "REVERSED"
    REFUNDED = "REFUNDED"
    CHARGED_BACK = "CHARGED_BACK"
    MOVED = "MOVED"


@dataclass(frozen=True, slots=True)
class NewCredit:
    """Credit to be added. `source_id` is the object that `source` names; none for grants. Firm time."""

    client_id: UUID
    currency_code: str
    kind: CreditKind
    amount_minor: int
    source: CreditSource
    source_id: UUID | None = None
    reason: str | None = None
    priority: int = DEFAULT_PRIORITY
    expire_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class CreditEntry:
    """One entry of a client's credit; `firm_time` is when it was given, and its age."""

    id: UUID
    client_id: UUID
    currency_code: str
    kind: CreditKind
    amount_minor: int
    remaining_minor: int
    priority: int
    expire_time: datetime | None
    source: CreditSource
    source_id: UUID | None
    reason: str | None
    firm_time: datetime
    create_time: datetime


@dataclass(frozen=True, slots=True)
class CreditUse:
    """One use of an entry: planned, or written. `amount_minor` is positive, whatever the kind."""

    id: UUID
    entry_id: UUID
    kind: CreditUseKind
    client_id: UUID
    currency_code: str
    amount_minor: int
    invoice_id: UUID | None = None
    source: CreditSource | None = None
    source_id: UUID | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class StatedUse:
    """A use as the statement shows it, with the client's credit in that currency after it."""

    use: CreditUse
    firm_time: datetime
    balance_after: int


@dataclass(frozen=True, slots=True)
class StatedEntry:
    """An entry as the statement shows it, with its uses in order."""

    entry: CreditEntry
    balance_after: int
    uses: tuple[StatedUse, ...]


@dataclass(frozen=True, slots=True)
class CreditBalance:
    """A client's credit in one currency: all of it, what an invoice could use now, and what of it expires next."""

    currency_code: str
    balance_minor: int
    available_minor: int
    next_expire_time: datetime | None
    expiring_minor: int
