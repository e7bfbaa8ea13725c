"""Webhooks of the sandbox: whose signature counts, and what events say."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwell_server.kernel.money import Money
from dunwell_server.providers.abilities import RefundOutcomeClass, SignatureRefused
from dunwell_server.providers.accounts import AccountMode, Credentials, ProviderAccount
from dunwell_server.providers.events import CustomerNotice, MethodChange, MethodNotice, PaymentNotice, RefundNotice
from dunwell_server.providers.outcomes import OutcomeClass
from dunwell_server.providers.sandbox import SandboxProvider
from dunwell_server.providers.sandbox.refunds import refund_answer, refund_outcome
from dunwell_server.sandbox.webhooks import signature_header

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ACCOUNT = ProviderAccount("acc", "sandbox", AccountMode.TEST, Credentials({"secret_key": "sk_test_a"}))
PAYMENT: dict[str, Any] = {
    "id": "pay_1",
    "object": "payment",
    "status": "succeeded",
    "amount": 100,
    "currency": "USD",
    "amount_received": 100,
    "customer": "cus_1",
    "key": "v1:p:1",
    "metadata": {"firm": "firm-1", "payment": "p"},
    "last_payment_error": None,
    "cancellation_reason": None,
    "next_action": None,
    "created": "2026-03-01T12:00:00.000Z",
}
REFUND: dict[str, Any] = {
    "id": "re_1",
    "object": "refund",
    "status": "succeeded",
    "amount": 40,
    "currency": "USD",
    "payment": "pay_1",
    "key": "refund:1",
    "failure_reason": None,
    "metadata": {"firm": "firm-1"},
    "created": "2026-03-01T12:00:00.000Z",
}


@pytest.fixture(scope="module")
def provider() -> SandboxProvider:
    return SandboxProvider("http://127.0.0.1:9")


def event(kind: str, subject: Any, **more: Any) -> bytes:
    created = "2026-03-01T12:00:00.000Z"
    body = {
        "id": "evt_1",
        "object": "event",
        "type": kind,
        "account": "a",
        "created": created,
        "data": {"object": subject},
    }
    return json.dumps(body | more).encode()


def header(secret: str, body: bytes, at: datetime = NOW) -> dict[str, str]:
    return {"dunwell-sandbox-signature": signature_header((secret,), int(at.timestamp()), body)}


async def test_any_live_secret_will_do(provider: SandboxProvider) -> None:
    body = event("payment.succeeded", PAYMENT)
    for secrets in (["new", "old"], ["old", "new"], ["", "old"]):
        signed = await provider.verify(ACCOUNT, secrets, body, header("old", body), NOW)
        assert (signed.event_id, signed.type, signed.create_time) == ("evt_1", "payment.succeeded", NOW)


async def test_the_gateways_signature_is_the_published_scheme() -> None:
    body, at = b'{"a":1}', 1_700_000_000
    expected = hmac.new(b"whsec_x", b'1700000000.{"a":1}', hashlib.sha256).hexdigest()
    assert signature_header(("whsec_x",), at, body) == f"t=1700000000,v1={expected}"


@pytest.mark.parametrize(
    ("secrets", "change", "why"),
    [
        ([], None, "no secret"),
        (["", "  "], None, "no secret"),
        (["other"], None, "no matching signature"),
        (["s"], "", "missing signature"),
        (["s"], "t=1", "malformed signature"),
        (["s"], "v1=" + "a" * 64, "malformed signature"),
        (["s"], "t=x,v1=" + "a" * 64, "malformed signature"),
        (["s"], "t=1,t=2,v1=" + "a" * 64, "malformed signature"),
        (["s"], "t=1,v1=zz", "malformed signature"),
        (["s"], "t=1,v0=" + "a" * 64, "malformed signature"),
        (["s"], "t=" + "9" * 5000, "malformed signature"),
        (["s"], f"t={int(NOW.timestamp())},v1=" + "a" * 64, "no matching signature"),
    ],
)
async def test_what_is_not_signed_is_refused(
    provider: SandboxProvider, secrets: list[str], change: str | None, why: str
) -> None:
    body = event("payment.succeeded", PAYMENT)
    headers = header("s", body) if change is None else {"dunwell-sandbox-signature": change}
    with pytest.raises(SignatureRefused) as refused:
        await provider.verify(ACCOUNT, secrets, body, headers, NOW)
    assert refused.value.why == why


@pytest.mark.parametrize(
    ("age", "why"),
    [
        (300, None),
        (301, "timestamp too old"),
        (-300, None),
        (-301, "timestamp in the future"),
        (-86_400, "timestamp in the future"),
    ],
)
async def test_five_minutes_either_way(provider: SandboxProvider, age: int, why: str | None) -> None:
    body = event("payment.succeeded", PAYMENT)
    headers = header("s", body, NOW - timedelta(seconds=age))
    if why is None:
        await provider.verify(ACCOUNT, ["s"], body, headers, NOW)
        return
    with pytest.raises(SignatureRefused) as refused:
        await provider.verify(ACCOUNT, ["s"], body, headers, NOW)
    assert refused.value.why == why


async def test_a_changed_byte_or_time_is_refused(provider: SandboxProvider) -> None:
    body = event("payment.succeeded", PAYMENT)
    good = header("s", body)["dunwell-sandbox-signature"]
    moved = good.replace(f"t={int(NOW.timestamp())}", f"t={int(NOW.timestamp()) + 1}")
    for changed, signature in ((body + b" ", good), (body, moved)):
        with pytest.raises(SignatureRefused):
            await provider.verify(ACCOUNT, ["s"], changed, {"dunwell-sandbox-signature": signature}, NOW)


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b"[" * 50_000, b'"x"'])
async def test_signed_rubbish_is_kept_and_fails_when_read(provider: SandboxProvider, body: bytes) -> None:
    signed = await provider.verify(ACCOUNT, ["s"], body, header("s", body), NOW)
    assert (signed.event_id, signed.type) == (None, "")
    with pytest.raises(ValueError, match="cannot be read"):
        provider.normalise(body)


def test_a_payments_event_says_whose_it_is_and_what_became_of_it(provider: SandboxProvider) -> None:
    read = provider.normalise(event("payment.succeeded", PAYMENT))
    assert (read.event_id, read.firm, read.create_time) == ("evt_1", "firm-1", NOW)
    assert read.references == ("pay_1", "cus_1")
    (notice,) = read.notices
    assert isinstance(notice, PaymentNotice)
    assert (notice.key, notice.outcome.outcome, notice.outcome.money) == (
        "v1:p:1",
        OutcomeClass.SUCCEEDED,
        Money("USD", 100),
    )
    keyless = provider.normalise(event("payment.succeeded", PAYMENT | {"key": None})).notices[0]
    assert isinstance(keyless, PaymentNotice)
    assert keyless.key is None


def test_a_refunds_event(provider: SandboxProvider) -> None:
    failed = REFUND | {"status": "failed", "failure_reason": "declined"}
    (notice,) = provider.normalise(event("refund.failed", failed)).notices
    assert isinstance(notice, RefundNotice)
    outcome = notice.refund.outcome
    assert (outcome.outcome, outcome.provider_code) == (RefundOutcomeClass.FAILED, "declined")
    assert (notice.refund.payment_reference, notice.refund.money) == ("pay_1", Money("USD", 40))


def test_customers_and_methods(provider: SandboxProvider) -> None:
    customer = {"id": "cus_1", "object": "customer", "name": None, "email": "a@b.c", "metadata": {"firm": "firm-1"}}
    (notice,) = provider.normalise(event("customer.updated", customer)).notices
    assert notice == CustomerNotice("cus_1", None, "a@b.c", False, {"firm": "firm-1"})
    card = {"brand": "visa", "last4": "4242", "exp_month": 1, "exp_year": 2040, "country": "US", "fingerprint": "f"}
    method = {"id": "pm_1", "object": "payment_method", "type": "card", "customer": None, "card": card}
    read = provider.normalise(event("payment_method.detached", method | {"previous_customer": "cus_1"}))
    (gone,) = read.notices
    assert isinstance(gone, MethodNotice)
    assert (gone.change, gone.customer_reference, gone.method.exp_year) == (MethodChange.DETACHED, "cus_1", 2040)
    assert read.references == ("pm_1", "cus_1")


@pytest.mark.parametrize("kind", ["payment.teleported", "invoice.paid", "x"])
def test_an_unknown_type_is_an_event_without_notices(provider: SandboxProvider, kind: str) -> None:
    assert provider.normalise(event(kind, PAYMENT)).notices == ()
    assert provider.normalise(event("payment.succeeded", {"object": "moon"})).notices == ()


@pytest.mark.parametrize(
    "change", [{"id": ""}, {"currency": "XXX"}, {"amount_received": None}, {"created": "soon"}, {"key": 5}]
)
def test_a_payment_that_makes_no_sense_cannot_be_read(provider: SandboxProvider, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        provider.normalise(event("payment.succeeded", PAYMENT | change))


READER = SandboxProvider("http://127.0.0.1:9")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from([PAYMENT, REFUND]), st.dictionaries(st.sampled_from(sorted(PAYMENT | REFUND)), JSON))
def test_a_bent_event_is_read_or_refused_and_nothing_else(subject: dict[str, Any], change: dict[str, Any]) -> None:
    body = event("payment.succeeded" if subject is PAYMENT else "refund.updated", subject | change)
    with contextlib.suppress(ValueError):
        READER.normalise(body)


@pytest.mark.parametrize("status", [500, 502, 409, 408, 301])
def test_a_refund_without_a_definite_answer_is_unknown(status: int) -> None:
    for content in (b"", b"<html>", json.dumps(REFUND).encode()):
        assert refund_answer(httpx.Response(status, content=content)).outcome is RefundOutcomeClass.UNKNOWN
    assert refund_answer(httpx.Response(200, content=b'{"id": "re_')).outcome is RefundOutcomeClass.UNKNOWN


def test_refusals_of_refunds() -> None:
    def answer(status: int, kind: str, code: str, **headers: str) -> httpx.Response:
        return httpx.Response(status, json={"error": {"type": kind, "code": code}}, headers=headers)

    refused = refund_answer(answer(400, "invalid_request_error", "refund_exceeds_payment"))
    assert (refused.outcome, refused.provider_code) == (RefundOutcomeClass.FAILED, "refund_exceeds_payment")
    assert not refused.executed
    limited = refund_answer(answer(429, "rate_limit_error", "rate_limit", **{"Retry-After": "3"}))
    assert (limited.outcome, limited.retry_after_seconds) == (RefundOutcomeClass.NOT_SENT, 3.0)
    assert refund_answer(answer(401, "authentication_error", "x")).outcome is RefundOutcomeClass.NOT_SENT
    reused = refund_answer(answer(400, "idempotency_error", "idempotency_key_reused"))
    assert reused.outcome is RefundOutcomeClass.UNKNOWN
    assert refund_outcome(REFUND | {"status": "of_next_year"}).outcome is RefundOutcomeClass.UNKNOWN
