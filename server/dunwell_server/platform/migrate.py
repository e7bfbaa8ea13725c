"""Bring a database to this release: roles, then migrations, safe beside a running server.

Migrations run under a short `lock_timeout` and are tried again, so that one waiting for a lock never queues the application behind it.
"""

from __future__ import annotations

import hashlib
import hmac
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from alembic import command, op
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import conninfo, sql
from sqlalchemy import create_engine, pool

MIGRATIONS = Path(__file__).resolve().parents[3] / "migrations"
APP_ROLE = "dunwell_app"
AUDITOR_ROLE = "dunwell_auditor"
LOCK_TIMEOUT_MS = 250
TRIES = 40
_MIGRATION_LOCK = 0x64756E77656C6C
MINIMUM_VERSION = 150000


class MigrationError(RuntimeError):
    """The database could not be brought to this release; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class RoleUrls:
    """The two connection strings that `dunwell migrate` makes good when only an owner's is given."""

    application: str
    auditor: str


def derived_urls(owner_url: str, secret: bytes) -> RoleUrls:
    """The application's and the auditor's URLs on the owner's database, with passwords derived from the installation's secret key."""
    return RoleUrls(_with_role(owner_url, APP_ROLE, secret), _with_role(owner_url, AUDITOR_ROLE, secret))


def migrate(
    owner_url: str, urls: RoleUrls, *, revision: str = "head", report: Callable[[str], None] = lambda _: None
) -> str:
    """Create the roles and run every missing migration; returns the revision reached.

    Raises MigrationError for a PostgreSQL older than 15, missing privileges, or a table that stays locked.
    """
    with psycopg.connect(owner_url, autocommit=True) as connection:
        if connection.info.server_version < MINIMUM_VERSION:
            raise MigrationError(
                f"PostgreSQL {connection.info.server_version // 10000} is too old: 15 or newer is needed."
            )
        connection.execute("SELECT pg_advisory_lock(%s)", (_MIGRATION_LOCK,))
        _ensure_roles(connection, urls)
        _upgrade(owner_url, revision, report)
    return head_revision() if revision == "head" else revision


def head_revision() -> str:
    """The schema revision this release needs."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    if head is None:
        raise MigrationError(f"No migrations under {MIGRATIONS}.")
    return head


def run_sql(statements: str) -> None:
    """For migrations: run one or several statements as they stand, without parameter interpolation."""
    connection = op.get_bind().connection.driver_connection
    if connection is None:
        raise MigrationError("The migration has no connection.")
    connection.execute(statements)


def run_sql_file(name: str) -> None:
    """For migrations: run a frozen file of `migrations/sql`."""
    run_sql((MIGRATIONS / "sql" / name).read_text(encoding="utf-8"))


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    return config


def _with_role(owner_url: str, role: str, secret: bytes) -> str:
    password = hmac.new(secret, b"database role " + role.encode(), hashlib.sha256).hexdigest()
    return conninfo.make_conninfo(owner_url, user=role, password=password)


def _ensure_roles(connection: psycopg.Connection[tuple[object, ...]], urls: RoleUrls) -> None:
    """Make both roles, give them the URLs' passwords, and let another application role named by a URL be a member."""
    database = sql.Identifier(connection.info.dbname)
    for group, url in ((APP_ROLE, urls.application), (AUDITOR_ROLE, urls.auditor)):
        known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (group,)).fetchone()
        parts = conninfo.conninfo_to_dict(url)
        if not known:
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE").format(
                    sql.Identifier(group)
                )
            )
        if parts.get("user") == group:
            connection.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(group), sql.Literal(parts.get("password")))
            )
        else:
            connection.execute(
                sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(str(parts.get("user"))))
            )
        connection.execute(
            sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO {}").format(database, sql.Identifier(group))
        )
        for setting, value in (
            ("timezone", "UTC"),
            ("lock_timeout", "5s"),
            ("idle_in_transaction_session_timeout", "60s"),
            ("jit", "off"),
        ):
            statement = sql.SQL("ALTER ROLE {} SET {} = {}").format(
                sql.Identifier(group), sql.Identifier(setting), sql.Literal(value)
            )
            connection.execute(statement)


def _upgrade(owner_url: str, revision: str, report: Callable[[str], None]) -> None:
    for attempt in range(1, TRIES + 1):
        try:
            with _engine_connection(owner_url) as connection:
                config = _config()
                config.attributes["connection"] = connection
                command.upgrade(config, revision)
            return
        except Exception as error:
            if not isinstance(getattr(error, "orig", error), psycopg.errors.LockNotAvailable):
                raise
            report(f"a table is in use; trying again ({attempt}/{TRIES})")
            time.sleep(min(2.0, 0.05 * attempt) * random.uniform(0.5, 1.5))
    raise MigrationError("A table stayed locked; stop long transactions and run `dunwell migrate` again.")


@contextmanager
def _engine_connection(owner_url: str) -> Iterator[object]:
    options = f"-c lock_timeout={LOCK_TIMEOUT_MS}ms -c statement_timeout=1h -c client_min_messages=warning"
    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(owner_url, options=options), poolclass=pool.NullPool
    )
    with engine.connect() as connection:
        yield connection
    engine.dispose()
