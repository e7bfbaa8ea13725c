"""Invoices' SQL: reading with lines in one statement, writing with lines and number in one statement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Final, TypeAlias
from uuid import UUID

from psycopg import AsyncCursor
from psycopg.types.json import Jsonb

from dunwell_server.billing.model import (
    AutopayCadence,
    AutopayStatus,
    CollectionColumns,
    Invoice,
    InvoiceOrigin,
    InvoiceState,
)
from dunwell_server.billing.store import invoice_lines
from dunwell_server.billing.store.rows import (
    Conditions,
    PageRequest,
    TimeRange,
    TupleRow,
    assignments,
    fetch,
    fetch_first,
    words,
)
from dunwell_server.platform.database import UnitOfWork

COLUMNS: Final = (
    "i.id, i.external_id, i.client_id, i.engagement_id, i.run_id, i.origin, i.currency_code, i.series, i.series_no, "
    "i.number, i.memo, i.metadata, i.issue_date, i.due_date, i.payment_terms_days, i.line_count, i.subtotal, "
    "i.discount_total, i.tax_total, i.total, i.amount_received, i.amount_refunded, i.amount_charged_back, "
    "i.amount_credited, i.amount_paid, i.amount_due, i.finalize_time, i.void_time, i.write_off_time, i.overdue_time, "
    "i.paid_time, i.open_chargebacks, i.lost_disputes, i.state, i.version, i.create_time, i.update_time, "
    "i.autopay_enabled, i.autopay_status, i.autopay_cadence, i.autopay_method_id, i.autopay_next_charge_time, "
    "i.collection_cycle, i.failure_count, i.failure_code, i.failure_provider_code, i.failure_message, i.failure_time, "
    "i.last_retry_time, i.retry_pending, i.retries_exhausted, i.tax_included_total, i.discount_count"
)
_FACTS: Final = 37
"""How many of them come before the collection columns."""
_COLLECTION: Final = 51
"""How many come before what follows them."""
_ALL: Final = 53
"""How many they are."""
_DRAFT: Final = words(
    "id external_id client_id engagement_id run_id origin currency_code memo metadata due_date payment_terms_days "
    "line_count subtotal discount_total tax_total tax_included_total discount_count total create_time update_time"
)
_SENT: Final = words("series issue_date due_date finalize_time paid_time amount_credited")
PRICED: Final = words("line_count subtotal discount_total tax_total tax_included_total discount_count total")
"""What pricing changes of an invoice's row."""
_PLANNED: Final = words("autopay_enabled autopay_status autopay_cadence autopay_method_id autopay_next_charge_time")
_CHANGEABLE: Final = frozenset(
    words(
        "external_id memo metadata due_date payment_terms_days line_count subtotal discount_total tax_total tax_included_total "
        "discount_count total void_time write_off_time amount_credited "
        "autopay_status autopay_next_charge_time retry_pending"
    )
)

_READ = f"SELECT {COLUMNS}, {invoice_lines.LINES}, {invoice_lines.DISCOUNTS} FROM invoice i WHERE i.firm_id = %(firm_id)s AND i.id = %(id)s"
LOCK_CLIENT_OF: Final = """
SELECT 1 FROM client WHERE firm_id = %(firm_id)s
  AND id = (SELECT client_id FROM invoice WHERE firm_id = %(firm_id)s AND id = %(id)s) FOR NO KEY UPDATE
"""
_LOCK = "SELECT 1 FROM invoice WHERE firm_id = %(firm_id)s AND id = %(id)s FOR NO KEY UPDATE"
_LOCK_CLIENTS_OF = """
SELECT id FROM client WHERE firm_id = %(firm_id)s
  AND id IN (SELECT client_id FROM invoice WHERE firm_id = %(firm_id)s AND id = ANY(%(ids)s))
ORDER BY id FOR NO KEY UPDATE
"""
_LOCK_MANY = f"""
SELECT {COLUMNS} FROM invoice i WHERE i.firm_id = %(firm_id)s AND i.id = ANY(%(ids)s) ORDER BY i.id FOR NO KEY UPDATE
"""


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)


def _values(names: Sequence[str]) -> str:
    return ", ".join(f"%({name})s" for name in names)


_INSERT_DRAFT = f"""
WITH {{below}}
INSERT INTO invoice (firm_id, {_list(_DRAFT)}) VALUES (%(firm_id)s, {_values(_DRAFT)})
"""
_TAKE = """
INSERT INTO invoice_series AS s (firm_id, series, next_no) VALUES (%(firm_id)s, %(series)s, 1 + %(count)s)
ON CONFLICT (firm_id, series) DO UPDATE SET next_no = s.next_no + %(count)s
RETURNING s.next_no - %(count)s AS series_no
"""
# The same text as `numbering.format_number` gives: series, dash, padded sequence.
_NUMBER = (
    "%(series)s::text || '-' || lpad(taken.series_no::text, greatest(%(padding)s, length(taken.series_no::text)), '0')"
)
_SENT_ONLY = [name for name in _SENT if name not in _DRAFT]
_INSERT_SENT = f"""
WITH taken AS ({_TAKE}), {{below}}
INSERT INTO invoice (firm_id, series_no, number, {_list(_DRAFT)}, {_list(_SENT_ONLY)}, {_list(_PLANNED)})
SELECT %(firm_id)s, taken.series_no, {_NUMBER}, {_values(_DRAFT)}, {_values(_SENT_ONLY)}, {_values(_PLANNED)} FROM taken
RETURNING series_no, number
"""
_FINALIZE = f"""
WITH taken AS ({_TAKE})
UPDATE invoice i SET series_no = taken.series_no, number = {_NUMBER}, {assignments([*_SENT, *_PLANNED, *PRICED])},
    version = version + 1, update_time = %(now)s
FROM taken WHERE i.firm_id = %(firm_id)s AND i.id = %(id)s
RETURNING i.series_no, i.number
"""
_DELETE = "DELETE FROM invoice WHERE firm_id = %(firm_id)s AND id = %(id)s"
_ADD_MONEY = f"""
UPDATE invoice i SET amount_received = i.amount_received + d.amount, version = i.version + 1, update_time = %(now)s,
    paid_time = CASE WHEN i.amount_due = d.amount THEN %(now)s ELSE i.paid_time END
FROM unnest(%(ids)s::uuid[], %(amounts)s::bigint[]) AS d (id, amount)
WHERE i.firm_id = %(firm_id)s AND i.id = d.id
RETURNING {COLUMNS}
"""
_ADD_DISPUTES = f"""
UPDATE invoice i SET open_chargebacks = i.open_chargebacks + d.opened, lost_disputes = i.lost_disputes + d.lost,
    amount_charged_back = i.amount_charged_back + d.amount, version = i.version + 1, update_time = %(now)s
FROM unnest(%(ids)s::uuid[], %(opened)s::smallint[], %(lost)s::smallint[], %(amounts)s::bigint[]) AS d (id, opened, lost, amount)
WHERE i.firm_id = %(firm_id)s AND i.id = d.id
RETURNING {COLUMNS}
"""
_MARK_OVERDUE = f"""
WITH late AS MATERIALIZED (
    SELECT id FROM invoice
    WHERE firm_id = %(firm_id)s AND due_date < %(today)s AND state IN ('SENT', 'FAILED') AND NOT autopay_enabled
    ORDER BY id LIMIT %(limit)s FOR NO KEY UPDATE
)
UPDATE invoice i SET overdue_time = %(now)s, version = version + 1, update_time = %(now)s
FROM late WHERE i.firm_id = %(firm_id)s AND i.id = late.id
RETURNING {COLUMNS}
"""
_COLLECTION_TYPES: Final = {
    "autopay_enabled": "boolean",
    "autopay_status": "text",
    "autopay_cadence": "text",
    "autopay_method_id": "uuid",
    "autopay_next_charge_time": "timestamptz",
    "collection_cycle": "int",
    "failure_count": "smallint",
    "failure_code": "text",
    "failure_provider_code": "text",
    "failure_message": "text",
    "failure_time": "timestamptz",
    "last_retry_time": "timestamptz",
    "retry_pending": "boolean",
    "retries_exhausted": "boolean",
}


Numbered: TypeAlias = AsyncCursor[TupleRow]
"""The answer, perhaps still on its way, of a statement that takes a number."""


@dataclass(frozen=True, slots=True)
class InvoiceQuery:
    """The filters of a list of invoices, and its order: newest or oldest first. Date ranges are half-open."""

    client_id: UUID | None = None
    engagement_id: UUID | None = None
    external_id: str | None = None
    number: str | None = None
    states: Sequence[str] = ()
    autopay_statuses: Sequence[str] = ()
    run_id: UUID | None = None
    currency_code: str | None = None
    issue_date: tuple[date | None, date | None] = (None, None)
    due_date: tuple[date | None, date | None] = (None, None)
    create_time: TimeRange = field(default_factory=TimeRange)
    descending: bool = True


def invoice_from_row(row: TupleRow) -> Invoice:
    """An invoice from a row of `COLUMNS`, and of its lines as JSON where the statement has them."""
    values, columns = list(row[:_FACTS]), list(row[_FACTS:_COLLECTION])
    values[5] = InvoiceOrigin(values[5])
    values[33] = InvoiceState(values[33])
    columns[1] = None if columns[1] is None else AutopayStatus(columns[1])
    columns[2] = None if columns[2] is None else AutopayCadence(columns[2])
    lines, discounts = row[_ALL : _ALL + 2] if len(row) > _ALL else (None, None)
    values.append(CollectionColumns(*columns))
    values.append(invoice_lines.lines_of(lines))
    values.extend(row[_COLLECTION:_ALL])
    values.append(invoice_lines.discounts_of(discounts))
    return Invoice(*values)


def key(uow: UnitOfWork, invoice_id: UUID) -> dict[str, Any]:
    """The parameters of a statement about one invoice."""
    return {"firm_id": uow.firm_id, "id": invoice_id}


async def get(uow: UnitOfWork, invoice_id: UUID) -> Invoice | None:
    """The invoice with its lines."""
    return await fetch_first(uow, invoice_from_row, _READ, key(uow, invoice_id))


async def lock(uow: UnitOfWork, invoice_id: UUID, before: Sequence[str] = ()) -> Invoice | None:
    """Lock the invoice's client, then what the statements in `before` lock, then the invoice; read it with its lines.

    One round trip. The reading statement comes after the locks, so that it sees what others committed meanwhile.
    """
    params = key(uow, invoice_id)
    async with uow.conn.pipeline():
        for statement in (LOCK_CLIENT_OF, *before, _LOCK):
            await uow.conn.execute(statement, params)
        cursor = await uow.conn.execute(_READ, params)
    row = await cursor.fetchone()  # within the pipeline this would be a round trip of its own
    return None if row is None else invoice_from_row(row)


async def lock_many(uow: UnitOfWork, invoice_ids: Sequence[UUID]) -> list[Invoice]:
    """Lock clients, then invoices, each in id order; the invoices' facts without lines, in id order."""
    params = {"firm_id": uow.firm_id, "ids": list(invoice_ids)}
    async with uow.conn.pipeline():
        await uow.conn.execute(_LOCK_CLIENTS_OF, params)
        cursor = await uow.conn.execute(_LOCK_MANY, params)
    return [invoice_from_row(row) for row in await cursor.fetchall()]


async def select(uow: UnitOfWork, query: InvoiceQuery, page: PageRequest) -> list[Invoice]:
    """One page of invoices, without lines."""
    where = Conditions(uow.firm_id, "i")
    where.compare("client_id", query.client_id)
    if query.engagement_id is not None:
        # Its client leads to the index; only then is the engagement compared.
        where.add(
            "i.engagement_id = %(engagement_id)s AND i.client_id = "
            "(SELECT e.client_id FROM engagement e WHERE e.firm_id = %(firm_id)s AND e.id = %(engagement_id)s)",
            engagement_id=query.engagement_id,
        )
    where.compare("external_id", query.external_id)
    if query.number is not None:
        _by_number(where, query.number)
    where.any_of("state", query.states)
    where.any_of("autopay_status", query.autopay_statuses)
    where.compare("run_id", query.run_id)
    where.compare("currency_code", query.currency_code)
    where.within("issue_date", *query.issue_date)
    where.within("due_date", *query.due_date)
    where.within("create_time", query.create_time.start, query.create_time.end)
    tail = where.page(("create_time", "id"), query.descending, page)
    return await fetch(uow, invoice_from_row, f"SELECT {COLUMNS} FROM invoice i {tail}", where.params)


def _by_number(where: Conditions, number: str) -> None:
    """A number is its series, a dash and the sequence: the unique key on them finds it."""
    series, _, sequence = number.rpartition("-")
    no = int(sequence) if sequence.isascii() and sequence.isdigit() and len(sequence) < 19 else 0
    where.add(
        "i.series = %(series)s AND i.series_no = %(series_no)s AND i.number = %(number)s",
        series=series,
        series_no=no,
        number=number,
    )


async def insert_draft(uow: UnitOfWork, invoice: Invoice) -> None:
    """Write a draft with what is on it."""
    await uow.conn.execute(_with_below(_INSERT_DRAFT, invoice), {**_draft_params(invoice), "firm_id": uow.firm_id})


async def insert_sent(uow: UnitOfWork, invoice: Invoice, padding: int) -> Numbered:
    """Take a number and write a finalised invoice with what is on it under it; `number_of` the answer reads it."""
    return await _numbered(uow, _with_below(_INSERT_SENT, invoice), _draft_params(invoice), invoice, padding)


async def finalize(uow: UnitOfWork, invoice: Invoice, padding: int) -> Numbered:
    """Take a number and finalise a draft under it, with its totals as they are now; `number_of` the answer reads it."""
    params = {"id": invoice.id, "now": uow.now, **{name: getattr(invoice, name) for name in PRICED}}
    return await _numbered(uow, _FINALIZE, params, invoice, padding)


def _with_below(statement: str, invoice: Invoice) -> str:
    return statement.format(
        below=", ".join(f"{name} AS ({text})" for name, text in invoice_lines.inserts(invoice).items())
    )


def _draft_params(invoice: Invoice) -> dict[str, Any]:
    params = {name: getattr(invoice, name) for name in _DRAFT}
    params["metadata"] = Jsonb(invoice.metadata)
    params.update(invoice_lines.params_of(invoice))
    return params


async def number_of(numbered: Numbered) -> tuple[int, str]:
    """The sequence and the number that a statement took. To be read when its pipeline has ended: the counter is locked by then,
    and reading it earlier costs a round trip more."""
    row = await numbered.fetchone()
    if row is None:
        raise RuntimeError("the invoice vanished while it was locked")
    return row[0], row[1]


async def _numbered(
    uow: UnitOfWork, statement: str, params: dict[str, Any], invoice: Invoice, padding: int
) -> Numbered:
    params.update({name: getattr(invoice, name) for name in _SENT})
    params.update({name: getattr(invoice.collection, name) for name in _PLANNED})
    params.update(firm_id=uow.firm_id, padding=padding, count=1)
    return await uow.conn.execute(statement, params)


async def take_numbers(uow: UnitOfWork, series: str, count: int) -> int:
    """The first of `count` successive numbers of a series, gapless if this transaction uses them all.

    The counter's row stays locked until the end of the transaction: take numbers last.
    """
    if count < 1:
        raise ValueError("take at least one number")
    first: int = await uow.fetch_value(_TAKE, {"firm_id": uow.firm_id, "series": series, "count": count})
    return first


async def update(uow: UnitOfWork, invoice_id: UUID, changes: Mapping[str, Any]) -> None:
    """Change columns by name."""
    columns = sorted(changes)
    if not _CHANGEABLE.issuperset(columns):
        raise ValueError(f"not columns that change: {set(columns) - _CHANGEABLE}")
    statement = (
        f"UPDATE invoice SET {assignments(columns)}, version = version + 1, update_time = %(now)s "
        "WHERE firm_id = %(firm_id)s AND id = %(id)s"
    )
    params = {name: Jsonb(value) if name == "metadata" else value for name, value in changes.items()}
    await uow.conn.execute(statement, {**params, **key(uow, invoice_id), "now": uow.now})


async def delete(uow: UnitOfWork, invoice_id: UUID) -> None:
    """Delete a draft and what is on it."""
    async with uow.conn.pipeline():
        for statement in (*invoice_lines.DELETES, _DELETE):
            await uow.conn.execute(statement, key(uow, invoice_id))


async def add_money(uow: UnitOfWork, received: Mapping[UUID, int]) -> list[Invoice]:
    """Add what was received to each of the (locked) invoices; their new facts, in id order."""
    params = {"firm_id": uow.firm_id, "ids": list(received), "amounts": list(received.values()), "now": uow.now}
    return sorted(await fetch(uow, invoice_from_row, _ADD_MONEY, params), key=lambda invoice: invoice.id)


async def add_disputes(uow: UnitOfWork, changes: Mapping[UUID, tuple[int, int, int]]) -> list[Invoice]:
    """Add to open chargebacks, lost disputes and the amount charged back of the (locked) invoices; their new facts in id order."""
    params = {
        "firm_id": uow.firm_id, "now": uow.now, "ids": list(changes), "opened": [change[0] for change in changes.values()],
        "lost": [change[1] for change in changes.values()], "amounts": [change[2] for change in changes.values()],
    }  # fmt: skip
    return sorted(await fetch(uow, invoice_from_row, _ADD_DISPUTES, params), key=lambda invoice: invoice.id)


async def set_collection(uow: UnitOfWork, changes: Mapping[UUID, Mapping[str, Any]]) -> None:
    """Change collection columns of the (locked) invoices: one statement per set of columns, whatever the number of rows."""
    groups: dict[tuple[str, ...], dict[UUID, Mapping[str, Any]]] = {}
    for invoice_id, columns in changes.items():
        if not _COLLECTION_TYPES.keys() >= columns.keys():
            raise ValueError(f"not collection columns: {columns.keys() - _COLLECTION_TYPES.keys()}")
        if columns:
            groups.setdefault(tuple(sorted(columns)), {})[invoice_id] = columns
    for names, rows in groups.items():
        params: dict[str, Any] = {"firm_id": uow.firm_id, "now": uow.now, "ids": list(rows)}
        params.update({name: [row[name] for row in rows.values()] for name in names})
        arrays = ", ".join(f"%({name})s::{_COLLECTION_TYPES[name]}[]" for name in names)
        sets = ", ".join(f"{name} = d.{name}" for name in names)
        await uow.conn.execute(
            f"UPDATE invoice i SET {sets}, version = i.version + 1, update_time = %(now)s "
            f"FROM unnest(%(ids)s::uuid[], {arrays}) AS d (id, {_list(names)}) "
            "WHERE i.firm_id = %(firm_id)s AND i.id = d.id",
            params,
        )


async def mark_overdue(uow: UnitOfWork, today: date, limit: int) -> list[Invoice]:
    """Give those an overdue time whose due date has passed without autopay; their new facts, in id order."""
    params = {"firm_id": uow.firm_id, "today": today, "now": uow.now, "limit": limit}
    return sorted(await fetch(uow, invoice_from_row, _MARK_OVERDUE, params), key=lambda invoice: invoice.id)
