"""Package engagements of every interval, anchor, timing and policy, from starts and to ends that are awkward; and what they are billed."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from itertools import pairwise, product
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from dunwell_server.billing.model import AutoRenew, BillingAnchor, BillingInterval, BillingTiming, Engagement
from dunwell_server.billing.service import engagements, renewals
from tests.integration.billing.book import Book
from tests.integration.billing.golden.fees import Bill, Charge, Terms, bills, shifted
from tests.integration.billing.golden.world import package

ZONE: Final = "Europe/Berlin"
FIRST_RUN: Final = date(2027, 1, 2)
LAST_RUN: Final = date(2028, 12, 31)
MOVES: Final = (date(2027, 10, 13), date(2028, 3, 1))
"""When some engagements end, and when they go on."""

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
class PackageWorld:
    """Clients with one package engagement each, and what was agreed under each engagement."""

    book: Book
    agreed: dict[UUID, list[tuple[date, Terms]]] = field(default_factory=dict)
    chains: list[tuple[Terms, int, Engagement]] = field(default_factory=list)
    paused: list[Engagement] = field(default_factory=list)

    async def open(self) -> None:
        """All that is agreed on the first day."""
        for terms in agreements():
            await self.agree(terms)
        # Half a year from a month's end, renewed a month ahead at seven percent more; and one renewed on the very day.
        half_year = Terms(
            date(2026, 8, 31),
            date(2027, 2, 28),
            "MONTHLY",
            "START_DATE",
            "IN_ADVANCE",
            "PRORATE",
            "DAY",
            "ACTUAL",
            33_333,
        )
        quarter = Terms(
            date(2027, 1, 31),
            date(2027, 4, 30),
            "MONTHLY",
            "START_DATE",
            "IN_ARREARS",
            "PRORATE",
            "DAY",
            "ACTUAL",
            10_001,
        )
        for first, days_ahead, months in ((half_year, 30, 6), (quarter, 0, 3)):
            auto = AutoRenew(days_ahead, months, Decimal(7))
            self.chains.append((first, months, await self.agree(first, auto_renew=auto)))
        # Ended on a day and taken up again, in advance and in arrears, with shares of periods in every policy.
        self.paused = [
            await self.agree(Terms(date(2027, 1, 15), None, interval, "CALENDAR", timing, "PRORATE", *policy, 77_777))
            for interval, timing, policy in product(("MONTHLY", "QUARTERLY"), ("IN_ADVANCE", "IN_ARREARS"), POLICIES)
        ]  # fmt: skip

    async def agree(self, terms: Terms, **fields: Any) -> Engagement:
        """A client with one engagement."""
        engagement = await self.book.engagement(await self.book.client(), **package(terms), **fields)
        self.agreed[engagement.id] = [(FIRST_RUN, terms)]
        return engagement

    async def move(self, day: date) -> None:
        """What happens on that day, if anything does."""
        if day in MOVES:
            for engagement in self.paused:
                await self._move_end(engagement, day + timedelta(days=1), day if day == MOVES[0] else None)

    async def _move_end(self, engagement: Engagement, since: date, end: date | None) -> None:
        """From the run of `since` on the engagement has another end: it is ended, or goes on."""
        terms = self.agreed[engagement.id][-1][1]
        verb = renewals.reopen_engagement if end is None else engagements.end_engagement
        await self.book.do(verb, engagement.id, end)
        self.agreed[engagement.id].append((since, replace(terms, end=end)))

    async def follow_chains(self) -> None:
        """Find the renewals, which are as they should be, and what is agreed in them."""
        for first, months, engagement in self.chains:
            renewed = await chain_of(self.book, engagement)
            expected = chained(first, months, len(renewed) - 1, 7)
            assert len(renewed) >= 4
            assert [(term.start_date, term.end_date, term.fee_minor) for term in renewed] == [
                (term.start, term.end, term.fee) for term in expected
            ]
            self.agreed.update({term.id: [(FIRST_RUN, one)] for term, one in zip(renewed, expected, strict=True)})

    async def check(self) -> None:
        """Every invoice is what the spreadsheet says, and no day is missing."""
        found, zone = await self.billed(), ZoneInfo(ZONE)
        for engagement_id, history in self.agreed.items():
            assert found.get(engagement_id, []) == bills(history, LAST_RUN, zone), history
        assert set(found) <= set(self.agreed)
        assert sum(map(len, found.values())) > 2_000
        self._no_day_is_missing(found)

    def _no_day_is_missing(self, found: dict[UUID, list[Bill]]) -> None:
        """The periods of every engagement tile its time, from its first day on."""
        for engagement_id, each in found.items():
            terms = self.agreed[engagement_id][-1][1]
            spans = [charge for bill in each for charge in bill.charges]
            assert spans[0].start == terms.start
            assert all(one.end == two.start for one, two in pairwise(spans))
            if terms.end is not None and terms.end <= LAST_RUN - timedelta(days=1):
                assert spans[-1].end == terms.end

    async def billed(self) -> dict[UUID, list[Bill]]:
        """The invoices of each of these engagements, as they are stored."""
        rows = await self.book.sql(
            "SELECT i.engagement_id, i.id, i.issue_date, i.due_date, i.total, l.period_start, l.period_end, l.amount_minor,"
            " l.in_advance FROM invoice i JOIN invoice_line l ON l.firm_id = i.firm_id AND l.invoice_id = i.id"
            " WHERE i.engagement_id = ANY(%s) ORDER BY i.issue_date, i.id, l.line_no", list(self.agreed),
        )  # fmt: skip
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
