"""`generate-package-invoices` and `process-recurring-charges`: runs executed in this process, shared with any job workers there are.

Each firm's part is a run like any other: it shows in ListRuns, another process may help with it, and what is left of one that was
interrupted is finished by the next worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb

from dunwell_server.bootstrap import Application
from dunwell_server.cli import bulk_report
from dunwell_server.cli.bulk_progress import watching
from dunwell_server.cli.output import Output
from dunwell_server.cli.problems import FAILED, describe
from dunwell_server.cli.session import FirmRow, application, context, firms
from dunwell_server.kernel.calendar import local_date
from dunwell_server.kernel.errors import DunwellError
from dunwell_server.kernel.ids import uuid7
from dunwell_server.platform import runs
from dunwell_server.platform.runs import Run, RunKind, RunState

COMMANDS: Final = {
    RunKind.PACKAGES: "generate-package-invoices", RunKind.COLLECTION: "process-recurring-charges", RunKind.RECONCILIATION: "reconcile",
}  # fmt: skip
FIRMS_AT_ONCE: Final = 4
_POLL_SECONDS: Final = 0.2

_CREATE_PARENT = """
INSERT INTO control.run (id, kind, dry_run, params, actor) VALUES (%(id)s, %(kind)s, %(dry_run)s, %(params)s, %(actor)s)
"""
_CLOSE_PARENT = (
    "UPDATE control.run SET state = %(state)s, end_time = clock_timestamp() WHERE id = %(id)s AND state = 'RUNNING'"
)


@dataclass(slots=True)
class FirmPart:
    """One firm's part of a command: its run, or why there is none."""

    firm: FirmRow
    run: Run | None = None
    error: str | None = None
    items: list[bulk_report.Item] = field(default_factory=list)
    reasons: dict[str, dict[str, int]] = field(default_factory=dict)
    """Number of items by outcome and reason."""

    @property
    def ok(self) -> bool:
        """The run came to its end and no item failed. A declined card is no failure of the run."""
        run = self.run
        return (
            self.error is None
            and run is not None
            and run.state is RunState.SUCCEEDED
            and not run.counts.get("FAILED", 0)
        )


async def run(kind: RunKind, *, dry_run: bool, firm_id: str | None, as_of: date | None, as_json: bool) -> int:
    """Run it for one firm or for all active ones and print what came of it. Returns the exit code."""
    command, output = COMMANDS[kind], Output(as_json=as_json)
    async with application(command) as app:
        rows = await firms(app.database, command, firm_id)
        parent = await create_parent(app, kind, dry_run, as_of) if firm_id is None and rows else None
        parts = await execute(app, kind, rows, output, dry_run=dry_run, as_of=as_of, parent=parent)
        if parent is not None:
            await close_parent(app, kind, parent, parts)
    bulk_report.show(kind, parts, output, dry_run=dry_run, parent_id=parent)
    return 0 if all(part.ok for part in parts) else FAILED


async def execute(
    app: Application,
    kind: RunKind,
    rows: Sequence[FirmRow],
    output: Output,
    *,
    dry_run: bool = False,
    as_of: date | None = None,
    parent: UUID | None = None,
    params: Mapping[str, Any] | None = None,
) -> list[FirmPart]:
    """Run it for these firms, a few at a time, with a progress bar, and read back what came of it. `params`: instead of the day."""
    parts = [FirmPart(firm) for firm in rows]
    with watching(kind, parts, output) as refresh:
        gate = asyncio.Semaphore(FIRMS_AT_ONCE)
        await asyncio.gather(*(_one(app, kind, part, dry_run, as_of, parent, params, gate, refresh) for part in parts))
    return parts


async def _one(
    app: Application,
    kind: RunKind,
    part: FirmPart,
    dry_run: bool,
    as_of: date | None,
    parent: UUID | None,
    given: Mapping[str, Any] | None,
    gate: asyncio.Semaphore,
    refresh: Callable[[], None],
) -> None:
    """Create, execute and read back one firm's run; what goes wrong is that firm's alone."""
    async with gate:
        try:
            ctx = context(part.firm.id, COMMANDS[kind])
            async with app.database.transaction(ctx) as uow:
                day = as_of or local_date(uow.now, uow.firm.settings.zone)
                params = {"as_of": day.isoformat()} if given is None else given
                part.run = await runs.create(uow, kind, params, dry_run=dry_run, run_id=uuid7(), parent_id=parent)
            await _execute(app, part, refresh)
            async with app.database.transaction(ctx, write=False) as uow:
                part.items = await bulk_report.load_items(uow, part.run.id, dry_run=dry_run)
                part.reasons = await bulk_report.load_reasons(uow, part.run.id)
        except DunwellError as error:
            part.error = describe(error)[0]


async def _execute(app: Application, part: FirmPart, refresh: Callable[[], None]) -> None:
    """Work on the run until it has ended, here or elsewhere, keeping `part.run` up to date."""
    assert part.run is not None
    ctx = context(part.firm.id, f"run:{part.run.kind.value.lower()}")
    while not part.run.state.is_final:
        work = asyncio.create_task(app.run_handler.execute(app.database, ctx, part.run))
        try:
            while not work.done():
                await asyncio.wait([work], timeout=_POLL_SECONDS)
                await _reload(app, part)
                refresh()
            await work
        finally:
            work.cancel()
        if not part.run.state.is_final:  # the rest of its chunks are in another worker's hands
            await asyncio.sleep(_POLL_SECONDS)
            await _reload(app, part)
    refresh()


async def _reload(app: Application, part: FirmPart) -> None:
    assert part.run is not None
    async with app.database.transaction(context(part.firm.id, "cli:watch"), write=False) as uow:
        part.run = await runs.get(uow, part.run.id)


async def create_parent(
    app: Application, kind: RunKind, dry_run: bool, as_of: date | None, params: Mapping[str, Any] | None = None
) -> UUID:
    """The run over all firms under which each firm's run is told."""
    given = params if params is not None else {"as_of": as_of.isoformat()} if as_of else {}
    parent = uuid7()
    ctx = context(None, COMMANDS[kind])
    values = {
        "id": parent, "kind": kind.value, "dry_run": dry_run, "params": Jsonb(dict(given)),
        "actor": ctx.actor.label,
    }  # fmt: skip
    async with app.database.transaction(ctx) as uow:
        await uow.execute(_CREATE_PARENT, values)
    return parent


async def close_parent(app: Application, kind: RunKind, parent: UUID, parts: Sequence[FirmPart]) -> None:
    """End it: FAILED where a firm's run broke."""
    broken = any(part.error or part.run is None or part.run.state is not RunState.SUCCEEDED for part in parts)
    values = {"id": parent, "state": "FAILED" if broken else "SUCCEEDED"}
    async with app.database.transaction(context(None, COMMANDS[kind])) as uow:
        await uow.execute(_CLOSE_PARENT, values)
