"""SQL of cards that expire."""

from __future__ import annotations

from datetime import date
from typing import Final

from dunwell_server.payments.model import PaymentMethod
from dunwell_server.payments.store.methods import of_ids
from dunwell_server.platform.database import UnitOfWork

_LAST_DAY: Final = "(make_date(m.exp_year, m.exp_month, 1) + interval '1 month - 1 day')::date"
# Which expiry somebody was warned of is kept, so that a card with a new one is warned of again.
_TO_WARN: Final = f"""
FROM payment_method m
WHERE m.firm_id = %(firm_id)s AND m.state IN ('ACTIVE', 'NEEDS_ACTION') AND m.kind = 'CARD' AND m.exp_month IS NOT NULL AND m.exp_year IS NOT NULL
  AND {_LAST_DAY} BETWEEN %(today)s AND %(until)s
  AND m.warned_expiry IS DISTINCT FROM to_char({_LAST_DAY}, 'YYYY-MM')
"""
_EXPIRING = f"SELECT EXISTS (SELECT 1 {_TO_WARN})"
_WARN = f"""
WITH c AS MATERIALIZED (SELECT m.id {_TO_WARN} ORDER BY m.id LIMIT %(limit)s FOR NO KEY UPDATE OF m SKIP LOCKED)
UPDATE payment_method m SET warned_expiry = to_char({_LAST_DAY}, 'YYYY-MM') FROM c WHERE m.firm_id = %(firm_id)s AND m.id = c.id RETURNING m.id
"""


async def any_expiring(uow: UnitOfWork, today: date, until: date) -> bool:
    """Whether a card whose last day is within [today, until] has not been warned of."""
    return bool(await uow.fetch_value(_EXPIRING, {"firm_id": uow.firm_id, "today": today, "until": until}))


async def take_expiring(uow: UnitOfWork, today: date, until: date, limit: int) -> list[PaymentMethod]:
    """Up to `limit` of those cards, marked as warned of."""
    values = {"firm_id": uow.firm_id, "today": today, "until": until, "limit": limit}
    rows = await uow.fetch_all(_WARN, values)
    return await of_ids(uow, [row["id"] for row in rows])
