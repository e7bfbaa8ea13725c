"""Turns under a limit, with a bucket in memory and a clock that only sleeping moves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform.rate_limits import Limit, LimitUnavailable, Turns


class Bucket:
    """The shared row, and the clock of all who use it."""

    def __init__(self, limit: Limit) -> None:
        self.now = 100.0
        self.limit = limit
        self.tokens, self.at = limit.burst, self.now
        self.asked: list[int] = []
        self.failures = 0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    async def reserve(self, limit: Limit, places: int) -> float:
        if self.failures:
            self.failures -= 1
            raise DunwellError(Reason.DATABASE_UNAVAILABLE, "away")
        self.asked.append(places)
        self.tokens = min(limit.burst, self.tokens + (self.now - self.at) * limit.rate) - places
        self.at = self.now
        return self.tokens

    async def pause(self, limit: Limit, seconds: float) -> None:
        current = self.tokens + (self.now - self.at) * limit.rate
        self.tokens, self.at = min(current, 1.0 - limit.rate * seconds), self.now

    async def sleep(self, seconds: float) -> None:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._sleepers.append((self.now + seconds, waiting))
        await waiting

    async def run(self, *tasks: asyncio.Task[Any]) -> None:
        """Let time pass whenever everybody sleeps, until all tasks are done."""
        while not all(task.done() for task in tasks):
            for _ in range(50):
                await REAL_SLEEP(0)
            if self._sleepers:
                self._sleepers.sort(key=lambda each: each[0])
                at, waiting = self._sleepers.pop(0)
                self.now = max(self.now, at)
                waiting.set_result(None)
        for task in tasks:
            task.result()


REAL_SLEEP = asyncio.sleep


@contextmanager
def time_of(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr("dunwell_server.platform.rate_limits.asyncio.sleep", bucket.sleep)
        yield


async def starts_of(turns: Turns, bucket: Bucket, calls: int, starts: list[float]) -> list[asyncio.Task[None]]:
    async def one() -> None:
        await turns.wait()
        starts.append(bucket.now)

    return [asyncio.create_task(one()) for _ in range(calls)]


def fullest_second(starts: list[float]) -> int:
    return max(sum(start <= other < start + 1.0 - 1e-9 for other in starts) for start in starts)


@pytest.mark.parametrize("rate", [3.0, 25.0, 120.0])
async def test_processes_together_keep_the_rate_and_use_it(rate: float, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket(Limit("account", rate))
    calls, processes = int(rate * 4), 4
    starts: list[float] = []
    with time_of(bucket, monkeypatch):
        tasks: list[asyncio.Task[None]] = []
        for _ in range(processes):
            turns = Turns(bucket.limit, bucket.reserve, bucket.pause, clock=lambda: bucket.now)
            tasks += await starts_of(turns, bucket, calls // processes, starts)
        await bucket.run(*tasks)
    assert fullest_second(starts) <= rate + bucket.limit.burst
    took = max(starts) - min(starts)
    assert len(starts) / max(took, 1e-9) >= 0.95 * rate
    assert max(bucket.asked) <= bucket.limit.ahead


async def test_a_pause_holds_everybody_back_and_keeps_the_spacing(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket(Limit("account", 10.0))
    turns = Turns(bucket.limit, bucket.reserve, bucket.pause, clock=lambda: bucket.now)
    other = Turns(bucket.limit, bucket.reserve, bucket.pause, clock=lambda: bucket.now)
    starts: list[float] = []
    with time_of(bucket, monkeypatch):
        first = await starts_of(turns, bucket, 1, starts)
        await bucket.run(*first)
        refused_at = bucket.now
        await turns.pause(5.0)
        await turns.pause(5.0)  # A second refusal of the same moment changes nothing.
        tasks = await starts_of(turns, bucket, 6, starts) + await starts_of(other, bucket, 6, starts)
        await bucket.run(*tasks)
    after = starts[1:]
    assert min(after) >= refused_at + 5.0 - 1e-6
    assert max(after) <= refused_at + 7.5
    assert fullest_second(after) <= 12


async def test_a_database_that_is_away_is_waited_for_then_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket(Limit("account", 10.0))
    turns = Turns(bucket.limit, bucket.reserve, bucket.pause, clock=lambda: bucket.now)
    starts: list[float] = []
    with time_of(bucket, monkeypatch):
        bucket.failures = 3
        await bucket.run(*await starts_of(turns, bucket, 1, starts))
        assert len(starts) == 1
        bucket.failures = 1000
        task = asyncio.create_task(turns.wait())
        with pytest.raises(LimitUnavailable):
            await bucket.run(task)
