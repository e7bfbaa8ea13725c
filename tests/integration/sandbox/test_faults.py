"""Test methods, scripted faults and limits of the gateway."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.integration.sandbox.account import SandboxAccount
from tests.providers.gateway import GatewayProcess, start_gateway

NUMBER = "4242" + "4242" * 3


async def outcome(account: SandboxAccount, key: str, method: str = "pm_card_visa") -> str:
    try:
        return str((await account.charge(method, key=key)).status_code)
    except httpx.TransportError as error:
        return type(error).__name__


async def test_card_numbers_are_refused_wherever_they_stand_and_not_repeated(
    gateway: GatewayProcess, account: SandboxAccount
) -> None:
    bodies: list[dict[str, object]] = [
        {"payment_method": NUMBER},
        {"payment_method": "4242 4242 4242 4242"},
        {"payment_method": "pm_card_visa", "card": {"number": "1"}},
        {"payment_method": "pm_card_visa", "metadata": {"note": NUMBER}},
    ]
    for body in bodies:
        answer = await account.http.post("/v1/payments", json={"amount": 5, "currency": "USD"} | body)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "raw_card_data"
        assert NUMBER not in answer.text
    attach = await account.http.post("/v1/payment_methods/attach", json={"customer": "c", "token": NUMBER})
    assert attach.json()["error"]["code"] == "raw_card_data"
    assert NUMBER.encode() not in b"".join(path.read_bytes() for path in gateway.folder.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        {"amount": 0},
        {"amount": -5},
        {"amount": 10.5},
        {"amount": "10"},
        {"amount": True},
        {"amount": 10**16},
        {"currency": "US"},
        {"currency": "U$D"},
        {"currency": None},
        {"payment_method": None},
        {"metadata": {"a": 1}},
        {"metadata": []},
        {"off_session": "yes"},
        {"unheard_of": 1},
        {"customer": "cus_none"},
    ],
)
async def test_wrong_requests_are_refused_with_a_reason(account: SandboxAccount, change: dict[str, object]) -> None:
    body = {"amount": 10, "currency": "USD", "payment_method": "pm_card_visa"} | change
    answer = await account.http.post("/v1/payments", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("header", [None, "Bearer sk_live_x", "Bearer sk_test_", "Basic x", "Bearer sk_test_a b"])
async def test_only_test_keys_open_the_door(gateway: GatewayProcess, header: str | None) -> None:
    async with httpx.AsyncClient(base_url=gateway.url, trust_env=False) as http:
        answer = await http.get("/v1/clock", headers={"Authorization": header} if header else {})
    assert answer.status_code == 401


async def test_a_body_that_is_no_object_is_refused(account: SandboxAccount) -> None:
    for body in (b"[]", b"{", b"\xff", b'"x"', b"[" * 30_000, b"{}" * 50_000):
        assert (await account.http.post("/v1/payments", content=body)).status_code == 400


async def test_a_method_works_for_its_own_customer_only(account: SandboxAccount) -> None:
    ada, ben = await account.post("/v1/customers", name="Ada"), await account.post("/v1/customers", name="Ben")
    method = await account.post("/v1/payment_methods/attach", customer=ada["id"], token="pm_card_mastercard")
    assert method["card"]["brand"] == "mastercard"
    assert (await account.charge(method["id"], customer=ada["id"])).status_code == 200
    assert (await account.charge(method["id"], customer=ben["id"])).status_code == 400
    assert (await account.charge(method["id"])).status_code == 400


@pytest.mark.parametrize(("result", "status", "moved"), [("succeed", "succeeded", 1), ("fail", "failed", 0)])
async def test_the_payer_passes_or_fails_the_challenge(
    gateway: GatewayProcess, account: SandboxAccount, result: str, status: str, moved: int
) -> None:
    waiting = (await account.charge("pm_card_authenticationRequired", key="k", off_session=False)).json()
    assert waiting["status"] == "requires_action"
    path = f"/v1/payments/{waiting['id']}/complete_action"
    assert (await account.post(path, result=result))["status"] == status
    assert (await account.http.post(path, json={"result": result})).status_code == 400
    assert gateway.movements("k", account.name) == moved


async def test_off_session_the_challenge_is_a_decline(account: SandboxAccount) -> None:
    declined = await account.charge("pm_card_authenticationRequired", off_session=True)
    assert declined.status_code == 402
    assert declined.json()["error"]["code"] == "authentication_required"


async def test_scripted_faults_strike_as_often_as_told(gateway: GatewayProcess, account: SandboxAccount) -> None:
    faults = [{"outcome": "server_error_after_accept", "count": 2}, {"outcome": "decline", "count": 1}]
    gateway.control("faults", account=account.name, faults=faults)
    assert [await outcome(account, f"k{n}") for n in range(5)] == ["500", "500", "402", "200", "200"]
    assert gateway.ledger(account.name)["movements"] == 4


async def test_a_seed_replays_whatever_the_order_of_arrival(gateway: GatewayProcess, account: SandboxAccount) -> None:
    faults = [
        {"outcome": name, "probability": 0.15, "delay_seconds": 0}
        for name in ("rate_limited", "conflict", "drop_before_accept", "accept_then_drop", "decline", "unparsable")
    ]
    other = SandboxAccount(gateway.url, account.name + "b")
    results: list[dict[str, str]] = []
    for client, order in ((account, range(60)), (other, reversed(range(60)))):
        gateway.control("faults", account=client.name, seed=7, faults=faults)
        keys = [f"k{n}" for n in order]
        results.append(dict(zip(keys, await asyncio.gather(*(outcome(client, key) for key in keys)), strict=True)))
    assert results[0] == results[1]
    assert set(Counter(results[0].values())) >= {"200", "402", "409", "429", "RemoteProtocolError"}
    gateway.control("faults", account=other.name, seed=8, faults=faults)
    assert {key: await outcome(other, f"x{key}") for key in results[0]} != results[0]
    await other.close()


async def test_a_fault_of_delivery_keeps_what_the_method_does(gateway: GatewayProcess, account: SandboxAccount) -> None:
    gateway.control("faults", account=account.name, faults=[{"outcome": "server_error_after_accept", "count": 1}])
    assert await outcome(account, "k", "pm_card_chargeDeclined") == "500"
    assert [p["status"] for p in (await account.get("/v1/payments", key="k"))["data"]] == ["failed"]
    assert gateway.movements("k", account.name) == 0


async def test_an_answer_is_held_as_long_as_told(gateway: GatewayProcess, account: SandboxAccount) -> None:
    gateway.control("settings", account=account.name, hold_seconds=2.0)
    started = time.monotonic()
    assert await outcome(account, "k", "pm_sandbox_acceptThenTimeout") == "200"
    assert time.monotonic() - started >= 2.0
    started = time.monotonic()
    assert await outcome(account, "k", "pm_sandbox_acceptThenTimeout") == "200"
    assert time.monotonic() - started < 2.0


async def test_the_rate_limit_refuses_without_executing(gateway: GatewayProcess, account: SandboxAccount) -> None:
    gateway.control("settings", account=account.name, rate_limit_per_second=5)
    results = Counter([await outcome(account, f"k{n}") for n in range(20)])
    assert set(results) == {"200", "429"}
    assert results["200"] < 15
    assert gateway.ledger(account.name)["movements"] == results["200"]
    gateway.control("settings", account=account.name, rate_limit_per_second=None)
    assert await outcome(account, "after") == "200"


async def test_wrong_control_calls_are_refused(gateway: GatewayProcess, account: SandboxAccount) -> None:
    calls: list[tuple[str, dict[str, object]]] = [
        ("settings", {"account": "a", "unheard_of": 1}),
        ("settings", {"account": "a", "latency_ms": -1}),
        ("settings", {"latency_ms": 1}),
        ("faults", {"account": "a", "faults": [{"outcome": "explode"}]}),
        ("faults", {"account": "a", "faults": [{"outcome": "slow", "probability": 2}]}),
        ("faults", {"account": "a", "faults": [{"outcome": "decline", "decline": "unheard_of"}]}),
        ("faults", {"account": "a", "faults": [{"outcome": "slow", "extra": 1}]}),
    ]
    for path, body in calls:
        assert (await account.http.post(f"/control/{path}", json=body)).status_code == 400, body
    assert (await account.http.post("/control/reset")).status_code == 403


async def test_reset_empties_the_book_only_where_allowed(tmp_path: Path) -> None:
    gateway = start_gateway(tmp_path, allow_reset=True)
    account = SandboxAccount(gateway.url, "a")
    await account.charge(key="k")
    assert gateway.ledger()["movements"] == 1
    await account.post("/control/reset")
    assert gateway.ledger()["movements"] == 0
    assert (await account.charge(key="k")).status_code == 200
    await account.close()
    gateway.stop()
