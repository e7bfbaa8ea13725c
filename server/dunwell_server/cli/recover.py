"""`recover`: recovery mode after a restore. Nothing is charged until the providers' record has been taken over and agrees."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC
from typing import Any, Final
from uuid import UUID

from rich.markup import escape

from dunwell_server.bootstrap import Application
from dunwell_server.cli.output import Output, table
from dunwell_server.cli.problems import FAILED, USAGE, CommandError
from dunwell_server.cli.session import FirmRow, application, context, firms
from dunwell_server.cli.spans import parse_moment
from dunwell_server.kernel.errors import DunwellError
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments.jobs.recovering import Recovered, Recoverer, leave, tell_entered
from dunwell_server.platform import recovery
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.recovery import Recovery

COMMAND: Final = "recover"
NEW_CLUSTER: Final = (
    "This cluster's transaction ids lie behind those in the restored rows: audit entries and events would be passed over. "
    "Stop the server, raise its epoch (pg_resetwal --epoch), restore again; the handbook on restoring has the steps."
)


async def enter(*, firm_id: str | None, since: str, as_json: bool) -> int:
    """Put one firm or all into recovery; `since` is when the backup was made."""
    output = Output(as_json=as_json)
    moment = parse_moment(since, UTC, "--since")
    async with application(COMMAND) as app:
        wanted = (await firms(app.database, COMMAND, firm_id))[0].id if firm_id is not None else None
        async with app.database.transaction(context(None, COMMAND)) as uow:
            if moment > uow.machine_now:
                raise CommandError("--since lies in the future", USAGE)
            entered = await recovery.enter(uow, moment, wanted)
        fits = True
        for each in entered:
            async with app.database.transaction(_upkeep(each)) as uow:
                await tell_entered(uow, moment)
                fits = await recovery.transaction_ids_fit(uow) and fits
    output.result({"command": "recover enter", "ok": fits, "firms": [encode(Prefix.FIRM, each) for each in entered]})
    output.say(
        f"{len(entered):,} firms are in recovery: nothing is charged for them. `dunwell recover run` takes the record over."
    )
    if not fits:
        output.say(f"[bold red]{NEW_CLUSTER}[/bold red]")
    return 0 if fits else FAILED


async def status(*, as_json: bool) -> int:
    """List the firms in recovery; 1 while there is one."""
    output = Output(as_json=as_json)
    async with application(COMMAND) as app:
        found = await _recovering(app, None)
    output.result({"command": "recover status", "ok": not found, "firms": [_as_json(each) for each in found]})
    if not found:
        output.say("No firm is in recovery.")
        return 0
    rows = table("Firm", "Backup made", "In recovery since", "By", "Last run")
    for each in found:
        run = encode(Prefix.RUN, each.run_id) if each.run_id else "–"
        rows.add_row(
            escape(each.display_name), f"{each.window_start:%Y-%m-%d %H:%M:%S %Z}", f"{each.create_time:%Y-%m-%d %H:%M:%S %Z}",
            escape(each.actor), run,
        )  # fmt: skip
    output.say(rows)
    return FAILED


async def run(*, firm_id: str | None, as_json: bool) -> int:
    """Take the providers' record over for one firm or all in recovery; those whose record agrees leave it. 1 where one stays."""
    output = Output(as_json=as_json)
    results: list[dict[str, Any]] = []
    async with application(COMMAND) as app:
        wanted = (await firms(app.database, COMMAND, firm_id))[0] if firm_id is not None else None
        found = await _recovering(app, wanted)
        recoverer = Recoverer(app.run_handler.execute)
        for each in found:
            output.note(f"{each.display_name} …")
            try:
                done = await recoverer.run(app.database, context(each.firm_id, COMMAND))
                results.append(_result(each, done, None))
            except DunwellError as error:
                results.append(_result(each, None, f"{error.reason.value}: {error.message}"))
    ok = all(result["ended"] for result in results)
    output.result({"command": "recover run", "ok": ok, "firms": results})
    if not results:
        output.say("No firm is in recovery.")
    for result in results:
        _show(result, output)
    return 0 if ok else FAILED


async def end(*, firm_id: str, force: bool, as_json: bool) -> int:
    """End a firm's recovery by hand, although the record may not agree."""
    output = Output(as_json=as_json)
    if not force:
        raise CommandError(
            "`recover run` ends the recovery of a firm whose record agrees; --force ends it though it may not", USAGE
        )
    async with application(COMMAND) as app:
        firm = (await firms(app.database, COMMAND, firm_id))[0]
        async with app.database.transaction(context(firm.id, COMMAND)) as uow:
            ended = await leave(uow, forced=True)
    output.result({"command": "recover leave", "ok": ended, "firm_id": firm.public_id})
    output.say("The firm charges again." if ended else "The firm is in no recovery.")
    return 0 if ended else FAILED


def _upkeep(firm_id: UUID) -> CallContext:
    """Also a firm that is suspended, or whose clock stands in the middle of an advance, is told."""
    return replace(context(firm_id, COMMAND), upkeep=True)


async def _recovering(app: Application, firm: FirmRow | None) -> list[Recovery]:
    async with app.database.transaction(context(None, COMMAND), write=False) as uow:
        return await recovery.recovering(uow, firm.id if firm else None)


def _as_json(each: Recovery) -> dict[str, Any]:
    return {
        "firm_id": encode(Prefix.FIRM, each.firm_id), "display_name": each.display_name, "window_start": each.window_start,
        "actor": each.actor, "run_id": encode(Prefix.RUN, each.run_id) if each.run_id else None, "create_time": each.create_time,
    }  # fmt: skip


def _result(each: Recovery, done: Recovered | None, error: str | None) -> dict[str, Any]:
    failed = done.failed_run if done else None
    return {
        "firm_id": encode(Prefix.FIRM, each.firm_id), "display_name": each.display_name, "ended": bool(done and done.ended),
        "error": error or (failed.error if failed else None), "adopted": done.adopted if done else 0,
        "runs": [encode(Prefix.RUN, run.id) for run in done.runs] if done else [],
        "differences": [
            {"outcome": item.outcome, "reason": item.reason, "message": item.message, "amount_minor": item.amount_minor,
             "currency_code": item.currency_code, "provider_reference": (item.detail or {}).get("provider_reference")}
            for item in (done.differences if done else [])
        ],
        "broken": [{"check": check.name, "count": check.count} for check in (done.broken if done else [])],
    }  # fmt: skip


def _show(result: dict[str, Any], output: Output) -> None:
    name = escape(result["display_name"])
    if result["ended"]:
        output.say(
            f"[green]{name}: {result['adopted']:,} taken over; book and provider agree, the firm charges again.[/green]"
        )
        return
    output.say(f"[bold red]{name} stays in recovery.[/bold red]")
    if result["error"]:
        output.say(f"  {escape(result['error'])}")
    if result["differences"]:
        rows = table("At the provider", "What", "Why")
        for item in result["differences"][:25]:
            rows.add_row(
                str(item["provider_reference"] or "–"),
                str(item["reason"] or item["outcome"]),
                escape(item["message"] or ""),
            )
        output.say(rows)
    for check in result["broken"]:
        output.say(f"  {check['check']}: {check['count']:,} violated; `dunwell verify` names them")
