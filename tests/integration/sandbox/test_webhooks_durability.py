"""Webhooks survive what kills the gateway: what was owed is sent, at least once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path

import httpx
import pytest

from tests.integration.sandbox.account import SandboxAccount
from tests.integration.sandbox.receiver import Receiver
from tests.providers.gateway import GatewayProcess, start_gateway

VARIABLE = "DUNWELL_SANDBOX_FAILPOINTS"


async def dead(gateway: GatewayProcess) -> None:
    """Waits until the gateway has killed itself."""
    for _ in range(500):
        if gateway.process.poll() is not None:
            gateway.kill()
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the failpoint was not reached")


async def test_what_was_not_acknowledged_is_sent_after_a_restart(tmp_path: Path, receiver: Receiver) -> None:
    receiver.answer = lambda _: 503
    gateway = start_gateway(tmp_path, webhook_url=receiver.url)
    account = SandboxAccount(gateway.url, "a")
    gateway.control("webhooks", account="a", retry_seconds=0.2)
    for _ in range(10):
        await account.charge()
    await receiver.wait_for(10)
    await account.close()
    gateway.kill()
    receiver.answer = lambda _: 200
    before = set(receiver.ids)
    receiver.requests.clear()
    gateway = start_gateway(tmp_path, webhook_url=receiver.url)
    await receiver.wait_for(10)
    assert gateway.control("webhooks/flush") == {"undelivered": 0}
    assert Counter(receiver.ids) == Counter(before)
    assert gateway.stop() == 0


@pytest.mark.parametrize(
    ("failpoint", "copies"), [("sandbox.webhook.before_send", 1), ("sandbox.webhook.after_ack", 2)]
)
async def test_dying_around_a_sending_repeats_rather_than_loses(
    tmp_path: Path, receiver: Receiver, failpoint: str, copies: int
) -> None:
    gateway = start_gateway(tmp_path, webhook_url=receiver.url, environment={VARIABLE: f"{failpoint}=2"})
    account = SandboxAccount(gateway.url, "a")
    ids = []
    try:
        for _ in range(2):
            ids.append((await account.charge()).json()["id"])
            await receiver.wait_for(len(ids))
    except (httpx.TransportError, AssertionError):
        pass
    await dead(gateway)
    await account.close()
    gateway = start_gateway(tmp_path, webhook_url=receiver.url)
    assert gateway.control("webhooks/flush") == {"undelivered": 0}
    assert [receiver.ids.count(event) for event in dict.fromkeys(receiver.ids)] == [1, copies]
    assert gateway.stop() == 0


def test_a_failpoint_that_is_none_keeps_the_gateway_from_starting(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="none of sandbox"):
        start_gateway(tmp_path, environment={VARIABLE: "sandbox.webhook.nowhere=1"})


async def test_killed_again_and_again_every_event_arrives_at_least_once(tmp_path: Path, receiver: Receiver) -> None:
    dice = random.Random(7)
    receiver.answer = lambda _: 200 if dice.random() < 0.7 else 500
    for turn in range(4):
        gateway = start_gateway(tmp_path, webhook_url=receiver.url)
        account = SandboxAccount(gateway.url, "a")
        gateway.control("webhooks", account="a", retry_seconds=0.05, duplicates_at_most=3, reorder_seconds=0.1)
        await asyncio.gather(*(account.charge(key=f"{turn}-{n}") for n in range(40)))
        await asyncio.sleep(dice.random() * 0.1)
        await account.close()
        gateway.kill()
    receiver.answer = lambda _: 200
    gateway = start_gateway(tmp_path, webhook_url=receiver.url)
    assert gateway.control("webhooks/flush") == {"undelivered": 0}
    account = SandboxAccount(gateway.url, "a")
    events: list[str] = []
    page: dict[str, object] = {}
    while True:
        found = await account.get("/v1/events", limit=100, **page)
        events += [event["id"] for event in found["data"]]
        if found["next_page"] is None:
            break
        page = {"page": found["next_page"]}
    assert len(events) == 160
    assert set(receiver.ids) == set(events)
    await account.close()
    assert gateway.stop() == 0
