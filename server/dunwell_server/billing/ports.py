"""What billing asks of the contexts above it. They implement it, bootstrap provides it on the bus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol
from uuid import UUID

from dunwell_server.billing.taxes import LineTaxes, TaxRequest, TaxTable
from dunwell_server.platform.database import UnitOfWork
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


class TaxCalculator(Protocol):
    """Finds the taxes of invoices. The firm's own table of rates is one; an engine outside of the house may be another."""

    async def calculate(
        self, uow: UnitOfWork, table: TaxTable, requests: Sequence[TaxRequest]
    ) -> Sequence[Sequence[LineTaxes]]:
        """The taxes of each line of each request, in their order; `table` is the firm's, loaded already.

        Called in a transaction, once for any number of invoices. Taxes inside a line's price are marked inclusive, and come to no more
        than the price; nothing else may follow from the call than its answer, for previews ask as well.
        """
        ...


@dataclass(frozen=True, slots=True)
class PayOptions:
    """How an invoice can be paid at once. `link` is a hosted page that is open until `link_expire_time` (firm time; None: for good);
    `upi` what a UPI code says. Empty: there is none."""

    link: str = ""
    link_expire_time: datetime | None = None
    upi: str = ""


@dataclass(frozen=True, slots=True)
class ReceivedPayment:
    """A payment as its receipt tells of it. Amounts are minor units: what was received, what of that settled no invoice and became
    credit, and what was sent back since. `method` is CARD, UPI, BANK, OTHER, or how it came by hand: CASH, CHEQUE, …; empty: not known.
    `parts` are invoice numbers with what of the payment settled each. Nothing was received unless `succeeded`."""

    id: UUID
    client_id: UUID
    succeeded: bool
    day: date
    currency_code: str
    amount_minor: int
    credited_minor: int
    refunded_minor: int
    method: str = ""
    brand: str = ""
    last4: str = ""
    reference: str = ""
    parts: Sequence[tuple[str, int]] = ()


class PaymentOptions(Protocol):
    """What documents ask of payments: how an invoice can be paid, and how one was."""

    async def options(self, uow: UnitOfWork, invoice_id: UUID) -> PayOptions:
        """How the invoice can be paid now. Asks no provider."""
        ...

    async def received(self, uow: UnitOfWork, payment_id: UUID) -> ReceivedPayment | None:
        """The payment; None where there is none."""
        ...
