"""Runs: bulk jobs with progress, dry run, resume and history.

A run is a row that job workers compute in chunks; each chunk commits its work and its progress together, so that a crash loses nothing and
counts nothing twice. Several workers may execute one run at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from psycopg.types.json import Jsonb

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, Row, UnitOfWork
from dunwell_server.platform.questions import Question, ask
from dunwell_server.platform.work import WorkKind, wake


class RunKind(StrEnum):
    """What a run does."""

    PACKAGES = "PACKAGES"
    COLLECTION = "COLLECTION"
    CLOCK = "CLOCK"
    RECONCILIATION = "RECONCILIATION"


class RunState(StrEnum):
    """Where a run stands. FAILED means the run itself broke and can be resumed; failed items do not fail a run."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_final(self) -> bool:
        """Nothing more will happen unless someone resumes it."""
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Run:
    """One bulk job. `counts` are items by outcome; `amounts` are minor units by currency."""

    id: UUID
    kind: RunKind
    state: RunState
    dry_run: bool
    params: dict[str, Any]
    parent_id: UUID | None
    actor: str
    total: int
    done: int
    counts: dict[str, int]
    amounts: dict[str, int]
    error: str | None
    firm_time: datetime | None
    create_time: datetime
    start_time: datetime | None
    end_time: datetime | None


@dataclass(frozen=True, slots=True)
class RunItem:
    """What happened to one subject of a run that is worth telling: a skip, a failure, or a dry run's preview."""

    subject_type: str
    subject_id: UUID
    outcome: str
    reason: str | None = None
    message: str | None = None
    client_id: UUID | None = None
    amount_minor: int | None = None
    currency_code: str | None = None
    detail: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ItemCursor:
    """Where a reader of items stands: below the snapshot horizon, so that a late commit is never skipped."""

    xact: int = 0
    ordinal: int = 0


class RunExecutor(Protocol):
    """Computes the runs of one kind. Safe to be killed at any point, executed again, and executed by several workers at once."""

    kind: RunKind

    async def execute(self, database: Database, context: CallContext, run: Run) -> None:
        """Work until nothing of the run is left, and finish it."""
        ...


_COLUMNS = "id, kind, state, dry_run, params, parent_id, actor, total, done, counts, amounts, error, firm_time, create_time, start_time, end_time"
_CREATE = f"""
INSERT INTO run (firm_id, id, kind, dry_run, params, parent_id, actor, firm_time)
VALUES (%(firm_id)s, %(id)s, %(kind)s, %(dry_run)s, %(params)s, %(parent_id)s, %(actor)s, %(now)s)
ON CONFLICT (firm_id, id) DO NOTHING RETURNING {_COLUMNS}
"""
_GET = f"SELECT {_COLUMNS} FROM run WHERE firm_id = %(firm_id)s AND id = %(id)s"
_BEGIN = """
UPDATE run SET state = 'RUNNING', total = %(total)s, start_time = clock_timestamp(), version = version + 1
WHERE firm_id = %(firm_id)s AND id = %(id)s AND state = 'QUEUED'
"""
_ADVANCE = """
UPDATE run SET done = done + %(done)s, version = version + 1,
    counts = (SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM (SELECT key, sum(value::bigint) AS value FROM
        (SELECT * FROM jsonb_each_text(counts) UNION ALL SELECT * FROM jsonb_each_text(%(counts)s)) u GROUP BY key) s),
    amounts = (SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM (SELECT key, sum(value::numeric) AS value FROM
        (SELECT * FROM jsonb_each_text(amounts) UNION ALL SELECT * FROM jsonb_each_text(%(amounts)s)) u GROUP BY key) s)
WHERE firm_id = %(firm_id)s AND id = %(id)s
"""
_ADD_ITEMS = """
INSERT INTO run_item (firm_id, run_id, subject_id, subject_type, outcome, reason, message, client_id, amount_minor, currency_code, detail)
SELECT %(firm_id)s, %(id)s, subject_id, subject_type, outcome, reason, message, client_id, amount_minor, currency_code, detail
FROM unnest(%(subjects)s::uuid[], %(types)s::text[], %(outcomes)s::text[], %(reasons)s::text[], %(messages)s::text[], %(clients)s::uuid[],
            %(minors)s::bigint[], %(currencies)s::text[], %(details)s::jsonb[])
    AS i (subject_id, subject_type, outcome, reason, message, client_id, amount_minor, currency_code, detail)
ON CONFLICT DO NOTHING
"""
_FINISH = """
UPDATE run SET state = %(state)s, error = %(error)s, end_time = clock_timestamp(), version = version + 1
WHERE firm_id = %(firm_id)s AND id = %(id)s AND state IN ('QUEUED', 'RUNNING')
"""
_LIST = f"""
SELECT {_COLUMNS} FROM run
WHERE firm_id = %(firm_id)s AND (%(kinds)s::text[] IS NULL OR kind = ANY(%(kinds)s)) AND (%(states)s::text[] IS NULL OR state = ANY(%(states)s))
  AND (%(parent_id)s::uuid IS NULL OR parent_id = %(parent_id)s) AND (%(dry_run)s::boolean IS NULL OR dry_run = %(dry_run)s)
  AND (%(since)s::timestamptz IS NULL OR create_time >= %(since)s) AND (%(until)s::timestamptz IS NULL OR create_time < %(until)s)
"""
_NEWEST = """
  AND (%(after_time)s::timestamptz IS NULL OR (create_time, id) < (%(after_time)s, %(after_id)s))
ORDER BY create_time DESC, id DESC LIMIT %(limit)s
"""
_OLDEST = """
  AND (%(after_time)s::timestamptz IS NULL OR (create_time, id) > (%(after_time)s, %(after_id)s))
ORDER BY create_time, id LIMIT %(limit)s
"""
_OPEN = f"""
SELECT {_COLUMNS} FROM run WHERE firm_id = %(firm_id)s AND state IN ('QUEUED', 'RUNNING') AND kind = ANY(%(kinds)s)
ORDER BY kind <> 'CLOCK', create_time LIMIT 1
"""
_ANY_OPEN = """
SELECT EXISTS (SELECT 1 FROM run WHERE firm_id = %(firm_id)s AND state IN ('QUEUED', 'RUNNING') AND kind = ANY(%(kinds)s))
"""
_ITEMS = """
SELECT subject_type, subject_id, outcome, reason, message, client_id, amount_minor, currency_code, detail, xact::text::bigint AS xact, ordinal
FROM run_item
WHERE firm_id = %(firm_id)s AND run_id = %(id)s AND (xact, ordinal) > (%(xact)s::text::xid8, %(ordinal)s)
  AND (%(settled)s OR xact < pg_snapshot_xmin(pg_current_snapshot()))
ORDER BY xact, ordinal LIMIT %(limit)s OFFSET %(skip)s
"""


async def create(
    uow: UnitOfWork,
    kind: RunKind,
    params: Mapping[str, Any],
    *,
    dry_run: bool,
    run_id: UUID,
    parent_id: UUID | None = None,
) -> Run:
    """Queue a run and wake a worker; the same id again returns the run that exists."""
    run = await _insert(uow, kind, params, dry_run=dry_run, run_id=run_id, parent_id=parent_id)
    if run is None:
        return await get(uow, run_id)
    await wake(uow, WorkKind.RUN)
    return run


async def create_idle(uow: UnitOfWork, kind: RunKind, params: Mapping[str, Any], *, run_id: UUID) -> None:
    """Record a run that has found nothing to do: it begins and ends at once. A run of that id that exists stays as it is."""
    if await _insert(uow, kind, params, dry_run=False, run_id=run_id, parent_id=None) is None:
        return
    async with uow.conn.pipeline():
        await begin(uow, run_id, 0)
        await finish(uow, run_id)


async def _insert(
    uow: UnitOfWork, kind: RunKind, params: Mapping[str, Any], *, dry_run: bool, run_id: UUID, parent_id: UUID | None
) -> Run | None:
    values = {
        "firm_id": uow.firm_id, "id": run_id, "kind": kind.value, "dry_run": dry_run, "params": Jsonb(dict(params)), "parent_id": parent_id,
        "actor": uow.context.actor.label, "now": uow.now,
    }  # fmt: skip
    row = await uow.fetch_one(_CREATE, values)
    return None if row is None else _run(row)


async def get(uow: UnitOfWork, run_id: UUID) -> Run:
    """The run; RESOURCE_NOT_FOUND where the firm has none of that id."""
    row = await uow.fetch_one(_GET, {"firm_id": uow.firm_id, "id": run_id})
    if row is None:
        raise DunwellError(Reason.RESOURCE_NOT_FOUND, "No such run.", resource=("Run", str(run_id)))
    return _run(row)


async def begin(uow: UnitOfWork, run_id: UUID, total: int) -> bool:
    """Move a queued run to RUNNING with the number of subjects expected; False where another worker began it already."""
    return await uow.execute(_BEGIN, {"firm_id": uow.firm_id, "id": run_id, "total": total}) == 1


async def advance(
    uow: UnitOfWork,
    run_id: UUID,
    *,
    done: int = 0,
    counts: Mapping[str, int] | None = None,
    amounts: Mapping[str, int] | None = None,
    items: Sequence[RunItem] = (),
) -> None:
    """Add one chunk's progress, in the chunk's transaction. Last in the transaction: the row is shared by all workers of the run."""
    if items:
        await uow.execute(_ADD_ITEMS, _item_parameters(uow, run_id, items))
    values = {
        "firm_id": uow.firm_id,
        "id": run_id,
        "done": done,
        "counts": Jsonb(dict(counts or {})),
        "amounts": Jsonb(dict(amounts or {})),
    }
    await uow.execute(_ADVANCE, values)


async def finish(uow: UnitOfWork, run_id: UUID, state: RunState = RunState.SUCCEEDED, error: str | None = None) -> bool:
    """Close the run; False where it was closed already."""
    return await uow.execute(_FINISH, {"firm_id": uow.firm_id, "id": run_id, "state": state.value, "error": error}) == 1


def any_open(uow: UnitOfWork, kinds: Sequence[RunKind]) -> Question[bool]:
    """Whether the firm has a run of these kinds that is queued or running."""
    return ask(uow, _ANY_OPEN, {"kinds": [kind.value for kind in kinds]})


async def open_run(uow: UnitOfWork, kinds: Sequence[RunKind] = tuple(RunKind)) -> Run | None:
    """The firm's next run that is queued or running: an advance of its clock first, else the oldest."""
    row = await uow.fetch_one(_OPEN, {"firm_id": uow.firm_id, "kinds": [kind.value for kind in kinds]})
    return _run(row) if row else None


async def list_runs(
    uow: UnitOfWork,
    *,
    kinds: Sequence[str] | None = None,
    states: Sequence[str] | None = None,
    dry_run: bool | None = None,
    parent_id: UUID | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    oldest_first: bool = False,
    after: tuple[datetime, UUID] | None = None,
    limit: int = 50,
) -> list[Run]:
    """History, newest first unless asked otherwise, keyset-paged behind `after` = (create_time, id)."""
    values = {
        "firm_id": uow.firm_id, "kinds": list(kinds) if kinds else None, "states": list(states) if states else None, "parent_id": parent_id,
        "dry_run": dry_run, "since": since, "until": until, "after_time": after[0] if after else None, "after_id": after[1] if after else None,
        "limit": limit,
    }  # fmt: skip
    return [_run(row) for row in await uow.fetch_all(_LIST + (_OLDEST if oldest_first else _NEWEST), values)]


async def items_after(
    uow: UnitOfWork, run_id: UUID, cursor: ItemCursor, limit: int = 500, *, skip: int = 0, settled: bool = False
) -> tuple[list[RunItem], ItemCursor]:
    """The items after `cursor` and the cursor behind them, in commit-safe order.

    `skip` leaves out that many first. `settled` says that the run was seen to have ended: then none of its items can
    still be on its way, and none has to wait for other transactions.
    """
    values = {
        "firm_id": uow.firm_id, "id": run_id, "xact": str(cursor.xact), "ordinal": cursor.ordinal, "limit": limit,
        "skip": skip, "settled": settled,
    }  # fmt: skip
    rows = await uow.fetch_all(_ITEMS, values)
    if rows:
        cursor = ItemCursor(rows[-1]["xact"], rows[-1]["ordinal"])
    return [
        RunItem(**{key: value for key, value in row.items() if key not in ("xact", "ordinal")}) for row in rows
    ], cursor


def _item_parameters(uow: UnitOfWork, run_id: UUID, items: Sequence[RunItem]) -> dict[str, Any]:
    return {
        "firm_id": uow.firm_id,
        "id": run_id,
        "subjects": [item.subject_id for item in items],
        "types": [item.subject_type for item in items],
        "outcomes": [item.outcome for item in items],
        "reasons": [item.reason for item in items],
        "messages": [item.message for item in items],
        "clients": [item.client_id for item in items],
        "minors": [item.amount_minor for item in items],
        "currencies": [item.currency_code for item in items],
        "details": [Jsonb(dict(item.detail)) if item.detail is not None else None for item in items],
    }


def _run(row: Row) -> Run:
    return Run(**{**row, "kind": RunKind(row["kind"]), "state": RunState(row["state"])})
