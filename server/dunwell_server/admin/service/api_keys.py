"""API keys: made, listed, revoked. The secret exists only in the answer that makes it."""

from __future__ import annotations

from uuid import UUID

from dunwell_server.admin.model import UNBOUND_ROLES, ApiKey, NewApiKey
from dunwell_server.admin.store import keys
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.platform.context import Role
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Category, Change, record
from dunwell_server.rpc.auth import MintedKey, mint_key


async def create(uow: UnitOfWork, new: NewApiKey, pepper: bytes) -> tuple[ApiKey, MintedKey]:
    """CreateApiKey: a key for the transaction's firm, or an ADMIN's or SIDECAR's outside of every firm.

    Errors: PERMISSION_DENIED, FIRM_REQUIRED, FIELD_INVALID for an expiry in the past.
    """
    context = uow.context
    if new.role in UNBOUND_ROLES:
        _refuse_unless(
            context.actor.role in (Role.ADMIN, Role.SYSTEM), f"Only an ADMIN makes {new.role} keys.", context.actor.role
        )
        _refuse_unless(
            context.firm_id is None, f"A {new.role} key belongs to no firm: leave dunwell-firm out.", context.actor.role
        )
    elif context.firm_id is None:
        raise DunwellError(
            Reason.FIRM_REQUIRED, f"A {new.role} key belongs to a firm: name it in the dunwell-firm metadata."
        )
    if new.expire_time is not None and new.expire_time <= uow.machine_now:
        raise field_invalid("api_key.expire_time", "must lie in the future")
    minted = mint_key(pepper, live=context.firm_id is not None and uow.firm.mode == "LIVE")
    key = await keys.insert(uow, minted.id, context.firm_id, new, minted.secret_hash, context.actor.label)
    await _tell(uow, key, "api_key_created")
    return key, minted


async def revoke(uow: UnitOfWork, key_id: UUID) -> ApiKey:
    """RevokeApiKey: of the firm, or of those bound to none. Twice is no error. RESOURCE_NOT_FOUND."""
    key = await _get(uow, key_id)
    if await keys.revoke(uow, key_id):
        await _tell(uow, key, "api_key_revoked")
    return await _get(uow, key_id)


async def _get(uow: UnitOfWork, key_id: UUID) -> ApiKey:
    key = await keys.get(uow, key_id, uow.context.firm_id)
    if key is None:
        raise DunwellError(
            Reason.RESOURCE_NOT_FOUND, "No such API key.", resource=("ApiKey", encode(Prefix.API_KEY, key_id))
        )
    return key


async def _tell(uow: UnitOfWork, key: ApiKey, action: str) -> None:
    metadata = {"role": key.role.value, "may_name_actor": key.may_name_actor}
    if key.firm_id is None:
        await keys.record_firmless(uow, action, {"api_key_id": encode(Prefix.API_KEY, key.id), **metadata})
    else:
        await record(uow, Change(Category.ACCESS, action, "api_key", key.id, metadata=metadata))


def _refuse_unless(allowed: bool, message: str, role: Role) -> None:
    if not allowed:
        raise DunwellError(
            Reason.PERMISSION_DENIED, message, metadata={"role": role.value, "allowed": Role.ADMIN.value}
        )
