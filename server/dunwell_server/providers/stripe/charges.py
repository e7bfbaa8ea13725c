"""Charges: PaymentIntents created and confirmed in one request, looked up, cancelled and listed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from dunwell_server.kernel.errors import DunwellError
from dunwell_server.kernel.money import Money
from dunwell_server.providers import http
from dunwell_server.providers.base import (
    CANCELED_CODE,
    EXPIRED_CODE,
    ChargeRequest,
    LookupResult,
    PaymentPage,
    ProviderAccount,
    ProviderPayment,
    checked,
)
from dunwell_server.providers.outcomes import (
    DeclineClass,
    FailureCode,
    Outcome,
    OutcomeClass,
    not_sent,
    payer_message,
    unknown,
)
from dunwell_server.providers.stripe.amounts import NotRepresentable, from_stripe, to_stripe
from dunwell_server.providers.stripe.answers import charge_refusal, declined, facts, request, unparsable
from dunwell_server.providers.stripe.calls import PAGE_SIZE, Calls, Slice, TooMany, all_items, seconds
from dunwell_server.providers.stripe.client import Refused, ask, fresh_key
from dunwell_server.providers.stripe.reading import (
    Body,
    instant,
    is_reference,
    maybe_instant,
    maybe_int,
    maybe_obj,
    maybe_text,
    metadata,
    obj,
    reference,
    text,
)

if TYPE_CHECKING:
    from stripe.params import PaymentIntentCreateParams, PaymentIntentListParams

CLOCK_MARGIN: Final = timedelta(hours=1)
"""How far Stripe's clock and ours may be apart when looking for what was created since a time."""

_READING_ERRORS: Final = (ValueError, TypeError, KeyError, AttributeError, DunwellError)


class ChargeCalls(Calls):
    """`base.Provider`'s calls about charges."""

    async def charge(self, request: ChargeRequest) -> Outcome:
        client = self._client(request.account)
        try:
            params = charge_params(request)
        except NotRepresentable as error:
            return Outcome(
                outcome=OutcomeClass.DECLINED,
                failure_code=FailureCode.PROCESSING_ERROR,
                decline_class=DeclineClass.SOFT,  # The method is as good as it was, for other amounts.
                provider_code="amount_not_representable",
                message=payer_message(FailureCode.PROCESSING_ERROR),
                executed=False,
                evidence={"why": str(error)},
            )
        try:
            body = await ask(client.v1.payment_intents.create_async(params, {"idempotency_key": request.key}))
        except http.NothingSent as error:
            return not_sent(str(error))
        except http.NoAnswer as error:
            return unknown(str(error))
        except Refused as refused:
            outcome = refused_charge(refused)
        else:
            outcome = understood(body)
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
        self._client(account)
        if provider_reference is not None:
            found = await self._read(account, provider_reference)
            if found is not None:
                return found if money is None else checked(money, found)
        try:
            outcomes = await self._search(account, key, customer_reference, since)
        except Refused as refused:
            return unknown("look-up refused", evidence=facts(refused))
        except (http.NothingSent, http.NoAnswer) as error:
            return unknown(str(error))
        except TooMany:
            return unknown("too many payments to search")
        except _READING_ERRORS:
            return unknown("unparsable answer")
        if not outcomes:
            return None
        best = min(outcomes, key=lambda outcome: _RANK[outcome.outcome])
        if len(outcomes) > 1:
            best = replace(best, evidence={**best.evidence, "payments_with_key": str(len(outcomes))})
        return best if money is None else checked(money, best)

    async def _search(
        self, account: ProviderAccount, key: str, customer_reference: str | None, since: datetime | None
    ) -> list[Outcome]:
        client = self._client(account)

        async def page(after: str | None) -> Body:
            params: PaymentIntentListParams = {"limit": PAGE_SIZE}
            if customer_reference is not None:
                params["customer"] = customer_reference
            # The clock of a test account can be ahead of Stripe's, which has real time: such a bound would hide things.
            if since is not None and since.timestamp() <= time.time():
                params["created"] = {"gte": seconds(since - CLOCK_MARGIN)}
            if after is not None:
                params["starting_after"] = after
            return await ask(client.v1.payment_intents.list_async(params))

        return [payment_outcome(item) async for item in all_items(page) if metadata(item).get("key") == key]

    async def _read(self, account: ProviderAccount, provider_reference: str) -> Outcome | None:
        """One PaymentIntent of Stripe's book; None if it has none under that id."""
        if not is_reference(provider_reference):
            return None
        client = self._client(account)
        try:
            return understood(await ask(client.v1.payment_intents.retrieve_async(provider_reference)))
        except Refused as refused:
            if refused.missing:
                return None
            return unknown("look-up refused", provider_reference=provider_reference, evidence=facts(refused))
        except (http.NothingSent, http.NoAnswer) as error:
            return unknown(str(error), provider_reference=provider_reference)

    async def cancel(self, account: ProviderAccount, provider_reference: str) -> Outcome:
        client = self._client(account)
        if not is_reference(provider_reference):
            return unknown("no such payment")
        try:
            call = client.v1.payment_intents.cancel_async(provider_reference, {}, {"idempotency_key": fresh_key()})
            return understood(await ask(call))
        except Refused:
            found = await self._read(account, provider_reference)
            return found or unknown("no such payment", provider_reference=provider_reference)
        except (http.NothingSent, http.NoAnswer) as error:
            return unknown(str(error), provider_reference=provider_reference)

    async def list_payments(
        self, account: ProviderAccount, since: datetime, until: datetime, page: str | None = None
    ) -> PaymentPage:
        client = self._client(account)

        async def fetch(start: int, stop: int, after: str | None) -> Body:
            params: PaymentIntentListParams = {"limit": PAGE_SIZE, "created": {"gte": start, "lt": stop}}
            if after is not None:
                params["starting_after"] = after
            return await request(client.v1.payment_intents.list_async(params))

        try:
            found, token = await Slice(since, until, page).read(fetch)
            listed = (_listed(item) for item in found)
            return PaymentPage(tuple(payment for payment in listed if payment is not None), token)
        except (TooMany, ValueError, TypeError, KeyError):
            raise unparsable() from None


def charge_params(request: ChargeRequest) -> PaymentIntentCreateParams:
    """The one request of a charge. What is empty is left out. Raises NotRepresentable."""
    params: PaymentIntentCreateParams = {
        "amount": to_stripe(request.money),
        "currency": request.money.currency.lower(),
        "payment_method": request.method_reference,
        "confirm": True,
        "metadata": request.metadata,
        "automatic_payment_methods": {"enabled": True},
    }
    if request.off_session:
        params["off_session"] = True
    if request.customer_reference is not None:
        params["customer"] = request.customer_reference
    if request.description:
        params["description"] = request.description
    if request.return_url is not None and not request.off_session:
        params["return_url"] = request.return_url
    else:
        # Without a place to come back to Stripe refuses to confirm what might redirect, whatever the method.
        params["automatic_payment_methods"]["allow_redirects"] = "never"
    return params


# When several payments carry one key (it was reused after its life), what moved money is what counts.
_RANK: Final = {
    OutcomeClass.SUCCEEDED: 0,
    OutcomeClass.UNKNOWN: 1,
    OutcomeClass.PENDING: 2,
    OutcomeClass.REQUIRES_ACTION: 3,
    OutcomeClass.DECLINED: 4,
}


def refused_charge(refused: Refused) -> Outcome:
    """The outcome of a charge that was answered with an error, with or without the PaymentIntent it made."""
    outcome = charge_refusal(refused)
    if outcome.outcome is not OutcomeClass.DECLINED or refused.error is None:
        return outcome
    intent = maybe_obj(refused.error.get("payment_intent"))
    if not intent:
        return outcome
    status = maybe_text(intent, "status") or ""
    if status in ("succeeded", "processing", "requires_capture"):
        return unknown("an error about a payment that goes on", provider_reference=reference(intent))
    return replace(
        outcome,
        executed=True,
        provider_reference=reference(intent),
        provider_time=maybe_instant(maybe_int(intent, "created")),
        evidence={**outcome.evidence, **_key_of(intent), "payment": status[:64]},
    )


def _key_of(intent: Body) -> dict[str, str]:
    key = metadata(intent).get("key")
    return {} if key is None else {"key": key}


def understood(intent: Body) -> Outcome:
    """As `payment_outcome`; UNKNOWN for what cannot be read."""
    try:
        return payment_outcome(intent)
    except _READING_ERRORS:
        return unknown("unparsable answer")


def payment_outcome(intent: Body) -> Outcome:
    """What a PaymentIntent means. Raises ValueError or DunwellError when it is none.

    A PaymentIntent of a hosted page (metadata ``checkout``) that was refused a method still waits for another.
    """
    if intent.get("object", "payment_intent") != "payment_intent":
        raise ValueError("not a PaymentIntent")
    said, provider_reference = text(intent, "status"), text(intent, "id")
    status = said.replace("source_action", "action").replace("source", "payment_method")  # Names of before 2019.
    known = metadata(intent)
    common: dict[str, Any] = {
        "provider_reference": provider_reference,
        "provider_time": maybe_instant(intent.get("created")),
        "evidence": {"status": said[:64], **_key_of(intent)},
    }
    asked = from_stripe(intent.get("currency"), intent.get("amount"))
    match status:
        case "succeeded":
            received = maybe_int(intent, "amount_received")
            money = asked if received is None else from_stripe(intent.get("currency"), received)
            return Outcome(outcome=OutcomeClass.SUCCEEDED, money=money, **common)
        case "processing" | "requires_capture":
            return Outcome(outcome=OutcomeClass.PENDING, money=asked, **common)
        case "requires_action":
            url, expires = next_action(maybe_obj(intent.get("next_action")))
            return Outcome(
                outcome=OutcomeClass.REQUIRES_ACTION,
                money=asked,
                failure_code=FailureCode.AUTHENTICATION_REQUIRED,
                message=payer_message(FailureCode.AUTHENTICATION_REQUIRED),
                action_url=url,
                action_expire_time=expires,
                **common,
            )
        case "requires_payment_method" if "checkout" in known:
            return Outcome(outcome=OutcomeClass.PENDING, money=asked, **common)
        case "requires_payment_method" if maybe_obj(intent.get("last_payment_error")):
            return declined(obj(intent["last_payment_error"]), **common)
        case "canceled":
            expired = intent.get("cancellation_reason") == "expired"
            return ended(EXPIRED_CODE if expired else CANCELED_CODE, **common)
    return unknown("unknown status", provider_reference=provider_reference, evidence=common["evidence"])


def ended(provider_code: str, **common: Any) -> Outcome:
    """A waiting payment's end without money: ``canceled`` or ``expired``."""
    return Outcome(
        outcome=OutcomeClass.DECLINED,
        failure_code=FailureCode.AUTHENTICATION_REQUIRED,
        decline_class=DeclineClass.CUSTOMER,
        provider_code=provider_code,
        message=payer_message(FailureCode.AUTHENTICATION_REQUIRED),
        **common,
    )


_LINKS: Final = (
    "url",
    "hosted_instructions_url",
    "hosted_voucher_url",
    "hosted_verification_url",
    "mobile_auth_url",
)


def next_action(action: Mapping[str, Any]) -> tuple[str | None, datetime | None]:
    """Where the payer goes, whatever kind of action it is, and until when; None where Stripe does not say."""
    details = maybe_obj(action.get(maybe_text(action, "type") or ""))
    links = (maybe_text(details, name) for name in _LINKS)
    url = next((link for link in links if link is not None and link.startswith(("https://", "http://"))), None)
    codes = (maybe_obj(details.get("qr_code")), details)
    expires = next((found for found in (maybe_int(code, "expires_at") for code in codes) if found), None)
    return url, maybe_instant(expires)


def _listed(intent: Body) -> ProviderPayment | None:
    """A PaymentIntent of the list; None for a foreign one in a currency that this book cannot hold."""
    known = metadata(intent)
    try:
        money = from_stripe(intent.get("currency"), intent.get("amount"))
    except (DunwellError, NotRepresentable):
        if "key" in known:
            raise ValueError("one of ours, in no currency of ours") from None
        return None
    outcome = understood(intent)
    return ProviderPayment(
        provider_reference=text(intent, "id"),
        key=known.get("key"),
        metadata=known,
        money=outcome.money or money,
        outcome=outcome,
        created_time=instant(intent.get("created")),
        customer_reference=reference(intent.get("customer")),
    )
