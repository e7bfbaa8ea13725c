"""The SQL of terms that follow one another: many at once, in a constant number of statements."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any, Final
from uuid import UUID

from dunwell_server.billing.model import Engagement
from dunwell_server.billing.store import engagements as store
from dunwell_server.billing.store.rows import fetch, words
from dunwell_server.billing.tables.parties import engagement as _table
from dunwell_server.platform.database import UnitOfWork

# What a next term has of its own, with the type it is sent as. Every other column is a term of the agreement: the
# database copies it from the old row, whatever is added to the table.
_OWN: Final = {
    "external_id": "text", "name": "text", "line_description": "text", "start_date": "date", "end_date": "date",
    "anchor_day": "int2", "state": "text", "fee_minor": "int8", "billed_through_date": "date", "next_bill_date": "date",
    "renewal_notice_time": "timestamptz",
}  # fmt: skip
# What begins anew with each term, and what the statement sets itself.
_ANEW: Final = frozenset(words("firm_id id void_count renewed_to_id version create_time update_time"))
# An open-ended term is never renewed by itself.
_AUTO_RENEW: Final = words("auto_renew_days auto_renew_months auto_renew_uplift")
_COPIED: Final = tuple(
    column.name for column in _table.columns if column.name not in {*_OWN, *_ANEW, *_AUTO_RENEW}
)  # fmt: skip

_INSERT: Final = f"""
INSERT INTO engagement (firm_id, id, create_time, update_time, {", ".join((*_OWN, *_COPIED, *_AUTO_RENEW))})
SELECT %(firm_id)s, n.id, %(now)s, %(now)s, {", ".join(f"n.{name}" for name in _OWN)},
       {", ".join(f"e.{name}" for name in _COPIED)},
       {", ".join(f"CASE WHEN n.end_date IS NOT NULL THEN e.{name} END" for name in _AUTO_RENEW)}
FROM unnest(%(id)s::uuid[], %(old_id)s::uuid[], {", ".join(f"%({name})s::{kind}[]" for name, kind in _OWN.items())})
    AS n (id, old_id, {", ".join(_OWN)})
JOIN engagement e ON e.firm_id = %(firm_id)s AND e.id = n.old_id
"""
_INSERT_RATES: Final = """
INSERT INTO engagement_rate (firm_id, engagement_id, rate_no, role, rate, period)
SELECT r.firm_id, n.id, r.rate_no, r.role, r.rate, r.period
FROM unnest(%(id)s::uuid[], %(old_id)s::uuid[]) AS n (id, old_id)
JOIN engagement_rate r ON r.firm_id = %(firm_id)s AND r.engagement_id = n.old_id
"""
_LINK: Final = f"""
UPDATE engagement e SET renewed_to_id = n.id, version = e.version + 1, update_time = %(now)s
FROM unnest(%(id)s::uuid[], %(old_id)s::uuid[]) AS n (id, old_id)
WHERE e.firm_id = %(firm_id)s AND e.id = n.old_id AND e.renewed_to_id IS NULL
RETURNING {store.COLUMNS}
"""
_DUE_CONDITION: Final = """
e.firm_id = %(firm_id)s AND e.auto_renew_days IS NOT NULL AND e.renewed_to_id IS NULL
AND e.end_date - e.auto_renew_days <= %(today)s
AND EXISTS (SELECT 1 FROM client c WHERE c.firm_id = e.firm_id AND c.id = e.client_id AND c.state = 'ACTIVE')
"""
_DUE: Final = f"""
SELECT {store.COLUMNS} FROM engagement e WHERE {_DUE_CONDITION}
ORDER BY e.end_date - e.auto_renew_days, e.id LIMIT %(limit)s FOR NO KEY UPDATE OF e SKIP LOCKED
"""
IS_DUE: Final = f"EXISTS (SELECT 1 FROM engagement e WHERE {_DUE_CONDITION})"
"""Whether a term is to be renewed by itself as of `today`, as an expression."""
_SWITCH_OFF: Final = f"""
UPDATE engagement e SET auto_renew_days = NULL, auto_renew_months = NULL, auto_renew_uplift = NULL, version = e.version + 1,
    update_time = %(now)s
WHERE e.firm_id = %(firm_id)s AND e.id = ANY(%(ids)s)
RETURNING {store.COLUMNS}
"""
_HAS_TIME: Final = """
SELECT EXISTS (SELECT 1 FROM time_entry WHERE firm_id = %(firm_id)s AND engagement_id = %(id)s)
"""
_LOCK_CHAIN: Final = """
WITH RECURSIVE term AS (
    SELECT id, renewed_to_id FROM engagement WHERE firm_id = %(firm_id)s AND id = %(id)s
    UNION ALL
    SELECT e.id, e.renewed_to_id FROM term t JOIN engagement e ON e.firm_id = %(firm_id)s AND e.id = t.renewed_to_id
)
SELECT id FROM engagement WHERE firm_id = %(firm_id)s AND (id IN (SELECT id FROM term) OR renewed_to_id = %(id)s)
ORDER BY start_date, id FOR NO KEY UPDATE
"""


async def due(uow: UnitOfWork, today: date, limit: int) -> list[Engagement]:
    """Lock the terms that are to be renewed by themselves as of today; those that others hold are left to the next call."""
    params = {"firm_id": uow.firm_id, "today": today, "limit": limit}
    return await fetch(uow, store.engagement_of, _DUE, params)


async def insert_next(uow: UnitOfWork, terms: Sequence[Engagement]) -> list[Engagement]:
    """Add next terms, each with what it has of its own and all else of the locked term that it follows, and link them.

    The old terms as they are now, in no order; the next one of a term that had been renewed already is in no list, and
    must not be kept.
    """
    params: dict[str, Any] = {name: [getattr(term, name) for term in terms] for name in ("id", *_OWN)}
    params |= {"firm_id": uow.firm_id, "now": uow.now, "old_id": [term.renewed_from_id for term in terms]}
    await uow.execute(_INSERT, params)
    if any(term.hourly is not None for term in terms):
        await uow.execute(_INSERT_RATES, params)
    return await fetch(uow, store.engagement_of, _LINK, params)


async def switch_off(uow: UnitOfWork, ids: Sequence[UUID]) -> list[Engagement]:
    """Switch auto-renewal of locked terms off; the terms as they are now."""
    return await fetch(
        uow, store.engagement_of, _SWITCH_OFF, {"firm_id": uow.firm_id, "now": uow.now, "ids": list(ids)}
    )


async def lock_chain(uow: UnitOfWork, engagement_id: UUID) -> None:
    """Lock the term, the one before it and all that follow it, in the order of the chain."""
    await uow.execute(_LOCK_CHAIN, {"firm_id": uow.firm_id, "id": engagement_id})


async def has_time(uow: UnitOfWork, engagement_id: UUID) -> bool:
    """Whether any work was recorded on the engagement."""
    return bool(await uow.fetch_value(_HAS_TIME, {"firm_id": uow.firm_id, "id": engagement_id}))
