"""Invariants of the ledger, of invoices' amounts and numbers, and of what each fact must have left behind."""

from __future__ import annotations

from typing import Final

from dunwell_server.platform.invariants.model import Invariant

LEDGER: Final = (
    Invariant("postings_balance", 1, "Per posting and currency, debits equal credits.", """
        SELECT firm_id, 'posting' AS object_type, posting_id::text AS object_id,
               format('%%s: debits minus credits is %%s minor units', currency_code, sum(amount_minor)) AS message
        FROM ledger_entry GROUP BY firm_id, posting_id, currency_code HAVING sum(amount_minor) <> 0"""),
    Invariant("postings_have_entries", 1, "Every posting has entries.", """
        SELECT p.firm_id, 'posting' AS object_type, p.id::text AS object_id, 'the posting has no entries' AS message
        FROM ledger_posting p
        WHERE NOT EXISTS (SELECT 1 FROM ledger_entry e WHERE e.firm_id = p.firm_id AND e.posting_id = p.id)"""),
    Invariant("balances_match_entries", 1, "Stored balances equal the sums of their entries.", """
        SELECT firm_id, 'client' AS object_type, client_id::text AS object_id,
               format('%%s: receivable %%s stored, %%s in entries; credit %%s stored, %%s in entries', currency_code,
                      coalesce(b.receivable_minor, 0), coalesce(e.receivable, 0), coalesce(b.credit_minor, 0), coalesce(e.credit, 0)) AS message
        FROM client_balance b FULL JOIN (
            SELECT firm_id, client_id, currency_code, coalesce(sum(amount_minor) FILTER (WHERE account = 'receivable'), 0) AS receivable,
                   -coalesce(sum(amount_minor) FILTER (WHERE account = 'client_credit'), 0) AS credit
            FROM ledger_entry WHERE account IN ('receivable', 'client_credit') GROUP BY firm_id, client_id, currency_code
        ) e USING (firm_id, client_id, currency_code)
        WHERE coalesce(b.receivable_minor, 0) <> coalesce(e.receivable, 0) OR coalesce(b.credit_minor, 0) <> coalesce(e.credit, 0)"""),
    Invariant("receivable_matches_invoices", 1, "A client's receivable is what its open invoices still owe.", """
        SELECT firm_id, 'client' AS object_type, client_id::text AS object_id,
               format('%%s: receivable is %%s, open invoices owe %%s', currency_code, coalesce(b.receivable_minor, 0), coalesce(i.due, 0)) AS message
        FROM client_balance b FULL JOIN (
            SELECT firm_id, client_id, currency_code, sum(amount_due) AS due FROM invoice
            WHERE finalize_time IS NOT NULL AND void_time IS NULL AND write_off_time IS NULL GROUP BY firm_id, client_id, currency_code
        ) i USING (firm_id, client_id, currency_code)
        WHERE coalesce(b.receivable_minor, 0) <> coalesce(i.due, 0)"""),
)  # fmt: skip

_PAID = "i.amount_received - i.amount_refunded - i.amount_charged_back"
_DUE = "(i.total - i.amount_credited - (i.amount_received - i.amount_refunded - i.amount_charged_back))"

INVOICES: Final = (
    Invariant("invoice_totals", 2, "Total = subtotal - discounts + tax on top; subtotal, discounts, tax and count are those of the lines.", """
        SELECT i.firm_id, 'invoice' AS object_type, i.id::text AS object_id,
               format('total %%s, subtotal %%s, discounts %%s, tax %%s; %%s lines sum to %%s, %%s stored', i.total, i.subtotal, i.discount_total,
                      i.tax_total, l.lines, l.amount, i.line_count) AS message
        FROM invoice i CROSS JOIN LATERAL (
            SELECT count(*) AS lines, coalesce(sum(amount_minor), 0) AS amount, coalesce(sum(discount_minor), 0) AS discount,
                   coalesce(sum(tax_minor), 0) AS tax, coalesce(sum(tax_included_minor), 0) AS included
            FROM invoice_line l WHERE l.firm_id = i.firm_id AND l.invoice_id = i.id
        ) l
        WHERE i.total <> i.subtotal - i.discount_total + i.tax_total - i.tax_included_total
           OR (i.finalize_time IS NOT NULL AND (l.amount, l.lines, l.discount, l.tax, l.included)
               IS DISTINCT FROM (i.subtotal, i.line_count, i.discount_total, i.tax_total, i.tax_included_total))"""),
    Invariant("invoice_amounts", 2, "Amounts paid and due are as defined, and nothing is negative.", """
        SELECT i.firm_id, 'invoice' AS object_type, i.id::text AS object_id,
               format('total %%s, received %%s, refunded %%s, charged back %%s, credited %%s; stored: paid %%s, due %%s', i.total, i.amount_received,
                      i.amount_refunded, i.amount_charged_back, i.amount_credited, i.amount_paid, i.amount_due) AS message
        FROM invoice i
        WHERE i.amount_paid IS DISTINCT FROM """ + _PAID + " OR i.amount_due IS DISTINCT FROM " + _DUE + """ OR i.amount_due < 0 OR i.amount_paid < 0
           OR i.amount_credited < 0 OR (i.void_time IS NOT NULL AND i.amount_received <> 0)"""),
    Invariant("invoice_states", 2, "An invoice's state is what its facts derive.", """
        SELECT d.firm_id, 'invoice' AS object_type, d.id::text AS object_id, format('stored %%s, derived %%s', d.state, d.derived) AS message
        FROM (SELECT i.firm_id, i.id, i.state, CASE
            WHEN i.finalize_time IS NULL THEN 'DRAFT'
            WHEN i.void_time IS NOT NULL THEN 'VOID'
            WHEN i.write_off_time IS NOT NULL AND """ + _DUE + """ > 0 THEN 'UNCOLLECTIBLE'
            WHEN i.open_chargebacks > 0 THEN 'DISPUTED'
            WHEN i.lost_disputes > 0 AND """ + _DUE + """ > 0 THEN 'CHARGED_BACK'
            WHEN i.amount_received > 0 AND i.amount_refunded = i.amount_received AND """ + _DUE + """ = 0 THEN 'REFUNDED'
            WHEN """ + _DUE + """ = 0 THEN 'PAID'
            WHEN i.overdue_time IS NOT NULL OR i.retries_exhausted THEN 'OVERDUE'
            WHEN i.retry_pending THEN 'FAILED'
            ELSE 'SENT' END AS derived FROM invoice i) d
        WHERE d.state IS DISTINCT FROM d.derived"""),
    Invariant("one_currency", 2, "An invoice, its payments, allocations and ledger entries have one currency.", """
        SELECT a.firm_id, 'payment' AS object_type, a.payment_id::text AS object_id,
               format('allocation in %%s, payment in %%s, invoice in %%s', a.currency_code, p.currency_code, i.currency_code) AS message
        FROM payment_allocation a
        JOIN payment p ON p.firm_id = a.firm_id AND p.id = a.payment_id JOIN invoice i ON i.firm_id = a.firm_id AND i.id = a.invoice_id
        WHERE a.currency_code <> p.currency_code OR a.currency_code <> i.currency_code
        UNION ALL
        SELECT e.firm_id, 'invoice', i.id::text, format('ledger entry in %%s, invoice in %%s', e.currency_code, i.currency_code)
        FROM ledger_entry e JOIN ledger_posting p ON p.firm_id = e.firm_id AND p.id = e.posting_id
        JOIN invoice i ON i.firm_id = p.firm_id AND i.id = p.source_id WHERE e.currency_code <> i.currency_code"""),
    Invariant("invoice_numbers", 6, "Numbers of invoices and credit notes per firm and series run from 1 to n without a gap.", """
        SELECT firm_id, 'invoice_series' AS object_type, series AS object_id,
               format('%%s numbers from %%s to %%s, the counter stands at %%s', coalesce(i.numbers, 0), i.lowest, i.highest, s.next_no) AS message
        FROM invoice_series s FULL JOIN (
            SELECT firm_id, series, count(DISTINCT series_no) AS numbers, min(series_no) AS lowest, max(series_no) AS highest
            FROM (SELECT firm_id, series, series_no FROM invoice WHERE series_no IS NOT NULL
                  UNION ALL SELECT firm_id, series, series_no FROM credit_note) n GROUP BY firm_id, series
        ) i USING (firm_id, series)
        WHERE s.next_no IS NULL OR coalesce(i.numbers, 0) <> s.next_no - 1 OR coalesce(i.lowest, 1) <> 1 OR coalesce(i.highest, 0) <> s.next_no - 1"""),
    Invariant("invoice_number_texts", 6, "No two invoices or credit notes of a firm have the same number.", """
        SELECT firm_id, 'invoice' AS object_type, min(id::text) AS object_id, format('%%s documents have the number %%s', count(*), number) AS message
        FROM (SELECT firm_id, id, number FROM invoice WHERE number IS NOT NULL UNION ALL SELECT firm_id, id, number FROM credit_note) n
        GROUP BY firm_id, number HAVING count(*) > 1"""),
)  # fmt: skip

FACTS: Final = (
    Invariant("payment_success_recorded_once", 8, "Every success has exactly one posting, one allocation set, one event and one audit entry.", """
        SELECT p.firm_id, 'payment' AS object_type, p.id::text AS object_id,
               format('postings %%s, events %%s, audit entries %%s; captured %%s = allocated %%s + credited %%s, allocations sum to %%s',
                      s.postings, s.events, s.entries, p.captured_minor, p.allocated_minor, p.credited_minor, s.allocated) AS message
        FROM payment p CROSS JOIN LATERAL (SELECT
            (SELECT count(*) FROM ledger_posting g WHERE g.firm_id = p.firm_id AND g.source_id = p.id AND g.kind = 'received') AS postings,
            (SELECT count(*) FROM event e WHERE e.firm_id = p.firm_id AND e.object_id = p.id AND e.type = 'payment.succeeded') AS events,
            (SELECT count(*) FROM audit_event a WHERE a.firm_id = p.firm_id AND a.object_id = p.id
                AND a.action IN ('payment_succeeded', 'payment_recorded', 'payment_landed_late')) AS entries,
            (SELECT coalesce(sum(l.amount_minor), 0) FROM payment_allocation l WHERE l.firm_id = p.firm_id AND l.payment_id = p.id) AS allocated
        ) s
        WHERE (p.state = 'SUCCEEDED' AND (s.postings <> 1 OR s.events <> 1 OR s.entries <> 1 OR s.allocated <> p.allocated_minor
                OR p.captured_minor <> p.allocated_minor + p.credited_minor OR p.captured_minor <= 0))
           OR (p.state <> 'SUCCEEDED' AND (s.postings <> 0 OR s.events <> 0 OR s.entries <> 0 OR s.allocated <> 0 OR p.captured_minor <> 0))"""),
    Invariant("payment_posting_amounts", 8, "The posting of a success moves exactly the money that was captured.", """
        SELECT p.firm_id, 'payment' AS object_type, p.id::text AS object_id,
               format('captured %%s, the posting receives %%s', p.captured_minor, sum(e.amount_minor)) AS message
        FROM payment p JOIN ledger_posting g ON g.firm_id = p.firm_id AND g.source_id = p.id AND g.kind = 'received'
        JOIN ledger_entry e ON e.firm_id = g.firm_id AND e.posting_id = g.id AND e.account IN ('cash', 'clearing')
        GROUP BY p.firm_id, p.id, p.captured_minor HAVING sum(e.amount_minor) <> p.captured_minor"""),
    Invariant("received_matches_allocations", 8, "What an invoice has received is the sum of what payments allocate to it.", """
        SELECT i.firm_id, 'invoice' AS object_type, i.id::text AS object_id,
               format('received %%s, allocations sum to %%s', i.amount_received, coalesce(sum(a.amount_minor), 0)) AS message
        FROM invoice i LEFT JOIN payment_allocation a ON a.firm_id = i.firm_id AND a.invoice_id = i.id
        GROUP BY i.firm_id, i.id, i.amount_received HAVING i.amount_received <> coalesce(sum(a.amount_minor), 0)"""),
    Invariant("invoice_facts_recorded_once", 8, "Finalising, voiding and writing off leave exactly one posting, event and audit entry each.", """
        SELECT f.firm_id, 'invoice' AS object_type, f.id::text AS object_id,
               format('%%s: postings %%s, events %%s, audit entries %%s', f.fact, s.postings, s.events, s.entries) AS message
        FROM (
            SELECT firm_id, id, 'finalized' AS fact, (total > 0) AS posts FROM invoice WHERE finalize_time IS NOT NULL
            UNION ALL SELECT firm_id, id, 'voided', (total > 0) FROM invoice WHERE void_time IS NOT NULL
            UNION ALL SELECT firm_id, id, 'written_off', true FROM invoice WHERE write_off_time IS NOT NULL
        ) f CROSS JOIN LATERAL (SELECT
            (SELECT count(*) FROM ledger_posting g WHERE g.firm_id = f.firm_id AND g.source_id = f.id AND g.kind = f.fact) AS postings,
            (SELECT count(*) FROM event e WHERE e.firm_id = f.firm_id AND e.object_id = f.id AND e.type = 'invoice.' || f.fact) AS events,
            (SELECT count(*) FROM audit_event a WHERE a.firm_id = f.firm_id AND a.object_id = f.id AND a.action = 'invoice_' || f.fact) AS entries
        ) s WHERE s.postings <> f.posts::int OR s.events <> 1 OR s.entries <> 1"""),
)  # fmt: skip
