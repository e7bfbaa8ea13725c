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
from dunwell_server.platform.questions import Question, ask, known, together
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


def always(uow: UnitOfWork, _: datetime) -> Question[bool]:
    """A run that is started each day, so that its absence means a missed tick and nothing else."""
    return known(uow, True)


class DailyRun:
    """Starts the day's run once its time of day has come. Of several missed days the last is made up for: a run catches up by itself."""

    def __init__(
        self,
        kind: WorkKind,
        run_kind: RunKind,
        at: Callable[[FirmSettings], time],
        is_needed: Callable[[UnitOfWork, datetime], Question[bool]] = always,
        has_work: Callable[[UnitOfWork, date], Question[bool]] | None = None,
    ) -> None:
        """`is_needed`: whether there is a run at an instant, as things stand. `has_work`: whether the run of a day would find something; one that would not has
        ended when it is created."""
        self.kind = kind
        self._run_kind = run_kind
        self._at = at
        self._is_needed = is_needed
        self._has_work = has_work

    def next_due(self, uow: UnitOfWork) -> Question[datetime | None]:
        """The time of day that comes next; now, where the last one was missed.

        A test clock, whose next step is asked for after every step, is not stopped at times of day without a run.
        """
        following = next_local_time(uow.now, self._at(uow.firm.settings), uow.firm.settings.zone)
        stops = self._is_needed(uow, following) if uow.clock.is_test else known(uow, True)
        said = together(uow, [self._is_missed(uow), stops])
        return said.then(lambda said: uow.now if said[0] else following if said[1] else None)

    async def work(self, database: Database, context: CallContext) -> None:
        """Queue the day's run, unless it exists, the firm is younger than the tick, or nothing is to be done."""
        async with database.transaction(context) as uow:
            day = self._day(uow)
            has_work = known(uow, True) if self._has_work is None else self._has_work(uow, day)
            missed, finds_something = await together(uow, [self._is_missed(uow), has_work])
            run_id, params = daily_run_id(uow.firm_id, self._run_kind, day), {"as_of": day.isoformat()}
            if missed and finds_something:
                await runs.create(uow, self._run_kind, params, dry_run=False, run_id=run_id)
            elif missed:
                await runs.create_idle(uow, self._run_kind, params, run_id=run_id)

    def _day(self, uow: UnitOfWork) -> date:
        return last_daily_date(uow.now, self._at(uow.firm.settings), uow.firm.settings)

    def _is_missed(self, uow: UnitOfWork) -> Question[bool]:
        settings, day = uow.firm.settings, self._day(uow)
        tick = local_instant(day, self._at(settings), settings.zone)
        values = {"id": daily_run_id(uow.firm_id, self._run_kind, day), "tick": tick}
        ticked: Question[bool] = ask(uow, _TICKED, values)
        return together(uow, [ticked, self._is_needed(uow, uow.now)]).then(lambda said: not said[0] and said[1])


class DailyMarks:
    """Once the day's package run time has come: marks what is overdue, ends what has ended, warns of what is about to."""

    def __init__(
        self,
        batches: Sequence[Batch],
        is_needed: Callable[[UnitOfWork, date], Question[bool]],
        kind: WorkKind = WorkKind.OVERDUE,
    ) -> None:
        self.kind = kind
        self._batches = batches
        self._is_needed = is_needed

    def next_due(self, uow: UnitOfWork) -> Question[datetime | None]:
        """The time of day that comes next; now, where something is to be marked."""
        following = next_local_time(uow.now, uow.firm.settings.package_run_time, uow.firm.settings.zone)
        return self._is_due(uow).then(lambda is_due: uow.now if is_due else following)

    async def work(self, database: Database, context: CallContext) -> None:
        """Every batch until nothing is left, each in a transaction of its own."""
        for batch in self._batches:

            async def while_due(uow: UnitOfWork, batch: Batch = batch) -> Sequence[object]:
                return await batch(uow) if await self._is_due(uow) else ()

            while await database.run(context, while_due):
                pass

    def _is_due(self, uow: UnitOfWork) -> Question[bool]:
        settings = uow.firm.settings
        today = local_date(uow.now, settings.zone)
        has_come = uow.now >= local_instant(today, settings.package_run_time, settings.zone)
        return self._is_needed(uow, today) if has_come else known(uow, False)
