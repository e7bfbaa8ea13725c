"""A mutating call happens once per `request_id`: the row that says so commits with the work itself.

The row is inserted first. A concurrent call with the same id blocks on the unique index until the first commits, then
reads its answer; if the first rolls back, the second does the work. Only OK answers are ever stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform.database import UnitOfWork

KEEP: Final = timedelta(hours=48)
"""How long an answer is kept at least; the contract promises 24 hours."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What an earlier call under the same `request_id` left: its answer, or the object that it created or started."""

    response: bytes | None
    object_id: UUID | None


@dataclass(frozen=True, slots=True)
class _Statements:
    begin: str
    find: str
    finish: str
    purge: str


_TENANT: Final = _Statements(
    begin="""
        INSERT INTO idempotency (firm_id, method, request_id, request_hash, expire_time)
        VALUES (%(owner)s, %(method)s, %(request_id)s, %(hash)s, clock_timestamp() + %(keep)s)
        ON CONFLICT (firm_id, method, request_id) DO NOTHING""",
    find="""
        SELECT request_hash, response, object_id FROM idempotency
        WHERE firm_id = %(owner)s AND method = %(method)s AND request_id = %(request_id)s""",
    finish="""
        UPDATE idempotency SET response = coalesce(%(response)s, response), object_id = coalesce(%(object_id)s, object_id)
        WHERE firm_id = %(owner)s AND method = %(method)s AND request_id = %(request_id)s""",
    purge="""
        DELETE FROM idempotency WHERE firm_id = %(owner)s AND (method, request_id) IN (
            SELECT method, request_id FROM idempotency
            WHERE firm_id = %(owner)s AND expire_time < clock_timestamp() ORDER BY expire_time LIMIT %(limit)s)""",
)
_CONTROL: Final = _Statements(
    begin="""
        INSERT INTO control.idempotency (principal, method, request_id, request_hash, expire_time)
        VALUES (%(owner)s, %(method)s, %(request_id)s, %(hash)s, clock_timestamp() + %(keep)s)
        ON CONFLICT (principal, method, request_id) DO NOTHING""",
    find="""
        SELECT request_hash, response, object_id FROM control.idempotency
        WHERE principal = %(owner)s AND method = %(method)s AND request_id = %(request_id)s""",
    finish="""
        UPDATE control.idempotency
        SET response = coalesce(%(response)s, response), object_id = coalesce(%(object_id)s, object_id)
        WHERE principal = %(owner)s AND method = %(method)s AND request_id = %(request_id)s""",
    purge="""
        DELETE FROM control.idempotency WHERE (principal, method, request_id) IN (
            SELECT principal, method, request_id FROM control.idempotency
            WHERE expire_time < clock_timestamp() ORDER BY expire_time LIMIT %(limit)s)""",
)


async def begin(uow: UnitOfWork, request_hash: bytes, *, firmless: bool = False) -> Stored | None:
    """Claim the call's `request_id`: None if this is its first call, else what the earlier one left.

    `firmless` keeps the row in schema `control`, per principal instead of per firm. Errors: REQUEST_ID_REUSED for
    another payload; FIELD_INVALID where the call has no `request_id`.
    """
    statements, key = _key(uow, firmless)
    if await uow.execute(statements.begin, {**key, "hash": request_hash, "keep": KEEP}):
        return None
    row = await uow.fetch_one(statements.find, key)
    if row is None:  # the purge took it between the two statements
        raise DunwellError(Reason.REQUEST_IN_PROGRESS, "The request_id is being forgotten; repeat the call.")
    if row["request_hash"] != request_hash:
        raise DunwellError(
            Reason.REQUEST_ID_REUSED,
            "The request_id was used before with another payload; a new request needs a new one.",
            field="request_id",
            metadata={"request_id": str(key["request_id"])},
        )
    return Stored(row["response"], row["object_id"])


async def seen(uow: UnitOfWork) -> bool:
    """Whether the call's `request_id` was used before, without claiming it: for work that precedes the transaction."""
    statements, key = _key(uow, firmless=False)
    return await uow.fetch_one(statements.find, key) is not None


async def finish(
    uow: UnitOfWork, *, response: bytes | None = None, object_id: UUID | None = None, firmless: bool = False
) -> None:
    """Store the answer, or the object whose state is the answer, beside the claim that this transaction made."""
    statements, key = _key(uow, firmless)
    await uow.execute(statements.finish, {**key, "response": response, "object_id": object_id})


async def purge(uow: UnitOfWork, *, firmless: bool = False, limit: int = 1000) -> int:
    """Forget up to `limit` answers whose time is over, of the firm or of schema `control`; returns how many."""
    statements = _CONTROL if firmless else _TENANT
    owner = None if firmless else uow.firm_id
    return await uow.execute(statements.purge, {"owner": owner, "limit": limit})


def _key(uow: UnitOfWork, firmless: bool) -> tuple[_Statements, dict[str, object]]:
    context = uow.context
    if context.request_id is None:
        raise DunwellError(Reason.FIELD_INVALID, "a changing call needs a request_id", field="request_id")
    owner: object = context.actor.id if firmless else uow.firm_id
    key = {"owner": owner, "method": context.method, "request_id": context.request_id}
    return (_CONTROL if firmless else _TENANT), key
