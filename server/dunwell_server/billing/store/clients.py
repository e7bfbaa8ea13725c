"""Clients' SQL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb

from dunwell_server.billing.model import AutopayCadence, Client, ClientState, TaxStatus
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
    "c.id, c.external_id, c.state, c.name, c.email, c.phone, c.address, c.tax_id, c.locale, c.currency_code, "
    "c.payment_terms_days, c.metadata, c.autopay_enabled, c.autopay_method_id, c.autopay_cadence, c.autopay_enable_time, "
    "c.version, c.create_time, c.update_time, c.default_provider, c.tax_status, "
    "c.auto_apply_credit"
)
_CHANGEABLE: Final = frozenset(
    words(
        "external_id name email phone address tax_id locale currency_code payment_terms_days metadata default_provider tax_status auto_apply_credit "
        "autopay_enabled autopay_method_id autopay_cadence autopay_enable_time"
    )
)
_JSON: Final = frozenset({"address", "metadata"})

_INSERT = f"""
INSERT INTO client AS c (firm_id, id, external_id, name, email, phone, address, tax_id, locale, currency_code,
                         payment_terms_days, metadata, default_provider, tax_status, auto_apply_credit, create_time, update_time)
VALUES (%(firm_id)s, %(id)s, %(external_id)s, %(name)s, %(email)s, %(phone)s, %(address)s, %(tax_id)s, %(locale)s,
        %(currency_code)s, %(payment_terms_days)s, %(metadata)s, %(default_provider)s, %(tax_status)s, %(auto_apply_credit)s, %(now)s, %(now)s)
RETURNING {COLUMNS}
"""
_GET = f"SELECT {COLUMNS} FROM client c WHERE c.firm_id = %(firm_id)s AND c.id = %(id)s"
_LOCK = f"{_GET} FOR NO KEY UPDATE"
_CAN_USE = """
SELECT %(provider)s = 'manual' OR EXISTS (SELECT 1 FROM control.provider_account a WHERE a.provider = %(provider)s AND a.state = 'ACTIVE'
    AND a.mode = %(mode)s AND (a.firm_id = %(firm_id)s OR a.firm_id IS NULL))
"""
_BILLED_IN = """
SELECT EXISTS (SELECT 1 FROM engagement e WHERE e.firm_id = %(firm_id)s AND e.client_id = %(id)s
               AND e.currency_code = %(currency)s AND (e.state = 'ACTIVE' OR e.next_bill_date IS NOT NULL)),
       EXISTS (SELECT 1 FROM invoice i WHERE i.firm_id = %(firm_id)s AND i.client_id = %(id)s
               AND i.currency_code = %(currency)s AND i.state <> 'VOID' AND (i.state = 'DRAFT' OR i.amount_due > 0))
"""


@dataclass(frozen=True, slots=True)
class ClientQuery:
    """The filters of a list of clients, and its order: newest or oldest first, or by name."""

    external_id: str | None = None
    email: str | None = None
    autopay_enabled: bool | None = None
    create_time: TimeRange = field(default_factory=TimeRange)
    order: str = "CREATE_TIME_DESC"


def client_of(row: TupleRow) -> Client:
    """A client from a row of `COLUMNS`."""
    values = list(row)
    values[2] = ClientState(values[2])
    values[14] = AutopayCadence(values[14])
    values[20] = TaxStatus(values[20])
    return Client(*values)


async def insert(uow: UnitOfWork, values: Mapping[str, Any]) -> Client:
    """Add a client: the changeable columns and `id`."""
    client = await fetch_first(uow, client_of, _INSERT, {**_adapted(values), "firm_id": uow.firm_id, "now": uow.now})
    assert client is not None
    return client


async def insert_many(uow: UnitOfWork, rows: Sequence[Mapping[str, Any]]) -> list[Client]:
    """Add clients in one statement: for each the changeable columns and `id`, the same of all. In the order of their ids."""
    if not rows:
        return []
    columns = ", ".join(sorted(rows[0]))
    statement = f"""
        INSERT INTO client AS c (firm_id, {columns}, create_time, update_time)
        SELECT %(firm_id)s, {columns}, %(now)s, %(now)s FROM jsonb_populate_recordset(NULL::client, %(rows)s) ORDER BY id RETURNING {COLUMNS}
    """
    values = {"firm_id": uow.firm_id, "now": uow.now, "rows": Jsonb([dict(row) for row in rows])}
    return await fetch(uow, client_of, statement, values)


async def get(uow: UnitOfWork, client_id: UUID, *, lock: bool = False) -> Client | None:
    """The client; locked against other changes and postings when asked."""
    return await fetch_first(uow, client_of, _LOCK if lock else _GET, {"firm_id": uow.firm_id, "id": client_id})


async def update(uow: UnitOfWork, client_id: UUID, changes: Mapping[str, Any]) -> Client | None:
    """Change columns by name; None where there is no such client."""
    columns = sorted(changes)
    if not _CHANGEABLE.issuperset(columns):
        raise ValueError(f"not columns that change: {set(columns) - _CHANGEABLE}")
    statement = (
        f"UPDATE client c SET {assignments(columns)}, version = version + 1, update_time = %(now)s "
        f"WHERE c.firm_id = %(firm_id)s AND c.id = %(id)s RETURNING {COLUMNS}"
    )
    return await fetch_first(
        uow, client_of, statement, {**_adapted(changes), "firm_id": uow.firm_id, "id": client_id, "now": uow.now}
    )


async def can_use(uow: UnitOfWork, provider: str) -> bool:
    """Whether the firm has an account at the provider, of its own or the installation's."""
    values = {"firm_id": uow.firm_id, "provider": provider, "mode": uow.firm.mode}
    return bool(await uow.fetch_value(_CAN_USE, values))


async def billed_in(uow: UnitOfWork, client_id: UUID, currency: str) -> tuple[bool, bool]:
    """Whether the client has a going engagement, and whether it has a draft or open invoice, in `currency`."""
    cursor = await uow.conn.execute(_BILLED_IN, {"firm_id": uow.firm_id, "id": client_id, "currency": currency})
    engagement, invoice = await cursor.fetchone() or (False, False)
    return engagement, invoice


async def select(uow: UnitOfWork, query: ClientQuery, page: PageRequest) -> list[Client]:
    """One page of clients."""
    where = Conditions(uow.firm_id, "c")
    where.compare("external_id", query.external_id)
    where.compare("email", query.email)
    where.compare("autopay_enabled", query.autopay_enabled)
    where.within("create_time", query.create_time.start, query.create_time.end)
    by_name = query.order == "NAME_ASC"
    keys = ("name", "id") if by_name else ("create_time", "id")
    tail = where.page(keys, query.order == "CREATE_TIME_DESC", page)
    return await fetch(uow, client_of, f"SELECT {COLUMNS} FROM client c {tail}", where.params)


def _adapted(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: Jsonb(value) if name in _JSON and value is not None else value for name, value in values.items()}
