"""Every answer, and every failure to answer, has exactly one class; and nothing is ever sent twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.money import Money
from dunwell_server.providers.abilities import RefundOutcomeClass, RefundRequest
from dunwell_server.providers.base import (
    AccountMode,
    ChargeRequest,
    ClientProfile,
    Credentials,
    CustomerRef,
    DeclineClass,
    FailureCode,
    Outcome,
    OutcomeClass,
    ProviderAccount,
    ProviderDeclined,
    ProviderRefused,
    ProviderUnavailable,
)
from dunwell_server.providers.stripe import STRIPE_VERSION, StripeProvider
from tests.providers.stripe.loopback import Drop, Loopback, Reply, Stall
from tests.providers.stripe.support import (
    TEST_ACCOUNT,
    charge_request,
    error,
    intent,
    stripe_answering,
)


async def charged(answer: Any, request: ChargeRequest | None = None, **options: Any) -> tuple[Outcome, Loopback]:
    request = request or charge_request()
    async with stripe_answering(answer, **options) as (provider, server):
        outcome = await provider.charge(request)
        await asyncio.sleep(0.02)
        assert len(server.seen) == 1, "one sending, whatever comes of it"
    return outcome, server


NOT_EXECUTED, EXECUTED = False, True

CASES: dict[str, tuple[Any, OutcomeClass, bool]] = {
    "dropped": (Drop, OutcomeClass.UNKNOWN, EXECUTED),
    "500": (error(500, "api_error"), OutcomeClass.UNKNOWN, EXECUTED),
    "500 not to be retried": (
        error(500, "api_error", headers={"stripe-should-retry": "false"}),
        OutcomeClass.UNKNOWN,
        EXECUTED,
    ),
    "502 of a proxy": (Reply(502, b"<html>Bad gateway</html>"), OutcomeClass.UNKNOWN, EXECUTED),
    "503": (error(503, "api_error", headers={"retry-after": "3"}), OutcomeClass.UNKNOWN, EXECUTED),
    "409": (error(409, code="idempotency_key_in_use"), OutcomeClass.UNKNOWN, EXECUTED),
    "409 to be retried": (
        error(409, code="lock_timeout", headers={"stripe-should-retry": "true"}),
        OutcomeClass.UNKNOWN,
        EXECUTED,
    ),
    "429": (error(429), OutcomeClass.NOT_SENT, NOT_EXECUTED),
    "429 to be retried": (
        error(429, code="lock_timeout", headers={"stripe-should-retry": "true"}),
        OutcomeClass.NOT_SENT,
        NOT_EXECUTED,
    ),
    "429 not to be retried": (
        error(429, code="rate_limit", headers={"stripe-should-retry": "false"}),
        OutcomeClass.NOT_SENT,
        NOT_EXECUTED,
    ),
    "429 of a proxy": (Reply(429, b"slow down"), OutcomeClass.NOT_SENT, NOT_EXECUTED),
    "400 rate_limit": (error(400, code="rate_limit"), OutcomeClass.NOT_SENT, NOT_EXECUTED),
    "400 idempotency_error": (error(400, "idempotency_error"), OutcomeClass.UNKNOWN, EXECUTED),
    "400 to be retried": (error(400, headers={"stripe-should-retry": "true"}), OutcomeClass.UNKNOWN, EXECUTED),
    "400 lock_timeout": (error(400, code="lock_timeout"), OutcomeClass.UNKNOWN, EXECUTED),
    "401": (error(401), OutcomeClass.NOT_SENT, NOT_EXECUTED),
    "403": (error(403), OutcomeClass.NOT_SENT, NOT_EXECUTED),
    "403 of a proxy": (Reply(403, b"forbidden"), OutcomeClass.UNKNOWN, EXECUTED),
    "404 of a proxy": (Reply(404, b"not here"), OutcomeClass.UNKNOWN, EXECUTED),
    "302": (Reply(302, b"{}", {"location": "http://127.0.0.1:1/"}), OutcomeClass.UNKNOWN, EXECUTED),
    "200 unparsable": (Reply(200, b"<html>"), OutcomeClass.UNKNOWN, EXECUTED),
    "200 empty": (Reply(200, b""), OutcomeClass.UNKNOWN, EXECUTED),
    "200 no object": (Reply(200, b"[]"), OutcomeClass.UNKNOWN, EXECUTED),
    "200 nothing in it": (Reply(200, b"{}"), OutcomeClass.UNKNOWN, EXECUTED),
    "200 an error in it": (Reply.of({"error": {"type": "card_error"}}), OutcomeClass.UNKNOWN, EXECUTED),
    "200 another kind of object": (
        Reply.of({"object": "charge", "id": "ch_1", "status": "succeeded", "amount": 4999, "currency": "usd"}),
        OutcomeClass.UNKNOWN,
        EXECUTED,
    ),
    "402 without an error in it": (Reply(402, b"{}"), OutcomeClass.UNKNOWN, EXECUTED),
    "418": (error(418), OutcomeClass.UNKNOWN, EXECUTED),
}


@pytest.mark.parametrize("name", sorted(CASES))
async def test_each_answer_has_one_class_and_is_asked_for_once(name: str) -> None:
    answer, expected, executed = CASES[name]
    outcome, _ = await charged(answer)
    assert (outcome.outcome, outcome.executed) == (expected, executed)


@pytest.mark.parametrize(
    ("answer", "why", "wait"),
    [
        (error(429, code="rate_limit", headers={"retry-after": "7"}), "rate limited", 7.0),
        (error(429), "rate limited", None),
        (Reply(429, b"slow down"), "rate limited", None),
        (error(401), "credentials not accepted", None),
    ],
)
async def test_a_refund_that_is_turned_away_says_why(answer: Reply, why: str, wait: float | None) -> None:
    """In the words of a charge's answer: by these whoever sends knows that the account's limit was met, and lets it rest."""
    refund = RefundRequest(
        account=TEST_ACCOUNT, key="k", firm="f", payment="p", refund="r", payment_reference="pi_1", money=Money("USD", 1)
    )  # fmt: skip
    async with stripe_answering(answer) as (provider, _):
        refused, charge = await provider.refund(refund), await provider.charge(charge_request())
    assert (refused.outcome, refused.evidence["why"]) == (RefundOutcomeClass.NOT_SENT, why)
    assert refused.retry_after_seconds == wait
    assert charge.evidence["why"] == why


async def test_a_stalled_answer_is_unknown_after_the_total_timeout() -> None:
    outcome, server = await charged(Stall, total_timeout=0.2)
    assert outcome.outcome is OutcomeClass.UNKNOWN
    assert len(server.seen) == 1


async def test_an_answer_that_drips_does_not_outlast_the_total_timeout() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    provider = StripeProvider(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", total_timeout=0.4)
    try:
        started = asyncio.get_running_loop().time()
        assert (await provider.charge(charge_request())).outcome is OutcomeClass.UNKNOWN
        assert asyncio.get_running_loop().time() - started < 2
    finally:
        await provider.close()
        server.close()


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
async def test_what_cannot_be_connected_to_was_not_sent(address: str) -> None:
    provider = StripeProvider(address, connect_timeout=2, total_timeout=5)
    try:
        outcome = await provider.charge(charge_request())
        assert (outcome.outcome, outcome.executed) == (OutcomeClass.NOT_SENT, False)
        refund = RefundRequest(
            account=TEST_ACCOUNT,
            key="k",
            firm="f",
            payment="p",
            refund="r",
            payment_reference="pi_1",
            money=Money("USD", 1),
        )
        assert (await provider.refund(refund)).outcome is RefundOutcomeClass.NOT_SENT
        with pytest.raises(ProviderUnavailable):
            await provider.ensure_customer(TEST_ACCOUNT, ClientProfile("c", "f"), "key")
        found = await provider.lookup(TEST_ACCOUNT, key="any")
        assert found is not None
        assert found.outcome is OutcomeClass.UNKNOWN
    finally:
        await provider.close()


async def test_a_request_names_key_version_and_owner_and_is_sent_as_asked() -> None:
    request = charge_request()
    outcome, server = await charged(Reply.of(intent(request)), request)
    assert outcome.outcome is OutcomeClass.SUCCEEDED
    [seen] = server.seen
    assert (seen.method, seen.path) == ("POST", "/v1/payment_intents")
    assert seen.headers["idempotency-key"] == request.key
    assert seen.headers["stripe-version"] == STRIPE_VERSION == "2026-10-28.endive"
    assert "telemetry" not in str(seen.headers)
    assert seen.form == {
        "amount": "4999",
        "currency": "usd",
        "payment_method": "pm_1",
        "customer": "cus_1",
        "confirm": "true",
        "off_session": "true",
        "description": "Invoice HV-2026-000042",
        "metadata[firm]": "firm-1",
        "metadata[payment]": request.references.payment,
        "metadata[key]": request.key,
        "automatic_payment_methods[enabled]": "true",
        "automatic_payment_methods[allow_redirects]": "never",
    }


async def test_a_payer_who_is_present_is_sent_back_to_where_he_came_from() -> None:
    request = charge_request(
        off_session=False, return_url="https://example.com/back", description="", customer_reference=None
    )
    action = {"type": "redirect_to_url", "redirect_to_url": {"url": "https://hooks.stripe.com/3ds", "return_url": "x"}}
    outcome, server = await charged(Reply.of(intent(request, status="requires_action", next_action=action)), request)
    assert (outcome.outcome, outcome.action_url) == (OutcomeClass.REQUIRES_ACTION, "https://hooks.stripe.com/3ds")
    form = server.seen[0].form
    assert form["return_url"] == "https://example.com/back"
    assert not {"off_session", "description", "customer", "automatic_payment_methods[allow_redirects]"} & set(form)


@pytest.mark.parametrize("change", [{"amount_received": 5000}, {"currency": "eur"}, {"amount_received": 0}])
async def test_other_money_than_asked_for_is_unknown(change: dict[str, Any]) -> None:
    request = charge_request()
    outcome, _ = await charged(Reply.of(intent(request, **change)), request)
    assert outcome.outcome is OutcomeClass.UNKNOWN
    assert outcome.evidence["why"] == "money mismatch"


async def test_an_answer_about_another_key_is_unknown() -> None:
    request = charge_request()
    outcome, _ = await charged(Reply.of(intent(request, metadata={"key": "v1:other:1"})), request)
    assert outcome.outcome is OutcomeClass.UNKNOWN


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"status": "processing"}, OutcomeClass.PENDING),
        ({"status": "requires_capture"}, OutcomeClass.PENDING),
        ({"status": "requires_action"}, OutcomeClass.REQUIRES_ACTION),
        ({"status": "canceled", "cancellation_reason": "abandoned"}, OutcomeClass.DECLINED),
        ({"status": "requires_payment_method", "last_payment_error": {"code": "card_declined"}}, OutcomeClass.DECLINED),
        ({"status": "requires_payment_method", "last_payment_error": None}, OutcomeClass.UNKNOWN),
        ({"status": "requires_confirmation"}, OutcomeClass.UNKNOWN),
        ({"status": "invented_next_year"}, OutcomeClass.UNKNOWN),
        ({"status": None}, OutcomeClass.UNKNOWN),
    ],
)
async def test_each_state_of_a_payment_has_one_class(changes: dict[str, Any], expected: OutcomeClass) -> None:
    request = charge_request()
    outcome, _ = await charged(Reply.of(intent(request, **changes)), request)
    assert outcome.outcome is expected
    assert outcome.ends_unpaid == (changes["status"] == "canceled")


@pytest.mark.parametrize(
    ("fields", "failure", "decline_class"),
    [
        ({"code": "card_declined", "decline_code": "insufficient_funds"}, "insufficient_funds", "SOFT"),
        ({"code": "card_declined", "decline_code": "lost_card"}, "card_declined", "HARD"),
        ({"code": "expired_card"}, "expired_card", "CUSTOMER"),
        ({"code": "incorrect_cvc"}, "incorrect_cvc", "CUSTOMER"),
        ({"code": "processing_error"}, "processing_error", "TECHNICAL"),
        ({"code": "authentication_required"}, "authentication_required", "CUSTOMER"),
        ({"code": "payment_intent_authentication_failure"}, "authentication_required", "CUSTOMER"),
        (
            {"code": "card_declined", "decline_code": "do_not_honor", "network_decline_code": "R1"},
            "card_declined",
            "HARD",
        ),
        (
            {"code": "card_declined", "decline_code": "do_not_honor", "network_advice_code": "03"},
            "card_declined",
            "HARD",
        ),
        (
            {"code": "card_declined", "decline_code": "x", "advice_code": "confirm_card_data"},
            "card_declined",
            "CUSTOMER",
        ),
    ],
)
async def test_a_decline_keeps_what_the_networks_say(fields: dict[str, Any], failure: str, decline_class: str) -> None:
    request = charge_request()
    made = intent(request, status="requires_payment_method", amount_received=0)
    outcome, _ = await charged(error(402, "card_error", **fields, payment_intent=made), request)
    assert outcome.outcome is OutcomeClass.DECLINED
    assert (outcome.failure_code, outcome.decline_class) == (FailureCode(failure), DeclineClass(decline_class))
    assert outcome.provider_reference == "pi_1"
    assert outcome.executed
    assert outcome.network_code == fields.get("network_decline_code")
    assert outcome.advice_code in (fields.get("advice_code"), fields.get("network_advice_code"))


async def test_a_wait_asked_for_by_the_network_is_passed_on() -> None:
    outcome, _ = await charged(error(402, "card_error", code="card_declined", network_advice_code="25"))
    assert outcome.retry_after_seconds == timedelta(hours=24).total_seconds()


@pytest.mark.parametrize("status", ["succeeded", "processing", "requires_capture"])
async def test_an_error_about_a_payment_that_goes_on_is_unknown(status: str) -> None:
    request = charge_request()
    reply = error(402, "card_error", code="card_declined", payment_intent=intent(request, status=status))
    outcome, _ = await charged(reply, request)
    assert (outcome.outcome, outcome.provider_reference) == (OutcomeClass.UNKNOWN, "pi_1")


@pytest.mark.parametrize(
    ("fields", "failure", "decline_class"),
    [
        (
            {"code": "resource_missing", "param": "payment_method"},
            FailureCode.MISSING_PAYMENT_METHOD,
            DeclineClass.HARD,
        ),
        ({"param": "payment_method"}, FailureCode.MISSING_PAYMENT_METHOD, DeclineClass.HARD),
        (
            {"code": "payment_method_currency_mismatch", "param": "payment_method"},
            FailureCode.PROCESSING_ERROR,
            DeclineClass.CUSTOMER,
        ),
        ({"code": "resource_missing", "param": "customer"}, FailureCode.MISSING_PAYMENT_METHOD, DeclineClass.CUSTOMER),
        ({"code": "amount_too_small", "param": "amount"}, FailureCode.PROCESSING_ERROR, DeclineClass.SOFT),
        ({"code": "parameter_unknown", "param": "bogus"}, FailureCode.PROCESSING_ERROR, DeclineClass.TECHNICAL),
    ],
)
async def test_a_request_refused_before_execution_says_so(
    fields: dict[str, Any], failure: FailureCode, decline_class: DeclineClass
) -> None:
    outcome, _ = await charged(error(400, **fields))
    assert (outcome.outcome, outcome.executed) == (OutcomeClass.DECLINED, False)
    assert (outcome.failure_code, outcome.decline_class) == (failure, decline_class)
    replayed, _ = await charged(error(400, **fields, headers={"idempotent-replayed": "true"}))
    assert replayed.executed


async def test_retry_after_is_passed_on() -> None:
    outcome, _ = await charged(error(429, headers={"retry-after": "7", "stripe-should-retry": "true"}))
    assert outcome.retry_after_seconds == 7.0
    assert outcome.evidence["should_retry"] == "true"
    dated, _ = await charged(error(429, headers={"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}))
    assert dated.retry_after_seconds is None


async def test_an_amount_stripe_cannot_express_is_refused_and_not_sent() -> None:
    async with stripe_answering(Reply(500)) as (provider, server):
        outcome = await provider.charge(charge_request(money=Money("KWD", 12_345)))
        assert (outcome.outcome, outcome.executed) == (OutcomeClass.DECLINED, False)
        assert outcome.provider_code == "amount_not_representable"
        assert not server.seen


@pytest.mark.parametrize(
    ("secret", "mode"),
    [
        ("sk_live_canary", AccountMode.TEST),
        ("rk_live_canary", AccountMode.TEST),
        ("sk_test_canary", AccountMode.LIVE),
        ("rk_test_canary", AccountMode.LIVE),
    ],
)
async def test_a_key_of_the_other_mode_is_refused_before_anything_is_sent(secret: str, mode: AccountMode) -> None:
    account = ProviderAccount("a", "stripe", mode, Credentials({"secret_key": secret}))
    async with stripe_answering(Reply(500)) as (provider, server):
        calls: list[Awaitable[Any]] = [
            provider.charge(charge_request(account=account)),
            provider.lookup(account, key="k"),
            provider.ensure_customer(account, ClientProfile("c", "f"), "k"),
            provider.get_dispute(account, "dp_1"),
            provider.list_events(account, datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)),
        ]
        for call in calls:
            with pytest.raises(DunwellError) as refused:
                await call
            assert refused.value.reason is Reason.PROVIDER_MODE_MISMATCH
            assert "canary" not in str(refused.value)
        assert not server.seen


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (error(401), DunwellError),
        (error(402, "card_error", code="card_declined"), ProviderDeclined),
        (error(404, code="resource_missing"), ProviderRefused),
        (error(400, "idempotency_error"), ProviderRefused),
        (error(409, code="lock_timeout"), ProviderUnavailable),
        (error(429, headers={"retry-after": "2"}), ProviderUnavailable),
        (error(500, "api_error"), ProviderUnavailable),
        (Reply(200, b"<html>"), ProviderUnavailable),
        (Reply(200, b"{}"), ProviderUnavailable),
    ],
)
async def test_other_calls_raise_what_the_interface_says(reply: Reply, expected: type[Exception]) -> None:
    async with stripe_answering(reply) as (provider, server):
        with pytest.raises(expected) as raised:
            await provider.create_setup_intent(TEST_ACCOUNT, CustomerRef("cus_1"), "key", {"firm": "f"})
        assert len(server.seen) == 1
        assert server.seen[0].headers["idempotency-key"] == "key"
    if expected is DunwellError:
        assert raised.value.reason is Reason.PROVIDER_NOT_CONFIGURED  # type: ignore[attr-defined]
    if reply.status == 429:
        assert raised.value.retry_after == 2.0  # type: ignore[attr-defined]
