"""Whose an event is: events of the platform's accounts reach their firm or nobody, never another firm."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from dunwell_server.inbox.model import EventState, retry_delay
from dunwell_server.inbox.service.routing import Stored
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database
from dunwell_server.platform.provider_references import owner_of, remember
from tests import support
from tests.integration.inbox.conftest import House, firm_of
from tests.integration.inbox.toy import event_body

MakeFirm = Callable[..., Awaitable[CallContext]]


@pytest.fixture
async def house(db: Database) -> AsyncIterator[House]:
    made = House(db)
    yield made
    await made.forget_accounts()


def named(firm: UUID) -> str:
    return encode(Prefix.FIRM, firm)


async def note(house: House, firm: UUID, account: UUID, *references: str) -> None:
    async with house.db.transaction(support.context(firm)) as uow:
        await remember(uow, account, *references)


async def envelope(house: House, stored: Stored) -> dict[str, Any]:
    (row,) = await house.rows("SELECT * FROM control.inbox_envelope WHERE id = %s", stored.id)
    return row


async def firm_with(house: House, stored: Stored, *firms: UUID) -> list[UUID]:
    """Those of the firms that have the event."""
    return [
        firm
        for firm in firms
        if await house.rows("SELECT id FROM provider_event WHERE id = %s", stored.id, firm=firm)
    ]  # fmt: skip


async def test_metadata_names_the_firm_of_a_shared_account(house: House, make_firm: MakeFirm) -> None:
    one, other = await firm_of(await make_firm()), await firm_of(await make_firm())
    await house.account(None)
    stored = await house.send(None, event_body("evt_1", state="SUCCEEDED", key="k1", firm=named(one)))
    assert await firm_with(house, stored, one, other) == [one]
    row = await envelope(house, stored)
    assert (row["state"], row["firm_id"], row["sealed_body"]) == ("ROUTED", one, None)


async def test_our_record_of_its_objects_finds_the_firm(house: House, make_firm: MakeFirm) -> None:
    one, other = await firm_of(await make_firm()), await firm_of(await make_firm())
    account = await house.account(None)
    await note(house, other, account, "cus_other")
    await note(house, one, account, "pay_1", "cus_1")
    stored = await house.send(None, event_body("evt_1", state="SUCCEEDED", key="k1", references=["pay_x", "cus_1"]))
    assert await firm_with(house, stored, one, other) == [one]


async def test_our_record_counts_more_than_metadata(house: House, make_firm: MakeFirm) -> None:
    """Metadata can be edited by whoever may edit the provider's objects; a contradiction reaches nobody."""
    one, other = await firm_of(await make_firm()), await firm_of(await make_firm())
    account = await house.account(None)
    await note(house, one, account, "pay_1")
    await note(house, other, account, "cus_other")
    for facts in ({"firm": named(other), "references": ["pay_1"]}, {"references": ["pay_1", "cus_other"]}):
        stored = await house.send(None, event_body(f"evt_{len(facts)}", state="SUCCEEDED", key="k1", **facts))
        assert await firm_with(house, stored, one, other) == []
        assert (await envelope(house, stored))["state"] == "WAITING"


async def test_a_firm_with_an_account_of_its_own_is_not_believed_from_metadata(
    house: House, make_firm: MakeFirm
) -> None:
    firm = await firm_of(await make_firm())
    own = await house.account(firm)
    shared = await house.account(None)
    body = event_body("evt_1", state="SUCCEEDED", key="k1", firm=named(firm), references=["pay_1"])
    stored = await house.send(None, body)
    assert await firm_with(house, stored, firm) == []

    # It had used the shared account before, and we know the object.
    await note(house, firm, shared, "pay_1")
    await house.change("UPDATE control.inbox_envelope SET next_attempt_time = now() WHERE id = %s", stored.id)
    await house.loop.tick()
    assert await firm_with(house, stored, firm) == [firm]
    async with house.db.transaction(support.context(firm)) as uow:
        await remember(uow, own, "pay_own")
        assert await owner_of(uow, own, "pay_own") is None, "a firm's own account needs no record"


async def test_a_firms_own_account_belongs_to_it_whatever_the_event_says(house: House, make_firm: MakeFirm) -> None:
    one, other = await firm_of(await make_firm()), await firm_of(await make_firm())
    account = await house.account(one)
    stored = await house.send(account, event_body("evt_1", state="SUCCEEDED", key="k1", firm=named(other)))
    assert await firm_with(house, stored, one, other) == [one]


async def test_each_mode_has_an_account_and_keeps_to_its_firms(house: House, make_firm: MakeFirm) -> None:
    """Both are tried; what the TEST account signed is never a LIVE firm's."""
    test_firm, live_firm = await firm_of(await make_firm()), await firm_of(await make_firm(mode="LIVE"))
    await house.account(None, mode="TEST", webhook_secret="test secret")
    await house.account(None, mode="LIVE", webhook_secret="live secret")
    for secret, expected in (("test secret", [test_firm]), ("live secret", [])):
        body = event_body(f"evt_{secret}", state="SUCCEEDED", key="k1", firm=named(test_firm))
        stored = await house.send(None, body, secret=secret)
        assert await firm_with(house, stored, test_firm, live_firm) == expected
    body = event_body("evt_live", state="SUCCEEDED", key="k1", firm=named(live_firm))
    assert await firm_with(house, await house.send(None, body, secret="live secret"), live_firm) == [live_firm]
    with pytest.raises(DunwellError, match="SIGNATURE_INVALID"):
        await house.send(None, body, secret="no secret")


async def test_while_its_firm_is_not_known_it_waits_encrypted(house: House, make_firm: MakeFirm) -> None:
    firm = await firm_of(await make_firm())
    account = await house.account(None)
    body = event_body("evt_1", state="SUCCEEDED", key="k1", references=["pay_1"], email="ada@example.com")
    stored = await house.send(None, body, headers={"content-type": "application/json"})
    again = await house.send(None, body)
    assert (again.id, again.duplicate) == (stored.id, True)
    row = await envelope(house, stored)
    assert row["state"] == "WAITING"
    assert b"ada@example.com" not in bytes(row["sealed_body"])

    await house.loop.tick()
    assert (await envelope(house, stored))["attempts"] == 0, "it is not due yet"
    await house.change("UPDATE control.inbox_envelope SET next_attempt_time = now() WHERE id = %s", stored.id)
    await house.loop.tick()
    row = await envelope(house, stored)
    assert (row["attempts"], row["last_error"]) == (1, "no firm is known for its objects")

    await note(house, firm, account, "pay_1")
    await house.payment(firm, account, "k1")
    await house.change("UPDATE control.inbox_envelope SET next_attempt_time = now() WHERE id = %s", stored.id)
    await house.loop.tick()
    event = await house.event(firm, stored.id)
    assert (event.body, event.create_time) == (body, row["create_time"])
    assert event.headers == {"content-type": "application/json", "user-agent": "toy/1"}
    await house.work(firm)
    assert (await house.event(firm, stored.id)).state is EventState.APPLIED
    assert (await envelope(house, stored))["sealed_body"] is None


async def test_after_72_hours_of_tries_it_waits_for_a_person(house: House) -> None:
    await house.account(None)
    stored = await house.send(None, event_body("evt_1", state="SUCCEEDED", key="k1", firm=named(uuid7())))
    last = next(tries for tries in range(1, 200) if retry_delay(tries) is None)
    await house.change(
        "UPDATE control.inbox_envelope SET next_attempt_time = now(), attempts = %s WHERE id = %s", last - 2, stored.id
    )
    await house.loop.tick()
    row = await envelope(house, stored)
    assert (row["state"], row["last_error"]) == ("QUARANTINED", "its metadata names no firm of ours")
    audit = await house.rows(
        "SELECT action FROM control.audit_event WHERE metadata->>'provider_event' = %s",
        encode(Prefix.PROVIDER_EVENT, stored.id),
    )
    assert [entry["action"] for entry in audit] == ["provider_event_quarantined"]


async def test_what_concerns_nobody_is_kept_and_does_not_wait(house: House) -> None:
    await house.account(None)
    stored = await house.send(None, event_body("evt_1", kind="weather.changed"))
    assert (await envelope(house, stored))["state"] == "DISCARDED"


async def test_what_cannot_be_read_waits_for_a_person_after_one_look(house: House) -> None:
    await house.account(None)
    stored = await house.send(None, b"no json")
    await house.change("UPDATE control.inbox_envelope SET next_attempt_time = now() WHERE id = %s", stored.id)
    await house.loop.tick()
    assert (await envelope(house, stored))["state"] == "QUARANTINED"


async def test_the_first_firm_keeps_an_object(house: House, make_firm: MakeFirm) -> None:
    one, other = await firm_of(await make_firm()), await firm_of(await make_firm())
    account = await house.account(None)
    await note(house, one, account, "cus_1")
    async with house.db.transaction(support.context(other)) as uow:
        await remember(uow, account, "cus_1", None, "")
        await remember(uow, None, "cus_2")
        assert await owner_of(uow, account, "cus_1") == one


async def test_an_unknown_account_names_no_secret_of_the_platform(house: House) -> None:
    with pytest.raises(DunwellError) as caught:
        await house.send(None, event_body("evt_1"))
    assert caught.value.reason is Reason.RESOURCE_NOT_FOUND
