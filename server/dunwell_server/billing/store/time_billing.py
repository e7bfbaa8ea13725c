"""The SQL of billing time: what is billable, what invoices hold of it, and giving it back. Sets throughout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final
from uuid import UUID

from psycopg import AsyncCursor
from psycopg.types.json import Jsonb

from dunwell_server.billing.hourly import AllowanceUse, BillableTime, InvoicedTime, PeriodCharge, TimeUsage
from dunwell_server.billing.model import Engagement, HourlyTerms
from dunwell_server.billing.store import engagements as engagement_store
from dunwell_server.billing.store.engagements import HOURLY_TERMS, hourly_from_json
from dunwell_server.billing.store.rows import fetch
from dunwell_server.platform.database import PLAN_FOR_ANY, UnitOfWork

# Says both what the index is for and what is wanted of it.
_APPROVED: Final = "t.state = 'APPROVED' AND t.state <> 'INVOICED'"
# OFFSET 0 keeps this a look-up for each engagement, also where a run has told the planner to join by index only and not to sort; so in
# `_RECORD`. The order is that of the index: another one would have the planner read another index of the firm from end to end.
_BILLABLE = f"""
SELECT d.id, t.*
FROM unnest(%(ids)s::uuid[], %(untils)s::date[]) AS d (id, until)
CROSS JOIN LATERAL (
    SELECT t.id, t.person, t.role, t.work_date, t.minutes - t.written_down_minutes AS minutes, t.rate, t.description
    FROM time_entry t WHERE t.firm_id = %(firm_id)s AND t.engagement_id = d.id AND {_APPROVED} AND t.work_date < coalesce(d.until, 'infinity')
    ORDER BY t.work_date, t.id OFFSET 0 {{lock}}) t
"""
_TERMS = f"""
SELECT e.id, {HOURLY_TERMS},
    (SELECT jsonb_object_agg(u.grant_start, u.minutes) FROM (
        SELECT u.grant_start, sum(u.minutes) AS minutes FROM allowance_use u
        WHERE u.firm_id = %(firm_id)s AND u.engagement_id = e.id AND u.release_time IS NULL GROUP BY u.grant_start) u),
    (SELECT jsonb_object_agg(p.period_start, p.billed) FROM (
        SELECT p.period_start, sum(p.amount_minor - p.capped_minor) AS billed FROM invoice_time_period p
        WHERE p.firm_id = %(firm_id)s AND p.engagement_id = e.id AND p.release_time IS NULL GROUP BY p.period_start) p)
FROM engagement e WHERE e.firm_id = %(firm_id)s AND e.id = ANY(%(ids)s)
"""
_ENGAGEMENTS_OF = f"""
SELECT {engagement_store.COLUMNS} FROM engagement e
WHERE e.firm_id = %(firm_id)s AND e.client_id = %(client_id)s AND e.pricing_mode <> 'PACKAGE' ORDER BY e.id
"""
_RECORD = f"""
WITH d AS MATERIALIZED (
    SELECT * FROM unnest(%(invoices)s::uuid[], %(entries)s::uuid[], %(lines)s::smallint[], %(minutes)s::int[], %(included)s::int[])
        AS d (invoice_id, id, line_no, minutes, included)
), held AS (
    INSERT INTO invoice_time (firm_id, invoice_id, time_entry_id, line_no, minutes, included_minutes)
    SELECT %(firm_id)s, invoice_id, id, line_no, minutes, included FROM d
), found AS MATERIALIZED (
    SELECT d.invoice_id, t.place FROM d
    CROSS JOIN LATERAL (SELECT t.ctid AS place FROM time_entry t WHERE t.firm_id = %(firm_id)s AND t.id = d.id AND {_APPROVED} OFFSET 0) t
)
UPDATE time_entry t SET state = 'INVOICED', invoice_id = found.invoice_id, version = t.version + 1, update_time = %(now)s
FROM found WHERE t.firm_id = %(firm_id)s AND t.ctid = found.place AND {_APPROVED}
"""
_RECORD_PERIODS = """
INSERT INTO invoice_time_period (firm_id, invoice_id, engagement_id, period_start, period_end, minutes, amount_minor, capped_minor)
SELECT %(firm_id)s, d.* FROM unnest(%(invoices)s::uuid[], %(engagements)s::uuid[], %(starts)s::date[], %(ends)s::date[],
    %(minutes)s::bigint[], %(amounts)s::bigint[], %(capped)s::bigint[]) AS d
"""
_RECORD_USES = """
INSERT INTO allowance_use (firm_id, invoice_id, engagement_id, period_start, grant_start, minutes, granted_minutes)
SELECT %(firm_id)s, d.* FROM unnest(%(invoices)s::uuid[], %(engagements)s::uuid[], %(starts)s::date[], %(grants)s::date[],
    %(minutes)s::int[], %(granted)s::int[]) AS d
"""
_RELEASE_PERIODS = """
UPDATE invoice_time_period SET release_time = %(now)s
WHERE firm_id = %(firm_id)s AND invoice_id = %(id)s AND release_time IS NULL RETURNING engagement_id, period_start
"""
_DISCARD_PERIODS = """
DELETE FROM invoice_time_period WHERE firm_id = %(firm_id)s AND invoice_id = %(id)s RETURNING engagement_id, period_start
"""
_FREE_ENTRIES = """
UPDATE time_entry t SET state = 'APPROVED', invoice_id = NULL, version = t.version + 1, update_time = %(now)s
FROM invoice_time i WHERE i.firm_id = %(firm_id)s AND i.invoice_id = %(id)s AND i.release_time IS NULL
    AND t.firm_id = %(firm_id)s AND t.id = i.time_entry_id AND t.invoice_id = %(id)s
"""
_HELD: Final = ("invoice_time", "allowance_use")
_RESCHEDULE = """
UPDATE engagement e SET next_bill_date = least(e.next_bill_date, d.period_end), void_count = e.void_count + 1,
    billed_through_date = CASE WHEN e.pricing_mode = 'HOURLY' THEN least(e.billed_through_date, d.period_start) ELSE e.billed_through_date END,
    version = e.version + 1, update_time = %(now)s
FROM unnest(%(ids)s::uuid[], %(starts)s::date[], %(ends)s::date[]) AS d (id, period_start, period_end)
WHERE e.firm_id = %(firm_id)s AND e.id = d.id
"""


def billable_statement(*, lock: bool) -> str:
    """What `billable` asks."""
    return _BILLABLE.format(lock="FOR NO KEY UPDATE OF t" if lock else "")


async def billable(
    uow: UnitOfWork, untils: Mapping[UUID, date | None], *, lock: bool
) -> dict[UUID, list[BillableTime]]:
    """The approved entries of the engagements that were worked before their day (None: all), locked when asked, by day and id."""
    params = {"firm_id": uow.firm_id, "ids": list(untils), "untils": list(untils.values())}
    # Planned anew each time: a kept plan would be that of small tables.
    cursor = await uow.conn.execute(billable_statement(lock=lock), params, prepare=False)
    result: dict[UUID, list[BillableTime]] = {}
    for row in await cursor.fetchall():
        result.setdefault(row[0], []).append(BillableTime._make(row[1:]))
    return result


async def terms(uow: UnitOfWork, engagement_ids: Sequence[UUID]) -> dict[UUID, tuple[HourlyTerms, TimeUsage]]:
    """The hourly terms of engagements that have some, and what live invoices hold of their grants and caps."""
    params = {"firm_id": uow.firm_id, "ids": list(engagement_ids)}
    cursor = await uow.conn.execute(_TERMS, params)
    return {
        engagement_id: (hourly_from_json(hourly), TimeUsage(_by_day(used), _by_day(billed)))
        for engagement_id, hourly, used, billed in await cursor.fetchall()
        if hourly is not None
    }


async def engagements_of(uow: UnitOfWork, client_id: UUID, *, lock: bool) -> dict[UUID, Engagement]:
    """The client's engagements that bill time, locked in id order when asked."""
    statement = f"{_ENGAGEMENTS_OF} FOR NO KEY UPDATE OF e" if lock else _ENGAGEMENTS_OF
    params = {"firm_id": uow.firm_id, "client_id": client_id}
    return {one.id: one for one in await fetch(uow, engagement_store.engagement_of, statement, params)}


async def record(
    uow: UnitOfWork,
    entries: Sequence[tuple[UUID, InvoicedTime]],
    periods: Sequence[tuple[UUID, UUID, PeriodCharge]],
    uses: Sequence[tuple[UUID, UUID, AllowanceUse]],
) -> int:
    """Write what invoices hold; how many entries became INVOICED. `periods` and `uses` are (invoice, engagement, …)."""
    params: dict[str, Any] = {
        "firm_id": uow.firm_id, "now": uow.now, "invoices": [invoice_id for invoice_id, _ in entries],
        "entries": [entry.entry_id for _, entry in entries], "lines": [entry.line_no for _, entry in entries],
        "minutes": [entry.minutes for _, entry in entries], "included": [entry.included_minutes for _, entry in entries],
    }  # fmt: skip
    count = (await _any_firm(uow, _RECORD, params)).rowcount
    await uow.execute(_RECORD_PERIODS, _columns(uow, periods, ("starts", "ends", "minutes", "amounts", "capped")))
    if uses:
        await uow.execute(_RECORD_USES, _columns(uow, uses, ("starts", "grants", "minutes", "granted")))
    return count


async def _any_firm(uow: UnitOfWork, statement: str, params: Mapping[str, Any]) -> AsyncCursor[Any]:
    """Execute what looks up tens of thousands of rows, planned as for any firm: of one that came after the last ANALYZE the planner believes
    that it has hardly any rows, and would compare all of them with one another. So is the rest of the transaction."""
    async with uow.conn.pipeline():
        await uow.conn.execute(PLAN_FOR_ANY)
        return await uow.conn.execute(statement, params, prepare=False)


async def release_periods(uow: UnitOfWork, invoice_id: UUID) -> dict[UUID, date]:
    """Release what a sent invoice charges; the first day of the earliest period, by engagement."""
    return await _earliest(uow, _RELEASE_PERIODS, invoice_id)


async def discard_periods(uow: UnitOfWork, invoice_id: UUID) -> dict[UUID, date]:
    """The same for a draft, which keeps no trace of it."""
    return await _earliest(uow, _DISCARD_PERIODS, invoice_id)


async def release_entries(uow: UnitOfWork, invoice_id: UUID) -> None:
    """Make the entries of a sent invoice APPROVED again, and release them and the grants they used."""
    params = {"firm_id": uow.firm_id, "now": uow.now, "id": invoice_id}
    await _any_firm(uow, _FREE_ENTRIES, params)
    for table in _HELD:
        await uow.execute(
            f"UPDATE {table} SET release_time = %(now)s WHERE firm_id = %(firm_id)s AND invoice_id = %(id)s AND release_time IS NULL",
            params,
        )


async def discard_entries(uow: UnitOfWork, invoice_id: UUID) -> None:
    """The same for a draft, which keeps no trace of it."""
    params = {"firm_id": uow.firm_id, "now": uow.now, "id": invoice_id}
    await _any_firm(uow, _FREE_ENTRIES, params)
    for table in _HELD:
        await uow.execute(f"DELETE FROM {table} WHERE firm_id = %(firm_id)s AND invoice_id = %(id)s", params)


async def reschedule(uow: UnitOfWork, edges: Mapping[UUID, tuple[date, date]]) -> None:
    """Have runs look at (locked) engagements again from the period [start, end) on."""
    params = {
        "firm_id": uow.firm_id, "now": uow.now, "ids": list(edges), "starts": [start for start, _ in edges.values()],
        "ends": [end for _, end in edges.values()],
    }  # fmt: skip
    await uow.execute(_RESCHEDULE, params)


_ALERT = """
INSERT INTO cap_alert AS a (firm_id, engagement_id, scope, period_start, percent, amount_minor, cap_minor)
SELECT %(firm_id)s, (r ->> 0)::uuid, r ->> 1, (r ->> 2)::date, (r ->> 3)::smallint, (r ->> 4)::bigint, (r ->> 5)::bigint
FROM jsonb_array_elements(%(rows)s) AS r
ON CONFLICT DO NOTHING RETURNING a.engagement_id, a.scope, a.period_start, a.percent, a.cap_minor
"""
_CAPPED = """
SELECT e.id FROM engagement e WHERE e.firm_id = %(firm_id)s AND e.id = ANY(%(ids)s)
    AND num_nonnulls(e.period_cap_minor, e.total_cap_minor) > 0
"""


async def capped(uow: UnitOfWork, engagement_ids: Sequence[UUID]) -> list[UUID]:
    """Those of the engagements that have a cap."""
    params = {"firm_id": uow.firm_id, "ids": list(engagement_ids)}
    return await fetch(uow, lambda row: row[0], _CAPPED, params)


async def insert_alerts(uow: UnitOfWork, rows: Sequence[Sequence[Any]]) -> set[tuple[UUID, str, date, int, int]]:
    """Note alerts (engagement, scope, first day, percent, amount, cap); those that are new, without their amounts."""
    params = {"firm_id": uow.firm_id, "rows": Jsonb([list(row) for row in rows])}
    return set(await fetch(uow, lambda row: (row[0], row[1], row[2], row[3], row[4]), _ALERT, params))


async def _earliest(uow: UnitOfWork, statement: str, invoice_id: UUID) -> dict[UUID, date]:
    params = {"firm_id": uow.firm_id, "now": uow.now, "id": invoice_id}
    result: dict[UUID, date] = {}
    for engagement_id, start in await fetch(uow, lambda row: (row[0], row[1]), statement, params):
        result[engagement_id] = min(start, result.get(engagement_id, start))
    return result


def _columns(
    uow: UnitOfWork, rows: Sequence[tuple[UUID, UUID, tuple[Any, ...]]], names: Sequence[str]
) -> dict[str, Any]:
    params: dict[str, Any] = {
        "firm_id": uow.firm_id, "invoices": [row[0] for row in rows], "engagements": [row[1] for row in rows]
    }  # fmt: skip
    params.update({name: [row[2][position] for row in rows] for position, name in enumerate(names)})
    return params


def _by_day(sums: Mapping[str, int] | None) -> dict[date, int]:
    return {date.fromisoformat(day): int(total) for day, total in (sums or {}).items()}
