"""The handlers of coupons."""

from __future__ import annotations

from typing import Any, Final

from dunwell.v1 import coupon_pb2
from dunwell.v1 import subscription_service_pb2 as pb
from dunwell_server.billing.coupons import Coupon, CouponDuration, CouponRedemption
from dunwell_server.billing.service import coupons
from dunwell_server.billing.store.coupons import CouponQuery, NewCoupon
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.kernel.ids import Prefix
from dunwell_server.kernel.money import Money
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.rpc.converters import (
    date_message,
    decimal_message,
    enum_name,
    id_text,
    id_value,
    money,
    money_message,
    optional_date,
    optional_decimal,
    optional_id,
    optional_value,
    timestamp,
)
from dunwell_server.subscriptions.rpc.parts import SubscriptionHandlers

_STATE: Final = "COUPON_STATE_"
_DURATION: Final = "COUPON_DURATION_"


class CouponHandlers(SubscriptionHandlers):
    """Coupons."""

    async def CreateCoupon(self, request: pb.CreateCouponRequest, context: Any) -> pb.CreateCouponResponse:
        new = _new(request.coupon)

        async def work(uow: UnitOfWork) -> pb.CreateCouponResponse:
            return pb.CreateCouponResponse(coupon=coupon_message(uow, await coupons.create_coupon(uow, new)))

        return await self._calls.write(request, pb.CreateCouponResponse, work)

    async def ListCoupons(self, request: pb.ListCouponsRequest, context: Any) -> pb.ListCouponsResponse:
        page = self._pager.read(request)
        states = [enum_name(coupon_pb2.CouponState, state, _STATE) for state in request.states]
        query = CouponQuery(request.code or None, states, request.order != coupon_pb2.COUPON_ORDER_CREATE_TIME_ASC)

        async def work(uow: UnitOfWork) -> pb.ListCouponsResponse:
            found = await coupons.list_coupons(uow, query, PageRequest(page.limit, page.after))
            shown, token = page.split(found, lambda row: (row.create_time, row.id))
            return pb.ListCouponsResponse(
                coupons=[coupon_message(uow, coupon) for coupon in shown], next_page_token=token
            )

        return await self._calls.read(work)

    async def RedeemCoupon(self, request: pb.RedeemCouponRequest, context: Any) -> pb.RedeemCouponResponse:
        client_id = id_value(Prefix.CLIENT, request.client_id, "client_id")
        engagement_id = optional_id(Prefix.ENGAGEMENT, request.engagement_id, "engagement_id")

        async def work(uow: UnitOfWork) -> pb.RedeemCouponResponse:
            redeemed = await coupons.redeem_coupon(uow, request.code, client_id, engagement_id)
            return pb.RedeemCouponResponse(redemption=redemption_message(*redeemed))

        return await self._calls.write(request, pb.RedeemCouponResponse, work)


def _new(message: coupon_pb2.Coupon) -> NewCoupon:
    amount = money(message.amount, "coupon.amount") if message.HasField("amount") else None
    return NewCoupon(
        code=message.code,
        name=message.name or message.code,
        duration=CouponDuration(enum_name(coupon_pb2.CouponDuration, message.duration, _DURATION)),
        percent=optional_decimal(message, "percent", "coupon.percent"),
        amount_minor=amount.minor if amount else None,
        currency_code=amount.currency if amount else None,
        duration_periods=optional_value(message, "duration_periods"),
        max_redemptions=optional_value(message, "max_redemptions"),
        max_redemptions_per_client=message.max_redemptions_per_client or 1,
        valid_from_date=optional_date(message, "valid_from_date", "coupon.valid_from_date"),
        valid_until_date=optional_date(message, "valid_until_date", "coupon.valid_until_date"),
    )


def coupon_message(uow: UnitOfWork, coupon: Coupon) -> coupon_pb2.Coupon:
    """A coupon."""
    amount = None
    if coupon.amount_minor is not None and coupon.currency_code is not None:
        amount = Money(coupon.currency_code, coupon.amount_minor)
    return coupon_pb2.Coupon(
        id=id_text(Prefix.COUPON, coupon.id),
        firm_id=id_text(Prefix.FIRM, uow.firm_id),
        code=coupon.code,
        name=coupon.name,
        percent=decimal_message(coupon.percent),
        amount=money_message(amount),
        duration=coupon_pb2.CouponDuration.Value(_DURATION + coupon.duration.value),
        duration_periods=coupon.duration_periods,
        max_redemptions=coupon.max_redemptions,
        max_redemptions_per_client=coupon.max_redemptions_per_client,
        valid_from_date=date_message(coupon.valid_from_date),
        valid_until_date=date_message(coupon.valid_until_date),
        state=coupon_pb2.CouponState.Value(_STATE + coupon.state.value),
        redemption_count=coupon.redemption_count,
        create_time=timestamp(coupon.create_time),
        update_time=timestamp(coupon.update_time),
    )


def redemption_message(redemption: CouponRedemption, coupon: Coupon) -> coupon_pb2.CouponRedemption:
    """A coupon in a client's hands."""
    return coupon_pb2.CouponRedemption(
        id=id_text(Prefix.COUPON_REDEMPTION, redemption.id),
        coupon_id=id_text(Prefix.COUPON, coupon.id),
        coupon_code=coupon.code,
        client_id=id_text(Prefix.CLIENT, redemption.client_id),
        engagement_id=id_text(Prefix.ENGAGEMENT, redemption.engagement_id),
        periods_used=redemption.periods_used,
        periods_allowed=redemption.periods_allowed,
        redeem_time=timestamp(redemption.redeem_time),
    )
