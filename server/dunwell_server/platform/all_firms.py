"""Runs over all firms: a row of schema `control`, and one run of its own in each firm, whose sums are the whole's.

No statement crosses firms: each firm's part is read in that firm's own transaction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from dunwell_server.platform import runs
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, Row, UnitOfWork
from dunwell_server.platform.runs import Run, RunKind, RunState

_COLUMNS: Final = "id, kind, state, dry_run, params, actor, create_time, end_time"
_GET: Final = f"SELECT {_COLUMNS} FROM control.run WHERE id = %(id)s"
_LIST: Final = f"""
SELECT {_COLUMNS} FROM control.run
WHERE (%(kinds)s::text[] IS NULL OR kind = ANY(%(kinds)s)) AND (%(states)s::text[] IS NULL OR state = ANY(%(states)s))
  AND (%(dry_run)s::boolean IS NULL OR dry_run = %(dry_run)s)
  AND (%(since)s::timestamptz IS NULL OR create_time >= %(since)s) AND (%(until)s::timestamptz IS NULL OR create_time < %(until)s)
"""
_NEWEST: Final = """
  AND (%(after_time)s::timestamptz IS NULL OR (create_time, id) < (%(after_time)s, %(after_id)s))
ORDER BY create_time DESC, id DESC LIMIT %(limit)s
"""
_OLDEST: Final = """
  AND (%(after_time)s::timestamptz IS NULL OR (create_time, id) > (%(after_time)s, %(after_id)s))
ORDER BY create_time, id LIMIT %(limit)s
"""
_FIRMS: Final = "SELECT id FROM control.firm WHERE create_time <= %(until)s ORDER BY id"
_PARTS: Final = "SELECT id FROM run WHERE firm_id = %(firm_id)s AND parent_id = ANY(%(parents)s)"


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs a list shows; None does not filter."""

    kinds: Sequence[str] | None = None
    states: Sequence[str] | None = None
    dry_run: bool | None = None
    since: datetime | None = None
    until: datetime | None = None
    oldest_first: bool = False


async def get(database: Database, context: CallContext, run_id: UUID) -> Run | None:
    """The run over all firms with the sums of its parts; None where there is none of that id."""
    async with database.transaction(_firmless(context), write=False) as uow:
        row = await uow.fetch_one(_GET, {"id": run_id})
    return None if row is None else (await _with_parts(database, context, [row]))[0]


async def list_all(
    database: Database, context: CallContext, chosen: RunFilter, after: tuple[datetime, UUID] | None, limit: int
) -> list[Run]:
    """Runs over all firms, keyset-paged behind `after` = (create_time, id)."""
    values = {
        "kinds": list(chosen.kinds) if chosen.kinds else None, "states": list(chosen.states) if chosen.states else None,
        "dry_run": chosen.dry_run, "since": chosen.since, "until": chosen.until,
        "after_time": after[0] if after else None, "after_id": after[1] if after else None, "limit": limit,
    }  # fmt: skip
    async with database.transaction(_firmless(context), write=False) as uow:
        rows = await uow.fetch_all(_LIST + (_OLDEST if chosen.oldest_first else _NEWEST), values)
    return await _with_parts(database, context, rows)


async def _with_parts(database: Database, context: CallContext, rows: Sequence[Row]) -> list[Run]:
    if not rows:
        return []
    parts: dict[UUID, list[Run]] = {row["id"]: [] for row in rows}
    async with database.transaction(_firmless(context), write=False) as uow:
        ended = [row["end_time"] or uow.machine_now for row in rows]
        firms = [row["id"] for row in await uow.fetch_all(_FIRMS, {"until": max(ended)})]
    for firm_id in firms:
        async with database.transaction(context.for_firm(firm_id), write=False) as uow:
            for run in await _parts_of(uow, list(parts)):
                if run.parent_id is not None:
                    parts[run.parent_id].append(run)
    return [_sum(row, parts[row["id"]]) for row in rows]


async def _parts_of(uow: UnitOfWork, parents: list[UUID]) -> list[Run]:
    rows = await uow.fetch_all(_PARTS, {"firm_id": uow.firm_id, "parents": parents})
    return [await runs.get(uow, row["id"]) for row in rows]


def _sum(row: Row, parts: Sequence[Run]) -> Run:
    starts = [part.start_time for part in parts if part.start_time is not None]
    failed = sum(part.state is RunState.FAILED for part in parts)
    return Run(
        id=row["id"], kind=RunKind(row["kind"]), state=RunState(row["state"]), dry_run=row["dry_run"], params=row["params"], parent_id=None,
        actor=row["actor"], total=sum(part.total for part in parts), done=sum(part.done for part in parts),
        counts=_add(part.counts for part in parts), amounts=_add(part.amounts for part in parts),
        error=f"the runs of {failed} firms failed" if failed else None, firm_time=None, create_time=row["create_time"],
        start_time=min(starts, default=None), end_time=row["end_time"],
    )  # fmt: skip


def _add(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in counts:
        total.update(part)
    return dict(total)


def _firmless(context: CallContext) -> CallContext:
    return context if context.firm_id is None else context.unbound()
