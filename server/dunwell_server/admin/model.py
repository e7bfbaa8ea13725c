"""Firms, keys and clocks as administration sees them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from dunwell_server.platform.context import Role
from dunwell_server.platform.firms import FirmSettings

UNBOUND_ROLES = frozenset({Role.ADMIN, Role.SIDECAR})
"""Roles of keys that are bound to no firm."""


@dataclass(frozen=True, slots=True)
class FirmRecord:
    """A firm's whole row. `version` is behind the etag; times are machine times."""

    id: UUID
    external_id: str | None
    display_name: str
    mode: str
    state: str
    settings: FirmSettings
    version: int
    create_time: datetime
    update_time: datetime
    test_clock_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class NewFirm:
    """What CreateFirm takes: everything that is the caller's to choose."""

    external_id: str | None
    display_name: str
    mode: str
    settings: FirmSettings


class ApiKeyState(StrEnum):
    """Whether a key opens anything."""

    ACTIVE = "ACTIVE"
    EXPIRED = "EXPIRED"
    REVOKED = "REVOKED"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret. `firm_id` is None for ADMIN and SIDECAR keys; times are machine times."""

    id: UUID
    firm_id: UUID | None
    role: Role
    display_name: str
    may_name_actor: bool
    create_actor: str
    create_time: datetime
    expire_time: datetime | None
    revoke_time: datetime | None

    def state_at(self, now: datetime) -> ApiKeyState:
        """Whether it is accepted at `now` (machine time)."""
        if self.revoke_time is not None:
            return ApiKeyState.REVOKED
        return ApiKeyState.EXPIRED if self.expire_time is not None and self.expire_time <= now else ApiKeyState.ACTIVE


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """What CreateApiKey takes."""

    display_name: str
    role: Role
    may_name_actor: bool
    expire_time: datetime | None


@dataclass(frozen=True, slots=True)
class Clock:
    """A firm's test clock. `now_time` is the firm's time; `run_id` the run of its latest advance."""

    firm_id: UUID
    id: UUID
    now_time: datetime
    target_time: datetime | None
    state: str
    run_id: UUID | None
    version: int
    create_time: datetime
    update_time: datetime

    @property
    def is_advancing(self) -> bool:
        """On its way: changes by others are refused."""
        return self.state == "ADVANCING"


@dataclass(frozen=True, slots=True)
class Account:
    """An active provider account, without its credentials. `firm_id` is None for the platform's own."""

    id: UUID
    firm_id: UUID | None
    provider: str
    mode: str


@dataclass(frozen=True, slots=True)
class ProviderStanding:
    """How a firm stands with a provider: the account it would use, if any."""

    name: str
    account: Account | None
    configured: bool
    is_default: bool
    breaker_open: bool = False


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which audit entries a list shows; what is empty or None does not filter. `since` and `until` are machine time, half-open."""

    categories: Sequence[str] = ()
    actions: Sequence[str] = ()
    severities: Sequence[str] = ()
    object_type: str | None = None
    object_id: UUID | None = None
    actor: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    oldest_first: bool = False


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """An audit entry with its place in the chain; `seq` is None while it waits for its seal."""

    id: UUID
    category: str
    action: str
    severity: str
    object_type: str
    object_id: UUID
    actor: str
    actor_role: str
    method: str
    request_id: UUID | None
    metadata: dict[str, Any]
    firm_time: datetime
    create_time: datetime
    seq: int | None
    hash: bytes | None
