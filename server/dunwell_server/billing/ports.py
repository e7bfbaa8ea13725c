"""What billing asks of the contexts above it. They implement it, bootstrap provides it on the bus."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol
from uuid import UUID

from dunwell_server.platform.firms import FirmSettings


@dataclass(frozen=True, slots=True)
class CollectionTerms:
    """What the automatic collection of an invoice is planned from: the firm's policy, the invoice, and the client's
    autopay settings at this moment. `amount_due` is in minor units; `now` is firm time."""

    settings: FirmSettings
    now: datetime
    due_date: date
    amount_due: int
    autopay_enabled: bool
    autopay_cadence: str
    autopay_method_id: UUID | None
    autopay_enable_time: datetime | None


@dataclass(frozen=True, slots=True)
class CollectionPlan:
    """The collection columns of a new invoice. Not enabled: no status and no charge to come."""

    enabled: bool
    status: str | None = None
    cadence: str | None = None
    method_id: UUID | None = None
    next_charge_time: datetime | None = None


class CollectionPlanner(Protocol):
    """Plans the collection of an invoice that is being finalised, so that its row is written once."""

    def plan(self, terms: CollectionTerms) -> CollectionPlan:
        """The plan for one invoice. Pure: no I/O, the same terms give the same plan."""
        ...
