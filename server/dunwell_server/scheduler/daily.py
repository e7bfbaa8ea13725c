"""What happens once a day in each firm's own time: the package run, the daily marks, the collection run.

Each is derived from state, never from an elapsed timer: a day's run has an id made from its firm and date, so that a missed tick is made up
for by the next look and several workers make one run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import date, datetime, time, timedelta
from uuid import UUID

from dunwell_server.kernel.calendar import local_date, local_instant, next_local_time
from dunwell_server.kernel.ids import derive_uuid
from dunwell_server.platform import runs
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.firms import FirmSettings
from dunwell_server.platform.runs import RunKind
from dunwell_server.platform.work import WorkKind

Batch = Callable[[UnitOfWork], Awaitable[Sequence[object]]]
"""Does one bounded batch of set-wise work and returns what it touched; nothing when all is done."""

_TICKED = """
SELECT EXISTS (SELECT 1 FROM run WHERE firm_id = %(firm_id)s AND id = %(id)s)
    OR %(tick)s <= (SELECT coalesce(c.start_time, f.create_time) FROM control.firm f LEFT JOIN control.test_clock c ON c.firm_id = f.id
                    WHERE f.id = %(firm_id)s)
"""


def last_daily_date(now: datetime, at: time, settings: FirmSettings) -> date:
    """The civil date of the last `at` in the firm's zone that has come: today, or yesterday before that time of day."""
    today = local_date(now, settings.zone)
    return today if now >= local_instant(today, at, settings.zone) else today - timedelta(days=1)


def daily_run_id(firm_id: UUID, kind: RunKind, day: date) -> UUID:
    """The id of the firm's scheduled run of that kind and day."""
    return derive_uuid("daily run", firm_id, kind.value, day.isoformat())


async def always(_: UnitOfWork) -> bool:
    """A run that is started each day, so that its absence means a missed tick and nothing else."""
    return True


class DailyRun:
    """Starts the day's run once its time of day has come. Of several missed days the last is made up for: a run catches up by itself."""

    def __init__(
        self,
        kind: WorkKind,
        run_kind: RunKind,
        at: Callable[[FirmSettings], time],
        is_needed: Callable[[UnitOfWork], Awaitable[bool]] = always,
    ) -> None:
        self.kind = kind
        self._run_kind = run_kind
        self._at = at
        self._is_needed = is_needed

    async def next_due(self, uow: UnitOfWork) -> datetime | None:
        """The time of day that comes next; now, where the last one was missed."""
        if await self._missed(uow) is not None:
            return uow.now
        return next_local_time(uow.now, self._at(uow.firm.settings), uow.firm.settings.zone)

    async def work(self, database: Database, context: CallContext) -> None:
        """Queue the day's run, unless it exists, the firm is younger than the tick, or nothing is to be done."""
        async with database.transaction(context) as uow:
            day = await self._missed(uow)
            if day is not None:
                run_id = daily_run_id(uow.firm_id, self._run_kind, day)
                await runs.create(uow, self._run_kind, {"as_of": day.isoformat()}, dry_run=False, run_id=run_id)

    async def _missed(self, uow: UnitOfWork) -> date | None:
        settings = uow.firm.settings
        day = last_daily_date(uow.now, self._at(settings), settings)
        tick = local_instant(day, self._at(settings), settings.zone)
        run_id = daily_run_id(uow.firm_id, self._run_kind, day)
        ticked = await uow.fetch_value(_TICKED, {"firm_id": uow.firm_id, "id": run_id, "tick": tick})
        return None if ticked or not await self._is_needed(uow) else day


class DailyMarks:
    """Once the day's package run time has come: marks what is overdue, ends what has ended, warns of what is about to."""

    def __init__(
        self,
        batches: Sequence[Batch],
        is_needed: Callable[[UnitOfWork, date], Awaitable[bool]],
        kind: WorkKind = WorkKind.OVERDUE,
    ) -> None:
        self.kind = kind
        self._batches = batches
        self._is_needed = is_needed

    async def next_due(self, uow: UnitOfWork) -> datetime | None:
        """The time of day that comes next; now, where something is to be marked."""
        settings = uow.firm.settings
        today = local_date(uow.now, settings.zone)
        has_come = uow.now >= local_instant(today, settings.package_run_time, settings.zone)
        if has_come and await self._is_needed(uow, today):
            return uow.now
        return next_local_time(uow.now, settings.package_run_time, settings.zone)

    async def work(self, database: Database, context: CallContext) -> None:
        """Every batch until nothing is left, each in a transaction of its own."""
        async with database.transaction(context, write=False) as uow:
            due = await self.next_due(uow)
            if due is None or due > uow.now:
                return
        for batch in self._batches:
            while await database.run(context, batch):
                pass
