"""Revenue billed in advance: deferred when the invoice is sent, recognised by the day, taken back by credit notes and voids.

A day is recognised once it is over, at the end of that day by the ledger's time: one posting for each currency and day, whenever the work is
done. See decision 0018.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import Final
from uuid import UUID

from dunwell_server.billing.recognition import NOTHING_TAKEN, TakenBack
from dunwell_server.billing.service.engagements import today
from dunwell_server.billing.store import recognition as store
from dunwell_server.kernel.calendar import day_start
from dunwell_server.kernel.ids import uuid7
from dunwell_server.ledger import rules
from dunwell_server.ledger import service as ledger
from dunwell_server.platform import journal
from dunwell_server.platform.database import Row, UnitOfWork
from dunwell_server.platform.journal import Category, Change
from dunwell_server.platform.questions import Question

BATCH: Final = 20_000
"""Schedules brought forward in one transaction."""
DAYS: Final = 31
"""Days caught up with in one transaction."""
_MOMENT: Final = timedelta(microseconds=1)


async def schedule(uow: UnitOfWork, invoice_ids: Sequence[UUID]) -> None:
    """Write the schedules of sent invoices, of any number in one statement, after their lines.

    A line billed in advance for a period is deferred by its net amount; one without a period is revenue at once, and has no schedule.
    """
    if invoice_ids:
        await store.insert(uow, invoice_ids)


def recognition_due(uow: UnitOfWork, day: date) -> Question[bool]:
    """Whether a day before `day` is still to be recognised."""
    return store.is_due(uow, day)


async def recognize(uow: UnitOfWork, limit: int = BATCH) -> list[date]:
    """Recognise what the days before today have earned, of at most `limit` schedules and `DAYS` days.

    The days that were posted, or the day reached where there is more to do; empty when all is done. Call again, in a transaction of its own,
    until it is.
    """
    first, end = await store.begin(uow), today(uow)
    if first is None or first >= end:
        return []
    until = min(end, first + timedelta(days=DAYS))
    rows = await store.recognize(uow, until, limit)
    zone = uow.firm.settings.zone
    postings = [
        rules.revenue_recognized(
            uuid7(), row["currency_code"], row["amount"], day_start(row["day"] + timedelta(days=1), zone) - _MOMENT
        )
        for row in rows
    ]
    await ledger.post(uow, postings)
    if rows:
        await journal.record(uow, _recognized(rows))
    if not rows or rows[0]["schedules"] < limit:
        await store.reached(uow, until)
    return [row["day"] for row in rows] or [until]


async def take_back(uow: UnitOfWork, amounts: Mapping[tuple[UUID, int], int]) -> dict[tuple[UUID, int], TakenBack]:
    """Take net amounts (minor units, positive) of sent lines back, by (invoice, line number): a credit note's parts.

    What is not recognised yet goes first, and what is left of it spreads over the days to come; the rest was revenue. A line that was never
    deferred is all revenue. The caller posts: `deferred` debits deferred revenue, `earned` revenue. The invoices must be locked. The database
    refuses more than was deferred.
    """
    rows = await store.take_back(uow, amounts) if amounts else []
    taken = {(row["invoice_id"], row["line_no"]): TakenBack(row["deferred"], row["earned"]) for row in rows}
    return {line: taken.get(line, TakenBack(0, amount)) for line, amount in amounts.items()}


async def take_back_all(uow: UnitOfWork, invoice_ids: Sequence[UUID]) -> dict[UUID, TakenBack]:
    """Take everything that sent invoices deferred back, recognised or not: they are void. The caller posts, as with `take_back`."""
    rows = await store.take_back_all(uow, invoice_ids)
    taken = {row["invoice_id"]: TakenBack(row["deferred"], row["earned"]) for row in rows}
    return {invoice_id: taken.get(invoice_id, NOTHING_TAKEN) for invoice_id in invoice_ids}


def _recognized(rows: Sequence[Row]) -> Change:
    amounts: dict[str, int] = {}
    for row in rows:
        amounts[row["currency_code"]] = amounts.get(row["currency_code"], 0) + row["amount"]
    first, last = min(row["day"] for row in rows), max(row["day"] for row in rows)
    metadata = {
        "start_date": first.isoformat(),
        "end_date": (last + timedelta(days=1)).isoformat(),
        "recognized_minor": amounts,
    }
    return Change(
        Category.BILLING, "revenue_recognized", "recognition", uuid7(), "revenue.recognized", metadata=metadata
    )
