"""Clocks beside ours that move with a firm's test clock: what whoever advances it asks of them. The sandbox gateway's is one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database


@dataclass(frozen=True, slots=True)
class Standing:
    """How a clock stands."""

    next_due: datetime | None
    """When something next happens there by itself; None for never."""
    told: bool
    """Whether all that has happened there has been told: every webhook sent and answered."""


NOTHING = Standing(None, True)
"""Where nothing happens."""


class FollowedClock(Protocol):
    """The clock of one firm, followed for one advance. Both calls may `wait` about a second until everything is told."""

    async def move_to(self, now: datetime, *, wait: bool) -> Standing:
        """Set it to `now`; what falls due there happens. Setting it to where it stands does nothing."""
        ...

    async def look(self, *, wait: bool) -> Standing:
        """How it stands now."""
        ...


class OutsideClock(Protocol):
    """A clock that keeps a time for each firm."""

    async def follow(self, database: Database, context: CallContext) -> FollowedClock:
        """The firm's, as it is kept now: nobody configures a firm while its clock is advancing."""
        ...
