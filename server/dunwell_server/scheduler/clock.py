"""Advancing a firm's test clock: everything that falls due on the way is done in order of due time, as it would have been in real time.

One worker holds the clock's lease and does the firm's due work inline; other workers skip the firm, and other callers' changes are told
CLOCK_ADVANCING. A worker that dies leaves the clock where it was: the next one takes the lease over and goes on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import structlog

from dunwell_server.platform import runs
from dunwell_server.platform.context import CallContext, system_context
from dunwell_server.platform.database import Database
from dunwell_server.platform.failpoints import failpoint
from dunwell_server.platform.leases import LEASE_SECONDS, renewing
from dunwell_server.platform.outside_clocks import OutsideClock
from dunwell_server.platform.questions import answers, known
from dunwell_server.platform.runs import Run, RunKind, RunState
from dunwell_server.platform.work import WorkHandler
from dunwell_server.scheduler.arrivals import PATIENCE, Inbox, Outside
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
WHERE firm_id = %(firm_id)s AND owner = %(owner)s AND now_time <= %(now)s RETURNING now_time
"""
_RENEW = f"""
UPDATE control.test_clock SET lease_until = clock_timestamp() + interval '{LEASE_SECONDS} s'
WHERE firm_id = %(firm_id)s AND owner = %(owner)s RETURNING lease_until
"""
_RELEASE = """
UPDATE control.test_clock SET state = 'READY', target_time = NULL, owner = NULL, lease_until = NULL, version = version + 1,
    update_time = clock_timestamp()
WHERE firm_id = %(firm_id)s AND owner = %(owner)s
"""


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
        inbox: Inbox | None = None,
    ) -> None:
        """`inbox`: where webhooks arrive; without one none are waited for."""
        self._handlers = handlers
        self._run_handler = run_handler
        self._outside = outside
        self._inbox = inbox

    async def execute(self, database: Database, context: CallContext, run: Run) -> None:
        """Advance to the target, then hand the clock back. Returns at once where another worker holds the lease.

        What cannot go on fails the run and hands the clock back where it stands: a firm is never left closed.
        """
        assert context.firm_id is not None
        advance = _Advance(database, context.firm_id, self._handlers, self._run_handler, self._inbox)
        span = await advance.take()
        if span is None:
            return
        try:
            async with renewing(advance.renew):
                await advance.begin(run.id, self._outside)
                await advance.to(*span)
                await advance.finish(run.id)
        except LeaseLost:
            _log.info("clock_lease_lost", run_id=str(run.id))
        except Exception as error:
            if is_transient(error):
                raise
            _log.exception("clock_advance_failed", run_id=str(run.id))
            await advance.give_up(run.id, failure_text(error))


@dataclass(frozen=True, slots=True)
class _Look:
    """What is to be done at an instant, as one statement tells."""

    has_open_run: bool
    has_arrivals: bool
    due: list[WorkHandler]
    next_due: datetime | None
    """When a handler next has work; meaningful where nothing is due now."""


class _Advance:
    """One worker's advance of one clock."""

    def __init__(
        self,
        database: Database,
        firm_id: UUID,
        handlers: Sequence[WorkHandler],
        run_handler: RunHandler,
        inbox: Inbox | None,
    ) -> None:
        self._database = database
        self._context = system_context(firm_id, "job:clock", holds_clock=True)
        self._firmless = system_context(None, "job:clock")
        self._identity = {"firm_id": firm_id, "owner": uuid4()}
        self._handlers = handlers
        self._run_handler = run_handler
        self._inbox = inbox
        self._outside = Outside(firm_id, (), patience=0.0)

    async def take(self) -> tuple[datetime, datetime] | None:
        """Take the lease; (now, target), or None where the clock stands or somebody else holds it."""
        rows = await self._database.submit(self._firmless, _TAKE, self._identity)
        return (rows[0]["now_time"], rows[0]["target_time"]) if rows else None

    async def renew(self) -> None:
        """Keep the lease while a long step runs; it follows machine time."""
        await self._database.submit(self._firmless, _RENEW, self._identity)

    async def begin(self, run_id: UUID, outside: Sequence[OutsideClock]) -> None:
        """Tell that the run is at work, which it may have been before, and find the clocks that move with this one."""
        async with self._database.transaction(self._context) as uow:
            await runs.begin(uow, run_id, 1)
            firm_id = uow.firm_id
        clocks = [await clock.follow(self._database, self._context) for clock in outside]
        self._outside = Outside(firm_id, clocks, patience=0.0 if self._inbox is None else PATIENCE)

    async def to(self, now: datetime, target: datetime) -> None:
        """Step from due time to due time until nothing is due up to the target."""
        await self._outside.move_to(now)
        due = await self._settle_instant()
        while due is not None and due <= target:
            now = max(now, due)
            await self._move(now)
            due = await self._settle_instant()
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
        if not await self._database.submit(self._firmless, _MOVE, {**self._identity, "now": now}):
            raise LeaseLost("the clock's lease was lost")
        failpoint("clock.moved")
        await self._outside.move_to(now)

    async def _settle_instant(self) -> datetime | None:
        """Do everything due at this instant, in the handlers' order, until nothing more is; when something next is."""
        is_drained = False
        for _ in range(MAX_ROUNDS):
            await self._outside.settle()
            look = await self._look()
            if look.has_open_run:
                await self._execute_runs()
                continue
            # Left in a drained inbox is only what somebody else has in hand for too long, or what waits for something to happen first.
            if look.has_arrivals and self._inbox is not None and not is_drained:
                self._outside.touch()
                await self._inbox.drain(self._database, self._context)
                is_drained = True
                continue
            if not look.due:
                return _earliest(look.next_due, self._outside.next_due)
            is_drained = False
            for handler in look.due:
                self._outside.touch()
                await handler.work(self._database, self._context)
                await self._execute_runs()
        raise RuntimeError("work at one instant does not come to an end")

    async def _look(self) -> _Look:
        """Ask for open runs, for what has arrived, and every handler what is due."""
        async with self._database.transaction(self._context, write=False) as uow:
            arrived = known(uow, False) if self._inbox is None else self._inbox.waiting(uow)
            asked: list[Awaitable[Any]] = [runs.any_open(uow, INNER_KINDS), arrived]
            asked += [handler.next_due(uow) for handler in self._handlers]
            has_open_run, has_arrivals, *dues = await answers(uow, asked)
            now = uow.now
        due = [handler for handler, at in zip(self._handlers, dues, strict=True) if at is not None and at <= now]
        return _Look(has_open_run, has_arrivals, due, _earliest(*dues))

    async def _execute_runs(self) -> None:
        while True:
            run = await self._database.read_once(self._context, lambda uow: runs.open_run(uow, INNER_KINDS))
            if run is None:
                return
            self._outside.touch()
            await self._run_handler.execute(self._database, self._context, run)


def _earliest(*times: datetime | None) -> datetime | None:
    return min((each for each in times if each is not None), default=None)
