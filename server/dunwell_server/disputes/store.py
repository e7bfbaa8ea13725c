"""SQL of disputes."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from dunwell_server.disputes.model import Dispute, DisputeKind, DisputeState, Settled
from dunwell_server.platform.database import UnitOfWork

_COLUMNS: Final = (
    "id, payment_id, client_id, account_id, provider, provider_reference, kind, state, reason, currency_code, amount_minor, fee_minor, withdrawn,"
    " charged_back_minor, credit_minor, loss_minor, respond_by_time"
)
_GET: Final = f"""
SELECT {_COLUMNS} FROM dispute WHERE firm_id = %(firm_id)s AND account_id = %(account_id)s AND provider_reference = %(reference)s
"""
_SHORT: Final = f"""
SELECT {_COLUMNS} FROM dispute
WHERE firm_id = %(firm_id)s AND payment_id = %(payment_id)s AND resolution = 'LOST' AND charged_back_minor < amount_minor
ORDER BY create_time, id FOR NO KEY UPDATE
"""
_INSERT: Final = f"""
INSERT INTO dispute (firm_id, id, payment_id, client_id, account_id, provider, provider_reference, kind, state, reason, currency_code, amount_minor,
                     respond_by_time, open_time, close_time, resolution, update_time)
VALUES (%(firm_id)s, %(id)s, %(payment_id)s, %(client_id)s, %(account_id)s, %(provider)s, %(reference)s, %(kind)s, %(state)s, %(reason)s, %(currency)s,
        %(amount)s, %(respond_by)s, %(open_time)s, NULL, NULL, %(now)s)
RETURNING {_COLUMNS}
"""
_UPDATE: Final = """
UPDATE dispute SET kind = %(kind)s, state = %(state)s, withdrawn = %(withdrawn)s, fee_minor = %(fee)s, charged_back_minor = %(charged_back)s,
    credit_minor = %(credit)s, loss_minor = %(loss)s, respond_by_time = coalesce(%(respond_by)s, respond_by_time),
    resolution = CASE WHEN %(state)s IN ('WON', 'LOST') THEN %(state)s WHEN %(state)s = 'UNDER_REVIEW' THEN NULL ELSE resolution END,
    close_time = CASE WHEN %(state)s IN ('WON', 'LOST', 'CLOSED') THEN coalesce(close_time, %(now)s) END,
    version = version + 1, update_time = %(now)s
WHERE firm_id = %(firm_id)s AND id = %(id)s
RETURNING version
"""
_ALLOCATIONS: Final = """
SELECT invoice_id, amount_minor FROM dispute_allocation
WHERE firm_id = %(firm_id)s AND dispute_id = %(id)s AND amount_minor > 0 ORDER BY invoice_id
"""
_ALLOCATE: Final = """
INSERT INTO dispute_allocation (firm_id, dispute_id, invoice_id, currency_code, amount_minor)
SELECT %(firm_id)s, %(id)s, invoice_id, %(currency)s, amount
FROM unnest(%(invoices)s::uuid[], %(amounts)s::bigint[]) AS l (invoice_id, amount)
ON CONFLICT (firm_id, dispute_id, invoice_id) DO UPDATE SET amount_minor = excluded.amount_minor, update_time = clock_timestamp()
"""


def _dispute(row: dict[str, Any]) -> Dispute:
    return Dispute(**{**row, "kind": DisputeKind(row["kind"]), "state": DisputeState(row["state"])})


async def get(uow: UnitOfWork, account_id: UUID, reference: str, *, lock: bool = False) -> Dispute | None:
    """The dispute that the account knows under this id."""
    values = {"firm_id": uow.firm_id, "account_id": account_id, "reference": reference}
    row = await uow.fetch_one(_GET + (" FOR NO KEY UPDATE" if lock else ""), values)
    return _dispute(row) if row else None


async def short(uow: UnitOfWork, payment_id: UUID) -> list[Dispute]:
    """Lost disputes of a (locked) payment that had not enough left for them, locked, the oldest first."""
    rows = await uow.fetch_all(_SHORT, {"firm_id": uow.firm_id, "payment_id": payment_id})
    return [_dispute(row) for row in rows]


async def insert(uow: UnitOfWork, values: dict[str, Any]) -> Dispute:
    """A dispute that was not known."""
    row = await uow.fetch_one(_INSERT, {**values, "firm_id": uow.firm_id, "now": uow.now})
    assert row is not None
    return _dispute(row)


async def update(uow: UnitOfWork, dispute: Dispute) -> int:
    """Keep what a dispute has become; returns the row's version."""
    version: int = await uow.fetch_value(
        _UPDATE,
        {
            "firm_id": uow.firm_id, "now": uow.now, "id": dispute.id, "kind": dispute.kind.value, "state": dispute.state.value,
            "withdrawn": dispute.withdrawn, "fee": dispute.fee_minor, "charged_back": dispute.charged_back_minor, "credit": dispute.credit_minor,
            "loss": dispute.loss_minor, "respond_by": dispute.respond_by_time,
        },
    )  # fmt: skip
    return version


async def allocations(uow: UnitOfWork, dispute_id: UUID) -> list[Settled]:
    """What the dispute holds charged back of each invoice."""
    rows = await uow.fetch_all(_ALLOCATIONS, {"firm_id": uow.firm_id, "id": dispute_id})
    return [Settled(row["invoice_id"], row["amount_minor"]) for row in rows]


async def allocate(uow: UnitOfWork, dispute: Dispute, parts: list[Settled]) -> None:
    """Set what the dispute holds charged back of these invoices."""
    await uow.execute(
        _ALLOCATE,
        {
            "firm_id": uow.firm_id, "id": dispute.id, "currency": dispute.currency_code, "invoices": [part.invoice_id for part in parts],
            "amounts": [part.amount_minor for part in parts],
        },
    )  # fmt: skip
