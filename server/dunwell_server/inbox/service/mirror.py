"""Applies notices of the provider's own subscriptions and invoices to the mirror: the newest wins, whatever comes when."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from dunwell_server.inbox.ports import Applied, Origin, QuietPreparation
from dunwell_server.inbox.store import mirror
from dunwell_server.kernel.money import Money
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.providers.abilities import (
    ProviderInvoice,
    ProviderInvoiceState,
    ProviderSubscription,
    ProviderSubscriptionState,
)
from dunwell_server.providers.events import InvoiceNotice, SubscriptionNotice

_SUBSCRIPTION: Final = ProviderSubscriptionState
_SUBSCRIPTION_ORDER: Final = (
    _SUBSCRIPTION.INCOMPLETE,
    _SUBSCRIPTION.TRIALING,
    _SUBSCRIPTION.ACTIVE,
    _SUBSCRIPTION.PAST_DUE,
    _SUBSCRIPTION.PAUSED,
    _SUBSCRIPTION.CANCELLED,
    _SUBSCRIPTION.EXPIRED,
)
_INVOICE: Final = ProviderInvoiceState
_INVOICE_ORDER: Final = (_INVOICE.DRAFT, _INVOICE.OPEN, _INVOICE.UNCOLLECTIBLE, _INVOICE.VOID, _INVOICE.PAID)


class MirrorApplier(QuietPreparation):
    """Takes SubscriptionNotice and InvoiceNotice."""

    notices: tuple[type, ...] = (SubscriptionNotice, InvoiceNotice)

    async def apply(self, uow: UnitOfWork, origin: Origin, notice: Any, prepared: Any) -> Applied:
        """Keep the object as it is told of, unless something newer is kept."""
        match notice:
            case SubscriptionNotice(subscription=found):
                return await _keep(uow, origin, "SUBSCRIPTION", found, _SUBSCRIPTION_ORDER)
            case InvoiceNotice(invoice=found):
                return await _keep(uow, origin, "INVOICE", found, _INVOICE_ORDER)
        raise TypeError(f"{type(notice).__name__} is not for the mirror")


async def _keep(
    uow: UnitOfWork,
    origin: Origin,
    kind: str,
    found: ProviderSubscription | ProviderInvoice,
    order: tuple[StrEnum, ...],
) -> Applied:
    kept = await mirror.upsert(
        uow,
        origin.account_id,
        kind,
        found.provider_reference,
        customer=found.customer_reference,
        state=found.state.value,
        order=tuple(state.value for state in order),
        snapshot=snapshot(found),
        provider_time=origin.provider_time,
    )
    what = f"the provider's {kind.lower()} {found.provider_reference}"
    return Applied(f"{what} is {found.state.value.lower()}" if kept else f"{what}: something as new is known")


def snapshot(found: ProviderSubscription | ProviderInvoice) -> dict[str, Any]:
    """A record as JSON: money as currency and minor units, instants in ISO form."""
    return {item.name: _plain(getattr(found, item.name)) for item in fields(found)}


def _plain(value: Any) -> Any:
    if isinstance(value, Money):
        return {"currency_code": value.currency, "minor": value.minor}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, StrEnum):
        return value.value
    if hasattr(value, "items"):
        return dict(value.items())
    return value
