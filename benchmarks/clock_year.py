"""Twelve months of one firm on a test clock: every invoice of every client, billed, due, charged and paid.

    python -m benchmarks.clock_year [--clients 1000] [--months 12]

The clients pay by card at the sandbox, each billed monthly in advance. One job worker advances the clock.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Final
from uuid import uuid4

import psycopg

from benchmarks import calls
from benchmarks.collection import Bench
from benchmarks.common import Figure, report
from benchmarks.stack import BenchFirm, Stack, rpc_stack
from dunwell.v1 import admin_service_pb2

START: Final = date(2027, 1, 1)
TARGET_SECONDS: Final = 60.0
_CREATE = "/dunwell.v1.AdminService/CreateTestClock"
_ADVANCE = "/dunwell.v1.AdminService/AdvanceTestClock"
_PATIENCE = 900.0
_ENGAGEMENTS = """
INSERT INTO engagement (firm_id, id, client_id, name, pricing_mode, currency_code, start_date, fee_minor,
    billing_interval, anchor, timing, partial_periods, proration, line_description, billed_through_date, next_bill_date)
SELECT c.firm_id, gen_random_uuid(), c.id, c.name, 'PACKAGE', 'USD', %(day)s, 10000, 'MONTHLY', 'START_DATE', 'IN_ADVANCE', 'PRORATE',
       '{}', 'Monthly bookkeeping', %(day)s, %(day)s
FROM client c WHERE c.firm_id = %(firm)s AND c.autopay_enabled
"""
_STANDING = "SELECT state, now_time FROM control.test_clock WHERE firm_id = %(firm)s"
_TOLD = "SELECT count(*), count(*) FILTER (WHERE state = 'RECEIVED') FROM provider_event WHERE firm_id = %(firm)s"
_PAID = "SELECT count(*) FILTER (WHERE state = 'PAID'), count(*) FROM invoice WHERE firm_id = %(firm)s"


def measure(stack: Stack, clients: int, months: int) -> Figure:
    """Invoices per second of the whole way, beside those that the target asks for."""
    firm = stack.firms[0]
    bench = Bench(stack, firm)
    create = admin_service_pb2.CreateTestClockRequest(request_id=str(uuid4()))
    create.firm_time.FromDatetime(datetime(START.year, START.month, START.day, 6, tzinfo=UTC))
    calls.call(stack.address, _CREATE, firm, create)
    asyncio.run(bench.add_clients(clients))
    values = {"firm": bench.firm_id, "day": START}
    with psycopg.connect(stack.database.owner, autocommit=True) as connection:
        connection.execute(_ENGAGEMENTS, values)
        connection.execute("VACUUM (ANALYZE) client, engagement")
        with stack.job_workers(1):
            _wait_until_told(connection, values, clients)
            start = time.monotonic()
            _advance(stack, firm, months)
            _wait(connection, values)
            seconds = time.monotonic() - start
        row = connection.execute(_PAID, values).fetchone()
    assert row is not None
    print(f"{months} months of {clients} clients in {seconds:.1f} s: {row[0]} of {row[1]} invoices paid")
    if row[1] < clients * months:
        raise RuntimeError(f"only {row[1]} invoices were made")
    return Figure(f"{months} months of {clients:,} clients, invoices", row[1] / seconds, row[1] / TARGET_SECONDS, 1.0)


def _advance(stack: Stack, firm: BenchFirm, months: int) -> None:
    """Start the advance and leave it: the first message of the stream says that it is under way."""
    request = admin_service_pb2.AdvanceTestClockRequest(request_id=str(uuid4()))
    ahead = START.month - 1 + months
    request.target_time.FromDatetime(datetime(START.year + ahead // 12, ahead % 12 + 1, 1, 4, tzinfo=UTC))
    calls.first_of(stack.address, _ADVANCE, firm, request)


def _wait_until_told(
    connection: psycopg.Connection[tuple[object, ...]], values: dict[str, object], clients: int
) -> None:
    """What the set-up did at the sandbox, a customer and a card each, is told and applied before the clock is started."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        row = connection.execute(_TOLD, values).fetchone()
        if row is not None and row[0] >= 2 * clients and not row[1]:  # type: ignore[operator]
            return
        time.sleep(0.2)
    raise RuntimeError("the sandbox's events were not applied")


def _wait(connection: psycopg.Connection[tuple[object, ...]], values: dict[str, object]) -> None:
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        row = connection.execute(_STANDING, values).fetchone()
        if row is not None and row[0] == "READY":
            return
        time.sleep(0.2)
    raise RuntimeError("the clock did not come to its target")


def main(arguments: Sequence[str] | None = None) -> list[Figure]:
    """Measure, print, write `clock_year.json`."""
    parser = argparse.ArgumentParser(description="Months of a firm on a test clock.")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--months", type=int, default=12)
    options = parser.parse_args(arguments)
    with rpc_stack() as stack:
        figures = [measure(stack, options.clients, options.months)]
    report("A year on a test clock", figures, "clock_year.json")
    return figures


if __name__ == "__main__":
    main()
