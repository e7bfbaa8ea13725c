"""One installation to be measured: its own database, sandbox gateway and RPC worker, as real processes, seeded through the RPCs."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import grpc
import httpx
import psycopg

from benchmarks.common import OUTPUT, BenchDatabase, bench_database
from dunwell.v1 import (
    admin_service_pb2,
    api_key_pb2,
    billing_service_pb2,
    client_pb2,
    firm_pb2,
    options_pb2,
    payment_service_pb2,
    provider_pb2,
)
from dunwell_server.admin.jobs import create_admin_key
from dunwell_server.cli.demo.api import Api
from dunwell_server.cli.installation import free_port
from dunwell_server.config import Settings
from dunwell_server.platform.database import Database

FIRMS = 4
CLIENTS_PER_FIRM = 50
"""Enough that calls in progress seldom meet on one client; a firm's number series they always meet on."""
_SECRET = "the benchmarks' own root secret, of no use elsewhere"
_READY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class BenchFirm:
    """A seeded firm: a key of role FIRM_ADMIN, and its clients, each with a card that can be charged."""

    id: str
    key: str
    clients: Sequence[str]

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What a call for the firm carries."""
        return (("authorization", f"Bearer {self.key}"),)


@dataclass(frozen=True, slots=True)
class Stack:
    """What runs and where it answers."""

    address: str
    database: BenchDatabase
    environment: Mapping[str, str]
    worker: int
    """Process id of the RPC worker."""
    firms: Sequence[BenchFirm]

    @contextmanager
    def bare_server(self, *arguments: str) -> Iterator[str]:
        """A server of ceilings beside this installation (see `benchmarks.ceilings`); its address."""
        port = free_port()
        with _process("ceilings", ["-m", "benchmarks.ceilings", str(port), *arguments], self.environment):
            address = f"127.0.0.1:{port}"
            _wait_for_channel(address)
            yield address

    @contextmanager
    def job_workers(self, count: int = 1) -> Iterator[list[int]]:
        """Job workers beside this installation; their process ids."""
        with ExitStack() as stack:
            yield [
                stack.enter_context(
                    _process(
                        f"job-{index}", ["-m", "dunwell_server", "job-worker", "--index", str(index)], self.environment
                    )
                )
                for index in range(count)
            ]

    @contextmanager
    def sidecar(self, key_file: Path) -> Iterator[int]:
        """A webhook sidecar before this installation, with the SIDECAR key in `key_file`; its HTTP port."""
        port = free_port()
        environment = {
            **self.environment, "DATABASE_URL": "", "DUNWELL_SIDECAR_PORT": str(port), "DUNWELL_SIDECAR_METRICS_PORT": "0",
            "DUNWELL_SIDECAR_SERVER": self.address, "DUNWELL_SIDECAR_KEY_FILE": str(key_file), "DUNWELL_DRAIN_DELAY": "0",
        }  # fmt: skip
        with _process("sidecar", ["-m", "dunwell_server", "sidecar"], environment):
            _wait_for_http(f"http://127.0.0.1:{port}/readyz")
            yield port

    @contextmanager
    def webhook_ceilings(self, *arguments: str) -> Iterator[tuple[str, int]]:
        """The bare handlers of `benchmarks.webhook_ceilings`: the address of the gRPC one, the port of the HTTP one."""
        rpc_port, http_port = free_port(), free_port()
        command = ["-m", "benchmarks.webhook_ceilings", str(rpc_port), str(http_port), *arguments]
        with _process("webhook_ceilings", command, self.environment):
            _wait_for_port(rpc_port)
            _wait_for_port(http_port)
            yield f"127.0.0.1:{rpc_port}", http_port


@contextmanager
def rpc_stack() -> Iterator[Stack]:
    """Start and seed an installation; everything ends with the block, its files too."""
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        database = stack.enter_context(bench_database())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=OUTPUT)))
        port, sandbox_port = free_port(), free_port()
        environment = {
            **os.environ,
            "DATABASE_URL": database.application,
            "DUNWELL_OWNER_DATABASE_URL": "",
            "DUNWELL_DATA_DIR": str(folder),
            "DUNWELL_SECRET_KEY": _SECRET,
            "DUNWELL_PORT": str(port),
            "DUNWELL_METRICS_PORT": "0",
            "DUNWELL_RATE_PER_CALLER": "1000000",
            "DUNWELL_RATE_BURST": "1000000",
            "DUNWELL_SANDBOX_URL": f"http://127.0.0.1:{sandbox_port}",
        }
        gateway = ["-m", "dunwell_server.sandbox", "--port", str(sandbox_port), "--data", str(folder / "book.sqlite")]
        stack.enter_context(_process("sandbox", gateway, environment))
        _wait_for_http(f"http://127.0.0.1:{sandbox_port}/healthz")
        worker = stack.enter_context(
            _process("rpc", ["-m", "dunwell_server", "rpc-worker", "--index", "0"], environment)
        )
        address = f"127.0.0.1:{port}"
        _wait_for_channel(address)
        firms = asyncio.run(_seed(address, database))
        yield Stack(address, database, environment, worker, firms)


@contextmanager
def _process(name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Iterator[int]:
    log = OUTPUT / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, *arguments], env=dict(environment), stdout=output, stderr=output)
    try:
        yield process.pid
        if process.poll() is not None:
            raise RuntimeError(f"the {name} process ended by itself; {log} says why")
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_channel(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(_READY_SECONDS)


def _wait_for_http(url: str) -> None:
    end = time.monotonic() + _READY_SECONDS
    while time.monotonic() < end:
        with suppress(httpx.TransportError):
            httpx.get(url, trust_env=False)
            return
        time.sleep(0.05)
    raise RuntimeError(f"{url} does not answer")


def _wait_for_port(port: int) -> None:
    end = time.monotonic() + _READY_SECONDS
    while time.monotonic() < end:
        with suppress(ConnectionError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


async def _seed(address: str, database: BenchDatabase) -> list[BenchFirm]:
    connected = await Database.open(database.application, max_size=1)
    settings = Settings(secret_key=_SECRET)
    admin_key = await create_admin_key(connected, settings.keys.api_key_peppers[0], "Benchmarks")
    await connected.close()
    return [await _seed_firm(address, admin_key, number) for number in range(FIRMS)]


async def _seed_firm(address: str, admin_key: str, number: int) -> BenchFirm:
    firm = firm_pb2.Firm(
        display_name=f"Bench {number}", currency_code="USD", time_zone="America/New_York", locale="en-US",
        mode=provider_pb2.ACCOUNT_MODE_TEST, payment_terms_days=30,
    )  # fmt: skip
    async with Api(address, admin_key) as admin:
        request = admin_service_pb2.CreateFirmRequest(firm=firm, request_id=str(uuid4()))
        firm_id = str((await admin.call(admin.admin.CreateFirm, request)).firm.id)
    async with Api(address, admin_key, firm_id=firm_id) as admin:
        api_key = api_key_pb2.ApiKey(display_name="Load", role=options_pb2.ROLE_FIRM_ADMIN)
        key_request = admin_service_pb2.CreateApiKeyRequest(api_key=api_key, request_id=str(uuid4()))
        key = (await admin.call(admin.admin.CreateApiKey, key_request)).secret
    gate = asyncio.Semaphore(8)
    async with Api(address, key) as api:

        async def add(position: int) -> str:
            async with gate:
                return await _add_client(api, position)

        clients = await asyncio.gather(*(add(position) for position in range(CLIENTS_PER_FIRM)))
    return BenchFirm(firm_id, key, clients)


async def _add_client(api: Api, position: int) -> str:
    client = client_pb2.Client(name=f"Client {position}", email=f"client{position}@example.com", currency_code="USD")
    request = billing_service_pb2.CreateClientRequest(client=client, request_id=str(uuid4()))
    client_id = str((await api.call(api.billing.CreateClient, request)).client.id)
    attach = payment_service_pb2.AttachPaymentMethodRequest(
        client_id=client_id, provider="sandbox", provider_method_id="pm_card_visa", request_id=str(uuid4())
    )
    await api.call(api.payments.AttachPaymentMethod, attach)
    return client_id


def row_counts(database: BenchDatabase) -> dict[str, int]:
    """Rows per table of the tenants: what a call has written is the difference of two."""
    with psycopg.connect(database.owner) as connection:
        names = [
            name
            for (name,) in connection.execute(
                "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
            )
        ]
        counts = {}
        for name in names:
            row = connection.execute(
                psycopg.sql.SQL("SELECT count(*) FROM {}").format(psycopg.sql.Identifier(name))
            ).fetchone()
            counts[name] = row[0] if row else 0
    return counts


def process_memory_mib(pid: int) -> float | None:
    """The most memory a process has had resident; None where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return None
    [line] = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024
