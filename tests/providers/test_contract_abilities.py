"""What every provider that offers an ability keeps, whichever it is. What only one can play is tested beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.money import Money
from dunwell_server.providers.abilities import (
    Checkout,
    CheckoutMode,
    CheckoutRequest,
    CheckoutState,
    Customers,
    RefundOutcomeClass,
    RefundRequest,
    Refunds,
    SetupIntents,
    SetupState,
    SignatureRefused,
    Webhooks,
)
from dunwell_server.providers.base import (
    ClientProfile,
    Credentials,
    CustomerRef,
    OutcomeClass,
    ProviderRefused,
    ProviderUnavailable,
)
from tests.providers.harness import HARNESSES, Harness

CLIENT = ClientProfile(client_id="client-1", firm_id="firm-1", name="Hollis & Varga", email="pay@example.com")
_NO_CHECKOUT = "localstripe has no Checkout"
CANNOT = {
    ("stripe", "test_more_than_is_left_is_refused"): "localstripe refunds more than was paid",
    ("stripe", "test_a_page_is_opened_once_per_key_found_by_it_and_closed"): _NO_CHECKOUT,
    ("stripe", "test_a_page_for_saving_a_method"): _NO_CHECKOUT,
}


@pytest.fixture(scope="module", params=sorted(HARNESSES))
async def harness(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Harness]:
    async with HARNESSES[request.param](tmp_path_factory.mktemp(request.param)) as ready:
        yield ready


@pytest.fixture(autouse=True)
def _what_the_stand_in_can(request: pytest.FixtureRequest, harness: Harness) -> None:
    reason = CANNOT.get((harness.provider.name, getattr(request.node, "originalname", "")))
    if reason is not None:
        pytest.skip(reason)


def offered(harness: Harness, flag: str) -> None:
    if not getattr(harness.provider.capabilities, flag):
        pytest.skip(f"{harness.provider.name} does not offer {flag}")


async def customer_of(harness: Harness) -> CustomerRef:
    return await harness.provider.ensure_customer(harness.account, CLIENT, f"customer:{uuid4()}")


async def paid(harness: Harness, minor: int = 5000) -> str:
    outcome = await harness.provider.charge(harness.request(harness.good, Money("USD", minor)))
    assert outcome.outcome is OutcomeClass.SUCCEEDED
    assert outcome.provider_reference is not None
    return outcome.provider_reference


def refund_of(harness: Harness, payment: str, minor: int, key: str | None = None) -> RefundRequest:
    refund = str(uuid4())
    return RefundRequest(
        account=harness.account,
        key=key or f"refund:{refund}:1",
        firm="firm-1",
        payment="payment-1",
        refund=refund,
        payment_reference=payment,
        money=Money("USD", minor),
    )


# ---- customers


async def test_a_customer_that_exists_is_found_with_its_methods_and_changed(harness: Harness) -> None:
    offered(harness, "customers")
    provider, account = harness.provider, harness.account
    assert isinstance(provider, Customers)
    customer = await customer_of(harness)
    reference = customer.provider_reference
    known = await provider.get_customer(account, reference)
    assert (known.provider_reference, known.name, known.email) == (reference, CLIENT.name, CLIENT.email)
    assert known.metadata["client"] == "client-1"
    assert not known.deleted
    changed = await provider.update_customer(
        account, reference, name=None, email="new@example.com", metadata={"a": "b"}
    )
    assert (changed.name, changed.email) == (CLIENT.name, "new@example.com")
    assert changed.metadata["a"] == "b"
    assert changed.metadata["client"] == "client-1"
    assert await provider.list_methods(account, reference) == ()
    method = await provider.attach_method(account, customer, harness.good, f"attach:{uuid4()}")
    assert [found.provider_reference for found in await provider.list_methods(account, reference)] == [
        method.provider_reference
    ]
    await provider.set_default_method(account, reference, method.provider_reference)
    assert (await provider.get_customer(account, reference)).default_method_reference == method.provider_reference


async def test_a_customer_that_is_not_there_is_refused(harness: Harness) -> None:
    offered(harness, "customers")
    assert isinstance(harness.provider, Customers)
    with pytest.raises(ProviderRefused) as refused:
        await harness.provider.get_customer(harness.account, "cus_none")
    assert refused.value.provider_code == "resource_missing"
    assert isinstance(harness.unreachable, Customers)
    with pytest.raises(ProviderUnavailable):
        await harness.unreachable.get_customer(harness.account, "cus_none")


# ---- refunds


async def test_refunds_in_parts_are_found_and_listed(harness: Harness) -> None:
    offered(harness, "refunds")
    provider, account = harness.provider, harness.account
    assert isinstance(provider, Refunds)
    payment = await paid(harness)
    requests = [refund_of(harness, payment, minor) for minor in (1500, 2500)]
    for request in requests:
        outcome = await provider.refund(request)
        assert outcome.outcome is RefundOutcomeClass.SUCCEEDED
        assert outcome.money == request.money
        found = await provider.lookup_refund(account, key=request.key, payment_reference=payment)
        assert found is not None
        assert (found.provider_reference, found.outcome) == (outcome.provider_reference, outcome.outcome)
    listed = (await provider.list_refunds(account, payment_reference=payment)).refunds
    assert [refund.created_time for refund in listed] == sorted(refund.created_time for refund in listed)
    assert {refund.metadata["key"]: refund.money for refund in listed} == {
        request.key: request.money for request in requests
    }
    assert len(listed) == 2
    assert {refund.payment_reference for refund in listed} == {payment}
    assert await provider.lookup_refund(account, key="no-such-key", payment_reference=payment) is None


async def test_more_than_is_left_is_refused(harness: Harness) -> None:
    offered(harness, "refunds")
    assert isinstance(harness.provider, Refunds)
    payment = await paid(harness)
    assert (await harness.provider.refund(refund_of(harness, payment, 4000))).outcome is RefundOutcomeClass.SUCCEEDED
    over = await harness.provider.refund(refund_of(harness, payment, 1001))
    assert over.outcome is RefundOutcomeClass.FAILED
    assert over.provider_code
    assert (await harness.provider.refund(refund_of(harness, payment, 1000))).outcome is RefundOutcomeClass.SUCCEEDED


async def test_a_key_refunds_once(harness: Harness) -> None:
    offered(harness, "refunds")
    assert isinstance(harness.provider, Refunds)
    payment = await paid(harness)
    request = refund_of(harness, payment, 2000)
    first = await harness.provider.refund(request)
    assert first.outcome is RefundOutcomeClass.SUCCEEDED
    outcomes = await asyncio.gather(*(harness.provider.refund(request) for _ in range(5)))
    references = {outcome.provider_reference for outcome in outcomes if outcome.outcome is RefundOutcomeClass.SUCCEEDED}
    assert references <= {first.provider_reference}
    changed = await harness.provider.refund(replace(request, money=Money("USD", 2001)))
    assert changed.outcome is RefundOutcomeClass.UNKNOWN
    listed = (await harness.provider.list_refunds(harness.account, payment_reference=payment)).refunds
    assert len(listed) == 1


async def test_a_refund_of_what_is_not_there_fails_and_one_that_never_left_is_not_sent(harness: Harness) -> None:
    offered(harness, "refunds")
    assert isinstance(harness.provider, Refunds)
    assert isinstance(harness.unreachable, Refunds)
    payment = await paid(harness)
    unsent = await harness.unreachable.refund(refund_of(harness, payment, 5))
    assert (unsent.outcome, unsent.executed) == (RefundOutcomeClass.NOT_SENT, False)
    wrong = replace(harness.account, credentials=Credentials({"secret_key": harness.wrong_secret}))
    refused = await harness.provider.refund(replace(refund_of(harness, payment, 5), account=wrong))
    assert refused.outcome is RefundOutcomeClass.NOT_SENT
    assert "canary" not in repr(refused)
    nothing = await harness.provider.refund(refund_of(harness, "pi_none", 5))
    assert (nothing.outcome, nothing.executed) == (RefundOutcomeClass.FAILED, False)
    other = replace(harness.account, provider="elsewhere")
    with pytest.raises(DunwellError) as foreign:
        await harness.provider.refund(replace(refund_of(harness, payment, 5), account=other))
    assert foreign.value.reason is Reason.PROVIDER_NOT_CONFIGURED


# ---- set-up intents


async def test_a_set_up_is_opened_once_per_key_and_cancelled(harness: Harness) -> None:
    offered(harness, "setup_intents")
    provider, account = harness.provider, harness.account
    assert isinstance(provider, SetupIntents)
    customer = await customer_of(harness)
    key, metadata = f"setup:{uuid4()}", {"firm": "firm-1", "client": "client-1", "setup": "setup-1"}
    first = await provider.create_setup_intent(account, customer, key, metadata)
    again = await provider.create_setup_intent(account, customer, key, metadata)
    assert first.provider_reference == again.provider_reference
    assert first.state is SetupState.OPEN
    assert first.client_secret
    assert first.client_secret not in repr(first)
    found = await provider.get_setup_intent(account, first.provider_reference)
    assert (found.customer_reference, found.metadata["setup"]) == (customer.provider_reference, "setup-1")
    for _ in range(2):
        ended = await provider.cancel_setup_intent(account, first.provider_reference)
        assert ended.state is SetupState.CANCELLED


# ---- checkout


def page_of(harness: Harness, key: str, mode: CheckoutMode = CheckoutMode.PAYMENT) -> CheckoutRequest:
    return CheckoutRequest(
        account=harness.account,
        key=key,
        mode=mode,
        metadata={"firm": "firm-1", "client": "client-1", "checkout": "checkout-1", "payment": "payment-1"},
        success_url="https://firm.example/done",
        cancel_url="https://firm.example/back",
        money=Money("USD", 4200) if mode is CheckoutMode.PAYMENT else None,
        description="Invoice HV-2026-000042",
    )


async def test_a_page_is_opened_once_per_key_found_by_it_and_closed(harness: Harness) -> None:
    offered(harness, "checkout")
    provider, account = harness.provider, harness.account
    assert isinstance(provider, Checkout)
    key = f"checkout:{uuid4()}"
    since = harness.start_time - timedelta(minutes=1)
    assert await provider.find_checkout(account, key, since) is None
    opened = await provider.create_checkout(page_of(harness, key))
    assert (opened.state, opened.mode, opened.payment) == (CheckoutState.OPEN, CheckoutMode.PAYMENT, None)
    assert opened.url
    assert opened.expire_time is not None
    assert opened.metadata["checkout"] == "checkout-1"
    assert opened.metadata["key"] == key
    assert (await provider.create_checkout(page_of(harness, key))).provider_reference == opened.provider_reference
    found = await provider.find_checkout(account, key, since)
    assert found is not None
    assert found.provider_reference == opened.provider_reference
    for _ in range(2):
        closed = await provider.expire_checkout(account, opened.provider_reference)
        assert (closed.state, closed.url) == (CheckoutState.EXPIRED, None)
        assert closed.payment is not None
        assert closed.payment.ends_unpaid
    with pytest.raises(ProviderRefused):
        await provider.get_checkout(account, "cs_test_none")


async def test_a_page_for_saving_a_method(harness: Harness) -> None:
    offered(harness, "checkout")
    assert isinstance(harness.provider, Checkout)
    customer = await customer_of(harness)
    request = replace(
        page_of(harness, f"checkout:{uuid4()}", CheckoutMode.SETUP), customer_reference=customer.provider_reference
    )
    opened = await harness.provider.create_checkout(request)
    assert (opened.mode, opened.customer_reference) == (CheckoutMode.SETUP, customer.provider_reference)


# ---- webhooks


async def test_nobody_without_a_secret_is_believed(harness: Harness) -> None:
    offered(harness, "webhooks")
    assert isinstance(harness.provider, Webhooks)
    body = b'{"id":"evt_1","type":"x"}'
    for secrets in ([], [""], ["secret"]):
        with pytest.raises(SignatureRefused):
            await harness.provider.verify(harness.account, secrets, body, {}, harness.start_time)
    for rubbish in (b"", b"[]", b"{", b"[" * 50_000):
        with pytest.raises(ValueError, match=r".+"):
            harness.provider.normalise(rubbish)
