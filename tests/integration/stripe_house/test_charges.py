"""Charges at Stripe: answers, declines, and webhooks that come before, instead of, and against the answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.type.decimal_pb2 import Decimal

from dunwell.v1 import billing_service_pb2, invoice_pb2, payment_failure_pb2, payment_pb2, payment_service_pb2
from tests.integration.stripe_house.house import (
    Firm,
    Refused,
    event_state,
    method_state,
    payment_state,
    reference_of,
    until,
    usd,
)
from tests.integration.stripe_house.payloads import MIDDLE, NEW, OLD, payment_intent
from tests.providers.stripe.loopback import Reply

pay = payment_service_pb2


async def intents_of(firm: Firm, payment: payment_pb2.Payment) -> list[dict[str, Any]]:
    """What localstripe's book has for our payment."""
    found = await firm.stripe._all("payment_intents")
    return [intent for intent in found if intent["metadata"].get("payment") == payment.id]


def failure(payment: payment_pb2.Payment) -> str:
    return payment_failure_pb2.PaymentFailureCode.Name(payment.failure.code).removeprefix("PAYMENT_FAILURE_CODE_")


@pytest.mark.parametrize("whose", ["firm", "owner"])
async def test_a_charge_succeeds_once_and_its_webhook_changes_nothing(whose: str, firms: dict[str, Firm]) -> None:
    firm = firms[whose]
    invoice_id, payment = await firm.paid(61)
    [intent] = await intents_of(firm, payment)
    assert (intent["amount"], intent["status"], intent["metadata"]["firm"]) == (6100, "succeeded", firm.id)
    for version in (OLD, MIDDLE, NEW):
        body = payment_intent(intent["id"], 6100, "succeeded", intent["metadata"], version=version)
        told = await firm.told("payment_intent.succeeded", body, version=version)
        assert event_state(told) == "APPLIED", told.last_error
    after = await firm.payment(payment.id)
    assert (after.state, after.update_time, len(after.attempts)) == (payment.state, payment.update_time, 1)
    assert await firm.invoice_state(invoice_id) == "PAID"


@pytest.mark.parametrize(
    ("token", "code", "state"),
    [
        ("pm_card_chargeDeclined", "CARD_DECLINED", "FAILED"),
        ("pm_card_chargeDeclinedInsufficientFunds", "INSUFFICIENT_FUNDS", "FAILED"),
        ("pm_card_chargeDeclinedExpiredCard", "EXPIRED_CARD", "FAILED"),
        ("pm_card_chargeDeclinedIncorrectCvc", "INCORRECT_CVC", "FAILED"),
        ("pm_card_chargeDeclinedProcessingError", "PROCESSING_ERROR", "FAILED"),
        ("pm_card_chargeDeclinedStolenCard", "", "FAILED"),
        ("pm_card_authenticationRequired", "AUTHENTICATION_REQUIRED", ""),
    ],
)
async def test_declines(firm: Firm, token: str, code: str, state: str) -> None:
    _, invoice_id = await firm.payer(token)
    payment = await firm.charge(invoice_id)
    assert payment_state(payment) in ({state} if state else {"FAILED", "REQUIRES_ACTION"})
    if code:
        assert failure(payment) == code
    assert not any(word in str(payment.failure.message).lower() for word in ("stolen", "lost", "fraud"))
    assert await firm.invoice_state(invoice_id) in ("FAILED", "SENT", "OVERDUE")


async def test_a_failure_told_by_webhook_only_after_the_answer_was_lost(firm: Firm) -> None:
    _, invoice_id = await firm.payer("pm_sandbox_acceptThenDrop", 44)
    payment = await firm.charge(invoice_id)
    assert payment_state(payment) == "PROCESSING"
    [intent] = await intents_of(firm, payment)
    error = {
        "type": "card_error",
        "code": "card_declined",
        "decline_code": "insufficient_funds",
        "message": "Your card has insufficient funds.",
    }
    firm.stripe.overlay[intent["id"]] = {
        "status": "requires_payment_method",
        "last_payment_error": error,
        "amount_received": 0,
    }
    body = payment_intent(intent["id"], 4400, "requires_payment_method", intent["metadata"], last_payment_error=error)
    told = await firm.told("payment_intent.payment_failed", body)
    assert event_state(told) == "APPLIED", told.last_error
    after = await firm.payment(payment.id)
    assert (payment_state(after), failure(after)) == ("FAILED", "INSUFFICIENT_FUNDS")
    # A late success is money all the same.
    firm.stripe.overlay.pop(intent["id"])
    won = await firm.told(
        "payment_intent.succeeded", payment_intent(intent["id"], 4400, "succeeded", intent["metadata"])
    )
    assert event_state(won) == "APPLIED", won.last_error
    assert await firm.invoice_state(invoice_id) == "PAID"


@pytest.mark.parametrize("code", ["amount_too_small", "amount_too_large"])
async def test_a_refusal_of_the_amount_leaves_the_card_for_other_invoices(firm: Firm, code: str) -> None:
    client_id, invoice_id = await firm.payer(dollars=28)
    original = firm.stripe._charge

    async def refuse(form: dict[str, str]) -> Reply:
        return Reply.of(
            {"error": {"type": "invalid_request_error", "code": code, "message": "Amount", "param": "amount"}}, 400
        )

    firm.stripe._charge = refuse  # type: ignore[method-assign]
    try:
        payment = await firm.charge(invoice_id)
    finally:
        firm.stripe._charge = original  # type: ignore[method-assign]
    assert (payment_state(payment), failure(payment)) == ("FAILED", "PROCESSING_ERROR")
    assert [method_state(each) for each in await firm.methods(client_id)] == ["ACTIVE"]
    assert payment_state(await firm.charge(await firm.invoice(client_id, 29))) == "SUCCEEDED"


async def test_an_amount_that_stripe_cannot_express_leaves_the_card_for_others(firm: Firm) -> None:
    """Stripe takes Bahraini dinars in hundredths: a thousandth is refused before anything is sent."""
    client = await firm.client(currency_code="BHD")
    await firm.method(client.id)
    states = []
    for amount in ("1.005", "1.010"):
        line = invoice_pb2.InvoiceLine(description="Work", unit_price=Decimal(value=amount))
        invoice = invoice_pb2.Invoice(client_id=client.id, currency_code="BHD", lines=[line], payment_terms_days=0)
        made = await firm.call(billing_service_pb2.CreateInvoiceRequest(invoice=invoice, finalize=True))
        states.append(payment_state(await firm.charge(made.invoice.id)))
    assert states == ["FAILED", "SUCCEEDED"]


@pytest.mark.parametrize("whose", ["firm", "owner"])
async def test_a_webhook_instead_of_the_answer(whose: str, firms: dict[str, Firm]) -> None:
    firm = firms[whose]
    _, invoice_id = await firm.payer("pm_sandbox_acceptThenDrop", 33)
    payment = await firm.charge(invoice_id)
    assert payment_state(payment) == "PROCESSING"
    [intent] = await intents_of(firm, payment)
    body = payment_intent(intent["id"], 3300, "succeeded", intent["metadata"])
    assert event_state(await firm.told("payment_intent.succeeded", body)) == "APPLIED"
    after = await firm.payment(payment.id)
    assert (payment_state(after), reference_of(after)) == ("SUCCEEDED", intent["id"])
    assert await firm.invoice_state(invoice_id) == "PAID"
    assert len(await intents_of(firm, payment)) == 1


async def test_webhooks_before_the_answer_give_one_success(firm: Firm) -> None:
    """The event overtakes the answer: it is told while the charge is still on its way, several times."""
    _, invoice_id = await firm.payer(dollars=27)
    seen: list[str] = []
    original = firm.stripe._charge

    async def slow(form: dict[str, str]) -> Any:
        reply = await original(form)
        intent = (await firm.stripe._all("payment_intents"))[-1]
        body = payment_intent(intent["id"], 2700, "succeeded", intent["metadata"])
        told = await asyncio.gather(*(firm.told("payment_intent.succeeded", body) for _ in range(3)))
        seen.extend(event_state(each) for each in told)
        return reply

    firm.stripe._charge = slow  # type: ignore[method-assign]
    try:
        payment = await firm.charge(invoice_id)
    finally:
        firm.stripe._charge = original  # type: ignore[method-assign]
    assert seen == ["APPLIED"] * 3
    payment = await firm.payment(payment.id)
    assert (payment_state(payment), len(payment.attempts)) == ("SUCCEEDED", 1)
    assert len(await intents_of(firm, payment)) == 1
    found = await firm.call(pay.ListPaymentsRequest(invoice_id=invoice_id))
    assert [each.id for each in found.payments] == [payment.id]


async def test_a_wrong_amount_in_a_webhook_is_not_believed(firm: Firm) -> None:
    _, invoice_id = await firm.payer("pm_sandbox_acceptThenDrop", 70)
    payment = await firm.charge(invoice_id)
    [intent] = await intents_of(firm, payment)
    told = await firm.told(
        "payment_intent.succeeded", payment_intent(intent["id"], 700, "succeeded", intent["metadata"])
    )
    after = await firm.payment(payment.id)
    assert payment_state(after) == "PROCESSING", told.result
    assert await firm.invoice_state(invoice_id) != "PAID"
    right = payment_intent(intent["id"], 7000, "succeeded", intent["metadata"])
    assert event_state(await firm.told("payment_intent.succeeded", right)) == "APPLIED"
    assert await firm.invoice_state(invoice_id) == "PAID"


async def test_an_autopay_run_charges_what_is_due(firm: Firm) -> None:
    client = await firm.client()
    await firm.method(client.id)
    await firm.call(pay.SetAutopayRequest(client_id=client.id, enabled=True))
    invoice_id = await firm.invoice(client.id, 15)
    await firm.run_charges(client.id)

    async def paid() -> bool:
        return await firm.invoice_state(invoice_id) == "PAID"

    await until(paid)
    found = await firm.call(pay.ListPaymentsRequest(invoice_id=invoice_id))
    assert [(each.kind, payment_state(each)) for each in found.payments] == [
        (payment_pb2.PAYMENT_KIND_AUTOPAY, "SUCCEEDED")
    ]


async def test_a_payment_of_nobody_is_kept_and_changes_nothing(owner: Firm) -> None:
    before = await owner.rows_of("payment")
    body = payment_intent("pi_from_their_shop", 1200, "succeeded", {"order_id": "6735"}, customer="cus_shop")
    told = await owner.told("payment_intent.succeeded", body)
    assert (event_state(told), "none of ours" in told.result) == ("IGNORED", True)
    assert await owner.rows_of("payment") == before


async def test_a_charge_that_waits_for_the_client(firm: Firm) -> None:
    client = await firm.client()
    method = await firm.method(client.id, "pm_card_visa")
    firm.stripe.behaviour[method.provider_method_id] = "pm_card_threeDSecure2Required"
    invoice_id = await firm.invoice(client.id, 12)
    request = pay.CreatePaymentRequest(client_id=client.id, amount=usd(1200), invoice_ids=[invoice_id], client_present=True)  # fmt: skip
    payment = (await firm.call(request)).payment
    assert (payment_state(payment), payment.action_url.startswith("https://")) == ("REQUIRES_ACTION", True)
    [intent] = await intents_of(firm, payment)
    body = payment_intent(intent["id"], 1200, "succeeded", intent["metadata"])
    assert event_state(await firm.told("payment_intent.succeeded", body)) == "APPLIED"
    assert payment_state(await firm.payment(payment.id)) == "SUCCEEDED"
    assert await firm.invoice_state(invoice_id) == "PAID"


async def test_a_charge_that_the_client_gives_up(firm: Firm) -> None:
    client_id, invoice_id = await firm.payer(dollars=12)
    [method] = await firm.methods(client_id)
    firm.stripe.behaviour[method.provider_method_id] = "pm_card_threeDSecure2Required"
    request = pay.CreatePaymentRequest(
        client_id=client_id, amount=usd(1200), invoice_ids=[invoice_id], client_present=True
    )
    payment = (await firm.call(request)).payment
    [intent] = await intents_of(firm, payment)
    firm.stripe.overlay[intent["id"]] = {"status": "canceled", "cancellation_reason": "abandoned", "next_action": None}
    body = payment_intent(intent["id"], 1200, "canceled", intent["metadata"], cancellation_reason="abandoned")
    assert event_state(await firm.told("payment_intent.canceled", body)) == "APPLIED"
    assert payment_state(await firm.payment(payment.id)) in ("CANCELLED", "FAILED")
    await firm.method(client_id)
    assert payment_state(await firm.charge(invoice_id)) == "SUCCEEDED"


async def test_a_charge_in_progress_holds_the_invoice(firm: Firm) -> None:
    _, invoice_id = await firm.payer("pm_sandbox_acceptThenDrop", 19)
    payment = await firm.charge(invoice_id)
    with pytest.raises(Refused, match="COLLECTION_IN_PROGRESS"):
        await firm.charge(invoice_id)
    [intent] = await intents_of(firm, payment)
    await firm.told("payment_intent.succeeded", payment_intent(intent["id"], 1900, "succeeded", intent["metadata"]))
    with pytest.raises(Refused, match=r"INVOICE|STATE|PAID"):
        await firm.charge(invoice_id)
