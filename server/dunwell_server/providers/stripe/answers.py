"""What Stripe's errors mean: for a charge, exactly one outcome; for any other call, one of the house's errors.

=======================================================  ======================================================
no connection (refused, no such host, TLS)               NOT_SENT: no byte left
timeout, reset, 5xx, unparsable, anything not below      UNKNOWN
429, or 400 ``rate_limit``                               NOT_SENT: turned away before the key was looked at
401, 403                                                 NOT_SENT: refused at the door
402                                                      DECLINED, with the codes
409; ``lock_timeout``, ``idempotency_key_in_use``        UNKNOWN: the same key may be executed this moment
400 ``idempotency_error``                                UNKNOWN: the key was used for something else
400, 404, 422 with ``Stripe-Should-Retry: true``         UNKNOWN: not Stripe's last word
400, 404, 422: no such payment method                    DECLINED HARD: there is none (any more)
400, 404, 422 about method or customer otherwise         DECLINED CUSTOMER: repeating it cannot help
400, 404, 422 about the amount or a limit of Stripe's    DECLINED SOFT: nothing is wrong with the method
400, 404, 422 otherwise                                  DECLINED TECHNICAL: our request is wrong; a few tries
=======================================================  ======================================================

All but the first presume Stripe's own error object in the body (429 excepted): a page from something in between proves
nothing. Refused before execution, Stripe keeps nothing under the key: ``executed`` is False then.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Final

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.providers import http
from dunwell_server.providers.base import ProviderDeclined, ProviderRefused, ProviderUnavailable
from dunwell_server.providers.declines import advised_wait, decline_class_of, failure_code_of
from dunwell_server.providers.outcomes import (
    DeclineClass,
    FailureCode,
    Outcome,
    OutcomeClass,
    not_sent,
    payer_message,
    unknown,
)
from dunwell_server.providers.stripe.client import NAME, Refused, ask
from dunwell_server.providers.stripe.reading import Body, maybe_text

_BEING_EXECUTED: Final = frozenset({"lock_timeout", "idempotency_key_in_use"})
_AUTHENTICATION_FAILED: Final = frozenset(
    {"payment_intent_authentication_failure", "setup_intent_authentication_failure", "authentication_required"}
)
# Nothing is wrong with the method, which others may be paid with: it must not be blocked for this.
_NOT_THE_METHOD: Final = frozenset(
    {"amount_too_small", "amount_too_large", "customer_max_payments", "customer_max_subscriptions"}
)
_METHOD_PARAMS: Final = frozenset({"payment_method", "source", "card"})


def facts(refused: Refused) -> dict[str, str]:
    """What is kept of a refusal as evidence."""
    known = {"status": str(refused.status), "type": refused.kind, "code": refused.code, "param": refused.param}
    if refused.should_retry is not None:
        known["should_retry"] = str(refused.should_retry).lower()
    return {name: value[:64] for name, value in known.items() if value is not None}


def refusal_is_final(refused: Refused) -> bool:
    """Whether Stripe looked at the request and will not do it, as against: not now, or nobody knows."""
    return (
        refused.status in (400, 404, 422)
        and refused.error is not None
        and refused.kind != "idempotency_error"
        and refused.code not in _BEING_EXECUTED
        and refused.should_retry is not True
        and not refused.rate_limited
    )


def charge_refusal(refused: Refused) -> Outcome:
    """The outcome of a charge that was answered with an error without a PaymentIntent; the table of this module."""
    known = facts(refused)
    if refused.rate_limited:
        return not_sent("rate limited", retry_after_seconds=refused.retry_after, evidence=known)
    if refused.error is None:
        return unknown("unparsable answer", evidence=known)
    if refused.status in (401, 403):
        return not_sent("credentials not accepted", evidence=known)
    if refused.status == 402:
        return declined(refused.error, evidence=known)
    if refusal_is_final(refused):
        failure, decline_class = _refusal_class(refused)
        return Outcome(
            outcome=OutcomeClass.DECLINED,
            failure_code=failure,
            decline_class=decline_class,
            provider_code=refused.code or refused.kind,
            message=payer_message(failure),
            executed=refused.replayed,
            evidence=known,
        )
    return unknown("no definite answer", evidence=known)


def _refusal_class(refused: Refused) -> tuple[FailureCode, DeclineClass]:
    if refused.param in _METHOD_PARAMS and refused.code in (None, "resource_missing"):
        return FailureCode.MISSING_PAYMENT_METHOD, DeclineClass.HARD
    if refused.param in _METHOD_PARAMS:
        # It exists, and cannot be used for this: another currency, not activated, …
        return FailureCode.PROCESSING_ERROR, DeclineClass.CUSTOMER
    if refused.param == "customer":
        return FailureCode.MISSING_PAYMENT_METHOD, DeclineClass.CUSTOMER
    if refused.code in _NOT_THE_METHOD:
        return FailureCode.PROCESSING_ERROR, DeclineClass.SOFT
    return FailureCode.PROCESSING_ERROR, DeclineClass.TECHNICAL


def decline_of(error: Body) -> tuple[FailureCode, DeclineClass, str | None]:
    """Failure code, decline class and Stripe's word of an error object, ``last_payment_error`` or ``last_setup_error``."""
    decline_code, code = maybe_text(error, "decline_code"), maybe_text(error, "code")
    decline_class = decline_class_of(
        decline_code,
        code,
        maybe_text(error, "network_decline_code"),
        maybe_text(error, "advice_code"),
        maybe_text(error, "network_advice_code"),
    )
    failure = failure_code_of(decline_code, code)
    if _AUTHENTICATION_FAILED & {decline_code, code}:
        failure = FailureCode.AUTHENTICATION_REQUIRED
        if decline_class is not DeclineClass.HARD:
            decline_class = DeclineClass.CUSTOMER
    return failure, decline_class, decline_code or code or maybe_text(error, "type")


def declined(error: Body, **common: Any) -> Outcome:
    """A decline as Stripe words it. ``common`` are further fields of the outcome."""
    failure, decline_class, provider_code = decline_of(error)
    network_advice = maybe_text(error, "network_advice_code")
    wait = advised_wait(network_advice)
    return Outcome(
        outcome=OutcomeClass.DECLINED,
        failure_code=failure,
        decline_class=decline_class,
        provider_code=provider_code,
        network_code=maybe_text(error, "network_decline_code"),
        advice_code=maybe_text(error, "advice_code") or network_advice,
        message=payer_message(failure),
        retry_after_seconds=None if wait is None else wait.total_seconds(),
        **common,
    )


async def request(call: Awaitable[Any]) -> Body:
    """A call that is no charge: its answer, or one of the errors of `base.Provider`."""
    try:
        return await ask(call)
    except Refused as refused:
        raise refusal(refused) from None
    except (http.NothingSent, http.NoAnswer) as error:
        raise ProviderUnavailable(NAME, str(error)) from None


def refusal(refused: Refused) -> DunwellError:
    """The error for a call, no charge, that Stripe answered with an error."""
    if refused.rate_limited:
        return ProviderUnavailable(NAME, "rate limited", refused.retry_after)
    if refused.error is None:
        return ProviderUnavailable(NAME, f"unparsable answer with status {refused.status}", refused.retry_after)
    if refused.status in (401, 403):
        return DunwellError(Reason.PROVIDER_NOT_CONFIGURED, f"{NAME} does not accept the account's credentials")
    if refused.status == 402:
        return ProviderDeclined(*decline_of(refused.error))
    if refusal_is_final(refused) or refused.kind == "idempotency_error":
        return ProviderRefused(NAME, refused.code or refused.kind)
    return ProviderUnavailable(NAME, f"answered with status {refused.status}", refused.retry_after)


def unparsable() -> ProviderUnavailable:
    """The error for an answer that is not what it should be."""
    return ProviderUnavailable(NAME, "unparsable answer")
