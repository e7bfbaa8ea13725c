"""Builds and runs one RPC server: strict at start, precise while it serves, graceful at its end."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Mapping
from typing import Any

import grpc
from grpc_channelz.v1._async import ChannelzServicer
from grpc_channelz.v1.channelz_pb2_grpc import add_ChannelzServicer_to_server
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha._async import ReflectionServicer
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server
from prometheus_client import CollectorRegistry

from dunwell_server.config import Settings
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform.logging import get_logger
from dunwell_server.platform.loop_monitor import LoopMonitor
from dunwell_server.platform.metrics import RpcMetrics
from dunwell_server.rpc.auth import Authenticator
from dunwell_server.rpc.background import Background
from dunwell_server.rpc.health import INTERVAL, HealthMonitor, Probe
from dunwell_server.rpc.interceptors.chain import Floor
from dunwell_server.rpc.interceptors.deadline import DeadlinePolicy
from dunwell_server.rpc.interceptors.load import RateLimit, StreamLoad, UnaryLoad
from dunwell_server.rpc.interceptors.plain import PlainFloor, UnknownMethods
from dunwell_server.rpc.interceptors.reporting import Reporter
from dunwell_server.rpc.interceptors.streams import OpenStreams
from dunwell_server.rpc.registry import AddToServer, HandlerCollector, Registry, contract_services
from dunwell_server.rpc.startup import StartupError, load_credentials, probe_port, refuse_plaintext

log = get_logger(__name__)

HEALTH = "grpc.health.v1.Health"
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
MAX_PLAIN_STREAMS = 200
MAX_RPCS = 4000
CONNECTION_AGE = 30 * 60
MIN_DRAIN = 0.05


def channel_options(settings: Settings, *, shared_port: bool, max_bytes: int) -> list[tuple[str, int]]:
    """gRPC's own limits. The floor refuses a message above a method's limit with details; twice that never gets in."""
    return [
        # Two servers on one port would silently share its calls; only workers under a supervisor may.
        ("grpc.so_reuseport", 1 if shared_port else 0),
        ("grpc.max_receive_message_length", 2 * max_bytes),
        ("grpc.max_metadata_size", 8 * 1024),
        ("grpc.absolute_max_metadata_size", 16 * 1024),
        ("grpc.max_concurrent_streams", 1000),
        # Clients may ping every minute; what pings more than twice as often is cut off.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 30_000),
        # Connections are renewed, so that load balancers see new ones; open streams keep theirs until they age.
        ("grpc.max_connection_age_ms", CONNECTION_AGE * 1000),
        ("grpc.max_connection_age_grace_ms", int((settings.max_stream_age + 30) * 1000)),
        ("grpc.enable_channelz", 1 if settings.channelz_port else 0),
    ]


class RpcServer:
    """One gRPC server on one event loop. Made, given its servicers, and started inside the loop that serves it."""

    def __init__(
        self,
        settings: Settings,
        authenticator: Authenticator,
        probe: Probe,
        *,
        background: Background | None = None,
        registry: CollectorRegistry | None = None,
        services: set[str] | None = None,
        shared_port: bool = False,
        index: int = 0,
        health_interval: float = INTERVAL,
    ) -> None:
        """`probe` raises while the server cannot serve, e.g. `Database.ping`. `services` are those that must have a
        servicer (default: the whole contract). `shared_port`: one of several workers whose supervisor probed the port.
        `index` numbers the workers, for ports of their own. `registry` takes the metrics: a process gives the one
        that it exports, where there is none the server has its own.
        """
        self._settings = settings
        self._probe = probe
        self.registry = registry if registry is not None else CollectorRegistry()
        self._metrics = RpcMetrics(self.registry)
        self.background = background if background is not None else Background()
        self._services = contract_services() if services is None else services
        self._shared_port = shared_port
        self._index = index
        self._health_interval = health_interval
        self._registry = Registry()
        self._streams = OpenStreams()
        self._reporter = Reporter(self._metrics)
        self._floor = Floor(
            authenticator,
            self._reporter,
            RateLimit(settings.rate_per_caller, settings.rate_burst),
            UnaryLoad(settings.max_concurrent_unary),
            StreamLoad(settings.max_streams, settings.max_streams_per_caller),
            self._streams,
            DeadlinePolicy(settings.default_deadline, settings.max_deadline),
            settings.max_stream_age,
        )
        self._metrics.gauge("unary_in_progress", lambda: self._floor.unary_load.count)
        self._metrics.gauge("streams_open", lambda: self._floor.stream_load.count)
        self._metrics.gauge("background_tasks", lambda: len(self.background))
        self._health: HealthMonitor | None = None
        self._server: grpc.aio.Server | None = None
        self._channelz: grpc.aio.Server | None = None
        self._monitor = LoopMonitor(self.registry)
        self.port = 0

    def add(self, add_to_server: AddToServer, servicer: object, limits: Mapping[str, int] | None = None) -> None:
        """Register a servicer by its generated `add_XServicer_to_server`. StartupError: see `Registry.add`."""
        self._registry.add(add_to_server, servicer, limits)

    @property
    def serving(self) -> bool:
        """What health checks are told now."""
        return self._health is not None and self._health.serving

    async def start(self) -> None:
        """Check everything, bind, serve. StartupError where something is wrong; then nothing was bound."""
        began = time.perf_counter()
        settings = self._settings
        self._registry.require(self._services)
        refuse_plaintext(settings)
        credentials = load_credentials(settings)
        if not self._shared_port:
            probe_port(settings.host, settings.port)
        self._server = self._build()
        try:
            if credentials is None:
                self.port = self._server.add_insecure_port(settings.address)
            else:
                self.port = self._server.add_secure_port(settings.address, credentials)
        except RuntimeError as error:
            raise StartupError(f"{settings.address} cannot be bound: it is in use, or not ours") from error
        await self._server.start()
        if self._health is not None:
            await self._health.start()
        await self._start_channelz()
        await self._monitor.__aenter__()
        log.info("serving", address=settings.host, port=self.port, ms=round((time.perf_counter() - began) * 1000))

    def _build(self) -> grpc.aio.Server:
        registrations = [entry for entries in self._registry.services.values() for entry in entries]
        max_bytes = max((entry.method.max_bytes for entry in registrations), default=0)
        server = grpc.aio.server(
            options=channel_options(self._settings, shared_port=self._shared_port, max_bytes=max_bytes),
            maximum_concurrent_rpcs=MAX_RPCS,
        )
        for service, entries in self._registry.services.items():
            handlers = {
                entry.method.name: (
                    self._floor.stream_handler(entry.method, entry.behaviour)
                    if entry.method.streaming
                    else self._floor.unary_handler(entry.method, entry.behaviour)
                )
                for entry in entries
            }
            _register(server, service, handlers)
        self._add_plain(server)
        server.add_generic_rpc_handlers((UnknownMethods(self._reporter),))
        return server

    def _add_plain(self, server: grpc.aio.Server) -> None:
        names = sorted(self._registry.services)
        load = StreamLoad(MAX_PLAIN_STREAMS, MAX_PLAIN_STREAMS)
        self._metrics.gauge("plain_streams_open", lambda: load.count)
        plain = PlainFloor(self._reporter, self._streams, load)
        self._health = HealthMonitor(names, self._probe, self._metrics.healthy, interval=self._health_interval)
        collector = HandlerCollector()
        # Generated code wants a server and only calls what the collector has.
        stand_in: Any = collector
        add_HealthServicer_to_server(self._health.servicer, stand_in)
        if self._settings.enable_reflection:
            servicer = ReflectionServicer([*names, HEALTH, *REFLECTION])
            add_ServerReflectionServicer_to_server(servicer, stand_in)  # type: ignore[no-untyped-call]
            # v1 has the messages of v1alpha under another package name; on the wire they are the same.
            collector.services[REFLECTION[0]] = collector.services[REFLECTION[1]]
        for service, handlers in collector.services.items():
            _register(server, service, plain.wrap(service, handlers))

    async def _start_channelz(self) -> None:
        if not self._settings.channelz_port:
            return
        port = self._settings.channelz_port + self._index
        self._channelz = grpc.aio.server(options=[("grpc.so_reuseport", 0), ("grpc.enable_channelz", 0)])
        add_ChannelzServicer_to_server(ChannelzServicer(), self._channelz)
        try:
            self._channelz.add_insecure_port(f"127.0.0.1:{port}")
        except RuntimeError as error:
            raise StartupError(f"channelz: port {port} is in use") from error
        await self._channelz.start()

    async def stop(self) -> None:
        """End gracefully: NOT_SERVING, a pause for load balancers, streams end with SHUTTING_DOWN, calls finish.

        Takes at most `drain_delay` + `shutdown_grace` and two seconds.
        """
        if self._server is None:
            return
        settings = self._settings
        if self._health is not None:
            await self._health.stop()
        log.info("draining", streams=len(self._streams), background=len(self.background))
        # At least long enough for health watchers to have been told.
        await asyncio.sleep(max(settings.drain_delay, MIN_DRAIN))
        self._streams.end_all(DunwellError(Reason.SHUTTING_DOWN, "The server is about to stop; go on at another."))
        # Calls wait for the work they started, so both get the same time.
        await asyncio.gather(self._server.stop(settings.shutdown_grace), self.background.drain(settings.shutdown_grace))
        if self._channelz is not None:
            await self._channelz.stop(0)
        await self._monitor.__aexit__(None, None, None)
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
            await stop.wait()
            await self.stop()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


def _register(server: grpc.aio.Server, service: str, handlers: Mapping[str, Any]) -> None:
    """Generic handlers on purpose: for every call, grpc.aio waits anew on each method that was registered by name."""
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, dict(handlers)),))
