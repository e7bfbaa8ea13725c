"""The clocks of providers that follow a firm's test clock: the sandbox gateway's."""

from __future__ import annotations

from datetime import datetime

from dunwell_server.kernel.errors import DunwellError
from dunwell_server.payments.jobs.gateways import Gateway, Gateways
from dunwell_server.payments.service.methods import resolve_account
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database
from dunwell_server.providers.base import FollowsTestClock
from dunwell_server.providers.registry import ProviderRegistry


class ProviderClocks:
    """Moves the accounts of one firm at every provider that keeps a clock of its own. A firm without such an account has none to move."""

    def __init__(self, registry: ProviderRegistry, gateways: Gateways) -> None:
        self._names = [name for name in registry.names if registry.get(name).capabilities.follows_test_clock]
        self._gateways = gateways

    async def next_due(self, database: Database, context: CallContext) -> datetime | None:
        """The earliest thing that will happen at one of them by itself."""
        dues = [
            await provider.next_due(gateway.account) for provider, gateway in await self._followers(database, context)
        ]
        return min((due for due in dues if due is not None), default=None)

    async def move_to(self, database: Database, context: CallContext, now: datetime) -> None:
        """Set all of them to `now`; what falls due there happens."""
        for provider, gateway in await self._followers(database, context):
            await provider.set_clock(gateway.account, now)

    async def drained(self, database: Database, context: CallContext) -> bool:
        """Whether all of them have told what happened there: every webhook sent and answered. May wait about a second for it."""
        for provider, gateway in await self._followers(database, context):
            if not await provider.drained(gateway.account):
                return False
        return True

    async def _followers(self, database: Database, context: CallContext) -> list[tuple[FollowsTestClock, Gateway]]:
        found: list[tuple[FollowsTestClock, Gateway]] = []
        async with database.transaction(context, write=False) as uow:
            for name in self._names:
                try:
                    gateway = self._gateways.gateway(await resolve_account(uow, name))
                except DunwellError:
                    continue
                if isinstance(gateway.provider, FollowsTestClock):
                    found.append((gateway.provider, gateway))
        return found
