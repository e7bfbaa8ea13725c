"""Refunds. What each answer means is as for charges (`outcomes`)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import httpx

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
from dunwell_server.providers.sandbox.reading import MALFORMED, Body, instant, json_of, path, text, texts
from dunwell_server.providers.sandbox.wire import PAGE_SIZE, Wire

_STATES: Final = {
    "succeeded": RefundOutcomeClass.SUCCEEDED,
    "pending": RefundOutcomeClass.PENDING,
    "failed": RefundOutcomeClass.FAILED,
}
_RANK: Final = (
    RefundOutcomeClass.SUCCEEDED,
    RefundOutcomeClass.UNKNOWN,
    RefundOutcomeClass.PENDING,
    RefundOutcomeClass.FAILED,
)
"""When several refunds carry one key (it was reused after its life), what moved money is what counts."""


class RefundCalls(Wire):
    """`abilities.Refunds`."""

    async def refund(self, request: RefundRequest) -> RefundOutcome:
        self.check(request.account)
        body = {
            "payment": request.payment_reference,
            "amount": request.money.minor,
            "currency": request.money.currency,
            "reference": request.refund,
            "metadata": request.metadata,
        }
        try:
            response = await self.send(request.account, "POST", "/v1/refunds", key=request.key, json=body)
        except http.NothingSent as error:
            return _not_sent(str(error))
        except http.NoAnswer as error:
            return _unknown(str(error))
        return _checked(request, refund_answer(response))

    async def lookup_refund(
        self, account: ProviderAccount, *, key: str, payment_reference: str, provider_reference: str | None = None
    ) -> RefundOutcome | None:
        self.check(account)
        try:
            if provider_reference is not None:
                status, body = await self.answer(account, "GET", path("/v1/refunds", provider_reference))
                if status == 200:
                    return refund_outcome(body)
                if status != 404:
                    return _unknown("look-up refused", {"status": str(status)})
            # Of the key alone: whichever payment it was for, it was this refund.
            params: dict[str, str | int] = {"key": key, "limit": PAGE_SIZE}
            status, body = await self.answer(account, "GET", "/v1/refunds", params=params)
            if status != 200:
                return _unknown("look-up refused", {"status": str(status)})
            found = [refund_outcome(refund) for refund in body["data"]]
        except (http.NothingSent, http.NoAnswer) as error:
            return _unknown(str(error))
        except MALFORMED:
            return _unknown("unparsable answer")
        return min(found, key=lambda outcome: _RANK.index(outcome.outcome)) if found else None

    async def list_refunds(
        self,
        account: ProviderAccount,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        payment_reference: str | None = None,
        page: str | None = None,
    ) -> RefundPage:
        params: dict[str, str | int] = {"limit": PAGE_SIZE}
        if since is not None:
            params["created_from"] = since.astimezone(UTC).isoformat()
        if until is not None:
            params["created_to"] = until.astimezone(UTC).isoformat()
        if payment_reference is not None:
            params["payment"] = payment_reference
        if page is not None:
            params["page"] = page
        return await self.read(account, "GET", "/v1/refunds", _page, params=params)


def refund_answer(response: httpx.Response) -> RefundOutcome:
    """What an answer to a request to refund means."""
    status = response.status_code
    try:
        body = json_of(response)
        if status == 200:
            return refund_outcome(body)
        error = body["error"]
        kind, code = error["type"], error["code"]
    except MALFORMED:
        return _unknown("unparsable answer", {"status": str(status)})
    facts = {"status": str(status), "code": str(code)[:64]}
    if status == 429:
        return replace(_not_sent("rate limited", facts), retry_after_seconds=http.retry_after(response))
    if status in (401, 403):
        return _not_sent("credentials not accepted", facts)
    if status in (400, 404, 422) and kind == "invalid_request_error":
        return RefundOutcome(
            outcome=RefundOutcomeClass.FAILED, provider_code=str(code)[:64], executed=False, evidence=facts
        )
    return _unknown("no definite answer", facts)


def refund_outcome(refund: Body) -> RefundOutcome:
    """What a refund object of the gateway means. Raises when it is none."""
    status = refund["status"]
    outcome = _STATES.get(status, RefundOutcomeClass.UNKNOWN)
    return RefundOutcome(
        outcome=outcome,
        provider_reference=text(refund, "id"),
        money=Money(refund["currency"], refund["amount"]),
        provider_code=(refund["failure_reason"] or "failed") if outcome is RefundOutcomeClass.FAILED else None,
        provider_time=instant(refund["created"]),
        evidence={"status": str(status)[:64], "key": refund["key"] or ""},
    )


def provider_refund(refund: Body) -> ProviderRefund:
    """A refund of the gateway's list or of an event. Raises when it is none."""
    outcome = refund_outcome(refund)
    return ProviderRefund(
        provider_reference=text(refund, "id"),
        payment_reference=text(refund, "payment"),
        metadata=texts(refund["metadata"]),
        money=Money(refund["currency"], refund["amount"]),
        outcome=outcome,
        created_time=instant(refund["created"]),
    )


def _page(body: Body) -> RefundPage:
    return RefundPage(tuple(provider_refund(refund) for refund in body["data"]), body["next_page"])


def _checked(request: RefundRequest, outcome: RefundOutcome) -> RefundOutcome:
    """The outcome, unless it speaks of another refund than was asked for: then UNKNOWN."""
    if outcome.money is None:
        return outcome
    facts: dict[str, Any] = {**outcome.evidence, "claimed": outcome.outcome.value}
    if outcome.evidence.get("key", request.key) != request.key:
        return _unknown("answer about another key", facts, outcome.provider_reference)
    if outcome.money != request.money and outcome.outcome is not RefundOutcomeClass.FAILED:
        asked, said = request.money, outcome.money
        facts |= {"asked": f"{asked.minor} {asked.currency}", "said": f"{said.minor} {said.currency}"}
        return replace(_unknown("money mismatch", facts, outcome.provider_reference), money=said)
    return outcome


def _not_sent(why: str, evidence: dict[str, str] | None = None) -> RefundOutcome:
    return RefundOutcome(outcome=RefundOutcomeClass.NOT_SENT, executed=False, evidence={"why": why, **(evidence or {})})


def _unknown(why: str, evidence: dict[str, str] | None = None, reference: str | None = None) -> RefundOutcome:
    return RefundOutcome(
        outcome=RefundOutcomeClass.UNKNOWN, provider_reference=reference, evidence={**(evidence or {}), "why": why}
    )
