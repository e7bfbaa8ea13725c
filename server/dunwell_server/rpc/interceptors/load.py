"""Refuses work early: a token bucket per credential, a cap on calls in progress, streams counted apart."""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable

from dunwell_server.kernel.errors import DunwellError, Reason

_MAX_BUCKETS = 10_000


class RateLimit:
    """A token bucket per credential, local to the process; unused ones are forgotten."""

    def __init__(self, rate: float, burst: float, *, now: Callable[[], float] = time.monotonic) -> None:
        """`rate` calls a second over time, `burst` at once."""
        self._rate = rate
        self._burst = burst
        self._now = now
        self._buckets: OrderedDict[str, list[float]] = OrderedDict()

    def take(self, credential: str) -> None:
        """One call of a credential; RATE_LIMITED with the time until the next is allowed."""
        now = self._now()
        bucket = self._buckets.get(credential)
        if bucket is None:
            bucket = self._buckets[credential] = [self._burst, now]
            if len(self._buckets) > _MAX_BUCKETS:
                self._buckets.popitem(last=False)
        tokens = min(self._burst, bucket[0] + (now - bucket[1]) * self._rate)
        bucket[1] = now
        if tokens < 1.0:
            bucket[0] = tokens
            raise DunwellError(
                Reason.RATE_LIMITED,
                "The credential has made too many calls.",
                metadata={"limit": f"{self._rate:g} calls per second"},
                retry_after=max((1.0 - tokens) / self._rate, 0.001),
            )
        bucket[0] = tokens - 1.0


class UnaryLoad:
    """The number of unary calls in progress."""

    __slots__ = ("_limit", "count")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.count = 0

    def enter(self) -> None:
        """OVERLOADED where there are too many. Each success is paired with `leave`."""
        if self.count >= self._limit:
            raise DunwellError(Reason.OVERLOADED, "Too many calls are in progress.")
        self.count += 1

    def leave(self) -> None:
        """A call ended."""
        self.count -= 1


class StreamLoad:
    """The number of open streams, in all and per credential."""

    def __init__(self, limit: int, per_caller: int) -> None:
        self._limit = limit
        self._per_caller = per_caller
        self._callers: defaultdict[str, int] = defaultdict(int)
        self.count = 0

    def enter(self, credential: str) -> None:
        """OVERLOADED where the server has too many; RATE_LIMITED where the credential has."""
        if self.count >= self._limit:
            raise DunwellError(Reason.OVERLOADED, "Too many streams are open.", retry_after=5.0)
        if self._callers[credential] >= self._per_caller:
            raise DunwellError(
                Reason.RATE_LIMITED,
                "The credential has too many streams open.",
                metadata={"limit": f"{self._per_caller} open streams"},
                retry_after=5.0,
            )
        self._callers[credential] += 1
        self.count += 1

    def leave(self, credential: str) -> None:
        """A stream ended."""
        self.count -= 1
        self._callers[credential] -= 1
        if not self._callers[credential]:
            del self._callers[credential]
