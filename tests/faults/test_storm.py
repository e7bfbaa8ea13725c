"""Months of billing and collection under SIGKILL: nothing twice, nothing lost, every invariant clean, provider and book equal."""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import psycopg
import pytest

from dunwell_server.platform.database import Database
from tests import support
from tests.faults.storm import Storm, aimed_at, found_firm, start_advance
from tests.integration.payments.world import Workers, new_bus
from tests.providers.gateway import start_gateway

KILLS = int(os.environ.get("DUNWELL_STORM_KILLS", "300"))
WORKERS = 3
FIRMS = 4
DAYS = 30
SOURCE = Path(__file__).parents[2] / "server" / "dunwell_server"
MAX_ROUNDS = 6
PASSED = ("packages.", "clock.", "slot.", "attempt.", "provider.", "resolver.")


@pytest.fixture
def storm(cluster_url: str, tmp_path: Path) -> Iterator[Storm]:
    seed = int(os.environ.get("DUNWELL_STORM_SEED", random.SystemRandom().randrange(1_000_000)))
    print(f"\nstorm seed {seed} (repeat with DUNWELL_STORM_SEED={seed})")
    gateway = start_gateway(tmp_path)
    with support.fresh_database(cluster_url) as urls:
        made = Storm(urls, gateway, seed, Path(os.environ["DUNWELL_FAILPOINT_LOG"]))
        made.log.unlink(missing_ok=True)
        try:
            yield made
        finally:
            made.kill_all()
            gateway.stop()


async def prepare(storm: Storm) -> list[UUID]:
    """Firms with clients, engagements and invoices, their clocks told to advance."""
    database = await Database.open(storm.urls.application, bus=new_bus(), max_size=6)
    workers = Workers.at(storm.gateway.url, timeout=2.0)
    run_ids = []
    for number in range(FIRMS):
        world = await found_firm(database, storm.gateway, workers, storm.seed + number)
        storm.accounts.append(world.account)
        run_ids.append(await start_advance(world, timedelta(days=DAYS)))
    await workers.provider.close()
    await database.close()
    return run_ids


def declared_failpoints() -> set[str]:
    """The names in the source that months of billing and collection pass; the storm over the whole house passes the rest."""
    found = {
        name for path in SOURCE.rglob("*.py") for name in re.findall(r'failpoint\("([a-z._]+)"\)', path.read_text())
    }
    return {name for name in found if name.startswith(PASSED)}


def unhit(storm: Storm) -> set[str]:
    """Failpoints that have killed nobody yet."""
    return declared_failpoints() - set(storm.failpoints_hit())


def probabilities() -> str:
    """Rare at commits, which are many; likelier at the named steps, the more so the seldomer a month passes them."""
    likely = {"packages": 0.12, "slot": 0.12, "resolver": 0.15, "clock": 0.04}
    named = {name: likely.get(name.partition(".")[0], 0.05) for name in declared_failpoints()}
    return ",".join(["*=0.004", *(f"{name}={probability}" for name, probability in sorted(named.items()))])


@pytest.mark.timeout(1500)
def test_a_storm_of_kills_leaves_the_books_right(storm: Storm) -> None:
    kills, rounds = 0, 0
    while rounds < MAX_ROUNDS and (kills < KILLS or unhit(storm)):
        storm.probabilities = probabilities() if kills < KILLS else aimed_at(unhit(storm))
        rounds += 1
        run_ids = asyncio.run(prepare(storm))
        kills += storm.weather(run_ids, kills=max(KILLS - kills, 60), workers=WORKERS, seconds=400)
        storm.calm(run_ids)
        problems = asyncio.run(storm.problems())
        assert not problems, problems
    hit = storm.failpoints_hit()
    print(f"{kills} kills in {rounds} rounds; {len(hit)} failpoints hit: {dict(hit.most_common())}")
    # Nobody died of anything else. A worker may hit its failpoint just as the round ends, and is then not counted as a kill.
    assert kills <= sum(hit.values()) <= kills + WORKERS * rounds
    assert kills >= KILLS
    assert not unhit(storm), f"never hit: {sorted(unhit(storm))} (seed {storm.seed})"


@pytest.mark.timeout(900)
def test_each_invoice_was_paid_at_most_once(storm: Storm) -> None:
    run_ids = asyncio.run(prepare(storm))
    storm.weather(run_ids, kills=25, workers=WORKERS, seconds=120)
    storm.calm(run_ids)
    with psycopg.connect(storm.urls.owner) as connection:
        twice = connection.execute(
            "SELECT i.id FROM invoice i JOIN payment_allocation a ON (a.firm_id, a.invoice_id) = (i.firm_id, i.id)"
            " GROUP BY i.firm_id, i.id HAVING sum(a.amount_minor) > min(i.total)"
        ).fetchall()
        overlapping = connection.execute(
            "SELECT 1 FROM coverage x JOIN coverage y ON x.firm_id = y.firm_id AND x.engagement_id = y.engagement_id"
            " AND x.period && y.period AND (x.invoice_id, x.line_no) < (y.invoice_id, y.line_no)"
        ).fetchall()
        paid = connection.execute("SELECT count(*) FROM invoice WHERE state = 'PAID'").fetchone()
    assert twice == []
    assert overlapping == []
    assert paid is not None
    assert paid[0] > FIRMS * 5
