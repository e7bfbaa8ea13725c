"""Ending a firm's recovery: bill again what was lost, take the providers' record over, see that both agree, and only then go on.

Each step can be repeated: what has been taken over is found again. A firm whose record does not agree stays in recovery.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from dunwell_server.kernel.calendar import local_date
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import uuid7
from dunwell_server.payments.jobs import reconciling
from dunwell_server.platform import recovery, runs
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.invariants import Check, run_for_firm
from dunwell_server.platform.journal import Category, Change, Severity, record
from dunwell_server.platform.runs import ItemCursor, Run, RunItem, RunKind, RunState

Execute = Callable[[Database, CallContext, Run], Awaitable[None]]
"""Works on a run, as a job worker does; may return before it has ended, where another worker is at it."""

_ROUNDS: Final = 5
"""What was adopted can make more of the record explainable; after so many rounds it is up to a person."""
_AHEAD: Final = timedelta(hours=1)
_TEST_CLOCK_AHEAD: Final = timedelta(days=3660)
"""A test clock goes back with its database; the sandbox's does not."""
_BOOK_CHECKS: Final = range(1, 9)
"""Invariants of the book itself. Those of audit seals and of work that stands still concern workers, which may not run yet."""
_ITEMS: Final = 1000
_LOCK_FIRM: Final = "SELECT 1 FROM control.firm WHERE id = %(firm_id)s FOR NO KEY UPDATE"


@dataclass(slots=True)
class Recovered:
    """What a try to end a firm's recovery came to. `runs`: what was executed, in order; the last one only compared."""

    firm_id: UUID
    runs: list[Run] = field(default_factory=list)
    differences: list[RunItem] = field(default_factory=list)
    broken: list[Check] = field(default_factory=list)
    ended: bool = False

    @property
    def adopted(self) -> int:
        """How many objects were taken over."""
        return sum(run.counts.get("ADOPTED", 0) for run in self.runs if not run.dry_run)

    @property
    def failed_run(self) -> Run | None:
        """A run that did not come to its end."""
        return next((run for run in self.runs if run.state is not RunState.SUCCEEDED), None)


class Recoverer:
    """Does what `recover run` does for one firm. `execute` is what works on its runs."""

    def __init__(self, execute: Execute, *, bill_first: bool = True) -> None:
        """`bill_first`: repeat the package run, whose invoices get the ids they had, so that lost payments find them."""
        self._execute = execute
        self._bill_first = bill_first

    async def run(self, database: Database, context: CallContext) -> Recovered:
        """Take over, compare, and leave recovery where both agree. Errors: STATE_CONFLICT where the firm is in no recovery."""
        assert context.firm_id is not None
        result = Recovered(context.firm_id)
        if self._bill_first:
            await self._one(database, context, result, self._billing)
        for _ in range(_ROUNDS):
            run = await self._one(database, context, result, self._taking_over)
            if result.failed_run is not None or not run.counts.get("ADOPTED"):
                break
        if result.failed_run is not None:
            return result
        last = await self._one(database, context, result, self._comparing)
        if last.state is not RunState.SUCCEEDED:
            return result
        await self._finish(database, context, result, last)
        return result

    async def _one(
        self,
        database: Database,
        context: CallContext,
        result: Recovered,
        create: Callable[[UnitOfWork], Awaitable[Run]],
    ) -> Run:
        run = await database.run(context, create)
        while not run.state.is_final:
            await self._execute(database, context, run)
            async with database.transaction(context, write=False) as uow:
                run = await runs.get(uow, run.id)
        result.runs.append(run)
        return run

    async def _billing(self, uow: UnitOfWork) -> Run:
        today = local_date(uow.now, uow.firm.settings.zone)
        return await runs.create(uow, RunKind.PACKAGES, {"as_of": today.isoformat()}, dry_run=False, run_id=uuid7())

    async def _taking_over(self, uow: UnitOfWork) -> Run:
        return await self._reconcile(uow, dry_run=False)

    async def _comparing(self, uow: UnitOfWork) -> Run:
        return await self._reconcile(uow, dry_run=True)

    async def _reconcile(self, uow: UnitOfWork, *, dry_run: bool) -> Run:
        found = await recovery.recovering(uow, uow.firm_id)
        if not found:
            raise DunwellError(
                Reason.STATE_CONFLICT, "The firm is in no recovery.", metadata={"state": "NORMAL", "allowed": "RECOVERING"}
            )  # fmt: skip
        ahead = _TEST_CLOCK_AHEAD if uow.clock.is_test else _AHEAD
        until = max(uow.now, uow.machine_now) + ahead
        params = {"since": found[0].window_start.isoformat(), "until": until.isoformat(), "recovery": True}
        run = await reconciling.start(uow, params, dry_run=dry_run)
        await recovery.note_run(uow, run.id)
        return run

    async def _finish(self, database: Database, context: CallContext, result: Recovered, last: Run) -> None:
        """Leave recovery if the comparison was clean and the book is in order."""
        async with database.transaction(context, write=False) as uow:
            items, _ = await runs.items_after(uow, last.id, ItemCursor(), _ITEMS, settled=True)
            result.differences = items
            result.broken = [
                check for check in await run_for_firm(uow) if not check.ok and check.number in _BOOK_CHECKS
            ]
        if any(last.counts.get(outcome) for outcome in ("ADOPTED", "DIFFERENT", "FAILED")) or result.broken:
            return
        result.ended = await database.run(context, lambda uow: leave(uow, forced=False))


async def leave(uow: UnitOfWork, *, forced: bool) -> bool:
    """End the firm's recovery and say so in its audit trail; False where it is in none. `forced`: though the record may not agree."""
    if not await recovery.leave(uow):
        return False
    await _journal(uow, "recovery_ended", Severity.CRITICAL if forced else Severity.WARNING, forced=forced)
    return True


async def tell_entered(uow: UnitOfWork, since: datetime) -> None:
    """Say in the firm's audit trail that it is in recovery."""
    await _journal(uow, "recovery_entered", Severity.CRITICAL, since=since.isoformat())


async def _journal(uow: UnitOfWork, action: str, severity: Severity, **facts: Any) -> None:
    await uow.execute(_LOCK_FIRM, {"firm_id": uow.firm_id})
    metadata = {"notice": action, **facts}
    await record(uow, Change(Category.ADMIN, action, "firm", uow.firm_id, "admin.notice", severity, metadata))
