"""Who is calling, for which firm, and until when.

One `CallContext` travels from the interceptor (or the job worker) to the unit of work, the audit trail and the logs. It is immutable; the
firm comes from the credential, never from a request field.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from enum import StrEnum
from uuid import UUID


class Role(StrEnum):
    """What a credential may do. `permission` in the protos names the roles that each RPC admits."""

    ADMIN = "ADMIN"
    FIRM_ADMIN = "FIRM_ADMIN"
    OPERATOR = "OPERATOR"
    SERVICE = "SERVICE"
    READER = "READER"
    SIDECAR = "SIDECAR"
    SYSTEM = "SYSTEM"
    """Our own job workers. No credential carries it."""


@dataclass(frozen=True, slots=True)
class Actor:
    """The authenticated principal behind a change, as the audit trail names it.

    `id` is the API key's id, the JWT subject, or the job's name; `person` is the human that a key scoped for it names in `dunwell-actor`.
    """

    id: str
    role: Role
    auth_method: str = "system"
    person: str | None = None

    @property
    def label(self) -> str:
        """The name recorded in the audit trail: the person when one is named, else the credential."""
        return self.person or self.id


@dataclass(frozen=True, slots=True)
class CallContext:
    """One call's identity. `firm_id` is None for firmless calls only; `deadline` is on `time.monotonic()`'s scale."""

    firm_id: UUID | None
    actor: Actor
    method: str
    request_id: UUID | None = None
    deadline: float | None = None
    holds_clock: bool = False
    """True only for the worker that advances this firm's test clock: its own changes pass while others get CLOCK_ADVANCING."""
    upkeep: bool = False
    """True only for what must go on while the clock advances and while the firm is suspended: sealing the audit trail, and recording what a
    provider has answered. Money that has moved is recorded, whatever else is going on."""

    def remaining(self, default: float) -> float:
        """Seconds left until the deadline, or `default` where there is none; never negative."""
        return default if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def for_firm(self, firm_id: UUID) -> CallContext:
        """The same call, bound to one firm: an all-firm run's child, or a firm that the call has just created."""
        return replace(self, firm_id=firm_id)

    def unbound(self) -> CallContext:
        """The same call outside of every firm: for what schema `control` holds."""
        return replace(self, firm_id=None)


def system_context(firm_id: UUID | None, job: str, *, holds_clock: bool = False, upkeep: bool = False) -> CallContext:
    """The context of our own background work, e.g. `system_context(firm, "job:collect")`."""
    return CallContext(
        firm_id=firm_id, actor=Actor(id=job, role=Role.SYSTEM), method=job, holds_clock=holds_clock, upkeep=upkeep
    )
