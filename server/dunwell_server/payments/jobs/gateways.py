"""From an account's row to a provider that can be called: adapter, decrypted credentials, and how many calls at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final, Protocol
from uuid import UUID

from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments.ladder import KeyMemory
from dunwell_server.payments.store.methods import ProviderAccount as StoredAccount
from dunwell_server.payments.store.refunds import account as account_row
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.crypto import account_aad
from dunwell_server.platform.database import Database
from dunwell_server.platform.rate_limits import Limit, RateLimits, Turns
from dunwell_server.providers.base import (
    AccountMode,
    ChargeRequest,
    Credentials,
    Outcome,
    OutcomeClass,
    Provider,
    ProviderAccount,
    ProviderUnavailable,
)
from dunwell_server.providers.registry import ProviderRegistry


class Vault(Protocol):
    """Decrypts what is stored of a provider account."""

    def decrypt(self, sealed: bytes, key_id: str, aad: bytes) -> Mapping[str, str]:
        """The secrets by name. Raises where key or associated data do not fit."""
        ...


RATE_LIMIT: Final = "rate_limit_per_second"
"""The name under which an account's credentials may hold a limit other than its provider's."""
RATE_LIMITED: Final = "rate limited"
"""Why an adapter says that something was not sent when it was turned away as too much."""
DEFAULT_PAUSE_SECONDS: Final = 1.0
"""For how long nothing is sent to an account that says it is too much, and not for how long."""


class _Pauses:
    """Turns of an account without a limit: none but the pauses it asks for, in this process."""

    def __init__(self) -> None:
        self._until = 0.0

    async def wait(self) -> None:
        while (rest := self._until - time.monotonic()) > 0:  # noqa: ASYNC110 - it may have been put off meanwhile
            await asyncio.sleep(rest)

    async def pause(self, seconds: float) -> None:
        self._until = max(self._until, time.monotonic() + seconds)


class Gateway:
    """One account at its provider, ready to be called."""

    def __init__(self, provider: Provider, account: ProviderAccount, turns: Turns | None = None) -> None:
        """`turns` are the account's, shared by all processes; None: it has no limit."""
        self.provider = provider
        self.account = account
        semantics = provider.key_semantics
        self.memory = KeyMemory(
            semantics.retention, max(semantics.settle_window, timedelta(0)), semantics.lookup_authoritative
        )
        self._slots = asyncio.Semaphore(provider.capabilities.max_concurrency)
        self._turns = turns or _Pauses()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A place among the calls that the account allows at once and per second. Raises LimitUnavailable: then nothing was sent."""
        async with self._slots:
            await self._turns.wait()
            try:
                yield
            except ProviderUnavailable as refusal:
                if refusal.retry_after:
                    await self._turns.pause(refusal.retry_after)
                raise

    async def pause(self, seconds: float | None) -> None:
        """Everybody's calls of the account rest: it was asked too much. None: it did not say for how long."""
        await self._turns.pause(seconds or DEFAULT_PAUSE_SECONDS)

    async def charge(self, request: ChargeRequest) -> Outcome:
        """The provider's answer to a charge, within a turn; where it was turned away as too much, everybody pauses."""
        async with self.turn():
            outcome = await self.provider.charge(request)
            if outcome.outcome is OutcomeClass.NOT_SENT and outcome.evidence.get("why") == RATE_LIMITED:
                await self._turns.pause(outcome.retry_after_seconds or DEFAULT_PAUSE_SECONDS)
            return outcome


class Gateways:
    """The accounts that this process has met. Credentials are decrypted once per version of the row and kept in memory only."""

    def __init__(self, registry: ProviderRegistry, vault: Vault, limits: RateLimits | None = None) -> None:
        """`limits` are shared by all processes; without them each account's limit is not kept (tests)."""
        self._registry = registry
        self._vault = vault
        self._limits = limits
        self._known: dict[UUID, tuple[int, Gateway]] = {}
        self._turns: dict[UUID, Turns] = {}

    def provider(self, name: str) -> Provider:
        """The adapter registered under a name. Errors: PROVIDER_NOT_CONFIGURED."""
        return self._registry.get(name)

    async def of_account(self, database: Database, context: CallContext, account_id: UUID) -> Gateway | None:
        """The gateway of an account that the firm uses; None where it is gone. Errors: PROVIDER_NOT_CONFIGURED."""
        stored = await database.run(context, lambda uow: account_row(uow, account_id), write=False)
        return None if stored is None else self.gateway(stored)

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
        gateway = Gateway(provider, account, self._turns_of(stored.id, provider, secrets))
        self._known[stored.id] = (stored.version, gateway)
        return gateway

    def _turns_of(self, account_id: UUID, provider: Provider, secrets: Mapping[str, str]) -> Turns | None:
        own = secrets.get(RATE_LIMIT)
        rate = float(own) if own else provider.capabilities.rate_limit_per_second
        if not rate or self._limits is None:
            return None
        limit = Limit(f"account:{account_id}", rate)
        known = self._turns.get(account_id)
        if known is None or known.limit != limit:
            known = self._turns[account_id] = Turns(limit, self._limits.reserve, self._limits.pause)
        return known
