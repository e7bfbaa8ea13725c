"""From an account's row to what verifies its webhooks and lists its events: adapter, credentials, live secrets."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol, TypeAlias
from uuid import UUID

from dunwell_server.inbox.model import Account, live_secrets
from dunwell_server.inbox.store import accounts
from dunwell_server.kernel.errors import DunwellError
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.platform.context import system_context
from dunwell_server.platform.crypto import account_aad
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.providers.abilities import Webhooks
from dunwell_server.providers.base import AccountMode, Credentials, Provider, ProviderAccount
from dunwell_server.providers.registry import ProviderRegistry

FRESH_SECONDS: Final = 1.0
"""How long an account is used before its row is read again: a rotated secret works, and a withdrawn one ends, within this time."""
_REMEMBERED: Final = 10_000


class Vault(Protocol):
    """Seals and opens what the inbox keeps encrypted."""

    def encrypt(self, secrets: Mapping[str, str], aad: bytes) -> tuple[bytes, str]:
        """The sealed form and the id of its key."""
        ...

    def decrypt(self, sealed: bytes, key_id: str, aad: bytes) -> Mapping[str, str]:
        """The secrets by name. Raises where key or associated data do not fit."""
        ...


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One account that webhooks come for, ready to verify them."""

    row: Account
    provider: Provider
    webhooks: Webhooks
    account: ProviderAccount

    def secrets(self, now: datetime) -> tuple[str, ...]:
        """The secrets that sign at `now`, machine time. None: the endpoint is closed."""
        return live_secrets(self.account.credentials, now)


@dataclass(frozen=True, slots=True)
class _Known:
    endpoints: tuple[Endpoint, ...]
    read: float


_Key: TypeAlias = tuple[str, UUID | None]


class Endpoints:
    """The accounts that this process has met. Credentials are decrypted once per version of the row and kept in memory only."""

    def __init__(self, registry: ProviderRegistry, vault: Vault) -> None:
        self._registry = registry
        self._vault = vault
        self._known: OrderedDict[_Key, _Known] = OrderedDict()
        self._reading: dict[_Key, asyncio.Task[tuple[Endpoint, ...]]] = {}
        self._next_reading: dict[_Key, asyncio.Task[tuple[Endpoint, ...]]] = {}
        self._opened: dict[UUID, Endpoint] = {}
        self._webhooks: dict[str, Webhooks | None] = {}

    @property
    def registry(self) -> ProviderRegistry:
        """The providers."""
        return self._registry

    @property
    def webhook_providers(self) -> tuple[str, ...]:
        """Names of the providers that send webhooks."""
        return tuple(name for name in self._registry.names if self.webhooks_of(name) is not None)

    def webhooks_of(self, provider: str) -> Webhooks | None:
        """The provider's Webhooks ability; None for an unknown provider, and for one that sends none."""
        try:
            return self._webhooks[provider]
        except KeyError:
            pass
        try:
            found = self._registry.get(provider)
        except DunwellError:
            return None
        able = found if found.capabilities.webhooks and isinstance(found, Webhooks) else None
        self._webhooks[provider] = able
        return able

    def endpoint(self, row: Account) -> Endpoint:
        """The account, opened. Errors: PROVIDER_NOT_CONFIGURED, VaultError."""
        opened = self._opened.get(row.id)
        if opened is not None and opened.row.version == row.version:
            return opened
        provider = self._registry.get(row.provider)
        webhooks = self.webhooks_of(row.provider)
        if webhooks is None:
            raise LookupError(f"{row.provider} sends no webhooks")
        secrets = self._vault.decrypt(row.credentials, row.key_id, account_aad(row.firm_id, row.provider))
        account = ProviderAccount(
            id=encode(Prefix.PROVIDER_ACCOUNT, row.id),
            provider=row.provider,
            mode=AccountMode(row.mode),
            credentials=Credentials(secrets),
            firm_id=None if row.firm_id is None else encode(Prefix.FIRM, row.firm_id),
        )
        endpoint = Endpoint(row, provider, webhooks, account)
        self._opened[row.id] = endpoint
        return endpoint

    async def find(self, database: Database, provider: str, account_id: UUID | None) -> tuple[Endpoint, ...]:
        """The account of that provider, or (None) the platform's accounts there. Nothing: there is none, or it sends no webhooks."""
        if self.webhooks_of(provider) is None:
            return ()
        key = (provider, account_id)
        known = self._known.get(key)
        if known is not None and time.monotonic() - known.read <= FRESH_SECONDS:
            return known.endpoints
        return await self._read(database, key)

    async def find_again(self, database: Database, provider: str, account_id: UUID | None) -> tuple[Endpoint, ...]:
        """The same, from a reading that begins after this call: to be asked before a signature is refused.

        Calls that wait for an account share a reading, and there is one at a time: a flood of forged webhooks is no flood of queries.
        """
        if self.webhooks_of(provider) is None:
            return ()
        key = (provider, account_id)
        reading = self._next_reading.get(key)
        if reading is None:
            reading = asyncio.create_task(self._read_after(self._reading.get(key), database, key))
            self._next_reading[key] = reading
        return await asyncio.shield(reading)

    async def _read_after(
        self, before: asyncio.Task[tuple[Endpoint, ...]] | None, database: Database, key: _Key
    ) -> tuple[Endpoint, ...]:
        if before is not None:
            await asyncio.wait([before])
        # Whoever calls from here on needs a reading that begins later than this one.
        mine = self._reading[key] = self._next_reading.pop(key)
        try:
            return await self._read(database, key)
        finally:
            if self._reading.get(key) is mine:
                del self._reading[key]

    async def _read(self, database: Database, key: _Key) -> tuple[Endpoint, ...]:
        began = time.monotonic()
        rows = await database.run(system_context(None, "webhook:account"), _reader(*key), write=False)
        endpoints = tuple(self.endpoint(row) for row in rows)
        self._known[key] = _Known(endpoints, began)
        self._known.move_to_end(key)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return endpoints


def _reader(provider: str, account_id: UUID | None) -> Callable[[UnitOfWork], Awaitable[list[Account]]]:
    async def read(uow: UnitOfWork) -> list[Account]:
        if account_id is None:
            return await accounts.of_platform(uow, provider)
        row = await accounts.by_id(uow, account_id)
        return [row] if row is not None and row.provider == provider else []

    return read
