"""Whose money a refund or a dispute is of, where the provider's event does not say it in ids that the book has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from dunwell_server.providers.accounts import ProviderAccount


@dataclass(frozen=True, slots=True)
class TracedPayment:
    """A payment as the provider has it, found by an id of its own or of a part of it, such as a charge."""

    provider_reference: str
    """The id that the book knows it by, if it is ours."""
    metadata: Mapping[str, str]
    """What is written on it, and on the part of it that was asked for."""
    customer_reference: str | None = None

    @property
    def is_ours(self) -> bool:
        """Whether we have made it: on all that we make stands whose it is."""
        return "firm" in self.metadata


@runtime_checkable
class TracesPayments(Protocol):
    """Optional beside `abilities.Refunds` and `abilities.Disputes`."""

    async def trace_payment(self, account: ProviderAccount, reference: str) -> TracedPayment | None:
        """The payment that an id is of; None where the provider has none. Raises what `base.Provider` says of calls that are no charges."""
