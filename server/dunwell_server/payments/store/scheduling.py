"""Invoices of a client as collection sees them: what is scheduled, enrolled, waiting."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from dunwell_server.platform.database import UnitOfWork

_LOCK_CLIENT = "SELECT 1 FROM client WHERE firm_id = %(firm_id)s AND id = %(client_id)s FOR NO KEY UPDATE"
_GOING_ON = """
SELECT id FROM invoice
WHERE firm_id = %(firm_id)s AND client_id = %(client_id)s AND finalize_time IS NOT NULL AND amount_due > 0
  AND (autopay_enabled OR autopay_next_charge_time IS NOT NULL OR retry_pending)
"""
_OPEN = """
SELECT id FROM invoice
WHERE firm_id = %(firm_id)s AND client_id = %(client_id)s AND finalize_time IS NOT NULL AND amount_due > 0
  AND void_time IS NULL AND write_off_time IS NULL
"""
_OWED = _OPEN + " AND currency_code = %(currency)s ORDER BY due_date, id"
_FOLLOWING = _OPEN + " AND autopay_enabled AND (autopay_method_id = %(old)s OR retry_pending)"
_UNSENT = """
SELECT a.id, p.invoice_id FROM attempt a JOIN payment p ON p.firm_id = a.firm_id AND p.id = a.payment_id
WHERE a.firm_id = %(firm_id)s AND p.invoice_id = ANY(%(invoices)s) AND a.state IN ('CREATED', 'NOT_SENT')
ORDER BY p.invoice_id, a.id
"""
_OPEN_ATTEMPT = """
SELECT h.invoice_id, h.payment_id AS id FROM collection_hold h
WHERE h.firm_id = %(firm_id)s AND h.invoice_id = ANY(%(invoices)s) AND h.release_time IS NULL
UNION ALL
SELECT p.invoice_id, p.id FROM payment p JOIN attempt a ON a.firm_id = p.firm_id AND a.payment_id = p.id
WHERE p.firm_id = %(firm_id)s AND p.invoice_id = ANY(%(invoices)s)
  AND a.state IN ('CREATED', 'SENT', 'REQUIRES_ACTION', 'PENDING', 'NOT_SENT', 'UNKNOWN')
LIMIT 1
"""
_ASK_NOW = """
UPDATE attempt a SET next_check_time = %(now)s, version = a.version + 1, update_time = clock_timestamp()
FROM collection_hold h
WHERE h.firm_id = %(firm_id)s AND h.invoice_id = ANY(%(invoices)s) AND h.release_time IS NULL
  AND a.firm_id = h.firm_id AND a.payment_id = h.payment_id AND a.state = 'REQUIRES_ACTION' AND a.next_check_time > %(now)s
"""
_OPEN_REFUND = """
SELECT l.invoice_id, p.id FROM payment_allocation l JOIN payment p ON p.firm_id = l.firm_id AND p.id = l.payment_id
WHERE l.firm_id = %(firm_id)s AND l.invoice_id = ANY(%(invoices)s) AND p.refund_pending_minor > 0
LIMIT 1
"""
_ASKED_BACK = """
SELECT id, refund_pending_minor FROM payment WHERE firm_id = %(firm_id)s AND id = ANY(%(payments)s) AND refund_pending_minor > 0
"""


async def lock_client(uow: UnitOfWork, client_id: UUID) -> None:
    """Lock the client's row, as everyone does who changes what it owes or how it pays."""
    await uow.execute(_LOCK_CLIENT, {"firm_id": uow.firm_id, "client_id": client_id})


async def going_on(uow: UnitOfWork, client_id: UUID) -> list[UUID]:
    """The client's owed invoices that are enrolled or scheduled."""
    return await _ids(uow, _GOING_ON, client_id=client_id)


async def open_invoices(uow: UnitOfWork, client_id: UUID) -> list[UUID]:
    """The client's invoices that are sent, owed, and neither void nor written off."""
    return await _ids(uow, _OPEN, client_id=client_id)


async def owed_in(uow: UnitOfWork, client_id: UUID, currency: str) -> list[UUID]:
    """The same in one currency, the one due first before the others."""
    return await _ids(uow, _OWED, client_id=client_id, currency=currency)


async def following(uow: UnitOfWork, client_id: UUID, old: UUID | None) -> list[UUID]:
    """The client's enrolled owed invoices that copied the method `old`, or wait for a retry."""
    return await _ids(uow, _FOLLOWING, client_id=client_id, old=old)


async def unsent_attempts(uow: UnitOfWork, invoices: Sequence[UUID]) -> list[tuple[UUID, UUID]]:
    """Attempts of the invoices that are provably not with a provider, with their invoice."""
    rows = await uow.fetch_all(_UNSENT, {"firm_id": uow.firm_id, "invoices": list(invoices)})
    return [(row["id"], row["invoice_id"]) for row in rows]


async def being_collected(uow: UnitOfWork, invoices: Sequence[UUID]) -> tuple[UUID, UUID] | None:
    """An invoice among these that is being collected, and the payment that does it; None: there is none."""
    row = await uow.fetch_one(_OPEN_ATTEMPT, {"firm_id": uow.firm_id, "invoices": list(invoices)})
    return (row["invoice_id"], row["id"]) if row else None


async def ask_now(uow: UnitOfWork, invoices: Sequence[UUID]) -> bool:
    """Have the links and pages that ask for these (locked) invoices looked at now; whether there are any."""
    return await uow.execute(_ASK_NOW, {"firm_id": uow.firm_id, "now": uow.now, "invoices": list(invoices)}) > 0


async def being_refunded(uow: UnitOfWork, invoices: Sequence[UUID]) -> tuple[UUID, UUID] | None:
    """An invoice among these of whose payments one is asked back and not back yet, and that payment; None: there is none."""
    row = await uow.fetch_one(_OPEN_REFUND, {"firm_id": uow.firm_id, "invoices": list(invoices)})
    return (row["invoice_id"], row["id"]) if row else None


async def asked_back(uow: UnitOfWork, payments: Sequence[UUID]) -> dict[UUID, int]:
    """How much of each of these payments is asked back and not back yet, in minor units; those of which nothing is are missing."""
    rows = await uow.fetch_all(_ASKED_BACK, {"firm_id": uow.firm_id, "payments": list(payments)})
    return {row["id"]: row["refund_pending_minor"] for row in rows}


async def _ids(uow: UnitOfWork, statement: str, **params: object) -> list[UUID]:
    rows = await uow.fetch_all(statement, {"firm_id": uow.firm_id, **params})
    return [row["id"] for row in rows]
