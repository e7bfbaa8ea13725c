"""What prices follow from, read for any number of clients in one statement; and the uses of coupons."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from dunwell_server.billing.coupons import HeldCoupon
from dunwell_server.billing.taxes import TaxBehavior, TaxRate
from dunwell_server.platform.database import UnitOfWork

_LOAD: Final = """
SELECT (SELECT json_agg(json_build_array(t.id, t.name, t.percentage::text, t.country_code, t.region, t.excluded_regions, t.tax_category,
                                         t.behavior, t.valid_from_date, t.valid_until_date) ORDER BY t.id)
        FROM tax_rate t WHERE t.firm_id = %(firm_id)s AND t.state = 'ACTIVE'),
       (SELECT json_agg(json_build_array(r.client_id, r.id, c.name, c.percent::text, c.amount_minor, c.currency_code, r.engagement_id,
                                         r.periods_allowed - r.periods_used) ORDER BY r.redeem_time, r.id)
        FROM coupon_redemption r JOIN coupon c ON c.firm_id = r.firm_id AND c.id = r.coupon_id
        WHERE r.firm_id = %(firm_id)s AND r.client_id = ANY(%(clients)s) AND (r.periods_allowed IS NULL OR r.periods_used < r.periods_allowed))
"""
_TAKE: Final = """
UPDATE coupon_redemption r SET periods_used = r.periods_used + u.uses, update_time = %(now)s
FROM unnest(%(ids)s::uuid[], %(uses)s::int[]) AS u (id, uses)
WHERE r.firm_id = %(firm_id)s AND r.id = u.id
"""
_GIVE_BACK: Final = """
UPDATE coupon_redemption r SET periods_used = r.periods_used - u.uses, update_time = %(now)s
FROM (SELECT d.redemption_id, count(*) AS uses FROM invoice_discount d
      WHERE d.firm_id = %(firm_id)s AND d.invoice_id = ANY(%(ids)s) AND d.redemption_id IS NOT NULL GROUP BY d.redemption_id) u
WHERE r.firm_id = %(firm_id)s AND r.id = u.redemption_id
"""


async def load(uow: UnitOfWork, clients: Collection[UUID]) -> tuple[list[TaxRate], list[HeldCoupon]]:
    """The firm's active rates in the order of their making, and the clients' coupons in the order in which they were redeemed."""
    cursor = await uow.conn.execute(_LOAD, {"firm_id": uow.firm_id, "clients": list(clients)})
    rates, coupons = await cursor.fetchone() or (None, None)
    return [_rate(row) for row in rates or ()], [_coupon(row) for row in coupons or ()]


async def take_uses(uow: UnitOfWork, uses: Mapping[UUID, int]) -> None:
    """Count uses of redemptions; their clients are locked. The database refuses more than there are."""
    params = {"firm_id": uow.firm_id, "now": uow.now, "ids": list(uses), "uses": list(uses.values())}
    await uow.conn.execute(_TAKE, params)


async def give_back_uses(uow: UnitOfWork, invoice_ids: Sequence[UUID]) -> None:
    """Take back what invoices that are being voided have used."""
    await uow.conn.execute(_GIVE_BACK, {"firm_id": uow.firm_id, "now": uow.now, "ids": list(invoice_ids)})


def _rate(row: Sequence[Any]) -> TaxRate:
    rate_id, name, percentage, country, region, excluded, category, behavior, start, end = row
    return TaxRate(
        UUID(rate_id), name, Decimal(percentage), country, region, tuple(excluded), category,
        None if behavior is None else TaxBehavior(behavior), _date(start), _date(end),
    )  # fmt: skip


def _coupon(row: Sequence[Any]) -> HeldCoupon:
    client, redemption, name, percent, amount, currency, engagement, uses_left = row
    return HeldCoupon(
        UUID(client), UUID(redemption), name, None if percent is None else Decimal(percent), amount, currency,
        None if engagement is None else UUID(engagement), uses_left,
    )  # fmt: skip


def _date(text: str | None) -> date | None:
    return None if text is None else date.fromisoformat(text)
