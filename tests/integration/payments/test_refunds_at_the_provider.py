"""Refunds against the real gateway: pending ones, lost answers, crashes of the sender, refusals. Never twice, never lost."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest

from dunwell_server.billing.model import InvoiceState
from dunwell_server.kernel.errors import Reason
from dunwell_server.payments.evidence import Succeeded
from dunwell_server.payments.jobs.refunding import Refunder, RefundsHandler
from dunwell_server.payments.model import Source, late_payment_id
from dunwell_server.payments.refunds import RefundState, SendState
from dunwell_server.payments.service.outcomes import apply_outcome
from dunwell_server.payments.service.refund_taking import take_refund
from dunwell_server.payments.service.refunds import RefundOrder, request_refund
from tests import support
from tests.integration.payments.refunding import Refunds, refused
from tests.integration.payments.world import START, Workers, World


@pytest.fixture
def refunds(world: World) -> Refunds:
    return Refunds(world)


def on_refunds(outcome: str, **more: Any) -> dict[str, Any]:
    return {"outcome": outcome, "on": "refund", "count": 1, **more}


async def test_a_pending_refund_moves_the_books_when_it_succeeds(world: World, refunds: Refunds) -> None:
    _, invoice, paid = await refunds.paid()
    refunds.faults(on_refunds("pending_then_success"))
    view = await refunds.ask(paid.payment.id, 5000)
    assert (view.refund.state, view.refund.send_state) == (RefundState.PENDING, SendState.ANSWERED)
    assert view.allocations == ()
    assert (await world.payment(paid.payment.id)).payment.refund_pending_minor == 5000
    assert (await world.invoice_now(invoice.id)).amount_refunded == 0
    assert await refunds.notes(invoice.id) == []
    await refunds.advance(START + timedelta(days=2))
    assert (await refunds.now(view.refund.id)).refund.state is RefundState.SUCCEEDED
    payment = (await world.payment(paid.payment.id)).payment
    assert (payment.refunded_minor, payment.refund_pending_minor) == (5000, 0)
    await refunds.agree()


async def test_a_refund_that_fails_while_pending_leaves_nothing_behind(world: World, refunds: Refunds) -> None:
    _, invoice, paid = await refunds.paid()
    before = await world.invoice_now(invoice.id)
    refunds.faults(on_refunds("pending_then_failure"))
    view = await refunds.ask(paid.payment.id)
    assert view.refund.state is RefundState.PENDING
    await refunds.advance(START + timedelta(days=2))
    refund = (await refunds.now(view.refund.id)).refund
    assert (refund.state, refund.failed_after_success) == (RefundState.FAILED, False)
    assert refund.failure_code
    assert await world.invoice_now(invoice.id) == before
    assert (await world.payment(paid.payment.id)).payment.refund_pending_minor == 0
    assert (await refunds.ask(paid.payment.id)).refund.state is RefundState.SUCCEEDED
    await refunds.agree()


async def test_a_refund_that_stays_pending_is_shown_to_a_person_while_it_is_polled_on(
    world: World, refunds: Refunds
) -> None:
    _, _, paid = await refunds.paid()
    world.gateway.control("settings", account=world.account, refund_seconds=20 * 86_400)
    refunds.faults(on_refunds("pending_then_success"))
    view = await refunds.ask(paid.payment.id)
    await refunds.advance(START + timedelta(days=13, hours=18))
    assert not (await refunds.now(view.refund.id)).refund.needs_person
    await refunds.advance(START + timedelta(days=19))
    refund = (await refunds.now(view.refund.id)).refund
    assert (refund.state, refund.needs_person) == (RefundState.PENDING, True)
    told = await world.actions(refund.id)
    assert told.count(("refund_needs_person", "CRITICAL")) == 1
    await refunds.advance(START + timedelta(days=21))
    refund = (await refunds.now(view.refund.id)).refund
    assert (refund.state, refund.needs_person) == (RefundState.SUCCEEDED, False)
    await refunds.agree()


async def test_a_refusal_ends_the_refund_and_frees_the_payment(world: World, refunds: Refunds) -> None:
    _, _, paid = await refunds.paid()
    refunds.faults(on_refunds("decline"))
    view = await refunds.ask(paid.payment.id)
    assert (view.refund.state, view.refund.failure_code) == (RefundState.FAILED, "declined")
    assert (await refunds.ask(paid.payment.id)).refund.state is RefundState.SUCCEEDED
    await refunds.agree()


@pytest.mark.parametrize(
    "outcome",
    ["accept_then_drop", "accept_then_timeout", "server_error_after_accept", "unparsable", "server_error_before_accept",
     "drop_before_accept", "late_landing"],
)  # fmt: skip
async def test_a_lost_answer_is_found_and_nothing_moves_twice(world: World, refunds: Refunds, outcome: str) -> None:
    _, invoice, paid = await refunds.paid()
    refunds.faults(on_refunds(outcome))
    view = await refunds.ask(paid.payment.id, 4000)
    assert (view.refund.state, view.refund.send_state) == (RefundState.PROCESSING, SendState.UNKNOWN)
    assert view.refund.next_check_time == START + timedelta(seconds=5)
    assert (await world.payment(paid.payment.id)).payment.refund_pending_minor == 4000
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
    await refunds.advance(START + timedelta(hours=30))
    assert (await refunds.now(view.refund.id)).refund.state is RefundState.SUCCEEDED
    assert [entry["count"] for entry in refunds.sent_back().values()] == [1]
    assert (await world.invoice_now(invoice.id)).amount_refunded == 4000
    await refunds.agree()


async def test_what_was_turned_away_goes_again_under_the_same_key(world: World, refunds: Refunds) -> None:
    _, _, paid = await refunds.paid()
    refunds.faults(on_refunds("rate_limited"))
    view = await refunds.ask(paid.payment.id)
    assert (view.refund.state, view.refund.send_state) == (RefundState.PROCESSING, SendState.NOT_SENT)
    await refunds.advance(START + timedelta(hours=1))
    refund = (await refunds.now(view.refund.id)).refund
    assert (refund.state, refund.send_count) == (RefundState.SUCCEEDED, 2)
    assert list(refunds.sent_back()) == [refund.provider_reference]


async def test_a_sender_that_dies_before_or_after_sending_is_taken_over(world: World, refunds: Refunds) -> None:
    _, _, paid = await refunds.paid()
    before = await refunds.ask(paid.payment.id, 1000, send=False)
    sent = await refunds.ask(paid.payment.id, 2000)
    assert sent.refund.state is RefundState.SUCCEEDED
    dead = await refunds.ask(paid.payment.id, 3000, send=False)
    async with world.db.transaction(world.call()) as uow:
        # It died between the commit of its intent and the answer.
        await uow.execute(
            "UPDATE refund SET send_state = 'SENT', first_send_time = %s, send_time = %s, send_count = 1 WHERE firm_id = %s AND id = %s",
            (START, START, world.firm_id, dead.refund.id),
        )
        await uow.execute(
            "UPDATE refund SET lease_until = clock_timestamp() - interval '1 s' WHERE firm_id = %s AND state = 'PROCESSING'",
            (world.firm_id,),
        )
    await refunds.work()
    await refunds.advance(START + timedelta(minutes=1))
    for view in (before, dead):
        assert (await refunds.now(view.refund.id)).refund.state is RefundState.SUCCEEDED
    assert await world.actions(dead.refund.id) == [
        ("refund_requested", "INFO"), ("refund_unknown", "WARNING"), ("refund_succeeded", "INFO"),
    ]  # fmt: skip
    assert sorted(entry["count"] for entry in refunds.sent_back().values()) == [1, 1, 1]
    await refunds.agree()


async def test_an_outcome_that_stays_unknown_is_told_to_a_person(world: World, refunds: Refunds) -> None:
    _, _, paid = await refunds.paid()
    refunds.faults({"outcome": "server_error_before_accept", "on": "refund"})
    view = await refunds.ask(paid.payment.id)
    stranger = await support.add_firm(world.db)
    async with world.db.transaction(world.call()) as uow:
        # Nothing can be looked up either: the account is gone.
        await uow.execute(
            "UPDATE control.provider_account SET firm_id = %s WHERE firm_id = %s", (stranger.firm_id, world.firm_id)
        )
    steps = await refunds.advance(START + timedelta(days=9))
    refund = (await refunds.now(view.refund.id)).refund
    assert (refund.state, refund.send_state, refund.needs_person, refund.next_check_time) == (
        RefundState.PROCESSING, SendState.UNKNOWN, True, None,
    )  # fmt: skip
    assert max(steps) == START + timedelta(days=7)
    assert [action for action, _ in await world.actions(refund.id)].count("refund_needs_person") == 1


async def test_an_answer_about_other_money_is_no_answer(world: World, refunds: Refunds) -> None:
    _, invoice, paid = await refunds.paid()
    refunds.faults(on_refunds("wrong_amount"))
    view = await refunds.ask(paid.payment.id, 5000)
    assert (view.refund.state, view.refund.send_state) == (RefundState.PROCESSING, SendState.UNKNOWN)
    await refunds.advance(START + timedelta(minutes=5))
    assert (await refunds.now(view.refund.id)).refund.state is RefundState.PROCESSING
    assert (await world.invoice_now(invoice.id)).amount_refunded == 0


async def test_two_workers_send_once(world: World, refunds: Refunds) -> None:
    _, _, paid = await refunds.paid()
    views = [await refunds.ask(paid.payment.id, 1000, send=False) for _ in range(6)]
    async with world.db.transaction(world.call()) as uow:
        await uow.execute("UPDATE refund SET lease_until = now() - interval '1 s' WHERE firm_id = %s", (world.firm_id,))
    others = [Workers.at(world.gateway.url) for _ in range(3)]
    try:
        handlers = [RefundsHandler(Refunder(other.charger)) for other in others]
        await asyncio.gather(*(handler.work(world.db, world.context) for handler in handlers))
    finally:
        for other in others:
            await other.provider.close()
    for view in views:
        refund = (await refunds.now(view.refund.id)).refund
        assert (refund.state, refund.send_count, refund.fence) == (RefundState.SUCCEEDED, 1, 2)
    await refunds.agree()


async def test_a_fenced_out_sender_sends_nothing(world: World, refunds: Refunds) -> None:
    _, _, paid = await refunds.paid()
    context = world.call()
    async with world.db.transaction(context) as uow:
        requested = await request_refund(
            uow, RefundOrder(paid.payment.id), refunds.refunder.owner, refunds.refunder.check_provider
        )
    assert requested.claim is not None
    for stale in (replace(requested.claim, fence=0), replace(requested.claim, owner=uuid4())):
        await refunds.refunder.run(world.db, context, [stale])
        assert (await refunds.now(requested.refund_id)).refund.send_count == 0
    await refunds.refunder.run(world.db, context, [requested.claim, requested.claim])
    refund = (await refunds.now(requested.refund_id)).refund
    assert (refund.state, refund.send_count) == (RefundState.SUCCEEDED, 1)


async def test_a_refund_that_fails_later_is_learned_from_the_record(world: World, refunds: Refunds) -> None:
    client, _, paid = await refunds.paid()
    refunds.faults(on_refunds("succeed_then_fail"))
    view = await refunds.ask(paid.payment.id)
    assert view.refund.state is RefundState.SUCCEEDED
    await world.move(START + timedelta(days=20))
    account = view.refund.account_id
    assert account is not None
    assert view.refund.payment_reference is not None
    for _ in range(2):
        listed = await refunds.refunder.refunds_of(world.db, world.context, account, view.refund.payment_reference)
        for theirs in listed:
            async with world.db.transaction(world.call()) as uow:
                await take_refund(uow, account, "sandbox", theirs, Source.LOOKUP)
    refund = (await refunds.now(view.refund.id)).refund
    assert (refund.state, refund.failed_after_success) == (RefundState.FAILED, True)
    assert await world.balances(client.id) == (0, 12000)


async def test_money_that_landed_late_is_refunded_under_its_own_reference(world: World, refunds: Refunds) -> None:
    client, _ = await world.client("pm_card_chargeDeclinedLostCard", "pm_card_visa")
    invoice = await world.immediate(client)
    await world.work()
    [payment] = await world.payments(invoice.id)
    first, second = (await world.payment(payment.id)).attempts
    async with world.db.transaction(world.call()) as uow:
        await apply_outcome(uow, first.id, Succeeded(first.provider_reference, 12000, "USD"), Source.EVENT)
    late = await refunds.ask(late_payment_id(world.firm_id, first.id), send=False)
    assert (late.refund.payment_reference, late.refund.amount_minor) == (first.provider_reference, 12000)
    usual = await refunds.ask(payment.id, 100)
    assert (usual.refund.payment_reference, usual.refund.state) == (second.provider_reference, RefundState.SUCCEEDED)
    assert await world.balances(client.id) == (0, 12000), "the late money's refund is under way, nothing is booked"


async def test_what_was_asked_for_is_still_sent_through_an_account_that_is_being_left(
    world: World, refunds: Refunds
) -> None:
    _, _, paid = await refunds.paid()
    asked = await refunds.ask(paid.payment.id, 1000, send=False)
    async with world.db.transaction(world.call()) as uow:
        await uow.execute("UPDATE control.provider_account SET state = 'DISABLED' WHERE firm_id = %s", (world.firm_id,))
        await uow.execute("UPDATE refund SET lease_until = now() - interval '1 s' WHERE firm_id = %s", (world.firm_id,))
    assert (await refused(refunds.ask(paid.payment.id))).reason is Reason.PROVIDER_NOT_CONFIGURED
    await refunds.work()
    assert (await refunds.now(asked.refund.id)).refund.state is RefundState.SUCCEEDED
