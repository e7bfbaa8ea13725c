"""A firm's clock waits for what providers have to tell of an instant, and not for ever."""

from __future__ import annotations

import time

from dunwell_server.kernel.ids import uuid7
from dunwell_server.platform.context import CallContext, system_context
from dunwell_server.platform.database import Database
from dunwell_server.scheduler.arrivals import ProviderArrivals


class Teller:
    """Has told everything after some asks; counts what was asked."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.asked = 0
        self.drained = 0

    async def told(self, database: Database, context: CallContext) -> bool:
        self.asked += 1
        return self.asked > self.after

    async def drain(self, database: Database, context: CallContext) -> bool:
        self.drained += 1
        return True


async def test_it_asks_until_all_is_told_then_applies(db: Database) -> None:
    teller = Teller(after=3)
    arrivals = ProviderArrivals(teller.told, teller.drain)
    assert await arrivals.settle(db, system_context(uuid7(), "job:clock"), wait=True)
    assert (teller.asked, teller.drained) == (4, 1)


async def test_what_is_never_told_ends_the_waiting_and_what_is_there_is_applied(db: Database) -> None:
    teller = Teller(after=10**9)
    arrivals = ProviderArrivals(teller.told, teller.drain, patience=0.05)
    context = system_context(uuid7(), "job:clock")
    began = time.monotonic()
    assert not await arrivals.settle(db, context, wait=True)
    assert time.monotonic() - began < 2
    asked = teller.asked
    assert await arrivals.settle(db, context, wait=False)
    assert (teller.asked, teller.drained) == (asked, 2)
