"""Prometheus metrics: the RPC server's, under the names of go-grpc-middleware, and the process's own.

Dashboards and alerts made for any other gRPC server work as they are. The exporter is an HTTP server on loopback.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable
from itertools import accumulate
from wsgiref.simple_server import WSGIServer

import grpc
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, start_http_server
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
LAG_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)

_LABELS = ("grpc_type", "grpc_service", "grpc_method")

CODE_LABELS: dict[grpc.StatusCode, str] = {
    code: "OK" if code is grpc.StatusCode.OK else "".join(part.capitalize() for part in code.name.split("_"))
    for code in grpc.StatusCode
}
CODE_LABELS[grpc.StatusCode.CANCELLED] = "Canceled"  # the spelling of Go, whose names these are


class MethodMetrics:
    """The numbers of one method: plain integers, since one loop counts and only a scrape reads them."""

    __slots__ = ("buckets", "codes", "labels", "sent", "started", "total")

    def __init__(self, kind: str, service: str, method: str) -> None:
        self.labels = (kind, service, method)
        self.started = 0
        self.sent = 0
        self.codes: dict[grpc.StatusCode, int] = {grpc.StatusCode.OK: 0}
        self.buckets = [0] * (len(LATENCY_BUCKETS) + 1)
        self.total = 0.0

    def start(self) -> None:
        """A call came in, with its request."""
        self.started += 1

    def send(self) -> None:
        """A message went out."""
        self.sent += 1

    def finish(self, code: grpc.StatusCode, seconds: float) -> None:
        """The call ended."""
        self.codes[code] = self.codes.get(code, 0) + 1
        self.buckets[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        self.total += seconds


class RpcMetrics(Collector):
    """The collector of one RPC server. Methods count in their own integers, which a scrape turns into samples."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._methods: dict[tuple[str, str, str], MethodMetrics] = {}
        self.errors = Counter("dunwell_rpc_unexpected_errors", "Unexpected exceptions in RPCs", registry=registry)
        self.healthy = Gauge("dunwell_healthy", "1 while health says SERVING", registry=registry)
        self._gauges = {
            name: Gauge(f"dunwell_rpc_{name}", text, registry=registry)
            for name, text in (
                ("unary_in_progress", "Unary RPCs in progress"),
                ("streams_open", "Streams open"),
                ("plain_streams_open", "Health and reflection streams open"),
                ("background_tasks", "Server-owned tasks in progress"),
            )
        }
        registry.register(self)

    def gauge(self, name: str, value: Callable[[], float]) -> None:
        """Have a gauge (`unary_in_progress`, `streams_open`, …) read from `value` at each scrape."""
        self._gauges[name].set_function(value)

    def method(self, kind: str, service: str, method: str) -> MethodMetrics:
        """The metrics of one method; `kind` is `unary`, `server_stream` or `bidi_stream`."""
        return self._methods.setdefault((kind, service, method), MethodMetrics(kind, service, method))

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not collect."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """The samples, under the names of go-grpc-middleware."""
        started = CounterMetricFamily("grpc_server_started", "RPCs started", labels=_LABELS)
        handled = CounterMetricFamily("grpc_server_handled", "RPCs ended", labels=(*_LABELS, "grpc_code"))
        received = CounterMetricFamily("grpc_server_msg_received", "Messages received", labels=_LABELS)
        sent = CounterMetricFamily("grpc_server_msg_sent", "Messages sent", labels=_LABELS)
        seconds = HistogramMetricFamily("grpc_server_handling_seconds", "Duration of RPCs", labels=_LABELS)
        for method in list(self._methods.values()):
            labels = method.labels
            started.add_metric(labels, method.started)
            received.add_metric(labels, method.started)
            sent.add_metric(labels, method.sent)
            for code, count in list(method.codes.items()):
                handled.add_metric((*labels, CODE_LABELS[code]), count)
            bounds = [*(str(bound) for bound in LATENCY_BUCKETS), "+Inf"]
            seconds.add_metric(labels, list(zip(bounds, accumulate(method.buckets), strict=True)), method.total)
        return started, handled, received, sent, seconds


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
