"""Daily work on the real database: one run a day in the firm's own time, missed ticks made up for once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, time, timedelta

from dunwell_server.platform import runs
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database
from dunwell_server.platform.questions import known
from dunwell_server.platform.runs import RunKind
from dunwell_server.platform.work import WorkKind
from dunwell_server.scheduler.daily import DailyRun
from tests import support

MakeFirm = Callable[..., Awaitable[CallContext]]
DAILY = DailyRun(WorkKind.PACKAGES, RunKind.PACKAGES, lambda settings: settings.package_run_time)


async def days(db: Database, firm: CallContext) -> list[str]:
    async with db.transaction(firm, write=False) as uow:
        return sorted(run.params["as_of"] for run in await runs.list_runs(uow))


async def due(db: Database, firm: CallContext) -> datetime | None:
    async with db.transaction(firm, write=False) as uow:
        return await DAILY.next_due(uow)


async def test_the_first_run_waits_for_the_first_tick_after_the_firm_began(db: Database, make_firm: MakeFirm) -> None:
    firm = await make_firm(
        clock=datetime(2026, 3, 10, 9, tzinfo=UTC), time_zone="Europe/Berlin", package_run_time=time(2)
    )
    assert await due(db, firm) == datetime(2026, 3, 11, 1, tzinfo=UTC)
    await DAILY.work(db, firm)
    assert await days(db, firm) == []


async def test_a_test_clock_stops_only_where_a_run_would_start(db: Database, make_firm: MakeFirm) -> None:
    noon, tick = datetime(2026, 3, 10, 12, tzinfo=UTC), datetime(2026, 3, 11, 3, tzinfo=UTC)

    def later(needed_from: datetime) -> DailyRun:
        return DailyRun(
            WorkKind.CHARGES,
            RunKind.COLLECTION,
            lambda settings: settings.collection_run_time,
            lambda uow, at: known(uow, at >= needed_from),
        )

    async def next_due(firm: CallContext, needed_from: datetime) -> datetime | None:
        async with db.transaction(firm, write=False) as uow:
            return await later(needed_from).next_due(uow)

    firm = await make_firm(clock=noon, collection_run_time=time(3))
    assert await next_due(firm, tick) == tick
    assert await next_due(firm, tick + timedelta(seconds=1)) is None
    on_real_time = await make_firm(collection_run_time=time(3))
    assert await next_due(on_real_time, datetime.max.replace(tzinfo=UTC)) is not None


async def test_missed_ticks_are_made_up_for_by_one_run(db: Database, make_firm: MakeFirm) -> None:
    firm = await make_firm(clock=datetime(2026, 3, 10, 9, tzinfo=UTC), time_zone="Europe/Berlin")
    assert firm.firm_id is not None
    await support.set_clock(db, firm.firm_id, datetime(2026, 3, 14, 0, 59, tzinfo=UTC))
    for _ in range(3):
        await DAILY.work(db, firm)
    assert await days(db, firm) == ["2026-03-13"]
    await support.set_clock(db, firm.firm_id, datetime(2026, 3, 14, 1, tzinfo=UTC))
    await DAILY.work(db, firm)
    assert await days(db, firm) == ["2026-03-13", "2026-03-14"]


async def test_a_day_that_skips_or_repeats_the_hour_has_one_run(db: Database, make_firm: MakeFirm) -> None:
    for begin, end in (((2026, 3, 28, 12), (2026, 3, 30, 12)), ((2026, 10, 24, 12), (2026, 10, 26, 12))):
        firm = await make_firm(
            clock=datetime(*begin, tzinfo=UTC), time_zone="Europe/Berlin", package_run_time=time(2, 30)
        )
        assert firm.firm_id is not None
        while (at := await due(db, firm)) is not None and at <= datetime(*end, tzinfo=UTC):
            await support.set_clock(db, firm.firm_id, at)
            await DAILY.work(db, firm)
        assert len(await days(db, firm)) == 2
