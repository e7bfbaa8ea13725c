"""What tests share: databases that are copies of one migrated template, firms, and call contexts."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psycopg
from psycopg import conninfo, sql
from psycopg.types.json import Jsonb

from dunwell_server.kernel.ids import uuid7
from dunwell_server.platform import migrate
from dunwell_server.platform.context import Actor, CallContext, Role
from dunwell_server.platform.database import Database
from dunwell_server.platform.firms import FirmSettings

SECRET = b"the tests' secret key, 32 bytes."
CLUSTER_URL = "DUNWELL_TEST_CLUSTER_URL"


@dataclass(frozen=True)
class DatabaseUrls:
    """One database, as its three roles reach it."""

    owner: str
    application: str
    auditor: str


def template_name() -> str:
    """The migrated template's name changes with the migrations, so that an old one is never copied."""
    digest = hashlib.sha256()
    for path in sorted(migrate.MIGRATIONS.rglob("*")):
        if path.suffix in (".py", ".sql"):
            digest.update(path.read_bytes())
    return f"dunwell_template_{digest.hexdigest()[:12]}"


def ensure_template(cluster_url: str) -> str:
    """Migrate the template once per cluster; concurrent callers wait for the first."""
    name = template_name()
    with psycopg.connect(cluster_url, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(4711)")
        ready = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s AND datistemplate", (name,)).fetchone()
        if not ready:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
            owner = conninfo.make_conninfo(cluster_url, dbname=name)
            migrate.migrate(owner, migrate.derived_urls(owner, SECRET))
            connection.execute(sql.SQL("ALTER DATABASE {} WITH IS_TEMPLATE true").format(sql.Identifier(name)))
    return name


@contextmanager
def fresh_database(cluster_url: str) -> Iterator[DatabaseUrls]:
    """A migrated database of its own, dropped at the end."""
    template = ensure_template(cluster_url)
    name = f"test_{uuid.uuid4().hex[:16]}"
    with psycopg.connect(cluster_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), sql.Identifier(template))
        )
        owner = conninfo.make_conninfo(cluster_url, dbname=name)
        urls = migrate.derived_urls(owner, SECRET)
        try:
            yield DatabaseUrls(owner, urls.application, urls.auditor)
        finally:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def context(
    firm_id: uuid.UUID | None, *, role: Role = Role.FIRM_ADMIN, method: str = "test", person: str | None = None
) -> CallContext:
    """A call by a credential of `firm_id`."""
    return CallContext(firm_id, Actor("test-key", role, "api_key", person), method)


async def add_firm(
    database: Database, *, clock: datetime | None = None, mode: str = "TEST", **settings: Any
) -> CallContext:
    """A firm with the given `FirmSettings` fields, on a test clock where one is given; returns its FIRM_ADMIN context."""
    firm_id = uuid7()
    async with database.transaction(context(None)) as uow:
        await uow.execute(
            "INSERT INTO control.firm (id, display_name, mode, settings) VALUES (%s, %s, %s, %s)",
            (firm_id, "Harbour & Vale", mode, Jsonb(FirmSettings(**settings).to_json())),
        )
        if clock is not None:
            await uow.execute(
                "INSERT INTO control.test_clock (firm_id, id, now_time) VALUES (%s, %s, %s)",
                (firm_id, uuid.uuid4(), clock),
            )
    return context(firm_id)


async def set_clock(database: Database, firm_id: uuid.UUID, now: datetime) -> None:
    """Put a test clock elsewhere without doing the work that falls due on the way."""
    async with database.transaction(context(None)) as uow:
        await uow.execute("UPDATE control.test_clock SET now_time = %s WHERE firm_id = %s", (now, firm_id))


def cluster_folder() -> Path:
    """Where the tests' cluster lives; kept between sessions, so that a second session starts warm."""
    return Path(os.environ.get("DUNWELL_TEST_DATA", Path(__file__).parents[1] / ".dunwell" / "test-cluster"))


@contextmanager
def statements() -> Iterator[list[object]]:
    """What this process sends to PostgreSQL meanwhile, statement by statement, whichever way the code takes."""
    sent: list[object] = []
    plain: Any = psycopg.AsyncCursor.execute

    async def execute(cursor: Any, query: Any, *rest: Any, **options: Any) -> Any:
        sent.append(query)
        return await plain(cursor, query, *rest, **options)

    with patch.object(psycopg.AsyncCursor, "execute", execute):
        yield sent


async def eventually(holds: Callable[[], Awaitable[bool] | bool], seconds: float = 30.0) -> None:
    """Wait until it holds, for things that happen in another process or task; fails when they do not, however slow the machine."""
    deadline = time.monotonic() + seconds
    while True:
        answer = holds()
        if await answer if isinstance(answer, Awaitable) else answer:
            return
        assert time.monotonic() < deadline, f"it did not come about in {seconds} s"
        await asyncio.sleep(0.02)
