"""The account's clock: transitions in time order, never backwards."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from tests import support
from tests.integration.sandbox.account import SandboxAccount
from tests.providers.gateway import GatewayProcess

START = datetime(2026, 1, 31, tzinfo=UTC)


async def set_to(account: SandboxAccount, hours: float) -> dict[str, object]:
    return await account.post("/v1/clock", now=(START + timedelta(hours=hours)).isoformat())


async def test_an_account_follows_real_time_until_its_clock_is_set(account: SandboxAccount) -> None:
    clock = await account.get("/v1/clock")
    assert not clock["is_set"]
    assert abs(datetime.fromisoformat(clock["now"]) - datetime.now(UTC)) < timedelta(seconds=5)
    assert (await set_to(account, 0))["now"] == "2026-01-31T00:00:00.000Z"
    assert (await account.charge()).json()["created"] == "2026-01-31T00:00:00.000Z"


async def test_setting_the_clock_forward_executes_what_falls_due_in_time_order(
    gateway: GatewayProcess, account: SandboxAccount
) -> None:
    await set_to(account, 0)
    for name, seconds in (("third", 10_800), ("first", 3_600), ("second", 7_200)):
        gateway.control("settings", account=account.name, pending_seconds=seconds)
        await account.charge("pm_sandbox_pendingThenSuccess", key=name)
    gateway.control("settings", account=account.name, action_seconds=5_400)
    await account.charge("pm_card_threeDSecure2Required", key="link")
    gateway.control("settings", account=account.name, pending_seconds=1_800)
    await account.charge("pm_sandbox_pendingThenFailure", key="refused")
    assert (await account.get("/v1/clock"))["next_due"] == "2026-01-31T00:30:00.000Z"
    moved = await set_to(account, 2)
    assert [(t["reference"], t["to"], t["at"]) for t in moved["transitions"]] == [  # type: ignore[attr-defined]
        ("refused", "failed", "2026-01-31T00:30:00.000Z"),
        ("first", "succeeded", "2026-01-31T01:00:00.000Z"),
        ("link", "canceled", "2026-01-31T01:30:00.000Z"),
        ("second", "succeeded", "2026-01-31T02:00:00.000Z"),
    ]
    assert moved["next_due"] == "2026-01-31T03:00:00.000Z"
    assert (await set_to(account, 3))["next_due"] is None
    ledger = (await account.get("/v1/ledger"))["data"]
    assert [(m["reference"], m["created"]) for m in ledger] == [
        ("first", "2026-01-31T01:00:00.000Z"),
        ("second", "2026-01-31T02:00:00.000Z"),
        ("third", "2026-01-31T03:00:00.000Z"),
    ]
    events = [event["type"] for event in (await account.get("/v1/events"))["data"]]
    assert events.count("payment.processing") == 4
    assert events[-5:] == [
        "payment.failed",
        "payment.succeeded",
        "payment.canceled",
        "payment.succeeded",
        "payment.succeeded",
    ]


async def test_the_clock_stands_still_until_set_and_never_goes_back(account: SandboxAccount) -> None:
    await set_to(account, 5)
    await account.charge()
    back = await account.http.post("/v1/clock", json={"now": (START + timedelta(hours=4)).isoformat()})
    assert back.status_code == 400
    assert back.json()["error"]["code"] == "clock_backwards"
    assert (await account.get("/v1/clock"))["now"] == "2026-01-31T05:00:00.000Z"
    assert (await set_to(account, 5))["transitions"] == []
    for wrong in ("2026-01-31T00:00:00", "soon", None):
        assert (await account.http.post("/v1/clock", json={"now": wrong})).status_code == 400


async def test_an_account_in_use_cannot_be_sent_to_the_past(account: SandboxAccount) -> None:
    await account.charge()
    assert (await account.http.post("/v1/clock", json={"now": "2020-01-01T00:00:00Z"})).status_code == 400


async def test_in_real_time_what_is_due_happens_by_itself(gateway: GatewayProcess, account: SandboxAccount) -> None:
    gateway.control("settings", account=account.name, pending_seconds=1.5)
    await account.charge("pm_sandbox_pendingThenSuccess", key="soon")
    assert gateway.movements("soon", account.name) == 0
    # The control side reads the book without running anything.
    await support.eventually(lambda: gateway.movements("soon", account.name) == 1)


async def test_clocks_of_accounts_are_their_own(gateway: GatewayProcess, account: SandboxAccount) -> None:
    other = SandboxAccount(gateway.url, account.name + "b")
    await set_to(account, 0)
    await set_to(other, 0)
    await account.charge("pm_sandbox_pendingThenSuccess", key="mine")
    await other.charge("pm_sandbox_pendingThenSuccess", key="theirs")
    await set_to(account, 2)
    assert gateway.movements("mine", account.name) == 1
    assert gateway.movements("theirs", other.name) == 0
    await other.close()
