"""Watches an event loop for being held up: a callback that does not return delays every call on the loop."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from types import TracebackType

from prometheus_client import REGISTRY, CollectorRegistry, Gauge, Histogram

from dunwell_server.platform.logging import get_logger
from dunwell_server.platform.metrics import LAG_BUCKETS

log = get_logger(__name__)

INTERVAL = 0.1
WARN_SECONDS = 0.1


class LoopMonitor:
    """Sleeps a tenth of a second again and again and measures how much later than that it wakes."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._lag = Histogram(
            "dunwell_loop_lag_seconds", "Delay of a timer on the loop", buckets=LAG_BUCKETS, registry=registry
        )
        self._worst = Gauge("dunwell_loop_lag_worst_seconds", "Worst delay since the last minute", registry=registry)
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> LoopMonitor:
        self._task = asyncio.create_task(self._watch(), name="loop-monitor")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _watch(self) -> None:
        worst, since = 0.0, time.monotonic()
        while True:
            before = time.monotonic()
            await asyncio.sleep(INTERVAL)
            now = time.monotonic()
            lag = max(0.0, now - before - INTERVAL)
            self._lag.observe(lag)
            if lag > WARN_SECONDS:
                log.warning("event loop held up", lag_ms=round(lag * 1000, 1))
            if now - since >= 60:
                worst, since = 0.0, now
            worst = max(worst, lag)
            self._worst.set(worst)
