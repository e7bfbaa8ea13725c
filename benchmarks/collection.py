"""Collection: charges per second against a sandbox of 50 ms latency, beside the limit of the provider; reads meanwhile.

    python -m benchmarks.collection [--invoices 1500] [--limit 120] [--workers 1] [--latency 50] [--reads 50]

Every invoice is due at the same instant; real job workers drain them. Full size: `--invoices 20000`.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import httpx
import psycopg

from benchmarks import calls
from benchmarks.common import Figure, report
from benchmarks.package_run import queue_and_execute
from benchmarks.rpc_load import Answered, Load, repeat
from benchmarks.stack import BenchFirm, Stack, rpc_stack
from dunwell.v1 import admin_service_pb2, billing_service_pb2, provider_pb2
from dunwell_server.kernel.ids import Prefix, decode, encode

TARGET_RATIO = 0.9
TARGET_RATE = 100.0
CLIENTS = 1000
READ_TARGET_MS = 25.0
CONFIGURE = "/dunwell.v1.AdminService/ConfigureProvider"
_PATIENCE = 900.0

_ADD_CLIENT = """
INSERT INTO client (firm_id, id, name, currency_code, autopay_enabled, autopay_method_id, autopay_cadence, autopay_enable_time, payment_terms_days)
VALUES (%(firm)s, %(client)s, %(name)s, 'USD', true, %(method)s, 'IMMEDIATE', now(), 0)
"""
_ADD_CUSTOMER = """
INSERT INTO provider_customer (firm_id, client_id, account_id, provider, provider_reference)
VALUES (%(firm)s, %(client)s, %(account)s, 'sandbox', %(customer)s)
"""
_ADD_METHOD = """
INSERT INTO payment_method (firm_id, id, client_id, provider, account_id, mode, provider_reference, kind, brand, last4, exp_month, exp_year, fingerprint)
VALUES (%(firm)s, %(method)s, %(client)s, 'sandbox', %(account)s, 'TEST', %(reference)s, 'CARD', 'visa', '4242', 12, 2039, %(reference)s)
"""
_ENGAGEMENTS = """
INSERT INTO engagement (firm_id, id, client_id, name, pricing_mode, currency_code, start_date, end_date, fee_minor,
    billing_interval, anchor, timing, partial_periods, proration, line_description, billed_through_date, next_bill_date)
SELECT c.firm_id, gen_random_uuid(), c.id, c.name, 'PACKAGE', 'USD', %(day)s, NULL, 10000 + n, 'MONTHLY', 'START_DATE', 'IN_ADVANCE', 'PRORATE', '{}',
       'Monthly bookkeeping', %(day)s, %(day)s
FROM client c CROSS JOIN generate_series(1, %(each)s) n WHERE c.firm_id = %(firm)s AND c.id = ANY(%(clients)s)
"""
_DONE = """
SELECT count(*), min(finish_time), max(finish_time) FROM payment
WHERE firm_id = %(firm)s AND state = 'SUCCEEDED' AND create_time > %(since)s
"""
_ANY_INVOICE = "SELECT id FROM invoice WHERE firm_id = %(firm)s ORDER BY id LIMIT 1"
_TURNED_AWAY = "SELECT count(*) FROM attempt WHERE firm_id = %(firm)s AND send_count > 1"


@dataclass(frozen=True, slots=True)
class Drained:
    """One drain: charges per second from the first to the last, and what reads took meanwhile."""

    rate: float
    charges: int
    sent_again: int
    reads: Answered | None


class Bench:
    """One firm of an installation, whose clients have cards at its sandbox."""

    def __init__(self, stack: Stack, firm: BenchFirm) -> None:
        self._stack = stack
        self._firm = firm
        self.firm_id: UUID = decode(Prefix.FIRM, firm.id, "firm")
        self._clients: list[UUID] = []

    @cached_property
    def account(self) -> str:
        """The firm's account at the sandbox, which goes there by our id of it."""
        with psycopg.connect(self._stack.database.owner) as connection:
            found = connection.execute(
                "SELECT id FROM control.provider_account WHERE firm_id = %s AND provider = 'sandbox'", (self.firm_id,)
            ).fetchone()
        assert found is not None
        return encode(Prefix.PROVIDER_ACCOUNT, found[0])

    def control(self, path: str, **body: Any) -> None:
        """The sandbox's control side."""
        url = self._stack.environment["DUNWELL_SANDBOX_URL"]
        answer = httpx.post(f"{url}/control/{path}", json={"account": self.account, **body}, trust_env=False)
        answer.raise_for_status()

    def limit(self, rate: float | None) -> None:
        """Have the sandbox enforce a rate, and tell the installation of it."""
        self.control("settings", rate_limit_per_second=rate)
        request = admin_service_pb2.ConfigureProviderRequest(
            provider="sandbox", mode=provider_pb2.ACCOUNT_MODE_TEST, request_id=str(uuid4()),
            credentials={"rate_limit_per_second": f"{rate:g}" if rate else ""},
        )  # fmt: skip
        calls.call(self._stack.address, CONFIGURE, self._firm, request)

    async def add_clients(self, count: int) -> None:
        """Clients with autopay and a card of their own, made at the sandbox."""
        gate = asyncio.Semaphore(32)
        headers = {"authorization": f"Bearer sk_test_{self.account}"}
        base = self._stack.environment["DUNWELL_SANDBOX_URL"]
        async with httpx.AsyncClient(base_url=base, headers=headers, trust_env=False, timeout=60) as http:

            async def add(number: int) -> dict[str, Any]:
                async with gate:
                    customer = (await http.post("/v1/customers", json={"name": f"Client {number}"})).json()["id"]
                    body = {"customer": customer, "token": "pm_card_visa"}
                    method = (await http.post("/v1/payment_methods/attach", json=body)).json()["id"]
                return {
                    "firm": self.firm_id, "client": uuid4(), "method": uuid4(), "name": f"Client {number}", "customer": customer,
                    "reference": method,
                }  # fmt: skip

            rows = await asyncio.gather(*(add(number) for number in range(count)))
        with psycopg.connect(self._stack.database.owner) as connection:
            found = connection.execute(
                "SELECT id FROM control.provider_account WHERE firm_id = %s AND provider = 'sandbox'", (self.firm_id,)
            ).fetchone()
            assert found is not None
            for statement in (_ADD_CLIENT, _ADD_CUSTOMER, _ADD_METHOD):
                connection.cursor().executemany(statement, [{**row, "account": found[0]} for row in rows])
        self._clients = [row["client"] for row in rows]

    def make_due(self, count: int) -> None:
        """Invoices for the clients in turn, all due at once."""
        day = datetime.now(ZoneInfo("America/New_York")).date()
        each = -(-count // len(self._clients))
        values = {
            "firm": self.firm_id, "day": day, "each": each, "clients": self._clients[: -(-count // each)]
        }  # fmt: skip
        with psycopg.connect(self._stack.database.owner, autocommit=True) as connection:
            connection.execute(_ENGAGEMENTS, values)
            queue_and_execute(self._stack.database, self.firm_id, day)
            connection.execute("VACUUM (ANALYZE) client, invoice, payment_method, payment, attempt, collection_hold")

    def drain(self, *, workers: int, reads: float | None) -> Drained:
        """Start the job workers and wait until everything due is paid."""
        with psycopg.connect(self._stack.database.owner, autocommit=True) as connection, ThreadPoolExecutor(1) as pool:
            since = connection.execute("SELECT clock_timestamp()").fetchone()
            total = connection.execute(
                "SELECT count(*) FROM invoice WHERE firm_id = %s AND autopay_next_charge_time <= now()", (self.firm_id,)
            ).fetchone()
            assert since is not None
            assert total is not None
            values = {"firm": self.firm_id, "since": since[0]}
            with self._stack.job_workers(workers):
                self._wait(connection, values, 1)
                reading = (
                    None if reads is None else pool.submit(self._read, connection, reads, max(2.0, total[0] / 200))
                )
                self._wait(connection, values, total[0])
                answered = None if reading is None else reading.result()
            row = connection.execute(_DONE, values).fetchone()
            again = connection.execute(_TURNED_AWAY, values).fetchone()
        assert row is not None
        assert again is not None
        return Drained(row[0] / (row[2] - row[1]).total_seconds(), row[0], again[0], answered)

    def read_alone(self, rate: float, seconds: float) -> Answered:
        """The same reads with nothing else going on."""
        with psycopg.connect(self._stack.database.owner) as connection:
            return self._read(connection, rate, seconds)

    def _read(self, connection: psycopg.Connection[Any], rate: float, seconds: float) -> Answered:
        row = connection.execute(_ANY_INVOICE, {"firm": self.firm_id}).fetchone()
        assert row is not None
        request = billing_service_pb2.GetInvoiceRequest(invoice_id=encode(Prefix.INVOICE, row[0]))
        answer = calls.call(self._stack.address, calls.GET, self._firm, request)
        load = Load(self._stack.address, calls.GET, self._firm.metadata, [request.SerializeToString()])
        return repeat(load, len(answer) // 2, seconds=seconds, rate=rate)

    def _wait(self, connection: psycopg.Connection[Any], values: dict[str, Any], wanted: int) -> None:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            row = connection.execute(_DONE, values).fetchone()
            if row is not None and row[0] >= wanted:
                return
            time.sleep(0.5)
        raise RuntimeError("the drain did not come to its end")


def measure(stack: Stack, options: argparse.Namespace) -> list[Figure]:
    """The drain with the provider's limit, and the one without any, with reads beside it."""
    bench = Bench(stack, stack.firms[0])
    asyncio.run(bench.add_clients(min(CLIENTS, options.invoices)))
    bench.control("latency", ms=options.latency)
    bench.make_due(options.invoices)
    bench.limit(options.limit)
    limited = bench.drain(workers=options.workers, reads=None)
    print(
        f"limit {options.limit:g}/s: {limited.charges} charges, {limited.rate:.1f}/s, sent again {limited.sent_again}"
    )
    bench.limit(None)
    alone = bench.read_alone(options.reads, 3.0)
    bench.make_due(options.invoices)
    free = bench.drain(workers=options.workers, reads=options.reads)
    reads = free.reads
    assert reads is not None
    print(f"no limit: {free.charges} charges, {free.rate:.1f}/s; GetInvoice at {options.reads:g}/s: "
          f"p50 {reads.p50_ms:.1f} ms, p99 {reads.p99_ms:.1f} ms; alone p99 {alone.p99_ms:.1f} ms")  # fmt: skip
    name = f"collection, {options.latency:g} ms, {options.workers} worker{'s' if options.workers > 1 else ''}"
    return [
        Figure(f"{name}, of the provider's limit", limited.rate, options.limit, TARGET_RATIO, TARGET_RATE),
        Figure(
            f"{name}, no limit, GetInvoice meanwhile",
            free.rate,
            TARGET_RATE,
            1.0,
            TARGET_RATE,
            reads.p50_ms,
            reads.p99_ms,
            target_p99_ms=READ_TARGET_MS,
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> list[Figure]:
    """Measure, print, write `collection.json`."""
    parser = argparse.ArgumentParser(description="Charges per second, beside the provider's limit.")
    parser.add_argument("--invoices", type=int, default=1500)
    parser.add_argument("--limit", type=float, default=120.0, help="charges per second that the provider allows")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--latency", type=float, default=50.0, help="milliseconds of every call to the provider")
    parser.add_argument("--reads", type=float, default=50.0, help="GetInvoice calls per second during the drain")
    options = parser.parse_args(arguments)
    with rpc_stack() as stack:
        figures = measure(stack, options)
    report("Collection", figures, "collection.json")
    return figures


if __name__ == "__main__":
    main()
