"""Checkout Sessions: hosted pages that take a payment, save a method, or start a subscription."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from dunwell_server.kernel.errors import DunwellError, field_invalid
from dunwell_server.providers.abilities import CheckoutDetails, CheckoutMode, CheckoutRequest, CheckoutState
from dunwell_server.providers.base import (
    EXPIRED_CODE,
    DeclineClass,
    FailureCode,
    MethodDetails,
    Outcome,
    OutcomeClass,
    ProviderAccount,
    ProviderRefused,
    ProviderUnavailable,
    payer_message,
)
from dunwell_server.providers.stripe.amounts import NotRepresentable, from_stripe, to_stripe
from dunwell_server.providers.stripe.answers import request, unparsable
from dunwell_server.providers.stripe.calls import PAGE_SIZE, Calls, TooMany, all_items, existing, seconds
from dunwell_server.providers.stripe.charges import CLOCK_MARGIN, ended, payment_outcome
from dunwell_server.providers.stripe.client import NAME, fresh_key
from dunwell_server.providers.stripe.customers import bare_method
from dunwell_server.providers.stripe.reading import (
    Body,
    Unmapped,
    maybe_instant,
    maybe_obj,
    maybe_text,
    metadata,
    reference,
    text,
)

if TYPE_CHECKING:
    from stripe.params.checkout import SessionCreateParams, SessionCreateParamsLineItem, SessionListParams

SHORTEST: Final = timedelta(minutes=30)
LONGEST: Final = timedelta(hours=24)
"""How long a session may stay open, by Stripe's clock; the longest is also what it does by itself."""
_SLACK: Final = timedelta(minutes=1)

_MODES: Final = {
    "payment": CheckoutMode.PAYMENT,
    "setup": CheckoutMode.SETUP,
    "subscription": CheckoutMode.SUBSCRIPTION,
}
_STATES: Final = {
    "open": CheckoutState.OPEN,
    "complete": CheckoutState.COMPLETED,
    "expired": CheckoutState.EXPIRED,
}
_EXPAND: Final = ["payment_intent.payment_method", "setup_intent.payment_method"]
_READING_ERRORS: Final = (ValueError, TypeError, KeyError, AttributeError, DunwellError)


class CheckoutCalls(Calls):
    """`abilities.Checkout`."""

    async def create_checkout(self, request: CheckoutRequest) -> CheckoutDetails:
        client = self._client(request.account)
        params = session_params(request, datetime.now(UTC))
        call = client.v1.checkout.sessions.create_async(params, {"idempotency_key": request.key})
        try:
            return _details(await _asked(call))
        except ProviderRefused as refused:
            if refused.provider_code != "idempotency_error":
                raise
            # A repetition later than the first: the shortest time to live, counted from now, has become another.
            found = await self.find_checkout(request.account, request.key, _a_day_ago())
            if found is None:
                raise
            return found

    async def get_checkout(self, account: ProviderAccount, reference: str) -> CheckoutDetails:
        client = self._client(account)
        call = client.v1.checkout.sessions.retrieve_async(existing(reference), {"expand": list(_EXPAND)})
        return _details(await _asked(call))

    async def find_checkout(self, account: ProviderAccount, key: str, since: datetime) -> CheckoutDetails | None:
        client = self._client(account)

        async def page(after: str | None) -> Body:
            params: SessionListParams = {"limit": PAGE_SIZE}
            if since.timestamp() <= time.time():
                params["created"] = {"gte": seconds(since - CLOCK_MARGIN)}
            if after is not None:
                params["starting_after"] = after
            return await _asked(client.v1.checkout.sessions.list_async(params))

        try:
            async for item in all_items(page):
                if metadata(item).get("key") == key:
                    return await self.get_checkout(account, text(item, "id"))
        except TooMany:
            raise ProviderUnavailable(NAME, "too many sessions to search") from None
        except ValueError:
            raise unparsable() from None
        return None

    def plain_page(self, account: ProviderAccount) -> str:
        """Stripe's front page: a session's own page cannot be shown again."""
        return "https://stripe.com/"

    async def expire_checkout(self, account: ProviderAccount, reference: str) -> CheckoutDetails:
        client = self._client(account)
        call = client.v1.checkout.sessions.expire_async(existing(reference), {}, {"idempotency_key": fresh_key()})
        try:
            return _details(await _asked(call))
        except ProviderRefused:
            # It is open no longer: what it has become is the answer.
            return await self.get_checkout(account, reference)


_asked = request


def _a_day_ago() -> datetime:
    return datetime.now(UTC) - LONGEST


def session_params(request: CheckoutRequest, now: datetime) -> SessionCreateParams:
    """The request of a session. ``now`` is the present: what the expire time is bounded by.

    Raises FIELD_INVALID for an amount Stripe cannot express, or where what the mode needs is missing.
    """
    known = {**request.metadata, "key": request.key}
    params: SessionCreateParams = {
        "mode": _mode_of(request.mode),
        "success_url": request.success_url,
        "metadata": known,
    }
    if request.cancel_url is not None:
        params["cancel_url"] = request.cancel_url
    if request.customer_reference is not None:
        params["customer"] = request.customer_reference
    if "checkout" in known:
        params["client_reference_id"] = known["checkout"]
    if request.expire_time is not None:
        expires = _expires_at(request.expire_time, now)
        if expires is not None:
            params["expires_at"] = expires
    match request.mode:
        case CheckoutMode.PAYMENT:
            _ask_for_money(params, request, known)
        case CheckoutMode.SETUP:
            # Without named kinds a set-up page needs a currency, which it has not.
            params["allowed_payment_method_types"] = ["card"]
            params["setup_intent_data"] = {"metadata": known}
        case CheckoutMode.SUBSCRIPTION:
            if request.price_reference is None:
                raise field_invalid("price_reference", "a subscription page needs a price")
            params["line_items"] = [{"price": request.price_reference, "quantity": request.quantity}]
            params["subscription_data"] = {"metadata": known}
    return params


def _mode_of(mode: CheckoutMode) -> Any:
    return mode.value.lower()


def _ask_for_money(params: SessionCreateParams, request: CheckoutRequest, known: dict[str, str]) -> None:
    if request.money is None:
        raise field_invalid("money", "a payment page needs an amount")
    try:
        amount = to_stripe(request.money)
    except NotRepresentable as error:
        raise field_invalid("money", str(error)) from None
    item: SessionCreateParamsLineItem = {
        "price_data": {
            "currency": request.money.currency.lower(),
            "unit_amount": amount,
            "product_data": {"name": request.description or "Payment"},
        },
        "quantity": 1,
    }
    params["line_items"] = [item]
    params["payment_intent_data"] = {"metadata": known}
    if request.description:
        params["payment_intent_data"]["description"] = request.description
    if request.save_method:
        params["payment_intent_data"]["setup_future_usage"] = "off_session"
        if request.customer_reference is None:
            params["customer_creation"] = "always"
    # Stripe would otherwise offer the payer other currencies: the answer would speak of other money than was asked for.
    params["adaptive_pricing"] = {"enabled": False}


def _expires_at(wanted: datetime, now: datetime) -> int | None:
    """The time Stripe accepts that is nearest to the one wanted; None for its own longest."""
    if wanted > now + LONGEST - _SLACK:
        return None
    return seconds(max(wanted, now + SHORTEST + _SLACK))


def _details(body: Body) -> CheckoutDetails:
    try:
        return checkout_details(body)
    except _READING_ERRORS:
        raise unparsable() from None


def checkout_details(session: Body) -> CheckoutDetails:
    """A Checkout Session. Raises ValueError or DunwellError when it is none, Unmapped for a new mode or status."""
    mode = _MODES.get(text(session, "mode"))
    # Sessions older than the field have no status: they are complete once they are paid or hold what they were for.
    shown = maybe_text(session, "status") or ("complete" if session.get("payment_status") == "paid" else "open")
    state = _STATES.get(shown)
    if mode is None or state is None:
        raise Unmapped("unknown mode or status of a session")
    setup = session.get("setup_intent")
    intent = session.get("payment_intent")
    return CheckoutDetails(
        provider_reference=text(session, "id"),
        mode=mode,
        state=state,
        url=maybe_text(session, "url") if state is CheckoutState.OPEN else None,
        expire_time=maybe_instant(session.get("expires_at")),
        customer_reference=reference(session.get("customer")),
        payment=_payment(session, state) if mode is CheckoutMode.PAYMENT else None,
        setup_reference=reference(setup),
        subscription_reference=reference(session.get("subscription")),
        method=_method(setup) or _method(intent),
        metadata=metadata(session),
    )


def _method(intent: object) -> MethodDetails | None:
    return bare_method(maybe_obj(intent).get("payment_method"))


def _payment(session: Body, state: CheckoutState) -> Outcome | None:
    """What became of a page's money: from its PaymentIntent where that is expanded, else from the page's own words."""
    intent = session.get("payment_intent")
    paid = session.get("payment_status")
    common: dict[str, Any] = {
        "provider_reference": reference(intent),
        "evidence": {"session": str(maybe_text(session, "id")), "payment_status": str(paid)[:64]},
    }
    if state is CheckoutState.EXPIRED:
        return ended(EXPIRED_CODE, **common)
    made = maybe_obj(intent)
    if maybe_text(made, "status") is not None:
        if state is CheckoutState.COMPLETED:
            # Only on an open page another method may be tried; here a refusal came later and is the end.
            made = {**made, "metadata": {k: v for k, v in metadata(made).items() if k != "checkout"}}
        outcome = payment_outcome(made)
        if outcome.outcome is not OutcomeClass.UNKNOWN:
            return outcome
    if session.get("amount_total") is None or paid == "no_payment_required":
        return None
    money = from_stripe(session.get("currency"), session.get("amount_total"))
    if paid == "paid" and state is CheckoutState.COMPLETED and common["provider_reference"] is not None:
        return Outcome(outcome=OutcomeClass.SUCCEEDED, money=money, **common)
    if common["provider_reference"] is None and state is CheckoutState.OPEN:
        return None
    return Outcome(outcome=OutcomeClass.PENDING, money=money, **common)


def refused_later(details: CheckoutDetails) -> Outcome:
    """The outcome of a completed page whose payment, such as a bank debit, did not succeed in the end."""
    known = details.payment
    return Outcome(
        outcome=OutcomeClass.DECLINED,
        provider_reference=None if known is None else known.provider_reference,
        failure_code=FailureCode.CARD_DECLINED,
        decline_class=DeclineClass.CUSTOMER,
        provider_code="async_payment_failed",
        message=payer_message(FailureCode.CARD_DECLINED),
    )
