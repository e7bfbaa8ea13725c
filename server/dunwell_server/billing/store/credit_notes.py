"""Credit notes' SQL: what of an invoice is left to credit, what notes and refunds do to invoices, and notes under their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from dunwell_server.billing.crediting import LineLeft, LinePart, TaxPart
from dunwell_server.billing.model import CreditNote, Invoice
from dunwell_server.billing.model.credit_notes import CreditedLine, IssuedNote, NoteTax
from dunwell_server.billing.store.invoices import COLUMNS, invoice_from_row, take_numbers
from dunwell_server.billing.store.rows import Conditions, PageRequest, TupleRow, fetch
from dunwell_server.platform.database import UnitOfWork

_LEFT: Final = """
SELECT l.invoice_id, l.line_no, l.amount_minor - coalesce(c.amount, 0), l.discount_minor - coalesce(c.discount, 0), l.amount_minor, l.quantity,
       coalesce(c.quantity, 0), CASE WHEN l.tax_count > 0 THEN (
           SELECT json_agg(json_build_array(t.tax_no, t.inclusive, t.tax_minor - coalesce((
                      SELECT sum(x.tax_minor) FROM credit_note_line_tax x
                      WHERE x.firm_id = t.firm_id AND x.invoice_id = t.invoice_id AND x.line_no = t.line_no AND x.tax_no = t.tax_no), 0)) ORDER BY t.tax_no)
           FROM invoice_line_tax t WHERE t.firm_id = l.firm_id AND t.invoice_id = l.invoice_id AND t.line_no = l.line_no AND t.tax_minor > 0) END
FROM invoice_line l
LEFT JOIN LATERAL (
    SELECT sum(n.amount_minor)::bigint AS amount, sum(n.discount_minor)::bigint AS discount, sum(n.quantity) AS quantity
    FROM credit_note_line n WHERE n.firm_id = l.firm_id AND n.invoice_id = l.invoice_id AND n.line_no = l.line_no
) c ON true
WHERE l.firm_id = %(firm_id)s AND l.invoice_id = ANY(%(ids)s) ORDER BY l.invoice_id, l.line_no
"""
_REFUND = f"""
UPDATE invoice i SET amount_refunded = i.amount_refunded + d.amount,
    amount_credited = i.amount_credited + CASE WHEN %(reopen)s THEN 0 ELSE d.amount END,
    paid_time = CASE WHEN %(reopen)s THEN NULL ELSE i.paid_time END, version = i.version + 1, update_time = %(now)s
FROM unnest(%(ids)s::uuid[], %(amounts)s::bigint[]) AS d (id, amount)
WHERE i.firm_id = %(firm_id)s AND i.id = d.id
RETURNING {COLUMNS}
"""
_CREDIT: Final = f"""
UPDATE invoice i SET amount_credited = i.amount_credited + %(credited)s, amount_refunded = i.amount_refunded + %(refunded)s,
    paid_time = CASE WHEN i.amount_due > 0 AND i.amount_due = %(applied)s THEN %(now)s ELSE i.paid_time END, version = i.version + 1, update_time = %(now)s
WHERE i.firm_id = %(firm_id)s AND i.id = %(id)s
RETURNING {COLUMNS}
"""
_INSERT: Final = """
INSERT INTO credit_note (firm_id, id, client_id, invoice_id, refund_id, series, series_no, number, currency_code, amount_minor, tax_minor,
                         deferred_minor, reason, issue_date, applied_minor, credited_minor, released_minor, payable_minor)
SELECT %(firm_id)s, id, client_id, invoice_id, refund_id, %(series)s, no,
       %(series)s || '-' || lpad(no::text, greatest(%(padding)s, length(no::text)), '0'), currency_code, amount_minor, tax_minor, deferred_minor,
       reason, issue_date, applied_minor, credited_minor, released_minor, payable_minor
FROM unnest(%(ids)s::uuid[], %(clients)s::uuid[], %(invoices)s::uuid[], %(refunds)s::uuid[], %(nos)s::bigint[], %(currencies)s::text[],
            %(amounts)s::bigint[], %(taxes)s::bigint[], %(deferreds)s::bigint[], %(reasons)s::text[], %(dates)s::date[], %(applied)s::bigint[],
            %(credited)s::bigint[], %(released)s::bigint[], %(payable)s::bigint[])
    AS n (id, client_id, invoice_id, refund_id, no, currency_code, amount_minor, tax_minor, deferred_minor, reason, issue_date, applied_minor,
          credited_minor, released_minor, payable_minor)
"""
_INSERT_LINES: Final = """
INSERT INTO credit_note_line (firm_id, credit_note_id, line_no, invoice_id, quantity, amount_minor, discount_minor, tax_minor, tax_included_minor,
                              deferred_minor)
SELECT %(firm_id)s, note_id, line_no, invoice_id, quantity, amount, discount, tax, included, deferred
FROM unnest(%(notes)s::uuid[], %(lines)s::smallint[], %(invoices)s::uuid[], %(quantities)s::numeric[], %(amounts)s::bigint[], %(discounts)s::bigint[],
            %(taxes)s::bigint[], %(included)s::bigint[], %(deferred)s::bigint[])
    AS l (note_id, line_no, invoice_id, quantity, amount, discount, tax, included, deferred)
"""
_INSERT_TAXES: Final = """
INSERT INTO credit_note_line_tax (firm_id, credit_note_id, line_no, tax_no, invoice_id, tax_minor)
SELECT %(firm_id)s, note_id, line_no, tax_no, invoice_id, tax
FROM unnest(%(notes)s::uuid[], %(lines)s::smallint[], %(tax_nos)s::smallint[], %(invoices)s::uuid[], %(taxes)s::bigint[])
    AS t (note_id, line_no, tax_no, invoice_id, tax)
"""
# Notes of invoices that promise to pay something back, the oldest first, with what of it is not paid out.
_PAYABLE: Final = """
SELECT n.id, n.invoice_id, n.payable_minor - coalesce(p.amount, 0) AS amount
FROM credit_note n
LEFT JOIN LATERAL (SELECT sum(o.amount_minor)::bigint AS amount FROM credit_note_payout o WHERE o.firm_id = n.firm_id AND o.credit_note_id = n.id) p ON true
WHERE n.firm_id = %(firm_id)s AND n.invoice_id = ANY(%(invoices)s) AND n.payable_minor > coalesce(p.amount, 0)
ORDER BY n.create_time, n.id
"""
_PAY_OUT: Final = """
INSERT INTO credit_note_payout (firm_id, credit_note_id, refund_id, amount_minor)
SELECT %(firm_id)s, note_id, %(refund_id)s, amount FROM unnest(%(notes)s::uuid[], %(amounts)s::bigint[]) AS p (note_id, amount)
"""
_SHOWN: Final = """
SELECT n.id, n.client_id, n.invoice_id, n.refund_id, n.currency_code, n.amount_minor, n.tax_minor, n.deferred_minor, n.reason, n.issue_date,
       n.applied_minor, n.credited_minor, n.released_minor, n.payable_minor, n.number, n.create_time,
       (SELECT coalesce(sum(o.amount_minor), 0)::bigint FROM credit_note_payout o WHERE o.firm_id = n.firm_id AND o.credit_note_id = n.id),
       (SELECT json_agg(json_build_array(c.line_no, c.amount_minor, c.discount_minor, c.quantity::text, c.deferred_minor, l.description) ORDER BY c.line_no)
        FROM credit_note_line c JOIN invoice_line l ON l.firm_id = c.firm_id AND l.invoice_id = c.invoice_id AND l.line_no = c.line_no
        WHERE c.firm_id = n.firm_id AND c.credit_note_id = n.id),
       (SELECT json_agg(json_build_array(x.line_no, x.tax_no, t.inclusive, x.tax_minor, t.name, t.percentage::text) ORDER BY x.line_no, x.tax_no)
        FROM credit_note_line_tax x JOIN invoice_line_tax t
            ON t.firm_id = x.firm_id AND t.invoice_id = x.invoice_id AND t.line_no = x.line_no AND t.tax_no = x.tax_no
        WHERE x.firm_id = n.firm_id AND x.credit_note_id = n.id)
FROM credit_note n
"""


@dataclass(frozen=True, slots=True)
class NoteQuery:
    """What a list of notes is limited to; None does not limit. The range of dates is half-open."""

    client_id: UUID | None = None
    invoice_id: UUID | None = None
    number: str | None = None
    issue_date: tuple[date | None, date | None] = (None, None)
    id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Promised:
    """What a note promised to pay back and no refund has paid out yet."""

    note_id: UUID
    invoice_id: UUID
    amount_minor: int


async def left_to_credit(uow: UnitOfWork, invoices: Sequence[UUID]) -> dict[UUID, list[LineLeft]]:
    """What of each invoice's lines no credit note has taken back, in the lines' order."""
    found: dict[UUID, list[LineLeft]] = {invoice_id: [] for invoice_id in invoices}
    for row in await fetch(uow, tuple, _LEFT, {"firm_id": uow.firm_id, "ids": list(invoices)}):
        invoice_id, line_no, amount, discount, billed, quantity, credited, taxes = row
        parts = tuple(TaxPart(*each) for each in taxes or ())
        found[invoice_id].append(LineLeft(LinePart(line_no, amount, discount, parts), billed, quantity, credited))
    return found


async def refund(uow: UnitOfWork, parts: Mapping[UUID, int], *, reopen: bool) -> list[Invoice]:
    """Add what is refunded to each of the (locked) invoices, and credit as much unless it is owed again; their new facts, in id order."""
    params = {
        "firm_id": uow.firm_id, "now": uow.now, "ids": list(parts), "amounts": list(parts.values()), "reopen": reopen,
    }  # fmt: skip
    return sorted(await fetch(uow, invoice_from_row, _REFUND, params), key=lambda invoice: invoice.id)


async def credit(uow: UnitOfWork, note: CreditNote) -> Invoice:
    """Write on the (locked) invoice what a note takes back; its new facts. What was paid and is given back counts as refunded."""
    [invoice] = await fetch(uow, invoice_from_row, _CREDIT, {
        "firm_id": uow.firm_id, "now": uow.now, "id": note.invoice_id, "credited": note.amount_minor - note.released_minor,
        "refunded": note.credited_minor + note.payable_minor, "applied": note.applied_minor,
    })  # fmt: skip
    return invoice


async def insert(uow: UnitOfWork, notes: Sequence[CreditNote], series: str, padding: int) -> None:
    """Take numbers and write notes of one day with their lines under them. The counter stays locked: write them last."""
    first = await take_numbers(uow, series, len(notes))
    await uow.execute(_INSERT, {
        "firm_id": uow.firm_id, "series": series, "padding": padding, "refunds": [note.refund_id for note in notes],
        "reasons": [note.reason for note in notes], "dates": [note.issue_date for note in notes],
        "nos": list(range(first, first + len(notes))), "ids": [note.id for note in notes],
        "clients": [note.client_id for note in notes], "invoices": [note.invoice_id for note in notes],
        "currencies": [note.currency_code for note in notes], "amounts": [note.amount_minor for note in notes],
        "taxes": [note.tax_minor for note in notes], "deferreds": [note.deferred_minor for note in notes],
        "applied": [note.applied_minor for note in notes], "credited": [note.credited_minor for note in notes],
        "released": [note.released_minor for note in notes], "payable": [note.payable_minor for note in notes],
    })  # fmt: skip
    await _insert_lines(uow, [(note, line) for note in notes for line in note.lines])


async def _insert_lines(uow: UnitOfWork, lines: Sequence[tuple[CreditNote, CreditedLine]]) -> None:
    await uow.execute(_INSERT_LINES, {
        "firm_id": uow.firm_id, "notes": [note.id for note, _ in lines], "invoices": [note.invoice_id for note, _ in lines],
        "lines": [line.part.line_no for _, line in lines], "quantities": [line.part.quantity for _, line in lines],
        "amounts": [line.part.amount_minor for _, line in lines], "discounts": [line.part.discount_minor for _, line in lines],
        "taxes": [line.part.tax_minor for _, line in lines], "included": [line.part.tax_included_minor for _, line in lines],
        "deferred": [line.deferred_minor for _, line in lines],
    })  # fmt: skip
    taxes = [(note, line.part, tax) for note, line in lines for tax in line.part.taxes if tax.tax_minor]
    if taxes:
        await uow.execute(_INSERT_TAXES, {
            "firm_id": uow.firm_id, "notes": [note.id for note, _, _ in taxes], "invoices": [note.invoice_id for note, _, _ in taxes],
            "lines": [part.line_no for _, part, _ in taxes], "tax_nos": [tax.tax_no for _, _, tax in taxes],
            "taxes": [tax.tax_minor for _, _, tax in taxes],
        })  # fmt: skip


async def promised(uow: UnitOfWork, invoices: Sequence[UUID]) -> list[Promised]:
    """What notes of these invoices promised to pay back and nobody has, the oldest note first."""
    rows = await uow.fetch_all(_PAYABLE, {"firm_id": uow.firm_id, "invoices": list(invoices)})
    return [Promised(row["id"], row["invoice_id"], row["amount"]) for row in rows]


async def pay_out(uow: UnitOfWork, refund_id: UUID, parts: Mapping[UUID, int]) -> None:
    """Note which notes' promises a refund pays out, and how much of each. The database refuses more than was promised."""
    await uow.execute(_PAY_OUT, {
        "firm_id": uow.firm_id, "refund_id": refund_id, "notes": list(parts), "amounts": list(parts.values()),
    })  # fmt: skip


async def select(uow: UnitOfWork, query: NoteQuery, page: PageRequest) -> list[IssuedNote]:
    """One page of notes with their lines, the newest first."""
    where = Conditions(uow.firm_id, "n")
    where.compare("id", query.id)
    where.compare("client_id", query.client_id)
    where.compare("invoice_id", query.invoice_id)
    where.compare("number", query.number)
    where.within("issue_date", *query.issue_date)
    tail = where.page(("create_time", "id"), True, page)
    return await fetch(uow, _issued, f"{_SHOWN} {tail}", where.params)


def _issued(row: TupleRow) -> IssuedNote:
    number, created, paid_out, lines, taxes = row[14:]
    by_line: dict[int, list[TaxPart]] = {}
    by_rate: dict[tuple[str, str], int] = {}
    for line_no, tax_no, inclusive, tax, name, percentage in taxes or ():
        by_line.setdefault(line_no, []).append(TaxPart(tax_no, inclusive, tax))
        by_rate[name, percentage] = by_rate.get((name, percentage), 0) + tax
    credited = tuple(_line(each, by_line) for each in lines or ())
    applied, credited_minor, released, payable = row[10:14]
    note = replace(
        CreditNote(*row[:10]), lines=credited, applied_minor=applied, credited_minor=credited_minor, released_minor=released,
        payable_minor=payable,
    )  # fmt: skip
    rates = tuple(NoteTax(name, Decimal(percentage), tax) for (name, percentage), tax in by_rate.items())
    return IssuedNote(note, number, created, paid_out, {each[0]: each[5] for each in lines or ()}, rates)


def _line(row: Sequence[Any], taxes: Mapping[int, list[TaxPart]]) -> CreditedLine:
    line_no, amount, discount, quantity, deferred, _ = row
    part = LinePart(
        line_no, amount, discount, tuple(taxes.get(line_no, ())), None if quantity is None else Decimal(quantity)
    )
    return CreditedLine(part, deferred)
