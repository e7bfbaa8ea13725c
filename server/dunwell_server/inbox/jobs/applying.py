"""WorkKind.INBOX: applies the events of one firm, several at a time, each in a transaction of its own."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import datetime
from typing import Final
from uuid import UUID, uuid4

from dunwell_server.inbox import metrics
from dunwell_server.inbox.model import StoredEvent
from dunwell_server.inbox.service.applying import Applying
from dunwell_server.inbox.store import events
from dunwell_server.kernel.errors import DunwellError
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.failpoints import failpoint
from dunwell_server.platform.leases import renewing
from dunwell_server.platform.logging import get_logger
from dunwell_server.platform.questions import Question
from dunwell_server.platform.work import WorkKind

BATCH: Final = 50
CONCURRENCY: Final = 4
"""Events of one firm in hand at once: more would only wait for one another's rows, and for the pool."""
_LOOK_SECONDS: Final = 5.0
_PAUSE_SECONDS: Final = 0.05
DRAIN_SECONDS: Final = 20.0
"""How long the holder of a test clock waits for events in others' hands."""

log = get_logger(__name__)


class InboxHandler:
    """Applies what is due. Machine time governs it, also for firms on a test clock: what happened has happened."""

    kind = WorkKind.INBOX

    def __init__(self, applying: Applying, *, batch: int = BATCH, concurrency: int = CONCURRENCY) -> None:
        self._applying = applying
        self._batch = batch
        self._concurrency = concurrency
        self._owner = uuid4()
        self._looked: dict[UUID, float] = {}

    async def next_due(self, uow: UnitOfWork) -> datetime | None:
        """When the firm's next event is due, in machine time."""
        await self._look(uow)
        return await events.next_due(uow)

    def waiting(self, uow: UnitOfWork) -> Question[bool]:
        """Whether an event of the firm is still to be applied, now or later."""
        return events.waiting(uow)

    async def work(self, database: Database, context: CallContext) -> None:
        """One batch of what is due."""
        await self._batch_of(database, replace(context, upkeep=True))

    async def drain(self, database: Database, context: CallContext, *, patience: float = DRAIN_SECONDS) -> bool:
        """Apply everything that is due now, and wait for what others have in hand. False: something was left when `patience` seconds were over.

        What failed once is tried once more at once: to whoever asks, the seconds until its next try are no time at all.
        """
        context = replace(context, upkeep=True)
        if not await database.read_once(context, self.waiting):
            return True
        until = time.monotonic() + patience
        await database.run(context, events.hurry)
        while True:
            if await self._batch_of(database, context):
                await database.run(context, events.hurry)
                continue
            if not await database.run(context, events.busy, write=False):
                return True
            if time.monotonic() >= until:
                log.warning("inbox_not_drained", firm_id=str(context.firm_id))
                return False
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _batch_of(self, database: Database, context: CallContext) -> int:
        claimed = await database.run(context, lambda uow: events.claim(uow, self._owner, self._batch))
        if not claimed:
            return 0
        failpoint("webhook.claim")
        waiting, left = list(reversed(claimed)), {event.id for event in claimed}

        async def take() -> None:
            while waiting:
                event = waiting.pop()
                try:
                    await self._one(database, context, event)
                finally:
                    left.discard(event.id)

        async with renewing(lambda: database.run(context, lambda uow: events.renew(uow, self._owner, sorted(left)))):
            await asyncio.gather(*(take() for _ in range(min(self._concurrency, len(claimed)))))
        return len(claimed)

    async def _one(self, database: Database, context: CallContext, event: StoredEvent) -> None:
        try:
            await self._applying.apply(database, context, event)
        except DunwellError as error:
            # Its row could not even be marked: the lease ends by itself, and it is tried again.
            log.warning("inbox_postponed", event_id=str(event.id), reason=error.reason.value)

    async def _look(self, uow: UnitOfWork) -> None:
        """Note for the metrics how the firm's inbox stands, now and then."""
        now = time.monotonic()
        if now - self._looked.get(uow.firm_id, -_LOOK_SECONDS) >= _LOOK_SECONDS:
            self._looked[uow.firm_id] = now
            metrics.note(uow.firm_id, *await events.standing(uow))
