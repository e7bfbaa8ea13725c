"""What commands that work on the database share: the application in this process, and the firms they concern."""

from __future__ import annotations

import getpass
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import psycopg

from dunwell_server.bootstrap import Application, DatabaseUrls, open_application, resolve_urls
from dunwell_server.cli.installation import database_of
from dunwell_server.cli.problems import USAGE, CommandError, configure, load_settings
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, decode, encode
from dunwell_server.platform.context import Actor, CallContext, Role
from dunwell_server.platform.database import Database
from dunwell_server.platform.migrate import APP_ROLE, head_revision
from dunwell_server.rpc.startup import StartupError, check_database

_FIRMS = """
SELECT f.id, f.display_name, f.mode, f.state, c.now_time IS NOT NULL AS on_test_clock
FROM control.firm f LEFT JOIN control.test_clock c ON c.firm_id = f.id
WHERE CASE WHEN %(id)s::uuid IS NULL THEN f.state = 'ACTIVE' ELSE f.id = %(id)s END
ORDER BY f.display_name, f.id
"""


@dataclass(frozen=True, slots=True)
class FirmRow:
    """A firm as commands name it."""

    id: UUID
    display_name: str
    mode: str
    state: str
    on_test_clock: bool

    @property
    def public_id(self) -> str:
        """`firm_…`, as the API has it."""
        return encode(Prefix.FIRM, self.id)


def actor() -> Actor:
    """The operator at this machine, as the audit trail names them. Whoever has the database's password may do all."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a user id without an account
        name = "unknown"
    return Actor(id=f"cli:{name}", role=Role.SYSTEM, auth_method="command line")


def context(firm_id: UUID | None, command: str) -> CallContext:
    """The context of one command's work for a firm, or for none."""
    return CallContext(firm_id=firm_id, actor=actor(), method=f"cli:{command}")


@asynccontextmanager
async def application(command: str, *, pool_size: int = 6) -> AsyncIterator[Application]:
    """The application wired in this process, for one command. CommandError and StartupError where it cannot be opened."""
    settings = load_settings()
    configure(settings, process=f"cli:{command}")
    with database_of(settings):
        await _check(resolve_urls(settings))
        async with open_application(settings, name=f"dunwell {command}", pool_size=pool_size) as app:
            yield app


async def _check(urls: DatabaseUrls) -> None:
    """Refuse a database that cannot be worked on, and say what to do: StartupError, CommandError."""
    try:
        await check_database(urls.application, head_revision())
    except StartupError:
        if urls.owner is not None and not await _has_roles(urls.owner):
            raise CommandError("the database is not set up yet: run `dunwell migrate`", USAGE) from None
        raise


async def _has_roles(owner_url: str) -> bool:
    async with await psycopg.AsyncConnection.connect(owner_url, connect_timeout=5) as connection:
        cursor = await connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [APP_ROLE])
        return await cursor.fetchone() is not None


async def firms(database: Database, command: str, firm_id: str | None) -> list[FirmRow]:
    """The firm named, or every active one. INVALID_ID, RESOURCE_NOT_FOUND, FIRM_SUSPENDED for a firm named."""
    wanted = decode(Prefix.FIRM, firm_id, "--firm-id") if firm_id is not None else None
    async with database.transaction(context(None, command), write=False) as uow:
        rows = [FirmRow(**row) for row in await uow.fetch_all(_FIRMS, {"id": wanted})]
    if wanted is not None and not rows:
        raise DunwellError(Reason.RESOURCE_NOT_FOUND, f"There is no firm {firm_id}.")
    return rows
