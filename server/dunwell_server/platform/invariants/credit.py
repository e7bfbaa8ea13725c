"""Invariants of credit that clients hold, and of what credit notes take back line by line."""

from __future__ import annotations

from typing import Final

from dunwell_server.platform.invariants.model import Invariant

_SIGNED = "CASE u.kind WHEN 'RELEASED' THEN u.amount_minor ELSE -u.amount_minor END"

CREDIT: Final = (
    Invariant("credit", 5, "A client's credit is never negative, and is what is left of its entries; no invoice takes more than its total.", """
        SELECT firm_id, 'client' AS object_type, client_id::text AS object_id,
               format('%%s: credit is %%s, its entries have %%s', currency_code, coalesce(b.credit_minor, 0), coalesce(e.remaining, 0)) AS message
        FROM client_balance b FULL JOIN (
            SELECT firm_id, client_id, currency_code, sum(remaining_minor) AS remaining FROM credit_entry GROUP BY firm_id, client_id, currency_code
        ) e USING (firm_id, client_id, currency_code)
        WHERE coalesce(b.credit_minor, 0) < 0 OR coalesce(b.credit_minor, 0) <> coalesce(e.remaining, 0)
        UNION ALL
        SELECT firm_id, 'invoice', id::text, format('credit %%s is more than the total %%s', amount_credited, total)
        FROM invoice WHERE amount_credited > total"""),
    Invariant("credit_entries", 5, "What is left of an entry is its amount less its uses, and no less than nothing.", """
        SELECT e.firm_id, 'credit' AS object_type, e.id::text AS object_id,
               format('amount %%s, uses %%s, left %%s', e.amount_minor, coalesce(u.amount, 0), e.remaining_minor) AS message
        FROM credit_entry e LEFT JOIN (
            SELECT u.firm_id, u.entry_id, sum(""" + _SIGNED + """) AS amount FROM credit_use u GROUP BY u.firm_id, u.entry_id
        ) u ON u.firm_id = e.firm_id AND u.entry_id = e.id
        WHERE e.remaining_minor <> e.amount_minor + coalesce(u.amount, 0) OR e.remaining_minor NOT BETWEEN 0 AND e.amount_minor"""),
    Invariant("credit_uses", 5, "Credit pays invoices of its own client, and gives back no more than it paid.", """
        SELECT u.firm_id, 'invoice' AS object_type, u.invoice_id::text AS object_id,
               format('credit %%s of client %%s applied to it: %%s', u.entry_id, e.client_id, u.amount) AS message
        FROM (SELECT firm_id, invoice_id, entry_id, -sum(""" + _SIGNED.replace("u.", "") + """) AS amount FROM credit_use
              WHERE invoice_id IS NOT NULL GROUP BY firm_id, invoice_id, entry_id) u
        JOIN credit_entry e ON e.firm_id = u.firm_id AND e.id = u.entry_id
        LEFT JOIN invoice i ON i.firm_id = u.firm_id AND i.id = u.invoice_id
        WHERE u.amount < 0 OR i.client_id IS DISTINCT FROM e.client_id OR (i.void_time IS NOT NULL AND u.amount <> 0)"""),
    Invariant("credit_postings", 5, "Every grant, and every use that no other fact posts, has one posting that moves the client's credit by its amount.", """
        SELECT f.firm_id, 'credit' AS object_type, f.id::text AS object_id, format('%%s of %%s; posted %%s', f.kind, f.amount, p.amount) AS message
        FROM (
            SELECT firm_id, id, 'granted' AS kind, -amount_minor AS amount FROM credit_entry WHERE source_type = 'grant'
            UNION ALL
            SELECT u.firm_id, u.id, lower(u.kind), -(""" + _SIGNED + """) FROM credit_use u
            WHERE u.kind IN ('APPLIED', 'RELEASED', 'EXPIRED', 'REVERSED')
        ) f LEFT JOIN LATERAL (
            SELECT sum(e.amount_minor) AS amount FROM ledger_posting g JOIN ledger_entry e ON e.firm_id = g.firm_id AND e.posting_id = g.id
            WHERE g.firm_id = f.firm_id AND g.source_id = f.id AND g.kind = f.kind AND e.account = 'client_credit'
        ) p ON true
        WHERE p.amount IS DISTINCT FROM f.amount"""),
    Invariant("credit_sources", 5, "What a payment, refund, dispute or credit note posts to a client's credit, it adds to or takes from its entries.", """
        SELECT firm_id, source_type AS object_type, source_id::text AS object_id,
               format('posted %%s to credit, its entries and uses come to %%s', coalesce(p.amount, 0), coalesce(c.amount, 0)) AS message
        FROM (
            SELECT g.firm_id, g.source_type, g.source_id, -sum(e.amount_minor) AS amount
            FROM ledger_entry e JOIN ledger_posting g ON g.firm_id = e.firm_id AND g.id = e.posting_id
            WHERE e.account = 'client_credit' AND g.source_type IN ('payment', 'refund', 'dispute', 'credit_note')
            GROUP BY g.firm_id, g.source_type, g.source_id
        ) p FULL JOIN (
            SELECT firm_id, source_type, source_id, sum(amount) AS amount FROM (
                SELECT firm_id, source_type, source_id, amount_minor AS amount FROM credit_entry
                WHERE source_type IN ('payment', 'refund', 'dispute', 'credit_note')
                UNION ALL
                SELECT firm_id, source_type, source_id, -amount_minor FROM credit_use WHERE kind IN ('REFUNDED', 'CHARGED_BACK')
            ) m GROUP BY firm_id, source_type, source_id
        ) c USING (firm_id, source_type, source_id)
        WHERE coalesce(p.amount, 0) <> coalesce(c.amount, 0)"""),
    Invariant("credit_note_lines", 8, "A credit note is the sum of its lines, and no line or tax is credited beyond what was billed.", """
        SELECT n.firm_id, 'credit_note' AS object_type, n.id::text AS object_id,
               format('amount %%s, tax %%s, deferred %%s; its lines %%s, %%s, %%s', n.amount_minor, n.tax_minor, n.deferred_minor, l.total, l.tax, l.deferred) AS message
        FROM credit_note n LEFT JOIN LATERAL (
            SELECT sum(c.amount_minor - c.discount_minor + c.tax_minor - c.tax_included_minor) AS total, sum(c.tax_minor) AS tax,
                   sum(c.deferred_minor) AS deferred
            FROM credit_note_line c WHERE c.firm_id = n.firm_id AND c.credit_note_id = n.id
        ) l ON true
        WHERE (l.total, l.tax, l.deferred) IS DISTINCT FROM (n.amount_minor, n.tax_minor, n.deferred_minor)
        UNION ALL
        SELECT l.firm_id, 'invoice', l.invoice_id::text, format('line %%s was billed %%s, credited %%s', l.line_no, l.amount_minor, c.amount)
        FROM invoice_line l JOIN (
            SELECT firm_id, invoice_id, line_no, sum(amount_minor) AS amount, sum(discount_minor) AS discount, sum(tax_minor) AS tax,
                   sum(tax_included_minor) AS included FROM credit_note_line GROUP BY firm_id, invoice_id, line_no
        ) c ON c.firm_id = l.firm_id AND c.invoice_id = l.invoice_id AND c.line_no = l.line_no
        WHERE c.amount > l.amount_minor OR c.discount > l.discount_minor OR c.tax > l.tax_minor OR c.included > l.tax_included_minor
        UNION ALL
        SELECT c.firm_id, 'invoice', c.invoice_id::text, format('tax %%s of line %%s was %%s, credited %%s', c.tax_no, c.line_no, t.tax_minor, c.tax)
        FROM (SELECT firm_id, invoice_id, line_no, tax_no, sum(tax_minor) AS tax FROM credit_note_line_tax GROUP BY firm_id, invoice_id, line_no, tax_no) c
        JOIN invoice_line_tax t ON t.firm_id = c.firm_id AND t.invoice_id = c.invoice_id AND t.line_no = c.line_no AND t.tax_no = c.tax_no
        WHERE c.tax > t.tax_minor"""),
)  # fmt: skip
