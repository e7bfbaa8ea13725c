"""What providers' answers say, as evidence. Pure."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from dunwell_server.payments.evidence import ActionRequired, Declined, Evidence, NotSent, Pending, Succeeded, Unknown
from dunwell_server.payments.model import DeclineClass, Failure, FailureCode
from dunwell_server.providers.abilities import CheckoutDetails, CheckoutState
from dunwell_server.providers.base import CANCELED_CODE, EXPIRED_CODE, MethodDetails, MethodKind, Outcome, OutcomeClass
from dunwell_server.providers.outcomes import MONEY_MISMATCH

_ENDS = frozenset({CANCELED_CODE, EXPIRED_CODE})
_DIGITS = re.compile(r"[0-9]{4}", re.ASCII)
_KINDS = frozenset({MethodKind.CARD, MethodKind.UPI, MethodKind.BANK})
NOT_PAID_IN_TIME = Failure(
    FailureCode.AUTHENTICATION_REQUIRED,
    DeclineClass.CUSTOMER,
    EXPIRED_CODE,
    message="The page was closed before it was paid.",
)


def evidence_of(outcome: Outcome, now: datetime) -> Evidence:
    """What a provider's answer says. `now` is firm time: waits that the provider asks for are counted from it."""
    wait = timedelta(seconds=outcome.retry_after_seconds) if outcome.retry_after_seconds is not None else None
    match outcome.outcome:
        case OutcomeClass.SUCCEEDED:
            assert outcome.money is not None
            return Succeeded(outcome.provider_reference, outcome.money.minor, outcome.money.currency)
        case OutcomeClass.DECLINED:
            return Declined(_failure(outcome, now + wait if wait is not None else None), outcome.provider_reference)
        case OutcomeClass.REQUIRES_ACTION:
            return ActionRequired(outcome.provider_reference, outcome.action_url, outcome.action_expire_time)
        case OutcomeClass.PENDING:
            return Pending(outcome.provider_reference)
        case OutcomeClass.NOT_SENT:
            return NotSent(outcome.evidence.get("why", "not sent"), wait)
        case _:
            return Unknown(_why(outcome), _other_money(outcome))


def page_evidence(details: CheckoutDetails, now: datetime) -> Evidence:
    """What a hosted page says about the money it asks for.

    A refusal on an open page is not the end: the client may try another method there. The page's own end is.
    """
    outcome = details.payment
    if outcome is not None and outcome.outcome is OutcomeClass.SUCCEEDED:
        return evidence_of(outcome, now)
    match details.state:
        case CheckoutState.EXPIRED:
            return Declined(NOT_PAID_IN_TIME)
        case CheckoutState.COMPLETED:
            return (
                Unknown("the page is complete, its payment not known yet")
                if outcome is None
                else evidence_of(outcome, now)
            )
    return ActionRequired(None, details.url, details.expire_time)


def ends_page(failure: Failure) -> bool:
    """Whether a refusal is the provider's word that a page, or a payment that waited, has ended unpaid."""
    return failure.provider_code in _ENDS


def method_columns(details: MethodDetails) -> dict[str, object]:
    """What is kept of a method, by column. What is for show and not as the book has it is left out: the method works all the same."""
    last4, month, year = details.last4, details.exp_month, details.exp_year
    expires = month is not None and year is not None and 1 <= month <= 12 and 1900 <= year <= 9999
    return {
        "provider_reference": details.provider_reference,
        "kind": details.kind.value if details.kind in _KINDS else "OTHER",
        "brand": details.brand,
        # Of a bank account these may be letters, where its country's numbers have some.
        "last4": last4 if last4 is not None and _DIGITS.fullmatch(last4) else None,
        "exp_month": month if expires else None,
        "exp_year": year if expires else None,
        "fingerprint": details.fingerprint,
        "country": details.country,
    }


def is_bare(details: MethodDetails) -> bool:
    """Whether only the method's id is known."""
    return details.brand is None and details.last4 is None and details.fingerprint is None


def _other_money(outcome: Outcome) -> bool:
    claim = (outcome.evidence.get("why"), outcome.evidence.get("claimed"))
    return claim == (MONEY_MISMATCH, OutcomeClass.SUCCEEDED.value)


def _why(outcome: Outcome) -> str:
    parts = [f"{name}: {value}" if name != "why" else value for name, value in outcome.evidence.items()]
    return "; ".join(parts)[:500] or "no definite answer"


def _failure(outcome: Outcome, not_before: datetime | None) -> Failure:
    assert outcome.failure_code is not None
    assert outcome.decline_class is not None
    return Failure(
        FailureCode(outcome.failure_code.value),
        DeclineClass(outcome.decline_class.value),
        outcome.provider_code,
        outcome.network_code,
        outcome.advice_code,
        outcome.message or None,
        not_before,
    )
