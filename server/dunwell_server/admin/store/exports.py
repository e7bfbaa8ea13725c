"""Reading a whole firm: counts, and the rows of each table as JSON text, through a cursor that keeps memory flat."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, Final

from psycopg import sql

from dunwell_server.admin.store.declared import FirmTable
from dunwell_server.platform.database import UnitOfWork

BATCH: Final = 500
WIDE_BATCH: Final = 16
"""Rows fetched at a time; fewer of tables whose rows may be large."""
# Whoever reads the stream slowly keeps the transaction idle meanwhile.
_PATIENCE: Final = """
SELECT set_config('statement_timeout', '1h', true), set_config('idle_in_transaction_session_timeout', '10min', true)
"""
_SNAPSHOT: Final = """
SELECT pg_current_snapshot()::text AS snapshot, transaction_timestamp() AS time, (SELECT version_num FROM alembic_version) AS revision,
       (SELECT state FROM control.test_clock WHERE firm_id = %(firm_id)s) AS clock
"""
_EXPORTED: Final = """
INSERT INTO control.firm_offboarding AS o (firm_id, export_time, export_snapshot, export_sha256)
VALUES (%(firm_id)s, %(time)s, %(snapshot)s, %(sha256)s)
ON CONFLICT (firm_id) DO UPDATE SET export_time = excluded.export_time, export_snapshot = excluded.export_snapshot,
    export_sha256 = excluded.export_sha256
WHERE o.export_time IS NULL OR o.export_time <= excluded.export_time
"""


async def begin(uow: UnitOfWork) -> dict[str, Any]:
    """Give the transaction time for a whole firm, and tell its snapshot, the moment, the schema's revision and the test clock's state."""
    await uow.execute(_PATIENCE)
    row = await uow.fetch_one(_SNAPSHOT, {"firm_id": uow.firm_id})
    assert row is not None
    return row


async def count(uow: UnitOfWork, tables: Sequence[FirmTable]) -> int:
    """All rows of the transaction's firm in these tables."""
    parts = [
        sql.SQL("(SELECT count(*) FROM {} WHERE {} = %(firm_id)s)").format(
            _relation(table), sql.Identifier(table.firm_column)
        )
        for table in tables
    ]
    return int(await uow.fetch_value(sql.SQL("SELECT ") + sql.SQL(" + ").join(parts), {"firm_id": uow.firm_id}))


async def rows(uow: UnitOfWork, table: FirmTable) -> AsyncIterator[list[str]]:
    """The firm's rows of a table, as JSON objects in the table's order, a batch at a time."""
    statement = sql.SQL(
        "SELECT row_to_json(x)::text FROM (SELECT {columns} FROM {table} WHERE {firm} = %(firm_id)s ORDER BY {order}) x"
    ).format(
        columns=sql.SQL(", ").join(map(sql.Identifier, table.columns)),
        table=_relation(table),
        firm=sql.Identifier(table.firm_column),
        order=sql.SQL(", ").join(map(sql.Identifier, table.order)),
    )
    async with uow.conn.cursor(name="firm_export") as cursor:
        await cursor.execute(statement, {"firm_id": uow.firm_id})
        while batch := await cursor.fetchmany(WIDE_BATCH if table.wide else BATCH):
            yield [row[0] for row in batch]


async def note(uow: UnitOfWork, time: datetime, snapshot: str, digest: bytes) -> None:
    """Keep the latest complete export of the firm: its moment, what was visible to it, and its hash."""
    values = {"firm_id": uow.firm_id, "time": time, "snapshot": snapshot, "sha256": digest}
    await uow.execute(_EXPORTED, values)


def _relation(table: FirmTable) -> sql.Identifier:
    return sql.Identifier(table.schema, table.relation)
