"""Charges: taking money, looking up what became of it, cancelling, and the list."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from dunwell_server.kernel.money import Money
from dunwell_server.providers import http
from dunwell_server.providers.base import (
    ChargeRequest,
    LookupResult,
    Outcome,
    PaymentPage,
    ProviderAccount,
    ProviderUnavailable,
    checked,
)
from dunwell_server.providers.outcomes import not_sent, unknown
from dunwell_server.providers.sandbox.outcomes import RANK, charge_outcome, listed, payment_outcome, understood
from dunwell_server.providers.sandbox.reading import MALFORMED, path
from dunwell_server.providers.sandbox.wire import NAME, PAGE_SIZE, Wire


class ChargeCalls(Wire):
    """The calls of `Provider` that are about money."""

    async def charge(self, request: ChargeRequest) -> Outcome:
        self.check(request.account)
        body = {
            "amount": request.money.minor,
            "currency": request.money.currency,
            "customer": request.customer_reference,
            "payment_method": request.method_reference,
            "description": request.description or None,
            "reference": request.references.payment,
            "off_session": request.off_session,
            "metadata": request.metadata,
        }
        if request.return_url is not None:
            body["return_url"] = request.return_url
        try:
            response = await self.send(request.account, "POST", "/v1/payments", key=request.key, json=body)
        except http.NothingSent as error:
            return not_sent(str(error))
        except http.NoAnswer as error:
            return unknown(str(error))
        outcome = charge_outcome(response)
        if outcome.executed and outcome.evidence.get("key", request.key) != request.key:
            return unknown("answer about another key", provider_reference=outcome.provider_reference)
        return checked(request.money, outcome)

    async def lookup(
        self,
        account: ProviderAccount,
        *,
        key: str,
        money: Money | None = None,
        provider_reference: str | None = None,
        customer_reference: str | None = None,
        since: datetime | None = None,
    ) -> LookupResult:
        self.check(account)
        if provider_reference is not None:
            found = await self._read(account, provider_reference)
            if found is not None:
                return found if money is None else checked(money, found)
        try:
            status, body = await self.answer(account, "GET", "/v1/payments", params={"key": key, "limit": PAGE_SIZE})
        except (http.NothingSent, http.NoAnswer) as error:
            return unknown(str(error))
        if status != 200:
            return unknown("look-up refused", evidence={"status": str(status)})
        try:
            outcomes = [payment_outcome(payment) for payment in body["data"]]
        except MALFORMED:
            return unknown("unparsable answer")
        if not outcomes:
            return None
        best = min(outcomes, key=lambda outcome: RANK[outcome.outcome])
        if len(outcomes) > 1:
            best = replace(best, evidence={**best.evidence, "payments_with_key": str(len(outcomes))})
        return best if money is None else checked(money, best)

    async def cancel(self, account: ProviderAccount, provider_reference: str) -> Outcome:
        self.check(account)
        try:
            status, body = await self.answer(account, "POST", path("/v1/payments", provider_reference, "cancel"))
        except (http.NothingSent, http.NoAnswer) as error:
            return unknown(str(error), provider_reference=provider_reference)
        if status == 200:
            return understood(body)
        found = await self._read(account, provider_reference)
        return found or unknown("no such payment", provider_reference=provider_reference)

    async def list_payments(
        self, account: ProviderAccount, since: datetime, until: datetime, page: str | None = None
    ) -> PaymentPage:
        params: dict[str, str | int] = {
            "created_from": since.astimezone(UTC).isoformat(),
            "created_to": until.astimezone(UTC).isoformat(),
            "limit": PAGE_SIZE,
        }
        if page is not None:
            params["page"] = page
        body = await self.ask(account, "GET", "/v1/payments", params=params)
        try:
            return PaymentPage(tuple(listed(payment) for payment in body["data"]), body["next_page"])
        except MALFORMED:
            raise ProviderUnavailable(NAME, "unparsable answer") from None

    async def _read(self, account: ProviderAccount, provider_reference: str) -> Outcome | None:
        """One payment of the provider's book; None if it has none under that id."""
        try:
            status, body = await self.answer(account, "GET", path("/v1/payments", provider_reference))
        except (http.NothingSent, http.NoAnswer) as error:
            return unknown(str(error), provider_reference=provider_reference)
        if status == 200:
            return understood(body)
        problem = body.get("error")
        if status == 404 and isinstance(problem, dict) and problem.get("code") == "resource_missing":
            return None
        return unknown("look-up refused", evidence={"status": str(status)})
