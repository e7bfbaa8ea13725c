"""Receivables and collected money as of past days, against what the rows said on those days: whatever is paid, refunded, disputed, voided."""

from __future__ import annotations

import os
import random
from collections import Counter
from datetime import date, timedelta
from uuid import UUID

import pytest

from dunwell_server.billing.model import InvoiceState
from dunwell_server.billing.service import closing, reports
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.providers.abilities import ProviderDisputeState as S
from tests.integration.disputes.test_disputes import Contest
from tests.integration.payments.refunding import Refunds
from tests.integration.payments.test_refunds_at_random import EXPECTED, Play
from tests.integration.payments.world import World

Owed = dict[tuple[UUID, str], tuple[int, ...]]
EDGES = (0, 30, 60, 90)
DAYS = int(os.environ.get("DUNWELL_RECEIVABLE_DAYS", "24"))


async def stored(world: World) -> Owed:
    """What each client owes by age, from the invoices as they are now."""
    async with world.db.transaction(world.context, write=False) as uow:
        rows = await uow.fetch_all(
            "SELECT client_id, currency_code, due_date, amount_due FROM invoice WHERE firm_id = %s AND finalize_time IS NOT NULL"
            " AND void_time IS NULL AND write_off_time IS NULL AND amount_due > 0", (world.firm_id,),
        )  # fmt: skip
    owed: dict[tuple[UUID, str], list[int]] = {}
    for row in rows:
        age = (world.now.date() - row["due_date"]).days
        bucket = sum(age > edge for edge in EDGES)
        owed.setdefault((row["client_id"], row["currency_code"]), [0] * 5)[bucket] += row["amount_due"]
    return {key: tuple(amounts) for key, amounts in owed.items()}


async def reported(world: World, day: date | None) -> Owed:
    async with world.db.transaction(world.context, write=False) as uow:
        found = await reports.aging(uow, day, page=PageRequest(10_000))
    clients: Owed = {(each.client_id, each.amounts.currency_code): each.amounts.buckets for each in found.clients}
    for total in found.totals:
        parts = [amounts for (_, currency), amounts in clients.items() if currency == total.currency_code]
        assert total.buckets == tuple(map(sum, zip(*parts, strict=True)))
    return clients


async def collected(world: World) -> Counter[str]:
    """What payments have brought so far, from their rows."""
    async with world.db.transaction(world.context, write=False) as uow:
        row = await uow.fetch_one(
            "SELECT coalesce(sum(captured_minor), 0)::bigint AS received,"
            " (SELECT coalesce(sum(amount_minor), 0)::bigint FROM refund WHERE firm_id = %(firm)s AND succeed_time IS NOT NULL"
            "  AND NOT failed_after_success AND destination <> 'CREDIT') AS refunded,"
            " (SELECT coalesce(sum(total), 0)::bigint FROM invoice WHERE firm_id = %(firm)s AND finalize_time IS NOT NULL) AS invoiced,"
            " (SELECT coalesce(sum(total), 0)::bigint FROM invoice WHERE firm_id = %(firm)s AND void_time IS NOT NULL) AS voided,"
            " (SELECT coalesce(sum(amount_minor), 0)::bigint FROM credit_note WHERE firm_id = %(firm)s) AS credited"
            " FROM payment WHERE firm_id = %(firm)s", {"firm": world.firm_id},
        )  # fmt: skip
    assert row is not None
    return Counter(row)


async def void_something(play: Play) -> None:
    client, _ = await play.world.client(autopay=False)
    made = [await play.world.invoice(client, f"{play.dice.randint(1, 400)}.50") for _ in range(2)]
    async with play.world.db.transaction(play.world.call()) as uow:
        await closing.void_invoice(uow, made[0].id)


async def void_an_old_one(play: Play) -> None:
    async with play.world.db.transaction(play.world.call()) as uow:
        row = await uow.fetch_one(
            "SELECT id FROM invoice WHERE firm_id = %s AND state IN ('SENT', 'OVERDUE') AND amount_received = 0 AND amount_credited = 0"
            " ORDER BY id LIMIT 1", (play.world.firm_id,),
        )  # fmt: skip
        if row is not None:
            await closing.void_invoice(uow, row["id"])


@pytest.mark.timeout(300)
async def test_any_past_day_is_told_as_it_was(world: World) -> None:
    seed = int(os.environ.get("DUNWELL_SEED", random.SystemRandom().randrange(1_000_000)))
    print(f"\nseed {seed} (repeat with DUNWELL_SEED={seed})")
    play = Play(world, seed)
    days: dict[date, Owed] = {}
    for _ in range(DAYS):
        for _ in range(2):
            await play.step()
            if play.dice.random() < 0.3:
                try:
                    await play.dice.choice([void_something, void_an_old_one])(play)
                except DunwellError as error:
                    if error.reason not in {*EXPECTED, Reason.COLLECTION_IN_PROGRESS}:
                        raise
        await play.refunds.advance(world.now.replace(hour=23, minute=59, second=59, microsecond=999_999))
        days[world.now.date()] = await stored(world)
        assert await reported(world, None) == days[world.now.date()], (seed, "now is what is stored")
        await play.refunds.advance((world.now + timedelta(days=play.dice.randint(1, 9))).replace(hour=9, minute=0))
    assert len(days) >= DAYS / 2
    for day, owed in days.items():
        assert await reported(world, day) == owed, (seed, day)


@pytest.mark.timeout(300)
async def test_months_of_revenue_are_what_payments_and_invoices_say(world: World) -> None:
    """Each month's numbers are the growth of the rows' sums; nothing happens here between a month's last look and its end."""
    play, ends = Play(world, 4), {}
    before = Counter[str]()
    for month in range(3, 9):
        for _ in range(8):
            await play.step()
        await void_something(play)
        sums = await collected(world)
        ends[f"2026-{month:02d}"] = Counter({name: sums[name] - before[name] for name in sums})
        before = sums
        await world.move(world.now.replace(month=month + 1, day=2, hour=9))
    async with world.db.transaction(world.context, write=False) as uow:
        report = await reports.revenue_report(uow, None, None)
    assert {each.month: {name: getattr(each, name) for name in ends[each.month]} for each in report.months} == {
        month: dict(sums) for month, sums in ends.items()
    }
    for each in report.months:
        assert each.billed == each.recognized + each.deferred + each.tax
        assert each.collected == each.received - each.refunded


async def test_a_lost_dispute_is_owed_from_its_day_and_not_while_it_is_appealed(world: World) -> None:
    contest = await Contest.create(world)
    other, _ = await world.client(autopay=False)
    plain = await world.invoice(other, "10.00")
    refunds = Refunds(world)
    days: dict[date, Owed] = {}

    async def next_day() -> None:
        days[world.now.date()] = await stored(world)
        await world.move(world.now + timedelta(days=20))

    await next_day()
    for word in (S.NEEDS_RESPONSE, S.LOST, S.UNDER_REVIEW, S.LOST):
        await contest.says(word)
        await next_day()
    assert (await contest.state())[0] is InvoiceState.CHARGED_BACK
    await refunds.received(other.id, 700, (plain, 700))
    await next_day()
    owed = [amounts.get((contest.invoice.client_id, "USD"), (0,)) for amounts in days.values()]
    assert [sum(amounts) for amounts in owed] == [0, 0, 12_000, 0, 12_000, 12_000]
    for day, amounts in days.items():
        assert await reported(world, day) == amounts, day
    async with world.db.transaction(world.context, write=False) as uow:
        report = await reports.revenue_report(uow, None, None)
    assert [(each.charged_back, each.received, each.collected) for each in report.totals] == [(12_000, 12_700, 700)]
