"""`advance-clock`: move a firm's test clock and tell, as a timeline, what falls due on the way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Final
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from rich.markup import escape

from dunwell.v1 import admin_service_pb2, test_clock_pb2
from dunwell_server.admin.rpc.clock_stream import tail_advance
from dunwell_server.admin.service import clocks
from dunwell_server.bootstrap import Application
from dunwell_server.cli.output import Output, amounts, money
from dunwell_server.cli.problems import FAILED
from dunwell_server.cli.session import FirmRow, application, context, firms
from dunwell_server.cli.spans import parse_moment, parse_span
from dunwell_server.kernel.ids import Prefix, decode, encode, uuid7
from dunwell_server.platform import runs
from dunwell_server.platform.context import system_context
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.runs import Run, RunState

COMMAND: Final = "advance-clock"
_LOOK_AGAIN_SECONDS: Final = 0.5
_STYLES: Final = {
    "PAYMENT_SUCCEEDED": "green", "PAYMENT_FAILED": "red", "INVOICE_OVERDUE": "bold red", "WORK_FAILED": "bold red",
    "PAYMENT_WAITING": "yellow", "AUTOPAY_CANCELLED": "yellow",
}  # fmt: skip
_NAMES: Final = """
SELECT p.id AS payment_id, i.id AS invoice_id, i.number, c.name
FROM invoice i JOIN client c ON c.firm_id = i.firm_id AND c.id = i.client_id
LEFT JOIN payment p ON p.firm_id = i.firm_id AND p.invoice_id = i.id AND p.id = ANY(%(payments)s)
WHERE i.firm_id = %(firm_id)s AND (i.id = ANY(%(invoices)s) OR p.id IS NOT NULL)
"""
_ENGAGEMENTS: Final = """
SELECT e.id, e.name || ', ' || c.name AS name FROM engagement e JOIN client c ON c.firm_id = e.firm_id AND c.id = e.client_id
WHERE e.firm_id = %(firm_id)s AND e.id = ANY(%(engagements)s)
"""

Response = admin_service_pb2.AdvanceTestClockResponse


async def advance(firm_id: str, *, to: str | None, by: str | None, as_json: bool) -> int:
    """Advance to a moment or by a span; 1 where the run broke or a piece of due work failed."""
    output = Output(as_json=as_json)
    span = parse_span(by) if by is not None else None
    async with application(COMMAND) as app:
        (firm,) = await firms(app.database, COMMAND, firm_id)
        run, zone = await _start(app, firm, to, span)
        work = asyncio.create_task(_drive(app, firm.id, run))
        events: list[dict[str, Any]] = []
        last: Response | None = None
        try:
            async for last in tail_advance(app.database, context(firm.id, COMMAND), run.id):
                async with app.database.transaction(context(firm.id, COMMAND), write=False) as uow:
                    names = await _names(uow, last.events)
                events += [_event_json(event) for event in last.events]
                for event in last.events:
                    output.say(_line(event, names, zone))
            await work
        finally:
            work.cancel()
        async with app.database.transaction(context(firm.id, COMMAND), write=False) as uow:
            ended = await runs.get(uow, run.id)
            now = uow.now
    assert last is not None
    return _conclude(output, firm, ended, last, events, now.astimezone(zone))


async def _start(app: Application, firm: FirmRow, to: str | None, span: timedelta | None) -> tuple[Run, tzinfo]:
    async with app.database.transaction(context(firm.id, COMMAND)) as uow:
        zone = uow.firm.settings.zone
        target = parse_moment(to, zone) if to is not None else None
        run_id = await clocks.start_advance(uow, None, target, span, uuid7())
        return await runs.get(uow, run_id), zone


async def _drive(app: Application, firm_id: UUID, run: Run) -> None:
    """Work on the run until it has ended; where a job worker was faster, look again from time to time whether it still lives."""
    ctx = system_context(firm_id, "job:run")
    while not run.state.is_final:
        await app.run_handler.execute(app.database, ctx, run)
        async with app.database.transaction(ctx, write=False) as uow:
            run = await runs.get(uow, run.id)
        if not run.state.is_final:
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)


async def _names(uow: UnitOfWork, events: Sequence[test_clock_pb2.ClockEvent]) -> dict[str, str]:
    """What invoices, payments and engagements are called, by their public ids."""
    ids: dict[Prefix, list[UUID]] = {Prefix.INVOICE: [], Prefix.PAYMENT: [], Prefix.ENGAGEMENT: []}
    for event in events:
        named = (
            (Prefix.INVOICE, event.invoice_id),
            (Prefix.PAYMENT, event.payment_id),
            (Prefix.ENGAGEMENT, event.engagement_id),
        )
        for prefix, text in named:
            if text:
                ids[prefix].append(decode(prefix, text, "event"))
    names: dict[str, str] = {}
    values = {
        "firm_id": uow.firm_id, "invoices": ids[Prefix.INVOICE], "payments": ids[Prefix.PAYMENT], "engagements": ids[Prefix.ENGAGEMENT]
    }  # fmt: skip
    if ids[Prefix.INVOICE] or ids[Prefix.PAYMENT]:
        for row in await uow.fetch_all(_NAMES, values):
            text = f"{row['number']}, {row['name']}"
            names[encode(Prefix.INVOICE, row["invoice_id"])] = text
            if row["payment_id"]:
                names[encode(Prefix.PAYMENT, row["payment_id"])] = text
    if ids[Prefix.ENGAGEMENT]:
        for row in await uow.fetch_all(_ENGAGEMENTS, values):
            names[encode(Prefix.ENGAGEMENT, row["id"])] = row["name"]
    return names


def _line(event: test_clock_pb2.ClockEvent, names: dict[str, str], zone: tzinfo) -> str:
    kind = _kind(event)
    style = _STYLES.get(kind, "")
    shown = f"{kind.lower().replace('_', ' '):<18}"
    what = next((names[key] for key in (event.invoice_id, event.payment_id, event.engagement_id) if key in names), "")
    amount = money(event.amount.amount_minor, event.amount.currency_code) if event.HasField("amount") else ""
    when = _instant(event.event_time).astimezone(zone).strftime("%Y-%m-%d %H:%M")
    text = f"{when}  {f'[{style}]{shown}[/{style}]' if style else shown}  {amount:>14}  {escape(what)}"
    return (
        f"{text}  [dim]{escape(event.message)}[/dim]"
        if kind in ("PAYMENT_FAILED", "WORK_FAILED", "INVOICE_OVERDUE")
        else text
    )


def _conclude(
    output: Output, firm: FirmRow, run: Run, last: Response, events: list[dict[str, Any]], now: datetime
) -> int:
    summary = last.summary
    counts = {_name(entry.kind): entry.count for entry in summary.counts}
    invoiced = {entry.currency_code: entry.amount_minor for entry in summary.invoiced_amounts}
    received = {entry.currency_code: entry.amount_minor for entry in summary.received_amounts}
    ok = run.state is RunState.SUCCEEDED and not counts.get("WORK_FAILED")
    output.result(
        {
            "command": COMMAND, "ok": ok, "firm_id": firm.public_id, "run_id": encode(Prefix.RUN, run.id), "state": run.state.value,
            "error": run.error, "firm_time": now, "counts": {name.lower(): count for name, count in counts.items()},
            "invoiced": invoiced, "received": received, "events": events,
        }
    )  # fmt: skip
    told = (
        ", ".join(f"{count:,} {name.lower().replace('_', ' ')}" for name, count in counts.items()) or "nothing fell due"
    )
    output.say(f"\n{escape(firm.display_name)} has come to {now:%Y-%m-%d %H:%M %Z}: {told}.")
    output.say(f"Invoiced {amounts(invoiced)}, received {amounts(received)}.")
    if run.state is not RunState.SUCCEEDED:
        output.say(f"[red]The advance {run.state.value.lower()}: {escape(run.error or 'no reason given')}[/red]")
    return 0 if ok else FAILED


def _event_json(event: test_clock_pb2.ClockEvent) -> dict[str, Any]:
    amount = event.amount if event.HasField("amount") else None
    return {
        "seq": event.seq, "time": _instant(event.event_time), "kind": _kind(event).lower(), "client_id": event.client_id or None,
        "engagement_id": event.engagement_id or None, "invoice_id": event.invoice_id or None, "payment_id": event.payment_id or None,
        "amount_minor": amount.amount_minor if amount else None, "currency_code": amount.currency_code if amount else None,
        "message": event.message,
    }  # fmt: skip


def _kind(event: test_clock_pb2.ClockEvent) -> str:
    return _name(event.kind)


def _name(kind: int) -> str:
    return test_clock_pb2.ClockEventKind.Name(kind).removeprefix("CLOCK_EVENT_KIND_")  # type: ignore[arg-type]


def _instant(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)
