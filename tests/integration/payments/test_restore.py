"""A restored database goes on: nothing is charged again, and what was done after the backup is taken over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from dunwell_server.billing.model import Client, Invoice, InvoiceState
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.payments.jobs import ReconciliationExecutor
from dunwell_server.payments.jobs.recovering import Recovered, Recoverer, leave
from dunwell_server.payments.jobs.refunding import Refunder
from dunwell_server.payments.model import AttemptState
from dunwell_server.payments.service.collecting import claim_batch
from dunwell_server.payments.service.refunds import RefundOrder, request_refund
from dunwell_server.platform import recovery
from dunwell_server.platform.database import Database
from dunwell_server.platform.invariants import run_for_firm
from tests import support
from tests.integration.payments.reconciling import paid_there, reconcile
from tests.integration.payments.world import Workers, World, new_bus
from tests.providers.gateway import GatewayProcess


@pytest.fixture
async def restorable(cluster_url: str, gateway: GatewayProcess, workers: Workers) -> AsyncIterator[tuple[World, str]]:
    """A world in a database of its own, which can be put back to an earlier time."""
    with support.fresh_database(cluster_url) as urls:
        world = await World.create(await opened(urls), gateway, workers)
        yield world, urls.application
        await world.db.close()


async def opened(urls: support.DatabaseUrls | str) -> Database:
    url = urls if isinstance(urls, str) else urls.application
    return await Database.open(url, bus=new_bus(), max_size=8)


class Backups:
    """Copies of a database, and putting one in its place, while nobody is connected."""

    def __init__(self, cluster_url: str, url: str) -> None:
        self._cluster = cluster_url
        self._url = url
        self._name = str(conninfo_to_dict(url)["dbname"])

    async def take(self, world: World) -> None:
        await world.db.close()
        self._run("CREATE DATABASE {copy} TEMPLATE {name}")
        world.db = await opened(self._url)

    async def restore(self, world: World) -> None:
        await world.db.close()
        self._run("DROP DATABASE {name} WITH (FORCE)")
        self._run("ALTER DATABASE {copy} RENAME TO {name}")
        world.db = await opened(self._url)
        await support.set_clock(world.db, world.firm_id, world.now)

    def _run(self, statement: Any) -> None:
        names = {"name": sql.Identifier(self._name), "copy": sql.Identifier(f"{self._name}_backup")}
        with psycopg.connect(self._cluster, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(**names))


async def enter(world: World, since: Any) -> None:
    async with world.db.transaction(support.context(None)) as uow:
        assert await recovery.enter(uow, since, world.firm_id) == [world.firm_id]


async def recover(world: World) -> Recovered:
    execute = ReconciliationExecutor(world.workers.charger).execute
    return await Recoverer(execute, bill_first=False).run(world.db, world.context)


async def refund(world: World, payment_id: UUID, amount_minor: int) -> None:
    refunder = Refunder(world.workers.charger)
    async with world.db.transaction(world.call()) as uow:
        asked = await request_refund(
            uow, RefundOrder(payment_id, amount_minor), refunder.owner, refunder.check_provider
        )
    assert asked.claim is not None
    await refunder.run(world.db, world.context, [asked.claim])


async def due_client(world: World, token: str, days: int) -> tuple[Client, Invoice]:
    client, _ = await world.client(token)
    return client, await world.invoice(client, terms=days)


async def assert_in_order(world: World) -> None:
    async with world.db.transaction(world.context, write=False) as uow:
        broken = [check for check in await run_for_firm(uow) if not check.ok and check.number <= 8]
    assert not broken, broken


async def test_a_restored_book_takes_over_what_it_lost_and_charges_nothing_twice(
    cluster_url: str, restorable: tuple[World, str]
) -> None:
    world, url = restorable
    backups = Backups(cluster_url, url)
    early = [await due_client(world, "pm_card_visa", 1) for _ in range(2)]
    late = [await due_client(world, "pm_card_visa", 3) for _ in range(4)]
    unknown = [await due_client(world, "pm_sandbox_acceptThenTimeout", 3)]
    declined = [await due_client(world, "pm_card_chargeDeclined", 3)]
    asked, _ = await world.client("pm_card_visa", autopay=False)
    by_hand = await world.invoice(asked, "70.00")
    await world.advance(world.now + timedelta(days=2))
    assert world.movements == 2
    [first] = await world.payments(early[0][1].id)

    since = world.now
    await backups.take(world)
    # What the backup does not know: collections, one of them with an unknown outcome, a request, refunds of old and new money.
    await world.advance(world.now + timedelta(days=2))
    await world.charge(by_hand.id)
    await refund(world, first.id, 2000)
    [new] = await world.payments(late[0][1].id)
    await refund(world, new.id, 12000)
    charged = 2 + len(late) + len(unknown) + 1
    assert world.gateway.ledger(world.account, "key")["groups"].keys() >= {f"v1:{new.id}:1"}
    before = world.gateway.ledger(world.account)

    await backups.restore(world)
    assert (await world.invoice_now(late[0][1].id)).state is InvoiceState.SENT
    await enter(world, since)
    with pytest.raises(DunwellError) as refused:
        await world.charge(by_hand.id)
    assert refused.value.reason is Reason.RECOVERING
    await world.work()
    assert world.gateway.ledger(world.account) == before

    recovered = await recover(world)
    assert (recovered.differences, recovered.broken, recovered.ended) == ([], [], True)
    # Four slots, the one whose answer was lost, the request, two refunds.
    assert recovered.adopted == len(late) + len(unknown) + 1 + 2
    for _, invoice in [*late[1:], *unknown]:
        assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
    assert (await world.invoice_now(by_hand.id)).state is InvoiceState.PAID
    assert world.gateway.ledger(world.account) == before
    await assert_in_order(world)

    # Life goes on: nothing of it moves money again, and book and provider agree at the end.
    await world.advance(world.now + timedelta(days=40))
    await assert_in_order(world)
    groups = world.gateway.ledger(world.account, "key")["groups"]
    assert sum(1 for key in groups if not key.startswith("v1:refund:")) == charged
    assert all(entry["count"] == 1 for entry in groups.values()), groups
    assert (await world.invoice_now(declined[0][1].id)).state is InvoiceState.OVERDUE
    run, items = await reconcile(world, since=since.isoformat(), recovery=True)
    assert (items, set(run.counts) <= {"MATCHED", "SKIPPED"}) == ([], True)


async def test_a_record_that_nothing_explains_keeps_the_firm_in_recovery(
    restorable: tuple[World, str],
) -> None:
    world, _ = restorable
    _, [method] = await world.client("pm_card_visa", autopay=False)
    await paid_there(world, method, 5000, key="by hand", metadata={})
    await enter(world, world.now - timedelta(hours=1))
    recovered = await recover(world)
    assert (recovered.ended, [item.reason for item in recovered.differences]) == (False, ["THEIRS_ONLY"])
    async with world.db.transaction(world.context) as uow:
        assert recovery.is_recovering(uow)
        assert await recovery.transaction_ids_fit(uow)
        assert await leave(uow, forced=True)
    async with world.db.transaction(world.context) as uow:
        assert not recovery.is_recovering(uow)
    assert await world.actions(world.firm_id) == [("recovery_ended", "CRITICAL")]


async def test_an_attempt_that_the_book_thinks_unsent_gets_the_answer_it_had(
    cluster_url: str, restorable: tuple[World, str]
) -> None:
    world, url = restorable
    backups = Backups(cluster_url, url)
    client, _ = await world.client("pm_card_chargeDeclined")
    invoice = await world.invoice(client, terms=1)
    await world.move(world.now + timedelta(days=2))
    # The backup is made between claim and sending.
    async with world.db.transaction(replace(world.context, holds_clock=True)) as uow:
        batch = await claim_batch(uow, world.workers.charger.owner, 10)
    await backups.take(world)
    await world.workers.charger.run(world.db, world.context, batch.claims)
    [payment] = await world.payments(invoice.id)
    assert payment.failure_code == "card_declined"
    await backups.restore(world)
    await enter(world, world.now - timedelta(hours=1))
    recovered = await recover(world)
    assert (recovered.ended, recovered.adopted) == (True, 1)
    view = await world.payment(payment.id)
    assert view.attempts[0].state is AttemptState.DECLINED
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.FAILED


async def test_even_without_recovery_what_is_charged_again_goes_under_the_same_keys(
    cluster_url: str, restorable: tuple[World, str]
) -> None:
    """Ids follow from what a payment is for: a provider that still remembers its keys recognises what it has charged before."""
    world, url = restorable
    backups = Backups(cluster_url, url)
    invoices = [(await due_client(world, "pm_card_visa", 1))[1] for _ in range(3)]
    await backups.take(world)
    await world.advance(world.now + timedelta(days=1))
    assert world.movements == len(invoices)
    await backups.restore(world)
    await world.work()
    assert [(await world.invoice_now(invoice.id)).state for invoice in invoices] == [InvoiceState.PAID] * len(invoices)
    assert world.movements == len(invoices)
