"""Time entries through their approval states, in bulk."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal
from uuid import uuid4

import pytest

from dunwell_server.billing.model import TIME_ENTRY_TRANSITIONS, RoleRate, TimeEntryState
from dunwell_server.billing.service import engagements, time_entries
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.billing.store.time_entries import TimeEntryQuery
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform.firms import TimePolicy
from tests import support
from tests.integration.billing.book import Book, field_of
from tests.integration.billing.conftest import MakeBook
from tests.integration.billing.timebook import (
    FEBRUARY,
    JANUARY,
    TERMS,
    approved,
    as_person,
    bill,
    draft,
    entries,
    hourly,
    ids,
    mixed,
    submitted,
    worked,
)


async def test_terms_are_kept_as_given(book: Book) -> None:
    rates = (
        RoleRate("partner", Decimal("300.125"), None, FEBRUARY),
        RoleRate("partner", Decimal(350), FEBRUARY, None),
        RoleRate("junior", Decimal(50), JANUARY, FEBRUARY),
    )
    terms = replace(TERMS, role_rates=rates, increment_minutes=6, period_cap_minor=100_00, total_cap_minor=5)
    made = await hourly(book, await book.client(), terms)
    assert made.hourly == terms
    assert await book.see(engagements.get_engagement, made.id) == made
    assert (made.next_bill_date, made.billed_through_date) == (FEBRUARY, JANUARY)
    changed = replace(terms, role_rates=rates[:1], grouping=type(terms.grouping)("PERSON"), period_cap_minor=None)
    updated = await book.do(engagements.update_engagement, made.id, {"hourly": changed})
    assert updated.hourly == changed == (await book.see(engagements.get_engagement, made.id)).hourly


@pytest.mark.parametrize(
    ("rates", "field"),
    [
        ([("a", None, None), ("a", FEBRUARY, None)], "engagement.hourly.role_rates[1].start_date"),
        ([("a", FEBRUARY, None), ("b", None, None), ("a", JANUARY, date(2026, 2, 2))], "engagement.hourly.role_rates[0].start_date"),
        ([("a", FEBRUARY, FEBRUARY)], "engagement.hourly.role_rates[0].end_date"),
    ],
)  # fmt: skip
async def test_rates_of_a_role_do_not_overlap(book: Book, rates: list[tuple[str, date, date]], field: str) -> None:
    client = await book.client()
    terms = replace(TERMS, role_rates=tuple(RoleRate(role, Decimal(1), start, end) for role, start, end in rates))
    with pytest.raises(DunwellError) as caught:
        await hourly(book, client, terms)
    assert (caught.value.reason, field_of(caught.value)) == (Reason.PERIOD_INVALID, field)


async def test_the_whole_way_to_approval_with_its_people_and_times(book: Book) -> None:
    agreed = await hourly(book, await book.client())
    (new,) = await draft(book, worked(agreed, JANUARY, 90, role="senior", description="Call", rate=Decimal("1.5")))
    assert (new.state, new.client_id, new.minutes) == ("DRAFT", agreed.client_id, 90)
    ada, eve = as_person(book, "ada"), as_person(book, "eve")
    (sent,) = entries(await ada.do(time_entries.submit_time_entries, [new.id]))
    assert (sent.state, sent.submit_actor, sent.submit_time) == ("SUBMITTED", "ada", new.create_time)
    (no,) = entries(await eve.do(time_entries.reject_time_entries, [new.id], "which call?"))
    assert (no.state, no.reject_actor, no.reject_reason) == ("REJECTED", "eve", "which call?")
    again = await ada.do(time_entries.update_time_entry, new.id, {"description": "Call with Bob", "minutes": 80})
    assert (again.state, again.submit_actor, again.reject_reason) == ("DRAFT", None, "which call?")
    (sent,) = entries(await ada.do(time_entries.submit_time_entries, [new.id]))
    assert sent.reject_reason is None
    (yes,) = entries(await eve.do(time_entries.approve_time_entries, [new.id]))
    assert (yes.state, yes.approve_actor, yes.minutes) == ("APPROVED", "eve", 80)
    (back,) = entries(await eve.do(time_entries.unapprove_time_entries, [new.id]))
    assert (back.state, back.approve_actor, back.approve_time) == ("SUBMITTED", None, None)
    assert back == await book.see(time_entries.get_time_entry, new.id)
    actions, events = await book.journal(new.id)
    assert events == [
        "time_entry.created", "time_entry.submitted", "time_entry.rejected", "time_entry.updated", "time_entry.submitted",
        "time_entry.approved", "time_entry.unapproved",
    ]  # fmt: skip
    assert actions == [event.replace(".", "_") for event in events]


async def test_who_submitted_may_not_approve_unless_the_firm_allows_it(make_book: MakeBook) -> None:
    book = await make_book()
    agreed = await hourly(book, await book.client())
    one, two = await submitted(book, worked(agreed, JANUARY, 1), worked(agreed, JANUARY, 2))
    first, second = await as_person(book, "ada").do(time_entries.approve_time_entries, [one.id, two.id])
    for result in (first, second):
        assert result.error is not None
        assert result.error.reason is Reason.SELF_APPROVAL_REFUSED
        assert result.error.metadata == {"submit_actor": "ada"}
    free = await make_book(time_policy=TimePolicy(allow_self_approval=True))
    agreed = await hourly(free, await free.client())
    (own,) = await submitted(free, worked(agreed, JANUARY, 1))
    (done,) = entries(await as_person(free, "ada").do(time_entries.approve_time_entries, [own.id]))
    assert done.approve_actor == "ada"


async def test_in_bulk_each_is_done_or_refused_by_itself(book: Book) -> None:
    agreed = await hourly(book, await book.client())
    (fresh,) = await draft(book, worked(agreed, JANUARY, 1))
    (waiting,) = await submitted(book, worked(agreed, JANUARY, 2))
    (done,) = await approved(book, worked(agreed, JANUARY, 3))
    nobody = uuid4()
    results = await as_person(book, "eve").do(
        time_entries.approve_time_entries, [done.id, nobody, waiting.id, fresh.id]
    )
    reasons = [None if result.error is None else result.error.reason for result in results]
    assert reasons == [Reason.STATE_CONFLICT, Reason.RESOURCE_NOT_FOUND, None, Reason.STATE_CONFLICT]
    assert [result.entry_id for result in results] == [done.id, nobody, waiting.id, fresh.id]
    assert results[0].error is not None
    assert results[0].error.metadata == {
        "state": "APPROVED", "allowed": "UnapproveTimeEntries,WriteDownTimeEntries",
    }  # fmt: skip
    assert results[2].entry is not None
    assert results[2].entry.state is TimeEntryState.APPROVED


async def test_a_thousand_take_as_many_statements_as_one(book: Book) -> None:
    agreed = await hourly(book, await book.client(), replace(TERMS, period_cap_minor=10**9))
    made = ids(await draft(book, *(worked(agreed, JANUARY, 1) for _ in range(1000))))
    ada, eve = as_person(book, "ada"), as_person(book, "eve")
    counts = []
    for some in (made[:1], made[1:]):
        with support.statements() as sent:
            entries(await ada.do(time_entries.submit_time_entries, some))
            entries(await eve.do(time_entries.approve_time_entries, some))
            await book.do(time_entries.write_down_time_entries, dict.fromkeys(some, 1), "why")
            entries(await eve.do(time_entries.unapprove_time_entries, some))
            entries(await eve.do(time_entries.reject_time_entries, some, "why"))
        counts.append(len(sent))
    one, many = counts
    assert one == many > 10


async def test_creating_many_tells_of_each(book: Book) -> None:
    client = await book.client()
    agreed, package = await hourly(book, client, end_date=FEBRUARY), await book.engagement(client)
    await draft(book, worked(agreed, JANUARY, 1, external_id="taken"))
    results = await book.do(
        time_entries.create_time_entries,
        [
            worked(agreed, JANUARY, 10, external_id="new"),
            worked(agreed, JANUARY, 10, external_id="taken"),
            worked(agreed, JANUARY, 10, external_id="new"),
            worked(agreed, FEBRUARY, 10),
            worked(agreed, date(2025, 12, 31), 10),
            worked(package, JANUARY, 10),
            replace(worked(agreed, JANUARY, 10), engagement_id=uuid4()),
            worked(agreed, date(2026, 1, 31), 10),
        ],
    )
    assert [result.error and result.error.reason for result in results] == [
        None, Reason.EXTERNAL_ID_TAKEN, Reason.EXTERNAL_ID_TAKEN, Reason.PERIOD_INVALID, Reason.PERIOD_INVALID,
        Reason.STATE_CONFLICT, Reason.RESOURCE_NOT_FOUND, None,
    ]  # fmt: skip
    assert len(await book.sql("SELECT 1 FROM time_entry")) == 3


async def test_a_change_is_checked_as_a_new_entry_is(book: Book) -> None:
    agreed = await hourly(book, await book.client(), end_date=FEBRUARY)
    one, two = await draft(book, worked(agreed, JANUARY, 1, external_id="a"), worked(agreed, JANUARY, 1))
    for changes, version, reason in (
        ({"work_date": FEBRUARY}, None, Reason.PERIOD_INVALID),
        ({"external_id": "a"}, None, Reason.EXTERNAL_ID_TAKEN),
        ({"minutes": 5}, 9, Reason.ETAG_MISMATCH),
    ):
        error = await book.refused(time_entries.update_time_entry, two.id, changes, expected_version=version)
        assert error.reason is reason
    await as_person(book, "ada").do(time_entries.submit_time_entries, [one.id])
    error = await book.refused(time_entries.update_time_entry, one.id, {"minutes": 5})
    assert (error.reason, error.metadata["state"]) == (Reason.STATE_CONFLICT, "SUBMITTED")
    assert (await book.refused(time_entries.update_time_entry, uuid4(), {})).reason is Reason.RESOURCE_NOT_FOUND


async def test_written_down_time_is_kept_and_not_billed(book: Book) -> None:
    client = await book.client()
    agreed = await hourly(book, client)
    one, two, three = await approved(book, *(worked(agreed, JANUARY, 60) for _ in range(3)))
    (fresh,) = await draft(book, worked(agreed, JANUARY, 60))
    minutes = {one.id: 20, two.id: 60, three.id: 61, fresh.id: 5}
    results = await book.do(time_entries.write_down_time_entries, minutes, "goodwill")
    assert [result.error and result.error.reason for result in results] == [
        None, None, Reason.FIELD_INVALID, Reason.STATE_CONFLICT,
    ]  # fmt: skip
    assert results[0].entry is not None
    assert (results[0].entry.minutes, results[0].entry.billable_minutes) == (60, 40)
    assert results[0].entry.write_down_reason == "goodwill"
    (taken_back,) = entries(await book.do(time_entries.write_down_time_entries, {one.id: 0}, "no"))
    assert taken_back.write_down_reason is None
    await book.do(time_entries.write_down_time_entries, {one.id: 20}, "goodwill")
    assert (await bill(book, client)).total == 10_000
    (late,) = await book.do(time_entries.write_down_time_entries, {one.id: 0}, "no")
    assert late.error is not None
    assert late.error.metadata == {"state": "INVOICED", "allowed": "none"}


async def test_rejected_time_is_not_cut_below_what_was_written_down(book: Book) -> None:
    agreed = await hourly(book, await book.client())
    (entry,) = await submitted(book, worked(agreed, JANUARY, 60))
    await book.do(time_entries.write_down_time_entries, {entry.id: 20}, "goodwill")
    await book.do(time_entries.reject_time_entries, [entry.id], "too much")
    refused = await book.refused(time_entries.update_time_entry, entry.id, {"minutes": 19})
    assert (refused.reason, field_of(refused)) == (Reason.FIELD_INVALID, "time_entry.minutes")
    cut = await book.do(time_entries.update_time_entry, entry.id, {"minutes": 20})
    assert (cut.minutes, cut.billable_minutes, cut.state) == (20, 0, TimeEntryState.DRAFT)


async def test_lists_are_filtered_and_paged(book: Book) -> None:
    client, other = await book.client(), await book.client()
    first, second, third = await hourly(book, client), await mixed(book, client), await hourly(book, other)
    made = await draft(
        book, worked(first, JANUARY, 1), worked(second, FEBRUARY, 2, external_id="x"), worked(third, JANUARY, 3)
    )
    await as_person(book, "ada").do(time_entries.submit_time_entries, [made[0].id])

    async def found(**filters: object) -> list[int]:
        query = TimeEntryQuery(descending=False, **filters)  # type: ignore[arg-type]
        return [entry.minutes for entry in await book.see(time_entries.list_time_entries, query, PageRequest())]

    assert await found() == [1, 2, 3]
    assert await found(client_id=client.id) == [1, 2]
    assert await found(engagement_id=second.id) == [2]
    assert await found(client_id=client.id, engagement_id=third.id) == []
    assert await found(external_id="x") == [2]
    assert await found(states=["DRAFT"]) == [2, 3]
    assert await found(person="Bob") == []
    assert await found(work_date=(FEBRUARY, None)) == [2]
    await as_person(book, "eve").do(time_entries.approve_time_entries, [made[0].id])
    assert await found(invoice_id=(await bill(book, client)).id) == [1]
    page = await book.see(
        time_entries.list_time_entries, TimeEntryQuery(), PageRequest(1, (made[1].create_time, made[1].id))
    )
    assert [entry.minutes for entry in page] == [1]


async def test_the_databases_edges_are_the_models(book: Book) -> None:
    rows = await book.sql("SELECT source, target FROM control.state_edge WHERE machine = 'time_entry'")
    edges = {(row["source"], row["target"]) for row in rows}
    model = {(source.value, target.value) for source, targets in TIME_ENTRY_TRANSITIONS.items() for target in targets}
    assert edges == model | {("", "DRAFT")}
