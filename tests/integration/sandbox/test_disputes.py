"""Disputes at the gateway: opened, answered, decided; money leaves and comes back in its book."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.sandbox.account import SandboxAccount
from tests.providers.gateway import GatewayProcess

DAY = 86_400


async def disputed(account: SandboxAccount, method: str = "pm_card_createDispute") -> dict[str, Any]:
    await account.post("/v1/clock", now="2026-03-01T00:00:00Z")
    payment = (await account.charge(method, amount=5000, metadata={"firm": "f1"})).json()
    (dispute,) = (await account.get("/v1/disputes", payment=payment["id"]))["data"]
    found: dict[str, Any] = dispute
    return found


def amounts(gateway: GatewayProcess, account: SandboxAccount, kind: str) -> int:
    groups = gateway.ledger(account.name, "object", kind)["groups"]
    return sum(entry["amounts"]["USD"] for entry in groups.values())


async def test_a_chargeback_takes_amount_and_fee_at_once(gateway: GatewayProcess, account: SandboxAccount) -> None:
    dispute = await disputed(account)
    assert (dispute["status"], dispute["reason"], dispute["funds_withdrawn"]) == ("needs_response", "fraudulent", True)
    assert (dispute["amount"], dispute["fee"], dispute["metadata"]) == (5000, 1500, {"firm": "f1"})
    assert dispute["respond_by"] == "2026-03-08T00:00:00.000Z"
    assert (amounts(gateway, account, "dispute"), amounts(gateway, account, "dispute_fee")) == (-5000, -1500)
    assert (await account.get(f"/v1/payments/{dispute['payment']}"))["disputed"]
    assert await account.events() == ["payment.succeeded", "dispute.created"]


@pytest.mark.parametrize(
    ("words", "verdict", "net"), [("winning_evidence", "won", 5000), ("losing_evidence", "lost", -1500)]
)
async def test_evidence_is_staged_submitted_once_and_decides(
    gateway: GatewayProcess, account: SandboxAccount, words: str, verdict: str, net: int
) -> None:
    dispute = await disputed(account)
    path = f"/v1/disputes/{dispute['id']}"
    staged = await account.post(path, evidence={"product_description": "advice"})
    assert (staged["status"], staged["submission_count"]) == ("needs_response", 0)
    submitted = await account.post(path, evidence={"uncategorized_text": words}, submit=True)
    assert (submitted["status"], submitted["submission_count"]) == ("under_review", 1)
    assert submitted["evidence"] == {"product_description": "advice", "uncategorized_text": words}
    assert (await account.http.post(path, json={"submit": True})).status_code == 400
    await account.post("/v1/clock", now="2026-03-02T00:00:00Z")
    assert (await account.get(path))["status"] == verdict
    assert amounts(gateway, account, "all") == net
    assert await account.events("dispute.") == [
        "dispute.created",
        "dispute.updated",
        "dispute.updated",
        "dispute.closed",
    ]


async def test_without_an_answer_it_is_lost_at_its_deadline(gateway: GatewayProcess, account: SandboxAccount) -> None:
    dispute = await disputed(account)
    assert (await account.get("/v1/clock"))["next_due"] == dispute["respond_by"]
    await account.post("/v1/clock", now=dispute["respond_by"])
    assert (await account.get(f"/v1/disputes/{dispute['id']}"))["status"] == "lost"
    assert amounts(gateway, account, "all") == -1500


async def test_giving_up_loses_and_twice_is_harmless(account: SandboxAccount) -> None:
    dispute = await disputed(account)
    for _ in range(2):
        assert (await account.post(f"/v1/disputes/{dispute['id']}/close"))["status"] == "lost"
    assert (await account.events("dispute.")).count("dispute.closed") == 1
    assert (await account.get("/v1/clock"))["next_due"] is None


async def test_an_inquiry_moves_no_money(gateway: GatewayProcess, account: SandboxAccount) -> None:
    dispute = await disputed(account, "pm_card_createDisputeInquiry")
    assert (dispute["status"], dispute["funds_withdrawn"], dispute["fee"]) == ("inquiry_needs_response", False, 0)
    assert not (await account.get(f"/v1/payments/{dispute['payment']}"))["disputed"]
    gateway.control("disputes/decide", account=account.name, dispute=dispute["id"], verdict="lost")
    assert (await account.get(f"/v1/disputes/{dispute['id']}"))["status"] == "inquiry_closed"
    assert amounts(gateway, account, "all") == 5000


async def test_any_payment_can_be_disputed_by_hand(gateway: GatewayProcess, account: SandboxAccount) -> None:
    payment = (await account.charge(amount=700)).json()["id"]
    await account.refund(payment, amount=200)
    opened = gateway.control("disputes", account=account.name, payment=payment, reason="duplicate")
    assert (opened["amount"], opened["reason"]) == (500, "duplicate")
    again = {"account": account.name, "payment": payment}
    assert (await account.http.post("/control/disputes", json=again)).status_code == 400
    unheard = again | {"reason": "unheard_of"}
    assert (await account.http.post("/control/disputes", json=unheard)).status_code == 400


async def test_a_file_is_kept_once_per_key(account: SandboxAccount) -> None:
    async def upload(content: bytes, key: str) -> Any:
        headers = {"Content-Type": "application/pdf", "Idempotency-Key": key}
        return await account.http.post("/v1/files", params={"name": "a.pdf"}, content=content, headers=headers)

    first = (await upload(b"%PDF-1.7", "k")).json()
    assert (first["size"], first["type"]) == (8, "application/pdf")
    assert (await upload(b"%PDF-1.7", "k")).json() == first
    assert (await upload(b"%PDF-1.8", "k")).status_code == 400
    assert await account.get(f"/v1/files/{first['id']}") == first
    assert (await upload(b"", "other")).status_code == 400
