"""A collection run: every due invoice exactly once, on any number of workers, with progress and a dry run.

Workers share a run by claiming batches. What a payment has come to is reported from its row, so that a worker's death loses no report and
none is counted twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from dunwell_server.payments.jobs.charging import Charger
from dunwell_server.payments.jobs.checking import Checker
from dunwell_server.payments.jobs.handlers import BATCH, OVERLAP
from dunwell_server.payments.model import PaymentState
from dunwell_server.payments.service.collecting import BREAKER_OPEN, RECOVERING, Batch, claim_batch, preview
from dunwell_server.payments.store import due
from dunwell_server.platform import runs
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, Row, UnitOfWork
from dunwell_server.platform.runs import Run, RunItem, RunKind, RunState

_REPORT: Final = 500
_REPORT_SECONDS: Final = 1.0
"""How often progress is told: each time it reads what the run has come to so far."""
_PAUSE: Final = 0.1
_LEFT_DUE: Final = frozenset({"IN_PROGRESS", BREAKER_OPEN, RECOVERING})
"""Skips after which an invoice is due as before."""
_ROUNDS_OF_REVISIONS: Final = 5
"""How often a run takes up slots that go on under a new revision, before it leaves them to the continuous handler."""


class CollectionRunExecutor:
    """Executes RunKind.COLLECTION. Safe to be killed anywhere, executed again, and executed by several workers at once."""

    kind = RunKind.COLLECTION

    def __init__(self, charger: Charger, checker: Checker, *, batch: int = BATCH) -> None:
        self._charger = charger
        self._checker = checker
        self._batch = batch

    async def execute(self, database: Database, context: CallContext, run: Run) -> None:
        """Work until nothing of the run is left, and finish it."""
        as_of, client_id = _parameters(run)
        if run.dry_run:
            await self._dry_run(database, context, run, as_of, client_id)
            return

        async def start(uow: UnitOfWork) -> None:
            await runs.begin(uow, run.id, await due.count_due(uow, uow.now, client_id))

        await self._charger.transact(database, context, start)
        async with asyncio.TaskGroup() as flights:
            while await self._is_open(database, context, run.id):
                await self._drain(database, context, run.id, client_id, flights)
                if await self._settled(database, context, run.id):
                    await self._finish(database, context, run.id, client_id)
                    return

    async def _drain(
        self, database: Database, context: CallContext, run_id: UUID, client_id: UUID | None, flights: asyncio.TaskGroup
    ) -> None:
        """Charge what is due until nothing is taken any more; batches overlap, so that no answer is waited for idly."""
        loop = asyncio.get_running_loop()
        going: deque[asyncio.Task[None]] = deque()
        empty, reported = 0, loop.time()
        while empty < _ROUNDS_OF_REVISIONS and await self._is_open(database, context, run_id):
            if len(going) == OVERLAP:
                await going.popleft()
            batch = await self._take(database, context, run_id, client_id)
            going.append(flights.create_task(self._charger.run_slots(database, context, batch.claims)))
            if loop.time() - reported >= _REPORT_SECONDS:
                await self._report(database, context, run_id)
                reported = loop.time()
            if not batch.taken:
                break
            empty = empty + 1 if not batch.claims else 0
        while going:
            await going.popleft()
        await self._report(database, context, run_id)

    async def _is_open(self, database: Database, context: CallContext, run_id: UUID) -> bool:
        async with database.transaction(context, write=False) as uow:
            return not (await runs.get(uow, run_id)).state.is_final

    async def _take(self, database: Database, context: CallContext, run_id: UUID, client_id: UUID | None) -> Batch:
        """Claim a batch; its skips and failures without a call are reported in the same transaction."""

        async def take(uow: UnitOfWork) -> Batch:
            batch = await claim_batch(uow, self._charger.owner, self._batch, run_id=run_id, client_id=client_id)
            if batch.items:
                await runs.advance(uow, run_id, done=len(batch.items), counts=batch.counts, items=batch.items)
            return batch

        return await self._charger.transact(database, context, take)

    async def _report(self, database: Database, context: CallContext, run_id: UUID) -> None:
        """Tell what the run's payments have come to since the last report."""

        async def report(uow: UnitOfWork) -> int:
            await due.lock_run(uow, run_id)
            rows = await due.unreported(uow, run_id, _REPORT)
            await _advance(uow, run_id, [_item(row) for row in rows])
            return len(rows)

        while await self._charger.transact(database, context, report) == _REPORT:
            pass

    async def _settled(self, database: Database, context: CallContext, run_id: UUID) -> bool:
        """Whether nothing of the run is about to be sent or on its way; otherwise waits a little, and takes over what was abandoned."""
        async with database.transaction(context, write=False) as uow:
            if not await due.open_of_run(uow, run_id):
                return True
        claims = await self._charger.transact(
            database, context, lambda uow: due.claim_attempts(uow, self._charger.owner, self._batch)
        )
        await self._checker.run(database, context, claims)
        if not claims:
            await asyncio.sleep(_PAUSE)
        return False

    async def _finish(self, database: Database, context: CallContext, run_id: UUID, client_id: UUID | None) -> None:
        """Report what is left: payments given up before sending, and due invoices that another channel holds."""
        await self._report(database, context, run_id)

        async def finish(uow: UnitOfWork) -> None:
            await due.lock_run(uow, run_id)
            if (await runs.get(uow, run_id)).state.is_final:
                return
            given_up = [_given_up(row) for row in await due.abandoned(uow, run_id, _REPORT)]
            told = {item.subject_id for item in given_up}
            await _advance(uow, run_id, given_up)
            after: tuple[datetime, UUID] | None = None
            while True:
                plans, after = await preview(uow, uow.now, after, _REPORT, client_id)
                known = await due.reported(uow, run_id, [plan.invoice.id for plan in plans])
                left = [plan.item for plan in plans if plan.skip in _LEFT_DUE and plan.invoice.id not in told | known]
                await _advance(uow, run_id, left)
                if after is None:
                    break
            await runs.finish(uow, run_id, RunState.SUCCEEDED)

        await self._charger.transact(database, context, finish)

    async def _dry_run(
        self, database: Database, context: CallContext, run: Run, as_of: datetime | None, client_id: UUID | None
    ) -> None:
        """Tell what would be charged with which method, or why not; nothing but the run itself is written."""

        async def start(uow: UnitOfWork) -> None:
            await runs.begin(uow, run.id, await due.count_due(uow, as_of or uow.now, client_id))

        # Several workers, or one after a crash, tell about each invoice once: items that exist stay as they are.
        await self._charger.transact(database, context, start)
        cursor: tuple[datetime, UUID] | None = None
        while True:

            async def tell(
                uow: UnitOfWork, after: tuple[datetime, UUID] | None = cursor
            ) -> tuple[datetime, UUID] | None:
                await due.lock_run(uow, run.id)
                plans, following = await preview(uow, as_of or uow.now, after, _REPORT, client_id)
                known = await due.reported(uow, run.id, [plan.invoice.id for plan in plans])
                items = [plan.item for plan in plans if plan.invoice.id not in known]
                await _advance(uow, run.id, items)
                return following

            cursor = await self._charger.transact(database, context, tell)
            if cursor is None:
                break
        await self._charger.transact(database, context, lambda uow: runs.finish(uow, run.id))


def _parameters(run: Run) -> tuple[datetime | None, UUID | None]:
    as_of, client = run.params.get("as_of_time"), run.params.get("client_id")
    return (datetime.fromisoformat(as_of) if as_of else None), (UUID(client) if client else None)


async def _advance(uow: UnitOfWork, run_id: UUID, items: Sequence[RunItem]) -> None:
    if not items:
        return
    amounts: Counter[str] = Counter()
    for item in items:
        if item.outcome == "CHARGED" and item.currency_code is not None:
            amounts[item.currency_code] += item.amount_minor or 0
    counts = Counter(item.outcome for item in items)
    await runs.advance(uow, run_id, done=len(items), counts=counts, amounts=amounts, items=items)


def _item(row: Row) -> RunItem:
    """The line about one payment of a run."""
    state = PaymentState(row["state"])
    reason: str | None = None
    match state:
        case PaymentState.SUCCEEDED:
            outcome = "CHARGED"
        case PaymentState.FAILED:
            outcome, reason = "DECLINED", "PROVIDER_DECLINED"
        case _:
            outcome, reason = "WAITING", "IN_PROGRESS"
    message = row["failure_message"] if state is PaymentState.FAILED else None
    if state is PaymentState.PROCESSING and row["attempt_state"]:
        message = f"the attempt is {row['attempt_state']}"
    return RunItem(
        "invoice", row["invoice_id"], outcome, reason, message, row["client_id"], row["amount_minor"], row["currency_code"],
        {"payment_id": str(row["id"]), "failure_code": row["failure_code"]},
    )  # fmt: skip


def _given_up(row: Row) -> RunItem:
    return RunItem(
        "invoice", row["invoice_id"], "SKIPPED", "ALREADY_DONE", row["failure_message"], row["client_id"], row["amount_minor"],
        row["currency_code"], {"payment_id": str(row["id"])},
    )  # fmt: skip
