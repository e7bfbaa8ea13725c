"""Answers of a collection recorded many in a transaction: each for itself, and none lost with another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from dunwell_server.billing.model import AutopayStatus, InvoiceState
from dunwell_server.payments.evidence import NotSent, Succeeded
from dunwell_server.payments.jobs import charging, recording
from dunwell_server.payments.model import AttemptState, Claim, PaymentState, Source, slot_payment_id
from dunwell_server.payments.service.collecting import claim_batch
from dunwell_server.payments.service.outcomes import Answered, Applied, apply_outcomes
from dunwell_server.payments.service.sending import begin_sends
from dunwell_server.platform.database import UnitOfWork
from tests import support
from tests.integration.payments.world import World

DUE = date(2026, 3, 10)
RUN = datetime.fromisoformat("2026-03-10T03:00+00:00")


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many answers each transaction has recorded."""
    sizes: list[int] = []

    async def counted(uow: UnitOfWork, answered: Sequence[Answered]) -> list[Applied]:
        applied = await apply_outcomes(uow, answered)
        sizes.append(len(answered))
        return applied

    monkeypatch.setattr(charging, "apply_outcomes", counted)
    monkeypatch.setattr(recording, "LINGER_SECONDS", 30.0)  # On a busy machine answers come apart.
    return sizes


async def sent(world: World, count: int) -> list[Claim]:
    """Claims whose attempts are with the provider, as far as our book knows."""
    async with world.db.transaction(world.context) as uow:
        claims = (await claim_batch(uow, world.workers.charger.owner, count)).claims
    async with world.db.transaction(world.context) as uow:
        assert len(await begin_sends(uow, claims, lambda order: b"digest")) == len(claims)
    return claims


async def states(world: World) -> dict[UUID, str]:
    async with world.db.transaction(world.context, write=False) as uow:
        rows = await uow.fetch_all(
            "SELECT p.invoice_id, a.state FROM attempt a JOIN payment p ON p.firm_id = a.firm_id AND p.id = a.payment_id WHERE a.firm_id = %s",
            (world.firm_id,),
        )
    return {row["invoice_id"]: row["state"] for row in rows}


async def test_every_kind_of_answer_in_one_group_is_what_it_is_alone(world: World, groups: list[int]) -> None:
    tokens = ("pm_card_visa", "pm_card_chargeDeclined", "pm_sandbox_pendingThenSuccess", "pm_card_visa")
    invoices = [await world.invoice((await world.client(token))[0], due=DUE) for token in tokens]
    spared, _ = await world.client("pm_card_chargeDeclinedLostCard", "pm_card_visa")
    invoices.append(await world.invoice(spared, due=DUE))
    await world.move(RUN)
    await world.workers.collect.work(world.db, world.context)
    assert groups == [5]
    now = [await world.invoice_now(invoice.id) for invoice in invoices]
    assert [invoice.state for invoice in now] == [
        InvoiceState.PAID, InvoiceState.FAILED, InvoiceState.SENT, InvoiceState.PAID, InvoiceState.PAID,
    ]  # fmt: skip
    assert [invoice.collection.autopay_status for invoice in now] == [
        AutopayStatus.SUCCEEDED, AutopayStatus.FAILED, AutopayStatus.PROCESSING, AutopayStatus.SUCCEEDED, AutopayStatus.SUCCEEDED,
    ]  # fmt: skip
    [backed] = await world.payments(invoices[4].id)
    assert [each.state for each in (await world.payment(backed.id)).attempts] == [
        AttemptState.DECLINED,
        AttemptState.SUCCEEDED,
    ]
    [paid] = await world.payments(invoices[0].id)
    assert (paid.state, paid.captured_minor, paid.allocated_minor) == (PaymentState.SUCCEEDED, 12000, 12000)
    assert [action for action, _ in await world.actions(paid.id)] == ["payment_succeeded"]
    assert [action for action, _ in await world.actions(invoices[0].id)][-1] == "invoice_paid"
    assert await world.balances(now[0].client_id) == (0, 0)
    assert world.movements == 3


async def test_answers_of_one_client_are_recorded_one_after_the_other(world: World, groups: list[int]) -> None:
    client, _ = await world.client("pm_card_visa")
    invoices = [await world.invoice(client, f"{100 + number}.00", due=DUE) for number in range(4)]
    await world.move(RUN)
    await world.workers.collect.work(world.db, world.context)
    assert groups == [1] * 4
    assert {(await world.invoice_now(invoice.id)).state for invoice in invoices} == {InvoiceState.PAID}


async def test_an_answer_that_cannot_be_recorded_holds_back_no_other(
    world: World, groups: list[int], database_urls: support.DatabaseUrls
) -> None:
    invoices = [await world.invoice((await world.client("pm_card_visa"))[0], due=DUE) for _ in range(4)]
    broken = invoices[2].id
    await world.move(RUN)
    with refusing(database_urls.owner, slot_payment_id(world.firm_id, broken, 1, 0, 0)):
        await world.workers.collect.work(world.db, world.context)
        assert groups == []
        found = await states(world)
        assert found.pop(broken) == AttemptState.SENT
        assert set(found.values()) == {AttemptState.SUCCEEDED}
        assert world.movements == 4
    async with world.db.transaction(world.context) as uow:
        await uow.execute(
            "UPDATE attempt SET lease_until = clock_timestamp() - interval '1 s' WHERE firm_id = %s AND state = 'SENT'",
            (world.firm_id,),
        )
    await world.work()
    assert {(await world.invoice_now(invoice.id)).state for invoice in invoices} == {InvoiceState.PAID}
    assert world.movements == 4


@contextmanager
def refusing(owner: str, payment_id: UUID) -> Iterator[None]:
    """The success of one payment's attempts cannot be written."""
    payment = sql.Literal(payment_id)
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute(
            sql.SQL(
                "CREATE TRIGGER refusing BEFORE UPDATE ON attempt FOR EACH ROW WHEN (NEW.payment_id = {} AND NEW.state = 'SUCCEEDED')"
                " EXECUTE FUNCTION refuse_change()"
            ).format(payment)
        )
        try:
            yield
        finally:
            connection.execute("DROP TRIGGER refusing ON attempt")


async def test_whoever_has_lost_its_claim_says_nothing_about_sending_but_money_counts(world: World) -> None:
    for _ in range(3):
        await world.invoice((await world.client("pm_card_visa"))[0], due=DUE)
    await world.move(RUN)
    claims = await sent(world, 3)
    async with world.db.transaction(world.context) as uow:
        # Two of them are somebody else's by now.
        await uow.execute(
            "UPDATE attempt SET fence = fence + 1 WHERE firm_id = %s AND id = ANY(%s)",
            (world.firm_id, [claim.attempt_id for claim in claims[:2]]),
        )
    evidence: list[Any] = [NotSent("no place"), Succeeded("pay_late", 12000, "USD"), NotSent("no place")]
    async with world.db.transaction(world.context) as uow:
        applied = await apply_outcomes(
            uow, [Answered(claim, each, Source.ANSWER) for claim, each in zip(claims, evidence, strict=True)]
        )
    assert [(each.attempt_id, each.changed) for each in applied] == [
        (claims[0].attempt_id, False),
        (claims[1].attempt_id, True),
        (claims[2].attempt_id, True),
    ]
    found = await states(world)
    assert [found[claim.invoice_id] for claim in claims if claim.invoice_id] == [
        AttemptState.SENT, AttemptState.SUCCEEDED, AttemptState.NOT_SENT,
    ]  # fmt: skip


async def test_other_money_than_was_asked_for_is_no_success_among_others_either(world: World) -> None:
    for _ in range(2):
        await world.invoice((await world.client("pm_card_visa"))[0], due=DUE)
    await world.move(RUN)
    claims = await sent(world, 2)
    outcomes = [Succeeded("pay_a", 12000, "USD"), Succeeded("pay_b", 11999, "USD")]
    async with world.db.transaction(world.context) as uow:
        await apply_outcomes(
            uow, [Answered(claim, each, Source.ANSWER) for claim, each in zip(claims, outcomes, strict=True)]
        )
    found = await states(world)
    assert [found[claim.invoice_id] for claim in claims if claim.invoice_id] == [
        AttemptState.SUCCEEDED,
        AttemptState.UNKNOWN,
    ]


async def test_a_lone_answer_waits_for_nobody(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "LINGER_SECONDS", 30.0)
    invoice = await world.invoice((await world.client("pm_card_visa"))[0], due=DUE)
    await world.move(RUN)
    async with asyncio.timeout(10):
        await world.workers.collect.work(world.db, world.context)
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
