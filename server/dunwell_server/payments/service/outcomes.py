"""`apply_outcome`: the one way in which anything learned about an attempt changes the books, forward-only.

The reply of the call, a repeat, a look-up, a notification, a person: all come through here. In one transaction: attempt, payment, hold,
allocation, invoice, ledger, journal, next step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from dunwell_server.billing.model import AutopayStatus, Invoice
from dunwell_server.billing.service.collection import apply_money, lock_invoices, set_collection
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.ledger import rules
from dunwell_server.ledger.service import post
from dunwell_server.payments import ladder, retries
from dunwell_server.payments.choosing import next_backup
from dunwell_server.payments.evidence import (
    ActionRequired,
    Declined,
    Evidence,
    NotSent,
    Pending,
    Succeeded,
    Unknown,
    judge,
)
from dunwell_server.payments.model import (
    AttemptState,
    Claim,
    DeclineClass,
    Failure,
    FailureCode,
    MethodState,
    PaymentKind,
    PaymentMethod,
    PaymentState,
    Source,
    late_payment_id,
)  # fmt: skip
from dunwell_server.payments.service import slots
from dunwell_server.payments.store import attempts, methods, payments
from dunwell_server.payments.store.attempts import Loaded
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.failpoints import failpoint
from dunwell_server.platform.journal import Category, Change, Severity, record
from dunwell_server.platform.work import WorkKind, wake

ACTION_LIFE = timedelta(hours=24)
"""How long a client may act where the provider sets no limit."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What evidence led to. `follow_up` is an attempt that the bearer is to send at once: a backup method."""

    attempt_id: UUID
    payment_id: UUID
    state: AttemptState
    changed: bool
    follow_up: Claim | None = None


@dataclass(frozen=True, slots=True)
class _Case:
    """One attempt under judgement: everything locked and fresh."""

    uow: UnitOfWork
    loaded: Loaded
    invoice: Invoice
    claim: Claim | None
    source: Source

    @property
    def metadata(self) -> dict[str, Any]:
        """What the journal tells of it."""
        payment, attempt = self.loaded.payment, self.loaded.attempt
        return {
            "client_id": encode(Prefix.CLIENT, payment.client_id),
            "invoice_id": encode(Prefix.INVOICE, self.invoice.id),
            "amount_minor": payment.amount_minor,
            "currency_code": payment.currency_code,
            "kind": payment.kind.value,
            "provider": attempt.provider,
            "attempt_id": encode(Prefix.ATTEMPT, attempt.id),
            "attempt_no": attempt.attempt_no,
            "source": self.source.value,
        }

    async def tell(self, action: str, event: str, severity: Severity = Severity.INFO, **more: Any) -> None:
        """Journal something about the payment."""
        change = Change(
            Category.PAYMENT, action, "payment", self.loaded.payment.id, event, severity, {**self.metadata, **more}
        )
        await record(self.uow, change)


async def apply_outcome(
    uow: UnitOfWork, attempt_id: UUID, outcome: Evidence, source: Source, claim: Claim | None = None
) -> Applied:
    """Apply what was learned about an attempt; evidence that adds nothing changes nothing.

    `claim` is what the bearer holds: it decides whether its own failure to send counts, and who sends a backup. RESOURCE_NOT_FOUND for an
    attempt that the firm does not have.
    """
    invoice_id = claim.invoice_id if claim is not None else await _invoice_of(uow, attempt_id)
    assert invoice_id is not None
    [invoice] = await lock_invoices(uow, [invoice_id])
    loaded = await attempts.load(uow, attempt_id)
    case = _Case(uow, loaded, invoice, claim, source)
    attempt = loaded.attempt
    if isinstance(outcome, Succeeded) and not _fits(loaded, outcome):
        outcome = Unknown("the provider speaks of other money than was asked for")
    holds_fence = claim is not None and attempt.fence == claim.fence and attempt.owner == claim.owner
    verdict = judge(attempt.state, outcome, source, holds_fence=holds_fence, other_success=loaded.other_success)
    if verdict.late_landing:
        assert isinstance(outcome, Succeeded)
        return await _late_landing(case, outcome, verdict.state)
    if verdict.state is None:
        return await _inconclusive(case, outcome, holds_fence=holds_fence)
    follow_up = await _settle(case, outcome)
    failpoint("resolver.record" if source in (Source.REPLAY, Source.LOOKUP) else "attempt.record")
    return Applied(attempt_id, loaded.payment.id, verdict.state, True, follow_up)


async def _invoice_of(uow: UnitOfWork, attempt_id: UUID) -> UUID | None:
    where = await attempts.whereabouts(uow, attempt_id)
    if where is None:
        resource = ("PaymentAttempt", encode(Prefix.ATTEMPT, attempt_id))
        raise DunwellError(Reason.RESOURCE_NOT_FOUND, "No such attempt.", resource=resource)
    invoice_id: UUID | None = where["invoice_id"]
    return invoice_id


def _fits(loaded: Loaded, outcome: Succeeded) -> bool:
    payment = loaded.payment
    return (outcome.amount_minor, outcome.currency_code) == (payment.amount_minor, payment.currency_code)


async def _settle(case: _Case, outcome: Evidence) -> Claim | None:
    match outcome:
        case Succeeded():
            await _succeeded(case, outcome)
        case Declined():
            return await _declined(case, outcome)
        case Pending():
            await _pending(case, outcome)
        case ActionRequired():
            await _action_required(case, outcome)
        case NotSent():
            await _not_sent(case, outcome)
        case Unknown():
            await _unknown(case, outcome)
    return None


async def _succeeded(case: _Case, outcome: Succeeded) -> None:
    """The money is in: settle what is owed, keep the excess as the client's credit."""
    uow, loaded, invoice = case.uow, case.loaded, case.invoice
    payment, method = loaded.payment, loaded.method
    allocated = min(payment.amount_minor, invoice.open_amount)
    settled = recovered = 0
    if allocated:
        [applied] = await apply_money(uow, {invoice.id: allocated})
        settled, recovered = applied.settled, applied.recovered
    credited = payment.amount_minor - allocated
    await attempts.settle(
        uow, loaded, state=AttemptState.SUCCEEDED.value, reference=outcome.reference, payment_state=PaymentState.SUCCEEDED.value,
        captured=payment.amount_minor, allocated=allocated, credited=credited, allocate=allocated > 0, payment_failure_code=None,
        payment_provider_code=None, payment_message=None, finish_time=uow.now, attempt_finish_time=uow.now, release=True,
        needs_person=False, checked=int(case.source is not Source.ANSWER), success_time=uow.now,
        method_state=MethodState.ACTIVE.value if method.state is MethodState.NEEDS_ACTION else None,
    )  # fmt: skip
    await post(uow, [rules.payment_received(
        payment.id, payment.client_id, payment.currency_code, loaded.attempt.provider, settled=settled, recovered=recovered, credited=credited,
    )])  # fmt: skip
    if payment.kind is PaymentKind.AUTOPAY and invoice.collection.collection_cycle == payment.cycle:
        columns: dict[str, Any] = {
            "autopay_status": AutopayStatus.SUCCEEDED,
            "autopay_next_charge_time": None,
            "retry_pending": False,
        }
        if invoice.open_amount > allocated and invoice.collection.autopay_enabled and loaded.client_enabled:
            columns |= {"autopay_status": AutopayStatus.SCHEDULED, "autopay_next_charge_time": uow.now}
        await set_collection(uow, {invoice.id: columns})
        await slots.wake_for(uow, columns)
    await case.tell("payment_succeeded", "payment.succeeded", allocated_minor=allocated, credited_minor=credited)


async def _late_landing(case: _Case, outcome: Succeeded, state: AttemptState | None) -> Applied:
    """A further success of a payment: money of its own, kept as the client's credit."""
    uow, loaded = case.uow, case.loaded
    attempt, payment = loaded.attempt, loaded.payment
    late_id = late_payment_id(uow.firm_id, attempt.id)
    if await payments.get(uow, late_id) is not None:
        return Applied(attempt.id, payment.id, attempt.state, False)
    received = payments.Received(
        late_id, payment.client_id, PaymentKind.LATE_LANDING.value, payment.currency_code, payment.amount_minor, payment.amount_minor, (),
        attempt.provider, attempt.account_id, payment.mode, attempt.method_id, late_attempt_id=attempt.id,
    )  # fmt: skip
    await payments.insert_received(uow, received)
    state = state or attempt.state
    await attempts.settle(
        uow, loaded, state=state.value, reference=outcome.reference, attempt_finish_time=uow.now, needs_person=False, touch_payment=False,
        message="landed after another success of the payment", success_time=uow.now,
    )  # fmt: skip
    await post(uow, [rules.payment_received(
        late_id, payment.client_id, payment.currency_code, attempt.provider, settled=0, recovered=0, credited=payment.amount_minor,
    )])  # fmt: skip
    metadata = {**case.metadata, "kind": PaymentKind.LATE_LANDING.value, "credited_minor": payment.amount_minor}
    await record(uow, Change(
        Category.PAYMENT, "payment_landed_late", "payment", late_id, "payment.succeeded", Severity.WARNING, metadata,
    ))  # fmt: skip
    failpoint("attempt.record")
    return Applied(attempt.id, payment.id, state, True)


async def _declined(case: _Case, outcome: Declined) -> Claim | None:
    """The provider said no: the class of the decline decides what follows."""
    uow, loaded, failure = case.uow, case.loaded, outcome.failure
    payment = loaded.payment
    decline_class = failure.decline_class or DeclineClass.SOFT
    goes_on = slots.still_collected(case.invoice, client_enabled=loaded.client_enabled, cycle=payment.cycle)
    goes_on = goes_on and case.invoice.open_amount == payment.amount_minor and not loaded.other_success
    backup = await _backup(case) if decline_class is DeclineClass.HARD and goes_on else None
    technical = loaded.technical_declines + (decline_class is DeclineClass.TECHNICAL)
    following = retries.after_decline(payment.kind, decline_class, technical, has_backup=backup is not None)
    changes = _decline_changes(case, outcome, decline_class)
    if following is retries.Next.BACKUP and backup is not None:
        await attempts.settle(uow, loaded, **changes, payment_state=PaymentState.PROCESSING.value, method_id=backup.id)
        await _tell_attempt_failed(case, failure)
        return await _next_attempt(case, backup, due_in=None)
    if following is retries.Next.REPEAT and goes_on:
        await attempts.settle(uow, loaded, **changes, payment_state=PaymentState.PROCESSING.value)
        await _tell_attempt_failed(case, failure)
        return await _next_attempt(case, loaded.method, due_in=retries.technical_backoff(loaded.attempt.id, technical))
    if payment.state.is_final:
        await attempts.settle(uow, loaded, **changes, touch_payment=False)
        return None
    await _payment_failed(case, failure, changes)
    return None


def _decline_changes(case: _Case, outcome: Declined, decline_class: DeclineClass) -> dict[str, Any]:
    failure, now = outcome.failure, case.uow.now
    method_state = {DeclineClass.HARD: MethodState.DEAD, DeclineClass.CUSTOMER: MethodState.NEEDS_ACTION}.get(
        decline_class
    )
    return {
        "state": AttemptState.DECLINED.value, "reference": outcome.reference, "failure_code": failure.code.value,
        "provider_code": failure.provider_code, "network_code": failure.network_code, "advice_code": failure.advice_code,
        "decline_class": decline_class.value, "message": failure.message, "attempt_finish_time": now, "needs_person": False,
        "failure_time": now, "method_state": method_state.value if method_state else None, "block_code": failure.code.value,
        "checked": int(case.source is not Source.ANSWER),
    }  # fmt: skip


async def _backup(case: _Case) -> PaymentMethod | None:
    loaded = case.loaded
    client_id = loaded.payment.client_id
    attached = (await methods.of_clients(case.uow, [client_id]))[client_id]
    return next_backup(attached, loaded.default_method_id, loaded.tried_methods)


async def _next_attempt(case: _Case, method: PaymentMethod, *, due_in: timedelta | None) -> Claim | None:
    """Open the payment's next attempt: sent by the bearer at once, or left to the workers at its time."""
    uow, payment = case.uow, case.loaded.payment
    owner = case.claim.owner if case.claim is not None and due_in is None else None
    due = None if owner else uow.now + (due_in or timedelta())
    attempt_id = await attempts.add(uow, payment, case.loaded.attempt.attempt_no + 1, method, owner=owner, due=due)
    if owner is None:
        await wake(uow, WorkKind.ATTEMPTS, due)
        return None
    return Claim(
        attempt_id, payment.id, case.invoice.id, payment.client_id, method.account_id, AttemptState.CREATED, 1, owner
    )


async def _tell_attempt_failed(case: _Case, failure: Failure) -> None:
    """A refusal that does not end the payment is told, without an event of its own failing."""
    await case.tell(
        "payment_attempt_failed", "payment.attempt_failed", Severity.WARNING, failure_code=failure.code.value,
        provider_code=failure.provider_code, decline_class=failure.decline_class.value if failure.decline_class else None,
    )  # fmt: skip


async def _payment_failed(case: _Case, failure: Failure, changes: dict[str, Any]) -> None:
    """End the payment as FAILED, release the invoice, and move the schedule where the payment was one of its slots."""
    uow, loaded, invoice = case.uow, case.loaded, case.invoice
    payment = loaded.payment
    await attempts.settle(
        uow, loaded, **changes, payment_state=PaymentState.FAILED.value, payment_failure_code=failure.code.value,
        payment_provider_code=failure.provider_code, payment_message=failure.message, finish_time=uow.now, release=True,
    )  # fmt: skip
    columns: dict[str, Any] = {}
    if payment.kind is PaymentKind.AUTOPAY and invoice.collection.collection_cycle == payment.cycle:
        slot = payment.slot or 0
        if (
            slots.still_collected(invoice, client_enabled=loaded.client_enabled, cycle=payment.cycle)
            and not loaded.other_success
        ):
            columns = slots.failed(uow, slot, failure)
        else:
            columns = slots.recorded(uow.now, slot, failure)
            if invoice.collection.autopay_status == AutopayStatus.PROCESSING:
                columns |= slots.ended()
        await set_collection(uow, {invoice.id: columns})
        await slots.wake_for(uow, columns)
    else:
        await wake_if_due(uow, invoice)
    await record(uow, *slots.told(invoice.id, invoice.client_id, payment.id, payment.slot, failure, columns))


async def wake_if_due(uow: UnitOfWork, invoice: Invoice) -> None:
    """A hold has been released: collect what fell due meanwhile."""
    due = invoice.collection.autopay_next_charge_time
    if due is not None and due <= uow.now:
        await wake(uow, WorkKind.COLLECT)


async def _pending(case: _Case, outcome: Pending) -> None:
    uow, loaded = case.uow, case.loaded
    attempt = loaded.attempt
    due = ladder.next_poll(attempt.send_time or uow.now, uow.now)
    repeated = attempt.state is AttemptState.PENDING
    await attempts.settle(
        uow, loaded, state=AttemptState.PENDING.value, reference=outcome.reference, next_check_time=due,
        payment_state=PaymentState.PROCESSING.value, needs_person=False, checked=int(repeated), touch_payment=not repeated,
    )  # fmt: skip
    await wake(uow, WorkKind.ATTEMPTS, due)
    if not repeated:
        await case.tell("payment_pending", "payment.pending")


async def _action_required(case: _Case, outcome: ActionRequired) -> None:
    uow, loaded = case.uow, case.loaded
    attempt = loaded.attempt
    expires = outcome.expire_time or attempt.action_expire_time or uow.now + ACTION_LIFE
    due = min(ladder.next_poll(attempt.send_time or uow.now, uow.now), max(expires, uow.now + timedelta(seconds=5)))
    repeated = attempt.state is AttemptState.REQUIRES_ACTION
    await attempts.settle(
        uow, loaded, state=AttemptState.REQUIRES_ACTION.value, reference=outcome.reference, action_url=outcome.url or attempt.action_url,
        action_expire_time=expires, next_check_time=due, payment_state=PaymentState.REQUIRES_ACTION.value, needs_person=False,
        checked=int(repeated), touch_payment=not repeated,
    )  # fmt: skip
    await wake(uow, WorkKind.ATTEMPTS, due)
    if not repeated:
        await case.tell("payment_action_required", "payment.requires_action", expire_time=expires.isoformat())


async def _not_sent(case: _Case, outcome: NotSent) -> None:
    """Proven not to have happened: the same attempt and key go again; an explicit request is given up after a few tries."""
    uow, loaded = case.uow, case.loaded
    attempt, payment = loaded.attempt, loaded.payment
    evidence = {"not_sent": outcome.reason}
    if payment.kind is PaymentKind.CHARGE and attempt.send_count >= retries.UNSENT_TRIES_OF_A_REQUEST:
        failure = Failure(FailureCode.NETWORK_ERROR, message="The payment provider could not be reached.")
        await _payment_failed(case, failure, {
            "state": AttemptState.CLOSED.value, "failure_code": failure.code.value, "message": failure.message, "evidence": evidence,
            "attempt_finish_time": uow.now, "needs_person": False,
        })  # fmt: skip
        return
    waits = retries.unsent_backoff(attempt.id, attempt.send_count, outcome.retry_after)
    due = uow.now if case.source is not Source.ANSWER else uow.now + waits
    await attempts.settle(
        uow, loaded, state=AttemptState.NOT_SENT.value, next_check_time=due, evidence=evidence, needs_person=False,
        checked=int(case.source is not Source.ANSWER),
    )  # fmt: skip
    await wake(uow, WorkKind.ATTEMPTS, due)


async def _unknown(case: _Case, outcome: Unknown) -> None:
    """Nothing else may start for the invoice until it is known; the ladder asks."""
    uow, loaded = case.uow, case.loaded
    since = loaded.attempt.unknown_time or uow.now
    due = uow.now if case.source is Source.CRASH else ladder.next_check(since, uow.now)
    # Unknown again after it was proven unsent and sent again: counted from the first time, so that no circle goes on unseen.
    asks = due is None or ladder.needs_person(since, uow.now)
    await attempts.settle(
        uow, loaded, state=AttemptState.UNKNOWN.value, unknown_time=uow.now, next_check_time=due, evidence={"unknown": outcome.reason},
        needs_person=asks,
    )  # fmt: skip
    await wake(uow, WorkKind.ATTEMPTS, due)
    await case.tell("payment_unknown", "payment.unknown", Severity.WARNING, why=outcome.reason)
    if asks:
        await _ask_person(case)


async def _inconclusive(case: _Case, outcome: Evidence, *, holds_fence: bool) -> Applied:
    """Nothing was learned. Whoever was asked to check plans the next check; others leave the attempt alone."""
    uow, attempt = case.uow, case.loaded.attempt
    unchanged = Applied(attempt.id, case.loaded.payment.id, attempt.state, False)
    if not holds_fence or not attempt.state.is_open:
        return unchanged
    person, due = attempt.needs_person, None
    if attempt.state is AttemptState.UNKNOWN:
        since = attempt.unknown_time or uow.now
        due = ladder.next_check(since, uow.now)
        person = person or ladder.needs_person(since, uow.now)
    elif attempt.state in (AttemptState.PENDING, AttemptState.REQUIRES_ACTION):
        due = ladder.next_poll(attempt.send_time or uow.now, uow.now)
    else:
        return unchanged
    reason = outcome.reason if isinstance(outcome, Unknown | NotSent) else type(outcome).__name__
    asks = person and not attempt.needs_person
    await attempts.settle(
        uow, case.loaded, next_check_time=due, needs_person=person, checked=1, evidence={"unknown": reason}, touch_payment=asks,
        unknown_time=attempt.unknown_time, action_url=attempt.action_url, action_expire_time=attempt.action_expire_time,
    )  # fmt: skip
    if due is not None:
        await wake(uow, WorkKind.ATTEMPTS, due)
    if asks:
        await _ask_person(case)
    failpoint("resolver.record")
    return replace(unchanged, changed=asks)


async def _ask_person(case: _Case) -> None:
    """Tell the firm's people that an outcome has been unknown for too long."""
    metadata = {"notice": "attempt_needs_person", **case.metadata}
    await record(case.uow, Change(
        Category.PAYMENT, "attempt_needs_person", "payment", case.loaded.payment.id, "admin.notice", Severity.CRITICAL, metadata,
    ))  # fmt: skip
