"""What a reconciliation tells of one object of a provider."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from dunwell_server.platform.runs import RunItem

ADOPTED: Final = "ADOPTED"
DIFFERENT: Final = "DIFFERENT"
MATCHED: Final = "MATCHED"
WAITING: Final = "WAITING"
SKIPPED: Final = "SKIPPED"
FAILED: Final = "FAILED"
TOLD: Final = frozenset({ADOPTED, DIFFERENT, FAILED})
"""Outcomes that are items; the others are counted only."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of one object. `subject` is its id in runs; the rest is known as far as it is."""

    subject: UUID
    outcome: str
    reference: str
    reason: str | None = None
    message: str | None = None
    subject_type: str = "provider_payment"
    payment_id: UUID | None = None
    client_id: UUID | None = None
    invoice_id: UUID | None = None
    amount_minor: int | None = None
    currency_code: str | None = None

    @property
    def item(self) -> RunItem:
        """The line that a run tells of it."""
        detail = {
            "provider_reference": self.reference,
            "payment_id": str(self.payment_id) if self.payment_id else None,
            "invoice_id": str(self.invoice_id) if self.invoice_id else None,
        }
        return RunItem(
            self.subject_type, self.subject, self.outcome, self.reason, self.message, self.client_id, self.amount_minor,
            self.currency_code, {name: value for name, value in detail.items() if value},
        )  # fmt: skip

    @property
    def amounts(self) -> dict[str, int]:
        """What it adds to the run's sums: money that was taken over."""
        if self.outcome != ADOPTED or not self.amount_minor or self.currency_code is None:
            return {}
        return {self.currency_code: self.amount_minor}
