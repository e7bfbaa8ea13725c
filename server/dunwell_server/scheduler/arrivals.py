"""What is outside the book while a firm's clock advances: the clocks that move with it, and what providers have still to tell.

An event belongs to the instant at which it was made, and webhooks travel in machine time while a test clock leaps over months. So,
before the clock moves on, what has happened at the provider is told, and what has been told is applied.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from datetime import datetime
from typing import Final, Protocol
from uuid import UUID

import structlog

from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.outside_clocks import NOTHING, FollowedClock, Standing

PATIENCE: Final = 5.0
"""Seconds that the clock waits for webhooks to arrive. What does not arrive (the sidecar is down, the gateway loses it) must not stop it."""
_log = structlog.get_logger(__name__)


class Inbox(Protocol):
    """Where what providers tell arrives, and what applies it."""

    def waiting(self, uow: UnitOfWork) -> Awaitable[bool]:
        """Whether something has arrived that is not applied yet."""
        ...

    async def drain(self, database: Database, context: CallContext) -> bool:
        """Apply what has arrived. False: something is left that somebody else has in hand for too long."""
        ...


class Outside:
    """The clocks that move with one firm's, as they stood when they were last asked.

    They are asked again only after something was done that may have changed them (`touch`). Once a telling could not be waited for,
    the rest of the advance does not wait again.
    """

    def __init__(self, firm_id: UUID, clocks: Sequence[FollowedClock], *, patience: float) -> None:
        """`patience`: seconds to wait at one instant until all is told; 0: not at all."""
        self._firm_id = firm_id
        self._clocks = clocks
        self._patience = patience
        self._standings: Sequence[Standing] = [NOTHING] * len(clocks)
        self._is_fresh = False

    @property
    def next_due(self) -> datetime | None:
        """When something next happens at one of them by itself, as far as known."""
        return min((each.next_due for each in self._standings if each.next_due is not None), default=None)

    async def move_to(self, now: datetime) -> None:
        """Set all of them to `now`; what falls due there happens."""
        self._standings = [await clock.move_to(now, wait=self._patience > 0) for clock in self._clocks]
        self._is_fresh = True

    def touch(self) -> None:
        """Work was done that may have made something happen there."""
        self._is_fresh = False

    async def settle(self) -> None:
        """Know how they stand, and wait, for a bounded time, until they have told everything."""
        if not self._is_fresh:
            await self._look()
        until = time.monotonic() + self._patience
        while self._patience and not all(each.told for each in self._standings):
            if time.monotonic() >= until:
                _log.warning("webhooks_not_told", firm_id=str(self._firm_id))
                self._patience = 0.0
                return
            await self._look()

    async def _look(self) -> None:
        self._standings = [await clock.look(wait=self._patience > 0) for clock in self._clocks]
        self._is_fresh = True
