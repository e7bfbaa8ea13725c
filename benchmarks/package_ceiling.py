"""The ceiling of the billing run: sessions that insert the very rows of a run, staged beforehand, by INSERT … SELECT.

The rows that a run wrote are copied out of its database, in chunks of a thousand invoices, and put into one that was copied before the run.
Row security, constraints and triggers are on there as for the run. The sessions claim nothing, compute nothing and report no progress.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import conninfo, sql

from benchmarks.common import BenchDatabase
from dunwell_server.billing.store.package_due import READ_BY_INDEX

CHUNK: Final = 1_000

_CHUNKS = """
CREATE UNLOGGED TABLE staged_chunk AS
SELECT id AS invoice_id, ((row_number() OVER (ORDER BY series_no) - 1) / %(size)s)::int AS chunk FROM invoice WHERE firm_id = %(firm)s
"""
# How the rows of a table belong to invoices, in an order that foreign keys allow. What belongs to none goes with the first chunk.
_BY_ID = "JOIN staged_chunk c ON c.invoice_id = t.{}"
_BY_TEXT = "LEFT JOIN staged_chunk c ON c.invoice_id = t.object_id"
_USES = "LEFT JOIN credit_use u ON u.firm_id = t.firm_id AND u.id = t.source_id"
INSERTED: Final[dict[str, str]] = {
    "invoice_time": _BY_ID.format("invoice_id"),
    "invoice_time_period": _BY_ID.format("invoice_id"),
    "allowance_use": _BY_ID.format("invoice_id"),
    "ledger_posting": f"{_USES} JOIN staged_chunk c ON c.invoice_id = coalesce(u.invoice_id, t.source_id)",
    "ledger_entry": "JOIN staged_ledger_posting c ON c.id = t.posting_id",
    "audit_event": _BY_TEXT,
    "event": _BY_TEXT,
    "run_item": "JOIN staged_chunk c ON c.invoice_id = (t.detail ->> 'invoice_id')::uuid",
    "invoice": _BY_ID.format("id"),
    "credit_use": _BY_ID.format("invoice_id"),
    "invoice_line": _BY_ID.format("invoice_id"),
    "invoice_line_tax": _BY_ID.format("invoice_id"),
    "invoice_discount": _BY_ID.format("invoice_id"),
    "coverage": _BY_ID.format("invoice_id"),
    "revenue_schedule": _BY_ID.format("invoice_id"),
}
UPDATED: Final[dict[str, str]] = {
    "engagement": "JOIN invoice i ON i.firm_id = t.firm_id AND i.engagement_id = t.id JOIN staged_chunk c ON c.invoice_id = i.id",
    "time_entry": _BY_ID.format("invoice_id"),
    "coupon_redemption": (
        "JOIN invoice_discount d ON d.firm_id = t.firm_id AND d.redemption_id = t.id JOIN staged_chunk c ON c.invoice_id = d.invoice_id"
    ),
}
_UPDATES: Final = (
    """
UPDATE engagement e SET billed_through_date = s.billed_through_date, next_bill_date = s.next_bill_date, version = s.version,
    update_time = s.update_time FROM staged_engagement s WHERE s.chunk = %(chunk)s AND e.firm_id = s.firm_id AND e.id = s.id
""",
    """
UPDATE coupon_redemption e SET periods_used = s.periods_used, update_time = s.update_time
FROM staged_coupon_redemption s WHERE s.chunk = %(chunk)s AND e.firm_id = s.firm_id AND e.id = s.id
""",
)
# An invoice and its entries say of each other that they belong together, in one statement.
_TIME: Final = """
WITH held AS (INSERT INTO invoice_time ({names}) SELECT {names} FROM staged_invoice_time WHERE chunk = %(chunk)s)
UPDATE time_entry e SET state = s.state, invoice_id = s.invoice_id, version = s.version, update_time = s.update_time
FROM staged_time_entry s WHERE s.chunk = %(chunk)s AND e.firm_id = s.firm_id AND e.id = s.id
"""
_COLUMNS = """
SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' AND table_name = %s AND is_generated = 'NEVER'
  AND is_identity = 'NO' AND data_type <> 'xid8' ORDER BY ordinal_position
"""


@contextmanager
def copied(database: BenchDatabase) -> Iterator[BenchDatabase]:
    """A copy of the database as it stands, dropped at the end. Nobody may be connected to the original meanwhile."""
    name = f"bench_{uuid.uuid4().hex[:12]}"
    original = conninfo.conninfo_to_dict(database.owner)["dbname"]
    server = conninfo.make_conninfo(database.owner, dbname="postgres")
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(str(original)))
        )
        try:
            yield BenchDatabase(
                conninfo.make_conninfo(database.owner, dbname=name),
                conninfo.make_conninfo(database.application, dbname=name),
            )
        finally:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def stage(ran: BenchDatabase, into: BenchDatabase, firm: uuid.UUID) -> int:
    """Bring what the firm's run has written into the other database, and keep it by chunk; the number of chunks."""
    with psycopg.connect(ran.owner, autocommit=True) as source, psycopg.connect(into.owner, autocommit=True) as target:
        source.execute(_CHUNKS, {"firm": firm, "size": CHUNK})
        row = source.execute("SELECT max(chunk) + 1 FROM staged_chunk").fetchone()
        for table, joined in {**INSERTED, **UPDATED}.items():
            staged = f"staged_{table}"
            source.execute(
                f"CREATE UNLOGGED TABLE {staged} AS SELECT DISTINCT ON (t.*) coalesce(c.chunk, 0) AS chunk, t.* FROM {table} t {joined}"
                " WHERE t.firm_id = %s".encode(), (firm,),
            )  # fmt: skip
            target.execute(f"CREATE UNLOGGED TABLE {staged} AS SELECT 0 AS chunk, t.* FROM {table} t LIMIT 0".encode())
            with (
                target.cursor().copy(f"COPY {staged} FROM STDIN (FORMAT binary)".encode()) as inward,
                source.cursor().copy(f"COPY {staged} TO STDOUT (FORMAT binary)".encode()) as outward,
            ):
                for data in outward:
                    inward.write(data)
            target.execute(f"CREATE INDEX ON {staged} (chunk)".encode())
            target.execute(f"GRANT ALL ON {staged} TO dunwell_app".encode())
        target.execute("VACUUM (ANALYZE)")
        target.execute("CHECKPOINT")
    assert row is not None
    return int(row[0])


def _insert(table: str, names: str) -> str:
    if table == "invoice_time":
        return _TIME.format(names=names)
    return f"INSERT INTO {table} ({names}) SELECT {names} FROM staged_{table} WHERE chunk = %(chunk)s"


def insert(database: BenchDatabase, firm: uuid.UUID, chunks: int, connections: int) -> float:
    """Seconds that `connections` sessions take to insert all chunks."""
    with psycopg.connect(database.owner) as connection:
        columns = {
            table: ", ".join(name for (name,) in connection.execute(_COLUMNS, (table,)).fetchall())
            for table in INSERTED
        }
    statements = [_insert(table, names) for table, names in columns.items()]
    statements += _UPDATES

    def work(worker: int) -> None:
        with psycopg.connect(database.application, autocommit=True) as connection:
            connection.prepare_threshold = 2
            for chunk in range(worker, chunks, connections):
                params: dict[str, Any] = {"chunk": chunk}
                with connection.pipeline(), connection.transaction():
                    connection.execute("SELECT set_config('app.firm_id', %s, true)", (str(firm),))
                    connection.execute(READ_BY_INDEX.encode())
                    for statement in statements:
                        connection.execute(statement.encode(), params)

    start = time.perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(work, range(connections)))
    return time.perf_counter() - start
