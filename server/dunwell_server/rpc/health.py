"""Health per service and for the whole server (""): what a probe of the database said last, never a query per check."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer
from prometheus_client import Gauge

from dunwell_server.platform.logging import get_logger

log = get_logger(__name__)

# The library's type stubs are older than its code.
_pb2: Any = health_pb2
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
INTERVAL = 5.0
INTERVAL_DOWN = 1.0
PROBE_TIMEOUT = 3.0

Probe = Callable[[], Awaitable[None]]


class ListingHealthServicer(HealthServicer):
    """The library's servicer with the RPC that it leaves out."""

    _server_status: MutableMapping[str, Any]

    async def List(self, request: Any, context: Any) -> Any:
        """Every service and its state."""
        response = _pb2.HealthListResponse()
        for service, status in self._server_status.items():
            response.statuses[service].status = status
        return response


class HealthMonitor:
    """Keeps the health of all services: SERVING while the probe succeeds and the server is not stopping."""

    def __init__(self, services: Sequence[str], probe: Probe, gauge: Gauge, *, interval: float = INTERVAL) -> None:
        self.servicer = ListingHealthServicer()
        self._services = ("", *services)
        self._probe = probe
        self._gauge = gauge
        self._interval = interval
        self._serving: bool | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def serving(self) -> bool:
        """What checks are told now."""
        return bool(self._serving)

    async def start(self) -> None:
        """Probe once, then again and again."""
        await self._set(False)
        await self._once()
        self._task = asyncio.create_task(self._watch(), name="health")

    async def stop(self) -> None:
        """NOT_SERVING for good."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self.servicer.enter_graceful_shutdown()
        self._serving = False
        self._gauge.set(0)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._interval if self._serving else min(self._interval, INTERVAL_DOWN))
            await self._once()

    async def _once(self) -> None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                await self._probe()
        except Exception as error:
            if self._serving is not False or self._task is None:
                log.warning("not serving: the probe failed", error=repr(error))
            await self._set(False)
        else:
            if self._serving is False and self._task is not None:
                log.info("serving again")
            await self._set(True)

    async def _set(self, serving: bool) -> None:
        if serving is self._serving:
            return
        self._serving = serving
        self._gauge.set(1 if serving else 0)
        for service in self._services:
            await self.servicer.set(service, SERVING if serving else NOT_SERVING)
