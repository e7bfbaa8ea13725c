"""Checkout sessions: the page a browser sees, and what paying, failing, cancelling and expiring make of it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.integration.sandbox.account import SandboxAccount
from tests.providers.gateway import GatewayProcess

METADATA = {"firm": "f", "payment": "p-1", "checkout": "c-1", "key": "v1:p-1:1"}
URLS = {
    "success_url": "https://firm.example/done?session={CHECKOUT_SESSION_ID}",
    "cancel_url": "https://firm.example/back",
}


async def opened(account: SandboxAccount, mode: str = "payment", **more: Any) -> dict[str, Any]:
    money = {"amount": 123_456, "currency": "USD", "description": "Invoice <7>"} if mode == "payment" else {}
    return await account.post("/v1/checkout/sessions", mode=mode, metadata=METADATA, **URLS, **money, **more)


async def complete(account: SandboxAccount, session: dict[str, Any], token: str = "pm_card_visa") -> dict[str, Any]:
    return await account.post(f"/v1/checkout/sessions/{session['id']}/complete", payment_method=token)


async def shown(account: SandboxAccount, session: dict[str, Any]) -> dict[str, Any]:
    return await account.get(f"/v1/checkout/sessions/{session['id']}")


async def test_a_person_pays_in_a_browser(gateway: GatewayProcess, account: SandboxAccount) -> None:
    session = await opened(account)
    assert session["status"] == "open"
    assert session["url"] == f"{gateway.url}/checkout/{session['id']}"
    async with httpx.AsyncClient(trust_env=False) as browser:
        page = await browser.get(session["url"])
        assert page.headers["content-type"].startswith("text/html")
        assert "1,234.56 USD" in page.text
        assert "Invoice &lt;7&gt;" in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        declined = await browser.post(session["url"], data={"card": "pm_card_chargeDeclined", "action": "pay"})
        assert "declined" in declined.text
        assert (await shown(account, session))["status"] == "open"
        paid = await browser.post(session["url"], data={"card": "pm_card_visa", "action": "pay"})
        assert paid.status_code == 303
        assert paid.headers["location"] == f"https://firm.example/done?session={session['id']}"
        again = await browser.post(session["url"], data={"card": "pm_card_visa", "action": "pay"})
        assert again.status_code in (303, 409)
    done = await shown(account, session)
    assert (done["status"], done["url"], done["payment"]["status"]) == ("complete", None, "succeeded")
    assert (done["payment"]["metadata"], done["payment"]["key"]) == (METADATA, "v1:p-1:1")
    assert gateway.movements("p-1", account.name) == 1
    assert await account.events() == ["payment.failed", "payment.succeeded", "checkout.session.completed"]


async def test_cancelling_goes_back_and_leaves_the_page_open(account: SandboxAccount) -> None:
    session = await opened(account)
    async with httpx.AsyncClient(trust_env=False) as browser:
        back = await browser.post(session["url"], data={"action": "cancel"})
        assert (back.status_code, back.headers["location"]) == (303, URLS["cancel_url"])
        assert (await browser.get(session["url"])).status_code == 200
        assert (await browser.get(session["url"] + "x")).status_code == 404
        assert (await browser.post(session["url"], data={"card": "nonsense"})).status_code == 200
    assert (await shown(account, session))["status"] == "open"


async def test_a_challenge_on_the_page_is_answered_on_the_banks(account: SandboxAccount) -> None:
    session = await opened(account)
    async with httpx.AsyncClient(trust_env=False) as browser:
        asked = await browser.post(session["url"], data={"card": "pm_card_threeDSecure2Required", "action": "pay"})
        assert asked.status_code == 303
        bank = asked.headers["location"]
        assert "confirm" in (await browser.get(bank)).text
        refused = await browser.post(bank, data={"action": "fail"})
        assert refused.headers["location"] == session["url"]
        assert (await shown(account, session))["status"] == "open"
        asked = await browser.post(session["url"], data={"card": "pm_card_threeDSecure2Required", "action": "pay"})
        waiting = (await shown(account, session))["payment"]
        assert (waiting["status"], waiting["key"]) == ("requires_action", None)
        passed = await browser.post(asked.headers["location"], data={"action": "succeed"})
        assert passed.headers["location"].startswith("https://firm.example/done")
    done = await shown(account, session)
    assert (done["status"], done["payment"]["key"]) == ("complete", "v1:p-1:1")


async def test_until_it_succeeds_nothing_is_said_about_the_key(account: SandboxAccount) -> None:
    session = await opened(account)
    for token in ("pm_card_chargeDeclined", "pm_card_chargeDeclinedInsufficientFunds"):
        tried = await complete(account, session, token)
        assert (tried["status"], tried["payment"]) == ("open", None)
        assert tried["last_error"]["type"] == "card_error"
    assert (await account.get("/v1/payments", key="v1:p-1:1"))["data"] == []
    await complete(account, session)
    assert len((await account.get("/v1/payments", key="v1:p-1:1"))["data"]) == 1


async def test_a_pending_payment_completes_the_page_and_may_fail_later(account: SandboxAccount) -> None:
    await account.post("/v1/clock", now="2026-03-01T00:00:00Z")
    session = await opened(account)
    done = await complete(account, session, "pm_sandbox_pendingThenFailure")
    assert (done["status"], done["payment"]["status"]) == ("complete", "processing")
    await account.post("/v1/clock", now="2026-03-01T01:00:00Z")
    assert (await shown(account, session))["payment"]["status"] == "failed"


async def test_it_expires_by_the_accounts_clock_with_what_waits_on_it(account: SandboxAccount) -> None:
    await account.post("/v1/clock", now="2026-03-01T00:00:00Z")
    session = await opened(account, expires_at="2026-03-01T02:00:00Z")
    await complete(account, session, "pm_card_threeDSecure2Required")
    assert (await account.get("/v1/clock"))["next_due"] == "2026-03-01T02:00:00.000Z"
    await account.post("/v1/clock", now="2026-03-01T02:00:00Z")
    gone = await shown(account, session)
    assert (gone["status"], gone["url"], gone["payment"]["status"]) == ("expired", None, "canceled")
    assert await account.events() == ["payment.requires_action", "payment.canceled", "checkout.session.expired"]
    assert (await account.get("/v1/clock"))["next_due"] is None
    late = await account.http.post(
        f"/v1/checkout/sessions/{session['id']}/complete", json={"payment_method": "pm_card_visa"}
    )
    assert late.status_code == 400
    async with httpx.AsyncClient(trust_env=False) as browser:
        assert (await browser.get(session["url"])).status_code == 410


async def test_expiring_by_call(account: SandboxAccount) -> None:
    session = await opened(account)
    for _ in range(2):
        assert (await account.post(f"/v1/checkout/sessions/{session['id']}/expire"))["status"] == "expired"
    assert (await account.events()).count("checkout.session.expired") == 1
    paid = await opened(account)
    await complete(account, paid)
    late = await account.http.post(f"/v1/checkout/sessions/{paid['id']}/expire")
    assert late.json()["error"]["code"] == "checkout_session_unexpected_state"


async def test_set_up_and_subscription_keep_the_method(account: SandboxAccount) -> None:
    customer = (await account.post("/v1/customers", name="Ada"))["id"]
    setup = await opened(account, "setup", customer=customer)
    assert (await complete(account, setup, "pm_sandbox_attachDeclined"))["status"] == "open"
    done = await complete(account, setup)
    assert (done["status"], done["payment_method"]["customer"]) == ("complete", customer)
    intent = await account.get(f"/v1/setup_intents/{setup['setup_intent']}")
    assert (intent["status"], intent["metadata"]) == ("succeeded", METADATA)
    subscription = await complete(account, await opened(account, "subscription", customer=customer, price="price_1"))
    assert subscription["subscription"].startswith("sub_")
    methods = (await account.get(f"/v1/customers/{customer}/payment_methods"))["data"]
    assert {method["id"] for method in methods} == {
        done["payment_method"]["id"],
        subscription["payment_method"]["id"],
    }


async def test_paying_may_keep_the_method(account: SandboxAccount) -> None:
    done = await complete(account, await opened(account, save_method=True))
    assert done["customer"] == done["payment_method"]["customer"]
    charge = await account.charge(done["payment_method"]["id"], customer=done["customer"])
    assert charge.status_code == 200


async def test_it_is_opened_once_per_key_and_found_by_it(gateway: GatewayProcess, account: SandboxAccount) -> None:
    gateway.control(
        "faults", account=account.name, faults=[{"outcome": "accept_then_drop", "on": "checkout", "count": 1}]
    )
    body = {"mode": "payment", "amount": 5, "currency": "USD", **URLS}
    headers = {"Idempotency-Key": "k"}
    with pytest.raises(httpx.TransportError):
        await account.http.post("/v1/checkout/sessions", json=body, headers=headers)
    (found,) = (await account.get("/v1/checkout/sessions", key="k"))["data"]
    assert (await account.http.post("/v1/checkout/sessions", json=body, headers=headers)).json() == found


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "gift"},
        {"amount": None},
        {"amount": 0},
        {"success_url": "javascript:alert(1)"},
        {"success_url": None},
        {"cancel_url": "//x"},
        {"expires_at": "2020-01-01T00:00:00Z"},
        {"customer": "cus_none"},
        {"mode": "setup"},
        {"mode": "subscription", "amount": None},
        {"unheard_of": 1},
        {"quantity": 0},
    ],
)
async def test_wrong_requests_are_refused(account: SandboxAccount, change: dict[str, object]) -> None:
    body: dict[str, object] = {"mode": "payment", "amount": 5, "currency": "USD", **URLS}
    assert (await account.http.post("/v1/checkout/sessions", json=body | change)).status_code == 400


async def test_the_banks_page_of_a_plain_payment_sends_back(gateway: GatewayProcess, account: SandboxAccount) -> None:
    back = "https://firm.example/after"
    waiting = (await account.charge("pm_card_threeDSecure2Required", key="k", return_url=back)).json()
    bank = waiting["next_action"]["url"]
    assert bank.startswith(gateway.url)
    async with httpx.AsyncClient(trust_env=False) as browser:
        assert (await browser.get(bank)).status_code == 200
        passed = await browser.post(bank, data={"action": "succeed"})
        assert (passed.status_code, passed.headers["location"]) == (303, back)
        assert (await browser.post(bank, data={"action": "succeed"})).status_code == 303
    assert gateway.movements("k", account.name) == 1
