"""Invoices: drafts, finalising, changing, deleting, listing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from dunwell_server.billing import events
from dunwell_server.billing.lines import LineInput
from dunwell_server.billing.model import AutopayCadence, AutopayStatus, InvoiceState
from dunwell_server.billing.numbering import format_number
from dunwell_server.billing.service import collection, invoices
from dunwell_server.billing.store.invoices import InvoiceQuery, take_numbers
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.kernel.errors import Reason
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.firms import Numbering
from tests.integration.billing.book import Book, field_of, new_invoice, sequence_of
from tests.integration.billing.conftest import MakeBook


async def test_a_draft_is_not_numbered_not_owed_and_not_posted(book: Book) -> None:
    client = await book.client()
    draft = await book.draft(client, "10", "2.50", memo="Thank you", metadata={"po": "7"})
    assert (draft.state, draft.number, draft.issue_date, draft.due_date) == ("DRAFT", None, None, None)
    assert (draft.total, draft.open_amount) == (1250, 0)
    assert await book.get(draft) == draft
    assert await book.trial() == {}
    assert await book.journal(draft.id) == (["invoice_created"], ["invoice.created"])


async def test_finalising_fixes_number_dates_ledger_and_collection_at_once(book: Book) -> None:
    client = await book.client(payment_terms_days=14)
    sent = await book.sent(client, "10", "2.505")
    assert sent.number == "INV-2026-000001"
    assert (sent.issue_date, sent.due_date) == (date(2026, 3, 10), date(2026, 3, 24))
    assert (sent.state, sent.total, sent.amount_due, sent.paid_time) == ("SENT", 1251, 1251, None)
    assert not sent.collection.autopay_enabled
    assert await book.get(sent) == sent
    assert await book.trial() == {"receivable": 1251, "revenue": -1251}
    assert await book.journal(sent.id) == (["invoice_finalized"], ["invoice.finalized"])
    assert book.recorder.of(events.InvoicesFinalized) == [events.InvoicesFinalized([sent])]


async def test_a_draft_finalised_later_is_the_same_as_one_finalised_at_once(book: Book) -> None:
    client = await book.client()
    draft = await book.draft(client, "10", "20")
    sent = await book.do(invoices.finalize_invoice, draft.id)
    at_once = await book.sent(client, "10", "20")
    assert sent == await book.get(draft)
    assert replace(at_once, id=sent.id, number=sent.number, series_no=1, version=2) == sent
    assert (sent.number, at_once.number) == ("INV-2026-000001", "INV-2026-000002")


async def test_the_issue_date_is_the_firms_own_day(make_book: MakeBook) -> None:
    book = await make_book(datetime(2026, 12, 31, 20, tzinfo=UTC), time_zone="Asia/Kolkata", currency_code="INR")
    sent = await book.sent(await book.client(), "1")
    assert sent.issue_date == date(2027, 1, 1)
    assert sent.number == "INV-2027-000001"
    assert sent.currency_code == "INR"


@pytest.mark.parametrize(
    ("invoice", "engagement", "client", "due"),
    [(None, None, None, 30), (None, None, 14, 14), (None, 7, 14, 7), (0, 7, 14, 0)],
)
async def test_terms_come_from_the_closest(
    book: Book, invoice: int | None, engagement: int | None, client: int | None, due: int
) -> None:
    of = await book.client(payment_terms_days=client)
    agreed = await book.engagement(of, payment_terms_days=engagement)
    sent = await book.sent(of, "1", engagement_id=agreed.id, payment_terms_days=invoice)
    assert sent.due_date == date(2026, 3, 10) + timedelta(days=due)


async def test_a_given_due_date_counts_and_may_not_lie_before_the_issue(book: Book) -> None:
    client = await book.client()
    assert (await book.sent(client, "1", due_date=date(2026, 3, 10))).due_date == date(2026, 3, 10)
    error = await book.refused(
        invoices.create_invoice, new_invoice(client, "1", due_date=date(2026, 3, 9)), finalize=True
    )
    assert (error.reason, field_of(error)) == (Reason.PERIOD_INVALID, "invoice.due_date")


async def test_a_zero_total_is_paid_at_once_and_posts_nothing(book: Book) -> None:
    sent = await book.sent(await book.client(), "0", "0.001")
    assert (sent.state, sent.total, sent.paid_time) == ("PAID", 0, sent.finalize_time)
    assert await book.get(sent) == sent
    assert await book.trial() == {}
    assert (await book.journal(sent.id))[1] == ["invoice.finalized", "invoice.paid"]


async def test_autopay_is_planned_when_the_invoice_is_sent(book: Book) -> None:
    client = await book.client()
    method, enabled = uuid4(), datetime(2026, 1, 15, tzinfo=UTC)
    client = await book.do(collection.set_autopay, client.id, True, method, AutopayCadence.ON_DUE, enabled)
    assert (client.autopay_enabled, client.autopay_method_id, client.autopay_enable_time) == (True, method, enabled)
    columns = (await book.sent(client, "5")).collection
    assert (columns.autopay_enabled, columns.autopay_status) == (True, AutopayStatus.SCHEDULED)
    assert columns.autopay_next_charge_time == datetime(2026, 4, 9, 3, tzinfo=UTC)
    assert (columns.autopay_cadence, columns.autopay_method_id) == (AutopayCadence.ON_DUE, method)
    assert (await book.sent(client, "0")).collection.autopay_next_charge_time is None


async def test_an_empty_invoice_is_not_sent(book: Book) -> None:
    client = await book.client()
    assert (
        await book.refused(invoices.create_invoice, new_invoice(client), finalize=True)
    ).reason is Reason.INVOICE_EMPTY
    draft = await book.draft(client)
    assert (await book.refused(invoices.finalize_invoice, draft.id)).reason is Reason.INVOICE_EMPTY


async def test_only_a_draft_is_finalised(book: Book) -> None:
    sent = await book.sent(await book.client(), "1")
    error = await book.refused(invoices.finalize_invoice, sent.id)
    assert error.reason is Reason.STATE_CONFLICT
    assert error.metadata == {"state": "SENT", "allowed": "VoidInvoice,WriteOffInvoice"}


async def test_unknown_and_foreign_objects_are_not_found(book: Book, make_book: MakeBook) -> None:
    client = await book.client()
    sent = await book.sent(client, "1")
    other = await make_book()
    for missing in (uuid4(), sent.id):
        for use_case in (invoices.get_invoice, invoices.finalize_invoice, invoices.delete_invoice):
            assert (await other.refused(use_case, missing)).reason is Reason.RESOURCE_NOT_FOUND
    error = await other.refused(invoices.create_invoice, new_invoice(client, "1"), finalize=False)
    assert (error.reason, error.resource and error.resource[0]) == (Reason.RESOURCE_NOT_FOUND, "Client")


async def test_one_currency_per_invoice_and_client(book: Book) -> None:
    client = await book.client(currency_code="EUR")
    assert (await book.draft(client, "1", currency_code="EUR")).currency_code == "EUR"
    for code, reason in (("USD", Reason.CURRENCY_MISMATCH), ("ABC", Reason.UNKNOWN_CURRENCY)):
        error = await book.refused(invoices.create_invoice, new_invoice(client, "1", currency_code=code), finalize=True)
        assert (error.reason, field_of(error)) == (reason, "invoice.currency_code")


async def test_engagements_named_must_be_the_clients(book: Book) -> None:
    client, stranger = await book.client(), await book.client()
    foreign = await book.engagement(stranger)
    error = await book.refused(
        invoices.create_invoice, new_invoice(client, "1", engagement_id=foreign.id), finalize=False
    )
    assert (error.reason, field_of(error)) == (Reason.FIELD_INVALID, "invoice.engagement_id")
    lines = [LineInput("a", Decimal(1)), LineInput("b", Decimal(1), engagement_id=foreign.id)]
    error = await book.refused(invoices.create_invoice, new_invoice(client, lines=lines), finalize=False)
    assert field_of(error) == "invoice.lines[1].engagement_id"
    error = await book.refused(invoices.create_invoice, new_invoice(client, "1", engagement_id=uuid4()), finalize=False)
    assert error.reason is Reason.RESOURCE_NOT_FOUND


async def test_amounts_beyond_64_bits_write_nothing(book: Book) -> None:
    client = await book.client()
    huge = LineInput("huge", Decimal("999999999999.999999"), Decimal("999999999999"))
    error = await book.refused(invoices.create_invoice, new_invoice(client, lines=[huge]), finalize=True)
    assert error.reason is Reason.AMOUNT_OUT_OF_RANGE
    largest = "92233720368547758.07"
    await book.sent(client, largest)
    error = await book.refused(invoices.create_invoice, new_invoice(client, largest), finalize=True)
    assert error.reason is Reason.AMOUNT_OUT_OF_RANGE  # what the client owes altogether


async def test_external_ids_are_unique_per_firm(book: Book, make_book: MakeBook) -> None:
    client = await book.client()
    first = await book.sent(client, "1", external_id="A-1")
    for finalize in (False, True):
        new = new_invoice(client, "1", external_id="A-1")
        error = await book.refused(invoices.create_invoice, new, finalize=finalize)
        assert (error.reason, field_of(error)) == (Reason.EXTERNAL_ID_TAKEN, "invoice.external_id")
    second = await book.draft(client, "1")
    error = await book.refused(invoices.update_invoice, second.id, {"external_id": "A-1"})
    assert error.reason is Reason.EXTERNAL_ID_TAKEN
    other = await make_book()
    assert (await other.draft(await other.client(), external_id="A-1")).external_id == first.external_id


async def test_a_draft_changes_freely(book: Book) -> None:
    draft = await book.draft(await book.client(), "1", "2")
    changed = await book.do(
        invoices.update_invoice,
        draft.id,
        {"lines": [LineInput("new", Decimal("3.335"), Decimal(2))], "memo": "x", "due_date": date(2026, 5, 1)},
        expected_version=draft.version,
    )
    assert [(line.line_no, line.description, line.amount_minor) for line in changed.lines] == [(1, "new", 667)]
    assert (changed.total, changed.subtotal, changed.line_count, changed.memo) == (667, 667, 1, "x")
    assert changed.version == draft.version + 1
    sent = await book.do(invoices.finalize_invoice, draft.id)
    assert (sent.total, sent.due_date) == (667, date(2026, 5, 1))


async def test_a_sent_invoice_keeps_all_but_its_labels(book: Book) -> None:
    sent = await book.sent(await book.client(), "1")
    changed = await book.do(invoices.update_invoice, sent.id, {"metadata": {"a": "b"}, "external_id": "E"})
    assert (changed.metadata, changed.external_id, changed.state) == ({"a": "b"}, "E", "SENT")
    changes: list[dict[str, Any]] = [
        {"memo": "x"},
        {"lines": []},
        {"due_date": None},
        {"payment_terms_days": 3, "metadata": {}},
    ]
    for change in changes:
        error = await book.refused(invoices.update_invoice, sent.id, change)
        assert (error.reason, error.metadata["state"]) == (Reason.STATE_CONFLICT, "SENT")


async def test_a_stale_version_is_refused(book: Book) -> None:
    draft = await book.draft(await book.client(), "1")
    await book.do(invoices.update_invoice, draft.id, {"memo": "theirs"})
    for use_case in (invoices.finalize_invoice, invoices.delete_invoice):
        error = await book.refused(use_case, draft.id, expected_version=draft.version)
        assert error.reason is Reason.ETAG_MISMATCH
    error = await book.refused(invoices.update_invoice, draft.id, {"memo": "mine"}, expected_version=draft.version)
    assert error.reason is Reason.ETAG_MISMATCH


async def test_only_drafts_are_deleted(book: Book) -> None:
    client = await book.client()
    draft = await book.draft(client, "1", external_id="again")
    await book.do(invoices.delete_invoice, draft.id)
    assert (await book.refused(invoices.get_invoice, draft.id)).reason is Reason.RESOURCE_NOT_FOUND
    assert await book.sql("SELECT 1 FROM invoice_line") == []
    assert (await book.journal(draft.id))[1] == ["invoice.created", "invoice.deleted"]
    sent = await book.sent(client, "1", external_id="again")
    assert (await book.refused(invoices.delete_invoice, sent.id)).reason is Reason.STATE_CONFLICT


async def test_an_archived_client_gets_no_new_invoices(book: Book) -> None:
    client = await book.client()
    draft = await book.draft(client, "1")
    await book.sql("UPDATE client SET state = 'ARCHIVED'")
    error = await book.refused(invoices.create_invoice, new_invoice(client, "1"), finalize=False)
    assert (error.reason, error.metadata["state"]) == (Reason.STATE_CONFLICT, "ARCHIVED")
    assert (await book.refused(invoices.finalize_invoice, draft.id)).reason is Reason.STATE_CONFLICT


async def test_numbers_have_no_gaps_under_concurrency_and_failures(make_book: MakeBook) -> None:
    book = await make_book(numbering=Numbering("HV", padding=4))
    parties = [await book.client() for _ in range(20)]
    drafts = [await book.draft(client, "1") for client in parties]

    async def roll_back(uow: UnitOfWork, position: int) -> None:
        await invoices.create_invoice(uow, new_invoice(parties[position], "1"), finalize=True)
        raise ZeroDivisionError

    steps = []
    for position in range(20):
        steps.append(book.do(invoices.finalize_invoice, drafts[position].id))
        steps.append(book.sent(parties[position], "1"))
        steps.append(book.do(roll_back, position))  # type: ignore[arg-type]
    results = await asyncio.gather(*steps, return_exceptions=True)
    failures = [result for result in results if isinstance(result, BaseException)]
    assert len(failures) == 20
    assert {type(failure) for failure in failures} == {ZeroDivisionError}
    made = [result for result in results if not isinstance(result, BaseException)]
    assert sorted(sequence_of(invoice) for invoice in made) == list(range(1, 41))
    stored = await book.sql("SELECT number, series_no FROM invoice WHERE number IS NOT NULL")
    assert {row["number"] for row in stored} == {format_number(Numbering("HV", 4), 2026, no) for no in range(1, 41)}


async def test_numbers_in_blocks_and_beyond_the_padding_agree_with_the_format(make_book: MakeBook) -> None:
    numbering = Numbering("HV", padding=2)
    book = await make_book(numbering=numbering)
    assert await book.do(take_numbers, "HV-2026", 98) == 1
    assert await book.do(take_numbers, "HV-2026", 1) == 99
    client = await book.client()
    numbers = [(await book.sent(client, "1")).number for _ in range(2)]
    assert numbers == [format_number(numbering, 2026, 100), format_number(numbering, 2026, 101)]


async def test_pages_are_complete_ordered_and_filtered(book: Book) -> None:
    one, two = await book.client(), await book.client()
    agreed = await book.engagement(one)
    made = [await book.sent(one, "1", engagement_id=agreed.id, external_id="X")]
    made += [await book.draft(client, "1") for client in (one, two, one)]
    made += [await book.sent(two, "0")]

    async def pages(query: InvoiceQuery) -> list[str]:
        found: list[str] = []
        after: tuple[datetime, UUID] | None = None
        while True:
            page = await book.see(invoices.list_invoices, query, PageRequest(2, after))
            if not page:
                return found
            found += [str(invoice.id) for invoice in page]
            after = (page[-1].create_time, page[-1].id)

    ids = [str(invoice.id) for invoice in made]
    assert await pages(InvoiceQuery()) == ids[::-1]
    assert await pages(InvoiceQuery(descending=False)) == ids
    assert await pages(InvoiceQuery(client_id=one.id, descending=False)) == [ids[0], ids[1], ids[3]]
    assert await pages(InvoiceQuery(engagement_id=agreed.id)) == [ids[0]]
    assert await pages(InvoiceQuery(external_id="X")) == [ids[0]]
    assert await pages(InvoiceQuery(states=["PAID", "SENT"])) == [ids[4], ids[0]]
    assert await pages(InvoiceQuery(number="INV-2026-000002")) == [ids[4]]
    assert await pages(InvoiceQuery(number="INV-2026-2")) == []
    assert await pages(InvoiceQuery(number="nonsense")) == []
    assert await pages(InvoiceQuery(due_date=(date(2026, 4, 9), date(2026, 4, 10)), states=["SENT"])) == [ids[0]]
    assert await pages(InvoiceQuery(issue_date=(None, date(2026, 3, 10)))) == []
    assert await pages(InvoiceQuery(currency_code="EUR")) == []
    (listed,) = await book.see(invoices.list_invoices, InvoiceQuery(external_id="X"), PageRequest())
    assert listed == replace(await book.get(made[0]), lines=())


async def test_a_deleted_draft_leaves_no_hole_in_the_numbers(book: Book) -> None:
    client = await book.client()
    draft = await book.draft(client, "1")
    first = await book.sent(client, "1")
    await book.do(invoices.delete_invoice, draft.id)
    second = await book.sent(client, "1")
    assert [sequence_of(first), sequence_of(second)] == [1, 2]
    assert second.state is InvoiceState.SENT
