"""`apply_refund_outcome`: the one way in which anything learned about a refund changes the books, forward-only.

The reply of the call, a repeat, a look-up, a notification, the reconciler: all come through here. In one transaction: refund, payment,
invoices, credit notes, ledger, journal, next step.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from dunwell_server.billing.model.credit import CreditKind, CreditSource, CreditUseKind, NewCredit
from dunwell_server.billing.service import credit
from dunwell_server.billing.service.collection import lock_invoices
from dunwell_server.billing.service.credit_notes import apply_refund, issue_notes, pay_out
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.ledger import rules
from dunwell_server.ledger.service import post
from dunwell_server.payments import ladder, retries
from dunwell_server.payments.events import RefundGivenUp
from dunwell_server.payments.evidence import NotSent, Pending, Succeeded, Unknown
from dunwell_server.payments.model import Source
from dunwell_server.payments.refunds import (
    Destination,
    Failed,
    Refund,
    RefundClaim,
    RefundEvidence,
    RefundState,
    SendState,
    Standing,
    Step,
    judge_refund,
    spread,
)
from dunwell_server.payments.service import reactions
from dunwell_server.payments.store import refunds as store
from dunwell_server.payments.store import scheduling
from dunwell_server.payments.store.refunds import LoadedPayment
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.failpoints import failpoint
from dunwell_server.platform.journal import Category, Change, Severity, record
from dunwell_server.platform.provider_references import remember
from dunwell_server.platform.work import WorkKind, wake

MANUAL_PROVIDER = "manual"


@dataclass(frozen=True, slots=True)
class RefundApplied:
    """What evidence led to."""

    refund_id: UUID
    payment_id: UUID
    state: RefundState
    changed: bool


@dataclass(frozen=True, slots=True)
class _Case:
    """One refund under judgement: everything locked and fresh."""

    uow: UnitOfWork
    refund: Refund
    loaded: LoadedPayment
    source: Source
    holds_fence: bool

    @property
    def released(self) -> int:
        """What is no longer kept back of the payment, once the refund has ended."""
        return self.refund.amount_minor if self.refund.state.reserves else 0

    async def settle(self, **changes: Any) -> None:
        """Write what follows; whoever asked because a check was due has checked."""
        await store.settle(self.uow, self.refund, checked=int(self.source is not Source.ANSWER), **changes)

    async def tell(self, action: str, event: str, severity: Severity = Severity.INFO, **more: Any) -> None:
        await tell_refund(self.uow, self.refund, action, event, severity, source=self.source.value, **more)


async def apply_refund_outcome(
    uow: UnitOfWork, refund_id: UUID, evidence: RefundEvidence, source: Source, claim: RefundClaim | None = None
) -> RefundApplied:
    """Apply what was learned about a refund; evidence that adds nothing changes nothing. RESOURCE_NOT_FOUND for no refund of the firm."""
    found = await store.get(uow, refund_id)
    if found is None:
        resource = ("Refund", encode(Prefix.REFUND, refund_id))
        raise DunwellError(Reason.RESOURCE_NOT_FOUND, "No such refund.", resource=resource)
    loaded = await lock_all(uow, found.payment_id)
    refund = await store.get(uow, refund_id, lock=True)
    assert refund is not None
    money = (refund.amount_minor, refund.currency_code)
    if isinstance(evidence, Succeeded) and (evidence.amount_minor, evidence.currency_code) != money:
        evidence = Unknown("the provider speaks of other money than was asked for")
    holds_fence = claim is not None and (refund.fence, refund.owner) == (claim.fence, claim.owner)
    case = _Case(uow, refund, loaded, source, holds_fence)
    refused = refund.state is RefundState.FAILED and refund.provider_reference is None
    standing = Standing(refund.state, refund.send_state, refused, refund.failed_after_success)
    step = judge_refund(standing, evidence, source, holds_fence=holds_fence)
    if step in (Step.SUCCEED, Step.SUCCEED_AND_COME_BACK) and not loaded.left.fits(
        refund.amount_minor, reserved=refund.state.reserves
    ):
        step = Step.NOTHING  # Stale: what it gave free has been refunded otherwise since.
    state = await _take(case, step, evidence)
    reference = getattr(evidence, "reference", None)
    if step is not Step.NOTHING and reference is not None:
        await remember(uow, refund.account_id, reference)
    failpoint("refund.record")
    return RefundApplied(refund.id, refund.payment_id, state, step is not Step.NOTHING)


async def _take(case: _Case, step: Step, evidence: RefundEvidence) -> RefundState:
    match evidence:
        case Succeeded() if step is Step.SUCCEED:
            await _succeeded(case, evidence.reference, came_back=False)
            return RefundState.SUCCEEDED
        case Succeeded() if step is Step.SUCCEED_AND_COME_BACK:
            await _succeeded(case, evidence.reference, came_back=True)
            return RefundState.FAILED
        case Failed() if step is Step.COME_BACK:
            await _came_back(case, evidence)
            return RefundState.FAILED
        case Failed() if step is Step.FAIL:
            await fail(case.uow, case.refund, evidence, case.source)
            return RefundState.FAILED
        case Pending() if step is Step.PEND:
            await _pending(case, evidence)
            return RefundState.PENDING
        case NotSent() if step is Step.UNSENT:
            await _not_sent(case, evidence)
        case Unknown() if step is Step.UNKNOWN:
            await _unknown(case, evidence)
        case _:
            await _inconclusive(case, evidence)
    return case.refund.state


async def _succeeded(case: _Case, reference: str | None, *, came_back: bool) -> None:
    """The money is on its way: take it from the payment's credit and invoices. `came_back`: and it is here again already."""
    uow, refund, now = case.uow, case.refund, case.uow.now
    taken = spread(refund.amount_minor, case.loaded.left, refund.destination)
    refunded = await apply_refund(uow, refund.id, taken.parts, reopen=refund.reopen_invoice, reason=refund.reason)
    state = RefundState.FAILED if came_back else RefundState.SUCCEEDED
    await case.settle(
        state=state.value, send_state=SendState.ANSWERED.value, reference=reference, from_credit=taken.from_credit,
        from_payable=sum(taken.promises.values()),
        uncovered=taken.uncovered, refunded=refund.amount_minor, released=case.released, succeed_time=now, finish_time=now,
        came_back=came_back, failure_code=refund.failure_code if came_back else None, needs_person=False,
    )  # fmt: skip
    notes = [each.note for each in refunded if each.note is not None]
    await post(uow, [rules.refunded(
        refund.id, refund.client_id, refund.currency_code, payable=sum(note.amount_minor for note in notes) + sum(taken.promises.values()),
        reopened=sum(each.reopened for each in refunded), given_up=sum(each.given_up for each in refunded) + taken.uncovered,
        from_credit=taken.from_credit, kept=refund.destination is Destination.CREDIT,
        provider=MANUAL_PROVIDER if refund.destination is Destination.MANUAL else refund.provider,
    )])  # fmt: skip
    await credit.take(
        uow, refund.client_id, refund.currency_code, taken.from_credit, CreditUseKind.REFUNDED, (CreditSource.REFUND, refund.id),
        first=refund.payment_id, only=True,
    )  # fmt: skip
    if refund.destination is Destination.CREDIT:
        await _keep(case)
    await pay_out(uow, refund.id, taken.promises)
    if refund.reopen_invoice:
        # Nobody is charged again for what was just sent back: the invoice leaves autopay, until it is enrolled by name.
        await reactions.stop(
            uow, [each.invoice for each in refunded], "the invoice was reopened by a refund", autopay_enabled=False
        )
    parts = {encode(Prefix.INVOICE, invoice_id): amount for invoice_id, amount in taken.parts.items()}
    await case.tell(
        "refund_succeeded", "refund.succeeded", Severity.CRITICAL if taken.uncovered else Severity.INFO, provider_reference=reference,
        from_credit_minor=taken.from_credit, from_payable_minor=sum(taken.promises.values()), uncovered_minor=taken.uncovered, allocations=parts, reopen_invoice=refund.reopen_invoice,
    )  # fmt: skip
    if came_back:
        await _post_return(case, refund.failure_code)
    await issue_notes(uow, notes)
    await store.allocate(uow, refund, taken.parts, {note.invoice_id: note.id for note in notes})


async def _came_back(case: _Case, evidence: Failed) -> None:
    """The invoice stays as the refund has left it; the money that is here again is the client's credit."""
    await case.settle(
        state=RefundState.FAILED.value, came_back=True, failure_code=evidence.code, reference=evidence.reference,
        finish_time=case.uow.now, needs_person=False,
    )  # fmt: skip
    await _post_return(case, evidence.code)


async def _post_return(case: _Case, code: str | None) -> None:
    refund = case.refund
    await post(case.uow, [rules.refund_came_back(
        refund.id, refund.client_id, refund.currency_code, refund.provider, refund.amount_minor
    )])  # fmt: skip
    await _keep(case)
    await case.tell("refund_failed", "refund.failed", Severity.WARNING, failure_code=code, failed_after_success=True)


async def _keep(case: _Case) -> None:
    """The refund's money stays with the firm as the client's credit."""
    refund = case.refund
    await credit.add(case.uow, [NewCredit(
        refund.client_id, refund.currency_code, CreditKind.REFUND_TO_CREDIT, refund.amount_minor, CreditSource.REFUND, refund.id
    )])  # fmt: skip


async def fail(uow: UnitOfWork, refund: Refund, evidence: Failed, source: Source) -> None:
    """End a locked refund that has not happened: what it kept back of the (locked) payment is free again, nothing else changes."""
    await store.settle(
        uow, refund, state=RefundState.FAILED.value, send_state=SendState.ANSWERED.value, reference=evidence.reference,
        failure_code=evidence.code, released=refund.amount_minor if refund.state.reserves else 0, finish_time=uow.now, needs_person=False,
        checked=int(source is not Source.ANSWER),
    )  # fmt: skip
    await tell_refund(
        uow, refund, "refund_failed", "refund.failed", Severity.WARNING, failure_code=evidence.code,
        failed_after_success=False, source=source.value,
    )  # fmt: skip
    if refund.state.reserves:
        await uow.publish(RefundGivenUp(refund.payment_id))


async def give_way(uow: UnitOfWork, payment_id: UUID, needed_minor: int, note: str, *, code: str | None = None) -> None:
    """Free `needed_minor` of a (locked) payment, for money that has left it otherwise: refunds that wait for a person end, the newest first,
    for what they ask for would go back a second time; with `code`, why they fail, also those about to be sent. What is with the provider stays.
    """
    for refund in await store.unsent(uow, payment_id):
        if needed_minor <= 0:
            return
        if refund.state is RefundState.AWAITING_APPROVAL:
            await store.reject(uow, refund)
            await tell_refund(uow, refund, "refund_rejected", "refund.rejected", Severity.WARNING, note=note)
        elif code is not None:
            await fail(uow, refund, Failed(code), Source.EVENT)
        else:
            continue
        needed_minor -= refund.amount_minor


async def _pending(case: _Case, evidence: Pending) -> None:
    due = ladder.next_poll(case.refund.send_time or case.uow.now, case.uow.now)
    await case.settle(
        state=RefundState.PENDING.value, send_state=SendState.ANSWERED.value, reference=evidence.reference, next_check_time=due,
        needs_person=False,
    )  # fmt: skip
    await wake(case.uow, WorkKind.REFUNDS, due)
    await case.tell("refund_pending", "refund.pending", provider_reference=evidence.reference)


async def _not_sent(case: _Case, evidence: NotSent) -> None:
    """Proven not to have happened: the same key goes again, ever more rarely, until the provider can be reached."""
    refund, now = case.refund, case.uow.now
    waits = retries.unsent_backoff(refund.id, max(refund.send_count, 1), evidence.retry_after)
    due = now + waits if case.source is Source.ANSWER else now
    await case.settle(
        send_state=SendState.NOT_SENT.value,
        next_check_time=due,
        evidence={"not_sent": evidence.reason},
        needs_person=False,
    )
    await wake(case.uow, WorkKind.REFUNDS, due)


async def _unknown(case: _Case, evidence: Unknown) -> None:
    refund, now = case.refund, case.uow.now
    since = refund.unknown_time or now
    due = now if case.source is Source.CRASH else ladder.next_check(since, now)
    asks = due is None or ladder.needs_person(since, now)
    await case.settle(
        send_state=SendState.UNKNOWN.value, unknown_time=now, next_check_time=due, evidence={"unknown": evidence.reason},
        needs_person=asks,
    )  # fmt: skip
    if due is not None:
        await wake(case.uow, WorkKind.REFUNDS, due)
    await case.tell("refund_unknown", "refund.unknown", Severity.WARNING, why=evidence.reason)
    if asks:
        await _ask_person(case)


async def _inconclusive(case: _Case, evidence: RefundEvidence) -> None:
    """Nothing was learned. Whoever was asked to check plans the next check; others leave the refund alone."""
    refund, now = case.refund, case.uow.now
    if not case.holds_fence:
        return
    due: datetime | None
    person = refund.needs_person
    if refund.state is RefundState.PENDING:
        sent = refund.send_time or now
        due = ladder.next_poll(sent, now)
        person = person or ladder.waits_too_long(sent, now)
    elif refund.state is RefundState.PROCESSING and refund.send_state is SendState.UNKNOWN:
        since = refund.unknown_time or now
        due = ladder.next_check(since, now)
        person = person or due is None or ladder.needs_person(since, now)
    else:
        return
    reason = evidence.reason if isinstance(evidence, Unknown | NotSent) else type(evidence).__name__
    await case.settle(next_check_time=due, needs_person=person, evidence={"unknown": reason})
    if due is not None:
        await wake(case.uow, WorkKind.REFUNDS, due)
    if person and not refund.needs_person:
        await _ask_person(case)


async def _ask_person(case: _Case) -> None:
    """Tell the firm's people that a refund's outcome has been open for too long."""
    await case.tell("refund_needs_person", "admin.notice", Severity.CRITICAL, notice="refund_needs_person")


async def lock_all(uow: UnitOfWork, payment_id: UUID) -> LoadedPayment:
    """Lock the client, the invoices that the payment settled, and the payment. Errors: RESOURCE_NOT_FOUND."""
    where = await store.whereabouts(uow, payment_id)
    if where is None:
        raise DunwellError(
            Reason.RESOURCE_NOT_FOUND, "No such payment.", resource=("Payment", encode(Prefix.PAYMENT, payment_id))
        )
    if where.invoices:
        await lock_invoices(uow, where.invoices)
    else:
        await scheduling.lock_client(uow, where.client_id)
    return await store.load_payment(uow, payment_id)


async def tell_refund(
    uow: UnitOfWork, refund: Refund, action: str, event: str, severity: Severity = Severity.INFO, **more: Any
) -> None:
    """Journal something about a refund."""
    metadata = {
        "refund_id": encode(Prefix.REFUND, refund.id), "payment_id": encode(Prefix.PAYMENT, refund.payment_id),
        "client_id": encode(Prefix.CLIENT, refund.client_id), "amount_minor": refund.amount_minor, "currency_code": refund.currency_code,
        "destination": refund.destination.value, "provider": refund.provider, "reason": refund.reason, **more,
    }  # fmt: skip
    await record(uow, Change(Category.PAYMENT, action, "refund", refund.id, event, severity, metadata))
