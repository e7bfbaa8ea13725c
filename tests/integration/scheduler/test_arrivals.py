"""A firm's clock waits for what providers have to tell of an instant, and not for ever; and asks them only when something was done."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from dunwell_server.kernel.ids import uuid7
from dunwell_server.platform.outside_clocks import Standing
from dunwell_server.scheduler.arrivals import Outside

NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


class Teller:
    """Has told everything after some answers; counts them, and those that waited. Its next event is an hour after its time."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.asked = 0
        self.waited = 0
        self.now = NOON

    async def move_to(self, now: datetime, *, wait: bool) -> Standing:
        self.now = now
        return await self.look(wait=wait)

    async def look(self, *, wait: bool) -> Standing:
        self.asked += 1
        self.waited += wait
        return Standing(self.now + timedelta(hours=1), self.asked > self.after)


async def test_it_asks_until_all_is_told() -> None:
    teller = Teller(after=3)
    outside = Outside(uuid7(), [teller], patience=5.0)
    await outside.move_to(NOON)
    await outside.settle()
    assert (teller.asked, teller.waited) == (4, 4)
    assert outside.next_due == NOON + timedelta(hours=1)


async def test_what_is_known_is_asked_again_only_after_work() -> None:
    first, second = Teller(after=0), Teller(after=0)
    outside = Outside(uuid7(), [first, second], patience=5.0)
    await outside.move_to(NOON)
    await outside.settle()
    await outside.settle()
    assert (first.asked, second.asked) == (1, 1)
    outside.touch()
    await outside.settle()
    assert (first.asked, second.asked) == (2, 2)
    second.now = NOON - timedelta(minutes=5)
    outside.touch()
    await outside.settle()
    assert outside.next_due == NOON + timedelta(minutes=55)


async def test_what_is_never_told_ends_the_waiting_of_the_whole_advance() -> None:
    teller = Teller(after=10**9)
    outside = Outside(uuid7(), [teller], patience=0.05)
    await outside.move_to(NOON)
    await outside.settle()
    waited = teller.waited
    assert waited > 1
    outside.touch()
    await outside.settle()
    await outside.move_to(NOON + timedelta(days=1))
    await outside.settle()
    assert teller.waited == waited


async def test_without_patience_nothing_is_waited_for() -> None:
    teller = Teller(after=10**9)
    outside = Outside(uuid7(), [teller], patience=0.0)
    await outside.settle()
    assert (teller.asked, teller.waited) == (1, 0)
    assert outside.next_due == NOON + timedelta(hours=1)
