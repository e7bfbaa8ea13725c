"""Explicit payments: opened one at a time, for any number of invoices, and what they are for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from dunwell_server.payments.model import AttemptState, Claim, attempt_id_of, idempotency_key
from dunwell_server.platform.database import Row, UnitOfWork
from dunwell_server.platform.leases import LEASE_SECONDS

# Holds are taken in the invoices' order of id, so that two payments over the same invoices never wait for each other.
_OPEN = f"""
WITH held AS (
    INSERT INTO collection_hold (firm_id, invoice_id, payment_id, channel, place)
    SELECT %(firm_id)s, invoice_id, %(id)s, %(channel)s, place - 1
    FROM unnest(%(invoices)s::uuid[]) WITH ORDINALITY AS w (invoice_id, place) ORDER BY invoice_id
    ON CONFLICT DO NOTHING RETURNING invoice_id
), paid AS (
    INSERT INTO payment (firm_id, id, client_id, invoice_id, kind, state, currency_code, amount_minor, provider, account_id, mode, method_id,
                         description, return_url, client_present, payer, firm_time, update_time)
    VALUES (%(firm_id)s, %(id)s, %(client_id)s, %(invoice_id)s, %(kind)s, 'PROCESSING', %(currency)s, %(amount)s, %(provider)s, %(account_id)s,
            %(mode)s, %(method_id)s, %(description)s, %(return_url)s, %(client_present)s, %(payer)s, %(now)s, %(now)s)
), tried AS (
    INSERT INTO attempt (firm_id, id, payment_id, attempt_no, idempotency_key, provider, account_id, method_id, currency_code, amount_minor,
                         owner, fence, lease_until)
    VALUES (%(firm_id)s, %(attempt_id)s, %(id)s, 1, %(key)s, %(provider)s, %(account_id)s, %(method_id)s, %(currency)s, %(amount)s,
            %(owner)s, 1, clock_timestamp() + interval '{LEASE_SECONDS} s')
)
SELECT invoice_id FROM held
"""
_TARGETS = "SELECT invoice_id FROM collection_hold WHERE firm_id = %(firm_id)s AND payment_id = %(id)s ORDER BY place, invoice_id"
_ASKING = """
SELECT p.id, p.kind, p.state, p.action_url, p.action_expire_time
FROM collection_hold h JOIN payment p ON p.firm_id = h.firm_id AND p.id = h.payment_id
WHERE h.firm_id = %(firm_id)s AND h.invoice_id = %(invoice_id)s AND h.release_time IS NULL
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRequest:
    """An explicit payment to be asked for. `invoices` are settled in their order; none: all of it becomes the client's credit."""

    id: UUID
    client_id: UUID
    kind: str
    channel: str
    invoices: Sequence[UUID]
    currency_code: str
    amount_minor: int
    provider: str
    account_id: UUID
    mode: str
    method_id: UUID | None = None
    description: str | None = None
    return_url: str | None = None
    client_present: bool = False
    payer: dict[str, Any] | None = None

    @property
    def attempt_id(self) -> UUID:
        """Id of the only attempt."""
        return attempt_id_of(self.id, 1)

    def claim(self, owner: UUID) -> Claim:
        """The first claim of its attempt, by who opened it."""
        invoice_id = self.invoices[0] if len(self.invoices) == 1 else None
        return Claim(
            self.attempt_id, self.id, invoice_id, self.client_id, self.account_id, AttemptState.CREATED, 1, owner
        )


async def open_request(uow: UnitOfWork, new: NewRequest, owner: UUID) -> bool:
    """Write the payment with its holds and a CREATED attempt claimed by `owner`.

    False where another channel holds an invoice: the transaction is to be rolled back. The database refuses the same id twice.
    """
    held = await uow.fetch_all(_OPEN, {
        "firm_id": uow.firm_id, "now": uow.now, "id": new.id, "client_id": new.client_id, "kind": new.kind, "channel": new.channel,
        "invoices": list(new.invoices), "invoice_id": new.invoices[0] if len(new.invoices) == 1 else None, "currency": new.currency_code,
        "amount": new.amount_minor, "provider": new.provider, "account_id": new.account_id, "mode": new.mode, "method_id": new.method_id,
        "description": new.description, "return_url": new.return_url, "client_present": new.client_present,
        "payer": None if new.payer is None else Jsonb(new.payer), "attempt_id": new.attempt_id, "key": idempotency_key(new.id, 1), "owner": owner,
    })  # fmt: skip
    return len(held) == len(new.invoices)


def first_attempt(payment_id: UUID) -> UUID:
    """Id of the first attempt of a payment: the only one of an explicit request."""
    return attempt_id_of(payment_id, 1)


async def targets(uow: UnitOfWork, payment_id: UUID) -> list[UUID]:
    """The invoices that a payment is for, in the order in which its money settles them; also after its holds were released."""
    rows = await uow.fetch_all(_TARGETS, {"firm_id": uow.firm_id, "id": payment_id})
    return [row["invoice_id"] for row in rows]


async def asking(uow: UnitOfWork, invoice_id: UUID) -> Row | None:
    """The payment that asks for the invoice's money at this moment: id, kind, state, action_url, action_expire_time."""
    return await uow.fetch_one(_ASKING, {"firm_id": uow.firm_id, "invoice_id": invoice_id})
