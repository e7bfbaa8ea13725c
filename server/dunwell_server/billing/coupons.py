"""Coupons: discounts that clients get by redeeming a code. Pure; amounts are minor units of the coupon's currency."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from uuid import UUID

from dunwell_server.billing.discounts import DiscountTerms


class CouponDuration(StrEnum):
    """For how many invoices a redeemed coupon takes something off: one, some, or all."""

    ONCE = "ONCE"
    REPEATING = "REPEATING"
    FOREVER = "FOREVER"


class CouponState(StrEnum):
    """An ARCHIVED coupon is not redeemed any more; what was redeemed goes on."""

    ACTIVE = "ACTIVE"
    ARCHIVED = "ARCHIVED"


@dataclass(frozen=True, slots=True)
class Coupon:
    """A coupon: `percent` of what is left, or `amount_minor` of `currency_code`. Validity is for redeeming it, half-open in civil dates.

    `max_redemptions` None: no limit.
    """

    id: UUID
    code: str
    name: str
    percent: Decimal | None
    amount_minor: int | None
    currency_code: str | None
    duration: CouponDuration
    duration_periods: int | None
    max_redemptions: int | None
    max_redemptions_per_client: int
    valid_from_date: date | None
    valid_until_date: date | None
    state: CouponState
    redemption_count: int
    create_time: datetime
    update_time: datetime

    @property
    def periods_allowed(self) -> int | None:
        """How many invoices one redemption is for; None: every one."""
        return 1 if self.duration is CouponDuration.ONCE else self.duration_periods

    def refusal(self, client_currency: str, today: date) -> str | None:
        """Why a client billed in that currency cannot redeem it today, as a fixed word; None: it can.

        How often it was redeemed is checked by the database, in the same moment as it is counted.
        """
        if self.state is CouponState.ARCHIVED:
            return "ARCHIVED"
        if self.valid_from_date is not None and today < self.valid_from_date:
            return "NOT_YET_VALID"
        if self.valid_until_date is not None and today >= self.valid_until_date:
            return "EXPIRED"
        if self.currency_code is not None and self.currency_code != client_currency:
            return "CURRENCY"
        return None


@dataclass(frozen=True, slots=True)
class CouponRedemption:
    """A coupon in a client's hands. `periods_allowed` None: for every invoice."""

    id: UUID
    coupon_id: UUID
    client_id: UUID
    engagement_id: UUID | None
    periods_used: int
    periods_allowed: int | None
    redeem_time: datetime


@dataclass(frozen=True, slots=True)
class HeldCoupon:
    """What pricing knows of a redemption that has uses left. `uses_left` None: any number."""

    client_id: UUID
    redemption_id: UUID
    name: str
    percent: Decimal | None
    amount_minor: int | None
    currency_code: str | None
    engagement_id: UUID | None
    uses_left: int | None

    def terms(self) -> DiscountTerms:
        """The discount that it is."""
        return DiscountTerms(
            self.name,
            self.percent,
            self.amount_minor,
            engagement_id=self.engagement_id,
            redemption_id=self.redemption_id,
        )
