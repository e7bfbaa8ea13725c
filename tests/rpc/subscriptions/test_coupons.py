"""Coupons through a real channel."""

from __future__ import annotations

from typing import Any

import pytest
from google.type.date_pb2 import Date
from google.type.decimal_pb2 import Decimal
from grpc import StatusCode

from dunwell.v1 import coupon_pb2, money_pb2
from dunwell.v1 import subscription_service_pb2 as pb
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.platform.context import Role
from tests import support
from tests.rpc.subscriptions.conftest import Served


def coupon_request(**fields: Any) -> pb.CreateCouponRequest:
    """Ten percent off one invoice."""
    values: dict[str, Any] = {"code": "SPRING", "duration": coupon_pb2.COUPON_DURATION_ONCE, **fields}
    if "amount" not in fields:
        values.setdefault("percent", Decimal(value="10"))
    return pb.CreateCouponRequest(coupon=coupon_pb2.Coupon(**values))


async def new_coupon(served: Served, **fields: Any) -> coupon_pb2.Coupon:
    made: coupon_pb2.Coupon = (await served.call("CreateCoupon", coupon_request(**fields))).coupon
    return made


async def redeem_request(served: Served, **fields: Any) -> pb.RedeemCouponRequest:
    client = await served.book.client()
    return pb.RedeemCouponRequest(**{"code": "SPRING", "client_id": encode(Prefix.CLIENT, client.id), **fields})


async def test_a_coupon_is_created_and_listed(served: Served) -> None:
    made = await new_coupon(served)
    assert made.id.startswith("cpn_")
    assert (made.name, made.percent.value, made.HasField("amount"), made.state) == (
        "SPRING", "10", False, coupon_pb2.COUPON_STATE_ACTIVE,
    )  # fmt: skip
    assert (made.HasField("max_redemptions"), made.max_redemptions_per_client, made.redemption_count) == (False, 1, 0)
    dollars = money_pb2.Money(currency_code="USD", amount_minor=500)
    other = await new_coupon(
        served, code="FIVE", name="Five dollars", amount=dollars, duration=coupon_pb2.COUPON_DURATION_REPEATING, duration_periods=3,
        max_redemptions=7, valid_from_date=Date(year=2026, month=1, day=1), valid_until_date=Date(year=2027, month=1, day=1),
    )  # fmt: skip
    assert (other.amount, other.duration_periods, other.max_redemptions) == (dollars, 3, 7)

    async def listed(**filters: Any) -> list[coupon_pb2.Coupon]:
        return list((await served.call("ListCoupons", pb.ListCouponsRequest(**filters), Role.READER)).coupons)

    assert await listed() == [other, made]
    assert await listed(order=coupon_pb2.COUPON_ORDER_CREATE_TIME_ASC) == [made, other]
    assert await listed(code="FIVE", states=[coupon_pb2.COUPON_STATE_ACTIVE]) == [other]
    assert await listed(states=[coupon_pb2.COUPON_STATE_ARCHIVED]) == []


async def test_lists_come_in_pages(served: Served) -> None:
    for code in "abc":
        await new_coupon(served, code=code)
    request = pb.ListCouponsRequest(page_size=2)
    first = await served.call("ListCoupons", request)
    request.page_token = first.next_page_token
    second = await served.call("ListCoupons", request)
    assert [one.code for one in (*first.coupons, *second.coupons)] == ["c", "b", "a"]
    assert second.next_page_token == ""


async def test_a_coupon_is_redeemed_and_takes_something_off(served: Served) -> None:
    made = await new_coupon(served, duration=coupon_pb2.COUPON_DURATION_FOREVER)
    client = await served.book.client()
    request = pb.RedeemCouponRequest(code="SPRING", client_id=encode(Prefix.CLIENT, client.id))
    redeemed = (await served.call("RedeemCoupon", request, Role.SERVICE)).redemption
    assert redeemed.id.startswith("cpr_")
    assert (redeemed.coupon_id, redeemed.coupon_code, redeemed.HasField("periods_allowed")) == (
        made.id,
        "SPRING",
        False,
    )
    repeated = served.call("RedeemCoupon", request, Role.SERVICE)
    assert (await repeated).redemption == redeemed
    assert ("dunwell-replayed", "true") in [(key, value) for key, value in await repeated.trailing_metadata()]
    assert (await served.book.sent(client, "100")).total == 9_000
    (listed,) = (await served.call("ListCoupons", pb.ListCouponsRequest())).coupons
    assert listed.redemption_count == 1


async def test_errors_are_precise(served: Served) -> None:
    made = await new_coupon(served, max_redemptions=1)
    taken = await served.refused("CreateCoupon", coupon_request())
    assert (taken.code, taken.reason) == (StatusCode.ALREADY_EXISTS, "ALREADY_EXISTS")
    unknown = await served.refused("RedeemCoupon", await redeem_request(served, code="WINTER"))
    assert (unknown.code, unknown.reason) == (StatusCode.NOT_FOUND, "RESOURCE_NOT_FOUND")
    nobody = await redeem_request(served, client_id=encode(Prefix.CLIENT, uuid7()))
    assert (await served.refused("RedeemCoupon", nobody)).reason == "RESOURCE_NOT_FOUND"
    await served.call("RedeemCoupon", await redeem_request(served))
    exhausted = await served.refused("RedeemCoupon", await redeem_request(served))
    assert (exhausted.code, exhausted.reason) == (StatusCode.FAILED_PRECONDITION, "COUPON_NOT_REDEEMABLE")
    assert dict(exhausted.details["ErrorInfo"].metadata) == {"coupon_id": made.id, "cause": "EXHAUSTED"}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"code": ""}, "FIELD_INVALID"),
        ({"code": "with blank"}, "FIELD_INVALID"),
        ({"percent": Decimal(value="0")}, "FIELD_INVALID"),
        ({"percent": None}, "FIELD_INVALID"),
        ({"amount": money_pb2.Money(currency_code="USD")}, "FIELD_INVALID"),
        ({"amount": money_pb2.Money(currency_code="QQQ", amount_minor=1)}, "UNKNOWN_CURRENCY"),
        ({"duration": coupon_pb2.COUPON_DURATION_UNSPECIFIED}, "FIELD_INVALID"),
        ({"duration": coupon_pb2.COUPON_DURATION_REPEATING}, "FIELD_INVALID"),
        ({"duration_periods": 2}, "FIELD_INVALID"),
        ({"max_redemptions": 0}, "FIELD_INVALID"),
        (
            {"valid_from_date": Date(year=2026, month=1, day=1), "valid_until_date": Date(year=2026, month=1, day=1)},
            "PERIOD_INVALID",
        ),
    ],
)
async def test_a_coupon_that_is_none_is_refused(served: Served, fields: dict[str, Any], reason: str) -> None:
    refused = await served.refused("CreateCoupon", coupon_request(**fields))
    assert (refused.code, refused.reason) == (StatusCode.INVALID_ARGUMENT, reason)


async def test_who_may_call(served: Served) -> None:
    redeem = await redeem_request(served)
    for role in (Role.READER, Role.SIDECAR, Role.SERVICE):
        assert (await served.refused("CreateCoupon", coupon_request(), role)).reason == "PERMISSION_DENIED"
    for role in (Role.READER, Role.SIDECAR):
        assert (await served.refused("RedeemCoupon", redeem, role)).reason == "PERMISSION_DENIED"
    await new_coupon(served)
    other = await support.add_firm(served.book.db)
    assert not (await served.call("ListCoupons", pb.ListCouponsRequest(), firm=other.firm_id)).coupons
    assert (await served.refused("RedeemCoupon", redeem, firm=other.firm_id)).reason == "RESOURCE_NOT_FOUND"
