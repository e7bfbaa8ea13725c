"""The provider interface: what an adapter must do, and the records that go in and out.

An adapter

* maps **every** answer to one `OutcomeClass`, the default being UNKNOWN, and passes charges through `checked`;
* never retries by itself: 3 seconds to connect, 20 seconds in all, then it says what it knows;
* puts firm, payment and key on every object it creates (`ChargeRequest.metadata`), so that it can be found again;
* never lets a secret into an exception, a repr, a log line or evidence;
* declares in `KeySemantics` what its provider promises about keys, and in `Capabilities` what it can do.

Abilities that not every provider has are Protocols of their own, each named by a flag of `Capabilities`
(`ABILITIES`); `require_ability` gives the provider as that Protocol, or refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeAlias, TypeVar, runtime_checkable

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.hashing import digest_parts
from dunwell_server.kernel.money import Money
from dunwell_server.providers import abilities
from dunwell_server.providers.accounts import (
    AccountMode,
    ClientProfile,
    Credentials,
    CustomerRef,
    MethodDetails,
    MethodKind,
    ProviderAccount,
)
from dunwell_server.providers.outcomes import (
    CANCELED_CODE,
    EXPIRED_CODE,
    DeclineClass,
    FailureCode,
    Outcome,
    OutcomeClass,
    after_unknown,
    checked,
    payer_message,
)

__all__ = [
    "ABILITIES",
    "CANCELED_CODE",
    "CONNECT_TIMEOUT_SECONDS",
    "EXPIRED_CODE",
    "TOTAL_TIMEOUT_SECONDS",
    "AccountMode",
    "Capabilities",
    "ChargeReferences",
    "ChargeRequest",
    "ClientProfile",
    "ClockStanding",
    "Credentials",
    "CustomerRef",
    "DeclineClass",
    "FailureCode",
    "FollowsTestClock",
    "KeySemantics",
    "LookupResult",
    "MethodDetails",
    "MethodKind",
    "Outcome",
    "OutcomeClass",
    "PaymentPage",
    "Provider",
    "ProviderAccount",
    "ProviderDeclined",
    "ProviderPayment",
    "ProviderRefused",
    "ProviderUnavailable",
    "after_unknown",
    "check_account",
    "checked",
    "payer_message",
    "require_ability",
    "unsupported",
]

CONNECT_TIMEOUT_SECONDS: Final = 3.0
TOTAL_TIMEOUT_SECONDS: Final = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySemantics:
    """What a provider promises about idempotency keys. All durations run on the account's clock (firm time)."""

    retention: timedelta
    """How long a key is remembered at least. Afterwards the same key is a new request: look up, never resend."""
    replays_server_errors: bool
    """A 5xx is remembered and repeated: after a replayed 5xx only a look-up can tell."""
    lookup_authoritative: bool
    """A look-up reads the provider's own book: what it does not find (after ``settle_window``) did not happen."""
    settle_window: timedelta
    """How long after the last sending a "not found" may still be overtaken by a request on its way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a provider can do. A flag that names an ability of `ABILITIES` promises that Protocol."""

    off_session_charges: bool = False
    customers: bool = False
    setup_intents: bool = False
    checkout: bool = False
    refunds: bool = False
    managed_subscriptions: bool = False
    disputes: bool = False
    qr: bool = False
    webhooks: bool = False
    follows_test_clock: bool = False
    currencies: frozenset[str] | None = None
    """ISO codes it can charge in; None: no restriction known."""
    rate_limit_per_second: float | None = None
    """What the provider allows per account; None: no limit known."""
    max_concurrency: int = 50
    modes: frozenset[AccountMode] = frozenset(AccountMode)


@dataclass(frozen=True, slots=True)
class ChargeReferences:
    """Whose charge it is, for the provider's metadata: ids of the firm and of the payment (the slot)."""

    firm: str
    payment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChargeRequest:
    """One attempt to take money. Sent again unchanged, with the same key, it is the same attempt."""

    account: ProviderAccount
    key: str
    references: ChargeReferences
    money: Money
    method_reference: str
    customer_reference: str | None = None
    description: str = ""
    off_session: bool = True
    """The payer is not present."""
    return_url: str | None = None
    """Where a payer who is present comes back to after authenticating."""

    def __post_init__(self) -> None:
        if self.money.minor <= 0:
            raise ValueError("a charge takes a positive amount")
        if not 0 < len(self.key) <= 255:
            raise ValueError("a key has 1 to 255 characters")

    @property
    def metadata(self) -> dict[str, str]:
        """What is put on the provider's object, so that it can be found again and told whose it is."""
        return {"firm": self.references.firm, "payment": self.references.payment, "key": self.key}

    @property
    def digest(self) -> bytes:
        """SHA-256 over everything the provider compares under one key; kept with the attempt."""
        return digest_parts(
            (
                self.account.id,
                self.key,
                self.references.firm,
                self.references.payment,
                self.money.currency,
                self.money.minor,
                self.method_reference,
                self.customer_reference or "",
                self.description,
                int(self.off_session),
                *(() if self.return_url is None else (self.return_url,)),
            )
        )


@dataclass(frozen=True, slots=True)
class ProviderPayment:
    """One payment in the provider's list, for reconciliation."""

    provider_reference: str
    key: str | None
    metadata: Mapping[str, str]
    money: Money
    outcome: Outcome
    created_time: datetime
    customer_reference: str | None = None


@dataclass(frozen=True, slots=True)
class PaymentPage:
    """A page of the provider's list; ``next_page`` is None on the last."""

    payments: tuple[ProviderPayment, ...]
    next_page: str | None


LookupResult: TypeAlias = Outcome | None
"""What a look-up found. None is a statement: the provider's own book has no such payment. A look-up that failed, or
that cannot tell, is an UNKNOWN outcome, never None."""


class ProviderDeclined(DunwellError):
    """The provider refused a payment method (not a charge: a charge answers with an `Outcome`)."""

    def __init__(self, failure_code: FailureCode, decline_class: DeclineClass, provider_code: str | None) -> None:
        super().__init__(
            Reason.PAYMENT_METHOD_UNUSABLE,
            payer_message(failure_code),
            metadata={"failure_code": failure_code.value, "provider_code": provider_code or ""},
        )
        self.failure_code = failure_code
        self.decline_class = decline_class
        self.provider_code = provider_code


class ProviderRefused(DunwellError):
    """The provider refused a request that is not a charge: wrong parameters, unknown object, wrong state."""

    def __init__(self, provider: str, provider_code: str | None) -> None:
        super().__init__(
            Reason.STATE_CONFLICT,
            f"{provider} refused the request ({provider_code or 'no code'})",
            metadata={"provider": provider, "provider_code": provider_code or ""},
        )
        self.provider_code = provider_code


class ProviderUnavailable(DunwellError):
    """The provider could not be reached or gave no usable answer; the same call with the same key may be repeated."""

    def __init__(self, provider: str, why: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(
            Reason.PROVIDER_UNAVAILABLE,
            f"{provider}: {why}",
            metadata={"provider": provider},
            retry_after=retry_after_seconds,
        )


@runtime_checkable
class Provider(Protocol):
    """A payment service.

    The calls about charges (`charge`, `lookup`, `cancel`) answer with outcomes and raise only for a caller's mistake,
    before anything is sent (`check_account`, `unsupported`). All others raise `ProviderUnavailable`,
    `ProviderRefused`, and DunwellError PROVIDER_NOT_CONFIGURED when the account's credentials are not accepted.
    Cancelling a task that waits for any of them leaves the call's outcome UNKNOWN.
    """

    @property
    def name(self) -> str:
        """The name it is registered and configured under."""

    @property
    def capabilities(self) -> Capabilities:
        """What it can do."""

    @property
    def key_semantics(self) -> KeySemantics:
        """What it promises about keys."""

    async def ensure_customer(self, account: ProviderAccount, client: ClientProfile, key: str) -> CustomerRef:
        """Creates the client at the provider; with the same key, finds the one created before."""

    async def attach_method(
        self, account: ProviderAccount, customer: CustomerRef, token: str, key: str
    ) -> MethodDetails:
        """Keeps a tokenised method for a customer. Raises `ProviderDeclined` when the method is refused."""

    async def detach_method(self, account: ProviderAccount, method_reference: str) -> None:
        """Makes a kept method unusable. Detaching one that is gone changes nothing."""

    async def charge(self, request: ChargeRequest) -> Outcome:
        """Takes money, at most once per key within the key's life."""

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
        """What became of the attempt with this key. ``money`` is what was asked for, and is checked against.

        Where the provider's id of the payment is not known, ``customer_reference`` and ``since`` (when the attempt was
        first sent, by the account's clock) narrow the search.

        None only where the provider says with authority that it has no such payment (see `KeySemantics`).
        """

    async def cancel(self, account: ProviderAccount, provider_reference: str) -> Outcome:
        """Ends a payment that waits for its payer.

        ``Outcome.ends_unpaid`` confirms it. Any other outcome is what the payment has become instead: SUCCEEDED when
        it was too late, PENDING when it cannot be cancelled, UNKNOWN when the provider could not be asked.
        """

    async def list_payments(
        self, account: ProviderAccount, since: datetime, until: datetime, page: str | None = None
    ) -> PaymentPage:
        """All payments created in [since, until), oldest first, a page at a time."""

    async def close(self) -> None:
        """Gives back connections. The provider is not used afterwards."""


@dataclass(frozen=True, slots=True)
class ClockStanding:
    """How an account stands at a moment of its own time."""

    next_due: datetime | None
    """When something next falls due there by itself, by its clock; None when nothing will."""
    undelivered: int
    """Webhooks of what has happened there that have not been sent and answered yet."""


@runtime_checkable
class FollowsTestClock(Protocol):
    """A provider whose accounts keep a time of their own that can be set (``Capabilities.follows_test_clock``).

    Both calls may `wait` about a second until every webhook is delivered. A caller that needs it asks again; what does not
    arrive stays `ClockStanding.undelivered`.
    """

    async def set_clock(self, account: ProviderAccount, now: datetime, *, wait: bool = False) -> ClockStanding:
        """Moves the account's clock forward; what falls due on the way happens, in time order.

        Raises DunwellError CLOCK_BACKWARDS for an earlier time.
        """

    async def clock(self, account: ProviderAccount, *, wait: bool = False) -> ClockStanding:
        """How the account stands now."""


ABILITIES: Final[Mapping[str, type[Any]]] = MappingProxyType(
    {
        "follows_test_clock": FollowsTestClock,
        "customers": abilities.Customers,
        "setup_intents": abilities.SetupIntents,
        "checkout": abilities.Checkout,
        "refunds": abilities.Refunds,
        "managed_subscriptions": abilities.ManagedSubscriptions,
        "disputes": abilities.Disputes,
        "webhooks": abilities.Webhooks,
    }
)
"""Flag of `Capabilities` → the Protocol it promises."""

Ability = TypeVar("Ability")


def unsupported(provider: str, ability: str) -> DunwellError:
    """The error for asking a provider for what it cannot do."""
    return DunwellError(
        Reason.PROVIDER_NOT_CONFIGURED,
        f"provider {provider!r} does not offer {ability}",
        metadata={"provider": provider, "capability": ability},
    )


def require_ability(provider: Provider, flag: str, protocol: type[Ability]) -> Ability:
    """The provider as the Protocol that the capability ``flag`` promises; raises `unsupported` if it has it not."""
    if not getattr(provider.capabilities, flag) or not isinstance(provider, protocol):
        raise unsupported(provider.name, flag)
    return provider


def check_account(provider: Provider, account: ProviderAccount) -> None:
    """Refuses an account of another provider, or of a mode the provider does not have. Called before any sending."""
    if account.provider != provider.name:
        raise DunwellError(
            Reason.PROVIDER_NOT_CONFIGURED,
            f"the account belongs to provider {account.provider!r}, not {provider.name!r}",
            metadata={"provider": provider.name},
        )
    if account.mode not in provider.capabilities.modes:
        raise DunwellError(
            Reason.PROVIDER_MODE_MISMATCH,
            f"provider {provider.name!r} has no {account.mode} accounts",
            metadata={"provider": provider.name, "mode": account.mode.value},
        )
