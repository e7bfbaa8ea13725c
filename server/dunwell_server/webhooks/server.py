"""The sidecar as a process: checks, binds, serves, and ends gracefully."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import uvicorn
from prometheus_client import REGISTRY, CollectorRegistry

from dunwell_server.platform.logging import get_logger
from dunwell_server.platform.metrics import Exporter
from dunwell_server.sidecar_config import SidecarSettings, host_of, is_loopback
from dunwell_server.webhooks.app import Surface
from dunwell_server.webhooks.forwarding import CredentialError, Forwarder
from dunwell_server.webhooks.metrics import SidecarMetrics

log = get_logger(__name__)

KEEP_ALIVE_SECONDS = 75
"""Longer than the usual proxies keep an idle connection, so that it is never the sidecar who closes one that is about to be used."""
SOCKETS_PER_WEBHOOK = 10
"""Connections that may be open for each webhook that may be in progress; more are answered 503 before they are read."""


class SidecarError(Exception):
    """The sidecar refuses to start. The text says what to change."""


class _Uvicorn(uvicorn.Server):
    """Uvicorn without its own signal handling, which would end the process by the signal instead of exit code 0."""

    def capture_signals(self) -> Any:
        return nullcontext()


class Sidecar:
    """One sidecar on one event loop. `start`, then `stop`; or `serve`, until a signal."""

    def __init__(self, settings: SidecarSettings, *, registry: CollectorRegistry | None = None) -> None:
        """`registry` takes the metrics; a process gives the one that it exports."""
        self._settings = settings
        self.registry = registry if registry is not None else CollectorRegistry()
        self._metrics = SidecarMetrics(self.registry)
        self._forwarder: Forwarder | None = None
        self._surface: Surface | None = None
        self._server: _Uvicorn | None = None
        self._serving: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self) -> None:
        """Check everything, bind, serve. SidecarError where something is wrong; then nothing was bound."""
        settings = self._settings
        check(settings)
        try:
            self._forwarder = Forwarder(settings)
        except CredentialError as error:
            raise SidecarError(str(error)) from error
        except (OSError, ValueError) as error:
            raise SidecarError(f"the TLS files of the sidecar cannot be read: {error}") from error
        try:
            listener = _bind(settings)
        except SidecarError:
            await self._forwarder.close()
            raise
        self.port = listener.getsockname()[1]
        self._surface = Surface(self._forwarder, self._metrics, max_concurrent=settings.sidecar_max_concurrent)
        self._server = _Uvicorn(_configuration(settings, self._surface))
        try:
            self._server.config.load()
        except (OSError, ValueError) as error:
            listener.close()
            await self._forwarder.close()
            raise SidecarError(f"the TLS files of the sidecar cannot be read: {error}") from error
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="sidecar")
        while not self._server.started and not self._serving.done():  # noqa: ASYNC110 - uvicorn has no event for it
            await asyncio.sleep(0.005)
        if self._serving.done():
            self._serving.result()
        log.info(
            "serving webhooks", address=settings.sidecar_host, port=self.port, server=settings.sidecar_server,
            https=settings.sidecar_uses_tls, server_tls=settings.calls_over_tls,
        )  # fmt: skip

    async def stop(self) -> None:
        """End gracefully: not ready any more, a pause for load balancers, no new connections, webhooks in progress are finished."""
        if self._server is None or self._serving is None or self._surface is None or self._forwarder is None:
            return
        self._surface.stopping = True
        log.info("draining")
        await asyncio.sleep(self._settings.drain_delay)
        self._server.should_exit = True
        await self._serving
        await self._forwarder.close()
        self._server = None
        log.info("stopped")

    async def serve(self) -> None:
        """Start, serve until SIGTERM or SIGINT, stop gracefully."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        try:
            await self.start()
            stopping = asyncio.create_task(stop.wait())
            assert self._serving is not None
            await asyncio.wait({stopping, self._serving}, return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            await self.stop()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


def run(settings: SidecarSettings) -> int:
    """Serve until SIGTERM or SIGINT; the exit code. SidecarError."""
    with _metrics(settings):
        _loop_runner()(Sidecar(settings, registry=REGISTRY).serve())
    return 0


def check(settings: SidecarSettings) -> None:
    """SidecarError for a configuration that would send in the clear what must not be."""
    if (
        not settings.sidecar_uses_tls
        and not is_loopback(settings.sidecar_host.strip("[]"))
        and not settings.allow_plaintext
    ):
        raise SidecarError(
            f"{settings.sidecar_host} can be reached from outside and TLS is off: set DUNWELL_SIDECAR_TLS_CERT_FILE and "
            "DUNWELL_SIDECAR_TLS_KEY_FILE, bind a loopback address, or allow it with DUNWELL_ALLOW_PLAINTEXT=true"
        )
    if (
        not settings.calls_over_tls
        and not is_loopback(host_of(settings.sidecar_server))
        and not settings.allow_plaintext
    ):
        raise SidecarError(
            f"{settings.sidecar_server} is another machine and TLS to it is off: unset DUNWELL_SIDECAR_SERVER_TLS, "
            "or allow it with DUNWELL_ALLOW_PLAINTEXT=true"
        )


def _configuration(settings: SidecarSettings, surface: Surface) -> uvicorn.Config:
    return uvicorn.Config(
        surface.app,
        http="h11",
        ws="none",
        lifespan="off",
        loop="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=bool(settings.sidecar_proxies),
        forwarded_allow_ips=list(settings.sidecar_proxies),
        limit_concurrency=settings.sidecar_max_concurrent * SOCKETS_PER_WEBHOOK,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(settings.shutdown_grace) + 1,
        backlog=2048,
        ssl_certfile=settings.sidecar_tls_cert_file,
        ssl_keyfile=settings.sidecar_tls_key_file,
    )


def _bind(settings: SidecarSettings) -> socket.socket:
    host = settings.sidecar_host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio switches Nagle's algorithm off only where it is: else an answer takes 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # Connections that linger after a restart do not count; a listener does.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, settings.sidecar_port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise SidecarError(f"{host}:{settings.sidecar_port} cannot be bound: {error.strerror}") from error
    return listener


@contextmanager
def _metrics(settings: SidecarSettings) -> Iterator[None]:
    """The exporter, on a loopback port of its own: what is reachable from outside are the webhooks alone."""
    if not settings.sidecar_metrics_port:
        yield
        return
    try:
        exporter = Exporter(settings.sidecar_metrics_port)
    except OSError as error:
        raise SidecarError(
            f"metrics: port {settings.sidecar_metrics_port} is in use; set DUNWELL_SIDECAR_METRICS_PORT to another, or to 0 for none"
        ) from error
    try:
        yield
    finally:
        exporter.close()


def _loop_runner() -> Any:
    """uvloop's where there is one."""
    if sys.platform == "win32":
        return asyncio.run
    try:
        import uvloop
    except ImportError:
        return asyncio.run
    return uvloop.run
