"""Time entries' SQL. Everything is about many at once: a constant number of statements, however many entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final
from uuid import UUID

from dunwell_server.billing.model import TimeEntry, TimeEntryState
from dunwell_server.billing.store.rows import (
    Conditions,
    PageRequest,
    TupleRow,
    assignments,
    fetch,
    fetch_first,
    words,
)
from dunwell_server.platform.database import UnitOfWork

COLUMNS: Final = (
    "t.id, t.external_id, t.client_id, t.engagement_id, t.person, t.role, t.work_date, t.minutes, t.description, t.rate, "
    "t.state, t.written_down_minutes, t.write_down_reason, t.submit_actor, t.submit_time, t.approve_actor, t.approve_time, "
    "t.reject_actor, t.reject_time, t.reject_reason, t.invoice_id, t.version, t.create_time, t.update_time"
)
_STATE: Final = 10
_CHANGEABLE: Final = frozenset(words("external_id person role work_date minutes description rate"))

_GET = f"SELECT {COLUMNS} FROM time_entry t WHERE t.firm_id = %(firm_id)s AND t.id = %(id)s"
_INSERT = f"""
INSERT INTO time_entry AS t (firm_id, id, external_id, client_id, engagement_id, person, role, work_date, minutes, description, rate,
    create_time, update_time)
SELECT %(firm_id)s, n.*, %(now)s, %(now)s
FROM unnest(%(id)s::uuid[], %(external_id)s::text[], %(client_id)s::uuid[], %(engagement_id)s::uuid[], %(person)s::text[],
            %(role)s::text[], %(work_date)s::date[], %(minutes)s::int[], %(description)s::text[], %(rate)s::numeric[]) AS n
ON CONFLICT (firm_id, external_id) DO NOTHING
RETURNING {COLUMNS}
"""
_INSERTED: Final = words("id external_id client_id engagement_id person role work_date minutes description rate")
_LOCK_ENGAGEMENTS_OF = """
SELECT e.id FROM engagement e WHERE e.firm_id = %(firm_id)s
  AND e.id IN (SELECT t.engagement_id FROM time_entry t WHERE t.firm_id = %(firm_id)s AND t.id = ANY(%(ids)s))
ORDER BY e.id FOR NO KEY UPDATE
"""
_LOCK_MANY = f"""
SELECT {COLUMNS} FROM time_entry t WHERE t.firm_id = %(firm_id)s AND t.id = ANY(%(ids)s) ORDER BY t.id FOR NO KEY UPDATE
"""
_RETURNING = f"""version = t.version + 1, update_time = %(now)s
WHERE t.firm_id = %(firm_id)s AND t.id = ANY(%(ids)s) RETURNING {COLUMNS}
"""
_SUBMIT = f"""
UPDATE time_entry t SET state = 'SUBMITTED', submit_actor = %(actor)s, submit_time = %(now)s, reject_actor = NULL,
    reject_time = NULL, reject_reason = NULL, {_RETURNING}"""
_APPROVE = (
    f"UPDATE time_entry t SET state = 'APPROVED', approve_actor = %(actor)s, approve_time = %(now)s, {_RETURNING}"
)
_UNAPPROVE = f"UPDATE time_entry t SET state = 'SUBMITTED', approve_actor = NULL, approve_time = NULL, {_RETURNING}"
_REJECT = f"""
UPDATE time_entry t SET state = 'REJECTED', reject_actor = %(actor)s, reject_time = %(now)s, reject_reason = %(reason)s,
    {_RETURNING}"""
_WRITE_DOWN = f"""
UPDATE time_entry t SET written_down_minutes = d.minutes, write_down_reason = CASE WHEN d.minutes > 0 THEN %(reason)s END,
    version = t.version + 1, update_time = %(now)s
FROM unnest(%(ids)s::uuid[], %(minutes)s::int[]) AS d (id, minutes)
WHERE t.firm_id = %(firm_id)s AND t.id = d.id RETURNING {COLUMNS}
"""
# Time approved after the last run of an engagement: nothing else would have a run look at it again.
_REVIVE = """
UPDATE engagement e SET next_bill_date = e.end_date, version = e.version + 1, update_time = %(now)s
WHERE e.firm_id = %(firm_id)s AND e.id = ANY(%(engagement_ids)s) AND e.next_bill_date IS NULL AND e.end_date > e.start_date
"""


@dataclass(frozen=True, slots=True)
class TimeEntryQuery:
    """The filters of a list of time entries, and its order: newest or oldest first. The range of days is half-open."""

    client_id: UUID | None = None
    engagement_id: UUID | None = None
    external_id: str | None = None
    states: Sequence[str] = ()
    person: str | None = None
    invoice_id: UUID | None = None
    work_date: tuple[date | None, date | None] = (None, None)
    descending: bool = field(default=True)


def _entry(row: TupleRow) -> TimeEntry:
    values = list(row)
    values[_STATE] = TimeEntryState(values[_STATE])
    return TimeEntry(*values)


async def get(uow: UnitOfWork, entry_id: UUID, *, lock: bool = False) -> TimeEntry | None:
    """The entry; locked when asked."""
    statement = f"{_GET} FOR NO KEY UPDATE" if lock else _GET
    return await fetch_first(uow, _entry, statement, {"firm_id": uow.firm_id, "id": entry_id})


async def insert(uow: UnitOfWork, entries: Sequence[Mapping[str, Any]]) -> dict[UUID, TimeEntry]:
    """Add drafts; those that were added, by id. One whose external id is taken, also by another of them, is not."""
    params: dict[str, Any] = {name: [entry[name] for entry in entries] for name in _INSERTED}
    added = await fetch(uow, _entry, _INSERT, {**params, "firm_id": uow.firm_id, "now": uow.now})
    return {entry.id: entry for entry in added}


async def lock_many(uow: UnitOfWork, entry_ids: Sequence[UUID], *, engagements: bool = False) -> dict[UUID, TimeEntry]:
    """Lock the entries in id order, their engagements before them when asked; those that exist, by id."""
    params = {"firm_id": uow.firm_id, "ids": list(entry_ids)}
    if engagements:
        await uow.execute(_LOCK_ENGAGEMENTS_OF, params)
    return {entry.id: entry for entry in await fetch(uow, _entry, _LOCK_MANY, params)}


async def update(uow: UnitOfWork, entry_id: UUID, changes: Mapping[str, Any]) -> TimeEntry:
    """Change columns of a (locked) entry by name; it is a DRAFT then, and was never submitted."""
    columns = sorted(changes)
    if not _CHANGEABLE.issuperset(columns):
        raise ValueError(f"not columns that change: {set(columns) - _CHANGEABLE}")
    statement = (
        f"UPDATE time_entry t SET {assignments([*columns])}{', ' if columns else ''}state = 'DRAFT', submit_actor = NULL, "
        f"submit_time = NULL, {_RETURNING}"
    )
    (changed,) = (await _changed(uow, statement, [entry_id], **changes)).values()
    return changed


async def submit(uow: UnitOfWork, entry_ids: Sequence[UUID]) -> dict[UUID, TimeEntry]:
    """Make (locked) drafts SUBMITTED by the caller."""
    return await _changed(uow, _SUBMIT, entry_ids)


async def approve(uow: UnitOfWork, entry_ids: Sequence[UUID]) -> dict[UUID, TimeEntry]:
    """Make (locked) submitted entries APPROVED by the caller, and have a run look at their engagements."""
    approved = await _changed(uow, _APPROVE, entry_ids)
    engagement_ids = sorted({entry.engagement_id for entry in approved.values()})
    await uow.execute(_REVIVE, {"firm_id": uow.firm_id, "now": uow.now, "engagement_ids": engagement_ids})
    return approved


async def unapprove(uow: UnitOfWork, entry_ids: Sequence[UUID]) -> dict[UUID, TimeEntry]:
    """Make (locked) approved entries SUBMITTED again."""
    return await _changed(uow, _UNAPPROVE, entry_ids)


async def reject(uow: UnitOfWork, entry_ids: Sequence[UUID], reason: str) -> dict[UUID, TimeEntry]:
    """Make (locked) submitted entries REJECTED by the caller."""
    return await _changed(uow, _REJECT, entry_ids, reason=reason)


async def write_down(uow: UnitOfWork, minutes: Mapping[UUID, int], reason: str) -> dict[UUID, TimeEntry]:
    """Set how many minutes of (locked) entries are not billed."""
    return await _changed(uow, _WRITE_DOWN, list(minutes), minutes=list(minutes.values()), reason=reason)


async def select(uow: UnitOfWork, query: TimeEntryQuery, page: PageRequest) -> list[TimeEntry]:
    """One page of entries."""
    where = Conditions(uow.firm_id, "t")
    if query.client_id is not None and query.engagement_id is None:
        # The client's engagements lead to the index.
        where.add(
            "t.engagement_id IN (SELECT e.id FROM engagement e WHERE e.firm_id = %(firm_id)s AND e.client_id = %(client_id)s)"
        )
    where.compare("client_id", query.client_id)
    where.compare("engagement_id", query.engagement_id)
    where.compare("external_id", query.external_id)
    where.any_of("state", query.states)
    where.compare("person", query.person)
    if query.invoice_id is not None:
        where.add(
            "t.id IN (SELECT i.time_entry_id FROM invoice_time i WHERE i.firm_id = %(firm_id)s AND i.invoice_id = %(invoice_id)s)",
            invoice_id=query.invoice_id,
        )
        where.compare("invoice_id", query.invoice_id)
    where.within("work_date", *query.work_date)
    tail = where.page(("create_time", "id"), query.descending, page)
    return await fetch(uow, _entry, f"SELECT {COLUMNS} FROM time_entry t {tail}", where.params)


async def _changed(uow: UnitOfWork, statement: str, entry_ids: Sequence[UUID], **params: Any) -> dict[UUID, TimeEntry]:
    if not entry_ids:
        return {}
    params.update(firm_id=uow.firm_id, ids=list(entry_ids), now=uow.now, actor=uow.context.actor.label)
    return {entry.id: entry for entry in await fetch(uow, _entry, statement, params)}
