"""Checkout sessions: pages that the gateway itself serves."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from dunwell_server.kernel.errors import field_invalid
from dunwell_server.providers.abilities import CheckoutDetails, CheckoutMode, CheckoutRequest, CheckoutState
from dunwell_server.providers.base import (
    EXPIRED_CODE,
    DeclineClass,
    FailureCode,
    Outcome,
    OutcomeClass,
    ProviderAccount,
    ProviderRefused,
    payer_message,
)
from dunwell_server.providers.sandbox.outcomes import payment_outcome
from dunwell_server.providers.sandbox.reading import Body, instant, maybe_method, maybe_text, obj, path, text, texts
from dunwell_server.providers.sandbox.wire import Wire

_MODES: Final = {mode.value.lower(): mode for mode in CheckoutMode}
_STATES: Final = {
    "open": CheckoutState.OPEN,
    "complete": CheckoutState.COMPLETED,
    "expired": CheckoutState.EXPIRED,
}
_SESSIONS: Final = "/v1/checkout/sessions"


class CheckoutCalls(Wire):
    """`abilities.Checkout`."""

    async def create_checkout(self, request: CheckoutRequest) -> CheckoutDetails:
        body = session_body(request)
        return await self.read(request.account, "POST", _SESSIONS, checkout_details, key=request.key, json=body)

    async def get_checkout(self, account: ProviderAccount, reference: str) -> CheckoutDetails:
        return await self.read(account, "GET", path(_SESSIONS, reference), checkout_details)

    async def find_checkout(self, account: ProviderAccount, key: str, since: datetime) -> CheckoutDetails | None:
        params = {"key": key, "created_from": since.astimezone(UTC).isoformat(), "limit": 1}
        return await self.read(account, "GET", _SESSIONS, _first, params=params)

    def plain_page(self, account: ProviderAccount) -> str:
        """The page itself, which shows what has become of it. The gateway puts in its id."""
        return self._client.base_url + "/checkout/{CHECKOUT_SESSION_ID}"

    async def expire_checkout(self, account: ProviderAccount, reference: str) -> CheckoutDetails:
        try:
            return await self.read(account, "POST", path(_SESSIONS, reference, "expire"), checkout_details)
        except ProviderRefused as refused:
            if refused.provider_code == "resource_missing":
                raise
            # It is open no longer: what it has become is the answer.
            return await self.get_checkout(account, reference)


def session_body(request: CheckoutRequest) -> dict[str, Any]:
    """The request of a page. Raises FIELD_INVALID where what the mode needs is missing."""
    body: dict[str, Any] = {
        "mode": request.mode.value.lower(),
        "success_url": request.success_url,
        "cancel_url": request.cancel_url,
        "customer": request.customer_reference,
        "description": request.description[:1000] or None,
        "metadata": {**request.metadata, "key": request.key},
    }
    if request.expire_time is not None:
        body["expires_at"] = request.expire_time.astimezone(UTC).isoformat()
    match request.mode:
        case CheckoutMode.PAYMENT:
            if request.money is None:
                raise field_invalid("money", "a payment page needs an amount")
            body |= {
                "amount": request.money.minor,
                "currency": request.money.currency,
                "save_method": request.save_method,
            }
        case CheckoutMode.SUBSCRIPTION:
            if request.price_reference is None:
                raise field_invalid("price_reference", "a subscription page needs a price")
            body |= {"price": request.price_reference, "quantity": request.quantity}
    return body


def _first(body: Body) -> CheckoutDetails | None:
    found = body["data"]
    return checkout_details(obj(found[0])) if found else None


def checkout_details(session: Body) -> CheckoutDetails:
    """A hosted page of the gateway. Raises when it is none, or has a mode or status nobody knows."""
    state = _STATES[session["status"]]
    return CheckoutDetails(
        provider_reference=text(session, "id"),
        mode=_MODES[session["mode"]],
        state=state,
        url=maybe_text(session, "url"),
        expire_time=instant(session["expires_at"]),
        customer_reference=maybe_text(session, "customer"),
        payment=_payment(session, state),
        setup_reference=maybe_text(session, "setup_intent"),
        subscription_reference=maybe_text(session, "subscription"),
        method=maybe_method(session["payment_method"]),
        metadata=texts(session["metadata"]),
    )


def _payment(session: Body, state: CheckoutState) -> Outcome | None:
    """What became of a page's money. A page that has expired takes none any more, whatever was tried on it."""
    paid = session["payment"]
    if session["mode"] == "payment" and state is CheckoutState.EXPIRED:
        return Outcome(
            outcome=OutcomeClass.DECLINED,
            provider_reference=None if paid is None else text(paid, "id"),
            failure_code=FailureCode.AUTHENTICATION_REQUIRED,
            decline_class=DeclineClass.CUSTOMER,
            provider_code=EXPIRED_CODE,
            message=payer_message(FailureCode.AUTHENTICATION_REQUIRED),
            evidence={"session": text(session, "id")},
        )
    return None if paid is None else payment_outcome(obj(paid))
