"""Deferred revenue by the day: the parts tile the whole, whenever they are taken and whatever is credited meanwhile."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwell_server.billing.recognition import Schedule

DAY = timedelta(days=1)
starts = st.dates(date(1999, 1, 1), date(2100, 1, 1))
lengths = st.integers(1, 800)
amounts = st.integers(1, 2**62)


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    start = draw(starts)
    return Schedule(start, start + timedelta(days=draw(lengths)), draw(amounts))


@given(schedules())
def test_the_days_add_up_to_the_whole_and_none_is_negative(schedule: Schedule) -> None:
    days = [schedule.start + timedelta(days=number) for number in range((schedule.end - schedule.start).days)]
    parts = [schedule.earned_on(day) for day in days]
    assert sum(parts) == schedule.amount
    assert min(parts) >= 0
    assert max(parts) - min(parts) <= 1
    assert schedule.earned_on(schedule.start - DAY) == schedule.earned_on(schedule.end) == 0


@given(schedules(), st.lists(st.integers(-50, 900), max_size=8))
def test_catching_up_in_any_steps_earns_what_the_days_earn_one_by_one(schedule: Schedule, stops: list[int]) -> None:
    days = (schedule.end - schedule.start).days
    one_by_one = [0]
    for number in range(days):
        one_by_one.append(one_by_one[-1] + schedule.earned_on(schedule.start + timedelta(days=number)))
    for stop in stops:
        recognized = schedule.recognized_before(schedule.start + timedelta(days=stop))
        elapsed = min(max(stop, 0), days)
        assert recognized == one_by_one[elapsed]
        assert abs(recognized - Fraction(schedule.amount * elapsed, days)) <= Fraction(1, 2)


@given(schedules(), st.integers(0, 800), st.fractions(0, 1))
def test_what_is_taken_back_is_earned_by_no_day(schedule: Schedule, after: int, part: Fraction) -> None:
    """A credit in the middle takes of what is to come; the days before keep theirs, the days after share the rest."""
    after = min(after, (schedule.end - schedule.start).days - 1)
    day = schedule.start + timedelta(days=after)
    earned = schedule.recognized_before(day)
    taken = int((schedule.amount - earned) * part)
    rest = replace(schedule, taken_back=taken, base=day, base_minor=earned)
    assert rest.recognized_before(day) == earned
    assert rest.recognized_before(schedule.end) == schedule.amount - taken
    parts = [rest.earned_on(day + timedelta(days=number)) for number in range((schedule.end - day).days)]
    assert sum(parts) == schedule.amount - taken - earned
    assert min(parts) >= 0


@pytest.mark.parametrize(
    ("amount", "days", "expected"),
    [(100, 3, [33, 34, 33]), (1, 2, [1, 0]), (2, 3, [1, 0, 1]), (10, 4, [3, 2, 3, 2]), (366, 366, [1] * 366)],
)
def test_halves_are_rounded_away_from_zero(amount: int, days: int, expected: list[int]) -> None:
    start = date(2024, 2, 1)
    schedule = Schedule(start, start + timedelta(days=days), amount)
    assert [schedule.earned_on(start + timedelta(days=number)) for number in range(days)] == expected


def test_a_period_over_the_leap_day_has_a_day_more() -> None:
    leap, common = (
        Schedule(date(2028, 2, 1), date(2028, 3, 1), 2900),
        Schedule(date(2027, 2, 1), date(2027, 3, 1), 2800),
    )
    assert leap.earned_on(date(2028, 2, 29)) == common.earned_on(date(2027, 2, 28)) == 100
