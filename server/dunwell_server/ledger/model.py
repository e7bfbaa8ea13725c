"""Double entry: a posting is a set of entries whose debits (positive) and credits (negative) are equal in each currency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID


class Account(StrEnum):
    """The chart of accounts, per firm and currency. Receivable and client credit are kept per client, cash and clearing per provider."""

    RECEIVABLE = "receivable"
    REVENUE = "revenue"
    DEFERRED_REVENUE = "deferred_revenue"
    TAX_PAYABLE = "tax_payable"
    CASH = "cash"
    CLEARING = "clearing"
    PROVIDER_FEES = "provider_fees"
    DISPUTE_FEES = "dispute_fees"
    CLIENT_CREDIT = "client_credit"
    UNAPPLIED_RECEIPTS = "unapplied_receipts"
    REFUND_PAYABLE = "refund_payable"
    DISPUTED_FUNDS = "disputed_funds"
    PROMOTIONAL_CONTRA_REVENUE = "promotional_contra_revenue"
    BREAKAGE = "breakage"
    BAD_DEBT = "bad_debt"
    RECOVERIES = "recoveries"
    OPENING_BALANCE = "opening_balance"


@dataclass(frozen=True, slots=True)
class Entry:
    """One side of a posting: `amount_minor` > 0 debits the account, < 0 credits it; never zero."""

    account: Account
    amount_minor: int
    currency_code: str
    client_id: UUID | None = None
    provider: str | None = None


@dataclass(frozen=True, slots=True)
class Posting:
    """What one business fact does to the books. `(source_id, kind)` is unique: the same fact is posted once.

    `firm_time` is the instant that the fact belongs to, where that is not the transaction's: a day's revenue belongs to that day.
    """

    source_type: str
    source_id: UUID
    kind: str
    entries: Sequence[Entry]
    firm_time: datetime | None = None
