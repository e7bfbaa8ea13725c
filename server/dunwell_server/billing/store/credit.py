"""Credit's SQL: entries and uses in, in bulk; what an invoice could use, what it has used, and the statement out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from dunwell_server.billing.model import Invoice
from dunwell_server.billing.model.credit import (
    CreditBalance,
    CreditEntry,
    CreditKind,
    CreditSource,
    CreditUse,
    CreditUseKind,
    NewCredit,
    StatedEntry,
    StatedUse,
)
from dunwell_server.billing.store.invoices import COLUMNS as INVOICE_COLUMNS
from dunwell_server.billing.store.invoices import invoice_from_row
from dunwell_server.billing.store.rows import PageRequest, TupleRow, fetch, fetch_first
from dunwell_server.kernel.ids import uuid7
from dunwell_server.platform.database import UnitOfWork

_COLUMNS: Final = (
    "e.id, e.client_id, e.currency_code, e.kind, e.amount_minor, e.remaining_minor, e.priority, e.expire_time, e.source_type, e.source_id,"
    " e.reason, e.firm_time, e.create_time"
)
_INSERT: Final = """
INSERT INTO credit_entry (firm_id, id, client_id, currency_code, kind, amount_minor, remaining_minor, priority, expire_time, source_type, source_id,
                          reason, firm_time)
SELECT %(firm_id)s, id, client_id, currency_code, kind, amount_minor, amount_minor, priority, expire_time, source_type, source_id, reason, %(now)s
FROM unnest(%(ids)s::uuid[], %(clients)s::uuid[], %(currencies)s::text[], %(kinds)s::text[], %(amounts)s::bigint[], %(priorities)s::smallint[],
            %(expiries)s::timestamptz[], %(sources)s::text[], %(source_ids)s::uuid[], %(reasons)s::text[]) WITH ORDINALITY
    AS n (id, client_id, currency_code, kind, amount_minor, priority, expire_time, source_type, source_id, reason, position)
ORDER BY position
"""
_INSERT_USES: Final = """
INSERT INTO credit_use (firm_id, id, entry_id, kind, currency_code, amount_minor, invoice_id, source_type, source_id, reason, firm_time)
SELECT %(firm_id)s, id, entry_id, kind, currency_code, amount_minor, invoice_id, source_type, source_id, reason, %(now)s
FROM unnest(%(ids)s::uuid[], %(entries)s::uuid[], %(kinds)s::text[], %(currencies)s::text[], %(amounts)s::bigint[], %(invoices)s::uuid[],
            %(sources)s::text[], %(source_ids)s::uuid[], %(reasons)s::text[]) WITH ORDINALITY
    AS u (id, entry_id, kind, currency_code, amount_minor, invoice_id, source_type, source_id, reason, position)
ORDER BY position
"""
# What each invoice asks for and what each entry holds are intervals on one line per client and currency; where they meet is what is used.
_PLAN: Final = """
WITH wanted AS MATERIALIZED (
    SELECT w.invoice_id, w.client_id, w.currency_code, sum(w.amount) OVER asked AS upto, sum(w.amount) OVER asked - w.amount AS since
    FROM unnest(%(invoices)s::uuid[], %(clients)s::uuid[], %(currencies)s::text[], %(amounts)s::bigint[]) WITH ORDINALITY
        AS w (invoice_id, client_id, currency_code, amount, position)
    -- OFFSET 0 keeps this a look-up by key for each client, also where a run has told the planner to join by index only; so below.
    CROSS JOIN LATERAL (
        SELECT FROM client c WHERE c.firm_id = %(firm_id)s AND c.id = w.client_id AND (c.auto_apply_credit OR %(by_hand)s)
            AND EXISTS (SELECT FROM credit_entry e WHERE e.firm_id = c.firm_id AND e.client_id = c.id AND e.remaining_minor > 0) OFFSET 0) c
    WHERE w.amount > 0
    WINDOW asked AS (PARTITION BY w.client_id, w.currency_code ORDER BY w.position)
), held AS MATERIALIZED (
    SELECT e.id, e.client_id, e.currency_code, e.source_type, e.source_id, sum(f.amount) OVER turn AS upto,
           sum(f.amount) OVER turn - f.amount AS since, row_number() OVER turn AS turn
    FROM (SELECT DISTINCT client_id, currency_code FROM wanted) w
    CROSS JOIN LATERAL (
        SELECT * FROM credit_entry e WHERE e.firm_id = %(firm_id)s AND e.client_id = w.client_id AND e.currency_code = w.currency_code
            AND e.remaining_minor > 0 AND (e.expire_time IS NULL OR e.expire_time > %(now)s) OFFSET 0) e
    LEFT JOIN unnest(%(reserved)s::uuid[], %(reserves)s::bigint[]) AS r (payment_id, amount) ON e.source_type = 'payment' AND e.source_id = r.payment_id
    CROSS JOIN LATERAL (SELECT greatest(e.remaining_minor - coalesce(r.amount, 0), 0) AS amount) f
    WINDOW turn AS (PARTITION BY e.client_id, e.currency_code ORDER BY e.priority, e.expire_time NULLS LAST, e.firm_time, e.create_time, e.id)
)
SELECT w.invoice_id, h.id, w.client_id, w.currency_code, (least(w.upto, h.upto) - greatest(w.since, h.since))::bigint AS amount,
       CASE h.source_type WHEN 'payment' THEN h.source_id END AS payment_id
FROM wanted w JOIN held h ON h.client_id = w.client_id AND h.currency_code = w.currency_code AND h.since < w.upto AND w.since < h.upto
ORDER BY w.client_id, w.currency_code, w.since, h.turn
"""
_OPEN: Final = f"""
SELECT {_COLUMNS} FROM credit_entry e
WHERE e.firm_id = %(firm_id)s AND e.client_id = %(client_id)s AND e.currency_code = %(currency)s AND e.remaining_minor > 0 AND e.kind = ANY(%(kinds)s)
  AND (NOT %(only)s OR e.source_id = %(first)s)
ORDER BY coalesce(e.source_id = %(first)s, false) DESC, e.firm_time, e.create_time, e.id
"""
_GET_MANY: Final = (
    f"SELECT {_COLUMNS} FROM credit_entry e WHERE e.firm_id = %(firm_id)s AND e.id = ANY(%(ids)s) ORDER BY e.id"
)
# What each entry still pays of an invoice, the last applied first, and when it was applied last.
_APPLIED: Final = f"""
SELECT {_COLUMNS}, a.invoice_id, a.amount, a.last_time
FROM (SELECT u.invoice_id, u.entry_id, sum(CASE u.kind WHEN 'APPLIED' THEN u.amount_minor ELSE -u.amount_minor END)::bigint AS amount,
             max(u.firm_time) FILTER (WHERE u.kind = 'APPLIED') AS last_time, max(u.create_time) FILTER (WHERE u.kind = 'APPLIED') AS last_create
      FROM credit_use u WHERE u.firm_id = %(firm_id)s AND u.invoice_id = ANY(%(invoices)s) AND u.kind IN ('APPLIED', 'RELEASED')
      GROUP BY u.invoice_id, u.entry_id) a
JOIN credit_entry e ON e.firm_id = %(firm_id)s AND e.id = a.entry_id
WHERE a.amount > 0
ORDER BY a.invoice_id, a.last_create DESC, e.id DESC
"""
_CHANGE_CREDITED: Final = f"""
UPDATE invoice i SET amount_credited = i.amount_credited + d.amount, version = i.version + 1, update_time = %(now)s,
    paid_time = CASE WHEN i.amount_due = d.amount THEN %(now)s WHEN d.amount < 0 AND i.amount_due > d.amount THEN NULL ELSE i.paid_time END
FROM unnest(%(ids)s::uuid[], %(amounts)s::bigint[]) AS d (id, amount)
WHERE i.firm_id = %(firm_id)s AND i.id = d.id
RETURNING {INVOICE_COLUMNS}
"""
_LOCK_EXPIRED: Final = """
SELECT c.id FROM client c
WHERE c.firm_id = %(firm_id)s AND c.id IN (
    SELECT e.client_id FROM credit_entry e WHERE e.firm_id = %(firm_id)s AND e.remaining_minor > 0 AND e.expire_time <= %(now)s
    ORDER BY e.expire_time, e.id LIMIT %(limit)s)
ORDER BY c.id FOR NO KEY UPDATE
"""
_EXPIRED: Final = f"""
SELECT {_COLUMNS} FROM credit_entry e
WHERE e.firm_id = %(firm_id)s AND e.client_id = ANY(%(clients)s) AND e.remaining_minor > 0 AND e.expire_time <= %(now)s ORDER BY e.id
"""
_BALANCES: Final = """
SELECT b.currency_code, b.credit_minor, coalesce(a.amount, 0)::bigint, x.expire_time, coalesce(x.amount, 0)::bigint
FROM client_balance b
LEFT JOIN LATERAL (
    SELECT sum(e.remaining_minor) AS amount FROM credit_entry e
    WHERE e.firm_id = b.firm_id AND e.client_id = b.client_id AND e.currency_code = b.currency_code AND e.remaining_minor > 0
      AND (e.expire_time IS NULL OR e.expire_time > %(now)s)
) a ON true
LEFT JOIN LATERAL (
    SELECT e.expire_time, sum(e.remaining_minor) AS amount FROM credit_entry e
    WHERE e.firm_id = b.firm_id AND e.client_id = b.client_id AND e.currency_code = b.currency_code AND e.remaining_minor > 0
      AND e.expire_time > %(now)s
    GROUP BY e.expire_time ORDER BY e.expire_time LIMIT 1
) x ON true
WHERE b.firm_id = %(firm_id)s AND b.client_id = %(client_id)s
  AND EXISTS (SELECT 1 FROM credit_entry e WHERE e.firm_id = b.firm_id AND e.client_id = b.client_id AND e.currency_code = b.currency_code)
ORDER BY b.currency_code
"""
# Every movement of the client's credit, in order, with the balance that it led to.
_STATEMENT: Final = f"""
WITH movement AS MATERIALIZED (
    SELECT id, id AS entry_id, currency_code, amount_minor AS amount, create_time, 0 AS rank FROM credit_entry
    WHERE firm_id = %(firm_id)s AND client_id = %(client_id)s
    UNION ALL
    SELECT u.id, u.entry_id, u.currency_code, CASE u.kind WHEN 'RELEASED' THEN u.amount_minor ELSE -u.amount_minor END, u.create_time, 1
    FROM credit_entry e JOIN credit_use u ON u.firm_id = e.firm_id AND u.entry_id = e.id
    WHERE e.firm_id = %(firm_id)s AND e.client_id = %(client_id)s
), balanced AS MATERIALIZED (
    SELECT id, entry_id, rank, create_time, (sum(amount) OVER (PARTITION BY currency_code ORDER BY create_time, rank, id))::bigint AS balance
    FROM movement
)
SELECT {_COLUMNS}, b.balance,
       coalesce((SELECT json_agg(json_build_array(u.id, u.kind, u.amount_minor, u.invoice_id, u.source_type, u.source_id, u.reason, u.firm_time, m.balance)
                                 ORDER BY u.create_time, u.id)
                 FROM balanced m JOIN credit_use u ON u.firm_id = %(firm_id)s AND u.id = m.id WHERE m.entry_id = e.id AND m.rank = 1), '[]')
FROM credit_entry e JOIN balanced b ON b.id = e.id AND b.rank = 0
WHERE e.firm_id = %(firm_id)s AND e.client_id = %(client_id)s AND (%(currency)s::text IS NULL OR e.currency_code = %(currency)s)
  AND (%(kinds)s::text[] IS NULL OR e.kind = ANY(%(kinds)s)) AND (e.remaining_minor > 0 OR NOT %(only_open)s)
  AND (%(ids)s::uuid[] IS NULL OR e.id = ANY(%(ids)s))
  AND (%(after_time)s::timestamptz IS NULL OR (e.create_time, e.id) < (%(after_time)s, %(after_id)s))
ORDER BY e.create_time DESC, e.id DESC LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an invoice could use of its client's credit: `amount_minor` at most."""

    invoice_id: UUID
    client_id: UUID
    currency_code: str
    amount_minor: int


@dataclass(frozen=True, slots=True)
class AppliedCredit:
    """What an entry still pays of an invoice, and when (firm time) it was applied last."""

    entry: CreditEntry
    invoice_id: UUID
    amount_minor: int
    last_time: datetime


@dataclass(frozen=True, slots=True)
class EntryQuery:
    """What a statement is limited to; None does not limit."""

    client_id: UUID
    currency_code: str | None = None
    kinds: Sequence[str] = ()
    only_open: bool = False
    ids: Sequence[UUID] | None = None


def _entry(row: TupleRow) -> CreditEntry:
    values = list(row[:13])
    values[3], values[8] = CreditKind(values[3]), CreditSource(values[8])
    return CreditEntry(*values)


async def insert(uow: UnitOfWork, news: Sequence[NewCredit]) -> list[UUID]:
    """Add entries; their ids, in order."""
    ids = [uuid7() for _ in news]
    await uow.execute(_INSERT, {
        "firm_id": uow.firm_id, "now": uow.now, "ids": ids, "clients": [new.client_id for new in news],
        "currencies": [new.currency_code for new in news], "kinds": [new.kind.value for new in news],
        "amounts": [new.amount_minor for new in news], "priorities": [new.priority for new in news],
        "expiries": [new.expire_time for new in news], "sources": [new.source.value for new in news],
        "source_ids": [new.source_id for new in news], "reasons": [new.reason for new in news],
    })  # fmt: skip
    return ids


async def insert_uses(uow: UnitOfWork, uses: Sequence[CreditUse]) -> None:
    """Write uses in one statement; what is left of the entries follows. The database refuses more than is left."""
    await uow.execute(_INSERT_USES, {
        "firm_id": uow.firm_id, "now": uow.now, "ids": [use.id for use in uses], "entries": [use.entry_id for use in uses],
        "kinds": [use.kind.value for use in uses], "currencies": [use.currency_code for use in uses],
        "amounts": [use.amount_minor for use in uses], "invoices": [use.invoice_id for use in uses],
        "sources": [use.source.value if use.source else None for use in uses], "source_ids": [use.source_id for use in uses],
        "reasons": [use.reason for use in uses],
    })  # fmt: skip


async def plan(
    uow: UnitOfWork, wanted: Sequence[Wanted], reserved: Mapping[UUID, int], *, by_hand: bool
) -> tuple[list[CreditUse], set[UUID]]:
    """Which entries would pay how much of which invoice, in their order; and which payments some of them came of. `by_hand`: also of clients whose
    credit is not used by itself. `reserved`: how much is left alone of what these payments left."""
    rows = await fetch(uow, tuple, _PLAN, {
        "firm_id": uow.firm_id, "now": uow.now, "by_hand": by_hand, "invoices": [each.invoice_id for each in wanted],
        "clients": [each.client_id for each in wanted], "currencies": [each.currency_code for each in wanted],
        "amounts": [each.amount_minor for each in wanted], "reserved": list(reserved), "reserves": list(reserved.values()),
    })  # fmt: skip
    uses = [
        CreditUse(uuid7(), entry_id, CreditUseKind.APPLIED, client_id, currency, amount, invoice_id)
        for invoice_id, entry_id, client_id, currency, amount, _ in rows
    ]
    return uses, {row[5] for row in rows if row[5] is not None}


async def open_entries(
    uow: UnitOfWork, client_id: UUID, currency: str, kinds: Collection[CreditKind], first: UUID | None, *, only: bool
) -> list[CreditEntry]:
    """The client's entries of these kinds of which something is left: those that came of `first`, then (unless `only` those) the oldest first."""
    return await fetch(uow, _entry, _OPEN, {
        "firm_id": uow.firm_id, "client_id": client_id, "currency": currency, "kinds": [kind.value for kind in kinds], "first": first,
        "only": only,
    })  # fmt: skip


async def get_many(uow: UnitOfWork, ids: Sequence[UUID]) -> list[CreditEntry]:
    """Entries by id, in id order."""
    return await fetch(uow, _entry, _GET_MANY, {"firm_id": uow.firm_id, "ids": list(ids)})


async def get(uow: UnitOfWork, entry_id: UUID) -> CreditEntry | None:
    """One entry."""
    return await fetch_first(uow, _entry, _GET_MANY, {"firm_id": uow.firm_id, "ids": [entry_id]})


async def applied_to(uow: UnitOfWork, invoices: Sequence[UUID]) -> list[AppliedCredit]:
    """What credit still pays of each invoice, the last applied first."""
    params = {"firm_id": uow.firm_id, "invoices": list(invoices)}
    return await fetch(uow, lambda row: AppliedCredit(_entry(row), *row[13:]), _APPLIED, params)


async def change_credited(uow: UnitOfWork, amounts: Mapping[UUID, int]) -> list[Invoice]:
    """Add (or, negative, take off) credit of (locked) invoices; their new facts, in id order, without lines."""
    params = {"firm_id": uow.firm_id, "now": uow.now, "ids": list(amounts), "amounts": list(amounts.values())}
    return sorted(await fetch(uow, invoice_from_row, _CHANGE_CREDITED, params), key=lambda invoice: invoice.id)


async def lock_expired(uow: UnitOfWork, limit: int) -> list[CreditEntry]:
    """Entries whose time is over, of at most `limit` clients, who are locked by this."""
    params = {"firm_id": uow.firm_id, "now": uow.now, "limit": limit}
    clients = [row["id"] for row in await uow.fetch_all(_LOCK_EXPIRED, params)]
    if not clients:
        return []
    return await fetch(uow, _entry, _EXPIRED, {"firm_id": uow.firm_id, "now": uow.now, "clients": clients})


async def balances(uow: UnitOfWork, client_id: UUID) -> list[CreditBalance]:
    """The client's credit in each currency that it ever had some in."""
    params = {"firm_id": uow.firm_id, "client_id": client_id, "now": uow.now}
    return await fetch(uow, lambda row: CreditBalance(*row), _BALANCES, params)


async def statement(uow: UnitOfWork, query: EntryQuery, page: PageRequest) -> list[StatedEntry]:
    """One page of entries with their uses and balances, the newest first."""
    params = {
        "firm_id": uow.firm_id, "client_id": query.client_id, "currency": query.currency_code, "kinds": list(query.kinds) or None,
        "only_open": query.only_open, "ids": list(query.ids) if query.ids is not None else None,
        "after_time": page.after[0] if page.after else None, "after_id": page.after[1] if page.after else None, "limit": page.limit,
    }  # fmt: skip
    return await fetch(uow, _stated, _STATEMENT, params)


def _stated(row: TupleRow) -> StatedEntry:
    entry = _entry(row)
    return StatedEntry(entry, row[13], tuple(_stated_use(entry, each) for each in row[14]))


def _stated_use(entry: CreditEntry, row: Sequence[Any]) -> StatedUse:
    use_id, kind, amount, invoice_id, source, source_id, reason, firm_time, balance = row
    use = CreditUse(
        UUID(use_id), entry.id, CreditUseKind(kind), entry.client_id, entry.currency_code, amount,
        UUID(invoice_id) if invoice_id else None, CreditSource(source) if source else None,
        UUID(source_id) if source_id else None, reason,
    )  # fmt: skip
    return StatedUse(use, datetime.fromisoformat(firm_time), balance)
