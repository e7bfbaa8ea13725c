"""Refunds."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

from dunwell_server.kernel.errors import DunwellError
from dunwell_server.kernel.money import Money
from dunwell_server.providers import http
from dunwell_server.providers.abilities import (
    ProviderRefund,
    RefundOutcome,
    RefundOutcomeClass,
    RefundPage,
    RefundRequest,
)
from dunwell_server.providers.base import ProviderAccount
from dunwell_server.providers.stripe.amounts import NotRepresentable, from_stripe, to_stripe
from dunwell_server.providers.stripe.answers import facts, refusal_is_final, request, unparsable
from dunwell_server.providers.stripe.calls import PAGE_SIZE, Calls, Slice, TooMany, all_items
from dunwell_server.providers.stripe.client import Refused, ask
from dunwell_server.providers.stripe.reading import (
    Body,
    Unmapped,
    instant,
    is_reference,
    maybe_instant,
    maybe_text,
    metadata,
    reference,
    text,
)

if TYPE_CHECKING:
    from stripe.params import RefundCreateParams, RefundListParams

_STATES: Final = {
    "pending": RefundOutcomeClass.PENDING,
    "requires_action": RefundOutcomeClass.PENDING,
    "succeeded": RefundOutcomeClass.SUCCEEDED,
    "failed": RefundOutcomeClass.FAILED,
    "canceled": RefundOutcomeClass.FAILED,
}
_READING_ERRORS: Final = (ValueError, TypeError, KeyError, AttributeError, DunwellError)


class RefundCalls(Calls):
    """`abilities.Refunds`."""

    async def refund(self, request: RefundRequest) -> RefundOutcome:
        client = self._client(request.account)
        try:
            params = refund_params(request)
        except NotRepresentable:
            return RefundOutcome(
                outcome=RefundOutcomeClass.FAILED, provider_code="amount_not_representable", executed=False
            )
        try:
            body = await ask(client.v1.refunds.create_async(params, {"idempotency_key": request.key}))
        except http.NothingSent as error:
            return RefundOutcome(outcome=RefundOutcomeClass.NOT_SENT, executed=False, evidence={"why": str(error)})
        except http.NoAnswer as error:
            return _unknown(str(error))
        except Refused as refused:
            return refund_refusal(refused)
        return checked_refund(request.money, request.key, body)

    async def lookup_refund(
        self, account: ProviderAccount, *, key: str, payment_reference: str, provider_reference: str | None = None
    ) -> RefundOutcome | None:
        client = self._client(account)

        async def page(after: str | None) -> Body:
            params = _of_payment(payment_reference)
            if after is not None:
                params["starting_after"] = after
            return await ask(client.v1.refunds.list_async(params))

        try:
            if provider_reference is not None and is_reference(provider_reference):
                try:
                    return refund_outcome(await ask(client.v1.refunds.retrieve_async(provider_reference)))
                except Refused as refused:
                    if not refused.missing:
                        raise
            found = [item async for item in all_items(page) if metadata(item).get("key") == key]
            outcomes = [refund_outcome(item) for item in found]
        except Refused as refused:
            return _unknown("look-up refused", facts(refused))
        except (http.NothingSent, http.NoAnswer) as error:
            return _unknown(str(error))
        except TooMany:
            return _unknown("too many refunds to search")
        except _READING_ERRORS:
            return _unknown("unparsable answer")
        return min(outcomes, key=lambda outcome: _RANK[outcome.outcome]) if outcomes else None

    async def list_refunds(
        self,
        account: ProviderAccount,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        payment_reference: str | None = None,
        page: str | None = None,
    ) -> RefundPage:
        client = self._client(account)

        async def fetch(start: int | None, stop: int | None, after: str | None) -> Body:
            params = _of_payment(payment_reference)
            if start is not None and stop is not None:
                params["created"] = {"gte": start, "lt": stop}
            if after is not None:
                params["starting_after"] = after
            return await request(client.v1.refunds.list_async(params))

        try:
            token: str | None = None
            if since is not None and until is not None:
                found, token = await Slice(since, until, page).read(fetch)
            else:
                found = [item async for item in all_items(lambda after: fetch(None, None, after))][::-1]
            refunds = (_listed(item) for item in found)
            return RefundPage(tuple(r for r in refunds if r is not None and _within(r, since, until)), token)
        except (TooMany, ValueError, TypeError, KeyError):
            raise unparsable() from None


_RANK: Final = {
    RefundOutcomeClass.SUCCEEDED: 0,
    RefundOutcomeClass.UNKNOWN: 1,
    RefundOutcomeClass.PENDING: 2,
    RefundOutcomeClass.NOT_SENT: 3,
    RefundOutcomeClass.FAILED: 4,
}


def _listed(refund: Body) -> ProviderRefund | None:
    """A refund of the list; None for a foreign one of no payment, in a state or in money that this book cannot hold."""
    try:
        return refund_of(refund)
    except (DunwellError, NotRepresentable, Unmapped):
        if "key" in metadata(refund):
            raise ValueError("one of ours, which cannot be held") from None
        return None


def _within(refund: ProviderRefund, since: datetime | None, until: datetime | None) -> bool:
    return (since is None or refund.created_time >= since) and (until is None or refund.created_time < until)


def _of_payment(payment_reference: str | None) -> RefundListParams:
    params: RefundListParams = {"limit": PAGE_SIZE}
    if payment_reference is not None:
        params["charge" if is_charge(payment_reference) else "payment_intent"] = payment_reference
    return params


def is_charge(payment_reference: str) -> bool:
    """Whether a payment's reference is a charge's, as payments older than PaymentIntents have."""
    return payment_reference.startswith(("ch_", "py_"))


def refund_params(request: RefundRequest) -> RefundCreateParams:
    """The request of a refund. Raises NotRepresentable."""
    params: RefundCreateParams = {"amount": to_stripe(request.money), "metadata": request.metadata}
    params["charge" if is_charge(request.payment_reference) else "payment_intent"] = request.payment_reference
    return params


def refund_refusal(refused: Refused) -> RefundOutcome:
    """What an error means for a refund; as `answers.charge_refusal`."""
    known = facts(refused)
    if refused.rate_limited or (refused.error is not None and refused.status in (401, 403)):
        return RefundOutcome(
            outcome=RefundOutcomeClass.NOT_SENT,
            executed=False,
            retry_after_seconds=refused.retry_after,
            # The words by which whoever sends knows that the account's limit was met, and rests.
            evidence={**known, "why": "rate limited" if refused.rate_limited else "credentials not accepted"},
        )
    if refused.error is not None and (refused.status == 402 or refusal_is_final(refused)):
        return RefundOutcome(
            outcome=RefundOutcomeClass.FAILED,
            provider_code=refused.code or refused.kind,
            executed=refused.replayed or refused.status == 402,
            evidence=known,
        )
    return _unknown("no definite answer", known)


def checked_refund(asked: Money, key: str, body: Body) -> RefundOutcome:
    """The outcome of a refund just made, unless it speaks of another amount or another refund: then UNKNOWN."""
    try:
        outcome = refund_outcome(body)
    except _READING_ERRORS:
        return _unknown("unparsable answer")
    if metadata(body).get("key", key) != key:
        return _unknown("answer about another key")
    if outcome.money != asked and outcome.outcome is not RefundOutcomeClass.FAILED:
        said = outcome.money
        return replace(
            outcome,
            outcome=RefundOutcomeClass.UNKNOWN,
            evidence={
                **outcome.evidence,
                "why": "money mismatch",
                "claimed": outcome.outcome.value,
                "asked": f"{asked.minor} {asked.currency}",
                "said": "" if said is None else f"{said.minor} {said.currency}",
            },
        )
    return outcome


def refund_outcome(refund: Body) -> RefundOutcome:
    """What a refund object means. Raises ValueError or DunwellError when it is none, Unmapped for a new status."""
    # Refunds older than the field have none, and were made.
    status = maybe_text(refund, "status") or "succeeded"
    outcome = _STATES.get(status)
    if outcome is None:
        raise Unmapped(f"refund status {status[:64]!r}")
    failed = outcome is RefundOutcomeClass.FAILED
    return RefundOutcome(
        outcome=outcome,
        provider_reference=text(refund, "id"),
        money=from_stripe(refund.get("currency"), refund.get("amount")),
        provider_code=(maybe_text(refund, "failure_reason") or status) if failed else None,
        provider_time=maybe_instant(refund.get("created")),
        evidence={"status": status},
    )


def refund_of(refund: Body) -> ProviderRefund:
    """A refund in a list or an event. Raises ValueError when it is none, Unmapped for one that is of no payment."""
    outcome = refund_outcome(refund)
    payment = reference(refund.get("payment_intent")) or reference(refund.get("charge"))
    if payment is None:
        raise Unmapped("a refund of a customer's balance")  # Stripe gives back money that no payment brought.
    if outcome.money is None or outcome.provider_reference is None:
        raise ValueError("a refund of nothing")
    return ProviderRefund(
        provider_reference=outcome.provider_reference,
        payment_reference=payment,
        metadata=metadata(refund),
        money=outcome.money,
        outcome=outcome,
        created_time=instant(refund.get("created")),
    )


def _unknown(why: str, evidence: dict[str, str] | None = None) -> RefundOutcome:
    return RefundOutcome(outcome=RefundOutcomeClass.UNKNOWN, evidence={"why": why, **(evidence or {})})
