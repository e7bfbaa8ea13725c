"""Answers that arrive close together are recorded in one transaction, each for itself: one that cannot be recorded holds back no other.

While one transaction records, the next answers gather; the first of them waits a moment for others. What is lost in a crash between
answer and record was sent and is UNKNOWN, as if its own transaction had been lost.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, cast

from dunwell_server.payments.service.outcomes import Answered, Applied
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database
from dunwell_server.platform.logging import get_logger

log = get_logger(__name__)

TOGETHER: Final = 32
"""Answers of one transaction at most: their clients stay locked until it ends."""
WRITERS_OF_A_CLOCK: Final = 2
"""Transactions at once where whoever advances a test clock waits for them; elsewhere there is one, which leaves readers a processor."""
LINGER_SECONDS: Final = 0.025
"""For how long the first answer waits for others that are awaited: what a record is late by where a limit lets few arrive."""

RecordTogether = Callable[[Database, CallContext, Sequence[Answered]], Awaitable[list[Applied]]]
RecordOne = Callable[[Database, CallContext, Answered], Awaitable[Applied]]


class Recorder:
    """Records what slots have come to, a transaction for many."""

    def __init__(self, together: RecordTogether, one: RecordOne) -> None:
        """`together` records several in one transaction, all or none; `one` records one, with the patience it takes."""
        self._together = together
        self._one = one
        self._queues: dict[_Key, _Queue] = {}

    @contextmanager
    def expecting(self, database: Database, context: CallContext) -> Iterator[None]:
        """An answer is awaited while the block runs, so that others may wait for it. When nothing more is awaited, nobody does."""
        key = (id(database), context)
        queue = self._queues.setdefault(key, _Queue())
        queue.expected += 1
        try:
            yield
        finally:
            queue.expected -= 1
            queue.look()
            self._forget(key, queue)

    async def record(self, database: Database, context: CallContext, answered: Answered) -> Applied:
        """Return when the answer is recorded. Raises what recording it alone raises."""
        key = (id(database), context)
        queue = self._queues.setdefault(key, _Queue())
        recorded: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
        queue.waiting.append((answered, recorded))
        queue.look()
        if queue.wants_writer(WRITERS_OF_A_CLOCK if context.holds_clock else 1):
            queue.writers.add(asyncio.create_task(self._drain(key, queue, database, context)))
        return await recorded

    async def _drain(self, key: _Key, queue: _Queue, database: Database, context: CallContext) -> None:
        try:
            while queue.waiting:
                await queue.gather()
                if group := queue.take():
                    await self._write(database, context, group)
        finally:
            queue.writers.remove(cast("asyncio.Task[None]", asyncio.current_task()))
            if not queue.writers:
                for _, recorded in queue.waiting:
                    recorded.cancel()
                queue.waiting.clear()
                self._forget(key, queue)

    def _forget(self, key: _Key, queue: _Queue) -> None:
        if not queue.writers and not queue.expected:
            self._queues.pop(key, None)

    async def _write(self, database: Database, context: CallContext, group: Sequence[_Waiting]) -> None:
        try:
            applied = await self._together(database, context, [answered for answered, _ in group])
        except Exception as error:
            log.warning("outcomes are recorded one by one", outcomes=len(group), exc_info=error)
            await asyncio.gather(*(self._alone(database, context, answered, recorded) for answered, recorded in group))
            return
        except BaseException:
            for _, recorded in group:
                recorded.cancel()
            raise
        for (_, recorded), result in zip(group, applied, strict=True):
            if not recorded.done():
                recorded.set_result(result)

    async def _alone(
        self, database: Database, context: CallContext, answered: Answered, recorded: asyncio.Future[Applied]
    ) -> None:
        try:
            result = await self._one(database, context, answered)
        except Exception as error:
            if not recorded.done():
                recorded.set_exception(error)
        except BaseException:
            recorded.cancel()
            raise
        else:
            if not recorded.done():
                recorded.set_result(result)


_Key = tuple[int, CallContext]
_Waiting = tuple[Answered, "asyncio.Future[Applied]"]


class _Queue:
    """What waits to be recorded for one firm, in the order of arrival, and how many answers are awaited, these included."""

    def __init__(self) -> None:
        self.waiting: deque[_Waiting] = deque()
        self.expected = 0
        self.writers: set[asyncio.Task[None]] = set()
        self._complete = asyncio.Event()
        self._left_over = False
        """Whether the last group was full, or had a client already: then the next one need not wait for company."""

    def wants_writer(self, most: int) -> bool:
        """Whether somebody more should write: nobody does, or a whole group waits beside fewer than `most`."""
        return not self.writers or (len(self.writers) < most and len(self.waiting) >= TOGETHER)

    def look(self) -> None:
        """Tell whoever gathers when there is nothing to wait for."""
        if len(self.waiting) >= min(TOGETHER, self.expected):
            self._complete.set()

    async def gather(self) -> None:
        """Wait a moment for company, unless there is enough or none to come."""
        if not self._left_over:
            self._complete.clear()
            self.look()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._complete.wait(), LINGER_SECONDS)

    def take(self) -> list[_Waiting]:
        """The next group: no client twice, for what one answer does to a client's methods the next one has to see."""
        group: dict[object, _Waiting] = {}
        later: list[_Waiting] = []
        while self.waiting and len(group) < TOGETHER:
            each = self.waiting.popleft()
            client_id = each[0].claim.client_id
            if client_id in group:
                later.append(each)
            else:
                group[client_id] = each
        self.waiting.extendleft(reversed(later))
        self._left_over = bool(self.waiting)
        return list(group.values())
