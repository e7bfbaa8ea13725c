"""Customers, set-up intents, pages, links and one-time payments through a real channel: success, repeats, reasons, other firms, roles."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from dunwell.v1 import checkout_pb2, money_pb2, payment_pb2
from dunwell.v1 import payment_service_pb2 as pb
from dunwell_server.billing.service.clients import get_client
from dunwell_server.kernel.ids import Prefix, decode, encode, uuid7
from dunwell_server.platform.context import Role
from dunwell_server.platform.features import Feature
from tests import support
from tests.integration.payments.pages_world import BACK, Pages
from tests.integration.payments.world import START
from tests.rpc.floor.fakes import Failure, failure
from tests.rpc.payments.conftest import Served

STATE = checkout_pb2.CheckoutSessionState.Name
SETUP_STATE = checkout_pb2.SetupIntentState.Name
PAY, UPDATE = checkout_pb2.HOSTED_LINK_PURPOSE_PAY, checkout_pb2.HOSTED_LINK_PURPOSE_UPDATE_CARD
INVOICE, SETUP, SUBSCRIPTION = (
    checkout_pb2.CHECKOUT_PURPOSE_INVOICE, checkout_pb2.CHECKOUT_PURPOSE_SETUP, checkout_pb2.CHECKOUT_PURPOSE_SUBSCRIPTION,
)  # fmt: skip


@pytest.fixture
def pages(served: Served) -> Pages:
    return Pages(served.world)


def usd(minor: int) -> money_pb2.Money:
    return money_pb2.Money(currency_code="USD", amount_minor=minor)


def named(request: Any) -> Any:
    """The request with a request id of its own, to be sent twice."""
    request.request_id = str(uuid4())
    return request


async def refused(served: Served, rpc: str, request: Any, role: Role = Role.FIRM_ADMIN, **extra: Any) -> Failure:
    return await failure(served.call(rpc, request, role, **extra))


async def client_of(served: Served, *tokens: str) -> tuple[str, UUID]:
    client, _ = await served.world.client(*tokens, autopay=False)
    return encode(Prefix.CLIENT, client.id), client.id


async def owed(served: Served, *tokens: str) -> tuple[str, str]:
    client, _ = await served.world.client(*tokens, autopay=False)
    invoice = await served.world.invoice(client)
    return encode(Prefix.CLIENT, client.id), encode(Prefix.INVOICE, invoice.id)


async def reference_of(pages: Pages, session: checkout_pb2.CheckoutSession) -> Any:
    return await pages.session(decode(Prefix.CHECKOUT_SESSION, session.id, "id"))


# Customers -----------------------------------------------------------------------------------------------------------


async def test_a_customer_is_made_once_and_read_live(served: Served, pages: Pages) -> None:
    client, _ = await client_of(served)
    read = pb.GetProviderCustomerRequest(client_id=client)
    assert (await refused(served, "GetProviderCustomer", read)).reason == "RESOURCE_NOT_FOUND"
    request = named(pb.EnsureProviderCustomerRequest(client_id=client))
    made = (await served.call("EnsureProviderCustomer", request)).provider_customer
    assert (made.provider, made.name, made.adopted, made.deleted) == ("sandbox", "Harbour Bakery", False, False)
    assert made.provider_reference.startswith("cus_")
    assert (await served.call("EnsureProviderCustomer", request)).provider_customer == made
    other = await served.call("EnsureProviderCustomer", pb.EnsureProviderCustomerRequest(client_id=client))
    assert other.provider_customer.provider_reference == made.provider_reference
    pages.post(f"/v1/customers/{made.provider_reference}", name="Renamed There")
    live = (await served.call("GetProviderCustomer", read, Role.READER)).provider_customer
    assert live.name == "Renamed There"
    again = (
        await served.call("EnsureProviderCustomer", pb.EnsureProviderCustomerRequest(client_id=client))
    ).provider_customer
    assert again.name == "Harbour Bakery"


async def test_an_existing_customer_is_adopted_with_its_methods(served: Served, pages: Pages) -> None:
    client, _ = await client_of(served)
    theirs = pages.post("/v1/customers", name="Old Name", email="old@example.com")["id"]
    kept = [
        pages.post("/v1/payment_methods/attach", customer=theirs, token=t)["id"]
        for t in ("pm_card_visa", "pm_card_mastercard")
    ]
    pages.post(f"/v1/customers/{theirs}", default_payment_method=kept[1])
    request = named(pb.EnsureProviderCustomerRequest(client_id=client, existing_reference=theirs))
    adopted = (await served.call("EnsureProviderCustomer", request)).provider_customer
    assert (adopted.provider_reference, adopted.adopted, adopted.name) == (theirs, True, "Harbour Bakery")
    assert {method.provider_method_id for method in adopted.payment_methods} == set(kept)
    [default] = [method for method in adopted.payment_methods if method.is_default]
    assert default.provider_method_id == kept[1]
    assert (await served.call("EnsureProviderCustomer", request)).provider_customer == adopted
    charged = await served.call("CreatePayment", pb.CreatePaymentRequest(client_id=client, amount=usd(700)))
    assert charged.payment.state == payment_pb2.PAYMENT_STATE_SUCCEEDED
    other, _ = await client_of(served)
    taken = pb.EnsureProviderCustomerRequest(client_id=other, existing_reference=theirs)
    assert (await refused(served, "EnsureProviderCustomer", taken)).reason == "ALREADY_EXISTS"
    second = pages.post("/v1/customers", name="Second")["id"]
    another = pb.EnsureProviderCustomerRequest(client_id=client, existing_reference=second)
    assert (await refused(served, "EnsureProviderCustomer", another)).reason == "ALREADY_EXISTS"
    missing = pb.EnsureProviderCustomerRequest(client_id=other, existing_reference="cus_nobody")
    assert (await refused(served, "EnsureProviderCustomer", missing)).reason == "RESOURCE_NOT_FOUND"


# Set-up intents ------------------------------------------------------------------------------------------------------


async def test_a_setup_intent_and_its_secret(served: Served, pages: Pages) -> None:
    client, _ = await client_of(served)
    request = named(pb.CreateSetupIntentRequest(client_id=client, enable_autopay=True, metadata={"use": "main"}))
    opened = (await served.call("CreateSetupIntent", request)).setup_intent
    assert SETUP_STATE(opened.state) == "SETUP_INTENT_STATE_OPEN"
    assert opened.client_secret
    assert opened.publishable_key == f"pk_test_{served.world.account}"
    repeated = (await served.call("CreateSetupIntent", request)).setup_intent
    assert repeated == opened
    pages.post(f"/v1/setup_intents/{opened.provider_reference}/confirm", payment_method="pm_card_visa")
    done = (await served.call("CreateSetupIntent", request)).setup_intent
    assert (SETUP_STATE(done.state), done.client_secret) == ("SETUP_INTENT_STATE_SUCCEEDED", "")
    assert (done.payment_method.card.last4, done.payment_method.is_default) == ("4242", True)


async def test_a_setup_intent_that_could_not_be_made_is_made_by_the_repeat(served: Served, pages: Pages) -> None:
    client, _ = await client_of(served)
    served.world.gateway.control(
        "faults", account=served.world.account, faults=[{"on": "setup", "outcome": "accept_then_drop", "count": 2}]
    )
    request = named(pb.CreateSetupIntentRequest(client_id=client))
    first = (await served.call("CreateSetupIntent", request)).setup_intent
    assert (SETUP_STATE(first.state), first.client_secret) == ("SETUP_INTENT_STATE_CREATING", "")
    assert (await refused(served, "CreateSetupIntent", request)).reason == "PROVIDER_UNAVAILABLE"
    second = (await served.call("CreateSetupIntent", request)).setup_intent
    assert (second.id, SETUP_STATE(second.state)) == (first.id, "SETUP_INTENT_STATE_OPEN")
    assert second.client_secret


# Pages ---------------------------------------------------------------------------------------------------------------


async def test_a_checkout_session_is_paid(served: Served, pages: Pages) -> None:
    _, invoice = await owed(served)
    request = named(pb.CreateCheckoutSessionRequest(purpose=INVOICE, invoice_id=invoice, success_url=BACK))
    opened = (await served.call("CreateCheckoutSession", request)).checkout_session
    assert STATE(opened.state) == "CHECKOUT_SESSION_STATE_OPEN"
    assert opened.url.startswith("http")
    assert (opened.amount, opened.invoice_id) == (usd(12000), invoice)
    assert (await served.call("CreateCheckoutSession", request)).checkout_session == opened
    payment = (await served.call("GetPayment", pb.GetPaymentRequest(payment_id=opened.payment_id))).payment
    assert (payment.kind, payment.checkout_session_id) == (payment_pb2.PAYMENT_KIND_CHECKOUT, opened.id)
    assert payment.action_url == opened.url
    [listed] = (await served.call("ListPayments", pb.ListPaymentsRequest(invoice_id=invoice))).payments
    assert listed.checkout_session_id == opened.id
    again = pb.CreateCheckoutSessionRequest(purpose=INVOICE, invoice_id=invoice, success_url=BACK)
    assert (await refused(served, "CreateCheckoutSession", again)).reason == "COLLECTION_IN_PROGRESS"
    pages.complete(await reference_of(pages, opened))
    await pages.hear()
    read = pb.GetCheckoutSessionRequest(checkout_session_id=opened.id)
    done = (await served.call("GetCheckoutSession", read, Role.READER)).checkout_session
    assert (STATE(done.state), done.url) == ("CHECKOUT_SESSION_STATE_COMPLETED", "")
    assert (await refused(served, "CreateCheckoutSession", again)).reason == "STATE_CONFLICT"


async def test_a_checkout_session_is_closed(served: Served, pages: Pages) -> None:
    _, invoice = await owed(served)
    create = pb.CreateCheckoutSessionRequest(purpose=INVOICE, invoice_id=invoice, success_url=BACK, life_seconds=3600)
    opened = (await served.call("CreateCheckoutSession", create)).checkout_session
    assert opened.expire_time.ToSeconds() == int((START + timedelta(hours=1)).timestamp())
    close = named(pb.ExpireCheckoutSessionRequest(checkout_session_id=opened.id))
    closed = (await served.call("ExpireCheckoutSession", close)).checkout_session
    assert STATE(closed.state) == "CHECKOUT_SESSION_STATE_EXPIRED"
    assert (await served.call("ExpireCheckoutSession", close)).checkout_session == closed
    later = await served.call("ExpireCheckoutSession", pb.ExpireCheckoutSessionRequest(checkout_session_id=opened.id))
    assert later.checkout_session == closed
    create.request_id = ""
    assert (await served.call("CreateCheckoutSession", create)).checkout_session.id != opened.id


async def test_a_page_that_is_not_known_to_be_made_is_not_closed(served: Served) -> None:
    _, invoice = await owed(served)
    world = served.world
    world.gateway.control("faults", account=world.account, faults=[{"on": "checkout", "outcome": "rate_limited"}])
    create = pb.CreateCheckoutSessionRequest(purpose=INVOICE, invoice_id=invoice, success_url=BACK)
    made = (await served.call("CreateCheckoutSession", create)).checkout_session
    assert STATE(made.state) == "CHECKOUT_SESSION_STATE_CREATING"
    payment = (await served.call("GetPayment", pb.GetPaymentRequest(payment_id=made.payment_id))).payment
    assert payment.attempts[0].state == payment_pb2.ATTEMPT_STATE_UNKNOWN
    close = pb.ExpireCheckoutSessionRequest(checkout_session_id=made.id)
    assert (await refused(served, "ExpireCheckoutSession", close)).reason == "PROVIDER_UNAVAILABLE"
    link = pb.CreateHostedLinkRequest(purpose=PAY, invoice_id=invoice)
    assert (await refused(served, "CreateHostedLink", link)).reason == "COLLECTION_IN_PROGRESS"


async def test_pages_that_save_and_subscribe(served: Served, pages: Pages) -> None:
    client, _ = await client_of(served)
    setup = pb.CreateCheckoutSessionRequest(purpose=SETUP, client_id=client, success_url=BACK, enable_autopay=True)
    opened = (await served.call("CreateCheckoutSession", setup)).checkout_session
    assert STATE(opened.state) == "CHECKOUT_SESSION_STATE_OPEN"
    assert not opened.HasField("amount")
    pages.complete(await reference_of(pages, opened))
    await pages.hear()
    done = (
        await served.call("GetCheckoutSession", pb.GetCheckoutSessionRequest(checkout_session_id=opened.id))
    ).checkout_session
    assert done.payment_method_id.startswith("pm_")
    subscribe = pb.CreateCheckoutSessionRequest(
        purpose=SUBSCRIPTION, client_id=client, success_url=BACK, provider_price_id="price_pro", quantity=2
    )
    page = (await served.call("CreateCheckoutSession", subscribe)).checkout_session
    pages.complete(await reference_of(pages, page))
    await pages.hear()
    read = pb.GetCheckoutSessionRequest(checkout_session_id=page.id)
    assert (await served.call("GetCheckoutSession", read)).checkout_session.provider_subscription_id.startswith("sub_")


async def test_links(served: Served, pages: Pages) -> None:
    client, invoice = await owed(served, "pm_card_visa")
    request = named(pb.CreateHostedLinkRequest(purpose=PAY, invoice_id=invoice))
    link = (await served.call("CreateHostedLink", request)).hosted_link
    assert link.url
    assert link.checkout_session_id.startswith("chk_")
    assert (await served.call("CreateHostedLink", request)).hosted_link == link
    same = (
        await served.call("CreateHostedLink", pb.CreateHostedLinkRequest(purpose=PAY, invoice_id=invoice))
    ).hosted_link
    assert same == link
    pages.complete(await pages.session(decode(Prefix.CHECKOUT_SESSION, link.checkout_session_id, "id")))
    await pages.hear()
    assert (await refused(served, "CreateHostedLink", request)).reason == "STATE_CONFLICT"
    over = pb.CreateHostedLinkRequest(purpose=PAY, invoice_id=invoice)
    assert (await refused(served, "CreateHostedLink", over)).reason == "STATE_CONFLICT"
    update = pb.CreateHostedLinkRequest(purpose=UPDATE, client_id=client, enable_autopay=True, return_url=BACK)
    card = (await served.call("CreateHostedLink", update)).hosted_link
    assert card.url
    assert card.payment_id == ""
    pages.complete(
        await pages.session(decode(Prefix.CHECKOUT_SESSION, card.checkout_session_id, "id")), "pm_card_mastercard"
    )
    await pages.hear()
    methods = (await served.call("ListPaymentMethods", pb.ListPaymentMethodsRequest(client_id=client))).payment_methods
    assert [(method.card.last4, method.is_default) for method in methods] == [("4444", True), ("4242", False)]


async def test_a_link_continues_a_charge_that_waits_for_its_client(served: Served) -> None:
    _, invoice = await owed(served, "pm_card_threeDSecure2Required")
    charged = (await served.call("ChargeInvoice", pb.ChargeInvoiceRequest(invoice_id=invoice))).payment
    assert charged.state == payment_pb2.PAYMENT_STATE_REQUIRES_ACTION
    link = (
        await served.call("CreateHostedLink", pb.CreateHostedLinkRequest(purpose=PAY, invoice_id=invoice))
    ).hosted_link
    assert (link.url, link.payment_id, link.checkout_session_id) == (charged.action_url, charged.id, "")


# One-time payments ---------------------------------------------------------------------------------------------------


async def test_a_one_time_payment(served: Served) -> None:
    client, first = await owed(served, "pm_card_visa")
    second = encode(Prefix.INVOICE, (await served.world.invoice(await _client(served, client))).id)
    request = named(pb.CreatePaymentRequest(
        client_id=client, amount=usd(25000), invoice_ids=[second, first], client_present=True,
        payer=pb.PayerContext(ip_address="2001:db8::1", user_agent="Browser"),
    ))  # fmt: skip
    paid = (await served.call("CreatePayment", request)).payment
    assert (paid.kind, paid.state) == (payment_pb2.PAYMENT_KIND_ONE_TIME, payment_pb2.PAYMENT_STATE_SUCCEEDED)
    assert {part.invoice_id for part in paid.allocations} == {first, second}
    assert paid.amount_credited == usd(1000)
    assert (await served.call("CreatePayment", request)).payment == paid
    assert served.world.movements == 1
    declined, _ = await client_of(served, "pm_card_chargeDeclined")
    failed = (await served.call("CreatePayment", pb.CreatePaymentRequest(client_id=declined, amount=usd(100)))).payment
    assert failed.state == payment_pb2.PAYMENT_STATE_FAILED


async def _client(served: Served, text: str) -> Any:
    async with served.world.db.transaction(served.world.context, write=False) as uow:
        return await get_client(uow, decode(Prefix.CLIENT, text, "client_id"))


# Refusals ------------------------------------------------------------------------------------------------------------


async def test_malformed_requests_are_refused_with_their_fields(served: Served) -> None:
    client, invoice = await owed(served)
    unknown_client, unknown_invoice = encode(Prefix.CLIENT, uuid7()), encode(Prefix.INVOICE, uuid7())
    cases: list[tuple[str, Any, str]] = [
        ("CreateCheckoutSession", pb.CreateCheckoutSessionRequest(success_url=BACK), "FIELD_INVALID"),
        ("CreateCheckoutSession", pb.CreateCheckoutSessionRequest(purpose=INVOICE, success_url=BACK), "FIELD_INVALID"),
        ("CreateCheckoutSession", pb.CreateCheckoutSessionRequest(purpose=SETUP, client_id=client), "FIELD_INVALID"),
        ("CreateCheckoutSession", pb.CreateCheckoutSessionRequest(purpose=SETUP, client_id=client, success_url="javascript:x"), "FIELD_INVALID"),
        ("CreateCheckoutSession", pb.CreateCheckoutSessionRequest(purpose=SETUP, client_id=client, success_url=BACK, save_payment_method=True), "FIELD_INVALID"),
        ("CreateCheckoutSession", pb.CreateCheckoutSessionRequest(purpose=SETUP, client_id=client, success_url=BACK, quantity=2), "FIELD_INVALID"),
        ("CreateCheckoutSession", pb.CreateCheckoutSessionRequest(purpose=INVOICE, invoice_id=invoice, success_url=BACK, enable_autopay=True), "FIELD_INVALID"),
        ("CreateCheckoutSession", pb.CreateCheckoutSessionRequest(purpose=SUBSCRIPTION, client_id=client, success_url=BACK), "FIELD_INVALID"),
        ("CreateCheckoutSession", pb.CreateCheckoutSessionRequest(purpose=SETUP, client_id=unknown_client, success_url=BACK), "RESOURCE_NOT_FOUND"),
        ("CreateCheckoutSession", pb.CreateCheckoutSessionRequest(purpose=INVOICE, invoice_id=unknown_invoice, success_url=BACK), "RESOURCE_NOT_FOUND"),
        ("CreateCheckoutSession", pb.CreateCheckoutSessionRequest(purpose=SETUP, client_id=client, success_url=BACK, provider="nobody"), "PROVIDER_NOT_CONFIGURED"),
        ("CreateHostedLink", pb.CreateHostedLinkRequest(purpose=PAY), "FIELD_INVALID"),
        ("CreateHostedLink", pb.CreateHostedLinkRequest(purpose=UPDATE, client_id=client, invoice_id=invoice), "FIELD_INVALID"),
        ("CreateHostedLink", pb.CreateHostedLinkRequest(purpose=PAY, invoice_id=invoice, enable_autopay=True), "FIELD_INVALID"),
        ("CreateHostedLink", pb.CreateHostedLinkRequest(purpose=PAY, invoice_id=unknown_invoice), "RESOURCE_NOT_FOUND"),
        ("CreateSetupIntent", pb.CreateSetupIntentRequest(client_id="cli_x"), "FIELD_INVALID"),
        ("CreateSetupIntent", pb.CreateSetupIntentRequest(client_id=unknown_client), "RESOURCE_NOT_FOUND"),
        ("CreateSetupIntent", pb.CreateSetupIntentRequest(client_id=client, backup_priority=101), "FIELD_INVALID"),
        ("CreatePayment", pb.CreatePaymentRequest(client_id=client, amount=usd(0)), "FIELD_INVALID"),
        ("CreatePayment", pb.CreatePaymentRequest(client_id=client), "FIELD_INVALID"),
        ("CreatePayment", pb.CreatePaymentRequest(client_id=client, amount=usd(1), invoice_ids=[invoice, invoice]), "FIELD_INVALID"),
        ("CreatePayment", pb.CreatePaymentRequest(client_id=client, amount=usd(1), payer=pb.PayerContext(ip_address="nowhere")), "FIELD_INVALID"),
        ("CreatePayment", pb.CreatePaymentRequest(client_id=client, amount=usd(1)), "PAYMENT_METHOD_MISSING"),
        ("CreatePayment", pb.CreatePaymentRequest(client_id=client, amount=money_pb2.Money(currency_code="EUR", amount_minor=1), invoice_ids=[invoice]), "CURRENCY_MISMATCH"),
        ("CreatePayment", pb.CreatePaymentRequest(client_id=unknown_client, amount=usd(1)), "RESOURCE_NOT_FOUND"),
        ("EnsureProviderCustomer", pb.EnsureProviderCustomerRequest(client_id=unknown_client), "RESOURCE_NOT_FOUND"),
        ("EnsureProviderCustomer", pb.EnsureProviderCustomerRequest(client_id=client, existing_reference="a b"), "FIELD_INVALID"),
        ("EnsureProviderCustomer", pb.EnsureProviderCustomerRequest(client_id=client, provider="manual"), "PROVIDER_NOT_CONFIGURED"),
        ("GetCheckoutSession", pb.GetCheckoutSessionRequest(checkout_session_id=encode(Prefix.CHECKOUT_SESSION, uuid7())), "RESOURCE_NOT_FOUND"),
        ("ExpireCheckoutSession", pb.ExpireCheckoutSessionRequest(checkout_session_id=encode(Prefix.CHECKOUT_SESSION, uuid7())), "RESOURCE_NOT_FOUND"),
        ("ExpireCheckoutSession", pb.ExpireCheckoutSessionRequest(checkout_session_id="chk_1"), "FIELD_INVALID"),
    ]  # fmt: skip
    for rpc, request, reason in cases:
        assert (await refused(served, rpc, request)).reason == reason, (rpc, request)
    assert await served.world.scalar("SELECT count(*) FROM payment WHERE firm_id = %s", served.world.firm_id) == 0


async def test_another_firms_objects_are_not_found_and_readers_change_nothing(served: Served) -> None:
    client, invoice = await owed(served, "pm_card_visa")
    create = pb.CreateCheckoutSessionRequest(purpose=INVOICE, invoice_id=invoice, success_url=BACK)
    session = (await served.call("CreateCheckoutSession", create)).checkout_session
    requests: list[tuple[str, Any]] = [
        ("EnsureProviderCustomer", pb.EnsureProviderCustomerRequest(client_id=client)),
        ("CreateSetupIntent", pb.CreateSetupIntentRequest(client_id=client)),
        ("CreateHostedLink", pb.CreateHostedLinkRequest(purpose=PAY, invoice_id=invoice)),
        ("CreateCheckoutSession", pb.CreateCheckoutSessionRequest(purpose=INVOICE, invoice_id=invoice, success_url=BACK)),
        ("ExpireCheckoutSession", pb.ExpireCheckoutSessionRequest(checkout_session_id=session.id)),
        ("CreatePayment", pb.CreatePaymentRequest(client_id=client, amount=usd(100))),
    ]  # fmt: skip
    other = (await support.add_firm(served.world.db)).firm_id
    for rpc, request in requests:
        assert (await refused(served, rpc, request, Role.READER)).reason == "PERMISSION_DENIED", rpc
        request.request_id = ""
        # A firm without an account of its own is told so, or that there is no such object: never anything of this firm's.
        told = (await refused(served, rpc, request, firm=other)).reason
        assert told in ("RESOURCE_NOT_FOUND", "PROVIDER_NOT_CONFIGURED"), rpc
    read = pb.GetCheckoutSessionRequest(checkout_session_id=session.id)
    assert (await refused(served, "GetCheckoutSession", read, firm=other)).reason == "RESOURCE_NOT_FOUND"


async def test_switched_off_cards_open_no_pages(served: Served) -> None:
    client, invoice = await owed(served, "pm_card_visa")
    async with served.world.db.transaction(support.context(None)) as uow:
        await uow.execute(
            "UPDATE control.firm SET settings = jsonb_set(settings, '{features}', %s), version = version + 1 WHERE id = %s",
            (f'{{"{Feature.CARD_PAYMENTS.value}": false}}', served.world.firm_id),
        )
    for rpc, request in (
        ("CreateSetupIntent", pb.CreateSetupIntentRequest(client_id=client)),
        ("CreateHostedLink", pb.CreateHostedLinkRequest(purpose=PAY, invoice_id=invoice)),
        ("CreateCheckoutSession", pb.CreateCheckoutSessionRequest(purpose=SETUP, client_id=client, success_url=BACK)),
        ("CreatePayment", pb.CreatePaymentRequest(client_id=client, amount=usd(100))),
    ):
        assert (await refused(served, rpc, request)).reason == "FEATURE_DISABLED", rpc
