"""Small servicers of the real contract, and what it takes to serve and call them through a real channel."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2
from prometheus_client import CollectorRegistry

from dunwell.v1 import admin_service_pb2, admin_service_pb2_grpc, billing_service_pb2, billing_service_pb2_grpc
from dunwell_server.config import Settings
from dunwell_server.kernel import ids
from dunwell_server.platform.context import CallContext, Role
from dunwell_server.rpc.auth import ApiKeys, Authenticator, KeyRow, MintedKey, mint_key
from dunwell_server.rpc.background import Background
from dunwell_server.rpc.current import current_call
from dunwell_server.rpc.server import RpcServer

ADMIN = "dunwell.v1.AdminService"
BILLING = "dunwell.v1.BillingService"
PEPPER = b"a pepper for tests, 32 bytes or so"
FIRM = ids.uuid7()
OTHER_FIRM = ids.uuid7()

Behaviour = Callable[[Any], Awaitable[Any]]


class KeyRing:
    """API keys in memory; counts its look-ups."""

    def __init__(self) -> None:
        self.rows: dict[uuid.UUID, KeyRow] = {}
        self.lookups = 0
        self.error: Exception | None = None

    async def load(self, key_id: uuid.UUID) -> KeyRow | None:
        """The row, after a turn of the loop as with a real database."""
        self.lookups += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return self.rows.get(key_id)

    def add(self, role: Role, firm_id: uuid.UUID | None = FIRM, *, pepper: bytes = PEPPER, **changes: Any) -> MintedKey:
        """Mint a key and keep its row."""
        minted = mint_key(pepper, live=False)
        values: dict[str, Any] = {"may_name_actor": False, "expire_time": None, "revoke_time": None, **changes}
        self.rows[minted.id] = KeyRow(minted.id, firm_id, role, minted.secret_hash, **values)
        return minted


def _complete(base: type, implemented: type) -> type:
    """A servicer class that serves every RPC: those it does not define itself answer with an empty message."""
    service = base.__name__.removesuffix("Servicer")
    module = admin_service_pb2 if service == "AdminService" else billing_service_pb2
    members: dict[str, Any] = {}
    for method in module.DESCRIPTOR.services_by_name[service].methods:
        if method.name in vars(implemented):
            continue
        if method.server_streaming:

            async def stream(self: Any, request: Any, context: Any) -> AsyncIterator[Any]:
                return
                yield

            members[method.name] = stream
        else:

            async def unary(self: Any, request: Any, context: Any, _name: str = method.output_type.name) -> Any:
                return getattr(module, _name)()

            members[method.name] = unary
    return type(implemented.__name__, (implemented, base), members)


@dataclass
class Script:
    """What the fake servicers do and saw."""

    get_firm: Behaviour | None = None
    watch: Callable[[Any], AsyncIterator[Any]] | None = None
    create_firm: Behaviour | None = None
    get_invoice: Behaviour | None = None
    create_client: Behaviour | None = None
    seen: list[CallContext] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)


class _Admin:
    def __init__(self, script: Script) -> None:
        self._script = script

    async def GetFirm(self, request: Any, context: Any) -> Any:
        self._script.seen.append(current_call())
        if self._script.get_firm is not None:
            return await self._script.get_firm(request)
        return admin_service_pb2.GetFirmResponse()

    async def CreateFirm(self, request: Any, context: Any) -> Any:
        self._script.seen.append(current_call())
        self._script.requests.append(request)
        if self._script.create_firm is not None:
            return await self._script.create_firm(request)
        return admin_service_pb2.CreateFirmResponse()

    async def WatchRun(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self._script.seen.append(current_call())
        if self._script.watch is not None:
            async for response in self._script.watch(request):
                yield response


class _Billing:
    def __init__(self, script: Script) -> None:
        self._script = script

    async def GetInvoice(self, request: Any, context: Any) -> Any:
        self._script.seen.append(current_call())
        if self._script.get_invoice is not None:
            return await self._script.get_invoice(request)
        return billing_service_pb2.GetInvoiceResponse()

    async def CreateClient(self, request: Any, context: Any) -> Any:
        self._script.seen.append(current_call())
        self._script.requests.append(request)
        if self._script.create_client is not None:
            return await self._script.create_client(request)
        return billing_service_pb2.CreateClientResponse()


AdminServicer: Any = _complete(admin_service_pb2_grpc.AdminServiceServicer, _Admin)
BillingServicer: Any = _complete(billing_service_pb2_grpc.BillingServiceServicer, _Billing)


def settings(tmp: Path, **changes: Any) -> Settings:
    """Settings that read nothing of the environment that matters here."""
    values: dict[str, Any] = {
        "data_dir": tmp, "port": 0, "drain_delay": 0.0, "shutdown_grace": 3.0, "metrics_port": 0, "host": "127.0.0.1",
        "secret_key": "a root secret of the tests, long enough", **changes,
    }  # fmt: skip
    return Settings(_env_file=None, **values)


@dataclass
class Served:
    """A server that runs, and stubs on a channel to it."""

    server: RpcServer
    channel: grpc.aio.Channel
    keys: KeyRing
    script: Script
    registry: CollectorRegistry
    admin: Any
    billing: Any

    def metadata(self, role: Role = Role.FIRM_ADMIN, **extra: str) -> tuple[tuple[str, str], ...]:
        """Credentials of a new key; further metadata with `_` for `-`."""
        firm = None if role in (Role.ADMIN, Role.SIDECAR) else FIRM
        key = self.keys.add(role, firm)
        return (
            ("authorization", f"Bearer {key.text}"),
            *((name.replace("_", "-"), text) for name, text in extra.items()),
        )

    def metric(self, name: str, **labels: str) -> float:
        """A sample's value; 0 where there is none."""
        return self.registry.get_sample_value(name, labels) or 0.0


async def healthy() -> None:
    """A probe that always succeeds."""


@asynccontextmanager
async def serve(
    tmp: Path, *, probe: Callable[[], Awaitable[None]] = healthy, background: Background | None = None,
    authenticator: Authenticator | None = None, cache_seconds: float = 5.0, health_interval: float = 0.05,
    channel_options: list[tuple[str, int]] | None = None, **changes: Any,
) -> AsyncIterator[Served]:  # fmt: skip
    """A server with both fake servicers on a free port, and a channel to it."""
    keys, script, registry = KeyRing(), Script(), CollectorRegistry()
    server = RpcServer(
        settings(tmp, **changes),
        authenticator or Authenticator(ApiKeys(keys, (PEPPER,), cache_seconds=cache_seconds)),
        probe,
        background=background,
        registry=registry,
        services={ADMIN, BILLING},
        health_interval=health_interval,
    )
    server.add(admin_service_pb2_grpc.add_AdminServiceServicer_to_server, AdminServicer(script))
    server.add(billing_service_pb2_grpc.add_BillingServiceServicer_to_server, BillingServicer(script))
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=channel_options) as channel:
            yield Served(
                server, channel, keys, script, registry,
                admin_service_pb2_grpc.AdminServiceStub(channel), billing_service_pb2_grpc.BillingServiceStub(channel),
            )  # fmt: skip
    finally:
        await server.stop()


@dataclass
class Failure:
    """A failed call, taken apart."""

    code: grpc.StatusCode
    message: str
    details: dict[str, Any]
    trailers: dict[str, Any]

    @property
    def reason(self) -> str:
        """ErrorInfo's reason; empty where there is none."""
        info = self.details.get("ErrorInfo")
        return info.reason if info is not None else ""

    @property
    def metadata(self) -> dict[str, str]:
        """ErrorInfo's metadata."""
        return dict(self.details["ErrorInfo"].metadata)

    @property
    def fields(self) -> list[str]:
        """The fields that BadRequest names."""
        return [violation.field for violation in self.details["BadRequest"].field_violations]


def taken_apart(error: grpc.aio.AioRpcError) -> Failure:
    """Code, message and details of an error."""
    trailers = dict(error.trailing_metadata() or ())
    details: dict[str, Any] = {}
    raw = trailers.get("grpc-status-details-bin")
    if raw is not None:
        status = status_pb2.Status.FromString(raw)
        assert status.code == error.code().value[0]
        for item in status.details:
            name = item.TypeName().rpartition(".")[2]
            details[name] = getattr(error_details_pb2, name)()
            assert item.Unpack(details[name])
    return Failure(error.code(), error.details() or "", details, trailers)


async def failure(call: Any) -> Failure:
    """The failure of a call, unary or streaming, which must fail."""
    try:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    except grpc.aio.AioRpcError as error:
        return taken_apart(error)
    raise AssertionError("the call succeeded")
