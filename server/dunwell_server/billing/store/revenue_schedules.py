"""Revenue schedules as they are read: a page of them, and what the months to come will earn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from dunwell_server.billing.store.recognition import share_sql
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.platform.database import Row, UnitOfWork


@dataclass(frozen=True, slots=True)
class ScheduleQuery:
    """Which schedules; filters that are None do not filter."""

    invoice_id: UUID | None = None
    engagement_id: UUID | None = None
    client_id: UUID | None = None
    open_only: bool = False


# An engagement's invoices are its client's: the client's index leads to them.
_FROM: Final = """
FROM revenue_schedule s
JOIN invoice i ON i.firm_id = s.firm_id AND i.id = s.invoice_id
JOIN invoice_line l ON l.firm_id = s.firm_id AND l.invoice_id = s.invoice_id AND l.line_no = s.line_no
WHERE s.firm_id = %(firm_id)s
"""
_OF_ENGAGEMENT: Final = """AND l.engagement_id = %(engagement_id)s
    AND i.client_id = (SELECT e.client_id FROM engagement e WHERE e.firm_id = %(firm_id)s AND e.id = %(engagement_id)s)"""
# What is left of the month that the first day to come lies in is one part, each month after it another.
_FORECAST_DAYS: Final = """
CROSS JOIN LATERAL (
    SELECT to_char(m, 'YYYY-MM') AS month, greatest(m::date, s.recognized_through_date) AS first, least((m + interval '1 month')::date, s.end_date) AS until
    FROM generate_series(date_trunc('month', s.recognized_through_date::timestamp),
                         greatest(s.end_date - 1, s.recognized_through_date)::timestamp, interval '1 month') AS m
) f
"""


def _where(query: ScheduleQuery) -> str:
    clauses = []
    if query.invoice_id is not None:
        clauses.append("AND s.invoice_id = %(invoice_id)s")
    if query.engagement_id is not None:
        clauses.append(_OF_ENGAGEMENT)
    if query.client_id is not None:
        clauses.append("AND i.client_id = %(client_id)s")
    if query.open_only:
        clauses.append("AND s.close_time IS NULL")
    return " ".join(clauses)


def _params(uow: UnitOfWork, query: ScheduleQuery) -> dict[str, object]:
    return {
        "firm_id": uow.firm_id, "invoice_id": query.invoice_id, "engagement_id": query.engagement_id, "client_id": query.client_id,
    }  # fmt: skip


async def select(uow: UnitOfWork, query: ScheduleQuery, page: PageRequest) -> list[Row]:
    """One page of schedules with what they are of, by invoice and line."""
    behind = "AND (s.invoice_id, s.line_no) > (%(after_id)s, %(after_no)s)" if page.after else ""
    after_id, after_no = page.after or (None, None)
    return await uow.fetch_all(
        f"""
SELECT s.*, i.number, i.client_id, l.description, l.engagement_id {_FROM} {_where(query)} {behind}
ORDER BY s.invoice_id, s.line_no LIMIT %(limit)s
""",
        {**_params(uow, query), "after_id": after_id, "after_no": after_no, "limit": page.limit},
    )


async def forecast(uow: UnitOfWork, query: ScheduleQuery) -> list[Row]:
    """What is left of the open schedules, by the month that earns it and by currency."""
    return await uow.fetch_all(
        f"""
SELECT f.month, s.currency_code,
       sum({share_sql("f.until")} - CASE WHEN f.first = s.recognized_through_date THEN s.recognized_minor ELSE {share_sql("f.first")} END)::bigint AS amount
FROM (SELECT s.* {_FROM} AND s.close_time IS NULL {_where(query)}) s {_FORECAST_DAYS}
GROUP BY f.month, s.currency_code
HAVING sum({share_sql("f.until")} - CASE WHEN f.first = s.recognized_through_date THEN s.recognized_minor ELSE {share_sql("f.first")} END) <> 0
ORDER BY f.month, s.currency_code
""",
        _params(uow, query),
    )
