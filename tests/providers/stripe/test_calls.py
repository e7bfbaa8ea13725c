"""Calls whose answers no stand-in gives as Stripe does, against answers in Stripe's shape."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dunwell_server.providers.abilities import (
    ProviderDisputeState,
    ProviderInvoiceState,
    ProviderSubscriptionState,
    RefundOutcomeClass,
    SetupState,
)
from dunwell_server.providers.base import (
    AccountMode,
    Credentials,
    CustomerRef,
    MethodKind,
    OutcomeClass,
    ProviderAccount,
    ProviderDeclined,
    ProviderRefused,
    ProviderUnavailable,
)
from dunwell_server.providers.stripe import StripeProvider, calls
from dunwell_server.providers.tracing import TracedPayment
from tests.providers.stripe.loopback import Reply, Seen
from tests.providers.stripe.support import (
    TEST_ACCOUNT,
    Routes,
    charge_request,
    intent,
    page,
    refusal,
    stripe,
)
from tests.unit.providers.stripe import payloads

ACCOUNT = TEST_ACCOUNT
CUSTOMER = CustomerRef("cus_NffrFeUfNV2Hib")
METHOD = "pm_1MtwBwLkdIwHu7ix0snN0B15"


# ---- methods


async def test_a_method_the_customer_has_already_is_attached() -> None:
    routes: Routes = {
        f"POST /v1/payment_methods/{METHOD}/attach": refusal(400),
        f"GET /v1/payment_methods/{METHOD}": Reply.of(payloads.payment_method()),
    }
    async with stripe(routes) as (provider, _):
        details = await provider.attach_method(ACCOUNT, CUSTOMER, METHOD, "attach:1")
        assert (details.provider_reference, details.kind) == (METHOD, MethodKind.CARD)
        with pytest.raises(ProviderDeclined):
            await provider.attach_method(ACCOUNT, CustomerRef("cus_other"), METHOD, "attach:2")


async def test_a_token_becomes_a_method_with_a_key_of_its_own() -> None:
    routes: Routes = {
        "POST /v1/payment_methods": Reply.of(payloads.payment_method(customer=None)),
        f"POST /v1/payment_methods/{METHOD}/attach": Reply.of(payloads.payment_method()),
    }
    async with stripe(routes) as (provider, server):
        await provider.attach_method(ACCOUNT, CUSTOMER, "tok_visa", "attach:1")
        assert [seen.headers["idempotency-key"] for seen in server.seen] == ["attach:1:method", "attach:1"]
        assert server.seen[0].form == {"type": "card", "card[token]": "tok_visa"}
        with pytest.raises(ProviderDeclined):
            await provider.attach_method(ACCOUNT, CUSTOMER, "../../v1/charges", "attach:2")
        assert len(server.seen) == 2


async def test_a_method_attached_to_nobody_is_detached() -> None:
    routes: Routes = {
        f"POST /v1/payment_methods/{METHOD}/detach": refusal(400),
        f"GET /v1/payment_methods/{METHOD}": Reply.of(payloads.payment_method(customer=None)),
    }
    async with stripe(routes) as (provider, _):
        await provider.detach_method(ACCOUNT, METHOD)
        await provider.detach_method(ACCOUNT, "pm_none")
    routes[f"GET /v1/payment_methods/{METHOD}"] = Reply.of(payloads.payment_method())
    async with stripe(routes) as (provider, _):
        with pytest.raises(ProviderRefused):
            await provider.detach_method(ACCOUNT, METHOD)


async def test_methods_of_every_kind_are_shown() -> None:
    wallet = payloads.payment_method(card={**payloads.payment_method()["card"], "wallet": {"type": "apple_pay"}})
    kinds: list[tuple[dict[str, Any], MethodKind]] = [
        ({"id": "pm_1", "type": "sepa_debit", "sepa_debit": {"last4": "3000", "country": "DE"}}, MethodKind.BANK),
        (
            {"id": "pm_2", "type": "us_bank_account", "us_bank_account": {"bank_name": "STRIPE TEST BANK"}},
            MethodKind.BANK,
        ),
        ({"id": "pm_3", "type": "upi", "upi": {"vpa": "a@okaxis"}}, MethodKind.UPI),
        ({"id": "pm_4", "type": "link", "link": {"email": "a@example.com"}}, MethodKind.WALLET),
        ({"id": "pm_5", "type": "invented"}, MethodKind.OTHER),
        (wallet, MethodKind.WALLET),
    ]
    path = f"GET /v1/customers/{CUSTOMER.provider_reference}/payment_methods"
    async with stripe({path: page(*(shape for shape, _ in kinds))}) as (provider, _):
        listed = await provider.list_methods(ACCOUNT, CUSTOMER.provider_reference)
        assert [method.kind for method in listed] == [kind for _, kind in kinds]
        assert (listed[1].brand, listed[0].last4) == ("STRIPE TEST BANK", "3000")


async def test_a_deleted_customer_says_so() -> None:
    gone = Reply.of({"id": "cus_1", "object": "customer", "deleted": True})
    async with stripe({"GET /v1/customers/cus_1": gone}) as (provider, _):
        assert (await provider.get_customer(ACCOUNT, "cus_1")).deleted


async def test_a_set_up_that_has_ended_says_how_when_it_is_cancelled() -> None:
    routes: Routes = {
        "POST /v1/setup_intents/seti_1/cancel": refusal(400, code="setup_intent_unexpected_state"),
        "GET /v1/setup_intents/seti_1": Reply.of(
            payloads.setup_intent(id="seti_1", payment_method=payloads.payment_method())
        ),
    }
    async with stripe(routes) as (provider, _):
        found = await provider.cancel_setup_intent(ACCOUNT, "seti_1")
        assert found.state is SetupState.SUCCEEDED
        assert found.method is not None
        assert found.method.last4 == "4242"


# ---- subscriptions and invoices


async def test_a_subscription_is_changed_on_its_one_item() -> None:
    routes: Routes = {
        "GET /v1/subscriptions/sub_1": Reply.of(payloads.subscription(id="sub_1")),
        "POST /v1/subscriptions/sub_1": Reply.of(payloads.subscription(id="sub_1", cancel_at_period_end=True)),
    }
    async with stripe(routes) as (provider, server):
        await provider.update_subscription(
            ACCOUNT, "sub_1", "key:1", price_reference="price_2", quantity=3, prorate=False
        )
        assert server.seen[-1].form == {
            "items[0][id]": "si_Na6dzxczY5fwHx",
            "items[0][price]": "price_2",
            "items[0][quantity]": "3",
            "proration_behavior": "none",
        }
        assert server.seen[-1].headers["idempotency-key"] == "key:1"
        await provider.update_subscription(ACCOUNT, "sub_1", "key:2")
        assert server.seen[-1].method == "GET", "nothing to change, nothing sent"
        at_end = await provider.cancel_subscription(ACCOUNT, "sub_1", at_period_end=True)
        assert at_end.cancel_at_period_end
    two = payloads.subscription(id="sub_1")
    two["items"]["data"] *= 2
    async with stripe({**routes, "GET /v1/subscriptions/sub_1": Reply.of(two)}) as (provider, server):
        with pytest.raises(ProviderRefused):
            await provider.update_subscription(ACCOUNT, "sub_1", "key:3", quantity=3)
        assert [seen.method for seen in server.seen] == ["GET"]


async def test_ending_a_subscription_that_has_ended_changes_nothing() -> None:
    ended = Reply.of(payloads.subscription(id="sub_1", status="canceled", canceled_at=payloads.CREATED))
    routes: Routes = {
        "DELETE /v1/subscriptions/sub_1": refusal(404, code="resource_missing"),
        "GET /v1/subscriptions/sub_1": ended,
    }
    async with stripe(routes) as (provider, _):
        found = await provider.cancel_subscription(ACCOUNT, "sub_1", at_period_end=False)
        assert found.state is ProviderSubscriptionState.CANCELLED
    routes["GET /v1/subscriptions/sub_1"] = Reply.of(payloads.subscription(id="sub_1"))
    async with stripe(routes) as (provider, _):
        with pytest.raises(ProviderRefused):
            await provider.cancel_subscription(ACCOUNT, "sub_1", at_period_end=False)


async def test_all_of_a_customers_subscriptions_are_adopted_ended_ones_too() -> None:
    def pages(seen: Seen) -> Reply:
        query = dict(seen.query)
        assert (query["customer"], query["status"]) == ("cus_1", "all")
        if "starting_after" in query:
            return page(payloads.subscription(id="sub_2", status="canceled"))
        return page(payloads.subscription(id="sub_1"), more=True)

    async with stripe({"GET /v1/subscriptions": pages}) as (provider, _):
        found = await provider.list_subscriptions(ACCOUNT, "cus_1")
        assert [subscription.provider_reference for subscription in found] == ["sub_1", "sub_2"]


async def test_invoices_come_in_pages() -> None:
    def pages(seen: Seen) -> Reply:
        if dict(seen.query).get("starting_after") == "in_1":
            return page(payloads.invoice(id="in_2", status="open"))
        return page(payloads.invoice(id="in_1"), more=True)

    async with stripe({"GET /v1/invoices": pages}) as (provider, _):
        first, token = await provider.list_invoices(ACCOUNT, subscription_reference="sub_1")
        assert (first[0].provider_reference, first[0].state, token) == ("in_1", ProviderInvoiceState.PAID, "in_1")
        second, token = await provider.list_invoices(ACCOUNT, subscription_reference="sub_1", page=token)
        assert (second[0].state, token) == (ProviderInvoiceState.OPEN, None)


# ---- disputes


async def test_evidence_is_uploaded_staged_submitted_and_a_dispute_given_up() -> None:
    reviewed = Reply.of(payloads.dispute(id="du_1", status="under_review"))
    routes: Routes = {
        "POST /v1/files": Reply.of({"id": "file_1", "object": "file"}),
        "POST /v1/disputes/du_1": reviewed,
        "POST /v1/disputes/du_1/close": Reply.of(payloads.dispute(id="du_1", status="lost")),
    }
    async with stripe({}) as (_, elsewhere), stripe(routes) as (_, files):
        provider = StripeProvider(elsewhere.url, files.url)
        file = await provider.upload_evidence_file(ACCOUNT, "log", "application/pdf", b"%PDF-1.7\x00\xff", "file:1")
        assert file == "file_1"
        assert not elsewhere.seen, "files have an address of their own"
        [upload] = files.seen
        assert upload.headers["idempotency-key"] == "file:1"
        assert b"%PDF-1.7\x00\xff" in upload.body
        assert b'filename="log.pdf"' in upload.body
        assert b"dispute_evidence" in upload.body
        await provider.close()
    async with stripe(routes) as (provider, server):
        staged = await provider.stage_evidence(ACCOUNT, "du_1", {"access_activity_log": "signed in"}, "stage:1")
        assert staged.state is ProviderDisputeState.UNDER_REVIEW
        await provider.submit_evidence(ACCOUNT, "du_1", {"service_documentation": "file_1"}, "submit:1")
        assert [seen.form["submit"] for seen in server.seen] == ["false", "true"]
        assert server.seen[0].form["evidence[access_activity_log]"] == "signed in"
        lost = await provider.accept_dispute(ACCOUNT, "du_1", "accept:1")
        assert lost.state is ProviderDisputeState.LOST


# ---- lists


async def test_a_long_span_is_read_in_slices_oldest_first() -> None:
    created = [payloads.CREATED + second for second in (0, 0, 0, 1, 5, 5, 60, 3600, 3600, 7200)]
    book = [payloads.payment_intent(id=f"pi_{n}", created=moment) for n, moment in enumerate(created)]

    def pages(seen: Seen) -> Reply:
        query = dict(seen.query)
        first, last = int(query["created[gte]"]), int(query["created[lt]"])
        found = [item for item in reversed(book) if first <= item["created"] < last]
        if "starting_after" in query:
            found = found[[item["id"] for item in found].index(query["starting_after"]) + 1 :]
        return page(*found[:2], more=len(found) > 2)

    since = datetime.fromtimestamp(payloads.CREATED, UTC)
    async with stripe({"GET /v1/payment_intents": pages}) as (provider, server):
        listed: list[str] = []
        token: str | None = None
        while True:
            found = await provider.list_payments(ACCOUNT, since, since + timedelta(seconds=7200), token)
            listed += [payment.provider_reference for payment in found.payments]
            token = found.next_page
            if token is None:
                break
        assert listed == [f"pi_{n}" for n in (0, 1, 2, 3, 4, 5, 6, 7, 8)]
        assert len(server.seen) < 80


async def test_a_search_that_is_too_long_is_given_up_and_never_finds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_PAGES", 3)
    endless = page(payloads.payment_intent(metadata={}), more=True)
    routes: Routes = {
        f"GET /v1/{path}": endless
        for path in (
            "payment_intents",
            "refunds",
            "checkout/sessions",
            "subscriptions",
            "customers/cus_1/payment_methods",
        )
    }
    async with stripe(routes) as (provider, server):
        payment = await provider.lookup(ACCOUNT, key="k")
        assert payment is not None
        assert payment.outcome is OutcomeClass.UNKNOWN
        assert len(server.seen) == 3
        refund = await provider.lookup_refund(ACCOUNT, key="k", payment_reference="pi_1")
        assert refund is not None
        assert refund.outcome is RefundOutcomeClass.UNKNOWN
        for call in (
            provider.find_checkout(ACCOUNT, "k", datetime(2026, 1, 1, tzinfo=UTC)),
            provider.list_refunds(ACCOUNT, payment_reference="pi_1"),
            provider.list_methods(ACCOUNT, "cus_1"),
            provider.list_subscriptions(ACCOUNT, "cus_1"),
        ):
            with pytest.raises(ProviderUnavailable):
                await call


async def test_a_foreign_currency_does_not_stop_the_list_but_one_of_ours_is_never_dropped() -> None:
    foreign = payloads.payment_intent(id="pi_1", currency="zzz", metadata={})
    since = datetime.fromtimestamp(payloads.CREATED, UTC)
    async with stripe({"GET /v1/payment_intents": page(foreign, payloads.payment_intent())}) as (provider, _):
        found = await provider.list_payments(ACCOUNT, since, since + timedelta(days=1))
        assert len(found.payments) == 1
    ours = payloads.payment_intent(currency="zzz")
    async with stripe({"GET /v1/payment_intents": page(ours)}) as (provider, _):
        with pytest.raises(ProviderUnavailable):
            await provider.list_payments(ACCOUNT, since, since + timedelta(days=1))


async def test_refunds_of_others_do_not_stop_the_list_but_one_of_ours_is_never_dropped() -> None:
    """Of a customer's balance, in coins, in a state of next year: whoever reconciles goes on past them."""
    others = [
        payloads.refund(id="re_1", payment_intent=None, charge=None, metadata={}),
        payloads.refund(id="re_2", currency="usdc", metadata={}),
        payloads.refund(id="re_3", status="invented", metadata={}),
        payloads.refund(id="re_4", currency="isk", amount=501, metadata={}),
    ]
    since = datetime.fromtimestamp(payloads.CREATED, UTC)
    until = since + timedelta(days=1)
    async with stripe({"GET /v1/refunds": page(*others, payloads.refund(id="re_5"))}) as (provider, _):
        found = await provider.list_refunds(ACCOUNT, since=since, until=until)
        assert [each.provider_reference for each in found.refunds] == ["re_5"]
    for other in others:
        ours = {**other, "metadata": {"key": "v1:x:1"}}
        async with stripe({"GET /v1/refunds": page(ours)}) as (provider, _):
            with pytest.raises(ProviderUnavailable):
                await provider.list_refunds(ACCOUNT, since=since, until=until)


async def test_a_payment_is_traced_from_its_own_id_and_from_its_charge() -> None:
    intent = payloads.payment_intent(id="pi_1", customer="cus_1", metadata={"firm": "f"})
    routes: Routes = {
        "GET /v1/payment_intents/pi_1": Reply.of(intent),
        "GET /v1/charges/ch_1": Reply.of(payloads.charge(id="ch_1", payment_intent=intent, customer="cus_1", metadata={"a": "b"})),
        "GET /v1/charges/ch_2": Reply.of(payloads.charge(id="ch_2", payment_intent=None, customer=None, metadata={})),
        "GET /v1/charges/ch_3": Reply.of({"object": "charge"}),
    }  # fmt: skip
    async with stripe(routes) as (provider, server):
        by_id = await provider.trace_payment(ACCOUNT, "pi_1")
        assert by_id == TracedPayment("pi_1", {"firm": "f"} | dict(intent["metadata"]), "cus_1")
        assert by_id.is_ours
        assert await provider.trace_payment(ACCOUNT, "ch_1") == TracedPayment("pi_1", {"a": "b", "firm": "f"}, "cus_1")
        alone = await provider.trace_payment(ACCOUNT, "ch_2")
        assert alone == TracedPayment("ch_2", {}, None)
        assert not alone.is_ours
        assert await provider.trace_payment(ACCOUNT, "pi_unknown") is None
        seen = len(server.seen)
        assert await provider.trace_payment(ACCOUNT, "../customers") is None
        assert len(server.seen) == seen
        with pytest.raises(ProviderUnavailable):
            await provider.trace_payment(ACCOUNT, "ch_3")


async def test_listed_events_are_as_they_are_sent() -> None:
    one = payloads.event("payment_intent.succeeded", payloads.payment_intent())
    two = {**payloads.event("customer.created", payloads.customer(name="Zoë ☂")), "id": "evt_2"}

    def pages(seen: Seen) -> Reply:
        return page(two) if dict(seen.query).get("starting_after") == one["id"] else page(one, more=True)

    since = datetime(2026, 1, 1, tzinfo=UTC)
    async with stripe({"GET /v1/events": pages}) as (provider, _):
        first = await provider.list_events(ACCOUNT, since, since + timedelta(days=1))
        [(signed, raw)] = first.events
        assert (signed.event_id, signed.type, json.loads(raw)) == (one["id"], one["type"], one)
        assert provider.normalise(raw).notices
        second = await provider.list_events(ACCOUNT, since, since + timedelta(days=1), first.next_page)
        assert (json.loads(second.events[0][1]), second.next_page) == (two, None)
    async with stripe({"GET /v1/events": Reply(200, b"<html>")}) as (provider, _):
        with pytest.raises(ProviderUnavailable):
            await provider.list_events(ACCOUNT, since, since + timedelta(days=1))


# ---- accounts and secrets


async def test_accounts_speak_with_their_own_keys_at_once_after_rotation() -> None:
    request = charge_request()
    async with stripe({"POST /v1/payment_intents": Reply.of(intent(request))}) as (provider, server):
        for secret in ("sk_test_old", "sk_test_new", "rk_test_other", "sk_test_old"):
            account = ProviderAccount("a", "stripe", AccountMode.TEST, Credentials({"secret_key": secret}))
            await provider.charge(charge_request(account=account, key=request.key))
        sent = [seen.headers["authorization"] for seen in server.seen]
        assert sent == [f"Bearer {s}" for s in ("sk_test_old", "sk_test_new", "rk_test_other", "sk_test_old")]


async def test_bodies_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    request = charge_request(description="canary-description")
    answer = Reply.of(intent(request, client_secret="canary-secret"))
    async with stripe({"POST /v1/payment_intents": answer}) as (provider, _):
        with caplog.at_level(logging.DEBUG):
            outcome = await provider.charge(request)
    assert caplog.records
    shown = [record.getMessage() for record in caplog.records] + [repr(outcome)]
    assert not [text for text in shown if "canary" in text]
