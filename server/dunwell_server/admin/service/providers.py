"""Which providers there are, and how a firm stands with each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dunwell_server.admin.model import Account, ProviderStanding
from dunwell_server.admin.store import firms
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.payments.service import breakers
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.providers.registry import ProviderRegistry

OFFLINE: Final = "manual"
"""Money recorded by hand: needs no account."""


def account_for(provider: str, mode: str, accounts: Sequence[Account]) -> Account | None:
    """The account that a firm of `mode` uses at the provider: its own, else the platform's."""
    usable = [account for account in accounts if account.provider == provider and account.mode == mode]
    return min(usable, key=lambda account: account.firm_id is None, default=None)


def require(provider: str, mode: str, accounts: Sequence[Account], registry: ProviderRegistry) -> None:
    """PROVIDER_NOT_CONFIGURED for a provider that the firm cannot use; PROVIDER_MODE_MISMATCH where only an account of the other mode exists."""
    if provider == OFFLINE or (provider in registry.names and account_for(provider, mode, accounts)):
        return
    other = next((account for account in accounts if account.provider == provider), None)
    field = "firm.default_provider"
    if other is not None and provider in registry.names:
        metadata = {"provider": provider, "firm_mode": mode, "account_mode": other.mode}
        message = f"The firm is {mode}; the account at {provider} is {other.mode}."
        raise DunwellError(Reason.PROVIDER_MODE_MISMATCH, message, field=field, metadata=metadata)
    message = f"Provider {provider[:64]!r} is not configured for this firm."
    raise DunwellError(Reason.PROVIDER_NOT_CONFIGURED, message, field=field, metadata={"provider": provider[:64]})


async def list_providers(uow: UnitOfWork, registry: ProviderRegistry) -> list[ProviderStanding]:
    """Every provider of the installation, by name. Credentials are not looked at."""
    accounts = await firms.accounts(uow, uow.firm_id)
    default, stopped = uow.firm.settings.default_provider, await breakers.open_providers(uow)
    return [
        ProviderStanding(name, account, account is not None or name == OFFLINE, name == default, name in stopped)
        for name in registry.names
        for account in [account_for(name, uow.firm.mode, accounts)]
    ]


async def reset_breaker(uow: UnitOfWork, provider: str, note: str, registry: ProviderRegistry) -> ProviderStanding:
    """ResetBreaker: charge at the provider again. RESOURCE_NOT_FOUND for an unknown one, STATE_CONFLICT where no breaker has tripped."""
    if provider not in registry.names:
        raise DunwellError(Reason.RESOURCE_NOT_FOUND, "No such provider.", metadata={"provider": provider[:64]})
    await breakers.reset(uow, provider, note)
    [standing] = [each for each in await list_providers(uow, registry) if each.name == provider]
    return standing
