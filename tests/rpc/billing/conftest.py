"""BillingService served for real: the builder with its interceptors, a channel, PostgreSQL, a job worker for runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest

from dunwell.v1 import billing_service_pb2_grpc, run_pb2
from dunwell_server.billing.jobs import PackageRunExecutor
from dunwell_server.billing.ports import CollectionPlanner, PaymentOptions, TaxCalculator
from dunwell_server.billing.rpc import BillingServicer
from dunwell_server.billing.rpc.parts import BillingParts
from dunwell_server.billing.service.tax_rates import TableTaxCalculator
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.payments.planning import Planner
from dunwell_server.payments.service.documents import DocumentPayments
from dunwell_server.platform.context import CallContext, Role, system_context
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.domain_events import Bus
from dunwell_server.platform.runs import RunKind
from dunwell_server.rpc.auth import ApiKeys, Authenticator
from dunwell_server.rpc.calls import Calls
from dunwell_server.rpc.converters import Pager
from dunwell_server.rpc.server import RpcServer
from dunwell_server.scheduler.runs import RunHandler
from tests import support
from tests.rpc.floor.fakes import PEPPER, Failure, KeyRing, failure, healthy, settings

SERVICE = "dunwell.v1.BillingService"
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


class FakeAllFirms:
    """Runs over all firms are another suite's subject: this one only takes the call."""

    def __init__(self) -> None:
        self.started: list[tuple[RunKind, dict[str, Any], bool]] = []

    async def start(self, uow: UnitOfWork, kind: RunKind, params: dict[str, Any], *, dry_run: bool) -> UUID:
        self.started.append((kind, params, dry_run))
        return uuid7()

    async def tail(self, context: CallContext, run_id: UUID) -> AsyncIterator[run_pb2.RunProgress]:
        yield run_pb2.RunProgress(run=run_pb2.Run(id=encode(Prefix.RUN, run_id)), last=True)


@dataclass
class Served:
    """The service for one firm at `NOON` in UTC and USD, and how to call it."""

    stub: Any
    keys: KeyRing
    db: Database
    firm: CallContext
    all_firms: FakeAllFirms

    def metadata(self, role: Role, firm: UUID | None, **extra: str) -> tuple[tuple[str, str], ...]:
        """The credentials of a new key of the role."""
        bound = None if role in (Role.ADMIN, Role.SIDECAR) else firm or self.firm.firm_id
        key = self.keys.add(role, bound)
        more = tuple((name.replace("_", "-"), text) for name, text in extra.items())
        return (("authorization", f"Bearer {key.text}"), *more)

    def start(
        self, rpc: str, request: Any, role: Role = Role.FIRM_ADMIN, *, firm: UUID | None = None, timeout: float = 60,
        **extra: str,
    ) -> Any:  # fmt: skip
        """A call in progress; a mutating request gets a request id where it has none."""
        if hasattr(request, "request_id") and not request.request_id:
            request.request_id = str(uuid4())
        return getattr(self.stub, rpc)(request, metadata=self.metadata(role, firm, **extra), timeout=timeout)

    async def call(self, rpc: str, request: Any, role: Role = Role.FIRM_ADMIN, **options: Any) -> Any:
        """The reply of a unary call."""
        return await self.start(rpc, request, role, **options)

    async def refused(self, rpc: str, request: Any, role: Role = Role.FIRM_ADMIN, **options: Any) -> Failure:
        """The failure of a call that must fail."""
        return await failure(self.start(rpc, request, role, **options))


@pytest.fixture(scope="module")
async def db(database_urls: support.DatabaseUrls) -> AsyncIterator[Database]:
    """The module's database, with billing's port filled."""
    bus = Bus()
    bus.provide(CollectionPlanner, Planner())  # type: ignore[type-abstract]
    bus.provide(PaymentOptions, DocumentPayments())  # type: ignore[type-abstract]
    bus.provide(TaxCalculator, TableTaxCalculator())  # type: ignore[type-abstract]
    database = await Database.open(database_urls.application, bus=bus, max_size=12)
    yield database
    await database.close()


@pytest.fixture
async def served(db: Database, tmp_path: Path) -> AsyncIterator[Served]:
    """The service, with a job worker that executes the firm's runs."""
    firm = await support.add_firm(db, clock=NOON)
    assert firm.firm_id is not None
    keys, all_firms = KeyRing(), FakeAllFirms()
    server = RpcServer(
        settings(tmp_path), Authenticator(ApiKeys(keys, (PEPPER,))), healthy, services={SERVICE}, health_interval=0.1
    )
    parts = BillingParts(Calls(db, server.background), all_firms, Pager(b"k" * 32))
    servicer = BillingServicer(parts)
    server.add(billing_service_pb2_grpc.add_BillingServiceServicer_to_server, servicer)
    await server.start()
    worker = asyncio.create_task(_execute_runs(db, firm.firm_id))
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub = billing_service_pb2_grpc.BillingServiceStub(channel)
            yield Served(stub, keys, db, firm, all_firms)
    finally:
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker
        await server.stop()


async def _execute_runs(db: Database, firm_id: UUID) -> None:
    handler = RunHandler([PackageRunExecutor()])
    while True:
        await handler.work(db, system_context(firm_id, "job:run"))
        await asyncio.sleep(0.05)
