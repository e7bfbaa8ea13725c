"""The package run: invoices for every period of a firm's engagements that is due, in chunks that any number of workers share.

A chunk is one transaction: claim due engagements with their clients, compute, write everything, advance the run. Dying at
any point loses one chunk at most, and what a chunk has written is no longer due, so executing the run again does the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import date
from functools import partial
from typing import Final
from uuid import UUID

import psycopg

from dunwell_server.billing.jobs.planned import planned_item
from dunwell_server.billing.numbering import series_of
from dunwell_server.billing.service import coupons, credit_application, recognition, time_billing
from dunwell_server.billing.service.package_billing import Chunk, compute, explain, failed
from dunwell_server.billing.store import package_due, package_stage
from dunwell_server.billing.store.package_due import FIRST, DueEngagement, Position, Scope
from dunwell_server.kernel.calendar import local_date
from dunwell_server.platform import runs
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.failpoints import failpoint
from dunwell_server.platform.runs import Run, RunItem, RunKind, RunState
from dunwell_server.platform.work import WorkKind, wake

CHUNK_SIZE: Final = 1_000
"""Engagements in one transaction, at most."""
SMALL_CHUNK: Final = 100
"""Engagements in one transaction of a small run, which would else have nothing to share and no progress to show."""
LANES: Final = 2
"""Chunks that a single worker has under way at once: while the database writes one, the next is computed. Each takes a
connection. Where several workers share the firm's runs, one each is enough."""
_PAUSES: Final = (0.02, 0.05, 0.1, 0.25, 0.5)
"""Seconds to wait for engagements that somebody else holds; the last one repeats."""


class PackageRunExecutor:
    """Executes RunKind.PACKAGES: `params` has `as_of` (ISO date) and may narrow it to a `client_id` or `engagement_id`."""

    kind = RunKind.PACKAGES

    def __init__(self, chunk_size: int = CHUNK_SIZE, lanes: int = LANES) -> None:
        self._chunk_size = chunk_size
        self._lanes = lanes

    async def execute(self, database: Database, context: CallContext, run: Run) -> None:
        """Bill, or in a dry run preview, until nothing is left, and finish the run."""
        execution = PackageExecution(database, replace(context, deadline=None), run, self._chunk_size)
        if not await execution.begin():
            return
        if run.dry_run:
            await execution.preview_all()
            return
        # A lane that breaks leaves its share to the others; the error is told when they are done.
        ends = await asyncio.gather(*(execution.bill_all() for _ in range(self._lanes)), return_exceptions=True)
        for end in ends:
            if end is not None:
                raise end


class PackageExecution:
    """One worker's part of one run."""

    def __init__(self, database: Database, context: CallContext, run: Run, chunk_size: int) -> None:
        self._database = database
        self._context = context
        self._run = run
        self._chunk_size = chunk_size
        params = run.params
        self.scope = Scope(
            run.id,
            date.fromisoformat(params["as_of"]),
            _uuid(params.get("client_id")),
            _uuid(params.get("engagement_id")),
        )

    async def begin(self) -> bool:
        """Start the run where no other worker has; whether there is something to do."""

        async def work(uow: UnitOfWork) -> bool:
            total = self._run.total
            if self._run.state is RunState.QUEUED:
                total = await package_due.count_due(uow, self.scope)
                await runs.begin(uow, self._run.id, total)
            self._chunk_size = min(self._chunk_size, max(SMALL_CHUNK, total // 8))
            return await self._is_open(uow)

        return await self._database.run(self._context, work)

    async def bill_all(self) -> None:
        """Chunk after chunk, forward through the due engagements; then again from the start for those that others held."""
        after, pauses = FIRST, 0
        while True:
            last = await self._bill(partial(package_due.claim, scope=self.scope, after=after, limit=self._chunk_size))
            if last is not None:
                after, pauses = last, 0
            elif after != FIRST:
                after = FIRST
            elif await self._finish():
                return
            else:
                await asyncio.sleep(_PAUSES[min(pauses, len(_PAUSES) - 1)])
                pauses += 1

    async def preview_all(self) -> None:
        """Page after page. The run's row is locked for each, so that workers take turns and each engagement is shown once."""
        after: Position | None = FIRST

        async def work(uow: UnitOfWork) -> Position | None:
            assert after is not None
            if not await self._is_open(uow, lock=True):
                return None
            await package_due.read_by_index(uow)
            chunk = await self.compute(uow, await package_due.page(uow, self.scope, after, self._chunk_size))
            if chunk.last is not None:
                issue_date = self._issue_date(uow)
                shown = [planned_item(invoice, issue_date) for invoice in chunk.invoices]
                await self._advance(uow, chunk, [*shown, *chunk.items])
            return chunk.last

        while after is not None:
            after = await self._database.run(self._context, work)
        await self._finish()

    async def _bill(self, claim: Callable[[UnitOfWork], Awaitable[list[DueEngagement]]]) -> Position | None:
        """One chunk in one transaction; where it ended. What the database refuses is isolated and recorded."""
        claimed: list[DueEngagement] = []

        async def work(uow: UnitOfWork) -> Position | None:
            if not await self._is_open(uow):
                return None
            await package_due.read_by_index(uow)
            claimed[:] = await claim(uow)
            failpoint("packages.claimed")
            chunk = await self.compute(uow, claimed)
            if chunk.last is not None:
                await self._write(uow, chunk)
                failpoint("packages.written")
            return chunk.last

        try:
            return await self._database.run(self._context, work)
        except (psycopg.IntegrityError, psycopg.DataError) as error:
            await self._isolate(claimed, error)
            return claimed[-1].position

    async def _isolate(self, claimed: Sequence[DueEngagement], error: psycopg.Error) -> None:
        """Halve a chunk that the database refused until the engagement that it is about stands alone."""
        if len(claimed) == 1:
            engagement = claimed[0]
            item = failed(engagement, *explain(engagement, error))
            await self._database.run(self._context, lambda uow: self._record(uow, item))
            return
        middle = len(claimed) // 2
        for half in (claimed[:middle], claimed[middle:]):
            ids = [engagement.id for engagement in half]
            await self._bill(partial(package_due.claim_named, scope=self.scope, ids=ids))

    async def _record(self, uow: UnitOfWork, item: RunItem) -> None:
        await runs.advance(uow, self._run.id, done=1, counts={item.outcome: 1}, items=[item])

    async def compute(self, uow: UnitOfWork, due: Sequence[DueEngagement]) -> Chunk:
        """What the run makes of the engagements; writes nothing."""
        return await compute(uow, due, self.scope.as_of, self._issue_date(uow), lock=not self._run.dry_run)

    async def _write(self, uow: UnitOfWork, chunk: Chunk) -> None:
        """Everything of the chunk. The rows that all workers share, the run's and the number counter's, come last."""
        await package_due.reschedule(uow, chunk.stale)
        if not chunk.invoices:
            await self._advance(uow, chunk, chunk.items)
            return
        await package_stage.stage(uow, chunk.invoices)
        failpoint("packages.staged")
        charges = [at for invoice in chunk.invoices if (at := invoice.plan.next_charge_time) is not None]
        if charges:
            # What payments do on InvoicesFinalized, without building a thousand invoices to publish them.
            await wake(uow, WorkKind.COLLECT, min(charges))
        numbering, issue_date = uow.firm.settings.numbering, self._issue_date(uow)
        issue = package_stage.Issue(
            self._run.id, issue_date, series_of(numbering, issue_date), numbering.padding, len(chunk.invoices)
        )
        await time_billing.record(uow, [(invoice.id, invoice.time) for invoice in chunk.invoices])
        await coupons.record_uses(uow, [each for invoice in chunk.invoices for each in invoice.prices.discounts])
        await package_stage.write_unnumbered(uow, issue)
        await credit_application.record(uow, [use for invoice in chunk.invoices for use in invoice.credit])
        failpoint("packages.numbering")
        async with uow.conn.pipeline():
            await self._advance(uow, chunk, chunk.items)
            await package_stage.write_numbered(uow, issue)
            await recognition.schedule(uow, [invoice.id for invoice in chunk.invoices])

    async def _advance(self, uow: UnitOfWork, chunk: Chunk, items: Sequence[RunItem]) -> None:
        await runs.advance(
            uow,
            self._run.id,
            done=len(chunk.invoices) + len(chunk.items),
            counts=chunk.counts(),
            amounts=chunk.amounts(),
            items=items,
        )

    def _issue_date(self, uow: UnitOfWork) -> date:
        """One date for all invoices of a run, though it may last past midnight or be resumed on another day."""
        return local_date(self._run.firm_time or uow.now, uow.firm.settings.zone)

    async def _is_open(self, uow: UnitOfWork, *, lock: bool = False) -> bool:
        return await package_due.run_state(uow, self._run.id, lock=lock) == RunState.RUNNING

    async def _finish(self) -> bool:
        """Close the run unless engagements are left that somebody else holds; whether it is closed."""

        async def work(uow: UnitOfWork) -> bool:
            if not await self._is_open(uow):
                return True
            await package_due.read_by_index(uow)
            if await package_due.is_any_left(uow, self.scope):
                return False
            await runs.finish(uow, self._run.id)
            return True

        return await self._database.run(self._context, work)


def _uuid(text: str | None) -> UUID | None:
    return UUID(text) if text else None
