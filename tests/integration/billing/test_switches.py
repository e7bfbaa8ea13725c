"""The firm's switches: with proration off, parts of periods are billed in full, whatever was agreed."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from dunwell_server.billing.model import BillingAnchor
from dunwell_server.billing.service import preview
from tests.integration.billing.book import Book
from tests.integration.billing.conftest import MakeBook
from tests.integration.billing.packagebook import bill as run_of
from tests.integration.billing.packagebook import invoices_of
from tests.integration.billing.timebook import TERMS, approved, bill, mixed, worked

PART: Any = {"start_date": date(2026, 2, 10), "end_date": date(2026, 2, 20), "anchor": BillingAnchor.CALENDAR}
"""Ten of the 28 days of a February."""


@pytest.fixture
async def off(make_book: MakeBook) -> Book:
    return await make_book(features={"enable_proration": False})


async def amounts(book: Book) -> tuple[list[int], list[int]]:
    """What a preview and a run make of 280.00 a month for a part of one."""
    agreed = await book.engagement(await book.client(), fee_minor=28_000, **PART)
    shown = await book.see(preview.preview_engagement, agreed.id)
    assert shown is not None
    (written,) = await invoices_of(book, await run_of(book))
    return [line.amount_minor for line in shown.lines], [line.amount_minor for line in written.lines]


async def test_a_part_costs_its_days(book: Book) -> None:
    assert await amounts(book) == ([10_000], [10_000])


async def test_switched_off_a_part_costs_the_whole(off: Book) -> None:
    assert await amounts(off) == ([28_000], [28_000])


async def overage(book: Book) -> list[int]:
    """The minutes that 100 minutes of work cost beside a fee that includes 56 a month, in a part of one."""
    client = await book.client()
    agreed = await mixed(book, client, replace(TERMS, included_minutes=56), **PART)
    await approved(book, worked(agreed, date(2026, 2, 12), 100))
    return [line.amount_minor for line in (await bill(book, client)).lines]


async def test_a_part_includes_its_share_of_the_minutes(book: Book) -> None:
    assert await overage(book) == [0, 8_000]


async def test_switched_off_a_part_includes_all_minutes(off: Book) -> None:
    assert await overage(off) == [0, 4_400]


async def test_caps_are_told_of_by_what_will_be_billed(make_book: MakeBook) -> None:
    told = []
    for on in (True, False):
        book = await make_book(features={"enable_proration": on})
        terms = replace(TERMS, included_minutes=56, period_cap_minor=10_000)
        agreed = await mixed(book, await book.client(), terms, **PART)
        await approved(book, worked(agreed, date(2026, 2, 12), 100))
        told.append(await book.sql("SELECT metadata FROM audit_event WHERE action = 'engagement_cap_reached'"))
    assert [row["metadata"]["amount_minor"] for row in told[0]] == [8_000]
    assert told[1] == []
