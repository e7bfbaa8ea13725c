"""Killed anywhere between the signature and the mark: the provider's repeat and the next worker bring the same end, once."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from dunwell_server.inbox.model import EventState, NewEvent
from dunwell_server.inbox.store import events
from dunwell_server.kernel.errors import DunwellError
from dunwell_server.kernel.ids import uuid7
from dunwell_server.platform.context import CallContext, system_context
from tests import support
from tests.integration.inbox.conftest import House, firm_of
from tests.integration.inbox.toy import event_body

MakeFirm = Callable[..., Awaitable[CallContext]]
ROOT = Path(__file__).parents[3]
STORED = ("webhook.ack", "webhook.claim", "webhook.apply")


@pytest.mark.parametrize("name", ["webhook.verify", "webhook.store", *STORED])
async def test_killed_at_each_failpoint_it_is_applied_once(
    house: House, make_firm: MakeFirm, database_urls: support.DatabaseUrls, tmp_path: Path, name: str
) -> None:
    firm = await firm_of(await make_firm())
    account = await house.account(firm)
    await house.payment(firm, account, "k1")
    body = event_body("evt_1", state="SUCCEEDED", key="k1")
    log = tmp_path / "failpoints"
    paths = os.pathsep.join(str(ROOT / part) for part in (".", "server", "clients/python/src"))
    environment = {
        **os.environ, "DUNWELL_FAILPOINTS": f"{name}=1", "DUNWELL_FAILPOINT_LOG": str(log), "DUNWELL_LEASE_SECONDS": "1", "PYTHONPATH": paths,
    }  # fmt: skip
    command = ["-m", "tests.integration.inbox.victim", database_urls.application, str(firm), str(account), body.hex()]
    victim = await asyncio.create_subprocess_exec(sys.executable, *command, env=environment, cwd=ROOT)
    assert await asyncio.wait_for(victim.wait(), 30) == -signal.SIGKILL
    assert log.read_text() == f"{name}\n"

    states = [row["state"] for row in await house.rows("SELECT state FROM provider_event", firm=firm)]
    assert states == (["RECEIVED"] if name in STORED else [])
    repeated = await house.send(account, body)
    assert repeated.duplicate is (name in STORED)
    for _ in range(100):
        await house.work(firm)
        if (await house.event(firm, repeated.id)).state is EventState.APPLIED:
            break
        await asyncio.sleep(0.05)
    assert (await house.event(firm, repeated.id)).state is EventState.APPLIED
    (payment,) = await house.rows("SELECT state, version FROM provider_mirror", firm=firm)
    assert (payment["state"], payment["version"]) == ("SUCCEEDED", 2), "one change, whoever made it"


def new_event() -> NewEvent:
    return NewEvent(uuid7(), uuid7(), "toy", "evt_1", "payment", b"{}", {}, None)


async def test_what_is_stored_in_one_statement_is_bound_to_its_firm(
    house: House, make_firm: MakeFirm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row security holds in the short way too: another firm's row is refused, and nothing of it stays."""
    firm, other = await firm_of(await make_firm()), await firm_of(await make_firm())
    event = new_event()
    values = events._values
    monkeypatch.setattr(events, "_values", lambda _, event: values(other, event))
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await events.store(house.db, system_context(firm, "test", upkeep=True), event)
    assert await house.rows("SELECT 1 FROM control.inbox_envelope WHERE id = %s", event.id) == []
    assert await house.rows("SELECT 1 FROM provider_event", firm=other) == []
    monkeypatch.undo()
    assert await events.store(house.db, system_context(firm, "test", upkeep=True), event)
    assert await house.rows("SELECT nullif(current_setting('app.firm_id', true), '') AS firm") == [{"firm": None}]


async def test_only_upkeep_passes_by_a_firms_state(house: House, make_firm: MakeFirm) -> None:
    firm = await firm_of(await make_firm())
    with pytest.raises(ValueError, match="a reason to pass"):
        await events.store(house.db, system_context(firm, "test"), new_event())
    with pytest.raises(ValueError, match="needs its tenant"):
        await house.db.submit(system_context(firm, "test", upkeep=True), "SELECT 1 AS one", {})
    late = replace(system_context(firm, "test", upkeep=True), deadline=0.0)
    with pytest.raises(DunwellError, match="DEADLINE_EXCEEDED"):
        await events.store(house.db, late, new_event())
    slow = replace(system_context(None, "test"), deadline=asyncio.get_running_loop().time() + 0.2)
    with pytest.raises(DunwellError, match="DEADLINE_EXCEEDED"):
        await house.db.submit(slow, "SELECT pg_sleep(5)", {})
    assert await house.db.submit(system_context(None, "test"), "SELECT 1 AS one", {}) == [{"one": 1}]
