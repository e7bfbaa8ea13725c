"""Whether a principal may call a method, and for which firm. What the contract does not allow is denied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform.context import Actor
from dunwell_server.rpc.auth import Principal, resolve_firm
from dunwell_server.rpc.interceptors.method import Permission

FIRM_METADATA = "dunwell-firm"
ACTOR_METADATA = "dunwell-actor"
_MAX_ACTOR_CHARS = 128


def admit(principal: Principal, permission: Permission, metadata: Mapping[str, Any]) -> tuple[Actor, UUID | None]:
    """The actor and firm of the call.

    PERMISSION_DENIED for a role the method does not admit, a firm the credential is not bound to, or a missing
    person; FIRM_REQUIRED; INVALID_ID for a malformed firm.
    """
    if principal.role not in permission.roles:
        raise DunwellError(
            Reason.PERMISSION_DENIED,
            "The credential's role may not call this method.",
            metadata={"role": principal.role.value, "allowed": ",".join(sorted(permission.roles))},
        )
    named_firm = metadata.get(FIRM_METADATA)
    firm_id = principal.firm_id if named_firm is None else resolve_firm(principal, _text(named_firm))
    if firm_id is None and not permission.firmless:
        raise DunwellError(Reason.FIRM_REQUIRED, "Name the firm in the dunwell-firm metadata.")
    named = metadata.get(ACTOR_METADATA)
    actor = principal.actor(None if named is None else _person(named))
    if permission.actor_required and actor.person is None:
        raise DunwellError(
            Reason.PERMISSION_DENIED, "Name the person who acts in dunwell-actor, with a key that may name actors."
        )
    return actor, firm_id


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _person(value: object) -> str:
    text = _text(value).strip()
    if not 0 < len(text) <= _MAX_ACTOR_CHARS or not text.isprintable():
        raise DunwellError(
            Reason.FIELD_INVALID, f"must be 1 to {_MAX_ACTOR_CHARS} printable characters", field=ACTOR_METADATA
        )
    return text
