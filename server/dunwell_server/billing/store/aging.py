"""What is owed by age, now or as of the end of any past day.

The past is the present taken back: what each open invoice is due today, less what has happened to it since. Every such fact is dated: by its
ledger posting, or by itself. An invoice that was void or written off by then owed nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any, Final
from uuid import UUID

from dunwell_server.platform.database import Row, UnitOfWork

_BUCKETS: Final = (
    ("current_minor", "<= 0"),
    ("days_1_to_30_minor", "BETWEEN 1 AND 30"),
    ("days_31_to_60_minor", "BETWEEN 31 AND 60"),
    ("days_61_to_90_minor", "BETWEEN 61 AND 90"),
    ("over_90_days_minor", "> 90"),
)
_SUMS: Final = ", ".join(
    f"coalesce(sum(o.due) FILTER (WHERE %(day)s - o.due_date {test}), 0)::bigint AS {name}" for name, test in _BUCKETS
)
_OPEN_NOW: Final = """
    SELECT i.client_id, i.currency_code, i.due_date, i.amount_due AS due FROM invoice i
    WHERE i.firm_id = %(firm_id)s AND i.amount_due > 0 AND i.finalize_time IS NOT NULL AND i.void_time IS NULL AND i.write_off_time IS NULL
      AND (%(client_id)s::uuid IS NULL OR i.client_id = %(client_id)s)
"""
# What a lost dispute takes from each invoice changes when it is appealed: its postings tell how much in all, its shares of the moment (or those
# of its payment, once it has none) how that falls on the invoices, the remainders going to the last.
_DISPUTED: Final = """
    SELECT s.invoice_id, -(round(s.moved * s.upto / s.whole) - round(s.moved * (s.upto - s.weight) / s.whole))::bigint AS amount FROM (
        SELECT m.moved, w.invoice_id, w.weight, sum(w.weight) OVER (PARTITION BY m.dispute_id ORDER BY w.invoice_id) AS upto,
               sum(w.weight) OVER (PARTITION BY m.dispute_id) AS whole
        FROM (SELECT l.source_id AS dispute_id, sum(e.amount_minor) AS moved FROM later l
              JOIN ledger_entry e ON e.firm_id = %(firm_id)s AND e.posting_id = l.id AND e.account IN ('receivable', 'recoveries')
              WHERE l.source_type = 'dispute' GROUP BY l.source_id) m
        JOIN dispute d ON d.firm_id = %(firm_id)s AND d.id = m.dispute_id
        CROSS JOIN LATERAL (
            SELECT a.invoice_id, a.amount_minor::numeric AS weight FROM dispute_allocation a
            WHERE a.firm_id = %(firm_id)s AND a.dispute_id = d.id AND a.amount_minor > 0
            UNION ALL
            SELECT p.invoice_id, p.amount_minor::numeric FROM payment_allocation p WHERE p.firm_id = %(firm_id)s AND p.payment_id = d.payment_id
              AND NOT EXISTS (SELECT 1 FROM dispute_allocation a WHERE a.firm_id = %(firm_id)s AND a.dispute_id = d.id AND a.amount_minor > 0)
        ) w
        WHERE m.moved <> 0
    ) s
"""
_OPEN_THEN: Final = f"""
    SELECT i.client_id, i.currency_code, i.due_date, i.amount_due + coalesce(m.amount, 0) AS due
    FROM invoice i LEFT JOIN (
        WITH later AS MATERIALIZED (
            SELECT id, source_type, source_id, kind FROM ledger_posting
            WHERE firm_id = %(firm_id)s AND firm_time >= %(cut)s AND source_type IN ('payment', 'refund', 'credit_note', 'dispute')
        )
        SELECT f.invoice_id, sum(f.amount) AS amount FROM (
            SELECT a.invoice_id, a.amount_minor AS amount FROM later l
            JOIN payment_allocation a ON a.firm_id = %(firm_id)s AND a.payment_id = l.source_id
            WHERE l.source_type = 'payment' AND l.kind = 'received'
            UNION ALL
            SELECT a.invoice_id, -a.amount_minor FROM later l
            JOIN refund_allocation a ON a.firm_id = %(firm_id)s AND a.refund_id = l.source_id
            WHERE l.source_type = 'refund' AND l.kind = 'refunded'
            UNION ALL
            SELECT n.invoice_id, CASE WHEN n.refund_id IS NULL THEN n.applied_minor + n.released_minor ELSE n.amount_minor END FROM later l
            JOIN credit_note n ON n.firm_id = %(firm_id)s AND n.id = l.source_id
            WHERE l.source_type = 'credit_note' AND l.kind = 'issued'
            UNION ALL
            SELECT u.invoice_id, CASE u.kind WHEN 'APPLIED' THEN u.amount_minor ELSE -u.amount_minor END FROM credit_use u
            WHERE u.firm_id = %(firm_id)s AND u.invoice_id IS NOT NULL AND u.firm_time >= %(cut)s
            UNION ALL
            {_DISPUTED}
        ) f GROUP BY f.invoice_id
    ) m ON m.invoice_id = i.id
    WHERE i.firm_id = %(firm_id)s AND i.finalize_time < %(cut)s AND (i.void_time IS NULL OR i.void_time >= %(cut)s)
      AND (i.write_off_time IS NULL OR i.write_off_time >= %(cut)s)
      AND i.amount_due + coalesce(m.amount, 0) > 0 AND (%(client_id)s::uuid IS NULL OR i.client_id = %(client_id)s)
"""


async def by_client(
    uow: UnitOfWork, day: date, cut: datetime | None, client_id: UUID | None, after: Sequence[Any] | None, limit: int
) -> list[Row]:
    """One page of what clients owe: a row for each client and currency, with the client's name."""
    statement = f"""
SELECT o.client_id, c.name, o.currency_code, {_SUMS}, count(*) AS invoices
FROM ({_OPEN_NOW if cut is None else _OPEN_THEN}) o JOIN client c ON c.firm_id = %(firm_id)s AND c.id = o.client_id
WHERE %(after_id)s::uuid IS NULL OR (o.client_id, o.currency_code) > (%(after_id)s, %(after_currency)s::text)
GROUP BY o.client_id, c.name, o.currency_code ORDER BY o.client_id, o.currency_code LIMIT %(limit)s
"""
    params = _params(uow, day, cut, client_id)
    after_id, after_currency = after or (None, None)
    return await uow.fetch_all(
        statement, {**params, "after_id": after_id, "after_currency": after_currency, "limit": limit}
    )


async def totals(uow: UnitOfWork, day: date, cut: datetime | None, client_id: UUID | None) -> list[Row]:
    """What all clients owe, a row for each currency."""
    statement = f"""
SELECT o.currency_code, {_SUMS}, count(*) AS invoices FROM ({_OPEN_NOW if cut is None else _OPEN_THEN}) o
GROUP BY o.currency_code ORDER BY o.currency_code
"""
    return await uow.fetch_all(statement, _params(uow, day, cut, client_id))


def _params(uow: UnitOfWork, day: date, cut: datetime | None, client_id: UUID | None) -> Mapping[str, Any]:
    return {"firm_id": uow.firm_id, "day": day, "cut": cut, "client_id": client_id}
