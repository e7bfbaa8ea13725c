"""What some providers can do beside charging: refunds, set-up intents, checkout, customers, managed subscriptions, disputes, webhooks.

Each ability is a Protocol, promised by a flag of `Capabilities` (`base.ABILITIES`) and asked for with
`base.require_ability`. Its records are normalised: no provider's own type passes an adapter. Unless said otherwise the
methods raise what `base.Provider` says of calls that are no charges. Events are in `providers.events`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable

from dunwell_server.kernel.hashing import digest_parts
from dunwell_server.kernel.money import Money
from dunwell_server.providers.accounts import CustomerRef, MethodDetails, ProviderAccount
from dunwell_server.providers.events import EventPage, NormalisedEvent, SignedEvent
from dunwell_server.providers.managed import ManagedSubscriptions as ManagedSubscriptions
from dunwell_server.providers.managed import ProviderInvoice as ProviderInvoice
from dunwell_server.providers.managed import ProviderInvoiceState as ProviderInvoiceState
from dunwell_server.providers.managed import ProviderSubscription as ProviderSubscription
from dunwell_server.providers.managed import ProviderSubscriptionState as ProviderSubscriptionState
from dunwell_server.providers.outcomes import Outcome

# ---- refunds


class RefundOutcomeClass(StrEnum):
    """What an answer means for a refund: as `OutcomeClass`, for money that goes the other way."""

    SUCCEEDED = "SUCCEEDED"
    """Sent back. It can fail later all the same (an event or a look-up tells)."""
    PENDING = "PENDING"
    """Accepted; the provider will tell."""
    FAILED = "FAILED"
    """Refused, cancelled, or sent back by the payer's bank; finally for this key."""
    NOT_SENT = "NOT_SENT"
    """Proven: this sending never reached execution. The same key may go again."""
    UNKNOWN = "UNKNOWN"
    """It may or may not have happened. Same key or look-up only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundOutcome:
    """One answer about one refund."""

    outcome: RefundOutcomeClass
    provider_reference: str | None = None
    """The provider's id of the refund; always known when SUCCEEDED or PENDING."""
    money: Money | None = None
    provider_code: str | None = None
    """Why it failed, in the provider's words, such as ``lost_or_stolen_card``."""
    retry_after_seconds: float | None = None
    executed: bool = True
    provider_time: datetime | None = None
    evidence: Mapping[str, str] = field(default_factory=dict)
    """A few redacted facts. Never secrets, never whole bodies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefundRequest:
    """One refund of one payment. Sent again unchanged, with the same key, it is the same refund."""

    account: ProviderAccount
    key: str
    firm: str
    payment: str
    refund: str
    """Our ids of firm, payment and refund, for the provider's metadata."""
    payment_reference: str
    """The provider's id of the payment that is refunded."""
    money: Money

    @property
    def metadata(self) -> dict[str, str]:
        """What is put on the provider's object, so that it can be found again and told whose it is."""
        return {"firm": self.firm, "payment": self.payment, "refund": self.refund, "key": self.key}

    @property
    def digest(self) -> bytes:
        """SHA-256 over everything the provider compares under one key."""
        return digest_parts(
            (self.account.id, self.key, self.payment_reference, self.money.currency, self.money.minor, self.refund)
        )


@dataclass(frozen=True, slots=True)
class ProviderRefund:
    """One refund in the provider's list or event."""

    provider_reference: str
    payment_reference: str
    metadata: Mapping[str, str]
    money: Money
    outcome: RefundOutcome
    created_time: datetime


@dataclass(frozen=True, slots=True)
class RefundPage:
    """A page of the provider's refunds, oldest first; ``next_page`` is None on the last."""

    refunds: tuple[ProviderRefund, ...]
    next_page: str | None


@runtime_checkable
class Refunds(Protocol):
    """Capability ``refunds``. `refund` and `lookup_refund` answer with outcomes, as charges do."""

    async def refund(self, request: RefundRequest) -> RefundOutcome:
        """Sends money back, at most once per key within the key's life."""

    async def lookup_refund(
        self, account: ProviderAccount, *, key: str, payment_reference: str, provider_reference: str | None = None
    ) -> RefundOutcome | None:
        """What became of the refund with this key. None only where the provider says with authority that it has none."""

    async def list_refunds(
        self,
        account: ProviderAccount,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        payment_reference: str | None = None,
        page: str | None = None,
    ) -> RefundPage:
        """Refunds created in [since, until), or those of one payment."""


# ---- customers


@dataclass(frozen=True, slots=True)
class ProviderCustomer:
    """A customer as the provider has it."""

    provider_reference: str
    name: str | None
    email: str | None
    metadata: Mapping[str, str]
    default_method_reference: str | None = None
    deleted: bool = False


@runtime_checkable
class Customers(Protocol):
    """Capability ``customers``: fetch, update, and adopt customers that exist already."""

    async def get_customer(self, account: ProviderAccount, reference: str) -> ProviderCustomer:
        """The customer. Raises ProviderRefused (code ``resource_missing``) when there is none."""

    async def update_customer(
        self,
        account: ProviderAccount,
        reference: str,
        *,
        name: str | None,
        email: str | None,
        metadata: Mapping[str, str],
    ) -> ProviderCustomer:
        """Sets name and e-mail (None: left alone) and merges metadata."""

    async def list_methods(self, account: ProviderAccount, reference: str) -> tuple[MethodDetails, ...]:
        """The methods attached to the customer, newest first."""

    async def set_default_method(self, account: ProviderAccount, reference: str, method_reference: str) -> None:
        """Makes an attached method what the provider's own invoices are charged with."""


# ---- set-up intents


class SetupState(StrEnum):
    """How far the saving of a method has come."""

    OPEN = "OPEN"
    PROCESSING = "PROCESSING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    """The last try was refused; the client may try again while the provider keeps it open."""
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupDetails:
    """A set-up intent as the provider has it. The client's browser completes it with ``client_secret``."""

    provider_reference: str
    state: SetupState
    client_secret: str | None = field(default=None, repr=False)
    publishable_key: str | None = None
    customer_reference: str | None = None
    method: MethodDetails | None = None
    """The method saved. Known when SUCCEEDED."""
    failure_code: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class SetupIntents(Protocol):
    """Capability ``setup_intents``: saving a method for charges without the client."""

    async def create_setup_intent(
        self, account: ProviderAccount, customer: CustomerRef, key: str, metadata: Mapping[str, str]
    ) -> SetupDetails:
        """Opens one; with the same key, the one opened before. ``metadata`` has firm, client and setup."""

    async def get_setup_intent(self, account: ProviderAccount, reference: str) -> SetupDetails:
        """Its present state, with the saved method's details where there is one."""

    async def cancel_setup_intent(self, account: ProviderAccount, reference: str) -> SetupDetails:
        """Ends an open one."""


# ---- checkout


class CheckoutMode(StrEnum):
    """What a hosted page is for."""

    PAYMENT = "PAYMENT"
    SETUP = "SETUP"
    SUBSCRIPTION = "SUBSCRIPTION"


class CheckoutState(StrEnum):
    """How far a hosted page has come."""

    OPEN = "OPEN"
    COMPLETED = "COMPLETED"
    EXPIRED = "EXPIRED"


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckoutRequest:
    """A hosted page on which the client pays, saves a method, or subscribes."""

    account: ProviderAccount
    key: str
    mode: CheckoutMode
    metadata: Mapping[str, str]
    """firm, client, checkout, key; and payment where it asks for money. Put on the page's own objects (payment, set-up) too."""
    success_url: str
    cancel_url: str | None = None
    customer_reference: str | None = None
    money: Money | None = None
    """What is asked for. PAYMENT only."""
    description: str = ""
    price_reference: str | None = None
    """The provider's price. SUBSCRIPTION only."""
    quantity: int = 1
    expire_time: datetime | None = None
    """When it closes. None: the provider's default. Providers have bounds of their own: use what they answer."""
    save_method: bool = False
    """PAYMENT: keep the method for charges without the client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckoutDetails:
    """A hosted page as the provider has it."""

    provider_reference: str
    mode: CheckoutMode
    state: CheckoutState
    url: str | None = None
    """Where the client goes. None once it is closed."""
    expire_time: datetime | None = None
    customer_reference: str | None = None
    payment: Outcome | None = None
    """What became of the money, where it asks for some: `Outcome.provider_reference` is the payment's id."""
    setup_reference: str | None = None
    subscription_reference: str | None = None
    method: MethodDetails | None = None
    """The method used or saved, where the provider says."""
    metadata: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class Checkout(Protocol):
    """Capability ``checkout``: hosted pages. Card-update links are pages with mode SETUP."""

    async def create_checkout(self, request: CheckoutRequest) -> CheckoutDetails:
        """Opens a page; with the same key, the one opened before."""

    async def get_checkout(self, account: ProviderAccount, reference: str) -> CheckoutDetails:
        """Its present state."""

    async def find_checkout(self, account: ProviderAccount, key: str, since: datetime) -> CheckoutDetails | None:
        """The page opened under a key since then; None with the provider's authority only."""

    async def expire_checkout(self, account: ProviderAccount, reference: str) -> CheckoutDetails:
        """Closes an open page. The answer is what it has become: COMPLETED when it was too late."""


@runtime_checkable
class PlainPage(Protocol):
    """Optional beside `Checkout`: a page of the provider's own, for clients who have nowhere to come back to."""

    def plain_page(self, account: ProviderAccount) -> str:
        """Its address."""


# ---- disputes


class ProviderDisputeState(StrEnum):
    """States of a dispute at the provider. The first three are inquiries, which move no money."""

    INQUIRY_NEEDS_RESPONSE = "INQUIRY_NEEDS_RESPONSE"
    INQUIRY_UNDER_REVIEW = "INQUIRY_UNDER_REVIEW"
    INQUIRY_CLOSED = "INQUIRY_CLOSED"
    NEEDS_RESPONSE = "NEEDS_RESPONSE"
    UNDER_REVIEW = "UNDER_REVIEW"
    WON = "WON"
    LOST = "LOST"
    PREVENTED = "PREVENTED"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderDispute:
    """A dispute as the provider has it."""

    provider_reference: str
    payment_reference: str | None
    state: ProviderDisputeState
    reason: str
    money: Money
    fee: Money | None
    """What the provider takes for it; None: it did not say."""
    funds_withdrawn: bool
    respond_by: datetime | None
    submission_count: int
    metadata: Mapping[str, str]
    created_time: datetime


@runtime_checkable
class Disputes(Protocol):
    """Capability ``disputes``."""

    async def get_dispute(self, account: ProviderAccount, reference: str) -> ProviderDispute:
        """Its present state."""

    async def upload_evidence_file(
        self, account: ProviderAccount, name: str, content_type: str, content: bytes, key: str
    ) -> str:
        """Keeps a file at the provider; returns its id there, to be named in evidence."""

    async def stage_evidence(
        self, account: ProviderAccount, reference: str, evidence: Mapping[str, str], key: str
    ) -> ProviderDispute:
        """Sets evidence fields without submitting them."""

    async def submit_evidence(
        self, account: ProviderAccount, reference: str, evidence: Mapping[str, str], key: str
    ) -> ProviderDispute:
        """Sets evidence fields and submits, which can be done once."""

    async def accept_dispute(self, account: ProviderAccount, reference: str, key: str) -> ProviderDispute:
        """Gives up the dispute: it is lost."""


# ---- webhooks


class SignatureRefused(Exception):
    """A webhook that this account did not sign, or signed too long ago. ``why`` is a fixed word for logs and metrics."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@runtime_checkable
class Webhooks(Protocol):
    """Capability ``webhooks``. `verify` and `normalise` are pure; nothing is asked of the network."""

    async def verify(
        self, account: ProviderAccount, secrets: Sequence[str], body: bytes, headers: Mapping[str, str], now: datetime
    ) -> SignedEvent:
        """Checks a signature over raw bytes against every live secret, in constant time, and reads what identifies the event.

        ``headers`` have lower-case names; ``now`` is machine time: timestamps too old or in the future are refused.
        Raises SignatureRefused; without any secret always.
        """

    def normalise(self, body: bytes) -> NormalisedEvent:
        """What a verified event says. Unknown types give an event without notices. Raises ValueError for what cannot be read."""

    async def list_events(
        self, account: ProviderAccount, since: datetime, until: datetime, page: str | None = None
    ) -> EventPage:
        """The provider's own list of events in [since, until), as it would have sent them: what finds gaps."""
