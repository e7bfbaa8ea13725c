"""What is open about one invoice at its providers."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from dunwell_server.payments.model import AttemptState, Claim
from dunwell_server.payments.refunds import RefundClaim, RefundState, SendState
from dunwell_server.platform.database import Row, UnitOfWork
from dunwell_server.platform.leases import LEASE_SECONDS

_OF_INVOICE: Final = """
SELECT p.id FROM payment p WHERE p.firm_id = %(firm_id)s AND p.invoice_id = %(invoice_id)s
UNION
SELECT h.payment_id FROM collection_hold h WHERE h.firm_id = %(firm_id)s AND h.invoice_id = %(invoice_id)s AND h.release_time IS NULL
UNION
SELECT l.payment_id FROM payment_allocation l WHERE l.firm_id = %(firm_id)s AND l.invoice_id = %(invoice_id)s
"""
# What is provably not with a provider is not asked about, and what somebody else asks about at this moment is left to them.
_CLAIM: Final = f"""
WITH c AS MATERIALIZED (
    SELECT a.id, a.state FROM attempt a
    WHERE a.firm_id = %(firm_id)s AND a.payment_id IN ({_OF_INVOICE}) AND a.state IN ('SENT', 'UNKNOWN', 'PENDING', 'REQUIRES_ACTION')
      AND (a.lease_until IS NULL OR a.lease_until < clock_timestamp())
    ORDER BY a.id LIMIT 100 FOR NO KEY UPDATE OF a SKIP LOCKED
)
UPDATE attempt a SET owner = %(owner)s, fence = a.fence + 1, lease_until = clock_timestamp() + interval '{LEASE_SECONDS} s'
FROM c, payment p
WHERE a.firm_id = %(firm_id)s AND a.id = c.id AND p.firm_id = %(firm_id)s AND p.id = a.payment_id
RETURNING a.id AS attempt_id, a.payment_id, p.invoice_id, p.client_id, a.account_id, c.state, a.fence, a.owner
"""
_CLAIM_REFUNDS: Final = f"""
WITH c AS MATERIALIZED (
    SELECT r.id FROM refund r
    WHERE r.firm_id = %(firm_id)s AND r.payment_id IN ({_OF_INVOICE}) AND r.account_id IS NOT NULL
      AND (r.state = 'PENDING' OR (r.state = 'PROCESSING' AND r.send_state IN ('SENT', 'UNKNOWN')))
      AND (r.lease_until IS NULL OR r.lease_until < clock_timestamp())
    ORDER BY r.id LIMIT 100 FOR NO KEY UPDATE OF r SKIP LOCKED
)
UPDATE refund r SET owner = %(owner)s, fence = r.fence + 1, lease_until = clock_timestamp() + interval '{LEASE_SECONDS} s'
FROM c WHERE r.firm_id = %(firm_id)s AND r.id = c.id
RETURNING r.id AS refund_id, r.payment_id, r.client_id, r.account_id, r.state, r.send_state, r.fence, r.owner
"""
_OPEN: Final = f"""
SELECT 'pay' AS kind, a.payment_id AS id FROM attempt a
WHERE a.firm_id = %(firm_id)s AND a.payment_id IN ({_OF_INVOICE})
  AND a.state IN ('CREATED', 'SENT', 'REQUIRES_ACTION', 'PENDING', 'NOT_SENT', 'UNKNOWN')
UNION
SELECT 'ref', r.id FROM refund r
WHERE r.firm_id = %(firm_id)s AND r.payment_id IN ({_OF_INVOICE}) AND r.state IN ('AWAITING_APPROVAL', 'PROCESSING', 'PENDING')
ORDER BY 1, 2
"""


async def claim(uow: UnitOfWork, invoice_id: UUID, owner: UUID) -> list[Claim]:
    """Take the open attempts of the invoice that are with a provider and in nobody's hands; none while the firm is in recovery."""
    if uow.recovering:
        return []
    rows = await uow.fetch_all(_CLAIM, {"firm_id": uow.firm_id, "invoice_id": invoice_id, "owner": owner})
    return [Claim(**{**row, "state": AttemptState(row["state"])}) for row in rows]


async def claim_refunds(uow: UnitOfWork, invoice_id: UUID, owner: UUID) -> list[RefundClaim]:
    """The same of its payments' refunds."""
    if uow.recovering:
        return []
    rows = await uow.fetch_all(_CLAIM_REFUNDS, {"firm_id": uow.firm_id, "invoice_id": invoice_id, "owner": owner})
    return [
        RefundClaim(**{**row, "state": RefundState(row["state"]), "send_state": SendState(row["send_state"])})
        for row in rows
    ]


async def still_open(uow: UnitOfWork, invoice_id: UUID) -> list[Row]:
    """Payments (kind `pay`) and refunds (`ref`) of the invoice that have not come to an end."""
    return await uow.fetch_all(_OPEN, {"firm_id": uow.firm_id, "invoice_id": invoice_id})
