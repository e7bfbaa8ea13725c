"""`reconcile`, `report payments` and `recover` on a real database, with the sandbox gateway."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from dunwell_server.bootstrap import wire
from dunwell_server.config import Settings
from dunwell_server.platform.crypto import Vault
from dunwell_server.platform.database import Database
from tests import support
from tests.integration.cli.command import Command, Result
from tests.integration.cli.conftest import public_id
from tests.integration.payments import world as worlds
from tests.integration.payments.reconciling import paid, paid_there
from tests.integration.payments.world import Workers, World
from tests.providers.gateway import GatewayProcess, start_gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = start_gateway(tmp_path_factory.mktemp("gateway"))
    yield process
    process.stop()


@pytest.fixture
async def world(
    database_urls: support.DatabaseUrls, dunwell: Command, gateway: GatewayProcess, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[World]:
    """A firm whose account's secrets the command can read."""
    secret = dunwell.environment()["DUNWELL_SECRET_KEY"]
    monkeypatch.setattr(worlds, "VAULT", Vault.of(Settings.model_validate({"secret_key": secret}).keys))
    db = await Database.open(database_urls.application, bus=wire(Settings()), max_size=4)
    workers = Workers.at(gateway.url)
    yield await World.create(db, gateway, workers)
    await workers.provider.close()
    await db.close()


async def call(dunwell: Command, world: World, *arguments: str) -> Result:
    """The command, beside this gateway, without holding up the test's loop."""
    return await asyncio.to_thread(dunwell, *arguments, DUNWELL_SANDBOX_URL=world.gateway.url)


async def test_agreement_is_a_success_and_a_difference_fails_the_command(dunwell: Command, world: World) -> None:
    client, [method] = await world.client("pm_card_visa", autopay=False)
    await paid(world, client)
    firm = public_id(world.context)
    result = await call(dunwell, world, "reconcile", "--firm-id", firm)
    assert (result.code, "Book and providers agree." in result.out) == (0, True), result.err
    reference = await paid_there(world, method, 5000, key="by hand", metadata={})
    result = await call(dunwell, world, "reconcile", "--firm-id", firm)
    assert result.code == 1
    for words in (reference, "USD 50.00", "only the provider has it", "1 difference needs a person."):
        assert words in result.out
    result = await call(dunwell, world, "reconcile", "--firm-id", firm, "--json", "--dry-run")
    answer = result.json
    assert (result.code, answer["ok"], answer["dry_run"]) == (1, False, True)
    assert answer["counts"] == {
        "matched": 1, "adopted": 0, "different": 1, "waiting": 0, "skipped": 0, "failed": 0,
    }  # fmt: skip
    [item] = answer["firms"][0]["items"]
    assert (item["provider_reference"], item["reason"], item["amount_minor"]) == (reference, "THEIRS_ONLY", 5000)


async def test_what_is_taken_over_is_shown_and_all_firms_are_one_run(dunwell: Command, world: World) -> None:
    client, _ = await world.client("pm_sandbox_acceptThenTimeout", autopay=False)
    invoice = await world.invoice(client)
    await world.charge(invoice.id)
    result = await call(dunwell, world, "reconcile", "--json")
    [part] = [each for each in result.json["firms"] if each["firm_id"] == public_id(world.context)]
    assert (part["state"], part["counts"]["adopted"], part["amounts"]) == ("SUCCEEDED", 1, {"USD": 12000})
    assert result.json["run_id"].startswith("run_")
    assert (await world.invoice_now(invoice.id)).state == "PAID"


async def test_the_report_as_tables_json_and_csv(dunwell: Command, world: World) -> None:
    good, _ = await world.client("pm_card_visa")
    bad, _ = await world.client("pm_card_chargeDeclinedInsufficientFunds")
    for client in (good, bad):
        await world.invoice(client, "20.00")
    await world.work()
    firm = public_id(world.context)
    result = await call(dunwell, world, "report", "payments", "--firm-id", firm)
    assert result.code == 0, result.err
    for words in (
        "2 payments ended, 1 of them failed (50.0%).",
        "2026-03",
        "insufficient funds",
        "first try",
        "█",
        "At risk: USD 20.00",
    ):
        assert words in result.out, words
    answer = (await call(dunwell, world, "report", "payments", "--firm-id", firm, "--json")).json["firms"][0]
    assert (answer["finished"], answer["failed"], answer["failure_rate"]) == (2, 1, 0.5)
    assert answer["amounts_at_risk"] == {"USD": 2000}
    result = await call(dunwell, world, "report", "payments", "--firm-id", firm, "--csv")
    rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(result.out)))
    total = next(row for row in rows if row["part"] == "total")
    assert (total["finished"], total["failed"], total["rate"]) == ("2", "1", "0.500000")
    assert {(row["part"], row["currency_code"], row["amount_minor"]) for row in rows} >= {("at_risk", "USD", "2000")}


async def test_recovery_from_entering_to_charging_again(dunwell: Command, world: World) -> None:
    client, [method] = await world.client("pm_card_visa", autopay=False)
    await paid(world, client)
    firm = public_id(world.context)
    result = await call(
        dunwell, world, "recover", "enter", "--since", "2026-03-01T00:00:00Z", "--firm-id", firm, "--json"
    )
    assert (result.code, result.json["firms"]) == (0, [firm]), result.err
    assert ("recovery_entered", "CRITICAL") in await world.actions(world.firm_id)
    result = await call(dunwell, world, "recover", "status")
    assert (result.code, "Harbour & Vale" in result.out) == (1, True)
    await paid_there(world, method, 5000, key="by hand", metadata={})
    result = await call(dunwell, world, "recover", "run", "--firm-id", firm)
    assert (result.code, "stays in recovery" in result.out, "THEIRS_ONLY" in result.out) == (1, True, True), result.err
    result = await call(dunwell, world, "recover", "leave", "--firm-id", firm)
    assert (result.code, "--force" in result.err) == (2, True)
    result = await call(dunwell, world, "recover", "leave", "--firm-id", firm, "--force")
    assert (result.code, "charges again" in result.out) == (0, True)
    assert (await call(dunwell, world, "recover", "status", "--json")).json["firms"] == []


async def test_a_firm_whose_record_agrees_charges_again(dunwell: Command, world: World) -> None:
    client, _ = await world.client("pm_sandbox_acceptThenTimeout", autopay=False)
    invoice = await world.invoice(client)
    await world.charge(invoice.id)
    await call(
        dunwell, world, "recover", "enter", "--since", "2026-03-01T00:00:00Z", "--firm-id", public_id(world.context)
    )
    result = await call(dunwell, world, "recover", "run", "--json")
    assert result.code == 0, result.out + result.err
    [part] = result.json["firms"]
    assert (part["ended"], part["adopted"], part["differences"], part["broken"]) == (True, 1, [], [])
    assert (await world.invoice_now(invoice.id)).state == "PAID"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["reconcile", "--since", "2026-03-02", "--until", "2026-03-01"], "--until lies before --since"),
        (["reconcile", "--since", "some day"], "--since"),
        (["reconcile", "--provider", "stirpe"], "--provider must be one of"),
        (["report", "payments", "--json", "--csv"], "either --json or --csv"),
        (["report", "payments", "--currency", "usd"], "UNKNOWN_CURRENCY"),
        (["report", "payments", "--currency", "XYZ"], "UNKNOWN_CURRENCY"),
        (["report", "payments", "--since", "2020-01-01", "--until", "2026-01-01"], "PERIOD_INVALID"),
        (["recover", "enter", "--since", "2999-01-01"], "future"),
    ],
)
async def test_wrong_calls_exit_with_two(dunwell: Command, world: World, arguments: list[str], words: str) -> None:
    result = await call(dunwell, world, *arguments)
    assert (result.code, words in result.err) == (2, True), result.err
