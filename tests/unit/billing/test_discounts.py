"""The laws of discounts, and worked examples."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwell_server.billing.discounts import DiscountInput, DiscountTerms, apply_discounts, as_given
from dunwell_server.billing.model import DiscountKind, InvoiceLine, LineKind
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.money import Money

ENGAGEMENTS = (uuid4(), uuid4())


def line(line_no: int, amount: int, engagement: UUID | None = None) -> InvoiceLine:
    return InvoiceLine(
        line_no, LineKind.ITEM, "work", Decimal(1), Decimal(amount), amount, engagement_id=engagement
    )  # fmt: skip


def percent(value: str, **fields: Any) -> DiscountTerms:
    return DiscountTerms("share", Decimal(value), **fields)


def fixed(value: int, **fields: Any) -> DiscountTerms:
    return DiscountTerms("amount", fixed_minor=value, **fields)


amounts = st.lists(st.integers(0, 10**9), min_size=1, max_size=8)
terms = st.one_of(
    st.builds(DiscountTerms, st.just("share"), percent=st.decimals("0.000001", "100", places=6)),
    st.builds(DiscountTerms, st.just("amount"), fixed_minor=st.integers(1, 10**9)),
)
wanted = st.lists(
    st.builds(
        lambda base, line_no, engagement: DiscountTerms(base.name, base.percent, base.fixed_minor, line_no, engagement),
        terms, st.none() | st.integers(1, 8), st.none() | st.sampled_from(ENGAGEMENTS),
    ),
    max_size=6,
)  # fmt: skip


@given(amounts, wanted)
def test_the_parts_are_the_discounts_and_nothing_goes_below_zero(
    amounts: list[int], wanted: list[DiscountTerms]
) -> None:
    lines = [line(number, amount, ENGAGEMENTS[number % 2]) for number, amount in enumerate(amounts, 1)]
    found = apply_discounts(lines, wanted)
    assert sum(found.parts) == sum(discount.amount_minor for discount in found.discounts)
    assert all(0 <= part <= amount for part, amount in zip(found.parts, amounts, strict=True))
    assert [discount.discount_no for discount in found.discounts] == list(range(1, len(wanted) + 1))
    for discount in found.discounts:
        assert discount.fixed_minor is None or discount.amount_minor <= discount.fixed_minor


@given(amounts, wanted)
def test_lines_come_before_the_invoice_and_shares_before_amounts(
    amounts: list[int], wanted: list[DiscountTerms]
) -> None:
    lines = [line(number, amount) for number, amount in enumerate(amounts, 1)]
    order = [
        (found.line_no is None, found.kind is DiscountKind.FIXED) for found in apply_discounts(lines, wanted).discounts
    ]
    assert order == sorted(order)


@given(amounts, st.lists(st.integers(1, 10**9), min_size=1, max_size=5), st.randoms())
def test_the_order_of_amounts_does_not_change_what_they_take(
    amounts: list[int], values: list[int], random: Random
) -> None:
    lines = [line(number, amount) for number, amount in enumerate(amounts, 1)]
    shuffled = list(values)
    random.shuffle(shuffled)
    first, second = (apply_discounts(lines, map(fixed, order)) for order in (values, shuffled))
    assert sum(first.parts) == sum(second.parts) == min(sum(values), sum(amounts))


@given(amounts, st.decimals("0.01", "100", places=2))
def test_a_share_is_rounded_once_and_each_line_bears_its_part(amounts: list[int], value: Decimal) -> None:
    lines = [line(number, amount) for number, amount in enumerate(amounts, 1)]
    (taken,) = apply_discounts(lines, [percent(str(value))]).discounts
    exact = sum(amounts) * Fraction(value) / 100
    assert abs(taken.amount_minor - exact) <= Fraction(1, 2)
    parts = apply_discounts(lines, [percent(str(value))]).parts
    for part, amount in zip(parts, amounts, strict=True):
        assert abs(part * sum(amounts) - taken.amount_minor * amount) < (sum(amounts) or 1)


def test_a_discount_for_everything_leaves_nothing() -> None:
    lines = [line(1, 333), line(2, 334), line(3, 0)]
    assert apply_discounts(lines, [percent("100")]).parts == (333, 334, 0)
    assert apply_discounts(lines, [fixed(10_000)]).parts == (333, 334, 0)


def test_shares_compound_in_the_order_given() -> None:
    """1,000.00: 10 % leaves 900.00, 20 % of that leaves 720.00, then 50.00 off leaves 670.00, whatever came first."""
    found = apply_discounts([line(1, 100_000)], [fixed(5_000), percent("10"), percent("20")])
    assert [discount.amount_minor for discount in found.discounts] == [10_000, 18_000, 5_000]
    assert found.parts == (33_000,)


def test_the_largest_remainder_takes_the_odd_cent() -> None:
    """1.00 over 33.33, 33.33 and 33.34: a third each, and the line with the greatest rest gets the cent."""
    found = apply_discounts([line(1, 3333), line(2, 3333), line(3, 3334)], [fixed(100)])
    assert found.parts == (33, 33, 34)


def test_a_discount_of_a_line_or_an_engagement_leaves_the_others_alone() -> None:
    first, second = ENGAGEMENTS
    lines = [line(1, 1000, first), line(2, 1000, second), line(3, 1000)]
    assert apply_discounts(lines, [percent("50", line_no=2)]).parts == (0, 500, 0)
    assert apply_discounts(lines, [percent("50", engagement_id=first)]).parts == (500, 0, 0)
    assert apply_discounts(lines, [percent("50", engagement_id=first)], engagement_id=first).parts == (500, 0, 500)


def test_a_coupon_that_finds_nothing_is_not_used() -> None:
    redemption = uuid4()
    nothing = apply_discounts([line(1, 0)], [percent("10", redemption_id=redemption), percent("10")])
    assert [(discount.redemption_id, discount.amount_minor) for discount in nothing.discounts] == [(None, 0)]


def test_what_callers_give_is_numbered_and_in_the_invoices_currency() -> None:
    given_discounts = as_given(
        [[], [DiscountInput("x", Decimal(5))]], [DiscountInput("y", fixed=Money("JPY", 7))], "JPY"
    )
    assert [(one.discount_no, one.line_no, one.kind, one.fixed_minor) for one in given_discounts] == [
        (1, 2, DiscountKind.PERCENT, None), (2, None, DiscountKind.FIXED, 7),
    ]  # fmt: skip
    with pytest.raises(DunwellError) as caught:
        as_given([], [DiscountInput("y", fixed=Money("JPY", 7))], "USD")
    assert caught.value.reason is Reason.CURRENCY_MISMATCH
    assert caught.value.violations[0].field == "invoice.discounts[0].amount.currency_code"
