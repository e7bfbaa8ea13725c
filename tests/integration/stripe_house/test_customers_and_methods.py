"""Customers, saved methods and set-up intents at Stripe, and what its webhooks tell of them."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import httpx
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from dunwell.v1 import admin_service_pb2, billing_service_pb2, checkout_pb2, client_pb2, firm_pb2, payment_service_pb2
from tests.integration.stripe_house.conftest import new_firm
from tests.integration.stripe_house.house import (
    Firm,
    House,
    Refused,
    event_state,
    method_state,
    payment_state,
    until,
)
from tests.integration.stripe_house.payloads import MIDDLE, NEW, OLD, card, payment_intent
from tests.providers.stripe.loopback import Drop

pay = payment_service_pb2
billing = billing_service_pb2


async def ensure(firm: Firm, client_id: str, existing: str = "") -> str:
    request = pay.EnsureProviderCustomerRequest(client_id=client_id, existing_reference=existing)
    reference: str = (await firm.call(request)).provider_customer.provider_reference
    return reference


async def at_stripe(firm: Firm, method: str, path: str, **form: str) -> dict[str, object]:
    """A request past the house, as Stripe's dashboard or a browser makes it."""
    headers = {"authorization": f"Bearer {firm.stripe.secret}"}
    async with httpx.AsyncClient(base_url=firm.stripe.upstream, trust_env=False, headers=headers) as http:
        answer = await http.request(method, path, data=form or None)
        assert answer.is_success, answer.text
        found: dict[str, object] = answer.json() if answer.content else {}
        return found


async def confirm(firm: Firm, setup: checkout_pb2.SetupIntent) -> dict[str, object]:
    """What the client's browser does with a set-up intent, and how it then looks."""
    path = f"/v1/setup_intents/{setup.provider_reference}"
    before = await at_stripe(firm, "GET", path)
    done = await at_stripe(firm, "POST", f"{path}/confirm", payment_method="pm_card_visa")
    customer = str(before["customer"])
    await at_stripe(firm, "POST", f"/v1/payment_methods/{done['payment_method']}/attach", customer=customer)
    return {**done, "metadata": before["metadata"], "customer": customer}


@pytest.mark.parametrize("whose", ["firm", "owner"])
async def test_a_customer_is_made_once_and_kept_up_to_date(whose: str, firms: dict[str, Firm]) -> None:
    firm = firms[whose]
    client = await firm.client(name="Grace Hopper", email="grace@example.com")
    made = firm.stripe.made("/v1/customers")
    first = await ensure(firm, client.id)
    assert await ensure(firm, client.id) == first
    assert firm.stripe.made("/v1/customers") == made + 1
    theirs = await at_stripe(firm, "GET", f"/v1/customers/{first}")
    assert (theirs["name"], theirs["email"]) == ("Grace Hopper", "grace@example.com")
    read = (await firm.call(pay.GetProviderCustomerRequest(client_id=client.id))).provider_customer
    assert (read.provider_reference, read.deleted, read.adopted) == (first, False, False)


async def test_a_customer_whose_making_was_not_answered_is_found_under_another_address(firm: Firm) -> None:
    """Stripe made it, the answer was lost, the client's address was mended meanwhile: the key stands for the customer that was made."""
    client = await firm.client(email="wrong@example.com")

    async def lost(path: str, _: dict[str, object]) -> None:
        if path == "/v1/customers":
            raise Drop

    firm.stripe.before_answer = lost
    with pytest.raises(Refused, match="PROVIDER_UNAVAILABLE"):
        await ensure(firm, client.id)
    firm.stripe.before_answer = None
    mended = client_pb2.Client(id=client.id, email="right@example.com")
    await firm.call(billing.UpdateClientRequest(client=mended, update_mask=FieldMask(paths=["email"])))
    reference = await ensure(firm, client.id)
    named = [each for each in await firm.stripe._all("customers") if each["metadata"].get("client") == client.id]
    assert [(each["id"], each["email"]) for each in named] == [(reference, "right@example.com")]


async def test_several_ask_for_the_same_customer_at_once(firm: Firm) -> None:
    client = await firm.client()
    made = firm.stripe.made("/v1/customers")
    found = await asyncio.gather(*(ensure(firm, client.id) for _ in range(5)))
    assert len(set(found)) == 1
    keys = {seen.headers["idempotency-key"] for seen in firm.stripe.posts if seen.path == "/v1/customers"}
    assert len(keys) <= made + 1


async def test_a_customer_with_its_methods_is_adopted(firm: Firm) -> None:
    existing = str((await at_stripe(firm, "POST", "/v1/customers", name="Before", email="before@example.com"))["id"])
    method = str((await at_stripe(firm, "POST", "/v1/payment_methods/pm_card_visa/attach", customer=existing))["id"])
    client = await firm.client()
    made = firm.stripe.made("/v1/customers")
    assert await ensure(firm, client.id, existing) == existing
    assert firm.stripe.made("/v1/customers") == made
    assert [each.provider_method_id for each in await firm.methods(client.id)] == [method]
    other = await firm.client()
    with pytest.raises(Refused, match="ALREADY_EXISTS"):
        await ensure(firm, other.id, existing)
    with pytest.raises(Refused, match="RESOURCE_NOT_FOUND"):
        await ensure(firm, other.id, "cus_nobody")


async def test_a_customer_of_another_firm_is_not_adopted(firm: Firm, neighbour: Firm) -> None:
    theirs = await ensure(firm, (await firm.client()).id)
    with pytest.raises(Refused, match="RESOURCE_NOT_FOUND"):
        await ensure(neighbour, (await neighbour.client()).id, theirs)


@pytest.mark.parametrize(("whose", "version"), [("firm", NEW), ("owner", MIDDLE), ("neighbour", OLD)])
async def test_a_completed_set_up_attaches_the_method_and_switches_autopay_on(
    whose: str, version: str, firms: dict[str, Firm]
) -> None:
    firm = firms[whose]
    client = await firm.client()
    wish = pay.CreateSetupIntentRequest(client_id=client.id, make_default=True, enable_autopay=True)
    setup = (await firm.call(wish)).setup_intent
    assert setup.client_secret
    assert setup.publishable_key.startswith("pk_test_of_the_firm" if whose == "owner" else "pk_test_of_the_inst")
    body = await confirm(firm, setup)
    told = await firm.told("setup_intent.succeeded", body, version=version)
    assert event_state(told) == "APPLIED", (told.result, told.last_error)
    [method] = await firm.methods(client.id)
    assert (method.provider_method_id, method.is_default, method_state(method)) == (
        body["payment_method"],
        True,
        "ACTIVE",
    )
    assert method.card.last4 == "4242"
    fresh = (await firm.call(billing.GetClientRequest(client_id=client.id))).client
    assert fresh.autopay.enabled
    again = await firm.told("setup_intent.succeeded", body, version=version)
    assert event_state(again) == "APPLIED"
    assert len(await firm.methods(client.id)) == 1


@pytest.mark.parametrize("whose", ["firm", "owner"])
@pytest.mark.parametrize("known", [True, False])
async def test_a_set_ups_webhook_counts_whatever_stripe_answers_about_it(
    firms: dict[str, Firm], whose: str, known: bool
) -> None:
    """Asked, Stripe shows it as it was before, or knows it no longer; and the event carries no metadata of ours."""
    firm = firms[whose]
    client = await firm.client()
    wish = pay.CreateSetupIntentRequest(client_id=client.id, make_default=True, enable_autopay=True)
    setup = (await firm.call(wish)).setup_intent
    body = await at_stripe(firm, "GET", f"/v1/setup_intents/{setup.provider_reference}")
    attach = "/v1/payment_methods/pm_card_visa/attach"
    method = str((await at_stripe(firm, "POST", attach, customer=str(body["customer"])))["id"])
    if not known:
        firm.stripe.forgotten.add(setup.provider_reference)
    told = await firm.told(
        "setup_intent.succeeded", {**body, "status": "succeeded", "payment_method": method, "metadata": {}}
    )
    assert event_state(told) == "APPLIED", told.last_error
    [saved] = await firm.methods(client.id)
    assert (saved.provider_method_id, saved.is_default) == (method, True)
    assert saved.card.last4 == ("4242" if known else "")
    fresh = (await firm.call(billing.GetClientRequest(client_id=client.id))).client
    assert fresh.autopay.enabled


async def test_a_set_up_that_fails_and_then_succeeds(firm: Firm) -> None:
    client = await firm.client()
    setup = (await firm.call(pay.CreateSetupIntentRequest(client_id=client.id))).setup_intent
    theirs = await at_stripe(firm, "GET", f"/v1/setup_intents/{setup.provider_reference}")
    error = {
        "type": "card_error",
        "code": "card_declined",
        "decline_code": "do_not_honor",
        "message": "Your card was declined.",
    }
    failed = {**theirs, "status": "requires_payment_method", "last_setup_error": error}
    assert event_state(await firm.told("setup_intent.setup_failed", failed)) == "APPLIED"
    assert await firm.methods(client.id) == []
    done = await confirm(firm, setup)
    assert event_state(await firm.told("setup_intent.succeeded", done)) == "APPLIED"
    assert event_state(await firm.told("setup_intent.setup_failed", failed)) == "APPLIED"
    assert len(await firm.methods(client.id)) == 1


@pytest.mark.parametrize("whose", ["firm", "owner"])
async def test_methods_attached_updated_and_detached_at_stripe(whose: str, firms: dict[str, Firm]) -> None:
    firm = firms[whose]
    client = await firm.client()
    customer = await ensure(firm, client.id)
    name = str((await at_stripe(firm, "POST", "/v1/payment_methods/pm_card_visa/attach", customer=customer))["id"])
    attached = await firm.told("payment_method.attached", card(name, customer))
    assert event_state(attached) == "APPLIED", attached.last_error
    [method] = await firm.methods(client.id)
    assert (method.provider_method_id, method.card.last4, method.card.brand) == (name, "4444", "mastercard")
    firm.stripe.overlay[name] = {"card": card(name, customer, exp_year=2036, last4="5556")["card"]}
    before = {"card": {"exp_year": 2031, "last4": "4444"}}
    renewed = await firm.told(
        "payment_method.automatically_updated", card(name, customer, exp_year=2036, last4="5556"), before=before
    )
    assert event_state(renewed) == "APPLIED", renewed.last_error
    [method] = await firm.methods(client.id)
    assert (method.card.exp_year, method.card.last4) == (2036, "5556")
    gone = await firm.told("payment_method.detached", card(name, None), before={"customer": customer})
    assert event_state(gone) == "APPLIED", gone.last_error
    [method] = await firm.methods(client.id)
    assert method_state(method) == "DETACHED"
    late = await firm.told("payment_method.attached", card(name, customer))
    assert event_state(late) in ("APPLIED", "IGNORED")
    assert method_state((await firm.methods(client.id))[0]) == "DETACHED"


async def test_a_detachment_told_without_what_changed_is_heard(firm: Firm) -> None:
    client = await firm.client()
    method = await firm.method(client.id)
    # Neither the customer nor the previous attributes: only the id says whose it is.
    told = await firm.told("payment_method.detached", card(method.provider_method_id, None), version=OLD)
    assert event_state(told) == "APPLIED", told.last_error
    assert method_state((await firm.methods(client.id))[0]) == "DETACHED"


@pytest.mark.parametrize("whose", ["firm", "owner"])
async def test_a_customer_updated_and_deleted_at_stripe(whose: str, firms: dict[str, Firm]) -> None:
    firm = firms[whose]
    client = await firm.client()
    method = await firm.method(client.id)
    customer = await ensure(firm, client.id)
    body = {"id": customer, "object": "customer", "created": 1_700_000_000, "email": "new@example.com", "livemode": False, "metadata": {},
            "name": "Renamed", "invoice_settings": {"default_payment_method": None}, "default_source": None}  # fmt: skip
    assert event_state(await firm.told("customer.updated", body, before={"name": "Ada Byron"})) == "APPLIED"
    assert (await firm.call(billing.GetClientRequest(client_id=client.id))).client.name == "Ada Byron"
    told = await firm.told("customer.deleted", body)
    assert event_state(told) == "APPLIED", told.last_error
    assert method_state((await firm.methods(client.id))[0]) != "ACTIVE", method.id
    await at_stripe(firm, "DELETE", f"/v1/customers/{customer}")
    assert await ensure(firm, client.id) != customer


async def test_a_card_that_had_expired_is_renewed_and_charged_at_once(house: House) -> None:
    """Autopay fails with an expired card; the network's updater renews it; by the firm's policy the retry does not wait."""
    firm = await new_firm(house, "Renewals")
    policy = firm_pb2.RetryPolicy(wait_days=[3], retry_on_new_method=True)
    change = admin_service_pb2.UpdateFirmRequest(
        firm=firm_pb2.Firm(id=firm.id, retry_policy=policy), update_mask=FieldMask(paths=["retry_policy"])
    )
    await firm.call(change)
    client = await firm.client()
    method = await firm.method(client.id, "pm_card_chargeDeclinedExpiredCard")
    await firm.call(pay.SetAutopayRequest(client_id=client.id, enabled=True))
    invoice_id = await firm.invoice(client.id, 15)

    async def tried() -> bool:
        found = await firm.call(pay.ListPaymentsRequest(invoice_id=invoice_id))
        return [payment_state(each) for each in found.payments] == ["FAILED"]

    await firm.run_charges(client.id)
    await until(tried)
    assert method_state((await firm.methods(client.id))[0]) == "NEEDS_ACTION"
    name, customer = method.provider_method_id, await ensure(firm, client.id)
    firm.stripe.behaviour[name] = "pm_card_visa"
    renewed = card(name, customer, exp_year=2038)
    firm.stripe.overlay[name] = {"card": renewed["card"]}
    told = await firm.told("payment_method.automatically_updated", renewed, before={"card": {"exp_year": 2020}})
    assert event_state(told) == "APPLIED", told.last_error
    assert method_state((await firm.methods(client.id))[0]) == "ACTIVE"

    async def paid() -> bool:
        return await firm.invoice_state(invoice_id) == "PAID"

    await until(paid)


async def test_an_attachment_that_is_refused_leaves_nothing(firm: Firm) -> None:
    client = await firm.client()
    with pytest.raises(Refused, match="PAYMENT_METHOD_UNUSABLE"):
        await firm.method(client.id, "pm_card_visa_chargeDeclinedNoSuch")
    with pytest.raises(Refused, match="CARD_NUMBER_REFUSED"):
        await firm.method(client.id, "4242424242424242")
    assert await firm.methods(client.id) == []


async def test_a_set_up_made_elsewhere_is_ignored(firm: Firm) -> None:
    body = {"id": f"seti_{uuid4().hex}", "object": "setup_intent", "created": 1_767_225_600, "customer": "cus_elsewhere", "livemode": False,
            "metadata": {"firm": firm.id}, "payment_method": "pm_elsewhere", "status": "succeeded", "usage": "off_session"}  # fmt: skip
    told = await firm.told("setup_intent.succeeded", body)
    assert (event_state(told), told.last_error) == ("IGNORED", "")


@pytest.mark.parametrize(
    "decline",
    [
        {"code": "card_declined", "decline_code": "new_account_information_available"},
        {"code": "incorrect_cvc", "decline_code": None},
    ],
)
async def test_a_card_that_waits_for_its_client_is_usable_once_it_is_another_card(
    firm: Firm, decline: dict[str, str | None]
) -> None:
    """Its bank said that the account has a new card, and the network's updater brings it. What stays the same card stays blocked."""
    client_id, invoice_id = await firm.payer("pm_sandbox_acceptThenDrop", 44)
    [attempt] = (await firm.charge(invoice_id)).attempts
    written = {"firm": firm.id, "key": attempt.idempotency_key}
    error = {"type": "card_error", "message": "Your card was declined.", **decline}
    refused = payment_intent(f"pi_{uuid4().hex}", 4400, "requires_payment_method", written, last_payment_error=error)
    assert event_state(await firm.told("payment_intent.payment_failed", refused)) == "APPLIED"
    [method] = await firm.methods(client_id)
    assert method_state(method) == "NEEDS_ACTION"
    same = {
        "brand": "visa",
        "last4": method.card.last4,
        "exp_month": method.card.exp_month,
        "exp_year": method.card.exp_year,
    }
    for changed, state in (({"country": "CA"}, "NEEDS_ACTION"), ({"last4": "1881"}, "ACTIVE")):
        customer = await ensure(firm, client_id)
        renewed = card(method.provider_method_id, customer, **{**same, "fingerprint": None, **changed})
        firm.stripe.overlay[method.provider_method_id] = renewed
        told = await firm.told("payment_method.automatically_updated", renewed)
        assert event_state(told) == "APPLIED", told.last_error
        [method] = await firm.methods(client_id)
        assert method_state(method) == state
    firm.stripe.behaviour.pop(method.provider_method_id)
    assert payment_state(await firm.charge(invoice_id)) == "SUCCEEDED"
