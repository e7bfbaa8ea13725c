"""API keys' SQL, in schema `control`."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb

from dunwell_server.admin.model import ApiKey, NewApiKey
from dunwell_server.kernel.ids import uuid7
from dunwell_server.platform.context import Role
from dunwell_server.platform.database import Row, UnitOfWork

_COLUMNS: Final = "id, firm_id, role, display_name, may_name_actor, create_actor, create_time, expire_time, revoke_time"
_INSERT: Final = f"""
INSERT INTO control.api_key (id, firm_id, role, display_name, secret_hash, may_name_actor, create_actor, expire_time)
VALUES (%(id)s, %(firm_id)s, %(role)s, %(display_name)s, %(secret_hash)s, %(may_name_actor)s, %(create_actor)s, %(expire_time)s)
RETURNING {_COLUMNS}
"""
_OF_FIRM: Final = "firm_id = %(firm_id)s"
_OF_NONE: Final = "firm_id IS NULL"
_REVOKE: Final = "UPDATE control.api_key SET revoke_time = clock_timestamp() WHERE id = %(id)s AND revoke_time IS NULL"
_CONTROL_AUDIT: Final = """
INSERT INTO control.audit_event (id, action, actor, method, metadata) VALUES (%(id)s, %(action)s, %(actor)s, %(method)s, %(metadata)s)
"""


async def insert(
    uow: UnitOfWork, key_id: UUID, firm_id: UUID | None, new: NewApiKey, secret_hash: bytes, create_actor: str
) -> ApiKey:
    """Add a key."""
    values = {
        "id": key_id, "firm_id": firm_id, "role": new.role.value, "display_name": new.display_name, "secret_hash": secret_hash,
        "may_name_actor": new.may_name_actor, "create_actor": create_actor, "expire_time": new.expire_time,
    }  # fmt: skip
    row = await uow.fetch_one(_INSERT, values)
    assert row is not None
    return _key(row)


async def get(uow: UnitOfWork, key_id: UUID, firm_id: UUID | None) -> ApiKey | None:
    """The key of the firm, or of those bound to none; locked."""
    scope = _OF_NONE if firm_id is None else _OF_FIRM
    statement = f"SELECT {_COLUMNS} FROM control.api_key WHERE id = %(id)s AND {scope} FOR UPDATE"
    row = await uow.fetch_one(statement, {"id": key_id, "firm_id": firm_id})
    return None if row is None else _key(row)


async def revoke(uow: UnitOfWork, key_id: UUID) -> bool:
    """Revoke a key for ever; False where it was revoked before."""
    return await uow.execute(_REVOKE, {"id": key_id}) == 1


async def list_keys(
    uow: UnitOfWork, firm_id: UUID | None, *, active_at: datetime | None, after: UUID | None, limit: int
) -> list[ApiKey]:
    """Keys of the firm, or those bound to none, newest first, behind the id `after`; only those accepted at `active_at` where it is given."""
    scope = _OF_NONE if firm_id is None else _OF_FIRM
    statement = f"""
        SELECT {_COLUMNS} FROM control.api_key WHERE {scope} AND (%(after)s::uuid IS NULL OR id < %(after)s)
          AND (%(now)s::timestamptz IS NULL OR (revoke_time IS NULL AND (expire_time IS NULL OR expire_time > %(now)s)))
        ORDER BY id DESC LIMIT %(limit)s"""
    rows = await uow.fetch_all(statement, {"firm_id": firm_id, "after": after, "now": active_at, "limit": limit})
    return [_key(row) for row in rows]


async def record_firmless(uow: UnitOfWork, action: str, metadata: dict[str, Any]) -> None:
    """An audit entry about what belongs to no firm. It is in no chain."""
    context = uow.context
    values = {
        "id": uuid7(),
        "action": action,
        "actor": context.actor.label,
        "method": context.method,
        "metadata": Jsonb(metadata),
    }
    await uow.execute(_CONTROL_AUDIT, values)


def _key(row: Row) -> ApiKey:
    return ApiKey(**{**row, "role": Role(row["role"])})
