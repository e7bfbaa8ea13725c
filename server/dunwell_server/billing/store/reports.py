"""Sums for the reports: of the ledger by month and account, of the firm's book as it stands. Made by the database, over sets."""

from __future__ import annotations

from datetime import date, datetime
from typing import Final

from dunwell_server.platform.database import Row, UnitOfWork

# Debits are positive: what an account of income grew by is the negative of its sum. Invoices that were taken over from another system (an opening
# balance) were earned there: they are owed, and not billed here.
_REVENUE: Final = """
SELECT CASE WHEN grouping(m.month) = 0 THEN m.month END AS month, e.currency_code,
       -coalesce(sum(e.amount_minor) FILTER (WHERE p.source_type = 'invoice' AND p.kind = 'finalized'
           AND e.account IN ('revenue', 'deferred_revenue', 'tax_payable')), 0)::bigint AS invoiced,
       coalesce(sum(e.amount_minor) FILTER (WHERE p.source_type = 'invoice' AND p.kind = 'voided'
           AND e.account IN ('revenue', 'deferred_revenue', 'tax_payable')), 0)::bigint AS voided,
       coalesce(sum(e.amount_minor) FILTER (WHERE p.source_type = 'credit_note' AND p.kind = 'issued'
           AND e.account IN ('revenue', 'deferred_revenue', 'tax_payable')), 0)::bigint AS credited,
       -coalesce(sum(e.amount_minor) FILTER (WHERE e.account = 'tax_payable'), 0)::bigint AS tax,
       coalesce(sum(e.amount_minor) FILTER (WHERE p.source_type IN ('payment', 'credit', 'credit_use') AND e.account IN ('cash', 'clearing')), 0)::bigint AS received,
       -coalesce(sum(e.amount_minor) FILTER (WHERE p.source_type = 'refund' AND e.account IN ('cash', 'clearing')), 0)::bigint AS refunded,
       coalesce(sum(e.amount_minor) FILTER (WHERE p.source_type = 'dispute' AND (p.kind = 'withdrawn' OR starts_with(p.kind, 'reinstated'))
           AND e.account = 'disputed_funds'), 0)::bigint AS charged_back,
       -coalesce(sum(e.amount_minor) FILTER (WHERE e.account = 'revenue'), 0)::bigint AS recognized,
       -coalesce(sum(e.amount_minor) FILTER (WHERE e.account = 'deferred_revenue'), 0)::bigint AS deferred,
       coalesce(sum(e.amount_minor) FILTER (WHERE p.kind = 'written_off' AND e.account = 'bad_debt'), 0)::bigint AS written_off
FROM ledger_posting p JOIN ledger_entry e ON e.firm_id = p.firm_id AND e.posting_id = p.id
CROSS JOIN LATERAL (SELECT to_char(p.firm_time AT TIME ZONE %(zone)s, 'YYYY-MM') AS month) m
WHERE p.firm_id = %(firm_id)s AND p.firm_time >= %(start)s AND p.firm_time < %(end)s
  AND (%(currency)s::text IS NULL OR e.currency_code = %(currency)s)
GROUP BY GROUPING SETS ((m.month, e.currency_code), (e.currency_code)) ORDER BY m.month NULLS LAST, e.currency_code
"""
_TRIAL_BALANCE: Final = """
SELECT e.account, e.currency_code, coalesce(sum(e.amount_minor) FILTER (WHERE e.amount_minor > 0), 0)::bigint AS debit,
       -coalesce(sum(e.amount_minor) FILTER (WHERE e.amount_minor < 0), 0)::bigint AS credit
FROM ledger_entry e JOIN ledger_posting p ON p.firm_id = e.firm_id AND p.id = e.posting_id
WHERE e.firm_id = %(firm_id)s AND (%(cut)s::timestamptz IS NULL OR p.firm_time < %(cut)s)
  AND (%(currency)s::text IS NULL OR e.currency_code = %(currency)s)
GROUP BY e.currency_code, e.account ORDER BY e.currency_code, e.account
"""
_STATES: Final = """
SELECT state, currency_code, count(*) AS invoices, sum(total)::bigint AS total,
       sum(CASE WHEN state IN ('DRAFT', 'VOID') THEN 0 ELSE amount_due END)::bigint AS due
FROM invoice WHERE firm_id = %(firm_id)s GROUP BY state, currency_code ORDER BY currency_code
"""
_DUE: Final = """
SELECT currency_code, due_date < %(today)s AS late, count(*) AS invoices, sum(total)::bigint AS total, sum(amount_due)::bigint AS due
FROM invoice
WHERE firm_id = %(firm_id)s AND amount_due > 0 AND finalize_time IS NOT NULL AND void_time IS NULL AND write_off_time IS NULL
  AND due_date < %(soon)s
GROUP BY currency_code, late ORDER BY currency_code
"""
_COUNTS: Final = """
SELECT (SELECT count(*) FROM client WHERE firm_id = %(firm_id)s AND state = 'ACTIVE') AS clients,
       (SELECT count(*) FROM engagement WHERE firm_id = %(firm_id)s AND state = 'ACTIVE') AS engagements,
       (SELECT count(*) FROM engagement WHERE firm_id = %(firm_id)s AND next_bill_date <= %(today)s) AS unbilled_engagements,
       (SELECT coalesce(sum(minutes - written_down_minutes), 0)::bigint FROM time_entry
        WHERE firm_id = %(firm_id)s AND state = 'APPROVED') AS unbilled_minutes
"""
_HELD: Final = """
SELECT currency_code, sum(credit)::bigint AS credit, sum(deferred)::bigint AS deferred FROM (
    SELECT currency_code, credit_minor AS credit, 0 AS deferred FROM client_balance WHERE firm_id = %(firm_id)s AND credit_minor > 0
    UNION ALL
    SELECT currency_code, 0, amount_minor - recognized_minor - taken_back_minor FROM revenue_schedule
    WHERE firm_id = %(firm_id)s AND close_time IS NULL
) held GROUP BY currency_code ORDER BY currency_code
"""


async def revenue(uow: UnitOfWork, start: datetime, end: datetime, currency: str | None) -> list[Row]:
    """What moved in [start, end) by month of the firm's zone and currency, and by currency alone (`month` is null)."""
    return await uow.fetch_all(_REVENUE, {
        "firm_id": uow.firm_id, "zone": uow.firm.settings.time_zone, "start": start, "end": end, "currency": currency,
    })  # fmt: skip


async def trial_balance(uow: UnitOfWork, cut: datetime | None, currency: str | None) -> list[Row]:
    """Debits and credits of every account by currency, of postings before `cut`; None: of all."""
    return await uow.fetch_all(_TRIAL_BALANCE, {"firm_id": uow.firm_id, "cut": cut, "currency": currency})


async def states(uow: UnitOfWork) -> list[Row]:
    """Invoices by state and currency: how many, over what total, and what is due."""
    return await uow.fetch_all(_STATES, {"firm_id": uow.firm_id})


async def due(uow: UnitOfWork, today: date, soon: date) -> list[Row]:
    """Open invoices that are due before `soon`, by currency and whether they are late."""
    return await uow.fetch_all(_DUE, {"firm_id": uow.firm_id, "today": today, "soon": soon})


async def counts(uow: UnitOfWork, today: date) -> Row:
    """Active clients and engagements, and what of them is not billed."""
    row = await uow.fetch_one(_COUNTS, {"firm_id": uow.firm_id, "today": today})
    assert row is not None
    return row


async def held(uow: UnitOfWork) -> list[Row]:
    """Clients' credit and deferred revenue now, by currency."""
    return await uow.fetch_all(_HELD, {"firm_id": uow.firm_id})
