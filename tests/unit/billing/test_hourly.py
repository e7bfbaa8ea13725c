"""Time as invoice lines: rates, increments, groups, included hours, roll-over, caps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dunwell_server.billing import hourly, packages
from dunwell_server.billing.hourly import BillableTime, TimeCharges, TimeUsage
from dunwell_server.billing.model import HourlyTerms, LineKind, RoleRate, TimeGrouping, TimeRounding
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.proration import DEFAULT_POLICY, ProrationPolicy

START = date(2026, 1, 1)
AGREED = UUID(int=7)
UNUSED = TimeUsage()
UP, NEAREST, DOWN = TimeRounding.UP, TimeRounding.NEAREST, TimeRounding.DOWN


@dataclass(frozen=True)
class Agreed:
    """An engagement, as these rules read one."""

    pricing_mode: str = "HOURLY"
    end_date: date | None = None
    billing_interval: str = "MONTHLY"
    start_date: date = START
    anchor: str = "START_DATE"
    anchor_day: int | None = None
    currency_code: str = "USD"
    fee_minor: int = 0
    timing: str = "IN_ARREARS"
    partial_periods: str = "PRORATE"
    proration: ProrationPolicy = field(default=DEFAULT_POLICY)
    line_description: str = "Work"
    billed_through_date: date = START
    id: UUID = AGREED


HOURLY = Agreed()
MIXED = Agreed(pricing_mode="MIXED")
PLAIN = HourlyTerms(Decimal(60))


def worked(number: int, day: str, minutes: int, **fields: object) -> BillableTime:
    entry = BillableTime(UUID(int=number), "Ada", None, date.fromisoformat(day), minutes, None, None)
    return entry._replace(**fields)  # type: ignore[arg-type]


def charge(
    *entries: BillableTime,
    terms: HourlyTerms = PLAIN,
    engagement: Agreed = HOURLY,
    usage: TimeUsage = UNUSED,
    until: date = date(2027, 1, 1),
) -> TimeCharges:
    return hourly.charge(engagement, terms, entries, usage, until)


def net(charged: TimeCharges) -> int:
    return sum(line.amount_minor for line in charged.lines) - sum(one.amount_minor for one in charged.discounts)


# Rates and rounding


def test_the_rate_is_the_entrys_own_then_the_roles_on_that_day_then_the_default() -> None:
    terms = HourlyTerms(
        Decimal(100),
        (
            RoleRate("partner", Decimal(300), None, date(2026, 2, 1)),
            RoleRate("partner", Decimal(350), date(2026, 2, 1), None),
            RoleRate("junior", Decimal(50), date(2026, 3, 1), date(2026, 4, 1)),
        ),
    )
    rate = hourly.rate_of
    assert rate(terms, "partner", date(2026, 1, 31)) == 300
    assert rate(terms, "partner", date(2026, 2, 1)) == 350
    assert rate(terms, "junior", date(2026, 2, 28)) == 100
    assert rate(terms, "junior", date(2026, 3, 31)) == 50
    assert rate(terms, "junior", date(2026, 4, 1)) == 100
    assert rate(terms, None, date(2026, 3, 31)) == 100
    assert rate(terms, "partner", date(2026, 2, 1), Decimal(0)) == 0


@pytest.mark.parametrize(
    ("minutes", "increment", "rounding", "expected"),
    [
        (50, 6, UP, 54), (50, 6, NEAREST, 48), (50, 6, DOWN, 48), (51, 6, NEAREST, 54), (54, 6, UP, 54),
        (0, 6, UP, 0), (1, 15, UP, 15), (1, 15, DOWN, 0), (7, 15, NEAREST, 0), (8, 15, NEAREST, 15), (61, 1, UP, 61),
    ],
)  # fmt: skip
def test_minutes_are_rounded_to_the_increment(
    minutes: int, increment: int, rounding: TimeRounding, expected: int
) -> None:
    assert hourly.rounded_minutes(minutes, increment, rounding) == expected


@pytest.mark.parametrize(
    ("minutes", "rate", "currency", "expected"),
    [
        (50, "99.99", "USD", 8333),  # 83.325 is half a cent above
        (1, "0.30", "USD", 1),  # half a cent
        (90, "1000", "JPY", 1500),
        (20, "10", "KWD", 3333),
        (100, "123.456789", "USD", 20576),
        (0, "500", "USD", 0),
    ],
)
def test_amounts_are_rounded_once_half_away_from_zero(minutes: int, rate: str, currency: str, expected: int) -> None:
    assert hourly.amount_of(minutes, Decimal(rate), currency) == expected


def test_the_sum_is_rounded_not_each_entry() -> None:
    terms = replace(PLAIN, increment_minutes=6, rounding=UP)
    charged = charge(worked(1, "2026-01-05", 10), worked(2, "2026-01-06", 10), worked(3, "2026-01-07", 10), terms=terms)
    (line,) = charged.lines
    assert (line.quantity, line.amount_minor, line.unit, line.kind) == (Decimal("0.5"), 3000, "hour", LineKind.TIME)
    assert [entry.minutes for entry in charged.entries] == [10, 10, 10]
    each = charge(
        worked(1, "2026-01-05", 10), worked(2, "2026-01-06", 10), worked(3, "2026-01-07", 10),
        terms=replace(terms, grouping=TimeGrouping.ENTRY),
    )  # fmt: skip
    assert [line.amount_minor for line in each.lines] == [1200, 1200, 1200]


def test_lines_are_by_period_group_and_rate() -> None:
    entries = (
        worked(1, "2026-01-05", 60, role="senior"),
        worked(2, "2026-02-05", 60, role="senior"),
        worked(3, "2026-01-06", 60, role="junior", person="Bob"),
        worked(4, "2026-01-07", 60, role="senior", rate=Decimal(80)),
        worked(5, "2026-01-08", 60, role="senior", person="Bob"),
    )
    by_role = charge(*entries)
    assert [(line.description, line.unit_price, line.quantity) for line in by_role.lines] == [
        ("Work: junior (2026-01-01 to 2026-01-31)", Decimal(60), Decimal(1)),
        ("Work: senior (2026-01-01 to 2026-01-31)", Decimal(60), Decimal(2)),
        ("Work: senior (2026-01-01 to 2026-01-31)", Decimal(80), Decimal(1)),
        ("Work: senior (2026-02-01 to 2026-02-28)", Decimal(60), Decimal(1)),
    ]
    by_person = charge(*entries, terms=replace(PLAIN, grouping=TimeGrouping.PERSON))
    assert [line.description[:9] for line in by_person.lines] == ["Work: Ada", "Work: Ada", "Work: Bob", "Work: Ada"]
    by_entry = charge(*entries, terms=replace(PLAIN, grouping=TimeGrouping.ENTRY))
    assert [line.line_no for line in by_entry.lines] == [1, 2, 3, 4, 5]
    assert [entry.entry_id.int for entry in by_entry.entries] == [1, 3, 4, 5, 2]


def test_a_line_of_one_entry_says_what_was_done() -> None:
    terms = replace(PLAIN, grouping=TimeGrouping.ENTRY)
    charged = charge(worked(1, "2026-01-05", 60, description="x" * 600), worked(2, "2026-01-06", 5), terms=terms)
    first, second = (line.description for line in charged.lines)
    assert first.startswith("Work: Ada, xxx")
    assert first.endswith("x (2026-01-05)")
    assert len(first) == 500
    assert second == "Work: Ada (2026-01-06)"


def test_billing_in_the_middle_of_a_period_ends_the_line_there() -> None:
    charged = charge(worked(1, "2026-01-05", 60), until=date(2026, 1, 16))
    assert (charged.lines[0].period_start, charged.lines[0].period_end) == (START, date(2026, 1, 16))
    assert charged.periods[0][:2] == (START, date(2026, 1, 16))


def test_work_beyond_an_end_that_has_moved_counts_to_the_last_period() -> None:
    ended = Agreed(end_date=date(2026, 2, 10))
    charged = charge(worked(1, "2026-03-05", 60), worked(2, "2026-02-03", 60), engagement=ended)
    (line,) = charged.lines
    assert (line.period_start, line.period_end, line.quantity) == (date(2026, 2, 1), date(2026, 2, 10), Decimal(2))


def test_more_entries_than_lines_are_refused_when_each_has_its_own() -> None:
    many = [worked(number, "2026-01-05", 1) for number in range(1, packages.MAX_LINES + 2)]
    with pytest.raises(DunwellError) as caught:
        charge(*many, terms=replace(PLAIN, grouping=TimeGrouping.ENTRY))
    assert caught.value.reason is Reason.AMOUNT_OUT_OF_RANGE
    assert len(charge(*many).lines) == 1


# Periods


@pytest.mark.parametrize(
    ("interval", "end", "as_of", "edge"),
    [
        ("MONTHLY", None, "2026-01-31", None),
        ("MONTHLY", None, "2026-02-01", "2026-02-01"),
        ("MONTHLY", None, "2026-04-30", "2026-04-01"),
        ("MONTHLY", "2026-02-10", "2026-02-09", "2026-02-01"),
        ("MONTHLY", "2026-02-10", "2026-02-10", "2026-02-10"),
        ("MONTHLY", "2026-02-10", "2027-01-01", "2026-02-10"),
        ("ONE_TIME", None, "2030-01-01", None),
        ("ONE_TIME", "2026-02-10", "2026-02-09", None),
        ("ONE_TIME", "2026-02-10", "2026-02-10", "2026-02-10"),
        ("WEEKLY", None, "2026-01-09", "2026-01-08"),
        ("MONTHLY", None, "2025-06-01", None),
    ],
)
def test_a_run_bills_the_time_of_periods_that_have_ended(
    interval: str, end: str | None, as_of: str, edge: str | None
) -> None:
    agreed = Agreed(billing_interval=interval, end_date=None if end is None else date.fromisoformat(end))
    found = hourly.time_edge(agreed, date.fromisoformat(as_of))
    assert found == (None if edge is None else date.fromisoformat(edge))


def test_the_next_bill_date_of_hourly_work_is_the_end_of_its_period() -> None:
    agreed = Agreed(end_date=date(2026, 3, 10))
    edges = [START, date(2026, 2, 1), date(2026, 3, 1), date(2026, 3, 10)]
    following = [packages.next_bill_date(agreed, edge) for edge in edges]
    assert following == [date(2026, 2, 1), date(2026, 3, 1), date(2026, 3, 10), None]
    once = Agreed(billing_interval="ONE_TIME")
    assert packages.next_bill_date(once, START) is None
    assert packages.next_bill_date(replace(once, end_date=date(2026, 3, 10)), START) == date(2026, 3, 10)


def test_a_mixed_engagement_in_advance_is_looked_at_once_more_on_its_end() -> None:
    end = date(2026, 3, 1)
    agreed = replace(MIXED, timing="IN_ADVANCE", end_date=end)
    assert packages.next_bill_date(agreed, date(2026, 2, 1), as_of=START) == date(2026, 2, 1)
    assert packages.next_bill_date(agreed, end, as_of=date(2026, 2, 1)) == end
    assert packages.next_bill_date(agreed, end) == end
    assert packages.next_bill_date(agreed, end, as_of=end) is None
    assert packages.next_bill_date(replace(agreed, pricing_mode="PACKAGE"), end) is None


# Included hours


def test_included_hours_are_used_oldest_entry_first_and_the_rest_is_overage() -> None:
    terms = replace(PLAIN, included_minutes=600, increment_minutes=15)
    charged = charge(
        worked(3, "2026-01-20", 100, role="b"), worked(1, "2026-01-02", 500), worked(2, "2026-01-10", 160, role="a"),
        terms=terms, engagement=MIXED,
    )  # fmt: skip
    assert [(line.kind, line.quantity, line.amount_minor) for line in charged.lines] == [
        (LineKind.TIME, 10, 0),
        (LineKind.OVERAGE, 1, 6000),
        (LineKind.OVERAGE, Decimal("1.75"), 10500),
    ]
    assert charged.lines[0].description == "Work: included hours used (2026-01-01 to 2026-01-31)"
    held = {entry.entry_id.int: (entry.line_no, entry.minutes, entry.included_minutes) for entry in charged.entries}
    assert held == {1: (1, 500, 500), 2: (2, 160, 100), 3: (3, 100, 0)}
    assert [tuple(use) for use in charged.uses] == [(START, START, 600, 600)]


def test_unused_hours_roll_over_the_oldest_first_and_expire() -> None:
    terms = replace(PLAIN, included_minutes=600, rollover_periods=1)
    january, february, march, april = (date(2026, month, 1) for month in (1, 2, 3, 4))
    charged = charge(
        worked(1, "2026-01-10", 240), worked(2, "2026-02-10", 700), worked(3, "2026-03-10", 1000),
        worked(4, "2026-04-10", 10), terms=terms, engagement=MIXED,
    )  # fmt: skip
    assert [tuple(use)[:3] for use in charged.uses] == [
        (january, january, 240),
        (february, january, 360),
        (february, february, 340),
        (march, february, 260),
        (march, march, 600),
        (april, april, 10),
    ]
    (overage,) = (line for line in charged.lines if line.kind is LineKind.OVERAGE)
    assert (overage.period_start, overage.amount_minor) == (march, 14_000)
    none = charge(worked(1, "2026-02-10", 700), terms=replace(terms, rollover_periods=0), engagement=MIXED)
    assert sum(use.minutes for use in none.uses) == 600


def test_what_other_invoices_have_used_is_not_there_any_more() -> None:
    terms = replace(PLAIN, included_minutes=600)
    usage = TimeUsage(used={START: 550})
    charged = charge(worked(1, "2026-01-10", 100), terms=terms, engagement=MIXED, usage=usage)
    assert [line.amount_minor for line in charged.lines] == [0, 5000]
    beyond = TimeUsage(used={START: 700})
    assert charge(worked(1, "2026-01-10", 100), terms=terms, engagement=MIXED, usage=beyond).uses == ()


def test_a_partial_period_includes_its_share() -> None:
    terms = replace(PLAIN, included_minutes=600)
    half = replace(MIXED, end_date=date(2026, 2, 15))
    charged = charge(worked(1, "2026-02-10", 1000), terms=terms, engagement=half)
    assert charged.uses[0].granted_minutes == 300
    full = replace(half, partial_periods="FULL")
    assert charge(worked(1, "2026-02-10", 1000), terms=terms, engagement=full).uses[0].minutes == 600
    calendar = replace(MIXED, start_date=date(2026, 1, 16), anchor="CALENDAR")
    (use,) = charge(worked(1, "2026-01-20", 1000), terms=terms, engagement=calendar).uses
    assert (use.grant_start, use.minutes) == (date(2026, 1, 16), 310)  # 16 of 31 days of 600, rounded


def test_a_period_whose_fee_is_billed_beyond_the_end_includes_what_that_fee_pays_for() -> None:
    terms = replace(PLAIN, included_minutes=600)
    ended = replace(MIXED, timing="IN_ADVANCE", end_date=date(2026, 2, 15), billed_through_date=date(2026, 3, 1))
    (use,) = charge(worked(1, "2026-02-10", 1000), terms=terms, engagement=ended).uses
    assert (use.minutes, use.granted_minutes) == (600, 600)
    renewed = replace(ended, billed_through_date=date(2026, 2, 15))
    assert charge(worked(1, "2026-02-10", 1000), terms=terms, engagement=renewed).uses[0].granted_minutes == 300
    shifted = replace(ended, billed_through_date=date(2026, 2, 22))  # billed to an end that has since come closer
    assert charge(worked(1, "2026-02-10", 1000), terms=terms, engagement=shifted).uses[0].granted_minutes == 450


# Caps


def test_what_is_above_the_cap_is_a_discount_on_the_lines() -> None:
    terms = replace(PLAIN, period_cap_minor=10_000)
    charged = charge(worked(1, "2026-01-05", 120, role="a"), worked(2, "2026-01-05", 60, role="b"), terms=terms)
    assert [line.amount_minor for line in charged.lines] == [12_000, 6_000]
    assert [(one.line_no, one.name, one.amount_minor, one.fixed_minor) for one in charged.discounts] == [
        (1, "Not-to-exceed cap", 5_333, 5_333),
        (2, "Not-to-exceed cap", 2_667, 2_667),
    ]
    assert net(charged) == 10_000
    assert (charged.periods[0].amount_minor, charged.periods[0].capped_minor) == (18_000, 8_000)


def test_caps_count_what_was_billed_before() -> None:
    terms = replace(PLAIN, period_cap_minor=10_000, total_cap_minor=15_000)
    usage = TimeUsage(billed={START: 7_000})
    entries = worked(1, "2026-01-05", 120), worked(2, "2026-02-05", 120)
    charged = charge(*entries, terms=terms, usage=usage)
    assert [part.amount_minor - part.capped_minor for part in charged.periods] == [3_000, 5_000]
    over = TimeUsage(billed={START: 20_000})
    assert net(charge(*entries, terms=terms, usage=over)) == 0


def test_charges_follow_other_lines() -> None:
    charged = charge(worked(1, "2026-01-05", 120), terms=replace(PLAIN, period_cap_minor=1)).behind(3, 2)
    assert (charged.lines[0].line_no, charged.entries[0].line_no) == (4, 4)
    assert (charged.discounts[0].discount_no, charged.discounts[0].line_no) == (3, 4)


# The laws


days = st.integers(0, 400).map(lambda number: START + timedelta(days=number))
minute_counts = st.integers(0, 900)
entries_lists = st.lists(
    st.tuples(days, minute_counts, st.sampled_from([None, "a", "b"]), st.sampled_from(["Ada", "Bob"])), max_size=25
).map(
    lambda rows: [
        BillableTime(UUID(int=number + 1), person, role, day, minutes, None, None)
        for number, (day, minutes, role, person) in enumerate(rows)
    ]
)
all_terms = st.builds(
    HourlyTerms,
    default_rate=st.integers(0, 50_000).map(lambda number: Decimal(number) / 100),
    role_rates=st.just((RoleRate("a", Decimal("33.33"), date(2026, 2, 10), None),)),
    increment_minutes=st.sampled_from([1, 6, 15, 60]),
    rounding=st.sampled_from(list(TimeRounding)),
    grouping=st.sampled_from(list(TimeGrouping)),
    included_minutes=st.sampled_from([0, 60, 600]),
    rollover_periods=st.integers(0, 4),
    period_cap_minor=st.none() | st.integers(0, 100_000),
    total_cap_minor=st.none() | st.integers(0, 300_000),
)
agreements = st.builds(
    Agreed,
    pricing_mode=st.sampled_from(["HOURLY", "MIXED"]),
    end_date=st.none() | st.integers(200, 420).map(lambda number: START + timedelta(days=number)),
    billing_interval=st.sampled_from(["WEEKLY", "MONTHLY", "QUARTERLY"]),
    anchor=st.sampled_from(["START_DATE", "CALENDAR"]),
    start_date=st.sampled_from([START, date(2025, 12, 31), date(2025, 11, 17)]),
    currency_code=st.sampled_from(["USD", "JPY", "KWD"]),
)


@settings(max_examples=200, deadline=None)
@given(entries_lists, all_terms, agreements)
def test_every_minute_is_on_one_line_and_no_grant_or_cap_is_exceeded(
    entries: list[BillableTime], terms: HourlyTerms, engagement: Agreed
) -> None:
    charged = hourly.charge(engagement, terms, entries, TimeUsage(), date(2100, 1, 1))
    assert sorted(entry.entry_id.int for entry in charged.entries) == [entry.id.int for entry in entries]
    assert sum(entry.minutes for entry in charged.entries) == sum(entry.minutes for entry in entries)
    priced = {line.line_no for line in charged.lines if "included hours" not in line.description}
    assert priced <= {entry.line_no for entry in charged.entries} <= {line.line_no for line in charged.lines}
    included = sum(use.minutes for use in charged.uses)
    assert included == sum(entry.included_minutes for entry in charged.entries)
    for start in {use.grant_start for use in charged.uses}:
        uses = [use for use in charged.uses if use.grant_start == start]
        assert sum(use.minutes for use in uses) <= uses[0].granted_minutes <= terms.included_minutes
        first, _ = packages.numbered_period(engagement, start)
        for use in uses:
            later, _ = packages.numbered_period(engagement, use.period_start)
            assert 0 <= later - first <= terms.rollover_periods
    if terms.period_cap_minor is not None:
        assert all(part.amount_minor - part.capped_minor <= terms.period_cap_minor for part in charged.periods)
    if terms.total_cap_minor is not None:
        assert net(charged) <= terms.total_cap_minor
    assert sum(part.amount_minor for part in charged.periods) == sum(line.amount_minor for line in charged.lines)
    assert sum(part.capped_minor for part in charged.periods) == sum(one.amount_minor for one in charged.discounts)
    by_line = {line.line_no: line.amount_minor for line in charged.lines}
    assert all(0 < one.amount_minor <= by_line[one.line_no or 0] for one in charged.discounts)


@settings(max_examples=200, deadline=None)
@given(entries_lists, all_terms, agreements)
def test_period_by_period_comes_to_the_same_as_all_at_once(
    entries: list[BillableTime], terms: HourlyTerms, engagement: Agreed
) -> None:
    """Everything is approved in time: each run bills what was worked before its edge and is not billed yet."""
    last = date(2028, 1, 1)
    at_once = hourly.charge(engagement, terms, entries, TimeUsage(), last)
    left, used, billed = list(entries), dict[date, int](), dict[date, int]()
    parts: list[TimeCharges] = []
    edge = engagement.start_date
    while left:
        edge = hourly.period_end(engagement, edge)
        ended = engagement.end_date is not None and edge >= engagement.end_date
        now = [entry for entry in left if ended or entry.work_date < edge]
        left = [entry for entry in left if entry not in now]
        if now:
            part = hourly.charge(engagement, terms, now, TimeUsage(dict(used), dict(billed)), edge)
            parts.append(part)
            for use in part.uses:
                used[use.grant_start] = used.get(use.grant_start, 0) + use.minutes
            for period in part.periods:
                billed[period.start] = billed.get(period.start, 0) + period.amount_minor - period.capped_minor
    assert [(line.description, line.quantity, line.amount_minor) for part in parts for line in part.lines] == [
        (line.description, line.quantity, line.amount_minor) for line in at_once.lines
    ]
    assert sum(net(part) for part in parts) == net(at_once)
    assert [use for part in parts for use in part.uses] == list(at_once.uses)


@given(st.integers(0, 10**6), st.integers(1, 10**9), st.sampled_from(["USD", "JPY", "KWD"]))
def test_an_amount_is_the_nearest_to_the_exact_one(minutes: int, thousandths: int, currency: str) -> None:
    exponent = {"USD": 2, "JPY": 0, "KWD": 3}[currency]
    exact = Fraction(minutes * thousandths * 10**exponent, 60 * 1000)
    amount = hourly.amount_of(minutes, Decimal(thousandths) / 1000, currency)
    assert abs(amount - exact) <= Fraction(1, 2)
    assert amount >= exact or exact - amount != Fraction(1, 2)
