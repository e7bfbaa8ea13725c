"""Refunds that succeed, wait, and fail after all; disputes that are opened, won and lost; told by webhooks in any order."""

from __future__ import annotations

from uuid import uuid4

import pytest

from dunwell.v1 import billing_service_pb2, payment_pb2, payment_service_pb2, refund_pb2
from tests.integration.stripe_house.house import Firm, Refused, event_state, reference_of, usd
from tests.integration.stripe_house.payloads import MIDDLE, NEW, OLD, charge, dispute, refund

pay = payment_service_pb2


def state_of(found: refund_pb2.Refund) -> str:
    return refund_pb2.RefundState.Name(found.state).removeprefix("REFUND_STATE_")


async def refunded(firm: Firm, payment_id: str, minor: int = 0) -> refund_pb2.Refund:
    request = pay.RefundPaymentRequest(
        payment_id=payment_id, reason=refund_pb2.REFUND_REASON_REQUESTED_BY_CLIENT, amount=usd(minor) if minor else None
    )
    found: refund_pb2.Refund = (await firm.call(request)).refund
    return found


async def refunds_of(firm: Firm, payment_id: str) -> list[refund_pb2.Refund]:
    return list((await firm.call(pay.ListRefundsRequest(payment_id=payment_id))).refunds)


async def totals(firm: Firm, payment: payment_pb2.Payment) -> tuple[int, int, int]:
    """Refunded, on its way, and charged back, in cents."""
    found = await firm.payment(payment.id)
    return (
        found.amount_refunded.amount_minor,
        found.amount_refund_pending.amount_minor,
        found.amount_charged_back.amount_minor,
    )


@pytest.mark.parametrize("whose", ["firm", "owner"])
async def test_refunds_in_parts_and_their_webhooks(firms: dict[str, Firm], whose: str) -> None:
    firm = firms[whose]
    invoice_id, payment = await firm.paid(40)
    intent = reference_of(payment)
    first = await refunded(firm, payment.id, 1500)
    assert state_of(first) == "SUCCEEDED"
    body = refund(
        first.provider_reference, intent, 1500, "succeeded", metadata={"firm": firm.id, "key": first.idempotency_key}
    )
    for kind in ("refund.created", "refund.updated", "charge.refund.updated"):
        told = await firm.told(kind, body)
        assert event_state(told) == "APPLIED", told.last_error
    with pytest.raises(Refused, match=r"REFUND|AMOUNT"):
        await refunded(firm, payment.id, 2501)
    second = await refunded(firm, payment.id, 2500)
    assert await totals(firm, payment) == (4000, 0, 0)
    listed = {"object": "list", "has_more": False, "total_count": 2, "data": [
        refund(second.provider_reference, intent, 2500, "succeeded", payment_intent=None), body]}  # fmt: skip
    for version, more in ((OLD, {"refunds": listed}), (NEW, {})):
        told = await firm.told("charge.refunded", charge(intent, 4000, 4000, **more), version=version)
        assert event_state(told) == "APPLIED", told.last_error
    assert await totals(firm, payment) == (4000, 0, 0)
    assert len(await refunds_of(firm, payment.id)) == 2
    assert await firm.invoice_state(invoice_id) == "REFUNDED"


@pytest.mark.parametrize("version", [OLD, MIDDLE, NEW])
async def test_a_refund_made_in_stripes_dashboard_is_adopted(firm: Firm, version: str) -> None:
    _, payment = await firm.paid(30)
    intent = reference_of(payment)
    body = refund(f"re_{uuid4().hex}", intent, 1000, "succeeded")
    told = await firm.told("refund.created", body, version=version)
    assert event_state(told) == "APPLIED", told.last_error
    await firm.told(
        "charge.refunded",
        charge(intent, 3000, 1000, refunds={"object": "list", "has_more": False, "data": [body]}),
        version=version,
    )
    [found] = await refunds_of(firm, payment.id)
    assert (found.reason, found.provider_reference) == (refund_pb2.REFUND_REASON_MADE_AT_PROVIDER, body["id"])
    assert await totals(firm, payment) == (1000, 0, 0)


async def test_charge_refunded_alone_has_the_refunds_asked_for(firm: Firm) -> None:
    _, payment = await firm.paid(30)
    intent = reference_of(payment)
    await firm.stripe._forward("POST", "/v1/refunds", form={"payment_intent": intent, "amount": "700"})
    told = await firm.told("charge.refunded", charge(intent, 3000, 700), version=NEW)
    assert event_state(told) == "APPLIED", told.last_error
    assert await totals(firm, payment) == (700, 0, 0)


@pytest.mark.parametrize("kind", ["refund.created", "charge.refunded"])
async def test_a_refund_whose_answer_is_lost_is_made_once(firm: Firm, kind: str) -> None:
    _, payment = await firm.paid(30)
    intent = reference_of(payment)
    firm.stripe.drop_next_refund = True
    made = await refunded(firm, payment.id, 1200)
    assert state_of(made) == "PROCESSING"
    [theirs] = [each for each in await firm.stripe._all("refunds") if each["payment_intent"] == intent]
    body = theirs if kind == "refund.created" else charge(intent, 3000, 1200)
    told = await firm.told(kind, body)
    assert event_state(told) == "APPLIED", told.last_error
    [found] = await refunds_of(firm, payment.id)
    assert (found.id, state_of(found), found.provider_reference) == (made.id, "SUCCEEDED", theirs["id"])
    assert await totals(firm, payment) == (1200, 0, 0)
    assert sum(each["payment_intent"] == intent for each in await firm.stripe._all("refunds")) == 1


@pytest.mark.parametrize("failing", ["refund.failed", "refund.updated", "charge.refund.updated"])
async def test_a_refund_that_waits_succeeds_and_then_fails(firm: Firm, failing: str) -> None:
    invoice_id, payment = await firm.paid(25)
    intent = reference_of(payment)
    firm.stripe.next_refund = {"status": "pending"}
    made = await refunded(firm, payment.id)
    assert state_of(made) == "PENDING"
    assert await totals(firm, payment) == (0, 2500, 0)
    mine = {"firm": firm.id, "key": made.idempotency_key}
    firm.stripe.overlay[made.provider_reference] = {"status": "succeeded"}
    done = refund(made.provider_reference, intent, 2500, "succeeded", metadata=mine)
    assert event_state(await firm.told("refund.updated", done)) == "APPLIED"
    assert await totals(firm, payment) == (2500, 0, 0)
    assert await firm.invoice_state(invoice_id) == "REFUNDED"
    firm.stripe.overlay[made.provider_reference] = {"status": "failed", "failure_reason": "expired_or_canceled_card"}
    lost = refund(
        made.provider_reference, intent, 2500, "failed", metadata=mine, failure_reason="expired_or_canceled_card"
    )
    told = await firm.told(failing, lost)
    assert event_state(told) == "APPLIED", told.last_error
    [found] = await refunds_of(firm, payment.id)
    assert (state_of(found), found.failed_after_success, found.failure_code) == (
        "FAILED",
        True,
        "expired_or_canceled_card",
    )
    # The success told again, late, does not bring it back.
    assert event_state(await firm.told("refund.updated", done)) == "APPLIED"
    assert state_of((await refunds_of(firm, payment.id))[0]) == "FAILED"


@pytest.mark.parametrize("whose", ["firm", "owner"])
@pytest.mark.parametrize(("end", "state", "charged_back"), [("won", "PAID", 0), ("lost", "CHARGED_BACK", 2000)])
async def test_a_dispute_until_its_end(
    firms: dict[str, Firm], whose: str, end: str, state: str, charged_back: int
) -> None:
    firm = firms[whose]
    invoice_id, payment = await firm.paid(20)
    intent, name = reference_of(payment), f"du_{uuid4().hex}"
    opened = dispute(name, intent, 2000, "needs_response")
    for kind in ("charge.dispute.created", "charge.dispute.funds_withdrawn"):
        told = await firm.told(kind, opened)
        assert event_state(told) == "APPLIED", told.last_error
    assert await firm.invoice_state(invoice_id) == "DISPUTED"
    with pytest.raises(Refused, match="PAYMENT_DISPUTED"):
        await refunded(firm, payment.id, 100)
    assert event_state(await firm.told("charge.dispute.updated", {**opened, "status": "under_review"})) == "APPLIED"
    closed = dispute(name, intent, 2000, end)
    told = await firm.told("charge.dispute.closed", closed, version=MIDDLE)
    assert event_state(told) == "APPLIED", told.last_error
    assert await firm.invoice_state(invoice_id) == state
    assert (await totals(firm, payment))[2] == charged_back
    # What was said before it ended, once more: nothing goes back.
    assert event_state(await firm.told("charge.dispute.created", opened)) == "APPLIED"
    assert await firm.invoice_state(invoice_id) == state


async def test_a_dispute_of_the_old_api_is_read_from_stripe_too(firm: Firm) -> None:
    """The event names only the charge; what Stripe now says of the dispute counts."""
    invoice_id, payment = await firm.paid(20)
    intent, name = reference_of(payment), f"dp_{uuid4().hex}"
    firm.stripe.disputes[name] = dispute(name, intent, 2000, "needs_response")
    told = await firm.told("charge.dispute.created", firm.stripe.disputes[name], version=OLD)
    assert event_state(told) == "APPLIED", told.last_error
    assert await firm.invoice_state(invoice_id) == "DISPUTED"
    firm.stripe.disputes[name] = dispute(name, intent, 2000, "won")
    await firm.told("charge.dispute.funds_reinstated", firm.stripe.disputes[name])
    assert await firm.invoice_state(invoice_id) == "PAID"


async def test_an_inquiry_moves_nothing_and_may_be_refunded(firm: Firm) -> None:
    invoice_id, payment = await firm.paid(20)
    intent, name = reference_of(payment), f"du_{uuid4().hex}"
    told = await firm.told("charge.dispute.created", dispute(name, intent, 2000, "warning_needs_response"))
    assert event_state(told) == "APPLIED", told.last_error
    assert await totals(firm, payment) == (0, 0, 0)
    assert state_of(await refunded(firm, payment.id)) == "SUCCEEDED"
    told = await firm.told("charge.dispute.closed", dispute(name, intent, 2000, "warning_closed"))
    assert event_state(told) == "APPLIED", told.last_error
    assert await firm.invoice_state(invoice_id) == "REFUNDED"


async def test_a_dispute_told_in_the_wrong_order(firm: Firm) -> None:
    invoice_id, payment = await firm.paid(20)
    intent, name = reference_of(payment), f"du_{uuid4().hex}"
    assert event_state(await firm.told("charge.dispute.closed", dispute(name, intent, 2000, "lost"))) == "APPLIED"
    assert await firm.invoice_state(invoice_id) == "CHARGED_BACK"
    for kind in ("charge.dispute.created", "charge.dispute.updated", "charge.dispute.funds_withdrawn"):
        assert event_state(await firm.told(kind, dispute(name, intent, 2000, "needs_response"))) == "APPLIED"
    assert await firm.invoice_state(invoice_id) == "CHARGED_BACK"
    request = billing_service_pb2.GetInvoiceRequest(invoice_id=invoice_id)
    assert (await firm.call(request)).invoice.amount_charged_back.amount_minor == 2000
