"""What happens once a day in each firm's own time: the package run, the overdue marking, the collection run.

Each is derived from state, never from an elapsed timer: the day's run has an id made from its firm and date, so that a missed tick is made
up for by the next look and several workers make one run.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
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


def last_daily_date(now: datetime, at: time, settings: FirmSettings) -> date:
    """The civil date of the last `at` in the firm's zone that has come: today, or yesterday before that time of day."""
    today = local_date(now, settings.zone)
    return today if now >= local_instant(today, at, settings.zone) else today - timedelta(days=1)


def daily_run_id(firm_id: UUID, kind: RunKind, day: date) -> UUID:
    """The id of the firm's scheduled run of that kind and day."""
    return derive_uuid("daily run", firm_id, kind.value, day.isoformat())


class DailyRun:
    """Starts the day's run once its time of day has come, where `is_needed` says that there is something to do."""

    def __init__(
        self,
        kind: WorkKind,
        run_kind: RunKind,
        at: Callable[[FirmSettings], time],
        is_needed: Callable[[UnitOfWork, date], Awaitable[bool]],
    ) -> None:
        self.kind = kind
        self._run_kind = run_kind
        self._at = at
        self._is_needed = is_needed

    async def next_due(self, uow: UnitOfWork) -> datetime | None:
        """The time of day that comes next; now, where the day's run is still to be started."""
        settings = uow.firm.settings
        day = last_daily_date(uow.now, self._at(settings), settings)
        if not await self._exists(uow, day) and await self._is_needed(uow, day):
            return uow.now
        return next_local_time(uow.now, self._at(settings), settings.zone)

    async def work(self, database: Database, context: CallContext) -> None:
        """Queue the day's run, unless it exists or nothing is to be done."""
        async with database.transaction(context) as uow:
            settings = uow.firm.settings
            day = last_daily_date(uow.now, self._at(settings), settings)
            if not await self._exists(uow, day) and await self._is_needed(uow, day):
                run_id = daily_run_id(uow.firm_id, self._run_kind, day)
                await runs.create(uow, self._run_kind, {"as_of": day.isoformat()}, dry_run=False, run_id=run_id)

    async def _exists(self, uow: UnitOfWork, day: date) -> bool:
        run_id = daily_run_id(uow.firm_id, self._run_kind, day)
        values = {"firm_id": uow.firm_id, "id": run_id}
        return bool(
            await uow.fetch_value(
                "SELECT EXISTS (SELECT 1 FROM run WHERE firm_id = %(firm_id)s AND id = %(id)s)", values
            )
        )


class DailyOverdue:
    """Marks invoices overdue, once the day's package run time has come."""

    kind = WorkKind.OVERDUE

    def __init__(
        self,
        mark: Callable[[UnitOfWork, date], Awaitable[object]],
        is_needed: Callable[[UnitOfWork, date], Awaitable[bool]],
    ) -> None:
        self._mark = mark
        self._is_needed = is_needed

    async def next_due(self, uow: UnitOfWork) -> datetime | None:
        """The time of day that comes next; now, where something is to be marked."""
        settings = uow.firm.settings
        day = last_daily_date(uow.now, settings.package_run_time, settings)
        if await self._is_needed(uow, day):
            return uow.now
        return next_local_time(uow.now, settings.package_run_time, settings.zone)

    async def work(self, database: Database, context: CallContext) -> None:
        """Mark everything whose due date lies before the last daily date."""
        async with database.transaction(context) as uow:
            settings = uow.firm.settings
            await self._mark(uow, last_daily_date(uow.now, settings.package_run_time, settings))
