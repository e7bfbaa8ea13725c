"""Applying: once, in one transaction with the mark, in any order, and nothing that goes wrong reaches the rest."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dunwell_server.inbox.model import EventState, retry_delay
from dunwell_server.inbox.service.applying import Appliers
from dunwell_server.inbox.service.ingest import Webhook
from dunwell_server.inbox.store import events
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import uuid7
from dunwell_server.platform.context import CallContext, system_context
from tests.integration.inbox.conftest import SIDECAR, House, firm_of
from tests.integration.inbox.toy import RANK, PaymentBook, event_body, payment_states, signed_headers

MakeFirm = Callable[..., Awaitable[CallContext]]


def ago(when: datetime | None) -> float:
    assert when is not None
    return (when - datetime.now(UTC)).total_seconds()


async def test_an_event_is_applied_with_its_mark(house: House, make_firm: MakeFirm) -> None:
    firm = await firm_of(await make_firm())
    account = await house.account(firm)
    await house.payment(firm, account, "k1")
    stored = await house.send(account, event_body("evt_1", state="SUCCEEDED", key="k1", references=["toy_k1", "cus_1"]))

    await house.work(firm)

    event = await house.event(firm, stored.id)
    assert (event.state, event.result, event.attempts) == (EventState.APPLIED, "payment k1 is SUCCEEDED", 1)
    assert (event.object_reference, event.last_error, event.next_attempt_time) == ("toy_k1", None, None)
    assert event.finish_time is not None
    assert house.book.prepared == ["k1"]


async def test_what_is_not_known_yet_is_tried_again_then_waits_for_a_person(house: House, make_firm: MakeFirm) -> None:
    firm = await firm_of(await make_firm())
    account = await house.account(firm)
    stored = await house.send(account, event_body("evt_1", state="SUCCEEDED", key="k1"))

    for tries, seconds in enumerate((5, 30, 120, 600, 3600, 3600), 1):
        await house.work(firm)
        event = await house.event(firm, stored.id)
        assert (event.state, event.attempts, event.last_error) == (EventState.RECEIVED, tries, "no such payment")
        assert ago(event.next_attempt_time) == pytest.approx(seconds, abs=3)
        await house.work(firm)
        assert (await house.event(firm, stored.id)).attempts == tries, "it is not due yet"
        await house.due_now(firm)

    last = next(tries for tries in range(1, 200) if retry_delay(tries) is None)
    await house.change("UPDATE provider_event SET attempts = %s", last - 1, firm=firm)
    await house.work(firm)

    event = await house.event(firm, stored.id)
    assert (event.state, event.next_attempt_time) == (EventState.QUARANTINED, None)
    audit = await house.rows("SELECT action, severity FROM audit_event WHERE object_id = %s", stored.id, firm=firm)
    assert [tuple(row.values()) for row in audit] == [("provider_event_quarantined", "CRITICAL")]
    told = await house.rows("SELECT type FROM event WHERE object_id = %s", stored.id, firm=firm)
    assert [row["type"] for row in told] == ["provider_event.quarantined"]


async def test_a_payment_that_comes_later_is_found_by_the_next_try(house: House, make_firm: MakeFirm) -> None:
    firm = await firm_of(await make_firm())
    account = await house.account(firm)
    stored = await house.send(account, event_body("evt_1", state="SUCCEEDED", key="k1"))
    await house.work(firm)
    await house.payment(firm, account, "k1")
    await house.due_now(firm)
    await house.work(firm)
    assert (await house.event(firm, stored.id)).state is EventState.APPLIED


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (ZeroDivisionError("oops"), "ZeroDivisionError: oops"),
        (DunwellError(Reason.PROVIDER_UNAVAILABLE, "It does not answer."), "PROVIDER_UNAVAILABLE: It does not answer."),
        (DunwellError(Reason.STATE_CONFLICT, "No."), "STATE_CONFLICT: No."),
        (RuntimeError("sk_live_abcdefghijklmnop"), "RuntimeError: [redacted]"),
    ],
)
async def test_a_poison_event_keeps_its_error_leaves_no_trace_and_blocks_nobody(
    house: House, make_firm: MakeFirm, error: Exception, kept: str
) -> None:
    firm = await firm_of(await make_firm())
    account = await house.account(firm)
    house.book.poison["bad"] = error
    for key in ("bad", "k1", "k2"):
        await house.payment(firm, account, key)
    stored = {
        key: await house.send(account, event_body(f"evt_{key}", state="SUCCEEDED", key=key)) for key in ("bad", "k1", "k2")
    }  # fmt: skip

    await house.work(firm)

    poisoned = await house.event(firm, stored["bad"].id)
    assert (poisoned.state, poisoned.last_error, poisoned.attempts) == (EventState.RECEIVED, kept, 1)
    for key in ("k1", "k2"):
        assert (await house.event(firm, stored[key].id)).state is EventState.APPLIED
    async with house.db.transaction(system_context(firm, "job:test"), write=False) as uow:
        assert await payment_states(uow) == {"bad": "NONE", "k1": "SUCCEEDED", "k2": "SUCCEEDED"}


async def test_what_cannot_be_read_waits_for_a_person_at_once(house: House, make_firm: MakeFirm) -> None:
    firm = await firm_of(await make_firm())
    stored = await house.send(await house.account(firm), b"no json")
    await house.work(firm)
    event = await house.event(firm, stored.id)
    assert event.state is EventState.QUARANTINED
    assert (event.last_error or "").startswith("it cannot be read")


async def test_unknown_types_and_unhandled_notices_are_kept_and_can_be_replayed(
    house: House, make_firm: MakeFirm
) -> None:
    firm = await firm_of(await make_firm())
    account = await house.account(firm)
    unknown = await house.send(account, event_body("evt_1", kind="weather.changed"))
    dispute = await house.send(account, event_body("evt_2", kind="dispute"))
    await house.work(firm)
    assert (await house.event(firm, unknown.id)).state is EventState.IGNORED
    event = await house.event(firm, dispute.id)
    assert (event.state, event.result) == (EventState.IGNORED, "nothing here handles a DisputeNotice yet")


def test_two_appliers_of_one_notice_are_refused() -> None:
    with pytest.raises(ValueError, match="PaymentNotice"):
        Appliers([PaymentBook(), PaymentBook()])


async def test_a_claim_that_was_lost_applies_nothing(house: House, make_firm: MakeFirm) -> None:
    """A worker stops between claim and apply, its lease ends, another takes over: the first one's effect is rolled back."""
    firm = await firm_of(await make_firm())
    account = await house.account(firm)
    await house.payment(firm, account, "k1")
    stored = await house.send(account, event_body("evt_1", state="SUCCEEDED", key="k1"))
    context = system_context(firm, "job:inbox", upkeep=True)
    slow = house.worker([house.book])
    (claimed,) = await house.db.run(context, lambda uow: events.claim(uow, uuid7(), 10))
    assert await house.db.run(context, events.busy, write=False), "in hand"
    await house.work(firm)
    assert (await house.event(firm, stored.id)).state is EventState.RECEIVED, (
        "nobody else takes it while the lease stands"
    )

    await house.change("UPDATE provider_event SET lease_until = now(), next_attempt_time = now()", firm=firm)
    other = await house.db.run(context, lambda uow: events.claim(uow, uuid7(), 10))
    await slow._applying.apply(house.db, context, claimed)
    async with house.db.transaction(context, write=False) as uow:
        assert await payment_states(uow) == {"k1": "NONE"}, "the fence is the other's"

    await slow._applying.apply(house.db, context, other[0])
    event = await house.event(firm, stored.id)
    assert (event.state, event.fence) == (EventState.APPLIED, 2)


async def test_two_notices_of_one_event_are_applied_together_or_not_at_all(
    house: House, make_firm: MakeFirm, monkeypatch: pytest.MonkeyPatch
) -> None:
    firm = await firm_of(await make_firm())
    account = await house.account(firm)
    await house.payment(firm, account, "k1")
    once = house.provider.normalise

    def twice(body: bytes) -> Any:
        from dataclasses import replace

        read = once(body)
        (first,) = read.notices
        return replace(read, notices=(first, replace(first, key="k2")))  # type: ignore[arg-type]

    monkeypatch.setattr(house.provider, "normalise", twice)
    stored = await house.send(account, event_body("evt_1", state="SUCCEEDED", key="k1"))
    await house.work(firm)
    async with house.db.transaction(system_context(firm, "job:test"), write=False) as uow:
        assert await payment_states(uow) == {"k1": "NONE"}
    await house.payment(firm, account, "k2")
    await house.due_now(firm)
    await house.work(firm)
    assert (await house.event(firm, stored.id)).result == "payment k1 is SUCCEEDED; payment k2 is SUCCEEDED"


@pytest.mark.parametrize("seed", range(3))
async def test_duplicated_shuffled_forged_and_early_events_end_as_in_order(
    house: House, make_firm: MakeFirm, seed: int
) -> None:
    """Whatever order and however often: the end is that of the canonical order, each applied, nothing forged taken."""
    chance = random.Random(seed)
    firm = await firm_of(await make_firm())
    account = await house.account(firm)
    expected: dict[str, str] = {}
    deliveries: list[tuple[str, bytes, bool]] = []
    for number in range(25):
        key = f"k{number}"
        history = [
            "PENDING",
            *(["DECLINED"] if chance.random() < 0.5 else []),
            *(["SUCCEEDED"] if chance.random() < 0.7 else []),
        ]
        expected[key] = max(history, key=RANK.index)
        for state in history:
            body = event_body(f"evt_{key}_{state}", state=state, key=key)
            deliveries += [(key, body, True)] * chance.randint(1, 5)
        # Forged: an event that would change the end, and one that claims the id of a real one.
        deliveries.append((key, event_body(f"evt_{key}_forged", state="SUCCEEDED", key=key), False))
        deliveries.append((key, event_body(f"evt_{key}_PENDING", state="SUCCEEDED", key=key), False))
    chance.shuffle(deliveries)
    missing = list(expected)
    chance.shuffle(missing)

    async def deliver() -> None:
        while deliveries:
            _, body, genuine = deliveries.pop()
            secret = "toy secret" if genuine else "guessed"
            with suppress(DunwellError):
                await house.ingestor.ingest(SIDECAR, Webhook("toy", account, body, signed_headers(secret, body)))

    async def work_and_live() -> None:
        workers = [house.worker([house.book]) for _ in range(2)]
        context = system_context(firm, "job:inbox")
        for _ in range(40):
            for _ in range(2):
                if missing:
                    await house.payment(firm, account, missing.pop())
            await house.due_now(firm)
            await asyncio.gather(*(worker.work(house.db, context) for worker in workers))

    await asyncio.gather(deliver(), deliver(), deliver(), work_and_live())
    await house.due_now(firm)
    for _ in range(4):
        await house.work(firm)

    async with house.db.transaction(system_context(firm, "job:test"), write=False) as uow:
        assert await payment_states(uow) == expected
    rows = await house.rows("SELECT state, event_id, finish_time, create_time FROM provider_event", firm=firm)
    assert {row["state"] for row in rows} == {"APPLIED"}
    assert len(rows) == sum(row["event_id"].count("_") == 2 for row in rows) == len({row["event_id"] for row in rows})
    assert not [row for row in rows if row["event_id"].endswith("forged")]


async def test_drain_applies_all_and_tries_the_early_ones_once_more(house: House, make_firm: MakeFirm) -> None:
    firm = await firm_of(await make_firm(clock=datetime(2026, 1, 1, tzinfo=UTC)))
    account = await house.account(firm)
    context = system_context(firm, "job:clock", holds_clock=True)
    assert await house.handler.drain(house.db, context)
    for number in range(60):
        await house.payment(firm, account, f"k{number}")
        await house.send(account, event_body(f"evt_{number}", state="SUCCEEDED", key=f"k{number}"))
    early = await house.send(account, event_body("evt_early", state="SUCCEEDED", key="early"))
    assert await house.handler.drain(house.db, context)
    left = await house.rows("SELECT id, attempts FROM provider_event WHERE state <> 'APPLIED'", firm=firm)
    assert [(row["id"], row["attempts"]) for row in left] == [(early.id, 2)]


async def test_drain_waits_for_others_and_not_for_ever(house: House, make_firm: MakeFirm) -> None:
    firm = await firm_of(await make_firm())
    account = await house.account(firm)
    await house.payment(firm, account, "k1")
    await house.send(account, event_body("evt_1", state="SUCCEEDED", key="k1"))
    context = system_context(firm, "job:inbox", upkeep=True)
    (claimed,) = await house.db.run(context, lambda uow: events.claim(uow, uuid7(), 10))

    assert not await house.handler.drain(house.db, context, patience=0.2)

    async def other_ends() -> None:
        await asyncio.sleep(0.2)
        await house.handler._applying.apply(house.db, context, claimed)

    ended = asyncio.create_task(other_ends())
    assert await house.handler.drain(house.db, context, patience=5)
    await ended


async def test_next_due_is_the_next_try_or_the_lease(house: House, make_firm: MakeFirm) -> None:
    firm = await firm_of(await make_firm())
    account = await house.account(firm)

    async def due() -> float | None:
        async with house.db.transaction(system_context(firm, "job:inbox"), write=False) as uow:
            when = await house.handler.next_due(uow)
        return None if when is None else ago(when)

    assert await due() is None
    await house.send(account, event_body("evt_1", state="SUCCEEDED", key="k1"))
    assert (await due() or 1) <= 0
    await house.work(firm)
    assert await due() == pytest.approx(timedelta(seconds=5).total_seconds(), abs=1)
