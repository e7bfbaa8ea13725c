"""Prometheus metrics: the RPC server's, under the names of go-grpc-middleware, and the process's own.

Dashboards and alerts made for any other gRPC server work as they are. The exporter is an HTTP server on loopback.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from wsgiref.simple_server import WSGIServer

import grpc
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, start_http_server

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LAG_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)

_LABELS = ("grpc_type", "grpc_service", "grpc_method")

CODE_LABELS: dict[grpc.StatusCode, str] = {
    code: "OK" if code is grpc.StatusCode.OK else "".join(part.capitalize() for part in code.name.split("_"))
    for code in grpc.StatusCode
}
CODE_LABELS[grpc.StatusCode.CANCELLED] = "Canceled"  # the spelling of Go, whose names these are


class MethodMetrics:
    """The children of one method, looked up once; each call then costs a few additions."""

    __slots__ = ("_counts", "_handled", "_labels", "_observe", "_received", "_sent", "_started")

    def __init__(self, metrics: RpcMetrics, kind: str, service: str, method: str) -> None:
        self._labels = (kind, service, method)
        self._handled = metrics.handled
        self._counts: dict[grpc.StatusCode, Callable[[], None]] = {}
        self._started = metrics.started.labels(*self._labels).inc
        self._received = metrics.received.labels(*self._labels).inc
        self._sent = metrics.sent.labels(*self._labels).inc
        self._observe = metrics.seconds.labels(*self._labels).observe
        self._count(grpc.StatusCode.OK)

    def _count(self, code: grpc.StatusCode) -> Callable[[], None]:
        count = self._counts[code] = self._handled.labels(*self._labels, CODE_LABELS[code]).inc
        return count

    def start(self) -> None:
        """A call came in, with its request."""
        self._started()
        self._received()

    def send(self) -> None:
        """A message went out."""
        self._sent()

    def finish(self, code: grpc.StatusCode, seconds: float) -> None:
        """The call ended."""
        (self._counts.get(code) or self._count(code))()
        self._observe(seconds)


class RpcMetrics:
    """The collectors of one RPC server."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.started = Counter("grpc_server_started", "RPCs started", _LABELS, registry=registry)
        self.handled = Counter("grpc_server_handled", "RPCs ended", (*_LABELS, "grpc_code"), registry=registry)
        self.received = Counter("grpc_server_msg_received", "Messages received", _LABELS, registry=registry)
        self.sent = Counter("grpc_server_msg_sent", "Messages sent", _LABELS, registry=registry)
        self.seconds = Histogram(
            "grpc_server_handling_seconds", "Duration of RPCs", _LABELS, buckets=LATENCY_BUCKETS, registry=registry
        )
        self.unary = Gauge("dunwell_rpc_unary_in_progress", "Unary RPCs in progress", registry=registry)
        self.streams = Gauge("dunwell_rpc_streams_open", "Streams open", registry=registry)
        self.background = Gauge("dunwell_rpc_background_tasks", "Server-owned tasks in progress", registry=registry)
        self.errors = Counter("dunwell_rpc_unexpected_errors", "Unexpected exceptions in RPCs", registry=registry)
        self.healthy = Gauge("dunwell_healthy", "1 while health says SERVING", registry=registry)

    def method(self, kind: str, service: str, method: str) -> MethodMetrics:
        """The metrics of one method; `kind` is `unary`, `server_stream` or `bidi_stream`."""
        return MethodMetrics(self, kind, service, method)


class Exporter:
    """The HTTP server that Prometheus scrapes, in a thread of its own."""

    def __init__(self, port: int, host: str = "127.0.0.1", registry: CollectorRegistry = REGISTRY) -> None:
        """Bind at once; OSError where the port is taken. Port 0 lets the system choose: see `port`."""
        server, thread = start_http_server(port, addr=host, registry=registry)
        self._server: WSGIServer = server
        self._thread: threading.Thread = thread
        self.port: int = server.server_port

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
