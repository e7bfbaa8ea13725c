"""Terms that renew themselves: at the right time, once, with one notice, whoever works and however late."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest

from dunwell_server.billing.model import AutoRenew, BillingInterval, Client, Engagement
from dunwell_server.billing.renewal import TermChoice
from dunwell_server.billing.service import engagements, renewals
from dunwell_server.billing.store.due import renewals_due
from dunwell_server.kernel.errors import DunwellError, Reason
from tests import support
from tests.integration.billing.book import Book, field_of
from tests.integration.billing.conftest import MakeBook
from tests.integration.billing.living import RENEWALS, live_until

NEXT_YEAR = date(2027, 1, 1)
THIRTY = AutoRenew(30, uplift_percent=Decimal("3.5"))


def at(day: date, hour: int = 12) -> datetime:
    return datetime(day.year, day.month, day.day, hour, tzinfo=UTC)


async def self_renewing(book: Book, client: Client | None = None, **fields: Any) -> Engagement:
    """The engagement of 2026, renewed by itself on December 2nd."""
    fields = {"end_date": NEXT_YEAR, "auto_renew": THIRTY, **fields}
    return await book.engagement(client or await book.client(), **fields)


async def terms_of(book: Book, engagement: Engagement) -> list[Engagement]:
    """The engagement's term and those that follow it."""
    terms = [await book.see(engagements.get_engagement, engagement.id)]
    while (following := terms[-1].renewed_to_id) is not None:
        terms.append(await book.see(engagements.get_engagement, following))
    return terms


async def notices(book: Book, engagement: Engagement) -> list[dict[str, Any]]:
    rows = await book.sql(
        "SELECT payload FROM event WHERE object_id = %s AND type = 'engagement.renewal_notice'", engagement.id
    )
    audited = await book.sql(
        "SELECT 1 FROM audit_event WHERE object_id = %s AND action = 'engagement_renewal_notice'", engagement.id
    )
    assert len(audited) == len(rows)
    return [row["payload"] for row in rows]


async def test_a_term_renews_itself_days_ahead_with_one_notice(book: Book) -> None:
    old = await self_renewing(book)
    await book.set_clock(at(date(2026, 12, 1)))
    assert await book.do(renewals.auto_renew_engagements) == []
    await book.set_clock(at(date(2026, 12, 2)))
    assert [term.id for term in await book.do(renewals.auto_renew_engagements)] == [old.id]
    assert await book.do(renewals.auto_renew_engagements) == []
    first, second = await terms_of(book, old)
    assert (first.end_date, first.state, first.fee_minor) == (NEXT_YEAR, "ACTIVE", 100_000)
    assert (second.start_date, second.end_date, second.fee_minor) == (NEXT_YEAR, date(2028, 1, 1), 103_500)
    assert (second.auto_renew, second.renewal_notice_time) == (THIRTY, at(date(2026, 12, 2)))
    assert second.next_bill_date == NEXT_YEAR
    (notice,) = await notices(book, old)
    assert notice["client_id"].startswith("cli_")
    assert {
        "fee_minor": 100_000, "next_fee_minor": 103_500, "currency_code": "USD", "next_start_date": "2027-01-01",
        "next_end_date": "2028-01-01", "billing_interval": "MONTHLY", "name": "Bookkeeping", "end_date": "2027-01-01",
    }.items() <= notice.items()  # fmt: skip
    assert (await book.journal(old.id))[1] == ["engagement.created", "engagement.renewed", "engagement.renewal_notice"]


async def test_the_firms_zone_decides_the_day(make_book: MakeBook) -> None:
    book = await make_book(time_zone="Asia/Kolkata")
    await self_renewing(book)
    await book.set_clock(datetime(2026, 12, 1, 18, 29, tzinfo=UTC))
    assert not await book.do(renewals.auto_renew_engagements)
    await book.set_clock(datetime(2026, 12, 1, 18, 30, tzinfo=UTC))
    assert await book.do(renewals.auto_renew_engagements)


async def test_workers_at_once_renew_each_term_once(book: Book) -> None:
    client = await book.client()
    many = [await self_renewing(book, client) for _ in range(40)]
    await book.set_clock(at(date(2026, 12, 20)))

    async def worker() -> int:
        count = 0
        for _ in range(100):
            count += len(await book.do(renewals.auto_renew_engagements, 7))
            if not await book.see(renewals_due, date(2026, 12, 20)):
                return count
        raise AssertionError("the terms are never all renewed")

    assert sum(await asyncio.gather(*(worker() for _ in range(4)))) == 40
    for old in many:
        assert len(await terms_of(book, old)) == 2
        assert len(await notices(book, old)) == 1


async def test_by_hand_and_by_itself_at_once_make_one_term(book: Book) -> None:
    client = await book.client()
    many = [await self_renewing(book, client) for _ in range(12)]
    await book.set_clock(at(date(2026, 12, 20)))
    results = await asyncio.gather(
        *(book.do(renewals.renew_engagement, old.id) for old in many),
        *(book.do(renewals.auto_renew_engagements, 5) for _ in range(4)),
        return_exceptions=True,
    )
    assert all(result.reason is Reason.STATE_CONFLICT for result in results if isinstance(result, DunwellError))
    assert not [
        result for result in results if isinstance(result, BaseException) and not isinstance(result, DunwellError)
    ]
    while await book.do(renewals.auto_renew_engagements):
        pass
    for old in many:
        _, term = await terms_of(book, old)
        assert len(await notices(book, old)) == (term.renewal_notice_time is not None)


async def test_one_statement_more_or_less_whatever_the_number(book: Book) -> None:
    client = await book.client()
    for _ in range(3):
        await self_renewing(book, client)
    await book.set_clock(at(date(2026, 12, 20)))

    async def counted(limit: int) -> int:
        async with book.db.transaction(book.context) as uow:
            with support.statements() as sent:
                await renewals.auto_renew_engagements(uow, limit)
            return len(sent)

    one, two = await counted(1), await counted(2)
    assert one == two >= 4


async def test_renewed_by_hand_is_not_renewed_again_nor_noticed(book: Book) -> None:
    old = await self_renewing(book)
    await book.do(renewals.renew_engagement, old.id, TermChoice(months=3))
    await book.set_clock(at(date(2026, 12, 20)))
    await book.do(renewals.auto_renew_engagements)
    assert len(await terms_of(book, old)) == 2
    assert await notices(book, old) == []


async def test_an_ended_engagement_is_not_renewed(book: Book) -> None:
    declined, shortened = await self_renewing(book), await self_renewing(book)
    await book.do(engagements.end_engagement, declined.id, NEXT_YEAR)
    await book.do(engagements.end_engagement, shortened.id)
    await book.set_clock(at(date(2026, 12, 31)))
    assert await book.do(renewals.auto_renew_engagements) == []


async def test_a_declined_renewal_is_not_made_again(book: Book) -> None:
    old = await self_renewing(book)
    await book.set_clock(at(date(2026, 12, 2)))
    await book.do(renewals.auto_renew_engagements)
    _, term = await terms_of(book, old)
    await book.do(engagements.end_engagement, term.id)
    assert await book.do(renewals.auto_renew_engagements) == []
    (first,) = await terms_of(book, old)
    assert (first.end_date, first.auto_renew) == (NEXT_YEAR, None)


async def test_an_archived_clients_terms_end(book: Book) -> None:
    old = await self_renewing(book)
    await book.sql("UPDATE client SET state = 'ARCHIVED' WHERE id = %s", old.client_id)
    await book.set_clock(at(date(2026, 12, 20)))
    assert not await book.see(renewals_due, date(2026, 12, 20))
    assert await book.do(renewals.auto_renew_engagements) == []


async def test_one_that_cannot_be_renewed_does_not_stop_the_others(book: Book) -> None:
    huge = await self_renewing(book, fee_minor=2**63 - 1)
    other = await self_renewing(book)
    await book.set_clock(at(date(2026, 12, 20)))
    assert {term.id for term in await book.do(renewals.auto_renew_engagements)} == {huge.id, other.id}
    (kept,) = await terms_of(book, huge)
    assert kept.auto_renew is None
    rows = await book.sql(
        "SELECT severity, metadata FROM audit_event WHERE object_id = %s AND action = 'engagement_renewal_failed'",
        huge.id,
    )
    assert [(row["severity"], row["metadata"]["reason"]) for row in rows] == [("WARNING", "AMOUNT_OUT_OF_RANGE")]
    assert len(await terms_of(book, other)) == 2
    assert await book.do(renewals.auto_renew_engagements) == []


async def test_late_terms_catch_up_until_one_is_current(book: Book) -> None:
    old = await book.engagement(
        await book.client(), start_date=date(2025, 1, 31), end_date=date(2025, 2, 28), auto_renew=AutoRenew(0)
    )
    while await book.do(renewals.auto_renew_engagements):
        pass
    terms = await terms_of(book, old)
    assert [str(term.start_date) for term in terms[:4]] == ["2025-01-31", "2025-02-28", "2025-03-31", "2025-04-30"]
    assert [term.state for term in terms[-2:]] == ["ENDED", "ACTIVE"]
    assert (terms[-1].start_date, terms[-1].end_date) == (date(2026, 2, 28), date(2026, 3, 31))
    assert all(one.end_date == two.start_date for one, two in pairwise(terms))


async def test_auto_renewal_is_agreed_changed_and_switched_off(book: Book) -> None:
    client = await book.client()
    engagement = await self_renewing(book, client)
    for chosen in (AutoRenew(0, 3, Decimal("-1.25")), None):
        changed = await book.do(engagements.update_engagement, engagement.id, {"auto_renew": chosen})
        assert changed.auto_renew == chosen
    endless = await book.engagement(client)
    error = await book.refused(engagements.update_engagement, endless.id, {"auto_renew": THIRTY})
    assert (error.reason, field_of(error)) == (Reason.FIELD_INVALID, "engagement.auto_renew")
    with pytest.raises(DunwellError) as caught:
        await self_renewing(book, client, auto_renew=AutoRenew(1, None, Decimal("1000.1")))
    assert field_of(caught.value) == "engagement.auto_renew.uplift_percent"


async def test_a_firm_on_its_clock_renews_and_bills_without_gap(make_book: MakeBook) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    book = await make_book(clock=start, time_zone="Europe/Berlin")
    quarter = await book.engagement(
        await book.client(), end_date=date(2026, 4, 1), auto_renew=AutoRenew(0, uplift_percent=Decimal(10)),
    )  # fmt: skip
    weekly = await book.engagement(
        await book.client(), start_date=date(2026, 1, 5), end_date=date(2026, 3, 2), auto_renew=AutoRenew(14),
        billing_interval=BillingInterval.WEEKLY,
    )  # fmt: skip
    await live_until(book, datetime(2026, 12, 31, 12, tzinfo=UTC))
    for engagement, step in ((quarter, 3), (weekly, 0)):
        terms = await terms_of(book, engagement)
        assert len(terms) >= 4
        lines = await book.sql(
            "SELECT period_start, period_end, amount_minor, i.issue_date FROM invoice_line l JOIN invoice i ON i.id = l.invoice_id"
            " WHERE l.engagement_id = ANY(%s) ORDER BY period_start", [term.id for term in terms],
        )  # fmt: skip
        edges = [line["period_start"] for line in lines]
        assert edges[0] == engagement.start_date
        assert edges[1:] == [line["period_end"] for line in lines[:-1]]
        # Every period was billed on its own first day, also the first of a term made on that very day.
        assert all(line["issue_date"] == line["period_start"] for line in lines)
        if step:
            assert [line["amount_minor"] for line in lines] == [100_000] * 3 + [110_000] * 3 + [121_000] * 3 + [
                133_100
            ] * 3
        for term in terms[:-1]:
            assert len(await notices(book, term)) == 1
            assert term.state == ("ENDED" if term.end_date and term.end_date <= date(2026, 12, 31) else "ACTIVE")


async def test_the_daily_work_is_due_while_a_term_is_to_be_renewed(make_book: MakeBook) -> None:
    book = await make_book(clock=datetime(2026, 12, 2, 1, tzinfo=UTC))
    await self_renewing(book)

    async def due() -> datetime | None:
        return await book.see(RENEWALS.next_due)

    tick = datetime(2026, 12, 2, 2, tzinfo=UTC)
    assert await due() == tick
    await book.set_clock(tick)
    assert await due() == tick
    await RENEWALS.work(book.db, book.context)
    assert await due() == tick + timedelta(days=1)
