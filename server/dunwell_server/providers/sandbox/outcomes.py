"""What the gateway's answers to charges mean.

What each answer to a charge means:

==============================================  ==============================================================
no connection (refused, no such host, TLS)      NOT_SENT: no byte left
timeout, reset, 5xx, unparsable, any other      UNKNOWN
200 succeeded / processing / requires_action    SUCCEEDED / PENDING / REQUIRES_ACTION, if the money is what was asked
200 canceled, 402                               DECLINED, with the codes
409                                             UNKNOWN: the same key is being executed this moment
400 idempotency_error                           UNKNOWN: this key was used for something else; look up, then a person
429                                             NOT_SENT: refused before the key was looked at
401, 403                                        NOT_SENT: refused at the door; works again once the credentials do
400 naming the method, documented               DECLINED HARD: this method does not exist (any more)
400, 404, 422 otherwise, documented             DECLINED TECHNICAL: our request is wrong; a bounded number of tries
==============================================  ==============================================================

"Documented" means that the body is the gateway's own error object; a page from something in between is UNKNOWN.
Answers that were not executed carry ``executed=False``: see `after_unknown`.
"""

from __future__ import annotations

from typing import Any, Final

import httpx

from dunwell_server.kernel.money import Money
from dunwell_server.providers import http
from dunwell_server.providers.base import (
    CANCELED_CODE,
    EXPIRED_CODE,
    DeclineClass,
    FailureCode,
    Outcome,
    OutcomeClass,
    ProviderPayment,
    payer_message,
)
from dunwell_server.providers.declines import decline_class_of, failure_code_of
from dunwell_server.providers.outcomes import not_sent, unknown
from dunwell_server.providers.sandbox.reading import MALFORMED, Body, instant, json_of, text

# When several payments carry one key (it was reused after its life), what moved money is what counts.
RANK: Final = {
    OutcomeClass.SUCCEEDED: 0,
    OutcomeClass.UNKNOWN: 1,
    OutcomeClass.PENDING: 2,
    OutcomeClass.REQUIRES_ACTION: 3,
    OutcomeClass.DECLINED: 4,
}


def charge_outcome(response: httpx.Response) -> Outcome:
    """What an answer to a charge means; the table of this module."""
    status = response.status_code
    try:
        body = json_of(response)
        if status == 200:
            return payment_outcome(body)
        error = body["error"]
        kind, code, param = error["type"], error["code"], error.get("param")
        if status == 402:
            return declined_outcome(error, error["payment"])
    except MALFORMED:
        return unknown("unparsable answer", evidence={"status": str(status)})
    facts = {"status": str(status), "code": str(code)[:64]}
    if status == 429:
        return not_sent("rate limited", retry_after_seconds=http.retry_after(response), evidence=facts)
    if status in (401, 403):
        return not_sent("credentials not accepted", evidence=facts)
    if status in (400, 404, 422) and kind == "invalid_request_error":
        missing = param == "payment_method"
        failure = FailureCode.MISSING_PAYMENT_METHOD if missing else FailureCode.PROCESSING_ERROR
        return Outcome(
            outcome=OutcomeClass.DECLINED,
            failure_code=failure,
            decline_class=DeclineClass.HARD if missing else DeclineClass.TECHNICAL,
            provider_code=code,
            message=payer_message(failure),
            executed=False,
            evidence=facts,
        )
    return unknown("no definite answer", evidence=facts)


def understood(payment: Body) -> Outcome:
    try:
        return payment_outcome(payment)
    except MALFORMED:
        return unknown("unparsable answer")


def payment_outcome(payment: Body) -> Outcome:
    """What a payment object of the gateway means. Raises when it is none."""
    status, reference = payment["status"], text(payment, "id")
    common: dict[str, Any] = {
        "provider_reference": reference,
        "provider_time": instant(payment["created"]),
        "evidence": {"status": status, "key": payment["key"] or ""},
    }
    currency = payment["currency"]
    match status:
        case "succeeded":
            money = Money(currency, payment["amount_received"])
            return Outcome(outcome=OutcomeClass.SUCCEEDED, money=money, **common)
        case "processing":
            return Outcome(outcome=OutcomeClass.PENDING, money=Money(currency, payment["amount"]), **common)
        case "requires_action":
            action = payment["next_action"]
            return Outcome(
                outcome=OutcomeClass.REQUIRES_ACTION,
                money=Money(currency, payment["amount"]),
                failure_code=FailureCode.AUTHENTICATION_REQUIRED,
                message=payer_message(FailureCode.AUTHENTICATION_REQUIRED),
                action_url=action["url"],
                action_expire_time=instant(action["expires_at"]),
                **common,
            )
        case "canceled":
            expired = payment["cancellation_reason"] == "expired"
            return Outcome(
                outcome=OutcomeClass.DECLINED,
                failure_code=FailureCode.AUTHENTICATION_REQUIRED,
                decline_class=DeclineClass.CUSTOMER,
                provider_code=EXPIRED_CODE if expired else CANCELED_CODE,
                message=payer_message(FailureCode.AUTHENTICATION_REQUIRED),
                **common,
            )
        case "failed":
            return declined_outcome(payment["last_payment_error"], payment)
    return unknown("unknown status", provider_reference=reference, evidence={"status": str(status)[:64]})


def declined_outcome(error: Body, payment: Body | None) -> Outcome:
    """A decline as the gateway words it, with the payment it belongs to."""
    code, decline_code = error["code"], error.get("decline_code")
    network_code, advice_code = error.get("network_decline_code"), error.get("advice_code")
    failure = failure_code_of(decline_code, code)
    return Outcome(
        outcome=OutcomeClass.DECLINED,
        provider_reference=None if payment is None else text(payment, "id"),
        provider_time=None if payment is None else instant(payment["created"]),
        failure_code=failure,
        decline_class=decline_class_of(decline_code, code, network_code, advice_code),
        provider_code=decline_code or code,
        network_code=network_code,
        advice_code=advice_code,
        message=payer_message(failure),
        evidence={} if payment is None else {"status": "failed", "key": payment["key"] or ""},
    )


def refusal(outcome: Outcome) -> tuple[FailureCode, DeclineClass]:
    return outcome.failure_code or FailureCode.CARD_DECLINED, outcome.decline_class or DeclineClass.SOFT


def listed(payment: Body) -> ProviderPayment:
    return ProviderPayment(
        provider_reference=text(payment, "id"),
        key=payment["key"],
        metadata=dict(payment["metadata"]),
        money=Money(payment["currency"], payment["amount_received"] or payment["amount"]),
        outcome=payment_outcome(payment),
        created_time=instant(payment["created"]),
        customer_reference=payment.get("customer"),
    )
