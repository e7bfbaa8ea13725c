"""The sidecar's numbers, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from dunwell_server.platform.metrics import LATENCY_BUCKETS

NOBODY = "unknown"
"""The label of providers that the server does not know: what strangers put into a path must not become a time series."""


class SidecarMetrics:
    """Counts webhooks by provider and HTTP status, and how long they took."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._answers = Counter(
            "dunwell_webhooks", "Webhooks answered", ("provider", "status"), registry=registry
        )  # fmt: skip
        self._seconds = Histogram(
            "dunwell_webhook_seconds",
            "Duration of webhooks, from the first byte to the answer",
            ("provider",),
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self._duplicates = Counter(
            "dunwell_webhook_duplicates", "Webhooks stored before", ("provider",), registry=registry
        )
        self._bytes = Counter("dunwell_webhook_bytes", "Bytes of bodies taken in", registry=registry)
        self.in_progress = Gauge("dunwell_webhooks_in_progress", "Webhooks in progress", registry=registry)

    def answered(self, provider: str | None, status: int, seconds: float) -> None:
        """One webhook was answered; `provider` None: the server does not know it, or was not asked."""
        label = provider or NOBODY
        self._answers.labels(label, str(status)).inc()
        self._seconds.labels(label).observe(seconds)

    def stored(self, provider: str, size: int, *, duplicate: bool) -> None:
        """The server has taken one in, of so many bytes."""
        self._bytes.inc(size)
        if duplicate:
            self._duplicates.labels(provider).inc()
