"""The SQL of work in progress: what is not billed yet, valued at the rates that apply."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any, Final
from uuid import UUID

from dunwell_server.billing.store.rows import PageRequest, fetch
from dunwell_server.platform.database import UnitOfWork

BUCKETS: Final = 6
"""Groups of entries of one engagement: approved by age, four; submitted; draft or rejected."""

# The value of an entry is minutes × rate; the sum is divided by sixty, so that it is rounded once. `bucket` counts from 0.
_ROWS = """
SELECT e.client_id, e.id AS engagement_id, e.currency_code,
    CASE t.state WHEN 'APPROVED' THEN CASE WHEN %(as_of)s::date - t.work_date <= 30 THEN 0 WHEN %(as_of)s::date - t.work_date <= 60 THEN 1
                                           WHEN %(as_of)s::date - t.work_date <= 90 THEN 2 ELSE 3 END
                 WHEN 'SUBMITTED' THEN 4 ELSE 5 END AS bucket,
    t.work_date, t.minutes - t.written_down_minutes AS minutes,
    (t.minutes - t.written_down_minutes) * coalesce(t.rate, r.rate, e.default_rate) AS value
FROM engagement e
JOIN time_entry t ON t.firm_id = e.firm_id AND t.engagement_id = e.id AND t.state <> 'INVOICED' AND t.work_date <= %(as_of)s
LEFT JOIN engagement_rate r ON r.firm_id = e.firm_id AND r.engagement_id = e.id AND r.role = t.role AND r.period @> t.work_date
"""
_WHERE = "WHERE e.firm_id = %(firm_id)s AND e.pricing_mode <> 'PACKAGE'"
_PAGE = """
    AND e.id IN (
        SELECT p.id FROM engagement p WHERE p.firm_id = %(firm_id)s AND p.pricing_mode <> 'PACKAGE' {filters} {behind}
            AND EXISTS (SELECT 1 FROM time_entry t WHERE t.firm_id = p.firm_id AND t.engagement_id = p.id AND t.state <> 'INVOICED'
                        AND t.work_date <= %(as_of)s)
        ORDER BY p.client_id, p.id LIMIT %(limit)s)
"""
_SUMS = "count(*), sum(minutes)::bigint, sum(value)"


@dataclass(frozen=True, slots=True)
class UnbilledQuery:
    """The filters of unbilled work. `as_of`: work up to that day, and its age then; None: today."""

    client_id: UUID | None = None
    engagement_id: UUID | None = None
    as_of: date | None = None


async def page(uow: UnitOfWork, query: UnbilledQuery, as_of: date, request: PageRequest) -> list[tuple[Any, ...]]:
    """(client, engagement, currency, bucket, entries, minutes, value in minutes × rate, oldest day) of one page of engagements,
    ordered by client and engagement."""
    params = _params(uow, query, as_of, limit=request.limit)
    behind = ""
    if request.after is not None:
        behind = "AND (p.client_id, p.id) > (%(after_client)s, %(after_id)s)"
        params.update(after_client=request.after[0], after_id=request.after[1])
    statement = (
        f"SELECT client_id, engagement_id, currency_code, bucket, {_SUMS}, min(work_date) "
        f"FROM ({_ROWS} {_WHERE} {_PAGE.format(filters=_filters(query, 'p'), behind=behind)}) AS w "
        "GROUP BY client_id, engagement_id, currency_code, bucket ORDER BY client_id, engagement_id, bucket"
    )
    return await fetch(uow, tuple, statement, params)


async def totals(uow: UnitOfWork, query: UnbilledQuery, as_of: date) -> list[tuple[Any, ...]]:
    """(engagement, currency, bucket, entries, minutes, value) of the approved work of all pages."""
    statement = (
        f"SELECT engagement_id, currency_code, bucket, {_SUMS} FROM ({_ROWS} {_WHERE} {_filters(query, 'e')} AND t.state = 'APPROVED') AS w "
        "GROUP BY engagement_id, currency_code, bucket"
    )
    return await fetch(uow, tuple, statement, _params(uow, query, as_of))


def _filters(query: UnbilledQuery, alias: str) -> str:
    client = f"AND {alias}.client_id = %(client_id)s" if query.client_id is not None else ""
    return f"{client} AND {alias}.id = %(engagement_id)s" if query.engagement_id is not None else client


def _params(uow: UnitOfWork, query: UnbilledQuery, as_of: date, **more: Any) -> dict[str, Any]:
    return {
        "firm_id": uow.firm_id, "client_id": query.client_id, "engagement_id": query.engagement_id, "as_of": as_of, **more
    }  # fmt: skip
