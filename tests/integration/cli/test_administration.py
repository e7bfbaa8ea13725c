"""`migrate`, `verify`, `create-admin-key`, `settings`: what operators type before and beside everything else."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from dunwell_server.platform.database import Database
from dunwell_server.platform.embedded import EmbeddedPostgres
from dunwell_server.platform.migrate import head_revision
from dunwell_server.rpc.auth import hash_secret
from tests import support
from tests.integration.cli.command import Command
from tests.integration.cli.conftest import MakeFirm, public_id


def test_migrate_says_where_the_schema_stands(dunwell: Command) -> None:
    assert dunwell("migrate", "--json").json == {"command": "migrate", "revision": head_revision(), "embedded": False}
    again = dunwell("migrate")
    assert again.code == 0
    assert head_revision() in again.out


def test_without_a_url_the_embedded_database_is_started_and_stopped_again(tmp_path: Path) -> None:
    dunwell = Command(None, tmp_path)
    try:
        refused = dunwell.from_nothing("generate-package-invoices")
        assert refused.code == 2
        assert refused.err == "error: the database is not set up yet: run `dunwell migrate`\n"
        assert dunwell.from_nothing("migrate", "--json").json["embedded"] is True
        done = dunwell.from_nothing("generate-package-invoices", "--json")
        assert done.code == 0, done.err
        assert done.json["firms"] == []
        assert not EmbeddedPostgres(tmp_path).is_running()
    finally:
        EmbeddedPostgres(tmp_path).destroy()


async def test_verify_is_clean_after_a_run_and_names_what_is_not(
    db: Database, dunwell: Command, make_billable: MakeFirm
) -> None:
    firm = await make_billable(2)
    await asyncio.to_thread(dunwell, "generate-package-invoices", "--firm-id", public_id(firm))
    clean = await asyncio.to_thread(dunwell, "verify", "--firm-id", public_id(firm), "--json")
    assert clean.code == 0, clean.out
    assert clean.json["ok"] is True
    assert len(clean.json["checks"]) > 20
    async with db.transaction(firm) as uow:  # a counter that has run ahead of its numbers: a gap
        await uow.execute("UPDATE invoice_series SET next_no = next_no + 1 WHERE firm_id = %s", [firm.firm_id])
    broken = await asyncio.to_thread(dunwell, "verify", "--firm-id", public_id(firm), "--json")
    assert broken.code == 1
    failed = [check for check in broken.json["checks"] if not check["ok"]]
    assert [check["number"] for check in failed] == [6]
    assert failed[0]["violations"][0]["firm_id"] == public_id(firm)
    shown = await asyncio.to_thread(dunwell, "verify", "--firm-id", public_id(firm))
    assert "1 violated" in shown.out
    assert "1 of " in shown.out


def test_verify_over_everything_reads_as_the_auditor(dunwell: Command) -> None:
    result = dunwell("verify", "--json", DUNWELL_SANDBOX_URL="http://127.0.0.1:1")
    assert result.code in (0, 1), result.err
    names = {check["name"] for check in result.json["checks"]}
    assert {"audit_chains", "row_security_forced", "no_card_numbers"} <= names
    assert "sandbox gateway does not answer" in result.json["note"]


async def test_an_admin_key_is_shown_once_and_stored_as_a_hash(db: Database, dunwell: Command) -> None:
    made = await asyncio.to_thread(dunwell, "create-admin-key", "--name", "first", "--json")
    assert made.code == 0, made.err
    secret = made.json["secret"]
    assert secret.startswith("dw_test_")
    firm = await asyncio.to_thread(dunwell, "create-admin-key", "--name", "second")
    assert firm.out.strip().startswith("dw_test_")
    assert firm.out.strip() != secret
    async with db.transaction(support.context(None), write=False) as uow:
        rows = await uow.fetch_all("SELECT role, display_name, secret_hash FROM control.api_key ORDER BY create_time")
        audit = await uow.fetch_value("SELECT count(*) FROM control.audit_event WHERE action = 'api_key_created'")
    assert [(row["role"], row["display_name"]) for row in rows] == [("ADMIN", "first"), ("ADMIN", "second")]
    assert audit == 2
    assert secret.rpartition("_")[2].encode() not in rows[0]["secret_hash"]
    assert len(rows[0]["secret_hash"]) == len(hash_secret(b"x", "y"))


def test_settings_hide_secrets(dunwell: Command) -> None:
    result = dunwell("settings", "--json", DUNWELL_SECRET_KEY="very_secret_indeed_" + "x" * 32)
    assert result.code == 0, result.err
    shown = {row["variable"]: row["value"] for row in result.json["settings"]}
    assert shown["DUNWELL_SECRET_KEY"] == "(set)"
    assert shown["DUNWELL_PORT"] == "50051"
    assert "very_secret" not in result.out
    assert "DUNWELL_PORT" in dunwell("settings").out


def test_help_and_version_need_no_database(tmp_path: Path) -> None:
    dunwell = Command(None, tmp_path)
    shown = dunwell.from_nothing("--help")
    assert shown.code == 0
    assert "generate-package-invoices" in shown.out
    assert "rpc-worker" not in shown.out
    assert dunwell.from_nothing("--version").out.startswith("dunwell ")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("option", [["--workers", "0"], ["--port", "99999"], ["--jobs", "-1"]])
def test_serve_refuses_impossible_numbers(dunwell: Command, option: list[str]) -> None:
    assert dunwell("serve", *option).code == 2
