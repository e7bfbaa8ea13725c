"""The sandbox provider: speaks to the sandbox gateway over HTTP.

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

Credentials: ``secret_key`` (``sk_test_<account>``). Only TEST accounts exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import httpx

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.money import Money
from dunwell_server.providers import http
from dunwell_server.providers.base import (
    CANCELED_CODE,
    CONNECT_TIMEOUT_SECONDS,
    EXPIRED_CODE,
    TOTAL_TIMEOUT_SECONDS,
    AccountMode,
    Capabilities,
    ChargeRequest,
    ClientProfile,
    CustomerRef,
    DeclineClass,
    FailureCode,
    KeySemantics,
    LookupResult,
    MethodDetails,
    MethodKind,
    Outcome,
    OutcomeClass,
    PaymentPage,
    ProviderAccount,
    ProviderDeclined,
    ProviderPayment,
    ProviderRefused,
    ProviderUnavailable,
    check_account,
    checked,
    payer_message,
)
from dunwell_server.providers.declines import decline_class_of, failure_code_of
from dunwell_server.providers.outcomes import not_sent, unknown

NAME: Final = "sandbox"
MAX_CONNECTIONS: Final = 256
PAGE_SIZE: Final = 100

Body: TypeAlias = Mapping[str, Any]
_MALFORMED: Final = Exception
"""Whatever goes wrong while an answer is read means that it was not understood. Nothing is sent in those places."""


class SandboxProvider:
    """Adapter of the sandbox gateway at ``base_url``."""

    name = NAME
    capabilities = Capabilities(
        off_session_charges=True,
        follows_test_clock=True,
        max_concurrency=MAX_CONNECTIONS,
        modes=frozenset({AccountMode.TEST}),
    )
    key_semantics = KeySemantics(
        retention=timedelta(hours=24),
        replays_server_errors=True,
        lookup_authoritative=True,
        settle_window=timedelta(minutes=15),
    )

    def __init__(
        self,
        base_url: str,
        *,
        connect_timeout: float = CONNECT_TIMEOUT_SECONDS,
        total_timeout: float = TOTAL_TIMEOUT_SECONDS,
    ) -> None:
        """``base_url`` is the gateway's address; the timeouts are in seconds."""
        self._total_timeout = total_timeout
        self._client = http.new_client(
            base_url,
            max_connections=MAX_CONNECTIONS,
            connect_timeout=connect_timeout,
            total_timeout=total_timeout,
        )

    async def ensure_customer(self, account: ProviderAccount, client: ClientProfile, key: str) -> CustomerRef:
        body = {
            "name": client.name,
            "email": client.email,
            "metadata": {"firm": client.firm_id, "client": client.client_id, "key": key},
        }
        customer = await self._ask(account, "POST", "/v1/customers", key=key, json=body)
        return CustomerRef(_text(customer, "id"))

    async def attach_method(
        self, account: ProviderAccount, customer: CustomerRef, token: str, key: str
    ) -> MethodDetails:
        body = {"customer": customer.provider_reference, "token": token}
        method = await self._ask(account, "POST", "/v1/payment_methods/attach", key=key, json=body)
        try:
            card = method["card"]
            return MethodDetails(
                provider_reference=_text(method, "id"),
                kind=MethodKind.CARD if method["type"] == "card" else MethodKind.OTHER,
                brand=card["brand"],
                last4=card["last4"],
                exp_month=int(card["exp_month"]),
                exp_year=int(card["exp_year"]),
                fingerprint=card["fingerprint"],
                country=card["country"],
            )
        except _MALFORMED:
            raise ProviderUnavailable(NAME, "unparsable answer") from None

    async def detach_method(self, account: ProviderAccount, method_reference: str) -> None:
        try:
            await self._ask(account, "POST", _path("/v1/payment_methods", method_reference, "detach"))
        except ProviderRefused as refused:
            if refused.provider_code != "resource_missing":
                raise

    async def charge(self, request: ChargeRequest) -> Outcome:
        check_account(self, request.account)
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
        try:
            response = await self._send(request.account, "POST", "/v1/payments", key=request.key, json=body)
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
        check_account(self, account)
        if provider_reference is not None:
            found = await self._read(account, provider_reference)
            if found is not None:
                return found if money is None else checked(money, found)
        try:
            status, body = await self._answer(account, "GET", "/v1/payments", params={"key": key, "limit": PAGE_SIZE})
        except (http.NothingSent, http.NoAnswer) as error:
            return unknown(str(error))
        if status != 200:
            return unknown("look-up refused", evidence={"status": str(status)})
        try:
            outcomes = [payment_outcome(payment) for payment in body["data"]]
        except _MALFORMED:
            return unknown("unparsable answer")
        if not outcomes:
            return None
        best = min(outcomes, key=lambda outcome: _RANK[outcome.outcome])
        if len(outcomes) > 1:
            best = replace(best, evidence={**best.evidence, "payments_with_key": str(len(outcomes))})
        return best if money is None else checked(money, best)

    async def cancel(self, account: ProviderAccount, provider_reference: str) -> Outcome:
        check_account(self, account)
        try:
            status, body = await self._answer(account, "POST", _path("/v1/payments", provider_reference, "cancel"))
        except (http.NothingSent, http.NoAnswer) as error:
            return unknown(str(error), provider_reference=provider_reference)
        if status == 200:
            return _understood(body)
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
        body = await self._ask(account, "GET", "/v1/payments", params=params)
        try:
            return PaymentPage(tuple(_listed(payment) for payment in body["data"]), body["next_page"])
        except _MALFORMED:
            raise ProviderUnavailable(NAME, "unparsable answer") from None

    async def set_clock(self, account: ProviderAccount, now: datetime) -> None:
        try:
            await self._ask(account, "POST", "/v1/clock", json={"now": now.astimezone(UTC).isoformat()})
        except ProviderRefused as refused:
            if refused.provider_code == "clock_backwards":
                raise DunwellError(Reason.CLOCK_BACKWARDS, "the provider account's clock is later already") from None
            raise

    async def next_due(self, account: ProviderAccount) -> datetime | None:
        body = await self._ask(account, "GET", "/v1/clock")
        try:
            return None if body["next_due"] is None else _instant(body["next_due"])
        except _MALFORMED:
            raise ProviderUnavailable(NAME, "unparsable answer") from None

    async def close(self) -> None:
        await self._client.aclose()

    async def _send(
        self, account: ProviderAccount, method: str, path: str, *, key: str | None = None, **options: Any
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {account.credentials['secret_key']}"}
        if key is not None:
            headers["Idempotency-Key"] = key
        return await http.exchange(
            self._client, method, path, total_timeout=self._total_timeout, headers=headers, **options
        )

    async def _ask(
        self, account: ProviderAccount, method: str, path: str, *, key: str | None = None, **options: Any
    ) -> Body:
        """A call that moves no money: the body of a 200, or one of the errors of `Provider`."""
        check_account(self, account)
        try:
            response = await self._send(account, method, path, key=key, **options)
        except (http.NothingSent, http.NoAnswer) as error:
            raise ProviderUnavailable(NAME, str(error)) from None
        status = response.status_code
        try:
            body = _json(response)
            if status == 200:
                return body
            error_body = body["error"]
            code, param = error_body["code"], error_body.get("param")
        except _MALFORMED:
            raise ProviderUnavailable(NAME, f"unparsable answer with status {status}") from None
        if status in (401, 403):
            raise DunwellError(
                Reason.PROVIDER_NOT_CONFIGURED, f"{NAME} does not accept the account's credentials"
            ) from None
        if status == 402:
            declined = declined_outcome(error_body, None)
            raise ProviderDeclined(*_refusal(declined), declined.provider_code)
        if status == 400 and param in ("token", "payment_method"):
            raise ProviderDeclined(FailureCode.MISSING_PAYMENT_METHOD, DeclineClass.HARD, code)
        if status in (400, 404, 422):
            raise ProviderRefused(NAME, code)
        raise ProviderUnavailable(NAME, f"answered with status {status}", http.retry_after(response))

    async def _answer(self, account: ProviderAccount, method: str, path: str, **options: Any) -> tuple[int, Body]:
        """Status and body of one call. Raises `http.NothingSent`, or `http.NoAnswer` also for what is not JSON."""
        response = await self._send(account, method, path, **options)
        try:
            return response.status_code, _json(response)
        except _MALFORMED:
            raise http.NoAnswer("unparsable answer") from None

    async def _read(self, account: ProviderAccount, provider_reference: str) -> Outcome | None:
        """One payment of the provider's book; None if it has none under that id."""
        try:
            status, body = await self._answer(account, "GET", _path("/v1/payments", provider_reference))
        except (http.NothingSent, http.NoAnswer) as error:
            return unknown(str(error), provider_reference=provider_reference)
        if status == 200:
            return _understood(body)
        problem = body.get("error")
        if status == 404 and isinstance(problem, dict) and problem.get("code") == "resource_missing":
            return None
        return unknown("look-up refused", evidence={"status": str(status)})


# When several payments carry one key (it was reused after its life), what moved money is what counts.
_RANK: Final = {
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
        body = _json(response)
        if status == 200:
            return payment_outcome(body)
        error = body["error"]
        kind, code, param = error["type"], error["code"], error.get("param")
        if status == 402:
            return declined_outcome(error, error["payment"])
    except _MALFORMED:
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


def _understood(payment: Body) -> Outcome:
    try:
        return payment_outcome(payment)
    except _MALFORMED:
        return unknown("unparsable answer")


def payment_outcome(payment: Body) -> Outcome:
    """What a payment object of the gateway means. Raises when it is none."""
    status, reference = payment["status"], _text(payment, "id")
    common: dict[str, Any] = {
        "provider_reference": reference,
        "provider_time": _instant(payment["created"]),
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
                action_expire_time=_instant(action["expires_at"]),
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
        provider_reference=None if payment is None else _text(payment, "id"),
        provider_time=None if payment is None else _instant(payment["created"]),
        failure_code=failure,
        decline_class=decline_class_of(decline_code, code, network_code, advice_code),
        provider_code=decline_code or code,
        network_code=network_code,
        advice_code=advice_code,
        message=payer_message(failure),
        evidence={} if payment is None else {"status": "failed", "key": payment["key"] or ""},
    )


def _refusal(outcome: Outcome) -> tuple[FailureCode, DeclineClass]:
    return outcome.failure_code or FailureCode.CARD_DECLINED, outcome.decline_class or DeclineClass.SOFT


def _listed(payment: Body) -> ProviderPayment:
    return ProviderPayment(
        provider_reference=_text(payment, "id"),
        key=payment["key"],
        metadata=dict(payment["metadata"]),
        money=Money(payment["currency"], payment["amount_received"] or payment["amount"]),
        outcome=payment_outcome(payment),
        created_time=_instant(payment["created"]),
    )


def _path(collection: str, reference: str, action: str | None = None) -> str:
    path = f"{collection}/{quote(reference, safe='')}"
    return path if action is None else f"{path}/{action}"


def _json(response: httpx.Response) -> Body:
    body = response.json()
    if not isinstance(body, dict):
        raise ValueError("not an object")
    return body


def _text(body: Body, name: str) -> str:
    value = body[name]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} is no text")
    return value


def _instant(text: Any) -> datetime:
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError("an instant needs an offset")
    return instant.astimezone(UTC)
