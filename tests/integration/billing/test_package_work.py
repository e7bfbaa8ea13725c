"""How a package run is worked at: in chunks, by several, after a crash, against others' locks."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from typing import Any
from uuid import UUID

import psycopg
import pytest

from dunwell_server.billing.jobs import PackageExecution, PackageRunExecutor, package_run
from dunwell_server.billing.model import BillingInterval, Client
from dunwell_server.billing.service import clients, closing, package_billing, preview
from dunwell_server.billing.store import package_due, package_stage, time_billing
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform import runs
from dunwell_server.platform.database import Database, UnitOfWork
from tests import support
from tests.integration.billing.book import Book
from tests.integration.billing.conftest import MakeBook
from tests.integration.billing.packagebook import AS_OF, apart, assert_sound, bill, fill, invoices_of, items_of, start


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


async def test_waits_for_engagements_that_others_hold(book: Book) -> None:
    client = await book.client()
    held = await book.engagement(client)
    await book.engagement(await book.client())
    run = await start(book)
    async with book.db.transaction(book.context) as uow:
        await uow.execute("SELECT 1 FROM client WHERE id = %s FOR NO KEY UPDATE", (client.id,))
        working = asyncio.create_task(PackageRunExecutor().execute(book.db, book.context, run))

        async def one_is_done() -> bool:
            return (await book.see(runs.get, run.id)).done == 1

        await support.eventually(one_is_done)
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
    execution = PackageExecution(book.db, book.context, await start(book), 10)
    with psycopg.connect(database_urls.owner, autocommit=True) as owner:
        owner.execute(
            "INSERT INTO run_item (firm_id, run_id, subject_id, subject_type, outcome)"
            " SELECT %s, gen_random_uuid(), gen_random_uuid(), 'engagement', 'CREATED' FROM generate_series(1, 5000)",
            (book.context.firm_id,),
        )

    async def claim(uow: UnitOfWork) -> str:
        params = execution.scope.params(uow, after_date=date.min, after_id=preview.NO_ID, limit=10)
        return await plan(uow, package_due.claim_statement(execution.scope), params)

    text = await book.see(claim)
    assert "Seq Scan" not in text
    assert "engagement_due_idx" in text
    assert "run_item_pkey" in text


async def test_time_is_looked_up_by_engagement(book: Book) -> None:
    """However few entries there are when the run is planned: not by reading all of the firm's in the order of some other index."""

    async def look(uow: UnitOfWork) -> str:
        params = {"firm_id": uow.firm_id, "ids": [preview.NO_ID], "untils": [AS_OF]}
        return await plan(uow, time_billing.billable_statement(lock=False), params)

    text = await book.see(look)
    assert "time_entry_open_idx" in text
    assert "Sort" not in text


async def plan(uow: UnitOfWork, statement: str, params: Mapping[str, Any]) -> str:
    """How PostgreSQL would execute a statement in a run."""
    await package_due.read_by_index(uow)
    rows = await uow.fetch_all(f"EXPLAIN {statement}", params)
    return "\n".join(str(row["QUERY PLAN"]) for row in rows)


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
