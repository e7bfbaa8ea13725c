"""Coupons' SQL. How often a coupon is redeemed is counted, and limited, by the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Final
from uuid import UUID

from dunwell_server.billing.coupons import Coupon, CouponDuration, CouponRedemption, CouponState
from dunwell_server.billing.store.rows import Conditions, PageRequest, TupleRow, fetch, fetch_first
from dunwell_server.kernel.ids import uuid7
from dunwell_server.platform.database import UnitOfWork

_COLUMNS: Final = (
    "c.id, c.code, c.name, c.percent, c.amount_minor, c.currency_code, c.duration, c.duration_periods, c.max_redemptions, "
    "c.max_redemptions_per_client, c.valid_from_date, c.valid_until_date, c.state, c.redemption_count, c.create_time, c.update_time"
)
_INSERT: Final = f"""
INSERT INTO coupon AS c (firm_id, id, code, name, kind, percent, amount_minor, currency_code, duration, duration_periods, max_redemptions,
                         max_redemptions_per_client, valid_from_date, valid_until_date, create_time, update_time)
VALUES (%(firm_id)s, %(id)s, %(code)s, %(name)s, %(kind)s, %(percent)s, %(amount_minor)s, %(currency_code)s, %(duration)s,
        %(duration_periods)s, %(max_redemptions)s, %(max_redemptions_per_client)s, %(valid_from_date)s, %(valid_until_date)s, %(now)s, %(now)s)
RETURNING {_COLUMNS}
"""
_BY_CODE: Final = f"SELECT {_COLUMNS} FROM coupon c WHERE c.firm_id = %(firm_id)s AND c.code = %(code)s"
_REDEEM: Final = """
INSERT INTO coupon_redemption (firm_id, id, coupon_id, client_id, engagement_id, periods_allowed, redeem_time)
VALUES (%(firm_id)s, %(id)s, %(coupon_id)s, %(client_id)s, %(engagement_id)s, %(periods_allowed)s, %(now)s)
"""


@dataclass(frozen=True, slots=True)
class NewCoupon:
    """A coupon as a caller creates it: `percent`, or an amount in minor units of a currency."""

    code: str
    name: str
    duration: CouponDuration
    percent: Decimal | None = None
    amount_minor: int | None = None
    currency_code: str | None = None
    duration_periods: int | None = None
    max_redemptions: int | None = None
    max_redemptions_per_client: int = 1
    valid_from_date: date | None = None
    valid_until_date: date | None = None


@dataclass(frozen=True, slots=True)
class CouponQuery:
    """The filters of a list of coupons, and its order: newest or oldest first."""

    code: str | None = None
    states: Sequence[str] = ()
    descending: bool = True


def _coupon(row: TupleRow) -> Coupon:
    values = list(row)
    values[6] = CouponDuration(values[6])
    values[12] = CouponState(values[12])
    return Coupon(*values)


async def insert(uow: UnitOfWork, new: NewCoupon) -> Coupon:
    """Add a coupon."""
    params = {name: getattr(new, name) for name in NewCoupon.__slots__}
    params.update(
        firm_id=uow.firm_id, id=uuid7(), now=uow.now, duration=new.duration.value, kind="FIXED" if new.percent is None else "PERCENT"
    )  # fmt: skip
    coupon = await fetch_first(uow, _coupon, _INSERT, params)
    assert coupon is not None
    return coupon


async def by_code(uow: UnitOfWork, code: str) -> Coupon | None:
    """The coupon with that code."""
    return await fetch_first(uow, _coupon, _BY_CODE, {"firm_id": uow.firm_id, "code": code})


async def redeem(uow: UnitOfWork, coupon: Coupon, client_id: UUID, engagement_id: UUID | None) -> CouponRedemption:
    """Put a coupon into a client's hands; the database counts it, or refuses."""
    redemption = CouponRedemption(
        uuid7(), coupon.id, client_id, engagement_id, 0, coupon.periods_allowed, uow.now
    )  # fmt: skip
    await uow.conn.execute(_REDEEM, {
        "firm_id": uow.firm_id, "id": redemption.id, "coupon_id": coupon.id, "client_id": client_id, "engagement_id": engagement_id,
        "periods_allowed": redemption.periods_allowed, "now": uow.now,
    })  # fmt: skip
    return redemption


async def select(uow: UnitOfWork, query: CouponQuery, page: PageRequest) -> list[Coupon]:
    """One page of coupons."""
    where = Conditions(uow.firm_id, "c")
    where.compare("code", query.code)
    where.any_of("state", query.states)
    tail = where.page(("create_time", "id"), query.descending, page)
    return await fetch(uow, _coupon, f"SELECT {_COLUMNS} FROM coupon c {tail}", where.params)
