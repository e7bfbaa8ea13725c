"""Every request the adapter can make, checked by stripe-mock against Stripe's own OpenAPI description.

stripe-mock is one release of the API behind: set-up pages, which use a parameter newer than it knows, are checked against
the SDK's own types instead (tests/unit/providers/stripe/test_params.py).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from dunwell_server.kernel.money import Money
from dunwell_server.providers.abilities import CheckoutMode, CheckoutRequest, RefundRequest
from dunwell_server.providers.base import ClientProfile, CustomerRef, Outcome
from dunwell_server.providers.stripe import StripeProvider
from tests.providers.stripe.standins import Missing, free_port, started, stripe_mock
from tests.providers.stripe.support import TEST_ACCOUNT as ACCOUNT
from tests.providers.stripe.support import charge_request

NOW = datetime.now(UTC)
METADATA = {"firm": "firm-1", "client": "client-1", "checkout": "checkout-1"}
CUSTOMER = CustomerRef("cus_123")


@pytest.fixture(scope="module")
async def provider(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StripeProvider]:
    try:
        program = stripe_mock()
    except Missing as why:
        pytest.skip(str(why))
    port = free_port()
    folder = tmp_path_factory.mktemp("stripe-mock")
    process = started([program, "-http-addr", f"127.0.0.1:{port}"], folder, port)
    adapter = StripeProvider(f"http://127.0.0.1:{port}")
    yield adapter
    await adapter.close()
    process.terminate()
    process.wait(timeout=20)


def checkout(mode: CheckoutMode, **changes: object) -> CheckoutRequest:
    given: dict[str, object] = {
        "account": ACCOUNT,
        "key": "checkout:1",
        "mode": mode,
        "metadata": METADATA,
        "success_url": "https://example.com/done",
        "cancel_url": "https://example.com/back",
        "customer_reference": "cus_123",
        "expire_time": NOW + timedelta(hours=2),
    }
    return CheckoutRequest(**{**given, **changes})  # type: ignore[arg-type]


def looked_at(outcome: Outcome) -> None:
    """stripe-mock answers with fixtures in any state: what counts is that it did not refuse the request."""
    assert outcome.executed, outcome
    assert outcome.provider_reference, outcome


@pytest.mark.parametrize("off_session", [True, False])
async def test_charges(provider: StripeProvider, off_session: bool) -> None:
    looked_at(await provider.charge(charge_request(off_session=off_session, return_url="https://example.com/back")))
    looked_at(await provider.cancel(ACCOUNT, "pi_123"))
    found = await provider.lookup(ACCOUNT, key="nobody's", customer_reference="cus_123", since=NOW)
    assert found is None
    await provider.list_payments(ACCOUNT, NOW - timedelta(days=1), NOW)


async def test_refunds(provider: StripeProvider) -> None:
    refund = RefundRequest(
        account=ACCOUNT, key="r", firm="f", payment="p", refund="r", payment_reference="pi_123", money=Money("USD", 100)
    )
    assert (await provider.refund(refund)).provider_reference
    assert await provider.lookup_refund(ACCOUNT, key="nobody's", payment_reference="pi_123") is None
    await provider.list_refunds(ACCOUNT, since=NOW - timedelta(days=1), until=NOW)


async def test_customers_and_methods(provider: StripeProvider) -> None:
    await provider.ensure_customer(ACCOUNT, ClientProfile("c", "f", "Name", "a@example.com"), "k")
    await provider.get_customer(ACCOUNT, "cus_123")
    await provider.update_customer(ACCOUNT, "cus_123", name="N", email="b@example.com", metadata={"a": "b"})
    await provider.list_methods(ACCOUNT, "cus_123")
    await provider.set_default_method(ACCOUNT, "cus_123", "pm_123")
    await provider.attach_method(ACCOUNT, CUSTOMER, "pm_123", "k")
    await provider.attach_method(ACCOUNT, CUSTOMER, "tok_visa", "k")
    await provider.detach_method(ACCOUNT, "pm_123")


async def test_set_up_intents(provider: StripeProvider) -> None:
    await provider.create_setup_intent(ACCOUNT, CUSTOMER, "k", METADATA)
    await provider.get_setup_intent(ACCOUNT, "seti_123")
    await provider.cancel_setup_intent(ACCOUNT, "seti_123")


@pytest.mark.parametrize(
    "request_",
    [
        checkout(CheckoutMode.PAYMENT, money=Money("USD", 4999), description="Invoice 42", save_method=True),
        checkout(
            CheckoutMode.PAYMENT, money=Money("JPY", 500), customer_reference=None, save_method=True, cancel_url=None
        ),
        checkout(CheckoutMode.SUBSCRIPTION, price_reference="price_123", quantity=2, expire_time=None),
    ],
    ids=["payment", "payment of a stranger", "subscription"],
)
async def test_checkout(provider: StripeProvider, request_: CheckoutRequest) -> None:
    made = await provider.create_checkout(request_)
    await provider.get_checkout(ACCOUNT, made.provider_reference)
    await provider.expire_checkout(ACCOUNT, made.provider_reference)
    assert await provider.find_checkout(ACCOUNT, "nobody's", NOW) is None


async def test_subscriptions(provider: StripeProvider) -> None:
    await provider.create_subscription(
        ACCOUNT,
        CUSTOMER,
        "price_1",
        "k",
        METADATA,
        quantity=2,
        trial_end=NOW + timedelta(days=9),
        method_reference="pm_1",
    )
    await provider.get_subscription(ACCOUNT, "sub_123")
    await provider.update_subscription(ACCOUNT, "sub_123", "k", price_reference="price_2", quantity=3, prorate=False)
    await provider.cancel_subscription(ACCOUNT, "sub_123", at_period_end=True)
    await provider.reactivate_subscription(ACCOUNT, "sub_123")
    await provider.cancel_subscription(ACCOUNT, "sub_123", at_period_end=False)
    assert await provider.list_subscriptions(ACCOUNT, "cus_123")
    invoices, _ = await provider.list_invoices(ACCOUNT, subscription_reference="sub_123", customer_reference="cus_123")
    assert invoices
    await provider.get_invoice(ACCOUNT, "in_123")


async def test_disputes(provider: StripeProvider) -> None:
    await provider.get_dispute(ACCOUNT, "dp_123")
    assert await provider.upload_evidence_file(ACCOUNT, "log.pdf", "application/pdf", b"%PDF-1.7", "k")
    evidence = {"access_activity_log": "2026-01-01 signed in", "service_documentation": "file_1"}
    await provider.stage_evidence(ACCOUNT, "dp_123", evidence, "k")
    await provider.submit_evidence(ACCOUNT, "dp_123", evidence, "k")
    await provider.accept_dispute(ACCOUNT, "dp_123", "k")


async def test_events(provider: StripeProvider) -> None:
    page = await provider.list_events(ACCOUNT, NOW - timedelta(days=1), NOW, "evt_123")
    for _, raw in page.events:
        assert provider.normalise(raw).type
