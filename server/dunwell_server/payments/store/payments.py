"""Payments as they are read, and those that are born complete: money received outside any provider, late landings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from dunwell_server.payments.model import Allocation, Attempt, Payment
from dunwell_server.payments.store.rows import ATTEMPT_COLUMNS, PAYMENT_COLUMNS, build, columns
from dunwell_server.platform.database import UnitOfWork

_GET = f"SELECT {columns(PAYMENT_COLUMNS, 'p')} FROM payment p WHERE p.firm_id = %(firm_id)s AND p.id = %(id)s"
_VERSION = "SELECT version FROM payment WHERE firm_id = %(firm_id)s AND id = %(id)s"
_ATTEMPTS = f"""
SELECT {columns(ATTEMPT_COLUMNS, "a")} FROM attempt a WHERE a.firm_id = %(firm_id)s AND a.payment_id = %(id)s ORDER BY a.attempt_no
"""
_ALLOCATIONS = """
SELECT payment_id, invoice_id, amount_minor FROM payment_allocation WHERE firm_id = %(firm_id)s AND payment_id = ANY(%(ids)s)
ORDER BY payment_id, create_time, invoice_id
"""
_FILTER = """
p.firm_id = %(firm_id)s
  AND (%(client_id)s::uuid IS NULL OR p.client_id = %(client_id)s)
  AND (%(invoice_id)s::uuid IS NULL OR p.invoice_id = %(invoice_id)s OR EXISTS (
      SELECT 1 FROM payment_allocation l WHERE l.firm_id = p.firm_id AND l.payment_id = p.id AND l.invoice_id = %(invoice_id)s))
  AND (%(states)s::text[] IS NULL OR p.state = ANY(%(states)s)) AND (%(kinds)s::text[] IS NULL OR p.kind = ANY(%(kinds)s))
  AND (%(provider)s::text IS NULL OR p.provider = %(provider)s)
  AND (%(needs_person)s::boolean IS NULL OR %(needs_person)s = EXISTS (
      SELECT 1 FROM attempt a WHERE a.firm_id = p.firm_id AND a.payment_id = p.id AND a.needs_person AND a.state IN ('UNKNOWN', 'PENDING', 'REQUIRES_ACTION')))
  AND (%(from)s::timestamptz IS NULL OR p.firm_time >= %(from)s) AND (%(until)s::timestamptz IS NULL OR p.firm_time < %(until)s)
"""
_NEWEST = f"""
SELECT {columns(PAYMENT_COLUMNS, "p")} FROM payment p WHERE {_FILTER}
  AND (%(last_time)s::timestamptz IS NULL OR (p.create_time, p.id) < (%(last_time)s, %(last_id)s))
ORDER BY p.create_time DESC, p.id DESC LIMIT %(limit)s
"""
_OLDEST = f"""
SELECT {columns(PAYMENT_COLUMNS, "p")} FROM payment p WHERE {_FILTER}
  AND (%(last_time)s::timestamptz IS NULL OR (p.create_time, p.id) > (%(last_time)s, %(last_id)s))
ORDER BY p.create_time, p.id LIMIT %(limit)s
"""
_INSERT_RECEIVED = """
WITH p AS (
    INSERT INTO payment (firm_id, id, client_id, invoice_id, kind, state, currency_code, amount_minor, captured_minor, allocated_minor, credited_minor,
                         provider, account_id, mode, method_id, manual_method, manual_reference, received_date, late_attempt_id, finish_time, firm_time, update_time)
    VALUES (%(firm_id)s, %(id)s, %(client_id)s, NULL, %(kind)s, 'SUCCEEDED', %(currency)s, %(amount)s, %(amount)s, %(allocated)s, %(credited)s,
            %(provider)s, %(account_id)s, %(mode)s, %(method_id)s, %(manual_method)s, %(manual_reference)s, %(received_date)s, %(late_attempt_id)s,
            %(now)s, %(now)s, %(now)s)
    RETURNING id
)
INSERT INTO payment_allocation (firm_id, payment_id, invoice_id, currency_code, amount_minor)
SELECT %(firm_id)s, p.id, invoice_id, %(currency)s, amount_minor
FROM p, unnest(%(invoices)s::uuid[], %(amounts)s::bigint[]) AS l (invoice_id, amount_minor)
"""
_BY_HAND = """
UPDATE attempt SET evidence = coalesce(evidence, '{}') || '{"by_hand": true}', version = version + 1
WHERE firm_id = %(firm_id)s AND id = %(id)s
"""
_NOTE_REFERENCE = """
UPDATE payment SET provider_reference = %(reference)s, version = version + 1
WHERE firm_id = %(firm_id)s AND id = %(id)s AND provider_reference IS NULL
"""


@dataclass(frozen=True, slots=True)
class PaymentFilter:
    """What a list of payments is limited to; None does not limit. Times are firm time, half-open."""

    client_id: UUID | None = None
    invoice_id: UUID | None = None
    states: Sequence[str] | None = None
    kinds: Sequence[str] | None = None
    provider: str | None = None
    needs_person: bool | None = None
    from_time: datetime | None = None
    until_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Received:
    """Money that is recorded as received, at once and completely."""

    id: UUID
    client_id: UUID
    kind: str
    currency_code: str
    amount_minor: int
    credited_minor: int
    allocations: Sequence[Allocation]
    provider: str
    account_id: UUID | None = None
    mode: str | None = None
    method_id: UUID | None = None
    manual_method: str | None = None
    manual_reference: str | None = None
    received_date: date | None = None
    late_attempt_id: UUID | None = None


async def get(uow: UnitOfWork, payment_id: UUID) -> Payment | None:
    """One payment of the firm."""
    row = await uow.fetch_one(_GET, {"firm_id": uow.firm_id, "id": payment_id})
    return build(Payment, row) if row else None


async def version(uow: UnitOfWork, payment_id: UUID) -> int | None:
    """The payment's row version: what a watcher compares."""
    found: int | None = await uow.fetch_value(_VERSION, {"firm_id": uow.firm_id, "id": payment_id})
    return found


async def attempts_of(uow: UnitOfWork, payment_id: UUID) -> list[Attempt]:
    """Every try of the payment, oldest first."""
    return [build(Attempt, row) for row in await uow.fetch_all(_ATTEMPTS, {"firm_id": uow.firm_id, "id": payment_id})]


async def allocations_of(uow: UnitOfWork, payments: Sequence[UUID]) -> dict[UUID, list[Allocation]]:
    """What each payment has settled."""
    found: dict[UUID, list[Allocation]] = {payment: [] for payment in payments}
    for row in await uow.fetch_all(_ALLOCATIONS, {"firm_id": uow.firm_id, "ids": list(found)}):
        found[row["payment_id"]].append(Allocation(row["invoice_id"], row["amount_minor"]))
    return found


async def page(
    uow: UnitOfWork, wanted: PaymentFilter, *, oldest_first: bool, after: tuple[datetime, UUID] | None, limit: int
) -> list[Payment]:
    """A page of payments by (create_time, id)."""
    params: dict[str, Any] = {
        "firm_id": uow.firm_id, "client_id": wanted.client_id, "invoice_id": wanted.invoice_id, "states": _texts(wanted.states),
        "kinds": _texts(wanted.kinds), "provider": wanted.provider, "needs_person": wanted.needs_person, "from": wanted.from_time,
        "until": wanted.until_time, "last_time": after[0] if after else None, "last_id": after[1] if after else None, "limit": limit,
    }  # fmt: skip
    return [build(Payment, row) for row in await uow.fetch_all(_OLDEST if oldest_first else _NEWEST, params)]


async def mark_by_hand(uow: UnitOfWork, attempt_id: UUID) -> None:
    """A person said that the attempt has succeeded, and what the provider calls it: the provider's own word for it is yet to come."""
    await uow.execute(_BY_HAND, {"firm_id": uow.firm_id, "id": attempt_id})


async def note_reference(uow: UnitOfWork, payment_id: UUID, reference: str) -> None:
    """What the provider calls a payment that a person has settled; the first word counts."""
    await uow.execute(_NOTE_REFERENCE, {"firm_id": uow.firm_id, "id": payment_id, "reference": reference})


async def insert_received(uow: UnitOfWork, received: Received) -> None:
    """Record money that came in, with what it settles. The database refuses the same id twice."""
    await uow.execute(_INSERT_RECEIVED, {
        "firm_id": uow.firm_id, "now": uow.now, "id": received.id, "client_id": received.client_id, "kind": received.kind,
        "currency": received.currency_code, "amount": received.amount_minor, "credited": received.credited_minor,
        "allocated": received.amount_minor - received.credited_minor, "provider": received.provider, "account_id": received.account_id,
        "mode": received.mode, "method_id": received.method_id, "manual_method": received.manual_method,
        "manual_reference": received.manual_reference, "received_date": received.received_date, "late_attempt_id": received.late_attempt_id,
        "invoices": [part.invoice_id for part in received.allocations], "amounts": [part.amount_minor for part in received.allocations],
    })  # fmt: skip


def _texts(values: Sequence[str] | None) -> list[str] | None:
    return [str(value) for value in values] if values else None
