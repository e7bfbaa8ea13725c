"""The gateway's book survives kill -9 and restarts: what was answered is there, once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import httpx

from tests.integration.sandbox.account import SandboxAccount
from tests.providers.gateway import ROOT, start_gateway

ROUNDS = 3


async def hammer(
    account: SandboxAccount, prefix: str, answered: dict[str, str], sent: list[str], enough: asyncio.Event
) -> None:
    """Charges until the gateway dies; sets ``enough`` after its tenth answer."""
    for n in range(100_000):
        if n == 10:
            enough.set()
        key = f"{prefix}-{n}"
        sent.append(key)
        try:
            response = await account.charge(key=key)
        except httpx.TransportError:
            return
        assert response.status_code == 200
        answered[key] = response.json()["id"]


async def test_kill_9_under_load_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    answered: dict[str, str] = {}
    sent: list[str] = []
    port = 0
    for turn in range(ROUNDS):
        gateway = start_gateway(tmp_path, port=port)
        port = gateway.port
        account = SandboxAccount(gateway.url, "a")
        reached = [asyncio.Event() for _ in range(16)]
        loaders = [
            asyncio.create_task(hammer(account, f"{turn}-{n}", answered, sent, enough))
            for n, enough in enumerate(reached)
        ]
        await asyncio.gather(*(enough.wait() for enough in reached))
        gateway.kill()
        await asyncio.gather(*loaders)
        await account.close()
    gateway = start_gateway(tmp_path, port=port)
    groups = gateway.ledger("a", group="key")["groups"]
    assert len(answered) >= 160 * ROUNDS
    assert set(answered) <= set(groups) <= set(sent)
    assert {entry["count"] for entry in groups.values()} == {1}
    # Sending everything again, also what was in flight at the kill, moves money once per key and no more.
    account = SandboxAccount(gateway.url, "a")
    for key in sent:
        response = await account.charge(key=key)
        assert response.status_code == 200
        assert response.json()["id"] == answered.get(key, response.json()["id"])
    groups = gateway.ledger("a", group="key")["groups"]
    assert set(groups) == set(sent)
    assert {entry["count"] for entry in groups.values()} == {1}
    await account.close()
    gateway.stop()


async def test_clock_settings_faults_and_what_is_due_survive(tmp_path: Path) -> None:
    gateway = start_gateway(tmp_path)
    account = SandboxAccount(gateway.url, "a")
    await account.post("/v1/clock", now="2026-01-31T00:00:00Z")
    await account.charge("pm_sandbox_pendingThenSuccess", key="waiting")
    gateway.control("settings", account="a", pending_seconds=60)
    gateway.control("faults", account="a", faults=[{"outcome": "decline", "count": 2}])
    assert (await account.charge(key="first")).status_code == 402
    await account.close()
    gateway.kill()
    gateway = start_gateway(tmp_path)
    account = SandboxAccount(gateway.url, "a")
    clock = await account.get("/v1/clock")
    assert (clock["now"], clock["next_due"]) == ("2026-01-31T00:00:00.000Z", "2026-01-31T01:00:00.000Z")
    assert (await account.charge(key="second")).status_code == 402
    assert (await account.charge(key="third")).status_code == 200
    moved = await account.post("/v1/clock", now="2026-01-31T02:00:00Z")
    assert [transition["reference"] for transition in moved["transitions"]] == ["waiting"]
    await account.close()
    gateway.stop()


async def test_real_time_transitions_happen_after_a_restart_without_a_call(tmp_path: Path) -> None:
    gateway = start_gateway(tmp_path)
    account = SandboxAccount(gateway.url, "a")
    gateway.control("settings", account="a", pending_seconds=0.5)
    await account.charge("pm_sandbox_pendingThenSuccess", key="waiting")
    await account.close()
    gateway.kill()
    gateway = start_gateway(tmp_path)
    for _ in range(100):
        if gateway.movements("waiting", "a"):
            break
        await asyncio.sleep(0.05)
    assert gateway.movements("waiting", "a") == 1
    assert gateway.stop() == 0


def test_a_second_gateway_on_the_same_book_does_not_start(tmp_path: Path) -> None:
    gateway = start_gateway(tmp_path)
    command = [sys.executable, "-m", "dunwell_server.sandbox", "--port", "0", "--data", str(tmp_path / "gateway.db")]
    second = subprocess.run(command, cwd=ROOT / "server", capture_output=True, timeout=30, check=False)
    assert second.returncode == 1
    assert b"locked" in second.stderr
    assert gateway.ledger()["movements"] == 0
    gateway.stop()
