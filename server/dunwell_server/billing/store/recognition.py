"""The revenue schedules' SQL: written with the invoice, recognised by the day, taken back by credit notes and voids. Sets, never rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Final
from uuid import UUID

from dunwell_server.platform.database import Row, UnitOfWork
from dunwell_server.platform.questions import Question, ask

# Days before the issue belong to the issue's own day: a posting never lies before the invoice it is about. Invoice by invoice: a join's plan would
# rest on how many lines the firm is believed to have.
_SCHEDULE: Final = """
WITH made AS MATERIALIZED (SELECT %(firm_id)s::uuid AS firm_id, id FROM unnest(%(ids)s::uuid[]) AS id)
INSERT INTO revenue_schedule (firm_id, invoice_id, line_no, currency_code, start_date, end_date, amount_minor, recognized_through_date)
SELECT made.firm_id, made.id, l.line_no, l.currency_code, l.period_start, l.period_end, l.amount_minor, greatest(l.period_start, l.issue_date)
FROM made CROSS JOIN LATERAL (
    SELECT l.line_no, i.currency_code, l.period_start, l.period_end, l.amount_minor - l.discount_minor - l.tax_included_minor AS amount_minor, i.issue_date
    FROM invoice i JOIN invoice_line l ON l.firm_id = made.firm_id AND l.invoice_id = made.id
    WHERE i.firm_id = made.firm_id AND i.id = made.id AND l.in_advance AND l.period_start IS NOT NULL OFFSET 0) l
WHERE l.amount_minor > 0
ORDER BY made.id, l.line_no
"""
_DUE: Final = """
SELECT EXISTS (SELECT 1 FROM revenue_schedule WHERE firm_id = %(firm_id)s AND close_time IS NULL)
   AND coalesce((SELECT through_date < %(today)s FROM recognition_progress WHERE firm_id = %(firm_id)s),
                (SELECT min(recognized_through_date) < %(today)s FROM revenue_schedule WHERE firm_id = %(firm_id)s AND close_time IS NULL))
"""
# One batch at a time for each firm: its row is the lock.
_BEGIN: Final = """
INSERT INTO recognition_progress AS p (firm_id, through_date)
SELECT %(firm_id)s, min(recognized_through_date) FROM revenue_schedule WHERE firm_id = %(firm_id)s AND close_time IS NULL
HAVING count(*) > 0
ON CONFLICT (firm_id) DO UPDATE SET through_date = p.through_date
RETURNING through_date
"""
_REACHED: Final = "UPDATE recognition_progress SET through_date = %(until)s WHERE firm_id = %(firm_id)s"


def share_sql(day: str, alias: str = "s") -> str:
    """SQL of `recognition.Schedule.recognized_before(day)` for a row of revenue_schedule. Exact: the division is of whole numbers."""
    base = f"coalesce({alias}.base_date, {alias}.start_date)"
    days, left = (
        f"({alias}.end_date - {base})",
        f"({alias}.amount_minor - {alias}.taken_back_minor - {alias}.base_minor)",
    )
    elapsed = f"greatest(0, least({day}, {alias}.end_date) - {base})"
    return f"({alias}.base_minor + div(2::numeric * {left} * {elapsed} + {days}, 2::numeric * {days}))::bigint"


# The first day that is due takes what the days before it left over: of an invoice sent late, all that had passed by then.
_RECOGNIZE: Final = f"""
WITH chunk AS MATERIALIZED (
    SELECT s.*, {share_sql("%(until)s::date")} AS reached FROM revenue_schedule s
    WHERE s.firm_id = %(firm_id)s AND s.close_time IS NULL AND s.recognized_through_date < %(until)s
    ORDER BY s.invoice_id, s.line_no LIMIT %(limit)s FOR NO KEY UPDATE
), advanced AS (
    UPDATE revenue_schedule s SET recognized_minor = c.reached,
        recognized_through_date = greatest(s.recognized_through_date, least(s.end_date, %(until)s)),
        close_time = CASE WHEN c.reached + s.taken_back_minor = s.amount_minor AND s.end_date <= %(until)s THEN %(now)s::timestamptz END
    FROM chunk c WHERE s.firm_id = %(firm_id)s AND s.invoice_id = c.invoice_id AND s.line_no = c.line_no
)
SELECT s.currency_code, d.day, (SELECT count(*) FROM chunk) AS schedules,
       sum({share_sql("d.day + 1")} - CASE WHEN d.day = s.recognized_through_date THEN s.recognized_minor ELSE {share_sql("d.day")} END)::bigint AS amount
FROM chunk s CROSS JOIN LATERAL (
    SELECT s.recognized_through_date + n AS day
    FROM generate_series(0, greatest(0, least(s.end_date, %(until)s) - s.recognized_through_date - 1)) AS n
) d
GROUP BY s.currency_code, d.day ORDER BY d.day, s.currency_code
"""
_TAKE_BACK: Final = """
WITH asked AS (
    SELECT invoice_id, line_no, sum(amount) AS amount
    FROM unnest(%(ids)s::uuid[], %(line_nos)s::int[], %(amounts)s::bigint[]) AS a (invoice_id, line_no, amount) GROUP BY invoice_id, line_no
), locked AS MATERIALIZED (
    SELECT s.*, a.amount::bigint AS amount, s.amount_minor - s.recognized_minor - s.taken_back_minor AS left_minor
    FROM revenue_schedule s JOIN asked a ON a.invoice_id = s.invoice_id AND a.line_no = s.line_no
    WHERE s.firm_id = %(firm_id)s ORDER BY s.invoice_id, s.line_no FOR NO KEY UPDATE OF s
), split AS (
    SELECT l.*, least(l.amount, l.left_minor) AS deferred, l.amount - least(l.amount, l.left_minor) AS earned FROM locked l
)
UPDATE revenue_schedule s SET taken_back_minor = s.taken_back_minor + c.amount, recognized_minor = s.recognized_minor - c.earned,
    base_date = CASE WHEN c.deferred = c.left_minor THEN NULL WHEN s.recognized_minor = s.base_minor THEN s.base_date
                     ELSE s.recognized_through_date END,
    base_minor = CASE WHEN c.deferred = c.left_minor THEN 0 ELSE s.recognized_minor END,
    close_time = CASE WHEN c.deferred = c.left_minor THEN coalesce(s.close_time, %(now)s) END
FROM split c WHERE s.firm_id = %(firm_id)s AND s.invoice_id = c.invoice_id AND s.line_no = c.line_no
RETURNING s.invoice_id, s.line_no, c.deferred, c.earned
"""
_TAKE_BACK_ALL: Final = """
WITH locked AS MATERIALIZED (
    SELECT s.* FROM revenue_schedule s WHERE s.firm_id = %(firm_id)s AND s.invoice_id = ANY(%(ids)s)
    ORDER BY s.invoice_id, s.line_no FOR NO KEY UPDATE
), closed AS (
    UPDATE revenue_schedule s SET taken_back_minor = s.amount_minor, recognized_minor = 0, base_date = NULL, base_minor = 0,
        close_time = coalesce(s.close_time, %(now)s)
    FROM locked l WHERE s.firm_id = %(firm_id)s AND s.invoice_id = l.invoice_id AND s.line_no = l.line_no
)
SELECT invoice_id, sum(amount_minor - recognized_minor - taken_back_minor)::bigint AS deferred, sum(recognized_minor)::bigint AS earned
FROM locked GROUP BY invoice_id
"""


async def insert(uow: UnitOfWork, invoice_ids: Sequence[UUID]) -> None:
    """Schedules for the lines in advance of invoices that are sent; their rows must be written."""
    await uow.execute(_SCHEDULE, {"firm_id": uow.firm_id, "ids": list(invoice_ids)})


def is_due(uow: UnitOfWork, today: date) -> Question[bool]:
    """Whether a day before `today` is still to be recognised."""
    return ask(uow, _DUE, {"today": today}).then(bool)


async def begin(uow: UnitOfWork) -> date | None:
    """Lock the firm's recognition; the first day that is to be done. None where there is nothing deferred."""
    day: date | None = await uow.fetch_value(_BEGIN, {"firm_id": uow.firm_id})
    return day


async def recognize(uow: UnitOfWork, until: date, limit: int) -> list[Row]:
    """Bring at most `limit` schedules to `until`; what each day before it earned by currency, and `schedules`, how many there were."""
    params = {"firm_id": uow.firm_id, "now": uow.now, "until": until, "limit": limit}
    return await uow.fetch_all(_RECOGNIZE, params)


async def reached(uow: UnitOfWork, until: date) -> None:
    """Note that every day before `until` is recognised."""
    await uow.execute(_REACHED, {"firm_id": uow.firm_id, "until": until})


async def take_back(uow: UnitOfWork, amounts: Mapping[tuple[UUID, int], int]) -> list[Row]:
    """Take amounts of lines back, what is not yet recognised first; (deferred, earned) of each line that has a schedule."""
    return await uow.fetch_all(_TAKE_BACK, {
        "firm_id": uow.firm_id, "now": uow.now, "ids": [invoice_id for invoice_id, _ in amounts],
        "line_nos": [line_no for _, line_no in amounts], "amounts": list(amounts.values()),
    })  # fmt: skip


async def take_back_all(uow: UnitOfWork, invoice_ids: Sequence[UUID]) -> list[Row]:
    """Take all that is left of the invoices' lines back; (deferred, earned) of each invoice that has schedules."""
    params = {"firm_id": uow.firm_id, "now": uow.now, "ids": list(invoice_ids)}
    return await uow.fetch_all(_TAKE_BACK_ALL, params)
