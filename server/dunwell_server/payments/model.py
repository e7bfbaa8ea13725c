"""Payments and attempts: their states, and what is known about them.

A *payment* is one slot of one invoice (first try, retry 1, …) or one explicit request, of fixed amount. An *attempt* is one try of a payment
at a provider, under one idempotency key for ever. A *hold* is the right of one channel at a time to ask for an invoice's money.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from dunwell_server.kernel.ids import derive_uuid


class PaymentState(StrEnum):
    """How far a payment has come; derives from its attempts."""

    PROCESSING = "PROCESSING"
    REQUIRES_ACTION = "REQUIRES_ACTION"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_final(self) -> bool:
        """Nothing more is being done about it; only a success that the provider reports late may still change it."""
        return self in (PaymentState.SUCCEEDED, PaymentState.FAILED, PaymentState.CANCELLED)


class PaymentKind(StrEnum):
    """How a payment came about."""

    AUTOPAY = "AUTOPAY"
    CHARGE = "CHARGE"
    MANUAL = "MANUAL"
    LATE_LANDING = "LATE_LANDING"
    ONE_TIME = "ONE_TIME"
    CHECKOUT = "CHECKOUT"
    ADOPTED = "ADOPTED"


class AttemptState(StrEnum):
    """How far one try at a provider has come."""

    CREATED = "CREATED"
    SENT = "SENT"
    REQUIRES_ACTION = "REQUIRES_ACTION"
    PENDING = "PENDING"
    NOT_SENT = "NOT_SENT"
    UNKNOWN = "UNKNOWN"
    SUCCEEDED = "SUCCEEDED"
    DECLINED = "DECLINED"
    CLOSED = "CLOSED"

    @property
    def is_open(self) -> bool:
        """It may still move money: nothing else may ask for the invoice."""
        return self not in (AttemptState.SUCCEEDED, AttemptState.DECLINED, AttemptState.CLOSED)

    @property
    def is_unsent(self) -> bool:
        """Proven not to be with the provider: it may be closed without asking anyone."""
        return self in (AttemptState.CREATED, AttemptState.NOT_SENT)


class MethodState(StrEnum):
    """Whether a payment method can be charged."""

    ACTIVE = "ACTIVE"
    NEEDS_ACTION = "NEEDS_ACTION"
    DEAD = "DEAD"
    DETACHED = "DETACHED"


class Channel(StrEnum):
    """Who asks for an invoice's money."""

    AUTOPAY = "AUTOPAY"
    CHARGE = "CHARGE"
    LINK = "LINK"
    QR = "QR"
    CHECKOUT = "CHECKOUT"


class FailureCode(StrEnum):
    """Why money did not come, in words that are the same for every provider."""

    CARD_DECLINED = "card_declined"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    EXPIRED_CARD = "expired_card"
    INCORRECT_CVC = "incorrect_cvc"
    PROCESSING_ERROR = "processing_error"
    AUTHENTICATION_REQUIRED = "authentication_required"
    NETWORK_ERROR = "network_error"
    MISSING_PAYMENT_METHOD = "missing_payment_method"


class DeclineClass(StrEnum):
    """What a refusal means for what comes next."""

    SOFT = "SOFT"
    HARD = "HARD"
    CUSTOMER = "CUSTOMER"
    TECHNICAL = "TECHNICAL"


class Source(StrEnum):
    """Where evidence about an attempt came from."""

    ANSWER = "answer"
    """The reply to the send whose fence the bearer holds."""
    REPLAY = "replay"
    """The reply to a repeat under the same key."""
    LOOKUP = "lookup"
    """The provider's record."""
    CRASH = "crash"
    """Nobody waits for the answer any more: the sender's lease ended."""
    PERSON = "person"
    """ResolveAttempt."""
    EVENT = "event"
    """A notification of the provider."""


COLLECTIBLE: Final = frozenset({"SENT", "FAILED", "OVERDUE"})
"""Invoice states from which money may be asked for."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One refusal, normalised, with the provider's own words beside it. `message` never holds card data."""

    code: FailureCode
    decline_class: DeclineClass | None = None
    provider_code: str | None = None
    network_code: str | None = None
    advice_code: str | None = None
    message: str | None = None
    not_before: datetime | None = None
    """The provider's or network's advice: no retry before this firm time."""


@dataclass(frozen=True, slots=True)
class PaymentMethod:
    """A client's means of payment at a provider: its ids and what may be printed on a receipt, never card data."""

    id: UUID
    client_id: UUID
    provider: str
    account_id: UUID
    mode: str
    provider_reference: str
    kind: str
    brand: str | None
    last4: str | None
    exp_month: int | None
    exp_year: int | None
    fingerprint: str | None
    country: str | None
    state: MethodState
    block_code: str | None
    backup_priority: int
    metadata: dict[str, str]
    last_success_time: datetime | None
    last_failure_time: datetime | None
    version: int
    create_time: datetime
    update_time: datetime
    failure_streak: int = 0
    """Declines since it was last charged successfully."""
    is_default: bool = False
    reachable: bool = True
    """Whether the provider account that keeps it is in use."""
    near_ceiling: bool = False
    """Whether its card is near the networks' ceiling of tries."""
    seen_on: date | None = None
    """The firm's civil day on which it was read; None: its expiry is not judged."""

    @property
    def usable(self) -> bool:
        """Whether it may be charged now."""
        return self.state is MethodState.ACTIVE and self.reachable


@dataclass(frozen=True, slots=True)
class Payment:
    """Money asked of or received from a client. Amounts are minor units of `currency_code`; `firm_time` is its birth."""

    id: UUID
    client_id: UUID
    invoice_id: UUID | None
    kind: PaymentKind
    state: PaymentState
    currency_code: str
    amount_minor: int
    captured_minor: int
    allocated_minor: int
    credited_minor: int
    refunded_minor: int
    refund_pending_minor: int
    charged_back_minor: int
    open_disputes: int
    cycle: int | None
    slot: int | None
    revision: int | None
    provider: str
    account_id: UUID | None
    mode: str | None
    method_id: UUID | None
    failure_code: str | None
    failure_provider_code: str | None
    failure_message: str | None
    action_url: str | None
    action_expire_time: datetime | None
    manual_method: str | None
    manual_reference: str | None
    received_date: date | None
    late_attempt_id: UUID | None
    run_id: UUID | None
    description: str | None
    return_url: str | None
    client_present: bool
    finish_time: datetime | None
    firm_time: datetime
    version: int
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at a provider. `fence`, `owner` and `lease_until` (machine time) say who may send it; all other times are firm time."""

    id: UUID
    payment_id: UUID
    attempt_no: int
    idempotency_key: str
    state: AttemptState
    provider: str
    account_id: UUID
    method_id: UUID | None
    """None: the client chooses on the provider's page."""
    currency_code: str
    amount_minor: int
    provider_reference: str | None
    failure_code: str | None
    provider_code: str | None
    network_code: str | None
    advice_code: str | None
    decline_class: str | None
    message: str | None
    action_url: str | None
    action_expire_time: datetime | None
    evidence: dict[str, Any] | None
    send_count: int
    check_count: int
    next_check_time: datetime | None
    needs_person: bool
    first_send_time: datetime | None
    send_time: datetime | None
    unknown_time: datetime | None
    finish_time: datetime | None
    owner: UUID | None
    fence: int
    lease_until: datetime | None
    version: int


@dataclass(frozen=True, slots=True)
class Allocation:
    """The part of a payment that settles one invoice, in minor units of the payment's currency."""

    invoice_id: UUID
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to work on an attempt, until its lease ends or a higher fence exists."""

    attempt_id: UUID
    payment_id: UUID
    invoice_id: UUID | None
    client_id: UUID
    account_id: UUID
    state: AttemptState
    fence: int
    owner: UUID


def slot_payment_id(firm_id: UUID, invoice_id: UUID, cycle: int, slot: int, revision: int) -> UUID:
    """The id of a slot's payment follows from what it is for, so that doing the work twice, or again after a restore, is the same payment."""
    return derive_uuid("payment", firm_id, invoice_id, cycle, slot, revision)


def request_payment_id(firm_id: UUID, request_id: UUID) -> UUID:
    """The id of the payment that one explicit request asks for."""
    return derive_uuid("payment", firm_id, request_id)


def one_time_payment_id(firm_id: UUID, request_id: UUID) -> UUID:
    """The id of the payment that one CreatePayment asks for."""
    return derive_uuid("payment", "one-time", firm_id, request_id)


def checkout_session_id(firm_id: UUID, request_id: UUID) -> UUID:
    """The id of the page that one request asks for."""
    return derive_uuid("checkout_session", firm_id, request_id)


def checkout_payment_id(session_id: UUID) -> UUID:
    """The id of the payment for which a page asks."""
    return derive_uuid("payment", "checkout", session_id)


def setup_intent_id(firm_id: UUID, request_id: UUID) -> UUID:
    """The id of the set-up intent that one request asks for."""
    return derive_uuid("setup_intent", firm_id, request_id)


def saved_method_id(firm_id: UUID, account_id: UUID, reference: str) -> UUID:
    """The id of a method that the provider told of: saved on a page, in a browser, or by somebody at the provider."""
    return derive_uuid("payment_method", "saved", firm_id, account_id, reference)


def manual_payment_id(firm_id: UUID, request_id: UUID) -> UUID:
    """The id of the payment that one call records as received outside any provider."""
    return derive_uuid("payment", "manual", firm_id, request_id)


def late_payment_id(firm_id: UUID, attempt_id: UUID) -> UUID:
    """The id of the payment that records an attempt's money when its own payment had succeeded already."""
    return derive_uuid("payment", "late", firm_id, attempt_id)


def attempt_id_of(payment_id: UUID, attempt_no: int) -> UUID:
    """The id of a payment's attempt number `attempt_no`."""
    return derive_uuid("attempt", payment_id, attempt_no)


def idempotency_key(payment_id: UUID, attempt_no: int) -> str:
    """The key under which the provider knows the attempt, for ever."""
    return f"v1:{payment_id}:{attempt_no}"
