"""The pool and the unit of work: one transaction with tenant, actor, firm time and statement timeout set locally.

Nothing else opens a transaction. Every connection runs in autocommit mode and the unit of work sends BEGIN itself, in one network round trip
with the tenant setting and the firm's row, so that no statement can run outside the tenant's scope.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final, LiteralString, TypeVar
from uuid import UUID

import psycopg
from psycopg import pq, sql
from psycopg.rows import AsyncRowFactory, TupleRow, dict_row, tuple_row
from psycopg.types.json import set_json_dumps
from psycopg_pool import AsyncConnectionPool, PoolTimeout, TooManyRequests

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform import arrays
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.domain_events import Bus
from dunwell_server.platform.failpoints import failpoint
from dunwell_server.platform.firms import Firm, FirmClock, FirmSettings
from dunwell_server.platform.json_text import json_text

T = TypeVar("T")
Row = dict[str, Any]
Params = Mapping[str, Any] | Sequence[Any] | None

DEFAULT_TIMEOUT = 30.0
"""Seconds a transaction's statements may take where the caller set no deadline."""
CONFLICT_RETRIES = 4

set_json_dumps(json_text)

_SETUP = """
SELECT set_config('app.firm_id', %(firm_text)s, true), set_config('app.actor', %(actor)s, true),
       set_config('statement_timeout', %(timeout)s, true),
       clock_timestamp() AS machine_now, f.state, f.mode, f.version,
       CASE WHEN f.version = %(known)s THEN NULL ELSE f.settings END AS settings, c.now_time AS clock_now, c.state AS clock_state,
       r.firm_id IS NOT NULL AS recovering
FROM (VALUES (1)) AS one LEFT JOIN control.firm f ON f.id = %(firm)s LEFT JOIN control.test_clock c ON c.firm_id = f.id
LEFT JOIN control.recovery r ON r.firm_id = f.id
"""
_CLOCK_STATE: Final = 9
"""Where the set-up row has the state of the firm's test clock."""
_SETUP_READ_ONLY = _SETUP.replace("SELECT ", "SELECT set_config('transaction_read_only', 'on', true), ", 1)
"""For a transaction that begins without BEGIN: it is told that it reads by its first statement."""

PLAN_FOR_ANY: Final = "SELECT set_config('plan_cache_mode', 'force_generic_plan', true)"
"""Has the rest of a transaction planned for any values: of a firm that came after the last ANALYZE, the statistics say that it has no rows."""

TENANT_CTE: Final = "tenant AS MATERIALIZED (SELECT set_config('app.firm_id', %(tenant)s, true))"
"""First part of a statement given to `Database.submit` for a firm. What it writes must come from this part's row, so that row security sees the firm."""


class UnitOfWork:
    """One open transaction. Use cases take it, read and write through it, and never commit."""

    __slots__ = ("_firm", "bus", "clock", "conn", "context", "machine_now", "recovering")

    def __init__(
        self,
        conn: psycopg.AsyncConnection[TupleRow],
        context: CallContext,
        bus: Bus,
        firm: Firm | None,
        clock: FirmClock,
        machine_now: datetime,
        recovering: bool = False,
    ) -> None:
        self.conn = conn
        self.context = context
        self.bus = bus
        self._firm = firm
        self.clock = clock
        self.machine_now = machine_now
        self.recovering = recovering

    @property
    def firm(self) -> Firm:
        """The tenant; DunwellError FIRM_REQUIRED in a firmless transaction."""
        if self._firm is None:
            raise DunwellError(Reason.FIRM_REQUIRED, "Name the firm in the dunwell-firm metadata.")
        return self._firm

    @property
    def firm_id(self) -> UUID:
        """The tenant's id."""
        return self.firm.id

    @property
    def now(self) -> datetime:
        """Firm time: the test clock's, or the database's clock at the start of the transaction."""
        return self.clock.now

    async def execute(self, statement: LiteralString | sql.Composed, params: Params = None) -> int:
        """Run a statement and return the number of rows it touched."""
        cursor = await self.conn.execute(statement, params)
        return cursor.rowcount

    async def fetch_all(self, statement: LiteralString | sql.Composed, params: Params = None) -> list[Row]:
        """All rows, as dictionaries."""
        return await (await self._ask(statement, params, dict_row)).fetchall()

    async def fetch_tuples(self, statement: LiteralString | sql.Composed, params: Params = None) -> list[TupleRow]:
        """All rows, as tuples."""
        return await (await self._ask(statement, params, tuple_row)).fetchall()

    async def fetch_one(self, statement: LiteralString | sql.Composed, params: Params = None) -> Row | None:
        """The first row, or None."""
        return await (await self._ask(statement, params, dict_row)).fetchone()

    async def fetch_value(self, statement: LiteralString | sql.Composed, params: Params = None) -> Any:
        """The first column of the first row, or None."""
        row = await (await self._ask(statement, params, tuple_row)).fetchone()
        return row[0] if row else None

    async def _ask(
        self, statement: LiteralString | sql.Composed, params: Params, make: AsyncRowFactory[T]
    ) -> psycopg.AsyncCursor[T]:
        return await self.conn.cursor(row_factory=make).execute(statement, params)

    async def execute_many(self, statement: LiteralString | sql.Composed, rows: Sequence[Mapping[str, Any]]) -> None:
        """The same statement for many rows, pipelined in one round trip. For thousands of rows stage them with COPY instead."""
        if rows:
            async with self.conn.cursor() as cursor:
                await cursor.executemany(statement, rows)

    async def enter(self, firm_id: UUID) -> None:
        """Bind a firmless transaction to one firm for its rest: one that it has just created, or that the request names.

        Errors: RESOURCE_NOT_FOUND, FIRM_SUSPENDED, CLOCK_ADVANCING; RuntimeError where it is bound to another firm already.
        """
        if self._firm is not None:
            raise RuntimeError("the transaction is bound to a firm already")
        context = self.context.for_firm(firm_id)
        cursor = await self.conn.execute(_SETUP, _setup_params(context, context.remaining(DEFAULT_TIMEOUT), None))
        row = await cursor.fetchone()
        assert row is not None
        _, _, _, machine_now, state, mode, version, settings, clock_now, clock_state, recovering = row
        if state is None:
            raise DunwellError(Reason.RESOURCE_NOT_FOUND, "No such firm.", resource=("Firm", str(firm_id)))
        firm = Firm(firm_id, state, mode, version, FirmSettings.from_json(settings))
        _refuse_write(firm, clock_state, context)
        self.context, self._firm, self.clock = context, firm, FirmClock(clock_now or machine_now, clock_now is not None)
        self.recovering = recovering

    async def publish(self, event: Any) -> None:
        """Tell the subscribers of a domain event, in this transaction."""
        await self.bus.publish(self, event)

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """A part that may fail alone: its database error undoes only this part."""
        async with self.conn.transaction():
            yield


class SingleRead(UnitOfWork):
    """A unit of work that reads with one statement (`fetch_…`), which goes with the set-up in one round trip.

    Until that is answered neither the firm nor its time is known: asking for them is a programming error, and so is a second statement.
    """

    __slots__ = ("_adopt", "_setup")

    def __init__(
        self,
        conn: psycopg.AsyncConnection[TupleRow],
        context: CallContext,
        bus: Bus,
        setup: dict[str, Any],
        adopt: Callable[[TupleRow], tuple[Firm | None, FirmClock, datetime, bool]],
    ) -> None:
        self.conn, self.context, self.bus = conn, context, bus
        self._firm = None
        self._setup: dict[str, Any] | None = setup
        self._adopt = adopt

    @property
    def firm_id(self) -> UUID:
        """The tenant's id, known from the start."""
        if self.context.firm_id is None:
            raise DunwellError(Reason.FIRM_REQUIRED, "Name the firm in the dunwell-firm metadata.")
        return self.context.firm_id

    async def _ask(
        self, statement: LiteralString | sql.Composed, params: Params, make: AsyncRowFactory[T]
    ) -> psycopg.AsyncCursor[T]:
        setup, self._setup = self._setup, None
        if setup is None:
            raise RuntimeError("this unit of work reads with one statement only")
        # What a pipeline sends up to its end is one transaction: both statements see the tenant, and nothing after them does.
        async with self.conn.pipeline():
            head = await self.conn.execute(_SETUP_READ_ONLY, setup)
            cursor = await self.conn.cursor(row_factory=make).execute(statement, params)
        row = await head.fetchone()
        assert row is not None
        self._firm, self.clock, self.machine_now, self.recovering = self._adopt(row[1:])
        return cursor


class Database:
    """A bounded pool on one DSN, and the only way to open a transaction."""

    def __init__(self, pool: AsyncConnectionPool[psycopg.AsyncConnection[TupleRow]], bus: Bus) -> None:
        self._pool = pool
        self.bus = bus
        self._settings: dict[UUID, tuple[int, FirmSettings]] = {}

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        bus: Bus | None = None,
        min_size: int = 1,
        max_size: int = 10,
        max_waiting: int = 100,
        name: str = "dunwell",
        prepare: bool = True,
    ) -> Database:
        """Open the pool. Raises DunwellError DATABASE_UNAVAILABLE when no connection can be had within 10 seconds."""

        async def configure(conn: psycopg.AsyncConnection[TupleRow]) -> None:
            await conn.set_autocommit(True)
            arrays.register(conn)
            conn.prepare_threshold = 2 if prepare else None

        pool: AsyncConnectionPool[psycopg.AsyncConnection[TupleRow]] = AsyncConnectionPool(
            url, open=False, min_size=min_size, max_size=max_size, max_waiting=max_waiting, timeout=2.0, name=name, configure=configure,
            kwargs={"application_name": name, "connect_timeout": 5},
            reconnect_timeout=5.0,
        )  # fmt: skip
        try:
            await pool.open(wait=True, timeout=10.0)
        except (PoolTimeout, psycopg.OperationalError) as error:
            await pool.close()
            raise DunwellError(Reason.DATABASE_UNAVAILABLE, "The database does not answer.", retry_after=1.0) from error
        return cls(pool, bus or Bus())

    async def close(self) -> None:
        """Close every connection; waits for those in use to come back."""
        await self._pool.close()

    async def ping(self, timeout: float = 2.0) -> None:
        """One trivial statement; raises DATABASE_UNAVAILABLE. For health probes."""
        async with asyncio.timeout(timeout), _translated(), self._connection(timeout) as conn:
            await conn.execute("SELECT 1")

    @asynccontextmanager
    async def transaction(
        self, context: CallContext, *, write: bool = True, snapshot: bool = False
    ) -> AsyncIterator[UnitOfWork]:
        """One unit of work: committed when the block ends, rolled back when it raises.

        `snapshot`, for reading only: all of its statements see the database as it was when it began.

        Errors: RESOURCE_NOT_FOUND for an unknown firm, FIRM_SUSPENDED and CLOCK_ADVANCING for writes that must wait,
        DEADLINE_EXCEEDED, DATABASE_UNAVAILABLE, OVERLOADED, SERIALIZATION_CONFLICT.
        """
        timeout = context.remaining(DEFAULT_TIMEOUT)
        if timeout < 0.005:
            raise DunwellError(Reason.DEADLINE_EXCEEDED, "The deadline passed before the work began.")
        async with _translated(), self._connection(timeout) as conn:
            uow = await self._begin(conn, context, timeout, write, snapshot)
            yield uow
            if conn.pgconn.transaction_status != pq.TransactionStatus.INTRANS:
                raise RuntimeError("a failed statement was swallowed inside the unit of work")
            failpoint(f"{context.method}/commit:before")
            await conn.commit()
        failpoint(f"{context.method}/commit:after")

    async def read_once(self, context: CallContext, work: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """`work`, which reads with one statement: see `SingleRead`. Errors: those of `transaction`."""
        timeout = context.remaining(DEFAULT_TIMEOUT)
        if timeout < 0.005:
            raise DunwellError(Reason.DEADLINE_EXCEEDED, "The deadline passed before the work began.")
        known = self._settings.get(context.firm_id) if context.firm_id else None
        setup = _setup_params(context, timeout, known[0] if known else None)
        async with _translated(), self._connection(timeout) as conn:
            return await work(SingleRead(conn, context, self.bus, setup, lambda row: self._adopt(context, row, known)))

    async def run(self, context: CallContext, work: Callable[[UnitOfWork], Awaitable[T]], *, write: bool = True) -> T:
        """`work` in a unit of work of its own, begun again when the database reports a deadlock or a serialisation conflict."""
        for attempt in range(CONFLICT_RETRIES):
            try:
                async with self.transaction(context, write=write) as uow:
                    return await work(uow)
            except DunwellError as error:
                if error.reason is not Reason.SERIALIZATION_CONFLICT or attempt == CONFLICT_RETRIES - 1:
                    raise
                await asyncio.sleep(0.01 * 2**attempt)
        raise AssertionError("unreachable")

    async def submit(self, context: CallContext, statement: LiteralString, params: Mapping[str, Any]) -> list[Row]:
        """One statement that is a transaction by itself, in one round trip; returns its rows. What it wrote is committed by then.

        For a firm only with `TENANT_CTE`, and only to record what is recorded whatever else is going on (`CallContext.upkeep`): neither
        its state nor its clock is looked at. Errors: DEADLINE_EXCEEDED, DATABASE_UNAVAILABLE, OVERLOADED, SERIALIZATION_CONFLICT.
        """
        if context.firm_id is not None and not (context.upkeep and TENANT_CTE in statement):
            raise ValueError("a firm's statement needs its tenant, and a reason to pass by the firm's state")
        timeout = context.remaining(DEFAULT_TIMEOUT)
        if timeout < 0.005:
            raise DunwellError(Reason.DEADLINE_EXCEEDED, "The deadline passed before the work began.")
        tenant = "" if context.firm_id is None else str(context.firm_id)
        try:
            async with (
                asyncio.timeout(timeout),
                _translated(),
                self._connection(timeout) as conn,
            ):
                failpoint(f"{context.method}/commit:before")
                cursor = await conn.cursor(row_factory=dict_row).execute(statement, {**params, "tenant": tenant})
                rows = await cursor.fetchall()
        except TimeoutError:
            raise DunwellError(Reason.DEADLINE_EXCEEDED, "The deadline passed.") from None
        failpoint(f"{context.method}/commit:after")
        return rows

    @asynccontextmanager
    async def _connection(self, timeout: float) -> AsyncIterator[psycopg.AsyncConnection[TupleRow]]:
        """A connection of the pool. One on which a task was cancelled is closed, never given to another.

        Interrupted within a pipeline a connection stays in it, idle by its own account, and its next user would read the answers to
        somebody else's statements. The driver has asked the server to stop before it lets the cancellation through.
        """
        async with self._pool.connection(timeout=min(timeout, 2.0)) as conn:
            try:
                yield conn
            except BaseException as error:
                if not isinstance(error, Exception) or conn.pgconn.pipeline_status != pq.PipelineStatus.OFF:
                    conn.pgconn.finish()
                raise

    async def _begin(
        self,
        conn: psycopg.AsyncConnection[TupleRow],
        context: CallContext,
        timeout: float,
        write: bool,
        snapshot: bool = False,
    ) -> UnitOfWork:
        reading: LiteralString = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if snapshot else "BEGIN READ ONLY"
        known = self._settings.get(context.firm_id) if context.firm_id else None
        async with conn.pipeline():
            await conn.execute("BEGIN" if write else reading)
            cursor = await conn.execute(_SETUP, _setup_params(context, timeout, known[0] if known else None))
        # Fetched after the pipeline has ended: within it, fetching costs a round trip before the one that ends it.
        row = await cursor.fetchone()
        if row is None:  # pragma: no cover - the statement always returns one row
            raise RuntimeError("no set-up row")
        firm, clock, machine_now, recovering = self._adopt(context, row, known)
        if write and firm is not None:
            _refuse_write(firm, row[_CLOCK_STATE], context)
        return UnitOfWork(conn, context, self.bus, firm, clock, machine_now, recovering)

    def _adopt(
        self, context: CallContext, row: TupleRow, known: tuple[int, FirmSettings] | None
    ) -> tuple[Firm | None, FirmClock, datetime, bool]:
        """What a set-up row tells: firm, its clock, the machine's time, and whether the firm recovers."""
        _, _, _, machine_now, state, mode, version, settings, clock_now, _, recovering = row
        clock = FirmClock(clock_now or machine_now, clock_now is not None)
        firm = None if context.firm_id is None else self._firm(context.firm_id, state, mode, version, settings, known)
        return firm, clock, machine_now, recovering

    def _firm(
        self,
        firm_id: UUID,
        state: str | None,
        mode: str,
        version: int,
        settings: dict[str, Any] | None,
        known: tuple[int, FirmSettings] | None,
    ) -> Firm:
        if state is None:
            raise DunwellError(Reason.RESOURCE_NOT_FOUND, "No such firm.", resource=("Firm", str(firm_id)))
        if settings is not None or known is None:
            known = (version, FirmSettings.from_json(settings or {}))
            self._settings[firm_id] = known
        return Firm(firm_id, state, mode, version, known[1])


def _setup_params(context: CallContext, timeout: float, known_version: int | None) -> dict[str, Any]:
    return {
        "firm_text": str(context.firm_id or ""),
        "actor": context.actor.label,
        "timeout": f"{int(timeout * 1000)}ms",
        "known": known_version,
        "firm": context.firm_id,
    }


def _refuse_write(firm: Firm, clock_state: str | None, context: CallContext) -> None:
    if context.upkeep:
        return
    if clock_state == "ADVANCING" and not context.holds_clock:
        raise DunwellError(
            Reason.CLOCK_ADVANCING,
            "The firm's test clock is being advanced; try again when it stands.",
            retry_after=1.0,
        )
    if firm.state != "ACTIVE":
        raise DunwellError(Reason.FIRM_SUSPENDED, "The firm is suspended: it can be read, not changed.")


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    """Database trouble as the contract's errors; the driver's text stays in the exception chain, for the log only."""
    try:
        yield
    except (TooManyRequests, PoolTimeout) as error:
        raise DunwellError(Reason.OVERLOADED, "Too many requests wait for the database.", retry_after=0.5) from error
    except psycopg.errors.QueryCanceled as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            # The driver cancelled the statement because the task was cancelled: that must not look like a deadline, or it is lost.
            raise asyncio.CancelledError from error
        raise DunwellError(Reason.DEADLINE_EXCEEDED, "The deadline passed; nothing was written.") from error
    except (
        psycopg.errors.SerializationFailure,
        psycopg.errors.DeadlockDetected,
        psycopg.errors.LockNotAvailable,
    ) as error:
        raise DunwellError(
            Reason.SERIALIZATION_CONFLICT, "Another change of the same objects got in the way.", retry_after=0.1
        ) from error
    except (
        psycopg.errors.AdminShutdown,
        psycopg.errors.CrashShutdown,
        psycopg.errors.CannotConnectNow,
        psycopg.OperationalError,
    ) as error:
        raise DunwellError(Reason.DATABASE_UNAVAILABLE, "The database does not answer.", retry_after=1.0) from error
