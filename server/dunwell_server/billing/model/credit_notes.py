"""What reduces a sent invoice: credit notes. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from uuid import UUID


@dataclass(frozen=True, slots=True)
class CreditNote:
    """What was billed and is taken back, wholly or in part. Of `amount_minor`, `tax_minor` is tax and `deferred_minor` revenue that was
    deferred. Its number follows from series and sequence, which it gets when it is written."""

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
