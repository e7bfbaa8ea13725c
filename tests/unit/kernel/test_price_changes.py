"""Changes of price in the middle of a period, and partial periods, under every combination of the policy."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwell_server.kernel.calendar import Interval, add_periods, day_start, local_instant, zone
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.money import round_half_away
from dunwell_server.kernel.proration import (
    AnchorPolicy,
    ChangeDay,
    DayCount,
    EndPolicy,
    ProrationPolicy,
    ProrationUnit,
    Range,
    change_amounts,
    fraction,
    part_ratio,
    price_change,
    prorate,
    service_end,
    split_amount,
    unused_credit,
)

ALL = [ProrationPolicy(*choice) for choice in product(ProrationUnit, DayCount, AnchorPolicy, ChangeDay, EndPolicy)]
ZONES: list[tzinfo] = [
    zone(name) for name in ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe")
]
ONE = Decimal(1)
Situation = tuple[ProrationPolicy, Range, list[date], Interval, tzinfo]

policies = st.sampled_from(ALL)
zones = st.sampled_from(ZONES)
intervals = st.sampled_from([each for each in Interval if each is not Interval.ONE_TIME])
anchors = st.dates(date(2020, 1, 1), date(2032, 12, 31))
prices = st.decimals(min_value=0, max_value=10**6, places=3)


@st.composite
def situations(draw: st.DrawFn) -> Situation:
    """A policy, a full period, edges inside it in ascending order from its start to its end: days, or instants on the
    clock of a zone; its interval; the zone."""
    policy, interval, tz = draw(policies), draw(intervals), draw(zones)
    anchor, n = draw(anchors), draw(st.integers(0, 24))
    start, end = add_periods(anchor, interval, n), add_periods(anchor, interval, n + 1)
    offsets = sorted(draw(st.lists(st.integers(0, (end - start).days - 1), max_size=5)))
    inner: list[date] = [start + timedelta(days=offset) for offset in offsets]
    if policy.unit is ProrationUnit.DAY:
        return policy, (start, end), [start, *inner, end], interval, tz
    low, high = (day_start(edge, tz).astimezone(tz) for edge in (start, end))
    times = st.times(time(0), time(23, 59, 59))
    instants = sorted(local_instant(each, draw(times), tz) for each in inner)
    return policy, (low, high), [low, *(instant.astimezone(tz) for instant in instants), high], interval, tz


def test_there_are_32_policies() -> None:
    assert len(set(ALL)) == 32


# Parts


@given(situations())
def test_parts_tile_the_whole_under_every_policy(
    situation: Situation,
) -> None:
    policy, period, edges, _, _ = situation
    shares = [fraction(*part, *period, policy) for part in pairwise(edges)]
    assert sum(shares) == 1
    assert all(0 <= share <= 1 for share in shares)


@given(situations(), st.integers(-(10**9), 10**9))
def test_split_amounts_add_up_under_every_policy(situation: Situation, total: int) -> None:
    policy, period, edges, _, _ = situation
    parts = split_amount(total, edges, period, policy)
    assert sum(parts) == total
    assert all(part * total >= 0 for part in parts)


@given(intervals, anchors, st.integers(0, 24), st.integers(0, 400), st.integers(0, 400), zones)
def test_months_of_thirty_days_are_counted_on_the_firms_clock(
    interval: Interval, anchor: date, n: int, first: int, second: int, tz: tzinfo
) -> None:
    """At midnights, seconds of FIXED_30 months give what days do, in every zone and across every change of the clocks."""
    period = (add_periods(anchor, interval, n), add_periods(anchor, interval, n + 1))
    days = (period[1] - period[0]).days
    low, high = sorted((min(first, days), min(second, days)))
    part = (period[0] + timedelta(days=low), period[0] + timedelta(days=high))
    by_second = ProrationPolicy(ProrationUnit.SECOND, DayCount.FIXED_30)
    if interval is Interval.WEEK:
        tz = UTC  # weeks are no months: their seconds are counted as they pass
    a, b, c, d = (day_start(edge, tz).astimezone(tz) for edge in (*part, *period))
    assert fraction(a, b, c, d, by_second) == fraction(*part, *period, ProrationPolicy(day_count=DayCount.FIXED_30))


@given(anchors, st.integers(1, 200), st.integers(1, 100), policies)
def test_an_inclusive_end_is_one_day_more(start: date, length: int, more: int, policy: ProrationPolicy) -> None:
    last = start + timedelta(days=length)
    period = (start, last + timedelta(days=more))
    given_end = service_end(last, policy)
    days = replace(policy, unit=ProrationUnit.DAY, day_count=DayCount.ACTUAL)
    counted = length + (policy.end is EndPolicy.INCLUSIVE)
    assert fraction(start, given_end, *period, days) == Fraction(counted, length + more)


# Changes


@given(situations(), st.data())
def test_a_change_gives_back_and_charges_the_right_time(situation: Situation, data: st.DataObject) -> None:
    policy, period, edges, interval, tz = situation
    at = data.draw(st.sampled_from(edges[:-1]))
    change = price_change(at, period, interval, policy, zone=tz)
    moved = policy.change_day is ChangeDay.KEEP_OLD and policy.unit is ProrationUnit.DAY
    assert change.edge == (at + timedelta(days=1) if moved else at)
    assert change.unused == (change.edge, period[1])
    kept, unused = (period[0], change.edge), change.unused
    assert fraction(*kept, *period, policy) + fraction(*unused, *period, policy) == 1
    if policy.anchor is AnchorPolicy.KEEP:
        assert (change.charged, change.charged_period, change.anchor) == (unused, period, period[0])
    else:
        assert change.anchor == change.edge == change.charged[0]
        assert change.charged == change.charged_period
        assert part_ratio(change.charged, change.charged_period, policy)[0] > 0


@given(situations(), prices, prices, st.data())
def test_credit_and_charge_make_the_difference(
    situation: Situation,
    old: Decimal,
    new: Decimal,
    data: st.DataObject,
) -> None:
    """KEEP: the difference of the two prices for the time that is left, each side rounded once. RESET: the new price whole,
    less the old one's unused time. To the same price at the same moment costs nothing."""
    policy, period, edges, interval, tz = situation
    at = data.draw(st.sampled_from(edges[:-1]))
    change = price_change(at, period, interval, policy, zone=tz)
    charged = prorate(old, ONE, period, period, "USD", policy)
    credit, charge = change_amounts(change, period, charged, 0, new, ONE, "USD", policy)
    unused = fraction(*change.unused, *period, policy)
    assert credit == round_half_away(charged * unused)
    assert 0 <= credit <= charged
    if policy.anchor is AnchorPolicy.KEEP:
        assert charge == round_half_away(Fraction(new) * 100 * unused)
        exact = (Fraction(new) - Fraction(old)) * 100 * unused
        assert abs(charge - credit - exact) <= Fraction(3, 2)
        same = Decimal(charged) / 100
        assert change_amounts(change, period, charged, 0, same, ONE, "USD", policy) == (credit, credit)
    else:
        assert charge == round_half_away(Fraction(new) * 100)


@given(situations(), prices, st.lists(st.tuples(st.integers(0, 10), prices), min_size=1, max_size=5))
def test_change_after_change_never_gives_back_more_than_was_charged(
    situation: Situation,
    first: Decimal,
    changes: list[tuple[int, Decimal]],
) -> None:
    """Every change credits what the one before charged for the rest of the period; no charge is credited beyond itself."""
    policy, period, edges, interval, tz = situation
    policy = replace(policy, anchor=AnchorPolicy.KEEP)
    charged, part = prorate(first, ONE, period, period, "JPY", policy), period
    paid = charged
    for pick, price in sorted(changes, key=lambda each: edges[each[0] % (len(edges) - 1)]):
        at = edges[pick % (len(edges) - 1)]
        change = price_change(at, period, interval, policy, zone=tz)
        credit, charge = change_amounts(change, period, charged, 0, price, ONE, "JPY", policy, charged_part=part)
        assert 0 <= credit <= charged
        paid += charge - credit
        charged, part = charge, change.charged
    assert paid >= 0


@given(situations(), st.integers(0, 10**9), st.lists(st.integers(0, 10), min_size=1, max_size=6))
def test_one_charge_is_never_credited_beyond_itself(situation: Situation, charged: int, picks: list[int]) -> None:
    policy, period, edges, _, _ = situation
    credited = 0
    for pick in picks:
        credited += unused_credit(charged, credited, (edges[pick % len(edges)], period[1]), period, policy)
        assert credited <= charged


@pytest.mark.parametrize(
    ("policy", "amounts", "anchor"),
    [
        # 100.00 for April, changed to 200.00 on the 16th: half of the month is left.
        (ProrationPolicy(), (5000, 10000), "2024-04-01"),
        (ProrationPolicy(change_day=ChangeDay.KEEP_OLD), (4667, 9333), "2024-04-01"),
        (ProrationPolicy(anchor=AnchorPolicy.RESET), (5000, 20000), "2024-04-16"),
        (ProrationPolicy(anchor=AnchorPolicy.RESET, change_day=ChangeDay.KEEP_OLD), (4667, 20000), "2024-04-17"),
    ],
)
def test_a_change_in_the_middle_of_april(policy: ProrationPolicy, amounts: tuple[int, int], anchor: str) -> None:
    april = (date(2024, 4, 1), date(2024, 5, 1))
    change = price_change(date(2024, 4, 16), april, Interval.MONTH, policy)
    assert change_amounts(change, april, 10000, 0, Decimal(200), ONE, "USD", policy) == amounts
    assert change.anchor == date.fromisoformat(anchor)


def test_a_change_on_the_last_day_that_keeps_the_old_price_waits_for_the_next_period() -> None:
    april = (date(2024, 4, 1), date(2024, 5, 1))
    policy = ProrationPolicy(change_day=ChangeDay.KEEP_OLD)
    change = price_change(date(2024, 4, 30), april, Interval.MONTH, policy, anchor=date(2023, 12, 1))
    assert change_amounts(change, april, 10000, 0, Decimal(200), ONE, "USD", policy) == (0, 0)
    assert (change.edge, change.anchor) == (april[1], date(2023, 12, 1))


def test_a_stub_is_credited_by_what_it_cost() -> None:
    """A first period from the 21st was charged a third of the month; changed on the 26th, half of that comes back."""
    april, stub = (date(2024, 4, 1), date(2024, 5, 1)), (date(2024, 4, 21), date(2024, 5, 1))
    change = price_change(date(2024, 4, 26), april, Interval.MONTH)
    found = change_amounts(change, april, 3333, 0, Decimal(200), ONE, "USD", charged_part=stub)
    assert found == (1667, 3333)


def test_a_reset_by_the_second_keeps_the_local_time_of_day() -> None:
    berlin = zone("Europe/Berlin")
    policy = ProrationPolicy(ProrationUnit.SECOND, anchor=AnchorPolicy.RESET)
    march = (datetime(2024, 2, 29, 23, tzinfo=UTC), datetime(2024, 3, 31, 22, tzinfo=UTC))
    change = price_change(datetime(2024, 3, 15, 9, tzinfo=UTC), march, Interval.MONTH, policy, zone=berlin)
    assert change.charged == (datetime(2024, 3, 15, 9, tzinfo=UTC), datetime(2024, 4, 15, 8, tzinfo=UTC))


def test_what_is_no_change_within_the_period_is_refused() -> None:
    april = (date(2024, 4, 1), date(2024, 5, 1))
    for at in (date(2024, 3, 31), date(2024, 5, 1)):
        with pytest.raises(DunwellError) as caught:
            price_change(at, april, Interval.MONTH)
        assert caught.value.reason is Reason.PERIOD_INVALID
    noon = datetime(2024, 4, 16, 12, tzinfo=UTC)
    for policy in (ProrationPolicy(), ProrationPolicy(ProrationUnit.SECOND)):
        with pytest.raises(TypeError):
            price_change(noon, april, Interval.MONTH, policy)
