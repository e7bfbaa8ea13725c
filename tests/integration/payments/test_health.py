"""Declines in a row, ceilings by card, disabled accounts, and the warning of cards about to expire."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import pytest

from dunwell_server.billing.service.clients import NewClient, create_client, update_client
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.payments.health import Health, health_of
from dunwell_server.payments.model import PaymentMethod
from dunwell_server.payments.service import methods
from dunwell_server.payments.service.health import expiring_due, warn_of_expiring
from dunwell_server.platform.work import WorkKind
from dunwell_server.scheduler.daily import DailyMarks
from tests import support
from tests.integration.payments.world import World

Make = Callable[..., Awaitable[World]]
SOFT = "pm_card_chargeDeclinedInsufficientFunds"


async def now(world: World, method: PaymentMethod) -> PaymentMethod:
    async with world.db.transaction(world.context, write=False) as uow:
        return await methods.get_method(uow, method.id)


async def expire(world: World, method: PaymentMethod, month: int, year: int) -> None:
    async with world.db.transaction(world.context) as uow:
        await uow.execute(
            "UPDATE payment_method SET exp_month = %s, exp_year = %s WHERE id = %s", (month, year, method.id)
        )


async def test_declines_in_a_row_are_counted_and_a_success_ends_them(make_world: Make) -> None:
    world = await make_world()
    client, [method] = await world.client(SOFT, autopay=False)
    for streak, health in ((1, Health.FAILING), (2, Health.FAILING), (3, Health.HIGH_RISK)):
        await world.charge((await world.invoice(client, f"{100 + streak}.00")).id)
        seen = await now(world, method)
        assert (seen.failure_streak, health_of(seen)) == (streak, health)
    good = await world.attach(client.id, "pm_card_visa", make_default=True)
    await world.charge((await world.invoice(client, "200.00")).id)
    assert health_of(await now(world, good)) is Health.GOOD


async def test_a_card_attached_anew_has_the_tries_of_the_old_one(make_world: Make) -> None:
    world = await make_world()
    client, [method] = await world.client(SOFT, autopay=False)
    for number in range(10):
        await world.charge((await world.invoice(client, f"{100 + number}.00")).id)
    assert (await now(world, method)).near_ceiling
    async with world.db.transaction(world.call()) as uow:
        await methods.detach(uow, method.id)
    again = await world.attach(client.id, SOFT, make_default=True)
    async with world.db.transaction(world.context) as uow:
        await uow.execute(
            "UPDATE payment_method SET fingerprint = 'fp_same' WHERE id = ANY(%s)", ([method.id, again.id],)
        )
    invoice = await world.invoice(client, "300.00")
    sent = await world.charge(invoice.id)
    assert (sent.payment.state.value, sent.attempts[0].send_count) == ("CANCELLED", 0)
    assert "ceiling" in (sent.payment.failure_message or "")


async def test_a_card_is_warned_of_once_per_date_of_expiry(make_world: Make) -> None:
    world = await make_world(time_zone="Pacific/Auckland")
    _, [soon, later] = await world.client("pm_card_visa", "pm_card_mastercard")
    # 2026-03-02 09:00 UTC is 22:00 in Auckland: the first of April is the first day after a card of March.
    await expire(world, soon, 3, 2026)
    await expire(world, later, 4, 2026)
    daily = DailyMarks([warn_of_expiring], expiring_due, WorkKind.METHODS)

    async def warned() -> list[str]:
        async with world.db.transaction(world.context, write=False) as uow:
            rows = await uow.fetch_all(
                "SELECT object_id, severity, metadata FROM audit_event WHERE firm_id = %s AND action = 'payment_method_expiring'"
                " ORDER BY sequence",
                (world.firm_id,),
            )
        assert all(row["severity"] == "WARNING" for row in rows)
        return [row["metadata"]["expiry"] for row in rows]

    async def work() -> None:
        await daily.work(world.db, world.context)

    await work()
    assert await warned() == ["2026-03"]
    assert health_of(await now(world, soon)) is Health.EXPIRING
    await work()
    assert await warned() == ["2026-03"]
    # 30 days before the last day of April; not a day sooner.
    await world.move(datetime(2026, 3, 30, 12, tzinfo=UTC))  # the 31st in Auckland, before the time of day
    await work()
    assert await warned() == ["2026-03"]
    await world.move(datetime(2026, 3, 30, 13, 30, tzinfo=UTC))
    await work()
    assert await warned() == ["2026-03", "2026-04"]
    # The issuer sends a new date: that card is warned of again when it comes.
    await expire(world, soon, 4, 2026)
    await work()
    assert await warned() == ["2026-03", "2026-04", "2026-04"]
    events = await world.scalar(
        "SELECT count(*) FROM event WHERE firm_id = %s AND type = 'payment_method.expiring'", world.firm_id
    )
    assert events == 3


async def test_methods_of_a_disabled_account_are_not_charged_and_the_slot_passes(make_world: Make) -> None:
    world = await make_world()
    client, [method] = await world.client("pm_card_visa")
    invoice = await world.immediate(client)
    async with world.db.transaction(support.context(None)) as uow:
        await uow.execute("UPDATE control.provider_account SET state = 'DISABLED' WHERE firm_id = %s", (world.firm_id,))
    await world.work()
    seen = await world.invoice_now(invoice.id)
    assert (seen.collection.failure_count, seen.collection.failure_code) == (1, "missing_payment_method")
    assert (world.movements, (await now(world, method)).usable) == (0, False)


async def test_a_clients_provider_comes_before_the_firms_and_after_the_calls(make_world: Make) -> None:
    world = await make_world(default_provider="manual")
    async with world.db.transaction(world.call()) as uow:
        client = await create_client(uow, NewClient("Harbour Bakery", default_provider="sandbox"))
        other = await create_client(uow, NewClient("Quay Books"))
    async with world.db.transaction(world.context, write=False) as uow:
        assert (await methods.prepare_attach(uow, client.id, None)).account.provider == "sandbox"
        assert (await methods.prepare_attach(uow, other.id, "sandbox")).account.provider == "sandbox"
        with pytest.raises(DunwellError) as without:
            await methods.prepare_attach(uow, other.id, None)
    assert without.value.reason is Reason.PROVIDER_NOT_CONFIGURED
    with pytest.raises(DunwellError) as refused:
        async with world.db.transaction(world.call()) as uow:
            await update_client(uow, client.id, {"default_provider": "stripe"})
    assert (refused.value.reason, refused.value.field) == (Reason.PROVIDER_NOT_CONFIGURED, "client.default_provider")
