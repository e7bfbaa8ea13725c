"""Between our words and the providers' interface."""

from __future__ import annotations

from datetime import datetime, timedelta

from dunwell_server.kernel.money import Money
from dunwell_server.payments.evidence import ActionRequired, Declined, Evidence, NotSent, Pending, Succeeded, Unknown
from dunwell_server.payments.jobs.gateways import Gateway
from dunwell_server.payments.model import DeclineClass, Failure, FailureCode
from dunwell_server.payments.service.sending import SendOrder
from dunwell_server.providers.base import ChargeReferences, ChargeRequest, Outcome, OutcomeClass


def charge_request(order: SendOrder, gateway: Gateway) -> ChargeRequest:
    """The provider's form of an order."""
    return ChargeRequest(
        account=gateway.account,
        key=order.key,
        references=ChargeReferences(order.firm_text, order.payment_text),
        money=Money(order.currency_code, order.amount_minor),
        method_reference=order.method_reference,
        customer_reference=order.customer_reference,
        description=order.description,
        off_session=order.off_session,
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
            return Unknown(_why(outcome))


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
