"""Answers that do not come, come late, or say nothing: nothing is lost and nothing is paid twice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import pytest

from dunwell_server.billing.model import AutopayStatus, InvoiceState
from dunwell_server.billing.service.closing import void_invoice
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.payments.evidence import Declined, NotSent, Succeeded, Unknown
from dunwell_server.payments.model import (
    Allocation,
    AttemptState,
    DeclineClass,
    Failure,
    FailureCode,
    PaymentKind,
    PaymentState,
    Source,
)
from dunwell_server.payments.service.manual import record_manual
from dunwell_server.payments.service.outcomes import apply_outcome
from dunwell_server.platform.database import Database
from tests import support
from tests.integration.payments.world import Workers, World
from tests.providers.gateway import GatewayProcess

DUE = date(2026, 3, 10)
RUN = datetime.fromisoformat("2026-03-10T03:00+00:00")


async def attempt_of(world: World, invoice_id: Any) -> Any:
    [payment] = await world.payments(invoice_id)
    return (await world.payment(payment.id)).attempts[-1]


async def test_accepted_then_timed_out_is_found_by_the_ladder_and_paid_once(world: World) -> None:
    client, _ = await world.client("pm_sandbox_acceptThenTimeout")
    invoice = await world.invoice(client, due=DUE)
    await world.advance(RUN)
    attempt = await attempt_of(world, invoice.id)
    assert (attempt.state, attempt.next_check_time) == (AttemptState.UNKNOWN, RUN + timedelta(seconds=5))
    assert world.movements == 1
    await world.advance(RUN + timedelta(days=2))
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
    attempt = await attempt_of(world, invoice.id)
    assert attempt.state is AttemptState.SUCCEEDED
    assert world.movements == 1
    assert await world.balances(client.id) == (0, 0)
    [payment] = await world.payments(invoice.id)
    assert ("payment_unknown", "WARNING") in await world.actions(payment.id)


@pytest.mark.parametrize(
    "token", ["pm_sandbox_serverErrorAfterAccept", "pm_sandbox_acceptThenDrop", "pm_sandbox_unparsable"]
)
async def test_what_was_accepted_behind_a_broken_answer_is_paid_once(world: World, token: str) -> None:
    client, _ = await world.client(token)
    invoice = await world.invoice(client, due=DUE)
    await world.advance(RUN + timedelta(hours=2))
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
    assert world.movements == 1


async def test_what_never_arrived_is_sent_again_under_the_same_key(world: World) -> None:
    client, _ = await world.client("pm_sandbox_dropBeforeAccept")
    invoice = await world.invoice(client, due=DUE)
    await world.advance(RUN + timedelta(days=8))
    attempt = await attempt_of(world, invoice.id)
    assert attempt.attempt_no == 1
    assert attempt.send_count > 1
    assert world.movements <= 1


@pytest.mark.parametrize("paid", [12000, 5000])
async def test_what_was_paid_otherwise_meanwhile_is_not_sent_again(world: World, paid: int) -> None:
    """If the first sending never arrived, sending it again would take money that is not owed any more."""
    client, _ = await world.client("pm_card_visa")
    invoice = await world.invoice(client, due=DUE)
    faults = [{"on": "charge", "outcome": "drop_before_accept", "count": 1}]
    world.gateway.control("faults", account=world.account, faults=faults)
    await world.advance(RUN)
    attempt = await attempt_of(world, invoice.id)
    assert attempt.state is AttemptState.UNKNOWN
    async with world.db.transaction(world.call()) as uow:
        await record_manual(uow, client.id, paid, "USD", method="CASH", allocations=[Allocation(invoice.id, paid)])
    await world.advance(RUN + timedelta(hours=8))
    assert (await world.payment(attempt.payment_id)).payment.state is PaymentState.CANCELLED
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
    assert await world.balances(client.id) == (0, 0)
    assert world.movements == (1 if paid < 12000 else 0), "what is left is collected anew"


async def test_what_was_paid_otherwise_meanwhile_is_found_where_it_had_arrived(world: World) -> None:
    client, _ = await world.client("pm_sandbox_acceptThenDrop")
    invoice = await world.invoice(client, due=DUE)
    await world.advance(RUN)
    async with world.db.transaction(world.call()) as uow:
        await record_manual(uow, client.id, 12000, "USD", method="CASH", allocations=[Allocation(invoice.id, 12000)])
    await world.advance(RUN + timedelta(hours=8))
    assert await world.balances(client.id) == (0, 12000)
    assert world.movements == 1


async def test_an_unknown_outcome_blocks_every_other_way_of_collecting(world: World) -> None:
    client, _ = await world.client("pm_sandbox_acceptThenTimeout")
    invoice = await world.invoice(client, due=DUE)
    await world.advance(RUN)
    good = await world.attach(client.id, "pm_card_visa")
    with pytest.raises(DunwellError) as refused:
        await world.charge(invoice.id, method_id=good.id)
    assert refused.value.reason is Reason.COLLECTION_IN_PROGRESS
    with pytest.raises(DunwellError) as refused:
        async with world.db.transaction(world.call()) as uow:
            await void_invoice(uow, invoice.id)
    assert refused.value.reason is Reason.COLLECTION_IN_PROGRESS
    assert (await world.invoice_now(invoice.id)).void_time is None


@pytest.mark.parametrize(
    ("token", "state"), [("pm_sandbox_pendingThenSuccess", "PAID"), ("pm_sandbox_pendingThenFailure", "FAILED")]
)
async def test_a_pending_charge_is_polled_to_its_end(world: World, token: str, state: str) -> None:
    client, _ = await world.client(token)
    invoice = await world.invoice(client, due=DUE)
    await world.advance(RUN)
    assert (await attempt_of(world, invoice.id)).state is AttemptState.PENDING
    assert (await world.invoice_now(invoice.id)).collection.autopay_status is AutopayStatus.PROCESSING
    await world.advance(RUN + timedelta(hours=4))
    assert (await world.invoice_now(invoice.id)).state.value == state
    assert world.movements == (1 if state == "PAID" else 0)


async def test_an_action_that_expires_is_cancelled_at_the_provider_and_counts_as_a_failure(world: World) -> None:
    client, [method] = await world.client("pm_card_threeDSecure2Required")
    invoice = await world.invoice(client, due=DUE)
    await world.advance(RUN)
    [payment] = await world.payments(invoice.id)
    assert payment.state is PaymentState.REQUIRES_ACTION
    assert payment.action_url
    assert payment.action_expire_time == RUN + timedelta(days=1)
    await world.advance(RUN + timedelta(days=1, hours=1))
    now = await world.invoice_now(invoice.id)
    assert (now.state, now.collection.failure_count, now.collection.failure_code) == (
        InvoiceState.FAILED,
        1,
        "authentication_required",
    )
    assert (await world.payments(invoice.id))[0].state is PaymentState.FAILED
    assert method.id


async def test_a_wrong_amount_is_never_a_success_and_a_person_is_asked(world: World) -> None:
    client, _ = await world.client("pm_sandbox_wrongAmount")
    invoice = await world.invoice(client, due=DUE)
    await world.advance(RUN + timedelta(days=9))
    attempt = await attempt_of(world, invoice.id)
    assert (attempt.state, attempt.needs_person, attempt.next_check_time) == (AttemptState.UNKNOWN, True, None)
    assert (await world.invoice_now(invoice.id)).amount_received == 0
    [payment] = await world.payments(invoice.id)
    assert ("attempt_needs_person", "CRITICAL") in await world.actions(payment.id)


@pytest.fixture
async def unreachable(db: Database) -> AsyncIterator[Workers]:
    """Workers whose provider nobody serves: every send provably never leaves."""
    workers = Workers.at("http://127.0.0.1:9")
    yield workers
    await workers.provider.close()


async def test_what_provably_was_not_sent_waits_and_goes_again_under_the_same_key(
    world: World, unreachable: Workers, gateway: GatewayProcess
) -> None:
    client, _ = await world.client("pm_card_visa")
    invoice = await world.invoice(client, due=DUE)
    await world.move(RUN)
    good, bad = world.workers, unreachable
    await bad.collect.work(world.db, replace(world.context, holds_clock=True))
    attempt = await attempt_of(world, invoice.id)
    assert (attempt.state, attempt.send_count) == (AttemptState.NOT_SENT, 1)
    assert RUN + timedelta(seconds=1) < attempt.next_check_time < RUN + timedelta(seconds=3)
    assert (await world.invoice_now(invoice.id)).collection.failure_count == 0
    world.workers = good
    await world.advance(RUN + timedelta(minutes=1))
    again = await attempt_of(world, invoice.id)
    assert (again.id, again.state, again.send_count) == (attempt.id, AttemptState.SUCCEEDED, 2)
    assert world.movements == 1


async def test_an_unsent_attempt_is_closed_when_the_amount_changed_and_the_slot_goes_on_under_a_new_revision(
    world: World, unreachable: Workers
) -> None:
    from dunwell_server.payments.model import Allocation
    from dunwell_server.payments.service.manual import record_manual

    client, _ = await world.client("pm_card_visa")
    invoice = await world.invoice(client, "120.00", due=DUE)
    await world.move(RUN)
    await unreachable.collect.work(world.db, replace(world.context, holds_clock=True))
    async with world.db.transaction(world.call()) as uow:
        await record_manual(uow, client.id, 2000, "USD", method="CASH", allocations=[Allocation(invoice.id, 2000)])
    await world.advance(RUN + timedelta(minutes=1))
    first, second, _manual = sorted(
        await world.payments(invoice.id), key=lambda p: (p.kind != PaymentKind.AUTOPAY, p.revision or 0)
    )
    assert (first.state, first.revision, first.amount_minor) == (PaymentState.CANCELLED, 0, 12000)
    assert (second.state, second.revision, second.slot, second.amount_minor) == (PaymentState.SUCCEEDED, 1, 0, 10000)
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
    assert world.movements == 1


async def test_switching_off_closes_what_was_not_sent_at_once(world: World, unreachable: Workers) -> None:
    client, _ = await world.client("pm_card_visa")
    invoice = await world.invoice(client, due=DUE)
    await world.move(RUN)
    await unreachable.collect.work(world.db, replace(world.context, holds_clock=True))
    await world.autopay(client.id, False)
    assert (await attempt_of(world, invoice.id)).state is AttemptState.CLOSED
    now = await world.invoice_now(invoice.id)
    assert (now.collection.autopay_status, now.collection.autopay_next_charge_time) == (AutopayStatus.CANCELLED, None)
    await world.advance(RUN + timedelta(days=40))
    assert world.movements == 0


async def test_a_crash_after_sending_is_taken_over_and_resolved(world: World) -> None:
    client, _ = await world.client("pm_card_visa")
    invoice = await world.invoice(client, due=DUE)
    await world.move(RUN)
    charger = world.workers.charger
    context = replace(world.context, holds_clock=True)

    from dunwell_server.payments.jobs.translation import charge_request
    from dunwell_server.payments.service.collecting import claim_batch
    from dunwell_server.payments.service.sending import begin_send

    async with world.db.transaction(context) as uow:
        [claim] = (await claim_batch(uow, charger.owner, 10)).claims
    async with world.db.transaction(context) as uow:
        order = await begin_send(
            uow, claim, lambda order: charge_request(order, charger.gateways.gateway(order.account)).digest
        )
    assert order is not None
    gateway = charger.gateways.gateway(order.account)
    await gateway.provider.charge(charge_request(order, gateway))  # The provider has it; then the process dies.
    assert world.movements == 1
    async with world.db.transaction(context) as uow:
        await uow.execute(
            "UPDATE attempt SET lease_until = clock_timestamp() - interval '1 s' WHERE firm_id = %s", (world.firm_id,)
        )
    await world.advance(RUN + timedelta(seconds=1))
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
    assert world.movements == 1


async def test_a_claim_whose_holder_died_before_sending_is_sent_by_another(world: World) -> None:
    client, _ = await world.client("pm_card_visa")
    invoice = await world.invoice(client, due=DUE)
    await world.move(RUN)
    from dunwell_server.payments.service.collecting import claim_batch

    context = replace(world.context, holds_clock=True)
    async with world.db.transaction(context) as uow:
        [claim] = (await claim_batch(uow, world.workers.charger.owner, 10)).claims
    async with world.db.transaction(context) as uow:
        await uow.execute(
            "UPDATE attempt SET lease_until = clock_timestamp() - interval '1 s' WHERE firm_id = %s", (world.firm_id,)
        )
    await world.work()
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
    # The first holder comes back with its old fence: it sends nothing.
    await world.workers.charger.drive(world.db, context, claim)
    assert world.movements == 1


async def declined_and_retrying(world: World) -> tuple[Any, Any, Any]:
    client, _ = await world.client("pm_card_chargeDeclined")
    invoice = await world.invoice(client, due=DUE)
    await world.advance(RUN)
    return client, invoice, await attempt_of(world, invoice.id)


async def apply(world: World, attempt_id: Any, evidence: Any, source: Source = Source.EVENT) -> Any:
    async with world.db.transaction(world.context) as uow:
        return await apply_outcome(uow, attempt_id, evidence, source)


async def test_a_success_after_a_decline_is_accepted_and_stops_the_retries(world: World) -> None:
    client, invoice, attempt = await declined_and_retrying(world)
    await apply(
        world,
        attempt.id,
        Succeeded("pay_late", 12000, "USD")
        if attempt.provider_reference is None
        else Succeeded(attempt.provider_reference, 12000, "USD"),
    )
    now = await world.invoice_now(invoice.id)
    assert (now.state, now.retry_pending, now.collection.autopay_status) == (
        InvoiceState.PAID,
        False,
        AutopayStatus.SUCCEEDED,
    )
    assert (await world.payments(invoice.id))[0].state is PaymentState.SUCCEEDED
    repeated = await apply(world, attempt.id, Succeeded(attempt.provider_reference, 12000, "USD"))
    assert not repeated.changed
    assert await world.balances(client.id) == (0, 0)


async def test_a_success_for_an_invoice_that_was_paid_meanwhile_becomes_credit(world: World) -> None:
    from dunwell_server.payments.service.manual import record_manual

    client, invoice, attempt = await declined_and_retrying(world)
    async with world.db.transaction(world.call()) as uow:
        await record_manual(uow, client.id, 12000, "USD", method="BANK_TRANSFER")
    await apply(world, attempt.id, Succeeded(attempt.provider_reference, 12000, "USD"))
    [payment] = [p for p in await world.payments(invoice.id) if p.kind is PaymentKind.AUTOPAY]
    assert (payment.state, payment.allocated_minor, payment.credited_minor) == (PaymentState.SUCCEEDED, 0, 12000)
    assert await world.balances(client.id) == (0, 12000)


async def test_a_second_success_of_one_payment_is_a_payment_of_its_own_and_credit(world: World) -> None:
    client, [lost, _good] = await world.client("pm_card_chargeDeclinedLostCard", "pm_card_visa")
    invoice = await world.invoice(client, due=DUE)
    await world.advance(RUN)
    [payment] = await world.payments(invoice.id)
    first, second = (await world.payment(payment.id)).attempts
    assert second.state is AttemptState.SUCCEEDED
    for _ in range(2):  # The provider may say so twice.
        await apply(world, first.id, Succeeded(first.provider_reference, 12000, "USD"))
    late = await world.scalar(
        "SELECT count(*) FROM payment WHERE firm_id = %s AND kind = 'LATE_LANDING' AND late_attempt_id = %s",
        world.firm_id,
        first.id,
    )
    assert late == 1
    assert await world.balances(client.id) == (0, 12000)
    assert lost.id


async def test_evidence_only_moves_forward(world: World) -> None:
    client, _ = await world.client("pm_card_visa")
    invoice = await world.invoice(client, due=DUE)
    await world.advance(RUN)
    attempt = await attempt_of(world, invoice.id)
    no = Declined(Failure(FailureCode.CARD_DECLINED, DeclineClass.HARD), attempt.provider_reference)
    for evidence in (no, Unknown("late timeout"), NotSent("late refusal")):
        applied = await apply(world, attempt.id, evidence)
        assert (applied.changed, applied.state) == (False, AttemptState.SUCCEEDED)
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID


async def test_the_providers_clock_can_run_late_without_a_second_charge(
    make_world: Callable[..., Awaitable[World]],
) -> None:
    world = await make_world()
    client, _ = await world.client("pm_sandbox_lateLanding")
    invoice = await world.invoice(client, due=DUE)
    await world.advance(RUN + timedelta(seconds=10))
    await support.eventually(lambda: world.movements == 1)
    await world.advance(RUN + timedelta(days=1))
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
    assert world.movements == 1
