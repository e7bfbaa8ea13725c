"""The gateway's own book: one SQLite file, one connection, commits shared by whatever arrives together.

All work runs on the event loop's thread, in arrival order, so every statement is serial and every read sees every
write. Requests that are parsed in the same turn of the loop share one transaction (group commit): each runs under its
own savepoint and is answered only after the commit. A separate writer thread was the slower choice: SQLite statements
take microseconds, and each one would hand the interpreter lock back and forth with the loop.

The journal is a write-ahead log with ``synchronous=NORMAL``: a killed process loses nothing that was answered (the
operating system has the bytes). The file is locked exclusively, so a second gateway on it fails at start.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from dunwell_server.sandbox.schema import TABLES, prepare

T = TypeVar("T")


class Book:
    """The one writer and reader of the gateway's file."""

    def __init__(self, path: Path, on_rollback: Callable[[], None] = lambda: None) -> None:
        """Opens or creates the file. ``on_rollback`` is called whenever work is undone, so caches can be dropped."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, isolation_level=None, cached_statements=256, timeout=1.0)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute("PRAGMA wal_autocheckpoint = 4000")
        prepare(self._connection)
        self._on_rollback = on_rollback
        self._waiting: list[tuple[Callable[[sqlite3.Connection], Any], asyncio.Future[Any]]] = []

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Runs ``work`` in the next group commit and returns its value once that is durable.

        ``work`` is all or nothing; what it raises reaches the caller.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.append((work, future))
        if len(self._waiting) == 1:
            loop.call_soon(self._flush)
        return await future

    def _flush(self) -> None:
        batch, self._waiting = self._waiting, []
        results: list[tuple[asyncio.Future[Any], Any, BaseException | None]] = []
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            for work, future in batch:
                connection.execute("SAVEPOINT one")
                try:
                    results.append((future, work(connection), None))
                except Exception as error:
                    connection.execute("ROLLBACK TO one")
                    self._on_rollback()
                    results.append((future, None, error))
                connection.execute("RELEASE one")
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._on_rollback()
            results = [(future, None, error) for _, future in batch]
        for future, value, failure in results:
            if future.done():  # The caller went away; its work stands all the same.
                continue
            if failure is None:
                future.set_result(value)
            else:
                future.set_exception(failure)

    async def clear(self) -> None:
        """Empties every table."""

        def empty(connection: sqlite3.Connection) -> None:
            for table in TABLES:
                connection.execute(f"DELETE FROM {table}")

        await self.run(empty)
        self._on_rollback()

    def close(self) -> None:
        self._connection.close()
