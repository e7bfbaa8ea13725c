"""PaymentService served for real: the builder with its interceptors, a channel, PostgreSQL, the sandbox gateway."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest

from dunwell.v1 import autopay_pb2, client_pb2, invoice_pb2, payment_service_pb2_grpc, run_pb2
from dunwell_server.billing.model import Client, Invoice
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.payments.jobs import ReconciliationExecutor
from dunwell_server.payments.rpc import PaymentParts, PaymentServicer, Presenters
from dunwell_server.platform.context import CallContext, Role, system_context
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.runs import RunKind
from dunwell_server.rpc.auth import ApiKeys, Authenticator
from dunwell_server.rpc.calls import Calls
from dunwell_server.rpc.converters import Pager
from dunwell_server.rpc.server import RpcServer
from dunwell_server.scheduler.runs import RunHandler
from tests import support
from tests.integration.payments.world import Workers, World, new_bus
from tests.providers.gateway import GatewayProcess, start_gateway
from tests.rpc.floor.fakes import PEPPER, KeyRing, healthy, settings

SERVICE = "dunwell.v1.PaymentService"


async def present_client(uow: UnitOfWork, client: Client) -> client_pb2.Client:
    """What these tests look at of a client."""
    return client_pb2.Client(
        id=encode(Prefix.CLIENT, client.id), autopay=autopay_pb2.AutopaySettings(enabled=client.autopay_enabled)
    )


async def present_invoice(uow: UnitOfWork, invoice: Invoice) -> invoice_pb2.Invoice:
    """What these tests look at of an invoice."""
    return invoice_pb2.Invoice(
        id=encode(Prefix.INVOICE, invoice.id),
        state=invoice_pb2.InvoiceState.Value(f"INVOICE_STATE_{invoice.state.value}"),
    )


class OneFirm:
    """Runs over all firms are another suite's subject: this one only takes the call."""

    started: UUID | None = None

    async def start(self, uow: UnitOfWork, kind: RunKind, params: dict[str, Any], *, dry_run: bool) -> UUID:
        self.started = uuid7()
        return self.started

    async def tail(self, context: CallContext, run_id: UUID) -> AsyncIterator[run_pb2.RunProgress]:
        yield run_pb2.RunProgress(run=run_pb2.Run(id=encode(Prefix.RUN, run_id)), last=True)


@dataclass
class Served:
    """The service, the world behind it, and how to call it."""

    stub: Any
    keys: KeyRing
    world: World
    all_firms: OneFirm

    def metadata(
        self, role: Role = Role.FIRM_ADMIN, *, firm: UUID | None = None, **extra: str
    ) -> tuple[tuple[str, str], ...]:
        bound = None if role in (Role.ADMIN, Role.SIDECAR) else firm or self.world.firm_id
        key = self.keys.add(role, bound, may_name_actor=True)
        more = tuple((name.replace("_", "-"), text) for name, text in extra.items())
        return (("authorization", f"Bearer {key.text}"), *more)

    async def call(
        self, rpc: str, request: Any, role: Role = Role.FIRM_ADMIN, *, timeout: float = 60, **extra: Any
    ) -> Any:
        """One call; a mutating request gets a request id where it has none."""
        if hasattr(request, "request_id") and not request.request_id:
            request.request_id = str(uuid4())
        return await getattr(self.stub, rpc)(request, metadata=self.metadata(role, **extra), timeout=timeout)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = start_gateway(tmp_path_factory.mktemp("gateway"))
    yield process
    process.stop()


@pytest.fixture(scope="module")
async def db(database_urls: support.DatabaseUrls) -> AsyncIterator[Database]:
    database = await Database.open(database_urls.application, bus=new_bus(), max_size=12)
    yield database
    await database.close()


@pytest.fixture
async def served(db: Database, gateway: GatewayProcess, tmp_path: Path) -> AsyncIterator[Served]:
    """The service for one new firm, with a job worker that executes its runs."""
    workers = Workers.at(gateway.url)
    world = await World.create(db, gateway, workers, approval_limits={"USD": 10000})
    keys, all_firms = KeyRing(), OneFirm()
    server = RpcServer(
        settings(tmp_path), Authenticator(ApiKeys(keys, (PEPPER,))), healthy, services={SERVICE}, health_interval=0.1
    )
    calls = Calls(db, server.background)
    presenters = Presenters(present_client, present_invoice)
    servicer = PaymentServicer(
        PaymentParts(calls, workers.charger, workers.keeper, presenters, all_firms, Pager(b"k" * 32))
    )
    server.add(payment_service_pb2_grpc.add_PaymentServiceServicer_to_server, servicer)
    await server.start()
    worker = asyncio.create_task(execute_runs(world))
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield Served(payment_service_pb2_grpc.PaymentServiceStub(channel), keys, world, all_firms)
    finally:
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker
        await server.stop()
        await workers.provider.close()


async def execute_runs(world: World) -> None:
    """A job worker's share: the firm's open runs."""
    handler = RunHandler([world.workers.executor, ReconciliationExecutor(world.workers.charger)])
    while True:
        await handler.work(world.db, system_context(world.firm_id, "job:run"))
        await asyncio.sleep(0.05)
