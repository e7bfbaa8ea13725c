"""SQL about payments that a bank contests."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from dunwell_server.billing.model.credit import MONEY
from dunwell_server.platform.database import UnitOfWork

Row = dict[str, Any]

_FIND: Final = """
SELECT payment_id AS id FROM attempt WHERE firm_id = %(firm_id)s AND account_id = %(account_id)s AND provider_reference = %(reference)s
UNION ALL
SELECT id FROM payment WHERE firm_id = %(firm_id)s AND account_id = %(account_id)s AND provider_reference = %(reference)s
LIMIT 1
"""
_INVOICES: Final = """
SELECT p.client_id, coalesce(array_agg(l.invoice_id) FILTER (WHERE l.invoice_id IS NOT NULL), '{}') AS invoices
FROM payment p LEFT JOIN payment_allocation l ON l.firm_id = p.firm_id AND l.payment_id = p.id
WHERE p.firm_id = %(firm_id)s AND p.id = %(id)s GROUP BY p.client_id
"""
_LOCK: Final = """
SELECT id, client_id, state, currency_code, provider, captured_minor, credited_minor,
       captured_minor - refunded_minor - charged_back_minor - refund_pending_minor AS left_minor
FROM payment WHERE firm_id = %(firm_id)s AND id = %(id)s FOR NO KEY UPDATE
"""
_SETTLED: Final = """
SELECT l.invoice_id,
       least(l.amount_minor - coalesce(r.amount, 0) - coalesce(d.amount, 0), i.amount_paid)::bigint AS amount_minor
FROM payment_allocation l JOIN invoice i ON i.firm_id = l.firm_id AND i.id = l.invoice_id
LEFT JOIN LATERAL (
    SELECT sum(ra.amount_minor) AS amount FROM refund f JOIN refund_allocation ra ON ra.firm_id = f.firm_id AND ra.refund_id = f.id
    WHERE f.firm_id = l.firm_id AND f.payment_id = l.payment_id AND ra.invoice_id = l.invoice_id
) r ON true
LEFT JOIN LATERAL (
    SELECT sum(da.amount_minor) AS amount FROM dispute x JOIN dispute_allocation da ON da.firm_id = x.firm_id AND da.dispute_id = x.id
    WHERE x.firm_id = l.firm_id AND x.payment_id = l.payment_id AND da.invoice_id = l.invoice_id
) d ON true
WHERE l.firm_id = %(firm_id)s AND l.payment_id = %(id)s
ORDER BY l.create_time DESC, l.invoice_id
"""
_CREDIT: Final = """
SELECT sum(remaining_minor)::bigint FROM credit_entry
WHERE firm_id = %(firm_id)s AND client_id = %(client_id)s AND currency_code = %(currency)s AND remaining_minor > 0 AND kind = ANY(%(kinds)s)
"""
_RECORD: Final = """
UPDATE payment SET open_disputes = open_disputes + %(opened)s, charged_back_minor = charged_back_minor + %(charged_back)s,
    version = version + 1, update_time = %(now)s
WHERE firm_id = %(firm_id)s AND id = %(id)s
"""


async def find(uow: UnitOfWork, account_id: UUID, reference: str) -> UUID | None:
    """The payment that the account knows under this id."""
    found: UUID | None = await uow.fetch_value(
        _FIND, {"firm_id": uow.firm_id, "account_id": account_id, "reference": reference}
    )
    return found


async def invoices_of(uow: UnitOfWork, payment_id: UUID) -> Row:
    """The payment's client, and the invoices that it settles."""
    row = await uow.fetch_one(_INVOICES, {"firm_id": uow.firm_id, "id": payment_id})
    assert row is not None
    return row


async def lock(uow: UnitOfWork, payment_id: UUID) -> Row:
    """The payment's facts, under a lock."""
    row = await uow.fetch_one(_LOCK, {"firm_id": uow.firm_id, "id": payment_id})
    assert row is not None
    return row


async def settled(uow: UnitOfWork, payment_id: UUID) -> list[Row]:
    """What the payment still settles of each invoice, less refunds and lost disputes, the newest allocation first."""
    return await uow.fetch_all(_SETTLED, {"firm_id": uow.firm_id, "id": payment_id})


async def client_credit(uow: UnitOfWork, client_id: UUID, currency: str) -> int:
    """The credit that the firm holds for the client, as far as the client has paid for it."""
    kinds = [kind.value for kind in MONEY]
    values = {"firm_id": uow.firm_id, "client_id": client_id, "currency": currency, "kinds": kinds}
    return await uow.fetch_value(_CREDIT, values) or 0


async def record(uow: UnitOfWork, payment_id: UUID, opened: int, charged_back: int) -> None:
    """Add to the payment's open disputes and to what was charged back."""
    await uow.execute(
        _RECORD,
        {"firm_id": uow.firm_id, "now": uow.now, "id": payment_id, "opened": opened, "charged_back": charged_back},
    )
