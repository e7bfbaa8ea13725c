"""Tenancy, attacked with plain SQL as the application's role: row security is the backstop behind every forgotten condition."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from dunwell_server.billing import tables as billing
from dunwell_server.disputes import tables as disputes
from dunwell_server.inbox import tables as inbox
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.ledger import tables as ledger
from dunwell_server.payments import tables as payments
from dunwell_server.platform import tables as platform
from dunwell_server.platform.database import Database
from dunwell_server.platform.schema import metadata
from tests import support
from tests.integration.platform.clean_books import Books, clean_books

assert all((billing, disputes, inbox, ledger, payments, platform))
TENANT_TABLES = sorted(table.name for table in metadata.tables.values() if table.info.get("tenant"))
FILLED = [
    "attempt", "audit_event", "audit_seal", "client", "client_balance", "collection_hold", "coverage", "engagement", "event", "invoice",
    "invoice_line", "invoice_series", "ledger_entry", "ledger_posting", "payment", "payment_allocation", "payment_method", "run",
]  # fmt: skip
CHANGEABLE = [
    "attempt",
    "client",
    "collection_hold",
    "coverage",
    "engagement",
    "invoice",
    "invoice_line",
    "payment",
    "payment_method",
    "run",
]


@pytest.fixture(scope="module")
async def victim(db: Database, database_urls: support.DatabaseUrls) -> Books:
    return await clean_books(db, database_urls.owner)


@pytest.fixture
def attacker(database_urls: support.DatabaseUrls) -> Iterator[psycopg.Connection]:
    """A bare connection as the application's role: no unit of work, no tenant."""
    with psycopg.connect(database_urls.application) as connection:
        yield connection


def become(connection: psycopg.Connection, firm: uuid.UUID | None) -> None:
    connection.execute("SELECT set_config('app.firm_id', %s, true)", ("" if firm is None else str(firm),))


def count(connection: psycopg.Connection, table: str) -> int:
    row = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
    assert row is not None
    return int(row[0])


def test_every_tenant_table_is_known_to_the_database(database_urls: support.DatabaseUrls) -> None:
    with psycopg.connect(database_urls.owner) as connection:
        rows = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND relname <> 'alembic_version'"
        ).fetchall()
    assert sorted(row[0] for row in rows) == TENANT_TABLES
    assert set(FILLED) <= set(TENANT_TABLES)


@pytest.mark.parametrize("table", FILLED)
def test_without_a_firm_there_are_no_rows(table: str, victim: Books, attacker: psycopg.Connection) -> None:
    assert count(attacker, table) == 0
    become(attacker, None)
    assert count(attacker, table) == 0
    become(attacker, uuid.uuid4())
    assert count(attacker, table) == 0
    become(attacker, victim.firm)
    assert count(attacker, table) > 0, "otherwise this test proves nothing"


@pytest.mark.parametrize("table", FILLED)
async def test_another_firms_rows_cannot_be_named(
    table: str, victim: Books, db: Database, attacker: psycopg.Connection
) -> None:
    become(attacker, (await support.add_firm(db)).firm_id)
    statement = sql.SQL("SELECT count(*) FROM {} WHERE firm_id = %s").format(sql.Identifier(table))
    row = attacker.execute(statement, (victim.firm,)).fetchone()
    assert row == (0,)


@pytest.mark.parametrize("table", CHANGEABLE)
async def test_another_firms_rows_cannot_be_changed(
    table: str, victim: Books, db: Database, attacker: psycopg.Connection
) -> None:
    become(attacker, (await support.add_firm(db)).firm_id)
    column = (
        "release_time"
        if table in ("collection_hold", "coverage")
        else "description"
        if table == "invoice_line"
        else "version"
    )
    value = "clock_timestamp()" if column == "release_time" else "'x'" if column == "description" else "version + 1"
    statement = sql.SQL("UPDATE {} SET {} = {} WHERE firm_id = %s").format(
        sql.Identifier(table), sql.Identifier(column), sql.SQL(value)
    )
    assert attacker.execute(statement, (victim.firm,)).rowcount == 0
    become(attacker, victim.firm)
    if table not in ("invoice_line", "coverage", "collection_hold"):
        assert attacker.execute(statement, (victim.firm,)).rowcount > 0, "otherwise this test proves nothing"


async def test_a_row_cannot_be_given_to_another_firm(victim: Books, db: Database, attacker: psycopg.Connection) -> None:
    own = (await support.add_firm(db)).firm_id
    insert = "INSERT INTO client (firm_id, id, name, currency_code) VALUES (%s, %s, 'Eve', 'USD')"
    become(attacker, own)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"), attacker.transaction():
        attacker.execute(insert, (victim.firm, uuid.uuid4()))
    become(attacker, own)
    attacker.execute(insert, (own, uuid.uuid4()))
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"), attacker.transaction():
        attacker.execute("UPDATE client SET firm_id = %s", (victim.firm,))
    become(attacker, None)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"), attacker.transaction():
        attacker.execute(insert, (own, uuid.uuid4()))


REFERENCES = {
    "an engagement for another firm's client": (
        "INSERT INTO engagement (firm_id, id, client_id, name, pricing_mode, currency_code, start_date, fee_minor, billing_interval, anchor, timing,"
        " partial_periods, proration, line_description, billed_through_date)"
        " VALUES (%(own)s, gen_random_uuid(), %(client)s, 'x', 'PACKAGE', 'USD', '2026-01-01', 1, 'MONTHLY', 'CALENDAR', 'IN_ADVANCE', 'FULL', '{}', 'x', '2026-01-01')"
    ),
    "an invoice for another firm's client": (
        "INSERT INTO invoice (firm_id, id, client_id, origin, currency_code, subtotal, total) VALUES (%(own)s, gen_random_uuid(), %(client)s, 'MANUAL', 'USD', 0, 0)"
    ),
    "a line on another firm's invoice": (
        "INSERT INTO invoice_line (firm_id, invoice_id, line_no, kind, description, quantity, unit_price, amount_minor)"
        " VALUES (%(own)s, %(paid)s, 2, 'ITEM', 'x', 1, 1, 100)"
    ),
    "a method for another firm's client": (
        "INSERT INTO payment_method (firm_id, id, client_id, provider, account_id, mode, provider_reference, kind)"
        " VALUES (%(own)s, gen_random_uuid(), %(client)s, 'sandbox', gen_random_uuid(), 'TEST', 'pm_x', 'CARD')"
    ),
    "entries for another firm's posting": (
        "INSERT INTO ledger_entry (firm_id, posting_id, line_no, account, currency_code, amount_minor)"
        " SELECT %(own)s, %(posting)s, n, 'revenue', 'USD', CASE n WHEN 8 THEN 1 ELSE -1 END FROM unnest(ARRAY[8, 9]) AS n"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFERENCES)
async def test_a_row_cannot_reference_another_firms(
    what: str, victim: Books, db: Database, attacker: psycopg.Connection, database_urls: support.DatabaseUrls
) -> None:
    with psycopg.connect(database_urls.owner) as owner:
        posting = owner.execute("SELECT id FROM ledger_posting WHERE firm_id = %s LIMIT 1", (victim.firm,)).fetchone()
    assert posting is not None
    own = (await support.add_firm(db)).firm_id
    become(attacker, own)
    values = {"own": own, "client": victim.client, "paid": victim.paid, "posting": posting[0]}
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        attacker.execute(REFERENCES[what], values)


@pytest.mark.parametrize(
    "attack",
    [
        "ALTER TABLE client DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE client NO FORCE ROW LEVEL SECURITY",
        "DROP POLICY application ON client",
        "CREATE POLICY mine ON client USING (true)",
        "SET ROLE dunwell_auditor",
        "SET session_replication_role = replica",
        "ALTER ROLE CURRENT_USER BYPASSRLS",
        "GRANT dunwell_auditor TO dunwell_app",
        "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "COPY client FROM STDIN",
        "UPDATE client_balance SET credit_minor = 1",
        "INSERT INTO client_balance VALUES (gen_random_uuid(), gen_random_uuid(), 'USD', 1, 1)",
        "DELETE FROM ledger_posting",
        "UPDATE payment_allocation SET amount_minor = 1",
        "DELETE FROM client",
        "INSERT INTO control.state_edge VALUES ('invoice', 'VOID', 'PAID')",
        "DELETE FROM control.firm",
        "UPDATE control.audit_event SET actor = 'x'",
        "DELETE FROM alembic_version",
        "SELECT secure_tenant_table('client')",
    ],
)
def test_the_application_cannot_lift_its_limits(attack: str, victim: Books, attacker: psycopg.Connection) -> None:
    become(attacker, victim.firm)
    with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.FeatureNotSupported)):
        attacker.execute(attack)


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE client SET name = 'x'",
        "DELETE FROM event",
        "INSERT INTO control.wake (firm_id, kind, due) VALUES (gen_random_uuid(), 'x', now())",
    ],
)
def test_the_auditor_sees_every_firm_and_writes_nothing(
    attack: str, victim: Books, database_urls: support.DatabaseUrls
) -> None:
    with psycopg.connect(database_urls.auditor) as auditor:
        assert count(auditor, "client") > 0
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            auditor.execute(attack)


async def test_the_tenant_does_not_outlive_its_transaction(victim: Books, database_urls: support.DatabaseUrls) -> None:
    database = await Database.open(database_urls.application, max_size=1)
    try:
        async with database.transaction(support.context(victim.firm), write=False) as uow:
            assert await uow.fetch_value("SELECT count(*) FROM client") == 1
        async with database.transaction(support.context(None), write=False) as uow:
            assert await uow.fetch_value("SELECT count(*) FROM client") == 0
        with pytest.raises(ZeroDivisionError):
            async with database.transaction(support.context(victim.firm)) as uow:
                raise ZeroDivisionError
        async with database.transaction(support.context(None), write=False) as uow:
            assert await uow.fetch_value("SELECT count(*) FROM client") == 0
    finally:
        await database.close()


async def test_a_firmless_transaction_enters_one_firm_once(victim: Books, db: Database) -> None:
    other = (await support.add_firm(db)).firm_id
    assert other is not None
    async with db.transaction(support.context(None)) as uow:
        await uow.enter(other)
        assert uow.firm_id == other
        assert await uow.fetch_value("SELECT count(*) FROM client") == 0
        with pytest.raises(RuntimeError, match="bound"):
            await uow.enter(victim.firm)
    with pytest.raises(DunwellError) as refused:
        async with db.transaction(support.context(None)) as uow:
            await uow.enter(uuid.uuid4())
    assert refused.value.reason is Reason.RESOURCE_NOT_FOUND


async def test_entering_a_closed_firm_is_refused_like_beginning_in_it(db: Database) -> None:
    firm = await support.add_firm(db)
    assert firm.firm_id is not None
    async with db.transaction(support.context(None)) as uow:
        await uow.execute("UPDATE control.firm SET state = 'SUSPENDED' WHERE id = %s", (firm.firm_id,))
    with pytest.raises(DunwellError) as refused:
        async with db.transaction(support.context(None)) as uow:
            await uow.enter(firm.firm_id)
    assert refused.value.reason is Reason.FIRM_SUSPENDED
    with pytest.raises(DunwellError) as refused:
        async with db.transaction(firm):
            pytest.fail("the transaction began")
    assert refused.value.reason is Reason.FIRM_SUSPENDED


def test_a_firm_that_the_statistics_do_not_know_is_planned_for_as_any_other(
    attacker: psycopg.Connection, database_urls: support.DatabaseUrls
) -> None:
    """Else every index led by firm_id seems as good as the primary key, and a look-up by id reads all that the firm has."""
    known, new = uuid.uuid4(), uuid.uuid4()
    with psycopg.connect(database_urls.owner, autocommit=True) as owner:
        owner.execute(
            "INSERT INTO control.firm (id, display_name, mode, settings) SELECT unnest(%s::uuid[]), 'Firm', 'TEST', '{}'",
            ([known, new],),
        )
        fill = "INSERT INTO client (firm_id, id, name, currency_code) SELECT %s, gen_random_uuid(), 'Client', 'USD' FROM generate_series(1, 3000)"
        owner.execute(fill, (known,))
        owner.execute("ANALYZE client")
        owner.execute(fill, (new,))
    for firm in (known, new):
        become(attacker, firm)
        plan = attacker.execute("EXPLAIN SELECT name FROM client WHERE id = %s", (uuid.uuid4(),)).fetchall()
        assert "client_pkey" in str(plan), plan
