"""Engagements."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from uuid import uuid4

import pytest

from dunwell_server.billing.model import BillingInterval, BillingTiming, EngagementState, HourlyTerms, PricingMode
from dunwell_server.billing.service import engagements, preview
from dunwell_server.billing.store.engagements import EngagementQuery
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.proration import DayCount, EndPolicy, ProrationPolicy
from dunwell_server.platform.features import Feature, FeatureDefaults
from tests.integration.billing.book import Book, field_of
from tests.integration.billing.conftest import MakeBook

JANUARY, FEBRUARY, MARCH, APRIL = (date(2026, month, 1) for month in range(1, 5))


async def refused(book: Book, **fields: object) -> DunwellError:
    client = fields.pop("client", None) or await book.client()
    before = await book.rows()
    with pytest.raises(DunwellError) as caught:
        await book.engagement(client, **fields)  # type: ignore[arg-type]
    assert await book.rows() == before
    return caught.value


async def test_an_engagement_is_kept_as_agreed(book: Book) -> None:
    client = await book.client()
    policy = ProrationPolicy(day_count=DayCount.FIXED_30)
    agreed = await book.engagement(
        client, external_id="e-1", description="All books", timing=BillingTiming.IN_ARREARS, proration=policy,
        payment_terms_days=0, metadata={"a": "b"}, end_date=date(2027, 1, 1),
    )  # fmt: skip
    assert agreed == await book.see(engagements.get_engagement, agreed.id)
    assert (agreed.state, agreed.currency_code, agreed.proration) == ("ACTIVE", "USD", policy)
    assert agreed.line_description == "Bookkeeping"
    assert (agreed.billed_through_date, agreed.next_bill_date) == (JANUARY, FEBRUARY)
    assert await book.journal(agreed.id) == (["engagement_created"], ["engagement.created"])


async def test_in_advance_the_first_period_is_due_on_the_first_day(book: Book) -> None:
    assert (await book.engagement(await book.client())).next_bill_date == JANUARY


async def test_an_engagement_that_is_over_already_is_billed_all_the_same(book: Book) -> None:
    over = await book.engagement(await book.client(), end_date=date(2026, 3, 10))
    assert (over.state, over.next_bill_date) == (EngagementState.ENDED, JANUARY)
    going = await book.engagement(await book.client(), end_date=date(2026, 3, 11))
    assert going.state is EngagementState.ACTIVE


async def test_bad_terms_name_their_field(book: Book) -> None:
    error = await refused(book, end_date=JANUARY)
    assert (error.reason, field_of(error)) == (Reason.PERIOD_INVALID, "engagement.end_date")
    error = await refused(book, currency_code="EUR")
    assert (error.reason, field_of(error)) == (Reason.CURRENCY_MISMATCH, "engagement.currency_code")
    error = await refused(book, currency_code="ABC")
    assert (error.reason, field_of(error)) == (Reason.UNKNOWN_CURRENCY, "engagement.currency_code")
    error = await refused(book, fee_currency="EUR")
    assert (error.reason, field_of(error)) == (Reason.CURRENCY_MISMATCH, "engagement.package.fee.currency_code")
    error = await refused(book, fee_minor=-1)
    assert (error.reason, field_of(error)) == (Reason.FIELD_INVALID, "engagement.package.fee.amount_minor")
    await book.engagement(await book.client(), external_id="e-1")
    error = await refused(book, external_id="e-1")
    assert (error.reason, field_of(error)) == (Reason.EXTERNAL_ID_TAKEN, "engagement.external_id")


async def test_what_is_not_available_is_refused(make_book: MakeBook) -> None:
    book = await make_book(features={"enable_annual_billing": False})
    error = await refused(book, billing_interval=BillingInterval.YEARLY)
    assert (error.reason, error.metadata) == (Reason.FEATURE_DISABLED, {"feature": "ENABLE_ANNUAL_BILLING"})


async def test_the_installation_decides_where_the_firm_does_not(make_book: MakeBook) -> None:
    silent, chosen = await make_book(), await make_book(features={"enable_annual_billing": True})
    silent.db.bus.provide(FeatureDefaults, FeatureDefaults({Feature.ANNUAL_BILLING: False}))
    try:
        error = await refused(silent, billing_interval=BillingInterval.YEARLY)
        made = await chosen.engagement(await chosen.client(), billing_interval=BillingInterval.YEARLY)
    finally:
        silent.db.bus.provide(FeatureDefaults, FeatureDefaults())
    assert (error.reason, error.metadata) == (Reason.FEATURE_DISABLED, {"feature": "ENABLE_ANNUAL_BILLING"})
    assert made.billing_interval is BillingInterval.YEARLY


@pytest.mark.parametrize(
    ("mode", "hourly"),
    [
        (PricingMode.HOURLY, None),
        (PricingMode.MIXED, None),
        (PricingMode.PACKAGE, HourlyTerms(Decimal(60))),
    ],
)
async def test_time_has_terms_where_it_is_billed(book: Book, mode: PricingMode, hourly: HourlyTerms | None) -> None:
    error = await refused(book, pricing_mode=mode, hourly=hourly)
    assert (error.reason, field_of(error)) == (Reason.FIELD_INVALID, "engagement.hourly")


async def test_clients_must_exist_and_be_active(book: Book, make_book: MakeBook) -> None:
    client = await book.client()
    other = await make_book()
    assert (await refused(other, client=client)).reason is Reason.RESOURCE_NOT_FOUND
    await book.sql("UPDATE client SET state = 'ARCHIVED'")
    error = await refused(book, client=client)
    assert (error.reason, error.metadata["state"]) == (Reason.STATE_CONFLICT, "ARCHIVED")


async def test_a_new_fee_concerns_what_is_not_billed_yet(book: Book) -> None:
    agreed = await book.engagement(await book.client())
    billed = await book.billed(agreed, JANUARY, MARCH)
    changed = await book.do(
        engagements.update_engagement, agreed.id, {"fee_minor": 50_000, "fee_currency": "USD", "name": "Books"}
    )
    assert (changed.fee_minor, changed.name, changed.next_bill_date) == (50_000, "Books", MARCH)
    assert (await book.get(billed)).total == 100_000
    shown = await book.see(preview.preview_engagement, agreed.id)
    assert shown is not None
    assert [line.amount_minor for line in shown.lines] == [50_000]


async def test_updates_are_checked(book: Book) -> None:
    agreed = await book.engagement(await book.client(), line_description="Fee")
    update = engagements.update_engagement
    error = await book.refused(update, agreed.id, {"fee_minor": 1, "fee_currency": "EUR"})
    assert (error.reason, field_of(error)) == (Reason.CURRENCY_MISMATCH, "engagement.package.fee.currency_code")
    assert (await book.refused(update, agreed.id, {"fee_minor": -1})).reason is Reason.FIELD_INVALID
    assert (await book.refused(update, agreed.id, {"name": "x"}, expected_version=9)).reason is Reason.ETAG_MISMATCH
    assert (await book.refused(update, uuid4(), {"name": "x"})).reason is Reason.RESOURCE_NOT_FOUND
    changed = await book.do(update, agreed.id, {"line_description": "", "proration": ProrationPolicy()})
    assert (changed.line_description, changed.version) == ("Bookkeeping", 2)


async def test_ending_bills_the_last_part_and_no_more(book: Book) -> None:
    agreed = await book.engagement(await book.client(), timing=BillingTiming.IN_ARREARS)
    await book.billed(agreed, JANUARY, MARCH)
    ended = await book.do(engagements.end_engagement, agreed.id, date(2026, 3, 10))
    assert (ended.state, ended.end_date, ended.next_bill_date) == ("ENDED", date(2026, 3, 10), date(2026, 3, 10))
    shown = await book.see(preview.preview_engagement, agreed.id)
    assert shown is not None
    assert [(line.period_start, line.period_end, line.amount_minor) for line in shown.lines] == [
        (MARCH, date(2026, 3, 10), 29_032)
    ]
    assert (await book.journal(agreed.id))[1] == ["engagement.created", "engagement.ended"]


async def test_what_was_billed_in_advance_beyond_the_end_stays_billed(book: Book) -> None:
    agreed = await book.engagement(await book.client())
    billed = await book.billed(agreed, JANUARY, APRIL)
    ended = await book.do(engagements.end_engagement, agreed.id, date(2026, 2, 10))
    assert (ended.state, ended.next_bill_date, ended.billed_through_date) == ("ENDED", None, APRIL)
    assert (await book.get(billed)).state == "SENT"


async def test_an_end_to_come_leaves_it_active_until_that_day(book: Book) -> None:
    agreed = await book.engagement(await book.client())
    ending = await book.do(engagements.end_engagement, agreed.id, date(2026, 3, 20))
    assert ending.state is EngagementState.ACTIVE
    moved = await book.do(engagements.end_engagement, agreed.id, date(2026, 3, 12))
    assert (moved.state, moved.end_date) == ("ACTIVE", date(2026, 3, 12))
    assert await book.do(engagements.end_due_engagements) == []
    await book.set_clock(datetime(2026, 3, 12, tzinfo=UTC))
    (ended,) = await book.do(engagements.end_due_engagements)
    assert (ended.id, ended.state) == (agreed.id, EngagementState.ENDED)
    assert await book.do(engagements.end_due_engagements) == []
    for use_case, arguments in (
        (engagements.end_engagement, (date(2026, 5, 1),)),
        (engagements.update_engagement, ({"name": "x"},)),
    ):
        error = await book.refused(use_case, agreed.id, *arguments)
        assert (error.reason, error.metadata["state"]) == (Reason.STATE_CONFLICT, "ENDED")


async def test_without_a_day_it_ends_today_in_the_firms_zone(make_book: MakeBook) -> None:
    book = await make_book(datetime(2026, 3, 10, 20, tzinfo=UTC), time_zone="Asia/Kolkata")
    agreed = await book.engagement(await book.client())
    ended = await book.do(engagements.end_engagement, agreed.id)
    assert (ended.end_date, ended.state) == (date(2026, 3, 11), EngagementState.ENDED)


async def test_it_ends_after_it_starts(book: Book) -> None:
    agreed = await book.engagement(await book.client())
    error = await book.refused(engagements.end_engagement, agreed.id, JANUARY)
    assert (error.reason, field_of(error)) == (Reason.PERIOD_INVALID, "end_date")
    error = await book.refused(engagements.end_engagement, agreed.id, MARCH, expected_version=7)
    assert error.reason is Reason.ETAG_MISMATCH


async def test_an_inclusive_end_is_the_last_day_charged(book: Book) -> None:
    policy = ProrationPolicy(end=EndPolicy.INCLUSIVE)
    agreed = await book.engagement(await book.client(), proration=policy, end_date=JANUARY)
    assert agreed.end_date == date(2026, 1, 2)
    going = await book.engagement(await book.client(), proration=policy)
    assert (await book.do(engagements.end_engagement, going.id, date(2026, 1, 31))).end_date == FEBRUARY


async def test_lists_are_filtered_and_paged(book: Book) -> None:
    one, two = await book.client(), await book.client()
    made = [
        await book.engagement(one, external_id="X"),
        await book.engagement(one, end_date=MARCH),
        await book.engagement(two, start_date=APRIL),
    ]

    async def positions(query: EngagementQuery, page: PageRequest | None = None) -> list[int]:
        found = await book.see(engagements.list_engagements, query, page or PageRequest())
        return [made.index(engagement) for engagement in found]

    assert await positions(EngagementQuery()) == [2, 1, 0]
    assert await positions(EngagementQuery(descending=False)) == [0, 1, 2]
    assert await positions(EngagementQuery(), PageRequest(1, (made[2].create_time, made[2].id))) == [1]
    assert await positions(EngagementQuery(client_id=one.id)) == [1, 0]
    assert await positions(EngagementQuery(external_id="X")) == [0]
    assert await positions(EngagementQuery(states=["ENDED"])) == [1]
    assert await positions(EngagementQuery(pricing_modes=["HOURLY"])) == []
    assert await positions(EngagementQuery(next_bill_date_until=MARCH)) == [1, 0]
