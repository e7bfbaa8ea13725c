"""Breakers on real rows: they trip, what is due waits, an alert is raised, a reset lets it go on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.payments.jobs.guarding import tripping
from dunwell_server.payments.service import breakers, charges
from dunwell_server.payments.store.breakers import Asked
from dunwell_server.platform.firms import BreakerPolicy
from tests.integration.payments.world import World

Make = Callable[..., Awaitable[World]]


async def opened(world: World) -> list[tuple[str, dict[str, object]]]:
    async with world.db.transaction(world.context, write=False) as uow:
        rows = await uow.fetch_all("SELECT cause, detail FROM provider_breaker WHERE firm_id = %s", (world.firm_id,))
    return [(row["cause"], row["detail"]) for row in rows]


async def events(world: World, kind: str) -> int:
    return int(await world.scalar("SELECT count(*) FROM event WHERE firm_id = %s AND type = %s", world.firm_id, kind))


async def reset(world: World) -> None:
    async with world.db.transaction(world.call("maria@example.com")) as uow:
        await breakers.reset(uow, "sandbox", "looked at it")


async def test_the_charges_of_an_hour(make_world: Make) -> None:
    world = await make_world(breaker=BreakerPolicy(charges_per_hour=3))
    invoices = []
    for number in range(5):
        client, _ = await world.client("pm_card_visa")
        invoices.append(await world.immediate(client, f"{100 + number}.00"))
    await world.work()
    assert world.movements == 3
    [(cause, detail)] = await opened(world)
    assert (cause, detail["limit"]) == ("charges_per_hour", 3)
    assert await events(world, "provider.breaker_tripped") == 1
    severity = await world.scalar(
        "SELECT severity FROM audit_event WHERE firm_id = %s AND action = 'breaker_tripped'", world.firm_id
    )
    assert severity == "CRITICAL"
    # What is due stays due, and nothing turns in circles meanwhile.
    left = [each for each in invoices if (await world.invoice_now(each.id)).amount_due > 0]
    assert len(left) == 2
    for each in left:
        assert (await world.invoice_now(each.id)).collection.autopay_next_charge_time == world.now
    assert await world.next_due() is None or (await world.next_due() or world.now) > world.now
    run = await world.collection_run()
    assert {item.reason for item in (await world.items(run)).values()} == {"BREAKER_OPEN"}
    dry = await world.collection_run(dry_run=True)
    assert {item.reason for item in (await world.items(dry)).values()} == {"BREAKER_OPEN"}
    await reset(world)
    await world.work()
    assert world.movements == 5
    assert await opened(world) == []


async def test_an_hour_passes(make_world: Make) -> None:
    world = await make_world(breaker=BreakerPolicy(charges_per_hour=2))
    for number in range(2):
        client, _ = await world.client("pm_card_visa")
        await world.immediate(client, f"{100 + number}.00")
    await world.work()
    await world.advance(world.now + timedelta(minutes=61))
    client, _ = await world.client("pm_card_visa")
    await world.immediate(client)
    await world.work()
    assert (world.movements, await opened(world)) == (3, [])


async def test_the_part_that_is_declined(make_world: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breakers, "DECLINES_COUNT_FROM", 4)
    world = await make_world(breaker=BreakerPolicy(decline_percent=50))
    for number in range(4):
        client, _ = await world.client("pm_card_chargeDeclinedInsufficientFunds" if number else "pm_card_visa")
        await world.immediate(client, f"{100 + number}.00")
    await world.work()
    client, _ = await world.client("pm_card_visa")
    invoice = await world.immediate(client)
    await world.work()
    [(cause, detail)] = await opened(world)
    assert (cause, detail["charges"], detail["declined"]) == ("decline_ratio", 4, 3)
    assert (await world.invoice_now(invoice.id)).amount_due == invoice.amount_due
    assert world.movements == 1


async def test_the_same_amount_again_and_again_is_refused_on_request_and_trips(make_world: Make) -> None:
    world = await make_world(breaker=BreakerPolicy(same_amount_per_day=2))
    client, [method] = await world.client("pm_card_visa", autopay=False)
    for _ in range(2):
        await world.charge((await world.invoice(client, "50.00")).id)
    invoice = await world.invoice(client, "50.00")
    asked = Asked(client.id, method.account_id, 5000, "USD")
    context = world.call()
    with pytest.raises(DunwellError) as refused:
        async with tripping(world.db, context), world.db.transaction(context) as uow:
            await breakers.require_closed(uow, method.account_id, asked)
    assert refused.value.reason is Reason.BREAKER_OPEN
    [(cause, detail)] = await opened(world)
    assert (cause, detail["amount_minor"], detail["charges"]) == ("same_amount", 5000, 2)
    # Now everything at that account is refused, whatever it asks for.
    with pytest.raises(DunwellError, match="stopped by itself"):
        async with world.db.transaction(world.call()) as uow:
            await breakers.require_closed(uow, method.account_id)
    with pytest.raises(DunwellError) as charged:
        async with world.db.transaction(world.call()) as uow:
            await charges.request_charge(uow, invoice.id, world.workers.charger.owner)
    assert charged.value.reason is Reason.BREAKER_OPEN
    await reset(world)
    assert (await world.charge(invoice.id)).payment.state.value == "SUCCEEDED"


async def test_a_policy_that_is_off_never_trips(make_world: Make) -> None:
    world = await make_world(breaker=BreakerPolicy(charges_per_hour=1, same_amount_per_day=1, disabled=True))
    client, _ = await world.client("pm_card_visa")
    for _ in range(3):
        await world.immediate(client, "50.00")
    await world.work()
    assert (world.movements, await opened(world)) == (3, [])


async def test_what_was_claimed_before_the_trip_is_not_sent(make_world: Make) -> None:
    world = await make_world()
    client, [method] = await world.client("pm_card_visa", autopay=False)
    invoice = await world.invoice(client)
    context = world.call()
    async with world.db.transaction(context) as uow:
        claim = await charges.request_charge(uow, invoice.id, world.workers.charger.owner)
    async with world.db.transaction(replace(context, request_id=None)) as uow:
        await uow.execute(
            "INSERT INTO provider_breaker (firm_id, account_id, cause, detail, trip_time) VALUES (%s, %s, 'same_amount', '{}', %s)",
            (world.firm_id, method.account_id, world.now),
        )
    await world.workers.charger.run(world.db, context, [claim])
    assert (world.movements, (await world.payment(claim.payment_id)).payment.state.value) == (0, "CANCELLED")


async def test_resetting_what_has_not_tripped(world: World) -> None:
    with pytest.raises(DunwellError) as refused:
        await reset(world)
    assert refused.value.reason is Reason.STATE_CONFLICT
