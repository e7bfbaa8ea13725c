"""The package run on a real database: what it writes, alone and with others, and what breaks it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from dunwell_server.billing import packages
from dunwell_server.billing.jobs import PackageExecution, PackageRunExecutor, package_run
from dunwell_server.billing.model import BillingAnchor, BillingInterval, BillingTiming, Client, Invoice
from dunwell_server.billing.service import clients, closing, collection, engagements, package_billing, preview
from dunwell_server.billing.store import package_due, package_stage
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.platform import runs
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.firms import Numbering
from dunwell_server.platform.runs import Run, RunItem, RunKind
from tests import support
from tests.integration.billing.book import Book
from tests.integration.billing.conftest import MakeBook

AS_OF = date(2026, 3, 10)
CADENCES = (None, "ON_DUE", "IMMEDIATE", "MONTHLY")


async def start(book: Book, as_of: date = AS_OF, *, dry_run: bool = False, **params: Any) -> Run:
    """A queued run."""
    values = {"as_of": as_of.isoformat(), **params}
    return await book.do(runs.create, RunKind.PACKAGES, values, dry_run=dry_run, run_id=uuid4())


async def bill(book: Book, as_of: date = AS_OF, *, chunk_size: int = 1000, lanes: int = 2, **options: Any) -> Run:
    """A whole run, by one worker; as it ended."""
    run = await start(book, as_of, **options)
    await PackageRunExecutor(chunk_size, lanes).execute(book.db, book.context, run)
    return await book.see(runs.get, run.id)


async def items_of(book: Book, run: Run) -> dict[UUID, RunItem]:
    """What became of each engagement. Not by the feed: another test's open transaction would hold it back."""
    names = [field.name for field in fields(RunItem)]
    rows = await book.sql(f"SELECT {', '.join(names)} FROM run_item WHERE run_id = %s", run.id)
    return {row["subject_id"]: RunItem(**row) for row in rows}


async def invoices_of(book: Book, run: Run) -> list[Invoice]:
    """The invoices of a run, in the order of their numbers."""
    rows = await book.sql("SELECT id FROM invoice WHERE run_id = %s ORDER BY series_no", run.id)
    return [await book.get(row["id"]) for row in rows]


def apart(invoices: Sequence[Invoice]) -> dict[UUID | None, Invoice]:
    """Invoices by engagement, without what two runs of the same firm may do differently: numbers and who ran."""
    return {invoice.engagement_id: replace(invoice, series_no=None, number=None, run_id=None) for invoice in invoices}


async def fill(book: Book, count: int = 12) -> list[UUID]:
    """Engagements of every kind; the ids of those that are due."""
    for n in range(count):
        client = await book.client(payment_terms_days=n if n % 3 == 0 else None)
        if cadence := CADENCES[n % 4]:
            await book.do(collection.set_autopay, client.id, True, None, cadence, datetime(2026, 1, 20, tzinfo=UTC))
        await book.engagement(
            client,
            start_date=date(2026, 1, 1 + n % 28),
            end_date=date(2026, 3, 5) if n % 5 == 4 else None,
            billing_interval=(BillingInterval.MONTHLY, BillingInterval.WEEKLY, BillingInterval.QUARTERLY)[n % 3],
            anchor=BillingAnchor.CALENDAR if n % 2 else BillingAnchor.START_DATE,
            timing=BillingTiming.IN_ARREARS if n % 4 == 3 else BillingTiming.IN_ADVANCE,
            fee_minor=0 if n == 7 else 10_000 + n,
            payment_terms_days=5 if n == 3 else None,
        )
    rows = await book.sql("SELECT id FROM engagement WHERE next_bill_date <= %s", AS_OF)
    return [row["id"] for row in rows]


async def assert_sound(book: Book) -> None:
    """What must hold of every firm's book, whatever has happened."""
    (numbers,) = await book.sql(
        "SELECT coalesce(max(series_no), 0) AS last, count(DISTINCT series_no) AS used,"
        " (SELECT coalesce(max(next_no), 1) FROM invoice_series) - 1 AS taken FROM invoice"
    )
    assert numbers["last"] == numbers["used"] == numbers["taken"]
    assert not await book.sql(
        "SELECT engagement_id FROM coverage WHERE release_time IS NULL GROUP BY 1"
        " HAVING sum(upper(period) - lower(period)) <> max(upper(period)) - min(lower(period))"
    )
    assert not await book.sql(
        "SELECT i.id FROM invoice i LEFT JOIN LATERAL (SELECT count(*) AS lines, sum(amount_minor) AS amount FROM invoice_line l"
        " WHERE l.invoice_id = i.id) l ON true WHERE (i.line_count, i.subtotal) IS DISTINCT FROM (l.lines, l.amount)"
    )
    assert not await book.sql(
        "SELECT i.id FROM invoice i WHERE void_time IS NULL AND ("
        " (SELECT count(*) FROM audit_event a WHERE a.object_id = i.id AND a.action = 'invoice_finalized') <> 1"
        " OR (SELECT count(*) FROM event v WHERE v.object_id = i.id AND v.type = 'invoice.finalized') <> 1"
        " OR (SELECT count(*) FROM ledger_posting p WHERE p.source_id = i.id) <> (i.total > 0)::int)"
    )
    assert not await book.sql(
        "SELECT client_id FROM client_balance b WHERE receivable_minor <> (SELECT coalesce(sum(amount_minor), 0)"
        " FROM ledger_entry e WHERE e.client_id = b.client_id AND e.account = 'receivable')"
    )


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


async def test_chunks_and_lanes_change_nothing(make_book: MakeBook) -> None:
    """Ten engagements of one firm billed in one chunk, and, voided, again in chunks of three: the same but for ids."""
    book = await make_book()
    await fill(book, 10)
    first = await invoices_of(book, await bill(book, lanes=1))
    voided = [invoice for invoice in first if invoice.total]
    for invoice in voided:
        await book.do(closing.void_invoice, invoice.id)
    second = await invoices_of(book, await bill(book, chunk_size=3, lanes=3))
    assert len(second) == len(voided)
    same = {key: replace(invoice, id=preview.NO_ID) for key, invoice in apart(second).items()}
    assert same == {key: replace(invoice, id=preview.NO_ID) for key, invoice in apart(voided).items()}
    assert not {invoice.id for invoice in first} & {invoice.id for invoice in second}
    await assert_sound(book)


async def test_workers_share_a_run(book: Book, database_urls: support.DatabaseUrls) -> None:
    made = await fill(book, 40)
    other = await Database.open(database_urls.application, bus=book.db.bus, max_size=4)
    run = await start(book)
    try:
        executor = PackageRunExecutor(chunk_size=3)
        await asyncio.gather(*(executor.execute(db, book.context, run) for db in (book.db, other, book.db, other)))
    finally:
        await other.close()
    run = await book.see(runs.get, run.id)
    assert (run.state, run.done, run.total) == ("SUCCEEDED", run.total, len(made))
    assert set(await items_of(book, run)) == set(made)
    invoices = await invoices_of(book, run)
    assert len(invoices) == len({invoice.engagement_id for invoice in invoices}) == run.counts["CREATED"]
    assert run.amounts == {"USD": sum(invoice.total for invoice in invoices)}
    await assert_sound(book)


async def test_workers_share_a_dry_run(book: Book) -> None:
    made = await fill(book, 20)
    run = await start(book, dry_run=True)
    executor = PackageRunExecutor(chunk_size=3)
    await asyncio.gather(*(executor.execute(book.db, book.context, run) for _ in range(3)))
    run = await book.see(runs.get, run.id)
    assert (run.state, run.done, set(await items_of(book, run))) == ("SUCCEEDED", len(made), set(made))


class Crash(Exception):
    """The worker dies here."""


@pytest.mark.parametrize("place", ["packages.claimed", "packages.staged", "packages.numbering", "packages.written"])
async def test_dying_anywhere_and_going_on(make_book: MakeBook, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = await make_book(), await make_book()
    for book in (whole, broken):
        await fill(book, 9)
    expected = await invoices_of(whole, await bill(whole, lanes=1))
    seen = 0

    def die(name: str) -> None:
        nonlocal seen
        seen += name == place
        if name == place and seen == 2:
            raise Crash

    run = await start(broken)
    with monkeypatch.context() as patch:
        patch.setattr(package_run, "failpoint", die)
        with pytest.raises(Crash):
            await PackageRunExecutor(4, 1).execute(broken.db, broken.context, run)
    halfway = await broken.see(runs.get, run.id)
    assert (halfway.state, halfway.done) == ("RUNNING", 4)
    await PackageRunExecutor(4, 1).execute(broken.db, broken.context, halfway)
    ended = await broken.see(runs.get, run.id)
    assert (ended.state, ended.done, ended.total) == ("SUCCEEDED", 9, 9)
    invoices = await invoices_of(broken, ended)
    assert [(i.number, i.total, i.line_count) for i in invoices] == [
        (i.number, i.total, i.line_count) for i in expected
    ]
    await assert_sound(broken)


async def test_the_id_follows_from_what_is_billed(book: Book) -> None:
    """A run undone and repeated (a restored backup) makes the same invoices, so asking for their money twice is asking once."""
    await fill(book, 5)
    run = await start(book)

    async def compute(uow: UnitOfWork) -> list[UUID]:
        execution = PackageExecution(book.db, book.context, run, 10)
        due = await package_due.page(uow, execution.scope, package_due.FIRST, 10)
        return [invoice.id for invoice in (await execution.compute(uow, due)).invoices]

    before = await book.see(compute)
    done = await bill(book)
    assert {invoice.id for invoice in await invoices_of(book, done)} == set(before)


async def test_repeating_a_run_bills_nothing(book: Book) -> None:
    await fill(book)
    run = await bill(book)
    before = await book.rows()
    again = await bill(book)
    assert (again.state, again.total, again.counts) == ("SUCCEEDED", 0, {})
    await PackageRunExecutor().execute(book.db, book.context, run)
    await PackageRunExecutor().execute(book.db, book.context, replace(run, state=runs.RunState.QUEUED))
    assert await book.rows() == before


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


async def test_waits_for_engagements_that_others_hold(book: Book) -> None:
    client = await book.client()
    held = await book.engagement(client)
    await book.engagement(await book.client())
    run = await start(book)
    async with book.db.transaction(book.context) as uow:
        await uow.execute("SELECT 1 FROM client WHERE id = %s FOR NO KEY UPDATE", (client.id,))
        working = asyncio.create_task(PackageRunExecutor().execute(book.db, book.context, run))
        await asyncio.sleep(0.5)
        assert (await book.see(runs.get, run.id)).done == 1
        assert not working.done()
    await working
    assert held.id in await items_of(book, run)
    assert (await book.see(runs.get, run.id)).done == 2


async def test_a_cancelled_run_stops(book: Book) -> None:
    await fill(book, 3)
    run = await start(book)
    await book.do(runs.finish, run.id, runs.RunState.CANCELLED)
    before = await book.rows()
    await PackageRunExecutor().execute(book.db, book.context, run)
    assert await book.rows() == before


async def test_years_of_missed_weeks_end_a_chunk_early(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package_billing, "CHUNK_LINES", 20)
    for _ in range(4):
        await book.engagement(await book.client(), billing_interval=BillingInterval.WEEKLY)
    run = await bill(book, lanes=1)
    assert (run.counts, run.done) == ({"CREATED": 4}, 4)
    (chunks,) = await book.sql("SELECT count(DISTINCT xact) AS number FROM run_item WHERE run_id = %s", run.id)
    assert chunks["number"] == 2


async def test_other_firms_are_left_alone(make_book: MakeBook) -> None:
    mine, other = await make_book(), await make_book()
    for book in (mine, other):
        await fill(book, 3)
    before = await other.rows()
    await bill(mine)
    assert await other.rows() == before


async def test_the_stage_survives_a_failed_chunk_empty(book: Book) -> None:
    """The stage is per connection: nothing of an aborted or finished chunk may show up in the next."""
    await fill(book, 3)
    run = await bill(book)
    async with book.db.transaction(book.context) as uow:
        for stage in package_stage.STAGES:
            await uow.execute(stage.create)
        assert await uow.fetch_value("SELECT count(*) FROM pg_temp.package_invoice_stage_2") == 0
    assert run.counts == {"CREATED": 3}


async def test_a_claim_reads_by_index(make_book: MakeBook, database_urls: support.DatabaseUrls) -> None:
    """Among many firms' engagements and many runs' items, a claim touches its own rows only."""
    book = await make_book()
    await fill(book, 3)
    run = await start(book)
    execution = PackageExecution(book.db, book.context, run, 10)
    with psycopg.connect(database_urls.owner, autocommit=True) as owner:
        owner.execute(
            "INSERT INTO run_item (firm_id, run_id, subject_id, subject_type, outcome)"
            " SELECT %s, gen_random_uuid(), gen_random_uuid(), 'engagement', 'CREATED' FROM generate_series(1, 5000)",
            (book.context.firm_id,),
        )

    async def plan(uow: UnitOfWork) -> str:
        await package_due.read_by_index(uow)
        statement = package_due.claim_statement(execution.scope)
        params = execution.scope.params(uow, after_date=date.min, after_id=preview.NO_ID, limit=10)
        return "\n".join(str(row["QUERY PLAN"]) for row in await uow.fetch_all("EXPLAIN " + statement, params))

    text = await book.see(plan)
    assert "Seq Scan" not in text
    assert "engagement_due_idx" in text
    assert "run_item_pkey" in text


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


async def test_clients_are_locked_before_anything_of_theirs_is_written(book: Book) -> None:
    """While the run holds a client, a posting for it waits: balances have one writer at a time."""
    client = await book.client()
    await book.engagement(client)
    run = await start(book)
    execution = PackageExecution(book.db, book.context, run, 10)
    async with book.db.transaction(book.context) as uow:
        assert len(await package_due.claim(uow, execution.scope, package_due.FIRST, 10)) == 1
        with pytest.raises(DunwellError) as caught:
            await book.do(_lock_now, client)
        assert caught.value.reason is Reason.SERIALIZATION_CONFLICT


async def _lock_now(uow: UnitOfWork, client: Client) -> None:
    await uow.execute("SET LOCAL lock_timeout = '50ms'")
    await clients.get_client(uow, client.id)
    await uow.execute("SELECT 1 FROM client WHERE id = %s FOR NO KEY UPDATE", (client.id,))
