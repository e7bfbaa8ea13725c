"""What waits for a second person, as whoever presents it sees it. The contexts that own what is proposed fill the desk."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from dunwell_server.platform.database import UnitOfWork


def same_person(one: str, other: str) -> bool:
    """Whether two names are one person's: however they are written, with whatever spaces. A second person has another name."""
    return _plain(one) == _plain(other)


def _plain(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().split())


class ApprovalKind(StrEnum):
    """What is to be approved."""

    RESOLVE_ATTEMPT = "RESOLVE_ATTEMPT"
    REFUND = "REFUND"


class ApprovalState(StrEnum):
    """How an approval stands."""

    PENDING = "PENDING"
    APPROVED = "APPROVED"
    REJECTED = "REJECTED"


@dataclass(frozen=True, slots=True)
class PendingApproval:
    """Something that one person has proposed and another decides, or has decided. Times are machine time.

    `subject_id` is an attempt's (RESOLVE_ATTEMPT) or a refund's (REFUND). `summary` is for people.
    """

    id: UUID
    kind: ApprovalKind
    state: ApprovalState
    subject_id: UUID
    payment_id: UUID
    amount_minor: int
    currency_code: str
    summary: str
    proposer: str
    decider: str | None
    note: str | None
    create_time: datetime
    decide_time: datetime | None


class ApprovalDesk(Protocol):
    """Lists and decides. Filled by bootstrap; `uow` is the firm's."""

    async def list_pending(
        self, uow: UnitOfWork, *, kinds: Sequence[ApprovalKind], after: tuple[datetime, UUID] | None, limit: int
    ) -> list[PendingApproval]:
        """What waits, oldest first; no kinds: all. `after` are `create_time` and `id` of the last one of the page before."""
        ...

    async def decide(self, uow: UnitOfWork, approval_id: UUID, *, approve: bool, note: str = "") -> PendingApproval:
        """Do or drop what was proposed, and return the approval as it is then.

        Errors: PERMISSION_DENIED without a named person, RESOURCE_NOT_FOUND, STATE_CONFLICT when it is decided already or cannot be done
        any more, APPROVAL_REQUIRED when the proposer tries to approve it. Whoever proposed it may reject it.
        """
        ...
