"""A read of one statement in one round trip: the same scope, refusals and answers as a transaction, and nothing of it stays behind."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from uuid import uuid4

import psycopg
import pytest

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform.context import CallContext, system_context
from dunwell_server.platform.database import Database, UnitOfWork
from tests import support

_CLIENT = "INSERT INTO client (firm_id, id, name, currency_code) VALUES (%(firm)s, %(id)s, %(name)s, 'USD')"
_NAMES = "SELECT name FROM client ORDER BY name"
_TENANT = "SELECT current_setting('app.firm_id', true)"

MakeFirm = Callable[..., Awaitable[CallContext]]


@pytest.fixture
async def one_connection(database_urls: support.DatabaseUrls) -> AsyncIterator[Database]:
    """A pool of one, so that whatever a read leaves behind is found by the next."""
    database = await Database.open(database_urls.application, max_size=1)
    yield database
    await database.close()


@pytest.fixture
async def firm(db: Database, make_firm: MakeFirm) -> CallContext:
    context = await make_firm()
    async with db.transaction(context) as uow:
        await uow.execute(_CLIENT, {"firm": context.firm_id, "id": uuid4(), "name": f"of {context.firm_id}"})
    return context


async def names(uow: UnitOfWork) -> list[str]:
    return [row["name"] for row in await uow.fetch_all(_NAMES)]


async def test_sees_its_own_firm_only(one_connection: Database, firm: CallContext, make_firm: MakeFirm) -> None:
    other = await make_firm()

    # More often than a statement is prepared after, so that both kinds are seen.
    for _ in range(5):
        assert await one_connection.read_once(firm, names) == [f"of {firm.firm_id}"]
        assert await one_connection.read_once(other, names) == []


async def test_knows_firm_and_time_once_it_has_been_answered(one_connection: Database, firm: CallContext) -> None:
    async def facts(uow: UnitOfWork) -> tuple[object, ...]:
        await uow.fetch_value("SELECT 1")
        return uow.firm.id, uow.firm.state, uow.firm.settings, uow.now == uow.machine_now

    async def facts_of_a_transaction(uow: UnitOfWork) -> tuple[object, ...]:
        return uow.firm.id, uow.firm.state, uow.firm.settings, uow.now == uow.machine_now

    assert await one_connection.read_once(firm, facts) == await one_connection.run(
        firm, facts_of_a_transaction, write=False
    )


async def test_leaves_nothing_behind(one_connection: Database, firm: CallContext) -> None:
    assert await one_connection.read_once(firm, lambda uow: uow.fetch_value(_TENANT)) == str(firm.firm_id)

    nobody = system_context(None, "test")
    left = await one_connection.submit(nobody, "SELECT current_setting('app.firm_id', true) AS tenant", {})
    assert left == [{"tenant": ""}]
    async with one_connection.transaction(firm) as uow:
        assert await uow.fetch_value("SHOW transaction_read_only") == "off"


async def test_cannot_write(one_connection: Database, firm: CallContext) -> None:
    async def write(uow: UnitOfWork) -> None:
        await uow.fetch_all("UPDATE client SET name = 'changed' RETURNING id")

    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        await one_connection.read_once(firm, write)
    assert await one_connection.read_once(firm, names) == [f"of {firm.firm_id}"]


async def test_a_second_statement_and_an_early_question_are_programming_errors(
    one_connection: Database, firm: CallContext
) -> None:
    async def twice(uow: UnitOfWork) -> None:
        await names(uow)
        await names(uow)

    async def early(uow: UnitOfWork) -> None:
        assert uow.now

    with pytest.raises(RuntimeError, match="one statement"):
        await one_connection.read_once(firm, twice)
    with pytest.raises(AttributeError):
        await one_connection.read_once(firm, early)
    assert await one_connection.read_once(firm, names) == [f"of {firm.firm_id}"]


async def test_an_unknown_firm_is_refused(one_connection: Database) -> None:
    with pytest.raises(DunwellError) as refused:
        await one_connection.read_once(system_context(uuid4(), "test"), names)
    assert refused.value.reason is Reason.RESOURCE_NOT_FOUND


async def test_a_deadline_ends_the_statement(one_connection: Database, firm: CallContext) -> None:
    hurried = replace(firm, deadline=time.monotonic() + 0.2)
    with pytest.raises(DunwellError) as late:
        await one_connection.read_once(hurried, lambda uow: uow.fetch_value("SELECT pg_sleep(30)"))
    assert late.value.reason is Reason.DEADLINE_EXCEEDED
    assert await one_connection.read_once(firm, names) == [f"of {firm.firm_id}"]
