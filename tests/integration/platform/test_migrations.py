"""Migrations on the real database: an older one with data, one in use, and agreement with the declared tables."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from psycopg import conninfo, sql
from psycopg.types.json import Jsonb
from sqlalchemy import create_engine

import dunwell_server.admin.tables
import dunwell_server.billing.tables
import dunwell_server.disputes.tables
import dunwell_server.inbox.tables
import dunwell_server.ledger.tables
import dunwell_server.payments.tables
import dunwell_server.platform.tables  # noqa: F401 - declare every table
from dunwell_server.platform import migrate
from dunwell_server.platform.firms import FirmSettings
from dunwell_server.platform.schema import metadata
from tests import support


@pytest.fixture
def empty(cluster_url: str) -> Iterator[str]:
    """The owner's URL of a database without any schema."""
    name = f"test_{uuid.uuid4().hex[:16]}"
    with psycopg.connect(cluster_url, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield conninfo.make_conninfo(cluster_url, dbname=name)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def first_release_with_data(owner: str) -> tuple[uuid.UUID, uuid.UUID]:
    """A database of the first release, with a firm, a client and an event in it."""
    migrate.migrate(owner, migrate.derived_urls(owner, support.SECRET), revision="0001")
    firm, client = uuid.uuid4(), uuid.uuid4()
    with psycopg.connect(owner) as connection:
        connection.execute(
            "INSERT INTO control.firm (id, display_name, mode, settings) VALUES (%s, 'Old firm', 'TEST', %s)",
            (firm, Jsonb(FirmSettings().to_json())),
        )
        connection.execute(
            "INSERT INTO client (firm_id, id, name, currency_code) VALUES (%s, %s, 'Old client', 'USD')", (firm, client)
        )
        connection.execute(
            "INSERT INTO event (firm_id, id, type, object_type, object_id, object_seq, payload, firm_time)"
            " VALUES (%s, %s, 'client.created', 'client', %s, 1, '{}', now())",
            (firm, uuid.uuid4(), client),
        )
    return firm, client


def revision_of(owner: str) -> str:
    with psycopg.connect(owner) as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    assert row is not None
    return str(row[0])


def test_an_older_database_keeps_its_data(empty: str) -> None:
    firm, client = first_release_with_data(empty)
    assert revision_of(empty) == "0001"
    urls = migrate.derived_urls(empty, support.SECRET)
    assert migrate.migrate(empty, urls) == migrate.head_revision() == revision_of(empty)
    with psycopg.connect(urls.application) as connection:
        connection.execute("SELECT set_config('app.firm_id', %s, true)", (str(firm),))
        assert connection.execute("SELECT id, name FROM client").fetchall() == [(client, "Old client")]
        assert connection.execute("SELECT count(*) FROM event").fetchone() == (1,)


def test_migrating_twice_changes_nothing(empty: str) -> None:
    urls = migrate.derived_urls(empty, support.SECRET)
    assert migrate.migrate(empty, urls) == migrate.migrate(empty, urls)


def test_a_table_in_use_is_waited_for_without_queueing_the_application(empty: str) -> None:
    """A writer that stays open delays the migration; other writers pass meanwhile, because the migration never waits long."""
    firm, client = first_release_with_data(empty)
    urls = migrate.derived_urls(empty, support.SECRET)
    told: list[str] = []
    thread = threading.Thread(target=lambda: migrate.migrate(empty, urls, report=told.append))
    insert = (
        "INSERT INTO event (firm_id, id, type, object_type, object_id, object_seq, payload, firm_time)"
        " VALUES (%s, gen_random_uuid(), 'x', 'client', %s, %s, '{}', now())"
    )
    stalls = []
    with psycopg.connect(empty) as long, psycopg.connect(empty, autocommit=True) as other:
        long.execute(insert, (firm, client, 2))
        thread.start()
        until = time.monotonic() + 2.0
        number = 3
        while time.monotonic() < until:
            began = time.monotonic()
            other.execute(insert, (firm, client, number))
            stalls.append(time.monotonic() - began)
            number += 1
            time.sleep(0.01)
        long.commit()
    thread.join(30)
    assert revision_of(empty) == migrate.head_revision()
    assert told, "the migration should have met the lock"
    assert max(stalls) < 4 * migrate.LOCK_TIMEOUT_MS / 1000


def test_the_database_is_what_the_tables_declare(database_urls: support.DatabaseUrls) -> None:
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(database_urls.owner))
    with engine.connect() as connection:
        options = {"include_schemas": True, "include_name": lambda name, kind, parents: name != "alembic_version"}
        differences = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    engine.dispose()
    assert differences == []
