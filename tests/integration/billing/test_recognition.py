"""Deferred revenue on the real database: earned by the day, whenever the work is done, and taken back exactly."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, time, timedelta
from fractions import Fraction
from typing import Any

import psycopg
import pytest

from dunwell_server.billing.model import Invoice
from dunwell_server.billing.recognition import TakenBack
from dunwell_server.billing.service import closing, invoices, recognition
from dunwell_server.kernel.ids import uuid7
from dunwell_server.ledger import rules
from dunwell_server.ledger import service as ledger
from dunwell_server.ledger.model import Account, Entry, Posting
from dunwell_server.platform import invariants
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.work import WorkKind
from dunwell_server.scheduler.daily import DailyMarks
from tests.integration.billing.book import Book

MakeBook = Callable[..., Awaitable[Book]]


def share(amount: int, elapsed: int, days: int) -> int:
    """Half away from zero, by fractions."""
    return int(Fraction(amount * elapsed, days) + Fraction(1, 2))


async def catch_up(book: Book, limit: int = recognition.BATCH) -> int:
    """Recognise until nothing is due; how many transactions it took."""
    batches = 0
    while await book.do(recognition.recognize, limit):
        batches += 1
        assert batches < 1000
    return batches


async def live_until(book: Book, day: date, hour: int = 12) -> None:
    """Go to noon of a day and catch up."""
    await book.set_clock(datetime(day.year, day.month, day.day, hour, tzinfo=UTC))
    await catch_up(book)


async def posted(book: Book) -> dict[date, int]:
    """What each civil day's posting took out of deferred revenue, by the firm's zone."""
    rows = await book.sql(
        "SELECT (p.firm_time AT TIME ZONE %s)::date AS day, sum(e.amount_minor)::bigint AS amount, count(DISTINCT p.id) AS postings"
        " FROM ledger_posting p JOIN ledger_entry e ON e.posting_id = p.id WHERE p.kind = 'recognized' AND e.account = 'deferred_revenue'"
        " GROUP BY 1 ORDER BY 1", await zone(book),
    )  # fmt: skip
    assert all(row["postings"] == 1 for row in rows)
    return {row["day"]: row["amount"] for row in rows}


async def zone(book: Book) -> str:
    async with book.db.transaction(book.context, write=False) as uow:
        return uow.firm.settings.time_zone


async def schedule_of(book: Book, invoice: Invoice) -> dict[str, Any]:
    (row,) = await book.sql("SELECT * FROM revenue_schedule WHERE invoice_id = %s", invoice.id)
    return row


async def verify(book: Book) -> None:
    """Every invariant of the firm holds."""
    async with book.db.transaction(book.context, write=False) as uow:
        for check in await invariants.run_for_firm(uow):
            assert check.ok, check


async def billed(book: Book, start: date, end: date, amount: int, **fields: Any) -> Invoice:
    client = await book.client(**fields)
    engagement = await book.engagement(client, start_date=start)
    return await book.billed(engagement, start, end, amount)


def at(day: date, hour: int = 12) -> datetime:
    return datetime(day.year, day.month, day.day, hour, tzinfo=UTC)


async def test_each_day_earns_its_share_at_its_end(make_book: MakeBook) -> None:
    start, end = date(2026, 3, 10), date(2026, 4, 10)
    book = await make_book(clock=at(start))
    invoice = await billed(book, start, end, 100_000)
    assert await book.trial() == {"receivable": 100_000, "deferred_revenue": -100_000}
    await catch_up(book)
    assert await posted(book) == {}, "no day is over yet"
    await live_until(book, date(2026, 3, 11))
    assert await posted(book) == {start: share(100_000, 1, 31)}
    for day in range(2, 40):
        await live_until(book, start + timedelta(days=day))
    earned = await posted(book)
    assert list(earned) == [start + timedelta(days=day) for day in range(31)]
    running = 0
    for day, amount in enumerate(earned.values(), 1):
        running += amount
        assert running == share(100_000, day, 31)
    assert await book.trial() == {"receivable": 100_000, "revenue": -100_000}
    row = await schedule_of(book, invoice)
    assert (row["recognized_minor"], row["recognized_through_date"], row["close_time"] is None) == (100_000, end, False)
    await verify(book)


@pytest.mark.parametrize("limit", [1, 2, 50])
async def test_whenever_the_work_is_done_the_days_get_the_same(make_book: MakeBook, limit: int) -> None:
    """One firm is looked at daily, the other once after a year, in batches: leap day, month ends, an invoice sent late, three currencies."""
    begin = date(2024, 1, 31)

    async def bill(book: Book) -> None:
        await billed(book, begin, date(2025, 1, 31), 120_001)
        await billed(book, begin, date(2024, 2, 29), 999, currency_code="JPY")
        await billed(book, date(2023, 12, 1), date(2024, 3, 1), 77_777, currency_code="KWD")
        await billed(book, date(2023, 1, 1), date(2024, 1, 1), 5_000)
        await billed(book, date(2024, 6, 1), date(2024, 6, 2), 1)

    daily, once = await make_book(clock=at(begin)), await make_book(clock=at(begin))
    await bill(daily)
    await bill(once)
    for step in range(1, 60):
        await live_until(daily, begin + timedelta(days=step))
    await live_until(daily, date(2025, 2, 3))
    await once.set_clock(at(date(2025, 2, 3)))
    await catch_up(once, limit)
    query = (
        "SELECT p.firm_time, e.currency_code, sum(e.amount_minor)::bigint AS amount FROM ledger_posting p JOIN ledger_entry e ON e.posting_id = p.id"
        " WHERE p.kind = 'recognized' AND e.account = 'revenue' GROUP BY 1, 2 ORDER BY 1, 2"
    )  # fmt: skip
    assert await daily.sql(query) == await once.sql(query)
    assert (await once.trial()).get("deferred_revenue") is None
    (late,) = await once.sql(
        "SELECT sum(e.amount_minor)::bigint AS amount FROM ledger_posting p JOIN ledger_entry e ON e.posting_id = p.id"
        " WHERE p.kind = 'recognized' AND e.account = 'revenue' AND e.currency_code = 'USD' AND p.firm_time < '2024-02-01'"
    )
    # On the day of its issue: all of the invoice that was over by then, and one day of the others.
    assert late["amount"] == -(5_000 + share(120_001, 1, 366))
    await verify(once)


async def test_the_leap_day_and_the_days_of_clock_changes_count_once(make_book: MakeBook) -> None:
    book = await make_book(clock=datetime(2024, 2, 1, 12, tzinfo=UTC), time_zone="America/New_York")
    await billed(book, date(2024, 2, 1), date(2024, 4, 1), 60_00)
    await book.set_clock(datetime(2024, 4, 1, 12, tzinfo=UTC))
    await catch_up(book)
    earned = await posted(book)
    assert list(earned) == [date(2024, 2, 1) + timedelta(days=day) for day in range(60)]
    assert date(2024, 2, 29) in earned
    assert date(2024, 3, 10) in earned
    assert set(earned.values()) == {100}
    times = await book.sql("SELECT firm_time FROM ledger_posting WHERE kind = 'recognized' ORDER BY 1")
    # The day before the clocks change ends five hours after UTC's, the day of the change four.
    assert datetime(2024, 3, 10, 4, 59, 59, 999_999, tzinfo=UTC) in [row["firm_time"] for row in times]
    assert datetime(2024, 3, 11, 3, 59, 59, 999_999, tzinfo=UTC) in [row["firm_time"] for row in times]


async def test_voiding_in_the_middle_takes_back_what_was_earned_too(make_book: MakeBook) -> None:
    start = date(2026, 3, 1)
    book = await make_book(clock=at(start))
    invoice = await billed(book, start, date(2026, 4, 1), 31_000)
    other = await billed(book, start, date(2026, 4, 1), 62_00)
    await live_until(book, date(2026, 3, 11))
    assert (await book.trial())["revenue"] == -(10_000 + 2_000)
    await book.do(closing.void_invoice, invoice.id)
    assert await book.trial() == {"receivable": 62_00, "revenue": -2_000, "deferred_revenue": -42_00}
    await live_until(book, date(2026, 4, 5))
    assert await book.trial() == {"receivable": 62_00, "revenue": -62_00}
    row = await schedule_of(book, invoice)
    assert (row["recognized_minor"], row["taken_back_minor"]) == (0, 31_000)
    assert (await schedule_of(book, other))["recognized_minor"] == 62_00
    await verify(book)


async def test_a_written_off_invoice_goes_on_being_earned(make_book: MakeBook) -> None:
    start = date(2026, 3, 1)
    book = await make_book(clock=at(start))
    invoice = await billed(book, start, date(2026, 4, 1), 31_000)
    await live_until(book, date(2026, 3, 11))
    await book.do(closing.write_off_invoice, invoice.id)
    await live_until(book, date(2026, 4, 2))
    assert await book.trial() == {"bad_debt": 31_000, "revenue": -31_000}
    await verify(book)


async def take_back(book: Book, invoice: Invoice, amount: int) -> tuple[int, int]:
    """Take an amount of the first line back, and post it as a write-down does; (deferred, earned)."""

    async def work(uow: UnitOfWork) -> tuple[int, int]:
        await invoices.locked_invoice(uow, invoice.id, None)
        (taken,) = (await recognition.take_back(uow, {(invoice.id, 1): amount})).values()
        await post_taken(uow, invoice, taken.deferred, taken.earned)
        return taken.deferred, taken.earned

    return await book.do(work)


async def post_taken(uow: UnitOfWork, invoice: Invoice, deferred: int, earned: int) -> None:
    entries = [
        Entry(Account.DEFERRED_REVENUE, deferred, invoice.currency_code), Entry(Account.REVENUE, earned, invoice.currency_code),
        Entry(Account.CASH, -deferred - earned, invoice.currency_code, provider="manual"),
    ]  # fmt: skip
    await ledger.post(uow, [Posting("test", uuid7(), "taken_back", [entry for entry in entries if entry.amount_minor])])


async def test_a_credit_takes_what_is_to_come_first_and_the_rest_spreads(make_book: MakeBook) -> None:
    start, end = date(2026, 3, 1), date(2026, 3, 31)
    book = await make_book(clock=at(start))
    invoice = await billed(book, start, end, 30_000)
    await live_until(book, date(2026, 3, 11))
    assert await take_back(book, invoice, 10_001) == (10_001, 0)
    await live_until(book, date(2026, 3, 21))
    row = await schedule_of(book, invoice)
    assert row["recognized_minor"] == 10_000 + share(9_999, 10, 20)
    left = 9_999 - share(9_999, 10, 20)
    assert await take_back(book, invoice, left + 7) == (left, 7)
    assert (await schedule_of(book, invoice))["close_time"] is not None
    assert await take_back(book, invoice, 1_000) == (0, 1_000)
    await live_until(book, date(2026, 4, 2))
    assert (await book.trial())["revenue"] == -(30_000 - 10_001 - left - 7 - 1_000)
    assert "deferred_revenue" not in await book.trial()
    with pytest.raises(psycopg.errors.CheckViolation):
        await take_back(book, invoice, 30_000)


async def test_a_credit_before_the_first_look_keeps_the_days_that_passed(make_book: MakeBook) -> None:
    """Sent on the 20th for the whole month, credited the same day: the days before are earned of what is left."""
    book = await make_book(clock=at(date(2026, 3, 20)))
    invoice = await billed(book, date(2026, 3, 1), date(2026, 3, 31), 30_000)
    await take_back(book, invoice, 15_000)
    await live_until(book, date(2026, 3, 21))
    assert await posted(book) == {date(2026, 3, 20): share(15_000, 20, 30)}


async def test_a_line_that_was_never_deferred_is_all_revenue(make_book: MakeBook) -> None:
    book = await make_book()
    plain = await book.sent(await book.client(), "12.34")
    taken = await book.do(recognition.take_back, {(plain.id, 1): 1_234})
    assert taken == {(plain.id, 1): TakenBack(0, 1_234)}
    assert await book.do(recognition.take_back, {}) == {}


async def test_recognising_is_done_once_by_whoever_comes(make_book: MakeBook) -> None:
    book = await make_book(clock=at(date(2026, 3, 1)))
    for _ in range(6):
        await billed(book, date(2026, 3, 1), date(2026, 4, 1), 31_000)
    await book.set_clock(at(date(2026, 3, 21)))
    await asyncio.gather(*(catch_up(book, 2) for _ in range(4)))
    assert (await book.trial())["revenue"] == -6 * 20_000
    async with book.db.transaction(book.context, write=False) as uow:
        assert not await recognition.recognition_due(uow, date(2026, 3, 21))
        assert await recognition.recognition_due(uow, date(2026, 3, 22))


async def test_the_daily_marks_do_it_at_their_time_of_day(make_book: MakeBook) -> None:
    """In New York's time; a day without work has none to be done, and one that was missed is made up for at once."""
    marks = DailyMarks([recognition.recognize], recognition.recognition_due, WorkKind.RECOGNITION)
    book = await make_book(clock=at(date(2026, 3, 6)), time_zone="America/New_York", package_run_time=time(2, 30))

    async def due() -> datetime | None:
        async with book.db.transaction(book.context, write=False) as uow:
            return await marks.next_due(uow)

    assert await due() == datetime(2026, 3, 7, 7, 30, tzinfo=UTC)
    await billed(book, date(2026, 3, 6), date(2026, 3, 16), 1_000)
    assert await due() == datetime(2026, 3, 7, 7, 30, tzinfo=UTC)
    # The clocks skip the time of the 8th: it comes an hour later by the clock, at the same instant of the day.
    for day, hour, minute in ((7, 7, 30), (8, 7, 30), (9, 6, 30)):
        await book.set_clock(datetime(2026, 3, day, hour, minute, tzinfo=UTC) - timedelta(seconds=1))
        await marks.work(book.db, book.context)
        assert len(await posted(book)) == day - 7
        await book.set_clock(datetime(2026, 3, day, hour, minute, tzinfo=UTC))
        assert await due() == datetime(2026, 3, day, hour, minute, tzinfo=UTC)
        await marks.work(book.db, book.context)
        assert len(await posted(book)) == day - 6
    await book.set_clock(at(date(2026, 3, 20)))
    assert await due() == at(date(2026, 3, 20))
    await marks.work(book.db, book.context)
    assert await due() == datetime(2026, 3, 21, 6, 30, tzinfo=UTC)
    assert await posted(book) == {date(2026, 3, 6) + timedelta(days=day): 100 for day in range(10)}


async def test_the_database_keeps_schedules_whole(make_book: MakeBook) -> None:
    book = await make_book(clock=at(date(2026, 3, 1)))
    invoice = await billed(book, date(2026, 3, 1), date(2026, 4, 1), 31_000)
    for change in (
        "recognized_minor = 31001", "taken_back_minor = -1", "amount_minor = 1", "end_date = end_date + 1",
        "recognized_through_date = recognized_through_date - 1", "close_time = now()", "recognized_minor = 20000, taken_back_minor = 11001",
        "base_minor = 1",
    ):  # fmt: skip
        with pytest.raises(psycopg.errors.CheckViolation):
            await book.sql(f"UPDATE revenue_schedule SET {change} WHERE invoice_id = %s", invoice.id)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await book.sql("DELETE FROM revenue_schedule WHERE invoice_id = %s", invoice.id)
    with pytest.raises(psycopg.errors.UniqueViolation):
        await book.do(recognition.schedule, [invoice.id])


def test_a_day_without_an_amount_leaves_no_posting() -> None:
    assert rules.revenue_recognized(uuid7(), "USD", 0, at(date(2026, 3, 1))).entries == []
