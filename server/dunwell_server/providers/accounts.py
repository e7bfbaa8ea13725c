"""Whose calls a provider answers: accounts with their credentials, and the clients and methods known there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NoReturn

from dunwell_server.kernel.errors import DunwellError, Reason


class AccountMode(StrEnum):
    """Whether an account moves real money. The two are never mixed."""

    TEST = "TEST"
    LIVE = "LIVE"


class Credentials(Mapping[str, str]):
    """Secrets of an account by name. Reading one takes its name; showing the whole shows none."""

    __slots__ = ("_secrets",)

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self._secrets = dict(secrets)

    def __getitem__(self, name: str) -> str:
        try:
            return self._secrets[name]
        except KeyError:
            raise DunwellError(
                Reason.PROVIDER_NOT_CONFIGURED, f"the provider account has no credential {name!r}"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._secrets

    def __iter__(self) -> Iterator[str]:
        return iter(self._secrets)

    def __len__(self) -> int:
        return len(self._secrets)

    def get(self, name: str, default: Any = None) -> Any:
        """The secret, or ``default`` when there is none of that name."""
        return self._secrets.get(name, default)

    def __repr__(self) -> str:
        return f"Credentials({', '.join(sorted(self._secrets))}: hidden)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("credentials are not pickled")


@dataclass(frozen=True, slots=True)
class ProviderAccount:
    """One account at a provider: a firm's own, or the platform's (``firm_id`` None)."""

    id: str
    provider: str
    mode: AccountMode
    credentials: Credentials = field(repr=False, compare=False)
    firm_id: str | None = None


@dataclass(frozen=True, slots=True)
class ClientProfile:
    """What a provider is told about a paying client."""

    client_id: str
    firm_id: str
    name: str | None = None
    email: str | None = None


@dataclass(frozen=True, slots=True)
class CustomerRef:
    """A client as the provider knows it."""

    provider_reference: str


class MethodKind(StrEnum):
    """What kind of payment method it is."""

    CARD = "CARD"
    UPI = "UPI"
    BANK = "BANK"
    WALLET = "WALLET"
    OTHER = "OTHER"


@dataclass(frozen=True, slots=True)
class MethodDetails:
    """A payment method kept at the provider: its id there and what may be shown of it. Never a card number."""

    provider_reference: str
    kind: MethodKind
    brand: str | None = None
    last4: str | None = None
    exp_month: int | None = None
    exp_year: int | None = None
    fingerprint: str | None = None
    """The same for the same card, also when kept twice."""
    country: str | None = None
