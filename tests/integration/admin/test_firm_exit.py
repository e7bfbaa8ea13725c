"""A firm leaves one database and enters another: nothing is lost, nothing is added, and the books hold in both."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from typing import Any

import psycopg
import pytest

from dunwell_server.admin.exit_policy import (
    ERASED,
    KEPT_COLUMNS,
    KEPT_TABLES,
    NOT_EXPORTED,
    NOT_IMPORTED,
    PURGED,
    SECRET_COLUMNS,
)
from dunwell_server.admin.store.declared import declare_all, firm_column, firm_tables, name_of
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform import audit_chain, invariants
from dunwell_server.platform.context import system_context
from dunwell_server.platform.database import Database
from dunwell_server.platform.schema import metadata
from tests import support
from tests.integration.admin.books import exported, imported, tables_of, without
from tests.integration.platform.clean_books import Books, clean_books
from tests.integration.platform.horizon import past_horizon

# What an import makes anew. Everything else is equal, byte for byte.
NUMBERED = ("xact", "sequence", "ordinal")


@pytest.fixture(scope="module")
def other_urls(cluster_url: str) -> Iterator[support.DatabaseUrls]:
    """Another installation's database."""
    with support.fresh_database(cluster_url) as urls:
        yield urls


@pytest.fixture(scope="module")
async def other(other_urls: support.DatabaseUrls) -> AsyncIterator[Database]:
    database = await Database.open(other_urls.application, max_size=4)
    yield database
    await database.close()


@pytest.fixture(scope="module")
async def books(db: Database, database_urls: support.DatabaseUrls) -> Books:
    return await clean_books(db, database_urls.owner)


@pytest.fixture(scope="module")
async def file(db: Database, books: Books) -> bytes:
    return (await exported(db, books.firm))[0]


def test_every_table_with_rows_of_a_firm_is_exported_or_left_out_for_a_reason() -> None:
    declare_all()
    of_firms = {name_of(table) for table in metadata.sorted_tables if firm_column(table)}
    assert {table.name for table in metadata.sorted_tables if table.info.get("tenant")} <= of_firms
    shown = {table.name for table in firm_tables()}
    assert shown | NOT_EXPORTED.keys() == of_firms
    assert not shown & NOT_EXPORTED.keys()
    assert NOT_IMPORTED.keys() | SECRET_COLUMNS.keys() <= shown
    assert all([*NOT_EXPORTED.values(), *NOT_IMPORTED.values()])


def test_every_text_of_a_firm_is_erased_purged_or_kept_for_a_reason() -> None:
    declare_all()
    undecided = []
    for table in metadata.sorted_tables:
        if not table.info.get("tenant") or table.name in PURGED | KEPT_TABLES:
            continue
        checks = " ".join(str(getattr(each, "sqltext", "")) for each in table.constraints)
        for column in table.columns:
            is_text = str(column.type) in ("TEXT", "JSONB", "BYTEA", "ARRAY") or str(column.type).endswith("[]")
            is_word = (
                f"{column.name} IN (" in checks
                or f"{column.name} ~ " in checks
                or column.name.endswith(("currency", "currency_code"))
            )
            decided = column.name in ERASED.get(table.name, {}) or column.name in KEPT_COLUMNS
            if is_text and not is_word and not decided:
                undecided.append(f"{table.name}.{column.name}")
    assert undecided == []
    known = {table.name: table.columns for table in metadata.tables.values()}
    assert {
        (table, column) for table, columns in ERASED.items() for column in columns if column not in known[table]
    } == set()


async def test_a_file_tells_what_it_holds(db: Database, books: Books) -> None:
    file, manifest = await exported(db, books.firm)
    assert sha256(file).digest() == manifest.digest
    lines = file.split(b"\n")
    assert lines[-1] == b""
    head, tail = json.loads(lines[0]), json.loads(lines[-2])["manifest"]
    assert (head["format"], head["version"]) == ("dunwell-firm-export", 1)
    assert tail["rows"] == len(lines) - 3 == manifest.rows
    assert [each["name"] for each in head["tables"]] == [each["name"] for each in tail["tables"]]
    for each in tail["tables"]:
        own = [line for line in lines[1:-2] if line.startswith(b'{"table":"%s",' % each["name"].encode())]
        assert len(own) == each["rows"]
        assert sha256(b"".join(line + b"\n" for line in own)).hexdigest() == each["sha256"]
    assert b"secret" not in file
    [account] = tables_of(file)["control.provider_account"]
    assert "credentials" not in account


async def test_a_firm_comes_back_as_it_was(
    db: Database, other: Database, books: Books, file: bytes, other_urls: support.DatabaseUrls
) -> None:
    result = await imported(other, books.firm, file)
    assert {check.name for check in result.report.checks if not check.ok} == set()
    assert result.tables == {name: len(rows) for name, rows in tables_of(file).items() if rows}
    before, after = tables_of(file), tables_of((await exported(other, books.firm))[0])
    for name in before:
        mine = [without(row, *NUMBERED) for row in before[name]]
        theirs = [without(row, *NUMBERED) for row in after[name]]
        match name:
            case "control.firm":
                assert theirs[0].pop("state") == "SUSPENDED" != mine[0].pop("state")
                assert theirs[0].pop("update_time") >= mine[0].pop("update_time")
            case "control.provider_account":
                for row in [*mine, *theirs]:
                    del row["version"], row["update_time"]
            case "audit_seal":
                assert theirs == []
                mine = []
            case "audit_event" | "event":
                assert [row["object_type"] for row in theirs[len(mine) :]] == ["firm"] * (len(theirs) - len(mine))
                theirs = theirs[: len(mine)]
        assert theirs == mine, name
    await past_horizon(other)
    await other.run(system_context(books.firm, "job:seal", upkeep=True), audit_chain.seal_batch)
    assert [check.name for check in await invariants.run_all(other_urls.auditor) if not check.ok] == []
    with psycopg.connect(other_urls.owner) as connection:
        balances = (
            "SELECT client_id, currency_code, receivable_minor, credit_minor FROM client_balance WHERE firm_id = %s"
        )
        assert connection.execute(balances, (books.firm,)).fetchall() == [(books.client, "USD", 1000, 200)]
        arrival = connection.execute(
            "SELECT metadata FROM audit_event WHERE firm_id = %s AND action = 'firm_imported'", (books.firm,)
        ).fetchone()
        assert arrival is not None
        assert json.loads(arrival[0]["audit_head"])["seq"] == len(before["audit_seal"])


async def refused(other: Database, firm: Any, file: bytes) -> DunwellError:
    """Why a file is not imported; and that nothing of it stays."""
    with pytest.raises(DunwellError) as caught:
        await imported(other, firm, file)
    async with other.transaction(support.context(None), write=False) as uow:
        assert await uow.fetch_value("SELECT count(*) FROM control.firm WHERE id = %s", (firm,)) == 0
        assert await uow.fetch_value("SELECT count(*) FROM control.firm_import WHERE state = 'OPEN'") == 0
        assert await uow.fetch_value("SELECT count(*) FROM control.firm_import_chunk") == 0
    for table in firm_tables():
        async with other.transaction(support.context(None), write=False) as uow:
            await uow.execute("SELECT set_config('app.firm_id', %s, true)", (str(firm),))
            assert (
                await uow.fetch_value(f"SELECT count(*) FROM {table.name} WHERE {table.firm_column} = %s", (firm,)) == 0
            )
    return caught.value


def changed(file: bytes, old: bytes, new: bytes) -> bytes:
    assert file.count(old) >= 1
    return file.replace(old, new, 1)


def resealed(file: bytes) -> bytes:
    """A file whose manifest fits its rows again, as somebody who knows the format could make it."""
    lines = file.splitlines(keepends=True)
    tail = json.loads(lines[-1])
    for each in tail["manifest"]["tables"]:
        own = [line for line in lines[1:-1] if line.startswith(b'{"table":"%s",' % each["name"].encode())]
        each["rows"], each["sha256"] = len(own), sha256(b"".join(own)).hexdigest()
    return b"".join(lines[:-1]) + json.dumps(tail, separators=(",", ":")).encode() + b"\n"


def dropped(file: bytes, table: str, position: int = 0) -> bytes:
    lines = file.splitlines(keepends=True)
    own = [line for line in lines[1:-1] if line.startswith(b'{"table":"%s",' % table.encode())]
    lines.remove(own[position])
    return b"".join(lines)


@pytest.fixture
async def empty(cluster_url: str) -> AsyncIterator[Database]:
    """An installation without firms."""
    with support.fresh_database(cluster_url) as urls:
        database = await Database.open(urls.application, max_size=2)
        yield database
        await database.close()


async def test_a_damaged_file_is_refused_by_name_and_leaves_nothing(empty: Database, books: Books, file: bytes) -> None:
    cases: list[tuple[bytes, str, str]] = [
        (changed(file, b'"total":1000', b'"total":1001'), "checksum", "invoice"),
        (dropped(file, "client"), "row_count", "client"),
        (file[: len(file) // 2], "truncated", ""),
        (file[: file.rindex(b'{"manifest"')], "truncated", ""),
        (changed(file, b'"version":1', b'"version":2'), "version", ""),
        (b"PK\x03\x04" + file, "format", ""),
        (file + b'{"table":"client","row":{}}\n', "format", ""),
        (changed(file, b'{"table":"payment","row":', b'{"table":"people","row":'), "format", ""),
        (resealed(changed(file, b'"name":"Ada"', b'"name":Ada')), "refused", "client"),
        (resealed(changed(file, b'"account":"revenue"', b'"account":"private"')), "refused", "ledger_entry"),
        (resealed(dropped(file, "ledger_entry")), "refused", "ledger_entry"),
        (resealed(dropped(file, "client")), "refused", ""),
        (resealed(changed(file, b'"amount_minor":1000,"period_start"', b'"amount_minor":999,"period_start"')), "refused", "invoice_line"),
        (changed(file, b'"columns":["id",', b'"columns":["soul","id",'), "unknown_column", "control.firm"),
        (resealed(changed(file, b'"name":"Ada"', b'"name":"\xed\xa0\xbd"')), "format", "client"),
        (changed(file, b'"columns":["id",', b'"columns":["id","id",'), "format", "control.firm"),
        (b"[" * 200_000 + b"\n", "format", ""),
        (file[: file.rindex(b'{"manifest"')] + b'{"manifest":' + b"[" * 200_000 + b"\n", "format", ""),
    ]  # fmt: skip
    for damaged, cause, table in cases:
        error = await refused(empty, books.firm, damaged)
        assert (error.reason, error.metadata["cause"]) == (Reason.IMPORT_DAMAGED, cause), (
            error.message,
            error.metadata,
            error.__cause__,
        )
        assert error.metadata.get("table", "") == table or not table, (error.message, error.metadata)
        assert error.message


async def test_books_that_do_not_hold_are_refused(empty: Database, books: Books, file: bytes) -> None:
    lines = file.splitlines(keepends=True)
    for line in [line for line in lines if b'"kind":"voided"' in line]:
        posting = json.loads(line)["row"]["id"].encode()
        lines = [each for each in lines if posting not in each]
    error = await refused(empty, books.firm, resealed(b"".join(lines)))
    assert error.reason is Reason.IMPORT_UNVERIFIED
    assert {"receivable_matches_invoices", "invoice_facts_recorded_once"} <= set(error.metadata["checks"].split(","))


async def test_a_firm_is_imported_once(other: Database, books: Books, file: bytes) -> None:
    with pytest.raises(DunwellError) as caught:
        await imported(other, books.firm, file)
    assert caught.value.reason is Reason.ALREADY_EXISTS
