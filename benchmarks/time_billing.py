"""One client with tens of thousands of approved entries: how long until they are on its invoice.

    python -m benchmarks.time_billing [--entries 30000]

Grouped by role (ten lines) and entry by entry (a line for each). The target is three seconds for either.
"""

from __future__ import annotations

import argparse
import asyncio
import time
import uuid
from collections.abc import Sequence
from datetime import date
from typing import Final

import psycopg

from benchmarks.common import BenchDatabase, Figure, bench_database, report
from benchmarks.package_run import bus
from benchmarks.package_seed import seed
from dunwell_server.billing.service.invoices import NewInvoice, create_invoice
from dunwell_server.billing.service.time_billing import TimeSource
from dunwell_server.platform.context import system_context
from dunwell_server.platform.database import Database

TARGET_SECONDS: Final = 3.0
_GROUPING = """
UPDATE engagement SET time_grouping = %(grouping)s WHERE firm_id = %(firm)s AND id = (SELECT min(id::text)::uuid FROM engagement
    WHERE firm_id = %(firm)s AND pricing_mode = 'MIXED') RETURNING id, client_id
"""
_ENTRIES = """
INSERT INTO time_entry (firm_id, id, client_id, engagement_id, person, role, work_date, minutes, description, state, submit_actor,
    submit_time, approve_actor, approve_time)
SELECT %(firm)s, gen_random_uuid(), %(client)s, %(engagement)s, 'Person ' || n %% 40, 'Role ' || n %% 10, date '2026-02-01' + n %% 28,
       7 + n %% 90, 'Work on matter ' || n, 'APPROVED', 'ann', now(), 'bob', now()
FROM generate_series(1, %(entries)s) n
"""


def measure(database: BenchDatabase, grouping: str, entries: int) -> Figure:
    """Entries per second, beside those that the target asks for."""
    firm = seed(database, 10)
    with psycopg.connect(database.owner, autocommit=True) as connection:
        row = connection.execute(_GROUPING, {"firm": firm, "grouping": grouping}).fetchone()
        assert row is not None
        engagement, client = row
        # Time is entered as a draft and approved later: here it begins where billing finds it.
        connection.execute("SET session_replication_role = replica")
        values = {"firm": firm, "client": client, "engagement": engagement, "entries": entries}
        connection.execute(_ENTRIES, values)
        connection.execute("VACUUM (ANALYZE) time_entry")
    seconds, lines = asyncio.run(_bill(database, firm, client, engagement))
    print(f"{entries:,} entries by {grouping.lower()} on {lines:,} lines: {seconds:.2f} s")
    return Figure(
        f"time of one client by {grouping.lower()}, entries", entries / seconds, entries / TARGET_SECONDS, 1.0
    )


async def _bill(
    database: BenchDatabase, firm: uuid.UUID, client: uuid.UUID, engagement: uuid.UUID
) -> tuple[float, int]:
    connected = await Database.open(database.application, bus=bus(), max_size=1)
    new = NewInvoice(client, time=[TimeSource(engagement, date(2026, 3, 1))])
    context = system_context(firm, "bench")
    start = time.perf_counter()
    invoice = await connected.run(context, lambda uow: create_invoice(uow, new, finalize=True))
    seconds = time.perf_counter() - start
    await connected.close()
    return seconds, len(invoice.lines)


def main(arguments: Sequence[str] | None = None) -> list[Figure]:
    """Measure, print, write `time_billing.json`."""
    parser = argparse.ArgumentParser(description="One client's time on one invoice.")
    parser.add_argument("--entries", type=int, default=30_000)
    options = parser.parse_args(arguments)
    with bench_database() as database:
        figures = [measure(database, grouping, options.entries) for grouping in ("ROLE", "ENTRY")]
    report("Time of one client", figures, "time_billing.json")
    return figures


if __name__ == "__main__":
    main()
