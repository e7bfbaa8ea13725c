"""Test clocks' SQL, in schema `control`, and what happened while one advanced."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from dunwell_server.admin.model import Clock
from dunwell_server.platform.database import Row, UnitOfWork

_COLUMNS: Final = "firm_id, id, now_time, target_time, state, run_id, version, create_time, update_time"
_GET: Final = f"SELECT {_COLUMNS} FROM control.test_clock WHERE firm_id = %(firm_id)s"
_LOCK: Final = f"{_GET} FOR UPDATE"
_INSERT: Final = f"""
INSERT INTO control.test_clock (firm_id, id, start_time, now_time) VALUES (%(firm_id)s, %(id)s, %(now_time)s, %(now_time)s)
ON CONFLICT (firm_id) DO NOTHING RETURNING {_COLUMNS}
"""
_START: Final = f"""
UPDATE control.test_clock SET state = 'ADVANCING', target_time = %(target)s, run_id = %(run_id)s, owner = NULL, lease_until = NULL,
    version = version + 1, update_time = clock_timestamp()
WHERE firm_id = %(firm_id)s AND state = 'READY' RETURNING {_COLUMNS}
"""
# What was done to the firm's business last; settings and keys do not make a firm live.
_LIVED: Final = """
SELECT firm_time FROM audit_event WHERE firm_id = %(firm_id)s AND category NOT IN ('admin', 'access')
ORDER BY create_time DESC, id DESC LIMIT 1
"""
_HAPPENED: Final = """
SELECT xact::text::bigint AS xact, sequence, action, object_type, object_id, metadata, firm_time FROM audit_event
WHERE firm_id = %(firm_id)s AND (xact, sequence) > (%(xact)s::text::xid8, %(sequence)s) AND actor_role = 'SYSTEM'
  AND (%(until)s::timestamptz IS NOT NULL OR xact < pg_snapshot_xmin(pg_current_snapshot()))
  AND (%(until)s::timestamptz IS NULL OR create_time <= %(until)s) AND action = ANY(%(actions)s)
ORDER BY xact, sequence LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class TrailCursor:
    """Where a reader of the audit trail stands, in commit-safe order."""

    xact: int
    sequence: int = 2**62


async def get(uow: UnitOfWork, *, lock: bool = False) -> Clock | None:
    """The clock of the transaction's firm."""
    row = await uow.fetch_one(_LOCK if lock else _GET, {"firm_id": uow.firm_id})
    return None if row is None else Clock(**row)


async def insert(uow: UnitOfWork, clock_id: UUID, now: datetime) -> Clock | None:
    """Give the firm a clock; None where it has one."""
    row = await uow.fetch_one(_INSERT, {"firm_id": uow.firm_id, "id": clock_id, "now_time": now})
    return None if row is None else Clock(**row)


async def start(uow: UnitOfWork, target: datetime, run_id: UUID) -> Clock:
    """Send a locked clock that stands on its way."""
    row = await uow.fetch_one(_START, {"firm_id": uow.firm_id, "target": target, "run_id": run_id})
    assert row is not None
    return Clock(**row)


async def last_lived(uow: UnitOfWork) -> datetime | None:
    """Firm time of the last thing that was done to the firm's business; None where nothing was."""
    found: datetime | None = await uow.fetch_value(_LIVED, {"firm_id": uow.firm_id})
    return found


async def current_xact(uow: UnitOfWork) -> int:
    """The number of this transaction: what comes after it in the trail has a higher one."""
    return int(await uow.fetch_value("SELECT pg_current_xact_id()::text"))


async def happened(
    uow: UnitOfWork, cursor: TrailCursor, actions: list[str], until: datetime | None, limit: int
) -> tuple[list[Row], TrailCursor]:
    """Our own jobs' audit entries behind `cursor`, and the cursor behind them.

    `until` is when the advance ended (machine time): then everything of it has been committed, and nothing after it belongs to it.
    """
    values = {
        "firm_id": uow.firm_id, "xact": str(cursor.xact), "sequence": cursor.sequence, "actions": actions, "until": until, "limit": limit,
    }  # fmt: skip
    rows = await uow.fetch_all(_HAPPENED, values)
    return rows, TrailCursor(rows[-1]["xact"], rows[-1]["sequence"]) if rows else cursor
