"""`serve`: the supervisor's list of processes, from the database up."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from dunwell_server.bootstrap import DatabaseUrls, migrate_database, prepare_installation, resolve_urls
from dunwell_server.cli.installation import database_of, is_embedded, sidecar_key_file
from dunwell_server.cli.plan import Plan, plan_children
from dunwell_server.cli.problems import levels
from dunwell_server.config import Settings
from dunwell_server.platform.logging import configure_logging
from dunwell_server.platform.migrate import head_revision
from dunwell_server.rpc.startup import StartupError, check_database, load_credentials, probe_port, refuse_plaintext
from dunwell_server.supervisor import Supervisor


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
        asyncio.run(prepare_installation(settings, urls, sidecar_key_file(settings)))
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
    if plan.sidecar:
        lines.append(("Webhooks", f"{plan.sidecar}/webhooks/PROVIDER/ACCOUNT"))
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
