"""Subscriptions that Stripe bills, and its invoices, for mirroring."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Final

from dunwell_server.kernel.errors import DunwellError
from dunwell_server.kernel.money import Money
from dunwell_server.providers.abilities import (
    ProviderInvoice,
    ProviderInvoiceState,
    ProviderSubscription,
    ProviderSubscriptionState,
)
from dunwell_server.providers.base import CustomerRef, ProviderAccount, ProviderRefused
from dunwell_server.providers.stripe.amounts import from_stripe
from dunwell_server.providers.stripe.answers import request, unparsable
from dunwell_server.providers.stripe.calls import PAGE_SIZE, Calls, TooMany, all_items, existing, page_of, seconds
from dunwell_server.providers.stripe.client import NAME, fresh_key
from dunwell_server.providers.stripe.reading import (
    Body,
    Unmapped,
    instant,
    items,
    maybe_instant,
    maybe_int,
    maybe_obj,
    maybe_text,
    metadata,
    reference,
    text,
)

if TYPE_CHECKING:
    from stripe.params import (
        InvoiceListParams,
        SubscriptionCreateParams,
        SubscriptionListParams,
        SubscriptionUpdateParams,
        SubscriptionUpdateParamsItem,
    )

_STATES: Final = {
    "incomplete": ProviderSubscriptionState.INCOMPLETE,
    "incomplete_expired": ProviderSubscriptionState.EXPIRED,
    "trialing": ProviderSubscriptionState.TRIALING,
    "active": ProviderSubscriptionState.ACTIVE,
    "past_due": ProviderSubscriptionState.PAST_DUE,
    "unpaid": ProviderSubscriptionState.PAST_DUE,
    "paused": ProviderSubscriptionState.PAUSED,
    "canceled": ProviderSubscriptionState.CANCELLED,
}
_ENDED: Final = (ProviderSubscriptionState.CANCELLED, ProviderSubscriptionState.EXPIRED)
_READING_ERRORS: Final = (ValueError, TypeError, KeyError, AttributeError, DunwellError)


class SubscriptionCalls(Calls):
    """`abilities.ManagedSubscriptions`."""

    async def create_subscription(
        self,
        account: ProviderAccount,
        customer: CustomerRef,
        price_reference: str,
        key: str,
        metadata: Mapping[str, str],
        *,
        quantity: int = 1,
        trial_end: datetime | None = None,
        method_reference: str | None = None,
    ) -> ProviderSubscription:
        params: SubscriptionCreateParams = {
            "customer": customer.provider_reference,
            "items": [{"price": price_reference, "quantity": quantity}],
            "metadata": {**metadata, "key": key},
            "off_session": True,
        }
        if trial_end is not None:
            params["trial_end"] = seconds(trial_end)
        if method_reference is not None:
            params["default_payment_method"] = method_reference
        subscriptions = self._client(account).v1.subscriptions
        return _subscription(await request(subscriptions.create_async(params, {"idempotency_key": key})))

    async def get_subscription(self, account: ProviderAccount, reference: str) -> ProviderSubscription:
        return _subscription(await self._fetch(account, reference))

    async def _fetch(self, account: ProviderAccount, reference: str) -> Body:
        return await request(self._client(account).v1.subscriptions.retrieve_async(existing(reference)))

    async def update_subscription(
        self,
        account: ProviderAccount,
        reference: str,
        key: str,
        *,
        price_reference: str | None = None,
        quantity: int | None = None,
        prorate: bool = True,
    ) -> ProviderSubscription:
        present = await self._fetch(account, reference)
        held = items(present.get("items"))
        if price_reference is None and quantity is None:
            return _subscription(present)
        if len(held) != 1:
            raise ProviderRefused(NAME, "subscription_has_several_items")
        try:
            item: SubscriptionUpdateParamsItem = {"id": text(held[0], "id")}
        except ValueError:
            raise unparsable() from None
        if price_reference is not None:
            item["price"] = price_reference
        if quantity is not None:
            item["quantity"] = quantity
        params: SubscriptionUpdateParams = {
            "items": [item],
            "proration_behavior": "create_prorations" if prorate else "none",
        }
        return await self._update(account, reference, params, key)

    async def _update(
        self, account: ProviderAccount, reference: str, params: SubscriptionUpdateParams, key: str
    ) -> ProviderSubscription:
        subscriptions = self._client(account).v1.subscriptions
        return _subscription(
            await request(subscriptions.update_async(existing(reference), params, {"idempotency_key": key}))
        )

    async def cancel_subscription(
        self, account: ProviderAccount, reference: str, *, at_period_end: bool
    ) -> ProviderSubscription:
        try:
            if at_period_end:
                return await self._update(account, reference, {"cancel_at_period_end": True}, fresh_key())
            subscriptions = self._client(account).v1.subscriptions
            return _subscription(await request(subscriptions.cancel_async(existing(reference))))
        except ProviderRefused as refused:
            # Stripe knows of nothing to cancel once it has ended.
            present = await self.get_subscription(account, reference)
            if present.state not in _ENDED:
                raise refused from None
            return present

    async def reactivate_subscription(self, account: ProviderAccount, reference: str) -> ProviderSubscription:
        return await self._update(account, reference, {"cancel_at_period_end": False}, fresh_key())

    async def list_subscriptions(
        self, account: ProviderAccount, customer_reference: str
    ) -> tuple[ProviderSubscription, ...]:
        client = self._client(account)

        async def page(after: str | None) -> Body:
            params: SubscriptionListParams = {"customer": customer_reference, "status": "all", "limit": PAGE_SIZE}
            if after is not None:
                params["starting_after"] = after
            return await request(client.v1.subscriptions.list_async(params))

        try:
            return tuple([_subscription(item) async for item in all_items(page)])
        except (TooMany, ValueError):
            raise unparsable() from None

    async def list_invoices(
        self,
        account: ProviderAccount,
        *,
        subscription_reference: str | None = None,
        customer_reference: str | None = None,
        page: str | None = None,
    ) -> tuple[tuple[ProviderInvoice, ...], str | None]:
        params: InvoiceListParams = {"limit": PAGE_SIZE, "expand": ["data.payments"]}
        if subscription_reference is not None:
            params["subscription"] = subscription_reference
        if customer_reference is not None:
            params["customer"] = customer_reference
        if page is not None:
            params["starting_after"] = page
        body = await request(self._client(account).v1.invoices.list_async(params))
        try:
            found, after = page_of(body)
            return tuple(invoice_of(item) for item in found), after
        except _READING_ERRORS:
            raise unparsable() from None

    async def get_invoice(self, account: ProviderAccount, reference: str) -> ProviderInvoice:
        invoices = self._client(account).v1.invoices
        found = await request(invoices.retrieve_async(existing(reference), {"expand": ["payments"]}))
        try:
            return invoice_of(found)
        except _READING_ERRORS:
            raise unparsable() from None


def _subscription(body: Body) -> ProviderSubscription:
    try:
        return subscription_of(body)
    except _READING_ERRORS:
        raise unparsable() from None


def subscription_of(subscription: Body) -> ProviderSubscription:
    """A subscription. Raises ValueError when it is none, Unmapped for a new status.

    Its period is on the items in newer versions of the API, on the subscription in older ones.
    """
    status = text(subscription, "status")
    state = _STATES.get(status)
    if state is None:
        raise Unmapped(f"subscription status {status[:64]!r}")
    if maybe_obj(subscription.get("pause_collection")) and state is ProviderSubscriptionState.ACTIVE:
        state = ProviderSubscriptionState.PAUSED
    held = items(subscription.get("items"))
    first: Body = held[0] if held else {}
    price = reference(first.get("price")) or reference(first.get("plan")) or reference(subscription.get("plan"))
    quantity = maybe_int(first, "quantity")
    if quantity is None:
        quantity = maybe_int(subscription, "quantity")
    return ProviderSubscription(
        provider_reference=text(subscription, "id"),
        customer_reference=reference(subscription.get("customer")) or "",
        state=state,
        price_reference=price,
        quantity=1 if quantity is None else quantity,
        current_period_start=_period(subscription, held, "current_period_start"),
        current_period_end=_period(subscription, held, "current_period_end"),
        cancel_at_period_end=subscription.get("cancel_at_period_end") is True,
        cancel_time=maybe_instant(subscription.get("cancel_at")) or maybe_instant(subscription.get("canceled_at")),
        trial_end=maybe_instant(subscription.get("trial_end")),
        latest_invoice_reference=reference(subscription.get("latest_invoice")),
        metadata=metadata(subscription),
        created_time=instant(subscription.get("created")),
    )


def _period(subscription: Body, held: list[Body], name: str) -> datetime | None:
    on_items = [value for value in (maybe_int(item, name) for item in held) if value is not None]
    if not on_items:
        return maybe_instant(subscription.get(name))
    return instant(min(on_items) if name.endswith("start") else max(on_items))


def invoice_of(invoice: Body) -> ProviderInvoice:
    """An invoice of Stripe's own. Raises ValueError or DunwellError when it is none."""
    currency = invoice.get("currency")

    def money(name: str) -> Money:
        return from_stripe(currency, invoice.get(name) or 0)

    status = maybe_text(invoice, "status")
    if status is None:  # Versions before 2018 said it in two fields.
        status = "paid" if invoice.get("paid") is True else "draft" if invoice.get("closed") is False else "open"
    try:
        state = ProviderInvoiceState(status.upper())
    except ValueError:
        raise Unmapped(f"invoice status {status[:64]!r}") from None
    times = maybe_obj(invoice.get("status_transitions"))
    from_stripe(currency, invoice.get("total"))  # An invoice without a total is none.
    return ProviderInvoice(
        provider_reference=text(invoice, "id"),
        number=maybe_text(invoice, "number"),
        state=state,
        customer_reference=reference(invoice.get("customer")) or "",
        subscription_reference=invoice_subscription(invoice),
        payment_reference=invoice_payment(invoice),
        total=money("total"),
        amount_paid=money("amount_paid"),
        amount_due=money("amount_due"),
        attempt_count=maybe_int(invoice, "attempt_count") or 0,
        hosted_url=maybe_text(invoice, "hosted_invoice_url"),
        metadata=invoice_metadata(invoice),
        created_time=instant(invoice.get("created")),
        finalized_time=maybe_instant(times.get("finalized_at")),
        paid_time=maybe_instant(times.get("paid_at")),
    )


def _subscription_details(invoice: Body) -> Body:
    newer = maybe_obj(maybe_obj(invoice.get("parent")).get("subscription_details"))
    return newer or maybe_obj(invoice.get("subscription_details"))


def invoice_subscription(invoice: Body) -> str | None:
    """The subscription an invoice is for, wherever the API's version has it."""
    return reference(_subscription_details(invoice).get("subscription")) or reference(invoice.get("subscription"))


def invoice_metadata(invoice: Body) -> dict[str, str]:
    """The invoice's metadata, over those of its subscription: ours are on the latter."""
    return {**metadata(_subscription_details(invoice)), **metadata(invoice)}


def invoice_payment(invoice: Body) -> str | None:
    """The payment of an invoice: the one that paid it, else the default one, wherever the API's version has it."""
    older = reference(invoice.get("payment_intent")) or reference(invoice.get("charge"))
    if older is not None:
        return older
    payments = items(invoice.get("payments"))
    payments.sort(key=lambda payment: (payment.get("status") != "paid", payment.get("is_default") is not True))
    for payment in payments:
        details = maybe_obj(payment.get("payment"))
        found = reference(details.get("payment_intent")) or reference(details.get("charge"))
        if found is not None:
            return found
    return None
