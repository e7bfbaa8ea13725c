"""Customers, their methods, and set-up intents at the gateway."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.integration.sandbox.account import SandboxAccount
from tests.providers.gateway import GatewayProcess


async def opened(account: SandboxAccount, **more: Any) -> dict[str, Any]:
    customer = await account.post("/v1/customers", name="Ada")
    return await account.post("/v1/setup_intents", customer=customer["id"], metadata={"firm": "f"}, **more)


async def confirmed_by_browser(
    account: SandboxAccount, setup: dict[str, Any], token: str, *, name: str | None = None, secret: str | None = None
) -> httpx.Response:
    return await account.http.post(
        f"/v1/setup_intents/{setup['id']}/confirm",
        json={"payment_method": token, "client_secret": secret or setup["client_secret"]},
        headers={"Authorization": f"Bearer pk_test_{name or account.name}"},
    )


async def test_the_browser_confirms_with_its_secret_and_the_method_is_kept(account: SandboxAccount) -> None:
    setup = await opened(account)
    assert setup["status"] == "requires_payment_method"
    done = (await confirmed_by_browser(account, setup, "pm_card_mastercard")).json()
    assert done["status"] == "succeeded"
    assert "metadata" not in done, "the firm's own is not for browsers"
    shown = await account.get(f"/v1/setup_intents/{setup['id']}")
    assert shown["payment_method"]["card"]["brand"] == "mastercard"
    methods = (await account.get(f"/v1/customers/{setup['customer']}/payment_methods"))["data"]
    assert methods == [shown["payment_method"]]
    assert (await account.charge(methods[0]["id"], customer=setup["customer"])).status_code == 200
    expected = ["customer.created", "payment_method.attached", "setup_intent.succeeded", "payment.succeeded"]
    assert await account.events() == expected
    assert (await account.get("/v1/clock"))["next_due"] is None


async def test_a_browser_needs_the_right_account_and_secret(account: SandboxAccount) -> None:
    setup = await opened(account)
    assert (await confirmed_by_browser(account, setup, "pm_card_visa", secret="seti_x")).status_code == 404
    assert (await confirmed_by_browser(account, setup, "pm_card_visa", name="someone")).status_code == 404
    key = {"Authorization": f"Bearer pk_test_{account.name}"}
    path = f"/v1/setup_intents/{setup['id']}"
    assert (await account.http.get(path, headers=key)).status_code == 404
    seen = await account.http.get(path, headers=key, params={"client_secret": setup["client_secret"]})
    assert seen.json()["status"] == "requires_payment_method"
    assert (await account.http.get("/v1/payments", headers=key)).status_code == 401


async def test_a_page_of_another_origin_may_ask_and_confirm_and_nothing_else(account: SandboxAccount) -> None:
    setup = await opened(account)
    asked = await account.http.options(f"/v1/setup_intents/{setup['id']}/confirm")
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (204, "*")
    assert "Authorization" in asked.headers["access-control-allow-headers"]
    for token in ("pm_sandbox_attachDeclined", "pm_card_visa"):
        answer = await confirmed_by_browser(account, setup, token)
        assert answer.headers["access-control-allow-origin"] == "*"
    other = await account.http.get("/v1/payments")
    assert "access-control-allow-origin" not in other.headers


async def test_a_refused_method_leaves_it_open_for_another(account: SandboxAccount) -> None:
    setup = await opened(account)
    refused = await confirmed_by_browser(account, setup, "pm_sandbox_attachDeclined")
    assert (refused.status_code, refused.json()["error"]["code"]) == (402, "card_declined")
    assert (await account.get(f"/v1/setup_intents/{setup['id']}"))["last_setup_error"]["code"] == "card_declined"
    assert (await confirmed_by_browser(account, setup, "pm_card_visa")).json()["status"] == "succeeded"
    assert (await confirmed_by_browser(account, setup, "pm_card_visa")).status_code == 400
    assert await account.events("setup_intent.") == ["setup_intent.setup_failed", "setup_intent.succeeded"]


@pytest.mark.parametrize(("result", "status"), [("succeed", "succeeded"), ("fail", "requires_payment_method")])
async def test_a_challenge_is_passed_or_failed(account: SandboxAccount, result: str, status: str) -> None:
    setup = await opened(account)
    path = f"/v1/setup_intents/{setup['id']}"
    waiting = await account.post(f"{path}/confirm", payment_method="pm_card_threeDSecure2Required")
    assert waiting["status"] == "requires_action"
    assert (await account.http.get(waiting["next_action"]["url"])).status_code == 200
    assert (await account.post(f"{path}/complete_action", result=result))["status"] == status


async def test_it_is_opened_once_per_key_and_cancelled(account: SandboxAccount) -> None:
    customer = await account.post("/v1/customers", name="Ada")
    body = {"customer": customer["id"], "metadata": {"setup": "s"}}
    answers = [
        await account.http.post("/v1/setup_intents", json=body, headers={"Idempotency-Key": "k"}) for _ in range(2)
    ]
    assert answers[0].json() == answers[1].json()
    path = f"/v1/setup_intents/{answers[0].json()['id']}"
    for _ in range(2):
        assert (await account.post(f"{path}/cancel"))["status"] == "canceled"
    late = await account.http.post(f"{path}/confirm", json={"payment_method": "pm_card_visa"})
    assert late.status_code == 400
    assert await account.events("setup_intent.") == ["setup_intent.canceled"]


async def test_one_that_nobody_confirms_ends_by_the_accounts_clock(account: SandboxAccount) -> None:
    await account.post("/v1/clock", now="2026-03-01T00:00:00Z")
    setup = await opened(account)
    assert (await account.get("/v1/clock"))["next_due"] == "2026-03-02T00:00:00.000Z"
    await account.post("/v1/clock", now="2026-03-02T00:00:00Z")
    assert (await account.get(f"/v1/setup_intents/{setup['id']}"))["status"] == "canceled"


async def test_faults_of_the_way_strike_set_ups_when_told(gateway: GatewayProcess, account: SandboxAccount) -> None:
    customer = await account.post("/v1/customers", name="Ada")
    faults = [{"outcome": "accept_then_drop", "on": "setup", "count": 1}]
    gateway.control("faults", account=account.name, faults=faults)
    body, headers = {"customer": customer["id"]}, {"Idempotency-Key": "k"}
    with pytest.raises(httpx.TransportError):
        await account.http.post("/v1/setup_intents", json=body, headers=headers)
    replay = await account.http.post("/v1/setup_intents", json=body, headers=headers)
    assert replay.headers["idempotent-replayed"] == "true"


async def test_customers_are_updated_and_have_a_default_method(account: SandboxAccount) -> None:
    customer = await account.post("/v1/customers", name="Ada", metadata={"a": "1", "b": "2"})
    path = f"/v1/customers/{customer['id']}"
    changed = await account.post(path, email="ada@example.com", metadata={"b": "", "c": "3"})
    assert (changed["name"], changed["email"], changed["metadata"]) == ("Ada", "ada@example.com", {"a": "1", "c": "3"})
    first = await account.post("/v1/payment_methods/attach", customer=customer["id"], token="pm_card_visa")
    assert (await account.post(path, default_payment_method=first["id"]))["default_payment_method"] == first["id"]
    other = await account.post("/v1/customers", name="Ben")
    foreign = await account.http.post(f"/v1/customers/{other['id']}", json={"default_payment_method": first["id"]})
    assert foreign.status_code == 400
    await account.post(f"/v1/payment_methods/{first['id']}/detach")
    assert (await account.get(path))["default_payment_method"] is None
    assert (await account.get(f"{path}/payment_methods"))["data"] == []
    assert (await account.http.post("/v1/customers/cus_none", json={})).status_code == 404


async def test_the_networks_updater_changes_a_method_in_place(account: SandboxAccount) -> None:
    customer = await account.post("/v1/customers", name="Ada")
    token = "pm_card_chargeDeclinedExpiredCard"
    method = await account.post("/v1/payment_methods/attach", customer=customer["id"], token=token)
    charged = {"customer": customer["id"]}
    assert (await account.charge(method["id"], **charged)).status_code == 402
    path = f"/v1/payment_methods/{method['id']}"
    changed = await account.post(path, token="pm_card_visa", exp_month=1, exp_year=2041)
    assert (changed["id"], changed["card"]["exp_month"], changed["card"]["exp_year"]) == (method["id"], 1, 2041)
    assert (await account.charge(method["id"], **charged)).status_code == 200
    assert "payment_method.updated" in await account.events()
    assert (await account.http.post(path, json={"exp_month": 13})).status_code == 400
