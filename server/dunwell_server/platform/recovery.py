"""Recovery mode: after a restore a firm charges nothing until the providers' record has been taken over.

A restored database does not know what was done after its backup was made. While `control.recovery` has a row for a firm, nothing is claimed
and nothing is sent to a provider for it. The unit of work reads the row together with the firm, so that asking costs no round trip.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.work import WorkKind, wake

_ENTER: Final = """
INSERT INTO control.recovery (firm_id, window_start, actor)
SELECT f.id, %(since)s, %(actor)s FROM control.firm f WHERE %(firm)s::uuid IS NULL OR f.id = %(firm)s ORDER BY f.id
ON CONFLICT (firm_id) DO UPDATE SET window_start = least(control.recovery.window_start, excluded.window_start)
RETURNING firm_id
"""
_LEAVE: Final = "DELETE FROM control.recovery WHERE firm_id = %(firm_id)s"
_NOTE_RUN: Final = "UPDATE control.recovery SET run_id = %(run_id)s WHERE firm_id = %(firm_id)s"
_LIST: Final = """
SELECT r.firm_id, f.display_name, r.window_start, r.actor, r.run_id, r.create_time
FROM control.recovery r JOIN control.firm f ON f.id = r.firm_id
WHERE %(firm)s::uuid IS NULL OR r.firm_id = %(firm)s ORDER BY f.display_name, r.firm_id
"""
_XACTS_AHEAD: Final = """
SELECT coalesce((SELECT max(xact) FROM audit_event WHERE firm_id = %(firm_id)s), '0'::xid8) > pg_current_xact_id()
    OR coalesce((SELECT max(xact) FROM event WHERE firm_id = %(firm_id)s), '0'::xid8) > pg_current_xact_id()
"""


@dataclass(frozen=True, slots=True)
class Recovery:
    """A firm in recovery: from when on the providers' record is to be taken over, and the last run that did so."""

    firm_id: UUID
    display_name: str
    window_start: datetime
    actor: str
    run_id: UUID | None
    create_time: datetime


def is_recovering(uow: UnitOfWork) -> bool:
    """Whether the transaction's firm is in recovery: nothing is claimed or sent for it."""
    return uow.recovering


async def enter(uow: UnitOfWork, since: datetime, firm_id: UUID | None) -> list[UUID]:
    """Put one firm (None: every firm) into recovery; `since` is when the restored backup was made. A firm that is keeps the earlier time.

    `uow` is firmless. Returns the firms; none where there is no such firm.
    """
    values = {"since": since, "actor": uow.context.actor.label, "firm": firm_id}
    return [row["firm_id"] for row in await uow.fetch_all(_ENTER, values)]


async def leave(uow: UnitOfWork) -> bool:
    """End the recovery of the transaction's firm and wake what has waited for it; False where it is in none."""
    if await uow.execute(_LEAVE, {"firm_id": uow.firm_id}) == 0:
        return False
    for kind in (WorkKind.COLLECT, WorkKind.ATTEMPTS, WorkKind.REFUNDS, WorkKind.PAGES):
        await wake(uow, kind)
    return True


async def note_run(uow: UnitOfWork, run_id: UUID) -> None:
    """Remember the run that takes the providers' record over."""
    await uow.execute(_NOTE_RUN, {"firm_id": uow.firm_id, "run_id": run_id})


async def recovering(uow: UnitOfWork, firm_id: UUID | None = None) -> list[Recovery]:
    """The firms in recovery, or the one named."""
    return [Recovery(**row) for row in await uow.fetch_all(_LIST, {"firm": firm_id})]


async def transaction_ids_fit(uow: UnitOfWork) -> bool:
    """False where the firm's rows carry transaction ids that this cluster has not reached.

    Then it is a new cluster whose ids began anew: audit entries and events, ordered by them, would be passed over.
    """
    return not await uow.fetch_value(_XACTS_AHEAD, {"firm_id": uow.firm_id})
