"""Voiding and writing off."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime

import pytest

from dunwell_server.billing import events
from dunwell_server.billing.model import AutopayStatus, InvoiceState
from dunwell_server.billing.service import closing, collection, engagements
from dunwell_server.kernel.errors import Reason
from tests.integration.billing.book import Book
from tests.integration.billing.conftest import MakeBook

JANUARY, FEBRUARY, MARCH = date(2026, 1, 1), date(2026, 2, 1), date(2026, 3, 1)


async def test_a_void_invoice_is_not_owed_and_leaves_the_books_as_they_were(book: Book) -> None:
    sent = await book.sent(await book.client(), "10")
    void = await book.do(closing.void_invoice, sent.id, reason="wrong client", expected_version=sent.version)
    assert (void.state, void.open_amount, void.number) == ("VOID", 0, sent.number)
    assert void == await book.get(sent)
    assert await book.trial() == {}
    assert await book.sql("SELECT receivable_minor FROM client_balance") == [{"receivable_minor": 0}]
    assert (await book.journal(sent.id))[1] == ["invoice.finalized", "invoice.voided"]
    metadata = await book.sql("SELECT metadata FROM audit_event WHERE action = 'invoice_voided'")
    assert metadata[0]["metadata"]["reason"] == "wrong client"
    assert [type(event) for event in book.recorder.events] == [
        events.InvoicesFinalized,
        events.InvoicesClosing,
        events.InvoicesClosed,
    ]
    assert book.recorder.of(events.InvoicesClosed)[0].invoices == [void]


async def test_what_was_billed_in_advance_is_taken_back_from_deferred_revenue(book: Book) -> None:
    agreed = await book.engagement(await book.client())
    invoice = await book.billed(agreed, JANUARY, FEBRUARY)
    assert await book.trial() == {"receivable": 100_000, "deferred_revenue": -100_000}
    await book.do(closing.void_invoice, invoice.id)
    assert await book.trial() == {}


async def test_voided_periods_are_billed_again_from_the_earliest(book: Book) -> None:
    agreed = await book.engagement(await book.client())
    january = await book.billed(agreed, JANUARY, FEBRUARY)
    february = await book.billed(agreed, FEBRUARY, MARCH)

    async def state() -> tuple[date, date | None, int]:
        now = await book.see(engagements.get_engagement, agreed.id)
        return now.billed_through_date, now.next_bill_date, now.void_count

    assert await state() == (MARCH, MARCH, 0)
    await book.do(closing.void_invoice, january.id)
    assert await state() == (JANUARY, JANUARY, 1)
    live = await book.sql("SELECT lower(period) AS day FROM coverage WHERE release_time IS NULL")
    assert live == [{"day": FEBRUARY}]
    await book.do(closing.void_invoice, february.id)
    assert await state() == (JANUARY, JANUARY, 2)
    again = await book.billed(agreed, JANUARY, FEBRUARY)
    assert again.state is InvoiceState.SENT


async def test_a_voided_one_time_fee_is_due_again(book: Book) -> None:
    agreed = await book.engagement(await book.client(), billing_interval="ONE_TIME", end_date=MARCH)
    invoice = await book.billed(agreed, JANUARY, MARCH)
    await book.sql("UPDATE engagement SET next_bill_date = NULL")
    await book.do(closing.void_invoice, invoice.id)
    assert (await book.see(engagements.get_engagement, agreed.id)).next_bill_date == JANUARY


@pytest.mark.parametrize("closer", [closing.void_invoice, closing.write_off_invoice])
async def test_closing_cancels_the_collection(book: Book, closer: object) -> None:
    client = await book.client()
    await book.do(collection.set_autopay, client.id, True, None, "ON_DUE", datetime(2026, 1, 1, tzinfo=UTC))
    sent = await book.sent(client, "1")
    failed = {"autopay_status": AutopayStatus.FAILED, "retry_pending": True, "failure_count": 1}
    await book.do(collection.set_collection, {sent.id: failed})
    assert (await book.get(sent)).state is InvoiceState.FAILED
    closed = await book.do(closer, sent.id)  # type: ignore[arg-type, var-annotated]
    columns = closed.collection
    assert (columns.autopay_status, columns.autopay_next_charge_time) == (AutopayStatus.CANCELLED, None)
    assert not columns.retry_pending
    assert columns.failure_count == 1


async def test_a_subscriber_may_refuse_and_then_nothing_is_written(book: Book) -> None:
    sent = await book.sent(await book.client(), "1")
    book.recorder.refuse = events.InvoicesClosing
    for closer in (closing.void_invoice, closing.write_off_invoice):
        assert (await book.refused(closer, sent.id)).reason is Reason.COLLECTION_IN_PROGRESS


async def test_nothing_is_voided_of_which_something_was_received(book: Book) -> None:
    sent = await book.sent(await book.client(), "10")
    await book.pay(sent, 1)
    error = await book.refused(closing.void_invoice, sent.id)
    assert (error.reason, error.metadata) == (Reason.STATE_CONFLICT, {"state": "SENT", "allowed": "WriteOffInvoice"})


async def test_illegal_states_name_themselves(book: Book) -> None:
    client = await book.client()
    draft, zero, void = await book.draft(client, "1"), await book.sent(client, "0"), await book.sent(client, "1")
    await book.do(closing.void_invoice, void.id)
    for invoice, state, allowed in (
        (draft, "DRAFT", "UpdateInvoice,FinalizeInvoice,DeleteInvoice"),
        (zero, "PAID", "none"),
        (void, "VOID", "none"),
    ):
        for closer in (closing.void_invoice, closing.write_off_invoice):
            error = await book.refused(closer, invoice.id)
            assert (error.reason, error.metadata) == (Reason.STATE_CONFLICT, {"state": state, "allowed": allowed})


@pytest.mark.parametrize("facts", ["overdue_time = now()", "retries_exhausted = true", "retry_pending = true"])
async def test_overdue_and_failed_invoices_may_be_voided_and_written_off(book: Book, facts: str) -> None:
    client = await book.client()
    one, two = await book.sent(client, "1"), await book.sent(client, "1")
    await book.sql(f"UPDATE invoice SET {facts}")
    assert (await book.do(closing.void_invoice, one.id)).state is InvoiceState.VOID
    assert (await book.do(closing.write_off_invoice, two.id)).state is InvoiceState.UNCOLLECTIBLE


async def test_what_is_written_off_is_bad_debt_and_may_be_recovered(book: Book) -> None:
    sent = await book.sent(await book.client(), "10")
    paid_part = await book.pay(sent, 400)
    assert (paid_part.settled, paid_part.recovered) == (400, 0)
    off = await book.do(closing.write_off_invoice, sent.id)
    assert (off.state, off.amount_due) == ("UNCOLLECTIBLE", 600)
    assert (await book.trial())["bad_debt"] == 600
    error = await book.refused(closing.write_off_invoice, sent.id)
    assert error.metadata == {"state": "UNCOLLECTIBLE", "allowed": "none"}
    recovered = await book.pay(sent, 600)
    assert (recovered.settled, recovered.recovered, recovered.invoice.state) == (0, 600, InvoiceState.PAID)


async def test_a_lost_dispute_may_be_written_off_but_not_voided(book: Book) -> None:
    sent = await book.sent(await book.client(), "10")
    await book.pay(sent, 1000)
    await book.sql("UPDATE invoice SET open_chargebacks = 1")
    await book.sql("UPDATE invoice SET open_chargebacks = 0, lost_disputes = 1, amount_charged_back = 1000")
    assert (await book.refused(closing.void_invoice, sent.id)).metadata["state"] == "CHARGED_BACK"


async def test_only_one_of_two_voids_at_once_happens(make_book: MakeBook) -> None:
    book = await make_book()
    sent = await book.sent(await book.client(), "1")
    results = await asyncio.gather(*(book.do(closing.void_invoice, sent.id) for _ in range(5)), return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in results) == 1
    assert await book.trial() == {}
