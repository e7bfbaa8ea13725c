"""Pages on which an invoice is paid: one channel at a time, one page however often it is made, money recorded whoever tells of it first."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import timedelta

import pytest

from dunwell_server.billing.model import InvoiceState
from dunwell_server.billing.service.closing import void_invoice
from dunwell_server.inbox.ports import AppliedState, NotYet
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.money import Money
from dunwell_server.payments.evidence import NotSent
from dunwell_server.payments.model import Allocation, AttemptState, PaymentState, Source
from dunwell_server.payments.page_model import CheckoutSession, SessionState
from dunwell_server.payments.service import checkouts
from dunwell_server.payments.service.manual import record_manual
from dunwell_server.payments.service.pages import give_up, is_unsent
from dunwell_server.payments.service.sending import begin_send
from dunwell_server.providers.base import DeclineClass, FailureCode, Outcome, OutcomeClass
from dunwell_server.providers.events import CheckoutNotice, Notice, PaymentNotice
from tests.integration.payments.pages_world import BACK, Pages, invoice_wish
from tests.integration.payments.world import START, World


@pytest.fixture
async def pages(world: World) -> Pages:
    return Pages(world)


async def state_of(pages: Pages, session_id: object) -> tuple[str, str, str]:
    session = await pages.session(session_id)  # type: ignore[arg-type]
    assert session.payment_id is not None
    view = await pages.world.payment(session.payment_id)
    return session.state.value, view.payment.state.value, view.attempts[0].state.value


def refusal(session: CheckoutSession) -> PaymentNotice:
    """The event of a card that was refused on the page, as a provider tells it whose payment has our key from the start."""
    outcome = Outcome(
        outcome=OutcomeClass.DECLINED, provider_reference="py_refused", failure_code=FailureCode.CARD_DECLINED, decline_class=DeclineClass.SOFT,
    )  # fmt: skip
    return PaymentNotice("py_refused", f"v1:{session.payment_id}:1", outcome)


async def test_a_page_asks_for_an_invoice_and_is_paid(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client(autopay=False)
    invoice = await world.invoice(client)
    session = await pages.invoice_page(invoice)
    assert session.url is not None
    assert session.state is SessionState.OPEN
    assert session.expire_time is not None
    assert await state_of(pages, session.id) == ("OPEN", "REQUIRES_ACTION", "REQUIRES_ACTION")
    pages.complete(session)
    await pages.hear()
    assert await state_of(pages, session.id) == ("COMPLETED", "SUCCEEDED", "SUCCEEDED")
    paid = await world.invoice_now(invoice.id)
    assert paid.state is InvoiceState.PAID
    assert world.movements == 1
    assert (await pages.session(session.id)).url is None
    assert await pages.live_holds(invoice) == 0
    assert await world.actions(session.id) == [
        ("checkout_session_opened", "INFO"), ("checkout_session_completed", "INFO"),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
async def test_events_in_any_order_any_number_of_times_and_polls_give_the_same_end(pages: Pages, seed: int) -> None:
    world, dice = pages.world, random.Random(seed)
    client, _ = await world.client(autopay=False)
    invoice = await world.invoice(client)
    session = await pages.invoice_page(invoice, save_method=True, enable_autopay=True)
    pages.complete(session, "pm_card_chargeDeclined")
    pages.complete(session, "pm_card_visa")

    def shuffled(notices: Sequence[Notice]) -> list[Notice]:
        mixed = [notice for notice in (*notices, refusal(session)) for _ in range(dice.randint(1, 3))]
        dice.shuffle(mixed)
        return mixed

    mixed = shuffled(await pages.notices())
    half = len(mixed) // 2
    await asyncio.gather(
        *(pages.deliver([notice]) for notice in mixed[:half]), world.advance(world.now + timedelta(minutes=1))
    )
    await pages.deliver(mixed[half:])
    assert await state_of(pages, session.id) == ("COMPLETED", "SUCCEEDED", "SUCCEEDED")
    assert (await world.invoice_now(invoice.id)).amount_due == 0
    assert world.movements == 1
    saved = (await pages.session(session.id)).method_id
    assert saved is not None
    actions = [action for action, _ in await world.actions(saved)]
    assert actions.count("payment_method_attached") == 1
    assert await world.scalar("SELECT autopay_enabled FROM client WHERE id = %s", client.id)
    assert await world.scalar("SELECT autopay_method_id FROM client WHERE id = %s", client.id) == saved


async def test_a_refused_card_leaves_the_page_open(pages: Pages) -> None:
    client, _ = await pages.world.client(autopay=False)
    session = await pages.invoice_page(await pages.world.invoice(client))
    pages.complete(session, "pm_card_chargeDeclined")
    await pages.hear()
    await pages.deliver([refusal(session)])
    await pages.world.work()
    assert await state_of(pages, session.id) == ("OPEN", "REQUIRES_ACTION", "REQUIRES_ACTION")


async def test_a_refusal_after_completion_is_the_end(pages: Pages) -> None:
    client, _ = await pages.world.client(autopay=False)
    session = await pages.invoice_page(await pages.world.invoice(client))
    pages.complete(session, "pm_sandbox_pendingThenSuccess")
    await pages.hear()
    await pages.deliver([refusal(session)] * 2)
    assert await state_of(pages, session.id) == ("COMPLETED", "FAILED", "DECLINED")
    # It is final for the caller, and yet money that comes is money.
    await pages.world.advance(pages.world.now + timedelta(hours=6))
    await pages.hear()
    assert await state_of(pages, session.id) == ("COMPLETED", "SUCCEEDED", "SUCCEEDED")


async def test_a_page_that_nobody_pays_expires_and_uses_no_slot(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client("pm_card_visa")
    invoice = await world.invoice(client, due=(START + timedelta(days=30)).date())
    session = await pages.invoice_page(invoice, life_seconds=1800)
    before = await world.invoice_now(invoice.id)
    assert await pages.live_holds(invoice) == 1
    await world.advance(START + timedelta(hours=1))
    assert await state_of(pages, session.id) == ("EXPIRED", "CANCELLED", "DECLINED")
    after = await world.invoice_now(invoice.id)
    assert await pages.live_holds(invoice) == 0
    assert after.collection == before.collection
    assert after.collection.failure_count == 0
    await world.advance(START + timedelta(days=31))
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID


async def test_autopay_waits_while_a_page_asks_and_takes_over_when_it_is_closed(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client("pm_card_visa")
    invoice = await world.invoice(client, due=START.date())
    session = await pages.invoice_page(invoice)
    await world.advance(START + timedelta(hours=20))
    assert world.movements == 0
    assert await pages.live_holds(invoice) == 1
    with pytest.raises(DunwellError) as refused:
        await world.charge(invoice.id)
    assert refused.value.reason is Reason.COLLECTION_IN_PROGRESS
    closed = await pages.expire(await pages.session(session.id))
    assert closed.state is SessionState.EXPIRED
    await world.advance(world.now + timedelta(minutes=1))
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
    assert world.movements == 1


async def test_no_page_is_opened_while_autopay_collects(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client("pm_sandbox_pendingThenSuccess")
    invoice = await world.immediate(client)
    await world.work()
    with pytest.raises(DunwellError) as refused:
        await pages.invoice_page(invoice)
    assert refused.value.reason is Reason.COLLECTION_IN_PROGRESS
    assert await world.scalar("SELECT count(*) FROM checkout_session WHERE firm_id = %s", world.firm_id) == 0


async def test_voiding_waits_until_the_page_is_closed(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client(autopay=False)
    invoice = await world.invoice(client)
    session = await pages.invoice_page(invoice)
    with pytest.raises(DunwellError) as refused:
        async with world.db.transaction(world.call()) as uow:
            await void_invoice(uow, invoice.id)
    assert refused.value.reason is Reason.COLLECTION_IN_PROGRESS
    await pages.expire(session)
    async with world.db.transaction(world.call()) as uow:
        await void_invoice(uow, invoice.id)
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.VOID


async def test_a_page_for_what_is_paid_otherwise_is_closed(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client(autopay=False)
    invoice = await world.invoice(client)
    session = await pages.invoice_page(invoice)
    await world.advance(world.now + timedelta(hours=13))  # By now it is looked at every few hours only.
    async with world.db.transaction(world.call()) as uow:
        await record_manual(uow, client.id, 12000, "USD", method="CASH", allocations=[Allocation(invoice.id, 12000)])
    await world.work()
    assert pages.complete_refused(session), "it is closed at the provider too"
    assert await state_of(pages, session.id) == ("EXPIRED", "CANCELLED", "DECLINED")
    assert await pages.live_holds(invoice) == 0


async def test_a_question_of_the_bank_is_withdrawn_where_the_invoice_is_paid_otherwise(pages: Pages) -> None:
    """The client who answers it later pays nothing twice."""
    world = pages.world
    client, _ = await world.client("pm_card_authenticationRequired", autopay=False)
    invoice = await world.invoice(client)
    view = await pages.pay(client, 12000, invoice, client_present=True, return_url=BACK)
    assert view.payment.state is PaymentState.REQUIRES_ACTION
    async with world.db.transaction(world.call()) as uow:
        await record_manual(uow, client.id, 12000, "USD", method="CASH", allocations=[Allocation(invoice.id, 12000)])
    await world.work()
    assert (await world.payment(view.payment.id)).payment.state is PaymentState.FAILED
    assert await pages.live_holds(invoice) == 0
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID
    assert world.movements == 0


async def test_closing_a_page_that_was_just_paid_finds_the_money(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client(autopay=False)
    invoice = await world.invoice(client)
    session = await pages.invoice_page(invoice)
    pages.complete(session)
    assert (await pages.expire(session)).state is SessionState.COMPLETED
    assert (await world.invoice_now(invoice.id)).state is InvoiceState.PAID


async def test_money_that_comes_after_the_expiry_is_recorded(pages: Pages) -> None:
    """The provider said expired, the invoice was paid otherwise, and then it says that the page was paid after all."""
    world = pages.world
    client, _ = await world.client("pm_card_visa", autopay=False)
    invoice = await world.invoice(client)
    session = await pages.invoice_page(invoice)
    assert session.payment_id is not None
    await pages.expire(session)
    await world.charge(invoice.id)
    outcome = Outcome(outcome=OutcomeClass.SUCCEEDED, provider_reference="py_late", money=Money("USD", 12000))
    late = PaymentNotice("py_late", f"v1:{session.payment_id}:1", outcome)
    await pages.deliver([late, late])
    assert await state_of(pages, session.id) == ("COMPLETED", "SUCCEEDED", "SUCCEEDED")
    view = await world.payment(session.payment_id)
    assert (view.payment.allocated_minor, view.payment.credited_minor) == (0, 12000)
    assert await world.balances(client.id) == (0, 12000)


async def test_a_crash_before_the_answer_is_repeated_under_the_same_key(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client(autopay=False)
    invoice = await world.invoice(client)
    world.gateway.control(
        "faults", account=world.account, faults=[{"on": "checkout", "outcome": "accept_then_drop", "count": 1}]
    )
    session = await pages.invoice_page(invoice)
    assert await state_of(pages, session.id) == ("CREATING", "PROCESSING", "UNKNOWN")
    assert session.url is None
    await world.advance(world.now + timedelta(minutes=3))
    assert await state_of(pages, session.id) == ("OPEN", "REQUIRES_ACTION", "REQUIRES_ACTION")
    assert pages.count("/v1/checkout/sessions") == 1


async def test_what_a_dead_process_left_unsent_is_made_by_the_next(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client(autopay=False)
    invoice = await world.invoice(client)
    asked = await pages.ask(invoice_wish(invoice))
    async with world.db.transaction(world.context) as uow:
        await uow.execute(
            "UPDATE attempt SET lease_until = clock_timestamp() - interval '1 s' WHERE firm_id = %s", (world.firm_id,)
        )
    await world.advance(world.now + timedelta(seconds=1))
    assert (await pages.session(asked.session_id)).state is SessionState.OPEN
    assert pages.count("/v1/checkout/sessions") == 1


async def test_a_page_that_was_surely_never_made_can_be_given_up(pages: Pages) -> None:
    world, charger = pages.world, pages.world.workers.charger
    client, _ = await world.client(autopay=False)
    invoice = await world.invoice(client)
    asked = await pages.ask(invoice_wish(invoice))
    assert asked.claim is not None
    claim = asked.claim
    async with world.db.transaction(world.call()) as uow:
        assert await begin_send(uow, claim, lambda order: b"digest") is not None
    await charger.record(world.db, world.call(), claim, NotSent("refused connection"), Source.ANSWER)
    session = await pages.session(asked.session_id)
    async with world.db.transaction(world.call()) as uow:
        assert await is_unsent(uow, session)
        await give_up(uow, session.id)
    assert await state_of(pages, session.id) == ("FAILED", "CANCELLED", "CLOSED")
    assert await pages.live_holds(invoice) == 0
    again = await pages.invoice_page(invoice)
    async with world.db.transaction(world.call()) as uow:
        assert not await is_unsent(uow, again)
        with pytest.raises(DunwellError) as refused:
            await give_up(uow, again.id)
    assert refused.value.reason is Reason.PROVIDER_UNAVAILABLE


async def test_a_payment_that_becomes_known_later_completes_the_page_at_once(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client(autopay=False)
    invoice = await world.invoice(client)
    session = await pages.invoice_page(invoice)
    pages.complete(session, "pm_sandbox_pendingThenSuccess")
    await pages.hear()
    assert await state_of(pages, session.id) == ("COMPLETED", "PROCESSING", "PENDING")
    assert await pages.live_holds(invoice) == 1
    await world.advance(world.now + timedelta(hours=6))
    assert await state_of(pages, session.id) == ("COMPLETED", "SUCCEEDED", "SUCCEEDED")


async def test_a_payment_that_fails_after_completion_frees_the_invoice(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client(autopay=False)
    invoice = await world.invoice(client)
    session = await pages.invoice_page(invoice)
    pages.complete(session, "pm_sandbox_pendingThenFailure")
    await pages.hear()
    await world.advance(world.now + timedelta(hours=6))
    assert await state_of(pages, session.id) == ("COMPLETED", "FAILED", "DECLINED")
    assert await pages.live_holds(invoice) == 0
    assert (await world.invoice_now(invoice.id)).collection.failure_count == 0


async def test_other_money_than_was_asked_for_is_never_a_success(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client(autopay=False)
    session = await pages.invoice_page(await world.invoice(client))
    outcome = Outcome(outcome=OutcomeClass.SUCCEEDED, provider_reference="py_odd", money=Money("USD", 1))
    await pages.deliver([PaymentNotice("py_odd", f"v1:{session.payment_id}:1", outcome)])
    assert (await state_of(pages, session.id))[1] != "SUCCEEDED"


async def test_events_about_what_is_not_ours_or_not_known_yet(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client(autopay=False)
    session = await pages.invoice_page(await world.invoice(client))
    outcome = Outcome(outcome=OutcomeClass.SUCCEEDED, provider_reference="py_x", money=Money("USD", 1))
    for key in (None, "somebody-elses", "v1:refund:1"):
        [told] = await pages.deliver([PaymentNotice("py_x", key, outcome)])
        assert told.state is AppliedState.IGNORED
        assert told.result
    with pytest.raises(NotYet):
        await pages.deliver([PaymentNotice("py_x", f"v1:{client.id}:1", outcome)])
    details = await pages.keeper.expire_page(world.db, world.call(), session)
    foreign = CheckoutNotice(type(details)(provider_reference="cs_x", mode=details.mode, state=details.state))
    [told] = await pages.deliver([foreign])
    assert told.state is AppliedState.IGNORED
    async with world.db.transaction(world.context) as uow:
        await checkouts.apply_page(uow, session.id, details, Source.LOOKUP)


async def test_one_page_per_invoice_under_concurrency(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client(autopay=False)
    invoice = await world.invoice(client)
    await pages.customer(client.id)
    results = await asyncio.gather(*(pages.invoice_page(invoice) for _ in range(6)), return_exceptions=True)
    opened = [result for result in results if not isinstance(result, BaseException)]
    assert len(opened) == 1
    assert all(
        isinstance(result, DunwellError) and result.reason is Reason.COLLECTION_IN_PROGRESS
        for result in results if isinstance(result, BaseException)
    )  # fmt: skip
    assert await pages.live_holds(invoice) == 1


async def test_two_workers_poll_and_hear_the_completion_at_once(pages: Pages) -> None:
    world = pages.world
    client, _ = await world.client(autopay=False)
    invoice = await world.invoice(client)
    session = await pages.invoice_page(invoice, save_method=True)
    pages.complete(session)
    notices = await pages.notices()
    await asyncio.gather(*(pages.deliver([notice]) for notice in notices * 3), pages.expire(session))
    assert await state_of(pages, session.id) == ("COMPLETED", "SUCCEEDED", "SUCCEEDED")
    assert session.payment_id is not None
    assert [action for action, _ in await world.actions(session.payment_id)].count("payment_succeeded") == 1
    assert (await world.payment(session.payment_id)).payment.state is PaymentState.SUCCEEDED
    assert (await world.payment(session.payment_id)).attempts[0].state is AttemptState.SUCCEEDED
