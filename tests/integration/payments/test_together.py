"""Many hands at once: replicas on one run, requests against runs, manual money against both. Money moves once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from uuid import UUID

from dunwell_server.billing.model import InvoiceState
from dunwell_server.billing.service.closing import void_invoice
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.payments.model import PaymentState
from dunwell_server.payments.service.collecting import claim_batch
from dunwell_server.payments.service.manual import record_manual
from dunwell_server.payments.store.due import claim_attempts
from dunwell_server.platform.runs import RunState
from tests.integration.payments.world import Workers, World
from tests.providers.gateway import GatewayProcess

DUE = date(2026, 3, 10)
RUN = datetime.fromisoformat("2026-03-10T03:00+00:00")


async def test_replicas_that_share_a_run_charge_every_invoice_once(world: World, gateway: GatewayProcess) -> None:
    clients = [(await world.client("pm_card_visa"))[0] for _ in range(6)]
    invoices = [await world.invoice(client, due=DUE) for client in clients for _ in range(5)]
    await world.move(RUN)
    gateway.control("settings", account=world.account, latency_ms=30)
    run = await world.queue_run()
    replicas = [Workers.at(gateway.url, batch=4) for _ in range(3)]
    try:
        await asyncio.gather(*(replica.executor.execute(world.db, world.context, run) for replica in replicas))
    finally:
        for replica in replicas:
            await replica.provider.close()
    async with world.db.transaction(world.context, write=False) as uow:
        from dunwell_server.platform import runs

        finished = await runs.get(uow, run.id)
    assert (finished.state, finished.total, finished.done) == (RunState.SUCCEEDED, 30, 30)
    assert (finished.counts, finished.amounts) == ({"CHARGED": 30}, {"USD": 30 * 12000})
    assert world.movements == 30
    assert {(await world.invoice_now(invoice.id)).state for invoice in invoices} == {InvoiceState.PAID}


async def test_two_runs_and_the_continuous_handler_at_once_pay_once(world: World) -> None:
    client, _ = await world.client("pm_card_visa")
    invoices = [await world.invoice(client, due=DUE) for _ in range(8)]
    await world.move(RUN)
    first, second = await world.queue_run(), await world.queue_run()
    context = replace(world.context, holds_clock=True)
    workers = world.workers
    await asyncio.gather(
        workers.executor.execute(world.db, context, first),
        workers.executor.execute(world.db, context, second),
        workers.collect.work(world.db, context),
    )
    assert world.movements == 8
    assert {(await world.invoice_now(invoice.id)).amount_received for invoice in invoices} == {12000}


async def test_a_request_a_run_and_manual_money_at_once_lose_nothing_and_charge_once(world: World) -> None:
    for _ in range(5):
        client, _ = await world.client("pm_card_visa")
        invoice = await world.invoice(client, due=DUE)
        await world.move(max(world.now, RUN))
        before = world.movements

        async def manual(client_id: UUID = client.id) -> None:
            async with world.db.transaction(world.call()) as uow:
                await record_manual(uow, client_id, 5000, "USD", method="CASH")

        results = await asyncio.gather(
            world.charge(invoice.id), world.collection_run(), manual(), return_exceptions=True
        )
        for result in results:
            if isinstance(result, DunwellError):
                assert result.reason in (Reason.COLLECTION_IN_PROGRESS, Reason.STATE_CONFLICT)
            elif isinstance(result, BaseException):
                raise result
        await world.work()
        now = await world.invoice_now(invoice.id)
        taken = [p for p in await world.payments(invoice.id) if p.state is PaymentState.SUCCEEDED]
        received = sum(p.captured_minor for p in taken)
        owed, credit = await world.balances(client.id)
        assert now.amount_received + credit == received
        assert owed == now.amount_due == 0
        assert world.movements - before == 1


async def test_twenty_requests_for_one_invoice_take_one_hold(world: World) -> None:
    client, _ = await world.client("pm_card_visa")
    invoice = await world.invoice(client, due=DUE)
    results = await asyncio.gather(*(world.charge(invoice.id) for _ in range(8)), return_exceptions=True)
    refused = [r for r in results if isinstance(r, DunwellError)]
    assert {r.reason for r in refused} <= {Reason.COLLECTION_IN_PROGRESS, Reason.STATE_CONFLICT}
    assert len(refused) == 7
    assert world.movements == 1


async def test_voiding_against_collecting_either_voids_or_charges(world: World) -> None:
    for _ in range(6):
        client, _ = await world.client("pm_card_visa")
        invoice = await world.invoice(client, due=DUE)
        await world.move(max(world.now, RUN))
        before = world.movements

        async def void(invoice_id: UUID = invoice.id) -> None:
            async with world.db.transaction(world.call()) as uow:
                await void_invoice(uow, invoice_id)

        results = await asyncio.gather(world.collection_run(), void(), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                assert isinstance(result, DunwellError), result
                assert result.reason in (Reason.COLLECTION_IN_PROGRESS, Reason.STATE_CONFLICT)
        state = (await world.invoice_now(invoice.id)).state
        assert state in (InvoiceState.VOID, InvoiceState.PAID)
        assert world.movements - before == (1 if state is InvoiceState.PAID else 0)


async def test_a_dry_run_tells_what_a_run_would_do_and_writes_nothing(world: World) -> None:
    paying, _ = await world.client("pm_card_visa")
    bare, [gone] = await world.client("pm_card_visa")
    due = await world.invoice(paying, "50.00", due=DUE)
    stuck = await world.invoice(bare, due=DUE)
    later = await world.invoice(paying, due=DUE + timedelta(days=1))
    from dunwell_server.payments.service import methods

    async with world.db.transaction(world.call()) as uow:
        await methods.detach(uow, gone.id)
    await world.move(RUN)
    before = [await world.invoice_now(each.id) for each in (due, stuck, later)]
    run = await world.collection_run(dry_run=True)
    items = await world.items(run)
    assert (run.total, run.done, run.counts, run.amounts) == (2, 2, {"CHARGED": 1, "DECLINED": 1}, {"USD": 5000})
    assert (items[due.id].outcome, items[due.id].message) == ("CHARGED", "visa 4242")
    assert (items[stuck.id].outcome, items[stuck.id].reason) == ("DECLINED", "NO_PAYMENT_METHOD")
    assert [await world.invoice_now(each.id) for each in (due, stuck, later)] == before
    assert await world.scalar("SELECT count(*) FROM payment WHERE firm_id = %s", world.firm_id) == 0
    ahead = await world.collection_run(dry_run=True, as_of_time=(RUN + timedelta(days=1)).isoformat())
    assert later.id in await world.items(ahead)
    assert world.movements == 0


async def test_a_run_reports_skips_and_waits_with_reasons(make_world: Callable[..., Awaitable[World]]) -> None:
    world = await make_world()
    slow, _ = await world.client("pm_sandbox_pendingThenSuccess")
    poor, _ = await world.client("pm_card_chargeDeclined")
    asked, _ = await world.client("pm_sandbox_pendingThenSuccess")
    waiting = await world.invoice(slow, due=DUE)
    declined = await world.invoice(poor, due=DUE)
    held = await world.invoice(asked, due=DUE)
    await world.move(RUN)
    await world.charge(held.id)
    run = await world.collection_run()
    items = await world.items(run)
    assert (items[waiting.id].outcome, items[waiting.id].reason) == ("WAITING", "IN_PROGRESS")
    assert (items[declined.id].outcome, items[declined.id].reason) == ("DECLINED", "PROVIDER_DECLINED")
    assert (items[held.id].outcome, items[held.id].reason) == ("SKIPPED", "IN_PROGRESS")
    assert (run.total, run.done) == (3, 3)
    # The request's money settles the invoice; its own schedule is cancelled.
    await world.advance(RUN + timedelta(hours=6))
    assert (await world.invoice_now(held.id)).state is InvoiceState.PAID


async def test_a_run_of_one_client_leaves_the_others_alone(world: World) -> None:
    one, _ = await world.client("pm_card_visa")
    other, _ = await world.client("pm_card_visa")
    mine, theirs = await world.invoice(one, due=DUE), await world.invoice(other, due=DUE)
    await world.move(RUN)
    run = await world.collection_run(client_id=str(one.id))
    assert run.counts == {"CHARGED": 1}
    assert (await world.invoice_now(mine.id)).state is InvoiceState.PAID
    assert (await world.invoice_now(theirs.id)).state is InvoiceState.SENT


async def test_a_run_goes_on_after_its_worker_died_between_claim_and_send(world: World) -> None:
    client, _ = await world.client("pm_card_visa")
    invoices = [await world.invoice(client, due=DUE) for _ in range(3)]
    await world.move(RUN)
    run = await world.queue_run()
    async with world.db.transaction(world.context) as uow:
        await claim_batch(uow, world.workers.charger.owner, 2, run_id=run.id)
    async with world.db.transaction(world.context) as uow:
        await uow.execute(
            "UPDATE attempt SET lease_until = clock_timestamp() - interval '1 s' WHERE firm_id = %s", (world.firm_id,)
        )
    await world.workers.executor.execute(world.db, world.context, run)
    items = await world.items(run)
    assert {items[invoice.id].outcome for invoice in invoices} == {"CHARGED"}
    assert world.movements == 3


async def test_who_has_lost_its_claim_sends_nothing(world: World, gateway: GatewayProcess) -> None:
    client, _ = await world.client("pm_card_visa")
    invoice = await world.invoice(client, due=DUE)
    await world.move(RUN)
    late, quick = world.workers.charger, Workers.at(gateway.url)
    async with world.db.transaction(world.context) as uow:
        claimed = (await claim_batch(uow, late.owner, 10)).claims
    async with world.db.transaction(world.context) as uow:
        await uow.execute(
            "UPDATE attempt SET lease_until = clock_timestamp() - interval '1 s' WHERE firm_id = %s", (world.firm_id,)
        )
    async with world.db.transaction(world.context) as uow:
        taken = await claim_attempts(uow, quick.charger.owner, 10)
    assert [claim.attempt_id for claim in taken] == [claim.attempt_id for claim in claimed]
    await late.run_slots(world.db, world.context, claimed)
    await late.run(world.db, world.context, claimed)
    assert (world.movements, (await world.invoice_now(invoice.id)).state) == (0, InvoiceState.SENT)
    await quick.checker.run(world.db, world.context, taken)
    assert (world.movements, (await world.invoice_now(invoice.id)).state) == (1, InvoiceState.PAID)
    await quick.provider.close()
