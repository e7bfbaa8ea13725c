"""Discounts and taxes of invoices on PostgreSQL: worked examples to the ledger, pricing again, previews, sets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from dunwell_server.billing.coupons import CouponDuration
from dunwell_server.billing.discounts import DiscountInput
from dunwell_server.billing.lines import LineInput
from dunwell_server.billing.model import Client, Invoice, LineTax, TaxStatus
from dunwell_server.billing.ports import TaxCalculator
from dunwell_server.billing.service import clients, closing, coupons, invoices, preview, pricing, tax_rates
from dunwell_server.billing.service.preview import NO_ID
from dunwell_server.billing.service.tax_rates import TableTaxCalculator
from dunwell_server.billing.store.coupons import NewCoupon
from dunwell_server.billing.store.tax_rates import NewTaxRate, StoredTaxRate
from dunwell_server.billing.taxes import LineTaxes, TaxBehavior, TaxRequest, TaxTable
from dunwell_server.kernel.errors import Reason
from dunwell_server.kernel.money import Money
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.firms import TaxSettings
from tests import support
from tests.integration.billing.book import Book, field_of, new_invoice
from tests.integration.billing.conftest import MakeBook

INDIA = {"lines": ["1 MG Road"], "city": "Bengaluru", "region": "Karnataka", "country_code": "IN"}


async def rate(book: Book, percentage: str, country: str = "DE", **fields: Any) -> StoredTaxRate:
    new = NewTaxRate(**{"name": "VAT", "percentage": Decimal(percentage), "country_code": country, **fields})
    return await book.do(tax_rates.create_tax_rate, new)


async def german(book: Book, **fields: Any) -> Client:
    return await book.client(**{"currency_code": "EUR", "address": {"country_code": "DE"}, **fields})


def totals(invoice: Invoice) -> tuple[int, int, int, int, int]:
    """Subtotal, discounts, tax, the tax inside, and the total."""
    return (
        invoice.subtotal, invoice.discount_total, invoice.tax_total, invoice.tax_included_total, invoice.total,
    )  # fmt: skip


# Worked examples, to the ledger


async def test_indian_gst_on_two_lines(book: Book) -> None:
    """1,234.55 and 100.00 rupees: CGST 111.11 + 9.00, SGST the same; 1,574.77 owed, 240.22 of it tax."""
    for name in ("CGST", "SGST"):
        await rate(book, "9", "IN", name=name, region="Karnataka")
    await rate(book, "18", "IN", name="IGST", excluded_regions=("Karnataka",))
    client = await book.client(currency_code="INR", address=INDIA)
    sent = await book.sent(client, "1234.55", "100")
    assert totals(sent) == (133_455, 0, 24_022, 0, 157_477)
    assert [[tax.tax_minor for tax in line.taxes] for line in sent.lines] == [[11_111, 11_111], [900, 900]]
    assert await book.get(sent) == sent
    assert await book.trial() == {"receivable": 157_477, "revenue": -133_455, "tax_payable": -24_022}
    kerala = await book.client(currency_code="INR", address={**INDIA, "region": "Kerala"})
    assert [tax.name for tax in (await book.sent(kerala, "10")).lines[0].taxes] == ["IGST"]


async def test_an_eu_business_owes_its_vat_itself(book: Book) -> None:
    await rate(book, "19")
    french = await german(
        book, tax_id="FR40303265045", address={"country_code": "FR"}, tax_status=TaxStatus.REVERSE_CHARGE
    )  # fmt: skip
    sent = await book.sent(french, "99.99")
    assert totals(sent) == (9_999, 0, 0, 0, 9_999)
    assert [(tax.name, tax.reverse_charge, tax.taxable_minor) for tax in sent.lines[0].taxes] == [
        ("Reverse charge", True, 9_999)
    ]
    assert await book.get(sent) == sent
    assert totals(await book.sent(await german(book), "99.99")) == (9_999, 0, 1_900, 0, 11_899)
    assert totals(await book.sent(await german(book, tax_status=TaxStatus.EXEMPT), "99.99")) == (9_999, 0, 0, 0, 9_999)


async def test_a_japanese_price_contains_its_tax(make_book: MakeBook) -> None:
    """1,000 yen less 10 % is 900, which contain 81.8 (82): revenue 818."""
    book = await make_book(currency_code="JPY", tax=TaxSettings("RATE", "INCLUSIVE"))
    await rate(book, "10", "JP", name="消費税")
    client = await book.client(address={"country_code": "JP"})
    sent = await book.sent(client, "1000", discounts=[DiscountInput("Autumn", Decimal(10))])
    assert totals(sent) == (1_000, 100, 82, 82, 900)
    assert (sent.lines[0].net_minor, sent.lines[0].discount_minor) == (818, 100)
    assert await book.get(sent) == sent
    assert await book.trial() == {"receivable": 900, "revenue": -818, "tax_payable": -82}


async def test_dinars_have_three_decimals(book: Book) -> None:
    await rate(book, "5", "KW")
    client = await book.client(currency_code="KWD", address={"country_code": "KW"})
    assert totals(await book.sent(client, "12.345")) == (12_345, 0, 617, 0, 12_962)


async def test_a_client_without_a_country_is_where_the_firm_is(make_book: MakeBook) -> None:
    book = await make_book(document={"address": {"country_code": "DE"}})
    await rate(book, "19")
    assert totals(await book.sent(await book.client(), "100")) == (10_000, 0, 1_900, 0, 11_900)


async def test_line_and_invoice_discounts_before_tax(book: Book) -> None:
    """100.00 less 10 % on its own, and 50.00: 140.00 less 5.00 is 135.00; 5.00 over 90 and 50 is 3.21 and 1.79. 19 % by line."""
    await rate(book, "19")
    lines = [LineInput("a", Decimal(100), discounts=[DiscountInput("Own", Decimal(10))]), LineInput("b", Decimal(50))]
    sent = await book.sent(await german(book), lines=lines, discounts=[DiscountInput("All", fixed=Money("EUR", 500))])
    assert [line.discount_minor for line in sent.lines] == [1_321, 179]
    assert [line.tax_minor for line in sent.lines] == [1_649, 916]  # 86.79: 16.4901; 48.21: 9.1599
    assert totals(sent) == (15_000, 1_500, 2_565, 0, 16_065)
    assert [(one.line_no, one.name, one.amount_minor) for one in sent.discounts] == [
        (1, "Own", 1_000),
        (None, "All", 500),
    ]
    assert await book.get(sent) == sent


async def test_everything_off_is_paid_at_once(book: Book) -> None:
    await rate(book, "19")
    sent = await book.sent(await german(book), "100", discounts=[DiscountInput("Gift", Decimal(100))])
    assert (totals(sent), sent.state) == ((10_000, 10_000, 0, 0, 0), "PAID")
    assert await book.trial() == {}


async def test_amounts_out_of_range_are_refused(book: Book) -> None:
    await rate(book, "100")
    error = await book.refused(
        invoices.create_invoice, new_invoice(await german(book), "50000000000000000"), finalize=True
    )  # fmt: skip
    assert error.reason is Reason.AMOUNT_OUT_OF_RANGE


async def test_a_discount_in_another_currency_is_refused(book: Book) -> None:
    new = new_invoice(await german(book), "10", discounts=[DiscountInput("x", fixed=Money("USD", 1))])
    error = await book.refused(invoices.create_invoice, new, finalize=False)
    assert (error.reason, field_of(error)) == (Reason.CURRENCY_MISMATCH, "invoice.discounts[0].amount.currency_code")


# Drafts are priced again


async def test_the_day_of_issue_decides(book: Book) -> None:
    await rate(book, "19", valid_until_date=date(2026, 4, 1))
    await rate(book, "16", valid_from_date=date(2026, 4, 1))
    draft = await book.draft(await german(book), "100", discounts=[DiscountInput("Half", Decimal(50))])
    assert totals(draft) == (10_000, 5_000, 950, 0, 5_950)
    assert await book.get(draft) == draft
    await book.set_clock(datetime(2026, 4, 1, 8, tzinfo=UTC))
    shown = await book.see(preview.preview_draft, draft.id)
    sent = await book.do(invoices.finalize_invoice, draft.id)
    assert totals(sent) == totals(shown) == (10_000, 5_000, 800, 0, 5_800)
    assert (shown.id, shown.lines, shown.discounts) == (NO_ID, sent.lines, sent.discounts)
    assert await book.get(sent) == sent


async def test_a_draft_takes_up_and_loses_taxes(book: Book) -> None:
    client = await german(book)
    draft = await book.draft(client, "100")
    assert totals(draft) == (10_000, 0, 0, 0, 10_000)
    made = await rate(book, "19")
    updated = await book.do(invoices.update_invoice, draft.id, {"discounts": [DiscountInput("x", Decimal(10))]})
    assert totals(updated) == (10_000, 1_000, 1_710, 0, 10_710)
    await book.do(tax_rates.update_tax_rate, made.rate.id, {"state": "ARCHIVED"})
    sent = await book.do(invoices.finalize_invoice, draft.id)
    assert totals(sent) == (10_000, 1_000, 0, 0, 9_000)
    assert await book.get(sent) == sent


async def test_changing_lines_keeps_the_discounts_of_the_whole(book: Book) -> None:
    own = [LineInput("a", Decimal(100), discounts=[DiscountInput("Own", Decimal(10))])]
    draft = await book.draft(await german(book), lines=own, discounts=[DiscountInput("All", Decimal(50))])
    assert totals(draft) == (10_000, 5_500, 0, 0, 4_500)
    other = await book.do(invoices.update_invoice, draft.id, {"lines": [LineInput("b", Decimal(10))]})
    assert [(one.name, one.line_no, one.amount_minor) for one in other.discounts] == [("All", None, 500)]
    again = await book.do(invoices.update_invoice, draft.id, {"lines": own})
    bare = await book.do(invoices.update_invoice, draft.id, {"discounts": []})
    assert (totals(again), totals(bare)) == (totals(draft), (10_000, 1_000, 0, 0, 9_000))
    await book.do(invoices.delete_invoice, draft.id)
    assert await book.sql("SELECT 1 FROM invoice_discount") == []


async def test_a_preview_is_what_would_be_written(book: Book) -> None:
    await rate(book, "19")
    client = await german(book)
    await _coupon(book, client, percent=Decimal(25))
    new = new_invoice(client, "33.33", "66.67", discounts=[DiscountInput("All", fixed=Money("EUR", 7))])
    shown = await book.see(preview.preview_new, new)
    again = await book.see(preview.preview_new, new)
    sent = await book.do(invoices.create_invoice, new, finalize=True)
    assert (shown.lines, shown.discounts, totals(shown)) == (sent.lines, sent.discounts, totals(sent))
    assert (again.lines, sent.discount_count) == (shown.lines, 2)


async def test_what_is_in_advance_is_deferred_net(book: Book) -> None:
    """A package of 1,000.00 that contains 19 %: 840.34 deferred, 159.66 tax."""
    await rate(book, "19", behavior=TaxBehavior.INCLUSIVE)
    client = await german(book)
    engagement = await book.engagement(client, line_description="Books")
    sent = await book.billed(engagement, date(2026, 3, 1), date(2026, 4, 1))
    assert (sent.lines[0].net_minor, sent.tax_total, sent.total) == (84_034, 15_966, 100_000)
    assert await book.trial() == {"receivable": 100_000, "deferred_revenue": -84_034, "tax_payable": -15_966}
    shown = await book.see(preview.preview_engagement, engagement.id, date(2026, 4, 1))
    assert shown is not None
    assert [line.tax_included_minor for line in shown.lines] == [15_966]
    await book.do(closing.void_invoice, sent.id)
    assert await book.trial() == {}


# Sets


async def _coupon(book: Book, client: Client, **fields: Any) -> None:
    code = uuid4().hex
    await book.do(
        coupons.create_coupon, NewCoupon(**{"code": code, "name": "C", "duration": CouponDuration.ONCE, **fields})
    )
    await book.do(coupons.redeem_coupon, code, client.id)


async def test_a_set_is_priced_in_one_statement_and_a_coupon_is_used_once(book: Book) -> None:
    await rate(book, "19")
    client, other = await german(book), await german(book)
    await _coupon(book, client, percent=Decimal(50))
    drafts = [(one, await book.draft(one, "100")) for one in (client, client, other)]

    async def work(uow: UnitOfWork) -> list[int]:
        requests = [pricing.request_for(draft, one, date(2026, 3, 10)) for one, draft in drafts]
        with support.statements() as sent:
            found = await pricing.price(uow, requests)
        assert len(sent) == 1
        facts = await pricing.load(uow, [client.id, other.id])
        assert await pricing.price(uow, requests, facts) == found
        assert set(facts.uses_left.values()) == {0}
        return [one.total for one in found]

    assert await book.see(work) == [5_950, 11_900, 11_900]


class _Engine:
    """An engine outside of the house: one dollar on every line."""

    async def calculate(
        self, uow: UnitOfWork, table: TaxTable, requests: Sequence[TaxRequest]
    ) -> Sequence[Sequence[LineTaxes]]:
        tax = LineTax(1, None, "City", Decimal(1), False, False, 100, 100)
        return [[(tax,) for _ in request.lines] for request in requests]


@pytest.fixture
async def engine(db: Database) -> AsyncIterator[None]:
    db.bus.provide(TaxCalculator, _Engine())  # type: ignore[type-abstract]
    yield
    db.bus.provide(TaxCalculator, TableTaxCalculator())  # type: ignore[type-abstract]


async def test_another_calculator_can_be_plugged_in(book: Book, engine: None) -> None:
    sent = await book.sent(await book.client(), "10", "20")
    assert (totals(sent), await book.get(sent)) == ((3_000, 0, 200, 0, 3_200), sent)


# Clients


@pytest.mark.parametrize("fields", [
    {}, {"tax_id": "DE136695978"}, {"tax_id": "FR40303265045"}, {"tax_id": "x", "address": {"country_code": "IN"}},
])  # fmt: skip
async def test_the_reverse_charge_needs_a_tax_id(book: Book, fields: dict[str, Any]) -> None:
    new = clients.NewClient(
        **{"name": "x", "address": {"country_code": "DE"}, **fields, "tax_status": TaxStatus.REVERSE_CHARGE}
    )
    error = await book.refused(clients.create_client, new)
    assert (error.reason, field_of(error)) == (Reason.FIELD_INVALID, "client.tax_id")


async def test_a_client_cannot_lose_what_its_status_needs(book: Book) -> None:
    client = await german(book, tax_id="DE136695976", tax_status=TaxStatus.REVERSE_CHARGE)
    for changes in ({"tax_id": None}, {"address": {"country_code": "FR"}}):
        error = await book.refused(clients.update_client, client.id, changes)
        assert field_of(error) == "client.tax_id"
    changed = await book.do(clients.update_client, client.id, {"tax_status": TaxStatus.TAXABLE, "tax_id": None})
    assert changed.tax_status is TaxStatus.TAXABLE
    error = await book.refused(clients.update_client, client.id, {"tax_status": TaxStatus.REVERSE_CHARGE})
    assert field_of(error) == "client.tax_id"
