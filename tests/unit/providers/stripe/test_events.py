"""What each of Stripe's events says, in present and older shapes; and what is no event."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dunwell_server.kernel.money import Money
from dunwell_server.providers.abilities import (
    CheckoutMode,
    CheckoutState,
    ProviderDispute,
    ProviderDisputeState,
    ProviderInvoice,
    ProviderInvoiceState,
    ProviderSubscription,
    ProviderSubscriptionState,
    RefundOutcomeClass,
    SetupState,
)
from dunwell_server.providers.events import (
    CheckoutNotice,
    CustomerNotice,
    DisputeNotice,
    InvoiceNotice,
    MethodChange,
    MethodNotice,
    NormalisedEvent,
    Notice,
    PaymentNotice,
    RefundNotice,
    RefundTotalNotice,
    SetupNotice,
    SubscriptionNotice,
)
from dunwell_server.providers.outcomes import DeclineClass, FailureCode, OutcomeClass
from dunwell_server.providers.stripe import HANDLED
from dunwell_server.providers.stripe.events_map import normalise
from tests.unit.providers.stripe.payloads import (
    CREATED,
    EVENTS,
    KEPT,
    charge,
    customer,
    dispute,
    event,
    invoice,
    payment_intent,
    payment_method,
    refund,
    session,
    setup_intent,
    subscription,
)


def read(kind: str, subject: dict[str, Any], **changes: Any) -> NormalisedEvent:
    return normalise(json.dumps(event(kind, subject, **changes)).encode())


def only(kind: str, subject: dict[str, Any], **changes: Any) -> Any:
    [notice] = read(kind, subject, **changes).notices
    return notice


KINDS: dict[str, type[Notice]] = {
    "payment_intent": PaymentNotice,
    "setup_intent": SetupNotice,
    "invoice": InvoiceNotice,
    "charge.refunded": RefundTotalNotice,
    "charge.refund.updated": RefundNotice,
    "refund": RefundNotice,
    "charge.dispute": DisputeNotice,
    "customer.subscription": SubscriptionNotice,
    "customer": CustomerNotice,
    "payment_method": MethodNotice,
    "checkout.session": CheckoutNotice,
}


@pytest.mark.parametrize("kind", sorted(EVENTS))
def test_each_event_gives_its_notice_and_tells_whose_it_is(kind: str) -> None:
    found = read(kind, EVENTS[kind])
    assert (found.event_id, found.type) == ("evt_1MqqbKLt4dXK03v5qaIbiNCC", kind)
    assert found.create_time == datetime.fromtimestamp(CREATED + 10, UTC)
    [notice] = found.notices
    expected = KINDS.get(kind) or next(
        KINDS[p] for p in sorted(KINDS, key=len, reverse=True) if kind.startswith(p + ".")
    )
    assert isinstance(notice, expected)
    assert found.references[0] == EVENTS[kind]["id"]
    if not kind.startswith(("charge.dispute", "payment_method")):
        assert found.firm == "firm-1"
    assert kind in HANDLED


@pytest.mark.parametrize("kind", sorted(KEPT))
def test_other_events_are_kept_with_their_references_and_say_nothing(kind: str) -> None:
    found = read(kind, KEPT[kind])
    assert (found.type, found.notices) == (kind, ())
    if "id" in KEPT[kind]:
        assert KEPT[kind]["id"] in found.references


def test_references_name_all_that_leads_to_the_firm() -> None:
    assert read("charge.dispute.created", dispute()).references == (
        "du_1MtJUT2eZvKYlo2CNaw2HvEv",
        "pi_3MtwBwLkdIwHu7ix28a3tqPa",
        "ch_3MtwBwLkdIwHu7ix0snN0B15",
    )
    assert {"cus_NffrFeUfNV2Hib", "sub_1MowQVLkdIwHu7ixeRlqHVzs", "pi_3MtwBwLkdIwHu7ix28a3tqPa"} <= set(
        read("invoice.paid", invoice()).references
    )
    detached = read("payment_method.detached", payment_method(customer=None), previous_attributes={"customer": "cus_9"})
    assert "cus_9" in detached.references


def test_a_payment_that_succeeded() -> None:
    notice = only("payment_intent.succeeded", payment_intent())
    assert (notice.key, notice.customer_reference) == ("v1:payment-1:1", "cus_NffrFeUfNV2Hib")
    assert notice.outcome.outcome is OutcomeClass.SUCCEEDED
    assert notice.outcome.money == Money("USD", 4999)
    assert only("payment_intent.succeeded", payment_intent(metadata={})).key is None


def test_a_payment_that_failed_keeps_the_codes_and_shows_no_secret_of_the_network() -> None:
    notice = only("payment_intent.payment_failed", EVENTS["payment_intent.payment_failed"])
    outcome = notice.outcome
    assert (outcome.outcome, outcome.failure_code) == (OutcomeClass.DECLINED, FailureCode.INSUFFICIENT_FUNDS)
    assert (outcome.decline_class, outcome.network_code) == (DeclineClass.SOFT, "51")
    lost = payment_intent(
        status="requires_payment_method", last_payment_error={"code": "card_declined", "decline_code": "lost_card"}
    )
    outcome = only("payment_intent.payment_failed", lost).outcome
    assert outcome.decline_class is DeclineClass.HARD
    assert "lost" not in outcome.message


def test_a_refused_try_on_a_hosted_page_is_not_the_end_of_its_payment() -> None:
    declined = EVENTS["payment_intent.payment_failed"]
    on_a_page = {**declined, "metadata": {**declined["metadata"], "checkout": "checkout-1"}}
    assert only("payment_intent.payment_failed", on_a_page).outcome.outcome is OutcomeClass.PENDING


def test_payments_of_older_versions() -> None:
    old = payment_intent(status="requires_source", last_payment_error={"code": "card_declined"})
    assert only("payment_intent.payment_failed", old).outcome.outcome is OutcomeClass.DECLINED
    charges = {"object": "list", "data": [charge()], "has_more": False}
    assert only("payment_intent.succeeded", payment_intent(charges=charges)).outcome.outcome is OutcomeClass.SUCCEEDED


def test_a_method_saved_or_refused() -> None:
    details = only("setup_intent.succeeded", setup_intent()).details
    assert (details.state, details.metadata["setup"]) == (SetupState.SUCCEEDED, "setup-1")
    assert details.method.provider_reference == "pm_1MtwBwLkdIwHu7ix0snN0B15"
    assert details.client_secret is None
    failed = only("setup_intent.setup_failed", EVENTS["setup_intent.setup_failed"]).details
    assert (failed.state, failed.failure_code) == (SetupState.FAILED, "insufficient_funds")


def mirrored(subject: dict[str, Any]) -> ProviderInvoice:
    found: ProviderInvoice = only("invoice.payment_succeeded", subject).invoice
    return found


def test_an_invoice_of_the_present_and_of_older_versions() -> None:
    now = mirrored(invoice())
    assert (now.state, now.number, now.attempt_count) == (ProviderInvoiceState.PAID, "ABC-0001", 1)
    assert (now.total, now.amount_paid) == (Money("USD", 2000), Money("USD", 2000))
    assert now.paid_time == datetime.fromtimestamp(CREATED + 2, UTC)
    assert (now.subscription_reference, now.payment_reference) == (
        "sub_1MowQVLkdIwHu7ixeRlqHVzs",
        "pi_3MtwBwLkdIwHu7ix28a3tqPa",
    )
    old = {k: v for k, v in invoice().items() if k not in ("parent", "payments")}
    for details in ({}, {"subscription_details": {"metadata": {"firm": "firm-1"}}}):
        then = mirrored(
            {
                **old,
                **details,
                "subscription": "sub_1MowQVLkdIwHu7ixeRlqHVzs",
                "payment_intent": "pi_3MtwBwLkdIwHu7ix28a3tqPa",
            }
        )
        assert (then.subscription_reference, then.payment_reference) == (
            now.subscription_reference,
            now.payment_reference,
        )
    of_charge = mirrored({**old, "charge": "ch_1", "subscription": None})
    assert (of_charge.payment_reference, of_charge.subscription_reference) == ("ch_1", None)
    several = invoice()
    several["payments"]["data"] = [
        {"status": "canceled", "is_default": True, "payment": {"payment_intent": "pi_old"}},
        {"status": "paid", "is_default": False, "payment": {"payment_intent": {"id": "pi_new"}}},
    ]
    assert mirrored(several).payment_reference == "pi_new"


def test_refunds_are_named_where_the_charge_has_them_and_summed_where_it_has_not() -> None:
    total = only("charge.refunded", charge())
    assert total == RefundTotalNotice("pi_3MtwBwLkdIwHu7ix28a3tqPa", Money("USD", 1000))
    two = [refund(), refund(id="re_2", amount=500, status=None)]
    embedded = {"object": "list", "data": two, "has_more": False}
    notices = read("charge.refunded", charge(refunds=embedded, amount_refunded=1500)).notices
    assert [n.refund.money.minor for n in notices if isinstance(n, RefundNotice)] == [1000, 500]
    assert {n.refund.payment_reference for n in notices if isinstance(n, RefundNotice)} == {
        "pi_3MtwBwLkdIwHu7ix28a3tqPa"
    }
    for incomplete in ({"data": two, "has_more": True}, {"data": [], "has_more": False}, None):
        assert isinstance(only("charge.refunded", charge(refunds=incomplete)), RefundTotalNotice)
    before_intents = charge(payment_intent=None)
    assert only("charge.refunded", before_intents).payment_reference == "ch_3MtwBwLkdIwHu7ix0snN0B15"


def test_a_refund_that_fails_later_says_why() -> None:
    outcome = only("refund.failed", EVENTS["refund.failed"]).refund.outcome
    assert (outcome.outcome, outcome.provider_code) == (RefundOutcomeClass.FAILED, "lost_or_stolen_card")
    assert only("refund.updated", refund(status="canceled")).refund.outcome.outcome is RefundOutcomeClass.FAILED
    assert only("refund.created", refund(status="requires_action")).refund.outcome.outcome is RefundOutcomeClass.PENDING


def disputed(kind: str = "charge.dispute.updated", **changes: Any) -> ProviderDispute:
    found: ProviderDispute = only(kind, dispute(**changes)).dispute
    return found


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("warning_needs_response", ProviderDisputeState.INQUIRY_NEEDS_RESPONSE),
        ("warning_under_review", ProviderDisputeState.INQUIRY_UNDER_REVIEW),
        ("warning_closed", ProviderDisputeState.INQUIRY_CLOSED),
        ("needs_response", ProviderDisputeState.NEEDS_RESPONSE),
        ("under_review", ProviderDisputeState.UNDER_REVIEW),
        ("appeal_needs_response", ProviderDisputeState.NEEDS_RESPONSE),
        ("appeal_under_review", ProviderDisputeState.UNDER_REVIEW),
        ("won", ProviderDisputeState.WON),
        ("lost", ProviderDisputeState.LOST),
        ("prevented", ProviderDisputeState.PREVENTED),
    ],
)
def test_each_state_of_a_dispute(status: str, state: ProviderDisputeState) -> None:
    assert disputed(status=status).state is state


def test_the_money_of_a_dispute() -> None:
    opened = disputed("charge.dispute.created")
    assert (opened.money, opened.fee, opened.funds_withdrawn) == (Money("USD", 1000), Money("USD", 1500), True)
    assert opened.respond_by == datetime.fromtimestamp(CREATED + 864_000, UTC)
    [taken] = dispute()["balance_transactions"]
    back = {**taken, "id": "txn_2", "amount": 1000, "fee": -1500, "net": 2500, "reporting_category": "dispute_reversal"}
    won = disputed("charge.dispute.closed", status="won", balance_transactions=[taken, back])
    assert (won.fee, won.funds_withdrawn) == (Money("USD", 0), False)
    inquiry = disputed(status="warning_needs_response", balance_transactions=[])
    assert (inquiry.fee, inquiry.funds_withdrawn) == (None, False)
    silent = disputed(balance_transactions=["txn_1"])
    assert (silent.fee, silent.funds_withdrawn) == (None, True)
    assert not disputed("charge.dispute.funds_reinstated").funds_withdrawn
    assert disputed("charge.dispute.funds_withdrawn", balance_transactions=[]).funds_withdrawn
    assert disputed(evidence_details={"due_by": 0}).respond_by is None
    assert disputed(payment_intent=None).payment_reference == "ch_3MtwBwLkdIwHu7ix0snN0B15"
    foreign = disputed(balance_transactions=[{**taken, "currency": "eur"}])
    assert foreign.fee == Money("EUR", 1500)


def test_a_customer_that_was_deleted() -> None:
    assert not only("customer.updated", customer()).deleted
    gone = only("customer.deleted", customer())
    assert (gone.deleted, gone.email) == (True, "pay@example.com")


def followed(**changes: Any) -> ProviderSubscription:
    found: ProviderSubscription = only("customer.subscription.updated", subscription(**changes)).subscription
    return found


def test_a_subscription_of_the_present_and_of_older_versions() -> None:
    now = followed()
    assert (now.state, now.price_reference, now.quantity) == (
        ProviderSubscriptionState.ACTIVE,
        "price_1MowQULkdIwHu7ixraBm864M",
        2,
    )
    assert now.current_period_end == datetime.fromtimestamp(CREATED + 2_678_400, UTC)
    item = {"id": "si_1", "plan": {"id": "plan_1"}, "quantity": 3}
    then = followed(items={"data": [item]}, current_period_start=CREATED, current_period_end=CREATED + 86_400)
    assert (then.price_reference, then.quantity) == ("plan_1", 3)
    assert then.current_period_end == datetime.fromtimestamp(CREATED + 86_400, UTC)
    assert followed(items=None, plan={"id": "plan_0"}, quantity=4).quantity == 4
    assert followed(pause_collection={"behavior": "void"}).state is ProviderSubscriptionState.PAUSED
    assert followed(status="unpaid").state is ProviderSubscriptionState.PAST_DUE
    assert followed(status="incomplete_expired").state is ProviderSubscriptionState.EXPIRED


def test_a_method_that_was_detached_names_whose_it_was() -> None:
    gone = only("payment_method.detached", payment_method(customer=None), previous_attributes={"customer": "cus_9"})
    assert (gone.change, gone.customer_reference) == (MethodChange.DETACHED, "cus_9")
    renewed = only("payment_method.automatically_updated", payment_method())
    assert (renewed.change, renewed.method.exp_year, renewed.method.last4) == (MethodChange.UPDATED, 2030, "4242")


def test_hosted_pages() -> None:
    done = only("checkout.session.completed", session()).details
    assert (done.mode, done.state) == (CheckoutMode.PAYMENT, CheckoutState.COMPLETED)
    assert done.payment.outcome is OutcomeClass.SUCCEEDED
    assert (done.payment.money, done.payment.provider_reference) == (Money("USD", 4999), "pi_3MtwBwLkdIwHu7ix28a3tqPa")
    waiting = only("checkout.session.completed", session(payment_status="unpaid")).details
    assert waiting.payment.outcome is OutcomeClass.PENDING
    gone = only("checkout.session.expired", EVENTS["checkout.session.expired"]).details
    assert gone.state is CheckoutState.EXPIRED
    assert gone.payment.ends_unpaid
    failed = only("checkout.session.async_payment_failed", session(payment_status="unpaid")).details
    assert failed.payment.outcome is OutcomeClass.DECLINED
    nothing = {"amount_total": None, "currency": None, "payment_intent": None, "payment_status": "no_payment_required"}
    saved = only("checkout.session.completed", session(mode="setup", setup_intent="seti_1", **nothing)).details
    assert (saved.mode, saved.setup_reference, saved.payment) == (CheckoutMode.SETUP, "seti_1", None)
    subscribed = only("checkout.session.completed", session(mode="subscription", subscription="sub_1")).details
    assert (subscribed.subscription_reference, subscribed.payment) == ("sub_1", None)
    expanded = only("checkout.session.completed", session(payment_intent=payment_intent())).details
    assert expanded.payment.outcome is OutcomeClass.SUCCEEDED


def test_thin_events_are_kept_with_their_type() -> None:
    thin = {
        "id": "evt_test_65R9Ijk8dKEYZcXeRWn16R9A7j1FSQ3w3TGDPLLGSM4CW0",
        "object": "v2.core.event",
        "type": "v1.billing.meter.error_report_triggered",
        "livemode": False,
        "created": "2024-09-17T06:20:52.246Z",
        "related_object": {"id": "mtr_1", "type": "billing.meter", "url": "/v1/billing/meters/mtr_1"},
    }
    found = normalise(json.dumps(thin).encode())
    assert (found.type, found.notices, found.references) == (thin["type"], (), ("mtr_1",))
    assert found.create_time == datetime(2024, 9, 17, 6, 20, 52, 246000, UTC)


@pytest.mark.parametrize(
    ("kind", "subject"),
    [
        ("refund.updated", refund(status="invented")),
        ("charge.dispute.updated", dispute(status="invented")),
        ("customer.subscription.updated", subscription(status="invented")),
        ("setup_intent.succeeded", setup_intent(status="invented")),
        ("payment_intent.processing", payment_intent(status="invented")),
        ("checkout.session.completed", session(mode="invented")),
        ("invoice.updated", invoice(status="invented")),
    ],
)
def test_a_state_nobody_knew_of_is_kept_without_a_notice(kind: str, subject: dict[str, Any]) -> None:
    assert read(kind, subject).notices == ()


@pytest.mark.parametrize(
    ("kind", "subject"),
    [
        ("payment_intent.succeeded", payment_intent(currency="usdc", metadata={})),
        ("payment_intent.succeeded", payment_intent(currency="isk", amount=501, amount_received=501, metadata={})),
        ("refund.created", refund(currency="usdc", metadata={})),
        ("refund.created", refund(payment_intent=None, charge=None, metadata={})),
        ("charge.dispute.created", dispute(currency="usdc")),
    ],
)
def test_money_that_cannot_be_held_and_bears_no_key_of_ours_is_anothers(kind: str, subject: dict[str, Any]) -> None:
    assert read(kind, subject).notices == ()
    if kind == "payment_intent.succeeded":
        with pytest.raises(ValueError, match="cannot be read"):
            read(kind, {**subject, "metadata": {"key": "v1:x:1"}})


def test_what_happens_at_a_connected_account_is_none_of_ours() -> None:
    body = event("payment_intent.succeeded", payment_intent())
    assert normalise(json.dumps(body).encode()).notices
    found = normalise(json.dumps({**body, "account": "acct_1"}).encode())
    assert (found.notices, found.firm, found.references) == ((), None, ())
    assert (found.event_id, found.type) == (body["id"], "payment_intent.succeeded")


@pytest.mark.parametrize("odd", ["\\u0000", "\\ud83d", "\\udc00\\ud800", "\\uDFFF"])
def test_characters_that_are_none_are_replaced(odd: str) -> None:
    body = json.dumps(event("customer.updated", customer(name="ODD", metadata={"ODD": "🙂"})))
    [notice] = normalise(body.replace("ODD", f"a{odd}b").encode()).notices
    assert isinstance(notice, CustomerNotice)
    assert notice.name is not None
    assert set(notice.name) == {"a", "b", "\N{REPLACEMENT CHARACTER}"}
    assert list(notice.metadata.items()) == [(notice.name, "🙂")]
    notice.name.encode()


def test_characters_beyond_the_first_plane_are_kept() -> None:
    body = json.dumps(event("customer.updated", customer(name="ODD")))
    [notice] = normalise(body.replace("ODD", "\\ud83d\\ude42").encode()).notices
    assert isinstance(notice, CustomerNotice)
    assert notice.name == "🙂"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"type": "payment_intent.succeeded"}',
        b'{"type": 1, "data": {"object": {}}}',
        b'{"type": "payment_intent.succeeded", "data": {"object": {}}}',
        b'{"type": "payment_intent.succeeded", "data": {"object": "pi_1"}}',
        b'{"type":"payment_intent.succeeded","data":{"object":{"id":"pi_1","status":"succeeded","amount":1e99,"currency":"usd"}}}',
        b'{"type":"payment_intent.succeeded","data":{"object":{"id":"pi_1","status":"succeeded","amount":1,"currency":"zzz",'
        b'"metadata":{"key":"v1:1:1"}}}}',
        b'{"a":' * 100_000,
        b'{"type": "x", "created": 99999999999999999999, "data": {"object": {}}}',
    ],
)
def test_what_is_no_event_raises_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        normalise(body)


_SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=True) | st.text(max_size=8)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


def _paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(path for key, item in inner for path in _paths(item, (*at, key)))]


def _changed(value: Any, path: tuple[Any, ...], new: Any, remove: bool) -> Any:
    if not path:
        return new
    first, rest = path[0], path[1:]
    if isinstance(value, dict):
        if remove and not rest:
            return {key: item for key, item in value.items() if key != first}
        return {key: _changed(item, rest, new, remove) if key == first else item for key, item in value.items()}
    return [_changed(item, rest, new, remove) if n == first else item for n, item in enumerate(value)]


@settings(max_examples=600, deadline=None)
@given(data=st.data())
def test_a_damaged_event_is_read_or_raises_value_error(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(EVENTS)))
    body: Any = event(kind, EVENTS[kind])
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(_paths(body)))
        body = _changed(body, path, data.draw(_VALUES), data.draw(st.booleans()))
    raw = json.dumps(body).encode()
    if data.draw(st.integers(0, 9)) == 0:
        raw = raw[: data.draw(st.integers(0, len(raw)))]
    try:
        found = normalise(raw)
    except ValueError:
        return
    assert isinstance(found.type, str)
    assert all(isinstance(reference, str) and reference for reference in found.references)
    assert found.firm is None or isinstance(found.firm, str)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_are_read_or_raise_value_error(raw: bytes) -> None:
    try:
        normalise(raw)
    except ValueError:
        return
