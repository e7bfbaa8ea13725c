"""What a bulk command prints when its runs have ended: one line per firm, then what needs a person's eye."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from rich.markup import escape

from dunwell_server.cli.output import Output, amount_lines, money, sum_amounts, table
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.runs import RunKind, RunState

if TYPE_CHECKING:
    from dunwell_server.cli.bulk import FirmPart

MAX_ITEMS: Final = 1000
"""Items read back per firm; the counts cover all of them."""
_SHOWN: Final = 15
_PREFIXES: Final = {"engagement": Prefix.ENGAGEMENT, "invoice": Prefix.INVOICE, "payment": Prefix.PAYMENT}
_COLUMNS: Final = {
    RunKind.PACKAGES: ("CREATED", "SKIPPED", "FAILED"),
    RunKind.COLLECTION: ("CHARGED", "DECLINED", "WAITING", "SKIPPED", "FAILED"),
}
_HEADINGS: Final = {"WAITING": "Waiting"}
_COMMANDS: Final = {RunKind.PACKAGES: "generate-package-invoices", RunKind.COLLECTION: "process-recurring-charges"}

_ITEMS: Final = """
SELECT i.subject_type, i.subject_id, i.outcome, i.reason, i.message, i.amount_minor, i.currency_code, i.client_id, c.name AS client_name, i.detail,
       coalesce(v.number, e.name) AS name
FROM run_item i LEFT JOIN client c ON c.firm_id = i.firm_id AND c.id = i.client_id
LEFT JOIN invoice v ON v.firm_id = i.firm_id AND v.id = i.subject_id
LEFT JOIN engagement e ON e.firm_id = i.firm_id AND e.id = i.subject_id
WHERE i.firm_id = %(firm_id)s AND i.run_id = %(run_id)s AND (%(everything)s OR i.outcome NOT IN ('CREATED', 'CHARGED'))
ORDER BY i.outcome <> 'FAILED', i.amount_minor DESC NULLS LAST, i.ordinal LIMIT %(limit)s
"""
_REASONS: Final = """
SELECT outcome, coalesce(reason, '') AS reason, count(*) AS items FROM run_item
WHERE firm_id = %(firm_id)s AND run_id = %(run_id)s GROUP BY 1, 2 ORDER BY 3 DESC, 2
"""


@dataclass(frozen=True, slots=True)
class Item:
    """What became of one engagement or invoice, with its client's name."""

    subject_type: str
    subject_id: UUID
    outcome: str
    reason: str | None
    message: str | None
    amount_minor: int | None
    currency_code: str | None
    client_id: UUID | None
    client_name: str | None
    detail: dict[str, Any] | None
    name: str | None
    """What people call it: an invoice's number, an engagement's name."""

    @property
    def subject(self) -> str:
        """The subject's id as the API has it."""
        prefix = _PREFIXES.get(self.subject_type)
        return encode(prefix, self.subject_id) if prefix else str(self.subject_id)

    @property
    def amount(self) -> str:
        """The amount for people."""
        return (
            money(self.amount_minor, self.currency_code) if self.amount_minor is not None and self.currency_code else ""
        )

    def as_json(self) -> dict[str, Any]:
        """The item as `--json` gives it."""
        return {
            "subject_type": self.subject_type, "subject_id": self.subject, "name": self.name, "outcome": self.outcome, "reason": self.reason,
            "message": self.message, "client_id": encode(Prefix.CLIENT, self.client_id) if self.client_id else None,
            "client_name": self.client_name, "amount_minor": self.amount_minor, "currency_code": self.currency_code,
        }  # fmt: skip


async def load_items(uow: UnitOfWork, run_id: UUID, *, dry_run: bool) -> list[Item]:
    """The items worth telling, failures first, then by amount: in a dry run what would be billed too. At most MAX_ITEMS."""
    values = {"firm_id": uow.firm_id, "run_id": run_id, "everything": dry_run, "limit": MAX_ITEMS}
    return [Item(**row) for row in await uow.fetch_all(_ITEMS, values)]


async def load_reasons(uow: UnitOfWork, run_id: UUID) -> dict[str, dict[str, int]]:
    """Number of items by outcome and reason, the most frequent first."""
    result: dict[str, dict[str, int]] = {}
    for row in await uow.fetch_all(_REASONS, {"firm_id": uow.firm_id, "run_id": run_id}):
        result.setdefault(row["outcome"], {})[row["reason"]] = row["items"]
    return result


def show(kind: RunKind, parts: Sequence[FirmPart], output: Output, *, dry_run: bool, parent_id: UUID | None) -> None:
    """Print the whole report, or the JSON object."""
    output.result(_as_json(kind, parts, dry_run, parent_id))
    if not parts:
        output.say("There is no active firm yet. CreateFirm makes one, or `dunwell demo` a whole example.")
        return
    output.say(_firms_table(kind, parts, dry_run))
    for part in parts:
        _show_firm(kind, part, output, dry_run)
    if dry_run:
        output.say("\nDry run: nothing was written.")


def _firms_table(kind: RunKind, parts: Sequence[FirmPart], dry_run: bool) -> Any:
    outcomes = _COLUMNS[kind]
    headings = [_HEADINGS.get(outcome, outcome.capitalize()) for outcome in outcomes]
    verb = {RunKind.PACKAGES: "invoiced", RunKind.COLLECTION: "received"}[kind]
    last = f"Would be {verb}" if dry_run else verb.capitalize()
    result = table("Firm", *headings, last, right=[*headings, last])
    for part in parts:
        counts = part.run.counts if part.run else {}
        result.add_row(
            escape(part.firm.display_name),
            *(f"{counts.get(outcome, 0):,}" for outcome in outcomes),
            amount_lines(part.run.amounts) if part.run else "–",
        )
    if len(parts) > 1:
        result.add_section()
        found = [part.run for part in parts if part.run]
        result.add_row(
            "All firms",
            *(f"{sum(run.counts.get(outcome, 0) for run in found):,}" for outcome in outcomes),
            amount_lines(sum_amounts(run.amounts for run in found)),
            style="bold",
        )
    return result


def _show_firm(kind: RunKind, part: FirmPart, output: Output, dry_run: bool) -> None:
    name = escape(part.firm.display_name)
    if part.error:
        output.say(f"\n[red]{name}: {escape(part.error)}[/red]")
    elif part.run is not None and part.run.state is not RunState.SUCCEEDED:
        output.say(
            f"\n[red]{name}: the run {part.run.state.value.lower()}: {escape(part.run.error or 'no reason given')}[/red]"
        )
    skipped = part.reasons.get("SKIPPED")
    if skipped:
        output.say(
            f"\n{name}, skipped: " + ", ".join(f"{_words(reason)} {count:,}" for reason, count in skipped.items())
        )
    for outcome, title in (("FAILED", "failed"), ("DECLINED", "declined"), ("WAITING", "waiting")):
        _show_items(output, f"{name}, {title}", [item for item in part.items if item.outcome == outcome])
    if dry_run:
        planned = [item for item in part.items if item.outcome in ("CREATED", "CHARGED")]
        _show_items(output, f"{name}, would be {'billed' if kind is RunKind.PACKAGES else 'charged'}", planned)


def _show_items(output: Output, title: str, items: Sequence[Item]) -> None:
    if not items:
        return
    lines = table("Client", "What", "Amount", "Why", right=["Amount"], title=title)
    for item in items[:_SHOWN]:
        lines.add_row(escape(item.client_name or "–"), _what(item), item.amount, escape(_why(item)))
    output.say(lines)
    if len(items) > _SHOWN:
        output.say(f"… and {len(items) - _SHOWN:,} more; --json lists up to {MAX_ITEMS:,}.")


def _what(item: Item) -> str:
    planned = (item.detail or {}).get("lines")
    if not planned:
        return escape(item.name or item.subject)
    first = str(planned[0].get("description", item.subject))
    return escape(first if len(planned) == 1 else f"{first} and {len(planned) - 1} more")


def _why(item: Item) -> str:
    parts = [_words(item.reason or ""), item.message or ""]
    return ": ".join(part for part in parts if part)


def _words(reason: str) -> str:
    return reason.lower().replace("_", " ")


def _as_json(kind: RunKind, parts: Sequence[FirmPart], dry_run: bool, parent_id: UUID | None) -> dict[str, Any]:
    found = [part.run for part in parts if part.run]
    return {
        "command": _COMMANDS[kind],
        "dry_run": dry_run,
        "run_id": encode(Prefix.RUN, parent_id) if parent_id else None,
        "ok": all(part.ok for part in parts),
        "counts": {outcome.lower(): sum(run.counts.get(outcome, 0) for run in found) for outcome in _COLUMNS[kind]},
        "amounts": sum_amounts(run.amounts for run in found),
        "firms": [_firm_json(kind, part) for part in parts],
    }


def _firm_json(kind: RunKind, part: FirmPart) -> dict[str, Any]:
    run = part.run
    return {
        "firm_id": part.firm.public_id,
        "display_name": part.firm.display_name,
        "run_id": encode(Prefix.RUN, run.id) if run else None,
        "state": run.state.value if run else None,
        "error": part.error or (run.error if run else None),
        "as_of": run.params.get("as_of") if run else None,
        "total": run.total if run else 0,
        "done": run.done if run else 0,
        "counts": {outcome.lower(): (run.counts.get(outcome, 0) if run else 0) for outcome in _COLUMNS[kind]},
        "amounts": run.amounts if run else {},
        "reasons": part.reasons,
        "items": [item.as_json() for item in part.items],
    }
