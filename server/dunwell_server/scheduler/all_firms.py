"""Runs over all firms: one row in schema `control`, a part for each firm, and in each firm a run of its own.

Starting one is a single transaction without a tenant; the firms' own runs are made by whoever works for the firm, inside its tenancy.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb

from dunwell.v1 import run_pb2
from dunwell_server.kernel.calendar import local_date
from dunwell_server.kernel.ids import derive_uuid, uuid7
from dunwell_server.platform import runs
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, Row, UnitOfWork
from dunwell_server.platform.runs import RunKind
from dunwell_server.rpc.run_progress import tail_all_firms

_START: Final = """
INSERT INTO control.run (id, kind, dry_run, params, actor) VALUES (%(id)s, %(kind)s, %(dry_run)s, %(params)s, %(actor)s)
"""
_PARTS: Final = """
WITH part AS (
    INSERT INTO control.run_part (run_id, firm_id)
    SELECT %(id)s, f.id FROM control.firm f
    WHERE f.state = 'ACTIVE' AND NOT EXISTS (SELECT 1 FROM control.test_clock c WHERE c.firm_id = f.id) RETURNING firm_id
)
INSERT INTO control.wake (firm_id, kind, due) SELECT firm_id, 'run', clock_timestamp() FROM part
"""
_OPEN_PARTS: Final = """
SELECT p.run_id, p.state, r.kind, r.dry_run, r.params FROM control.run_part p JOIN control.run r ON r.id = p.run_id
WHERE p.firm_id = %(firm_id)s AND p.state <> 'DONE' ORDER BY p.run_id FOR UPDATE OF p SKIP LOCKED
"""
_MARK: Final = "UPDATE control.run_part SET state = %(state)s WHERE run_id = %(run_id)s AND firm_id = %(firm_id)s"
_CLOSE: Final = """
UPDATE control.run r SET state = 'SUCCEEDED', end_time = clock_timestamp()
WHERE r.id = %(run_id)s AND r.state = 'RUNNING' AND NOT EXISTS (SELECT 1 FROM control.run_part p WHERE p.run_id = r.id AND p.state <> 'DONE')
"""
_LOCK_WHOLE: Final = "SELECT 1 FROM control.run WHERE id = %(run_id)s FOR NO KEY UPDATE"
_HAS_PARTS: Final = "SELECT EXISTS (SELECT 1 FROM control.run_part WHERE firm_id = %(firm_id)s AND state <> 'DONE')"


class AllFirmsRuns:
    """Starts runs over all firms and tells how they go; the servicers' port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def start(self, uow: UnitOfWork, kind: RunKind, params: Mapping[str, Any], *, dry_run: bool) -> UUID:
        """Queue a run for every active firm that lives in real time; `uow` is firmless. Firms on test clocks do their work when advanced."""
        run_id = uuid7()
        values = {
            "id": run_id,
            "kind": kind.value,
            "dry_run": dry_run,
            "params": Jsonb(dict(params)),
            "actor": uow.context.actor.label,
        }
        await uow.execute(_START, values)
        await uow.execute(_PARTS, values)
        await uow.execute(_CLOSE, {"run_id": run_id})
        return run_id

    def tail(self, context: CallContext, run_id: UUID) -> AsyncIterator[run_pb2.RunProgress]:
        """The progress of the run over all until it ends."""
        return tail_all_firms(self._database, context, run_id)


async def has_parts(uow: UnitOfWork) -> bool:
    """Whether the firm has a part in a run over all firms that it has not finished."""
    return bool(await uow.fetch_value(_HAS_PARTS, {"firm_id": uow.firm_id}))


async def serve_parts(uow: UnitOfWork) -> None:
    """Start the firm's run for each part that waits; report those whose run has ended, the last of which ends the whole."""
    for part in await uow.fetch_all(_OPEN_PARTS, {"firm_id": uow.firm_id}):
        if part["state"] == "WAITING":
            await _start_part(uow, part)
        elif (await runs.get(uow, _part_id(uow, part))).state.is_final:
            values = {"run_id": part["run_id"], "firm_id": uow.firm_id}
            # One firm at a time: two that end together would each see the other at work, and nobody would close the whole.
            await uow.execute(_LOCK_WHOLE, values)
            await uow.execute(_MARK, {**values, "state": "DONE"})
            await uow.execute(_CLOSE, values)


async def _start_part(uow: UnitOfWork, part: Row) -> None:
    params = dict(part["params"])
    if part["kind"] == RunKind.PACKAGES:
        params.setdefault("as_of", local_date(uow.now, uow.firm.settings.zone).isoformat())
    await runs.create(
        uow,
        RunKind(part["kind"]),
        params,
        dry_run=part["dry_run"],
        run_id=_part_id(uow, part),
        parent_id=part["run_id"],
    )
    await uow.execute(_MARK, {"run_id": part["run_id"], "firm_id": uow.firm_id, "state": "STARTED"})


def _part_id(uow: UnitOfWork, part: Row) -> UUID:
    return derive_uuid("run part", part["run_id"], uow.firm_id)
