"""How many write at once what many charges have come to."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest

from dunwell_server.payments.jobs.recording import TOGETHER, WRITERS_OF_A_CLOCK, Recorder
from dunwell_server.platform.context import CallContext, system_context
from dunwell_server.platform.database import Database

DATABASE = cast("Database", object())
DAILY, ADVANCE = (system_context(uuid4(), "job:collect", holds_clock=holds_clock) for holds_clock in (False, True))


class Book:
    """Records nothing, slowly; knows who wrote at once."""

    def __init__(self) -> None:
        self.at_once = self.most_at_once = 0
        self.groups: list[list[UUID]] = []

    async def together(self, database: Database, context: CallContext, answered: Sequence[Any]) -> list[Any]:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.groups.append([each.claim.client_id for each in answered])
        await asyncio.sleep(0.01)
        self.at_once -= 1
        return [each.claim.client_id for each in answered]

    async def one(self, database: Database, context: CallContext, answered: Any) -> Any:
        raise AssertionError("all can be recorded together")


async def record(recorder: Recorder, context: CallContext, client_id: UUID) -> Any:
    answered: Any = SimpleNamespace(claim=SimpleNamespace(client_id=client_id))
    with recorder.expecting(DATABASE, context):
        await asyncio.sleep(0)
        return await recorder.record(DATABASE, context, answered)


@pytest.mark.parametrize(("context", "writers"), [(DAILY, 1), (ADVANCE, WRITERS_OF_A_CLOCK)])
async def test_more_write_at_once_where_somebody_waits_for_a_clock(context: CallContext, writers: int) -> None:
    book = Book()
    recorder = Recorder(book.together, book.one)
    clients = [uuid4() for _ in range(5 * TOGETHER + 7)]
    assert await asyncio.gather(*(record(recorder, context, client) for client in clients)) == clients
    assert book.most_at_once == writers
    assert sorted(client for group in book.groups for client in group) == sorted(clients)
    assert max(map(len, book.groups)) == TOGETHER


@pytest.mark.parametrize("context", [DAILY, ADVANCE])
async def test_a_client_is_never_twice_in_a_group(context: CallContext) -> None:
    book = Book()
    recorder = Recorder(book.together, book.one)
    clients = [uuid4() for _ in range(TOGETHER)] * 3
    assert await asyncio.gather(*(record(recorder, context, client) for client in clients)) == clients
    assert all(len(set(group)) == len(group) for group in book.groups)
    assert sum(map(len, book.groups)) == len(clients)


async def test_whoever_cannot_be_recorded_any_more_is_told() -> None:
    async def stopped(*_: Any) -> list[Any]:
        await asyncio.sleep(0)
        raise asyncio.CancelledError

    recorder = Recorder(stopped, Book().one)
    results = await asyncio.gather(
        *(record(recorder, ADVANCE, uuid4()) for _ in range(2 * TOGETHER)), return_exceptions=True
    )
    assert {type(result) for result in results} == {asyncio.CancelledError}
