"""Hosted pages, against answers in Stripe's shape: no stand-in has Checkout."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dunwell_server.kernel.money import Money
from dunwell_server.providers.abilities import (
    CheckoutMode,
    CheckoutRequest,
    CheckoutState,
)
from dunwell_server.providers.base import (
    CustomerRef,
    OutcomeClass,
    ProviderRefused,
    ProviderUnavailable,
)
from tests.providers.stripe.loopback import Reply, Seen
from tests.providers.stripe.support import (
    TEST_ACCOUNT,
    Routes,
    page,
    refusal,
    stripe,
)
from tests.unit.providers.stripe import payloads

ACCOUNT = TEST_ACCOUNT
CUSTOMER = CustomerRef("cus_NffrFeUfNV2Hib")
METHOD = "pm_1MtwBwLkdIwHu7ix0snN0B15"


# ---- hosted pages


def checkout(**changes: Any) -> CheckoutRequest:
    given: dict[str, Any] = {
        "account": ACCOUNT,
        "key": "checkout:1",
        "mode": CheckoutMode.PAYMENT,
        "metadata": {"firm": "firm-1", "client": "client-1", "checkout": "checkout-1"},
        "success_url": "https://example.com/done",
        "money": Money("USD", 4999),
        "description": "Invoice 42",
    }
    return CheckoutRequest(**{**given, **changes})


OPEN = payloads.session(
    id="cs_1", status="open", payment_status="unpaid", payment_intent=None, url="https://checkout.stripe.com/c/pay/cs_1"
)


async def test_a_page_is_opened_with_what_it_asks_for() -> None:
    async with stripe({"POST /v1/checkout/sessions": Reply.of(OPEN)}) as (provider, server):
        made = await provider.create_checkout(checkout())
        assert (made.state, made.url, made.payment) == (
            CheckoutState.OPEN,
            "https://checkout.stripe.com/c/pay/cs_1",
            None,
        )
        form = server.seen[0].form
        assert server.seen[0].headers["idempotency-key"] == "checkout:1"
        assert form["line_items[0][price_data][unit_amount]"] == "4999"
        assert form["payment_intent_data[metadata][key]"] == form["metadata[key]"] == "checkout:1"
        assert form["adaptive_pricing[enabled]"] == "false"


async def test_opening_a_page_again_later_finds_the_first_though_its_bounds_have_moved() -> None:
    routes: Routes = {
        "POST /v1/checkout/sessions": refusal(400, type="idempotency_error"),
        "GET /v1/checkout/sessions": page(payloads.session(id="cs_0", metadata={"key": "other"}), OPEN),
        "GET /v1/checkout/sessions/cs_1": Reply.of(OPEN),
    }
    soon = datetime.now(UTC) + timedelta(minutes=5)
    async with stripe(routes) as (provider, _):
        assert (await provider.create_checkout(checkout(expire_time=soon))).provider_reference == "cs_1"
    routes["GET /v1/checkout/sessions"] = page()
    async with stripe(routes) as (provider, _):
        with pytest.raises(ProviderRefused):
            await provider.create_checkout(checkout(expire_time=soon))


async def test_a_page_is_found_by_its_key_or_not_there_with_authority() -> None:
    def pages(seen: Seen) -> Reply:
        if dict(seen.query).get("starting_after") == "cs_0":
            return page(OPEN)
        return page(payloads.session(id="cs_0", metadata={"key": "other"}), more=True)

    routes: Routes = {"GET /v1/checkout/sessions": pages, "GET /v1/checkout/sessions/cs_1": Reply.of(OPEN)}
    since = datetime(2026, 1, 1, tzinfo=UTC)
    async with stripe(routes) as (provider, server):
        found = await provider.find_checkout(ACCOUNT, "checkout:1", since)
        assert found is not None
        assert found.provider_reference == "cs_1"
        assert await provider.find_checkout(ACCOUNT, "nobody's", since) is None
        assert dict(server.seen[0].query)["created[gte]"] == str(int(since.timestamp()) - 3600)
    routes["GET /v1/checkout/sessions"] = Reply.of({"error": {"type": "api_error"}}, 500)
    async with stripe(routes) as (provider, _):
        with pytest.raises(ProviderUnavailable):
            await provider.find_checkout(ACCOUNT, "checkout:1", since)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("succeeded", OutcomeClass.SUCCEEDED),
        ("processing", OutcomeClass.PENDING),
        ("canceled", OutcomeClass.DECLINED),
    ],
)
async def test_a_page_that_was_completed_cannot_be_closed_and_says_what_became_of_the_money(
    status: str, expected: OutcomeClass
) -> None:
    paid = payloads.payment_intent(status=status, payment_method=payloads.payment_method())
    routes: Routes = {
        "POST /v1/checkout/sessions/cs_1/expire": refusal(400),
        "GET /v1/checkout/sessions/cs_1": Reply.of(
            payloads.session(id="cs_1", payment_intent=paid, payment_status="unpaid")
        ),
    }
    async with stripe(routes) as (provider, server):
        late = await provider.expire_checkout(ACCOUNT, "cs_1")
        assert late.state is CheckoutState.COMPLETED
        assert late.payment is not None
        assert (late.payment.outcome, late.payment.provider_reference) == (expected, "pi_3MtwBwLkdIwHu7ix28a3tqPa")
        assert late.method is not None
        assert late.method.last4 == "4242"
        assert ("expand[0]", "payment_intent.payment_method") in server.seen[-1].query


async def test_an_open_page_whose_first_card_was_refused_still_waits() -> None:
    tried = payloads.payment_intent(
        status="requires_payment_method",
        last_payment_error=payloads.card_error(),
        metadata={"checkout": "checkout-1", "key": "checkout:1"},
    )
    routes: Routes = {"GET /v1/checkout/sessions/cs_1": Reply.of({**OPEN, "payment_intent": tried})}
    async with stripe(routes) as (provider, _):
        found = await provider.get_checkout(ACCOUNT, "cs_1")
        assert found.payment is not None
        assert found.payment.outcome is OutcomeClass.PENDING


async def test_a_bank_debit_that_fails_after_the_page_was_completed_is_a_decline() -> None:
    failed = payloads.payment_intent(
        status="requires_payment_method",
        last_payment_error=payloads.card_error(),
        metadata={"checkout": "checkout-1", "key": "checkout:1"},
    )
    done = payloads.session(id="cs_1", payment_status="unpaid", payment_intent=failed)
    async with stripe({"GET /v1/checkout/sessions/cs_1": Reply.of(done)}) as (provider, _):
        found = await provider.get_checkout(ACCOUNT, "cs_1")
        assert found.payment is not None
        assert found.payment.outcome is OutcomeClass.DECLINED


async def test_a_saved_method_comes_with_its_page() -> None:
    saved = payloads.setup_intent(payment_method=payloads.payment_method())
    done = payloads.session(
        id="cs_1", mode="setup", amount_total=None, currency=None, payment_intent=None, setup_intent=saved
    )
    async with stripe({"GET /v1/checkout/sessions/cs_1": Reply.of(done)}) as (provider, _):
        found = await provider.get_checkout(ACCOUNT, "cs_1")
        assert (found.mode, found.payment, found.setup_reference) == (CheckoutMode.SETUP, None, saved["id"])
        assert found.method is not None
        assert (found.method.provider_reference, found.method.last4) == (METHOD, "4242")
