"""The package run on a real database: what it bills, what it writes, what it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import psycopg
import pytest

from dunwell_server.billing import packages
from dunwell_server.billing.jobs import PackageRunExecutor
from dunwell_server.billing.model import BillingTiming
from dunwell_server.billing.service import closing, collection, engagements, preview
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.platform.firms import Numbering
from tests.integration.billing.book import Book
from tests.integration.billing.conftest import MakeBook
from tests.integration.billing.packagebook import AS_OF, assert_sound, bill, fill, invoices_of, items_of, start


async def test_one_engagement_in_full(book: Book) -> None:
    client = await book.client(payment_terms_days=14)
    await book.do(collection.set_autopay, client.id, True, None, "ON_DUE", datetime(2026, 1, 20, tzinfo=UTC))
    engagement = await book.engagement(client, line_description="Books")
    run = await bill(book)
    assert (run.state, run.total, run.done, run.counts, run.amounts) == (
        "SUCCEEDED",
        1,
        1,
        {"CREATED": 1},
        {"USD": 300_000},
    )
    (invoice,) = await invoices_of(book, run)
    assert (invoice.number, invoice.state, invoice.origin, invoice.run_id) == ("INV-2026-000001", "SENT", "RUN", run.id)
    assert (invoice.issue_date, invoice.due_date, invoice.total) == (AS_OF, date(2026, 3, 24), 300_000)
    assert invoice.collection.autopay_status == "SCHEDULED"
    assert invoice.collection.autopay_next_charge_time == datetime(2026, 3, 24, 3, tzinfo=UTC)
    assert [(line.description, line.amount_minor, line.in_advance) for line in invoice.lines] == [
        ("Books (2026-01-01 to 2026-01-31)", 100_000, True),
        ("Books (2026-02-01 to 2026-02-28)", 100_000, True),
        ("Books (2026-03-01 to 2026-03-31)", 100_000, True),
    ]
    now = await book.see(engagements.get_engagement, engagement.id)
    assert (now.billed_through_date, now.next_bill_date, now.version) == (date(2026, 4, 1), date(2026, 4, 1), 2)
    assert await book.trial() == {"receivable": 300_000, "deferred_revenue": -300_000}
    assert await book.journal(invoice.id) == (["invoice_finalized"], ["invoice.finalized"])
    item = (await items_of(book, run))[engagement.id]
    assert (item.outcome, item.client_id, item.amount_minor, item.currency_code) == (
        "CREATED",
        client.id,
        300_000,
        "USD",
    )
    assert item.detail == {"invoice_id": str(invoice.id)}
    (wake,) = await book.sql(
        "SELECT due FROM control.wake WHERE firm_id = %s AND kind = 'collect'", book.context.firm_id
    )
    assert wake["due"] == datetime(2026, 3, 24, 3, tzinfo=UTC)
    await assert_sound(book)


async def test_it_writes_what_finalising_one_invoice_writes(book: Book) -> None:
    """The run's rows derived in SQL and the use case's rows: the same audit metadata, events, ledger, columns."""
    client = await book.client()
    engagement = await book.engagement(client, timing=BillingTiming.IN_ARREARS)
    shown = await book.see(preview.preview_engagement, engagement.id, AS_OF)
    run = await bill(book)
    (invoice,) = await invoices_of(book, run)
    assert shown == replace(invoice, id=preview.NO_ID, series_no=None, number=None, run_id=None)
    sent = await book.sent(client, "2000.00")
    statement = (
        "SELECT category, action, severity, object_type, actor, actor_role, method, request_id, firm_time, metadata"
        " FROM audit_event WHERE object_id = %s"
    )
    ours, theirs = [(await book.sql(statement, number))[0] for number in (invoice.id, sent.id)]
    assert ours.pop("metadata") == {**theirs.pop("metadata"), "invoice_id": encode(Prefix.INVOICE, invoice.id)}
    assert ours == theirs
    statement = "SELECT type, object_type, object_seq, firm_time, payload - 'invoice_id' AS payload FROM event WHERE object_id = %s"
    assert await book.sql(statement, invoice.id) == await book.sql(statement, sent.id)
    statement = (
        "SELECT p.source_type, p.kind, p.firm_time, e.line_no, e.account, e.client_id, e.provider, e.currency_code, e.amount_minor"
        " FROM ledger_posting p JOIN ledger_entry e ON e.posting_id = p.id WHERE p.source_id = %s ORDER BY e.line_no"
    )
    assert await book.sql(statement, invoice.id) == await book.sql(statement, sent.id)


async def test_zero_total_is_numbered_and_paid_at_once(book: Book) -> None:
    client = await book.client()
    await book.do(collection.set_autopay, client.id, True, None, "ON_DUE", datetime(2026, 1, 20, tzinfo=UTC))
    await book.engagement(client, fee_minor=0)
    (invoice,) = await invoices_of(book, await bill(book))
    assert (invoice.state, invoice.number, invoice.paid_time) == ("PAID", "INV-2026-000001", book_now())
    assert invoice.collection.autopay_next_charge_time is None
    assert await book.journal(invoice.id) == (
        ["invoice_finalized", "invoice_paid"],
        ["invoice.finalized", "invoice.paid"],
    )
    sent = await book.sent(client, "0")
    statement = "SELECT payload - 'invoice_id' AS payload FROM event WHERE object_id = %s ORDER BY object_seq"
    assert await book.sql(statement, invoice.id) == await book.sql(statement, sent.id)
    await assert_sound(book)


def book_now() -> datetime:
    """Where the firm's clock stands."""
    return datetime(2026, 3, 10, 12, tzinfo=UTC)


async def test_number_prefix_and_padding(make_book: MakeBook) -> None:
    book = await make_book(numbering=Numbering("HV", 2, yearly_reset=False))
    for _ in range(3):
        await book.engagement(await book.client())
    await book.sql("INSERT INTO invoice_series (firm_id, series, next_no) VALUES (%s, 'HV', 98)", book.context.firm_id)
    run = await bill(book)
    assert [invoice.number for invoice in await invoices_of(book, run)] == ["HV-98", "HV-99", "HV-100"]


async def test_dry_run_shows_the_real_run_and_writes_nothing(book: Book) -> None:
    made = await fill(book)
    archived = await book.client()
    made.append((await book.engagement(archived)).id)
    await book.sql("UPDATE client SET state = 'ARCHIVED' WHERE id = %s", archived.id)
    before = await book.rows()
    dry = await bill(book, dry_run=True, chunk_size=5)
    assert await book.rows() == before
    planned = await items_of(book, dry)
    real = await bill(book, chunk_size=5)
    done = await items_of(book, real)
    assert planned.keys() == done.keys()
    assert (dry.total, dry.done, dry.counts, dry.amounts) == (real.total, real.done, real.counts, real.amounts)
    invoices = {invoice.engagement_id: invoice for invoice in await invoices_of(book, real)}
    for engagement_id, item in planned.items():
        assert replace(item, detail=None) == replace(done[engagement_id], detail=None)
        if item.outcome == "CREATED":
            invoice = invoices.pop(engagement_id)
            assert item.detail == {
                "issue_date": str(invoice.issue_date),
                "due_date": str(invoice.due_date),
                "subtotal": invoice.subtotal,
                "discount_total": invoice.discount_total,
                "tax_total": invoice.tax_total,
                "tax_included_total": invoice.tax_included_total,
                "credited": invoice.amount_credited,
                "lines": [line_json(line) for line in invoice.lines],
                "discounts": [],
            }
    assert not invoices


def line_json(line: Any) -> dict[str, Any]:
    """A stored line as a dry run shows it."""
    return {
        "line_no": line.line_no, "kind": line.kind, "description": line.description, "quantity": str(line.quantity),
        "unit_price": str(line.unit_price), "amount_minor": line.amount_minor, "period_start": str(line.period_start),
        "period_end": str(line.period_end), "engagement_id": str(line.engagement_id), "in_advance": line.in_advance,
        "unit": line.unit, "tax_category": line.tax_category, "discount_minor": line.discount_minor, "tax_minor": line.tax_minor,
        "tax_included_minor": line.tax_included_minor, "taxes": [],
    }  # fmt: skip


async def test_one_that_breaks_stops_no_other(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose client would owe more than 64 bits (the database refuses), one that cannot be computed, one of another currency."""
    good = await fill(book, 9)
    rich = await book.client()
    await book.sent(rich, "92233720368547758.07")
    refused = await book.engagement(rich)
    uncomputable = await book.engagement(await book.client(), fee_minor=2**63 - 1)
    foreign_client = await book.client()
    foreign = await book.engagement(foreign_client)
    await book.sql("UPDATE client SET currency_code = 'EUR' WHERE id = %s", foreign_client.id)
    buggy = await book.engagement(await book.client(), name="bug")
    real = packages.billable_periods

    def billable(engagement: Any, *args: Any, **kwargs: Any) -> Any:
        if engagement.id == buggy.id:
            raise ZeroDivisionError("secret detail")
        return real(engagement, *args, **kwargs)

    monkeypatch.setattr(packages, "billable_periods", billable)
    run = await bill(book, chunk_size=6)
    assert (run.state, run.counts, run.done) == ("SUCCEEDED", {"CREATED": len(good), "FAILED": 4}, run.total)
    items = await items_of(book, run)
    assert {items[engagement].outcome for engagement in good} == {"CREATED"}
    assert (items[refused.id].outcome, items[refused.id].reason) == ("FAILED", "DATA")
    assert (items[uncomputable.id].outcome, items[uncomputable.id].reason) == ("FAILED", "DATA")
    assert "CURRENCY_MISMATCH" in (items[foreign.id].message or "")
    assert (items[buggy.id].outcome, items[buggy.id].reason) == ("FAILED", "INTERNAL")
    assert "secret" not in (items[buggy.id].message or "")
    await assert_sound(book)
    monkeypatch.undo()
    again = await bill(book)
    assert again.counts == {"CREATED": 1, "FAILED": 3}


async def test_coverage_by_another_live_invoice_fails_that_engagement_only(book: Book) -> None:
    good = await fill(book, 4)
    doubled = await book.engagement(await book.client())
    await book.billed(doubled, date(2026, 2, 1), date(2026, 3, 1))
    await book.sql(
        "UPDATE engagement SET billed_through_date = '2026-01-01', next_bill_date = '2026-01-01' WHERE id = %s",
        doubled.id,
    )
    run = await bill(book)
    items = await items_of(book, run)
    assert (items[doubled.id].outcome, items[doubled.id].reason) == ("FAILED", "ALREADY_DONE")
    assert all(items[engagement].outcome == "CREATED" for engagement in good)


async def test_skips_say_why(book: Book) -> None:
    archived_client = await book.client()
    archived = await book.engagement(archived_client)
    await book.sql("UPDATE client SET state = 'ARCHIVED' WHERE id = %s", archived_client.id)
    stale = await book.engagement(await book.client(), start_date=date(2026, 4, 1))
    await book.sql("UPDATE engagement SET next_bill_date = '2026-01-01' WHERE id = %s", stale.id)
    run = await bill(book)
    items = await items_of(book, run)
    assert run.counts == {"SKIPPED": 2}
    assert (items[archived.id].outcome, items[archived.id].reason) == ("SKIPPED", "CLIENT_ARCHIVED")
    assert (items[stale.id].outcome, items[stale.id].reason) == ("SKIPPED", "NOTHING_TO_BILL")
    now = await book.see(engagements.get_engagement, stale.id)
    assert (now.next_bill_date, now.billed_through_date) == (date(2026, 4, 1), date(2026, 4, 1))
    assert (await bill(book)).total == 1
    await book.sql("UPDATE client SET state = 'ACTIVE' WHERE id = %s", archived_client.id)
    assert (await bill(book)).counts == {"CREATED": 1}


async def test_scope_of_a_client_or_an_engagement(book: Book) -> None:
    client = await book.client()
    one, two = await book.engagement(client), await book.engagement(client)
    three = await book.engagement(await book.client())
    run = await bill(book, engagement_id=str(one.id))
    assert (run.total, set(await items_of(book, run))) == (1, {one.id})
    run = await bill(book, client_id=str(client.id))
    assert (run.total, set(await items_of(book, run))) == (1, {two.id})
    run = await bill(book, client_id=None)
    assert set(await items_of(book, run)) == {three.id}


async def test_voided_in_the_middle_and_billed_again(book: Book) -> None:
    engagement = await book.engagement(await book.client())
    by_month = []
    for month in (1, 2, 3):
        by_month += await invoices_of(book, await bill(book, date(2026, month, 1)))
    await book.do(closing.void_invoice, by_month[1].id)
    (again,) = await invoices_of(book, await bill(book))
    assert again.id != by_month[1].id
    assert again.lines == by_month[1].lines
    now = await book.see(engagements.get_engagement, engagement.id)
    assert (now.billed_through_date, now.next_bill_date) == (date(2026, 4, 1), date(2026, 4, 1))
    await assert_sound(book)


async def test_ended_engagement_bills_its_last_part_and_stops(book: Book) -> None:
    engagement = await book.engagement(await book.client(), timing=BillingTiming.IN_ARREARS)
    await bill(book, date(2026, 3, 1))
    await book.do(engagements.end_engagement, engagement.id, date(2026, 3, 11))
    (last,) = await invoices_of(book, await bill(book, date(2026, 3, 11)))
    assert [(line.period_start, line.period_end, line.amount_minor) for line in last.lines] == [
        (date(2026, 3, 1), date(2026, 3, 11), 32_258)
    ]
    now = await book.see(engagements.get_engagement, engagement.id)
    assert (now.billed_through_date, now.next_bill_date) == (date(2026, 3, 11), None)


async def test_issue_date_is_the_runs_day_in_the_firms_zone(make_book: MakeBook) -> None:
    book = await make_book(datetime(2026, 3, 9, 20, tzinfo=UTC), time_zone="Asia/Kolkata", payment_terms_days=1)
    await book.engagement(await book.client())
    run = await start(book)
    await book.set_clock(datetime(2026, 3, 12, tzinfo=UTC))
    await PackageRunExecutor().execute(book.db, book.context, run)
    (invoice,) = await invoices_of(book, run)
    assert (invoice.issue_date, invoice.due_date) == (AS_OF, date(2026, 3, 11))


async def test_other_firms_are_left_alone(make_book: MakeBook) -> None:
    mine, other = await make_book(), await make_book()
    for book in (mine, other):
        await fill(book, 3)
    before = await other.rows()
    await bill(mine)
    assert await other.rows() == before


async def test_lines_and_entries_come_once(book: Book) -> None:
    """What the run relies on the database to refuse: a further line of a sent invoice, a further entry of a posting."""
    await fill(book, 1)
    (invoice,) = await invoices_of(book, await bill(book))
    with pytest.raises(psycopg.errors.CheckViolation):
        await book.sql(
            "INSERT INTO invoice_line (firm_id, invoice_id, line_no, kind, description, quantity, unit_price, amount_minor)"
            " VALUES (%s, %s, 99, 'ITEM', 'x', 1, 0, 0)",
            book.context.firm_id, invoice.id,
        )  # fmt: skip
    with pytest.raises(psycopg.errors.CheckViolation):
        await book.sql(
            "INSERT INTO ledger_entry (firm_id, posting_id, line_no, account, currency_code, amount_minor)"
            " SELECT firm_id, id, n + 2, 'revenue', 'USD', n * 2 - 3 FROM ledger_posting, generate_series(1, 2) n"
            " WHERE source_id = %s",
            invoice.id,
        )
