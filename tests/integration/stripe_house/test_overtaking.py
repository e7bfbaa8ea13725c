"""Webhooks that overtake the answers to the calls that caused them, as Stripe's often do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from dunwell.v1 import billing_service_pb2, checkout_pb2, payment_service_pb2, refund_pb2
from tests.integration.stripe_house.house import Firm, event_state, payment_state, reference_of
from tests.integration.stripe_house.payloads import refund

pay = payment_service_pb2


@asynccontextmanager
async def overtaken(firm: Firm, path: str, kind: str, **changes: Any) -> AsyncIterator[list[str]]:
    """What is made at a path is told by webhook, and dealt with, before it is answered; yields the states of those events."""
    states: list[str] = []

    async def tell(where: str, made: dict[str, Any]) -> None:
        if where.startswith(path) and made.get("object") != "list":
            firm.stripe.before_answer = None
            states.append(event_state(await firm.told(kind, {**made, **changes})))

    firm.stripe.before_answer = tell
    try:
        yield states
    finally:
        firm.stripe.before_answer = None


@pytest.mark.parametrize("whose", ["firm", "owner"])
async def test_an_attachment(firms: dict[str, Firm], whose: str) -> None:
    firm = firms[whose]
    client = await firm.client()
    request = pay.AttachPaymentMethodRequest(
        client_id=client.id,
        provider_method_id="pm_card_visa",
        make_default=True,
        backup_priority=3,
        metadata={"from": "shop"},
    )
    async with overtaken(firm, "/v1/payment_methods/", "payment_method.attached") as states:
        method = (await firm.call(request)).payment_method
    assert states == ["APPLIED"]
    assert (method.is_default, method.backup_priority, dict(method.metadata)) == (True, 3, {"from": "shop"})
    assert [each.id for each in await firm.methods(client.id)] == [method.id]


@pytest.mark.parametrize("whose", ["firm", "owner"])
async def test_a_refund(firms: dict[str, Firm], whose: str) -> None:
    firm = firms[whose]
    _, payment = await firm.paid(30)
    request = pay.RefundPaymentRequest(payment_id=payment.id, reason=refund_pb2.REFUND_REASON_DUPLICATE)
    async with overtaken(firm, "/v1/refunds", "refund.created") as states:
        made = (await firm.call(request)).refund
    assert states == ["APPLIED"]
    assert made.state == refund_pb2.REFUND_STATE_SUCCEEDED
    listed = (await firm.call(pay.ListRefundsRequest(payment_id=payment.id))).refunds
    assert [(each.id, each.provider_reference) for each in listed] == [(made.id, made.provider_reference)]
    assert (await firm.payment(payment.id)).amount_refunded.amount_minor == 3000
    body = refund(made.provider_reference, reference_of(payment), 3000, "succeeded")
    assert event_state(await firm.told("refund.updated", body)) == "APPLIED"


@pytest.mark.parametrize("whose", ["firm", "owner"])
async def test_a_page(firms: dict[str, Firm], whose: str) -> None:
    """The page is completed before the call that made it has its answer: the money counts once."""
    firm = firms[whose]
    _, invoice_id = await firm.payer(dollars=45)
    request = pay.CreateCheckoutSessionRequest(
        purpose=checkout_pb2.CHECKOUT_PURPOSE_INVOICE, invoice_id=invoice_id, success_url="https://firm.example/thanks"
    )
    done = {"status": "complete", "payment_status": "paid", "payment_intent": f"pi_of_the_page_{whose}", "url": None}
    async with overtaken(firm, "/v1/checkout/sessions", "checkout.session.completed", **done) as states:
        page = (await firm.call(request)).checkout_session
    assert states == ["APPLIED"]
    assert page.state == checkout_pb2.CHECKOUT_SESSION_STATE_COMPLETED
    assert await firm.invoice_state(invoice_id) == "PAID"
    assert payment_state(await firm.payment(page.payment_id)) == "SUCCEEDED"


@pytest.mark.parametrize("whose", ["firm", "owner"])
async def test_a_set_up(firms: dict[str, Firm], whose: str) -> None:
    firm = firms[whose]
    client = await firm.client()
    request = pay.CreateSetupIntentRequest(client_id=client.id, make_default=True, enable_autopay=True)
    done = {"status": "succeeded", "payment_method": f"pm_of_the_set_up_{whose}"}
    async with overtaken(firm, "/v1/setup_intents", "setup_intent.succeeded", **done) as states:
        setup = (await firm.call(request)).setup_intent
    assert states == ["APPLIED"]
    assert setup.state == checkout_pb2.SETUP_INTENT_STATE_SUCCEEDED
    [method] = await firm.methods(client.id)
    assert (method.provider_method_id, method.is_default) == (done["payment_method"], True)
    assert (await firm.call(billing_service_pb2.GetClientRequest(client_id=client.id))).client.autopay.enabled


@pytest.mark.parametrize("whose", ["firm", "owner"])
async def test_a_customer(firms: dict[str, Firm], whose: str) -> None:
    """Nobody knows the customer yet but by what we wrote on it: the event changes nothing, and the call makes no second one."""
    firm = firms[whose]
    client = await firm.client()
    made = firm.stripe.made("/v1/customers")
    async with overtaken(firm, "/v1/customers", "customer.created") as states:
        answer = await firm.call(pay.EnsureProviderCustomerRequest(client_id=client.id))
    assert states[0] in ("APPLIED", "IGNORED")
    assert answer.provider_customer.provider_reference.startswith("cus_")
    assert firm.stripe.made("/v1/customers") == made + 1
