"""Finds callbacks that hold an event loop for more than a given time."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class SlowCallbacks:
    """What `watch_callbacks` saw: the CPU seconds and description of each callback above the threshold."""

    threshold: float
    seen: list[tuple[float, str]] = field(default_factory=list)
    count: int = 0

    def assert_none(self) -> None:
        """AssertionError naming the slow callbacks, or that nothing was watched at all."""
        assert self.count > 0, "no callback ran while watching"
        assert not self.seen, f"callbacks above {self.threshold * 1000:.0f} ms: {self.seen}"


@contextmanager
def watch_callbacks(threshold: float = 0.010) -> Iterator[SlowCallbacks]:
    """Time every callback of asyncio loops in this process while the block runs.

    Measured in thread CPU time, so that a busy machine does not fail the test; a callback that blocks without using
    the CPU is found by its wall time, at ten times the threshold. What was alive before is frozen, as an RPC worker does
    before it serves: a collection that walks through a whole test session's objects says nothing about the server.
    """
    result = SlowCallbacks(threshold)
    original = asyncio.events.Handle._run

    def timed(handle: asyncio.events.Handle) -> Any:
        wall, cpu = time.perf_counter(), time.thread_time()
        try:
            return original(handle)
        finally:
            cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
            result.count += 1
            if cpu > threshold or wall > 10 * threshold:
                result.seen.append((max(cpu, wall if wall > 10 * threshold else 0.0), repr(handle)[:300]))

    gc.collect()
    gc.freeze()
    asyncio.events.Handle._run = timed  # type: ignore[method-assign, assignment]
    try:
        yield result
    finally:
        gc.unfreeze()
        asyncio.events.Handle._run = original  # type: ignore[method-assign]
