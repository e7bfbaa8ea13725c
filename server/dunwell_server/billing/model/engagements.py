"""Agreements to do work for a client, and how they are billed. Pure.

Dates are civil dates in the firm's zone; periods are half-open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final
from uuid import UUID

from dunwell_server.billing.model.time import HourlyTerms
from dunwell_server.kernel.calendar import Interval
from dunwell_server.kernel.proration import DEFAULT_POLICY, ProrationPolicy


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


@dataclass(frozen=True, slots=True)
class AutoRenew:
    """How a term is followed by the next one without being asked.

    `days_ahead`: how many days before the end date the next term is made and the client told, 0 to 365. `months`: its
    length; None is the length of the term that ends. `uplift_percent`: what its fee rises by (falls, if negative).
    """

    days_ahead: int
    months: int | None = None
    uplift_percent: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Engagement:
    """An agreement to do work for a client, billed by the period.

    `end_date` is exclusive; None is open-ended. Everything before `billed_through_date` is billed. `next_bill_date` is
    the day from which a run has something to bill, None when nothing is left. `void_count` counts voided invoices of
    its periods: it is part of what a run derives an invoice's id from, so that a voided period is billed anew.
    `anchor_day` is the day of month that periods aim for, where it is not the start date's: that of a term which began
    at a month's end because its predecessor aimed for a day the month does not have. `renewed_from_id` and
    `renewed_to_id` are the terms before and after it. `renewal_notice_time` is when the client was told that this term
    follows the one before. A term of no days is a renewal withdrawn before it began.
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
    anchor_day: int | None = None
    renewed_from_id: UUID | None = None
    renewed_to_id: UUID | None = None
    auto_renew: AutoRenew | None = None
    renewal_notice_time: datetime | None = None
    hourly: HourlyTerms | None = None
    """How time is billed: HOURLY and MIXED have it, PACKAGE does not."""

    @property
    def is_withdrawn(self) -> bool:
        """Whether it is a renewal that was taken back before it began: a term of no days."""
        return self.end_date == self.start_date


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
