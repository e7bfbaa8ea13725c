"""Approved time while others approve, bill and void, and tens of thousands of entries of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID

import psycopg
import pytest

from dunwell_server.billing.model import (
    Client,
    Engagement,
    Invoice,
    TimeGrouping,
)
from dunwell_server.billing.service import closing, time_entries
from dunwell_server.kernel.errors import DunwellError, Reason
from tests import support
from tests.integration.billing.book import Book
from tests.integration.billing.conftest import MakeBook
from tests.integration.billing.timebook import (
    APRIL,
    JANUARY,
    TERMS,
    approved,
    as_person,
    bill,
    hourly,
    ids,
    run_as_of,
    states,
    submitted,
    worked,
)

# Concurrency


async def test_of_two_billings_at_once_each_entry_is_on_one(make_book: MakeBook) -> None:
    book = await make_book()
    client = await book.client()
    agreed = await hourly(book, client)
    made = await approved(book, *(worked(agreed, JANUARY, 1) for _ in range(200)))
    results = await asyncio.gather(*(bill(book, client) for _ in range(6)), return_exceptions=True)
    sent = [result for result in results if isinstance(result, Invoice)]
    assert sum(invoice.total for invoice in sent) == 20_000
    assert {result.reason for result in results if isinstance(result, DunwellError)} == {Reason.INVOICE_EMPTY}
    links = await book.sql("SELECT time_entry_id FROM invoice_time WHERE release_time IS NULL")
    assert sorted(row["time_entry_id"] for row in links) == sorted(ids(made))


async def test_approving_and_unapproving_while_billing_loses_and_doubles_nothing(make_book: MakeBook) -> None:
    book = await make_book()
    client = await book.client()
    agreed = await hourly(book, client, replace(TERMS, total_cap_minor=10**9))
    made = ids(await submitted(book, *(worked(agreed, JANUARY, 1) for _ in range(120))))
    eve = as_person(book, "eve")

    async def approve(some: list[UUID]) -> None:
        for entry_id in some:
            await eve.do(time_entries.approve_time_entries, [entry_id])

    async def unapprove() -> None:
        for _ in range(10):
            await eve.do(time_entries.unapprove_time_entries, made[::7])
            await eve.do(time_entries.approve_time_entries, made[::7])

    async def billing() -> list[Invoice]:
        return [invoice for _ in range(15) for invoice in await rest(book, client)]

    first, second, *_ = await asyncio.gather(
        billing(), billing(), approve(made[:60]), approve(made[60:]), unapprove(), run_until_quiet(book)
    )
    await eve.do(time_entries.approve_time_entries, made)
    left = await rest(book, client)
    by_run = sum(row["total"] for row in await book.sql("SELECT total::int FROM invoice WHERE run_id IS NOT NULL"))
    assert sum(invoice.total for invoice in (*first, *second, *left)) + by_run == 12_000
    assert set(await states(book)) == {"INVOICED"}
    live = await book.sql("SELECT count(*) AS n, count(DISTINCT time_entry_id) AS different FROM invoice_time")
    assert live == [{"n": 120, "different": 120}]


async def run_until_quiet(book: Book) -> None:
    """Runs beside everything else."""
    for _ in range(3):
        await run_as_of(book, APRIL)


async def rest(book: Book, client: Client) -> list[Invoice]:
    """An invoice of what is left to bill, if anything is."""
    try:
        return [await bill(book, client)]
    except DunwellError as error:
        if error.reason is not Reason.INVOICE_EMPTY:
            raise
        return []


async def test_voiding_while_billing_bills_what_is_given_back_once(make_book: MakeBook) -> None:
    book = await make_book()
    client = await book.client()
    agreed = await hourly(book, client)
    await approved(book, *(worked(agreed, JANUARY, 1) for _ in range(50)))
    first = await bill(book, client)
    await approved(book, *(worked(agreed, JANUARY, 1) for _ in range(50)))
    void, *made = await asyncio.gather(
        book.do(closing.void_invoice, first.id), bill(book, client), bill(book, client), return_exceptions=True
    )
    assert not isinstance(void, BaseException)
    made += await rest(book, client)
    assert sum(invoice.total for invoice in made if isinstance(invoice, Invoice)) == 10_000
    assert set(await states(book)) == {"INVOICED"}


# Many


@pytest.mark.parametrize(("grouping", "lines"), [(TimeGrouping.ROLE, 10), (TimeGrouping.ENTRY, 30_000)])
async def test_thirty_thousand_entries_of_one_client_fit_an_invoice(
    make_book: MakeBook, database_urls: support.DatabaseUrls, grouping: TimeGrouping, lines: int
) -> None:
    """Of a firm that the statistics do not know. How fast is for `benchmarks.time_billing` to say."""
    known = await make_book()
    await _approved_rows(known, await hourly(known, await known.client(), TERMS), 2_000)
    with psycopg.connect(database_urls.owner, autocommit=True) as owner:
        owner.execute("ANALYZE")
    book = await make_book()
    client = await book.client()
    agreed = await hourly(book, client, replace(TERMS, grouping=grouping, increment_minutes=6))
    await _approved_rows(book, agreed, 30_000)
    invoice = await bill(book, client)
    assert len(invoice.lines) == lines
    held = await book.sql("SELECT count(*) AS n FROM time_entry WHERE invoice_id = %s", invoice.id)
    assert held == [{"n": 30_000}]


async def _approved_rows(book: Book, agreed: Engagement, count: int) -> None:
    """Approved time as it lies in the table, without the way there."""
    await book.sql(
        "INSERT INTO time_entry (firm_id, id, client_id, engagement_id, person, role, work_date, minutes, description)"
        " SELECT %s, gen_random_uuid(), %s, %s, 'Person ' || n %% 40, 'Role ' || n %% 10, date '2026-01-01' + (n %% 28), 7 + n %% 90,"
        " 'Work on matter ' || n FROM generate_series(1, %s) AS n",
        book.context.firm_id, agreed.client_id, agreed.id, count,
    )  # fmt: skip
    await book.sql(
        "UPDATE time_entry SET state = 'SUBMITTED', submit_actor = 'a', submit_time = now() WHERE state = 'DRAFT'"
    )
    await book.sql(
        "UPDATE time_entry SET state = 'APPROVED', approve_actor = 'b', approve_time = now() WHERE state = 'SUBMITTED'"
    )
