"""Work that belongs to the server, not to the call that started it: no deadline or disconnect of a caller stops it.

A shutdown waits for it. What it does not finish in time is found by the job workers, as after a crash.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar
from uuid import UUID

from dunwell_server.platform.logging import get_logger

log = get_logger(__name__)
T = TypeVar("T")


class Background:
    """The server-owned tasks of one process, found again by the object they work on."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._by_object: dict[UUID, asyncio.Task[Any]] = {}

    def spawn(self, object_id: UUID, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Start work on an object in a task that only `drain` waits for. Its exception is logged, never lost."""
        task = self.own(work, name=name)
        self._by_object[object_id] = task

        def done(finished: asyncio.Task[T]) -> None:
            if self._by_object.get(object_id) is finished:
                del self._by_object[object_id]
            error = None if finished.cancelled() else finished.exception()
            if error is not None:
                log.error("server-owned work failed", work=name, object_id=str(object_id), exc_info=error)

        task.add_done_callback(done)
        return task

    def own(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Start work whose result or exception the caller awaits behind a shield."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # read here: a caller who left does not

    def running(self, object_id: UUID) -> asyncio.Task[Any] | None:
        """The task that works on the object in this process, if there is one."""
        return self._by_object.get(object_id)

    async def drain(self, timeout: float) -> bool:
        """Wait for all work; after `timeout` seconds cancel what is left. True if everything finished by itself."""
        if not self._tasks:
            return True
        _, late = await asyncio.wait(set(self._tasks), timeout=timeout)
        for task in late:
            log.warning("server-owned work did not finish in time", work=task.get_name())
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=1.0)
        return not late

    def __len__(self) -> int:
        return len(self._tasks)
