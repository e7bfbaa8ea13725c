"""Erasing a firm: distinctive words are put wherever personal data may be, and afterwards every column of the database is searched for them."""

from __future__ import annotations

import uuid
from datetime import date
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from dunwell_server.admin.exit_policy import ERASED, PURGED
from dunwell_server.admin.service import offboarding
from dunwell_server.admin.service.offboarding import Standing, Step
from dunwell_server.admin.store.declared import firm_tables
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform import invariants
from dunwell_server.platform.context import Actor, CallContext, Role
from dunwell_server.platform.database import Database, UnitOfWork
from tests import support
from tests.integration.admin.books import INSTALLATION, exported, tables_of
from tests.integration.platform.clean_books import Books, clean_books

WORD = "Zanzibar"
LATER = date(2034, 1, 1)
# One row of what the books have none of: enough of each to hold words.
_MORE: dict[str, str] = {
    "provider_customer": "client_id, account_id, provider, provider_reference) VALUES (%(firm)s, %(client)s, %(account)s, 'sandbox', 'cus_1'",
    "provider_mirror": "account_id, kind, reference, client_id, state, snapshot) VALUES (%(firm)s, %(account)s, 'INVOICE', 'in_1', %(client)s, 'open', '{}'",
    "provider_event": "id, account_id, provider, dedupe_key, type, body, body_hash, headers) VALUES"
    " (%(firm)s, gen_random_uuid(), %(account)s, 'sandbox', 'evt_1', 'x', '', '', '{}'",
    "setup_intent": "id, client_id, provider, account_id, mode, idempotency_key, firm_time) VALUES"
    " (%(firm)s, gen_random_uuid(), %(client)s, 'sandbox', %(account)s, 'TEST', 'k', now()",
    "checkout_session": "id, client_id, purpose, channel, provider, account_id, mode, idempotency_key, success_url, firm_time) VALUES"
    " (%(firm)s, gen_random_uuid(), %(client)s, 'SETUP', 'LINK', 'sandbox', %(account)s, 'TEST', 'k', 'https://example.com', now()",
    "approval": "id, kind, subject_id, proposal, actor, approve_actor, approve_time) VALUES"
    " (%(firm)s, gen_random_uuid(), 'REFUND', %(refund)s, '{}', 'ana', 'bob', now()",
    "run_item": "run_id, subject_id, subject_type, outcome) VALUES (%(firm)s, %(run)s, %(engagement)s, 'engagement', 'SKIPPED'",
    "idempotency": "method, request_id, request_hash, response, expire_time) VALUES (%(firm)s, 'm', gen_random_uuid(), '', 'Zanzibar', now() + interval '1 day'",
    "document": "id, kind, invoice_id, edition, format, locale, content, content_hash, firm_time) VALUES"
    " (%(firm)s, gen_random_uuid(), 'INVOICE', %(paid)s, 'ISSUED', 'PDF', 'en', 'Zanzibar', sha256('Zanzibar'), now()",
}  # fmt: skip
_SETTLE = (
    "UPDATE attempt SET state = 'DECLINED' WHERE id = %(unknown_attempt)s",
    "UPDATE payment SET state = 'FAILED' WHERE id = %(pending_payment)s",
    "UPDATE collection_hold SET release_time = now() WHERE payment_id = %(pending_payment)s",
    "UPDATE refund SET state = 'FAILED', send_state = 'ANSWERED' WHERE id = %(unknown_refund)s",
    "UPDATE payment SET refund_pending_minor = 0 WHERE id = %(payment)s",
)


def plant(owner: str, books: Books) -> None:
    """Fill the tables that have no row, then put the word into every column that an erasure is to empty."""
    values = {name: str(value) for name, value in vars(books).items()}
    with psycopg.connect(owner) as connection:
        connection.execute("SET session_replication_role = replica")
        for table, rest in _MORE.items():
            connection.execute(f"INSERT INTO {table} (firm_id, {rest})", values)
        for table, columns in ERASED.items():
            rows = connection.execute(
                "SELECT a.attname, format_type(a.atttypid, NULL) FROM pg_attribute a WHERE a.attrelid = %s::regclass AND a.attname = ANY(%s)",
                (table, list(columns)),
            ).fetchall()
            sets = [
                sql.SQL("{} = {}").format(sql.Identifier(name), _word(kind))
                for name, kind in rows
                if kind != "smallint" and name != "last4"
            ]
            connection.execute(sql.SQL("UPDATE {} SET {}").format(sql.Identifier(table), sql.SQL(", ").join(sets)))
        connection.execute(
            "UPDATE control.firm SET settings = jsonb_set(settings, '{document}', %s) WHERE id = %s",
            (f'{{"notice_email": "{WORD}@example.com"}}', books.firm),
        )
        connection.execute(
            "INSERT INTO control.api_key (id, firm_id, role, display_name, secret_hash, create_actor) VALUES (%s, %s, 'READER', %s, '', 'x')",
            (uuid.uuid4(), books.firm, WORD),
        )


def _word(kind: str) -> sql.Composable:
    texts = {
        "text": sql.SQL("'{} ' || ctid::text").format(sql.SQL(WORD)),
        "jsonb": sql.Literal(f'{{"who": "{WORD}"}}'),
        "bytea": sql.Literal(WORD.encode()),
        "text[]": sql.Literal([WORD]),
    }
    return texts[kind]


def found(owner: str) -> set[str]:
    """Every column of the database in which the word stands."""
    places = set()
    with psycopg.connect(owner) as connection:
        columns = connection.execute(
            "SELECT n.nspname, c.relname, a.attname, format_type(a.atttypid, NULL) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
            " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ('public', 'control') AND c.relkind = 'r' AND a.attnum > 0"
            " AND NOT a.attisdropped AND format_type(a.atttypid, NULL) IN ('text', 'text[]', 'jsonb', 'bytea')"
        ).fetchall()
        for schema, table, column, kind in columns:
            text = sql.SQL("encode({}, 'escape')") if kind == "bytea" else sql.SQL("{}::text")
            query = sql.SQL("SELECT 1 FROM {} WHERE {} ILIKE %s LIMIT 1").format(
                sql.Identifier(schema, table), text.format(sql.Identifier(column))
            )
            if connection.execute(query, (f"%{WORD}%",)).fetchone():
                places.add(f"{table}.{column}")
    return places


async def step(db: Database, firm: uuid.UUID, what: Step, who: str, **more: Any) -> Standing:
    """Take a step as a person."""
    context = CallContext(
        firm, Actor("key", Role.ADMIN, "api_key", who), "AdminService.OffboardFirm", uuid.uuid4(), upkeep=True
    )

    async def work(uow: UnitOfWork) -> Standing:
        return await offboarding.take(uow, what, INSTALLATION.vault, **more)

    return await db.run(context, work)


@pytest.fixture(scope="module")
async def books(db: Database, database_urls: support.DatabaseUrls) -> Books:
    made = await clean_books(db, database_urls.owner)
    plant(database_urls.owner, made)
    return made


async def test_nothing_personal_is_left(db: Database, books: Books, database_urls: support.DatabaseUrls) -> None:
    owner = database_urls.owner
    planted = {
        f"{table}.{column}"
        for table, columns in ERASED.items()
        for column in columns
        if not column.startswith(("exp_", "last4"))
    }
    before = found(owner)
    rows = {table.name for table in firm_tables() if await _count(owner, table.name, table.firm_column, books.firm)}
    assert {place for place in planted if place.partition(".")[0] in rows} <= before
    assert {
        "client",
        "engagement",
        "invoice",
        "payment",
        "attempt",
        "refund",
        "provider_event",
        "payment_method",
        "approval",
        "event",
        "run_item",
    } <= rows
    await step(db, books.firm, Step.SUSPEND, "ana")
    with pytest.raises(DunwellError) as caught:
        await step(db, books.firm, Step.ERASE, "bob", retain_until=LATER, confirm="Harbour & Vale")
    assert (caught.value.reason, caught.value.metadata["attempts"], caught.value.metadata["refunds"]) == (
        Reason.STATE_CONFLICT,
        "1",
        "1",
    )
    assert found(owner) == before
    with psycopg.connect(owner) as connection:
        connection.execute("SET session_replication_role = replica")
        for statement in _SETTLE:
            connection.execute(statement, {name: str(value) for name, value in vars(books).items()})
    erased = await step(db, books.firm, Step.ERASE, "bob", retain_until=LATER, confirm="Harbour & Vale")
    assert erased.state == "ERASED"
    assert {table for table, count in erased.erased.items() if count} == rows & ERASED.keys()
    # What the law has kept: the documents as they were sent, encrypted at rest with the disk, until their date.
    assert found(owner) == {"document.content"}
    async with db.transaction(support.context(books.firm), write=False) as uow:
        checks = await invariants.run_for_firm(uow)
    assert {check.name for check in checks if not check.ok} <= {"audit_sealed"}


async def test_what_the_law_wants_is_still_there(db: Database, books: Books) -> None:
    rows = tables_of((await exported(db, books.firm))[0])
    paid = next(row for row in rows["invoice"] if row["id"] == str(books.paid))
    assert (paid["number"], paid["total"], paid["amount_refunded"], paid["client_id"]) == (
        "INV-2026-000001",
        1000,
        300,
        str(books.client),
    )
    assert [row["description"] for row in rows["invoice_line"]] == ["Care"] * 3
    assert len(rows["ledger_entry"]) > 10
    [method] = rows["payment_method"]
    assert method["provider_reference"].startswith("erased:")
    assert (method["brand"], method["last4"], method["fingerprint"]) == (None, None, None)
    assert {row["provider_reference"] for row in rows["attempt"]} == {"ch_1", None}
    assert [row["state"] for row in rows["control.provider_account"]] == ["DISABLED"]


async def test_documents_go_when_their_time_has_come(
    db: Database, books: Books, database_urls: support.DatabaseUrls
) -> None:
    with pytest.raises(DunwellError) as caught:
        await step(db, books.firm, Step.PURGE, "ana")
    assert caught.value.metadata["retain_until_date"] == "2034-01-01"
    with psycopg.connect(database_urls.application) as connection:
        connection.execute("SELECT set_config('app.firm_id', %s, true)", (str(books.firm),))
        with pytest.raises(psycopg.errors.CheckViolation):
            connection.execute("SELECT purge_documents('2033-12-31')")
    with psycopg.connect(database_urls.owner) as connection:
        connection.execute("UPDATE control.firm_offboarding SET retain_until_date = '2020-01-01'")
    purged = await step(db, books.firm, Step.PURGE, "ana")
    assert (purged.state, dict(purged.erased)) == ("PURGED", {"document": 1})
    assert PURGED.keys() == {"document"}
    assert found(database_urls.owner) == set()
    with pytest.raises(DunwellError):
        await step(db, books.firm, Step.PURGE, "ana")


async def test_only_an_erased_firm_can_be_erased_by_the_application(
    db: Database, database_urls: support.DatabaseUrls
) -> None:
    firm = (await support.add_firm(db)).firm_id
    attacks: list[tuple[LiteralString, str]] = [
        ("SELECT erase_columns('client'::regclass, ARRAY['name'], ARRAY['x'])", "erase_columns_firm"),
        ("UPDATE event SET payload = '{}'", ""),
        ("DELETE FROM document", ""),
    ]
    for statement, rule in attacks:
        with psycopg.connect(database_urls.application) as connection:
            connection.execute(
                "SELECT set_config('app.firm_id', %s, true), set_config('app.erasing', 'on', true)", (str(firm),)
            )
            with pytest.raises((psycopg.errors.CheckViolation, psycopg.errors.InsufficientPrivilege)) as caught:
                connection.execute(statement)
            assert not rule or caught.value.diag.constraint_name == rule


async def test_an_erasure_touches_no_amount_and_no_other_table(
    db: Database, books: Books, database_urls: support.DatabaseUrls
) -> None:
    attacks: list[tuple[LiteralString, str]] = [
        ("SELECT erase_columns('invoice'::regclass, ARRAY['total'], ARRAY['0'])", "erase_columns_column"),
        ("SELECT erase_columns('ledger_entry'::regclass, ARRAY['amount_minor'], ARRAY['0'])", "erase_columns_column"),
        ("SELECT erase_columns('control.firm'::regclass, ARRAY['display_name'], ARRAY['x'])", "erase_columns_table"),
    ]
    for statement, rule in attacks:
        with psycopg.connect(database_urls.application) as connection:
            connection.execute("SELECT set_config('app.firm_id', %s, true)", (str(books.firm),))
            with pytest.raises(psycopg.errors.CheckViolation) as caught:
                connection.execute(statement)
            assert caught.value.diag.constraint_name == rule


async def _count(owner: str, table: str, column: str, firm: uuid.UUID) -> int:
    with psycopg.connect(owner) as connection:
        row = connection.execute(f"SELECT count(*) FROM {table} WHERE {column} = %s", (firm,)).fetchone()
    assert row is not None
    return int(row[0])
