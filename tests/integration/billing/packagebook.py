"""Package runs as the tests start and read them, and what must hold of a book whatever has happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID, uuid4

from dunwell_server.billing.jobs import PackageRunExecutor
from dunwell_server.billing.model import BillingAnchor, BillingInterval, BillingTiming, Invoice
from dunwell_server.billing.service import collection
from dunwell_server.platform import runs
from dunwell_server.platform.runs import Run, RunItem, RunKind
from tests.integration.billing.book import Book

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
