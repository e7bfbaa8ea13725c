"""Pages on which clients act, set-up intents, and clients as providers know them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID


class CheckoutPurpose(StrEnum):
    """What a page is for."""

    INVOICE = "INVOICE"
    SETUP = "SETUP"
    SUBSCRIPTION = "SUBSCRIPTION"


class SessionState(StrEnum):
    """How far a page has come."""

    CREATING = "CREATING"
    OPEN = "OPEN"
    COMPLETED = "COMPLETED"
    EXPIRED = "EXPIRED"
    FAILED = "FAILED"

    @property
    def is_final(self) -> bool:
        """Closed to the client; only a completion that is told late may still change it."""
        return self not in (SessionState.CREATING, SessionState.OPEN)


class SetupIntentState(StrEnum):
    """How far the saving of a method has come."""

    CREATING = "CREATING"
    OPEN = "OPEN"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_open(self) -> bool:
        """The client may still complete it; a refused try does not end it."""
        return self not in (SetupIntentState.SUCCEEDED, SetupIntentState.CANCELLED)


@dataclass(frozen=True, slots=True)
class CheckoutSession:
    """A page of the provider. `life_seconds` is what was asked for, `expire_time` (firm time) what the provider says."""

    id: UUID
    client_id: UUID
    purpose: CheckoutPurpose
    channel: str
    state: SessionState
    invoice_id: UUID | None
    payment_id: UUID | None
    provider: str
    account_id: UUID
    mode: str
    idempotency_key: str
    provider_reference: str | None
    url: str | None
    success_url: str
    cancel_url: str | None
    life_seconds: int | None
    price_reference: str | None
    quantity: int
    subscription_reference: str | None
    method_id: UUID | None
    save_method: bool
    make_default: bool
    enable_autopay: bool
    failure_code: str | None
    expire_time: datetime | None
    finish_time: datetime | None
    next_check_time: datetime | None
    check_count: int
    firm_time: datetime
    version: int
    update_time: datetime


@dataclass(frozen=True, slots=True)
class SetupIntent:
    """The saving of a method in a client's browser. Its client secret is never kept."""

    id: UUID
    client_id: UUID
    state: SetupIntentState
    provider: str
    account_id: UUID
    mode: str
    idempotency_key: str
    provider_reference: str | None
    make_default: bool
    enable_autopay: bool
    backup_priority: int
    metadata: dict[str, str]
    method_id: UUID | None
    failure_code: str | None
    finish_time: datetime | None
    next_check_time: datetime | None
    check_count: int
    firm_time: datetime
    version: int
    update_time: datetime


@dataclass(frozen=True, slots=True)
class Customer:
    """A client as a provider's account knows it. `create_time` is machine time."""

    client_id: UUID
    account_id: UUID
    provider: str
    provider_reference: str
    adopted: bool
    deleted: bool
    create_time: datetime


@dataclass(frozen=True, slots=True)
class NewSession:
    """A page as it is asked for."""

    id: UUID
    client_id: UUID
    purpose: CheckoutPurpose
    channel: str
    provider: str
    account_id: UUID
    mode: str
    idempotency_key: str
    success_url: str
    cancel_url: str | None = None
    life_seconds: int | None = None
    invoice_id: UUID | None = None
    payment_id: UUID | None = None
    price_reference: str | None = None
    quantity: int = 1
    save_method: bool = False
    make_default: bool = False
    enable_autopay: bool = False
    next_check_time: datetime | None = None
    """When its making is looked after; None for an invoice's page: its attempt is."""


@dataclass(frozen=True, slots=True)
class NewSetup:
    """A set-up intent as it is asked for."""

    id: UUID
    client_id: UUID
    provider: str
    account_id: UUID
    mode: str
    idempotency_key: str
    make_default: bool
    enable_autopay: bool
    backup_priority: int
    metadata: dict[str, str]
    next_check_time: datetime
