"""Refunds under SIGKILL at every step of sending and recording: each goes out once, and the books say so."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from dunwell_server.payments.jobs.refunding import Refunder, RefundsHandler
from dunwell_server.platform import failpoints
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database
from dunwell_server.platform.invariants import run_for_firm
from tests import support
from tests.integration.payments.refunding import Refunds
from tests.integration.payments.world import Workers, World, new_bus
from tests.providers.gateway import GatewayProcess, start_gateway

REFUNDS = 60
STEPS = {"refund.intent", "refund.before_send", "refund.after_reply", "refund.record"}
DEADLY = "*=0.01," + ",".join(f"{step}=0.12" for step in sorted(STEPS))


async def _send_until_killed(urls: support.DatabaseUrls, gateway_url: str, context: CallContext) -> None:
    database = await Database.open(urls.application, bus=new_bus(), max_size=4)
    handler = RefundsHandler(Refunder(Workers.at(gateway_url, timeout=0.4).charger), batch=5)
    while True:
        await handler.work(database, context)
        await asyncio.sleep(0.02)


def _spawn(urls: support.DatabaseUrls, gateway_url: str, context: CallContext, seed: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        failpoints.configure(DEADLY, seed)
        asyncio.run(_send_until_killed(urls, gateway_url, context))
    except BaseException:
        traceback.print_exc(file=sys.stderr)
    finally:
        os._exit(1)


async def _ask(urls: support.DatabaseUrls, gateway: GatewayProcess) -> tuple[CallContext, str, UUID]:
    """A firm whose one payment is asked back in many parts by a caller that died before sending any; the provider loses answers."""
    database = await Database.open(urls.application, bus=new_bus(), max_size=4)
    workers = Workers.at(gateway.url, timeout=2.0)
    world = await World.create(database, gateway, workers)
    refunds = Refunds(world)
    _, _, paid = await refunds.paid("600.00")
    faults = [
        {"outcome": outcome, "on": "refund", "probability": 0.1}
        for outcome in ("accept_then_drop", "server_error_before_accept")
    ]
    refunds.faults(*faults, {"outcome": "rate_limited", "on": "refund", "probability": 0.1})
    for _ in range(REFUNDS):
        await refunds.ask(paid.payment.id, 1000, send=False)
    await workers.provider.close()
    await database.close()
    return world.context, world.account, paid.payment.id


async def _move(
    urls: support.DatabaseUrls, gateway: GatewayProcess, context: CallContext, account: str, by: timedelta
) -> int:
    """A while later; how many refunds are still open."""
    database = await Database.open(urls.application, bus=new_bus(), max_size=2)
    workers = Workers.at(gateway.url, timeout=2.0)
    async with database.transaction(context, write=False) as uow:
        now, left = (
            uow.now,
            await uow.fetch_value(
                "SELECT count(*) FROM refund WHERE firm_id = %s AND state = 'PROCESSING'", (context.firm_id,)
            ),
        )
    world = World(database, gateway, context, account, workers, now)
    await world.move(now + by)
    await workers.provider.close()
    await database.close()
    return int(left)


async def _check(
    urls: support.DatabaseUrls, gateway: GatewayProcess, context: CallContext, account: str, payment_id: UUID
) -> None:
    database = await Database.open(urls.application, bus=new_bus(), max_size=2)
    workers = Workers.at(gateway.url, timeout=2.0)
    world = World(database, gateway, context, account, workers)
    refunds = Refunds(world)
    views = await refunds.listed(payment_id=payment_id)
    assert Counter(view.refund.state for view in views) == {"SUCCEEDED": REFUNDS}
    assert [entry["count"] for entry in refunds.sent_back().values()] == [1] * REFUNDS
    await refunds.agree()
    assert (await world.payment(payment_id)).payment.refunded_minor == REFUNDS * 1000
    async with database.transaction(replace(context, upkeep=True), write=False) as uow:
        broken = [check for check in await run_for_firm(uow) if not check.ok and check.name != "audit_sealed"]
    assert not broken, broken
    await workers.provider.close()
    await database.close()


@pytest.mark.timeout(300)
def test_every_refund_goes_out_once_however_often_its_sender_dies(
    database_urls: support.DatabaseUrls, tmp_path: Path
) -> None:
    seed = int(os.environ.get("DUNWELL_STORM_SEED", random.SystemRandom().randrange(1_000_000)))
    print(f"\nseed {seed} (repeat with DUNWELL_STORM_SEED={seed})")
    log = Path(os.environ["DUNWELL_FAILPOINT_LOG"])
    log.unlink(missing_ok=True)
    gateway = start_gateway(tmp_path)
    children: set[int] = set()
    try:
        context, account, payment_id = asyncio.run(_ask(database_urls, gateway))
        until, born, rounds = time.monotonic() + 200, 0, 0
        # The ladder's first steps are near to one another, the later ones hours away.
        while asyncio.run(_move(database_urls, gateway, context, account, timedelta(minutes=min(1 + rounds // 4, 90)))):
            rounds += 3
            assert time.monotonic() < until, "the refunds do not end"
            while len(children) < 3:
                born += 1
                children.add(_spawn(database_urls, gateway.url, context, seed * 1000 + born))
            time.sleep(0.15)
            while children and (dead := os.waitpid(-1, os.WNOHANG))[0]:
                assert os.WIFSIGNALED(dead[1]), "a worker ended by itself"
                children.discard(dead[0])
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        children.clear()
        asyncio.run(_check(database_urls, gateway, context, account, payment_id))
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        gateway.stop()
    hit = Counter(log.read_text().split()) if log.exists() else Counter()
    print(f"{sum(hit.values())} kills: {dict(hit)}")
    assert set(hit) >= STEPS, f"never hit: {sorted(STEPS - set(hit))} (seed {seed})"
