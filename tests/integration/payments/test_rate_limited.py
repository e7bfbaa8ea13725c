"""A provider that says it is too much: nobody is charged twice, no slot is used, everybody pauses."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest

from dunwell_server.payments.jobs import Charger, Checker, Gateways
from dunwell_server.payments.jobs.handlers import AttemptsHandler, CollectHandler
from dunwell_server.platform.crypto import account_aad
from dunwell_server.platform.database import Database
from dunwell_server.platform.rate_limits import RateLimits
from dunwell_server.providers.registry import ProviderRegistry
from dunwell_server.providers.sandbox import SandboxProvider
from tests import support
from tests.integration.payments.world import VAULT, World
from tests.providers.gateway import GatewayProcess

Make = Callable[..., Awaitable[World]]


@pytest.fixture
async def limited(db: Database, gateway: GatewayProcess) -> AsyncIterator[Charger]:
    """A charger as a process has one, under the shared limits."""
    provider = SandboxProvider(gateway.url)
    registry = ProviderRegistry()
    registry.register("sandbox", lambda: provider)
    yield Charger(Gateways(registry, VAULT, RateLimits(db)))
    await registry.close()


async def set_limit(world: World, rate: float, *, told: bool) -> None:
    """Have the gateway enforce a rate; `told`: our account knows of it."""
    world.gateway.control("settings", account=world.account, rate_limit_per_second=rate)
    if not told:
        return
    secrets = {"secret_key": f"sk_test_{world.account}", "rate_limit_per_second": f"{rate:g}"}
    sealed, key_id = VAULT.encrypt(secrets, account_aad(world.firm_id, "sandbox"))
    async with world.db.transaction(support.context(None)) as uow:
        await uow.execute(
            "UPDATE control.provider_account SET credentials = %s, key_id = %s, version = version + 1 WHERE firm_id = %s",
            (sealed, key_id, world.firm_id),
        )


async def due(world: World, count: int) -> list[object]:
    invoices: list[object] = []
    for number in range(count):
        client, _ = await world.client("pm_card_visa")
        invoices.append((await world.immediate(client, f"{100 + number}.00")).id)
    return invoices


async def test_a_told_limit_is_kept_and_used(make_world: Make, limited: Charger) -> None:
    world = await make_world()
    await due(world, 40)
    await set_limit(world, 20.0, told=True)
    began = time.monotonic()
    await CollectHandler(limited, batch=15).work(world.db, world.context)
    took = time.monotonic() - began
    turned_away = await world.scalar(
        "SELECT count(*) FROM attempt WHERE firm_id = %s AND (state = 'NOT_SENT' OR send_count > 1)", world.firm_id
    )
    assert (world.movements, turned_away) == (40, 0)
    assert took >= (40 - 3) / 20.0


async def test_what_is_turned_away_goes_again_under_the_same_key_and_uses_no_slot(
    make_world: Make, limited: Charger
) -> None:
    world = await make_world()
    [first, *_] = await due(world, 6)
    world.gateway.control("faults", account=world.account, faults=[{"outcome": "rate_limited", "count": 4}])
    collect, attempts = CollectHandler(limited), AttemptsHandler(Checker(limited))
    await collect.work(world.db, world.context)
    waiting = await world.scalar(
        "SELECT count(*) FROM attempt WHERE firm_id = %s AND state = 'NOT_SENT'", world.firm_id
    )
    assert (waiting, world.movements) == (4, 2)
    await world.move(world.now + timedelta(minutes=5))
    await attempts.work(world.db, world.context)
    assert world.movements == 6
    rows = await world.scalar(
        "SELECT count(*) FROM attempt WHERE firm_id = %s AND attempt_no = 1 AND state = 'SUCCEEDED'", world.firm_id
    )
    assert rows == 6
    slots = await world.scalar("SELECT max(failure_count) FROM invoice WHERE firm_id = %s", world.firm_id)
    assert slots == 0
    assert [payment.revision for payment in await world.payments(first)] == [0]  # type: ignore[arg-type]


async def test_an_account_without_a_known_limit_pauses_when_it_is_told(make_world: Make, limited: Charger) -> None:
    world = await make_world()
    await due(world, 1)
    world.gateway.control("faults", account=world.account, faults=[{"outcome": "rate_limited", "count": 1}])
    await CollectHandler(limited).work(world.db, world.context)
    await due(world, 1)
    began = time.monotonic()
    await CollectHandler(limited).work(world.db, world.context)
    assert time.monotonic() - began >= 0.5
    assert world.movements == 1


async def test_many_due_at_once_of_few_clients(make_world: Make, limited: Charger) -> None:
    """Batches overlap, groups hold each client once, and everything is charged exactly once."""
    world = await make_world()
    clients = [(await world.client("pm_card_visa"))[0] for _ in range(3)]
    invoices = [await world.immediate(clients[number % 3], f"{100 + number}.00") for number in range(30)]
    await CollectHandler(limited, batch=7).work(world.db, world.context)
    assert world.movements == 30
    for invoice in invoices:
        assert (await world.invoice_now(invoice.id)).amount_due == 0
