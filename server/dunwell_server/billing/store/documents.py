"""Documents' SQL: what only documents show of the book, and documents as they were sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, LiteralString, NamedTuple, TypeVar
from uuid import UUID

from dunwell_server.billing.documents.facts import Kept, WorkFacts
from dunwell_server.billing.store.rows import TupleRow
from dunwell_server.kernel.ids import uuid7
from dunwell_server.platform.database import Row, UnitOfWork

T = TypeVar("T")

_FIRM_NAME: Final = "SELECT display_name FROM control.firm WHERE id = %(firm_id)s"
_CREDIT: Final = """
SELECT coalesce(sum(amount_minor) FILTER (WHERE kind = 'APPLIED' AND firm_time = %(issued)s), 0)::bigint AS issued,
       coalesce(sum(CASE kind WHEN 'APPLIED' THEN amount_minor ELSE -amount_minor END), 0)::bigint AS now
FROM credit_use WHERE firm_id = %(firm_id)s AND invoice_id = %(id)s
"""
_WORK: Final = """
SELECT e.work_date, e.person || coalesce(' (' || e.role || ')', ''), coalesce(e.description, ''), t.minutes, coalesce(e.rate, CASE WHEN l.unit = 'hour' THEN l.unit_price END)
FROM invoice_time t
JOIN time_entry e ON e.firm_id = t.firm_id AND e.id = t.time_entry_id
LEFT JOIN invoice_line l ON l.firm_id = t.firm_id AND l.invoice_id = t.invoice_id AND l.line_no = t.line_no
WHERE t.firm_id = %(firm_id)s AND t.invoice_id = %(id)s
ORDER BY e.work_date, e.person, e.id
"""
_NOTE: Final = """
SELECT n.id, n.client_id, n.number, n.issue_date, n.currency_code, n.amount_minor, n.tax_minor, n.reason, i.number AS invoice_number,
       i.issue_date AS invoice_date,
       (SELECT coalesce(json_agg(json_build_array(l.description, c.quantity::text, l.unit,
                    c.amount_minor - c.discount_minor - c.tax_included_minor, c.tax_minor) ORDER BY c.line_no), '[]')
        FROM credit_note_line c JOIN invoice_line l ON l.firm_id = c.firm_id AND l.invoice_id = c.invoice_id AND l.line_no = c.line_no
        WHERE c.firm_id = n.firm_id AND c.credit_note_id = n.id) AS lines,
       (SELECT coalesce(json_agg(json_build_array(t.name, t.percentage::text, t.tax) ORDER BY t.place), '[]')
        FROM (SELECT i.name, i.percentage, sum(c.tax_minor)::bigint AS tax, min(c.line_no * 1000 + c.tax_no) AS place
              FROM credit_note_line_tax c
              JOIN invoice_line_tax i ON i.firm_id = c.firm_id AND i.invoice_id = c.invoice_id AND i.line_no = c.line_no AND i.tax_no = c.tax_no
              WHERE c.firm_id = n.firm_id AND c.credit_note_id = n.id
              GROUP BY i.name, i.percentage) t) AS taxes,
       EXISTS (SELECT 1 FROM credit_note_line c
               JOIN invoice_line_tax t ON t.firm_id = c.firm_id AND t.invoice_id = c.invoice_id AND t.line_no = c.line_no
               WHERE c.firm_id = n.firm_id AND c.credit_note_id = n.id AND t.reverse_charge) AS reverse_charge
FROM credit_note n JOIN invoice i ON i.firm_id = n.firm_id AND i.id = n.invoice_id
WHERE n.firm_id = %(firm_id)s AND n.id = %(id)s
"""
_OPENING: Final = """
SELECT e.currency_code, e.account, sum(e.amount_minor)::bigint AS balance
FROM ledger_entry e JOIN ledger_posting p ON p.firm_id = e.firm_id AND p.id = e.posting_id
WHERE e.firm_id = %(firm_id)s AND e.client_id = %(id)s AND e.account IN ('receivable', 'client_credit') AND p.firm_time < %(start)s
  AND (%(currency)s::text IS NULL OR e.currency_code = %(currency)s)
GROUP BY e.currency_code, e.account
"""
_MOVEMENTS: Final = """
SELECT p.firm_time, p.source_type, p.kind, e.currency_code, e.account, sum(e.amount_minor)::bigint AS amount,
       coalesce(max(i.number), max(n.number), '') AS number
FROM ledger_entry e
JOIN ledger_posting p ON p.firm_id = e.firm_id AND p.id = e.posting_id
LEFT JOIN invoice i ON p.source_type = 'invoice' AND i.firm_id = p.firm_id AND i.id = p.source_id
LEFT JOIN credit_note n ON p.source_type = 'credit_note' AND n.firm_id = p.firm_id AND n.id = p.source_id
WHERE e.firm_id = %(firm_id)s AND e.client_id = %(id)s AND e.account IN ('receivable', 'client_credit')
  AND p.firm_time >= %(start)s AND p.firm_time < %(end)s AND (%(currency)s::text IS NULL OR e.currency_code = %(currency)s)
GROUP BY p.firm_id, p.id, e.currency_code, e.account HAVING sum(e.amount_minor) <> 0
ORDER BY p.firm_time, p.create_time, p.id
"""
_KEPT: Final = """
SELECT id, locale, content, content_hash, firm_time FROM document
WHERE firm_id = %(firm_id)s AND {object} = %(object)s AND edition = %(edition)s AND format = %(format)s AND locale = %(locale)s
"""
_KEEP: Final = """
INSERT INTO document (firm_id, id, kind, {object}, edition, format, locale, content, content_hash, firm_time)
VALUES (%(firm_id)s, %(id)s, %(kind)s, %(object)s, %(edition)s, %(format)s, %(locale)s, %(content)s, %(hash)s, %(now)s)
ON CONFLICT DO NOTHING RETURNING id
"""
_ROWS_AT_ONCE: Final = 500
_OBJECTS: Final = {"INVOICE": "invoice_id", "CREDIT_NOTE": "credit_note_id"}


class Moved(NamedTuple):
    """What one posting did to one of a client's accounts, as the ledger signs it; `number` is that of its invoice or credit note."""

    firm_time: datetime
    source_type: str
    kind: str
    currency_code: str
    account: str
    amount: int
    number: str


async def firm_name(uow: UnitOfWork) -> str:
    """The firm's display name."""
    return str(await uow.fetch_value(_FIRM_NAME, {"firm_id": uow.firm_id}))


async def credit_of(uow: UnitOfWork, invoice_id: UUID, issued: datetime | None) -> tuple[int, int]:
    """Credit that was applied to the invoice when it was issued, and that is now."""
    row = await uow.fetch_one(_CREDIT, {"firm_id": uow.firm_id, "id": invoice_id, "issued": issued})
    return (row["issued"], row["now"]) if row else (0, 0)


async def work_on(uow: UnitOfWork, invoice_id: UUID) -> list[WorkFacts]:
    """The time entries that the invoice bills, by day."""
    return await _in_parts(uow, lambda row: WorkFacts(*row), _WORK, {"firm_id": uow.firm_id, "id": invoice_id})


async def credit_note(uow: UnitOfWork, note_id: UUID) -> Row | None:
    """A credit note with its invoice's number and day, `lines` of description, quantity, unit, net amount and tax, `taxes` of
    name, percentage and tax, and whether the reverse charge applies to any of the lines."""
    return await uow.fetch_one(_NOTE, {"firm_id": uow.firm_id, "id": note_id})


async def account_rows(
    uow: UnitOfWork, client_id: UUID, start: datetime, end: datetime, currency: str | None
) -> tuple[list[Row], list[Moved]]:
    """What the client's accounts stood at before `start`, and what moved them until `end`, in order."""
    params: dict[str, Any] = {"firm_id": uow.firm_id, "id": client_id, "start": start, "end": end, "currency": currency}
    return await uow.fetch_all(_OPENING, params), await _in_parts(uow, Moved._make, _MOVEMENTS, params)


async def kept(uow: UnitOfWork, kind: str, object_id: UUID, edition: str, form: str, locale: str) -> Kept | None:
    """The document as it was sent, if it was."""
    statement = _KEPT.format(object=_OBJECTS[kind])
    params = {"firm_id": uow.firm_id, "object": object_id, "edition": edition, "format": form, "locale": locale}
    # As text the bytes of a long document would take the loop's time to decode.
    cursor = await uow.conn.execute(statement, params, binary=True)
    row = await cursor.fetchone()
    return None if row is None else Kept(*row)


async def keep(
    uow: UnitOfWork, kind: str, object_id: UUID, edition: str, form: str, locale: str, content: bytes, digest: bytes
) -> UUID | None:
    """Keep a document with its SHA-256 for ever; its id, or None where one is kept already."""
    statement = _KEEP.format(object=_OBJECTS[kind])
    params = {
        "firm_id": uow.firm_id, "id": uuid7(), "kind": kind, "object": object_id, "edition": edition, "format": form, "locale": locale,
        "content": content, "hash": digest, "now": uow.now,
    }  # fmt: skip
    return await uow.fetch_value(statement, params)  # type: ignore[no-any-return]


async def _in_parts(
    uow: UnitOfWork, make: Callable[[TupleRow], T], statement: LiteralString, params: dict[str, Any]
) -> list[T]:
    """An object of every row, a few hundred at a time: tens of thousands at once would keep every other call of the process waiting."""
    made: list[T] = []
    cursor = await uow.conn.execute(statement, params)
    while part := await cursor.fetchmany(_ROWS_AT_ONCE):
        made += map(make, part)
        await asyncio.sleep(0)
    return made
