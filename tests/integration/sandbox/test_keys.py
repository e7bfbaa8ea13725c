"""Idempotency keys at the gateway: remembered for 24 hours of the account's own time."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests import support
from tests.integration.sandbox.account import SandboxAccount
from tests.providers.gateway import GatewayProcess


async def test_fifty_at_once_with_one_key_move_money_once(gateway: GatewayProcess, account: SandboxAccount) -> None:
    gateway.control("latency", account=account.name, ms=30)
    answers = await asyncio.gather(*(account.charge(key="one") for _ in range(50)))
    statuses = [answer.status_code for answer in answers]
    assert statuses.count(200) >= 1
    assert statuses.count(409) >= 1, "with latency, most must meet the key in use"
    assert set(statuses) == {200, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 200}) == 1
    assert gateway.movements("one", account.name) == 1


async def test_a_key_lives_24_hours_of_account_time_then_it_is_a_new_request(
    gateway: GatewayProcess, account: SandboxAccount
) -> None:
    await account.post("/v1/clock", now="2026-03-01T00:00:00Z")
    first = await account.charge(key="k")
    await account.post("/v1/clock", now="2026-03-01T23:59:59.999Z")
    replay = await account.charge(key="k")
    assert replay.json() == first.json()
    assert replay.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert gateway.movements("k", account.name) == 1
    await account.post("/v1/clock", now="2026-03-02T00:00:00Z")
    new = await account.charge(key="k")
    assert new.json()["id"] != first.json()["id"]
    assert gateway.movements("k", account.name) == 2
    assert (await account.charge(key="k")).json() == new.json()


async def test_failures_and_server_errors_are_remembered_too(gateway: GatewayProcess, account: SandboxAccount) -> None:
    declined = await account.charge("pm_card_chargeDeclined", key="d")
    assert declined.status_code == 402
    assert (await account.charge("pm_card_chargeDeclined", key="d")).json() == declined.json()
    for method, moved in (("pm_sandbox_serverErrorAfterAccept", 1), ("pm_sandbox_serverErrorBeforeAccept", 0)):
        for _ in range(3):
            assert (await account.charge(method, key=method)).status_code == 500
        assert gateway.movements(method, account.name) == moved
        assert len((await account.get("/v1/payments", key=method))["data"]) == moved


async def test_the_declined_key_does_not_stop_a_new_key(gateway: GatewayProcess, account: SandboxAccount) -> None:
    method = "pm_sandbox_failTwiceThenSucceed"
    statuses = [(await account.charge(method, key=f"try-{n}", reference="slot")).status_code for n in (1, 2, 3, 4)]
    assert statuses == [402, 402, 200, 200]
    assert (await account.charge(method, key="try-1", reference="slot")).status_code == 402
    assert gateway.movements("slot", account.name) == 2


@pytest.mark.parametrize("change", [{"amount": 1001}, {"currency": "EUR"}, {"metadata": {"a": "b"}}])
async def test_another_payload_under_a_used_key_is_refused(
    gateway: GatewayProcess, account: SandboxAccount, change: dict[str, object]
) -> None:
    await account.charge(key="k")
    refused = await account.charge(key="k", **change)  # type: ignore[arg-type]
    assert refused.status_code == 400
    assert refused.json()["error"]["type"] == "idempotency_error"
    assert gateway.movements("k", account.name) == 1


async def test_what_was_refused_before_execution_is_not_remembered(account: SandboxAccount) -> None:
    customer = await account.post("/v1/customers", name="Ada")
    unknown = {"customer": customer["id"], "amount": 1000}
    assert (await account.charge("pm_not_there", key="k", **unknown)).status_code == 400
    assert (await account.charge("pm_card_visa", key="k", **unknown)).status_code == 200


async def test_keys_of_different_accounts_are_different(gateway: GatewayProcess, account: SandboxAccount) -> None:
    other = SandboxAccount(gateway.url, account.name + "b")
    mine, theirs = await account.charge(key="same"), await other.charge(key="same")
    assert mine.json()["id"] != theirs.json()["id"]
    missing = await other.http.get(f"/v1/payments/{mine.json()['id']}")
    assert missing.status_code == 404
    await other.close()


async def test_a_lost_request_may_land_late_and_then_its_key_holds(
    gateway: GatewayProcess, account: SandboxAccount
) -> None:
    gateway.control("settings", account=account.name, late_landing_seconds=1.5)
    with pytest.raises(httpx.TransportError):
        await account.charge("pm_sandbox_lateLanding", key="late")
    assert (await account.get("/v1/payments", key="late"))["data"] == []
    await support.eventually(lambda: gateway.movements("late", account.name) == 1)
    landed = (await account.get("/v1/payments", key="late"))["data"]
    assert [payment["status"] for payment in landed] == ["succeeded"]
    assert (await account.charge("pm_sandbox_lateLanding", key="late")).json() == landed[0]
    assert gateway.movements("late", account.name) == 1


async def test_a_request_without_a_key_is_executed_each_time(gateway: GatewayProcess, account: SandboxAccount) -> None:
    body = {"amount": 5, "currency": "USD", "payment_method": "pm_card_visa", "reference": "keyless"}
    for _ in range(2):
        assert (await account.http.post("/v1/payments", json=body)).status_code == 200
    assert gateway.movements("keyless", account.name) == 2


async def test_keys_past_their_life_are_forgotten_and_younger_ones_are_not(
    gateway: GatewayProcess, account: SandboxAccount
) -> None:
    def kept() -> int:
        return int(gateway.shown("account", account=account.name)["keys"])

    await account.post("/v1/clock", now="2026-03-01T00:00:00Z")
    await account.charge(key="old")
    await account.post("/v1/clock", now="2026-03-02T00:30:00Z")
    young = (await account.charge(key="young")).json()
    assert gateway.control("prune") == {"more": False}
    assert kept() == 2, "an hour of grace"
    await account.post("/v1/clock", now="2026-03-02T02:00:00Z")
    assert gateway.control("prune") == {"more": False}
    assert kept() == 1
    assert (await account.charge(key="young")).json() == young
    assert (await account.charge(key="old")).status_code == 200
    assert gateway.movements("old", account.name) == 2
