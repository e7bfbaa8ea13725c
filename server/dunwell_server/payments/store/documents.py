"""What documents show of payments."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from dunwell_server.platform.database import Row, UnitOfWork

_LINK: Final = """
SELECT s.url, s.expire_time FROM invoice i
JOIN checkout_session s ON s.firm_id = i.firm_id AND s.client_id = i.client_id AND s.invoice_id = i.id
WHERE i.firm_id = %(firm_id)s AND i.id = %(id)s AND s.channel = 'LINK' AND s.state = 'OPEN' AND s.url IS NOT NULL
  AND (s.expire_time IS NULL OR s.expire_time > %(now)s)
ORDER BY s.create_time DESC LIMIT 1
"""
_RECEIVED: Final = """
SELECT p.id, p.client_id, p.state, p.currency_code, p.captured_minor, p.credited_minor, p.refunded_minor, p.received_date,
       coalesce(p.finish_time, p.firm_time) AS paid_time, p.manual_method, p.manual_reference, m.kind, m.brand, m.last4,
       (SELECT coalesce(json_agg(json_build_array(i.number, a.amount_minor) ORDER BY i.number), '[]')
        FROM payment_allocation a JOIN invoice i ON i.firm_id = a.firm_id AND i.id = a.invoice_id
        WHERE a.firm_id = p.firm_id AND a.payment_id = p.id) AS parts
FROM payment p LEFT JOIN payment_method m ON m.firm_id = p.firm_id AND m.id = p.method_id
WHERE p.firm_id = %(firm_id)s AND p.id = %(id)s
"""


async def open_link(uow: UnitOfWork, invoice_id: UUID) -> Row | None:
    """`url` and `expire_time` of the newest hosted link of the invoice that is open."""
    return await uow.fetch_one(_LINK, {"firm_id": uow.firm_id, "id": invoice_id, "now": uow.now})


async def received(uow: UnitOfWork, payment_id: UUID) -> Row | None:
    """The payment, how it came, and `parts`: numbers of invoices with what of it settled each."""
    return await uow.fetch_one(_RECEIVED, {"firm_id": uow.firm_id, "id": payment_id})
