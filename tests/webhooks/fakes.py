"""A real RPC server whose ProviderEventService does what a test says, and a real sidecar before it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import CollectorRegistry

from dunwell.v1 import provider_event_service_pb2 as pb
from dunwell.v1.provider_event_service_pb2_grpc import (
    ProviderEventServiceServicer,
    add_ProviderEventServiceServicer_to_server,
)
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.platform.context import CallContext, Role
from dunwell_server.rpc.auth import ApiKeys, Authenticator
from dunwell_server.rpc.current import current_call
from dunwell_server.rpc.server import RpcServer
from dunwell_server.sidecar_config import SidecarSettings
from dunwell_server.webhooks.server import Sidecar
from tests.rpc.floor.fakes import PEPPER, KeyRing, healthy, settings

SERVICE = "dunwell.v1.ProviderEventService"
MAX_MESSAGE_BYTES = 512 * 1024
Behaviour = Callable[[pb.IngestProviderEventRequest], Awaitable[pb.IngestProviderEventResponse]]


class Events(ProviderEventServiceServicer):
    """Takes every event in, unless told otherwise, and keeps what came."""

    def __init__(self) -> None:
        self.behaviour: Behaviour | None = None
        self.requests: list[pb.IngestProviderEventRequest] = []
        self.calls: list[CallContext] = []

    async def IngestProviderEvent(self, request: pb.IngestProviderEventRequest, context: Any) -> Any:
        self.requests.append(request)
        self.calls.append(current_call())
        if self.behaviour is not None:
            return await self.behaviour(request)
        return pb.IngestProviderEventResponse(provider_event_id=encode(Prefix.PROVIDER_EVENT, uuid7()))

    async def _nothing(self, request: Any, context: Any) -> Any:
        raise AssertionError("the sidecar calls nothing else")

    ListProviderEvents = GetProviderEvent = ReplayProviderEvent = DiscardProviderEvent = _nothing


@dataclass
class RunningServer:
    """An RPC server that runs, its keys, and what its service saw."""

    server: RpcServer
    keys: KeyRing
    events: Events

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server.port}"

    def key(self, role: Role = Role.SIDECAR) -> str:
        """The text of a new key."""
        return self.keys.add(role, None).text


@asynccontextmanager
async def rpc_server(tmp: Path, *, probe: Any = healthy, **changes: Any) -> AsyncIterator[RunningServer]:
    """The server of the house with all of its interceptors, on a free port."""
    keys, events = KeyRing(), Events()
    authenticator = Authenticator(ApiKeys(keys, (PEPPER,), cache_seconds=0.05))
    server = RpcServer(settings(tmp, **changes), authenticator, probe, services={SERVICE}, health_interval=0.05)
    server.add(
        add_ProviderEventServiceServicer_to_server,
        events,
        {"ProviderEventService.IngestProviderEvent": MAX_MESSAGE_BYTES},
    )
    await server.start()
    try:
        yield RunningServer(server, keys, events)
    finally:
        await server.stop()


def sidecar_settings(server: str, key: str, **changes: Any) -> SidecarSettings:
    """Settings that read nothing of the environment that matters here."""
    values: dict[str, Any] = {
        "sidecar_port": 0, "sidecar_server": server, "sidecar_key": key, "sidecar_metrics_port": 0,
        "drain_delay": 0.0, "shutdown_grace": 3.0, "sidecar_deadline": 3.0, **changes,
    }  # fmt: skip
    return SidecarSettings(_env_file=None, **values)


@dataclass
class RunningSidecar:
    """A sidecar that runs, with a client for it."""

    sidecar: Sidecar
    client: httpx.AsyncClient
    registry: CollectorRegistry

    async def post(self, path: str = "/webhooks/stripe", body: bytes = b"{}", **headers: str) -> httpx.Response:
        """POST bytes; header names with `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.client.post(path, content=body, headers=named)

    def count(self, provider: str, status: int) -> float:
        """How many webhooks of the provider were answered so."""
        labels = {"provider": provider, "status": str(status)}
        return self.registry.get_sample_value("dunwell_webhooks_total", labels) or 0.0


@asynccontextmanager
async def running_sidecar(given: SidecarSettings, **client: Any) -> AsyncIterator[RunningSidecar]:
    """A sidecar on a free port, in this process."""
    registry = CollectorRegistry()
    sidecar = Sidecar(given, registry=registry)
    await sidecar.start()
    scheme = "https" if given.sidecar_uses_tls else "http"
    try:
        async with httpx.AsyncClient(
            base_url=f"{scheme}://localhost:{sidecar.port}", trust_env=False, timeout=20, **client
        ) as http:
            yield RunningSidecar(sidecar, http, registry)
    finally:
        await sidecar.stop()


@dataclass
class Pair:
    """Both, joined."""

    server: RunningServer
    sidecar: RunningSidecar

    @property
    def events(self) -> Events:
        return self.server.events


@asynccontextmanager
async def pair(tmp: Path, *, probe: Any = healthy, **changes: Any) -> AsyncIterator[Pair]:
    """A server and a sidecar that has a SIDECAR key for it; `changes` are the sidecar's settings."""
    async with (
        rpc_server(tmp, probe=probe) as server,
        running_sidecar(sidecar_settings(server.address, server.key(), **changes)) as sidecar,
    ):
        yield Pair(server, sidecar)
