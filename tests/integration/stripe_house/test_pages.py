"""Hosted pages for invoices, and Stripe's own subscriptions and invoices, as webhooks tell of them."""

from __future__ import annotations

import json
import time
from typing import Any
from uuid import uuid4

import pytest

from dunwell.v1 import billing_service_pb2, checkout_pb2, payment_pb2, payment_service_pb2
from tests.integration.stripe_house.house import Firm, Refused, event_state, events, payment_state, reference_of
from tests.integration.stripe_house.payloads import MIDDLE, NEW, OLD, payment_intent

pay = payment_service_pb2


async def page_for(firm: Firm, dollars: int = 45, **fields: Any) -> tuple[str, checkout_pb2.CheckoutSession]:
    """An invoice and the page that takes its money."""
    _, invoice_id = await firm.payer(dollars=dollars)
    request = pay.CreateCheckoutSessionRequest(
        purpose=checkout_pb2.CHECKOUT_PURPOSE_INVOICE,
        invoice_id=invoice_id,
        success_url="https://firm.example/thanks",
        **fields,
    )
    page = (await firm.call(request)).checkout_session
    assert page.url.startswith("https://checkout.stripe.com/c/pay/cs_test_")
    return invoice_id, page


async def state_of(firm: Firm, page: checkout_pb2.CheckoutSession) -> str:
    found = (await firm.call(pay.GetCheckoutSessionRequest(checkout_session_id=page.id))).checkout_session
    return checkout_pb2.CheckoutSessionState.Name(found.state).removeprefix("CHECKOUT_SESSION_STATE_")


def completed(firm: Firm, page: checkout_pb2.CheckoutSession, **fields: Any) -> dict[str, Any]:
    """The session once the client has paid: so it is at Stripe from now on, and so its event has it."""
    intent = f"pi_{uuid4().hex}"
    session = firm.stripe.sessions[page.provider_reference]
    session |= {"status": "complete", "payment_status": "paid", "payment_intent": intent, "url": None, **fields}
    return dict(session)


@pytest.mark.parametrize(("whose", "version"), [("firm", NEW), ("owner", OLD), ("neighbour", MIDDLE)])
async def test_a_completed_page_pays_the_invoice_once(firms: dict[str, Firm], whose: str, version: str) -> None:
    firm = firms[whose]
    invoice_id, page = await page_for(firm)
    with pytest.raises(Refused, match="COLLECTION_IN_PROGRESS"):
        await firm.charge(invoice_id)
    body = completed(firm, page)
    intent = payment_intent(body["payment_intent"], 4500, "succeeded", body["metadata"], version=version)
    for kind, subject in [
        ("checkout.session.completed", body),
        ("payment_intent.succeeded", intent),
        ("checkout.session.completed", body),
    ]:
        told = await firm.told(kind, subject, version=version)
        assert event_state(told) == "APPLIED", told.last_error
    assert await firm.invoice_state(invoice_id) == "PAID"
    assert await state_of(firm, page) == "COMPLETED"
    payment = await firm.payment(page.payment_id)
    assert (payment_state(payment), reference_of(payment)) == ("SUCCEEDED", body["payment_intent"])


@pytest.mark.parametrize("other", [{"amount_total": 4400}, {"currency": "eur"}])
@pytest.mark.parametrize("whose", ["firm", "owner"])
async def test_other_money_than_was_asked_for_is_shown_to_a_person_at_once(
    firms: dict[str, Firm], whose: str, other: dict[str, Any]
) -> None:
    """It is no success, and waiting changes nothing: the payment stays open, so that nothing else collects, until a person settles it."""
    firm = firms[whose]
    invoice_id, page = await page_for(firm)
    body = completed(firm, page, **other)
    for _ in range(2):
        assert event_state(await firm.told("checkout.session.completed", body)) == "APPLIED"
    payment = await firm.payment(page.payment_id)
    assert (payment_state(payment), payment.attempts[-1].needs_person) == ("REQUIRES_ACTION", True)
    request = pay.ListPaymentsRequest(invoice_id=invoice_id, needs_person=True)
    assert [each.id for each in (await firm.call(request)).payments] == [payment.id]
    with pytest.raises(Refused, match="COLLECTION_IN_PROGRESS"):
        await firm.charge(invoice_id)
    resolution = pay.ResolveAttemptRequest(
        attempt_id=payment.attempts[-1].id,
        resolution=payment_pb2.ATTEMPT_RESOLUTION_SUCCEEDED,
        provider_reference=body["payment_intent"],
        note="44 came, the client has sent the rest by hand",
    )
    await firm.call(resolution, actor="ada")
    assert await firm.invoice_state(invoice_id) == "PAID"


async def test_the_payments_webhook_comes_before_the_pages(firm: Firm) -> None:
    invoice_id, page = await page_for(firm)
    body = completed(firm, page)
    told = await firm.told(
        "payment_intent.succeeded", payment_intent(body["payment_intent"], 4500, "succeeded", body["metadata"])
    )
    assert event_state(told) == "APPLIED", told.last_error
    assert await firm.invoice_state(invoice_id) == "PAID"
    told = await firm.told("checkout.session.completed", body)
    assert event_state(told) == "APPLIED", told.last_error
    assert await state_of(firm, page) == "COMPLETED"


async def test_a_page_that_expires_releases_the_invoice(firm: Firm) -> None:
    invoice_id, page = await page_for(firm)
    session = firm.stripe.sessions[page.provider_reference]
    session |= {"status": "expired", "url": None}
    told = await firm.told("checkout.session.expired", session)
    assert event_state(told) == "APPLIED", told.last_error
    assert await state_of(firm, page) == "EXPIRED"
    assert payment_state(await firm.payment(page.payment_id)) == "CANCELLED"
    assert payment_state(await firm.charge(invoice_id)) == "SUCCEEDED"


async def test_a_page_whose_bank_debit_fails_later(firm: Firm) -> None:
    invoice_id, page = await page_for(firm)
    body = completed(firm, page, payment_status="unpaid")
    told = await firm.told("checkout.session.completed", body)
    assert event_state(told) == "APPLIED", told.last_error
    assert await firm.invoice_state(invoice_id) != "PAID"
    told = await firm.told("checkout.session.async_payment_failed", body)
    assert event_state(told) == "APPLIED", told.last_error
    assert payment_state(await firm.payment(page.payment_id)) in ("FAILED", "CANCELLED")


async def test_a_page_whose_bank_debit_succeeds_later(firm: Firm) -> None:
    invoice_id, page = await page_for(firm)
    body = completed(firm, page, payment_status="unpaid")
    await firm.told("checkout.session.completed", body)
    firm.stripe.sessions[page.provider_reference]["payment_status"] = "paid"
    told = await firm.told("checkout.session.async_payment_succeeded", {**body, "payment_status": "paid"})
    assert event_state(told) == "APPLIED", told.last_error
    assert await firm.invoice_state(invoice_id) == "PAID"


async def test_expiring_a_page_by_call(firm: Firm) -> None:
    invoice_id, page = await page_for(firm)
    await firm.call(pay.ExpireCheckoutSessionRequest(checkout_session_id=page.id))
    assert await state_of(firm, page) == "EXPIRED"
    assert (
        event_state(await firm.told("checkout.session.expired", firm.stripe.sessions[page.provider_reference]))
        == "APPLIED"
    )
    assert await firm.invoice_state(invoice_id) != "PAID"


async def saved_on_page(firm: Firm, page_id: str) -> dict[str, Any]:
    """The session of a page on which the client has saved a card, and nothing of the card in it but what is behind the set-up intent."""
    session = firm.stripe.sessions[page_id]
    made = json.loads(
        (await firm.stripe._forward("POST", "/v1/setup_intents", form={"customer": session["customer"]})).body
    )
    path = f"/v1/setup_intents/{made['id']}/confirm"
    done = json.loads((await firm.stripe._forward("POST", path, form={"payment_method": "pm_card_visa"})).body)
    await firm.stripe._forward(
        "POST", f"/v1/payment_methods/{done['payment_method']}/attach", form={"customer": session["customer"]}
    )
    session |= {"status": "complete", "payment_status": "no_payment_required", "setup_intent": made["id"], "url": None}
    return dict(session)


@pytest.mark.parametrize(("whose", "version"), [("firm", NEW), ("owner", OLD)])
async def test_a_set_up_page_saves_the_card_and_switches_autopay_on(
    firms: dict[str, Firm], whose: str, version: str
) -> None:
    firm = firms[whose]
    client = await firm.client()
    request = pay.CreateCheckoutSessionRequest(
        purpose=checkout_pb2.CHECKOUT_PURPOSE_SETUP,
        client_id=client.id,
        success_url="https://firm.example/thanks",
        enable_autopay=True,
    )
    page = (await firm.call(request)).checkout_session
    told = await firm.told(
        "checkout.session.completed", await saved_on_page(firm, page.provider_reference), version=version
    )
    assert event_state(told) == "APPLIED", told.last_error
    [method] = await firm.methods(client.id)
    assert (method.card.last4, method.is_default) == ("4242", True)
    fresh = (await firm.call(billing_service_pb2.GetClientRequest(client_id=client.id))).client
    assert fresh.autopay.enabled
    found = (await firm.call(pay.GetCheckoutSessionRequest(checkout_session_id=page.id))).checkout_session
    assert found.payment_method_id == method.id


async def test_a_link_to_renew_the_card(firm: Firm) -> None:
    client = await firm.client()
    old = await firm.method(client.id)
    request = pay.CreateHostedLinkRequest(purpose=checkout_pb2.HOSTED_LINK_PURPOSE_UPDATE_CARD, client_id=client.id)
    link = (await firm.call(request)).hosted_link
    assert link.url.startswith("https://checkout.stripe.com/")
    told = await firm.told("checkout.session.completed", await saved_on_page(firm, link.url.rpartition("/")[2]))
    assert event_state(told) == "APPLIED", told.last_error
    new = [each for each in await firm.methods(client.id) if each.id != old.id]
    assert [(each.is_default, each.card.last4) for each in new] == [(True, "4242")]


async def test_a_link_to_pay(firm: Firm) -> None:
    client = await firm.client()
    invoice_id = await firm.invoice(client.id, 45)
    request = pay.CreateHostedLinkRequest(purpose=checkout_pb2.HOSTED_LINK_PURPOSE_PAY, invoice_id=invoice_id)
    link = (await firm.call(request)).hosted_link
    session = firm.stripe.sessions[link.url.rpartition("/")[2]]
    session |= {"status": "complete", "payment_status": "paid", "payment_intent": f"pi_{uuid4().hex}", "url": None}
    assert event_state(await firm.told("checkout.session.completed", session)) == "APPLIED"
    assert await firm.invoice_state(invoice_id) == "PAID"


async def test_a_subscription_page_notes_the_subscription(firm: Firm) -> None:
    client = await firm.client()
    request = pay.CreateCheckoutSessionRequest(
        purpose=checkout_pb2.CHECKOUT_PURPOSE_SUBSCRIPTION,
        client_id=client.id,
        provider_price_id="price_monthly",
        success_url="https://firm.example/x",
    )
    page = (await firm.call(request)).checkout_session
    name, session = f"sub_{uuid4().hex}", firm.stripe.sessions[page.provider_reference]
    session |= {
        "status": "complete",
        "payment_status": "paid",
        "subscription": name,
        "url": None,
        "amount_total": 2000,
        "currency": "usd",
    }
    told = await firm.told("checkout.session.completed", session)
    assert event_state(told) == "APPLIED", told.last_error
    found = (await firm.call(pay.GetCheckoutSessionRequest(checkout_session_id=page.id))).checkout_session
    assert found.provider_subscription_id == name
    # Its invoices name nothing but the subscription.
    bill = {"id": f"in_{uuid4().hex}", "object": "invoice", "status": "open", "total": 2000, "amount_due": 2000, "amount_paid": 0,
            "currency": "usd", "created": int(time.time()), "customer": None, "metadata": {}, "subscription": name}  # fmt: skip
    assert event_state(await firm.told("invoice.finalized", bill, version=OLD)) == "APPLIED"


def subscription(reference: str, customer: str, status: str, version: str, **fields: Any) -> dict[str, Any]:
    now = int(time.time())
    period = {"current_period_start": now, "current_period_end": now + 2_592_000}
    item = {"id": "si_1", "object": "subscription_item", "price": {"id": "price_monthly", "object": "price"}, "quantity": 2,
            **(period if version == NEW else {})}  # fmt: skip
    return {
        "id": reference, "object": "subscription", "created": now, "customer": customer, "status": status, "livemode": False, "metadata": {},
        "items": {"object": "list", "data": [item], "has_more": False}, "cancel_at_period_end": False, "latest_invoice": "in_1",
        **({} if version == NEW else period), **fields,
    }  # fmt: skip


@pytest.mark.parametrize(("whose", "version"), [("firm", NEW), ("owner", OLD)])
async def test_stripes_own_subscriptions_and_invoices_are_mirrored(
    firms: dict[str, Firm], whose: str, version: str
) -> None:
    firm = firms[whose]
    client = await firm.client()
    request = pay.EnsureProviderCustomerRequest(client_id=client.id)
    customer = (await firm.call(request)).provider_customer.provider_reference
    name, bill = f"sub_{uuid4().hex}", f"in_{uuid4().hex}"
    invoice = {
        "id": bill, "object": "invoice", "amount_due": 2000, "amount_paid": 0, "amount_remaining": 2000, "attempt_count": 0, "currency": "usd",
        "created": int(time.time()), "customer": customer, "livemode": False, "metadata": {}, "number": "ABC-0001", "status": "open",
        "total": 2000, "hosted_invoice_url": "https://invoice.stripe.com/i/1", "status_transitions": {"finalized_at": int(time.time())},
        **({"parent": {"type": "subscription_details", "subscription_details": {"subscription": name, "metadata": {}}}}
           if version == NEW else {"subscription": name, "payment_intent": "pi_of_the_invoice"}),
    }  # fmt: skip
    for kind, subject in [
        ("customer.subscription.created", subscription(name, customer, "incomplete", version)),
        ("invoice.created", {**invoice, "status": "draft"}),
        ("invoice.finalized", invoice),
        ("invoice.payment_failed", {**invoice, "attempt_count": 1}),
        ("invoice.payment_succeeded", {**invoice, "status": "paid", "amount_paid": 2000, "amount_due": 0}),
        ("customer.subscription.updated", subscription(name, customer, "active", version)),
        ("invoice.paid", {**invoice, "status": "paid", "amount_paid": 2000, "amount_due": 0}),
    ]:
        told = await firm.told(kind, subject, version=version)
        assert event_state(told) == "APPLIED", (kind, told.last_error)
    rows = await firm.house.rows(
        firm.id, "SELECT kind, state FROM provider_mirror WHERE reference = ANY(%s) ORDER BY kind", [name, bill]
    )
    assert [(row["kind"], row["state"]) for row in rows] == [("INVOICE", "PAID"), ("SUBSCRIPTION", "ACTIVE")]
    ended = subscription(name, customer, "canceled", version, canceled_at=int(time.time()))
    assert event_state(await firm.told("customer.subscription.deleted", ended)) == "APPLIED"
    rows = await firm.house.rows(firm.id, "SELECT state FROM provider_mirror WHERE reference = %s", name)
    assert [row["state"] for row in rows] == ["CANCELLED"]


async def test_a_type_nobody_knows_is_kept_and_ignored(owner: Firm, firm: Firm) -> None:
    client = await firm.client()
    customer = (
        await firm.call(pay.EnsureProviderCustomerRequest(client_id=client.id))
    ).provider_customer.provider_reference
    for each, subject in [
        (owner, {"id": "x_1", "object": "brand_new"}),
        (firm, {"id": "x_2", "object": "brand_new", "customer": customer}),
    ]:
        told = await each.told("brand_new.thing_happened", subject)
        assert event_state(told) == "IGNORED"
        read = await each.call(events.GetProviderEventRequest(provider_event_id=told.id))
        assert (read.provider_event.type, b"brand_new" in read.provider_event.body) == (
            "brand_new.thing_happened",
            True,
        )
