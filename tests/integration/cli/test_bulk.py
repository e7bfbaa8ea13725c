"""`generate-package-invoices` and `process-recurring-charges` on a real database."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database
from tests.integration.cli.command import Command, Result
from tests.integration.cli.conftest import MakeFirm, public_id

FIRM_KEYS = {
    "firm_id", "display_name", "run_id", "state", "error", "as_of", "total", "done", "counts", "amounts", "reasons", "items",
}  # fmt: skip
ITEM_KEYS = {
    "subject_type", "subject_id", "name", "outcome", "reason", "message", "client_id", "client_name", "amount_minor", "currency_code",
}  # fmt: skip


async def call(dunwell: Command, *arguments: str) -> Result:
    """The command, without holding up the test's loop."""
    return await asyncio.to_thread(dunwell, *arguments)


async def book(db: Database, context: CallContext) -> tuple[Any, ...]:
    """What a dry run must leave as it was."""
    statement = """
        SELECT (SELECT count(*) FROM invoice), (SELECT count(*) FROM invoice_line), (SELECT count(*) FROM ledger_entry),
               (SELECT count(*) FROM coverage), (SELECT count(*) FROM event), (SELECT sum(version) FROM engagement),
               (SELECT count(*) FROM audit_event), (SELECT count(*) FROM invoice_series)
    """
    async with db.transaction(context, write=False) as uow:
        row = await uow.fetch_one(statement)
    assert row is not None
    return tuple(row.values())


async def test_a_dry_run_tells_everything_and_writes_nothing(
    db: Database, dunwell: Command, make_billable: MakeFirm
) -> None:
    firm = await make_billable(3)
    before = await book(db, firm)
    result = await call(dunwell, "generate-package-invoices", "--dry-run", "--firm-id", public_id(firm), "--json")
    assert result.code == 0, result.err
    assert await book(db, firm) == before
    answer = result.json
    assert answer["command"] == "generate-package-invoices"
    assert (answer["dry_run"], answer["ok"]) == (True, True)
    assert answer["counts"] == {"created": 3, "skipped": 0, "failed": 0}
    # January, February and March, in advance, for each of three.
    assert answer["amounts"] == {"USD": 900_000}
    (part,) = answer["firms"]
    assert set(part) == FIRM_KEYS
    assert part["as_of"] == "2027-03-10"
    assert [item["amount_minor"] for item in part["items"]] == [300_000] * 3
    assert set(part["items"][0]) == ITEM_KEYS
    assert part["items"][0]["subject_id"].startswith("eng_")


async def test_the_dry_runs_table_names_clients_and_lines(dunwell: Command, make_billable: MakeFirm) -> None:
    firm = await make_billable(2)
    result = await call(dunwell, "generate-package-invoices", "--dry-run", "--firm-id", public_id(firm))
    assert result.code == 0, result.err
    assert "Client 1" in result.out
    assert "Bookkeeping (2027-01-01 to 2027-01-31) and 2 more" in result.out
    assert "USD 6,000.00" in result.out
    assert "Dry run: nothing was written." in result.out


async def test_running_twice_creates_nothing_new(db: Database, dunwell: Command, make_billable: MakeFirm) -> None:
    firm = await make_billable(4)
    arguments = ("generate-package-invoices", "--firm-id", public_id(firm), "--json")
    first, second = await call(dunwell, *arguments), await call(dunwell, *arguments)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert first.json["counts"]["created"] == 4
    assert first.json["firms"][0]["run_id"].startswith("run_")
    assert second.json["counts"]["created"] == 0
    assert second.json["amounts"] == {}
    async with db.transaction(firm, write=False) as uow:
        numbers = [row["number"] for row in await uow.fetch_all("SELECT number FROM invoice ORDER BY series_no")]
    assert numbers == [f"INV-2027-{number:06d}" for number in range(1, 5)]


async def test_an_earlier_day_bills_less(dunwell: Command, make_billable: MakeFirm) -> None:
    firm = await make_billable(1)
    arguments = ("generate-package-invoices", "--firm-id", public_id(firm), "--as-of", "2027-02-15", "--json")
    result = await call(dunwell, *arguments)
    assert result.json["amounts"] == {"USD": 200_000}
    assert result.json["firms"][0]["as_of"] == "2027-02-15"


async def test_one_client_that_cannot_be_billed_does_not_stop_the_rest_and_fails_the_command(
    db: Database, dunwell: Command, make_billable: MakeFirm
) -> None:
    firm = await make_billable(3)
    async with db.transaction(firm) as uow:
        await uow.execute(
            "UPDATE engagement SET fee_minor = 9223372036854775807 WHERE id = (SELECT min(id::text)::uuid FROM engagement)"
        )
    result = await call(dunwell, "generate-package-invoices", "--firm-id", public_id(firm))
    assert result.code == 1
    assert "failed" in result.out
    assert "AMOUNT_OUT_OF_RANGE" in result.out
    assert "USD 6,000.00" in result.out
    as_json = await call(dunwell, "generate-package-invoices", "--firm-id", public_id(firm), "--json")
    assert as_json.code == 1
    assert as_json.json["ok"] is False
    assert as_json.json["counts"] == {"created": 0, "skipped": 0, "failed": 1}
    (item,) = as_json.json["firms"][0]["items"]
    assert item["outcome"] == "FAILED"
    assert item["client_name"].startswith("Client")


async def test_skips_are_told_with_their_reason(db: Database, dunwell: Command, make_billable: MakeFirm) -> None:
    firm = await make_billable(2)
    async with db.transaction(firm) as uow:
        await uow.execute("UPDATE client SET state = 'ARCHIVED' WHERE name = 'Client 0'")
    result = await call(dunwell, "generate-package-invoices", "--firm-id", public_id(firm))
    assert result.code == 0, result.err
    assert "skipped: client archived 1" in result.out


async def test_all_firms_are_one_run_with_a_part_for_each(
    db: Database, dunwell: Command, make_billable: MakeFirm
) -> None:
    firms = [await make_billable(1) for _ in range(3)]
    result = await call(dunwell, "generate-package-invoices", "--json")
    answer = result.json
    mine = {public_id(firm) for firm in firms}
    parts = [part for part in answer["firms"] if part["firm_id"] in mine]
    assert len(parts) == 3
    assert all(part["counts"]["created"] == 1 and part["state"] == "SUCCEEDED" for part in parts)
    assert answer["run_id"].startswith("run_")
    async with db.transaction(firms[0], write=False) as uow:
        parents = {row["parent_id"] for row in await uow.fetch_all("SELECT parent_id FROM run")}
        state = await uow.fetch_value("SELECT state FROM control.run WHERE id = %s", [next(iter(parents))])
    assert [encode(Prefix.RUN, parent) for parent in parents] == [answer["run_id"]]
    assert state in ("SUCCEEDED", "FAILED")


async def test_a_firm_whose_clock_is_moving_is_told_and_fails_the_command(
    db: Database, dunwell: Command, make_billable: MakeFirm
) -> None:
    firm = await make_billable(1)
    async with db.transaction(firm) as uow:
        await uow.execute(
            "UPDATE control.test_clock SET state = 'ADVANCING', target_time = now_time, lease_until = clock_timestamp() + interval '1 hour' WHERE firm_id = %s",
            [firm.firm_id],
        )
    result = await call(dunwell, "generate-package-invoices", "--firm-id", public_id(firm))
    assert result.code == 1
    assert "CLOCK_ADVANCING" in result.out
    async with db.transaction(firm.unbound()) as uow:
        await uow.execute(
            "UPDATE control.test_clock SET state = 'READY', target_time = NULL, lease_until = NULL WHERE firm_id = %s",
            [firm.firm_id],
        )


async def test_a_collection_with_nothing_due_is_a_success(dunwell: Command, make_billable: MakeFirm) -> None:
    firm = await make_billable(1)
    for extra in ([], ["--dry-run"]):
        result = await call(dunwell, "process-recurring-charges", "--firm-id", public_id(firm), "--json", *extra)
        assert result.code == 0, result.err
        assert result.json["counts"] == {"charged": 0, "declined": 0, "waiting": 0, "skipped": 0, "failed": 0}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate-package-invoices", "--firm-id", "firm_nonsense"], "--firm-id must be an id of the form firm_"),
        (["generate-package-invoices", "--as-of", "yesterday"], "--as-of"),
        (["generate-package-invoices", "--firm-id", encode(Prefix.FIRM, uuid7())], "There is no firm"),
        (["process-recurring-charges", "--as-of", "2027-01-01"], "No such option"),
        (["advance-clock", "--firm-id", encode(Prefix.FIRM, uuid7()), "--by", "soon"], "--by"),
        (["advance-clock", "--firm-id", encode(Prefix.FIRM, uuid7())], "give either --to or --by"),
        (["no-such-command"], "No such command"),
    ],
)
def test_wrong_calls_exit_with_two_and_one_clear_line(dunwell: Command, arguments: list[str], words: str) -> None:
    result = dunwell(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert words in result.err
    assert "Traceback" not in result.err


def test_a_database_that_does_not_answer_exits_with_one_line(dunwell: Command) -> None:
    result = dunwell("generate-package-invoices", DATABASE_URL="postgresql://nobody:hush-hush@127.0.0.1:1/none")
    assert result.code in (1, 2)
    assert result.err.count("\n") == 1
    assert "does not answer" in result.err
    assert "hush-hush" not in result.err
