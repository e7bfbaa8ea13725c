"""Webhooks accepted: verified, stored durably, answered. The whole way through the sidecar, and the RPC alone, each beside its ceiling."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from uuid import uuid4

from benchmarks.common import Figure
from benchmarks.comparison import Effort, compare, require_same_rows
from benchmarks.http_load import deliver
from benchmarks.http_sender import Endpoint
from benchmarks.rpc_load import PROCESSES, Answered, Load, distinct
from benchmarks.stack import Stack
from benchmarks.stripe_events import HEADER, SignedEvent, signed_events
from benchmarks.webhook_ceilings import INGEST
from dunwell.v1 import admin_service_pb2, provider_pb2
from dunwell.v1 import provider_event_service_pb2 as pb
from dunwell_server.admin.jobs import ensure_sidecar_key
from dunwell_server.cli.demo.api import Api
from dunwell_server.config import Settings
from dunwell_server.kernel.ids import Prefix, decode
from dunwell_server.platform.database import Database

TARGET: Final = 0.35
TARGET_P99_MS: Final = 20.0
_SECRET: Final = "whsec_of_the_benchmarks"
_MOST_PER_SECOND: Final = 4000
"""More webhooks per second than anything here takes: so many are made ready."""


@dataclass(frozen=True, slots=True)
class _Way:
    """One way in: the service's and the ceiling's end of it."""

    stack: Stack
    account: str
    key: str
    sidecar: int
    ceiling_rpc: str
    ceiling_http: int

    @property
    def path(self) -> str:
        return f"/webhooks/stripe/{self.account}"

    def over_http(self, port: int, count: int, effort: Effort, rate: float | None) -> Answered:
        """Webhooks as the provider sends them."""
        return deliver(Endpoint("127.0.0.1", port, self.path, _SECRET), count, seconds=effort.seconds, rate=rate)

    def over_rpc(self, address: str, count: int, effort: Effort, rate: float | None) -> Answered:
        """Webhooks as the sidecar forwards them."""
        metadata = (("authorization", f"Bearer {self.key}"),)
        loads = [
            Load(address, INGEST, metadata, [self.request(event) for event in signed_events(_SECRET, count)])
            for _ in range(PROCESSES)
        ]
        return distinct(loads, seconds=effort.seconds, rate=rate)

    def request(self, event: SignedEvent) -> bytes:
        """One webhook as the sidecar forwards it."""
        headers = {HEADER: event.signature, "user-agent": "Stripe/1.0", "content-type": "application/json"}
        return pb.IngestProviderEventRequest(
            provider="stripe", provider_account_id=self.account, body=event.body, headers=headers, source_address="127.0.0.1",
        ).SerializeToString()  # fmt: skip


def measure(stack: Stack, effort: Effort) -> Figure:
    """The whole way: HTTP, sidecar, RPC, commit."""
    count = _made_ready(effort)
    with _ways(stack) as way:

        def one(port: int) -> None:
            deliver(Endpoint("127.0.0.1", port, way.path, _SECRET), 1, seconds=5.0)

        require_same_rows(stack.database, lambda: one(way.sidecar), lambda: one(way.ceiling_http))
        figure = compare(
            "Webhook accept (verify + durable)", stack, TARGET, effort,
            lambda rate: way.over_http(way.sidecar, count, effort, rate),
            lambda rate: way.over_http(way.ceiling_http, count, effort, rate),
        )  # fmt: skip
    return replace(figure, target_p99_ms=TARGET_P99_MS)


def measure_rpc(stack: Stack, effort: Effort) -> Figure:
    """The RPC alone, as the sidecar calls it."""
    count = _made_ready(effort)
    with _ways(stack) as way:
        figure = compare(
            "Webhook accept, RPC alone", stack, TARGET, effort,
            lambda rate: way.over_rpc(stack.address, count, effort, rate),
            lambda rate: way.over_rpc(way.ceiling_rpc, count, effort, rate),
        )  # fmt: skip
    return replace(figure, target_p99_ms=TARGET_P99_MS)


def _made_ready(effort: Effort) -> int:
    return round(_MOST_PER_SECOND * effort.seconds / PROCESSES)


@contextmanager
def _ways(stack: Stack) -> Iterator[_Way]:
    firm = stack.firms[0]
    account = asyncio.run(_configure(stack))
    with TemporaryDirectory() as folder:
        key_file = Path(folder) / "sidecar.key"
        asyncio.run(_make_key(stack, key_file))
        parts = [
            str(decode(Prefix.FIRM, firm.id, "firm")),
            str(decode(Prefix.PROVIDER_ACCOUNT, account, "account")),
            _SECRET,
        ]
        with stack.sidecar(key_file) as sidecar, stack.webhook_ceilings(*parts) as (rpc, http):
            yield _Way(stack, account, key_file.read_text(encoding="ascii").strip(), sidecar, rpc, http)


async def _configure(stack: Stack) -> str:
    """Give the first firm an account at Stripe of its own; the account's public id."""
    async with Api(stack.address, stack.firms[0].key) as api:
        request = admin_service_pb2.ConfigureProviderRequest(
            provider="stripe", mode=provider_pb2.ACCOUNT_MODE_TEST, request_id=str(uuid4()),
            credentials={"secret_key": "sk_test_" + "0" * 24, "webhook_secret": _SECRET},
        )  # fmt: skip
        return str((await api.call(api.admin.ConfigureProvider, request)).provider.provider_account_id)


async def _make_key(stack: Stack, file: Path) -> None:
    settings = Settings(secret_key=stack.environment["DUNWELL_SECRET_KEY"])
    database = await Database.open(stack.database.application, max_size=1)
    await ensure_sidecar_key(database, settings.keys.api_key_peppers, file)
    await database.close()
