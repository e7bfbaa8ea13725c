"""Payments that a person has settled, as Stripe then tells of them; and money that came twice under one key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from dunwell.v1 import (
    admin_service_pb2,
    payment_pb2,
    payment_service_pb2,
    payment_service_pb2_grpc,
    refund_pb2,
    run_pb2,
)
from tests.integration.stripe_house.conftest import new_firm
from tests.integration.stripe_house.house import Firm, House, Refused, event_state, payment_state, reference_of, usd
from tests.integration.stripe_house.payloads import payment_intent

pay = payment_service_pb2


@pytest.fixture
async def alone(house: House) -> AsyncIterator[Firm]:
    """A firm of the test's own: what others have left open would be reconciled too."""
    made = await new_firm(house, "More Money")
    yield made
    answer = await made.call(admin_service_pb2.VerifyLedgerRequest())
    assert answer.ok, [check for check in answer.checks if not check.ok]


async def reconciled(firm: Firm, *, dry_run: bool = False) -> dict[str, int]:
    """ReconcilePayments to its end: the count of each outcome."""
    stub = payment_service_pb2_grpc.PaymentServiceStub(firm.house.channel)
    request = pay.ReconcilePaymentsRequest(provider="stripe", request_id=str(uuid4()), dry_run=dry_run)
    metadata = (("authorization", f"Bearer {firm.key}"),)
    told = [each async for each in stub.ReconcilePayments(request, metadata=metadata, timeout=30)]
    run = told[-1].progress.run
    assert run.state == run_pb2.RUN_STATE_SUCCEEDED
    return {run_pb2.RunOutcome.Name(each.outcome): each.count for each in run.outcome_counts}


async def kinds(firm: Firm, client_id: str) -> list[tuple[str, str, int]]:
    """The client's payments: kind, state, what became credit."""
    found = (await firm.call(pay.ListPaymentsRequest(client_id=client_id))).payments
    return sorted(
        (
            payment_pb2.PaymentKind.Name(each.kind).removeprefix("PAYMENT_KIND_"),
            payment_state(each),
            each.amount_credited.amount_minor,
        )
        for each in found
    )


async def settled_by_hand(firm: Firm, reference: str) -> tuple[payment_pb2.Payment, dict[str, Any]]:
    """A payment of 44 dollars whose answer was lost and that a person has settled, and Stripe's PaymentIntent of it."""
    _, invoice_id = await firm.payer("pm_sandbox_acceptThenDrop", 44)
    payment = await firm.charge(invoice_id)
    request = pay.ResolveAttemptRequest(
        attempt_id=payment.attempts[-1].id, resolution=payment_pb2.ATTEMPT_RESOLUTION_SUCCEEDED, provider_reference=reference, note="seen",
    )  # fmt: skip
    await firm.call(request, actor="ada")
    firm.stripe.forgotten.add(reference)
    all_intents = await firm.stripe._all("payment_intents")
    [intent] = [each for each in all_intents if each["metadata"].get("payment") == payment.id]
    return payment, intent


@pytest.mark.parametrize("first", ["webhook", "reconciliation"])
async def test_what_a_person_calls_a_payment_is_not_what_stripe_calls_it(alone: Firm, first: str) -> None:
    """The person has named the charge, as Stripe's dashboard does: the PaymentIntent is the same money, and it can be refunded."""
    payment, intent = await settled_by_hand(alone, f"ch_{uuid4().hex}")
    body = payment_intent(intent["id"], 4400, "succeeded", intent["metadata"])
    if first == "webhook":
        assert event_state(await alone.told("payment_intent.succeeded", body)) == "APPLIED"
    assert "RUN_OUTCOME_ADOPTED" not in await reconciled(alone, dry_run=True)
    assert "RUN_OUTCOME_ADOPTED" not in await reconciled(alone)
    assert event_state(await alone.told("payment_intent.succeeded", body)) == "APPLIED"
    assert "RUN_OUTCOME_ADOPTED" not in await reconciled(alone)
    assert await kinds(alone, payment.client_id) == [("CHARGE", "SUCCEEDED", 0)]
    request = pay.RefundPaymentRequest(
        payment_id=payment.id, amount=usd(100), reason=refund_pb2.REFUND_REASON_REQUESTED_BY_CLIENT
    )
    assert (await alone.call(request)).refund.state == refund_pb2.REFUND_STATE_SUCCEEDED


@pytest.mark.parametrize("by_hand", [False, True])
async def test_money_that_came_twice_under_one_key_is_recorded_twice(alone: Firm, by_hand: bool) -> None:
    """Whatever made Stripe take it again: the second PaymentIntent is real money, kept as the client's credit, once."""
    if by_hand:
        payment, first = await settled_by_hand(alone, f"ch_{uuid4().hex}")
        told = await alone.told(
            "payment_intent.succeeded", payment_intent(first["id"], 4400, "succeeded", first["metadata"])
        )
        assert event_state(told) == "APPLIED", told.last_error
    else:
        _, payment = await alone.paid(44)
    written = {"firm": alone.id, "payment": payment.id, "key": payment.attempts[-1].idempotency_key}
    other = payment_intent(f"pi_{uuid4().hex}", 4400, "succeeded", written)
    for _ in range(3):
        told = await alone.told("payment_intent.succeeded", other)
        assert event_state(told) == "APPLIED", told.last_error
    assert await kinds(alone, payment.client_id) == [("ADOPTED", "SUCCEEDED", 4400), ("CHARGE", "SUCCEEDED", 0)]


async def test_a_person_cannot_name_another_attempts_payment(alone: Firm) -> None:
    _, other = await alone.paid(20)
    _, invoice_id = await alone.payer("pm_sandbox_acceptThenDrop", 44)
    payment = await alone.charge(invoice_id)
    request = pay.ResolveAttemptRequest(
        attempt_id=payment.attempts[-1].id, resolution=payment_pb2.ATTEMPT_RESOLUTION_SUCCEEDED,
        provider_reference=reference_of(other), note="seen",
    )  # fmt: skip
    with pytest.raises(Refused, match="FIELD_INVALID: the provider's payment"):
        await alone.call(request, actor="ada")
    assert payment_state(await alone.payment(payment.id)) == "PROCESSING"
