"""The clocks of providers that follow a firm's test clock: the sandbox gateway's."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from dunwell_server.kernel.errors import DunwellError
from dunwell_server.payments.jobs.gateways import Gateways
from dunwell_server.payments.service.methods import resolve_account
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database
from dunwell_server.platform.outside_clocks import Standing
from dunwell_server.providers.base import ClockStanding, FollowsTestClock, ProviderAccount
from dunwell_server.providers.registry import ProviderRegistry


class ProviderClocks:
    """The accounts of each firm at every provider that keeps a clock of its own. A firm without such an account has none to move."""

    def __init__(self, registry: ProviderRegistry, gateways: Gateways) -> None:
        self._names = [name for name in registry.names if registry.get(name).capabilities.follows_test_clock]
        self._gateways = gateways

    async def follow(self, database: Database, context: CallContext) -> FirmClocks:
        """The firm's accounts as they are now."""
        found: list[tuple[FollowsTestClock, ProviderAccount]] = []
        async with database.transaction(context, write=False) as uow:
            for name in self._names:
                try:
                    gateway = self._gateways.gateway(await resolve_account(uow, name))
                except DunwellError:
                    continue
                if isinstance(gateway.provider, FollowsTestClock):
                    found.append((gateway.provider, gateway.account))
        return FirmClocks(found)

    async def move_to(self, database: Database, context: CallContext, now: datetime) -> None:
        """Set all of the firm's to `now`; what falls due there happens."""
        await (await self.follow(database, context)).move_to(now, wait=False)


class FirmClocks:
    """The clocks of one firm's accounts, read and moved together."""

    def __init__(self, followers: Sequence[tuple[FollowsTestClock, ProviderAccount]]) -> None:
        self._followers = followers

    async def move_to(self, now: datetime, *, wait: bool) -> Standing:
        """Set all of them to `now`; what falls due there happens. May `wait` about a second for each until all of it is told."""
        return _standing([await provider.set_clock(account, now, wait=wait) for provider, account in self._followers])

    async def look(self, *, wait: bool) -> Standing:
        """How they stand now. May `wait` as `move_to` does."""
        return _standing([await provider.clock(account, wait=wait) for provider, account in self._followers])


def _standing(each: Sequence[ClockStanding]) -> Standing:
    dues = [standing.next_due for standing in each if standing.next_due is not None]
    return Standing(min(dues, default=None), not any(standing.undelivered for standing in each))
