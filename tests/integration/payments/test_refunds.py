"""Refunds in the books: what is taken from credit and invoices, credit notes, reopened and written-off invoices, money that comes back."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import date, timedelta
from uuid import uuid4

import pytest

from dunwell_server.billing.model import AutopayStatus, InvoiceState
from dunwell_server.billing.service.closing import void_invoice, write_off_invoice
from dunwell_server.billing.service.overdue import mark_overdue
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.payments.model import Source
from dunwell_server.payments.refunds import Destination, Failed, RefundState
from dunwell_server.payments.service import autopay
from dunwell_server.payments.service.refunds import apply_refund_outcome
from tests.integration.payments.refunding import Refunds, refused
from tests.integration.payments.world import START, World


@pytest.fixture
def refunds(world: World) -> Refunds:
    return Refunds(world)


async def test_a_whole_refund_credits_the_invoice_and_nothing_is_owed_again(world: World, refunds: Refunds) -> None:
    client, invoice, paid = await refunds.paid()
    view = await refunds.ask(paid.payment.id, reason="REQUESTED_BY_CLIENT", note="moved away")
    assert (view.refund.state, view.refund.amount_minor) == (RefundState.SUCCEEDED, 12000)
    assert (view.refund.destination, view.refund.provider) == (Destination.PAYMENT_METHOD, "sandbox")
    [part] = view.allocations
    assert (part.invoice_id, part.amount_minor, part.credit_note_number) == (invoice.id, 12000, "CN-INV-2026-000001")
    now = await world.invoice_now(invoice.id)
    assert (now.state, now.amount_due, now.amount_refunded, now.amount_credited) == (
        InvoiceState.REFUNDED, 0, 12000, 12000,
    )  # fmt: skip
    payment = (await world.payment(paid.payment.id)).payment
    assert (payment.refunded_minor, payment.refund_pending_minor) == (12000, 0)
    assert await world.balances(client.id) == (0, 0)
    assert await refunds.accounts() == {}, "sold, paid, credited and sent back: nothing is left"
    assert await world.actions(view.refund.id) == [("refund_requested", "INFO"), ("refund_succeeded", "INFO")]
    assert [entry["count"] for entry in refunds.sent_back().values()] == [1]
    await refunds.agree()


async def test_partial_refunds_add_up_and_not_a_cent_more(world: World, refunds: Refunds) -> None:
    _, invoice, paid = await refunds.paid("100.00")
    for amount in (1, 3333, 3333):
        assert (await refunds.ask(paid.payment.id, amount)).refund.state is RefundState.SUCCEEDED
        assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
    error = await refused(refunds.ask(paid.payment.id, 3334))
    assert (error.reason, error.metadata) == (
        Reason.REFUND_EXCEEDS_PAYMENT, {"refundable_minor": "3333", "currency_code": "USD"},
    )  # fmt: skip
    last = await refunds.ask(paid.payment.id)
    assert last.refund.amount_minor == 3333
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.REFUNDED
    assert [amount for _, amount in await refunds.notes(invoice.id)] == [1, 3333, 3333, 3333]
    assert [number[-2:] for number, _ in await refunds.notes(invoice.id)] == ["01", "02", "03", "04"]
    error = await refused(refunds.ask(paid.payment.id))
    assert (error.reason, error.metadata["refundable_minor"]) == (Reason.REFUND_EXCEEDS_PAYMENT, "0")
    await refunds.agree()


async def test_credit_is_taken_first_then_the_newest_invoice(world: World, refunds: Refunds) -> None:
    client, _ = await world.client(autopay=False)
    old, new = await world.invoice(client, "50.00"), await world.invoice(client, "30.00")
    payment = await refunds.received(client.id, 10000, (old, 5000), (new, 3000))
    assert await world.balances(client.id) == (0, 2000)
    first = await refunds.ask(payment.id, 1500)
    assert (first.refund.from_credit_minor, first.allocations) == (1500, ())
    second = await refunds.ask(payment.id, 4000)
    assert second.refund.from_credit_minor == 500
    assert sum(part.amount_minor for part in second.allocations) == 3500
    assert len(second.allocations) == 2
    assert await world.balances(client.id) == (0, 0)
    third = await refunds.ask(payment.id)
    assert third.refund.amount_minor == 4500
    states = [(await world.invoice_now(invoice.id)).state for invoice in (old, new)]
    assert states == [InvoiceState.REFUNDED, InvoiceState.REFUNDED]
    assert await refunds.accounts() == {}


async def test_a_refund_to_credit_turns_settled_money_into_credit(world: World, refunds: Refunds) -> None:
    client, _ = await world.client(autopay=False)
    invoice = await world.invoice(client, "50.00")
    payment = await refunds.received(client.id, 7000, (invoice, 5000))
    error = await refused(refunds.ask(payment.id, 5001, destination=Destination.CREDIT))
    assert (error.reason, error.metadata["refundable_minor"]) == (Reason.REFUND_EXCEEDS_PAYMENT, "5000")
    view = await refunds.ask(payment.id, destination=Destination.CREDIT)
    assert (view.refund.state, view.refund.amount_minor, view.refund.from_credit_minor) == (
        RefundState.SUCCEEDED,
        5000,
        0,
    )
    assert await world.balances(client.id) == (0, 7000)
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.REFUNDED
    rest = await refunds.ask(payment.id)
    assert (rest.refund.amount_minor, rest.refund.from_credit_minor) == (2000, 2000)
    assert await world.balances(client.id) == (0, 5000)
    assert await refunds.accounts() == {"cash": 5000, "client_credit": -5000}


async def test_money_of_a_card_may_be_paid_back_outside(world: World, refunds: Refunds) -> None:
    _, invoice, paid = await refunds.paid()
    view = await refunds.ask(paid.payment.id, 2000, destination=Destination.MANUAL)
    assert (view.refund.state, view.refund.provider_reference) == (RefundState.SUCCEEDED, None)
    assert (await world.invoice_now(invoice.id)).amount_refunded == 2000
    assert await refunds.accounts() == {"clearing": 12000, "cash": -2000, "revenue": -10000}
    assert refunds.sent_back() == {}


async def test_a_reopened_invoice_is_owed_again_and_charged_only_when_asked(world: World, refunds: Refunds) -> None:
    client, _ = await world.client("pm_card_visa")
    invoice = await world.immediate(client)
    await world.work()
    [payment] = await world.payments(invoice.id)
    view = await refunds.ask(payment.id, 5000, reopen_invoice=True)
    assert [part.credit_note_id for part in view.allocations] == [None]
    now = await world.invoice_now(invoice.id)
    assert (now.state, now.amount_due, now.amount_credited, now.paid_time) == (InvoiceState.SENT, 5000, 0, None)
    assert (now.collection.autopay_enabled, now.collection.autopay_next_charge_time) == (False, None)
    assert await world.balances(client.id) == (5000, 0)
    await world.advance(START + timedelta(days=30))
    assert len(await world.payments(invoice.id)) == 1, "nobody is charged again in silence"
    async with world.db.transaction(world.call()) as uow:
        await mark_overdue(uow)
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.OVERDUE
    async with world.db.transaction(world.call()) as uow:
        await autopay.switch_invoice(uow, invoice.id, enabled=True)
    await world.work()
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
    again = [payment for payment in await world.payments(invoice.id) if payment.amount_minor == 5000]
    assert len(again) == 1
    assert (await refunds.ask(again[0].id)).refund.state is RefundState.SUCCEEDED
    assert (await refunds.ask(payment.id)).refund.amount_minor == 7000
    now = await world.invoice_now(invoice.id)
    assert (now.state, now.amount_received, now.amount_refunded) == (InvoiceState.REFUNDED, 17000, 17000)
    assert await refunds.accounts() == {}


async def test_a_scheduled_rest_is_not_charged_with_what_was_sent_back(world: World, refunds: Refunds) -> None:
    client, _ = await world.client("pm_card_visa")
    invoice = await world.invoice(client, "100.00", due=date(2026, 3, 20))
    payment = await refunds.received(client.id, 4000, (invoice, 4000))
    assert (await world.invoice_now(invoice.id)).collection.autopay_status is AutopayStatus.SCHEDULED
    await refunds.ask(payment.id, reopen_invoice=True)
    now = await world.invoice_now(invoice.id)
    assert (now.amount_due, now.collection.autopay_status) == (10000, AutopayStatus.CANCELLED)
    await world.advance(START + timedelta(days=30))
    assert [each.kind for each in await world.payments(invoice.id)] == ["MANUAL"]


async def test_an_invoice_that_money_was_received_for_is_never_void(world: World, refunds: Refunds) -> None:
    _, invoice, paid = await refunds.paid()
    await refunds.ask(paid.payment.id, reopen_invoice=True)
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.SENT
    with pytest.raises(DunwellError) as refusal:
        async with world.db.transaction(world.call()) as uow:
            await void_invoice(uow, invoice.id)
    assert refusal.value.reason is Reason.STATE_CONFLICT
    async with world.db.transaction(world.call()) as uow:
        await write_off_invoice(uow, invoice.id)
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.UNCOLLECTIBLE


@pytest.mark.parametrize("reopen", [False, True])
async def test_money_for_a_written_off_invoice_is_refunded(world: World, refunds: Refunds, reopen: bool) -> None:
    client, _ = await world.client(autopay=False)
    invoice = await world.invoice(client, "100.00")
    early = await refunds.received(client.id, 4000, (invoice, 4000))
    async with world.db.transaction(world.call()) as uow:
        await write_off_invoice(uow, invoice.id)
    late = await refunds.received(client.id, 6000, (invoice, 6000))
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
    await refunds.ask(late.id, 5000, reopen_invoice=reopen)
    await refunds.ask(early.id, 1000, reopen_invoice=reopen)
    now = await world.invoice_now(invoice.id)
    assert await world.balances(client.id) == (0, 0), "what was written off is not receivable again"
    if reopen:
        assert (now.state, now.amount_due) == (InvoiceState.UNCOLLECTIBLE, 6000)
        assert await refunds.accounts() == {"cash": 4000, "revenue": -10000, "bad_debt": 12000, "recoveries": -6000}
    else:
        assert (now.state, now.amount_due) == (InvoiceState.PAID, 0)
        assert await refunds.accounts() == {"cash": 4000, "revenue": -4000, "bad_debt": 6000, "recoveries": -6000}


async def test_what_comes_back_after_success_is_the_clients_credit(world: World, refunds: Refunds) -> None:
    client, invoice, paid = await refunds.paid()
    view = await refunds.ask(paid.payment.id)
    assert view.refund.provider_reference is not None
    before = await world.invoice_now(invoice.id)
    gone = Failed("expired_or_canceled_card", view.refund.provider_reference)
    for _ in range(2):
        async with world.db.transaction(world.call()) as uow:
            await apply_refund_outcome(uow, view.refund.id, gone, Source.EVENT)
    refund = (await refunds.now(view.refund.id)).refund
    assert (refund.state, refund.failed_after_success, refund.failure_code) == (
        RefundState.FAILED, True, "expired_or_canceled_card",
    )  # fmt: skip
    assert await world.invoice_now(invoice.id) == before
    assert await world.balances(client.id) == (0, 12000)
    assert await refunds.accounts() == {"clearing": 12000, "client_credit": -12000}
    assert await world.actions(refund.id) == [
        ("refund_requested", "INFO"), ("refund_succeeded", "INFO"), ("refund_failed", "WARNING"),
    ]  # fmt: skip
    assert (await world.payment(paid.payment.id)).payment.refunded_minor == 12000


async def test_two_refunds_at_once_never_exceed_the_payment(world: World, refunds: Refunds) -> None:
    _, invoice, paid = await refunds.paid("100.00")
    results = await asyncio.gather(
        *(refunds.ask(paid.payment.id, amount) for amount in (6000, 6000, 3000, 3000, 3000)), return_exceptions=True
    )
    refusals = [each for each in results if isinstance(each, DunwellError)]
    assert {each.reason for each in refusals} == {Reason.REFUND_EXCEEDS_PAYMENT}
    payment = (await world.payment(paid.payment.id)).payment
    assert payment.refunded_minor == 9000
    assert sum(amount for _, amount in await refunds.notes(invoice.id)) == 9000
    await refunds.agree()


async def test_the_same_request_is_the_same_refund(world: World, refunds: Refunds) -> None:
    _, _, paid = await refunds.paid()
    context = world.call()
    first = await refunds.ask(paid.payment.id, 5000, context=context)
    again = await refunds.ask(paid.payment.id, 5000, context=context)
    assert first == again
    assert (await refused(refunds.ask(paid.payment.id, 4000, context=context))).reason is Reason.REQUEST_ID_REUSED
    assert (await world.payment(paid.payment.id)).payment.refunded_minor == 5000
    assert len(await refunds.listed(payment_id=paid.payment.id)) == 1


async def test_what_cannot_be_refunded_is_refused_with_its_reason(world: World, refunds: Refunds) -> None:
    client, invoice, paid = await refunds.paid()
    manual = await refunds.received(client.id, 500)
    declined_client, _ = await world.client("pm_card_chargeDeclined", autopay=False)
    declined = await world.charge((await world.invoice(declined_client)).id)
    context = replace(world.call(), request_id=uuid4())
    for work, reason in (
        (refunds.ask(uuid4()), Reason.RESOURCE_NOT_FOUND),
        (refunds.ask(invoice.id), Reason.RESOURCE_NOT_FOUND),
        (refunds.ask(declined.payment.id), Reason.STATE_CONFLICT),
        (refunds.ask(paid.payment.id, 12001), Reason.REFUND_EXCEEDS_PAYMENT),
        (refunds.ask(manual.id, destination=Destination.PAYMENT_METHOD), Reason.FIELD_INVALID),
    ):
        assert (await refused(work)).reason is reason
    async with world.db.transaction(context) as uow:
        await uow.execute(
            "UPDATE payment SET open_disputes = 1 WHERE firm_id = %s AND id = %s", (world.firm_id, paid.payment.id)
        )
    assert (await refused(refunds.ask(paid.payment.id))).reason is Reason.PAYMENT_DISPUTED
    async with world.db.transaction(context) as uow:
        await uow.execute(
            "UPDATE payment SET open_disputes = 0 WHERE firm_id = %s AND id = %s", (world.firm_id, paid.payment.id)
        )
        await uow.execute("UPDATE control.provider_account SET state = 'DISABLED' WHERE firm_id = %s", (world.firm_id,))
    assert (await refused(refunds.ask(paid.payment.id))).reason is Reason.PROVIDER_NOT_CONFIGURED
    assert (
        await refunds.ask(paid.payment.id, 10, destination=Destination.CREDIT)
    ).refund.state is RefundState.SUCCEEDED


async def test_nothing_is_sent_while_the_firm_recovers(world: World, refunds: Refunds) -> None:
    _, _, paid = await refunds.paid()
    left = await refunds.ask(paid.payment.id, 100, send=False)
    async with world.db.transaction(world.call()) as uow:
        await uow.execute(
            "INSERT INTO control.recovery (firm_id, window_start, actor) VALUES (%s, now(), 'test')", (world.firm_id,)
        )
        await uow.execute("UPDATE refund SET lease_until = now() - interval '1 s' WHERE firm_id = %s", (world.firm_id,))
    assert (await refused(refunds.ask(paid.payment.id))).reason is Reason.RECOVERING
    await refunds.work()
    assert (await refunds.now(left.refund.id)).refund.send_count == 0
    async with world.db.transaction(world.call()) as uow:
        await uow.execute("DELETE FROM control.recovery WHERE firm_id = %s", (world.firm_id,))


async def test_a_dispute_that_opens_before_the_sending_stops_it(world: World, refunds: Refunds) -> None:
    _, _, paid = await refunds.paid()
    waiting = await refunds.ask(paid.payment.id, send=False)
    async with world.db.transaction(world.call()) as uow:
        await uow.execute("UPDATE payment SET open_disputes = 1 WHERE firm_id = %s", (world.firm_id,))
        await uow.execute("UPDATE refund SET lease_until = now() - interval '1 s' WHERE firm_id = %s", (world.firm_id,))
    await refunds.work()
    refund = (await refunds.now(waiting.refund.id)).refund
    assert (refund.state, refund.failure_code, refund.send_count) == (RefundState.FAILED, "payment_disputed", 0)
    assert (await world.payment(paid.payment.id)).payment.refund_pending_minor == 0
    async with world.db.transaction(world.call()) as uow:
        await uow.execute("UPDATE payment SET open_disputes = 0 WHERE firm_id = %s", (world.firm_id,))
