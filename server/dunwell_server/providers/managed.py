"""Subscriptions that a provider bills by itself, and their invoices: an ability of their own, with normalised records (see `abilities`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable

from dunwell_server.kernel.money import Money
from dunwell_server.providers.accounts import CustomerRef, ProviderAccount


class ProviderSubscriptionState(StrEnum):
    """States of a provider's own subscription, normalised."""

    INCOMPLETE = "INCOMPLETE"
    TRIALING = "TRIALING"
    ACTIVE = "ACTIVE"
    PAST_DUE = "PAST_DUE"
    PAUSED = "PAUSED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSubscription:
    """A subscription that the provider bills."""

    provider_reference: str
    customer_reference: str
    state: ProviderSubscriptionState
    price_reference: str | None
    quantity: int
    current_period_start: datetime | None
    current_period_end: datetime | None
    cancel_at_period_end: bool
    cancel_time: datetime | None
    trial_end: datetime | None
    latest_invoice_reference: str | None
    metadata: Mapping[str, str]
    created_time: datetime


class ProviderInvoiceState(StrEnum):
    """States of a provider's own invoice."""

    DRAFT = "DRAFT"
    OPEN = "OPEN"
    PAID = "PAID"
    VOID = "VOID"
    UNCOLLECTIBLE = "UNCOLLECTIBLE"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderInvoice:
    """An invoice that the provider made, for mirroring. Amounts in the invoice's currency."""

    provider_reference: str
    number: str | None
    state: ProviderInvoiceState
    customer_reference: str
    subscription_reference: str | None
    payment_reference: str | None
    total: Money
    amount_paid: Money
    amount_due: Money
    attempt_count: int
    hosted_url: str | None
    metadata: Mapping[str, str]
    created_time: datetime
    finalized_time: datetime | None = None
    paid_time: datetime | None = None


@runtime_checkable
class ManagedSubscriptions(Protocol):
    """Capability ``managed_subscriptions``: subscriptions that the provider bills, which we mirror."""

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
        """Starts one; with the same key, the one started before."""

    async def get_subscription(self, account: ProviderAccount, reference: str) -> ProviderSubscription:
        """Its present state."""

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
        """Changes price or quantity (None: left alone)."""

    async def cancel_subscription(
        self, account: ProviderAccount, reference: str, *, at_period_end: bool
    ) -> ProviderSubscription:
        """Ends it now or at the end of the period. Ending one that has ended changes nothing."""

    async def reactivate_subscription(self, account: ProviderAccount, reference: str) -> ProviderSubscription:
        """Takes a cancellation at the period's end back."""

    async def list_subscriptions(
        self, account: ProviderAccount, customer_reference: str
    ) -> tuple[ProviderSubscription, ...]:
        """All of a customer's, ended ones included."""

    async def list_invoices(
        self,
        account: ProviderAccount,
        *,
        subscription_reference: str | None = None,
        customer_reference: str | None = None,
        page: str | None = None,
    ) -> tuple[tuple[ProviderInvoice, ...], str | None]:
        """A page of the provider's invoices, newest first, and the next page's token."""

    async def get_invoice(self, account: ProviderAccount, reference: str) -> ProviderInvoice:
        """Its present state."""
