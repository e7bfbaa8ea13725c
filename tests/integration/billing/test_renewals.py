"""Renewing engagements: the chain of terms, its limits in the database, ends that move, terms that go on."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from dunwell_server.billing import packages
from dunwell_server.billing.model import (
    AutoRenew,
    BillingInterval,
    BillingTiming,
    Engagement,
    EngagementState,
    HourlyTerms,
    InvoiceLine,
    PricingMode,
    RoleRate,
    TimeGrouping,
    TimeRounding,
)
from dunwell_server.billing.renewal import TermChoice
from dunwell_server.billing.service import clients, engagements, renewals
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.proration import EndPolicy, ProrationPolicy
from tests.integration.billing.book import Book, field_of
from tests.integration.billing.conftest import MakeBook

JANUARY, JULY = date(2026, 1, 1), date(2026, 7, 1)
NEXT_YEAR = date(2027, 1, 1)
LINKS = {"renewed_to_id", "version", "update_time"}


async def year(book: Book, **fields: Any) -> Engagement:
    """The engagement of 2026, seen in March."""
    return await book.engagement(await book.client(), **{"end_date": NEXT_YEAR, **fields})


async def renew(book: Book, old: Engagement, **choice: Any) -> Engagement:
    term, _ = await book.do(renewals.renew_engagement, old.id, TermChoice(**choice))
    return term


async def read(book: Book, engagement: Engagement) -> Engagement:
    return await book.see(engagements.get_engagement, engagement.id)


async def to_bill(book: Book, engagement: Engagement, as_of: date) -> list[InvoiceLine]:
    """What a run as of that day bills of the engagement as it is now."""
    now = await read(book, engagement)
    if now.next_bill_date is None or now.next_bill_date > as_of:
        return []
    return packages.package_lines(now, now.id, as_of)


def differences(one: Engagement, other: Engagement) -> set[str]:
    return {name for name in Engagement.__dataclass_fields__ if getattr(one, name) != getattr(other, name)}


# By hand


async def test_the_next_term_begins_the_day_the_old_one_ends_and_has_its_terms(book: Book) -> None:
    old = await year(
        book, external_id="y-26", description="All books", payment_terms_days=7, metadata={"a": "b"},
        auto_renew=AutoRenew(30, None, Decimal("2.5")), line_description="Books",
    )  # fmt: skip
    term = await renew(book, old)
    assert (term.start_date, term.end_date) == (NEXT_YEAR, date(2028, 1, 1))
    assert (term.billed_through_date, term.next_bill_date, term.state) == (NEXT_YEAR, NEXT_YEAR, "ACTIVE")
    assert (term.renewed_from_id, term.renewed_to_id, term.renewal_notice_time) == (old.id, None, None)
    assert differences(old, term) == {
        "id", "external_id", "start_date", "end_date", "billed_through_date", "next_bill_date", "renewed_from_id",
    }  # fmt: skip
    after = await read(book, old)
    assert after.renewed_to_id == term.id
    assert differences(old, after) <= LINKS
    assert await book.journal(old.id) == (
        ["engagement_created", "engagement_renewed"],
        ["engagement.created", "engagement.renewed"],
    )
    assert await book.journal(term.id) == (["engagement_created"], ["engagement.created"])


async def test_the_next_term_may_differ(book: Book) -> None:
    old = await year(book, fee_minor=33_335)
    term = await renew(book, old, months=6, uplift_percent=Decimal("2.5"), name="Books 27", external_id="y-27")
    assert (term.end_date, term.fee_minor, term.name, term.external_id) == (
        date(2027, 7, 1),
        34_168,
        "Books 27",
        "y-27",
    )
    assert term.line_description == "Books 27"
    last = await renew(book, term, end_date=date(2027, 9, 16), fee_minor=1, fee_currency="USD")
    assert (last.start_date, last.end_date, last.fee_minor) == (date(2027, 7, 1), date(2027, 9, 16), 1)
    # 77 days are no whole months: the next term has as many days.
    assert (await renew(book, last)).end_date == date(2027, 12, 2)


async def test_an_inclusive_end_is_the_last_day(book: Book) -> None:
    old = await year(book, end_date=date(2026, 12, 31), proration=ProrationPolicy(end=EndPolicy.INCLUSIVE))
    assert (await renew(book, old, end_date=date(2027, 12, 31))).end_date == date(2028, 1, 1)


async def test_a_next_term_may_be_open_ended(book: Book) -> None:
    term = await renew(book, await year(book, auto_renew=AutoRenew(30)), open_ended=True)
    assert (term.end_date, term.auto_renew) == (None, None)


async def test_month_ends_spring_back_in_the_next_term(book: Book) -> None:
    old = await book.engagement(await book.client(), start_date=date(2025, 8, 31), end_date=date(2026, 2, 28))
    term = await renew(book, old)
    assert (term.anchor_day, term.end_date) == (31, date(2026, 8, 31))
    lines = await to_bill(book, term, date(2026, 5, 30))
    assert [line.period_start for line in lines] == [date(2026, 2, 28), date(2026, 3, 31), date(2026, 4, 30)]
    assert (await renew(book, term)).anchor_day is None


async def test_a_term_that_is_over_is_renewed_from_its_end_and_what_was_missed_is_billed(book: Book) -> None:
    old = await book.engagement(await book.client(), start_date=date(2025, 1, 1), end_date=JANUARY)
    assert old.state is EngagementState.ENDED
    term = await renew(book, old)
    assert (term.start_date, term.end_date, term.state) == (JANUARY, NEXT_YEAR, EngagementState.ACTIVE)
    missed = await to_bill(book, term, date(2026, 3, 10))
    assert [line.period_start.month for line in missed if line.period_start] == [1, 2, 3]
    late = await book.engagement(await book.client(), start_date=date(2024, 1, 1), end_date=date(2025, 1, 1))
    assert (await renew(book, late)).state is EngagementState.ENDED


async def test_what_cannot_be_renewed_says_why(book: Book) -> None:
    client = await book.client()
    endless = await book.engagement(client)
    error = await book.refused(renewals.renew_engagement, endless.id)
    assert (error.reason, error.metadata["allowed"]) == (Reason.STATE_CONFLICT, "EndEngagement")
    old = await book.engagement(client, end_date=NEXT_YEAR)
    term = await renew(book, old)
    assert (await book.refused(renewals.renew_engagement, old.id)).reason is Reason.STATE_CONFLICT
    assert (await book.refused(renewals.renew_engagement, uuid4())).reason is Reason.RESOURCE_NOT_FOUND
    assert (await book.refused(renewals.renew_engagement, term.id, expected_version=7)).reason is Reason.ETAG_MISMATCH
    for choice, reason, field in (
        (TermChoice(end_date=date(2028, 1, 1)), Reason.PERIOD_INVALID, "end_date"),
        (TermChoice(months=1200, uplift_percent=Decimal(-101)), Reason.FIELD_INVALID, "uplift_percent"),
        (TermChoice(uplift_percent=Decimal("0.00001")), Reason.FIELD_INVALID, "uplift_percent"),
        (TermChoice(fee_minor=1, fee_currency="EUR"), Reason.CURRENCY_MISMATCH, "fee.currency_code"),
        (TermChoice(fee_minor=-1), Reason.FIELD_INVALID, "fee.amount_minor"),
    ):
        error = await book.refused(renewals.renew_engagement, term.id, choice)
        assert (error.reason, field_of(error)) == (reason, field)
    huge = await book.engagement(client, end_date=NEXT_YEAR, fee_minor=2**63 - 1)
    error = await book.refused(renewals.renew_engagement, huge.id, TermChoice(uplift_percent=Decimal(1)))
    assert error.reason is Reason.AMOUNT_OUT_OF_RANGE
    far = await book.engagement(client, end_date=date(2199, 1, 1))
    assert (await book.refused(renewals.renew_engagement, far.id)).reason is Reason.PERIOD_INVALID
    await book.engagement(client, external_id="taken")
    error = await book.refused(renewals.renew_engagement, term.id, TermChoice(external_id="taken"))
    assert error.reason is Reason.EXTERNAL_ID_TAKEN


async def test_an_archived_client_gets_no_next_term(book: Book) -> None:
    old = await year(book)
    await book.sql("UPDATE client SET state = 'ARCHIVED' WHERE id = %s", old.client_id)
    assert (await book.refused(renewals.renew_engagement, old.id)).reason is Reason.STATE_CONFLICT
    assert (await book.refused(renewals.reopen_engagement, old.id)).reason is Reason.STATE_CONFLICT
    assert (await book.see(clients.get_client, old.client_id)).state == "ARCHIVED"


async def test_a_yearly_engagement_is_not_renewed_where_yearly_billing_is_off(make_book: MakeBook) -> None:
    book = await make_book()
    old = await year(book, billing_interval=BillingInterval.YEARLY)
    other = await make_book(features={"enable_annual_billing": False})
    monthly = await year(other)
    assert (await renew(other, monthly)).start_date == NEXT_YEAR
    await other.sql("UPDATE engagement SET billing_interval = 'YEARLY' WHERE id = %s", monthly.id)
    term = await other.sql("SELECT renewed_to_id AS id FROM engagement WHERE id = %s", monthly.id)
    await other.sql("UPDATE engagement SET billing_interval = 'YEARLY' WHERE id = %s", term[0]["id"])
    assert (await other.refused(renewals.renew_engagement, term[0]["id"])).reason is Reason.FEATURE_DISABLED
    assert (await renew(book, old)).billing_interval is BillingInterval.YEARLY


async def test_two_renewals_at_once_make_one_term(book: Book) -> None:
    old = await year(book)
    results = await asyncio.gather(
        *(book.do(renewals.renew_engagement, old.id) for _ in range(6)), return_exceptions=True
    )
    assert sum(not isinstance(result, BaseException) for result in results) == 1
    refusals = [result for result in results if isinstance(result, DunwellError)]
    assert {refusal.reason for refusal in refusals} == {Reason.STATE_CONFLICT}
    assert len(refusals) == 5
    assert len(await book.sql("SELECT 1 FROM engagement WHERE client_id = %s", old.client_id)) == 2


# What the database refuses


async def attacked(book: Book, statement: str, *params: Any) -> str:
    with pytest.raises(psycopg.errors.IntegrityError) as caught:
        await book.sql(statement, *params)
    return caught.value.diag.constraint_name or ""


async def link(book: Book, one: UUID, other: UUID | None) -> str:
    return await attacked(book, "UPDATE engagement SET renewed_to_id = %s WHERE id = %s", other, one)


async def test_the_database_keeps_the_chain(book: Book) -> None:
    client = await book.client()
    old = await book.engagement(client, end_date=NEXT_YEAR)
    follower = await book.engagement(client, start_date=NEXT_YEAR)
    gap = await book.engagement(client, start_date=date(2027, 1, 2))
    overlap = await book.engagement(client, start_date=date(2026, 12, 31))
    foreign = await book.engagement(await book.client(), start_date=NEXT_YEAR)
    endless = await book.engagement(client)
    for wrong in (gap, overlap, foreign):
        assert await link(book, old.id, wrong.id) == "engagement_renewal"
    assert await link(book, old.id, old.id) == "engagement_renewal_check"
    assert await link(book, endless.id, follower.id) == "engagement_renewal_check"
    assert await link(book, old.id, uuid4()) == "engagement_firm_id_renewed_to_id_fkey"
    await book.sql("UPDATE engagement SET renewed_to_id = %s WHERE id = %s", follower.id, old.id)
    twin = await book.engagement(client, end_date=NEXT_YEAR)
    assert await link(book, twin.id, follower.id) == "engagement_renewed_to_key"
    for change in ("end_date = '2026-12-31'", "end_date = NULL", "start_date = '2025-12-31'"):
        name = await attacked(book, f"UPDATE engagement SET {change} WHERE id = %s", old.id)
        assert name in ("engagement_renewal", "engagement_renewal_check", "engagement_fixed")
    name = await attacked(book, "UPDATE engagement SET start_date = '2027-01-05' WHERE id = %s", follower.id)
    assert name == "engagement_fixed"
    withdraw = "UPDATE engagement SET end_date = start_date, state = 'ENDED', next_bill_date = NULL WHERE id = %s"
    assert await attacked(book, withdraw, follower.id) == "engagement_renewal"
    name = await attacked(
        book, "UPDATE engagement SET end_date = start_date, state = 'ENDED' WHERE id = %s", endless.id
    )
    assert name == "engagement_dates_check"
    for days, months, uplift in (
        (-1, None, 0),
        (366, None, 0),
        (1, 0, 0),
        (1, None, 1001),
        (1, None, None),
        (None, 3, None),
    ):
        await attacked(
            book, "UPDATE engagement SET auto_renew_days = %s, auto_renew_months = %s, auto_renew_uplift = %s WHERE id = %s",
            days, months, uplift, old.id,
        )  # fmt: skip
    name = await attacked(
        book, "UPDATE engagement SET auto_renew_days = 1, auto_renew_uplift = 0 WHERE id = %s", endless.id
    )
    assert name == "engagement_auto_renew_check"


async def test_a_renewal_cannot_be_forged_by_an_insert(book: Book) -> None:
    client = await book.client()
    old = await book.engagement(client, end_date=NEXT_YEAR)
    gap = await book.engagement(client, start_date=date(2027, 1, 2))
    columns = [
        row["column_name"]
        for row in await book.sql("SELECT column_name FROM information_schema.columns WHERE table_name = 'engagement'")
    ]
    own = {"id": "gen_random_uuid()", "external_id": "NULL", "renewed_to_id": f"'{gap.id}'::uuid"}
    chosen = ", ".join(own.get(name, name) for name in columns)
    name = await attacked(
        book, f"INSERT INTO engagement ({', '.join(columns)}) SELECT {chosen} FROM engagement WHERE id = %s", old.id
    )
    assert name == "engagement_renewal"


# Ends that move


async def test_ending_a_renewed_term_takes_back_what_has_not_begun(book: Book) -> None:
    old = await year(book, auto_renew=AutoRenew(30))
    first = await renew(book, old)
    second = await renew(book, first)
    ended = await book.do(engagements.end_engagement, old.id, date(2026, 12, 15))
    assert (ended.end_date, ended.renewed_to_id, ended.auto_renew) == (date(2026, 12, 15), None, None)
    for term in (first, second):
        withdrawn = await read(book, term)
        assert withdrawn.is_withdrawn
        assert (withdrawn.state, withdrawn.next_bill_date, withdrawn.renewed_from_id) == ("ENDED", None, None)
        assert withdrawn.auto_renew is None
        assert (await book.journal(term.id))[1][-1] == "engagement.renewal_withdrawn"
        assert await to_bill(book, term, date(2030, 1, 1)) == []
    anew = await renew(book, ended)
    assert (anew.start_date, anew.renewed_from_id) == (date(2026, 12, 15), old.id)
    for verb in (renewals.renew_engagement, renewals.reopen_engagement):
        assert (await book.refused(verb, first.id)).reason is Reason.STATE_CONFLICT


async def test_ending_a_term_on_its_own_end_declines_the_renewal(book: Book) -> None:
    old = await year(book)
    term = await renew(book, old)
    assert (await book.do(engagements.end_engagement, old.id, NEXT_YEAR)).renewed_to_id is None
    assert (await read(book, term)).is_withdrawn


async def test_a_renewal_ended_before_it_begins_is_withdrawn(book: Book) -> None:
    old = await year(book, auto_renew=AutoRenew(30))
    term = await renew(book, old)
    withdrawn = await book.do(engagements.end_engagement, term.id)
    assert withdrawn.is_withdrawn
    before = await read(book, old)
    assert (before.renewed_to_id, before.end_date, before.state) == (None, NEXT_YEAR, "ACTIVE")
    # Nor is it renewed by itself again, having just been taken back.
    assert before.auto_renew is None


async def test_a_one_time_fee_of_a_withdrawn_renewal_is_never_billed(book: Book) -> None:
    old = await year(book, billing_interval=BillingInterval.ONE_TIME)
    term = await renew(book, old)
    await book.do(engagements.end_engagement, term.id)
    assert await to_bill(book, term, date(2030, 1, 1)) == []


async def test_a_renewal_that_has_begun_or_is_billed_is_not_withdrawn(book: Book) -> None:
    old = await year(book)
    term = await renew(book, old)
    invoice = await book.billed(term, NEXT_YEAR, date(2027, 2, 1))
    error = await book.refused(engagements.end_engagement, old.id, date(2026, 12, 15))
    assert (error.reason, "billed" in error.message) == (Reason.STATE_CONFLICT, True)
    assert invoice.total == 100_000
    other = await year(book)
    begun = await renew(book, other)
    await book.set_clock(datetime(2027, 1, 1, 8, tzinfo=UTC))
    error = await book.refused(engagements.end_engagement, other.id, date(2026, 12, 15))
    assert (error.reason, "begun" in error.message) == (Reason.STATE_CONFLICT, True)
    ended = await book.do(engagements.end_engagement, begun.id, date(2027, 1, 10))
    assert (ended.end_date, ended.renewed_from_id) == (date(2027, 1, 10), other.id)


async def test_the_end_of_a_renewed_term_does_not_move_into_the_next(book: Book) -> None:
    old = await year(book)
    await renew(book, old)
    assert (await book.refused(engagements.end_engagement, old.id, date(2027, 2, 1))).reason is Reason.STATE_CONFLICT


# Going on


async def test_an_ended_engagement_goes_on_where_it_stopped(book: Book) -> None:
    engagement = await book.engagement(await book.client())
    await book.billed(engagement, JANUARY, date(2026, 2, 1))
    await book.billed(engagement, date(2026, 2, 1), date(2026, 3, 1))
    ended = await book.do(engagements.end_engagement, engagement.id, date(2026, 2, 15))
    assert (ended.state, ended.next_bill_date) == (EngagementState.ENDED, None)
    reopened = await book.do(renewals.reopen_engagement, engagement.id)
    assert (reopened.state, reopened.end_date, reopened.next_bill_date) == ("ACTIVE", None, date(2026, 3, 1))
    assert (await book.journal(engagement.id))[1][-1] == "engagement.reopened"
    error = await book.refused(renewals.reopen_engagement, engagement.id)
    assert (error.reason, error.metadata["allowed"]) == (Reason.STATE_CONFLICT, "EndEngagement")


async def test_the_rest_of_a_period_billed_by_its_share_is_billed_after_reopening(book: Book) -> None:
    engagement = await book.engagement(await book.client(), end_date=date(2026, 1, 11), fee_minor=31_000)
    await book.billed(engagement, JANUARY, date(2026, 1, 11), 10_000)
    assert engagement.state is EngagementState.ENDED
    reopened = await book.do(renewals.reopen_engagement, engagement.id, date(2026, 2, 1))
    assert (reopened.state, reopened.next_bill_date) == (EngagementState.ENDED, date(2026, 1, 11))
    rest = await to_bill(book, engagement, date(2026, 3, 1))
    assert [(line.period_start, line.amount_minor) for line in rest] == [(date(2026, 1, 11), 21_000)]


async def test_an_end_to_come_moves_and_keeps_auto_renewal(book: Book) -> None:
    engagement = await year(book, auto_renew=AutoRenew(10), timing=BillingTiming.IN_ARREARS)
    moved = await book.do(renewals.reopen_engagement, engagement.id, date(2027, 7, 1))
    assert (moved.end_date, moved.auto_renew) == (date(2027, 7, 1), AutoRenew(10))
    for end in (date(2027, 7, 1), date(2026, 7, 1)):
        error = await book.refused(renewals.reopen_engagement, engagement.id, end)
        assert (error.reason, field_of(error)) == (Reason.PERIOD_INVALID, "end_date")
    assert (await book.do(renewals.reopen_engagement, engagement.id)).auto_renew is None


async def test_a_renewed_term_does_not_go_on(book: Book) -> None:
    old = await year(book)
    await renew(book, old)
    error = await book.refused(renewals.reopen_engagement, old.id, date(2028, 1, 1))
    assert error.reason is Reason.STATE_CONFLICT


# Hourly and mixed work


@pytest.mark.parametrize("mode", [PricingMode.HOURLY, PricingMode.MIXED])
async def test_hourly_terms_and_rates_go_on_in_the_next_term(book: Book, mode: PricingMode) -> None:
    rates = (
        RoleRate("partner", Decimal("250.125"), None, date(2026, 7, 1)),
        RoleRate("partner", Decimal(275), date(2026, 7, 1), None),
        RoleRate("clerk", Decimal(40), None, None),
    )
    mixed = mode is PricingMode.MIXED
    hourly = HourlyTerms(
        Decimal("99.5"), rates, increment_minutes=6, rounding=TimeRounding.NEAREST, grouping=TimeGrouping.PERSON,
        included_minutes=600 if mixed else 0, rollover_periods=2 if mixed else 0, period_cap_minor=500_000, total_cap_minor=None,
    )  # fmt: skip
    fee = {} if mixed else {"fee_minor": 0}
    auto = AutoRenew(30, uplift_percent=Decimal(10 if mixed else 0))
    old = await year(book, pricing_mode=mode, hourly=hourly, auto_renew=auto, **fee)
    term = await renew(book, old)
    assert (term.hourly, term.pricing_mode) == (hourly, mode)
    await book.set_clock(datetime(2027, 12, 20, tzinfo=UTC))
    await book.do(renewals.auto_renew_engagements)
    following = (await read(book, term)).renewed_to_id
    assert following is not None
    last = await book.see(engagements.get_engagement, following)
    assert last.hourly == hourly
    assert last.fee_minor == (110_000 if mixed else 0)
    if not mixed:
        for choice in (TermChoice(uplift_percent=Decimal(5)), TermChoice(fee_minor=5, fee_currency="USD")):
            assert (await book.refused(renewals.renew_engagement, last.id, choice)).reason is Reason.FIELD_INVALID


async def test_a_renewal_with_work_recorded_on_it_is_not_withdrawn(book: Book) -> None:
    old = await year(book, pricing_mode=PricingMode.HOURLY, hourly=HourlyTerms(Decimal(100)), fee_minor=0)
    term = await renew(book, old)
    await book.sql(
        "INSERT INTO time_entry (firm_id, id, client_id, engagement_id, person, work_date, minutes)"
        " VALUES (%s, gen_random_uuid(), %s, %s, 'ada', '2027-01-04', 60)",
        book.context.firm_id, old.client_id, term.id,
    )  # fmt: skip
    error = await book.refused(engagements.end_engagement, old.id, date(2026, 12, 1))
    assert (error.reason, "work recorded" in error.message) == (Reason.STATE_CONFLICT, True)


# At once


async def test_ends_and_renewals_at_once_leave_no_gap(book: Book) -> None:
    """Whoever comes first: a term that follows begins where the one before ends, and nobody waits for ever."""
    client = await book.client()
    for _ in range(8):
        old = await book.engagement(client, end_date=NEXT_YEAR)
        term = await renew(book, old)
        results = await asyncio.gather(
            book.do(engagements.end_engagement, old.id, date(2026, 12, 15)),
            book.do(engagements.end_engagement, term.id),
            book.do(renewals.renew_engagement, term.id),
            book.do(renewals.renew_engagement, old.id),
            book.do(renewals.reopen_engagement, old.id, date(2027, 6, 1)),
            return_exceptions=True,
        )
        odd = [
            result for result in results if isinstance(result, BaseException) and not isinstance(result, DunwellError)
        ]
        assert odd == []
        reasons = {result.reason for result in results if isinstance(result, DunwellError)}
        assert reasons <= {Reason.STATE_CONFLICT, Reason.PERIOD_INVALID}
    broken = await book.sql(
        "SELECT 1 FROM engagement e JOIN engagement s ON s.id = e.renewed_to_id"
        " WHERE s.start_date <> e.end_date OR s.end_date = s.start_date"
    )
    assert broken == []
