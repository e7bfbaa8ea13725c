"""What waits for a second person: refunds and hand-resolved outcomes above the firm's limits, listed and decided in one way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from dunwell_server.billing.model import InvoiceState
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.payments.refunds import Destination, RefundState
from dunwell_server.payments.service import resolution
from dunwell_server.payments.service.approvals import Approvals
from dunwell_server.payments.service.resolution import Resolution
from dunwell_server.platform.approvals import ApprovalKind, ApprovalState, PendingApproval
from tests.integration.payments.refunding import Refunds, refused
from tests.integration.payments.world import START, World

DESK = Approvals()


@pytest.fixture
async def world(make_world: Callable[..., Awaitable[World]]) -> World:
    """A firm in which one person alone refunds up to 50 dollars, and resolves up to 50."""
    return await make_world(refund_approval_limits={"USD": 5000}, approval_limits={"USD": 5000})


@pytest.fixture
def refunds(world: World) -> Refunds:
    return Refunds(world)


async def listed(world: World, *kinds: ApprovalKind) -> list[PendingApproval]:
    async with world.db.transaction(world.context, write=False) as uow:
        return await DESK.list_pending(uow, kinds=kinds, after=None, limit=10)


async def decide(
    world: World, approval_id: UUID, person: str | None, *, approve: bool = True, note: str = ""
) -> PendingApproval:
    async with world.db.transaction(world.call(person)) as uow:
        return await DESK.decide(uow, approval_id, approve=approve, note=note)


async def test_a_large_refund_waits_for_a_second_person(world: World, refunds: Refunds) -> None:
    _, invoice, paid = await refunds.paid()
    assert (await refunds.ask(paid.payment.id, 5000)).refund.state is RefundState.SUCCEEDED, "the limit itself is free"
    error = await refused(refunds.ask(paid.payment.id, 5001))
    assert error.reason is Reason.PERMISSION_DENIED
    view = await refunds.ask(paid.payment.id, 6000, context=world.call("ada"), reopen_invoice=True)
    assert (view.refund.state, view.refund.actor) == (RefundState.AWAITING_APPROVAL, "ada")
    assert (await world.payment(paid.payment.id)).payment.refund_pending_minor == 6000
    assert (await refused(refunds.ask(paid.payment.id, 1001))).reason is Reason.REFUND_EXCEEDS_PAYMENT
    [waiting] = await listed(world)
    assert (waiting.id, waiting.kind, waiting.subject_id) == (
        view.refund.approval_id,
        ApprovalKind.REFUND,
        view.refund.id,
    )
    assert (waiting.payment_id, waiting.amount_minor, waiting.proposer) == (paid.payment.id, 6000, "ada")
    assert "60.00" in waiting.summary
    assert "owed again" in waiting.summary
    assert (await refused(decide(world, waiting.id, None))).reason is Reason.PERMISSION_DENIED
    for name in ("ada", "ADA", " Ada ", "\N{FULLWIDTH LATIN SMALL LETTER A}da"):
        assert (await refused(decide(world, waiting.id, name))).reason is Reason.APPROVAL_REQUIRED
    assert (await refused(decide(world, uuid4(), "bob"))).reason is Reason.RESOURCE_NOT_FOUND
    decided = await decide(world, waiting.id, "bob", note="agreed")
    assert (decided.state, decided.decider, decided.note) == (ApprovalState.APPROVED, "bob", "agreed")
    assert await listed(world) == []
    assert len(refunds.sent_back()) == 1, "the decision sends nothing itself"
    await refunds.work()
    assert (await refunds.now(view.refund.id)).refund.state is RefundState.SUCCEEDED
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.SENT
    assert (await refused(decide(world, waiting.id, "carol"))).reason is Reason.STATE_CONFLICT
    assert [action for action, _ in await world.actions(view.refund.id)] == [
        "refund_requested", "refund_approved", "refund_succeeded",
    ]  # fmt: skip
    await refunds.agree()


async def test_a_rejected_refund_frees_the_payment(world: World, refunds: Refunds) -> None:
    _, _, paid = await refunds.paid()
    view = await refunds.ask(paid.payment.id, context=world.call("ada"))
    assert view.refund.approval_id is not None
    decided = await decide(world, view.refund.approval_id, "ada", approve=False, note="my mistake")
    assert (decided.state, decided.decider) == (ApprovalState.REJECTED, "ada")
    refund = (await refunds.now(view.refund.id)).refund
    assert (refund.state, refund.finish_time) == (RefundState.REJECTED, START)
    assert (await world.payment(paid.payment.id)).payment.refund_pending_minor == 0
    assert (await refunds.ask(paid.payment.id, 4000)).refund.state is RefundState.SUCCEEDED
    await refunds.work()
    assert (await refunds.now(view.refund.id)).refund.send_count == 0


async def test_an_approved_refund_to_credit_is_done_at_once(world: World, refunds: Refunds) -> None:
    client, _, paid = await refunds.paid()
    view = await refunds.ask(paid.payment.id, context=world.call("ada"), destination=Destination.CREDIT)
    assert view.refund.approval_id is not None
    await decide(world, view.refund.approval_id, "bob")
    assert (await refunds.now(view.refund.id)).refund.state is RefundState.SUCCEEDED
    assert await world.balances(client.id) == (0, 12000)


async def test_two_deciders_at_once_decide_once(world: World, refunds: Refunds) -> None:
    _, _, paid = await refunds.paid()
    view = await refunds.ask(paid.payment.id, context=world.call("ada"))
    approval = view.refund.approval_id
    assert approval is not None
    results = await asyncio.gather(
        decide(world, approval, "bob"), decide(world, approval, "carol", approve=False),
        decide(world, approval, "dan"), return_exceptions=True,
    )  # fmt: skip
    refusals = [each for each in results if isinstance(each, DunwellError)]
    assert [each.reason for each in refusals] == [Reason.STATE_CONFLICT] * 2
    await refunds.work()
    assert (await refunds.now(view.refund.id)).refund.state in (RefundState.SUCCEEDED, RefundState.REJECTED)


async def test_what_is_disputed_meanwhile_cannot_be_approved(world: World, refunds: Refunds) -> None:
    _, _, paid = await refunds.paid()
    view = await refunds.ask(paid.payment.id, context=world.call("ada"))
    assert view.refund.approval_id is not None
    async with world.db.transaction(world.call()) as uow:
        await uow.execute("UPDATE payment SET open_disputes = 1 WHERE firm_id = %s", (world.firm_id,))
    assert (await refused(decide(world, view.refund.approval_id, "bob"))).reason is Reason.STATE_CONFLICT
    assert (await decide(world, view.refund.approval_id, "bob", approve=False)).state is ApprovalState.REJECTED


async def unknown(world: World) -> tuple[UUID, UUID]:
    """A payment above the limit whose outcome is unknown, and its attempt."""
    client, _ = await world.client("pm_sandbox_serverErrorBeforeAccept", autopay=False)
    view = await world.charge((await world.invoice(client)).id)
    [attempt] = view.attempts
    assert attempt.state == "UNKNOWN"
    return view.payment.id, attempt.id


async def resolve(world: World, attempt_id: UUID, person: str, verdict: str = "NOT_SENT") -> Any:
    async with world.db.transaction(world.call(person)) as uow:
        return await resolution.resolve(uow, attempt_id, Resolution(verdict, None, "asked them"))


async def test_a_resolution_is_listed_and_approved_like_a_refund(world: World, refunds: Refunds) -> None:
    payment_id, attempt_id = await unknown(world)
    assert (await resolve(world, attempt_id, "ada", "DECLINED")).awaits_approval
    [waiting] = await listed(world, ApprovalKind.RESOLVE_ATTEMPT)
    assert await listed(world, ApprovalKind.REFUND) == []
    assert (waiting.subject_id, waiting.payment_id, waiting.amount_minor) == (attempt_id, payment_id, 12000)
    assert "DECLINED" in waiting.summary
    assert (await refused(decide(world, waiting.id, "ada"))).reason is Reason.APPROVAL_REQUIRED
    await decide(world, waiting.id, "bob")
    assert (await world.payment(payment_id)).payment.state == "FAILED"
    assert ("attempt_resolved", "CRITICAL") in await world.actions(payment_id)
    assert await listed(world) == []


async def test_a_rejected_resolution_may_be_proposed_anew(world: World, refunds: Refunds) -> None:
    payment_id, attempt_id = await unknown(world)
    await resolve(world, attempt_id, "ada", "DECLINED")
    [waiting] = await listed(world)
    await decide(world, waiting.id, "bob", approve=False)
    assert (await world.payment(payment_id)).payment.state == "PROCESSING"
    assert (await resolve(world, attempt_id, "bob", "DECLINED")).awaits_approval, "bob proposes; nobody has agreed yet"
    assert not (await resolve(world, attempt_id, "ada", "DECLINED")).awaits_approval
    assert (await world.payment(payment_id)).payment.state == "FAILED"


async def test_what_has_been_learned_meanwhile_waits_for_nobody(world: World, refunds: Refunds) -> None:
    payment_id, attempt_id = await unknown(world)
    await resolve(world, attempt_id, "ada", "DECLINED")
    [waiting] = await listed(world)
    await world.advance(START + timedelta(hours=30))
    assert (await world.payment(payment_id)).attempts[0].state != "UNKNOWN"
    assert await listed(world) == []
    assert (await refused(decide(world, waiting.id, "bob"))).reason is Reason.STATE_CONFLICT
