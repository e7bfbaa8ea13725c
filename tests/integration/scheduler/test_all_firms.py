"""Runs over all firms: a part for each firm in real time, the whole ended by the last of them, also when several end at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from uuid import UUID

from dunwell_server.billing.jobs import PackageRunExecutor
from dunwell_server.billing.ports import CollectionPlanner, TaxCalculator
from dunwell_server.billing.service.tax_rates import TableTaxCalculator
from dunwell_server.payments.planning import Planner
from dunwell_server.platform import all_firms, runs
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database
from dunwell_server.platform.runs import RunKind, RunState
from dunwell_server.scheduler.all_firms import AllFirmsRuns
from dunwell_server.scheduler.runs import RunHandler
from tests import support

MakeFirm = Callable[..., Awaitable[CallContext]]


async def start(db: Database) -> UUID:
    async with db.transaction(support.context(None)) as uow:
        return await AllFirmsRuns(db).start(uow, RunKind.PACKAGES, {}, dry_run=False)


async def work(db: Database, handler: RunHandler, firm: CallContext) -> None:
    """What a worker does for the firm until it has no run left."""
    while True:
        async with db.transaction(firm, write=False) as uow:
            if await handler.next_due(uow) is None:
                return
        await handler.work(db, firm)


async def test_the_last_firm_ends_the_whole(db: Database, make_firm: MakeFirm) -> None:
    db.bus.provide(CollectionPlanner, Planner())  # type: ignore[type-abstract]
    db.bus.provide(TaxCalculator, TableTaxCalculator())  # type: ignore[type-abstract]
    handler = RunHandler([PackageRunExecutor()])
    firms = [await make_firm() for _ in range(6)]
    advanced = await make_firm(clock=datetime(2026, 1, 1, tzinfo=UTC))
    for _ in range(5):
        run_id = await start(db)
        whole = await all_firms.get(db, support.context(None), run_id)
        assert whole is not None
        assert whole.state is RunState.RUNNING
        await asyncio.gather(*(work(db, handler, firm) for firm in firms))
        whole = await all_firms.get(db, support.context(None), run_id)
        assert whole is not None
        assert whole.state is RunState.SUCCEEDED
    async with db.transaction(advanced, write=False) as uow:
        assert await runs.list_runs(uow) == []
    async with db.transaction(firms[0], write=False) as uow:
        assert len(await runs.list_runs(uow, parent_id=run_id)) == 1
