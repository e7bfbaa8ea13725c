"""Every answer to a charge becomes exactly one class, and UNKNOWN whenever in doubt."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwell_server.providers.base import DeclineClass, FailureCode, OutcomeClass
from dunwell_server.providers.sandbox import charge_outcome

PAYMENT: dict[str, Any] = {
    "id": "pay_1",
    "status": "succeeded",
    "amount": 100,
    "currency": "USD",
    "amount_received": 100,
    "key": "v1:p:1",
    "metadata": {},
    "last_payment_error": None,
    "cancellation_reason": None,
    "next_action": None,
    "created": "2026-01-31T03:00:00.000Z",
}


def answer(status: int, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.Response(status, content=content, headers=headers)


def error(kind: str, code: str, **more: Any) -> dict[str, Any]:
    return {"error": {"type": kind, "code": code, "message": "m", **more}}


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408, 409, 301, 418])
def test_any_other_status_is_unknown_whatever_it_says(status: int) -> None:
    for body in (b"", b"<html>", error("api_error", "internal"), PAYMENT):
        assert charge_outcome(answer(status, body)).outcome is OutcomeClass.UNKNOWN


def test_a_reused_key_is_unknown() -> None:
    body = error("idempotency_error", "idempotency_key_reused")
    assert charge_outcome(answer(400, body)).outcome is OutcomeClass.UNKNOWN


def test_a_rate_limit_is_not_sent_with_its_wait() -> None:
    outcome = charge_outcome(answer(429, error("rate_limit_error", "rate_limit"), **{"Retry-After": "7"}))
    assert (outcome.outcome, outcome.retry_after_seconds) == (OutcomeClass.NOT_SENT, 7.0)
    dated = charge_outcome(
        answer(429, error("rate_limit_error", "x"), **{"Retry-After": "Sat, 31 Jan 2026 00:00:00 GMT"})
    )
    assert (dated.outcome, dated.retry_after_seconds) == (OutcomeClass.NOT_SENT, None)


@pytest.mark.parametrize("status", [401, 403])
def test_credentials_not_accepted_are_not_sent(status: int) -> None:
    outcome = charge_outcome(answer(status, error("authentication_error", "api_key_invalid")))
    assert outcome.outcome is OutcomeClass.NOT_SENT


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 422, 429])
def test_a_page_from_something_in_between_is_unknown(status: int) -> None:
    for body in (b"<html>blocked</html>", b"[]", b'{"error": "blocked"}', b'{"message": "blocked"}'):
        assert charge_outcome(answer(status, body)).outcome is OutcomeClass.UNKNOWN


def test_a_missing_method_is_dead_and_other_wrong_requests_are_technical() -> None:
    missing = charge_outcome(answer(400, error("invalid_request_error", "resource_missing", param="payment_method")))
    assert (missing.decline_class, missing.failure_code) == (DeclineClass.HARD, FailureCode.MISSING_PAYMENT_METHOD)
    wrong = charge_outcome(answer(400, error("invalid_request_error", "currency_invalid", param="currency")))
    assert (wrong.decline_class, wrong.failure_code) == (DeclineClass.TECHNICAL, FailureCode.PROCESSING_ERROR)
    assert not missing.executed
    assert not wrong.executed


@pytest.mark.parametrize(
    "change",
    [
        {"status": "a_status_of_next_year"},
        {"status": None},
        {"id": ""},
        {"id": None},
        {"currency": "XXX"},
        {"currency": None},
        {"amount_received": 100.0},
        {"amount_received": "100"},
        {"amount_received": None},
        {"amount_received": True},
        {"created": "yesterday"},
        {"created": "2026-01-31T03:00:00"},
        {"status": "requires_action"},
        {"status": "failed"},
    ],
)
def test_a_payment_that_makes_no_sense_is_unknown(change: dict[str, Any]) -> None:
    assert charge_outcome(answer(200, PAYMENT)).outcome is OutcomeClass.SUCCEEDED
    assert charge_outcome(answer(200, PAYMENT | change)).outcome is OutcomeClass.UNKNOWN


@pytest.mark.parametrize("field", ["id", "status", "amount_received", "currency", "created", "key"])
def test_a_payment_with_a_part_missing_is_unknown(field: str) -> None:
    partial = {name: value for name, value in PAYMENT.items() if name != field}
    assert charge_outcome(answer(200, partial)).outcome is OutcomeClass.UNKNOWN


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@given(st.integers(200, 599), st.binary(max_size=200) | JSON | st.fixed_dictionaries({"error": JSON}))
def test_no_answer_whatever_raises_or_succeeds_by_accident(status: int, body: Any) -> None:
    outcome = charge_outcome(answer(status, body))
    assert outcome.outcome in (OutcomeClass.UNKNOWN, OutcomeClass.NOT_SENT, OutcomeClass.DECLINED)


@given(st.dictionaries(st.sampled_from(sorted(PAYMENT)), JSON))
def test_a_bent_payment_never_raises(change: dict[str, Any]) -> None:
    outcome = charge_outcome(answer(200, PAYMENT | change))
    assert outcome.outcome in OutcomeClass
