"""Executing queued runs: the handler that gives each run to the executor of its kind."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import structlog

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform import runs
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.runs import Run, RunExecutor, RunKind, RunState
from dunwell_server.platform.work import WorkKind
from dunwell_server.scheduler.all_firms import has_parts, serve_parts

_TRANSIENT = frozenset(
    {
        Reason.DATABASE_UNAVAILABLE,
        Reason.PROVIDER_UNAVAILABLE,
        Reason.OVERLOADED,
        Reason.SERIALIZATION_CONFLICT,
        Reason.CLOCK_ADVANCING,
        Reason.SHUTTING_DOWN,
    }
)
_log = structlog.get_logger(__name__)


class RunHandler:
    """Works on the firm's open runs, the oldest first. A run that breaks is closed as FAILED with an error id; it can be resumed."""

    kind = WorkKind.RUN

    def __init__(self, executors: Sequence[RunExecutor]) -> None:
        self._executors = {executor.kind: executor for executor in executors}

    async def next_due(self, uow: UnitOfWork) -> datetime | None:
        """Now, while a run is open, or a part of a run over all firms."""
        return uow.machine_now if await runs.open_run(uow) or await has_parts(uow) else None

    async def work(self, database: Database, context: CallContext) -> None:
        """Execute the oldest open run; the next call takes the next one."""
        async with database.transaction(context, write=False) as uow:
            run, parts = await runs.open_run(uow), await has_parts(uow)
        # Written apart: a firm whose clock is advancing takes no other changes, and its open run is that advance.
        if parts and (run is None or run.kind is not RunKind.CLOCK):
            async with database.transaction(context) as uow:
                await serve_parts(uow)
                run = await runs.open_run(uow)
        if run is not None:
            await self.execute(database, context, run)

    async def execute(self, database: Database, context: CallContext, run: Run) -> None:
        """Give the run to its executor. Trouble that passes is raised (the run stays open); anything else closes the run."""
        try:
            await self._executors[run.kind].execute(database, context, run)
        except Exception as error:
            if is_transient(error):
                raise
            _log.exception("run_failed", run_id=str(run.id), kind=run.kind)
            await self._fail(database, context, run, failure_text(error))

    async def _fail(self, database: Database, context: CallContext, run: Run, error: str) -> None:
        async with database.transaction(context) as uow:
            await runs.begin(uow, run.id, run.total)
            await runs.finish(uow, run.id, RunState.FAILED, error)


def is_transient(error: Exception) -> bool:
    """Trouble that passes: the run stays open and goes on later."""
    return isinstance(error, DunwellError) and error.reason in _TRANSIENT


def failure_text(error: Exception) -> str:
    """Why a run failed, for people; nothing internal."""
    if isinstance(error, DunwellError):
        return f"{error.reason.value}: {error.message}"
    return f"INTERNAL: {type(error).__name__}; the log has the details"
