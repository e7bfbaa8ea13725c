"""Webhook signatures: published vectors, the SDK's own signing, forgeries, clocks, rotation."""

from __future__ import annotations

import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stripe import WebhookSignature

from dunwell_server.providers.abilities import SignatureRefused
from dunwell_server.providers.base import AccountMode, Credentials, ProviderAccount
from dunwell_server.providers.stripe import StripeProvider
from dunwell_server.providers.stripe import signature as words
from dunwell_server.providers.stripe.signature import check_signature
from tests.unit.providers.stripe.payloads import event, payment_intent

SECRET = "whsec_test_secret"
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
STAMP = int(NOW.timestamp())
BODY = b'{\n  "id": "evt_test_webhook",\n  "object": "event"\n}'


def signed(body: bytes = BODY, secret: str = SECRET, stamp: int = STAMP) -> str:
    digest = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={stamp},v1={digest}"


def refused(secrets: list[str], header: str | None, body: bytes = BODY, now: datetime = NOW) -> str:
    with pytest.raises(SignatureRefused) as error:
        check_signature(secrets, body, header, now)
    return error.value.why


def test_what_the_sdk_signs_is_accepted() -> None:
    header = WebhookSignature.generate_signature_header(BODY.decode(), SECRET, STAMP)
    assert check_signature([SECRET], BODY, header, NOW) == NOW
    unicode = json.dumps({"name": "Zoë ☂"}, ensure_ascii=False)
    header = WebhookSignature.generate_signature_header(unicode, SECRET, STAMP)
    assert check_signature([SECRET], unicode.encode(), header, NOW) == NOW


def test_a_constant_vector() -> None:
    """HMAC-SHA256 of ``1492774577.{"id":"evt_1"}`` under ``whsec_test``, computed with OpenSSL."""
    header = "t=1492774577,v1=7656fc2882a7ca0a651666b36bf2f2f22ee204f54f608f227498a2419f2890b2,v0=6ffbb59b2300aae63f272406069a9788598b792a944a07aba816edb039989a39"
    moment = datetime.fromtimestamp(1_492_774_577, UTC)
    assert check_signature(["whsec_test"], b'{"id":"evt_1"}', header, moment) == moment


def test_only_v1_counts_and_one_of_several_is_enough() -> None:
    good = signed().split("v1=")[1]
    assert check_signature([SECRET], BODY, f"t={STAMP},v1={'0' * 64},v1={good},v0={'1' * 64}", NOW)
    assert check_signature([SECRET], BODY, f"t={STAMP}, v1={good}", NOW)
    assert refused([SECRET], f"t={STAMP},v0={good}") == words.MALFORMED
    assert refused([SECRET], f"t={STAMP},v1={'0' * 64},v0={good}") == words.MISMATCH


def test_any_live_secret_is_enough() -> None:
    for secrets in ([SECRET, "whsec_new"], ["whsec_new", SECRET], ["", SECRET], [SECRET, " \t"]):
        assert check_signature(secrets, BODY, signed(), NOW)
    assert refused(["whsec_new", "whsec_newer"], signed()) == words.MISMATCH


@pytest.mark.parametrize("secrets", [[], [""], [" ", "\t\r\n"]])
def test_without_a_secret_nothing_is_accepted(secrets: list[str]) -> None:
    for secret in ("", " ", SECRET):
        assert refused(secrets, signed(secret=secret)) == words.NO_SECRET


@pytest.mark.parametrize("header", [None, "", "  "])
def test_a_missing_header(header: str | None) -> None:
    assert refused([SECRET], header) == words.MISSING


@pytest.mark.parametrize(
    "header",
    [
        "nonsense",
        "t=,v1=" + "0" * 64,
        "v1=" + "0" * 64,
        f"t={STAMP}",
        f"t={STAMP},v1=",
        f"t={STAMP},v1=zz",
        f"t=-{STAMP},v1=" + "0" * 64,
        f"t={STAMP}.0,v1=" + "0" * 64,
        "t=٣٤,v1=" + "0" * 64,
        "t=1,t=2,v1=" + "0" * 64,
        f"t={STAMP},v1=" + "é" * 64,
        "t=" + "9" * 5000,
        "t=1,v1=" + "0" * 64 + ",v1=" * 2000,
    ],
)
def test_a_malformed_header(header: str) -> None:
    assert refused([SECRET], header) == words.MALFORMED


def test_a_changed_body_or_time_does_not_match() -> None:
    assert refused([SECRET], signed(), BODY + b" ") == words.MISMATCH
    assert refused([SECRET], signed(), BODY.replace(b"\n", b"")) == words.MISMATCH
    digest = signed().split("v1=")[1]
    assert refused([SECRET], f"t={STAMP + 1},v1={digest}") == words.MISMATCH


@pytest.mark.parametrize(("seconds", "why"), [(301, words.TOO_OLD), (86_400, words.TOO_OLD), (-301, words.IN_FUTURE)])
def test_the_future_is_refused_like_the_past(seconds: int, why: str) -> None:
    assert refused([SECRET], signed(), now=NOW + timedelta(seconds=seconds)) == why


@pytest.mark.parametrize("seconds", [300, -300, 0])
def test_five_minutes_either_way_are_allowed(seconds: int) -> None:
    assert check_signature([SECRET], BODY, signed(), NOW + timedelta(seconds=seconds)) == NOW


@given(st.text(max_size=200))
def test_no_header_passes_by_chance(header: str) -> None:
    with pytest.raises(SignatureRefused):
        check_signature([SECRET], BODY, header, NOW)


ACCOUNT = ProviderAccount("a", "stripe", AccountMode.TEST, Credentials({"secret_key": "sk_test_1"}))


async def test_verify_tells_what_identifies_the_event() -> None:
    provider = StripeProvider()
    body = json.dumps(event("payment_intent.succeeded", payment_intent())).encode()
    found = await provider.verify(ACCOUNT, [SECRET], body, {"stripe-signature": signed(body)}, NOW)
    assert (found.event_id, found.type) == ("evt_1MqqbKLt4dXK03v5qaIbiNCC", "payment_intent.succeeded")
    assert found.create_time is not None
    with pytest.raises(SignatureRefused):
        await provider.verify(ACCOUNT, [SECRET], body, {}, NOW)
    await provider.close()


async def test_an_event_of_the_other_mode_is_refused_and_one_without_a_mode_is_not() -> None:
    provider = StripeProvider()
    live = json.dumps(event("payment_intent.succeeded", payment_intent(), livemode=True)).encode()
    with pytest.raises(SignatureRefused) as error:
        await provider.verify(ACCOUNT, [SECRET], live, {"stripe-signature": signed(live)}, NOW)
    assert error.value.why == "event of the other mode"
    for odd in (b"{}", b"not JSON", b"[]"):
        found = await provider.verify(ACCOUNT, [SECRET], odd, {"stripe-signature": signed(odd)}, NOW)
        assert (found.event_id, found.type) == (None, "")
    await provider.close()
