"""A rate that all processes share, as a token bucket in one row of `control.rate_bucket`.

Places are reserved ahead, a few at a time, so that a thousand calls a second cost a handful of statements: a process is told in how many
seconds each of its places is. The bucket goes below zero by what is reserved; whoever reserves next is told later places. A place that is
not used is lost, never saved up. Machine time throughout.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform.context import system_context
from dunwell_server.platform.database import Database
from dunwell_server.platform.logging import get_logger

log = get_logger(__name__)

AHEAD_SECONDS: Final = 0.1
"""What a process reserves at once: its places of so much time at the full rate, and no more than it has callers."""
BURST_SECONDS: Final = 0.1
"""A bucket that has rested lets so much time's worth of calls through at once."""
_PATIENCE: Final = 20.0
"""Seconds for which a database that is away is waited for."""

# One statement is the whole transaction. Losing the last places in a crash harms nobody: the commit does not wait for the disk.
_LAZY = "WITH lazy AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true) AS is_set)"
_RESERVE = f"""
{_LAZY}
INSERT INTO control.rate_bucket AS b (key, tokens, update_time)
SELECT %(key)s, %(burst)s::float8 - %(places)s, clock_timestamp() FROM lazy WHERE is_set = 'off'
ON CONFLICT (key) DO UPDATE SET
    tokens = least(%(burst)s::float8, b.tokens + %(rate)s::float8 * extract(epoch FROM clock_timestamp() - b.update_time)) - %(places)s,
    update_time = clock_timestamp()
RETURNING tokens
"""
_PAUSE = f"""
{_LAZY}
INSERT INTO control.rate_bucket AS b (key, tokens, update_time)
SELECT %(key)s, %(debt)s, clock_timestamp() FROM lazy WHERE is_set = 'off'
ON CONFLICT (key) DO UPDATE SET
    tokens = least(%(debt)s::float8, b.tokens + %(rate)s::float8 * extract(epoch FROM clock_timestamp() - b.update_time)),
    update_time = clock_timestamp()
RETURNING tokens
"""


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit by name: at most `rate` per second in the long run, `burst` at once after a rest."""

    key: str
    rate: float

    @property
    def burst(self) -> float:
        """Places that may be taken at once; one at least."""
        return max(1.0, self.rate * BURST_SECONDS)

    @property
    def ahead(self) -> int:
        """The most places that one process reserves at once."""
        return max(1, int(self.rate * AHEAD_SECONDS))


class LimitUnavailable(DunwellError):
    """No place could be had because the database is away: nothing was sent."""

    def __init__(self) -> None:
        super().__init__(Reason.DATABASE_UNAVAILABLE, "No place under the rate limit could be had.", retry_after=1.0)


Reserve = Callable[[Limit, int], Awaitable[float]]
Pause = Callable[[Limit, float], Awaitable[None]]


class RateLimits:
    """The shared buckets, as one process uses them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def reserve(self, limit: Limit, places: int) -> float:
        """Take `places` off the bucket; returns what is left, negative where the last of them is in the future."""
        values = {"key": limit.key, "rate": limit.rate, "burst": limit.burst, "places": places}
        [row] = await self._database.submit(system_context(None, "rate-limit"), _RESERVE, values)
        return float(row["tokens"])

    async def pause(self, limit: Limit, seconds: float) -> None:
        """Have nobody start for `seconds`."""
        values = {"key": limit.key, "rate": limit.rate, "debt": 1.0 - limit.rate * seconds}
        await self._database.submit(system_context(None, "rate-limit"), _PAUSE, values)


class Turns:
    """One process's turns under one limit. Callers wait; they are served in the order in which they came."""

    def __init__(
        self, limit: Limit, reserve: Reserve, pause: Pause, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.limit = limit
        self._reserve = reserve
        self._pause = pause
        self._clock = clock
        self._waiting = 0
        self._places: deque[float] = deque()
        """Reserved instants, without the pauses since the start of this process."""
        self._refill = asyncio.Lock()
        self._paused = 0.0
        """Seconds of all pauses so far."""
        self._paused_until = 0.0

    async def wait(self) -> None:
        """Return when it is this caller's turn. Raises LimitUnavailable where the database stays away."""
        self._waiting += 1
        try:
            start = await self._place()
        finally:
            self._waiting -= 1
        while (rest := start + self._paused - self._clock()) > 0:  # noqa: ASYNC110 - it may have been put off meanwhile
            await asyncio.sleep(rest)

    async def _place(self) -> float:
        async with self._refill:
            if not self._places:
                await self._fill(min(self.limit.ahead, self._waiting))
            return self._places.popleft()

    async def _fill(self, places: int) -> None:
        until, wait = self._clock() + _PATIENCE, 0.05
        while True:
            try:
                left = await self._reserve(self.limit, places)
                break
            except DunwellError as error:
                if self._clock() > until:
                    raise LimitUnavailable from error
                log.warning("rate_limit_waits", reason=error.reason.value)
            await asyncio.sleep(wait)
            wait = min(wait * 2, 1.0)
        # Counted from when the answer is here, never from when it was asked for: late rather than early.
        now, rate = self._clock() - self._paused, self.limit.rate
        self._places.extend(now + max(0.0, -(left + places - 1 - place)) / rate for place in range(places))

    async def pause(self, seconds: float) -> None:
        """The other side says that it is too much: nobody starts for `seconds`, here or in another process."""
        now = self._clock()
        more = now + seconds - max(now, self._paused_until)
        if more <= 0:
            return  # Several calls that were under way have been refused together.
        self._paused_until = now + seconds
        self._paused += more
        try:
            await self._pause(self.limit, seconds)
        except DunwellError as error:
            log.warning("rate_limit_not_paused", reason=error.reason.value)
