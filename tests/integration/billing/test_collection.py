"""What payments may do to invoices, and the daily look at due dates."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from uuid import uuid4

import psycopg
import pytest

from dunwell_server.billing import events
from dunwell_server.billing.model import AutopayCadence, AutopayStatus, InvoiceState
from dunwell_server.billing.service import collection, overdue
from dunwell_server.kernel.errors import Reason
from dunwell_server.platform.database import UnitOfWork
from tests.integration.billing.book import Book
from tests.integration.billing.conftest import MakeBook


async def test_money_settles_and_pays(book: Book) -> None:
    sent = await book.sent(await book.client(), "10")
    part = await book.pay(sent, 300)
    assert (part.settled, part.invoice.state, part.invoice.amount_due) == (300, "SENT", 700)
    assert part.invoice.paid_time is None
    rest = await book.pay(sent, 700)
    assert (rest.invoice.state, rest.invoice.amount_paid, rest.invoice.amount_due) == ("PAID", 1000, 0)
    assert rest.invoice.paid_time == datetime(2026, 3, 10, 12, tzinfo=UTC)
    assert (await book.journal(sent.id))[1] == ["invoice.finalized", "invoice.paid"]
    assert [event.invoices for event in book.recorder.of(events.AmountDueChanged)] == [[part.invoice], [rest.invoice]]


async def test_money_for_several_invoices_at_once_comes_in_id_order(book: Book) -> None:
    client = await book.client()
    sent = [await book.sent(client, "1") for _ in range(3)]

    async def receive(uow: UnitOfWork) -> list[collection.AppliedMoney]:
        locked = await collection.lock_invoices(uow, [invoice.id for invoice in reversed(sent)])
        assert [invoice.id for invoice in locked] == [invoice.id for invoice in sent]
        return await collection.apply_money(uow, {invoice.id: 100 for invoice in reversed(sent)})

    applied = await book.do(receive)
    assert [one.invoice.id for one in applied] == [invoice.id for invoice in sent]
    assert {one.invoice.state for one in applied} == {InvoiceState.PAID}


async def test_the_database_refuses_more_than_is_owed(book: Book) -> None:
    sent = await book.sent(await book.client(), "1")
    with pytest.raises(psycopg.errors.CheckViolation, match="invoice_due_check"):
        await book.pay(sent, 101)
    with pytest.raises(ValueError, match="positive"):
        await book.pay(sent, 0)
    assert await book.do(collection.apply_money, {}) == []


async def test_locking_an_unknown_invoice_names_it(book: Book) -> None:
    sent = await book.sent(await book.client(), "1")
    error = await book.refused(collection.lock_invoices, [sent.id, uuid4()])
    assert error.reason is Reason.RESOURCE_NOT_FOUND


async def test_many_payers_of_the_same_invoices_never_deadlock_or_lose_money(make_book: MakeBook) -> None:
    book = await make_book()
    sent = [await book.sent(await book.client(), "1") for _ in range(4)]

    async def receive(uow: UnitOfWork, order: int) -> None:
        ids = [invoice.id for invoice in (sent if order % 2 else reversed(sent))]
        await collection.lock_invoices(uow, ids)
        await asyncio.sleep(0)
        await collection.apply_money(uow, dict.fromkeys(ids, 5))

    await asyncio.gather(*(book.do(receive, order) for order in range(20)))
    assert {(await book.get(invoice)).amount_received for invoice in sent} == {100}


async def test_collection_columns_are_set_in_sets(book: Book) -> None:
    client = await book.client()
    one, two, three = [await book.sent(client, "1") for _ in range(3)]
    due, method = datetime(2026, 4, 1, 3, tzinfo=UTC), uuid4()
    failure = {
        "failure_count": 1, "failure_code": "card_declined", "failure_provider_code": "do_not_honor", "failure_message": "No.",
        "failure_time": due, "last_retry_time": None, "retry_pending": True, "retries_exhausted": False,
    }  # fmt: skip
    plan = {
        "autopay_enabled": True, "autopay_status": AutopayStatus.SCHEDULED, "autopay_cadence": AutopayCadence.ON_DUE,
        "autopay_method_id": method, "autopay_next_charge_time": due, "collection_cycle": 2,
    }  # fmt: skip
    await book.do(collection.set_collection, {one.id: failure, two.id: plan, three.id: {}})
    first, second, third = [await book.get(invoice) for invoice in (one, two, three)]
    assert {name: getattr(first.collection, name) for name in failure} == failure
    assert {name: getattr(second.collection, name) for name in plan} == plan
    assert (first.state, first.version) == (InvoiceState.FAILED, one.version + 1)
    assert third == three


async def test_nothing_but_collection_columns_is_set(book: Book) -> None:
    sent = await book.sent(await book.client(), "1")
    with pytest.raises(ValueError, match="total"):
        await book.do(collection.set_collection, {sent.id: {"total": 0}})


async def test_autopay_of_an_unknown_client_is_not_found(book: Book) -> None:
    error = await book.refused(collection.set_autopay, uuid4(), False, None, "ON_DUE", None)
    assert error.reason is Reason.RESOURCE_NOT_FOUND


async def test_what_is_late_without_autopay_becomes_overdue(book: Book) -> None:
    plain, auto = await book.client(payment_terms_days=5), await book.client(payment_terms_days=5)
    await book.do(collection.set_autopay, auto.id, True, None, "ON_DUE", datetime(2026, 1, 1, tzinfo=UTC))
    late, paid, draft = await book.sent(plain, "1"), await book.sent(plain, "1"), await book.draft(plain, "1")
    collected = await book.sent(auto, "1")
    await book.pay(paid, 100)
    await book.set_clock(datetime(2026, 3, 15, 23, 59, tzinfo=UTC))
    assert await book.do(overdue.mark_overdue) == []  # the due date has not passed
    await book.set_clock(datetime(2026, 3, 16, 0, 0, tzinfo=UTC))
    (marked,) = await book.do(overdue.mark_overdue)
    assert (marked.id, marked.state) == (late.id, InvoiceState.OVERDUE)
    assert marked.overdue_time == datetime(2026, 3, 16, tzinfo=UTC)
    assert await book.do(overdue.mark_overdue) == []
    states = [(await book.get(invoice)).state for invoice in (late, paid, draft, collected)]
    assert states == ["OVERDUE", "PAID", "DRAFT", "SENT"]
    assert (await book.journal(late.id))[1] == ["invoice.finalized", "invoice.overdue"]
    assert (await book.pay(late, 100)).invoice.state is InvoiceState.PAID


async def test_the_due_date_passes_in_the_firms_zone(make_book: MakeBook) -> None:
    book = await make_book(time_zone="America/New_York")
    await book.sent(await book.client(), "1", due_date=date(2026, 3, 15))
    await book.set_clock(datetime(2026, 3, 16, 3, 59, tzinfo=UTC))
    assert await book.do(overdue.mark_overdue) == []
    await book.set_clock(datetime(2026, 3, 16, 4, 0, tzinfo=UTC))
    assert len(await book.do(overdue.mark_overdue)) == 1


async def test_a_large_backlog_is_marked_in_batches(book: Book) -> None:
    client = await book.client(payment_terms_days=0)
    for _ in range(5):
        await book.sent(client, "1")
    await book.set_clock(datetime(2026, 3, 10, tzinfo=UTC) + timedelta(days=9))
    assert [len(await book.do(overdue.mark_overdue, 2)) for _ in range(4)] == [2, 2, 1, 0]
