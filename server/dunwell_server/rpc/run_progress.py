"""Runs as the contract shows them, and the stream that tells of one until it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, date, datetime
from typing import Any, Final
from uuid import UUID

from dunwell.v1 import money_pb2, run_pb2
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.kernel.money import Money
from dunwell_server.platform import all_firms, runs
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.runs import ItemCursor, Run, RunItem, RunKind
from dunwell_server.rpc.converters import date_message, id_text, money_message, timestamp

ITEMS: Final = 100
"""Items in one message."""
POLL_SECONDS: Final = 0.25
LIFE_SECONDS: Final = 3.0
"""At least so often a message is sent, also when nothing has changed."""

KINDS: Final = {
    RunKind.PACKAGES: run_pb2.RUN_KIND_PACKAGE_INVOICES,
    RunKind.COLLECTION: run_pb2.RUN_KIND_RECURRING_CHARGES,
    RunKind.CLOCK: run_pb2.RUN_KIND_CLOCK_ADVANCE,
    RunKind.RECONCILIATION: run_pb2.RUN_KIND_RECONCILIATION,
}

_WITHOUT_INSTANT: Final = frozenset({RunKind.PACKAGES, RunKind.RECONCILIATION})

Planned = Callable[[RunItem], run_pb2.PlannedInvoice | None]
"""What a dry run's item tells of the invoice it would make; billing knows."""


def run_message(run: Run, firm_id: UUID | None) -> run_pb2.Run:
    """A run; `firm_id` is None for a run over all firms."""
    params = run.params
    return run_pb2.Run(
        id=id_text(Prefix.RUN, run.id),
        firm_id=id_text(Prefix.FIRM, firm_id),
        parent_run_id=id_text(Prefix.RUN, run.parent_id),
        kind=KINDS[run.kind],
        state=run_pb2.RunState.Value(f"RUN_STATE_{run.state.value}"),
        dry_run=run.dry_run,
        as_of_date=date_message(date.fromisoformat(params["as_of"][:10])) if _packages_as_of(run) else None,
        as_of_time=timestamp(_instant(params)) if run.kind not in _WITHOUT_INSTANT else None,
        client_id=_id(Prefix.CLIENT, params.get("client_id")),
        engagement_id=_id(Prefix.ENGAGEMENT, params.get("engagement_id")),
        actor=run.actor,
        total_count=run.total,
        done_count=run.done,
        outcome_counts=[
            run_pb2.RunOutcomeCount(outcome=_named(run_pb2.RunOutcome, "RUN_OUTCOME_", name), count=count)
            for name, count in sorted(run.counts.items())
        ],
        amounts=[
            money_pb2.Money(currency_code=code, amount_minor=int(minor)) for code, minor in sorted(run.amounts.items())
        ],
        error_message=run.error or "",
        create_time=timestamp(run.create_time),
        start_time=timestamp(run.start_time),
        end_time=timestamp(run.end_time),
    )


def item_message(item: RunItem, firm_id: UUID, seq: int, planned: Planned | None = None) -> run_pb2.RunItem:
    """What became of one subject. `seq` is its place in the run, from 1."""
    detail = dict(item.detail or {})
    subject = {item.subject_type: str(item.subject_id)}
    amount = None
    if item.amount_minor is not None and item.currency_code is not None:
        amount = money_message(Money(item.currency_code, item.amount_minor))
    return run_pb2.RunItem(
        seq=seq,
        firm_id=id_text(Prefix.FIRM, firm_id),
        client_id=id_text(Prefix.CLIENT, item.client_id),
        engagement_id=_id(Prefix.ENGAGEMENT, subject.get("engagement") or detail.get("engagement_id")),
        invoice_id=_id(Prefix.INVOICE, subject.get("invoice") or detail.get("invoice_id")),
        payment_id=_id(Prefix.PAYMENT, detail.get("payment_id")),
        outcome=_named(run_pb2.RunOutcome, "RUN_OUTCOME_", item.outcome),
        reason=_named(run_pb2.RunItemReason, "RUN_ITEM_REASON_", item.reason or "UNSPECIFIED"),
        message=item.message or "",
        amount=amount,
        planned_invoice=planned(item) if planned is not None else None,
        provider_reference=detail.get("provider_reference") or "",
    )


async def tail_run(
    database: Database,
    context: CallContext,
    run_id: UUID,
    *,
    after_seq: int = 0,
    omit_items: bool = False,
    planned: Planned | None = None,
) -> AsyncIterator[run_pb2.RunProgress]:
    """Tell of the firm's run: at once, then whenever something has changed, until it has ended and every item was told.

    RESOURCE_NOT_FOUND where the firm has no such run. A long stream holds no transaction between its messages.
    """
    assert context.firm_id is not None

    cursor, seq, skip = ItemCursor(), after_seq, after_seq
    shown: run_pb2.Run | None = None
    told = time.monotonic()
    while True:

        async def look(
            uow: UnitOfWork, at: ItemCursor = cursor, over: int = skip
        ) -> tuple[Run, list[RunItem], ItemCursor]:
            run = await runs.get(uow, run_id)
            if omit_items:
                return run, [], at
            return run, *await runs.items_after(uow, run_id, at, ITEMS, skip=over, settled=run.state.is_final)

        run, items, behind = await database.run(context, look, write=False)
        if items:
            cursor, skip = behind, 0
        message = run_message(run, context.firm_id)
        last = run.state.is_final and len(items) < ITEMS
        if items or last or message != shown or time.monotonic() - told >= LIFE_SECONDS:
            numbered = [item_message(item, context.firm_id, seq + n, planned) for n, item in enumerate(items, 1)]
            yield run_pb2.RunProgress(run=message, items=numbered, last=last)
            shown, told = message, time.monotonic()
        seq += len(items)
        if last:
            return
        if len(items) < ITEMS:
            await asyncio.sleep(POLL_SECONDS)


def _packages_as_of(run: Run) -> bool:
    return run.kind is RunKind.PACKAGES and bool(run.params.get("as_of"))


def _instant(params: dict[str, Any]) -> datetime | None:
    text = params.get("target_time") or params.get("as_of_time") or params.get("as_of")
    if not text:
        return None
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _id(prefix: Prefix, text: str | None) -> str:
    """An id as stored in JSON, a UUID or a text form already."""
    if not text:
        return ""
    return text if "_" in text else id_text(prefix, UUID(text))


def _named(enum: Any, prefix: str, name: str) -> Any:
    """The enum's value of that name; UNSPECIFIED for one that a newer release has written."""
    return enum.Value(prefix + name) if prefix + name in enum.keys() else 0  # noqa: SIM118 - an enum wrapper is no mapping


async def tail_all_firms(database: Database, context: CallContext, run_id: UUID) -> AsyncIterator[run_pb2.RunProgress]:
    """The progress of a run over all firms until it ends; its items belong to its parts. RESOURCE_NOT_FOUND."""
    while True:
        run = await all_firms.get(database, context, run_id)
        if run is None:
            raise DunwellError(Reason.RESOURCE_NOT_FOUND, "No such run.", resource=("Run", encode(Prefix.RUN, run_id)))
        yield run_pb2.RunProgress(run=run_message(run, None), last=run.state.is_final)
        if run.state.is_final:
            return
        await asyncio.sleep(LIFE_SECONDS / 6)
