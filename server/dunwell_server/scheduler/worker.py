"""The job worker: finds due work, does it, and notes when it is next due.

No leader and no shared job store: due work is rows, claims are short leases, every handler is safe to share and to kill.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from uuid import UUID

import structlog

from dunwell_server.kernel.errors import DunwellError
from dunwell_server.platform import work
from dunwell_server.platform.context import system_context
from dunwell_server.platform.database import Database
from dunwell_server.platform.leases import LEASE_SECONDS
from dunwell_server.platform.work import Claim, WorkHandler, WorkKind

SHARE_SECONDS = min(2.0, LEASE_SECONDS)
RETRY_SECONDS = min(5.0, LEASE_SECONDS)
_log = structlog.get_logger(__name__)


class JobWorker:
    """Runs handlers for due work, `concurrency` firms at a time, until told to stop."""

    def __init__(
        self, database: Database, handlers: Sequence[WorkHandler], *, concurrency: int = 16, idle_seconds: float = 0.2
    ) -> None:
        self._database = database
        self._handlers: Mapping[WorkKind, WorkHandler] = {handler.kind: handler for handler in handlers}
        self._concurrency = concurrency
        self._idle_seconds = idle_seconds
        self._busy: dict[tuple[UUID, WorkKind], asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Poll until `stop`; then let the work in hand finish."""
        while not self._stopping.is_set():
            taken = await self.tick()
            if not taken:
                await self._pause(self._idle_seconds)
        if self._busy:
            await asyncio.wait(self._busy.values(), timeout=20.0)

    def stop(self) -> None:
        """Claim nothing more."""
        self._stopping.set()

    async def tick(self) -> int:
        """Fold wakes, claim what is due, start it; returns how many pieces were taken. Database trouble is logged and waited out."""
        room = self._concurrency - len(self._busy)
        if room <= 0:
            return 0
        try:
            async with self._database.transaction(system_context(None, "job:claim")) as uow:
                await work.fold_wakes(uow)
                claims = await work.claim(uow, limit=room, busy=list(self._busy), lease_seconds=SHARE_SECONDS)
        except DunwellError as error:
            _log.warning("claim_failed", reason=error.reason.value)
            await self._pause(1.0)
            return 0
        for claim in claims:
            task = asyncio.create_task(self._do(claim), name=f"{claim.kind}:{claim.firm_id}")
            self._busy[(claim.firm_id, claim.kind)] = task
        return len(claims)

    async def sweep(self) -> None:
        """Have every firm looked at for every kind; called each minute."""
        try:
            async with self._database.transaction(system_context(None, "job:sweep")) as uow:
                await work.sweep(uow, list(self._handlers))
        except DunwellError as error:
            _log.warning("sweep_failed", reason=error.reason.value)

    async def _do(self, claim: Claim) -> None:
        handler = self._handlers.get(claim.kind)
        context = system_context(claim.firm_id, f"job:{claim.kind}")
        try:
            if handler is None:
                _log.error("no_handler", kind=claim.kind)
                return
            await handler.work(self._database, context)
            async with self._database.transaction(context, write=False) as uow:
                next_due = await handler.next_due(uow)
            async with self._database.transaction(system_context(None, "job:settle")) as uow:
                await work.settle(uow, claim, next_due)
        except DunwellError as error:
            _log.warning("work_postponed", kind=claim.kind, firm_id=str(claim.firm_id), reason=error.reason.value)
            await self._pause(RETRY_SECONDS)
        except Exception:
            _log.exception("work_failed", kind=claim.kind, firm_id=str(claim.firm_id))
            await self._pause(RETRY_SECONDS)
        finally:
            self._busy.pop((claim.firm_id, claim.kind), None)

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return
