"""`reconcile`: compare the book with the providers' lists, take over what is theirs only, and show what nobody can explain."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC
from typing import Any, Final
from uuid import UUID

from rich.markup import escape

from dunwell_server.cli import bulk
from dunwell_server.cli.bulk import FirmPart
from dunwell_server.cli.bulk_report import Item
from dunwell_server.cli.output import Output, amount_lines, sum_amounts, table
from dunwell_server.cli.problems import FAILED, USAGE, CommandError
from dunwell_server.cli.session import application, firms
from dunwell_server.cli.spans import parse_moment
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.platform.runs import RunKind, RunState

COMMAND: Final = "reconcile"
_OUTCOMES: Final = ("MATCHED", "ADOPTED", "DIFFERENT", "WAITING", "SKIPPED", "FAILED")
_HEADINGS: Final = {"SKIPPED": "Failed there only"}
_SHOWN: Final = 25
_WORDS: Final = {
    "THEIRS_ONLY": "only the provider has it", "OURS_ONLY": "only the book has it", "AMOUNT_DIFFERS": "other amount",
    "STATE_DIFFERS": "other state", "NOT_ENABLED": "could not be asked", "DATA": "has no place in the book",
}  # fmt: skip


async def reconcile(
    *, firm_id: str | None, provider: str | None, since: str | None, until: str | None, dry_run: bool, as_json: bool
) -> int:
    """Reconcile one firm or all active ones; 1 where a run broke or a difference is left that a person must explain."""
    output = Output(as_json=as_json)
    params = _params(provider, since, until)
    kind = RunKind.RECONCILIATION
    async with application(COMMAND) as app:
        if provider is not None and provider not in app.registry.names:
            # Nothing can differ at one that does not exist: that would look like agreement.
            raise CommandError(f"--provider must be one of {', '.join(app.registry.names)}", USAGE)
        rows = await firms(app.database, COMMAND, firm_id)
        parent = None
        if firm_id is None and rows:
            parent = await bulk.create_parent(app, kind, dry_run, None, params)
        parts = await bulk.execute(app, kind, rows, output, dry_run=dry_run, parent=parent, params=params)
        if parent is not None:
            await bulk.close_parent(app, kind, parent, parts)
    _show(parts, output, dry_run=dry_run, parent=parent)
    return 0 if all(is_clean(part) for part in parts) else FAILED


def _params(provider: str | None, since: str | None, until: str | None) -> dict[str, Any]:
    params: dict[str, Any] = {"provider": provider} if provider else {}
    moments = {
        name: parse_moment(text, UTC, f"--{name}")
        for name, text in (("since", since), ("until", until))
        if text is not None
    }
    if len(moments) == 2 and moments["until"] < moments["since"]:
        raise CommandError("--until lies before --since", USAGE)
    return params | {name: moment.isoformat() for name, moment in moments.items()}


def is_clean(part: FirmPart) -> bool:
    """The run came to its end, and book and provider agree."""
    return part.ok and part.run is not None and not part.run.counts.get("DIFFERENT", 0)


def _show(parts: Sequence[FirmPart], output: Output, *, dry_run: bool, parent: UUID | None) -> None:
    output.result(as_json(parts, dry_run=dry_run, parent=parent))
    if not parts:
        output.say("There is no active firm yet. CreateFirm makes one, or `dunwell demo` a whole example.")
        return
    output.say(_firms_table(parts, dry_run))
    for part in parts:
        show_differences(part, output)
    left = sum(part.run.counts.get("DIFFERENT", 0) for part in parts if part.run)
    if left:
        output.say(
            f"\n[bold red]{left:,} {'difference needs' if left == 1 else 'differences need'} a person.[/bold red]"
        )
    elif all(part.ok for part in parts):
        output.say("\n[green]Book and providers agree.[/green]")
    if dry_run:
        output.say("Dry run: nothing was taken over.")


def _firms_table(parts: Sequence[FirmPart], dry_run: bool) -> Any:
    headings = [_HEADINGS.get(outcome, outcome.capitalize()) for outcome in _OUTCOMES]
    last = "Would be taken over" if dry_run else "Taken over"
    result = table("Firm", *headings, last, right=[*headings, last])
    for part in parts:
        counts = part.run.counts if part.run else {}
        result.add_row(
            escape(part.firm.display_name), *(f"{counts.get(outcome, 0):,}" for outcome in _OUTCOMES),
            amount_lines(part.run.amounts) if part.run else "–",
        )  # fmt: skip
    return result


def show_differences(part: FirmPart, output: Output) -> None:
    """What broke, what differs, and what was taken over, of one firm."""
    name = escape(part.firm.display_name)
    if part.error:
        output.say(f"\n[red]{name}: {escape(part.error)}[/red]")
    elif part.run is not None and part.run.state is not RunState.SUCCEEDED:
        output.say(f"\n[red]{name}: the run {part.run.state.value.lower()}: {escape(part.run.error or '')}[/red]")
    for outcome, title in (("FAILED", "could not be compared"), ("DIFFERENT", "differs"), ("ADOPTED", "taken over")):
        items = [item for item in part.items if item.outcome == outcome]
        if not items:
            continue
        lines = table("Client", "At the provider", "Amount", "Why", right=["Amount"], title=f"{name}, {title}")
        for item in items[:_SHOWN]:
            lines.add_row(
                escape(item.client_name or "–"), escape(reference_of(item) or "–"), item.amount, escape(_why(item))
            )
        output.say(lines)
        if len(items) > _SHOWN:
            output.say(f"… and {len(items) - _SHOWN:,} more; --json lists them.")


def reference_of(item: Item) -> str:
    """The provider's id of the object."""
    return str((item.detail or {}).get("provider_reference") or "")


def _why(item: Item) -> str:
    parts = [_WORDS.get(item.reason or "", (item.reason or "").lower().replace("_", " ")), item.message or ""]
    return ": ".join(part for part in parts if part)


def as_json(parts: Sequence[FirmPart], *, dry_run: bool, parent: UUID | None) -> dict[str, Any]:
    """The command's result."""
    found = [part.run for part in parts if part.run]
    return {
        "command": COMMAND, "dry_run": dry_run, "run_id": encode(Prefix.RUN, parent) if parent else None,
        "ok": all(is_clean(part) for part in parts),
        "counts": {outcome.lower(): sum(run.counts.get(outcome, 0) for run in found) for outcome in _OUTCOMES},
        "amounts": sum_amounts(run.amounts for run in found), "firms": [_firm_json(part) for part in parts],
    }  # fmt: skip


def _firm_json(part: FirmPart) -> dict[str, Any]:
    run = part.run
    return {
        "firm_id": part.firm.public_id, "display_name": part.firm.display_name, "run_id": encode(Prefix.RUN, run.id) if run else None,
        "state": run.state.value if run else None, "error": part.error or (run.error if run else None),
        "since": run.params.get("since") if run else None, "until": run.params.get("until") if run else None,
        "counts": {outcome.lower(): (run.counts.get(outcome, 0) if run else 0) for outcome in _OUTCOMES},
        "amounts": run.amounts if run else {},
        "items": [_item_json(item) for item in part.items],
    }  # fmt: skip


def _item_json(item: Item) -> dict[str, Any]:
    detail = item.detail or {}
    payment, invoice = detail.get("payment_id"), detail.get("invoice_id")
    return {
        "outcome": item.outcome, "reason": item.reason, "message": item.message, "kind": item.subject_type,
        "provider_reference": reference_of(item) or None, "amount_minor": item.amount_minor, "currency_code": item.currency_code,
        "client_id": encode(Prefix.CLIENT, item.client_id) if item.client_id else None, "client_name": item.client_name,
        "payment_id": encode(Prefix.PAYMENT, UUID(payment)) if payment else None,
        "invoice_id": encode(Prefix.INVOICE, UUID(invoice)) if invoice else None,
    }  # fmt: skip
