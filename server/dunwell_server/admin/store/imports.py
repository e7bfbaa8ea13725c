"""Imports' SQL: the pieces of a file until it is complete, and its rows into the firm's tables."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from psycopg import sql

from dunwell_server.admin.store.declared import FirmTable
from dunwell_server.platform.database import Row, UnitOfWork

KEPT: Final = timedelta(days=7)
"""For how long a file that nobody goes on with is kept."""
_COLUMNS: Final = "id, firm_id, state, sha256, size_bytes, received_bytes, create_time"
_FORGET_CHUNKS: Final = """
DELETE FROM control.firm_import_chunk WHERE import_id IN (
    SELECT id FROM control.firm_import WHERE state = 'OPEN' AND update_time < clock_timestamp() - %(kept)s)
"""
_FORGET: Final = "DELETE FROM control.firm_import WHERE state = 'OPEN' AND update_time < clock_timestamp() - %(kept)s"
_OPEN: Final = f"""
INSERT INTO control.firm_import (id, firm_id, sha256, size_bytes, actor) VALUES (%(id)s, %(firm_id)s, %(sha256)s, %(size)s, %(actor)s)
ON CONFLICT (firm_id, sha256) WHERE state = 'OPEN' DO UPDATE SET update_time = clock_timestamp()
RETURNING {_COLUMNS}
"""
_LOCK: Final = f"SELECT {_COLUMNS} FROM control.firm_import WHERE id = %(id)s FOR UPDATE"
_ADD: Final = """
INSERT INTO control.firm_import_chunk (import_id, start_byte, size_bytes, sealed, key_id)
VALUES (%(id)s, %(start)s, %(size)s, %(sealed)s, %(key_id)s)
"""
_RECEIVED: Final = f"""
UPDATE control.firm_import SET received_bytes = received_bytes + %(size)s, update_time = clock_timestamp() WHERE id = %(id)s RETURNING {_COLUMNS}
"""
_CHUNK: Final = """
SELECT start_byte, size_bytes, sealed, key_id FROM control.firm_import_chunk WHERE import_id = %(id)s AND start_byte = %(start)s
"""
_DROP_CHUNKS: Final = "DELETE FROM control.firm_import_chunk WHERE import_id = %(id)s"
_DROP: Final = "DELETE FROM control.firm_import WHERE id = %(id)s"
_FINISHED: Final = f"""
UPDATE control.firm_import SET state = 'FINISHED', update_time = clock_timestamp() WHERE id = %(id)s RETURNING {_COLUMNS}
"""
_PATIENCE: Final = """
SELECT set_config('app.importing', 'on', true), set_config('statement_timeout', %(timeout)s, true), set_config('lock_timeout', '1min', true)
"""
_FIRM: Final = """
INSERT INTO control.firm (id, external_id, display_name, mode, state, settings, version, create_time)
SELECT %(firm_id)s, r.external_id, r.display_name, r.mode, 'IMPORTING', r.settings, r.version, r.create_time
FROM jsonb_populate_record(NULL::control.firm, %(row)s::jsonb) r
"""
_STAGE: Final = "CREATE TEMPORARY TABLE import_row (line_no bigint NOT NULL, data jsonb NOT NULL) ON COMMIT DROP"
_ARRIVED: Final = "UPDATE control.firm SET state = 'SUSPENDED', update_time = clock_timestamp() WHERE id = %(firm_id)s"
_STANDING: Final = """
INSERT INTO control.firm_offboarding (firm_id, suspend_time, suspend_actor) VALUES (%(firm_id)s, %(time)s, %(actor)s)
"""


@dataclass(frozen=True, slots=True)
class Session:
    """A file on its way in. `create_time` is machine time."""

    id: UUID
    firm_id: UUID
    state: str
    sha256: bytes
    size_bytes: int
    received_bytes: int
    create_time: datetime


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a file, sealed."""

    start_byte: int
    size_bytes: int
    sealed: bytes
    key_id: str


def _session(row: Row | None) -> Session | None:
    return None if row is None else Session(**{**row, "sha256": bytes(row["sha256"])})


async def open_session(uow: UnitOfWork, import_id: UUID, firm_id: UUID, digest: bytes, size: int) -> Session:
    """The open import of this very file, or a new one. Files that nobody went on with are forgotten."""
    await uow.execute(_FORGET_CHUNKS, {"kept": KEPT})
    await uow.execute(_FORGET, {"kept": KEPT})
    values = {"id": import_id, "firm_id": firm_id, "sha256": digest, "size": size, "actor": uow.context.actor.label}
    session = _session(await uow.fetch_one(_OPEN, values))
    assert session is not None
    return session


async def lock(uow: UnitOfWork, import_id: UUID) -> Session | None:
    """The import, locked."""
    return _session(await uow.fetch_one(_LOCK, {"id": import_id}))


async def add_chunk(uow: UnitOfWork, session: Session, size: int, sealed: tuple[bytes, str]) -> Session:
    """Add the piece that follows what has arrived."""
    values = {"id": session.id, "start": session.received_bytes, "size": size, "sealed": sealed[0], "key_id": sealed[1]}
    await uow.execute(_ADD, values)
    grown = _session(await uow.fetch_one(_RECEIVED, values))
    assert grown is not None
    return grown


async def chunks(uow: UnitOfWork, session: Session) -> AsyncIterator[Chunk]:
    """The pieces in their order, one in memory at a time."""
    start = 0
    while start < session.received_bytes:
        row = await uow.fetch_one(_CHUNK, {"id": session.id, "start": start})
        if row is None:
            raise RuntimeError("a piece of an import is missing")
        yield Chunk(row["start_byte"], row["size_bytes"], bytes(row["sealed"]), row["key_id"])
        start += row["size_bytes"]


async def drop_chunks(uow: UnitOfWork, import_id: UUID) -> None:
    """Forget the pieces."""
    await uow.execute(_DROP_CHUNKS, {"id": import_id})


async def drop(uow: UnitOfWork, import_id: UUID) -> None:
    """Forget the file."""
    await drop_chunks(uow, import_id)
    await uow.execute(_DROP, {"id": import_id})


async def finish(uow: UnitOfWork, import_id: UUID) -> Session:
    """The file has become a firm: its pieces are not needed any more."""
    await drop_chunks(uow, import_id)
    session = _session(await uow.fetch_one(_FINISHED, {"id": import_id}))
    assert session is not None
    return session


async def begin_writing(uow: UnitOfWork, firm_id: UUID, row: str, seconds: float) -> None:
    """Add the firm in the state in which its rows may come as they were, and make room for them."""
    await uow.execute(_PATIENCE, {"timeout": f"{int(seconds * 1000)}ms"})
    await uow.execute(_FIRM, {"firm_id": firm_id, "row": row})
    await uow.execute(_STAGE)


async def stage(uow: UnitOfWork, rows: Sequence[tuple[int, str]]) -> None:
    """Put rows of one table aside, in their order."""
    async with uow.conn.cursor() as cursor, cursor.copy("COPY import_row (line_no, data) FROM STDIN") as copy:
        for row in rows:
            await copy.write_row(row)


async def write_staged(uow: UnitOfWork, table: FirmTable, columns: Sequence[str], extra: dict[str, Any]) -> int:
    """Move the staged rows into their table, in one statement so that its triggers see them together; how many they were.

    `columns` are taken from the rows, what the table has beyond them gets its default; `extra` are columns with one value in all rows.
    """
    firm = [] if table.firm_column in columns else [sql.Identifier(table.firm_column)]
    names = [*firm, *map(sql.Identifier, columns), *map(sql.Identifier, extra)]
    values: list[sql.Composable] = [sql.Placeholder("firm_id")] if firm else []
    values += [sql.SQL("r.{}").format(sql.Identifier(name)) for name in columns]
    values += [sql.Placeholder(f"x_{name}") for name in extra]
    statement = sql.SQL(
        "INSERT INTO {table} ({names}) SELECT {values} FROM import_row s CROSS JOIN LATERAL jsonb_populate_record(NULL::{table}, s.data) r"
        " ORDER BY s.line_no"
    ).format(
        table=sql.Identifier(table.schema, table.relation),
        names=sql.SQL(", ").join(names),
        values=sql.SQL(", ").join(values),
    )
    count = await uow.execute(
        statement, {"firm_id": uow.firm_id, **{f"x_{name}": value for name, value in extra.items()}}
    )
    await uow.execute("TRUNCATE import_row")
    return count


async def check_written(uow: UnitOfWork) -> None:
    """Have the database check now what it would else check at the transaction's end, where nobody can tell of it any more."""
    await uow.execute("SET CONSTRAINTS ALL IMMEDIATE")


async def end_writing(uow: UnitOfWork) -> None:
    """The firm is there: it can be read, and is put to work by a person."""
    await uow.execute(_ARRIVED, {"firm_id": uow.firm_id})
    values = {"firm_id": uow.firm_id, "time": uow.machine_now, "actor": uow.context.actor.label}
    await uow.execute(_STANDING, values)
