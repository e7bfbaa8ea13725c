"""Advancing a firm's test clock: everything that falls due on the way is done in order of due time, as it would have been in real time.

One worker holds the clock's lease and does the firm's due work inline; other workers skip the firm, and other callers' changes are told
CLOCK_ADVANCING. A worker that dies leaves the clock where it was: the next one takes the lease over and goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol
from uuid import UUID, uuid4

import structlog

from dunwell_server.platform import runs
from dunwell_server.platform.context import CallContext, system_context
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.failpoints import failpoint
from dunwell_server.platform.leases import LEASE_SECONDS, renewing
from dunwell_server.platform.runs import Run, RunKind, RunState
from dunwell_server.platform.work import WorkHandler
from dunwell_server.scheduler.arrivals import Arrivals
from dunwell_server.scheduler.runs import RunHandler, failure_text, is_transient

_log = structlog.get_logger(__name__)
INNER_KINDS = (RunKind.PACKAGES, RunKind.COLLECTION)
MAX_ROUNDS = 10_000
"""Rounds of due work at one instant before we call it a loop: each round must make something no longer due."""

_TAKE = f"""
UPDATE control.test_clock SET owner = %(owner)s, fence = fence + 1, lease_until = clock_timestamp() + interval '{LEASE_SECONDS} s'
WHERE firm_id = %(firm_id)s AND state = 'ADVANCING' AND (lease_until IS NULL OR lease_until < clock_timestamp() OR owner = %(owner)s)
RETURNING now_time, target_time
"""
_MOVE = f"""
UPDATE control.test_clock SET now_time = %(now)s, lease_until = clock_timestamp() + interval '{LEASE_SECONDS} s', version = version + 1, update_time = clock_timestamp()
WHERE firm_id = %(firm_id)s AND owner = %(owner)s AND now_time <= %(now)s
"""
_RENEW = f"""
UPDATE control.test_clock SET lease_until = clock_timestamp() + interval '{LEASE_SECONDS} s' WHERE firm_id = %(firm_id)s AND owner = %(owner)s
"""
_RELEASE = """
UPDATE control.test_clock SET state = 'READY', target_time = NULL, owner = NULL, lease_until = NULL, version = version + 1,
    update_time = clock_timestamp()
WHERE firm_id = %(firm_id)s AND owner = %(owner)s
"""


class OutsideClock(Protocol):
    """A clock beside ours that moves with the firm's: the sandbox gateway's."""

    async def next_due(self, database: Database, context: CallContext) -> datetime | None:
        """When something next happens there by itself; None for never."""
        ...

    async def move_to(self, database: Database, context: CallContext, now: datetime) -> None:
        """Set it to `now`; what falls due there happens. Setting it to where it stands does nothing."""
        ...


class LeaseLost(RuntimeError):
    """Another worker advances this clock now."""


class ClockRunExecutor:
    """Executes RunKind.CLOCK."""

    kind = RunKind.CLOCK

    def __init__(
        self,
        handlers: Sequence[WorkHandler],
        run_handler: RunHandler,
        outside: Sequence[OutsideClock],
        arrivals: Arrivals | None = None,
    ) -> None:
        self._handlers = handlers
        self._run_handler = run_handler
        self._outside = outside
        self._arrivals = arrivals

    async def execute(self, database: Database, context: CallContext, run: Run) -> None:
        """Advance to the target, then hand the clock back. Returns at once where another worker holds the lease.

        What cannot go on fails the run and hands the clock back where it stands: a firm is never left closed.
        """
        assert context.firm_id is not None
        advance = _Advance(database, context.firm_id, self._handlers, self._run_handler, self._outside, self._arrivals)
        span = await advance.take()
        if span is None:
            return
        try:
            async with renewing(advance.renew):
                await advance.begin(run.id)
                await advance.to(*span)
                await advance.finish(run.id)
        except LeaseLost:
            _log.info("clock_lease_lost", run_id=str(run.id))
        except Exception as error:
            if is_transient(error):
                raise
            _log.exception("clock_advance_failed", run_id=str(run.id))
            await advance.give_up(run.id, failure_text(error))


class _Advance:
    """One worker's advance of one clock."""

    def __init__(
        self,
        database: Database,
        firm_id: UUID,
        handlers: Sequence[WorkHandler],
        run_handler: RunHandler,
        outside: Sequence[OutsideClock],
        arrivals: Arrivals | None,
    ) -> None:
        self._database = database
        self._context = system_context(firm_id, "job:clock", holds_clock=True)
        self._firmless = system_context(None, "job:clock")
        self._identity = {"firm_id": firm_id, "owner": uuid4()}
        self._handlers = handlers
        self._run_handler = run_handler
        self._outside = outside
        self._arrivals = arrivals
        self._all_told = True

    async def take(self) -> tuple[datetime, datetime] | None:
        """Take the lease; (now, target), or None where the clock stands or somebody else holds it."""
        async with self._database.transaction(self._firmless) as uow:
            row = await uow.fetch_one(_TAKE, self._identity)
        return None if row is None else (row["now_time"], row["target_time"])

    async def renew(self) -> None:
        """Keep the lease while a long step runs; it follows machine time."""
        async with self._database.transaction(self._firmless) as uow:
            await uow.execute(_RENEW, self._identity)

    async def begin(self, run_id: UUID) -> None:
        """Tell that the run is at work; it may have been before."""
        async with self._database.transaction(self._context) as uow:
            await runs.begin(uow, run_id, 1)

    async def to(self, now: datetime, target: datetime) -> None:
        """Step from due time to due time until nothing is due up to the target."""
        for clock in self._outside:
            await clock.move_to(self._database, self._context, now)
        await self._settle_instant()
        while (due := await self._next_due()) is not None and due <= target:
            now = max(now, due)
            await self._move(now)
            await self._settle_instant()
        await self._move(target)
        await self._settle_instant()

    async def finish(self, run_id: UUID) -> None:
        """Hand the clock back and close the run, in one transaction."""
        async with self._database.transaction(self._context) as uow:
            await runs.advance(uow, run_id, done=1)
            await runs.finish(uow, run_id)
            if await uow.execute(_RELEASE, self._identity) != 1:
                raise LeaseLost("the clock's lease was lost before it could be handed back")

    async def give_up(self, run_id: UUID, why: str) -> None:
        """Fail the run and hand the clock back where it stands, in one transaction."""
        async with self._database.transaction(self._context) as uow:
            if await uow.execute(_RELEASE, self._identity) == 1:
                await runs.finish(uow, run_id, RunState.FAILED, why)

    async def _move(self, now: datetime) -> None:
        async with self._database.transaction(self._firmless) as uow:
            if await uow.execute(_MOVE, {**self._identity, "now": now}) != 1:
                raise LeaseLost("the clock's lease was lost")
        failpoint("clock.moved")
        for clock in self._outside:
            await clock.move_to(self._database, self._context, now)

    async def _next_due(self) -> datetime | None:
        dues = [await clock.next_due(self._database, self._context) for clock in self._outside]
        async with self._database.transaction(self._context, write=False) as uow:
            dues += [await handler.next_due(uow) for handler in self._handlers]
        return min((due for due in dues if due is not None), default=None)

    async def _settle_instant(self) -> None:
        """Do everything due at this instant, in the handlers' order, until nothing more is."""
        for _ in range(MAX_ROUNDS):
            await self._execute_runs()
            await self._bring_in()
            due = await self._due_now()
            if not due:
                return
            for handler in due:
                await handler.work(self._database, self._context)
                await self._execute_runs()
        raise RuntimeError("work at one instant does not come to an end")

    async def _bring_in(self) -> None:
        """Apply what providers tell of this instant. Once they could not be waited for, the rest of the advance does not wait again."""
        if self._arrivals is not None:
            told = await self._arrivals.settle(self._database, self._context, wait=self._all_told)
            self._all_told = self._all_told and told

    async def _due_now(self) -> list[WorkHandler]:
        async with self._database.transaction(self._context, write=False) as uow:
            return [handler for handler in self._handlers if await _is_due(handler, uow)]

    async def _execute_runs(self) -> None:
        while True:
            async with self._database.transaction(self._context, write=False) as uow:
                run = await runs.open_run(uow, INNER_KINDS)
            if run is None:
                return
            await self._run_handler.execute(self._database, self._context, run)


async def _is_due(handler: WorkHandler, uow: UnitOfWork) -> bool:
    due = await handler.next_due(uow)
    return due is not None and due <= uow.now
