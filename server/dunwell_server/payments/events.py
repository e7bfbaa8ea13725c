"""What payments tell the contexts above them, in the transaction in which it happens."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class RefundGivenUp:
    """A refund has come to nothing: what was kept back of its payment for it is free again. Client, invoices and payment are locked."""

    payment_id: UUID
