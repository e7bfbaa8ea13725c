"""Hourly and mixed engagements and their time, as the tests make them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from dunwell_server.billing.jobs import PackageRunExecutor
from dunwell_server.billing.model import (
    BillingTiming,
    Client,
    Engagement,
    HourlyTerms,
    Invoice,
    PricingMode,
    TimeEntry,
)
from dunwell_server.billing.service import invoices, time_entries
from dunwell_server.billing.service.time_billing import TimeSource
from dunwell_server.billing.service.time_entries import ItemResult, NewTimeEntry
from dunwell_server.kernel.ids import uuid7
from dunwell_server.platform import runs
from dunwell_server.platform.context import Actor, Role
from dunwell_server.platform.runs import RunKind
from tests.integration.billing.book import Book

JANUARY, FEBRUARY, MARCH, APRIL = (date(2026, month, 1) for month in range(1, 5))
TERMS = HourlyTerms(Decimal(60))
"""A dollar a minute."""


async def hourly(book: Book, client: Client, terms: HourlyTerms = TERMS, **fields: Any) -> Engagement:
    """A monthly hourly engagement from 2026-01-01."""
    return await book.engagement(
        client, name="Advice", pricing_mode=PricingMode.HOURLY, fee_minor=0, fee_currency=None,
        timing=BillingTiming.IN_ARREARS, hourly=terms, **fields,
    )  # fmt: skip


async def mixed(book: Book, client: Client, terms: HourlyTerms = TERMS, **fields: Any) -> Engagement:
    """A monthly package of 1,000.00 from 2026-01-01 in advance, with ten hours in it."""
    with_hours = replace(terms, included_minutes=terms.included_minutes or 600)
    return await book.engagement(client, name="Care", pricing_mode=PricingMode.MIXED, hourly=with_hours, **fields)


def worked(engagement: Engagement, day: date, minutes: int, **fields: Any) -> NewTimeEntry:
    """Time of Ada's."""
    return NewTimeEntry(engagement.id, "Ada", day, minutes, **fields)


def as_person(book: Book, person: str) -> Book:
    """The same book in the hands of somebody."""
    return replace(book, context=replace(book.context, actor=Actor("key", Role.OPERATOR, person=person)))


def entries(results: Sequence[ItemResult]) -> list[TimeEntry]:
    """The entries of a bulk call in which nothing was refused."""
    assert [result.error for result in results] == [None] * len(results)
    return [result.entry for result in results if result.entry is not None]


async def draft(book: Book, *new: NewTimeEntry) -> list[TimeEntry]:
    """Entered time."""
    return entries(await book.do(time_entries.create_time_entries, new))


async def submitted(book: Book, *new: NewTimeEntry) -> list[TimeEntry]:
    """Time that Ada has submitted."""
    made = await draft(book, *new)
    return entries(await as_person(book, "ada").do(time_entries.submit_time_entries, ids(made)))


async def approved(book: Book, *new: NewTimeEntry) -> list[TimeEntry]:
    """Time that Ada has submitted and Eve approved."""
    waiting = await submitted(book, *new)
    return entries(await as_person(book, "eve").do(time_entries.approve_time_entries, ids(waiting)))


def ids(of: Sequence[TimeEntry]) -> list[UUID]:
    """Their ids."""
    return [entry.id for entry in of]


async def bill(book: Book, client: Client, *sources: TimeSource, finalize: bool = True, **fields: Any) -> Invoice:
    """An invoice of the client's approved time, of all engagements through today unless `sources` say otherwise."""
    new = invoices.NewInvoice(client.id, time=sources or (TimeSource(),), **fields)
    return await book.do(invoices.create_invoice, new, finalize=finalize)


async def states(book: Book) -> list[str]:
    """The states of all entries, oldest work first."""
    return [row["state"] for row in await book.sql("SELECT state FROM time_entry ORDER BY work_date, id")]


async def run_as_of(book: Book, as_of: date) -> list[Invoice]:
    """The invoices that a billing run makes, in the order of their numbers."""
    started = await book.do(runs.create, RunKind.PACKAGES, {"as_of": as_of.isoformat()}, dry_run=False, run_id=uuid7())
    await PackageRunExecutor().execute(book.db, book.context, started)
    ended = await book.see(runs.get, started.id)
    assert ended is not None
    assert (ended.state, ended.counts.get("FAILED", 0)) == ("SUCCEEDED", 0), ended
    made = await book.sql("SELECT id FROM invoice WHERE run_id = %s ORDER BY series_no", started.id)
    return [await book.get(row["id"]) for row in made]
