"""Idempotency as stripe-stateful-mock keeps it (charges API): replay, mismatch, declines, what was accepted and lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest

from dunwell_server.kernel.money import Money
from dunwell_server.providers.abilities import ProviderDisputeState, RefundOutcomeClass, RefundRequest
from dunwell_server.providers.base import ClientProfile, DeclineClass, FailureCode, OutcomeClass
from dunwell_server.providers.stripe import StripeProvider
from dunwell_server.providers.stripe.answers import charge_refusal
from dunwell_server.providers.stripe.client import Refused, ask
from tests import support
from tests.providers.stripe.standins import Missing, free_port, started, stateful_mock
from tests.providers.stripe.support import TEST_ACCOUNT

CLIENT = ClientProfile(client_id="client-1", firm_id="firm-1", name="Hollis & Varga", email="pay@example.com")
Charge = Callable[..., Any]


@pytest.fixture(scope="module")
async def provider(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[StripeProvider]:
    try:
        command = stateful_mock()
    except Missing as why:
        pytest.skip(str(why))
    port = free_port()
    process = started(command, tmp_path_factory.mktemp("stateful"), port, PORT=str(port), LOG_LEVEL="silent")
    adapter = StripeProvider(f"http://127.0.0.1:{port}")
    yield adapter
    await adapter.close()
    process.terminate()
    process.wait(timeout=20)


@pytest.fixture
def charge(provider: StripeProvider) -> Charge:
    async def send(source: str, key: str, amount: int = 1000) -> Any:
        client = provider._client(TEST_ACCOUNT)
        params: Any = {"amount": amount, "currency": "usd", "source": source, "metadata": {"key": key}}
        return await ask(client.v1.charges.create_async(params, {"idempotency_key": key}))

    return send


async def test_the_same_key_is_answered_with_what_was_stored(charge: Charge) -> None:
    key = f"v1:{uuid4()}:1"
    assert await charge("tok_visa", key) == await charge("tok_visa", key)


async def test_other_parameters_under_a_used_key_are_unknown_never_a_decline(charge: Charge) -> None:
    key = f"v1:{uuid4()}:1"
    await charge("tok_visa", key)
    with pytest.raises(Refused) as refused:
        await charge("tok_visa", key, amount=1001)
    assert (refused.value.status, refused.value.kind) == (400, "idempotency_error")
    assert charge_refusal(refused.value).outcome is OutcomeClass.UNKNOWN


@pytest.mark.parametrize(
    ("token", "failure", "decline_class"),
    [
        ("tok_chargeDeclined", FailureCode.CARD_DECLINED, DeclineClass.SOFT),
        ("tok_chargeDeclinedInsufficientFunds", FailureCode.INSUFFICIENT_FUNDS, DeclineClass.SOFT),
        ("tok_chargeDeclinedFraudulent", FailureCode.CARD_DECLINED, DeclineClass.HARD),
        ("tok_chargeDeclinedIncorrectCvc", FailureCode.INCORRECT_CVC, DeclineClass.CUSTOMER),
        ("tok_chargeDeclinedExpiredCard", FailureCode.EXPIRED_CARD, DeclineClass.CUSTOMER),
        ("tok_chargeDeclinedProcessingError", FailureCode.PROCESSING_ERROR, DeclineClass.TECHNICAL),
    ],
)
async def test_each_decline_is_classified_and_replayed(
    charge: Charge, token: str, failure: FailureCode, decline_class: DeclineClass
) -> None:
    key = f"v1:{uuid4()}:1"
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            await charge(token, key)
        outcome = charge_refusal(refused.value)
        assert (outcome.outcome, outcome.failure_code, outcome.decline_class) == (
            OutcomeClass.DECLINED,
            failure,
            decline_class,
        )
        assert outcome.executed
    assert refused.value.replayed


async def test_a_stored_server_error_is_replayed(charge: Charge) -> None:
    key = f"v1:{uuid4()}:1"
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            await charge("tok_500", key)
        assert charge_refusal(refused.value).outcome is OutcomeClass.UNKNOWN
    assert refused.value.replayed


async def test_a_rate_limit_is_not_stored(charge: Charge) -> None:
    key = f"v1:{uuid4()}:1"
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            await charge("tok_429", key)
        outcome = charge_refusal(refused.value)
        assert (outcome.outcome, outcome.executed) == (OutcomeClass.NOT_SENT, False)
        assert not refused.value.replayed


async def test_a_customer_is_made_once_per_key_and_found(provider: StripeProvider) -> None:
    key = f"customer:{uuid4()}"
    first = await provider.ensure_customer(TEST_ACCOUNT, CLIENT, key)
    assert await provider.ensure_customer(TEST_ACCOUNT, CLIENT, key) == first
    assert await provider.ensure_customer(TEST_ACCOUNT, CLIENT, key + "b") != first
    found = await provider.get_customer(TEST_ACCOUNT, first.provider_reference)
    assert found.metadata["client"] == "client-1"


async def test_refunds_of_charges_are_made_once_and_never_beyond_the_amount(
    provider: StripeProvider, charge: Charge
) -> None:
    made = await charge("tok_visa", f"v1:{uuid4()}:1")

    def refund(minor: int) -> RefundRequest:
        return RefundRequest(
            account=TEST_ACCOUNT,
            key=f"refund:{uuid4()}",
            firm="firm-1",
            payment="payment-1",
            refund="refund-1",
            payment_reference=made["id"],
            money=Money("USD", minor),
        )

    first = refund(400)
    outcome = await provider.refund(first)
    assert (outcome.outcome, outcome.money) == (RefundOutcomeClass.SUCCEEDED, Money("USD", 400))
    assert await provider.refund(first) == outcome
    refused = await provider.refund(refund(601))
    assert refused.outcome is RefundOutcomeClass.FAILED
    assert (await provider.refund(refund(600))).outcome is RefundOutcomeClass.SUCCEEDED
    listed = await provider.list_refunds(TEST_ACCOUNT, payment_reference=made["id"])
    assert sorted(item.money.minor for item in listed.refunds) == [400, 600]


@pytest.mark.parametrize(
    ("token", "state", "withdrawn"),
    [
        ("tok_createDispute", ProviderDisputeState.NEEDS_RESPONSE, True),
        ("tok_createDisputeInquiry", ProviderDisputeState.INQUIRY_NEEDS_RESPONSE, False),
    ],
)
async def test_a_dispute_is_read(
    provider: StripeProvider, charge: Charge, token: str, state: ProviderDisputeState, withdrawn: bool
) -> None:
    made = await charge(token, f"v1:{uuid4()}:1")

    async def is_disputed() -> bool:  # The dispute is opened a moment after the charge.
        nonlocal made
        made = await ask(provider._client(TEST_ACCOUNT).v1.charges.retrieve_async(made["id"]))
        return bool(made["dispute"])

    await support.eventually(is_disputed)
    dispute = await provider.get_dispute(TEST_ACCOUNT, made["dispute"])
    assert (dispute.state, dispute.funds_withdrawn) == (state, withdrawn)
    assert dispute.payment_reference == made["id"]
    assert dispute.money == Money("USD", 1000)
