"""ProviderEventService served for real: the builder with its interceptors, a channel, PostgreSQL, a provider with real signatures."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import grpc
import pytest

from dunwell.v1 import provider_event_service_pb2 as pb
from dunwell.v1 import provider_event_service_pb2_grpc
from dunwell_server.inbox.rpc.servicer import LIMITS, ProviderEventServicer
from dunwell_server.kernel.ids import Prefix, decode, encode
from dunwell_server.platform.context import Role
from dunwell_server.platform.database import Database
from dunwell_server.rpc.auth import ApiKeys, Authenticator
from dunwell_server.rpc.calls import Calls
from dunwell_server.rpc.converters import Pager
from dunwell_server.rpc.server import RpcServer
from tests.integration.inbox.conftest import SECRET, House
from tests.integration.inbox.toy import signed_headers
from tests.rpc.floor.fakes import PEPPER, Failure, KeyRing, failure, healthy, settings

SERVICE = "dunwell.v1.ProviderEventService"


@dataclass
class Served:
    """The service, the inbox behind it, and how to call it."""

    stub: Any
    keys: KeyRing
    house: House

    def metadata(self, role: Role, firm: UUID | None) -> tuple[tuple[str, str], ...]:
        """Credentials of a new key; an ADMIN's names the firm."""
        unbound = role in (Role.ADMIN, Role.SIDECAR)
        key = self.keys.add(role, None if unbound else firm)
        named = (("dunwell-firm", encode(Prefix.FIRM, firm)),) if unbound and firm else ()
        return (("authorization", f"Bearer {key.text}"), *named)

    def call(self, rpc: str, request: Any, role: Role = Role.OPERATOR, firm: UUID | None = None) -> Any:
        """One call, to be awaited; a mutating request gets a request id where it has none."""
        if "request_id" in request.DESCRIPTOR.fields_by_name and not request.request_id:
            request.request_id = str(uuid4())
        return getattr(self.stub, rpc)(request, metadata=self.metadata(role, firm), timeout=60)

    async def refused(self, rpc: str, request: Any, role: Role = Role.OPERATOR, firm: UUID | None = None) -> Failure:
        """A call that fails."""
        return await failure(self.call(rpc, request, role, firm))

    async def ingest(self, account: UUID | None, body: bytes, **changes: Any) -> UUID:
        """One webhook, as the sidecar forwards it; returns our id of the event."""
        answer = await self.call("IngestProviderEvent", webhook(account, body, **changes), Role.SIDECAR)
        return decode(Prefix.PROVIDER_EVENT, answer.provider_event_id, "id")


def webhook(account: UUID | None, body: bytes, **changes: Any) -> pb.IngestProviderEventRequest:
    """A signed webhook."""
    values: dict[str, Any] = {
        "provider": "toy", "provider_account_id": "" if account is None else encode(Prefix.PROVIDER_ACCOUNT, account), "body": body,
        "headers": signed_headers(SECRET, body), **changes,
    }  # fmt: skip
    return pb.IngestProviderEventRequest(**values)


@pytest.fixture
async def served(db: Database, tmp_path: Path) -> AsyncIterator[Served]:
    """The service on a free port."""
    house, keys = House(db), KeyRing()
    server = RpcServer(
        settings(tmp_path), Authenticator(ApiKeys(keys, (PEPPER,))), healthy, services={SERVICE}, health_interval=0.1
    )
    servicer = ProviderEventServicer(Calls(db, server.background), house.ingestor, house.vault, Pager(b"k" * 32))
    server.add(provider_event_service_pb2_grpc.add_ProviderEventServiceServicer_to_server, servicer, LIMITS)
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield Served(provider_event_service_pb2_grpc.ProviderEventServiceStub(channel), keys, house)
    finally:
        await server.stop()
        await house.forget_accounts()
