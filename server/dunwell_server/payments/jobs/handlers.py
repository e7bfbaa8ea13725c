"""The continuous handlers: what is due is collected, attempts are looked after. Both do one bounded piece of work at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import datetime

from dunwell_server.payments.jobs.charging import Charger
from dunwell_server.payments.jobs.checking import Checker
from dunwell_server.payments.service import queries
from dunwell_server.payments.service.collecting import claim_batch
from dunwell_server.payments.store import due
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.questions import Question
from dunwell_server.platform.work import WorkKind

BATCH = 100
OVERLAP = 2
"""Batches under way at once: while the last answers of one are awaited, the next one's charges go out."""
BATCHES = 30
"""What a worker takes of one firm before it looks at the others' work again."""
_PATIENCE = 40.0
"""Seconds that the holder of a test clock waits for charges in others' hands: longer than any lease."""


class CollectHandler:
    """WorkKind.COLLECT: charges the invoices whose time has come, as a run does, without a run."""

    kind = WorkKind.COLLECT

    def __init__(self, charger: Charger, *, batch: int = BATCH) -> None:
        self._charger = charger
        self._batch = batch

    def next_due(self, uow: UnitOfWork) -> Question[datetime | None]:
        """When the next invoice is to be charged, in firm time."""
        return queries.collect_next_due(uow)

    async def work(self, database: Database, context: CallContext) -> None:
        """Some batches of what is due now."""
        charger = self._charger
        async with asyncio.TaskGroup() as flights:
            going: deque[asyncio.Task[None]] = deque()
            for _ in range(BATCHES):
                if len(going) == OVERLAP:
                    await going.popleft()
                batch = await charger.transact(
                    database, context, lambda uow: claim_batch(uow, charger.owner, self._batch)
                )
                if not batch.taken:
                    return
                going.append(flights.create_task(charger.run_slots(database, context, batch.claims)))

    async def handle(self, database: Database, context: CallContext) -> datetime | None:
        """One batch; returns when collection is next due."""
        await self.work(database, context)
        async with database.transaction(context, write=False) as uow:
            return await self.next_due(uow)


class AttemptsHandler:
    """WorkKind.ATTEMPTS: takes over abandoned attempts, climbs the ladder of the unknown ones, polls those that wait."""

    kind = WorkKind.ATTEMPTS

    def __init__(self, checker: Checker, *, batch: int = BATCH) -> None:
        self._checker = checker
        self._batch = batch

    def next_due(self, uow: UnitOfWork) -> Question[datetime | None]:
        """When an attempt next needs somebody, in firm time. A test clock does not pass by a charge that is under way."""
        return queries.attempts_next_due(uow)

    async def work(self, database: Database, context: CallContext) -> None:
        """One step for a batch of attempts. The holder of a test clock first waits for what is in others' hands."""
        charger = self._checker.charger
        if context.holds_clock:
            await self._wait_for_others(database, context)
        claims = await charger.transact(
            database, context, lambda uow: due.claim_attempts(uow, charger.owner, self._batch)
        )
        await self._checker.run(database, context, claims)

    async def _wait_for_others(self, database: Database, context: CallContext) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + _PATIENCE
        while loop.time() < until:
            async with database.transaction(context, write=False) as uow:
                if not await due.in_hand(uow):
                    return
            await asyncio.sleep(0.1)

    async def handle(self, database: Database, context: CallContext) -> datetime | None:
        """One step; returns when an attempt next needs somebody."""
        await self.work(database, context)
        async with database.transaction(context, write=False) as uow:
            return await self.next_due(uow)
