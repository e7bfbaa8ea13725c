"""From an account's row to a provider that can be called: adapter, decrypted credentials, and how many calls at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments.ladder import KeyMemory
from dunwell_server.payments.store.methods import ProviderAccount as StoredAccount
from dunwell_server.platform.crypto import account_aad
from dunwell_server.providers.base import AccountMode, Credentials, Provider, ProviderAccount
from dunwell_server.providers.registry import ProviderRegistry


class Vault(Protocol):
    """Decrypts what is stored of a provider account."""

    def decrypt(self, sealed: bytes, key_id: str, aad: bytes) -> Mapping[str, str]:
        """The secrets by name. Raises where key or associated data do not fit."""
        ...


class _Pace:
    """At most `rate` starts per second, in this process; waits, never refuses."""

    def __init__(self, rate: float | None) -> None:
        self._gap = 1.0 / rate if rate else 0.0
        self._next = 0.0

    async def wait(self) -> None:
        if not self._gap:
            return
        now = asyncio.get_running_loop().time()
        start = max(now, self._next)
        self._next = start + self._gap
        if start > now:
            await asyncio.sleep(start - now)


class Gateway:
    """One account at its provider, ready to be called."""

    def __init__(self, provider: Provider, account: ProviderAccount) -> None:
        self.provider = provider
        self.account = account
        semantics = provider.key_semantics
        self.memory = KeyMemory(
            semantics.retention, max(semantics.settle_window, timedelta(0)), semantics.lookup_authoritative
        )
        self._slots = asyncio.Semaphore(provider.capabilities.max_concurrency)
        self._pace = _Pace(provider.capabilities.rate_limit_per_second)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A place among the calls that the account allows at once."""
        async with self._slots:
            await self._pace.wait()
            yield


class Gateways:
    """The accounts that this process has met. Credentials are decrypted once per version of the row and kept in memory only."""

    def __init__(self, registry: ProviderRegistry, vault: Vault) -> None:
        self._registry = registry
        self._vault = vault
        self._known: dict[UUID, tuple[int, Gateway]] = {}

    def gateway(self, stored: StoredAccount) -> Gateway:
        """The account, ready to be called. Errors: PROVIDER_NOT_CONFIGURED."""
        known = self._known.get(stored.id)
        if known is not None and known[0] == stored.version:
            return known[1]
        provider = self._registry.get(stored.provider)
        secrets = self._vault.decrypt(stored.credentials, stored.key_id, account_aad(stored.firm_id, stored.provider))
        account = ProviderAccount(
            id=encode(Prefix.PROVIDER_ACCOUNT, stored.id),
            provider=stored.provider,
            mode=AccountMode(stored.mode),
            credentials=Credentials(secrets),
            firm_id=None if stored.firm_id is None else encode(Prefix.FIRM, stored.firm_id),
        )
        gateway = Gateway(provider, account)
        self._known[stored.id] = (stored.version, gateway)
        return gateway
