from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwell_server.kernel.calendar import Interval, add_periods, day_start, period_containing, zone
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.money import line_amount, round_half_away
from dunwell_server.kernel.proration import (
    DEFAULT_POLICY,
    AnchorPolicy,
    ChangeDay,
    DayCount,
    EndPolicy,
    ProrationPolicy,
    ProrationUnit,
    change_edge,
    fraction,
    part_ratio,
    prorate,
    service_end,
    split_amount,
    unused_credit,
)

FIXED = ProrationPolicy(day_count=DayCount.FIXED_30)
SECOND = ProrationPolicy(unit=ProrationUnit.SECOND)

policies = st.sampled_from([DEFAULT_POLICY, FIXED])
recurring = st.sampled_from([interval for interval in Interval if interval is not Interval.ONE_TIME])
anchors = st.dates(date(2000, 1, 1), date(2050, 12, 31))
prices = st.decimals(min_value=0, max_value=10**6, places=3)


@st.composite
def anchored_periods(draw: st.DrawFn) -> tuple[date, date]:
    anchor, interval, n = draw(anchors), draw(recurring), draw(st.integers(0, 60))
    return add_periods(anchor, interval, n), add_periods(anchor, interval, n + 1)


@st.composite
def split_periods(draw: st.DrawFn) -> list[date]:
    """An anchored period, and any days inside it: edges in ascending order, possibly repeated."""
    start, end = draw(anchored_periods())
    inner = draw(st.lists(st.integers(0, (end - start).days), max_size=6))
    return [start, *(start + timedelta(days=offset) for offset in sorted(inner)), end]


# ---- defaults and edges of policy


def test_defaults() -> None:
    assert ProrationPolicy() == ProrationPolicy(
        ProrationUnit.DAY, DayCount.ACTUAL, AnchorPolicy.KEEP, ChangeDay.CHARGE_NEW, EndPolicy.HALF_OPEN
    )


def test_end_and_change_day_move_a_date_by_one_day_and_an_instant_not() -> None:
    day, instant = date(2024, 2, 29), datetime(2024, 2, 29, 12, tzinfo=UTC)
    assert service_end(day) == day
    assert service_end(day, replace(DEFAULT_POLICY, end=EndPolicy.INCLUSIVE)) == date(2024, 3, 1)
    assert service_end(instant, replace(SECOND, end=EndPolicy.INCLUSIVE)) == instant
    assert change_edge(day) == day
    assert change_edge(day, replace(DEFAULT_POLICY, change_day=ChangeDay.KEEP_OLD)) == date(2024, 3, 1)
    assert change_edge(instant, replace(SECOND, change_day=ChangeDay.KEEP_OLD)) == instant


# ---- fractions


@pytest.mark.parametrize(
    ("start", "end", "period_start", "period_end", "expected"),
    [
        ("2023-05-15", "2023-05-23", "2023-04-23", "2023-05-23", "8/30"),
        ("2023-06-15", "2023-06-23", "2023-05-23", "2023-06-23", "8/30"),
        ("2023-05-23", "2023-06-15", "2023-05-15", "2023-06-15", "22/30"),
        ("2023-06-23", "2023-07-15", "2023-06-15", "2023-07-15", "22/30"),
        ("2023-02-23", "2023-03-15", "2023-02-15", "2023-03-15", "22/30"),
        ("2024-02-23", "2024-03-15", "2024-02-15", "2024-03-15", "22/30"),
        ("2024-05-31", "2024-06-01", "2024-05-01", "2024-06-01", "0/30"),  # the 31st is free
        ("2023-02-28", "2023-03-01", "2023-02-01", "2023-03-01", "3/30"),  # February is made up at its end
        ("2023-02-14", "2023-02-28", "2023-01-31", "2023-02-28", "17/30"),
        ("2024-01-31", "2024-02-29", "2024-01-31", "2024-02-29", "1"),
        ("2023-02-28", "2023-03-01", "2023-02-28", "2023-03-31", "0/30"),  # Feb 28 stands for the 31st
        ("2023-03-30", "2023-03-31", "2023-02-28", "2023-03-31", "1/30"),
        ("2024-02-01", "2024-07-01", "2024-01-01", "2024-07-01", "150/180"),
        ("2024-01-30", "2024-02-02", "2024-01-29", "2024-02-05", "3/7"),  # weeks are not months
    ],
)
def test_fixed_30(start: str, end: str, period_start: str, period_end: str, expected: str) -> None:
    part, period = (start, end), (period_start, period_end)
    a, b, c, d = (date.fromisoformat(day) for day in (*part, *period))
    assert fraction(a, b, c, d, FIXED) == Fraction(expected)


def test_seconds_count_elapsed_time_across_a_clock_change() -> None:
    berlin = zone("Europe/Berlin")
    start, change, end = (day_start(day, berlin) for day in (date(2024, 3, 1), date(2024, 3, 31), date(2024, 4, 1)))
    assert fraction(change, end, start, end, SECOND) == Fraction(23, 31 * 24 - 1)
    noon = datetime(2024, 3, 15, 12, tzinfo=UTC)
    assert fraction(start, noon, start, end, SECOND) + fraction(noon, end, start, end, SECOND) == 1


def test_seconds_with_months_of_30_days() -> None:
    policy = replace(SECOND, day_count=DayCount.FIXED_30)
    start, end = datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 6, 1, tzinfo=UTC)
    assert fraction(datetime(2024, 5, 30, 12, tzinfo=UTC), end, start, end, policy) == Fraction(1, 60)
    assert fraction(datetime(2024, 5, 31, 12, tzinfo=UTC), end, start, end, policy) == 0


@given(split_periods(), policies)
def test_parts_tile_the_whole(edges: list[date], policy: ProrationPolicy) -> None:
    shares = [fraction(early, late, edges[0], edges[-1], policy) for early, late in pairwise(edges)]
    assert sum(shares) == 1
    assert all(0 <= share <= 1 for share in shares)


@given(anchored_periods())
def test_a_fixed_month_has_30_days_whatever_the_anchor(period: tuple[date, date]) -> None:
    days = (period[1] - period[0]).days
    numerator, denominator = part_ratio(period, period, FIXED)
    assert numerator == denominator
    assert denominator == (7 if days == 7 else round(days / 30.4375) * 30)


@given(anchored_periods(), st.integers(-400, 400), st.integers(0, 800), policies)
def test_no_part_exceeds_the_whole(
    period: tuple[date, date], offset: int, length: int, policy: ProrationPolicy
) -> None:
    start = period[0] + timedelta(days=offset)
    share = fraction(start, start + timedelta(days=length), *period, policy)
    assert 0 <= share <= 1
    if length == 0:
        assert share == 0


def test_stub_denominators() -> None:
    """A leading stub is a part of the full period that would have ended at the anchor, a trailing one of the last."""
    anchor = date(2024, 3, 31)
    leading = period_containing(anchor, Interval.MONTH, date(2024, 3, 10))
    assert leading == (date(2024, 2, 29), anchor)
    assert fraction(date(2024, 3, 10), anchor, *leading) == Fraction(21, 31)
    trailing = period_containing(anchor, Interval.MONTH, date(2024, 6, 29))
    assert trailing == (date(2024, 5, 31), date(2024, 6, 30))
    assert fraction(trailing[0], date(2024, 6, 29), *trailing) == Fraction(29, 30)


@pytest.mark.parametrize("policy", [DEFAULT_POLICY, FIXED])
def test_malformed_ranges_are_refused(policy: ProrationPolicy) -> None:
    first, second = date(2024, 1, 1), date(2024, 2, 1)
    for part, period in (
        ((second, first), (first, second)),
        ((first, second), (first, first)),
        ((first, second), (second, first)),
    ):
        with pytest.raises(DunwellError) as error:
            part_ratio(part, period, policy)
        assert error.value.reason is Reason.PERIOD_INVALID


def test_dates_and_instants_do_not_mix() -> None:
    days = (date(2024, 1, 1), date(2024, 2, 1))
    instants = (datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 2, 1, tzinfo=UTC))
    for part, period, policy in (
        (instants, instants, DEFAULT_POLICY),
        (days, instants, SECOND),
        (instants, days, SECOND),
        (days, (days[0], instants[1]), SECOND),
    ):
        with pytest.raises(TypeError):
            part_ratio(part, period, policy)


# ---- amounts


@given(prices, st.integers(1, 20), split_periods(), policies)
def test_prorate_rounds_the_exact_share_once(
    price: Decimal, quantity: int, edges: list[date], policy: ProrationPolicy
) -> None:
    part, period = (edges[0], edges[len(edges) // 2]), (edges[0], edges[-1])
    amount = prorate(price, Decimal(quantity), part, period, "USD", policy)
    assert amount == round_half_away(Fraction(price) * quantity * 100 * fraction(*part, *period, policy))
    assert prorate(-price, Decimal(quantity), part, period, "USD", policy) == -amount
    assert 0 <= amount <= line_amount(price, Decimal(quantity), "USD")
    assert prorate(price, Decimal(quantity), period, period, "USD", policy) == line_amount(
        price, Decimal(quantity), "USD"
    )


@given(prices, prices, split_periods(), policies)
def test_credit_and_charge_make_the_difference(
    old: Decimal, new: Decimal, edges: list[date], policy: ProrationPolicy
) -> None:
    """Changing from old to new and back on one day leaves nothing, and a change to the same price costs nothing."""
    rest, period = (edges[len(edges) // 2], edges[-1]), (edges[0], edges[-1])

    def change(before: Decimal, after: Decimal) -> int:
        one = Decimal(1)
        return prorate(-before, one, rest, period, "INR", policy) + prorate(after, one, rest, period, "INR", policy)

    assert change(old, new) + change(new, old) == 0
    assert change(old, old) == 0
    exact = (Fraction(new) - Fraction(old)) * 100 * fraction(*rest, *period, policy)
    assert abs(change(old, new) - exact) <= 1


@pytest.mark.parametrize(
    ("price", "currency", "amount"), [("1E-300", "USD", 0), ("0", "USD", 0), ("0.03", "USD", 2), ("101", "JPY", 51)]
)
def test_prorate_small_things(price: str, currency: str, amount: int) -> None:
    period = (date(2024, 4, 1), date(2024, 5, 1))
    assert prorate(Decimal(price), Decimal(1), (date(2024, 4, 16), period[1]), period, currency) == amount


def test_prorate_refuses_what_does_not_fit() -> None:
    period = (date(2024, 4, 1), date(2024, 5, 1))
    with pytest.raises(DunwellError) as error:
        prorate(Decimal("1E+20"), Decimal(1), (date(2024, 4, 16), period[1]), period, "USD")
    assert error.value.reason is Reason.AMOUNT_OUT_OF_RANGE


def subsequences(edges: list[date]) -> Iterator[list[date]]:
    for skipped in range(1, len(edges) - 1):
        yield edges[:skipped] + edges[skipped + 1 :]


@given(st.integers(-(10**12), 10**12), split_periods(), policies)
def test_split_amounts_give_back_the_whole(total: int, edges: list[date], policy: ProrationPolicy) -> None:
    parts = split_amount(total, edges, policy=policy)
    assert len(parts) == len(edges) - 1
    assert sum(parts) == total
    assert split_amount(-total, edges, policy=policy) == [-part for part in parts]
    assert all(part * total >= 0 for part in parts)
    for early, late, part in zip(edges, edges[1:], parts, strict=False):
        assert abs(part - total * fraction(early, late, edges[0], edges[-1], policy)) <= 1


@given(st.integers(0, 10**9), split_periods(), policies)
def test_an_edge_cuts_at_the_same_cent_however_many_others_there_are(
    total: int, edges: list[date], policy: ProrationPolicy
) -> None:
    def cuts(some: list[date]) -> dict[date, int]:
        parts = split_amount(total, some, policy=policy)
        return {edge: sum(parts[:position]) for position, edge in enumerate(some)}

    whole = cuts(edges)
    for fewer in subsequences(edges):
        assert all(whole[edge] == at for edge, at in cuts(fewer).items())


def test_split_of_a_stub_under_fixed_months() -> None:
    period = (date(2024, 5, 1), date(2024, 6, 1))
    edges = [date(2024, 5, 21), date(2024, 5, 26), date(2024, 6, 1)]
    assert split_amount(1000, edges, period, FIXED) == [500, 500]
    assert split_amount(1000, edges, period) == [455, 545]


@pytest.mark.parametrize("days", [[1], [2, 1], [1, 1], [1, 3, 2]])
def test_split_refuses(days: list[int]) -> None:
    with pytest.raises(DunwellError) as error:
        split_amount(100, [date(2024, 1, day) for day in days])
    assert error.value.reason is Reason.PERIOD_INVALID


# ---- credits


def test_unused_credit() -> None:
    april = (date(2024, 4, 1), date(2024, 5, 1))
    rest = (date(2024, 4, 16), april[1])
    assert unused_credit(9999, 0, rest, april) == 5000
    assert unused_credit(9999, 6000, rest, april) == 3999
    assert unused_credit(9999, 9999, rest, april) == 0
    assert unused_credit(9999, 12000, rest, april) == 0
    assert unused_credit(0, 0, rest, april) == 0
    assert unused_credit(-500, 0, rest, april) == 0
    assert unused_credit(9999, 0, april, april) == 9999


def test_unused_credit_of_a_stub_is_a_share_of_what_the_stub_cost() -> None:
    april = (date(2024, 4, 1), date(2024, 5, 1))
    stub = (date(2024, 4, 21), april[1])
    charged = prorate(Decimal("30.00"), Decimal(1), stub, april, "USD")
    assert charged == 1000
    assert unused_credit(charged, 0, (date(2024, 4, 26), april[1]), april, charged_part=stub) == 500
    assert unused_credit(charged, 0, april, april, charged_part=stub) == charged
    assert unused_credit(charged, 0, (date(2024, 4, 1), date(2024, 4, 10)), april, charged_part=stub) == 0


@given(st.integers(0, 10**9), st.lists(st.integers(0, 100), min_size=1, max_size=5), split_periods(), policies)
def test_never_credited_more_than_charged(
    charged: int, picks: list[int], edges: list[date], policy: ProrationPolicy
) -> None:
    period = (edges[0], edges[-1])
    credited = 0
    for pick in picks:
        part = (edges[pick % len(edges)], edges[-1])
        credit = unused_credit(charged, credited, part, period, policy)
        assert 0 <= credit <= round_half_away(Fraction(charged) * fraction(*part, *period, policy))
        credited += credit
    assert credited <= charged


def test_unused_credit_still_refuses_malformed_ranges() -> None:
    with pytest.raises(DunwellError):
        unused_credit(0, 0, (date(2024, 4, 2), date(2024, 4, 1)), (date(2024, 4, 1), date(2024, 5, 1)))
