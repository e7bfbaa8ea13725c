"""Invariants of refunds and credit notes: what each has left behind in payment, invoices and ledger."""

from __future__ import annotations

from typing import Final

from dunwell_server.platform.invariants.model import Invariant

REFUNDS: Final = (
    Invariant("payment_refunds", 8, "What a payment has given back, and keeps back, is what its refunds say.", """
        SELECT p.firm_id, 'payment' AS object_type, p.id::text AS object_id,
               format('refunded %%s, its refunds %%s; kept back %%s, its open refunds %%s', p.refunded_minor, s.done, p.refund_pending_minor, s.open) AS message
        FROM payment p CROSS JOIN LATERAL (
            SELECT coalesce(sum(r.amount_minor) FILTER (WHERE r.succeed_time IS NOT NULL), 0) AS done,
                   coalesce(sum(r.amount_minor) FILTER (WHERE r.state IN ('AWAITING_APPROVAL', 'PROCESSING', 'PENDING')), 0) AS open
            FROM refund r WHERE r.firm_id = p.firm_id AND r.payment_id = p.id) s
        WHERE p.refunded_minor <> s.done OR p.refund_pending_minor <> s.open"""),
    Invariant("refund_recorded_once", 8, "Every refund that succeeded has exactly one posting, event and audit entry; each that came back, one more posting.", """
        SELECT r.firm_id, 'refund' AS object_type, r.id::text AS object_id,
               format('%%s: postings %%s, events %%s, audit entries %%s; came back %%s, postings of it %%s', r.state, s.postings, s.events, s.entries,
                      r.failed_after_success, s.returns) AS message
        FROM refund r CROSS JOIN LATERAL (SELECT
            (SELECT count(*) FROM ledger_posting g WHERE g.firm_id = r.firm_id AND g.source_id = r.id AND g.kind = 'refunded') AS postings,
            (SELECT count(*) FROM ledger_posting g WHERE g.firm_id = r.firm_id AND g.source_id = r.id AND g.kind = 'came_back') AS returns,
            (SELECT count(*) FROM event e WHERE e.firm_id = r.firm_id AND e.object_id = r.id AND e.type = 'refund.succeeded') AS events,
            (SELECT count(*) FROM audit_event a WHERE a.firm_id = r.firm_id AND a.object_id = r.id AND a.action = 'refund_succeeded') AS entries
        ) s
        WHERE s.postings <> (r.succeed_time IS NOT NULL)::int OR s.events <> (r.succeed_time IS NOT NULL)::int
           OR s.entries <> (r.succeed_time IS NOT NULL)::int OR s.returns <> r.failed_after_success::int
           OR (r.succeed_time IS NOT NULL) <> (r.state = 'SUCCEEDED' OR r.failed_after_success)"""),
    Invariant("refund_amounts", 8, "A refund that succeeded is what was taken from credit and invoices, and what its posting pays out.", """
        SELECT r.firm_id, 'refund' AS object_type, r.id::text AS object_id,
               format('amount %%s; from credit %%s, promised %%s, from invoices %%s, uncovered %%s; posted %%s', r.amount_minor, r.from_credit_minor,
                      r.from_payable_minor, s.allocated, r.uncovered_minor, s.posted) AS message
        FROM refund r CROSS JOIN LATERAL (SELECT
            (SELECT coalesce(sum(l.amount_minor), 0) FROM refund_allocation l WHERE l.firm_id = r.firm_id AND l.refund_id = r.id) AS allocated,
            (SELECT coalesce(sum(o.amount_minor), 0) FROM credit_note_payout o WHERE o.firm_id = r.firm_id AND o.refund_id = r.id) AS paid_out,
            (SELECT -coalesce(sum(e.amount_minor), 0) FROM ledger_posting g JOIN ledger_entry e ON e.firm_id = g.firm_id AND e.posting_id = g.id
             WHERE g.firm_id = r.firm_id AND g.source_id = r.id AND g.kind = 'refunded' AND e.amount_minor < 0) AS posted
        ) s
        WHERE (r.succeed_time IS NOT NULL AND (r.amount_minor <> r.from_credit_minor + r.from_payable_minor + s.allocated + r.uncovered_minor
                OR s.posted <> r.amount_minor OR s.paid_out <> r.from_payable_minor))
           OR (r.succeed_time IS NULL AND (r.from_credit_minor <> 0 OR r.from_payable_minor <> 0 OR r.uncovered_minor <> 0 OR s.allocated <> 0
                OR s.paid_out <> 0))"""),
    Invariant("refund_allocations", 8, "An allocation of a refund has a credit note of its amount, unless the invoice is owed again; no invoice gives back more "
        "of a payment than it took.", """
        SELECT l.firm_id, 'refund' AS object_type, l.refund_id::text AS object_id,
               format('allocated %%s, the credit note is over %%s; owed again: %%s', l.amount_minor, n.amount_minor, r.reopen_invoice) AS message
        FROM refund_allocation l JOIN refund r ON r.firm_id = l.firm_id AND r.id = l.refund_id
        LEFT JOIN credit_note n ON n.firm_id = l.firm_id AND n.id = l.credit_note_id AND n.refund_id = l.refund_id AND n.invoice_id = l.invoice_id
        WHERE n.amount_minor IS DISTINCT FROM CASE WHEN r.reopen_invoice THEN NULL ELSE l.amount_minor END
        UNION ALL
        SELECT l.firm_id, 'payment', r.payment_id::text, format('invoice %%s gave back %%s, it took %%s', l.invoice_id, sum(l.amount_minor), a.amount_minor)
        FROM refund_allocation l JOIN refund r ON r.firm_id = l.firm_id AND r.id = l.refund_id
        LEFT JOIN payment_allocation a ON a.firm_id = l.firm_id AND a.payment_id = r.payment_id AND a.invoice_id = l.invoice_id
        GROUP BY l.firm_id, r.payment_id, l.invoice_id, a.amount_minor HAVING sum(l.amount_minor) > coalesce(a.amount_minor, 0)"""),
    Invariant("invoice_refunds", 8, "What an invoice was refunded and credited is the sum of its refunds' allocations, of its credit notes, and of credit applied.", """
        SELECT i.firm_id, 'invoice' AS object_type, i.id::text AS object_id,
               format('refunded %%s, allocations and notes sum to %%s; credited %%s, credit notes and applied credit sum to %%s', i.amount_refunded, s.refunded, i.amount_credited, s.credited) AS message
        FROM invoice i CROSS JOIN LATERAL (SELECT
            (SELECT coalesce(sum(l.amount_minor), 0) FROM refund_allocation l WHERE l.firm_id = i.firm_id AND l.invoice_id = i.id)
                + (SELECT coalesce(sum(n.credited_minor + n.payable_minor), 0) FROM credit_note n WHERE n.firm_id = i.firm_id AND n.invoice_id = i.id) AS refunded,
            (SELECT coalesce(sum(n.amount_minor), 0) FROM credit_note n WHERE n.firm_id = i.firm_id AND n.invoice_id = i.id)
                + (SELECT coalesce(sum(CASE u.kind WHEN 'APPLIED' THEN u.amount_minor ELSE -u.amount_minor END), 0) FROM credit_use u
                   WHERE u.firm_id = i.firm_id AND u.invoice_id = i.id) AS credited
        ) s WHERE i.amount_refunded <> s.refunded OR i.amount_credited <> s.credited"""),
    Invariant("credit_notes", 8, "Every credit note has exactly one posting of its parts, event and audit entry, and what notes still promise is what is payable.", """
        SELECT n.firm_id, 'credit_note' AS object_type, n.id::text AS object_id,
               format('amount %%s, tax %%s, deferred %%s; postings %%s over %%s, tax %%s, deferred %%s; events %%s, audit entries %%s', n.amount_minor, n.tax_minor,
                      n.deferred_minor, s.postings, s.payable, s.tax, s.deferred, s.events, s.entries) AS message
        FROM credit_note n CROSS JOIN LATERAL (SELECT
            (SELECT count(*) FROM ledger_posting g WHERE g.firm_id = n.firm_id AND g.source_id = n.id AND g.kind = 'issued') AS postings,
            (SELECT count(*) FROM event e WHERE e.firm_id = n.firm_id AND e.object_id = n.id AND e.type = 'credit_note.issued') AS events,
            (SELECT count(*) FROM audit_event a WHERE a.firm_id = n.firm_id AND a.object_id = n.id AND a.action = 'credit_note_issued') AS entries,
            (SELECT -coalesce(sum(e.amount_minor) FILTER (WHERE e.account = 'refund_payable'), 0) FROM ledger_posting g
             JOIN ledger_entry e ON e.firm_id = g.firm_id AND e.posting_id = g.id WHERE g.firm_id = n.firm_id AND g.source_id = n.id) AS payable,
            (SELECT coalesce(sum(e.amount_minor) FILTER (WHERE e.account = 'tax_payable'), 0) FROM ledger_posting g
             JOIN ledger_entry e ON e.firm_id = g.firm_id AND e.posting_id = g.id WHERE g.firm_id = n.firm_id AND g.source_id = n.id) AS tax,
            (SELECT coalesce(sum(e.amount_minor) FILTER (WHERE e.account = 'deferred_revenue'), 0) FROM ledger_posting g
             JOIN ledger_entry e ON e.firm_id = g.firm_id AND e.posting_id = g.id WHERE g.firm_id = n.firm_id AND g.source_id = n.id) AS deferred
        ) s
        WHERE s.postings <> 1 OR s.events <> 1 OR s.entries <> 1 OR s.payable <> CASE WHEN n.refund_id IS NULL THEN n.payable_minor ELSE n.amount_minor END OR s.tax <> n.tax_minor OR s.deferred <> n.deferred_minor
        UNION ALL
        SELECT firm_id, 'account', 'refund_payable', format('%%s: %%s minor units are payable, credit notes promise %%s', currency_code,
               coalesce(a.payable, 0), coalesce(n.promised, 0))
        FROM (SELECT firm_id, currency_code, -sum(amount_minor) AS payable FROM ledger_entry WHERE account = 'refund_payable' GROUP BY firm_id, currency_code) a
        FULL JOIN (
            SELECT n.firm_id, n.currency_code, sum(n.payable_minor - coalesce(o.amount, 0)) AS promised
            FROM credit_note n LEFT JOIN (SELECT firm_id, credit_note_id, sum(amount_minor) AS amount FROM credit_note_payout GROUP BY firm_id, credit_note_id) o
                ON o.firm_id = n.firm_id AND o.credit_note_id = n.id
            GROUP BY n.firm_id, n.currency_code
        ) n USING (firm_id, currency_code)
        WHERE coalesce(a.payable, 0) <> coalesce(n.promised, 0)"""),
)  # fmt: skip
