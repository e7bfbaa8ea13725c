"""What waits for a second person: proposals, their decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb

from dunwell_server.kernel.ids import uuid7
from dunwell_server.platform.database import Row, UnitOfWork

_COLUMNS = """
a.id, a.kind, a.subject_id, a.payment_id, a.amount_minor, a.currency_code, a.proposal, a.actor, a.approve_actor, a.reject_actor, a.note,
a.create_time, a.approve_time, a.reject_time"""
_PROPOSE = """
INSERT INTO approval (firm_id, id, kind, subject_id, payment_id, amount_minor, currency_code, proposal, actor)
VALUES (%(firm_id)s, %(id)s, %(kind)s, %(subject_id)s, %(payment_id)s, %(amount)s, %(currency)s, %(proposal)s, %(actor)s)
"""
_REPLACE = "UPDATE approval SET proposal = %(proposal)s WHERE firm_id = %(firm_id)s AND id = %(id)s"
_GET = f"SELECT {_COLUMNS} FROM approval a WHERE a.firm_id = %(firm_id)s AND a.id = %(id)s"
_OF_SUBJECT = f"""
SELECT {_COLUMNS} FROM approval a
WHERE a.firm_id = %(firm_id)s AND a.kind = %(kind)s AND a.subject_id = %(subject_id)s AND a.approve_time IS NULL AND a.reject_time IS NULL
FOR UPDATE
"""
_APPROVE = """
UPDATE approval SET approve_actor = %(actor)s, approve_time = clock_timestamp(), note = %(note)s WHERE firm_id = %(firm_id)s AND id = %(id)s
"""
_REJECT = """
UPDATE approval SET reject_actor = %(actor)s, reject_time = clock_timestamp(), note = %(note)s WHERE firm_id = %(firm_id)s AND id = %(id)s
"""
# What has been settled by other evidence meanwhile waits for nobody.
_PENDING = f"""
SELECT {_COLUMNS} FROM approval a
WHERE a.firm_id = %(firm_id)s AND a.approve_time IS NULL AND a.reject_time IS NULL AND (%(kinds)s::text[] IS NULL OR a.kind = ANY(%(kinds)s))
  AND (EXISTS (SELECT 1 FROM refund r WHERE r.firm_id = a.firm_id AND r.id = a.subject_id AND r.state = 'AWAITING_APPROVAL')
    OR EXISTS (SELECT 1 FROM attempt t WHERE t.firm_id = a.firm_id AND t.id = a.subject_id AND t.state = 'UNKNOWN'))
  AND (%(last_time)s::timestamptz IS NULL OR (a.create_time, a.id) > (%(last_time)s, %(last_id)s))
ORDER BY a.create_time, a.id LIMIT %(limit)s
"""


async def propose(
    uow: UnitOfWork,
    kind: str,
    subject_id: UUID,
    *,
    payment_id: UUID,
    amount_minor: int,
    currency_code: str,
    proposal: Mapping[str, Any],
    actor: str,
) -> UUID:
    """Write a proposal; the database refuses a second one that waits about the same subject. Returns its id."""
    approval_id = uuid7()
    await uow.execute(_PROPOSE, {
        "firm_id": uow.firm_id, "id": approval_id, "kind": kind, "subject_id": subject_id, "payment_id": payment_id, "amount": amount_minor,
        "currency": currency_code, "proposal": Jsonb(dict(proposal)), "actor": actor,
    })  # fmt: skip
    return approval_id


async def replace_proposal(uow: UnitOfWork, approval_id: UUID, proposal: Mapping[str, Any]) -> None:
    """The proposer has thought better of it."""
    await uow.execute(_REPLACE, {"firm_id": uow.firm_id, "id": approval_id, "proposal": Jsonb(dict(proposal))})


async def get(uow: UnitOfWork, approval_id: UUID, *, lock: bool = False) -> Row | None:
    """One approval, waiting or decided."""
    statement = _GET + " FOR UPDATE" if lock else _GET
    return await uow.fetch_one(statement, {"firm_id": uow.firm_id, "id": approval_id})


async def waiting(uow: UnitOfWork, kind: str, subject_id: UUID) -> Row | None:
    """The proposal about a subject that waits, locked."""
    return await uow.fetch_one(_OF_SUBJECT, {"firm_id": uow.firm_id, "kind": kind, "subject_id": subject_id})


async def approve(uow: UnitOfWork, approval_id: UUID, actor: str, note: str = "") -> None:
    """Note the second person's consent; the database refuses the proposer's."""
    values = {"firm_id": uow.firm_id, "id": approval_id, "actor": actor, "note": note or None}
    await uow.execute(_APPROVE, values)


async def reject(uow: UnitOfWork, approval_id: UUID, actor: str, note: str = "") -> None:
    """Note that it is dropped."""
    values = {"firm_id": uow.firm_id, "id": approval_id, "actor": actor, "note": note or None}
    await uow.execute(_REJECT, values)


async def page(
    uow: UnitOfWork, kinds: Sequence[str], *, after: tuple[datetime, UUID] | None, limit: int
) -> Sequence[Row]:
    """What waits for a second person, oldest first."""
    return await uow.fetch_all(_PENDING, {
        "firm_id": uow.firm_id, "kinds": [str(kind) for kind in kinds] or None, "last_time": after[0] if after else None,
        "last_id": after[1] if after else None, "limit": limit,
    })  # fmt: skip
