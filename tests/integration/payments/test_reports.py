"""GetPaymentReport's numbers, and SyncInvoice, against real rows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from dunwell_server.billing.model import InvoiceState
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.payments.jobs.syncing import Syncer
from dunwell_server.payments.model import AttemptState
from dunwell_server.payments.service.reports import PaymentReport, Tally, payment_report
from dunwell_server.payments.store import syncing
from tests.integration.payments.world import World


async def report(
    world: World, since: datetime | None = None, until: datetime | None = None, **only: str
) -> PaymentReport:
    async with world.db.transaction(world.context, write=False) as uow:
        return await payment_report(uow, since, until, **only)


async def test_an_empty_book_has_an_empty_report(world: World) -> None:
    found = await report(world)
    assert (found.total, found.months, found.codes, found.slots) == (Tally(), [], [], [])
    assert (found.at_risk, found.exhausted, found.expiring_count) == ({}, {}, 0)
    assert found.until - found.since == timedelta(days=90)


async def test_months_codes_slots_and_what_is_at_risk(world: World) -> None:
    good, _ = await world.client("pm_card_visa")
    bad, _ = await world.client("pm_card_chargeDeclinedInsufficientFunds")
    none, _ = await world.client("pm_card_visa", autopay=False)
    await world.invoice(good, "10.00")
    failing = await world.invoice(bad, "20.00")
    await world.invoice(none, "70.00")
    await world.advance(datetime(2026, 4, 20, tzinfo=UTC))
    # Day 0, 3, 10 and 24: the last three failures are retries, and the last of them falls into March still.
    found = await report(world)
    assert found.total == Tally("", 5, 4)
    assert [(each.name, each.finished, each.failed) for each in found.months] == [("2026-03", 5, 4)]
    assert [(each.name, each.rate) for each in found.providers] == [("sandbox", 0.8)]
    [code] = found.codes
    assert (code.code, code.count, code.amounts) == ("insufficient_funds", 4, {"USD": 8000})
    assert [(each.slot, each.finished, each.succeeded, each.amounts) for each in found.slots] == [
        (0, 2, 1, {"USD": 1000}), (1, 1, 0, {}), (2, 1, 0, {}), (3, 1, 0, {}),
    ]  # fmt: skip
    assert (found.at_risk, found.invoices_at_risk, found.exhausted) == ({}, 0, {"USD": 2000})
    assert (await report(world, provider="sandbox")).exhausted == {"USD": 2000}
    assert (await report(world, provider="stripe")).exhausted == {}
    assert (await world.invoice_now(failing.id)).state is InvoiceState.OVERDUE


async def test_a_month_begins_at_midnight_of_the_firm(make_world: object) -> None:
    world: World = await make_world(time_zone="Asia/Kolkata")  # type: ignore[operator]
    client, _ = await world.client("pm_card_visa", autopay=False)
    # 23:30 in India on the last of March, and half an hour later.
    for moment in (datetime(2026, 3, 31, 18, 0, tzinfo=UTC), datetime(2026, 3, 31, 18, 30, tzinfo=UTC)):
        await world.move(moment)
        await world.charge((await world.invoice(client)).id)
    assert moment.astimezone(ZoneInfo("Asia/Kolkata")).day == 1
    found = await report(world)
    assert [(each.name, each.finished) for each in found.months] == [("2026-03", 1), ("2026-04", 1)]
    only = await report(world, since=datetime(2026, 3, 31, 18, 15, tzinfo=UTC))
    assert only.total.finished == 1
    assert (await report(world, currency="EUR")).total.finished == 0
    assert (await report(world, provider="stripe")).total.finished == 0


async def test_what_waits_for_a_retry_is_at_risk_and_a_slot_without_a_call_is_a_failure(world: World) -> None:
    bad, _ = await world.client("pm_card_chargeDeclinedInsufficientFunds")
    bare, [method] = await world.client("pm_card_visa")
    await world.invoice(bad, "20.00")
    await world.invoice(bare, "30.00")
    async with world.db.transaction(world.call()) as uow:
        await uow.execute(
            "UPDATE payment_method SET state = 'DEAD', block_code = 'card_declined' WHERE firm_id = %s AND id = %s",
            (world.firm_id, method.id),
        )
    await world.advance(world.now + timedelta(days=1))
    found = await report(world)
    assert (found.at_risk, found.invoices_at_risk) == ({"USD": 5000}, 2)
    only, other = await report(world, provider="sandbox"), await report(world, provider="stripe")
    assert (only.at_risk, only.invoices_at_risk) == ({"USD": 5000}, 2)
    assert (other.at_risk, other.invoices_at_risk) == ({}, 0)
    assert {each.code: each.count for each in found.codes} == {"insufficient_funds": 1, "missing_payment_method": 1}


async def test_cards_that_expire_soon_are_listed_those_first_that_expire_first(world: World) -> None:
    client, [first, second, _] = await world.client("pm_card_visa", "pm_card_mastercard", "pm_card_visa")
    async with world.db.transaction(world.call()) as uow:
        for method, year, month in ((first, 2026, 3), (second, 2026, 1)):
            await uow.execute(
                "UPDATE payment_method SET exp_year = %s, exp_month = %s WHERE firm_id = %s AND id = %s",
                (year, month, world.firm_id, method.id),
            )
    found = await report(world)
    assert ([method.id for method in found.expiring], found.expiring_count) == ([second.id, first.id], 2)
    assert found.expiring[1].is_default or client.autopay_method_id is None


@pytest.mark.parametrize("days", [-1, 401])
async def test_a_range_that_is_none_is_refused(world: World, days: int) -> None:
    with pytest.raises(DunwellError) as refused:
        await report(world, since=world.now - timedelta(days=days), until=world.now)
    assert refused.value.reason is Reason.PERIOD_INVALID


async def test_syncing_asks_for_what_is_open_ahead_of_its_time(world: World) -> None:
    client, _ = await world.client("pm_sandbox_acceptThenTimeout", autopay=False)
    invoice = await world.invoice(client)
    view = await world.charge(invoice.id)
    assert view.attempts[0].state is AttemptState.UNKNOWN
    await Syncer(world.workers.charger).sync(world.db, world.context, invoice.id)
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
    async with world.db.transaction(world.context, write=False) as uow:
        assert await syncing.still_open(uow, invoice.id) == []
    assert world.movements == 1
