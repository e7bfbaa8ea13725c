"""SQL of cards that expire."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Final

from dunwell_server.payments.model import PaymentMethod
from dunwell_server.payments.store.methods import of_ids
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.questions import Question, ask

_EXPIRY: Final = "to_char(make_date(m.exp_year, m.exp_month, 1), 'YYYY-MM')"
# A card is good to the last day of its month, so that whole months, counted, say what a comparison of days would. Which expiry somebody was
# warned of is kept, so that a card with a new one is warned of again.
_TO_WARN: Final = f"""
FROM payment_method m
WHERE m.firm_id = %(firm_id)s AND m.state IN ('ACTIVE', 'NEEDS_ACTION') AND m.kind = 'CARD' AND m.exp_month IS NOT NULL AND m.exp_year IS NOT NULL
  AND m.exp_year * 12 + m.exp_month BETWEEN %(first)s AND %(last)s
  AND m.warned_expiry IS DISTINCT FROM {_EXPIRY}
"""
_EXPIRING = f"SELECT EXISTS (SELECT 1 {_TO_WARN})"
_WARN = f"""
WITH c AS MATERIALIZED (SELECT m.id {_TO_WARN} ORDER BY m.id LIMIT %(limit)s FOR NO KEY UPDATE OF m SKIP LOCKED)
UPDATE payment_method m SET warned_expiry = {_EXPIRY} FROM c WHERE m.firm_id = %(firm_id)s AND m.id = c.id RETURNING m.id
"""


def any_expiring(uow: UnitOfWork, today: date, until: date) -> Question[bool]:
    """Whether a card whose last day is within [today, until] has not been warned of."""
    return ask(uow, _EXPIRING, _months(today, until))


async def take_expiring(uow: UnitOfWork, today: date, until: date, limit: int) -> list[PaymentMethod]:
    """Up to `limit` of those cards, marked as warned of."""
    values = {"firm_id": uow.firm_id, "limit": limit, **_months(today, until)}
    rows = await uow.fetch_all(_WARN, values)
    return await of_ids(uow, [row["id"] for row in rows])


def _months(today: date, until: date) -> dict[str, int]:
    """The first and the last month, counted, whose last day lies within [today, until]."""
    following = until + timedelta(days=1)
    return {"first": today.year * 12 + today.month, "last": following.year * 12 + following.month - 1}
