"""Bulk records' SQL: a whole file in a handful of statements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb

from dunwell_server.billing.model import Client
from dunwell_server.billing.store import clients
from dunwell_server.billing.store.rows import fetch
from dunwell_server.platform.database import UnitOfWork

_TAKEN: Final = {
    "client": "SELECT external_id FROM client WHERE firm_id = %(firm_id)s AND external_id = ANY(%(ids)s)",
    "engagement": "SELECT external_id FROM engagement WHERE firm_id = %(firm_id)s AND external_id = ANY(%(ids)s)",
    "invoice": "SELECT external_id FROM invoice WHERE firm_id = %(firm_id)s AND external_id = ANY(%(ids)s)",
}
_CLIENTS: Final = f"""
SELECT {clients.COLUMNS} FROM client c WHERE c.firm_id = %(firm_id)s AND (c.id = ANY(%(ids)s) OR c.external_id = ANY(%(external_ids)s))
ORDER BY c.id
"""
_TAKE: Final = """
INSERT INTO invoice_series AS s (firm_id, series, next_no) VALUES (%(firm_id)s, %(series)s, 1 + %(count)s)
ON CONFLICT (firm_id, series) DO UPDATE SET next_no = s.next_no + %(count)s
RETURNING s.next_no - %(count)s
"""
_INVOICES: Final = """
WITH new AS MATERIALIZED (SELECT * FROM jsonb_to_recordset(%(rows)s) AS r (
    id uuid, external_id text, client_id uuid, currency_code text, series text, series_no bigint, number text, memo text, metadata jsonb,
    issue_date date, due_date date, total bigint, description text, unit_price numeric)
), lines AS (
    INSERT INTO invoice_line (firm_id, invoice_id, line_no, kind, description, quantity, unit_price, amount_minor)
    SELECT %(firm_id)s, id, 1, 'ITEM', description, 1, unit_price, total FROM new
)
INSERT INTO invoice (firm_id, id, external_id, client_id, origin, currency_code, series, series_no, number, memo, metadata, issue_date, due_date,
                     line_count, subtotal, total, finalize_time, create_time, update_time)
SELECT %(firm_id)s, id, external_id, client_id, 'MANUAL', currency_code, series, series_no, number, memo, metadata, issue_date, due_date,
       1, total, total, %(now)s, %(now)s, %(now)s
FROM new ORDER BY series_no
"""


async def taken(uow: UnitOfWork, kind: str, external_ids: Sequence[str]) -> set[str]:
    """Those of the external ids that the firm's objects of this kind have already."""
    rows = (
        await uow.fetch_all(_TAKEN[kind], {"firm_id": uow.firm_id, "ids": list(external_ids)}) if external_ids else []
    )
    return {row["external_id"] for row in rows}


async def find_clients(
    uow: UnitOfWork, ids: Sequence[UUID], external_ids: Sequence[str], *, lock: bool
) -> list[Client]:
    """The clients of either kind of id; locked, in the order of their ids, when asked."""
    statement = f"{_CLIENTS} FOR NO KEY UPDATE" if lock else _CLIENTS
    values = {"firm_id": uow.firm_id, "ids": list(ids), "external_ids": list(external_ids)}
    return await fetch(uow, clients.client_of, statement, values)


async def take_numbers(uow: UnitOfWork, series: str, count: int) -> int:
    """The first of `count` numbers of a series, taken by this transaction."""
    return int(await uow.fetch_value(_TAKE, {"firm_id": uow.firm_id, "series": series, "count": count}))


async def insert_open_invoices(uow: UnitOfWork, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add sent invoices of one line each."""
    await uow.execute(_INVOICES, {"firm_id": uow.firm_id, "now": uow.now, "rows": Jsonb([dict(row) for row in rows])})
