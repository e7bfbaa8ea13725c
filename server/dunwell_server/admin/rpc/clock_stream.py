"""The stream that tells of an advancing clock: where it stands, and what happens on the way, read from the audit trail."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import UUID

from dunwell.v1 import admin_service_pb2, money_pb2, test_clock_pb2
from dunwell_server.admin.model import Clock
from dunwell_server.admin.rpc.messages import clock_message
from dunwell_server.admin.service import clocks
from dunwell_server.admin.store import clocks as store
from dunwell_server.admin.store.clocks import TrailCursor
from dunwell_server.kernel.ids import Prefix
from dunwell_server.platform import runs
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, Row, UnitOfWork
from dunwell_server.platform.runs import Run
from dunwell_server.rpc.converters import id_text, timestamp
from dunwell_server.rpc.run_progress import LIFE_SECONDS, POLL_SECONDS, run_message

EVENTS: Final = 100
"""Events in one message."""

# Audit action → kind of event, and how it reads.
_KINDS: Final[dict[str, tuple[int, str]]] = {
    "invoice_finalized": (test_clock_pb2.CLOCK_EVENT_KIND_INVOICE_FINALIZED, "An invoice was made and finalised."),
    "payment_succeeded": (test_clock_pb2.CLOCK_EVENT_KIND_PAYMENT_SUCCEEDED, "A charge succeeded."),
    "payment_landed_late": (
        test_clock_pb2.CLOCK_EVENT_KIND_PAYMENT_SUCCEEDED,
        "A charge succeeded late; it is kept as credit.",
    ),
    "payment_failed": (test_clock_pb2.CLOCK_EVENT_KIND_PAYMENT_FAILED, "A charge failed"),
    "payment_pending": (test_clock_pb2.CLOCK_EVENT_KIND_PAYMENT_WAITING, "A charge waits for the provider."),
    "payment_action_required": (test_clock_pb2.CLOCK_EVENT_KIND_PAYMENT_WAITING, "A charge waits for the client."),
    "payment_unknown": (test_clock_pb2.CLOCK_EVENT_KIND_PAYMENT_WAITING, "The outcome of a charge is not known yet."),
    "invoice_overdue": (test_clock_pb2.CLOCK_EVENT_KIND_INVOICE_OVERDUE, "An invoice became overdue."),
    "collection_exhausted": (
        test_clock_pb2.CLOCK_EVENT_KIND_INVOICE_OVERDUE,
        "The last try failed: the invoice is overdue.",
    ),
    "payment_cancelled": (
        test_clock_pb2.CLOCK_EVENT_KIND_AUTOPAY_CANCELLED,
        "The automatic collection of an invoice was cancelled.",
    ),
    "engagement_renewed": (test_clock_pb2.CLOCK_EVENT_KIND_ENGAGEMENT_RENEWED, "An engagement renewed itself."),
    "engagement_ended": (test_clock_pb2.CLOCK_EVENT_KIND_ENGAGEMENT_ENDED, "An engagement came to its end date."),
}
_RECEIVED: Final = frozenset({"payment_succeeded", "payment_landed_late"})


class _Summary:
    """What the advance has come to so far."""

    def __init__(self) -> None:
        self.kinds: Counter[int] = Counter()
        self.invoiced: Counter[str] = Counter()
        self.received: Counter[str] = Counter()

    def add(self, row: Row, kind: int) -> None:
        self.kinds[kind] += 1
        currency, amount = row["metadata"].get("currency_code"), _amount(row)
        if currency is None or amount is None:
            return
        if row["action"] == "invoice_finalized":
            self.invoiced[currency] += amount
        elif row["action"] in _RECEIVED:
            self.received[currency] += amount

    @property
    def message(self) -> test_clock_pb2.ClockAdvanceSummary:
        return test_clock_pb2.ClockAdvanceSummary(
            counts=[test_clock_pb2.ClockEventCount(kind=kind, count=n) for kind, n in sorted(self.kinds.items())],  # type: ignore[arg-type]
            invoiced_amounts=_amounts(self.invoiced),
            received_amounts=_amounts(self.received),
        )


async def tail_advance(
    database: Database, context: CallContext, run_id: UUID
) -> AsyncIterator[admin_service_pb2.AdvanceTestClockResponse]:
    """Tell an advance from its beginning until its run has ended and everything was told. RESOURCE_NOT_FOUND."""
    cursor: TrailCursor | None = None
    summary, seq = _Summary(), 0
    shown: tuple[Any, Any] | None = None
    told = time.monotonic()
    while True:

        async def look(uow: UnitOfWork, at: TrailCursor | None = cursor) -> tuple[Clock, Run, list[Row], TrailCursor]:
            run = await runs.get(uow, run_id)
            start = at or TrailCursor(int(run.params["after_xact"]))
            until = run.end_time if run.state.is_final else None
            return await clocks.get(uow, None), run, *await store.happened(uow, start, list(_KINDS), until, EVENTS)

        clock, run, rows, cursor = await database.run(context, look, write=False)
        last = run.state.is_final and len(rows) < EVENTS
        messages = (clock_message(clock), run_message(run, clock.firm_id))
        if rows or last or messages != shown or time.monotonic() - told >= LIFE_SECONDS:
            events = [_event(row, seq + n, summary) for n, row in enumerate(rows, 1)]
            yield admin_service_pb2.AdvanceTestClockResponse(
                test_clock=messages[0], run=messages[1], events=events, summary=summary.message, last=last
            )
            shown, told = messages, time.monotonic()
        seq += len(rows)
        if last:
            return
        if len(rows) < EVENTS:
            await asyncio.sleep(POLL_SECONDS)


def _event(row: Row, seq: int, summary: _Summary) -> test_clock_pb2.ClockEvent:
    kind, text = _KINDS[row["action"]]
    summary.add(row, kind)
    metadata: dict[str, Any] = row["metadata"]
    own = {row["object_type"].lower(): row["object_id"]}
    amount = _amount(row)
    currency = metadata.get("currency_code")
    return test_clock_pb2.ClockEvent(
        seq=seq,
        event_time=timestamp(row["firm_time"]),
        kind=kind,  # type: ignore[arg-type]
        client_id=_named(metadata, own, "client", Prefix.CLIENT),
        engagement_id=_named(metadata, own, "engagement", Prefix.ENGAGEMENT),
        invoice_id=_named(metadata, own, "invoice", Prefix.INVOICE),
        payment_id=_named(metadata, own, "payment", Prefix.PAYMENT),
        amount=money_pb2.Money(currency_code=currency, amount_minor=amount)
        if currency and amount is not None
        else None,
        message=_failure(metadata) if row["action"] == "payment_failed" else text,
    )


def _failure(metadata: dict[str, Any]) -> str:
    retry = metadata.get("next_retry_time")
    what_next = f"the next try is on {retry[:10]}" if retry else "no other try is planned"
    return f"A charge failed ({metadata.get('failure_code') or 'no reason given'}); {what_next}."


def _named(metadata: dict[str, Any], own: dict[str, UUID], kind: str, prefix: Prefix) -> str:
    if kind in own:
        return id_text(prefix, own[kind])
    value = metadata.get(f"{kind}_id")
    if not value:
        return ""
    return str(value) if "_" in str(value) else id_text(prefix, UUID(str(value)))


def _amount(row: Row) -> int | None:
    metadata = row["metadata"]
    value = metadata.get("total_minor", metadata.get("amount_minor"))
    return None if value is None else int(value)


def _amounts(sums: Counter[str]) -> list[money_pb2.Money]:
    return [money_pb2.Money(currency_code=code, amount_minor=minor) for code, minor in sorted(sums.items())]
