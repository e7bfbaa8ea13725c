"""What a provider's webhook says, in words that are the same for every provider.

An event is a hint, and its notices are evidence: they go through the same functions that a direct answer goes through,
forward-only, in any order and any number of times.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from dunwell_server.kernel.money import Money
from dunwell_server.providers.accounts import MethodDetails
from dunwell_server.providers.outcomes import Outcome

if TYPE_CHECKING:
    from dunwell_server.providers.abilities import (
        CheckoutDetails,
        ProviderDispute,
        ProviderInvoice,
        ProviderRefund,
        ProviderSubscription,
        SetupDetails,
    )


@dataclass(frozen=True, slots=True)
class SignedEvent:
    """What identifies a verified event."""

    event_id: str | None
    """The provider's id; None where it has none (the body's hash then keeps duplicates out)."""
    type: str
    """The provider's own name of the event."""
    create_time: datetime | None
    """By the provider's clock."""


@dataclass(frozen=True, slots=True)
class EventPage:
    """A page of the provider's list of events, as raw bodies, oldest first or newest first."""

    events: tuple[tuple[SignedEvent, bytes], ...]
    next_page: str | None


@dataclass(frozen=True, slots=True)
class PaymentNotice:
    """A payment has an outcome. ``key`` is the attempt's, from its metadata; None: not ours, or not said."""

    provider_reference: str
    key: str | None
    outcome: Outcome
    customer_reference: str | None = None


@dataclass(frozen=True, slots=True)
class RefundNotice:
    """A refund has been made, or has become something else."""

    refund: ProviderRefund


@dataclass(frozen=True, slots=True)
class RefundTotalNotice:
    """So much of a payment has been refunded in all; the refunds themselves are to be listed."""

    payment_reference: str
    refunded: Money


@dataclass(frozen=True, slots=True)
class SetupNotice:
    """A set-up intent has changed. ``details.method`` may hold no more than the method's id: fetch it."""

    details: SetupDetails


@dataclass(frozen=True, slots=True)
class CheckoutNotice:
    """A hosted page was completed or has expired."""

    details: CheckoutDetails


@dataclass(frozen=True, slots=True)
class DisputeNotice:
    """A dispute has been opened or has changed."""

    dispute: ProviderDispute


@dataclass(frozen=True, slots=True)
class CustomerNotice:
    """A customer was created, changed or deleted at the provider."""

    provider_reference: str
    name: str | None
    email: str | None
    deleted: bool
    metadata: Mapping[str, str] = field(default_factory=dict)


class MethodChange(StrEnum):
    """What happened to a payment method at the provider."""

    ATTACHED = "ATTACHED"
    DETACHED = "DETACHED"
    UPDATED = "UPDATED"


@dataclass(frozen=True, slots=True)
class MethodNotice:
    """A payment method was attached, detached, or updated (also by the card network's updater)."""

    method: MethodDetails
    customer_reference: str | None
    change: MethodChange


@dataclass(frozen=True, slots=True)
class SubscriptionNotice:
    """A subscription at the provider was created, has changed or ended."""

    subscription: ProviderSubscription


@dataclass(frozen=True, slots=True)
class InvoiceNotice:
    """An invoice of the provider's own was made, finalised, paid, or could not be paid."""

    invoice: ProviderInvoice


Notice: TypeAlias = (
    PaymentNotice
    | RefundNotice
    | RefundTotalNotice
    | SetupNotice
    | CheckoutNotice
    | DisputeNotice
    | CustomerNotice
    | MethodNotice
    | SubscriptionNotice
    | InvoiceNotice
)


@dataclass(frozen=True, slots=True)
class NormalisedEvent:
    """One event, read. ``firm`` and ``references`` tell whose it is."""

    event_id: str | None
    type: str
    create_time: datetime | None
    notices: tuple[Notice, ...] = ()
    """Empty: nothing of it concerns us; it is kept and acknowledged."""
    firm: str | None = None
    """Our id of the firm, from the object's metadata."""
    references: tuple[str, ...] = ()
    """The provider's ids that the event is about (payment, customer, …), by which its firm is found where metadata has none."""


def payment_named(notice: Notice) -> str | None:
    """The provider's id of the payment that a refund or a dispute is of; None for what is about neither."""
    match notice:
        case RefundNotice(refund=refund):
            return refund.payment_reference
        case RefundTotalNotice(payment_reference=named):
            return named
        case DisputeNotice(dispute=dispute):
            return dispute.payment_reference
    return None
