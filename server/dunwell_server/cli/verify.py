"""`verify`: recompute everything that must hold, as the auditor's role, and name the rows where it does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import httpx
import psycopg
from psycopg.rows import dict_row
from rich.markup import escape

from dunwell_server.bootstrap import resolve_urls
from dunwell_server.cli.installation import anchor_folder, database_of, sandbox_url
from dunwell_server.cli.output import Output, table
from dunwell_server.cli.problems import FAILED, CommandError, configure, load_settings
from dunwell_server.cli.session import application, context, firms
from dunwell_server.config import Settings
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.platform.anchors import AnchorStore
from dunwell_server.platform.invariants import Check, Movement, Violation, check_provider, run_all, run_for_firm

_SHOWN: Final = 10
_WIDE: Final = 110
"""Columns of a window that has room for the descriptions."""
_TIMEOUT: Final = 5.0


async def verify(*, firm_id: str | None, as_json: bool) -> int:
    """Check all firms, or what row security lets one firm see. Returns 1 where anything does not hold."""
    output = Output(as_json=as_json)
    settings = load_settings()
    configure(settings, process="verify")
    note: str | None
    if firm_id is None:
        checks, note = await _all(settings, output)
    else:
        checks, note = (
            await _one(firm_id),
            "one firm: the catalogue, the audit chains' anchors and the provider are not looked at",
        )
    ok = all(check.ok for check in checks)
    output.result({"command": "verify", "ok": ok, "note": note, "checks": [_as_json(check) for check in checks]})
    _show(checks, note, output)
    return 0 if ok else FAILED


async def _all(settings: Settings, output: Output) -> tuple[list[Check], str | None]:
    with database_of(settings):
        url = resolve_urls(settings).auditor
        if url is None:
            raise CommandError(
                "verify reads as the auditor: set DUNWELL_AUDIT_DATABASE_URL, or DUNWELL_OWNER_DATABASE_URL", 2
            )
        output.note("Recomputing the books …")
        checks = await run_all(url, AnchorStore(anchor_folder(settings), settings.keys))
        url_of_sandbox = sandbox_url(settings)
        movements = await _movements(url_of_sandbox, "charge") if settings.enable_sandbox else None
        sent_back = await _movements(url_of_sandbox, "refund") if movements is not None else None
        if movements is None or sent_back is None:
            return checks, "the sandbox gateway does not answer: its record was not compared"
        async with await psycopg.AsyncConnection.connect(url, row_factory=dict_row, autocommit=True) as connection:

            async def fetch(statement: Any, params: dict[str, Any]) -> list[dict[str, Any]]:
                return await (await connection.execute(statement, params)).fetchall()

            checks.append(await check_provider(fetch, movements))
            checks.append(await check_provider(fetch, sent_back, refunds=True))
    return checks, None


async def _one(firm_id: str) -> list[Check]:
    async with application("verify", pool_size=1) as app:
        (firm,) = await firms(app.database, "verify", firm_id)
        async with app.database.transaction(context(firm.id, "verify"), write=False) as uow:
            return await run_for_firm(uow)


async def _movements(url: str, kind: str) -> list[Movement] | None:
    """Every charge or refund of the sandbox gateway's own book, as positive amounts; None where it does not answer."""
    try:
        async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT, trust_env=False) as client:
            response = await client.get(
                "/control/ledger", params={"group": "payment" if kind == "charge" else "object", "kind": kind}
            )
            response.raise_for_status()
            groups = response.json()["groups"]
    except (httpx.HTTPError, ValueError, KeyError):
        return None
    return [
        Movement(reference, abs(int(minor)), currency)
        for reference, entry in groups.items()
        for currency, minor in entry["amounts"].items()
        for _ in range(entry["count"] if len(entry["amounts"]) == 1 else 1)
    ]


def _show(checks: Sequence[Check], note: str | None, output: Output) -> None:
    wide = output.out.width >= _WIDE
    rows = table("No", "Check", "Result", *(["What must hold"] if wide else []), right=["No"])
    for check in checks:
        result = "[green]ok[/green]" if check.ok else f"[bold red]{check.count:,} violated[/bold red]"
        rows.add_row(str(check.number), check.name, result, *([escape(check.description)] if wide else []))
    output.say(rows)
    for check in checks:
        if check.ok:
            continue
        found = table("Firm", "Object", "What is wrong", title=f"{check.name}: {check.count:,}")
        for row in check.rows[:_SHOWN]:
            found.add_row(_firm(row) or "–", f"{row.object_type} {row.object_id}", escape(row.message))
        output.say(found)
        if check.count > _SHOWN:
            output.say(f"… and {check.count - _SHOWN:,} more; --json lists the first {len(check.rows)}.")
    if note:
        output.say(f"Note: {note}.")
    failed = sum(not check.ok for check in checks)
    output.say(
        f"[bold red]{failed} of {len(checks)} checks failed.[/bold red]"
        if failed
        else f"All {len(checks)} checks hold."
    )


def _firm(row: Violation) -> str | None:
    return encode(Prefix.FIRM, row.firm_id) if row.firm_id else None


def _as_json(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "number": check.number,
        "description": check.description,
        "ok": check.ok,
        "violation_count": check.count,
        "violations": [
            {"firm_id": _firm(row), "object_type": row.object_type, "object_id": row.object_id, "message": row.message}
            for row in check.rows
        ],
    }
