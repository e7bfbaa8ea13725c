"""Credit notes' SQL: what of an invoice is left to credit, what a refund does to invoices, and notes under their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from dunwell_server.billing.crediting import CreditParts
from dunwell_server.billing.model import CreditNote, Invoice
from dunwell_server.billing.store.invoices import COLUMNS, invoice_from_row, take_numbers
from dunwell_server.billing.store.rows import fetch
from dunwell_server.platform.database import UnitOfWork

_LEFT: Final = """
SELECT i.id, i.total - i.tax_total - d.deferred - n.earned AS earned, d.deferred - n.deferred AS deferred, i.tax_total - n.tax AS tax
FROM invoice i
CROSS JOIN LATERAL (
    SELECT least(coalesce(sum(l.amount_minor) FILTER (WHERE l.in_advance), 0), i.total - i.tax_total)::bigint AS deferred
    FROM invoice_line l WHERE l.firm_id = i.firm_id AND l.invoice_id = i.id
) d
CROSS JOIN LATERAL (
    SELECT coalesce(sum(c.amount_minor - c.tax_minor - c.deferred_minor), 0)::bigint AS earned,
           coalesce(sum(c.deferred_minor), 0)::bigint AS deferred, coalesce(sum(c.tax_minor), 0)::bigint AS tax
    FROM credit_note c WHERE c.firm_id = i.firm_id AND c.invoice_id = i.id
) n
WHERE i.firm_id = %(firm_id)s AND i.id = ANY(%(ids)s)
"""
_REFUND = f"""
UPDATE invoice i SET amount_refunded = i.amount_refunded + d.amount,
    amount_credited = i.amount_credited + CASE WHEN %(reopen)s THEN 0 ELSE d.amount END,
    paid_time = CASE WHEN %(reopen)s THEN NULL ELSE i.paid_time END, version = i.version + 1, update_time = %(now)s
FROM unnest(%(ids)s::uuid[], %(amounts)s::bigint[]) AS d (id, amount)
WHERE i.firm_id = %(firm_id)s AND i.id = d.id
RETURNING {COLUMNS}
"""
_INSERT: Final = """
INSERT INTO credit_note (firm_id, id, client_id, invoice_id, refund_id, series, series_no, number, currency_code, amount_minor, tax_minor,
                         deferred_minor, reason, issue_date)
SELECT %(firm_id)s, id, client_id, invoice_id, %(refund_id)s, %(series)s, no,
       %(series)s || '-' || lpad(no::text, greatest(%(padding)s, length(no::text)), '0'), currency_code, amount_minor, tax_minor, deferred_minor,
       %(reason)s, %(issue_date)s
FROM unnest(%(ids)s::uuid[], %(clients)s::uuid[], %(invoices)s::uuid[], %(nos)s::bigint[], %(currencies)s::text[], %(amounts)s::bigint[],
            %(taxes)s::bigint[], %(deferreds)s::bigint[])
    AS n (id, client_id, invoice_id, no, currency_code, amount_minor, tax_minor, deferred_minor)
"""


async def left_to_credit(uow: UnitOfWork, invoices: Sequence[UUID]) -> dict[UUID, CreditParts]:
    """What of each invoice no credit note has taken back, by what it was booked as."""
    rows = await uow.fetch_all(_LEFT, {"firm_id": uow.firm_id, "ids": list(invoices)})
    return {row["id"]: CreditParts(row["earned"], row["deferred"], row["tax"]) for row in rows}


async def refund(uow: UnitOfWork, parts: Mapping[UUID, int], *, reopen: bool) -> list[Invoice]:
    """Add what is refunded to each of the (locked) invoices, and credit as much unless it is owed again; their new facts, in id order."""
    params = {
        "firm_id": uow.firm_id, "now": uow.now, "ids": list(parts), "amounts": list(parts.values()), "reopen": reopen,
    }  # fmt: skip
    return sorted(await fetch(uow, invoice_from_row, _REFUND, params), key=lambda invoice: invoice.id)


async def insert(uow: UnitOfWork, notes: Sequence[CreditNote], series: str, padding: int) -> None:
    """Take numbers and write the notes of one refund under them. The counter stays locked: write them last."""
    first = await take_numbers(uow, series, len(notes))
    await uow.execute(_INSERT, {
        "firm_id": uow.firm_id, "series": series, "padding": padding, "refund_id": notes[0].refund_id, "reason": notes[0].reason,
        "issue_date": notes[0].issue_date, "nos": list(range(first, first + len(notes))), "ids": [note.id for note in notes],
        "clients": [note.client_id for note in notes], "invoices": [note.invoice_id for note in notes],
        "currencies": [note.currency_code for note in notes], "amounts": [note.amount_minor for note in notes],
        "taxes": [note.tax_minor for note in notes], "deferreds": [note.deferred_minor for note in notes],
    })  # fmt: skip
