"""Gaps: what no webhook brought is found in the provider's list, once, and applied like the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from dunwell_server.inbox.model import EventState
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.platform.context import CallContext, system_context
from dunwell_server.platform.database import Database
from dunwell_server.providers.base import Capabilities
from tests.integration.inbox.conftest import House, firm_of
from tests.integration.inbox.toy import event_body

MakeFirm = Callable[..., Awaitable[CallContext]]


@pytest.fixture
async def house(db: Database) -> AsyncIterator[House]:
    made = House(db)
    yield made
    await made.forget_accounts()


def ago(**span: float) -> datetime:
    return datetime.now(UTC) - timedelta(**span)


async def poll(house: House, firm: UUID | None) -> int:
    return await house.poller.work(house.db, system_context(firm, "job:gaps"))


async def let_pass(house: House, account: UUID, minutes: float) -> None:
    await house.change(
        "UPDATE control.inbox_poll SET poll_time = poll_time - make_interval(secs => %s), polled_until = polled_until - make_interval(secs => %s)"
        " WHERE account_id = %s",
        minutes * 60,
        minutes * 60,
        account,
    )


async def test_missing_events_are_fetched_and_applied_and_the_rest_left_alone(
    house: House, make_firm: MakeFirm
) -> None:
    firm = await firm_of(await make_firm())
    account = await house.account(firm)
    bodies = [event_body(f"evt_{number}", state="SUCCEEDED", key=f"k{number}") for number in range(8)]
    for number in range(8):
        await house.payment(firm, account, f"k{number}")
    for body in bodies[:3]:
        await house.send(account, body)
    house.provider.listed = [(ago(minutes=20), body) for body in bodies]
    house.provider.listed.append((ago(minutes=20), event_body("evt_foreign", kind="weather.changed")))
    house.provider.listed.append((ago(minutes=20), b'{"type": "broken", "created": 1}'))
    house.provider.listed.append((ago(seconds=5), event_body("evt_young", state="SUCCEEDED", key="k1")))

    assert await poll(house, firm) == 5

    await house.work(firm)
    rows = await house.rows("SELECT event_id, state, fetched, headers FROM provider_event ORDER BY event_id", firm=firm)
    assert [(row["event_id"], row["fetched"]) for row in rows] == [(f"evt_{n}", n >= 3) for n in range(8)]
    assert {row["state"] for row in rows} == {"APPLIED"}
    assert (await house.send(account, bodies[7])).duplicate, "the webhook that comes after all"


async def test_an_account_is_polled_every_quarter_of_an_hour_by_one_worker(house: House, make_firm: MakeFirm) -> None:
    firm = await firm_of(await make_firm())
    account = await house.account(firm)

    async def due() -> timedelta | None:
        async with house.db.transaction(system_context(firm, "job:gaps"), write=False) as uow:
            when = await house.gaps.next_due(uow)
            return None if when is None else when - uow.machine_now

    assert await due() is None, "never used"
    assert await poll(house, firm) == 0
    assert house.provider.windows == []
    await house.send(account, event_body("evt_1", state="SUCCEEDED", key="k1"))
    assert await due() == timedelta(0)
    await poll(house, firm)
    await poll(house, firm)
    assert len(house.provider.windows) == 1
    rest = await due()
    assert rest is not None
    assert timedelta(minutes=14) < rest <= timedelta(minutes=15, seconds=30)
    await let_pass(house, account, 15)
    await poll(house, firm)
    assert len(house.provider.windows) == 2
    (since, until), _ = house.provider.windows
    assert until - since == pytest.approx(timedelta(hours=1, minutes=4), abs=timedelta(seconds=1))


async def test_after_a_long_silence_the_list_is_read_from_where_it_was_left(house: House, make_firm: MakeFirm) -> None:
    firm = await firm_of(await make_firm())
    account = await house.account(firm)
    await house.send(account, event_body("evt_1", state="SUCCEEDED", key="k1"))
    await poll(house, firm)
    await let_pass(house, account, 60 * 24 * 3)
    house.provider.listed = [(ago(days=2), event_body("evt_2", state="SUCCEEDED", key="k1"))]
    assert await poll(house, firm) == 1


async def test_on_a_test_clock_the_list_is_the_firms_time(house: House, make_firm: MakeFirm) -> None:
    house.provider.capabilities = Capabilities(webhooks=True, follows_test_clock=True)
    now = datetime(2031, 1, 1, tzinfo=UTC)
    firm = await firm_of(await make_firm(clock=now))
    account = await house.account(firm)
    await house.change("UPDATE control.test_clock SET state = 'ADVANCING' WHERE firm_id = %s", firm)
    await house.send(account, event_body("evt_1", state="SUCCEEDED", key="k1"))
    house.provider.listed = [(now, event_body("evt_2", state="SUCCEEDED", key="k1"))]
    await house.gaps.work(house.db, system_context(firm, "job:gaps"))
    rows = await house.rows("SELECT event_id FROM provider_event WHERE fetched", firm=firm)
    assert [row["event_id"] for row in rows] == ["evt_2"]


async def test_the_platforms_accounts_are_polled_too_and_their_events_routed(house: House, make_firm: MakeFirm) -> None:
    firm = await firm_of(await make_firm())
    await house.account(None)
    body = event_body("evt_1", state="SUCCEEDED", key="k1", firm=encode(Prefix.FIRM, firm))
    house.provider.listed = [
        (ago(minutes=30), body),
        (ago(minutes=30), event_body("evt_2", state="SUCCEEDED", key="k1")),
    ]
    assert await poll(house, None) == 2
    rows = await house.rows("SELECT id, state FROM provider_event WHERE fetched", firm=firm)
    assert [row["state"] for row in rows] == [EventState.RECEIVED]
    waiting = await house.rows("SELECT dedupe_key FROM control.inbox_envelope WHERE state = 'WAITING' AND fetched")
    assert [row["dedupe_key"] for row in waiting] == ["evt_2"]
