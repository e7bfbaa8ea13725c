"""Reconciliation as a run: pages, deaths, several workers, several firms at one account, refunds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from dunwell_server.kernel.ids import uuid7
from dunwell_server.payments.jobs import ReconciliationExecutor, reconciling_work
from dunwell_server.payments.jobs.refunding import Refunder
from dunwell_server.payments.model import idempotency_key, slot_payment_id
from dunwell_server.payments.service.reconciliation import something_to_reconcile
from dunwell_server.payments.service.refunds import RefundOrder, request_refund
from dunwell_server.payments.store import reconciliation as store
from dunwell_server.platform.crypto import account_aad
from dunwell_server.platform.database import Database
from dunwell_server.platform.runs import RunState
from dunwell_server.providers.abilities import RefundPage
from dunwell_server.providers.base import PaymentPage, ProviderUnavailable
from dunwell_server.providers.sandbox import charges as sandbox_charges
from tests import support
from tests.integration.payments.reconciling import ended, metadata_of, paid, paid_there, queue, reconcile
from tests.integration.payments.world import VAULT, Workers, World
from tests.providers.gateway import GatewayProcess


async def mixed(world: World) -> dict[str, int]:
    """A book and a record that agree and differ in every way, over several pages; the counts that a run must come to."""
    client, [method] = await world.client("pm_card_visa", autopay=False)
    lost, _ = await world.client("pm_sandbox_acceptThenTimeout", autopay=False)
    for _ in range(7):
        await paid(world, client)
    for amount in range(4):
        await paid_there(world, method, 100 + amount, key=f"by hand {amount}", metadata={})
    for _ in range(3):
        payment_id = slot_payment_id(world.firm_id, uuid4(), 0, 0, 0)
        key = idempotency_key(payment_id, 1)
        await paid_there(world, method, 900, key=key, metadata=metadata_of(world, payment_id, key))
    invoice = await world.invoice(lost)
    await world.charge(invoice.id)
    return {"MATCHED": 7, "DIFFERENT": 4, "ADOPTED": 4}


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_charges, "PAGE_SIZE", 2)


async def test_a_run_that_dies_again_and_again_counts_and_adopts_everything_once(
    world: World, small_pages: None
) -> None:
    expected = await mixed(world)
    run = await queue(world)
    deaths, life = 0, 0.004
    while True:
        # A new worker each time, as after kill -9: the lease of the dead one is not waited for, as if it had run out.
        work = asyncio.create_task(ReconciliationExecutor(world.workers.charger).execute(world.db, world.context, run))
        done, _ = await asyncio.wait([work], timeout=life)
        if not done:
            work.cancel()
            deaths += 1
            life *= 1.15  # A busy machine gets as far as a quick one, with more deaths.
        await asyncio.gather(work, return_exceptions=True)
        if (await ended(world, run.id))[0].state.is_final:
            break
    run, items = await ended(world, run.id)
    assert (run.state, run.counts, run.done) == (RunState.SUCCEEDED, expected, sum(expected.values()))
    assert deaths > 3
    assert len(items) == expected["DIFFERENT"] + expected["ADOPTED"]
    assert len(await world.actions(run.id)) == expected["DIFFERENT"]


async def test_several_workers_at_one_run_count_and_adopt_everything_once(
    world: World, small_pages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = await mixed(world)

    async def always(*_: Any) -> bool:
        return True

    monkeypatch.setattr(store, "take_run", always)
    run = await queue(world)
    workers = [ReconciliationExecutor(world.workers.charger) for _ in range(4)]
    await asyncio.gather(*(worker.execute(world.db, world.context, run) for worker in workers))
    run, items = await ended(world, run.id)
    assert (run.state, run.counts) == (RunState.SUCCEEDED, expected)
    assert len(items) == expected["DIFFERENT"] + expected["ADOPTED"]


@pytest.fixture
async def shared(db: Database, gateway: GatewayProcess, workers: Workers) -> AsyncIterator[tuple[World, World]]:
    """Two firms without an account of their own, and the platform's account."""
    name = f"platform{uuid4().hex}"
    first, second = await World.create(db, gateway, workers), await World.create(db, gateway, workers)
    sealed, key_id = VAULT.encrypt({"secret_key": f"sk_test_{name}"}, account_aad(None, "sandbox"))
    account_id = uuid7()
    async with db.transaction(support.context(None)) as uow:
        await uow.execute(
            "UPDATE control.provider_account SET state = 'DISABLED' WHERE firm_id = ANY(%s)",
            ([first.firm_id, second.firm_id],),
        )
        await uow.execute(
            "INSERT INTO control.provider_account (id, firm_id, provider, mode, credentials, key_id) VALUES (%s, NULL, 'sandbox', 'TEST', %s, %s)",
            (account_id, sealed, key_id),
        )
    for world in (first, second):
        world.account = name
        world.__post_init__()
    await workers.provider.set_clock(first._clock, first.now)
    yield first, second
    async with db.transaction(support.context(None)) as uow:
        await uow.execute("UPDATE control.provider_account SET state = 'DISABLED' WHERE id = %s", (account_id,))


async def test_firms_at_one_account_never_see_each_others(shared: tuple[World, World]) -> None:
    first, second = shared
    mine, [method] = await first.client("pm_card_visa", autopay=False)
    theirs, _ = await second.client("pm_card_visa", autopay=False)
    unknown, _ = await second.client("pm_sandbox_acceptThenTimeout", autopay=False)
    await paid(first, mine)
    for _ in range(2):
        await paid(second, theirs)
    await second.charge((await second.invoice(unknown)).id)
    await paid_there(first, method, 4200, key="nobody's", metadata={})
    lost = slot_payment_id(second.firm_id, uuid4(), 0, 0, 0)
    key = idempotency_key(lost, 1)
    # The other firm's metadata on a charge of this firm's customer: neither can say what it is, and only the named one is told.
    await paid_there(first, method, 4300, key=key, metadata=metadata_of(second, lost, key))
    run, items = await reconcile(first)
    assert (run.state, run.counts, items) == (RunState.SUCCEEDED, {"MATCHED": 1}, [])
    run, items = await reconcile(second)
    assert run.counts == {"MATCHED": 2, "ADOPTED": 1, "DIFFERENT": 1}
    assert {item.client_id for item in items} == {unknown.id, None}


async def refunded(world: World, payment_id: UUID, amount_minor: int) -> UUID:
    refunder = Refunder(world.workers.charger)
    async with world.db.transaction(world.call()) as uow:
        asked = await request_refund(
            uow, RefundOrder(payment_id, amount_minor), refunder.owner, refunder.check_provider
        )
    assert asked.claim is not None
    await refunder.run(world.db, world.context, [asked.claim])
    return asked.refund_id


async def test_refunds_are_compared_and_taken_over_too(world: World) -> None:
    client, _ = await world.client("pm_card_visa", autopay=False)
    lost, _ = await world.client("pm_sandbox_refundAcceptThenTimeout", autopay=False)
    [first] = await world.payments(await paid(world, client))
    [second] = await world.payments(await paid(world, lost))
    await refunded(world, first.id, 1000)
    refund_id = await refunded(world, second.id, 2000)
    state = "SELECT state || '/' || send_state FROM refund WHERE firm_id = %s AND id = %s"
    assert await world.scalar(state, world.firm_id, refund_id) == "PROCESSING/UNKNOWN"
    dry, items = await reconcile(world, dry_run=True)
    assert (dry.counts, [item.subject_type for item in items]) == ({"MATCHED": 3, "ADOPTED": 1}, ["provider_refund"])
    run, [item] = await reconcile(world)
    assert (run.counts, item.outcome, item.amount_minor) == ({"MATCHED": 3, "ADOPTED": 1}, "ADOPTED", 2000)
    assert await world.scalar(state, world.firm_id, refund_id) == "SUCCEEDED/ANSWERED"
    assert (await reconcile(world))[0].counts == {"MATCHED": 4}


async def test_pages_without_anything_do_not_end_the_lists(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Stripe's are where nothing happened in the first half of a window, and much in the second."""
    client, _ = await world.client("pm_card_visa", autopay=False)
    for _ in range(3):
        invoice_id = await paid(world, client)
    [payment] = await world.payments(invoice_id)
    await refunded(world, payment.id, 500)
    provider = world.workers.provider
    payments, refunds = provider.list_payments, provider.list_refunds

    async def payments_later(*args: Any) -> PaymentPage:
        return PaymentPage((), "later") if args[-1] is None else await payments(*args[:-1])

    async def refunds_later(*args: Any, page: str | None = None, **wanted: Any) -> RefundPage:
        return RefundPage((), "later") if page is None else await refunds(*args, **wanted)

    monkeypatch.setattr(provider, "list_payments", payments_later)
    monkeypatch.setattr(provider, "list_refunds", refunds_later)
    run, items = await reconcile(world)
    assert (run.state, run.counts, items) == (RunState.SUCCEEDED, {"MATCHED": 4}, [])


async def test_an_account_that_cannot_be_reached_does_not_hold_the_run_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = await world.client("pm_card_visa", autopay=False)
    await paid(world, client)
    executor, run = ReconciliationExecutor(world.workers.charger), await queue(world)

    async def silent(*_: Any, **__: Any) -> PaymentPage:
        raise ProviderUnavailable("sandbox", "nobody answers")

    with monkeypatch.context() as patch:
        patch.setattr(world.workers.provider, "list_payments", silent)
        for _ in range(2):
            with pytest.raises(ProviderUnavailable):
                await executor.execute(world.db, world.context, run)
        assert (await ended(world, run.id))[0].state is RunState.RUNNING
        patch.setattr(reconciling_work, "UNREACHABLE", timedelta(0))
        await executor.execute(world.db, world.context, run)
    found, [item] = await ended(world, run.id)
    assert (found.state, found.counts, item.subject_type) == (RunState.SUCCEEDED, {"FAILED": 1}, "provider_account")
    assert "nobody answers" in (item.message or "")
    assert (await reconcile(world))[0].counts == {"MATCHED": 1}


async def test_an_account_that_refuses_us_is_told_and_ends_the_run(world: World) -> None:
    client, _ = await world.client("pm_card_visa", autopay=False)
    await paid(world, client)
    async with world.db.transaction(world.call()) as uow:
        sealed, key_id = VAULT.encrypt({"secret_key": "sk_live_nothing"}, account_aad(world.firm_id, "sandbox"))
        await uow.execute(
            "UPDATE control.provider_account SET credentials = %s, key_id = %s, version = version + 1 WHERE firm_id = %s",
            (sealed, key_id, world.firm_id),
        )
    run, [item] = await reconcile(world)
    assert (run.state, run.counts, item.subject_type) == (RunState.SUCCEEDED, {"FAILED": 1}, "provider_account")


async def test_a_day_without_payments_and_a_test_clock_need_no_run(world: World, db: Database) -> None:
    async with world.db.transaction(world.context, write=False) as uow:
        assert not await something_to_reconcile(uow, uow.now)
    real = await support.add_firm(db)
    async with db.transaction(real, write=False) as uow:
        assert not await something_to_reconcile(uow, uow.now)
