"""The laws of taxes, and worked examples: Indian GST, EU VAT, United States sales taxes, Japanese and Kuwaiti money."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwell_server.billing.model import LineTax, TaxStatus
from dunwell_server.billing.taxes import (
    LineTaxes,
    TaxableLine,
    TaxBehavior,
    TaxPlace,
    TaxRate,
    TaxRequest,
    TaxRounding,
    TaxTable,
    tax_lines,
    totals_by_rate,
)

DAY = date(2026, 3, 10)
GERMANY = TaxPlace("DE")


def rate(percentage: str, name: str = "VAT", country: str = "DE", **fields: Any) -> TaxRate:
    return TaxRate(uuid4(), name, Decimal(percentage), country, **fields)


def inclusive(percentage: str, name: str = "VAT", **fields: Any) -> TaxRate:
    return rate(percentage, name, behavior=TaxBehavior.INCLUSIVE, **fields)


def request(
    *prices: int, place: TaxPlace = GERMANY, status: TaxStatus = TaxStatus.TAXABLE, day: date = DAY
) -> TaxRequest:
    lines = [TaxableLine(number, price) for number, price in enumerate(prices, 1)]
    return TaxRequest(UUID(int=1), "EUR", day, place, status, lines)


def amounts(taxed: Sequence[LineTaxes]) -> list[list[int]]:
    return [[tax.tax_minor for tax in taxes] for taxes in taxed]


def half_up(value: Fraction) -> int:
    """Rounding written differently from the house's: the floor of half a unit more."""
    return (value + Fraction(1, 2)).__floor__()


percentages = st.decimals("0", "100", places=3)
rates = st.lists(
    st.builds(lambda value, behavior: rate(str(value), behavior=behavior), percentages, st.none() | st.sampled_from(TaxBehavior)),
    min_size=1, max_size=4,
)  # fmt: skip
tables = st.builds(
    lambda found, rounding, behavior: TaxTable(tuple(found), rounding, behavior), rates, st.sampled_from(TaxRounding),
    st.sampled_from(TaxBehavior),
)  # fmt: skip
prices = st.lists(st.integers(0, 10**9), min_size=1, max_size=9)


@given(tables, prices)
def test_net_and_what_the_price_contains_are_the_price(table: TaxTable, prices: list[int]) -> None:
    for taxes, price in zip(tax_lines(table, request(*prices)), prices, strict=True):
        contained = sum(tax.tax_minor for tax in taxes if tax.inclusive)
        assert {tax.taxable_minor for tax in taxes} == {price - contained}
        assert 0 <= contained <= price
        assert [tax.tax_no for tax in taxes] == list(range(1, len(table.rates) + 1))
        assert all(tax.tax_minor >= 0 for tax in taxes)


@given(rates, prices, st.sampled_from(TaxBehavior))
def test_by_line_each_tax_is_its_share_rounded(found: list[TaxRate], prices: list[int], behavior: TaxBehavior) -> None:
    table = TaxTable(tuple(found), TaxRounding.LINE, behavior)
    inside = sum((Fraction(one.percentage) for one in found if table.is_inclusive(one)), Fraction(0))
    for taxes, price in zip(tax_lines(table, request(*prices)), prices, strict=True):
        contained = half_up(price * inside / (100 + inside))
        assert sum(tax.tax_minor for tax in taxes if tax.inclusive) == contained
        for tax in taxes:
            if tax.inclusive:
                exact = Fraction(contained) * Fraction(tax.percentage) / inside if inside else Fraction(0)
                assert abs(tax.tax_minor - exact) < 1
            else:
                assert tax.tax_minor == half_up((price - contained) * Fraction(tax.percentage) / 100)


@given(rates, prices, st.sampled_from(TaxBehavior))
def test_by_rate_each_total_is_the_total_rounded(
    found: list[TaxRate], prices: list[int], behavior: TaxBehavior
) -> None:
    table = TaxTable(tuple(found), TaxRounding.RATE, behavior)
    taxed = tax_lines(table, request(*prices))
    inside = sum((Fraction(one.percentage) for one in found if table.is_inclusive(one)), Fraction(0))
    contained = half_up(sum(prices) * inside / (100 + inside))
    totals = totals_by_rate(taxed)
    assert sum(tax.tax_minor for tax in totals if tax.inclusive) == contained
    for total in totals:
        assert total.taxable_minor == sum(prices) - contained
        if total.inclusive:
            exact = Fraction(contained) * Fraction(total.percentage) / inside if inside else Fraction(0)
            assert abs(total.tax_minor - exact) < 1
        else:
            assert total.tax_minor == half_up(total.taxable_minor * Fraction(total.percentage) / 100)


@given(tables, prices)
def test_totals_by_rate_are_the_sums_of_the_lines(table: TaxTable, prices: list[int]) -> None:
    taxed = tax_lines(table, request(*prices))
    totals = totals_by_rate(taxed)
    assert [total.tax_rate_id for total in totals] == [one.id for one in table.rates]
    for total in totals:
        of_rate = [tax for taxes in taxed for tax in taxes if tax.tax_rate_id == total.tax_rate_id]
        assert total.tax_minor == sum(tax.tax_minor for tax in of_rate)
        assert total.taxable_minor == sum(tax.taxable_minor for tax in of_rate)


def test_many_rates_inside_small_prices_never_exceed_them() -> None:
    """Three lines of one cent with three rates of 50 %: 1.8 cents of tax are two, on two lines, never two on one."""
    table = TaxTable(tuple(inclusive("50", name) for name in "abc"), TaxRounding.RATE)
    assert amounts(tax_lines(table, request(1, 1, 1))) == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


# Worked by hand


def test_india_within_the_state() -> None:
    """1,234.55 rupees of services in Karnataka: 9 % CGST is 111.1095, so 111.11, and SGST the same; 1,456.77 in all."""
    table = TaxTable((
        rate("9", "CGST", "IN", region="Karnataka"),
        rate("9", "SGST", "IN", region="Karnataka"),
        rate("18", "IGST", "IN", excluded_regions=("karnataka",)),
    ))  # fmt: skip
    within = tax_lines(table, request(123_455, place=TaxPlace("IN", " KARNATAKA ")))
    assert [(tax.name, tax.tax_minor) for tax in within[0]] == [("CGST", 11_111), ("SGST", 11_111)]
    across = tax_lines(table, request(123_455, place=TaxPlace("IN", "Kerala")))
    assert [(tax.name, tax.tax_minor) for tax in across[0]] == [("IGST", 22_222)]
    unknown = tax_lines(table, request(123_455, place=TaxPlace("IN")))
    assert [tax.name for tax in unknown[0]] == ["IGST"]


def test_european_vat_and_its_reverse_charge() -> None:
    """19 % of 99.99 is 18.9981: 19.00. A business in another state gets no tax and a line that says why."""
    table = TaxTable((rate("19"),))
    assert amounts(tax_lines(table, request(9_999))) == [[1_900]]
    (note,) = tax_lines(table, request(9_999, place=TaxPlace("FR"), status=TaxStatus.REVERSE_CHARGE))[0]
    assert note == LineTax(1, None, "Reverse charge", Decimal(0), False, True, 9_999, 0)
    assert tax_lines(table, request(9_999, place=TaxPlace("FR"))) == [()]
    assert tax_lines(table, request(9_999, status=TaxStatus.EXEMPT)) == [()]


def test_several_taxes_of_an_american_city() -> None:
    """Colorado 2.9 %, Denver 4.81 %, RTD 1 %, cultural 0.1 % on 80.00: 2.32, 3.848 (3.85), 0.80, 0.08; 7.05 in all."""
    found = [("State", "2.9"), ("City", "4.81"), ("Transit", "1"), ("Culture", "0.1")]
    table = TaxTable(tuple(rate(value, name, "US", region="CO") for name, value in found))
    assert amounts(tax_lines(table, request(8_000, place=TaxPlace("US", "co")))) == [[232, 385, 80, 8]]
    assert tax_lines(table, request(8_000, place=TaxPlace("US", "OR"))) == [()]


def test_japanese_prices_contain_ten_percent() -> None:
    """1,000 yen contain 90.909 (91), 500 contain 45.45 (45). Over the invoice 1,500 contain 136.36: 136; by largest remainder 91 and 45."""
    table = TaxTable((inclusive("10", "消費税", country="JP"),), TaxRounding.LINE)
    place = TaxPlace("JP")
    assert amounts(tax_lines(table, request(1_000, 500, place=place))) == [[91], [45]]
    once = replace(table, rounding=TaxRounding.RATE)
    assert amounts(tax_lines(once, request(1_000, 500, place=place))) == [[91], [45]]
    # Ten lines of 104 yen: 9.4545 each rounds to 9, so 90; over the invoice 94.5454 is 95.
    assert sum(sum(found) for found in amounts(tax_lines(table, request(*[104] * 10, place=place)))) == 90
    assert sum(sum(found) for found in amounts(tax_lines(once, request(*[104] * 10, place=place)))) == 95


def test_three_decimals_in_kuwait() -> None:
    """5 % of 12.345 dinars is 0.61725: 0.617."""
    assert amounts(tax_lines(TaxTable((rate("5", country="KW"),)), request(12_345, place=TaxPlace("KW")))) == [[617]]


def test_a_tax_inside_and_one_on_top() -> None:
    """118.00 contain 18 %: net 100.00, tax 18.00. A levy of 1 % on top is charged on the net: 1.00."""
    table = TaxTable((inclusive("18"), rate("1", "Levy")))
    assert amounts(tax_lines(table, request(11_800))) == [[1_800, 100]]


def test_by_rate_and_by_line_differ() -> None:
    """Three lines of 0.99 at 7 %: 0.0693 each is 0.07, so 0.21; of 2.97 it is 0.2079: 0.21. With 0.92: 0.06 each, 0.1932 is 0.19."""
    by_line, by_rate = TaxTable((rate("7"),)), TaxTable((rate("7"),), TaxRounding.RATE)
    assert amounts(tax_lines(by_line, request(92, 92, 92))) == [[6], [6], [6]]
    assert amounts(tax_lines(by_rate, request(92, 92, 92))) == [[7], [6], [6]]


@pytest.mark.parametrize(
    ("day", "expected"),
    [(date(2020, 6, 30), 1900), (date(2020, 7, 1), 1600), (date(2020, 12, 31), 1600), (date(2021, 1, 1), 1900)],
)
def test_the_day_of_issue_chooses_the_rate(day: date, expected: int) -> None:
    """Germany lowered its VAT for half a year."""
    table = TaxTable((
        rate("19", valid_until_date=date(2020, 7, 1)),
        rate("16", valid_from_date=date(2020, 7, 1), valid_until_date=date(2021, 1, 1)),
        rate("19", valid_from_date=date(2021, 1, 1)),
    ))  # fmt: skip
    assert amounts(tax_lines(table, request(10_000, day=day))) == [[expected]]


def test_categories_have_their_own_rates() -> None:
    table = TaxTable((rate("19"), rate("7", "VAT reduced", tax_category="reduced")))
    lines = [TaxableLine(1, 10_000), TaxableLine(2, 10_000, "reduced"), TaxableLine(3, 10_000, "none")]
    assert amounts(tax_lines(table, replace(request(), lines=lines))) == [[1_900], [700], []]


def test_a_rate_says_or_the_firm_does() -> None:
    silent, loud = rate("25"), rate("25", behavior=TaxBehavior.EXCLUSIVE)
    table = TaxTable((silent,), behavior=TaxBehavior.INCLUSIVE)
    assert amounts(tax_lines(table, request(10_000))) == [[2_000]]
    assert amounts(tax_lines(replace(table, rates=(loud,)), request(10_000))) == [[2_500]]
