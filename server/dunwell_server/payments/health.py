"""How a payment method is doing, and when a card expires. Pure."""

from __future__ import annotations

from datetime import date, timedelta
from enum import StrEnum
from typing import Final

from dunwell_server.kernel.calendar import days_in_month
from dunwell_server.payments.model import FailureCode, MethodState, PaymentMethod

WARNING_DAYS: Final = 30
"""A card is expiring from so many days before its last day on."""
HIGH_RISK_STREAK: Final = 3
"""Declines in a row."""
NEAR_TRIES: Final = 12
"""Declines of the 15 in 30 days that card networks allow."""
NEAR_DECLINES: Final = 8
"""Declines of the ten in a day."""


class Health(StrEnum):
    """The worst that is known of a method comes first."""

    DEAD = "DEAD"
    EXPIRED = "EXPIRED"
    HIGH_RISK = "HIGH_RISK"
    FAILING = "FAILING"
    EXPIRING = "EXPIRING"
    GOOD = "GOOD"


def last_day(exp_month: int | None, exp_year: int | None) -> date | None:
    """The last civil day on which a card is good: the end of its month. None: not known."""
    if not exp_month or not exp_year:
        return None
    return date(exp_year, exp_month, days_in_month(exp_year, exp_month))


def expiry_text(day: date) -> str:
    """A card's month of expiry as `2027-03`."""
    return f"{day:%Y-%m}"


def health_of(method: PaymentMethod) -> Health:
    """How the method is doing on the firm's civil day on which it was read."""
    today = method.seen_on
    if method.state in (MethodState.DEAD, MethodState.DETACHED):
        return Health.DEAD
    ends = last_day(method.exp_month, method.exp_year)
    if (ends is not None and today is not None and ends < today) or (
        method.state is MethodState.NEEDS_ACTION and method.block_code == FailureCode.EXPIRED_CARD
    ):
        return Health.EXPIRED
    if method.near_ceiling or method.failure_streak >= HIGH_RISK_STREAK:
        return Health.HIGH_RISK
    if method.failure_streak > 0:
        return Health.FAILING
    if ends is not None and today is not None and ends - today <= timedelta(days=WARNING_DAYS):
        return Health.EXPIRING
    return Health.GOOD
