"""What a provider's word about a dispute does to dispute, payment, invoice and ledger."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from dunwell_server.billing.lines import LineInput
from dunwell_server.billing.model import AutopayStatus, Invoice, InvoiceState
from dunwell_server.billing.service.credit_notes import NoteOrder, create_credit_note
from dunwell_server.billing.service.invoices import NewInvoice, create_invoice
from dunwell_server.disputes import store
from dunwell_server.disputes.model import Dispute, DisputeKind, DisputeState
from dunwell_server.disputes.notices import DisputeApplier
from dunwell_server.disputes.service import apply_dispute
from dunwell_server.inbox.ports import NotYet, Origin
from dunwell_server.kernel.money import Money
from dunwell_server.payments.model import Allocation, Payment
from dunwell_server.payments.refunds import RefundState
from dunwell_server.payments.service.manual import record_manual
from dunwell_server.providers.abilities import ProviderDispute, ProviderDisputeState
from dunwell_server.providers.events import DisputeNotice
from tests.integration.payments.refunding import Refunds
from tests.integration.payments.world import START, World

S = ProviderDisputeState


def word(
    state: ProviderDisputeState, payment: str, *, amount: int = 12000, withdrawn: bool = True, fee: int = 1500
) -> ProviderDispute:
    """What the provider says of dispute dp_1."""
    return ProviderDispute(
        provider_reference=f"dp_{payment}", payment_reference=payment, state=state, reason="fraudulent", money=Money("USD", amount),
        fee=Money("USD", fee), funds_withdrawn=withdrawn, respond_by=None, submission_count=0, metadata={}, created_time=START,
    )  # fmt: skip


class Contest:
    """A paid invoice, and a bank that contests its payment."""

    def __init__(self, world: World, invoice: Invoice, payment: Payment, reference: str) -> None:
        self.world, self.invoice, self.payment, self.reference = world, invoice, payment, reference

    @classmethod
    async def create(cls, world: World) -> Contest:
        client, _ = await world.client("pm_card_visa")
        invoice = await world.invoice(client)
        view = await world.charge(invoice.id)
        reference = view.attempts[0].provider_reference
        assert reference is not None
        return cls(world, invoice, view.payment, reference)

    async def says(self, state: ProviderDisputeState, *, fresh: bool = True, **more: Any) -> bool:
        """The provider says so; whether it changed anything."""
        async with self.world.db.transaction(self.world.context) as uow:
            account = self.payment.account_id
            assert account is not None
            applied = await apply_dispute(
                uow, account, self.payment.id, word(state, self.reference, **more), fresh=fresh
            )
            return applied.changed

    async def dispute(self) -> Dispute:
        async with self.world.db.transaction(self.world.context, write=False) as uow:
            assert self.payment.account_id is not None
            found = await store.get(uow, self.payment.account_id, f"dp_{self.reference}")
        assert found is not None
        return found

    async def state(self) -> tuple[InvoiceState, int]:
        invoice = await self.world.invoice_now(self.invoice.id)
        return invoice.state, invoice.amount_due

    async def ledger(self) -> dict[str, int]:
        async with self.world.db.transaction(self.world.context, write=False) as uow:
            rows = await uow.fetch_all(
                "SELECT account, sum(amount_minor)::bigint AS sum FROM ledger_entry WHERE firm_id = %s GROUP BY account HAVING sum(amount_minor) <> 0",
                (self.world.firm_id,),
            )
        return {row["account"]: row["sum"] for row in rows}


@pytest.fixture
async def contest(world: World) -> Contest:
    return await Contest.create(world)


async def test_a_chargeback_marks_the_invoice_and_takes_the_money_at_the_providers_moment(contest: Contest) -> None:
    assert await contest.state() == (InvoiceState.PAID, 0)
    assert await contest.says(S.NEEDS_RESPONSE)
    assert await contest.state() == (InvoiceState.DISPUTED, 0)
    assert await contest.ledger() == {
        "revenue": -12000,
        "disputed_funds": 12000,
        "dispute_fees": 1500,
        "clearing": -1500,
    }
    dispute = await contest.dispute()
    assert ("payment_disputed", "CRITICAL") in await contest.world.actions(dispute.id)
    assert not await contest.says(S.NEEDS_RESPONSE), "twice changes nothing"


async def test_won_gives_the_money_back_and_the_invoice_is_paid_again(contest: Contest) -> None:
    await contest.says(S.NEEDS_RESPONSE)
    await contest.says(S.UNDER_REVIEW)
    await contest.says(S.WON, fee=0)
    assert await contest.state() == (InvoiceState.PAID, 0)
    assert await contest.ledger() == {"revenue": -12000, "clearing": 12000}
    assert ("dispute_won", "CRITICAL") in await contest.world.actions((await contest.dispute()).id)


async def test_lost_is_owed_again_and_the_paid_amount_is_reduced(contest: Contest) -> None:
    await contest.says(S.NEEDS_RESPONSE, amount=5000)
    await contest.says(S.LOST, amount=5000)
    assert await contest.state() == (InvoiceState.CHARGED_BACK, 5000)
    ledger = await contest.ledger()
    assert ledger == {"revenue": -12000, "receivable": 5000, "clearing": 5500, "dispute_fees": 1500}
    payment = (await contest.world.payment(contest.payment.id)).payment
    assert payment.charged_back_minor == 5000
    invoice = await contest.world.invoice_now(contest.invoice.id)
    assert invoice.collection.autopay_status is not AutopayStatus.SCHEDULED


async def test_lost_at_once_without_a_withdrawal_before(contest: Contest) -> None:
    """Some providers take the money only when the dispute is lost."""
    await contest.says(S.NEEDS_RESPONSE, withdrawn=False)
    assert "disputed_funds" not in await contest.ledger()
    await contest.says(S.LOST, withdrawn=False)
    assert await contest.state() == (InvoiceState.CHARGED_BACK, 12000)
    assert (await contest.ledger())["clearing"] == -1500


async def test_an_appeal_opens_a_lost_dispute_again_and_may_win_it(contest: Contest) -> None:
    await contest.says(S.LOST)
    assert not await contest.says(S.UNDER_REVIEW, fresh=False), "an echo is no appeal"
    assert await contest.says(S.UNDER_REVIEW)
    assert await contest.state() == (InvoiceState.DISPUTED, 0)
    await contest.says(S.WON, fee=0)
    assert await contest.state() == (InvoiceState.PAID, 0)
    assert await contest.ledger() == {"revenue": -12000, "clearing": 12000}


async def test_an_appeal_may_be_lost_too(contest: Contest) -> None:
    for state in (S.LOST, S.UNDER_REVIEW, S.LOST):
        await contest.says(state)
    assert await contest.state() == (InvoiceState.CHARGED_BACK, 12000)
    assert await contest.ledger() == {"revenue": -12000, "receivable": 12000, "clearing": -1500, "dispute_fees": 1500}


@pytest.mark.parametrize("paid_again", [12000, 5000])
async def test_an_appeal_leaves_an_invoice_that_was_paid_otherwise_since(contest: Contest, paid_again: int) -> None:
    """What the invoice does not owe any more is the client's credit; lost again, it is taken from there."""
    await contest.says(S.LOST)
    async with contest.world.db.transaction(contest.world.call()) as uow:
        part = Allocation(contest.invoice.id, paid_again)
        await record_manual(uow, contest.invoice.client_id, paid_again, "USD", method="CASH", allocations=[part])
    for _ in range(2):
        assert await contest.says(S.UNDER_REVIEW)
        assert await contest.state() == (InvoiceState.DISPUTED, 0)
        assert await contest.world.balances(contest.invoice.client_id) == (0, paid_again)
        assert (await contest.world.payment(contest.payment.id)).payment.charged_back_minor == paid_again
        assert await contest.says(S.LOST)
        assert (await contest.state())[1] == 12000 - paid_again
        assert await contest.world.balances(contest.invoice.client_id) == (12000 - paid_again, 0)
        assert (await contest.dispute()).loss_minor == 0
    await contest.says(S.WON, fee=0)
    assert await contest.state() == (InvoiceState.PAID, 0)
    assert await contest.world.balances(contest.invoice.client_id) == (0, paid_again)
    ledger = await contest.ledger()
    assert (ledger["clearing"], ledger["cash"], ledger["client_credit"]) == (12000, paid_again, -paid_again)


async def test_an_appeal_that_is_lost_again_takes_what_is_left_of_its_credit(contest: Contest) -> None:
    """The credit was spent meanwhile: the firm bears what is not there any more."""
    world, client_id = contest.world, contest.invoice.client_id
    await contest.says(S.LOST)
    async with world.db.transaction(world.call()) as uow:
        await record_manual(
            uow, client_id, 12000, "USD", method="CASH", allocations=[Allocation(contest.invoice.id, 12000)]
        )
    await contest.says(S.UNDER_REVIEW)
    async with world.db.transaction(world.call()) as uow:
        line = LineInput("Advice", Decimal("70.00"))
        await create_invoice(uow, NewInvoice(client_id, lines=(line,), payment_terms_days=0), finalize=True)
    assert await world.balances(client_id) == (0, 5000)
    await contest.says(S.LOST)
    dispute = await contest.dispute()
    assert (dispute.credit_minor, dispute.loss_minor) == (5000, 7000)
    assert await contest.state() == (InvoiceState.PAID, 0)
    assert await world.balances(client_id) == (0, 0)


async def test_an_inquiry_moves_nothing_and_may_escalate_on_the_same_row(contest: Contest) -> None:
    await contest.says(S.INQUIRY_NEEDS_RESPONSE, withdrawn=False)
    assert await contest.state() == (InvoiceState.PAID, 0)
    assert await contest.ledger() == {"revenue": -12000, "clearing": 12000}
    inquiry = await contest.dispute()
    await contest.says(S.NEEDS_RESPONSE)
    assert await contest.state() == (InvoiceState.DISPUTED, 0)
    chargeback = await contest.dispute()
    assert (chargeback.id, chargeback.kind) == (inquiry.id, DisputeKind.CHARGEBACK)
    assert not await contest.says(S.INQUIRY_CLOSED, withdrawn=False)


async def test_what_the_payment_has_not_got_is_the_firms_loss(world: World) -> None:
    contest = await Contest.create(world)
    await contest.says(S.LOST, amount=20000)
    dispute = await contest.dispute()
    assert (dispute.charged_back_minor, dispute.loss_minor) == (12000, 8000)
    assert (await contest.ledger())["bad_debt"] == 8000


async def test_what_is_owed_after_refund_and_dispute_may_be_credited(contest: Contest) -> None:
    """All of the money went back before the bank decided, so that nothing was left for it to take."""
    refund = await Refunds(contest.world).ask(contest.payment.id, reopen_invoice=True)
    assert (refund.refund.state, await contest.state()) == (RefundState.SUCCEEDED, (InvoiceState.SENT, 12000))
    await contest.says(S.LOST)
    assert await contest.state() == (InvoiceState.CHARGED_BACK, 12000)
    async with contest.world.db.transaction(contest.world.call()) as uow:
        await create_credit_note(uow, NoteOrder(contest.invoice.id, reason="goodwill"))
    assert await contest.state() == (InvoiceState.REFUNDED, 0)
    assert await contest.ledger() == {"bad_debt": 12000, "clearing": -13500, "dispute_fees": 1500}


STORIES = [
    [S.NEEDS_RESPONSE, S.UNDER_REVIEW, S.WON],
    [S.NEEDS_RESPONSE, S.UNDER_REVIEW, S.LOST],
    [S.INQUIRY_NEEDS_RESPONSE, S.INQUIRY_UNDER_REVIEW, S.NEEDS_RESPONSE, S.WON],
]


@pytest.mark.parametrize("story", range(len(STORIES)))
async def test_any_order_and_number_of_events_ends_as_the_story_does(world: World, story: int) -> None:
    """Stale words are never fresh: each order of the events, some of them twice, comes to the same end."""
    canonical = STORIES[story]
    ends = set()
    for seed, order in enumerate(itertools.islice(itertools.permutations(canonical), 6)):
        contest = await Contest.create(world)
        told = random.Random(seed).sample([*order, *order], 2 * len(order))
        for state in told:
            await contest.says(state, fresh=False, withdrawn=not state.name.startswith("INQUIRY"), fee=0)
        ends.add(((await contest.dispute()).state, *(await contest.state())))
    assert len(ends) == 1, ends
    assert (ends.pop()[0]) is {S.WON: DisputeState.WON, S.LOST: DisputeState.LOST}[canonical[-1]]


class Nobody:
    """A provider that cannot be asked."""

    async def read_dispute(self, database: Any, context: Any, account_id: UUID, reference: str) -> None:
        return None


async def test_an_event_before_its_payment_is_known_waits(contest: Contest) -> None:
    applier = DisputeApplier(Nobody())
    account = contest.payment.account_id
    assert account is not None
    origin = Origin(account, "sandbox", uuid4(), "dispute.created", START)
    notice = DisputeNotice(replace(word(S.NEEDS_RESPONSE, contest.reference), payment_reference="pay_unheard_of"))
    known = DisputeNotice(word(S.NEEDS_RESPONSE, contest.reference))
    db, context = contest.world.db, contest.world.context
    unheard, heard = [await applier.prepare(db, context, origin, each) for each in (notice, known)]
    async with db.transaction(context) as uow:
        with pytest.raises(NotYet):
            await applier.apply(uow, origin, notice, unheard)
        assert "OPENED" in (await applier.apply(uow, origin, known, heard)).result
        assert "nothing new" in (await applier.apply(uow, origin, known, heard)).result
