"""Everything between a provider's HTTP request and the books: a real sidecar, an RPC server with its interceptors, two job workers' inboxes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from dunwell.v1 import provider_event_service_pb2_grpc
from dunwell_server.inbox import metrics
from dunwell_server.inbox.jobs.applying import InboxHandler
from dunwell_server.inbox.ports import EventApplier
from dunwell_server.inbox.rpc.servicer import LIMITS, ProviderEventServicer
from dunwell_server.inbox.service.accounts import Endpoints
from dunwell_server.inbox.service.applying import Appliers, Applying
from dunwell_server.inbox.service.ingest import Ingestor
from dunwell_server.platform.context import Role, system_context
from dunwell_server.platform.crypto import Vault
from dunwell_server.platform.database import Database
from dunwell_server.providers.registry import ProviderRegistry
from dunwell_server.rpc.auth import ApiKeys, Authenticator
from dunwell_server.rpc.calls import Calls
from dunwell_server.rpc.converters import Pager
from dunwell_server.rpc.server import RpcServer
from tests.rpc.floor.fakes import PEPPER, KeyRing, healthy, settings
from tests.webhooks.fakes import SERVICE, RunningSidecar, running_sidecar, sidecar_settings

_WORKERS = 2


@dataclass
class House:
    """The parts that take webhooks in and apply them, as bootstrap joins them."""

    db: Database
    sidecar: RunningSidecar
    handlers: list[InboxHandler]

    async def work(self, *firms: UUID) -> None:
        """A turn of every job worker on every firm, all at once."""
        await asyncio.gather(*(
            handler.work(self.db, system_context(firm, "job:inbox")) for handler in self.handlers for firm in firms
        ))  # fmt: skip

    @asynccontextmanager
    async def working(self, *firms: UUID) -> AsyncIterator[None]:
        """Job workers beside whatever else happens."""
        ended = asyncio.Event()

        async def run() -> None:
            while not ended.is_set():
                await self.work(*firms)
                await asyncio.sleep(0.02)

        task = asyncio.create_task(run())
        try:
            yield
        finally:
            ended.set()
            await task


def refused() -> float:
    """How many webhooks this process has counted as refused."""
    samples = [sample for metric in metrics.refused.collect() for sample in metric.samples]
    return sum(sample.value for sample in samples if sample.name.endswith("_total"))


@asynccontextmanager
async def open_house(
    db: Database, registry: ProviderRegistry, vault: Vault, appliers: Sequence[EventApplier], folder: Path
) -> AsyncIterator[House]:
    """All of it, on free ports, in this process."""
    endpoints, keys = Endpoints(registry, vault), KeyRing()
    server = RpcServer(
        settings(folder, rate_per_caller=100_000.0, rate_burst=100_000.0), Authenticator(ApiKeys(keys, (PEPPER,))), healthy,
        services={SERVICE}, health_interval=0.1,
    )  # fmt: skip
    servicer = ProviderEventServicer(
        Calls(db, server.background), Ingestor(db, endpoints, vault), vault, Pager(b"k" * 32)
    )
    server.add(provider_event_service_pb2_grpc.add_ProviderEventServiceServicer_to_server, servicer, LIMITS)
    await server.start()
    handlers = [InboxHandler(Applying(endpoints, Appliers(appliers))) for _ in range(_WORKERS)]
    try:
        key = keys.add(Role.SIDECAR, None).text
        async with running_sidecar(sidecar_settings(f"127.0.0.1:{server.port}", key)) as sidecar:
            yield House(db, sidecar, handlers)
    finally:
        await server.stop()
