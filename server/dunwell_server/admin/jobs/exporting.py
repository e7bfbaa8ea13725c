"""ExportFirm: everything of a firm as one file, from one snapshot, with memory that does not grow with the firm.

The snapshot's transaction only reads: it has no transaction id, so that neither the feed nor the sealer waits for it. As every long
transaction it keeps vacuum from removing what was deleted since it began: about a minute for each million rows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import Any, Final, cast

from dunwell_server.admin.exit_format import Header, TableSum, manifest_line, prefix_of
from dunwell_server.admin.service import exporting
from dunwell_server.admin.store import exports
from dunwell_server.admin.store.declared import FirmTable, firm_tables
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork

PIECE: Final = 128 * 1024
"""Bytes of a piece, about."""
MOST: Final = 2
"""Exports that one process reads at a time: each holds a connection of the pool."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a complete file holds. `digest` is over the whole of it."""

    header: Header
    tables: Sequence[TableSum]
    digest: bytes

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(each.rows for each in self.tables)


@dataclass(frozen=True, slots=True)
class Piece:
    """The next bytes of the file, and how many of `total` rows have gone. The last one has the manifest."""

    data: bytes
    rows: int
    total: int
    manifest: Manifest | None = None


class _Writer:
    """Collects lines to pieces, and hashes them."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.rows = 0
        self._hash = sha256()
        self._parts: list[bytes] = []
        self._size = 0

    def add(self, data: bytes, rows: int = 0) -> None:
        self._hash.update(data)
        self._parts.append(data)
        self._size += len(data)
        self.rows += rows

    @property
    def is_full(self) -> bool:
        return self._size >= PIECE

    def take(self) -> list[Piece]:
        data = b"".join(self._parts)
        self._parts, self._size = [], 0
        return [
            Piece(data[start : start + 2 * PIECE], self.rows, self.total) for start in range(0, len(data), 2 * PIECE)
        ]

    @property
    def digest(self) -> bytes:
        return self._hash.digest()


_reading = 0


async def export_firm(database: Database, context: CallContext) -> AsyncIterator[Piece]:
    """The file of the context's firm, piece by piece. Once it is complete that is noted in the audit trail, then the last piece comes.

    Errors: RESOURCE_NOT_FOUND, CLOCK_ADVANCING, OVERLOADED where `MOST` are read already.
    """
    global _reading
    if _reading >= MOST:
        raise DunwellError(
            Reason.OVERLOADED, f"{MOST} exports are being read already; try again later.", retry_after=30.0
        )
    _reading += 1
    try:
        # Cancelled at any time by whoever reads: the transaction ends with the generator.
        async with aclosing(cast(Any, _pieces(database, context))) as pieces:
            async for piece in pieces:
                yield piece
    finally:
        _reading -= 1


async def _pieces(database: Database, context: CallContext) -> AsyncIterator[Piece]:
    tables = firm_tables()
    async with database.transaction(context, write=False, snapshot=True) as uow:
        opened = await exports.begin(uow)
        if opened["clock"] == "ADVANCING":
            raise DunwellError(
                Reason.CLOCK_ADVANCING,
                "The firm's test clock is being advanced; export it when it stands.",
                retry_after=1.0,
            )
        header = _header(uow, opened["time"], opened["revision"], tables)
        writer = _Writer(await exports.count(uow, tables))
        writer.add(header.line())
        sums: list[TableSum] = []
        for table in tables:
            sums.append(TableSum(table.name))
            async for lines, count in _lines(uow, table):
                sums[-1].add(lines, count)
                writer.add(lines, count)
                if writer.is_full:
                    for piece in writer.take():
                        yield piece
    writer.add(manifest_line(header, sums))
    for piece in writer.take():
        yield piece
    manifest = Manifest(header, sums, writer.digest)
    # A suspended firm is exported too, and what leaves is noted.
    await database.run(
        replace(context, upkeep=True, deadline=None),
        lambda uow: exporting.note(uow, header.snapshot_time, opened["snapshot"], manifest.digest, manifest.rows),
    )
    yield Piece(b"", writer.rows, writer.total, manifest)


async def _lines(uow: UnitOfWork, table: FirmTable) -> AsyncIterator[tuple[bytes, int]]:
    prefix = prefix_of(table.name).decode()
    async with aclosing(cast(Any, exports.rows(uow, table))) as batches:
        async for batch in batches:
            yield "".join([f"{prefix}{row}}}\n" for row in batch]).encode(), len(batch)


def _header(uow: UnitOfWork, time: datetime, revision: str, tables: Sequence[FirmTable]) -> Header:
    return Header(uow.firm_id, time, revision, {table.name: table.columns for table in tables})
