"""The manual provider: money that arrives outside any payment service (bank transfer, cheque, cash).

It makes no calls. Money is recorded by people, so every request to move or look up money through it is refused.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from dunwell_server.kernel.money import Money
from dunwell_server.providers.base import (
    Capabilities,
    ChargeRequest,
    ClientProfile,
    CustomerRef,
    KeySemantics,
    LookupResult,
    MethodDetails,
    Outcome,
    PaymentPage,
    ProviderAccount,
    unsupported,
)

NAME: Final = "manual"


class ManualProvider:
    """Offers nothing, and says so. All calls but `close` raise PROVIDER_NOT_CONFIGURED."""

    name = NAME
    capabilities = Capabilities(max_concurrency=1)
    key_semantics = KeySemantics(
        retention=timedelta(0), replays_server_errors=False, lookup_authoritative=False, settle_window=timedelta(0)
    )

    async def ensure_customer(self, account: ProviderAccount, client: ClientProfile, key: str) -> CustomerRef:
        raise unsupported(NAME, "customers")

    async def attach_method(
        self, account: ProviderAccount, customer: CustomerRef, token: str, key: str
    ) -> MethodDetails:
        raise unsupported(NAME, "payment methods")

    async def detach_method(self, account: ProviderAccount, method_reference: str) -> None:
        raise unsupported(NAME, "payment methods")

    async def charge(self, request: ChargeRequest) -> Outcome:
        raise unsupported(NAME, "off_session_charges")

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
        raise unsupported(NAME, "look-ups")

    async def cancel(self, account: ProviderAccount, provider_reference: str) -> Outcome:
        raise unsupported(NAME, "cancellation")

    async def list_payments(
        self, account: ProviderAccount, since: datetime, until: datetime, page: str | None = None
    ) -> PaymentPage:
        raise unsupported(NAME, "payment lists")

    async def close(self) -> None:
        """Nothing is held."""
