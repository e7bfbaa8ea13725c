"""What providers have still to tell, for whoever advances a firm's clock: an event belongs to the instant at which it was made.

Webhooks travel in machine time while a test clock leaps over months. So, before the clock moves on, what has happened at the
provider is told, and what has been told is applied.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import structlog

from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database

PATIENCE: Final = 5.0
"""Seconds that the clock waits for webhooks to arrive. What does not arrive (the sidecar is down, the gateway loses it) must not stop it."""
_log = structlog.get_logger(__name__)

Asked = Callable[[Database, CallContext], Awaitable[bool]]


class Arrivals(Protocol):
    """What is on its way to a firm."""

    async def settle(self, database: Database, context: CallContext, *, wait: bool) -> bool:
        """Bring in what has been told. `wait`: and wait, for a bounded time, until everything has been told; False: something is missing."""
        ...


class ProviderArrivals:
    """Webhooks of providers that follow the firm's clock, and the inbox that applies them."""

    def __init__(self, told: Asked, drain: Asked, *, patience: float = PATIENCE) -> None:
        """`told`: whether the firm's accounts have told all that happened there. `drain`: apply what has arrived."""
        self._told = told
        self._drain = drain
        self._patience = patience

    async def settle(self, database: Database, context: CallContext, *, wait: bool) -> bool:
        """Bring in what has been told; see `Arrivals`."""
        complete = not wait or await self._wait(database, context)
        # Left in the inbox is only what somebody else has in hand for too long, or what waits for something to happen first.
        await self._drain(database, context)
        return complete

    async def _wait(self, database: Database, context: CallContext) -> bool:
        until = time.monotonic() + self._patience
        while not await self._told(database, context):
            if time.monotonic() >= until:
                _log.warning("webhooks_not_told", firm_id=str(context.firm_id))
                return False
        return True
