"""The billing run: invoices per second, beside sessions that insert the same rows into the same tables.

    python -m benchmarks.package_run [--sizes 1000,10000,100000] [--workers 1,2] [--samples 1] [--plain]

What is billed is in `package_seed`; the ceiling is `package_ceiling`. With `--plain` packages alone.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from multiprocessing.synchronize import Barrier
from typing import Any

import psycopg

from benchmarks.common import BenchDatabase, Figure, bench_database, peak_memory_mib, percentile, report
from benchmarks.package_ceiling import copied, insert, stage
from benchmarks.package_seed import AS_OF, seed
from dunwell_server.billing.jobs import PackageRunExecutor
from dunwell_server.billing.jobs.package_run import LANES
from dunwell_server.billing.ports import CollectionPlanner, TaxCalculator
from dunwell_server.billing.service.tax_rates import TableTaxCalculator
from dunwell_server.payments.planning import Planner
from dunwell_server.platform import runs
from dunwell_server.platform.context import system_context
from dunwell_server.platform.database import Database
from dunwell_server.platform.domain_events import Bus
from dunwell_server.platform.runs import Run, RunKind

TARGET_RATIO = 0.5
TARGET_RATE = 5_000.0


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """What a worker process measured: its span on the machine's clock, its chunks in milliseconds, its memory in MiB."""

    start: float
    end: float
    chunks_ms: list[float]
    memory_mib: float


class _TimedDatabase(Database):
    """Notes how long each transaction took."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.spans_ms: list[float] = []

    async def run(self, *args: Any, **options: Any) -> Any:
        """As in `Database`."""
        start = time.perf_counter()
        try:
            return await super().run(*args, **options)
        finally:
            self.spans_ms.append((time.perf_counter() - start) * 1000)


def bus() -> Bus:
    """What a run needs of the contexts above billing."""
    made = Bus()
    made.provide(CollectionPlanner, Planner())  # type: ignore[type-abstract]
    made.provide(TaxCalculator, TableTaxCalculator())  # type: ignore[type-abstract]
    return made


async def _queue(database: Database, firm: uuid.UUID) -> Run:
    async with database.transaction(system_context(firm, "bench")) as uow:
        return await runs.create(
            uow, RunKind.PACKAGES, {"as_of": AS_OF.isoformat()}, dry_run=False, run_id=uuid.uuid4()
        )


def queue_and_execute(database: BenchDatabase, firm: uuid.UUID, day: date) -> None:
    """One package run as of `day`, in this process."""

    async def main() -> None:
        connected = await Database.open(database.application, bus=bus(), max_size=LANES)
        context = system_context(firm, "job:packages")
        async with connected.transaction(context) as uow:
            run = await runs.create(
                uow, RunKind.PACKAGES, {"as_of": day.isoformat()}, dry_run=False, run_id=uuid.uuid4()
            )
        await PackageRunExecutor(lanes=LANES).execute(connected, context, run)
        await connected.close()

    asyncio.run(main())


def work(url: str, firm: uuid.UUID, run_id: uuid.UUID, lanes: int, barrier: Barrier) -> WorkerReport:
    """One worker process: execute the run once all are ready."""

    async def main() -> WorkerReport:
        database = await _TimedDatabase.open(url, bus=bus(), max_size=lanes)
        context = system_context(firm, "job:packages")
        async with database.transaction(context) as uow:
            run = await runs.get(uow, run_id)
        await asyncio.to_thread(barrier.wait)
        start = time.time()
        await PackageRunExecutor(lanes=lanes).execute(database, context, run)
        end = time.time()
        assert isinstance(database, _TimedDatabase)
        await database.close()
        return WorkerReport(start, end, database.spans_ms, peak_memory_mib())

    return asyncio.run(main())


def measure_run(database: BenchDatabase, firm: uuid.UUID, size: int, workers: int) -> tuple[float, list[WorkerReport]]:
    """Invoices per second of `workers` processes on one run, and their reports."""

    async def queue() -> Run:
        connected = await Database.open(database.application, max_size=1)
        run = await _queue(connected, firm)
        await connected.close()
        return run

    run = asyncio.run(queue())
    spawn = multiprocessing.get_context("spawn")
    with spawn.Manager() as manager, spawn.Pool(workers) as pool:
        barrier = manager.Barrier(workers)
        reports = pool.starmap(
            work, [(database.application, firm, run.id, LANES if workers == 1 else 1, barrier)] * workers, chunksize=1
        )
    _check(database, firm, size)
    return size / (max(r.end for r in reports) - min(r.start for r in reports)), reports


def _check(database: BenchDatabase, firm: uuid.UUID, size: int) -> None:
    """A rate counts only if the work was done."""
    with psycopg.connect(database.owner) as connection:
        row = connection.execute(
            "SELECT count(*), count(DISTINCT engagement_id), max(series_no) FROM invoice WHERE firm_id = %s", (firm,)
        ).fetchone()
    if row != (size, size, size):
        raise RuntimeError(f"there are (invoices, engagements, last number) {row} of {size}")


def measure(size: int, workers: int, *, rich: bool) -> Figure:
    """The run beside its ceiling, which inserts the same rows into a copy of the same database."""
    with bench_database() as database:
        firm = seed(database, size, rich=rich)
        with copied(database) as copy:
            rate, reports = measure_run(database, firm, size, workers)
            chunks = stage(database, copy, firm)
            ceiling = size / insert(copy, firm, chunks, max(workers, LANES))
            _check(copy, firm, size)
    spans = [span for report in reports for span in report.chunks_ms]
    what = "packages, retainers, tax, coupons, credit" if rich else "packages alone"
    return Figure(
        f"billing run, {what}, {size:,} engagements, {workers} worker{'s' if workers > 1 else ''}",
        rate,
        ceiling,
        TARGET_RATIO,
        TARGET_RATE if workers > 1 and size >= 10_000 else None,
        percentile(spans, 0.5),
        percentile(spans, 0.99),
        max(report.memory_mib for report in reports),
    )


def main(arguments: Sequence[str] | None = None) -> list[Figure]:
    """Measure, print, write `package_run.json`."""
    parser = argparse.ArgumentParser(description="Invoices per second of the package run, beside plain SQL.")
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--samples", type=int, default=1, help="repetitions; the median ratio's sample is reported")
    parser.add_argument("--plain", action="store_true", help="packages alone")
    options = parser.parse_args(arguments)
    figures = []
    for size in map(int, options.sizes.split(",")):
        for workers in map(int, options.workers.split(",")):
            samples = sorted(
                (measure(size, workers, rich=not options.plain) for _ in range(options.samples)),
                key=lambda figure: figure.ratio,
            )
            figures.append(samples[len(samples) // 2])
    report("Package run", figures, "package_run.json")
    return figures


if __name__ == "__main__":
    main()
