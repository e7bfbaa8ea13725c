"""The gateway's webhooks over real HTTP: signed, at least once, and disturbed on demand."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import stripe

from tests import support
from tests.integration.sandbox.account import SandboxAccount
from tests.integration.sandbox.receiver import Receiver
from tests.providers.gateway import GatewayProcess, start_gateway

FAST = {"retry_seconds": 0.1}


@pytest.fixture
def sending(gateway: GatewayProcess, account: SandboxAccount, receiver: Receiver) -> SandboxAccount:
    """The account, with its events going to the receiver."""
    gateway.control("webhooks", account=account.name, url=f"{receiver.url}/hook", **FAST)
    return account


def signed_by(secret: str, stamp: str, body: bytes) -> str:
    return hmac.new(secret.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()


async def test_every_event_is_sent_once_signed_and_as_the_list_shows_it(
    sending: SandboxAccount, receiver: Receiver
) -> None:
    for _ in range(30):
        assert (await sending.charge()).status_code == 200
    await receiver.wait_for(30)
    listed = {event["id"]: event for event in (await sending.get("/v1/events"))["data"]}
    assert {request.event["id"]: request.event for request in receiver.requests} == listed
    for request in receiver.requests:
        # Stripe's own library reads the header: the scheme is theirs.
        assert stripe.WebhookSignature.verify_header(
            request.body, request.signature, f"whsec_{sending.name}", tolerance=60
        )
        assert request.headers["content-type"] == "application/json"
        assert request.event["account"] == sending.name
        assert request.path == "/hook"
    await asyncio.sleep(0.3)
    assert len(receiver.requests) == 30
    assert receiver.connections <= 16
    assert (await sending.get("/v1/webhooks"))["undelivered"] == 0


async def test_every_live_secret_signs(gateway: GatewayProcess, sending: SandboxAccount, receiver: Receiver) -> None:
    gateway.control("webhooks", account=sending.name, secrets=["whsec_new", "whsec_old"])
    await sending.charge()
    (request,) = await receiver.wait_for(1)
    stamp, *signatures = request.signature.split(",")
    at = stamp.removeprefix("t=")
    assert abs(int(at) - time.time()) < 10
    assert signatures == [f"v1={signed_by(secret, at, request.body)}" for secret in ("whsec_new", "whsec_old")]


async def test_without_an_endpoint_nothing_is_owed(gateway: GatewayProcess, account: SandboxAccount) -> None:
    await account.charge()
    shown = gateway.shown("webhooks", account=account.name)
    assert (shown["sends_to"], shown["deliveries"]) == (None, {})


async def test_the_template_serves_accounts_that_say_nothing(tmp_path: Path, receiver: Receiver) -> None:
    gateway = start_gateway(tmp_path, webhook_url=f"{receiver.url}/webhooks/sandbox/{{account}}")
    plain, muted = SandboxAccount(gateway.url, "plain"), SandboxAccount(gateway.url, "muted")
    gateway.control("webhooks", account="muted", url="")
    await muted.charge()
    await plain.charge()
    await receiver.wait_for(1)
    assert gateway.control("webhooks/flush") == {"undelivered": 0}
    assert [request.path for request in receiver.requests] == ["/webhooks/sandbox/plain"]
    for account in (plain, muted):
        await account.close()
    assert gateway.stop() == 0


async def test_the_body_has_the_accounts_time_and_the_signature_the_machines(
    sending: SandboxAccount, receiver: Receiver
) -> None:
    await sending.post("/v1/clock", now="2031-05-01T00:00:00Z")
    await sending.charge()
    (request,) = await receiver.wait_for(1)
    assert request.event["created"] == "2031-05-01T00:00:00.000Z"
    assert abs(int(request.signature.split(",")[0].removeprefix("t=")) - time.time()) < 10


async def test_duplicates(gateway: GatewayProcess, sending: SandboxAccount, receiver: Receiver) -> None:
    gateway.control("webhooks", account=sending.name, duplicates=3)
    for _ in range(5):
        await sending.charge()
    await receiver.wait_for(15)
    gateway.control("webhooks/flush", account=sending.name)
    assert set(Counter(receiver.ids).values()) == {3}
    bodies = {(request.event["id"], request.body) for request in receiver.requests}
    assert len(bodies) == 5, "every sending of an event has the same bytes"
    gateway.control("webhooks", account=sending.name, duplicates=1, duplicates_at_most=5)
    for _ in range(40):
        await sending.charge()
    gateway.control("webhooks/flush", account=sending.name)
    assert set(Counter(receiver.ids[15:]).values()) == {1, 2, 3, 4, 5}


async def test_reordering_shuffles_within_its_window(
    gateway: GatewayProcess, sending: SandboxAccount, receiver: Receiver
) -> None:
    gateway.control("webhooks", account=sending.name, reorder_seconds=0.6)
    for _ in range(40):
        await sending.charge()
    await receiver.wait_for(40, seconds=5)
    sent = [event["id"] for event in (await sending.get("/v1/events"))["data"]]
    assert sorted(receiver.ids) == sorted(sent)
    places = [sent.index(event) for event in receiver.ids]
    assert sum(later < earlier for earlier, later in pairwise(places)) >= 10


async def test_a_delay_holds_every_event_and_flush_overrides_it(
    gateway: GatewayProcess, sending: SandboxAccount, receiver: Receiver
) -> None:
    gateway.control("webhooks", account=sending.name, delay_seconds=0.7)
    started = time.monotonic()
    await sending.charge()
    (request,) = await receiver.wait_for(1)
    assert request.at - started >= 0.7
    gateway.control("webhooks", account=sending.name, delay_seconds=600)
    for _ in range(3):
        await sending.charge()
    await asyncio.sleep(0.3)
    assert len(receiver.requests) == 1
    assert (await sending.get("/v1/webhooks"))["undelivered"] == 3
    assert gateway.control("webhooks/flush", account=sending.name) == {"undelivered": 0}
    assert len(receiver.requests) == 4


async def test_lost_events_are_in_the_list_only_and_can_be_sent_again(
    gateway: GatewayProcess, sending: SandboxAccount, receiver: Receiver
) -> None:
    gateway.control("webhooks", account=sending.name, lose_next=2)
    for _ in range(3):
        await sending.charge()
    await receiver.wait_for(1)
    events = [event["id"] for event in (await sending.get("/v1/events"))["data"]]
    assert receiver.ids == events[2:]
    assert gateway.shown("webhooks", account=sending.name)["deliveries"] == {"delivered": 1, "lost": 2}
    gateway.control("webhooks/redeliver", account=sending.name, event=events[0])
    await receiver.wait_for(2)
    assert receiver.ids[1] == events[0]
    unknown = await sending.http.post("/control/webhooks/redeliver", json={"account": sending.name, "event": "evt_x"})
    assert unknown.status_code == 400


async def test_a_fraction_is_lost(gateway: GatewayProcess, sending: SandboxAccount, receiver: Receiver) -> None:
    gateway.control("webhooks", account=sending.name, loss=0.4, seed=3)
    for _ in range(60):
        await sending.charge()
    gateway.control("webhooks/flush", account=sending.name)
    assert 20 <= len(receiver.requests) <= 50
    counts = gateway.shown("webhooks", account=sending.name)["deliveries"]
    assert counts == {"delivered": len(receiver.requests), "lost": 60 - len(receiver.requests)}


async def test_pause_keeps_and_resume_sends(
    gateway: GatewayProcess, sending: SandboxAccount, receiver: Receiver
) -> None:
    gateway.control("webhooks", account=sending.name, paused=True)
    for _ in range(4):
        await sending.charge()
    assert gateway.control("webhooks/flush", account=sending.name, timeout_seconds=0.3) == {"undelivered": 4}
    assert receiver.requests == []
    gateway.control("webhooks", account=sending.name, paused=False)
    await receiver.wait_for(4)


@pytest.mark.parametrize("trouble", [500, 404, 302, 0])
async def test_what_is_not_2xx_is_repeated_with_growing_waits(
    sending: SandboxAccount, receiver: Receiver, trouble: int
) -> None:
    answers = iter([trouble] * 4)
    receiver.answer = lambda _: next(answers, 204)
    await sending.charge()
    await receiver.wait_for(5)
    at = [request.at for request in receiver.requests]
    waits = [later - earlier for earlier, later in pairwise(at)]
    assert all(wait >= 0.1 * 2**n for n, wait in enumerate(waits)), waits
    assert len(set(receiver.ids)) == 1
    assert {request.path for request in receiver.requests} == {"/hook"}
    await asyncio.sleep(0.3)
    assert len(receiver.requests) == 5


async def test_an_endpoint_that_is_away_gets_everything_once_it_is_back(
    gateway: GatewayProcess, account: SandboxAccount, receiver: Receiver
) -> None:
    gateway.control("webhooks", account=account.name, url="http://127.0.0.1:9/hook", **FAST)
    for _ in range(3):
        await account.charge()

    def all_refused() -> bool:
        rows = gateway.shown("webhooks/deliveries", account=account.name)["data"]
        return {(row["state"], row["last_answer"]) for row in rows} == {("due", "ConnectionRefusedError")}

    await support.eventually(all_refused)
    gateway.control("webhooks", account=account.name, url=receiver.url)
    await receiver.wait_for(3)


async def test_what_was_owed_to_an_endpoint_that_is_no_more_is_given_up(
    gateway: GatewayProcess, account: SandboxAccount
) -> None:
    gateway.control("webhooks", account=account.name, url="http://127.0.0.1:9", **FAST)
    await account.charge()
    gateway.control("webhooks", account=account.name, url="")
    assert gateway.control("webhooks/flush", account=account.name) == {"undelivered": 0}
    assert gateway.shown("webhooks", account=account.name)["deliveries"] == {"given_up": 1}


async def test_waiting_for_webhooks_ends_when_they_are_answered(
    gateway: GatewayProcess, sending: SandboxAccount, receiver: Receiver
) -> None:
    gateway.control("webhooks", account=sending.name, delay_seconds=0.5)
    await sending.charge()
    started = time.monotonic()
    assert (await sending.get("/v1/webhooks", wait_seconds=0.1))["undelivered"] == 1
    assert (await sending.get("/v1/webhooks", wait_seconds=20))["undelivered"] == 0
    assert 0.3 < time.monotonic() - started < 20
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"unheard_of": 1},
        {"url": "ftp://x"},
        {"url": 5},
        {"duplicates": 6},
        {"duplicates": 0},
        {"duplicates_at_most": 9},
        {"loss": 1.5},
        {"delay_seconds": -1},
        {"secrets": []},
        {"secrets": [" "]},
        {"paused": "yes"},
        {"lose_next": True},
    ],
)
async def test_wrong_settings_are_refused_and_change_nothing(
    gateway: GatewayProcess, account: SandboxAccount, wrong: dict[str, object]
) -> None:
    before = gateway.shown("webhooks", account=account.name)
    answer = await account.http.post("/control/webhooks", json={"account": account.name} | wrong)
    assert answer.status_code == 400
    assert gateway.shown("webhooks", account=account.name) == before
