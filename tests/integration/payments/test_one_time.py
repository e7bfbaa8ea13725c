"""CreatePayment's use case: one, several or no invoices, the client present or not, holds, links."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from dunwell_server.billing.model import InvoiceState
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.payments.model import Allocation, PaymentState
from dunwell_server.payments.service.checkouts import continued_link
from dunwell_server.payments.service.manual import record_manual
from tests.integration.payments.pages_world import Pages
from tests.integration.payments.world import START, World


@pytest.fixture
async def pages(world: World) -> Pages:
    return Pages(world)


async def test_money_settles_the_invoices_in_the_given_order_and_the_rest_is_credit(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client("pm_card_visa", autopay=False)
    first, second, third = [await world.invoice(client, "100.00") for _ in range(3)]
    view = await pages.pay(client, 25000, third, first, second)
    assert view.payment.state is PaymentState.SUCCEEDED
    assert view.payment.invoice_id is None
    owed = [(await world.invoice_now(each.id)).amount_due for each in (third, first, second)]
    assert owed == [0, 0, 5000]
    assert {part.invoice_id: part.amount_minor for part in view.allocations} == {
        third.id: 10000, first.id: 10000, second.id: 5000,
    }  # fmt: skip
    over = await pages.pay(client, 9000, second)
    assert (over.payment.allocated_minor, over.payment.credited_minor) == (5000, 4000)
    assert over.payment.invoice_id == second.id
    assert await world.balances(client.id) == (0, 4000)


async def test_a_payment_for_no_invoice_is_a_prepayment(pages: Pages) -> None:
    client, _ = await pages.world.client("pm_card_visa", autopay=False)
    view = await pages.pay(client, 5000, payer={"ip_address": "203.0.113.7"})
    assert (view.payment.state, view.payment.credited_minor, view.allocations) == (PaymentState.SUCCEEDED, 5000, [])
    assert await pages.world.balances(client.id) == (0, 5000)
    assert (
        await pages.world.scalar("SELECT payer->>'ip_address' FROM payment WHERE id = %s", view.payment.id)
        == "203.0.113.7"
    )


@pytest.mark.parametrize("token", ["pm_card_chargeDeclined", "pm_card_chargeDeclinedLostCard"])
async def test_a_refusal_fails_it_and_frees_the_invoices(pages: Pages, token: str) -> None:
    client, _ = await pages.world.client(token, autopay=False)
    invoices = [await pages.world.invoice(client) for _ in range(2)]
    view = await pages.pay(client, 24000, *invoices)
    assert view.payment.state is PaymentState.FAILED
    assert [await pages.live_holds(invoice) for invoice in invoices] == [0, 0]
    assert [(await pages.world.invoice_now(each.id)).state for each in invoices] == [InvoiceState.SENT] * 2


@pytest.mark.parametrize("result", ["succeed", "fail"])
async def test_a_client_who_is_present_authenticates_at_a_link(pages: Pages, result: str) -> None:
    world = pages.world
    client, _ = await world.client("pm_card_threeDSecure2Required", autopay=False)
    invoice = await world.invoice(client)
    view = await pages.pay(client, 12000, invoice, client_present=True, return_url="https://shop.example/back")
    assert view.payment.state is PaymentState.REQUIRES_ACTION
    assert view.payment.action_url
    async with world.db.transaction(world.call()) as uow:
        assert await continued_link(uow, invoice.id) == view.payment.id
    reference = view.attempts[0].provider_reference
    assert reference is not None
    pages.authenticate(reference, result)
    await pages.hear()
    done = await world.payment(view.payment.id)
    assert done.payment.state is (PaymentState.SUCCEEDED if result == "succeed" else PaymentState.FAILED)
    assert await pages.live_holds(invoice) == 0


async def test_a_link_that_nobody_follows_is_cancelled_with_the_provider(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client("pm_card_threeDSecure2Required", autopay=False)
    invoice = await world.invoice(client)
    view = await pages.pay(client, 12000, invoice, client_present=True)
    assert await pages.live_holds(invoice) == 1
    await world.advance(START + timedelta(days=2))
    assert (await world.payment(view.payment.id)).payment.state is PaymentState.FAILED
    assert await pages.live_holds(invoice) == 0


async def test_what_was_accepted_behind_a_lost_answer_settles_all_its_invoices_once(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client("pm_sandbox_acceptThenDrop", autopay=False)
    invoices = [await world.invoice(client) for _ in range(3)]
    view = await pages.pay(client, 36000, *invoices)
    assert view.payment.state is PaymentState.PROCESSING
    await world.advance(START + timedelta(hours=2))
    assert [(await world.invoice_now(each.id)).state for each in invoices] == [InvoiceState.PAID] * 3
    assert world.movements == 1


async def test_an_invoice_paid_meanwhile_turns_its_part_into_credit(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client("pm_sandbox_pendingThenSuccess", autopay=False)
    first, second = await world.invoice(client), await world.invoice(client)
    view = await pages.pay(client, 24000, first, second)
    async with world.db.transaction(world.call()) as uow:
        await record_manual(uow, client.id, 12000, "USD", method="CASH", allocations=[Allocation(second.id, 12000)])
    await world.advance(START + timedelta(hours=6))
    done = await world.payment(view.payment.id)
    assert (done.payment.allocated_minor, done.payment.credited_minor) == (12000, 12000)


async def test_payments_over_the_same_invoices_in_other_orders_never_deadlock(pages: Pages) -> None:
    client, _ = await pages.world.client("pm_card_visa", autopay=False)
    invoices = [await pages.world.invoice(client) for _ in range(4)]
    orders = [invoices, invoices[::-1], invoices[1:], invoices[2:] + invoices[:2]]
    results = await asyncio.gather(*(pages.pay(client, 10000, *order) for order in orders), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            assert isinstance(result, DunwellError)
            assert result.reason in (Reason.COLLECTION_IN_PROGRESS, Reason.STATE_CONFLICT)
    assert any(not isinstance(result, BaseException) for result in results)


async def test_what_is_refused_before_anything_is_written(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client("pm_card_visa", autopay=False)
    other, _ = await world.client(autopay=False)
    paid, theirs, held = await world.invoice(client), await world.invoice(other), await world.invoice(client)
    await pages.pay(client, 12000, paid)
    await pages.invoice_page(held)

    async def reason(*args: object, **options: object) -> Reason:
        with pytest.raises(DunwellError) as refused:
            await pages.pay(*args, **options)  # type: ignore[arg-type]
        return refused.value.reason

    assert await reason(client, 100, theirs) is Reason.STATE_CONFLICT
    assert await reason(client, 100, paid) is Reason.STATE_CONFLICT
    assert await reason(client, 100, held) is Reason.COLLECTION_IN_PROGRESS
    assert await reason(other, 100) is Reason.PAYMENT_METHOD_MISSING
    [(method)] = [each.method_id for each in [(await world.payments(paid.id))[0]]]
    assert await reason(other, 100, method_id=method) is Reason.RESOURCE_NOT_FOUND
    assert world.movements == 1


async def test_the_same_request_is_the_same_payment_for_ever(pages: Pages) -> None:
    client, _ = await pages.world.client("pm_card_visa", autopay=False)
    call = pages.world.call()
    await pages.pay(client, 1000, call=call)
    with pytest.raises(DunwellError) as refused:
        await pages.pay(client, 1000, call=call)
    assert refused.value.reason is Reason.REQUEST_ID_REUSED
    assert pages.world.movements == 1
