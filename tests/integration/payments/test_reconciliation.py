"""Reconciliation: the provider's list beside the book, both ways."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from dunwell_server.billing.model import InvoiceState
from dunwell_server.billing.service import credit
from dunwell_server.inbox.ports import NotYet, Origin
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.money import Money
from dunwell_server.ledger import rules
from dunwell_server.ledger.service import post
from dunwell_server.payments.model import AttemptState, PaymentKind, idempotency_key, slot_payment_id
from dunwell_server.payments.service.notices import payment_told
from dunwell_server.payments.store import reconciliation as store
from dunwell_server.platform.crypto import account_aad
from dunwell_server.platform.journal import Category, Change, record
from dunwell_server.platform.runs import RunState
from dunwell_server.providers.base import Outcome, OutcomeClass
from dunwell_server.providers.events import PaymentNotice
from tests.integration.payments.reconciling import metadata_of, paid, paid_there, reconcile
from tests.integration.payments.world import VAULT, World


async def test_agreement_is_counted_and_not_told(world: World) -> None:
    client, _ = await world.client("pm_card_visa", autopay=False)
    for _ in range(3):
        await paid(world, client)
    run, items = await reconcile(world)
    assert (run.state, run.counts, items) == (RunState.SUCCEEDED, {"MATCHED": 3}, [])
    assert (run.total, run.done) == (3, 3)


async def test_an_unknown_outcome_is_taken_over(world: World) -> None:
    client, _ = await world.client("pm_sandbox_acceptThenTimeout", autopay=False)
    invoice = await world.invoice(client)
    view = await world.charge(invoice.id)
    assert view.attempts[0].state is AttemptState.UNKNOWN
    dry, planned = await reconcile(world, dry_run=True)
    assert (dry.counts, [item.outcome for item in planned]) == ({"ADOPTED": 1}, ["ADOPTED"])
    assert (await world.payment(view.payment.id)).attempts[0].state is AttemptState.UNKNOWN
    run, [item] = await reconcile(world)
    assert (run.counts, run.amounts) == ({"ADOPTED": 1}, {"USD": 12000})
    assert (item.outcome, item.detail["payment_id"]) == ("ADOPTED", str(view.payment.id))  # type: ignore[index]
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
    again, items = await reconcile(world)
    assert (again.counts, items) == ({"MATCHED": 1}, [])


async def test_what_nobody_can_explain_is_told_and_alerted_once(world: World) -> None:
    client, [method] = await world.client("pm_card_visa", autopay=False)
    reference = await paid_there(world, method, 5000, key="by hand", metadata={})
    run, [item] = await reconcile(world)
    assert (run.state, run.counts) == (RunState.SUCCEEDED, {"DIFFERENT": 1})
    assert (item.reason, item.amount_minor, item.detail) == ("THEIRS_ONLY", 5000, {"provider_reference": reference})
    assert await world.actions(run.id) == [("reconciliation_difference", "CRITICAL")]
    again, items = await reconcile(world)
    assert (len(items), await world.actions(again.id)) == (1, [])
    assert await world.balances(client.id) == (0, 0)


async def test_another_amount_is_told_and_changes_nothing(world: World) -> None:
    client, _ = await world.client("pm_sandbox_wrongAmount", autopay=False)
    invoice = await world.invoice(client)
    await world.charge(invoice.id)
    run, [item] = await reconcile(world)
    assert (run.counts, item.reason) == ({"DIFFERENT": 1}, "AMOUNT_DIFFERS")
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.SENT
    assert await world.actions(run.id) == [("reconciliation_difference", "CRITICAL")]


async def test_a_success_that_the_provider_does_not_have_is_told(world: World) -> None:
    client, _ = await world.client("pm_card_visa", autopay=False)
    await paid(world, client)
    # Another account's record: nothing that the book says is in it.
    async with world.db.transaction(world.call()) as uow:
        sealed, key_id = VAULT.encrypt(
            {"secret_key": f"sk_test_other{uuid4().hex}"}, account_aad(world.firm_id, "sandbox")
        )
        await uow.execute(
            "UPDATE control.provider_account SET credentials = %s, key_id = %s, version = version + 1 WHERE firm_id = %s",
            (sealed, key_id, world.firm_id),
        )
    run, [item] = await reconcile(world)
    assert (run.counts, item.reason, item.amount_minor) == ({"DIFFERENT": 1}, "OURS_ONLY", 12000)
    assert await world.actions(run.id) == [("reconciliation_difference", "CRITICAL")]


async def test_a_lost_slot_is_found_again_and_settled_as_what_it_was(world: World) -> None:
    client, [method] = await world.client("pm_card_visa")
    invoice = await world.invoice(client, terms=10)
    payment_id = slot_payment_id(world.firm_id, invoice.id, invoice.collection.collection_cycle, 1, 0)
    key = idempotency_key(payment_id, 2)
    reference = await paid_there(world, method, 12000, key=key, metadata=metadata_of(world, payment_id, key))
    run, [item] = await reconcile(world)
    assert (run.counts, item.detail["invoice_id"]) == ({"ADOPTED": 1}, str(invoice.id))  # type: ignore[index]
    view = await world.payment(payment_id)
    assert (view.payment.kind, view.payment.slot, view.payment.allocated_minor) == (PaymentKind.AUTOPAY, 1, 12000)
    assert [(each.attempt_no, each.provider_reference) for each in view.attempts] == [(2, reference)]
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
    await world.advance(world.now + timedelta(days=40))
    assert world.movements == 1
    assert (await reconcile(world, since=(world.now - timedelta(days=50)).isoformat()))[0].counts == {"MATCHED": 1}


async def test_a_lost_request_settles_the_invoice_that_owes_just_that(world: World) -> None:
    client, [method] = await world.client("pm_card_visa", autopay=False)
    other, invoice = await world.invoice(client, "50.00"), await world.invoice(client, "70.00")
    payment_id = slot_payment_id(world.firm_id, uuid4(), 0, 0, 0)
    key = idempotency_key(payment_id, 1)
    await paid_there(world, method, 7000, key=key, metadata=metadata_of(world, payment_id, key))
    _, [item] = await reconcile(world)
    assert (item.outcome, item.client_id) == ("ADOPTED", client.id)
    view = await world.payment(payment_id)
    assert (view.payment.kind, view.payment.credited_minor) == (PaymentKind.ADOPTED, 0)
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
    assert (await world.invoice_now(other.id)).state is InvoiceState.SENT
    assert await world.actions(payment_id) == [("payment_recorded", "WARNING")]
    again, items = await reconcile(world)
    assert (again.counts, items) == ({"MATCHED": 1}, [])


async def test_money_that_came_twice_under_one_key_is_kept_as_credit(world: World) -> None:
    client, [method] = await world.client("pm_card_visa", autopay=False)
    invoice = await world.invoice(client)
    view = await world.charge(invoice.id)
    key = view.attempts[0].idempotency_key
    await paid_there(world, method, 12000, key="another", metadata=metadata_of(world, view.payment.id, key))
    run, [item] = await reconcile(world)
    assert run.counts == {"MATCHED": 1, "ADOPTED": 1}
    assert await world.balances(client.id) == (0, 12000)
    assert ("payment_recorded", "CRITICAL") in await world.actions(UUID(item.detail["payment_id"]))  # type: ignore[index]
    assert (await reconcile(world))[0].counts == {"MATCHED": 2}


async def test_a_failed_charge_of_which_the_book_knows_nothing_is_counted_only(world: World) -> None:
    _, [method] = await world.client("pm_card_chargeDeclined", autopay=False)
    payment_id = slot_payment_id(world.firm_id, uuid4(), 0, 0, 0)
    key = idempotency_key(payment_id, 1)
    await paid_there(world, method, 7000, key=key, metadata=metadata_of(world, payment_id, key))
    run, items = await reconcile(world)
    assert (run.counts, items) == ({"SKIPPED": 1}, [])


async def test_a_lost_slot_that_is_on_its_way_keeps_anybody_else_from_asking(world: World) -> None:
    client, [method] = await world.client("pm_sandbox_pendingThenSuccess")
    invoice = await world.invoice(client, terms=10)
    payment_id = slot_payment_id(world.firm_id, invoice.id, invoice.collection.collection_cycle, 0, 0)
    key = idempotency_key(payment_id, 1)
    await paid_there(world, method, 12000, key=key, metadata=metadata_of(world, payment_id, key))
    run, [item] = await reconcile(world)
    assert (run.counts, run.amounts, item.outcome) == ({"ADOPTED": 1}, {}, "ADOPTED")
    assert (await world.payment(payment_id)).attempts[0].state is AttemptState.PENDING
    with pytest.raises(DunwellError) as refused:
        await world.charge(invoice.id)
    assert refused.value.reason is Reason.COLLECTION_IN_PROGRESS
    await world.advance(world.now + timedelta(days=2))
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
    assert world.movements == 1


async def test_an_event_about_adopted_money_adds_nothing(world: World) -> None:
    client, [method] = await world.client("pm_card_visa", autopay=False)
    payment_id = slot_payment_id(world.firm_id, uuid4(), 0, 0, 0)
    key = idempotency_key(payment_id, 1)
    reference = await paid_there(world, method, 7000, key=key, metadata=metadata_of(world, payment_id, key))
    outcome = Outcome(outcome=OutcomeClass.SUCCEEDED, provider_reference=reference, money=Money("USD", 7000))
    origin = Origin(method.account_id, "sandbox", uuid4(), "payment.succeeded", world.now)
    with pytest.raises(NotYet):
        async with world.db.transaction(world.context) as uow:
            await payment_told(uow, origin, PaymentNotice(reference, key, outcome))
    await reconcile(world)
    async with world.db.transaction(world.context) as uow:
        applied = await payment_told(uow, origin, PaymentNotice(reference, key, outcome))
    assert "taken over" in applied.result
    assert await world.balances(client.id) == (0, 7000)


async def test_a_slot_whose_money_was_adopted_before_its_invoice_was_back_is_never_asked_for(world: World) -> None:
    client, [method] = await world.client("pm_card_visa")
    invoice = await world.invoice(client, terms=1)
    other = await world.invoice(client, "15.00", terms=1)
    payment_id = slot_payment_id(world.firm_id, invoice.id, invoice.collection.collection_cycle, 0, 0)
    # While the invoice is not open its slot cannot be told from any other payment: as if a restore had lost the invoice.
    async with world.db.transaction(world.call()) as uow:
        account = await store.account(uow, method.account_id)
        assert account is not None
        await store.insert_adopted(uow, {
            "id": payment_id, "client_id": client.id, "invoice_id": None, "currency": "USD", "amount": 12000, "allocated": 0,
            "credited": 12000, "provider": "sandbox", "account_id": account.id, "mode": "TEST", "reference": "pay_lost", "invoices": [],
            "amounts": [],
        })  # fmt: skip
        await post(uow, [rules.payment_received(
            payment_id, client.id, "USD", "sandbox", settled=0, recovered=0, credited=12000,
        )])  # fmt: skip
        await credit.add(uow, [credit.excess(payment_id, client.id, "USD", 12000)])
        await record(uow, Change(Category.PAYMENT, "payment_recorded", "payment", payment_id, "payment.succeeded"))
    await world.advance(world.now + timedelta(days=2))
    found = await world.invoice_now(invoice.id)
    assert (found.state, found.collection.autopay_status) == (InvoiceState.SENT, "CANCELLED")
    assert found.collection.autopay_next_charge_time is None
    assert ("slot_paid_before", "CRITICAL") in await world.actions(invoice.id)
    assert (await world.invoice_now(other.id)).state is InvoiceState.PAID
    assert world.movements == 1
