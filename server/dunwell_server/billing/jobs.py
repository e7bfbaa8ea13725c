"""The package run: invoices for every period of a firm's engagements that is due, in chunks that any number of workers share.

A chunk is one transaction: claim due engagements with their clients, compute, write everything, advance the run. Dying at
any point loses one chunk at most, and what a chunk has written is no longer due, so executing the run again does the rest.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

import psycopg
import structlog

from dunwell_server.billing import package_store as store
from dunwell_server.billing import packages
from dunwell_server.billing.model import ClientState
from dunwell_server.billing.numbering import series_of
from dunwell_server.billing.package_store import FIRST, DueEngagement, PackageInvoice, Position, Scope
from dunwell_server.billing.ports import CollectionPlanner, CollectionTerms
from dunwell_server.kernel.calendar import Period, local_date
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import derive_uuid, uuid7
from dunwell_server.platform import runs
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.failpoints import failpoint
from dunwell_server.platform.firms import FirmSettings
from dunwell_server.platform.runs import Run, RunItem, RunKind, RunState
from dunwell_server.platform.work import WorkKind, wake

CHUNK_SIZE: Final = 1_000
"""Engagements in one transaction, at most."""
SMALL_CHUNK: Final = 100
"""Engagements in one transaction of a small run, which would else have nothing to share and no progress to show."""
CHUNK_LINES: Final = 10_000
"""Lines after which a chunk takes no further engagement: years of missed weeks must not make a transaction of minutes."""
LANES: Final = 2
"""Chunks that a single worker has under way at once: while the database writes one, the next is computed. Each takes a
connection. Where several workers share the firm's runs, one each is enough."""
COMPUTED_AT_ONCE: Final = 50
"""Engagements computed before the loop is given to others: about a millisecond."""
_PAUSES: Final = (0.02, 0.05, 0.1, 0.25, 0.5)
"""Seconds to wait for engagements that somebody else holds; the last one repeats."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Terms:
    """What the invoices of a chunk have in common."""

    settings: FirmSettings
    firm_id: UUID
    now: datetime
    as_of: date
    issue_date: date
    planner: CollectionPlanner


@dataclass(slots=True)
class _Chunk:
    """What became of the engagements of a chunk. `last` is where the next one goes on; None: there was nothing."""

    last: Position | None = None
    invoices: list[PackageInvoice] = field(default_factory=list)
    items: list[RunItem] = field(default_factory=list)
    stale: dict[UUID, tuple[date, date | None]] = field(default_factory=dict)
    lines: int = 0

    def counts(self) -> dict[str, int]:
        """Engagements by outcome."""
        counts = Counter(item.outcome for item in self.items)
        if self.invoices:
            counts["CREATED"] += len(self.invoices)
        return dict(counts)

    def amounts(self) -> dict[str, int]:
        """Minor units invoiced, by currency."""
        amounts: Counter[str] = Counter()
        for invoice in self.invoices:
            amounts[invoice.engagement.currency_code] += invoice.total
        return dict(amounts)


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
                total = await store.count_due(uow, self.scope)
                await runs.begin(uow, self._run.id, total)
            self._chunk_size = min(self._chunk_size, max(SMALL_CHUNK, total // 8))
            return await self._is_open(uow)

        return await self._database.run(self._context, work)

    async def bill_all(self) -> None:
        """Chunk after chunk, forward through the due engagements; then again from the start for those that others held."""
        after, pauses = FIRST, 0
        while True:
            last = await self._bill(partial(store.claim, scope=self.scope, after=after, limit=self._chunk_size))
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
            await store.read_by_index(uow)
            chunk = await self.compute(uow, await store.page(uow, self.scope, after, self._chunk_size))
            if chunk.last is not None:
                issue_date = self._issue_date(uow)
                shown = [_planned_item(invoice, issue_date) for invoice in chunk.invoices]
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
            await store.read_by_index(uow)
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
            item = _failed(engagement, *_explain(engagement, error))
            await self._database.run(self._context, lambda uow: self._record(uow, item))
            return
        middle = len(claimed) // 2
        for half in (claimed[:middle], claimed[middle:]):
            ids = [engagement.id for engagement in half]
            await self._bill(partial(store.claim_named, scope=self.scope, ids=ids))

    async def _record(self, uow: UnitOfWork, item: RunItem) -> None:
        await runs.advance(uow, self._run.id, done=1, counts={item.outcome: 1}, items=[item])

    async def compute(self, uow: UnitOfWork, due: Sequence[DueEngagement]) -> _Chunk:
        covered = await store.covered(uow, due)
        terms = _Terms(
            uow.firm.settings, uow.firm_id, uow.now, self.scope.as_of, self._issue_date(uow),
            uow.bus.port(CollectionPlanner),  # type: ignore[type-abstract]
        )  # fmt: skip
        chunk = _Chunk()
        for number, engagement in enumerate(due, 1):
            if number % COMPUTED_AT_ONCE == 0:
                await asyncio.sleep(0)
            _bill_one(chunk, terms, engagement, covered.get(engagement.id, ()))
            chunk.last = engagement.position
            if chunk.lines >= CHUNK_LINES:
                break
        return chunk

    async def _write(self, uow: UnitOfWork, chunk: _Chunk) -> None:
        """Everything of the chunk. The rows that all workers share, the run's and the number counter's, come last."""
        await store.reschedule(uow, chunk.stale)
        if not chunk.invoices:
            await self._advance(uow, chunk, chunk.items)
            return
        await store.stage(uow, chunk.invoices)
        failpoint("packages.staged")
        charges = [at for invoice in chunk.invoices if (at := invoice.plan.next_charge_time) is not None]
        if charges:
            # What payments do on InvoicesFinalized, without building a thousand invoices to publish them.
            await wake(uow, WorkKind.COLLECT, min(charges))
        numbering, issue_date = uow.firm.settings.numbering, self._issue_date(uow)
        issue = store.Issue(
            self._run.id, issue_date, series_of(numbering, issue_date), numbering.padding, len(chunk.invoices)
        )
        await store.write_unnumbered(uow, issue)
        failpoint("packages.numbering")
        async with uow.conn.pipeline():
            await self._advance(uow, chunk, chunk.items)
            await store.write_numbered(uow, issue)

    async def _advance(self, uow: UnitOfWork, chunk: _Chunk, items: Sequence[RunItem]) -> None:
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
        return await store.run_state(uow, self._run.id, lock=lock) == RunState.RUNNING

    async def _finish(self) -> bool:
        """Close the run unless engagements are left that somebody else holds; whether it is closed."""

        async def work(uow: UnitOfWork) -> bool:
            if not await self._is_open(uow):
                return True
            await store.read_by_index(uow)
            if await store.is_any_left(uow, self.scope):
                return False
            await runs.finish(uow, self._run.id)
            return True

        return await self._database.run(self._context, work)


def _uuid(text: str | None) -> UUID | None:
    return UUID(text) if text else None


def _bill_one(chunk: _Chunk, terms: _Terms, engagement: DueEngagement, covered: Sequence[Period]) -> None:
    """Add an engagement's invoice to the chunk, or the item that says why there is none. One that breaks harms no other."""
    try:
        _refuse(engagement)
        parts = packages.billable_periods(engagement, terms.as_of, covered, zone=terms.settings.zone)
        through = parts[-1].end if parts else engagement.billed_through_date
        if covered:
            billed = [*covered, *((part.start, part.end) for part in parts)]
            through = packages.billed_through_date(engagement.billed_through_date, billed)
        next_bill = packages.next_bill_date(engagement, through, covered)
        if parts:
            chunk.invoices.append(_invoice(terms, engagement, parts, through, next_bill))
            chunk.lines += len(parts)
        else:
            chunk.stale[engagement.id] = (through, next_bill)
            message = "Every period that could be billed by then has been."
            chunk.items.append(_item(engagement, "SKIPPED", "NOTHING_TO_BILL", message))
    except _Skip as skip:
        chunk.items.append(_item(engagement, "SKIPPED", skip.reason, skip.message))
    except DunwellError as error:
        chunk.items.append(_failed(engagement, "DATA", f"{error.reason.value}: {error.message}"))
    except Exception as error:
        chunk.items.append(_failed(engagement, *_explain(engagement, error)))


class _Skip(Exception):
    """An engagement that is rightly not billed."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def _refuse(engagement: DueEngagement) -> None:
    """The refusals of FinalizeInvoice that concern a run."""
    if engagement.client_state != ClientState.ACTIVE:
        raise _Skip("CLIENT_ARCHIVED", "The client is archived.")
    if engagement.currency_code != engagement.client_currency_code:
        raise DunwellError(
            Reason.CURRENCY_MISMATCH,
            f"The engagement is in {engagement.currency_code}, its client is invoiced in {engagement.client_currency_code}.",
        )


def _invoice(
    terms: _Terms,
    engagement: DueEngagement,
    parts: Sequence[packages.BillablePeriod],
    through: date,
    next_bill: date | None,
) -> PackageInvoice:
    if len(parts) > packages.MAX_LINES:
        raise DunwellError(Reason.AMOUNT_OUT_OF_RANGE, f"{len(parts)} periods do not fit one invoice.")
    total = packages.total_of(parts)
    days = engagement.payment_terms_days
    due_date = terms.issue_date + timedelta(days=terms.settings.payment_terms_days if days is None else days)
    plan = terms.planner.plan(
        CollectionTerms(
            terms.settings, terms.now, due_date, total, engagement.autopay_enabled, engagement.autopay_cadence,
            engagement.autopay_method_id, engagement.autopay_enable_time,
        )
    )  # fmt: skip
    # The same periods give the same id whoever bills them, so that money asked for under it is asked for once.
    invoice_id = derive_uuid(
        "invoice", terms.firm_id, engagement.id, "PACKAGE", parts[0].start.isoformat(), engagement.void_count
    )
    return PackageInvoice(invoice_id, engagement, parts, total, due_date, plan, through, next_bill)


def _item(engagement: DueEngagement, outcome: str, reason: str | None = None, message: str | None = None) -> RunItem:
    return RunItem("engagement", engagement.id, outcome, reason, message, client_id=engagement.client_id)


def _failed(engagement: DueEngagement, reason: str, message: str) -> RunItem:
    return _item(engagement, "FAILED", reason, message)


def _explain(engagement: DueEngagement, error: Exception) -> tuple[str, str]:
    """Reason and message of a failure. What people cannot mend is logged under an id, and only the id is told."""
    if isinstance(error, psycopg.errors.NumericValueOutOfRange):
        return "DATA", "AMOUNT_OUT_OF_RANGE: what the client owes would not fit a 64-bit integer."
    if isinstance(error, psycopg.errors.ExclusionViolation):
        return "ALREADY_DONE", "A period of it is on another live invoice already."
    error_id = uuid7()
    _log.error("package_invoice_failed", error_id=str(error_id), engagement_id=str(engagement.id), exc_info=error)
    return "INTERNAL", f"It could not be billed; the log has the reason under {error_id}."


def _planned_item(invoice: PackageInvoice, issue_date: date) -> RunItem:
    """A dry run's item: the invoice as the real run would write it, save id and number."""
    engagement = invoice.engagement
    detail: Mapping[str, Any] = {
        "issue_date": issue_date.isoformat(),
        "due_date": invoice.due_date.isoformat(),
        "lines": [
            {
                "line_no": line.line_no,
                "kind": line.kind.value,
                "description": line.description,
                "quantity": str(line.quantity),
                "unit_price": str(line.unit_price),
                "amount_minor": line.amount_minor,
                "period_start": str(line.period_start),
                "period_end": str(line.period_end),
                "engagement_id": str(line.engagement_id),
                "in_advance": line.in_advance,
            }
            for line in packages.lines_of(engagement, engagement.id, invoice.parts)
        ],
    }
    return replace(
        _item(engagement, "CREATED"), amount_minor=invoice.total, currency_code=engagement.currency_code, detail=detail
    )
