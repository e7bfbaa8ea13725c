"""How long next terms are, what they cost, and where their periods begin."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dunwell_server.billing import packages
from dunwell_server.billing.model import (
    AutoRenew,
    BillingAnchor,
    BillingInterval,
    BillingTiming,
    Engagement,
    EngagementState,
    PartialPeriods,
    PricingMode,
)
from dunwell_server.billing.renewal import (
    AS_BEFORE,
    TermChoice,
    check_auto_renew,
    check_uplift,
    next_anchor_day,
    next_end,
    next_term,
    uplifted,
    whole_months,
)
from dunwell_server.kernel.calendar import days_in_month
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.proration import DEFAULT_POLICY, EndPolicy, ProrationPolicy

NOW = datetime(2026, 3, 10, tzinfo=UTC)
TERM_ID, NEXT_ID = UUID(int=1), UUID(int=2)
DAY = timedelta(days=1)

starts = st.dates(date(2000, 1, 1), date(2050, 12, 31))
lengths = st.integers(1, 36)


def term(start: date, end: date | None, anchor_day: int | None = None) -> Engagement:
    """A monthly engagement of 1,000.00."""
    return Engagement(
        id=TERM_ID, external_id="first", client_id=UUID(int=9), name="Books", description=None,
        pricing_mode=PricingMode.PACKAGE, currency_code="USD", start_date=start, end_date=end, state=EngagementState.ACTIVE,
        fee_minor=100_000, billing_interval=BillingInterval.MONTHLY, anchor=BillingAnchor.START_DATE,
        timing=BillingTiming.IN_ADVANCE, partial_periods=PartialPeriods.PRORATE, proration=DEFAULT_POLICY,
        line_description="Books", payment_terms_days=None, billed_through_date=start, next_bill_date=None, void_count=3,
        metadata={}, version=7, create_time=NOW, update_time=NOW, anchor_day=anchor_day,
    )  # fmt: skip


def following(old: Engagement, choice: TermChoice = AS_BEFORE) -> Engagement:
    return next_term(old, choice, NEXT_ID, NOW.date(), NOW)


def chain(first: Engagement, count: int) -> list[Engagement]:
    terms = [first]
    for _ in range(count):
        terms.append(following(terms[-1]))
    return terms


def day(text: str) -> date:
    return date.fromisoformat(text)


# Length


@pytest.mark.parametrize(
    ("start", "end", "anchor_day", "months"),
    [
        ("2026-01-01", "2027-01-01", None, 12),
        ("2026-01-31", "2026-02-28", None, 1),
        ("2026-01-31", "2026-03-31", None, 2),
        ("2026-01-31", "2026-03-30", None, None),
        ("2024-02-29", "2025-02-28", None, 12),
        ("2024-02-29", "2025-03-01", None, 12),  # counted to the day after the month that has no 29th
        ("2024-02-29", "2028-02-29", None, 48),
        ("2023-02-28", "2024-02-28", None, 12),
        ("2023-02-28", "2024-02-29", 29, 12),
        ("2023-02-28", "2024-02-28", 29, None),
        ("2026-01-30", "2026-03-01", None, 1),
        ("2026-01-28", "2026-03-01", None, None),
        ("2026-01-15", "2026-03-20", None, None),
        ("2026-01-15", "2026-01-16", None, None),
    ],
)
def test_whole_months(start: str, end: str, anchor_day: int | None, months: int | None) -> None:
    assert whole_months(day(start), day(end), anchor_day) == months


@pytest.mark.parametrize(
    ("start", "end", "edges"),
    [
        # Twelve months from a leap day: clamped in between, back on the 29th where there is one.
        ("2024-02-29", "2025-02-28", ["2026-02-28", "2027-02-28", "2028-02-29", "2029-02-28"]),
        ("2025-08-31", "2026-02-28", ["2026-08-31", "2027-02-28", "2027-08-31", "2028-02-29"]),
        ("2026-01-31", "2026-02-28", ["2026-03-31", "2026-04-30", "2026-05-31", "2026-06-30"]),
        ("2026-01-30", "2026-02-28", ["2026-03-30", "2026-04-30", "2026-05-30", "2026-06-30"]),
        ("2026-01-01", "2026-07-01", ["2027-01-01", "2027-07-01"]),
        ("2026-01-01", "2026-01-15", ["2026-01-29", "2026-02-12"]),
        # An end of month that the term did not aim beyond stays what it is.
        ("2026-01-28", "2026-02-28", ["2026-03-28", "2026-04-28"]),
        ("2024-02-29", "2025-03-01", ["2026-03-01", "2027-03-01", "2028-03-01"]),
    ],
)
def test_terms_as_long_as_the_first(start: str, end: str, edges: list[str]) -> None:
    terms = chain(term(day(start), day(end)), len(edges))
    assert [str(each.end_date) for each in terms[1:]] == edges


@given(starts, lengths, st.integers(1, 8))
def test_terms_of_whole_months_are_never_inherited_from_a_clamped_edge(start: date, months: int, count: int) -> None:
    """Every edge aims for the first term's own day, by an independent count of months."""
    terms = chain(term(start, _plus(start, months)), count)
    for n, each in enumerate(terms):
        assert (each.start_date, each.end_date) == (_plus(start, n * months), _plus(start, (n + 1) * months))


@given(starts, st.integers(1, 900), st.integers(1, 6))
def test_terms_follow_one_another_without_gap_or_overlap(start: date, days: int, count: int) -> None:
    terms = chain(term(start, start + timedelta(days=days)), count)
    for one, two in pairwise(terms):
        assert one.end_date == two.start_date
        assert two.end_date is not None
        assert two.end_date > two.start_date


@given(starts, st.integers(1, 900))
def test_the_aim_is_what_the_database_takes(start: date, days: int) -> None:
    old = term(start, start + timedelta(days=days))
    aim = next_anchor_day(old)
    begin = start + timedelta(days=days)
    if aim is not None:
        assert (begin + DAY).day == 1
        assert begin.day < aim <= 31
        assert aim >= 29


@given(starts, lengths, st.sampled_from(["MONTHLY", "QUARTERLY", "HALF_YEARLY", "YEARLY"]))
def test_periods_of_the_next_term_are_those_of_an_engagement_that_just_went_on(
    start: date, periods: int, interval: str
) -> None:
    """Renewing on the edge of a period changes no later edge."""
    months = {"MONTHLY": 1, "QUARTERLY": 3, "HALF_YEARLY": 6, "YEARLY": 12}[interval]
    end = _plus(start, months * periods)
    old = replace(term(start, end), billing_interval=BillingInterval(interval))
    as_of = _plus(start, months * (periods + 8))
    renewed = following(old, TermChoice(open_ended=True))
    split = packages.billable_periods(old, as_of) + packages.billable_periods(renewed, as_of)
    assert split == packages.billable_periods(replace(old, end_date=None), as_of)


def test_so_many_months() -> None:
    old = term(day("2026-01-31"), day("2026-02-28"))
    assert next_end(old, 1) == day("2026-03-31")
    assert next_end(old, 12) == day("2027-02-28")
    assert next_end(term(day("2026-01-15"), day("2026-02-20")), 2) == day("2026-04-20")


@pytest.mark.parametrize("months", [None, 1200])
def test_no_term_ends_beyond_the_calendar(months: int | None) -> None:
    with pytest.raises(DunwellError) as caught:
        next_end(term(day("2100-06-15"), day("2199-12-31")), months)
    assert caught.value.reason is Reason.PERIOD_INVALID


# Price


@pytest.mark.parametrize(
    ("fee", "percent", "expected"),
    [
        (100_000, "3.5", 103_500), (33_333, "2.5", 34_166), (100, "0.5", 101), (100, "-0.5", 100), (100, "0.4999", 100),
        (1, "50", 2), (1, "-50", 1), (100_000, "0", 100_000), (100_000, "-100", 0), (0, "1000", 0), (7, "1000", 77),
    ],
)  # fmt: skip
def test_uplift(fee: int, percent: str, expected: int) -> None:
    assert uplifted(fee, Decimal(percent)) == expected


@given(st.integers(0, 10**15), st.decimals(-100, 1000, places=4))
def test_an_uplift_is_rounded_once_half_away_from_zero(fee: int, percent: Decimal) -> None:
    exact = Fraction(fee) * (100 + Fraction(percent)) / 100
    found = uplifted(fee, percent)
    assert abs(found - exact) <= Fraction(1, 2)
    assert found >= exact or exact - found < Fraction(1, 2)


def test_an_uplift_beyond_64_bits_is_refused() -> None:
    with pytest.raises(DunwellError) as caught:
        uplifted(2**63 - 1, Decimal("0.0001"))
    assert caught.value.reason is Reason.AMOUNT_OUT_OF_RANGE


@pytest.mark.parametrize("percent", ["-100.0001", "1000.1", "0.00001"])
def test_uplifts_out_of_range(percent: str) -> None:
    with pytest.raises(DunwellError) as caught:
        check_uplift(Decimal(percent), PricingMode.PACKAGE, "uplift_percent")
    assert caught.value.reason is Reason.FIELD_INVALID


def test_hourly_work_has_no_fee_to_raise() -> None:
    check_uplift(Decimal(0), PricingMode.HOURLY, "uplift_percent")
    check_uplift(Decimal(5), PricingMode.MIXED, "uplift_percent")
    with pytest.raises(DunwellError):
        check_uplift(Decimal(5), PricingMode.HOURLY, "uplift_percent")


def test_only_a_term_with_an_end_renews_itself() -> None:
    check_auto_renew(None, PricingMode.PACKAGE, None)
    check_auto_renew(AutoRenew(30), PricingMode.PACKAGE, day("2027-01-01"))
    with pytest.raises(DunwellError):
        check_auto_renew(AutoRenew(30), PricingMode.PACKAGE, None)


# The term


def test_what_a_next_term_takes_over() -> None:
    old = replace(term(day("2025-01-01"), day("2026-01-01")), line_description="Monthly books", payment_terms_days=3)
    new = following(old, TermChoice(name="Books 2"))
    assert (new.id, new.external_id, new.renewed_from_id, new.version, new.void_count) == (NEXT_ID, None, TERM_ID, 1, 0)
    assert (new.name, new.line_description, new.payment_terms_days) == ("Books 2", "Monthly books", 3)
    assert (new.billed_through_date, new.next_bill_date) == (day("2026-01-01"), day("2026-01-01"))
    assert new.state is EngagementState.ACTIVE
    assert following(term(day("2024-01-01"), day("2025-01-01"))).state is EngagementState.ENDED


def test_an_end_must_come_after_the_beginning() -> None:
    old = term(day("2025-01-01"), day("2026-01-01"))
    with pytest.raises(DunwellError) as caught:
        following(old, TermChoice(end_date=day("2026-01-01")))
    assert (caught.value.reason, caught.value.field) == (Reason.PERIOD_INVALID, "end_date")
    inclusive = replace(old, proration=ProrationPolicy(end=EndPolicy.INCLUSIVE))
    assert following(inclusive, TermChoice(end_date=day("2026-01-01"))).end_date == day("2026-01-02")


@given(starts, st.integers(1, 400), st.integers(1, 400))
def test_what_is_billed_over_a_chain_is_billed_once(start: date, first: int, second: int) -> None:
    """Every day of both terms is covered by exactly one part."""
    old = term(start, start + timedelta(days=first))
    new = following(old, TermChoice(end_date=start + timedelta(days=first + second)))
    assume(new.end_date is not None)
    end = start + timedelta(days=first + second)
    parts = [*packages.billable_periods(old, end), *packages.billable_periods(new, end)]
    assert [part.start for part in parts] == [start, *(part.end for part in parts[:-1])]
    assert parts[-1].end == end


def _plus(start: date, months: int) -> date:
    """Months later, on the start's day or the last of a shorter month."""
    year, month = divmod(start.year * 12 + start.month - 1 + months, 12)
    return date(year, month + 1, min(start.day, days_in_month(year, month + 1)))
