"""The package run: invoices per second, beside a plain SQL script that inserts the same rows into the same tables.

    python -m benchmarks.package_run [--sizes 1000,10000,100000] [--workers 1,2] [--samples 1]

A firm has as many engagements as clients: mostly monthly, mostly with one period due, half on autopay. Row security is
on, as for any application role. The ceiling has its rows staged beforehand and its numbers given; it claims nothing, reads
nothing, and reports no progress.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from multiprocessing.synchronize import Barrier
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from benchmarks.common import BenchDatabase, Figure, bench_database, peak_memory_mib, percentile, report
from dunwell_server.billing.jobs import PackageExecution, PackageRunExecutor
from dunwell_server.billing.jobs.package_run import CHUNK_SIZE, LANES
from dunwell_server.billing.ports import CollectionPlanner
from dunwell_server.billing.store import package_due, package_stage
from dunwell_server.payments.planning import Planner
from dunwell_server.platform import runs
from dunwell_server.platform.context import system_context
from dunwell_server.platform.database import Database
from dunwell_server.platform.domain_events import Bus
from dunwell_server.platform.firms import FirmSettings
from dunwell_server.platform.runs import Run, RunKind

AS_OF = date(2026, 3, 1)
TARGET_RATIO = 0.5
TARGET_RATE = 5_000.0

_CLIENTS = """
INSERT INTO client (firm_id, id, name, currency_code, autopay_enabled, autopay_method_id, autopay_enable_time)
SELECT %(firm)s, ('018f0000-' || lpad(to_hex(n >> 16), 4, '0') || '-7' || lpad(to_hex(n & 4095), 3, '0') || '-8000-'
       || substr(md5(n || 'client' || %(firm)s), 1, 12))::uuid,
       'Client ' || n, 'USD', n %% 2 = 0, CASE WHEN n %% 2 = 0 THEN gen_random_uuid() END,
       CASE WHEN n %% 2 = 0 THEN '2025-06-15T00:00:00Z'::timestamptz END
FROM generate_series(1, %(size)s) n
"""
_ENGAGEMENTS = """
INSERT INTO engagement (firm_id, id, client_id, name, pricing_mode, currency_code, start_date, end_date, fee_minor,
    billing_interval, anchor, timing, partial_periods, proration, line_description, billed_through_date, next_bill_date)
SELECT firm_id, overlay(id::text placing '9' from 20 for 1)::uuid, id, name, 'PACKAGE', 'USD', start_date, end_date,
       10000 + n %% 5000, every, anchor, 'IN_ADVANCE', 'PRORATE', '{}', 'Monthly bookkeeping', start_date, start_date
FROM (SELECT c.*, split_part(name, ' ', 2)::int AS n FROM client c WHERE firm_id = %(firm)s) c
CROSS JOIN LATERAL (SELECT CASE WHEN n %% 20 < 15 THEN 'MONTHLY' WHEN n %% 20 < 18 THEN 'QUARTERLY' ELSE 'YEARLY' END AS every,
    CASE WHEN n %% 10 = 9 THEN date '2026-02-01' WHEN n %% 10 = 8 THEN date '2026-02-12' ELSE date '2026-03-01' END AS start_date,
    CASE WHEN n %% 10 = 8 THEN 'CALENDAR' ELSE 'START_DATE' END AS anchor,
    CASE WHEN n %% 50 = 7 THEN date '2026-03-20' END AS end_date) d
"""


# The staged rows of the ceiling, kept by chunk. Only the benchmark's own database has them.
_STAGED = """
CREATE UNLOGGED TABLE IF NOT EXISTS staged_invoice AS SELECT 0 AS chunk, s.* FROM pg_temp.package_invoice_stage_1 s LIMIT 0;
CREATE UNLOGGED TABLE IF NOT EXISTS staged_line AS SELECT 0 AS chunk, s.* FROM pg_temp.package_line_stage_1 s LIMIT 0;
CREATE INDEX IF NOT EXISTS staged_invoice_idx ON staged_invoice (chunk);
CREATE INDEX IF NOT EXISTS staged_line_idx ON staged_line (chunk);
TRUNCATE staged_invoice, staged_line;
GRANT ALL ON staged_invoice, staged_line TO dunwell_app;
"""
_KEEP = (
    "INSERT INTO staged_invoice SELECT %(chunk)s, s.* FROM pg_temp.package_invoice_stage_1 s",
    "INSERT INTO staged_line SELECT %(chunk)s, s.* FROM pg_temp.package_line_stage_1 s",
)
_INVOICE_COLUMNS = (
    "position, id, trace_id, paid_id, engagement_id, client_id, currency_code, due_date, line_count, total, in_advance, "
    "autopay_enabled, autopay_status, autopay_cadence, autopay_method_id, next_charge_time, billed_through, next_bill, summary"
)
_LINE_COLUMNS = (
    "invoice_id, engagement_id, line_no, description, amount_minor, digits, period_start, period_end, in_advance"
)
_UNPACK = (
    f"INSERT INTO pg_temp.package_invoice_stage_1 SELECT {_INVOICE_COLUMNS} FROM staged_invoice WHERE chunk = %(chunk)s",
    f"INSERT INTO pg_temp.package_line_stage_1 SELECT {_LINE_COLUMNS} FROM staged_line WHERE chunk = %(chunk)s",
)


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


def _bus() -> Bus:
    bus = Bus()
    bus.provide(CollectionPlanner, Planner())  # type: ignore[type-abstract]
    return bus


def seed(database: BenchDatabase, size: int) -> uuid.UUID:
    """A firm with `size` clients and engagements."""
    firm = uuid.uuid4()
    with psycopg.connect(database.owner, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO control.firm (id, display_name, mode, settings) VALUES (%s, %s, %s, %s)",
            (firm, "Bench", "TEST", Jsonb(FirmSettings().to_json())),
        )
        connection.execute(_CLIENTS, {"firm": firm, "size": size})
        connection.execute(_ENGAGEMENTS, {"firm": firm, "size": size})
        connection.execute("VACUUM (ANALYZE) client, engagement")
        connection.execute("CHECKPOINT")
    return firm


async def _queue(database: Database, firm: uuid.UUID) -> Run:
    async with database.transaction(system_context(firm, "bench")) as uow:
        return await runs.create(
            uow, RunKind.PACKAGES, {"as_of": AS_OF.isoformat()}, dry_run=False, run_id=uuid.uuid4()
        )


def queue_and_execute(database: BenchDatabase, firm: uuid.UUID, day: date) -> None:
    """One package run as of `day`, in this process."""

    async def main() -> None:
        connected = await Database.open(database.application, bus=_bus(), max_size=LANES)
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
        database = await _TimedDatabase.open(url, bus=_bus(), max_size=lanes)
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


def _check(database: BenchDatabase, firm: uuid.UUID, size: int, *, in_one_series: bool = True) -> None:
    """A rate counts only if the work was done."""
    with psycopg.connect(database.owner) as connection:
        row = connection.execute(
            "SELECT count(*), count(DISTINCT engagement_id), max(series_no) FROM invoice WHERE firm_id = %s", (firm,)
        ).fetchone()
    assert row is not None
    if row[:2] != (size, size) or (in_one_series and row[2] != size):
        raise RuntimeError(f"there are (invoices, engagements, last number) {row} of {size}")


def stage(database: BenchDatabase, firm: uuid.UUID) -> int:
    """Compute the firm's invoices and keep what would be staged; the number of chunks."""

    async def main() -> int:
        connected = await Database.open(database.application, bus=_bus(), max_size=1)
        run = await _queue(connected, firm)
        execution = PackageExecution(connected, system_context(firm, "bench"), run, CHUNK_SIZE)
        after = package_due.FIRST
        for chunk in itertools.count():
            async with connected.transaction(system_context(firm, "bench")) as uow:
                due = await package_due.page(uow, execution.scope, after, CHUNK_SIZE)
                if not due:
                    break
                after = due[-1].position
                await package_stage.stage(uow, (await execution.compute(uow, due)).invoices)
                for statement in _KEEP:
                    await uow.execute(statement, {"chunk": chunk})
        await connected.close()
        return chunk

    with psycopg.connect(database.owner, autocommit=True) as connection:
        for statement in (*package_stage.STAGES, *_STAGED.strip().split(";")):
            if statement.strip():
                connection.execute(statement.encode())
    chunks = asyncio.run(main())
    with psycopg.connect(database.owner, autocommit=True) as connection:
        connection.execute("ANALYZE staged_invoice, staged_line")
        connection.execute("CHECKPOINT")
    return chunks


def measure_ceiling(database: BenchDatabase, firm: uuid.UUID, size: int, connections: int) -> float:
    """Invoices per second of `connections` sessions that insert staged rows, their numbers given."""
    chunks = stage(database, firm)
    run_id = uuid.uuid4()

    def insert(worker: int) -> None:
        script = (
            package_due.READ_BY_INDEX,
            *package_stage.STAGES,
            *_UNPACK,
            *package_stage.UNNUMBERED,
            *package_stage.NUMBERED,
        )
        # A series of its own: no session waits for another's numbers.
        params: dict[str, Any] = {
            "firm_id": firm, "now": "2026-03-01T00:00:00Z", "run_id": run_id, "issue_date": AS_OF, "count": CHUNK_SIZE,
            "series": f"CEILING-{worker}", "padding": 6, "actor": "bench", "role": "SYSTEM", "method": "bench",
            "request_id": None,
        }  # fmt: skip
        with psycopg.connect(database.application, autocommit=True) as connection:
            connection.prepare_threshold = 2
            for chunk in range(worker, chunks, connections):
                with connection.pipeline(), connection.transaction():
                    connection.execute("SELECT set_config('app.firm_id', %s, true)", (str(firm),))
                    for statement in script:
                        connection.execute(statement.encode(), params | {"chunk": chunk})

    start = time.perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(insert, range(connections)))
    rate = size / (time.perf_counter() - start)
    _check(database, firm, size, in_one_series=False)
    return rate


def measure(size: int, workers: int) -> Figure:
    """The run beside its ceiling, each on a firm of its own in one fresh database."""
    with bench_database() as database:
        ceiling = measure_ceiling(database, seed(database, size), size, max(workers, LANES))
        rate, reports = measure_run(database, seed(database, size), size, workers)
    chunks = [span for report in reports for span in report.chunks_ms]
    return Figure(
        f"package run, {size:,} engagements, {workers} worker{'s' if workers > 1 else ''}",
        rate,
        ceiling,
        TARGET_RATIO,
        TARGET_RATE if workers > 1 and size >= 10_000 else None,
        percentile(chunks, 0.5),
        percentile(chunks, 0.99),
        max(report.memory_mib for report in reports),
    )


def main(arguments: Sequence[str] | None = None) -> list[Figure]:
    """Measure, print, write `package_run.json`."""
    parser = argparse.ArgumentParser(description="Invoices per second of the package run, beside plain SQL.")
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--samples", type=int, default=1, help="repetitions; the median ratio's sample is reported")
    options = parser.parse_args(arguments)
    figures = []
    for size in map(int, options.sizes.split(",")):
        for workers in map(int, options.workers.split(",")):
            samples = sorted((measure(size, workers) for _ in range(options.samples)), key=lambda figure: figure.ratio)
            figures.append(samples[len(samples) // 2])
    report("Package run", figures, "package_run.json")
    return figures


if __name__ == "__main__":
    main()
