"""Which periods of a package are billed as of a day, for how much, and when the next one is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from decimal import Decimal
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwell_server.billing import packages
from dunwell_server.billing.packages import BillablePeriod, billable_periods, next_bill_date
from dunwell_server.kernel.calendar import Interval, Period, calendar_anchor, periods
from dunwell_server.kernel.proration import DEFAULT_POLICY, DayCount, ProrationPolicy, ProrationUnit

DAY = timedelta(days=1)
ENGAGEMENT = UUID("018f0000-0000-7000-8000-000000000001")


@dataclass(frozen=True)
class Terms:
    """An engagement as these rules see it."""

    start_date: date
    end_date: date | None = None
    billing_interval: str = "MONTHLY"
    anchor: str = "START_DATE"
    anchor_day: int | None = None
    timing: str = "IN_ADVANCE"
    partial_periods: str = "PRORATE"
    proration: ProrationPolicy = DEFAULT_POLICY
    fee_minor: int = 31_000
    currency_code: str = "USD"
    pricing_mode: str = "PACKAGE"
    line_description: str = "Bookkeeping"
    billed_through: date | None = None

    @property
    def billed_through_date(self) -> date:
        """The start while nothing is billed."""
        return self.billed_through or self.start_date


def day(text: str) -> date:
    """An ISO date."""
    return date.fromisoformat(text)


def spans(parts: Sequence[BillablePeriod]) -> list[tuple[str, str, int]]:
    """What is billed, readably."""
    return [(str(part.start), str(part.end), part.amount_minor) for part in parts]


def billed(terms: Terms, as_of: str, covered: Sequence[Period] = ()) -> list[tuple[str, str, int]]:
    """What a run as of a day bills."""
    return spans(billable_periods(terms, day(as_of), covered))


class Book:
    """What has been billed of one engagement, kept as the run and a void keep it."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.lines: list[BillablePeriod] = []

    def run(self, as_of: date) -> list[BillablePeriod]:
        """Bill as of a day."""
        through = self.terms.billed_through_date
        beyond = [(line.start, line.end) for line in self.lines if line.end > through]
        parts = billable_periods(self.terms, as_of, beyond)
        self.lines += parts
        taken = [*beyond, *((part.start, part.end) for part in parts)]
        self.terms = replace(self.terms, billed_through=packages.billed_through_date(through, taken))
        return parts

    def void(self, released: Sequence[BillablePeriod]) -> None:
        """Release what lines cover, as voiding their invoice does."""
        self.lines = [line for line in self.lines if line not in released]
        earliest = min(line.start for line in released)
        self.terms = replace(self.terms, billed_through=min(self.terms.billed_through_date, earliest))


# --- worked examples


def test_in_advance_bills_the_period_that_has_begun() -> None:
    terms = Terms(day("2026-01-15"))
    assert billed(terms, "2026-01-14") == []
    assert billed(terms, "2026-01-15") == [("2026-01-15", "2026-02-15", 31_000)]
    assert billed(terms, "2026-02-14") == [("2026-01-15", "2026-02-15", 31_000)]


def test_in_arrears_bills_the_period_that_has_ended() -> None:
    terms = Terms(day("2026-01-15"), timing="IN_ARREARS")
    assert billed(terms, "2026-02-14") == []
    assert billed(terms, "2026-02-15") == [("2026-01-15", "2026-02-15", 31_000)]


def test_missed_periods_are_caught_up_one_part_each() -> None:
    assert billed(Terms(day("2025-11-30")), "2026-03-30") == [
        ("2025-11-30", "2025-12-30", 31_000),
        ("2025-12-30", "2026-01-30", 31_000),
        ("2026-01-30", "2026-02-28", 31_000),
        ("2026-02-28", "2026-03-30", 31_000),
        ("2026-03-30", "2026-04-30", 31_000),
    ]


def test_day_31_clamps_and_springs_back_in_leap_years_too() -> None:
    parts = billable_periods(Terms(day("2024-01-31")), day("2024-04-30"))
    assert [str(part.start) for part in parts] == ["2024-01-31", "2024-02-29", "2024-03-31", "2024-04-30"]


@pytest.mark.parametrize(
    ("interval", "start", "edges"),
    [
        ("WEEKLY", "2026-03-04", ["2026-03-11", "2026-03-18"]),
        ("QUARTERLY", "2025-11-30", ["2026-02-28", "2026-05-30"]),
        ("HALF_YEARLY", "2025-08-31", ["2026-02-28", "2026-08-31"]),
        ("YEARLY", "2024-02-29", ["2025-02-28", "2026-02-28"]),
    ],
)
def test_intervals(interval: str, start: str, edges: list[str]) -> None:
    parts = billable_periods(Terms(day(start), billing_interval=interval), day(edges[0]))
    assert [str(part.end) for part in parts] == edges


@pytest.mark.parametrize(
    ("interval", "start", "stub_end", "full_start", "amount"),
    [
        # 17 of the 31 days of March.
        ("MONTHLY", "2026-03-15", "2026-04-01", "2026-03-01", 17_000),
        # 47 of the 90 days of the first quarter: 31,000 × 47/90 = 16,188.9.
        ("QUARTERLY", "2026-02-13", "2026-04-01", "2026-01-01", 16_189),
        # Wednesday to Sunday: 5 of 7 days, 22,142.86.
        ("WEEKLY", "2026-03-04", "2026-03-09", "2026-03-02", 22_143),
        # 10 of 181 days: 1,712.7.
        ("HALF_YEARLY", "2026-06-21", "2026-07-01", "2026-01-01", 1_713),
        # 31 of 366 days of a leap year: 2,625.7.
        ("YEARLY", "2024-12-01", "2025-01-01", "2024-01-01", 2_626),
    ],
)
def test_leading_stub_on_calendar_boundaries(
    interval: str, start: str, stub_end: str, full_start: str, amount: int
) -> None:
    part = billable_periods(Terms(day(start), billing_interval=interval, anchor="CALENDAR"), day(start))[0]
    assert part == BillablePeriod(day(start), day(stub_end), day(full_start), day(stub_end), amount, True)


def test_trailing_stub_is_a_share_of_the_period_begun_at_the_last_anchor() -> None:
    terms = Terms(day("2026-01-31"), day("2026-03-10"))
    parts = billable_periods(terms, day("2026-12-31"))
    # From Feb 28 to Mar 31 are 31 days, 10 of them before the end.
    assert spans(parts) == [("2026-01-31", "2026-02-28", 31_000), ("2026-02-28", "2026-03-10", 10_000)]
    assert [part.prorated for part in parts] == [False, True]


def test_engagement_within_one_period() -> None:
    terms = Terms(day("2026-03-05"), day("2026-03-20"), anchor="CALENDAR")
    assert billed(terms, "2026-03-05") == [("2026-03-05", "2026-03-20", 15_000)]


def test_partial_periods_in_full() -> None:
    terms = Terms(day("2026-03-15"), day("2026-04-10"), anchor="CALENDAR", partial_periods="FULL")
    parts = billable_periods(terms, day("2026-12-31"))
    assert spans(parts) == [("2026-03-15", "2026-04-01", 31_000), ("2026-04-01", "2026-04-10", 31_000)]
    assert not any(part.prorated for part in parts)


def test_thirty_day_months() -> None:
    terms = Terms(
        day("2026-02-16"), anchor="CALENDAR", proration=ProrationPolicy(day_count=DayCount.FIXED_30), fee_minor=30_000
    )
    assert billed(terms, "2026-02-16") == [("2026-02-16", "2026-03-01", 15_000)]


def test_seconds_follow_the_firms_clock_changes() -> None:
    # Berlin's March 2026 has 743 hours; its days from the 15th on 407, those of UTC 408 of 744.
    terms = Terms(
        day("2026-03-15"), anchor="CALENDAR", proration=ProrationPolicy(unit=ProrationUnit.SECOND), fee_minor=743_000
    )
    assert billable_periods(terms, day("2026-03-15"), zone=ZoneInfo("Europe/Berlin"))[0].amount_minor == 407_000
    assert billable_periods(terms, day("2026-03-15"))[0].amount_minor == 407_452


def test_one_time_fee_is_billed_once() -> None:
    terms = Terms(day("2026-03-15"), billing_interval="ONE_TIME", anchor="CALENDAR")
    assert billed(terms, "2026-03-14") == []
    assert billed(terms, "2030-01-01") == [("2026-03-15", "2026-03-16", 31_000)]
    book = Book(terms)
    assert len(book.run(day("2026-03-15"))) == 1
    assert book.run(day("2030-01-01")) == []
    assert next_bill_date(book.terms, book.terms.billed_through_date) is None
    book.terms = replace(book.terms, end_date=day("2026-09-01"))
    assert book.run(day("2030-01-01")) == []


def test_one_time_fee_in_arrears_waits_for_the_end() -> None:
    terms = Terms(day("2026-03-15"), billing_interval="ONE_TIME", timing="IN_ARREARS")
    assert billed(terms, "2099-01-01") == []
    assert packages.initial_next_bill_date(terms) is None
    ending = replace(terms, end_date=day("2026-06-01"))
    assert packages.initial_next_bill_date(ending) == day("2026-06-01")
    assert billed(ending, "2026-05-31") == []
    assert billed(ending, "2026-06-01") == [("2026-03-15", "2026-06-01", 31_000)]


def test_hourly_engagement_bills_no_package_and_its_time_when_a_period_ends() -> None:
    terms = Terms(day("2026-03-15"), pricing_mode="HOURLY")
    assert billed(terms, "2030-01-01") == []
    assert packages.initial_next_bill_date(terms) == day("2026-04-15")


def test_fee_of_zero_is_billed_as_zero() -> None:
    assert billed(Terms(day("2026-03-15"), fee_minor=0), "2026-03-15") == [("2026-03-15", "2026-04-15", 0)]


def test_end_before_what_is_billed_bills_nothing_more() -> None:
    terms = Terms(day("2026-01-01"), day("2026-02-10"), billed_through=day("2026-04-01"))
    assert billed(terms, "2030-01-01") == []
    assert next_bill_date(terms, day("2026-04-01")) is None


def test_engagement_that_goes_on_after_its_end_was_billed() -> None:
    book = Book(Terms(day("2026-03-01"), day("2026-03-15"), fee_minor=100))
    assert spans(book.run(day("2026-03-01"))) == [("2026-03-01", "2026-03-15", 45)]
    book.terms = replace(book.terms, end_date=None)
    assert spans(book.run(day("2026-03-20"))) == [("2026-03-15", "2026-04-01", 55)]


def test_going_on_costs_nothing_more_where_the_period_was_billed_in_full() -> None:
    book = Book(Terms(day("2026-03-01"), day("2026-03-15"), partial_periods="FULL"))
    first = book.run(day("2026-03-01"))
    book.terms = replace(book.terms, end_date=None)
    assert spans(book.run(day("2026-03-20"))) == [("2026-03-15", "2026-04-01", 0)]
    book.void(first)
    assert spans(book.run(day("2026-03-20"))) == [("2026-03-01", "2026-03-15", 31_000)]


def test_hole_left_by_a_voided_invoice_is_billed_again() -> None:
    book = Book(Terms(day("2026-01-01")))
    lines = [book.run(day(f"2026-0{month}-01"))[0] for month in (1, 2, 3)]
    book.void([lines[1]])
    assert next_bill_date(book.terms, book.terms.billed_through_date, [(lines[2].start, lines[2].end)]) == day(
        "2026-02-01"
    )
    assert book.run(day("2026-03-15")) == [lines[1]]
    assert book.terms.billed_through_date == day("2026-04-01")


def test_next_bill_date_in_arrears_behind_a_hole() -> None:
    terms = Terms(day("2026-03-01"), timing="IN_ARREARS")
    covered = [(day("2026-03-15"), day("2026-04-01"))]
    assert next_bill_date(terms, day("2026-03-01"), covered) == day("2026-03-15")


def test_lines_say_what_and_when() -> None:
    terms = Terms(day("2026-03-15"), anchor="CALENDAR", currency_code="KWD")
    lines = packages.package_lines(terms, ENGAGEMENT, day("2026-04-01"))
    assert [line.description for line in lines] == [
        "Bookkeeping (2026-03-15 to 2026-03-31, prorated)",
        "Bookkeeping (2026-04-01 to 2026-04-30)",
    ]
    assert [line.unit_price for line in lines] == [Decimal("17.000"), Decimal("31.000")]
    assert [line.line_no for line in lines] == [1, 2]
    assert all(line.in_advance and line.engagement_id == ENGAGEMENT and line.quantity == 1 for line in lines)


def test_line_of_one_day_names_it_once() -> None:
    terms = Terms(day("2026-03-31"), anchor="CALENDAR")
    assert packages.package_lines(terms, ENGAGEMENT, day("2026-03-31"))[0].description == (
        "Bookkeeping (2026-03-31, prorated)"
    )


# --- properties

dates = st.dates(date(2019, 1, 1), date(2029, 12, 31))
policies = st.builds(ProrationPolicy, day_count=st.sampled_from(DayCount), unit=st.just(ProrationUnit.DAY))


@st.composite
def terms_of(draw: st.DrawFn, /, **fixed: object) -> Terms:
    """Any engagement but a one-time one."""
    start = draw(dates)
    length = draw(st.none() | st.integers(1, 900))
    values: dict[str, object] = {
        "start_date": start,
        "end_date": None if length is None else start + timedelta(days=length),
        "billing_interval": draw(st.sampled_from(["WEEKLY", "MONTHLY", "QUARTERLY", "HALF_YEARLY", "YEARLY"])),
        "anchor": draw(st.sampled_from(["START_DATE", "CALENDAR"])),
        "timing": draw(st.sampled_from(["IN_ADVANCE", "IN_ARREARS"])),
        "partial_periods": draw(st.sampled_from(["PRORATE", "FULL"])),
        "proration": draw(policies),
        "fee_minor": draw(st.integers(0, 10_000_000)),
    }
    return Terms(**{**values, **fixed})  # type: ignore[arg-type]


def full_periods(terms: Terms, until: date) -> list[Period]:
    """The engagement's full periods that overlap it before `until`."""
    interval = {
        "WEEKLY": Interval.WEEK,
        "MONTHLY": Interval.MONTH,
        "QUARTERLY": Interval.QUARTER,
        "HALF_YEARLY": Interval.HALF_YEAR,
        "YEARLY": Interval.YEAR,
    }[terms.billing_interval]
    anchor = calendar_anchor(interval, terms.start_date) if terms.anchor == "CALENDAR" else terms.start_date
    return list(periods(anchor, interval, terms.start_date, until))


def expected_through(terms: Terms, as_of: date) -> date:
    """How far a run as of a day must have billed, from the rule's words."""
    through = terms.start_date
    for low, high in full_periods(terms, as_of + DAY):
        end = min(high, terms.end_date or high)
        begun = max(low, terms.start_date) <= as_of
        if (begun if terms.timing == "IN_ADVANCE" else end <= as_of) and max(low, terms.start_date) < end:
            through = end
    return through


def assert_tiles(lines: Sequence[BillablePeriod], start: date, end: date) -> None:
    """The lines cover [start, end) without gap or overlap, each within its full period."""
    at = start
    for line in sorted(lines, key=lambda line: line.start):
        assert line.start == at
        assert line.full_start <= line.start < line.end <= line.full_end
        at = line.end
    assert at == end


@given(terms_of(), st.lists(st.integers(-30, 1200), min_size=1, max_size=8))
def test_runs_on_any_days_tile_what_is_due(terms: Terms, offsets: list[int]) -> None:
    book = Book(terms)
    latest = date.min
    for offset in offsets:
        as_of = terms.start_date + timedelta(days=offset)
        book.run(as_of)
        latest = max(latest, as_of)
    assert_tiles(book.lines, terms.start_date, expected_through(terms, latest))
    assert book.terms.billed_through_date == expected_through(terms, latest)


@given(terms_of(), st.integers(0, 400))
def test_daily_runs_bill_what_one_run_bills(terms: Terms, days: int) -> None:
    daily = Book(terms)
    for offset in range(days + 1):
        daily.run(terms.start_date + timedelta(days=offset))
    assert daily.lines == billable_periods(terms, terms.start_date + timedelta(days=days))


@given(terms_of(), st.integers(0, 800))
def test_a_second_run_bills_nothing(terms: Terms, days: int) -> None:
    book = Book(terms)
    as_of = terms.start_date + timedelta(days=days)
    book.run(as_of)
    assert book.run(as_of) == []


@given(terms_of(), st.integers(0, 800))
def test_next_bill_date_is_the_first_day_with_something_to_bill(terms: Terms, days: int) -> None:
    book = Book(terms)
    as_of = terms.start_date + timedelta(days=days)
    book.run(as_of)
    due = next_bill_date(book.terms, book.terms.billed_through_date)
    if due is None:
        assert terms.end_date is not None
        assert book.terms.billed_through_date == terms.end_date
    else:
        assert due > as_of
        assert billable_periods(book.terms, due - DAY) == []
        assert len(billable_periods(book.terms, due)) == 1


@given(terms_of(), st.integers(30, 800), st.data())
def test_voided_lines_are_billed_again_alike(terms: Terms, days: int, data: st.DataObject) -> None:
    book = Book(terms)
    as_of = terms.start_date + timedelta(days=days)
    lines = book.run(as_of)
    if not lines:
        return
    released = data.draw(st.lists(st.sampled_from(lines), min_size=1, unique=True))
    book.void(released)
    through = book.terms.billed_through_date
    due = next_bill_date(book.terms, through, [(line.start, line.end) for line in book.lines if line.end > through])
    assert due is not None
    assert due <= as_of
    assert book.run(as_of) == sorted(released, key=lambda line: line.start)
    assert_tiles(book.lines, terms.start_date, expected_through(terms, as_of))


@given(terms_of(partial_periods="PRORATE", end_date=None), st.lists(st.integers(1, 500), min_size=1, max_size=6))
def test_however_its_end_moves_a_period_costs_its_fee(terms: Terms, lengths: list[int]) -> None:
    book = Book(terms)
    far = terms.start_date + timedelta(days=1500)
    for length in sorted(lengths):
        book.terms = replace(book.terms, end_date=terms.start_date + timedelta(days=length))
        book.run(far)
    for low, high in full_periods(terms, terms.start_date + timedelta(days=max(lengths))):
        amount = sum(line.amount_minor for line in book.lines if low <= line.start < high)
        assert 0 <= amount <= terms.fee_minor
        if low >= terms.start_date and high <= terms.start_date + timedelta(days=max(lengths)):
            assert amount == terms.fee_minor


@given(terms_of(), st.integers(0, 800))
def test_amounts_are_shares_of_the_fee(terms: Terms, days: int) -> None:
    for part in billable_periods(terms, terms.start_date + timedelta(days=days)):
        whole = (part.start, part.end) == (part.full_start, part.full_end)
        if whole or terms.partial_periods == "FULL":
            assert part.amount_minor == terms.fee_minor
            assert not part.prorated
        else:
            assert 0 <= part.amount_minor <= terms.fee_minor
            assert part.prorated


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "Europe/Berlin", "America/New_York", "Pacific/Kiritimati"])
@pytest.mark.parametrize("end", ["2026-02-11", "2026-03-16", "2026-03-31", "2026-04-21"])
def test_seconds_of_months_of_thirty_days_are_counted_on_the_firms_clock(zone: str, end: str) -> None:
    """At midnights they are what days are, wherever the firm is."""

    def amounts(unit: ProrationUnit) -> list[int]:
        policy = ProrationPolicy(unit, DayCount.FIXED_30)
        terms = Terms(day("2026-01-21"), day(end), anchor="CALENDAR", proration=policy, fee_minor=30_000)
        return [part.amount_minor for part in billable_periods(terms, day("2026-06-01"), zone=ZoneInfo(zone))]

    assert amounts(ProrationUnit.SECOND) == amounts(ProrationUnit.DAY)
