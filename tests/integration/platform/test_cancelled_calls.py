"""Callers leave at any moment: nobody after them reads the answers to their statements."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from dunwell_server.platform.context import CallContext, system_context
from dunwell_server.platform.database import Database
from tests import support

ROUNDS, CALLS = 60, 30


@pytest.fixture
async def narrow(database_urls: support.DatabaseUrls) -> AsyncIterator[Database]:
    """Few connections for many calls, so that each is soon somebody else's."""
    database = await Database.open(database_urls.application, max_size=3, max_waiting=1000)
    yield database
    await database.close()


async def read(database: Database, firm: CallContext, number: int) -> None:
    async with database.transaction(firm, write=False) as uow:
        wait = "SELECT %(n)s::int FROM (SELECT pg_sleep(%(seconds)s)) AS nap"
        first = await uow.fetch_value(wait, {"n": number, "seconds": number % 3 / 1000})
        second = await uow.fetch_value("SELECT %(n)s::int * 2", {"n": number})
    assert (first, second) == (number, 2 * number)


async def submit(database: Database, firm: CallContext, number: int) -> None:
    rows = await database.submit(system_context(None, "test"), "SELECT %(n)s::int AS n", {"n": number})
    assert rows == [{"n": number}]


async def write(database: Database, firm: CallContext, number: int) -> None:
    async with database.transaction(firm) as uow:
        assert await uow.fetch_value("SELECT %(n)s::int", {"n": number}) == number
        await uow.execute_many("SELECT %(n)s::int", [{"n": each} for each in range(3)])


async def test_a_connection_on_which_a_call_was_cancelled_is_nobody_elses(narrow: Database) -> None:
    dice = random.Random(5)
    firm = await support.add_firm(narrow)
    loop = asyncio.get_running_loop()
    ends: Counter[str] = Counter()
    for number in range(ROUNDS):
        calls = [
            asyncio.ensure_future(dice.choice((read, submit, write))(narrow, firm, number * CALLS + each))
            for each in range(CALLS)
        ]
        for call in calls:
            if dice.random() < 0.4:
                loop.call_later(dice.random() * 0.01, call.cancel)
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            assert outcome is None or isinstance(outcome, asyncio.CancelledError), repr(outcome)
            ends["done" if outcome is None else "cancelled"] += 1
    assert min(ends["done"], ends["cancelled"]) > 100, ends
