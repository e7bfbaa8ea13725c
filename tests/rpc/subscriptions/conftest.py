"""SubscriptionService served for real beside BillingService: the builder with its interceptors, a channel, PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest

from dunwell.v1 import subscription_service_pb2_grpc
from dunwell_server.billing.ports import CollectionPlanner, TaxCalculator
from dunwell_server.billing.service.tax_rates import TableTaxCalculator
from dunwell_server.payments.planning import Planner
from dunwell_server.platform.context import CallContext, Role
from dunwell_server.platform.database import Database
from dunwell_server.platform.domain_events import Bus
from dunwell_server.rpc.auth import ApiKeys, Authenticator
from dunwell_server.rpc.calls import Calls
from dunwell_server.rpc.converters import Pager
from dunwell_server.rpc.server import RpcServer
from dunwell_server.subscriptions.rpc import SubscriptionParts, SubscriptionServicer
from tests import support
from tests.integration.billing.book import Book, Recorder
from tests.rpc.floor.fakes import PEPPER, Failure, KeyRing, failure, healthy, settings

SERVICE = "dunwell.v1.SubscriptionService"
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


@dataclass
class Served:
    """The service for one firm at `NOON` in UTC and USD, how to call it, and the firm's book."""

    stub: Any
    keys: KeyRing
    book: Book

    def call(self, rpc: str, request: Any, role: Role = Role.FIRM_ADMIN, *, firm: UUID | None = None) -> Any:
        """A call, to be awaited; a mutating request gets a request id where it has none."""
        if "request_id" in request.DESCRIPTOR.fields_by_name and not request.request_id:
            request.request_id = str(uuid4())
        bound = None if role is Role.SIDECAR else firm or self.book.context.firm_id
        key = self.keys.add(role, bound)
        return getattr(self.stub, rpc)(request, metadata=(("authorization", f"Bearer {key.text}"),), timeout=60)

    async def refused(self, rpc: str, request: Any, role: Role = Role.FIRM_ADMIN, **options: Any) -> Failure:
        """The failure of a call that must fail."""
        return await failure(self.call(rpc, request, role, **options))


@pytest.fixture(scope="module")
async def db(database_urls: support.DatabaseUrls) -> AsyncIterator[Database]:
    """The module's database, with billing's ports filled."""
    bus = Bus()
    bus.provide(CollectionPlanner, Planner())  # type: ignore[type-abstract]
    bus.provide(TaxCalculator, TableTaxCalculator())  # type: ignore[type-abstract]
    database = await Database.open(database_urls.application, bus=bus, max_size=12)
    yield database
    await database.close()


@pytest.fixture
async def served(db: Database, tmp_path: Path) -> AsyncIterator[Served]:
    """The service on a free port."""
    firm: CallContext = await support.add_firm(db, clock=NOON)
    keys = KeyRing()
    server = RpcServer(
        settings(tmp_path), Authenticator(ApiKeys(keys, (PEPPER,))), healthy, services={SERVICE}, health_interval=0.1
    )
    servicer = SubscriptionServicer(SubscriptionParts(Calls(db, server.background), Pager(b"k" * 32)))
    server.add(subscription_service_pb2_grpc.add_SubscriptionServiceServicer_to_server, servicer)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub = subscription_service_pb2_grpc.SubscriptionServiceStub(channel)
            yield Served(stub, keys, Book(db, firm, Recorder()))
    finally:
        await server.stop()
