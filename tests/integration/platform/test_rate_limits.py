"""The shared bucket on PostgreSQL: several processes together keep the rate, and use it."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
import uuid
from multiprocessing.synchronize import Barrier

from dunwell_server.platform.database import Database
from dunwell_server.platform.rate_limits import Limit, RateLimits, Turns
from tests import support

RATE, PROCESSES, SECONDS = 80.0, 3, 3.0


def run(url: str, key: str, barrier: Barrier) -> list[float]:
    """One process: as many turns as it gets in the time, on the machine's clock."""

    async def main() -> list[float]:
        database = await Database.open(url, max_size=2)
        limits = RateLimits(database)
        turns = Turns(Limit(key, RATE), limits.reserve, limits.pause)
        starts: list[float] = []
        await asyncio.to_thread(barrier.wait)
        start_at = time.time()

        async def caller() -> None:
            while time.time() < start_at + SECONDS:
                await turns.wait()
                starts.append(time.time())

        await asyncio.gather(*(caller() for _ in range(20)))
        await database.close()
        return starts

    return asyncio.run(main())


def test_processes_together_keep_the_rate_and_use_it(database_urls: support.DatabaseUrls) -> None:
    spawn = multiprocessing.get_context("spawn")
    key = f"account:{uuid.uuid4()}"
    with spawn.Manager() as manager, spawn.Pool(PROCESSES) as pool:
        barrier = manager.Barrier(PROCESSES)
        parts = pool.starmap(run, [(database_urls.application, key, barrier)] * PROCESSES, chunksize=1)
    starts = sorted(start for part in parts for start in part)
    assert all(parts), "a process got no turn"
    # Each second of the reserved instants holds at most the rate and one burst; what is late because the machine was busy comes on top.
    fullest = max(sum(start <= other < start + 1.0 for other in starts) for start in starts)
    assert fullest <= RATE * 1.1 + Limit(key, RATE).burst
    assert len(starts) <= RATE * (starts[-1] - starts[0]) + Limit(key, RATE).burst + 1
    assert len(starts) >= 0.8 * RATE * (starts[-1] - starts[0])


async def test_a_pause_of_one_holds_back_the_other(db: Database) -> None:
    limits = RateLimits(db)
    limit = Limit(f"account:{uuid.uuid4()}", 50.0)
    one, other = (Turns(limit, limits.reserve, limits.pause) for _ in range(2))
    await one.wait()
    await one.pause(0.6)
    began = time.monotonic()
    await other.wait()
    assert time.monotonic() - began >= 0.5
