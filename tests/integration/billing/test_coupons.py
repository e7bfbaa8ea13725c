"""Coupons: redeeming, using, giving back, and their limits when many want them at once."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from dunwell_server.billing.coupons import Coupon, CouponDuration, CouponRedemption
from dunwell_server.billing.model import Client
from dunwell_server.billing.service import closing, coupons, invoices
from dunwell_server.billing.store.coupons import CouponQuery, NewCoupon
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.kernel.errors import DunwellError, Reason
from tests.integration.billing.book import Book, field_of, new_invoice


async def coupon(book: Book, code: str = "SPRING", **fields: Any) -> Coupon:
    """Ten percent off one invoice; `fields` say what differs."""
    new = {"code": code, "name": "Spring", "duration": CouponDuration.ONCE, "percent": Decimal(10), **fields}
    return await book.do(coupons.create_coupon, NewCoupon(**new))


async def redeem(book: Book, client: Client, code: str = "SPRING", **fields: Any) -> CouponRedemption:
    redemption, _ = await book.do(coupons.redeem_coupon, code, client.id, **fields)
    return redemption


async def used(book: Book) -> int:
    (row,) = await book.sql("SELECT sum(periods_used) AS used FROM coupon_redemption")
    return int(row["used"])


async def totals(book: Book, client: Client, count: int, price: str = "100") -> list[int]:
    return [(await book.sent(client, price)).total for _ in range(count)]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, [9_000, 10_000, 10_000]),
        ({"duration": CouponDuration.REPEATING, "duration_periods": 2}, [9_000, 9_000, 10_000]),
        ({"duration": CouponDuration.FOREVER}, [9_000, 9_000, 9_000]),
        ({"percent": None, "amount_minor": 2_500, "currency_code": "USD"}, [7_500, 10_000, 10_000]),
    ],
)
async def test_a_coupon_lasts_as_long_as_it_says(book: Book, fields: dict[str, Any], expected: list[int]) -> None:
    await coupon(book, **fields)
    client = await book.client()
    await redeem(book, client)
    assert await totals(book, client, 3) == expected
    assert await totals(book, await book.client(), 1) == [10_000]


async def test_a_draft_shows_a_coupon_and_does_not_use_it(book: Book) -> None:
    await coupon(book)
    client = await book.client()
    redemption = await redeem(book, client)
    first, second = await book.draft(client, "100"), await book.draft(client, "50")
    assert (first.total, second.total, await used(book)) == (9_000, 4_500, 0)
    assert [one.redemption_id for one in first.discounts] == [redemption.id]
    assert (await book.do(invoices.finalize_invoice, second.id)).total == 4_500
    sent = await book.do(invoices.finalize_invoice, first.id)
    assert (sent.total, sent.discounts, await used(book)) == (10_000, (), 1)
    assert await book.get(sent) == sent


async def test_voiding_gives_the_use_back(book: Book) -> None:
    await coupon(book)
    client = await book.client()
    await redeem(book, client)
    sent = await book.sent(client, "100")
    assert (sent.total, await used(book)) == (9_000, 1)
    await book.do(closing.void_invoice, sent.id)
    assert await used(book) == 0
    assert await totals(book, client, 2) == [9_000, 10_000]


async def test_an_invoice_with_nothing_to_take_it_off_uses_none(book: Book) -> None:
    await coupon(book)
    client = await book.client()
    await redeem(book, client)
    assert await totals(book, client, 1, "0") == [0]
    assert await totals(book, client, 1) == [9_000]


async def test_a_coupon_of_an_engagement(book: Book) -> None:
    await coupon(book, percent=Decimal(50))
    client = await book.client()
    engagement, other = await book.engagement(client), await book.engagement(client)
    await redeem(book, client, engagement_id=engagement.id)
    assert (await book.sent(client, "100", engagement_id=other.id)).total == 10_000
    assert (await book.sent(client, "100", engagement_id=engagement.id)).total == 5_000


async def test_percentages_come_before_amounts_whenever_they_were_redeemed(book: Book) -> None:
    await coupon(book, "AMOUNT", percent=None, amount_minor=1_000, currency_code="USD")
    await coupon(book, "SHARE", percent=Decimal(50))
    client = await book.client()
    await redeem(book, client, "AMOUNT")
    await redeem(book, client, "SHARE")
    assert (await book.sent(client, "100")).total == 4_000


# Refusals


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"valid_from_date": date(2026, 3, 11)}, "NOT_YET_VALID"),
        ({"valid_until_date": date(2026, 3, 10)}, "EXPIRED"),
        ({"percent": None, "amount_minor": 1, "currency_code": "EUR"}, "CURRENCY"),
    ],
)
async def test_what_cannot_be_redeemed_says_why(book: Book, fields: dict[str, Any], cause: str) -> None:
    await coupon(book, **fields)
    error = await book.refused(coupons.redeem_coupon, "SPRING", (await book.client()).id)
    assert (error.reason, error.metadata["cause"]) == (Reason.COUPON_NOT_REDEEMABLE, cause)


async def test_validity_is_in_days_of_the_firm(book: Book) -> None:
    await coupon(book, valid_from_date=date(2026, 3, 10), valid_until_date=date(2026, 3, 11))
    await redeem(book, await book.client())
    await book.set_clock(datetime(2026, 3, 11, tzinfo=UTC))
    error = await book.refused(coupons.redeem_coupon, "SPRING", (await book.client()).id)
    assert error.metadata["cause"] == "EXPIRED"


async def test_limits_in_all_and_per_client(book: Book) -> None:
    await coupon(book, max_redemptions=3, max_redemptions_per_client=2)
    first, second = await book.client(), await book.client()
    await redeem(book, first)
    await redeem(book, first)
    error = await book.refused(coupons.redeem_coupon, "SPRING", first.id)
    assert error.metadata["cause"] == "CLIENT_LIMIT"
    await redeem(book, second)
    error = await book.refused(coupons.redeem_coupon, "SPRING", second.id)
    assert error.metadata["cause"] == "EXHAUSTED"
    (found,) = await book.see(coupons.list_coupons, CouponQuery(code="SPRING"), PageRequest())
    assert found.redemption_count == 3


async def test_codes_are_unique_and_known(book: Book) -> None:
    await coupon(book)
    error = await book.refused(coupons.create_coupon, NewCoupon("SPRING", "x", CouponDuration.ONCE, Decimal(1)))
    assert (error.reason, field_of(error)) == (Reason.ALREADY_EXISTS, "coupon.code")
    error = await book.refused(coupons.redeem_coupon, "spring", (await book.client()).id)
    assert error.reason is Reason.RESOURCE_NOT_FOUND
    client, other = await book.client(), await book.client()
    engagement = await book.engagement(other)
    error = await book.refused(coupons.redeem_coupon, "SPRING", client.id, engagement.id)
    assert (error.reason, field_of(error)) == (Reason.FIELD_INVALID, "engagement_id")


# At once


async def test_many_who_redeem_at_once_do_not_pass_the_limit(book: Book) -> None:
    await coupon(book, max_redemptions=5)
    wanting = [await book.client() for _ in range(16)]
    results = await asyncio.gather(*(redeem(book, client) for client in wanting), return_exceptions=True)
    refused = [one for one in results if isinstance(one, DunwellError)]
    assert len([one for one in results if isinstance(one, CouponRedemption)]) == 5
    assert [one.metadata["cause"] for one in refused] == ["EXHAUSTED"] * 11
    (row,) = await book.sql("SELECT redemption_count, (SELECT count(*) FROM coupon_redemption) AS rows FROM coupon")
    assert row == {"redemption_count": 5, "rows": 5}


async def test_a_client_who_redeems_at_once_gets_one(book: Book) -> None:
    await coupon(book)
    client = await book.client()
    results = await asyncio.gather(*(redeem(book, client) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(one, CouponRedemption) for one in results) == 1
    assert {one.metadata["cause"] for one in results if isinstance(one, DunwellError)} == {"CLIENT_LIMIT"}


async def test_invoices_sent_at_once_use_a_coupon_once(book: Book) -> None:
    await coupon(book, duration=CouponDuration.REPEATING, duration_periods=2)
    client = await book.client()
    await redeem(book, client)
    drafts = [await book.draft(client, "100") for _ in range(4)]
    new = new_invoice(client, "100")
    sent = await asyncio.gather(
        *(book.do(invoices.finalize_invoice, draft.id) for draft in drafts),
        *(book.do(invoices.create_invoice, new, finalize=True) for _ in range(4)),
    )
    assert sorted(invoice.total for invoice in sent) == [9_000] * 2 + [10_000] * 6
    assert await used(book) == 2
