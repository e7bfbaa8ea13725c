"""Invariants of deferred revenue: ledger, schedules and lines tell the same, and what is recognised follows from the days."""

from __future__ import annotations

from typing import Final

from dunwell_server.platform.invariants.model import Invariant

RECOGNITION: Final = (
    Invariant("deferred_matches_schedules", 1, "Deferred revenue in the ledger is what the schedules have left to earn, by currency.", """
        SELECT firm_id, 'account' AS object_type, 'deferred_revenue' AS object_id,
               format('%%s: the ledger defers %%s, schedules have %%s left', currency_code, coalesce(e.deferred, 0), coalesce(s.left_minor, 0)) AS message
        FROM (SELECT firm_id, currency_code, -sum(amount_minor) AS deferred FROM ledger_entry WHERE account = 'deferred_revenue'
              GROUP BY firm_id, currency_code) e
        FULL JOIN (SELECT firm_id, currency_code, sum(amount_minor - recognized_minor - taken_back_minor) AS left_minor FROM revenue_schedule
                   GROUP BY firm_id, currency_code) s USING (firm_id, currency_code)
        WHERE coalesce(e.deferred, 0) <> coalesce(s.left_minor, 0)"""),
    Invariant("schedules_match_lines", 1, "Every line that was sent in advance for a period has a schedule of its net amount, period and currency, and no other has one.", """
        SELECT firm_id, 'invoice' AS object_type, invoice_id::text AS object_id,
               format('line %%s: %%s net from %%s to %%s, scheduled %%s from %%s to %%s', line_no, l.net, l.period_start, l.period_end, s.amount_minor,
                      s.start_date, s.end_date) AS message
        FROM (
            SELECT l.firm_id, l.invoice_id, l.line_no, i.currency_code, l.period_start, l.period_end, i.void_time,
                   l.amount_minor - l.discount_minor - l.tax_included_minor AS net
            FROM invoice_line l JOIN invoice i ON i.firm_id = l.firm_id AND i.id = l.invoice_id
            WHERE i.finalize_time IS NOT NULL AND l.in_advance AND l.period_start IS NOT NULL
              AND l.amount_minor - l.discount_minor - l.tax_included_minor > 0
        ) l FULL JOIN revenue_schedule s USING (firm_id, invoice_id, line_no)
        WHERE (l.net, l.currency_code, l.period_start, l.period_end) IS DISTINCT FROM (s.amount_minor, s.currency_code, s.start_date, s.end_date)
          AND NOT (l.void_time IS NOT NULL AND s.amount_minor IS NULL)
           OR (l.void_time IS NOT NULL AND s.taken_back_minor <> s.amount_minor)"""),
    Invariant("schedules_follow_days", 1, "What is recognised of a schedule that is open is the even share of the days that are over, or nothing new yet.", """
        SELECT s.firm_id, 'invoice' AS object_type, s.invoice_id::text AS object_id,
               format('line %%s: recognised %%s before %%s, %%s by the days', s.line_no, s.recognized_minor, s.recognized_through_date, d.share) AS message
        FROM (SELECT *, coalesce(base_date, start_date) AS base FROM revenue_schedule WHERE close_time IS NULL) s
        CROSS JOIN LATERAL (
            SELECT s.base_minor + div(2::numeric * (s.amount_minor - s.taken_back_minor - s.base_minor)
                * greatest(0, least(s.recognized_through_date, s.end_date) - s.base) + (s.end_date - s.base), 2::numeric * (s.end_date - s.base)) AS share
        ) d
        WHERE s.recognized_minor <> d.share AND s.recognized_minor <> s.base_minor"""),
)  # fmt: skip
