"""What other contexts give to the inbox: appliers, which turn one notice of a provider's event into what it means for them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork


class AppliedState(StrEnum):
    """What became of a notice."""

    APPLIED = "APPLIED"
    """It was taken over, or found to change nothing any more."""
    IGNORED = "IGNORED"
    """Nothing of it concerns us."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The answer of an applier. `result` is a short sentence for people, such as "payment pay_… succeeded"."""

    result: str
    state: AppliedState = AppliedState.APPLIED

    @classmethod
    def ignored(cls, result: str) -> Applied:
        """Nothing of it concerns us, for this reason."""
        return cls(result, AppliedState.IGNORED)


class NotYet(Exception):
    """What the notice is about is not known yet. The event is tried again for 72 hours, then it waits for a person."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Unusable(Exception):
    """What the event tells can never be true, however often it is tried: it is put aside at once, for a person to see."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a notice came from: the account's row and its provider, and the event that brought it."""

    account_id: UUID
    provider: str
    event_id: UUID
    """Our id of the event."""
    event_type: str
    """The provider's name of what happened."""
    provider_time: datetime | None
    """When it happened, by the provider's clock."""


class EventApplier(Protocol):
    """Takes over notices of some types. Evidence is applied forward-only: any order, any number of times, same end."""

    @property
    def notices(self) -> tuple[type, ...]:
        """The notice types of `providers.events` that it takes; each type has one applier."""
        ...

    async def prepare(self, database: Database, context: CallContext, origin: Origin, notice: Any) -> Any:
        """What has to be asked of the provider first, such as a method's details; no transaction is open.

        May open short transactions of its own. What it returns is handed to `apply`. Most have nothing to ask: None.
        DunwellError (PROVIDER_UNAVAILABLE, …) or NotYet: the event is tried again later.
        """
        ...

    async def apply(self, uow: UnitOfWork, origin: Origin, notice: Any, prepared: Any) -> Applied:
        """Take the notice over, in the transaction that marks the event applied. NotYet: roll back and try again later. Unusable: quarantined."""
        ...


class QuietPreparation:
    """A base for appliers that have nothing to ask the provider."""

    async def prepare(self, database: Database, context: CallContext, origin: Origin, notice: Any) -> Any:
        """Nothing is asked."""
        return None
