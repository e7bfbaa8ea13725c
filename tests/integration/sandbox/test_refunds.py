"""Refunds at the gateway: parts and wholes, later and undone, once per key."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.integration.sandbox.account import SandboxAccount
from tests.providers.gateway import GatewayProcess


async def paid(account: SandboxAccount, method: str = "pm_card_visa", **more: Any) -> str:
    response = await account.charge(method, **more)
    assert response.status_code == 200, response.text
    identifier: str = response.json()["id"]
    return identifier


def net(gateway: GatewayProcess, account: SandboxAccount, payment: str) -> int:
    """What is left of a payment in the independent book."""
    entry = gateway.ledger(account.name, "payment", "all")["groups"][payment]
    amount: int = entry["amounts"]["USD"]
    return amount


async def test_parts_add_up_to_the_whole_and_not_a_cent_more(gateway: GatewayProcess, account: SandboxAccount) -> None:
    payment = await paid(account, amount=1000, reference="inv")
    for amount, left in ((300, 700), (200, 500)):
        refund = (await account.refund(payment, amount=amount)).json()
        assert (refund["status"], refund["amount"], refund["currency"]) == ("succeeded", amount, "USD")
        assert net(gateway, account, payment) == left
    over = await account.refund(payment, amount=501)
    assert (over.status_code, over.json()["error"]["code"]) == (400, "refund_exceeds_payment")
    rest = (await account.refund(payment)).json()
    assert rest["amount"] == 500
    assert (await account.get(f"/v1/payments/{payment}"))["amount_refunded"] == 1000
    nothing = await account.refund(payment)
    assert nothing.json()["error"]["code"] == "refund_exceeds_payment"
    assert net(gateway, account, payment) == 0
    assert gateway.movements("inv", account.name) == 1, "charges are counted apart"
    listed = (await account.get("/v1/refunds", payment=payment))["data"]
    assert [refund["amount"] for refund in listed] == [300, 200, 500]
    assert await account.get(f"/v1/refunds/{rest['id']}") == rest


async def test_a_key_refunds_once_also_when_sent_at_once(gateway: GatewayProcess, account: SandboxAccount) -> None:
    payment = await paid(account, amount=1000)
    gateway.control("latency", account=account.name, ms=20)
    answers = await asyncio.gather(*(account.refund(payment, key="k", amount=400) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200, 409}
    gateway.control("latency", account=account.name, ms=0)
    again = await account.refund(payment, key="k", amount=400)
    assert again.headers["idempotent-replayed"] == "true"
    assert len({answer.json()["id"] for answer in (*answers, again) if answer.status_code == 200}) == 1
    assert net(gateway, account, payment) == 600
    other = await account.refund(payment, key="k", amount=401)
    assert other.json()["error"]["code"] == "idempotency_key_reused"
    assert len((await account.get("/v1/refunds", key="k"))["data"]) == 1


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("accept_then_drop", None),
        ("server_error_after_accept", 500),
        ("unparsable", 200),
        ("accept_then_timeout", 200),
        ("slow", 200),
    ],
)
async def test_faults_of_the_answer_leave_one_refund(
    gateway: GatewayProcess, account: SandboxAccount, fault: str, told: int | None
) -> None:
    payment = await paid(account, amount=1000)
    faults = [{"outcome": fault, "on": "refund", "count": 1, "delay_seconds": 0.2}]
    gateway.control("faults", account=account.name, faults=faults)
    assert (await account.charge()).status_code == 200, "a fault of refunds does not strike charges"
    try:
        status: int | None = (await account.refund(payment, key="k", amount=400)).status_code
    except httpx.TransportError:
        status = None
    assert status == told
    assert net(gateway, account, payment) == 600
    replay = await account.refund(payment, key="k", amount=400)
    assert replay.status_code == (500 if told == 500 else 200)
    assert net(gateway, account, payment) == 600


@pytest.mark.parametrize(
    ("fault", "told"),
    [("drop_before_accept", None), ("server_error_before_accept", 500), ("rate_limited", 429), ("conflict", 409)],
)
async def test_faults_before_execution_refund_nothing(
    gateway: GatewayProcess, account: SandboxAccount, fault: str, told: int | None
) -> None:
    payment = await paid(account, amount=1000)
    gateway.control("faults", account=account.name, faults=[{"outcome": fault, "count": 1}])
    try:
        status: int | None = (await account.refund(payment, key="k", amount=400)).status_code
    except httpx.TransportError:
        status = None
    assert status == told
    assert net(gateway, account, payment) == 1000


async def test_pending_refunds_settle_by_the_accounts_clock(gateway: GatewayProcess, account: SandboxAccount) -> None:
    await account.post("/v1/clock", now="2026-03-01T00:00:00Z")
    good = await paid(account, "pm_card_pendingRefund", amount=1000)
    bad = await paid(account, "pm_sandbox_refundPendingThenFailure", amount=1000)
    for payment in (good, bad):
        assert (await account.refund(payment, amount=400)).json()["status"] == "pending"
        assert net(gateway, account, payment) == 1000
        over = await account.refund(payment, amount=601)
        assert over.status_code == 400, "what is pending is spoken for"
    assert (await account.get("/v1/clock"))["next_due"] == "2026-03-01T01:00:00.000Z"
    moved = await account.post("/v1/clock", now="2026-03-01T01:00:00Z")
    assert [t["to"] for t in moved["transitions"]] == ["succeeded", "failed"]
    assert (net(gateway, account, good), net(gateway, account, bad)) == (600, 1000)
    assert (await account.get(f"/v1/payments/{bad}"))["amount_refunded"] == 0
    assert await account.events("refund.") == ["refund.created", "refund.created", "refund.updated", "refund.failed"]


async def test_a_refund_that_succeeded_may_fail_later(gateway: GatewayProcess, account: SandboxAccount) -> None:
    await account.post("/v1/clock", now="2026-03-01T00:00:00Z")
    payment = await paid(account, "pm_card_refundFail", amount=1000)
    refund = (await account.refund(payment)).json()
    assert (refund["status"], net(gateway, account, payment)) == ("succeeded", 0)
    await account.post("/v1/clock", now="2026-03-02T00:00:00Z")
    failed = await account.get(f"/v1/refunds/{refund['id']}")
    assert (failed["status"], failed["failure_reason"]) == ("failed", "expired_or_canceled_card")
    assert net(gateway, account, payment) == 1000
    kinds = [(m["kind"], m["amount"]) for m in (await account.get("/v1/ledger"))["data"]]
    assert kinds == [("charge", 1000), ("refund", -1000), ("refund_failure", 1000)]
    assert (await account.refund(payment)).status_code == 200, "it can be tried again"


async def test_a_refund_is_ended_by_hand(gateway: GatewayProcess, account: SandboxAccount) -> None:
    payment = await paid(account, "pm_card_pendingRefund", amount=1000)
    refund = (await account.refund(payment, amount=250)).json()["id"]
    end = {"account": account.name, "refund": refund}
    assert gateway.control("refunds/end", **end, status="succeeded")["status"] == "succeeded"
    assert net(gateway, account, payment) == 750
    assert (await account.http.post("/control/refunds/end", json=end | {"status": "succeeded"})).status_code == 400
    assert gateway.control("refunds/end", **end, status="failed", reason="declined")["failure_reason"] == "declined"
    assert net(gateway, account, payment) == 1000
    assert (await account.get("/v1/clock"))["next_due"] is None, "what was planned for it is dropped"


async def test_a_refund_that_is_refused_at_once(gateway: GatewayProcess, account: SandboxAccount) -> None:
    payment = await paid(account, "pm_sandbox_refundDeclined", amount=1000)
    refund = (await account.refund(payment)).json()
    assert (refund["status"], refund["failure_reason"]) == ("failed", "declined")
    assert net(gateway, account, payment) == 1000


async def test_only_what_was_received_is_refunded(account: SandboxAccount) -> None:
    waiting = (await account.charge("pm_card_threeDSecure2Required")).json()["id"]
    assert (await account.refund(waiting)).json()["error"]["code"] == "payment_unexpected_state"
    payment = await paid(account)
    wrong: list[dict[str, Any]] = [
        {"amount": 0}, {"amount": -1}, {"amount": "5"}, {"currency": "EUR"}, {"unheard_of": 1}, {"metadata": []},
    ]  # fmt: skip
    for more in wrong:
        assert (await account.refund(payment, **more)).status_code == 400, more
    assert (await account.refund("pay_none")).json()["error"]["code"] == "resource_missing"
    other = SandboxAccount(str(account.http.base_url), account.name + "b")
    assert (await other.refund(payment)).status_code == 400
    await other.close()


async def test_a_disputed_payment_is_not_refunded_and_an_inquirys_is(
    gateway: GatewayProcess, account: SandboxAccount
) -> None:
    disputed = await paid(account, "pm_card_createDispute", amount=1000)
    refused = await account.refund(disputed)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "payment_disputed")
    asked = await paid(account, "pm_card_createDisputeInquiry", amount=1000)
    assert (await account.refund(asked)).status_code == 200
    assert net(gateway, account, disputed) == -1500
    dispute = (await account.get("/v1/disputes", payment=disputed))["data"][0]["id"]
    gateway.control("disputes/decide", account=account.name, dispute=dispute, verdict="won")
    assert (await account.refund(disputed)).status_code == 200
    assert net(gateway, account, disputed) == 0


async def test_the_list_is_by_window_and_pages(account: SandboxAccount) -> None:
    await account.post("/v1/clock", now="2026-03-01T00:00:00Z")
    payment = await paid(account, amount=1000)
    ids = [(await account.refund(payment, amount=10)).json()["id"] for _ in range(5)]
    await account.post("/v1/clock", now="2026-03-02T00:00:00Z")
    late = (await account.refund(payment, amount=10)).json()["id"]
    window = {"created_from": "2026-03-01T00:00:00Z", "created_to": "2026-03-02T00:00:00Z"}
    first = await account.get("/v1/refunds", limit=3, **window)
    rest = await account.get("/v1/refunds", limit=3, page=first["next_page"], **window)
    assert [refund["id"] for refund in first["data"] + rest["data"]] == ids
    assert rest["next_page"] is None
    found = await account.get("/v1/refunds", created_from="2026-03-02T00:00:00Z")
    assert [refund["id"] for refund in found["data"]] == [late]
