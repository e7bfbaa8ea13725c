"""`apply_dispute`: the one way in which anything learned about a dispute changes the books, forward-only.

In one transaction: the dispute, the payment, its invoices, the ledger, the journal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from uuid import UUID

from dunwell_server.billing.model.credit import CreditKind, CreditSource, CreditUseKind, NewCredit
from dunwell_server.billing.service import credit
from dunwell_server.billing.service.disputes import DisputeChange, apply_disputes
from dunwell_server.disputes import ledger_rules, store
from dunwell_server.disputes.model import (
    Dispute,
    DisputeKind,
    DisputeState,
    Settled,
    Spread,
    merged,
    next_state,
    said,
    settle_again,
    spread,
)
from dunwell_server.kernel.ids import Prefix, derive_uuid, encode
from dunwell_server.ledger.service import post
from dunwell_server.payments.events import RefundGivenUp
from dunwell_server.payments.service import disputed
from dunwell_server.payments.service.disputed import DisputedPayment
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.domain_events import Bus
from dunwell_server.platform.journal import Category, Change, Severity, record
from dunwell_server.providers.abilities import ProviderDispute


@dataclass(frozen=True, slots=True)
class Applied:
    """What the word of a provider led to."""

    dispute: Dispute
    changed: bool


@dataclass(frozen=True, slots=True)
class _Case:
    """A dispute and its payment, locked and fresh."""

    uow: UnitOfWork
    dispute: Dispute
    payment: DisputedPayment

    async def tell(self, action: str, severity: Severity) -> None:
        """Journal something about the dispute."""
        dispute = self.dispute
        metadata = {
            "client_id": encode(Prefix.CLIENT, dispute.client_id),
            "payment_id": encode(Prefix.PAYMENT, dispute.payment_id),
            "invoice_ids": [encode(Prefix.INVOICE, invoice_id) for invoice_id, _ in self.payment.settled],
            "amount_minor": dispute.amount_minor,
            "currency_code": dispute.currency_code,
            "reason": dispute.reason,
            "kind": dispute.kind.value,
            "state": dispute.state.value,
            "provider": dispute.provider,
            "respond_by_time": dispute.respond_by_time.isoformat() if dispute.respond_by_time else None,
        }
        event = "dispute." + action.removeprefix("payment_").removeprefix("dispute_")
        await record(self.uow, Change(Category.DISPUTE, action, "dispute", dispute.id, event, severity, metadata))


def subscribe(bus: Bus) -> None:
    """Wire disputes to payments' events."""
    bus.subscribe(RefundGivenUp, on_refund_given_up)


async def apply_dispute(
    uow: UnitOfWork, account_id: UUID, payment_id: UUID, theirs: ProviderDispute, *, fresh: bool
) -> Applied:
    """Take over what a provider says of a dispute of one of our payments. `fresh`: it was asked just now.

    The payment must have succeeded, and the dispute be in its currency (ValueError).
    """
    payment = await disputed.lock_payment(uow, payment_id)
    if not payment.succeeded or theirs.money.currency != payment.currency_code:
        raise ValueError("a dispute is about a payment that has succeeded, in its currency")
    known = await store.get(uow, account_id, theirs.provider_reference, lock=True)
    kind, state = said(theirs)
    if known is None:
        first = state if kind is DisputeKind.INQUIRY else DisputeState.OPENED
        case = _Case(uow, await _insert(uow, account_id, payment, theirs, kind, first), payment)
        await _opened(case, theirs)
        return Applied((await _move(case, theirs, state)).dispute, True)
    case = _Case(uow, known, payment)
    move = next_state(known.kind, known.state, kind, state, fresh=fresh)
    if move is None:
        case, withdrawn = await _withdraw(case, theirs)
        return Applied(case.dispute, withdrawn)
    if move[0] is not known.kind:
        case = replace(case, dispute=replace(known, kind=DisputeKind.CHARGEBACK, state=DisputeState.OPENED))
        await store.update(uow, case.dispute)
        await _opened(case, theirs)
    return Applied((await _move(case, theirs, state)).dispute, True)


async def _insert(
    uow: UnitOfWork,
    account_id: UUID,
    payment: DisputedPayment,
    theirs: ProviderDispute,
    kind: DisputeKind,
    state: DisputeState,
) -> Dispute:
    return await store.insert(uow, {
        "id": derive_uuid("dispute", uow.firm_id, account_id, theirs.provider_reference), "payment_id": payment.id, "client_id": payment.client_id,
        "account_id": account_id, "provider": payment.provider, "reference": theirs.provider_reference, "kind": kind.value, "state": state.value,
        "reason": theirs.reason, "currency": payment.currency_code, "amount": theirs.money.minor, "respond_by": theirs.respond_by,
        "open_time": theirs.created_time,
    })  # fmt: skip


async def _opened(case: _Case, theirs: ProviderDispute) -> None:
    """An inquiry only warns. A chargeback marks payment and invoices, and stops their automatic collection."""
    if case.dispute.kind is DisputeKind.INQUIRY:
        await case.tell("dispute_inquiry", Severity.WARNING)
        return
    await _mark_open(case, 1)
    await disputed.stop_collection(case.uow, list(case.payment.invoices.values()))
    await case.tell("payment_disputed", Severity.CRITICAL)


async def _mark_open(case: _Case, opened: int, lost: int = 0) -> None:
    await disputed.note_dispute(case.uow, case.payment.id, opened=opened)
    change = DisputeChange(open_chargebacks=opened, lost_disputes=lost)
    await apply_disputes(case.uow, dict.fromkeys(case.payment.invoices, change))


async def _move(case: _Case, theirs: ProviderDispute, state: DisputeState) -> _Case:
    """Bring the dispute to `state`, with the money that moves on the way."""
    case, _ = await _withdraw(case, theirs)
    dispute = case.dispute
    before = dispute.state
    if dispute.kind is DisputeKind.INQUIRY or before is state:
        return (
            await _keep(case, replace(dispute, state=state, respond_by_time=theirs.respond_by))
            if before is not state
            else case
        )
    if before is DisputeState.LOST:
        case = await _unlose(case)
        if state is DisputeState.UNDER_REVIEW:
            return await _keep(case, replace(case.dispute, state=state))
    match state:
        case DisputeState.WON:
            return await _win(case, theirs)
        case DisputeState.LOST:
            return await _lose(case, theirs)
        case DisputeState.CLOSED if before.is_open:
            await _mark_open(case, -1)
    return await _keep(case, replace(case.dispute, state=state, respond_by_time=theirs.respond_by))


async def _keep(case: _Case, dispute: Dispute) -> _Case:
    await store.update(case.uow, dispute)
    case = replace(case, dispute=dispute)
    await case.tell("dispute_updated", Severity.INFO)
    return case


async def _withdraw(case: _Case, theirs: ProviderDispute, *, now: bool = False) -> tuple[_Case, bool]:
    """Post what the provider has taken, once: at its moment, at the latest when the dispute is lost."""
    dispute = case.dispute
    if dispute.kind is DisputeKind.INQUIRY or dispute.withdrawn or not (theirs.funds_withdrawn or now):
        return case, False
    fee = theirs.fee.minor if theirs.fee is not None and theirs.fee.currency == dispute.currency_code else 0
    dispute = replace(dispute, withdrawn=True, fee_minor=max(fee, 0))
    await store.update(case.uow, dispute)
    await post(case.uow, [ledger_rules.withdrawn(dispute)])
    return replace(case, dispute=dispute), True


async def _win(case: _Case, theirs: ProviderDispute) -> _Case:
    """The bank decides for the firm: the money, and what the provider gives of its fee, come back."""
    dispute = replace(case.dispute, state=DisputeState.WON)
    version = await store.update(case.uow, dispute)
    if dispute.withdrawn:
        fee = theirs.fee.minor if theirs.fee is not None else dispute.fee_minor
        await post(case.uow, [ledger_rules.reinstated(dispute, max(dispute.fee_minor - max(fee, 0), 0), version)])
    await _mark_open(case, -1)
    case = replace(case, dispute=dispute)
    await case.tell("dispute_won", Severity.CRITICAL)
    return case


async def _lose(case: _Case, theirs: ProviderDispute) -> _Case:
    """The bank decides for the client: the disputed part is taken off what the payment has settled."""
    case, _ = await _withdraw(case, theirs, now=True)
    uow = case.uow
    kept = case.dispute.charged_back_minor
    wanted = case.dispute.amount_minor - kept
    payment = await disputed.make_room(uow, case.payment, wanted)
    case = replace(case, payment=payment)
    taken = min(wanted, payment.left_minor)
    parts = spread(taken, [Settled(*part) for part in payment.settled], payment.credit_minor)
    # What an appeal had turned into credit is taken from the credit again, as far as it is still there.
    from_credit = parts.credit_minor + min(kept, max(payment.credit_minor - parts.credit_minor, 0))
    owed = sum(part.amount_minor for part in parts.invoices)
    dispute = replace(
        case.dispute, state=DisputeState.LOST, charged_back_minor=kept + taken, credit_minor=from_credit,
        loss_minor=case.dispute.amount_minor - owed - from_credit,
    )  # fmt: skip
    version = await store.update(uow, dispute)
    await store.allocate(uow, dispute, merged(await store.allocations(uow, dispute.id), parts.invoices))
    await post(uow, [ledger_rules.lost(dispute, _owed_again(case, parts), _recovered(case, parts), version)])
    await credit.take(
        uow, dispute.client_id, dispute.currency_code, from_credit, CreditUseKind.CHARGED_BACK, (CreditSource.DISPUTE, dispute.id),
        first=payment.id,
    )  # fmt: skip
    await disputed.note_dispute(uow, payment.id, opened=-1, charged_back=taken)
    await apply_disputes(uow, _changes(case, parts.invoices, opened=-1, lost=1))
    case = replace(case, dispute=dispute)
    await case.tell("dispute_lost", Severity.CRITICAL)
    return case


async def on_refund_given_up(uow: UnitOfWork, event: RefundGivenUp) -> None:
    """What a refund on its way had kept back when a dispute was lost is there after all: it is charged back now, no loss of the firm's."""
    for dispute in await store.short(uow, event.payment_id):
        payment = await disputed.lock_payment(uow, event.payment_id)
        more = min(dispute.amount_minor - dispute.charged_back_minor, payment.left_minor)
        if more <= 0:
            continue
        parts = spread(more, [Settled(*part) for part in payment.settled], payment.credit_minor)
        case = _Case(uow, replace(
            dispute, charged_back_minor=dispute.charged_back_minor + more, credit_minor=dispute.credit_minor + parts.credit_minor,
            loss_minor=dispute.loss_minor - more + parts.loss_minor,
        ), payment)  # fmt: skip
        version = await store.update(uow, case.dispute)
        await store.allocate(uow, dispute, merged(await store.allocations(uow, dispute.id), parts.invoices))
        owed, recovered = _owed_again(case, parts), _recovered(case, parts)
        await post(uow, [ledger_rules.covered(case.dispute, owed, recovered, parts.credit_minor, version)])
        await credit.take(
            uow, dispute.client_id, dispute.currency_code, parts.credit_minor, CreditUseKind.CHARGED_BACK, (CreditSource.DISPUTE, dispute.id),
            first=payment.id,
        )  # fmt: skip
        await disputed.note_dispute(uow, payment.id, charged_back=more)
        changes = {part.invoice_id: DisputeChange(charged_back=part.amount_minor) for part in parts.invoices}
        await apply_disputes(uow, changes)
        await case.tell("dispute_updated", Severity.WARNING)


async def _unlose(case: _Case) -> _Case:
    """A lost dispute is open again, on appeal: what was charged back counts as received until it is decided anew.

    What an invoice does not owe any more, because it was paid otherwise since, stays charged back of it, and is the client's credit.
    """
    uow, dispute = case.uow, case.dispute
    held = await store.allocations(uow, dispute.id)
    returned = settle_again(dispute, held, {each.id: each.open_amount for each in case.payment.invoices.values()})
    kept = sum(part.amount_minor for part in held) - sum(part.amount_minor for part in returned.invoices)
    reopened = replace(dispute, state=DisputeState.UNDER_REVIEW, charged_back_minor=kept, credit_minor=0, loss_minor=0)
    version = await store.update(uow, reopened)
    undone = replace(dispute, credit_minor=returned.credit_minor)
    await post(uow, [ledger_rules.unlost(undone, _owed_again(case, returned), _recovered(case, returned), version)])
    await credit.add(uow, [NewCredit(
        dispute.client_id, dispute.currency_code, CreditKind.DISPUTE_ADJUSTMENT, returned.credit_minor, CreditSource.DISPUTE, dispute.id
    )])  # fmt: skip
    await store.allocate(uow, dispute, merged(held, returned.invoices, sign=-1))
    await disputed.note_dispute(uow, case.payment.id, opened=1, charged_back=kept - dispute.charged_back_minor)
    await apply_disputes(uow, _changes(case, returned.invoices, opened=1, lost=-1, sign=-1))
    await disputed.stop_collection(uow, list(case.payment.invoices.values()))
    return _Case(uow, reopened, await disputed.lock_payment(uow, case.payment.id))


def _changes(
    case: _Case, parts: tuple[Settled, ...], *, opened: int, lost: int, sign: int = 1
) -> dict[UUID, DisputeChange]:
    amounts = {part.invoice_id: part.amount_minor * sign for part in parts}
    return {invoice_id: DisputeChange(opened, lost, amounts.get(invoice_id, 0)) for invoice_id in case.payment.invoices}


def _owed_again(case: _Case, parts: Spread) -> int:
    return sum(
        part.amount_minor for part in parts.invoices if case.payment.invoices[part.invoice_id].write_off_time is None
    )


def _recovered(case: _Case, parts: Spread) -> int:
    return sum(part.amount_minor for part in parts.invoices) - _owed_again(case, parts)
