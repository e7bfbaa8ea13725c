"""Discounts and taxes together: the laws of an invoice's prices, without a database."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwell_server.billing.coupons import HeldCoupon
from dunwell_server.billing.discounts import DiscountTerms
from dunwell_server.billing.lines import PricedLines
from dunwell_server.billing.model import InvoiceLine, LineKind, TaxStatus
from dunwell_server.billing.service.pricing import (
    ClientFacts,
    PriceRequest,
    PricingFacts,
    discount,
    priced,
    tax_request,
)
from dunwell_server.billing.taxes import TaxBehavior, TaxPlace, TaxRate, TaxRounding, TaxTable, tax_lines
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.money import INT64_MAX

CLIENT = UUID(int=1)
DAY = date(2026, 3, 10)


def lines(*amounts: int) -> list[InvoiceLine]:
    return [
        InvoiceLine(number, LineKind.ITEM, "work", Decimal(1), Decimal(amount), amount)
        for number, amount in enumerate(amounts, 1)
    ]


def held(percent: str, *, uses_left: int | None = None, currency: str | None = None) -> HeldCoupon:
    return HeldCoupon(CLIENT, uuid4(), "C", Decimal(percent), None, currency, None, uses_left)


def price_lines(known: PricingFacts, wanted: PriceRequest) -> PricedLines:
    """The steps of a run, with the firm's own table."""
    discounted = discount(known, wanted)
    return priced(wanted, discounted, tax_lines(known.table, tax_request(known, wanted, discounted)))


def facts(
    *rates: TaxRate, coupons: tuple[HeldCoupon, ...] = (), rounding: TaxRounding = TaxRounding.LINE
) -> PricingFacts:
    limited = {one.redemption_id: one.uses_left for one in coupons if one.uses_left is not None}
    return PricingFacts(TaxTable(rates, rounding), TaxPlace("DE"), {CLIENT: list(coupons)}, limited)


def request(*amounts: int, discounts: tuple[DiscountTerms, ...] = (), **client: object) -> PriceRequest:
    return PriceRequest(ClientFacts(CLIENT, **client), None, "EUR", DAY, lines(*amounts), discounts)  # type: ignore[arg-type]


rates = st.lists(
    st.builds(
        lambda percentage, behavior: TaxRate(uuid4(), "VAT", percentage, "DE", behavior=behavior),
        st.decimals("0", "60", places=2), st.sampled_from(TaxBehavior),
    ),
    max_size=3,
)  # fmt: skip
discounts = st.lists(
    st.one_of(
        st.builds(DiscountTerms, st.just("share"), percent=st.decimals("0.01", "100", places=2)),
        st.builds(DiscountTerms, st.just("amount"), fixed_minor=st.integers(1, 10**6), line_no=st.none() | st.integers(1, 4)),
    ),
    max_size=4,
)  # fmt: skip


@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=6), rates, discounts, st.sampled_from(TaxRounding),
    st.sampled_from(TaxStatus),
)  # fmt: skip
def test_what_is_owed_is_revenue_and_tax(
    amounts: list[int],
    found: list[TaxRate],
    given_discounts: list[DiscountTerms],
    rounding: TaxRounding,
    status: TaxStatus,
) -> None:
    """The parts that are posted add up to the total, and no part is negative: what the database demands of a sent invoice."""
    wanted = request(*amounts, discounts=tuple(given_discounts), tax_status=status)
    priced = price_lines(facts(*found, rounding=rounding), wanted)
    assert priced.total == sum(line.net_minor for line in priced.lines) + priced.tax_total
    assert priced.subtotal == sum(amounts)
    assert priced.discount_total == sum(one.amount_minor for one in priced.discounts)
    assert priced.discount_total == sum(line.discount_minor for line in priced.lines)
    for line in priced.lines:
        assert min(line.net_minor, line.discount_minor, line.tax_minor, line.tax_included_minor) >= 0
        assert line.tax_minor == sum(tax.tax_minor for tax in line.taxes)
        assert line.tax_included_minor == sum(tax.tax_minor for tax in line.taxes if tax.inclusive)
        assert all(tax.taxable_minor == line.net_minor for tax in line.taxes)
    if status is not TaxStatus.TAXABLE:
        assert priced.tax_total == 0


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=6), rates, discounts)
def test_pricing_what_was_priced_changes_nothing(
    amounts: list[int], found: list[TaxRate], given_discounts: list[DiscountTerms]
) -> None:
    known, wanted = facts(*found), request(*amounts, discounts=tuple(given_discounts))
    once = price_lines(known, wanted)
    again = PriceRequest(wanted.client, None, "EUR", DAY, once.lines, wanted.discounts)
    assert price_lines(known, again) == once
    bare = PriceRequest(wanted.client, None, "EUR", DAY, once.lines)
    assert price_lines(facts(), bare).lines == tuple(wanted.lines)


def test_the_uses_of_coupons_run_out_over_a_set() -> None:
    twice, always = held("50", uses_left=2), held("10")
    known = facts(coupons=(twice, always))
    assert [price_lines(known, request(10_000)).total for _ in range(3)] == [4_500, 4_500, 9_000]
    assert known.uses_left == {twice.redemption_id: 0}
    assert price_lines(known, request(0)).discounts == ()


def test_a_coupon_in_another_currency_waits() -> None:
    other = held("50", uses_left=1, currency="USD")
    known = facts(coupons=(other,))
    assert price_lines(known, request(10_000)).total == 10_000
    assert known.uses_left == {other.redemption_id: 1}


def test_a_clients_country_comes_before_the_firms() -> None:
    known = facts(TaxRate(uuid4(), "VAT", Decimal(19), "DE"))
    assert price_lines(known, request(10_000)).total == 11_900
    assert price_lines(known, request(10_000, country_code="FR")).total == 10_000


@pytest.mark.parametrize("amounts", [(INT64_MAX, 1), (INT64_MAX,)])
def test_what_does_not_fit_is_refused(amounts: tuple[int, ...]) -> None:
    with pytest.raises(DunwellError) as caught:
        price_lines(facts(TaxRate(uuid4(), "VAT", Decimal(19), "DE")), request(*amounts))
    assert caught.value.reason is Reason.AMOUNT_OUT_OF_RANGE
