"""What the benchmarks share: a migrated database of their own, and the table and JSON of their figures."""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg
from psycopg import conninfo, sql
from rich.console import Console
from rich.table import Table

from dunwell_server.platform import migrate
from dunwell_server.platform.embedded import EmbeddedPostgres

OUTPUT = Path(__file__).parents[1] / ".dunwell" / "bench"
_SECRET = b"the benchmarks' secret key bytes"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured rate beside its ceiling, both per second. Latencies in milliseconds, memory in MiB."""

    name: str
    rate: float
    ceiling: float
    target_ratio: float
    target_rate: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    memory_mib: float | None = None
    target_p99_ms: float | None = None

    @property
    def ratio(self) -> float:
        """The rate as a part of the ceiling."""
        return self.rate / self.ceiling if self.ceiling else 0.0

    @property
    def is_met(self) -> bool:
        """Whether every target is reached."""
        fast = self.target_rate is None or self.rate >= self.target_rate
        prompt = self.target_p99_ms is None or (self.p99_ms is not None and self.p99_ms <= self.target_p99_ms)
        return self.ratio >= self.target_ratio and fast and prompt


@dataclass(frozen=True, slots=True)
class BenchDatabase:
    """One database as its owner and the application reach it."""

    owner: str
    application: str


@contextmanager
def bench_database() -> Iterator[BenchDatabase]:
    """A fresh migrated database, dropped at the end: on the server of DUNWELL_OWNER_DATABASE_URL, else on an embedded one
    that keeps what it commits as in production."""
    server = os.environ.get("DUNWELL_OWNER_DATABASE_URL") or EmbeddedPostgres(OUTPUT / "cluster").start()
    name = f"bench_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        owner = conninfo.make_conninfo(server, dbname=name)
        urls = migrate.derived_urls(owner, _SECRET)
        try:
            migrate.migrate(owner, urls)
            yield BenchDatabase(owner, urls.application)
        finally:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def peak_memory_mib() -> float:
    """The most memory that this process has had resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which `part` (0 to 1) of the values lie; 0 for none."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=1000, method="inclusive")[min(998, max(0, round(part * 1000) - 1))]


def report(title: str, figures: Sequence[Figure], file_name: str) -> None:
    """Print the figures as a table and write them as JSON below `.dunwell/bench`."""
    table = Table(title=title)
    for heading in ("figure", "per second", "ceiling", "ratio", "target", "p50 ms", "p99 ms", "MiB", ""):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    for figure in figures:
        target = f"≥ {figure.target_ratio:.2f}" + (f", ≥ {figure.target_rate:,.0f}/s" if figure.target_rate else "")
        target += f", p99 ≤ {figure.target_p99_ms:g}" if figure.target_p99_ms else ""
        numbers = [f"{value:,.1f}" if value is not None else "–" for value in (figure.p50_ms, figure.p99_ms)]
        memory = f"{figure.memory_mib:,.0f}" if figure.memory_mib is not None else "–"
        table.add_row(
            figure.name, f"{figure.rate:,.0f}", f"{figure.ceiling:,.0f}", f"{figure.ratio:.2f}", target, *numbers, memory,
            "met" if figure.is_met else "missed",
        )  # fmt: skip
    Console(width=150).print(table)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    data = [{**asdict(figure), "ratio": figure.ratio, "met": figure.is_met} for figure in figures]
    (OUTPUT / file_name).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
