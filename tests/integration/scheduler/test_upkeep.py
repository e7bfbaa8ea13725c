"""Housekeeping on the real database."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace

from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database
from dunwell_server.scheduler.upkeep import purge_answers


async def test_answers_are_forgotten_once_their_time_is_over(
    db: Database, make_firm: Callable[..., Awaitable[CallContext]]
) -> None:
    firm = replace(await make_firm(), method="Test.Call")
    insert = (
        "INSERT INTO idempotency (firm_id, method, request_id, request_hash, expire_time)"
        " VALUES (%(firm)s, 'Test.Call', %(id)s, '', clock_timestamp() + make_interval(hours => %(hours)s))"
    )
    async with db.transaction(firm) as uow:
        for hours in (-1, -2, 5):
            await uow.execute(insert, {"firm": firm.firm_id, "id": uuid.uuid4(), "hours": hours})
    assert await purge_answers(db) == 2
    async with db.transaction(firm) as uow:
        assert await uow.fetch_value("SELECT count(*) FROM idempotency") == 1
