"""`serve`: the supervisor's list of processes, from the database up."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc
from rich.console import Console

from dunwell_server.bootstrap import DatabaseUrls, migrate_database, resolve_urls
from dunwell_server.cli.installation import database_of, free_port, is_embedded, sandbox_book, sandbox_url
from dunwell_server.cli.problems import levels
from dunwell_server.config import Settings
from dunwell_server.platform.logging import configure_logging
from dunwell_server.platform.migrate import head_revision
from dunwell_server.rpc.startup import StartupError, check_database, load_credentials, probe_port, refuse_plaintext
from dunwell_server.supervisor import ChildSpec, Probe, Supervisor, python_child

SANDBOX = "sandbox"
_PROBE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What will run and where it answers."""

    settings: Settings
    children: list[ChildSpec]
    sandbox: str | None
    """The sandbox gateway's address; None where there is none."""


def serve(settings: Settings) -> int:
    """Run everything until SIGTERM or SIGINT, then stop it in order. StartupError, SupervisorError, MigrationError."""
    configure_logging(level=settings.log_level, levels=levels(settings), form=settings.log_format, process="supervisor")
    with installation(settings) as (settings, urls), reserved_port(settings) as settings:
        plan = plan_children(settings, urls)
        console = Console(stderr=True, highlight=False)

        async def ready() -> None:
            _banner(plan, console)

        asyncio.run(Supervisor(plan.children, on_ready=ready).run())
    return 0


@contextmanager
def installation(settings: Settings) -> Iterator[tuple[Settings, DatabaseUrls]]:
    """The database, running, of this release and fit to be used; the embedded one ends with the block."""
    # Until the supervisor listens, SIGTERM means what Ctrl-C means: leave everything as it was found.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with database_of(settings, keep=False):
        development = settings.environment == "development"
        urls = resolve_urls(settings, accept_owner=development)
        if development and urls.owner is not None:
            migrate_database(urls)
        asyncio.run(check_database(urls.application, head_revision()))
        yield settings, urls


@contextmanager
def reserved_port(settings: Settings) -> Iterator[Settings]:
    """Everything that can be told of the RPC port before a worker is started. Port 0 becomes a free one, kept until the end."""
    refuse_plaintext(settings)
    load_credentials(settings)
    if settings.port:
        probe_port(settings.host, settings.port)
        yield settings
        return
    host = settings.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as holder:
        # Bound and never listening: it takes no call, and nobody else gets the port while the workers share it.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            holder.bind((host, 0))
        except OSError as error:
            raise StartupError(f"{settings.host} cannot be bound: {error.strerror}") from error
        yield settings.model_copy(update={"port": holder.getsockname()[1]})


def plan_children(settings: Settings, urls: DatabaseUrls) -> Plan:
    """The processes in the order in which they depend on one another. What they need to know travels in their environment."""
    children: list[ChildSpec] = []
    environment = _environment(settings, urls)
    gateway: str | None = None
    if settings.enable_sandbox and settings.sandbox_url is None and settings.environment == "development":
        port = settings.sandbox_port or free_port()
        probe_port("127.0.0.1", port)
        gateway = f"http://127.0.0.1:{port}"
        book = sandbox_book(settings)
        command = python_child(SANDBOX, "sandbox-gateway", "--port", str(port), "--book", str(book))
        children.append(ChildSpec(SANDBOX, command, ready=_http_probe(f"{gateway}/healthz"), stop_timeout=5.0))
        environment["DUNWELL_SANDBOX_URL"] = gateway
    elif settings.enable_sandbox and settings.sandbox_url:
        gateway = sandbox_url(settings)
    first = (SANDBOX,) if children else ()
    for index in range(settings.workers):
        children.append(
            ChildSpec(
                f"rpc-{index}", python_child("rpc-worker", "rpc-worker", "--index", str(index)), environment,
                # The workers share a port: that it answers tells of the first one only, and a start-up error ends any.
                ready=_grpc_probe(settings) if index == 0 else None, after=first,
            )
        )  # fmt: skip
    for index in range(settings.jobs):
        arguments = python_child("job-worker", "job-worker", "--index", str(index))
        children.append(ChildSpec(f"job-{index}", arguments, environment, after=first))
    return Plan(settings, children, gateway)


def _environment(settings: Settings, urls: DatabaseUrls) -> dict[str, str]:
    """What children are told beside our own environment. The owner's URL is for migrations and goes no further."""
    return {
        "DATABASE_URL": urls.application,
        "DUNWELL_OWNER_DATABASE_URL": "",
        "DUNWELL_AUDIT_DATABASE_URL": urls.auditor or "",
        "DUNWELL_HOST": settings.host,
        "DUNWELL_PORT": str(settings.port),
        "DUNWELL_WORKERS": str(settings.workers),
        "DUNWELL_JOBS": str(settings.jobs),
        "DUNWELL_DATA_DIR": str(settings.data_dir.resolve()),
    }


def _http_probe(url: str) -> Probe:
    async def probe() -> bool:
        async with httpx.AsyncClient(timeout=_PROBE_SECONDS, trust_env=False) as client:
            return (await client.get(url)).is_success

    return probe


def _grpc_probe(settings: Settings) -> Probe:
    """Health over the wire, as a client has it; behind mutual TLS, that the port accepts connections."""

    async def check() -> bool:
        async with grpc.aio.insecure_channel(local_address(settings)) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)  # whose type stubs are older than its code
            request = health_pb2.HealthCheckRequest()
            answer = await stub.Check(request, timeout=_PROBE_SECONDS)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def connect() -> bool:
        host, _, port = local_address(settings).rpartition(":")
        _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        writer.close()
        return True

    return connect if settings.uses_tls else check


def local_address(settings: Settings) -> str:
    """`host:port` where this machine reaches the RPCs, also when they are bound to every address."""
    if settings.host in ("0.0.0.0", "::", "[::]"):
        return f"127.0.0.1:{settings.port}" if settings.host == "0.0.0.0" else f"[::1]:{settings.port}"
    return settings.address


def _banner(plan: Plan, console: Console) -> None:
    settings = plan.settings
    encryption = "TLS" if settings.uses_tls else "plaintext, loopback"
    if not settings.uses_tls and settings.allow_plaintext:
        encryption = "plaintext"
    lines = [
        (
            "RPCs",
            f"{settings.address}  ({encryption}; {_count(settings.workers, 'worker')}, {_count(settings.jobs, 'job worker')})",
        ),
        ("Database", f"embedded PostgreSQL in {settings.data_dir}" if is_embedded(settings) else "DATABASE_URL"),
    ]
    if plan.sandbox:
        lines.append(("Sandbox", f"{plan.sandbox}  (payment gateway for TEST firms; no real money)"))
    if settings.metrics_port:
        last = settings.metrics_port + settings.workers + settings.jobs - 1
        lines.append(
            (
                "Metrics",
                f"http://127.0.0.1:{settings.metrics_port}/metrics"
                + (f" to :{last}" if last > settings.metrics_port else ""),
            )
        )
    console.print("\n[bold]Dunwell serves[/bold]")
    for name, text in lines:
        console.print(f"  {name:<10}{text}")
    console.print("Ctrl-C or SIGTERM stops it.\n")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
