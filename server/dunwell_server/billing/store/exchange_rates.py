"""The firm's exchange rates."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Final

from dunwell_server.billing.exchange import Rate
from dunwell_server.platform.database import UnitOfWork

_SET: Final = """
INSERT INTO exchange_rate AS x (firm_id, base_currency, quote_currency, rate_date, rate)
SELECT %(firm_id)s, base, quote, day, rate
FROM unnest(%(bases)s::text[], %(quotes)s::text[], %(days)s::date[], %(rates)s::numeric[]) AS r (base, quote, day, rate)
ORDER BY base, quote, day
ON CONFLICT (firm_id, base_currency, quote_currency, rate_date) DO UPDATE SET rate = excluded.rate, update_time = clock_timestamp()
"""
# Of both directions of a pair the younger rate counts; on one day the direct one.
_LATEST: Final = """
SELECT asked.base AS wanted, asked.day AS wanted_day, x.base_currency, x.quote_currency, x.rate_date, x.rate
FROM unnest(%(bases)s::text[], %(days)s::date[]) AS asked (base, day)
CROSS JOIN LATERAL (
    SELECT * FROM (
        (SELECT * FROM exchange_rate WHERE firm_id = %(firm_id)s AND base_currency = asked.base AND quote_currency = %(quote)s
             AND rate_date <= asked.day ORDER BY rate_date DESC LIMIT 1)
        UNION ALL
        (SELECT * FROM exchange_rate WHERE firm_id = %(firm_id)s AND base_currency = %(quote)s AND quote_currency = asked.base
             AND rate_date <= asked.day ORDER BY rate_date DESC LIMIT 1)
    ) both_ways ORDER BY rate_date DESC, base_currency = asked.base DESC LIMIT 1
) x
"""


async def upsert(uow: UnitOfWork, rates: Sequence[Rate]) -> None:
    """Set the rates; one of the same pair and day is replaced."""
    await uow.execute(_SET, {
        "firm_id": uow.firm_id, "bases": [rate.base for rate in rates], "quotes": [rate.quote for rate in rates],
        "days": [rate.day for rate in rates], "rates": [rate.value for rate in rates],
    })  # fmt: skip


async def latest(uow: UnitOfWork, quote: str, wanted: Sequence[tuple[str, date]]) -> dict[tuple[str, date], Rate]:
    """The rate between each (currency, day) and `quote`, as it was set, in whichever direction; those that there are."""
    rows = await uow.fetch_all(_LATEST, {
        "firm_id": uow.firm_id, "quote": quote, "bases": [base for base, _ in wanted], "days": [day for _, day in wanted],
    })  # fmt: skip
    return {
        (row["wanted"], row["wanted_day"]): Rate(
            row["base_currency"], row["quote_currency"], row["rate_date"], Decimal(row["rate"])
        )
        for row in rows
    }
