"""Plain SQL as the application's role against the constraints that guard payments: each must refuse."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest

from dunwell_server.kernel.ids import uuid7
from dunwell_server.payments.model import Payment
from tests import support
from tests.integration.payments.world import World

TAMPERS = True
RUN = datetime.fromisoformat("2026-03-10T03:00+00:00")


async def execute(world: World, statement: Any, *params: Any) -> int:
    async with world.db.transaction(world.context) as uow:
        return await uow.execute(statement, params)


async def refused(world: World, constraint: str, statement: Any, *params: Any) -> None:
    """The statement must be refused by exactly this constraint."""
    with pytest.raises(psycopg.errors.IntegrityError) as caught:
        await execute(world, statement, *params)
    assert caught.value.diag.constraint_name == constraint


@pytest.fixture
async def paid(world: World) -> tuple[World, Payment]:
    client, _ = await world.client("pm_card_visa")
    invoice = await world.invoice(client, due=date(2026, 3, 10))
    await world.advance(RUN)
    [payment] = await world.payments(invoice.id)
    return world, payment


@pytest.fixture
async def waiting(world: World) -> tuple[World, Payment]:
    client, _ = await world.client("pm_sandbox_pendingThenSuccess")
    invoice = await world.invoice(client, due=date(2026, 3, 10))
    await world.advance(RUN)
    [payment] = await world.payments(invoice.id)
    return world, payment


COPY = """
INSERT INTO attempt (firm_id, id, payment_id, attempt_no, idempotency_key, provider, account_id, method_id, currency_code, amount_minor)
SELECT firm_id, %s, payment_id, %s, %s, provider, account_id, method_id, currency_code, amount_minor FROM attempt WHERE payment_id = %s LIMIT 1
"""


async def test_one_open_attempt_and_one_success_per_payment(waiting: tuple[World, Payment]) -> None:
    world, payment = waiting
    await refused(world, "attempt_open_key", COPY, uuid7(), 2, f"v1:{payment.id}:2", payment.id)


async def test_one_success_per_payment(paid: tuple[World, Payment]) -> None:
    world, payment = paid
    second = uuid7()
    await execute(world, COPY, second, 2, f"v1:{payment.id}:2", payment.id)
    await refused(world, "attempt_success_key", "UPDATE attempt SET state = 'SUCCEEDED' WHERE id = %s", second)


async def test_a_key_follows_from_its_payment_and_is_used_once(paid: tuple[World, Payment]) -> None:
    world, payment = paid
    await refused(world, "attempt_key_check", COPY, uuid7(), 2, f"v1:{uuid4()}:2", payment.id)
    await refused(
        world, "attempt_firm_id_payment_id_attempt_no_key", COPY, uuid7(), 1, f"v1:{payment.id}:1", payment.id
    )


async def test_one_channel_asks_for_an_invoices_money(waiting: tuple[World, Payment]) -> None:
    world, payment = waiting
    other = await world.charge((await world.invoice((await world.client("pm_card_visa"))[0])).id)
    statement = "INSERT INTO collection_hold (firm_id, invoice_id, payment_id, channel) VALUES (%s, %s, %s, 'LINK')"
    await refused(world, "collection_hold_live_key", statement, world.firm_id, payment.invoice_id, other.payment.id)


async def test_a_slot_is_asked_for_once_per_revision(paid: tuple[World, Payment]) -> None:
    world, payment = paid
    await refused(world, "payment_slot_key", """
        INSERT INTO payment (firm_id, id, client_id, invoice_id, kind, state, currency_code, amount_minor, cycle, slot, revision, provider, firm_time)
        SELECT firm_id, %s, client_id, invoice_id, kind, 'PROCESSING', currency_code, amount_minor, cycle, slot, revision, provider, firm_time
        FROM payment WHERE id = %s""", uuid7(), payment.id)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("amount_minor = 1", "payment_fixed"),
        ("captured_minor = 13000, allocated_minor = 13000", "payment_fixed"),
        ("credited_minor = 1", "payment_spread_check"),
        ("refunded_minor = 12001", "payment_returned_check"),
        ("refunded_minor = 6001, charged_back_minor = 6000", "payment_returned_check"),
        ("state = 'FAILED'", "payment_captured_check"),
        ("slot = 3", "payment_fixed"),
        ("client_id = gen_random_uuid()", "payment_fixed"),
    ],
)
async def test_a_received_payment_does_not_change(paid: tuple[World, Payment], change: str, constraint: str) -> None:
    world, payment = paid
    await refused(world, constraint, f"UPDATE payment SET {change} WHERE id = %s", payment.id)


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("state = 'DECLINED'", "attempt_fixed"),
        ("fence = fence - 1", "attempt_fixed"),
        ("provider_reference = 'another'", "attempt_fixed"),
        ("amount_minor = 1", "attempt_fixed"),
        ("idempotency_key = 'v1:x:1'", "attempt_fixed"),
    ],
)
async def test_a_finished_attempt_does_not_change(paid: tuple[World, Payment], change: str, constraint: str) -> None:
    world, payment = paid
    await refused(world, constraint, f"UPDATE attempt SET {change} WHERE payment_id = %s", payment.id)


async def test_states_move_only_along_their_edges(waiting: tuple[World, Payment]) -> None:
    world, payment = waiting
    await refused(world, "attempt_state_edge", "UPDATE attempt SET state = 'CREATED' WHERE payment_id = %s", payment.id)
    await refused(
        world, "attempt_state_edge", "UPDATE attempt SET state = 'NOT_SENT' WHERE payment_id = %s", payment.id
    )
    await execute(world, "UPDATE payment_method SET state = 'DEAD' WHERE id = %s", payment.method_id)
    await refused(
        world,
        "payment_method_state_edge",
        "UPDATE payment_method SET state = 'ACTIVE' WHERE id = %s",
        payment.method_id,
    )


async def test_allocations_are_append_only_and_positive(paid: tuple[World, Payment]) -> None:
    world, payment = paid
    for statement in ("UPDATE payment_allocation SET amount_minor = 1", "DELETE FROM payment_allocation"):
        with pytest.raises(psycopg.Error) as caught:
            await execute(world, statement)
        assert isinstance(caught.value, psycopg.errors.InsufficientPrivilege | psycopg.errors.CheckViolation)
    statement = "INSERT INTO payment_allocation (firm_id, payment_id, invoice_id, currency_code, amount_minor) VALUES (%s, %s, %s, 'USD', %s)"
    await refused(world, "payment_allocation_pkey", statement, world.firm_id, payment.id, payment.invoice_id, 5)
    other = await world.invoice((await world.client(autopay=False))[0])
    await refused(world, "payment_allocation_amount_check", statement, world.firm_id, payment.id, other.id, 0)


async def test_payments_are_never_deleted(paid: tuple[World, Payment]) -> None:
    world, _ = paid
    for table in ("payment", "attempt", "collection_hold", "payment_method"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await execute(world, f"DELETE FROM {table}")


async def test_another_firm_sees_and_changes_nothing(paid: tuple[World, Payment]) -> None:
    world, payment = paid
    stranger = await support.add_firm(world.db)
    async with world.db.transaction(stranger) as uow:
        for table in (
            "payment",
            "attempt",
            "payment_method",
            "collection_hold",
            "payment_allocation",
            "provider_customer",
            "approval",
        ):
            assert await uow.fetch_value(f"SELECT count(*) FROM {table}") == 0
        assert await uow.execute("UPDATE payment SET failure_message = 'x' WHERE id = %s", (payment.id,)) == 0
    foreign: UUID = stranger.firm_id  # type: ignore[assignment]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        await execute(world, "INSERT INTO provider_customer (firm_id, client_id, account_id, provider, provider_reference) "
                      "VALUES (%s, %s, %s, 'sandbox', 'c')", foreign, payment.client_id, uuid4())  # fmt: skip


async def test_the_second_person_is_another_person(waiting: tuple[World, Payment]) -> None:
    world, payment = waiting
    await refused(world, "approval_second_person_check",
        "INSERT INTO approval (firm_id, id, kind, subject_id, proposal, actor, approve_actor, approve_time) "
        "VALUES (%s, %s, 'RESOLVE_ATTEMPT', %s, '{}', 'ada', 'ada', now())", world.firm_id, uuid7(), payment.id)  # fmt: skip
