"""What people do: methods, autopay choices, manual money, resolving what nobody knows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from dunwell_server.billing.model import AutopayCadence, AutopayStatus, InvoiceState
from dunwell_server.billing.service.closing import void_invoice, write_off_invoice
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import uuid7
from dunwell_server.payments.model import Allocation, AttemptState, MethodState, Payment, PaymentState
from dunwell_server.payments.service import autopay, methods
from dunwell_server.payments.service.manual import record_manual
from dunwell_server.payments.service.resolution import Resolution, Resolved, resolve
from dunwell_server.payments.store import payments
from dunwell_server.platform.crypto import account_aad
from dunwell_server.providers.base import Outcome, OutcomeClass
from tests import support
from tests.integration.payments.world import START, VAULT, World

DUE = date(2026, 3, 10)
RUN = datetime.fromisoformat("2026-03-10T03:00+00:00")


async def pay(world: World, client_id: UUID, amount: int, **options: Any) -> Payment:
    async with world.db.transaction(world.call()) as uow:
        return await record_manual(
            uow, client_id, amount, options.pop("currency", "USD"), method="BANK_TRANSFER", **options
        )


async def refused(awaitable: Awaitable[Any]) -> DunwellError:
    with pytest.raises(DunwellError) as caught:
        await awaitable
    return caught.value


# Manual money --------------------------------------------------------------------------------------------------------


async def test_manual_money_settles_the_oldest_due_first_and_the_rest_is_credit(world: World) -> None:
    client, _ = await world.client(autopay=False)
    late = await world.invoice(client, "40.00", due=date(2026, 5, 1))
    early = await world.invoice(client, "30.00", due=date(2026, 4, 1))
    part = await pay(world, client.id, 5000)
    assert (part.captured_minor, part.allocated_minor, part.credited_minor) == (5000, 5000, 0)
    assert (await world.invoice_now(early.id)).state is InvoiceState.PAID
    assert (await world.invoice_now(late.id)).amount_due == 2000
    rest = await pay(world, client.id, 2500)
    assert (rest.allocated_minor, rest.credited_minor) == (2000, 500)
    assert await world.balances(client.id) == (0, 500)


async def test_manual_money_is_allocated_as_told_and_never_lost(world: World) -> None:
    client, _ = await world.client(autopay=False)
    one, two, void = [await world.invoice(client, amount) for amount in ("10.00", "20.00", "30.00")]
    async with world.db.transaction(world.call()) as uow:
        await void_invoice(uow, void.id)
    payment = await pay(
        world,
        client.id,
        9000,
        allocations=[Allocation(one.id, 4000), Allocation(two.id, 500), Allocation(void.id, 3000)],
    )
    assert (payment.allocated_minor, payment.credited_minor) == (1500, 7500)
    assert (await world.invoice_now(one.id)).amount_due == 0
    assert (await world.invoice_now(two.id)).amount_due == 1500
    assert (await world.invoice_now(void.id)).amount_received == 0
    assert await world.balances(client.id) == (1500, 7500)


async def test_malformed_manual_payments_are_refused_and_write_nothing(world: World) -> None:
    client, _ = await world.client(autopay=False)
    other, _ = await world.client(autopay=False)
    mine, theirs = await world.invoice(client), await world.invoice(other)
    for options, reason in (
        ({"allocations": [Allocation(theirs.id, 100)]}, Reason.STATE_CONFLICT),
        ({"allocations": [Allocation(mine.id, 100)], "currency": "EUR"}, Reason.CURRENCY_MISMATCH),
        ({"allocations": [Allocation(mine.id, 900), Allocation(mine.id, 200)]}, Reason.AMOUNT_OUT_OF_RANGE),
        ({"allocations": [Allocation(uuid7(), 100)]}, Reason.RESOURCE_NOT_FOUND),
        ({"received_date": date(2026, 3, 3)}, Reason.PERIOD_INVALID),
    ):
        assert (await refused(pay(world, client.id, 1000, **options))).reason is reason
    assert (await refused(pay(world, uuid7(), 1000))).reason is Reason.RESOURCE_NOT_FOUND
    assert await world.scalar("SELECT count(*) FROM payment WHERE firm_id = %s", world.firm_id) == 0


async def test_money_for_a_written_off_invoice_is_a_recovery(world: World) -> None:
    client, _ = await world.client(autopay=False)
    invoice = await world.invoice(client, "25.00")
    async with world.db.transaction(world.call()) as uow:
        await write_off_invoice(uow, invoice.id)
    payment = await pay(world, client.id, 2500, allocations=[Allocation(invoice.id, 2500)])
    assert payment.allocated_minor == 2500
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
    recovered = await world.scalar(
        "SELECT -sum(amount_minor)::bigint FROM ledger_entry WHERE firm_id = %s AND account = 'recoveries'",
        world.firm_id,
    )
    assert recovered == 2500


async def test_paying_otherwise_cancels_what_is_scheduled_and_pending_at_once(world: World) -> None:
    client, _ = await world.client("pm_card_chargeDeclined")
    failing, waiting = await world.invoice(client, due=DUE), await world.invoice(client, due=date(2026, 5, 1))
    await world.advance(RUN)
    await pay(world, client.id, 24000)
    for invoice in (failing, waiting):
        now = await world.invoice_now(invoice.id)
        assert (now.state, now.retry_pending) == (InvoiceState.PAID, False)
        assert (now.collection.autopay_status, now.collection.autopay_next_charge_time) == (
            AutopayStatus.CANCELLED,
            None,
        )


# Autopay -------------------------------------------------------------------------------------------------------------


async def test_open_invoices_are_enrolled_only_when_asked(world: World) -> None:
    client, [method] = await world.client("pm_card_visa", autopay=False)
    invoice = await world.invoice(client, due=DUE)
    change = await world.autopay(client.id, True)
    assert (change.enrolled, change.client.autopay_enable_time) == (0, START)
    assert (await world.invoice_now(invoice.id)).collection.autopay_status is None
    await world.move(START + timedelta(hours=1))
    change = await world.autopay(client.id, True, enroll_open=True)
    assert (change.enrolled, change.client.autopay_enable_time) == (1, START)
    collection = (await world.invoice_now(invoice.id)).collection
    assert (collection.autopay_status, collection.autopay_next_charge_time) == (AutopayStatus.SCHEDULED, RUN)
    assert (collection.collection_cycle, collection.autopay_method_id) == (1, method.id)


async def test_enabling_needs_a_usable_method(world: World) -> None:
    client, _ = await world.client(autopay=False)
    assert (await refused(world.autopay(client.id, True))).reason is Reason.PAYMENT_METHOD_MISSING
    method = await world.attach(client.id, "pm_card_chargeDeclinedLostCard")
    await world.charge((await world.invoice(client)).id)
    assert (await refused(world.autopay(client.id, True, method_id=method.id))).reason is Reason.PAYMENT_METHOD_UNUSABLE
    stranger, [theirs] = await world.client("pm_card_visa", autopay=False)
    assert (await refused(world.autopay(client.id, True, method_id=theirs.id))).reason is Reason.RESOURCE_NOT_FOUND
    assert stranger.id
    stale = await refused(world.autopay(client.id, False, expected_version=99))
    assert stale.reason is Reason.ETAG_MISMATCH


async def test_a_charge_in_flight_finishes_when_autopay_is_switched_off(world: World) -> None:
    client, _ = await world.client("pm_sandbox_pendingThenFailure")
    invoice = await world.invoice(client, due=DUE)
    await world.advance(RUN)
    await world.autopay(client.id, False)
    assert (await world.invoice_now(invoice.id)).collection.autopay_status is AutopayStatus.PROCESSING
    await world.advance(RUN + timedelta(days=30))
    now = await world.invoice_now(invoice.id)
    assert (now.collection.autopay_status, now.retry_pending, now.collection.failure_count) == (
        AutopayStatus.CANCELLED,
        False,
        0,
    )
    assert len(await world.payments(invoice.id)) == 1


async def test_one_invoice_is_taken_off_and_put_back_under_a_new_cycle(world: World) -> None:
    client, _ = await world.client("pm_card_chargeDeclined")
    invoice = await world.invoice(client, due=DUE)
    await world.advance(START + timedelta(days=60))
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.OVERDUE
    good = await world.attach(client.id, "pm_card_visa")

    async def switch(enabled: bool, **options: Any) -> Any:
        async with world.db.transaction(world.call()) as uow:
            return await autopay.switch_invoice(uow, invoice.id, enabled=enabled, **options)

    off = await switch(False)
    assert (off.collection.autopay_enabled, off.state) == (False, InvoiceState.OVERDUE)
    on = await switch(True, method_id=good.id, cadence=AutopayCadence.IMMEDIATE)
    assert (on.collection.collection_cycle, on.collection.failure_count, on.state) == (2, 0, InvoiceState.SENT)
    await world.work()
    now = await world.invoice_now(invoice.id)
    assert now.state is InvoiceState.PAID
    assert [(p.cycle, p.slot) for p in await world.payments(invoice.id)] == [(1, 0), (1, 1), (1, 2), (1, 3), (2, 0)]
    assert (await refused(switch(True))).reason is Reason.STATE_CONFLICT
    await world.autopay(client.id, False)
    assert (await refused(switch(True))).reason is Reason.AUTOPAY_DISABLED


async def test_immediate_and_monthly_cadences(world: World) -> None:
    client, _ = await world.client("pm_card_visa", cadence=AutopayCadence.MONTHLY)
    monthly = await world.invoice(client)
    assert monthly.collection.autopay_next_charge_time == datetime.fromisoformat("2026-04-02T03:00+00:00")
    at_once = await world.immediate(client)
    await world.work()
    assert (await world.invoice_now(at_once.id)).state is InvoiceState.PAID


# Methods -------------------------------------------------------------------------------------------------------------


async def test_the_first_method_is_the_default_and_the_providers_customer_is_made_once(world: World) -> None:
    client, [first, second] = await world.client("pm_card_visa", "pm_card_mastercard", autopay=False)
    assert (first.is_default, second.is_default, second.backup_priority) == (True, False, 1)
    assert (first.brand, first.last4, first.mode, first.state) == ("visa", "4242", "TEST", MethodState.ACTIVE)
    customers = "SELECT count(*) FROM provider_customer WHERE firm_id = %s AND client_id = %s"
    assert await world.scalar(customers, world.firm_id, client.id) == 1
    async with world.db.transaction(world.call()) as uow:
        changed = await methods.update(uow, second.id, is_default=True, metadata={"use": "travel"})
    assert (changed.is_default, changed.metadata) == (True, {"use": "travel"})
    async with world.db.transaction(world.context, write=False) as uow:
        listed = await methods.list_methods(uow, client.id, include_detached=False, after=None, limit=10)
    assert [method.id for _, method in listed] == [second.id, first.id]


async def test_a_refused_or_unknown_token_is_not_attached(world: World) -> None:
    client, _ = await world.client(autopay=False)
    assert (
        await refused(world.attach(client.id, "pm_sandbox_attachDeclined"))
    ).reason is Reason.PAYMENT_METHOD_UNUSABLE
    assert (await refused(world.attach(client.id, "pm_no_such_thing"))).reason is Reason.PAYMENT_METHOD_UNUSABLE
    assert (await refused(world.attach(client.id, "4242424242424242"))).reason is Reason.CARD_NUMBER_REFUSED
    assert (await refused(world.attach(uuid7(), "pm_card_visa"))).reason is Reason.RESOURCE_NOT_FOUND
    assert await world.scalar("SELECT count(*) FROM payment_method WHERE firm_id = %s", world.firm_id) == 0


async def test_a_method_in_use_is_not_detached(world: World) -> None:
    client, [method] = await world.client("pm_sandbox_pendingThenSuccess")
    await world.invoice(client, due=DUE)
    await world.advance(RUN)

    async def detach() -> Any:
        async with world.db.transaction(world.call()) as uow:
            return await methods.detach(uow, method.id)

    assert (await refused(detach())).reason is Reason.COLLECTION_IN_PROGRESS
    await world.advance(RUN + timedelta(hours=3))
    detached = await detach()
    assert (detached.state, detached.is_default) == (MethodState.DETACHED, False)
    assert (await refused(detach())).reason is Reason.STATE_CONFLICT


async def test_modes_are_never_mixed_and_a_missing_account_is_named(world: World) -> None:
    client, _ = await world.client(autopay=False)

    async def resolve_at(provider: str) -> Any:
        async with world.db.transaction(world.context, write=False) as uow:
            return await methods.resolve_account(uow, provider)

    assert (await refused(resolve_at("stripe"))).reason is Reason.PROVIDER_NOT_CONFIGURED
    sealed, key_id = VAULT.encrypt({"secret_key": "x"}, account_aad(None, "stripe"))
    async with world.db.transaction(support.context(None)) as uow:
        await uow.execute(
            "INSERT INTO control.provider_account (id, firm_id, provider, mode, credentials, key_id) VALUES (%s, NULL, 'stripe', 'LIVE', %s, %s)",
            (uuid7(), sealed, key_id),
        )
    assert (await refused(resolve_at("stripe"))).reason is Reason.PROVIDER_MODE_MISMATCH
    assert client.id


# Resolving -----------------------------------------------------------------------------------------------------------


async def unknown(world: World) -> tuple[Any, Any, Any]:
    client, _ = await world.client("pm_sandbox_wrongAmount")
    invoice = await world.invoice(client, due=DUE)
    await world.advance(RUN)
    [payment] = await world.payments(invoice.id)
    [attempt] = (await world.payment(payment.id)).attempts
    assert attempt.state is AttemptState.UNKNOWN
    return client, invoice, attempt


async def settle(world: World, attempt_id: UUID, resolution: Resolution, person: str | None) -> Resolved:
    async with world.db.transaction(world.call(person)) as uow:
        return await resolve(uow, attempt_id, resolution)


async def test_what_a_bank_never_decides_is_shown_to_a_person_who_may_settle_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Polled on, flagged once after two weeks, listed, settled by hand; what the provider tells afterwards changes nothing."""
    client, _ = await world.client("pm_sandbox_pendingThenSuccess")
    invoice = await world.invoice(client, due=DUE)
    await world.advance(RUN)
    [payment] = await world.payments(invoice.id)
    [attempt] = (await world.payment(payment.id)).attempts
    waits = Outcome(outcome=OutcomeClass.PENDING, provider_reference=attempt.provider_reference)

    async def still_pending(*_: Any, **__: Any) -> Outcome:
        return waits

    with monkeypatch.context() as patch:
        patch.setattr(world.workers.provider, "lookup", still_pending)
        await world.advance(RUN + timedelta(days=13, hours=23))
        [attempt] = (await world.payment(payment.id)).attempts
        assert (attempt.state, attempt.needs_person) == (AttemptState.PENDING, False)
        found = Resolution("SUCCEEDED", attempt.provider_reference, "seen in the bank's record")
        assert (await refused(settle(world, attempt.id, found, "ada"))).reason is Reason.ATTEMPT_NOT_RESOLVABLE
        await world.advance(RUN + timedelta(days=16))
    [attempt] = (await world.payment(payment.id)).attempts
    assert (attempt.state, attempt.needs_person) == (AttemptState.PENDING, True)
    assert attempt.next_check_time is not None
    assert (await world.actions(payment.id)).count(("attempt_needs_person", "CRITICAL")) == 1
    async with world.db.transaction(world.call(), write=False) as uow:
        listed = await payments.page(
            uow, payments.PaymentFilter(needs_person=True), oldest_first=False, after=None, limit=10
        )
    assert [each.id for each in listed] == [payment.id]
    assert not (await settle(world, attempt.id, found, "ada")).awaits_approval
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
    await world.advance(RUN + timedelta(days=17))
    assert await world.balances(client.id) == (0, 0)


async def test_a_person_resolves_what_is_unknown(world: World) -> None:
    client, invoice, attempt = await unknown(world)
    found = Resolution("SUCCEEDED", "pay_by_hand", "seen in the dashboard")
    assert (await refused(settle(world, attempt.id, found, None))).reason is Reason.PERMISSION_DENIED
    assert not (await settle(world, attempt.id, found, "ada")).awaits_approval
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
    again = await refused(settle(world, attempt.id, found, "ada"))
    assert again.reason is Reason.ATTEMPT_NOT_RESOLVABLE
    assert await world.balances(client.id) == (0, 0)


async def test_what_a_person_finds_not_sent_goes_again_and_what_was_declined_follows_the_schedule(world: World) -> None:
    _, invoice, attempt = await unknown(world)
    await settle(world, attempt.id, Resolution("DECLINED", None, "the bank says no"), "ada")
    now = await world.invoice_now(invoice.id)
    assert (now.state, now.collection.failure_count) == (InvoiceState.FAILED, 1)
    _, other, second = await unknown(world)
    await settle(world, second.id, Resolution("NOT_SENT", None, "no trace of it"), "ada")
    [payment] = await world.payments(other.id)
    assert payment.state is PaymentState.PROCESSING
    assert (await world.payment(payment.id)).attempts[0].state is AttemptState.NOT_SENT


async def test_above_the_limit_two_persons_are_needed(make_world: Callable[..., Awaitable[World]]) -> None:
    world = await make_world(approval_limits={"USD": 10000})
    _, invoice, attempt = await unknown(world)
    found = Resolution("SUCCEEDED", "pay_by_hand", "seen")
    assert (await settle(world, attempt.id, found, "ada")).awaits_approval
    assert (await world.invoice_now(invoice.id)).amount_received == 0
    for name in ("ada", "ADA", " Ada "):
        assert (await refused(settle(world, attempt.id, found, name))).reason is Reason.APPROVAL_REQUIRED
    other = Resolution("DECLINED", None, "no")
    assert (await refused(settle(world, attempt.id, other, "grace"))).reason is Reason.STATE_CONFLICT
    assert not (await settle(world, attempt.id, found, "grace")).awaits_approval
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
