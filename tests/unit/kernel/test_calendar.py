from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwell_server.kernel.calendar import (
    Interval,
    add_periods,
    calendar_anchor,
    clip,
    day_start,
    days_in_month,
    first_cycle_date,
    local_date,
    local_instant,
    next_collection_day,
    next_local_time,
    period_containing,
    period_edge,
    period_index,
    periods,
    zone,
)
from dunwell_server.kernel.errors import DunwellError, Reason

days = st.dates(date(1900, 1, 1), date(2200, 12, 31))
recurring = st.sampled_from([interval for interval in Interval if interval is not Interval.ONE_TIME])
monthly = st.sampled_from([Interval.MONTH, Interval.QUARTER, Interval.HALF_YEAR, Interval.YEAR])
anchor_days = st.none() | st.integers(1, 31)

# Rules of every kind: northern, southern, half-hour shift, gap at midnight, gap across midnight, abolished, Ramadan,
# odd offsets, both sides of the date line.
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "America/Juneau",
    "America/St_Johns",
    "America/Sao_Paulo",
    "America/Asuncion",
    "America/Havana",
    "America/Nuuk",
    "America/Santiago",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Asia/Beirut",
    "Asia/Kolkata",
    "Asia/Tehran",
    "Asia/Amman",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Pacific/Kiritimati",
    "Antarctica/Troll",
]


# ---- edges


@given(st.integers(1, 9999), st.integers(1, 12))
def test_days_in_month(year: int, month: int) -> None:
    first_of_next = date(year + month // 12, month % 12 + 1, 1) if (year, month) < (9999, 12) else None
    if first_of_next:
        assert days_in_month(year, month) == (first_of_next - date(year, month, 1)).days


def test_day_31_clamps_and_springs_back() -> None:
    anchor = date(2023, 1, 31)
    assert [add_periods(anchor, Interval.MONTH, n) for n in (1, 2, 3, 13, -2)] == [
        date(2023, 2, 28),
        date(2023, 3, 31),
        date(2023, 4, 30),
        date(2024, 2, 29),
        date(2022, 11, 30),
    ]


def test_leap_day_anchor() -> None:
    anchor = date(2024, 2, 29)
    assert [add_periods(anchor, Interval.YEAR, n).isoformat() for n in range(-1, 5)] == [
        "2023-02-28",
        "2024-02-29",
        "2025-02-28",
        "2026-02-28",
        "2027-02-28",
        "2028-02-29",
    ]
    assert add_periods(anchor, Interval.MONTH, 1) == date(2024, 3, 29)


def test_an_anchor_day_that_the_anchor_month_lacks() -> None:
    edges = [period_edge(date(2023, 2, 28), Interval.QUARTER, n, 31).isoformat() for n in range(4)]
    assert edges == ["2023-02-28", "2023-05-31", "2023-08-31", "2023-11-30"]


@given(days, recurring, st.integers(-500, 500), anchor_days)
def test_every_edge_aims_for_the_anchor_day(anchor: date, interval: Interval, n: int, anchor_day: int | None) -> None:
    edge = period_edge(anchor, interval, n, anchor_day)
    if interval is Interval.WEEK:
        assert edge == anchor + timedelta(weeks=n)
    else:
        assert edge.day == min(anchor_day or anchor.day, days_in_month(edge.year, edge.month))
        assert (edge.year - anchor.year) * 12 + edge.month - anchor.month == n * interval.months
    assert period_edge(anchor, interval, n + 1, anchor_day) > edge


@given(days, recurring, days, anchor_days)
def test_a_day_lies_in_exactly_one_period(anchor: date, interval: Interval, day: date, anchor_day: int | None) -> None:
    start, end = period_containing(anchor, interval, day, anchor_day)
    assert start <= day < end
    index = period_index(anchor, interval, day, anchor_day)
    assert (start, end) == (
        period_edge(anchor, interval, index, anchor_day),
        period_edge(anchor, interval, index + 1, anchor_day),
    )


@given(days, recurring, days, st.integers(1, 2000), anchor_days)
def test_periods_tile(anchor: date, interval: Interval, start: date, span: int, anchor_day: int | None) -> None:
    until = start + timedelta(days=span)
    found = list(periods(anchor, interval, start, until, anchor_day))
    assert found[0][0] <= start < found[0][1]
    assert found[-1][0] < until <= found[-1][1]
    assert all(early[1] == late[0] for early, late in pairwise(found))
    cut = [clip(period, start, until) for period in found]
    assert sum((part[1] - part[0]).days for part in cut if part) == span


@given(days, recurring)
def test_one_period_after_and_before(anchor: date, interval: Interval) -> None:
    assert add_periods(anchor, interval, 0) == anchor
    ahead = add_periods(anchor, interval, 1)
    assert period_containing(anchor, interval, anchor) == (anchor, ahead)
    assert period_containing(anchor, interval, ahead)[0] == ahead
    assert period_containing(anchor, interval, ahead - timedelta(days=1))[1] == ahead


def test_periods_of_an_empty_range() -> None:
    day = date(2024, 5, 1)
    assert list(periods(day, Interval.MONTH, day, day)) == []
    assert list(periods(day, Interval.ONE_TIME, day, day)) == []


def test_one_time() -> None:
    day = date(2024, 5, 1)
    only = (day, date(2024, 5, 2))
    assert period_containing(day, Interval.ONE_TIME, day) == only
    assert list(periods(day, Interval.ONE_TIME, date(2024, 1, 1), date(2025, 1, 1))) == [only]
    assert list(periods(day, Interval.ONE_TIME, date(2024, 5, 2), date(2025, 1, 1))) == []
    assert list(periods(day, Interval.ONE_TIME, date(2024, 1, 1), day)) == []
    for call in (
        lambda: period_containing(day, Interval.ONE_TIME, date(2024, 5, 2)),
        lambda: add_periods(day, Interval.ONE_TIME, 2),
    ):
        with pytest.raises(DunwellError) as error:
            call()
        assert error.value.reason is Reason.PERIOD_INVALID


@pytest.mark.parametrize("interval", [Interval.WEEK, Interval.MONTH, Interval.YEAR])
@pytest.mark.parametrize("n", [-(10**7), 10**7, 10**30])
def test_edges_outside_the_calendar_are_refused(interval: Interval, n: int) -> None:
    with pytest.raises(DunwellError) as error:
        add_periods(date(2024, 1, 31), interval, n)
    assert error.value.reason is Reason.PERIOD_INVALID


def test_clip() -> None:
    period = (date(2024, 1, 1), date(2024, 2, 1))
    assert clip(period, None, None) == period
    assert clip(period, date(2024, 1, 10), None) == (date(2024, 1, 10), date(2024, 2, 1))
    assert clip(period, date(2023, 1, 10), date(2024, 1, 20)) == (date(2024, 1, 1), date(2024, 1, 20))
    assert clip(period, date(2024, 2, 1), None) is None
    assert clip(period, None, date(2024, 1, 1)) is None


def test_interval_round_trips_through_its_value() -> None:
    assert all(Interval(interval.value) is interval for interval in Interval)
    assert f"{Interval.HALF_YEAR}" == "HALF_YEAR"


# ---- anchors


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (Interval.WEEK, "2024-11-11"),
        (Interval.MONTH, "2024-11-01"),
        (Interval.QUARTER, "2024-10-01"),
        (Interval.HALF_YEAR, "2024-07-01"),
        (Interval.YEAR, "2024-01-01"),
        (Interval.ONE_TIME, "2024-11-17"),
    ],
)
def test_calendar_anchor(interval: Interval, expected: str) -> None:
    assert calendar_anchor(interval, date(2024, 11, 17)).isoformat() == expected


@given(recurring, days)
def test_calendar_anchor_begins_the_period_of_the_day(interval: Interval, day: date) -> None:
    anchor = calendar_anchor(interval, day)
    assert anchor <= day < add_periods(anchor, interval, 1)
    assert calendar_anchor(interval, anchor) == anchor
    following = add_periods(anchor, interval, 1)
    assert calendar_anchor(interval, following) == following


@given(days, st.integers(1, 31), monthly, st.none() | st.integers(1, 12))
def test_first_cycle_date(start: date, anchor_day: int, interval: Interval, anchor_month: int | None) -> None:
    first = first_cycle_date(start, anchor_day, interval, anchor_month=anchor_month)
    assert first >= start
    assert first.day == min(anchor_day, days_in_month(first.year, first.month))
    aligned_to = start.month if anchor_month is None else anchor_month
    assert (first.month - aligned_to) % interval.months == 0
    assert period_edge(first, interval, -1, anchor_day) < start


def test_first_cycle_date_of_weeks_and_one_time() -> None:
    sunday = date(2024, 11, 17)
    assert first_cycle_date(sunday, 1, Interval.WEEK) == date(2024, 11, 18)
    assert first_cycle_date(sunday, 7, Interval.WEEK) == sunday
    assert first_cycle_date(sunday, 3, Interval.ONE_TIME) == sunday


@pytest.mark.parametrize(
    ("anchor_day", "interval", "anchor_month"),
    [(0, Interval.MONTH, None), (32, Interval.YEAR, None), (8, Interval.WEEK, None), (1, Interval.YEAR, 13)],
)
def test_first_cycle_date_refuses(anchor_day: int, interval: Interval, anchor_month: int | None) -> None:
    with pytest.raises(DunwellError) as error:
        first_cycle_date(date(2024, 1, 1), anchor_day, interval, anchor_month=anchor_month)
    assert error.value.reason is Reason.PERIOD_INVALID


# ---- collection days


@pytest.mark.parametrize(
    ("every", "enabled_on", "after", "expected"),
    [
        (1, "2024-01-15", "2024-03-10", "2024-03-15"),
        (1, "2024-01-15", "2024-03-15", "2024-03-15"),
        (1, "2024-01-15", "2024-03-16", "2024-04-15"),
        (1, "2024-01-31", "2024-02-10", "2024-02-29"),
        (1, "2024-01-31", "2024-03-01", "2024-03-31"),
        (3, "2024-01-15", "2024-01-16", "2024-04-15"),
        (3, "2024-11-30", "2024-12-01", "2025-02-28"),
        (3, "2024-11-30", "2025-03-01", "2025-05-30"),
        (1, "2024-06-10", "2024-01-01", "2024-06-10"),
    ],
)
def test_next_collection_day(every: int, enabled_on: str, after: str, expected: str) -> None:
    enabled = date.fromisoformat(enabled_on)
    assert next_collection_day(enabled.day, every, enabled, date.fromisoformat(after)).isoformat() == expected


@given(st.integers(1, 31), st.integers(1, 12), days, days)
def test_collection_days(day_of_month: int, every: int, enabled_on: date, after: date) -> None:
    found = next_collection_day(day_of_month, every, enabled_on, after)
    assert found >= max(after, enabled_on)
    assert found.day == min(day_of_month, days_in_month(found.year, found.month))
    assert ((found.year - enabled_on.year) * 12 + found.month - enabled_on.month) % every == 0
    # Nothing nearer was passed over: the same question a day later only moves on from the answer itself.
    assert next_collection_day(day_of_month, every, enabled_on, found) == found
    assert (found - max(after, enabled_on)).days <= 31 * (every + 1)


@pytest.mark.parametrize(("day_of_month", "every"), [(0, 1), (32, 1), (1, 0)])
def test_collection_day_refuses(day_of_month: int, every: int) -> None:
    with pytest.raises(DunwellError):
        next_collection_day(day_of_month, every, date(2024, 1, 1), date(2024, 1, 1))


# ---- zones


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Mars/Olympus",
        "../../etc/passwd",
        "America",
        "/etc/localtime",
        "Europe/",
        "localtime",
        "right/UTC",
        "a" * 99,
    ],
)
def test_unknown_zones(name: str) -> None:
    with pytest.raises(DunwellError) as error:
        zone(name)
    assert error.value.reason is Reason.UNKNOWN_TIME_ZONE


def test_known_zone() -> None:
    assert zone("America/Argentina/Buenos_Aires").key == "America/Argentina/Buenos_Aires"
    assert zone("Etc/GMT+5").utcoffset(datetime(2024, 1, 1)) == timedelta(hours=-5)  # noqa: DTZ001


@pytest.mark.parametrize(
    ("name", "day", "at", "expected"),
    [
        ("Asia/Kolkata", "2024-06-01", "03:00", "2024-05-31T21:30"),
        ("America/New_York", "2024-03-10", "02:30", "2024-03-10T07:30"),  # skipped: 03:30 EDT
        ("America/New_York", "2024-11-03", "01:30", "2024-11-03T05:30"),  # twice: the first, still EDT
        ("Europe/Berlin", "2024-03-31", "02:00", "2024-03-31T01:00"),
        ("Africa/Cairo", "2024-04-26", "00:00", "2024-04-25T22:00"),  # no midnight: the day begins at 01:00
        ("Australia/Lord_Howe", "2024-10-06", "02:15", "2024-10-05T15:45"),  # half-hour gap
    ],
)
def test_local_instant(name: str, day: str, at: str, expected: str) -> None:
    instant = local_instant(date.fromisoformat(day), time.fromisoformat(at), zone(name))
    assert instant == datetime.fromisoformat(expected).replace(tzinfo=UTC)
    assert instant.tzinfo is UTC


def test_an_ambiguous_time_given_with_fold_is_still_the_first() -> None:
    assert local_instant(date(2024, 11, 3), time(1, 30, fold=1), zone("America/New_York")) == datetime(
        2024, 11, 3, 5, 30, tzinfo=UTC
    )


@pytest.mark.parametrize("at", [time(0, 0), time(2, 30), time(3, 0), time(23, 30)])
@pytest.mark.parametrize("name", ZONES)
def test_local_time_comes_once_a_day_across_all_changes(name: str, at: time) -> None:
    tz = zone(name)
    day, last = date(2020, 1, 1), date(2040, 12, 31)
    instant = local_instant(day, at, tz)
    while day < last:
        day += timedelta(days=1)
        following = next_local_time(instant, at, tz)
        assert following == local_instant(day, at, tz)
        assert timedelta(hours=21) <= following - instant <= timedelta(hours=27)
        local = following.astimezone(tz).replace(tzinfo=None)
        moved = local - datetime.combine(day, at)
        assert timedelta(0) <= moved <= timedelta(hours=2)
        instant = following


@pytest.mark.parametrize("name", ZONES)
def test_days_tile_time_in_every_zone(name: str) -> None:
    tz = zone(name)
    day = date(2020, 1, 1)
    while day.year < 2041:
        start, end = day_start(day, tz), day_start(day + timedelta(days=1), tz)
        assert start < end
        assert local_date(start, tz) == day
        assert local_date(end - timedelta(microseconds=1), tz) == day
        day += timedelta(days=1)


def test_a_time_skipped_across_midnight_is_still_ahead_on_the_next_day() -> None:
    nuuk = zone("America/Nuuk")  # on 2024-03-30 the clocks went from 23:00 to midnight
    just_after = datetime(2024, 3, 31, 1, 10, tzinfo=UTC)
    assert local_date(just_after, nuuk) == date(2024, 3, 31)
    assert next_local_time(just_after, time(23, 30), nuuk) == datetime(2024, 3, 31, 1, 30, tzinfo=UTC)


def test_a_day_that_the_date_line_took_is_not_run_twice() -> None:
    apia = zone("Pacific/Apia")  # 2011-12-30 never happened there
    thursday = local_instant(date(2011, 12, 29), time(3), apia)
    assert local_date(next_local_time(thursday, time(3), apia), apia) == date(2011, 12, 31)


@given(
    st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    st.times().map(lambda at: at.replace(microsecond=0)),
    st.sampled_from(ZONES),
)
def test_next_local_time_is_strictly_ahead_and_nearest(after: datetime, at: time, name: str) -> None:
    tz = zone(name)
    found = next_local_time(after, at, tz)
    assert after < found <= after + timedelta(hours=27)
    assert next_local_time(found - timedelta(microseconds=1), at, tz) == found


def test_naive_instants_are_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        local_date(datetime(2024, 1, 1), zone("UTC"))  # noqa: DTZ001
