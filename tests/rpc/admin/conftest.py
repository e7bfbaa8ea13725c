"""AdminService served for real: the builder with its interceptors, a channel, PostgreSQL, and a job worker for its runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest

from dunwell.v1 import admin_service_pb2 as pb
from dunwell.v1 import admin_service_pb2_grpc, api_key_pb2, firm_pb2, options_pb2, provider_pb2
from dunwell_server.admin.rpc.data_exit import ADMIN_LIMITS
from dunwell_server.admin.rpc.servicer import AdminParts, AdminServicer
from dunwell_server.admin.service.firms import Installation
from dunwell_server.kernel.ids import Prefix, decode, encode
from dunwell_server.platform.anchors import AnchorStore
from dunwell_server.platform.context import CallContext, Role, system_context
from dunwell_server.platform.crypto import Vault
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.journal import Category, Change, record
from dunwell_server.platform.keys import Keys
from dunwell_server.platform.outside_clocks import NOTHING, Standing
from dunwell_server.platform.sealer import AuditSealer
from dunwell_server.platform.work import WorkKind
from dunwell_server.providers.manual import ManualProvider
from dunwell_server.providers.registry import ProviderRegistry
from dunwell_server.providers.sandbox import SandboxProvider
from dunwell_server.providers.stripe import StripeProvider
from dunwell_server.rpc.auth import ApiKeys, Authenticator, DatabaseKeyStore, mint_key
from dunwell_server.rpc.calls import Calls
from dunwell_server.rpc.converters import Pager
from dunwell_server.rpc.server import RpcServer
from dunwell_server.scheduler.clock import ClockRunExecutor
from dunwell_server.scheduler.runs import RunHandler
from tests import support
from tests.rpc.floor.fakes import healthy, settings

SERVICE = "dunwell.v1.AdminService"
KEYS = Keys(b"the root secret of these tests, 32 or more")
MONTH = timedelta(days=30)


class MonthlyInvoices:
    """Due work for clocks to find: every thirty days of firm time an invoice is told of. `broken` makes it fail."""

    kind = WorkKind.PACKAGES

    def __init__(self) -> None:
        self.broken = False

    async def next_due(self, uow: UnitOfWork) -> datetime | None:
        last = await uow.fetch_value(
            "SELECT coalesce((SELECT max(firm_time) FROM audit_event WHERE firm_id = %(firm)s AND action = 'invoice_finalized'), start_time)"
            " FROM control.test_clock WHERE firm_id = %(firm)s",
            {"firm": uow.firm_id},
        )
        return None if last is None else last + MONTH

    async def work(self, database: Database, context: CallContext) -> None:
        if self.broken:
            raise ZeroDivisionError("a piece of due work is broken")
        async with database.transaction(context) as uow:
            metadata = {"total_minor": 2500, "currency_code": "USD", "client_id": str(uuid4())}
            await record(uow, Change(Category.BILLING, "invoice_finalized", "invoice", uuid4(), metadata=metadata))


class OutsideClock:
    """Stands for the sandbox's clock."""

    def __init__(self) -> None:
        self.times: list[datetime] = []

    async def follow(self, database: Database, context: CallContext) -> FollowedClock:
        return FollowedClock(self.times)

    async def move_to(self, database: Database, context: CallContext, now: datetime) -> None:
        self.times.append(now)


class FollowedClock:
    """The same, followed by an advance."""

    def __init__(self, times: list[datetime]) -> None:
        self.times = times

    async def move_to(self, now: datetime, *, wait: bool) -> Standing:
        self.times.append(now)
        return NOTHING

    async def look(self, *, wait: bool) -> Standing:
        return NOTHING


@dataclass
class Served:
    """The service and how to call it."""

    stub: Any
    db: Database
    anchors: AnchorStore
    sealer: AuditSealer
    monthly: MonthlyInvoices
    outside: OutsideClock
    worked: list[UUID] = field(default_factory=list)

    async def key(self, role: Role, firm: UUID | None) -> str:
        """A key written straight into the database."""
        minted = mint_key(KEYS.api_key_peppers[0], live=False)
        bound = None if role in (Role.ADMIN, Role.SIDECAR) else firm
        async with self.db.transaction(support.context(None)) as uow:
            await uow.execute(
                "INSERT INTO control.api_key (id, firm_id, role, display_name, secret_hash, create_actor) VALUES (%s, %s, %s, 'test', %s, 'test')",
                (minted.id, bound, role.value, minted.secret_hash),
            )
        return minted.text

    async def metadata(self, role: Role = Role.ADMIN, firm: UUID | None = None) -> tuple[tuple[str, str], ...]:
        """Credentials of a new key; an ADMIN's names the firm."""
        text = await self.key(role, firm)
        named = (("dunwell-firm", encode(Prefix.FIRM, firm)),) if role is Role.ADMIN and firm else ()
        return (("authorization", f"Bearer {text}"), *named)

    async def call(self, rpc: str, request: Any, role: Role = Role.ADMIN, firm: UUID | None = None, **more: Any) -> Any:
        """One unary call; a mutating request gets a request id where it has none."""
        if "request_id" in request.DESCRIPTOR.fields_by_name and not request.request_id:
            request.request_id = str(uuid4())
        metadata = more.pop("metadata", None) or await self.metadata(role, firm)
        return await getattr(self.stub, rpc)(request, metadata=metadata, timeout=more.pop("timeout", 60))

    async def stream(
        self, rpc: str, request: Any, role: Role = Role.ADMIN, firm: UUID | None = None, **more: Any
    ) -> Any:
        """A streaming call."""
        if "request_id" in request.DESCRIPTOR.fields_by_name and not request.request_id:
            request.request_id = str(uuid4())
        metadata = more.pop("metadata", None) or await self.metadata(role, firm)
        return getattr(self.stub, rpc)(request, metadata=metadata, timeout=more.pop("timeout", 30))

    async def firm(self, **fields: Any) -> UUID:
        """Create a TEST firm."""
        response = await self.call("CreateFirm", pb.CreateFirmRequest(firm=new_firm(**fields)))
        return decode(Prefix.FIRM, response.firm.id, "firm")

    async def set_state(self, firm: UUID, state: str) -> None:
        async with self.db.transaction(support.context(None)) as uow:
            await uow.execute("UPDATE control.firm SET state = %s WHERE id = %s", (state, firm))


def new_firm(**fields: Any) -> firm_pb2.Firm:
    """A firm with what is required."""
    values: dict[str, Any] = {
        "display_name": "Harbour & Vale", "currency_code": "USD", "time_zone": "Europe/Amsterdam", "mode": provider_pb2.ACCOUNT_MODE_TEST, **fields,
    }  # fmt: skip
    return firm_pb2.Firm(**values)


def new_key(role: Role = Role.SERVICE, **fields: Any) -> api_key_pb2.ApiKey:
    """A key to ask for."""
    return api_key_pb2.ApiKey(display_name="shop", role=options_pb2.Role.Value(f"ROLE_{role.value}"), **fields)


@pytest.fixture
async def served(db: Database, tmp_path: Path) -> AsyncIterator[Served]:
    """The service, and a job worker that executes the runs of every firm."""
    registry = ProviderRegistry()
    registry.register("sandbox", lambda: SandboxProvider("http://127.0.0.1:9"))
    registry.register("manual", ManualProvider)
    registry.register("stripe", StripeProvider)
    anchors = AnchorStore(tmp_path / "anchors", KEYS)
    monthly, outside = MonthlyInvoices(), OutsideClock()
    authenticator = Authenticator(ApiKeys(DatabaseKeyStore(db), KEYS.api_key_peppers, cache_seconds=0.2))
    server = RpcServer(settings(tmp_path), authenticator, healthy, services={SERVICE}, health_interval=0.1)
    installation = Installation(Vault.of(KEYS), registry, "sandbox")
    parts = AdminParts(
        Calls(db, server.background), Pager(KEYS.page_token), installation, KEYS.api_key_peppers[0], anchors, [outside]
    )
    server.add(admin_service_pb2_grpc.add_AdminServiceServicer_to_server, AdminServicer(parts), ADMIN_LIMITS)
    await server.start()
    worker = asyncio.create_task(_execute_runs(db, monthly, outside))
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub = admin_service_pb2_grpc.AdminServiceStub(channel)
            yield Served(stub, db, anchors, AuditSealer(db, anchors), monthly, outside)
    finally:
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker
        await server.stop()
        await registry.close()


async def _execute_runs(db: Database, monthly: MonthlyInvoices, outside: OutsideClock) -> None:
    """A job worker's share: every firm's open runs."""
    handler = RunHandler([ClockRunExecutor([monthly], RunHandler([]), [outside])])
    while True:
        async with db.transaction(system_context(None, "job:claim"), write=False) as uow:
            rows = await uow.fetch_all("SELECT firm_id FROM control.test_clock WHERE state = 'ADVANCING'")
        for row in rows:
            await handler.work(db, system_context(row["firm_id"], "job:run"))
        await asyncio.sleep(0.05)
