"""One firm over two years, with a leap day, four changes of the clocks and every end of a month: each line of each invoice
against an independent computation."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise, product
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from dunwell_server.billing.model import (
    AutoRenew,
    BillingAnchor,
    BillingInterval,
    BillingTiming,
    Engagement,
    PartialPeriods,
)
from dunwell_server.billing.service import engagements, renewals
from dunwell_server.kernel.proration import DayCount, ProrationPolicy, ProrationUnit
from tests.integration.billing.book import Book
from tests.integration.billing.conftest import MakeBook
from tests.integration.billing.living import live_until
from tests.integration.billing.spreadsheet import Bill, Charge, Terms, bills, shifted

ZONE: Final = "Europe/Berlin"
BEGIN: Final = datetime(2027, 1, 1, 12, tzinfo=UTC)
FIRST_RUN: Final = date(2027, 1, 2)
LAST_RUN: Final = date(2028, 12, 31)
END: Final = datetime(2028, 12, 31, 12, tzinfo=UTC)

# Before the firm's clock began, a month's end, the days on which Berlin's clocks change, the leap day.
STARTS: Final = tuple(
    date.fromisoformat(day) for day in ("2026-10-25", "2027-01-31", "2027-03-28", "2027-08-31", "2028-02-29")
)
# Open-ended, inside a period, on the leap day and the day after it, on a day the clocks change.
ENDS: Final = (
    None, date(2028, 5, 17), date(2028, 2, 29), date(2028, 3, 1), None, date(2028, 10, 29), date(2028, 12, 31),
)  # fmt: skip
POLICIES: Final = (("DAY", "ACTUAL"), ("SECOND", "ACTUAL"), ("DAY", "FIXED_30"), ("SECOND", "FIXED_30"))


def agreements() -> list[Terms]:
    """Every interval, anchor and timing from every start, with the rest changing from one to the next."""
    recurring = [interval.value for interval in BillingInterval if interval is not BillingInterval.ONE_TIME]
    timings = [timing.value for timing in BillingTiming]
    result = []
    for n, (interval, anchor, timing, start) in enumerate(
        product(recurring, [anchor.value for anchor in BillingAnchor], timings, STARTS)
    ):
        end = ENDS[n % len(ENDS)]
        unit, day_count = POLICIES[n % len(POLICIES)]
        # Months of thirty days from a day that some months do not have are a convention of their own: not asked here.
        if day_count == "FIXED_30" and start.day > 28 and anchor == "START_DATE":
            day_count = "ACTUAL"
        partial = "FULL" if n % 9 == 4 else "PRORATE"
        result.append(
            Terms(
                start,
                None if end and end <= start else end,
                interval,
                anchor,
                timing,
                partial,
                unit,
                day_count,
                99_991 + n,
            )
        )
    once = [
        Terms(start, end, "ONE_TIME", "START_DATE", timing, "PRORATE", "DAY", "ACTUAL", 5_000 + n)
        for n, (start, timing, end) in enumerate(product(STARTS[:2], timings, (None, date(2028, 2, 29))))
    ]
    return result + once


@dataclass
class World:
    """The firm, and what was agreed under each engagement."""

    book: Book
    agreed: dict[UUID, list[tuple[date, Terms]]]

    async def agree(self, terms: Terms, **fields: Any) -> Engagement:
        """A client with one engagement."""
        engagement = await self.book.engagement(
            await self.book.client(), start_date=terms.start, end_date=terms.end, fee_minor=terms.fee,
            billing_interval=BillingInterval(terms.interval), anchor=BillingAnchor(terms.anchor),
            timing=BillingTiming(terms.timing), partial_periods=PartialPeriods(terms.partial),
            proration=ProrationPolicy(ProrationUnit(terms.unit), DayCount(terms.day_count)), **fields,
        )  # fmt: skip
        self.agreed[engagement.id] = [(FIRST_RUN, terms)]
        return engagement

    async def move_end(self, engagement: Engagement, since: date, end: date | None) -> None:
        """From the run of `since` on the engagement has another end: it is ended, or goes on."""
        terms = self.agreed[engagement.id][-1][1]
        verb = renewals.reopen_engagement if end is None else engagements.end_engagement
        await self.book.do(verb, engagement.id, end)
        self.agreed[engagement.id].append((since, replace(terms, end=end)))

    async def billed(self) -> dict[UUID, list[Bill]]:
        """The invoices of each engagement, as they are stored."""
        rows = await self.book.sql(
            "SELECT i.engagement_id, i.id, i.issue_date, i.due_date, i.total, l.period_start, l.period_end, l.amount_minor,"
            " l.in_advance FROM invoice i JOIN invoice_line l ON l.firm_id = i.firm_id AND l.invoice_id = i.id"
            " ORDER BY i.issue_date, i.id, l.line_no"
        )
        lines: dict[tuple[UUID, UUID], list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            lines[row["engagement_id"], row["id"]].append(row)
        result: dict[UUID, list[Bill]] = defaultdict(list)
        for (engagement_id, _), found in lines.items():
            charges = tuple(
                Charge(row["period_start"], row["period_end"], row["amount_minor"],
                       row["period_start"] if row["in_advance"] else row["period_end"])
                for row in found
            )  # fmt: skip
            head = found[0]
            result[engagement_id].append(Bill(head["issue_date"], head["due_date"], head["total"], charges))
        return result


def chained(first: Terms, months: int, uplifts: int, percent: int) -> list[Terms]:
    """An agreement and its renewals, each `percent` dearer than the one before."""
    terms = [first]
    for _ in range(uplifts):
        last = terms[-1]
        assert last.end is not None
        aim = first.start.day
        raised = (last.fee * (100 + percent) * 2 + 100) // 200
        terms.append(replace(last, start=last.end, end=shifted(last.end, months, aim), fee=raised, aim=aim))
    return terms


async def chain_of(book: Book, first: Engagement) -> list[Engagement]:
    rows = await book.sql(
        "WITH RECURSIVE term AS (SELECT id, renewed_to_id, 0 AS n FROM engagement WHERE id = %s UNION ALL"
        " SELECT e.id, e.renewed_to_id, n + 1 FROM term t JOIN engagement e ON e.id = t.renewed_to_id)"
        " SELECT e.id, e.start_date, e.end_date, e.fee_minor FROM term t JOIN engagement e ON e.id = t.id ORDER BY n", first.id,
    )  # fmt: skip
    return [Engagement(**{**_fields(first), **row}) for row in rows]


def _fields(engagement: Engagement) -> dict[str, Any]:
    return {name: getattr(engagement, name) for name in Engagement.__dataclass_fields__}


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_two_years_of_every_kind_of_package(make_book: MakeBook) -> None:
    book = await make_book(clock=BEGIN, time_zone=ZONE)
    world = World(book, {})
    for terms in agreements():
        await world.agree(terms)
    # Half a year from a month's end, renewed a month ahead at seven percent more; and one renewed on the very day.
    half_year = Terms(
        date(2026, 8, 31), date(2027, 2, 28), "MONTHLY", "START_DATE", "IN_ADVANCE", "PRORATE", "DAY", "ACTUAL", 33_333
    )
    quarter = Terms(
        date(2027, 1, 31), date(2027, 4, 30), "MONTHLY", "START_DATE", "IN_ARREARS", "PRORATE", "DAY", "ACTUAL", 10_001
    )
    chains = []
    for first, days_ahead, months in ((half_year, 30, 6), (quarter, 0, 3)):
        auto = AutoRenew(days_ahead, months, Decimal(7))
        chains.append((first, months, await world.agree(first, auto_renew=auto)))

    # Ended on a day and taken up again, in advance and in arrears, with shares of periods in every policy.
    paused = [
        await world.agree(Terms(date(2027, 1, 15), None, interval, "CALENDAR", timing, "PRORATE", *policy, 77_777))
        for interval, timing, policy in product(("MONTHLY", "QUARTERLY"), ("IN_ADVANCE", "IN_ARREARS"), POLICIES)
    ]  # fmt: skip
    await live_until(book, datetime(2027, 10, 13, 12, tzinfo=UTC))
    for engagement in paused:
        await world.move_end(engagement, date(2027, 10, 14), date(2027, 10, 13))
    await live_until(book, datetime(2028, 3, 1, 12, tzinfo=UTC))
    for engagement in paused:
        await world.move_end(engagement, date(2028, 3, 2), None)
    await live_until(book, END)

    for first, months, engagement in chains:
        renewed = await chain_of(book, engagement)
        expected = chained(first, months, len(renewed) - 1, 7)
        assert len(renewed) >= 4
        assert [(term.start_date, term.end_date, term.fee_minor) for term in renewed] == [
            (term.start, term.end, term.fee) for term in expected
        ]
        world.agreed.update({term.id: [(FIRST_RUN, one)] for term, one in zip(renewed, expected, strict=True)})
    found, zone = await world.billed(), ZoneInfo(ZONE)
    for engagement_id, history in world.agreed.items():
        assert found.get(engagement_id, []) == bills(history, LAST_RUN, zone), history
    assert set(found) <= set(world.agreed)
    assert sum(map(len, found.values())) > 2_000

    total = sum(bill.total for each in found.values() for bill in each)
    assert (await book.trial())["receivable"] == total
    await _no_day_is_missing(world, found)


async def _no_day_is_missing(world: World, found: dict[UUID, list[Bill]]) -> None:
    """The periods of every engagement tile its time, from its first day on."""
    for engagement_id, each in found.items():
        terms = world.agreed[engagement_id][-1][1]
        spans = [charge for bill in each for charge in bill.charges]
        assert spans[0].start == terms.start
        assert all(one.end == two.start for one, two in pairwise(spans))
        if terms.end is not None and terms.end <= LAST_RUN - timedelta(days=1):
            assert spans[-1].end == terms.end
