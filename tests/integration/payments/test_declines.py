"""What each class of decline leads to, and what the firm's own rules add to it."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import date, datetime, timedelta

import pytest

from dunwell_server.billing.model import AutopayStatus, InvoiceState
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.payments.evidence import Declined
from dunwell_server.payments.model import (
    Allocation,
    AttemptState,
    DeclineClass,
    Failure,
    FailureCode,
    MethodState,
    PaymentKind,
    PaymentState,
    Source,
)
from dunwell_server.payments.service import methods
from dunwell_server.payments.service.collecting import claim_batch
from dunwell_server.payments.service.manual import record_manual
from dunwell_server.payments.service.sending import begin_send
from dunwell_server.platform.firms import RetryPolicy
from tests.integration.payments.world import START, World

DUE = date(2026, 3, 10)
RUN = datetime.fromisoformat("2026-03-10T03:00+00:00")


async def method_state(world: World, method_id: object) -> tuple[MethodState, str | None]:
    async with world.db.transaction(world.context, write=False) as uow:
        method = await methods.get_method(uow, method_id)  # type: ignore[arg-type]
    return method.state, method.block_code


async def test_a_hard_decline_kills_the_method_and_the_backups_are_tried_at_once_in_their_order(world: World) -> None:
    client, [lost, second, third] = await world.client(
        "pm_card_chargeDeclinedLostCard", "pm_card_chargeDeclinedStolenCard", "pm_card_visa"
    )
    invoice = await world.invoice(client, due=DUE)
    await world.advance(RUN)

    paid = await world.invoice_now(invoice.id)
    assert (paid.state, paid.collection.failure_count) == (InvoiceState.PAID, 0)
    [payment] = await world.payments(invoice.id)
    tries = (await world.payment(payment.id)).attempts
    assert [(a.attempt_no, a.state, a.method_id) for a in tries] == [
        (1, AttemptState.DECLINED, lost.id),
        (2, AttemptState.DECLINED, second.id),
        (3, AttemptState.SUCCEEDED, third.id),
    ]
    assert [a.idempotency_key for a in tries] == [f"v1:{payment.id}:{n}" for n in (1, 2, 3)]
    assert await method_state(world, lost.id) == (MethodState.DEAD, "card_declined")
    assert await method_state(world, second.id) == (MethodState.DEAD, "card_declined")
    assert world.movements == 1


@pytest.mark.parametrize("decline_class", [DeclineClass.HARD, DeclineClass.TECHNICAL])
async def test_a_part_paid_meanwhile_costs_no_slot(world: World, decline_class: DeclineClass) -> None:
    """The refused payment asks for more than is owed by now: the slot goes on with what is left, at once with the backup where there is one."""
    client, [first, second] = await world.client("pm_card_visa", "pm_card_mastercard")
    invoice = await world.invoice(client, due=DUE)
    await world.move(RUN)
    charger = world.workers.charger
    context = replace(world.context, holds_clock=True)
    async with world.db.transaction(context) as uow:
        batch = await claim_batch(uow, charger.owner, 10)
    [claim] = batch.claims
    async with world.db.transaction(context) as uow:
        assert await begin_send(uow, claim, lambda order: b"digest") is not None
    async with world.db.transaction(world.call()) as uow:
        await record_manual(uow, client.id, 2000, "USD", method="CASH", allocations=[Allocation(invoice.id, 2000)])
    failure = Failure(FailureCode.CARD_DECLINED, decline_class)
    await charger.record(world.db, context, claim, Declined(failure), Source.ANSWER)
    waiting = (await world.invoice_now(invoice.id)).collection
    assert (waiting.autopay_status, waiting.failure_count) == (AutopayStatus.SCHEDULED, 0)
    await world.advance(RUN + timedelta(minutes=10))
    paid = await world.invoice_now(invoice.id)
    assert (paid.state, paid.amount_due, paid.collection.failure_count) == (InvoiceState.PAID, 0, 0)
    old, new = [each for each in await world.payments(invoice.id) if each.kind is PaymentKind.AUTOPAY]
    assert (old.state, new.state, new.amount_minor) == (PaymentState.CANCELLED, PaymentState.SUCCEEDED, 10000)
    hard = decline_class is DeclineClass.HARD
    assert (await world.payment(new.id)).attempts[0].method_id == (second.id if hard else first.id)
    assert (await method_state(world, first.id))[0] is (MethodState.DEAD if hard else MethodState.ACTIVE)


async def test_with_no_backup_left_the_slots_after_a_hard_decline_fail_without_a_call(world: World) -> None:
    client, _ = await world.client("pm_card_chargeDeclinedLostCard")
    invoice = await world.invoice(client, due=DUE)
    await world.advance(START + timedelta(days=60))
    now = await world.invoice_now(invoice.id)
    assert (now.state, now.collection.failure_count) == (InvoiceState.OVERDUE, 4)
    views = [await world.payment(payment.id) for payment in await world.payments(invoice.id)]
    assert [len(view.attempts) for view in views] == [1, 0, 0, 0]
    assert [view.payment.failure_code for view in views] == ["card_declined"] + ["missing_payment_method"] * 3


@pytest.mark.parametrize(
    ("token", "code"),
    [
        ("pm_card_chargeDeclinedExpiredCard", "expired_card"),
        ("pm_card_chargeDeclinedIncorrectCvc", "incorrect_cvc"),
        ("pm_card_authenticationRequired", "authentication_required"),
    ],
)
async def test_a_method_that_waits_for_its_client_is_not_retried_but_its_slots_pass(
    world: World, token: str, code: str
) -> None:
    client, [method] = await world.client(token)
    invoice = await world.invoice(client, due=DUE)
    await world.advance(RUN)
    assert await method_state(world, method.id) == (MethodState.NEEDS_ACTION, code)
    await world.advance(START + timedelta(days=60))
    now = await world.invoice_now(invoice.id)
    assert (now.state, now.collection.failure_count, now.collection.failure_code) == (InvoiceState.OVERDUE, 4, code)
    assert [len((await world.payment(p.id)).attempts) for p in await world.payments(invoice.id)] == [1, 0, 0, 0]


async def test_a_technical_decline_opens_three_more_attempts_and_uses_one_slot(world: World) -> None:
    client, _ = await world.client("pm_card_chargeDeclinedProcessingError")
    invoice = await world.invoice(client, due=DUE)
    await world.advance(RUN + timedelta(hours=1))
    now = await world.invoice_now(invoice.id)
    assert (now.collection.failure_count, now.collection.failure_code) == (1, "processing_error")
    [payment] = await world.payments(invoice.id)
    tries = (await world.payment(payment.id)).attempts
    assert [a.attempt_no for a in tries] == [1, 2, 3, 4]
    sent = [a.first_send_time for a in tries if a.first_send_time is not None]
    gaps = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(sent)]
    assert len(gaps) == 3
    assert gaps == sorted(gaps)
    assert gaps[0] >= 24


async def test_without_a_method_the_slot_fails_at_once(world: World) -> None:
    client, [method] = await world.client("pm_card_visa")
    invoice = await world.invoice(client, due=DUE)
    async with world.db.transaction(world.call()) as uow:
        await methods.detach(uow, method.id)
    await world.advance(RUN)
    now = await world.invoice_now(invoice.id)
    assert (now.state, now.collection.failure_code) == (InvoiceState.FAILED, "missing_payment_method")
    assert now.collection.autopay_next_charge_time == RUN + timedelta(days=3)


async def test_a_new_default_is_charged_by_the_next_retry_and_resets_no_count(world: World) -> None:
    client, _ = await world.client("pm_card_chargeDeclined")
    invoice = await world.invoice(client, due=DUE)
    await world.advance(RUN)
    await world.attach(client.id, "pm_card_visa", make_default=True)
    now = await world.invoice_now(invoice.id)
    assert (now.state, now.collection.failure_count) == (InvoiceState.FAILED, 1)
    assert now.collection.autopay_next_charge_time == RUN + timedelta(days=3)
    await world.advance(RUN + timedelta(days=3))
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID


async def test_by_policy_a_new_method_is_tried_at_once(make_world: Callable[..., Awaitable[World]]) -> None:
    world = await make_world(retry=RetryPolicy((3, 7, 14), retry_on_new_method=True))
    client, _ = await world.client("pm_card_chargeDeclined")
    invoice = await world.invoice(client, due=DUE)
    await world.advance(RUN)
    await world.attach(client.id, "pm_card_visa", make_default=True)
    await world.work()
    now = await world.invoice_now(invoice.id)
    assert (now.state, now.collection.failure_count) == (InvoiceState.PAID, 1)


async def test_ten_declines_in_a_day_close_the_card_until_they_have_aged(world: World) -> None:
    client, _ = await world.client("pm_card_chargeDeclined")
    invoices = [await world.invoice(client, due=DUE) for _ in range(12)]
    await world.advance(RUN)
    states = [(await world.invoice_now(invoice.id)).collection for invoice in invoices]
    failed = [c for c in states if c.failure_count == 1]
    delayed = [c for c in states if c.failure_count == 0]
    assert (len(failed), len(delayed)) == (10, 2)
    assert {c.autopay_next_charge_time for c in delayed} == {RUN + timedelta(days=1)}
    assert {c.autopay_status for c in delayed} == {AutopayStatus.SCHEDULED}
    await world.advance(RUN + timedelta(days=1))
    assert [(await world.invoice_now(invoice.id)).collection.failure_count for invoice in invoices] == [1] * 12


async def test_an_explicit_charge_that_is_declined_moves_no_schedule(world: World) -> None:
    client, _ = await world.client("pm_card_chargeDeclined")
    invoice = await world.invoice(client, due=DUE)
    before = (await world.invoice_now(invoice.id)).collection
    view = await world.charge(invoice.id)
    assert (view.payment.state, view.payment.failure_code) == (PaymentState.FAILED, "card_declined")
    assert (await world.invoice_now(invoice.id)).collection == before


async def test_an_explicit_charge_that_succeeds_cancels_the_pending_retry(world: World) -> None:
    client, _ = await world.client("pm_card_chargeDeclined")
    invoice = await world.invoice(client, due=DUE)
    await world.advance(RUN)
    good = await world.attach(client.id, "pm_card_visa")
    view = await world.charge(invoice.id, method_id=good.id)
    assert view.payment.state is PaymentState.SUCCEEDED
    now = await world.invoice_now(invoice.id)
    assert (now.state, now.retry_pending, now.collection.autopay_next_charge_time) == (InvoiceState.PAID, False, None)
    assert now.collection.autopay_status is AutopayStatus.CANCELLED
    await world.advance(START + timedelta(days=60))
    assert world.movements == 1


async def test_what_cannot_be_charged_is_refused_with_its_reason(world: World) -> None:
    client, _ = await world.client("pm_card_visa")
    invoice = await world.invoice(client, due=DUE)
    await world.charge(invoice.id)
    with pytest.raises(DunwellError) as refused:
        await world.charge(invoice.id)
    assert (refused.value.reason, refused.value.metadata["state"]) == (Reason.STATE_CONFLICT, "PAID")
    bare, _ = await world.client(autopay=False)
    other = await world.invoice(bare, due=DUE)
    with pytest.raises(DunwellError) as refused:
        await world.charge(other.id)
    assert refused.value.reason is Reason.PAYMENT_METHOD_MISSING
    with pytest.raises(DunwellError) as refused:
        await world.charge(client.id)
    assert refused.value.reason is Reason.RESOURCE_NOT_FOUND
