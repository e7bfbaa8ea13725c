"""Clients, engagements and invoices as the rules see them. Pure: no I/O, no clock.

Amounts are integer minor units of the object's one currency. Dates are civil dates in the firm's zone; periods are
half-open. The order of the fields is the order in which `store` selects the columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, Protocol
from uuid import UUID

from dunwell_server.kernel.calendar import Interval
from dunwell_server.kernel.proration import DEFAULT_POLICY, ProrationPolicy


class ClientState(StrEnum):
    """An ARCHIVED client gets no new engagements and invoices; what is open is still collected."""

    ACTIVE = "ACTIVE"
    ARCHIVED = "ARCHIVED"


class PricingMode(StrEnum):
    """How the work of an engagement is priced."""

    PACKAGE = "PACKAGE"
    HOURLY = "HOURLY"
    MIXED = "MIXED"


class EngagementState(StrEnum):
    """ENDED when the end date has come in the firm's zone; its last unbilled periods are still billed."""

    ACTIVE = "ACTIVE"
    ENDED = "ENDED"


class BillingInterval(StrEnum):
    """Length of a billing period."""

    WEEKLY = "WEEKLY"
    MONTHLY = "MONTHLY"
    QUARTERLY = "QUARTERLY"
    HALF_YEARLY = "HALF_YEARLY"
    YEARLY = "YEARLY"
    ONE_TIME = "ONE_TIME"

    @property
    def interval(self) -> Interval:
        """The calendar's name of it."""
        return _INTERVALS[self]


_INTERVALS: Final[dict[BillingInterval, Interval]] = {
    BillingInterval.WEEKLY: Interval.WEEK,
    BillingInterval.MONTHLY: Interval.MONTH,
    BillingInterval.QUARTERLY: Interval.QUARTER,
    BillingInterval.HALF_YEARLY: Interval.HALF_YEAR,
    BillingInterval.YEARLY: Interval.YEAR,
    BillingInterval.ONE_TIME: Interval.ONE_TIME,
}


class BillingAnchor(StrEnum):
    """Where billing periods begin: on the start date's day, or on calendar boundaries."""

    START_DATE = "START_DATE"
    CALENDAR = "CALENDAR"


class BillingTiming(StrEnum):
    """Whether a period is billed when it begins or when it has ended."""

    IN_ADVANCE = "IN_ADVANCE"
    IN_ARREARS = "IN_ARREARS"


class PartialPeriods(StrEnum):
    """What a partial first or last period costs: its share of the fee, or the whole fee."""

    PRORATE = "PRORATE"
    FULL = "FULL"


class AutopayCadence(StrEnum):
    """When an invoice on autopay is charged."""

    ON_DUE = "ON_DUE"
    MONTHLY = "MONTHLY"
    QUARTERLY = "QUARTERLY"
    IMMEDIATE = "IMMEDIATE"


class AutopayStatus(StrEnum):
    """How far the automatic collection of an invoice has come."""

    SCHEDULED = "SCHEDULED"
    PROCESSING = "PROCESSING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


class InvoiceOrigin(StrEnum):
    """Who made an invoice: a caller, or a billing run."""

    MANUAL = "MANUAL"
    RUN = "RUN"


class LineKind(StrEnum):
    """What a line charges for: something a caller entered, or the fee of one period of an engagement."""

    ITEM = "ITEM"
    PACKAGE = "PACKAGE"


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
    InvoiceState.CHARGED_BACK: _states("PAID DISPUTED UNCOLLECTIBLE"),
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


@dataclass(frozen=True, slots=True)
class Client:
    """A firm's paying customer. `version` is behind the etag."""

    id: UUID
    external_id: str | None
    state: ClientState
    name: str
    email: str | None
    phone: str | None
    address: dict[str, Any] | None
    tax_id: str | None
    locale: str | None
    currency_code: str
    payment_terms_days: int | None
    metadata: dict[str, str]
    autopay_enabled: bool
    autopay_method_id: UUID | None
    autopay_cadence: AutopayCadence
    autopay_enable_time: datetime | None
    version: int
    create_time: datetime
    update_time: datetime
    default_provider: str | None = None
    """Where its new payment methods are kept unless a call says otherwise; None: where the firm's are."""


@dataclass(frozen=True, slots=True)
class Engagement:
    """An agreement to do work for a client, billed by the period.

    `end_date` is exclusive; None is open-ended. Everything before `billed_through_date` is billed. `next_bill_date` is
    the day from which a run has something to bill, None when nothing is left. `void_count` counts voided invoices of
    its periods: it is part of what a run derives an invoice's id from, so that a voided period is billed anew.
    """

    id: UUID
    external_id: str | None
    client_id: UUID
    name: str
    description: str | None
    pricing_mode: PricingMode
    currency_code: str
    start_date: date
    end_date: date | None
    state: EngagementState
    fee_minor: int
    billing_interval: BillingInterval
    anchor: BillingAnchor
    timing: BillingTiming
    partial_periods: PartialPeriods
    proration: ProrationPolicy
    line_description: str
    payment_terms_days: int | None
    billed_through_date: date
    next_bill_date: date | None
    void_count: int
    metadata: dict[str, str]
    version: int
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True)
class InvoiceLine:
    """One line. `unit_price` is in the currency's major unit and may be finer than a minor unit; `amount_minor` is
    `quantity` × `unit_price` (or a prorated fee), rounded once. `in_advance` lines are deferred revenue when sent."""

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


@dataclass(frozen=True, slots=True)
class CollectionColumns:
    """How an invoice is collected automatically. Owned by the invoice, changed only through `set_collection`."""

    autopay_enabled: bool = False
    autopay_status: AutopayStatus | None = None
    autopay_cadence: AutopayCadence | None = None
    autopay_method_id: UUID | None = None
    autopay_next_charge_time: datetime | None = None
    collection_cycle: int = 1
    failure_count: int = 0
    failure_code: str | None = None
    failure_provider_code: str | None = None
    failure_message: str | None = None
    failure_time: datetime | None = None
    last_retry_time: datetime | None = None
    retry_pending: bool = False
    retries_exhausted: bool = False


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


def proration_to_json(policy: ProrationPolicy) -> dict[str, str]:
    """The stored form of a proration policy."""
    return {
        "unit": policy.unit.value,
        "day_count": policy.day_count.value,
        "anchor": policy.anchor.value,
        "change_day": policy.change_day.value,
        "end": policy.end.value,
    }


def proration_from_json(data: Mapping[str, str]) -> ProrationPolicy:
    """Read the stored form; what it does not name has its default."""
    return ProrationPolicy(
        unit=type(DEFAULT_POLICY.unit)(data.get("unit", DEFAULT_POLICY.unit)),
        day_count=type(DEFAULT_POLICY.day_count)(data.get("day_count", DEFAULT_POLICY.day_count)),
        anchor=type(DEFAULT_POLICY.anchor)(data.get("anchor", DEFAULT_POLICY.anchor)),
        change_day=type(DEFAULT_POLICY.change_day)(data.get("change_day", DEFAULT_POLICY.change_day)),
        end=type(DEFAULT_POLICY.end)(data.get("end", DEFAULT_POLICY.end)),
    )
