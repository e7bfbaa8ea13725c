"""Demands for money: their facts, their lines, and the state that follows. Pure.

Amounts are integer minor units of the invoice's one currency.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from dunwell_server.billing.model.collection import CollectionColumns
from dunwell_server.billing.model.credit import CreditUse
from dunwell_server.billing.model.pricing import STANDARD_TAX_CATEGORY, InvoiceDiscount, LineTax


class InvoiceOrigin(StrEnum):
    """Who made an invoice: a caller, or a billing run."""

    MANUAL = "MANUAL"
    RUN = "RUN"


class LineKind(StrEnum):
    """What a line charges for: something a caller entered, the fee of one period of an engagement, approved time
    (or time that a package includes), or time beyond what it includes."""

    ITEM = "ITEM"
    PACKAGE = "PACKAGE"
    TIME = "TIME"
    OVERAGE = "OVERAGE"


class InvoiceState(StrEnum):
    """Where an invoice stands; always derived from its facts by `derive_state`."""

    DRAFT = "DRAFT"
    VOID = "VOID"
    UNCOLLECTIBLE = "UNCOLLECTIBLE"
    DISPUTED = "DISPUTED"
    CHARGED_BACK = "CHARGED_BACK"
    REFUNDED = "REFUNDED"
    PAID = "PAID"
    OVERDUE = "OVERDUE"
    FAILED = "FAILED"
    SENT = "SENT"


class InvoiceFacts(Protocol):
    """What the state of an invoice follows from."""

    @property
    def amount_received(self) -> int: ...
    @property
    def amount_refunded(self) -> int: ...
    @property
    def amount_due(self) -> int: ...
    @property
    def finalize_time(self) -> datetime | None: ...
    @property
    def void_time(self) -> datetime | None: ...
    @property
    def write_off_time(self) -> datetime | None: ...
    @property
    def overdue_time(self) -> datetime | None: ...
    @property
    def open_chargebacks(self) -> int: ...
    @property
    def lost_disputes(self) -> int: ...
    @property
    def retry_pending(self) -> bool: ...
    @property
    def retries_exhausted(self) -> bool: ...


def derive_state(facts: InvoiceFacts) -> InvoiceState:
    """The state that the facts amount to; the first rule that matches wins.

    The database computes the same from the same columns; a test proves the two equal over every combination.
    """
    due = facts.amount_due > 0
    if facts.finalize_time is None:
        return InvoiceState.DRAFT
    if facts.void_time is not None:
        return InvoiceState.VOID
    if facts.write_off_time is not None and due:
        return InvoiceState.UNCOLLECTIBLE
    if facts.open_chargebacks > 0:
        return InvoiceState.DISPUTED
    if facts.lost_disputes > 0 and due:
        return InvoiceState.CHARGED_BACK
    if not due:
        refunded = facts.amount_received > 0 and facts.amount_refunded == facts.amount_received
        return InvoiceState.REFUNDED if refunded else InvoiceState.PAID
    if facts.overdue_time is not None or facts.retries_exhausted:
        return InvoiceState.OVERDUE
    return InvoiceState.FAILED if facts.retry_pending else InvoiceState.SENT


def _states(text: str) -> frozenset[InvoiceState]:
    return frozenset(InvoiceState(name) for name in text.split())


TRANSITIONS: Final[dict[InvoiceState, frozenset[InvoiceState]]] = {
    InvoiceState.DRAFT: _states("SENT PAID"),
    InvoiceState.SENT: _states("PAID FAILED OVERDUE VOID UNCOLLECTIBLE DISPUTED REFUNDED"),
    InvoiceState.FAILED: _states("SENT PAID OVERDUE VOID UNCOLLECTIBLE DISPUTED REFUNDED"),
    InvoiceState.OVERDUE: _states("SENT PAID FAILED VOID UNCOLLECTIBLE DISPUTED REFUNDED"),
    InvoiceState.PAID: _states("SENT FAILED OVERDUE DISPUTED CHARGED_BACK REFUNDED UNCOLLECTIBLE"),
    InvoiceState.DISPUTED: _states("SENT FAILED OVERDUE PAID CHARGED_BACK REFUNDED UNCOLLECTIBLE"),
    InvoiceState.CHARGED_BACK: _states("PAID DISPUTED REFUNDED UNCOLLECTIBLE"),
    InvoiceState.UNCOLLECTIBLE: _states("PAID DISPUTED REFUNDED"),
    InvoiceState.REFUNDED: _states("DISPUTED"),
    InvoiceState.VOID: frozenset(),
}
"""Every change of state that one business fact can bring about. The database refuses all others."""

VOIDABLE: Final = frozenset({InvoiceState.SENT, InvoiceState.FAILED, InvoiceState.OVERDUE})
"""States that an invoice may be voided from, while nothing was received."""
WRITABLE_OFF: Final = VOIDABLE | {InvoiceState.CHARGED_BACK}
"""States that an invoice may be written off from."""
COLLECTIBLE: Final = WRITABLE_OFF
"""States in which money may be asked for."""


class InvoiceLine(NamedTuple):
    """One line. `unit_price` is in the currency's major unit and may be finer than a minor unit; `amount_minor` is
    `quantity` × `unit_price` (or a prorated fee), rounded once. `in_advance` lines are deferred revenue when sent.

    `discount_minor` is all discounts that fall on it, `tax_minor` all its tax, `tax_included_minor` the part of that which is
    inside `amount_minor`. `unit` is what `quantity` counts: empty, or "hour".
    """

    line_no: int
    kind: LineKind
    description: str
    quantity: Decimal
    unit_price: Decimal
    amount_minor: int
    period_start: date | None = None
    period_end: date | None = None
    engagement_id: UUID | None = None
    in_advance: bool = False
    unit: str = ""
    tax_category: str = STANDARD_TAX_CATEGORY
    discount_minor: int = 0
    tax_minor: int = 0
    tax_included_minor: int = 0
    taxes: tuple[LineTax, ...] = ()

    @property
    def net_minor(self) -> int:
        """What becomes revenue, earned or deferred: the amount without discounts and without tax."""
        return self.amount_minor - self.discount_minor - self.tax_included_minor


@dataclass(frozen=True, slots=True)
class Invoice:
    """A demand for money. `lines` is empty where only the facts were loaded (`line_count` always tells how many)."""

    id: UUID
    external_id: str | None
    client_id: UUID
    engagement_id: UUID | None
    run_id: UUID | None
    origin: InvoiceOrigin
    currency_code: str
    series: str | None
    series_no: int | None
    number: str | None
    memo: str | None
    metadata: dict[str, str]
    issue_date: date | None
    due_date: date | None
    payment_terms_days: int | None
    line_count: int
    subtotal: int
    discount_total: int
    tax_total: int
    total: int
    amount_received: int
    amount_refunded: int
    amount_charged_back: int
    amount_credited: int
    amount_paid: int
    amount_due: int
    finalize_time: datetime | None
    void_time: datetime | None
    write_off_time: datetime | None
    overdue_time: datetime | None
    paid_time: datetime | None
    open_chargebacks: int
    lost_disputes: int
    state: InvoiceState
    version: int
    create_time: datetime
    update_time: datetime
    collection: CollectionColumns = field(default_factory=CollectionColumns)
    lines: tuple[InvoiceLine, ...] = ()
    tax_included_total: int = 0
    """The part of `tax_total` that is inside `subtotal`: `total` = `subtotal` - `discount_total` + `tax_total` - this."""
    discount_count: int = 0
    discounts: tuple[InvoiceDiscount, ...] = ()
    """Loaded together with the lines."""
    credit: tuple[CreditUse, ...] = ()
    """Which credit pays for it, of an invoice that is about to be sent; otherwise empty."""

    @property
    def retry_pending(self) -> bool:
        """An automatic retry is to come."""
        return self.collection.retry_pending

    @property
    def retries_exhausted(self) -> bool:
        """The last automatic retry failed."""
        return self.collection.retries_exhausted

    @property
    def open_amount(self) -> int:
        """Minor units that a payment may still settle: `amount_due`, but nothing of a draft or void invoice."""
        return 0 if self.state in (InvoiceState.DRAFT, InvoiceState.VOID) else self.amount_due
