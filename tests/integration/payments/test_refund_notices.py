"""What notifications say of refunds: of ours, of those made at the provider, in any order, before their payment is known."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from dunwell_server.billing.model import InvoiceState
from dunwell_server.inbox.ports import Applied, NotYet, Origin
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.kernel.money import Money
from dunwell_server.payments.refunds import MADE_AT_PROVIDER, RefundState, SendState, request_refund_id
from dunwell_server.payments.service.queries import PaymentView
from dunwell_server.payments.service.refund_notices import RefundNotices, RefundTotalNotices
from dunwell_server.payments.service.refund_taking import RefundIntake
from dunwell_server.payments.store import refunds as store
from dunwell_server.providers.abilities import ProviderRefund, RefundOutcome, RefundOutcomeClass
from dunwell_server.providers.events import RefundNotice, RefundTotalNotice
from tests.integration.payments.refunding import Refunds, refused
from tests.integration.payments.world import START, World

NOTICES = RefundNotices()
SUCCEEDED, PENDING, FAILED = RefundOutcomeClass.SUCCEEDED, RefundOutcomeClass.PENDING, RefundOutcomeClass.FAILED


@pytest.fixture
def refunds(world: World) -> Refunds:
    return Refunds(world)


def theirs(
    paid: PaymentView,
    outcome: RefundOutcomeClass,
    amount: int = 5000,
    reference: str = "re_made_there",
    **metadata: str,
) -> ProviderRefund:
    """A refund as the provider tells of it."""
    money = Money("USD", amount)
    code = "expired_or_canceled_card" if outcome is FAILED else None
    told = RefundOutcome(outcome=outcome, provider_reference=reference, money=money, provider_code=code)
    payment = paid.attempts[-1].provider_reference
    assert payment is not None
    return ProviderRefund(reference, payment, metadata, money, told, START)


def origin(paid: PaymentView) -> Origin:
    assert paid.payment.account_id is not None
    return Origin(paid.payment.account_id, "sandbox", uuid4(), "refund.updated", START)


async def tell(world: World, paid: PaymentView, refund: ProviderRefund) -> Applied:
    async with world.db.transaction(world.call()) as uow:
        return await NOTICES.apply(uow, origin(paid), RefundNotice(refund), None)


async def test_a_refund_made_at_the_provider_is_adopted(world: World, refunds: Refunds) -> None:
    _, invoice, paid = await refunds.paid()
    for _ in range(3):
        applied = await tell(world, paid, theirs(paid, SUCCEEDED))
    assert "already" in applied.result
    [view] = await refunds.listed()
    refund = view.refund
    assert (refund.state, refund.reason, refund.provider_reference) == (
        RefundState.SUCCEEDED, MADE_AT_PROVIDER, "re_made_there",
    )  # fmt: skip
    assert [part.credit_note_number for part in view.allocations] == ["CN-INV-2026-000001"]
    assert (await world.invoice_now(invoice.id)).amount_refunded == 5000
    assert [action for action, _ in await world.actions(refund.id)] == ["refund_adopted", "refund_succeeded"]


async def test_any_order_of_notifications_has_the_same_end(world: World, refunds: Refunds) -> None:
    ends = set()
    for order in itertools.permutations([PENDING, SUCCEEDED, FAILED]):
        client, invoice, paid = await refunds.paid()
        for outcome in order:
            for _ in range(2):
                await tell(world, paid, theirs(paid, outcome, reference=f"re_{paid.payment.id.hex}"))
        [view] = await refunds.listed(payment_id=paid.payment.id)
        now = await world.invoice_now(invoice.id)
        payment = (await world.payment(paid.payment.id)).payment
        ends.add((
            view.refund.state, view.refund.failed_after_success, now.state, now.amount_refunded, now.amount_credited,
            payment.refunded_minor, payment.refund_pending_minor, await world.balances(client.id),
        ))  # fmt: skip
    assert ends == {(RefundState.FAILED, True, InvoiceState.PAID, 5000, 5000, 5000, 0, (0, 5000))}


async def test_our_own_refund_is_found_by_its_id_its_key_or_the_providers_id(world: World, refunds: Refunds) -> None:
    _, _, paid = await refunds.paid()
    for number, metadata in enumerate(({"refund": True}, {"key": True}, {"refund": True, "key": True})):
        view = await refunds.ask(paid.payment.id, 1000, send=False)
        said: dict[str, str] = {}
        if "refund" in metadata:
            said["refund"] = encode(Prefix.REFUND, view.refund.id)
        if "key" in metadata:
            said["key"] = view.refund.idempotency_key
        await tell(world, paid, theirs(paid, PENDING, 1000, f"re_{number}", **said))
        assert (await refunds.now(view.refund.id)).refund.state is RefundState.PENDING
        await tell(world, paid, theirs(paid, SUCCEEDED, 1000, f"re_{number}"))
        refund = (await refunds.now(view.refund.id)).refund
        assert (refund.state, refund.send_state) == (RefundState.SUCCEEDED, SendState.ANSWERED)
    assert len(await refunds.listed()) == 3


async def test_what_is_not_known_yet_is_tried_again(world: World, refunds: Refunds) -> None:
    _, _, paid = await refunds.paid()
    early = replace(theirs(paid, SUCCEEDED), payment_reference="pi_not_here_yet")
    with pytest.raises(NotYet):
        await tell(world, paid, early)
    ours = await refunds.ask(paid.payment.id, 10000, send=False)
    with pytest.raises(NotYet):  # Ours is under way, and the two together are more than was paid.
        await tell(world, paid, theirs(paid, SUCCEEDED, 5000))
    assert len(await refunds.listed()) == 1
    await tell(world, paid, theirs(paid, FAILED, 10000, "re_ours", refund=encode(Prefix.REFUND, ours.refund.id)))
    assert "adopted" in (await tell(world, paid, theirs(paid, SUCCEEDED, 5000))).result


async def test_a_refund_that_failed_there_is_kept_and_takes_nothing(world: World, refunds: Refunds) -> None:
    _, invoice, paid = await refunds.paid()
    before = await world.invoice_now(invoice.id)
    await tell(world, paid, theirs(paid, FAILED))
    [view] = await refunds.listed()
    assert (view.refund.state, view.refund.failure_code) == (RefundState.FAILED, "expired_or_canceled_card")
    assert await world.invoice_now(invoice.id) == before


async def test_a_total_is_taken_apart_by_the_providers_list(world: World, refunds: Refunds) -> None:
    _, invoice, paid = await refunds.paid()
    mine = await refunds.ask(paid.payment.id, 1000)
    payment = paid.attempts[-1].provider_reference
    assert payment is not None
    made = await at_the_gateway(world, payment, 2000)
    notices = RefundTotalNotices(refunds.refunder)
    notice = RefundTotalNotice(payment, Money("USD", 3000))
    for _ in range(2):
        prepared = await notices.prepare(world.db, world.context, origin(paid), notice)
        async with world.db.transaction(world.call()) as uow:
            await notices.apply(uow, origin(paid), notice, prepared)
    views = {view.refund.provider_reference: view.refund for view in await refunds.listed()}
    assert set(views) == {mine.refund.provider_reference, made}
    assert views[made].amount_minor == 2000
    assert (await world.invoice_now(invoice.id)).amount_refunded == 3000
    await refunds.agree()


async def at_the_gateway(world: World, payment: str, amount: int, **metadata: str) -> str:
    """A refund made in the provider's own pages."""
    answer = world.gateway._client.post(
        "/v1/refunds", json={"payment": payment, "amount": amount, "metadata": metadata},
        headers={"Authorization": f"Bearer sk_test_{world.account}", "Idempotency-Key": uuid4().hex},
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    reference: str = answer.json()["id"]
    return reference


async def test_after_a_restore_the_same_request_finds_what_was_adopted(world: World, refunds: Refunds) -> None:
    """The book was restored to a time before the refund; the provider has it under the id that the request leads to."""
    _, _, paid = await refunds.paid()
    context = world.call()
    assert context.request_id is not None
    lost: UUID = request_refund_id(world.firm_id, context.request_id)
    metadata: dict[str, Any] = {"refund": encode(Prefix.REFUND, lost), "key": f"v1:refund:{lost}"}
    refund = theirs(paid, SUCCEEDED, 5000, **metadata)
    async with world.db.transaction(world.call()) as uow:
        assert paid.payment.account_id is not None
        account = await store.account(uow, paid.payment.account_id)
        assert account is not None
        assert await RefundIntake().take(uow, account, refund)
        assert not await RefundIntake().take(uow, account, refund)
    again = await refunds.ask(paid.payment.id, 5000, context=context)
    assert (again.refund.id, again.refund.state) == (lost, RefundState.SUCCEEDED)
    assert refunds.sent_back() == {}, "nothing is sent a second time"
    async with world.db.transaction(world.call()) as uow:
        other = replace(refund, payment_reference="pi_elsewhere", provider_reference="re_elsewhere", metadata={})
        assert account is not None
        assert "not in the book" in (await refused(RefundIntake().take(uow, account, other))).message
