"""What the database refuses of discounts, taxes, rates and coupons, attacked with plain SQL as the application's role."""

from __future__ import annotations

from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.errors import (
    CheckViolation,
    ExclusionViolation,
    ForeignKeyViolation,
    InsufficientPrivilege,
    UniqueViolation,
)

from dunwell_server.billing.coupons import CouponDuration
from dunwell_server.billing.discounts import DiscountInput
from dunwell_server.billing.model import Client, Invoice
from dunwell_server.billing.service import coupons, tax_rates
from dunwell_server.billing.store.coupons import NewCoupon
from dunwell_server.billing.store.tax_rates import NewTaxRate
from dunwell_server.kernel.errors import Reason
from dunwell_server.platform.database import UnitOfWork
from tests.integration.billing.book import Book

ADD_TAX = (
    "INSERT INTO invoice_line_tax (firm_id, invoice_id, line_no, tax_no, name, percentage, taxable_minor, tax_minor)"
    " VALUES (%s, %s, %s, %s, 'x', 1, 100, %s)"
)
ADD_DISCOUNT = (
    "INSERT INTO invoice_discount (firm_id, invoice_id, discount_no, name, kind, percent, amount_minor)"
    " VALUES (%s, %s, %s, 'x', 'PERCENT', 10, %s)"
)
SEND = (
    "INSERT INTO invoice (firm_id, id, client_id, origin, currency_code, series, series_no, number, issue_date, due_date, line_count,"
    " subtotal, discount_total, discount_count, tax_total, tax_included_total, total, finalize_time)"
    " VALUES (%(firm)s, %(id)s, %(client)s, 'MANUAL', 'USD', 'X', 1, 'X-1', now(), now(), 1, 1000, %(discount)s, %(discounts)s, %(tax)s,"
    " %(included)s, %(total)s, now())"
)
LINE = (
    "INSERT INTO invoice_line (firm_id, invoice_id, line_no, kind, description, quantity, unit_price, amount_minor, discount_minor,"
    " tax_minor, tax_included_minor, tax_count) VALUES (%(firm)s, %(id)s, 1, 'ITEM', 'x', 1, 10, 1000, %(discount)s, %(tax)s, %(included)s, %(taxes)s)"
)


async def refuses(book: Book, kind: type[psycopg.Error], constraint: str | None, statement: str, *params: Any) -> None:
    """The statement fails with that error, on that constraint."""
    with pytest.raises(kind) as caught:
        await book.sql(statement, *params)
    if constraint is not None:
        assert caught.value.diag.constraint_name == constraint, caught.value


async def priced(book: Book, *, sent: bool) -> Invoice:
    """10.00 less 10 %, with 1.71 of tax."""
    await book.do(tax_rates.create_tax_rate, NewTaxRate("VAT", Decimal(19), "DE"))
    client = await book.client(address={"country_code": "DE"})
    make = book.sent if sent else book.draft
    return await make(client, "10", discounts=[DiscountInput("x", Decimal(10))])


# What was sent stays


@pytest.mark.parametrize("statement", [
    "UPDATE invoice_line_tax SET name = 'other'", "DELETE FROM invoice_line_tax", "UPDATE invoice_discount SET amount_minor = 0",
    "DELETE FROM invoice_discount",
])  # fmt: skip
async def test_what_is_on_a_sent_invoice_is_fixed(book: Book, statement: str) -> None:
    await priced(book, sent=True)
    await refuses(book, CheckViolation, "invoice_line_fixed", statement)


async def test_nothing_is_added_to_a_sent_invoice(book: Book) -> None:
    sent, firm = await priced(book, sent=True), book.context.firm_id
    await refuses(book, CheckViolation, "invoice_line_tax_sum", ADD_TAX, firm, sent.id, 1, 2, 0)
    await refuses(book, UniqueViolation, None, ADD_TAX, firm, sent.id, 1, 1, 171)
    await refuses(book, CheckViolation, "invoice_discount_sum", ADD_DISCOUNT, firm, sent.id, 2, 0)
    await refuses(book, UniqueViolation, None, ADD_DISCOUNT, firm, sent.id, 1, 100)
    await refuses(book, ForeignKeyViolation, None, ADD_TAX, firm, sent.id, 2, 1, 0)
    bare = await book.sent(await book.client(), "10")
    await refuses(book, CheckViolation, "invoice_line_tax_sum", ADD_TAX, firm, bare.id, 1, 1, 0)
    await refuses(book, CheckViolation, "invoice_discount_sum", ADD_DISCOUNT, firm, bare.id, 1, 0)


@pytest.mark.parametrize("change", [
    "tax_included_total = 1, total = total - 1", "discount_count = 2", "discount_total = 101, total = total - 1",
    "tax_total = 172, total = total + 1",
])  # fmt: skip
async def test_the_totals_of_a_sent_invoice_are_fixed(book: Book, change: str) -> None:
    await priced(book, sent=True)
    await refuses(book, CheckViolation, "invoice_fixed", f"UPDATE invoice SET {change}")


# What is sent adds up


async def test_a_draft_whose_parts_do_not_add_up_is_not_sent(book: Book) -> None:
    draft = await priced(book, sent=False)
    send = (
        "UPDATE invoice SET finalize_time = now(), series = 'X', series_no = 1, number = 'X-1', issue_date = now(),"
        " due_date = now() WHERE id = %s"
    )
    cases = [
        ("DELETE FROM invoice_line_tax", "invoice_line_tax_sum"),
        ("UPDATE invoice_line_tax SET tax_minor = 170", "invoice_line_tax_sum"),
        ("UPDATE invoice_line_tax SET inclusive = true", "invoice_line_tax_sum"),
        ("DELETE FROM invoice_discount", "invoice_discount_sum"),
        ("UPDATE invoice_discount SET amount_minor = 99", "invoice_discount_sum"),
        ("UPDATE invoice_line SET discount_minor = 99", "invoice_line_sum"),
        ("UPDATE invoice SET tax_total = 172, total = 1072", "invoice_line_sum"),
        ("UPDATE invoice SET discount_total = 99, total = 1072", "invoice_line_sum"),
    ]
    for damage, constraint in cases:
        await _refuses_all(book, constraint, (damage, ()), (send, (draft.id,)))
    await book.sql(send, draft.id)


async def _refuses_all(book: Book, constraint: str, *statements: tuple[str, Any]) -> None:
    """The statements, in one transaction, fail on that constraint at the latest when it is committed."""

    async def work(uow: UnitOfWork) -> None:
        for statement, params in statements:
            await uow.conn.execute(statement, params)

    with pytest.raises((CheckViolation, ForeignKeyViolation)) as caught:
        await book.do(work)
    assert caught.value.diag.constraint_name == constraint, caught.value


@pytest.mark.parametrize(
    ("values", "constraint"),
    [
        ({"tax": 190, "total": 1190, "taxes": 1}, "invoice_line_tax_missing"),
        ({"discount": 100, "discounts": 1, "total": 900}, "invoice_discount_missing"),
        ({"discount": 100, "total": 900}, "invoice_discounts_check"),
        ({"tax": 190, "total": 1190}, "invoice_line_tax_count_check"),
        ({"tax": 160, "included": 161, "total": 999, "taxes": 1}, "invoice_tax_included_check"),
        ({"discount": 1001, "discounts": 1, "tax": 1, "taxes": 1, "total": 0}, "invoice_tax_included_check"),
        ({"tax": 160, "included": 160, "total": 1160, "taxes": 1}, "invoice_total_check"),
    ],
)
async def test_a_sent_invoice_has_what_it_says(book: Book, values: dict[str, int], constraint: str) -> None:
    client = await book.client()
    params = {
        "firm": book.context.firm_id, "id": UUID(int=7), "client": client.id, "discount": 0, "discounts": 0, "tax": 0, "included": 0,
        "taxes": 0, **values,
    }  # fmt: skip
    await _refuses_all(book, constraint, (SEND, params), (LINE, params))


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("discount_minor = 1001", "invoice_line_tax_check"),
        ("discount_minor = -1", "invoice_line_within_check"),
        ("tax_included_minor = 172", "invoice_line_tax_check"),
        ("tax_included_minor = -1", "invoice_line_tax_check"),
        ("tax_minor = 5000, tax_included_minor = 901", "invoice_line_tax_check"),
        ("tax_count = 0", "invoice_line_tax_count_check"),
    ],
)
async def test_lines_are_sound(book: Book, change: str, constraint: str) -> None:
    await priced(book, sent=False)
    await refuses(book, CheckViolation, constraint, f"UPDATE invoice_line SET {change}")


# Rates


async def test_a_rate_does_not_change(book: Book) -> None:
    made = await book.do(tax_rates.create_tax_rate, NewTaxRate("VAT", Decimal(19), "DE"))
    for change in ("percentage = 20", "country_code = 'FR'", "region = 'x'", "tax_category = 'x'", "behavior = 'INCLUSIVE'",
                   "valid_from_date = now()", "excluded_regions = '{a}'"):  # fmt: skip
        await refuses(book, CheckViolation, "tax_rate_fixed", f"UPDATE tax_rate SET {change}")
    await refuses(book, InsufficientPrivilege, None, "DELETE FROM tax_rate")
    await book.sql(
        "UPDATE tax_rate SET name = 'x', valid_until_date = '2030-01-01', state = 'ARCHIVED' WHERE id = %s",
        made.rate.id,
    )


async def test_a_tax_is_in_the_table_once(book: Book) -> None:
    new = NewTaxRate("VAT", Decimal(19), "DE")
    made = await book.do(tax_rates.create_tax_rate, new)
    error = await book.refused(tax_rates.create_tax_rate, NewTaxRate("VAT", Decimal(20), "DE"))
    assert error.reason is Reason.ALREADY_EXISTS
    insert = (
        "INSERT INTO tax_rate (firm_id, id, name, percentage, country_code) SELECT firm_id, gen_random_uuid(), name, 7, country_code"
        " FROM tax_rate"
    )
    await refuses(book, ExclusionViolation, "tax_rate_overlap_excl", insert)
    await book.do(tax_rates.create_tax_rate, NewTaxRate("VAT", Decimal(20), "DE", region="Berlin"))
    await book.do(tax_rates.update_tax_rate, made.rate.id, {"state": "ARCHIVED"})
    await book.do(tax_rates.create_tax_rate, new)
    error = await book.refused(tax_rates.update_tax_rate, made.rate.id, {"state": "ACTIVE"})
    assert error.reason is Reason.ALREADY_EXISTS


@pytest.mark.parametrize(
    ("values", "constraint"),
    [
        ("'x', 100.1, 'DE', '', '{}', NULL, NULL", "tax_rate_percentage_check"),
        ("'x', -1, 'DE', '', '{}', NULL, NULL", "tax_rate_percentage_check"),
        ("'x', 1, 'De', '', '{}', NULL, NULL", "tax_rate_country_code_check"),
        ("'x', 1, 'DE', 'a', '{b}', NULL, NULL", "tax_rate_regions_check"),
        ("'x', 1, 'DE', '', '{}', '2026-01-02', '2026-01-02'", "tax_rate_validity_check"),
    ],
)
async def test_rates_are_sound(book: Book, values: str, constraint: str) -> None:
    insert = (
        "INSERT INTO tax_rate (firm_id, id, name, percentage, country_code, region, excluded_regions, valid_from_date,"
        f" valid_until_date) VALUES (%s, gen_random_uuid(), {values})"
    )
    await refuses(book, CheckViolation, constraint, insert, book.context.firm_id)


# Coupons


async def _redeemed(book: Book, **fields: Any) -> Client:
    client = await book.client()
    new = NewCoupon(**{"code": "A", "name": "A", "duration": CouponDuration.ONCE, "percent": Decimal(10), **fields})
    await book.do(coupons.create_coupon, new)
    await book.do(coupons.redeem_coupon, "A", client.id)
    return client


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("UPDATE coupon_redemption SET periods_used = 2", "coupon_redemption_periods_used_check"),
        ("UPDATE coupon_redemption SET periods_used = -1", "coupon_redemption_periods_used_check"),
        ("UPDATE coupon_redemption SET periods_allowed = 5", "coupon_redemption_fixed"),
        ("UPDATE coupon SET percent = 20", "coupon_fixed"),
        ("UPDATE coupon SET redemption_count = 0", "coupon_fixed"),
        ("UPDATE coupon SET max_redemptions = 1, redemption_count = 2", "coupon_redemption_count_check"),
    ],
)
async def test_coupons_and_redemptions_are_sound(book: Book, statement: str, constraint: str) -> None:
    await _redeemed(book)
    await refuses(book, CheckViolation, constraint, statement)


async def test_a_redemption_counts_however_it_is_written(book: Book) -> None:
    client = await _redeemed(book, max_redemptions=2, max_redemptions_per_client=5)
    again = (
        "INSERT INTO coupon_redemption (firm_id, id, coupon_id, client_id, periods_allowed, periods_used, redeem_time)"
        " SELECT firm_id, gen_random_uuid(), id, %s, {}, {}, now() FROM coupon"
    )
    await refuses(book, CheckViolation, "coupon_redemption_duration", again.format(2, 0), client.id)
    await refuses(book, CheckViolation, "coupon_redemption_duration", again.format("NULL", 0), client.id)
    await refuses(book, CheckViolation, "coupon_redemption_duration", again.format(1, 1), client.id)
    await book.sql(again.format(1, 0), client.id)
    await refuses(book, CheckViolation, "coupon_redemption_count_check", again.format(1, 0), client.id)
    await refuses(book, InsufficientPrivilege, None, "DELETE FROM coupon_redemption")


@pytest.mark.parametrize(
    ("values", "constraint"),
    [
        ("'PERCENT', NULL, 5, 'USD', 'ONCE', NULL", "coupon_value_check"),
        ("'FIXED', 5, 5, 'USD', 'ONCE', NULL", "coupon_value_check"),
        ("'PERCENT', 0, NULL, NULL, 'ONCE', NULL", "coupon_percent_check"),
        ("'PERCENT', 101, NULL, NULL, 'ONCE', NULL", "coupon_percent_check"),
        ("'FIXED', NULL, 0, 'USD', 'ONCE', NULL", "coupon_amount_check"),
        ("'PERCENT', 5, NULL, NULL, 'ONCE', 2", "coupon_duration_periods_check"),
        ("'PERCENT', 5, NULL, NULL, 'REPEATING', NULL", "coupon_duration_periods_check"),
    ],
)
async def test_coupons_say_one_thing(book: Book, values: str, constraint: str) -> None:
    insert = (
        "INSERT INTO coupon (firm_id, id, code, name, kind, percent, amount_minor, currency_code, duration, duration_periods)"
        f" VALUES (%s, gen_random_uuid(), 'x', 'x', {values})"
    )
    await refuses(book, CheckViolation, constraint, insert, book.context.firm_id)
