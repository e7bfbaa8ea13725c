"""The time a call may take: the caller's deadline less a little, or ours where there is none."""

from __future__ import annotations

import time
from dataclasses import dataclass

from dunwell_server.kernel.errors import DunwellError, Reason

MINIMUM = 0.020
"""Seconds: below it the answer could not arrive in time, and the work would be for nobody."""
SHAVE = 0.010
"""Seconds kept back, so that our own precise error reaches the caller before gRPC's bare one."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """When work has to stop, on `time.monotonic()`'s scale; `ours` where gRPC will not stop it at that time."""

    at: float | None
    ours: bool


@dataclass(frozen=True, slots=True)
class DeadlinePolicy:
    """Seconds: the default for unary calls without a deadline, and the most a unary call may have."""

    default: float = 30.0
    maximum: float = 300.0

    def unary(self, remaining: float | None) -> Deadline:
        """Of a unary call with `remaining` seconds left (None: no deadline). DEADLINE_TOO_SHORT."""
        if remaining is None:
            return Deadline(time.monotonic() + self.default, True)
        _refuse_short(remaining)
        if remaining > self.maximum:
            return Deadline(time.monotonic() + self.maximum, True)
        return Deadline(time.monotonic() + remaining - SHAVE, False)

    def stream(self, remaining: float | None) -> Deadline:
        """Of a stream: without one, its statements have their own limits and its age has another."""
        if remaining is None:
            return Deadline(None, False)
        _refuse_short(remaining)
        return Deadline(time.monotonic() + remaining - SHAVE, False)


def _refuse_short(remaining: float) -> None:
    if remaining < MINIMUM:
        raise DunwellError(
            Reason.DEADLINE_TOO_SHORT,
            "Too little of the deadline is left to begin.",
            metadata={"minimum_ms": str(round(MINIMUM * 1000))},
        )
