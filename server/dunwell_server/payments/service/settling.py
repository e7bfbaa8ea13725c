"""What evidence does once it is accepted: attempt, payment, hold, allocations, invoices, ledger, journal, next step. `outcomes` decides, this writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from dunwell_server.billing.model import AutopayStatus, Invoice
from dunwell_server.billing.model.credit import NewCredit
from dunwell_server.billing.service import credit
from dunwell_server.billing.service.collection import AppliedMoney, apply_money, lock_invoices, set_collection
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.ledger import rules
from dunwell_server.ledger.model import Posting
from dunwell_server.ledger.service import post
from dunwell_server.payments import ladder, retries
from dunwell_server.payments.choosing import next_backup
from dunwell_server.payments.evidence import ActionRequired, Declined, Evidence, NotSent, Pending, Succeeded, Unknown
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
)
from dunwell_server.payments.reading import ends_page
from dunwell_server.payments.service import sessions, slots
from dunwell_server.payments.store import asking, attempts, methods, scheduling
from dunwell_server.payments.store.attempts import Loaded, Success
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Category, Change, Severity, record
from dunwell_server.platform.provider_references import remember
from dunwell_server.platform.work import WorkKind, wake

ACTION_LIFE = timedelta(hours=24)
"""How long a client may act where the provider sets no limit."""


@dataclass(frozen=True, slots=True)
class Case:
    """One attempt under judgement: everything locked and fresh. `invoices`: what its money settles, in this order; none: it becomes credit."""

    uow: UnitOfWork
    loaded: Loaded
    invoices: Sequence[Invoice]
    claim: Claim | None
    source: Source

    @property
    def collected(self) -> Invoice | None:
        """The invoice of whose automatic collection the payment is a slot."""
        payment = self.loaded.payment
        if payment.kind is not PaymentKind.AUTOPAY:
            return None
        [invoice] = self.invoices
        return invoice if invoice.collection.collection_cycle == payment.cycle else None

    @property
    def metadata(self) -> dict[str, Any]:
        """What the journal tells of it."""
        payment, attempt = self.loaded.payment, self.loaded.attempt
        named = [encode(Prefix.INVOICE, invoice.id) for invoice in self.invoices]
        return {
            "client_id": encode(Prefix.CLIENT, payment.client_id),
            **({"invoice_id": named[0]} if len(named) == 1 else {"invoice_ids": named}),
            "amount_minor": payment.amount_minor,
            "currency_code": payment.currency_code,
            "kind": payment.kind.value,
            "provider": attempt.provider,
            "attempt_id": encode(Prefix.ATTEMPT, attempt.id),
            "attempt_no": attempt.attempt_no,
            "source": self.source.value,
        }

    def change(self, action: str, event: str, severity: Severity = Severity.INFO, **more: Any) -> Change:
        """An entry of the journal about the payment."""
        metadata = {**self.metadata, **more}
        return Change(Category.PAYMENT, action, "payment", self.loaded.payment.id, event, severity, metadata)

    async def tell(self, action: str, event: str, severity: Severity = Severity.INFO, **more: Any) -> None:
        """Journal something about the payment."""
        await record(self.uow, self.change(action, event, severity, **more))


async def lock_targets(uow: UnitOfWork, payment_id: UUID, invoice_id: UUID | None, client_id: UUID) -> list[Invoice]:
    """Lock the payment's client and invoices, in the order of locks; returned in the order in which its money settles them."""
    if invoice_id is not None:
        return await lock_invoices(uow, [invoice_id])
    order = await asking.targets(uow, payment_id)
    if not order:
        await scheduling.lock_client(uow, client_id)
        return []
    locked = {invoice.id: invoice for invoice in await lock_invoices(uow, order)}
    return [locked[target] for target in order]


async def settle(case: Case, outcome: Evidence) -> Claim | None:
    """Write what accepted evidence means. Returns an attempt that the bearer is to send at once: a backup method."""
    match outcome:
        case Succeeded():
            await succeed(case.uow, [(case, outcome)])
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


async def _remember(case: Case, reference: str | None) -> None:
    await _remember_all(case.uow, [(case, reference)])


async def _remember_all(uow: UnitOfWork, made: Sequence[tuple[Case, str | None]]) -> None:
    """Note whose the provider's payments are, at accounts that firms share."""
    shared: dict[UUID, list[str | None]] = {}
    for case, reference in made:
        account, account_id = case.loaded.account, case.loaded.attempt.account_id
        if account_id is not None and (account is None or account.firm_id is None):
            shared.setdefault(account_id, []).append(reference)
    for account_id, references in shared.items():
        await remember(uow, account_id, *references)


def spread(invoices: Sequence[Invoice], amount_minor: int) -> dict[UUID, int]:
    """How an amount settles invoices in their order: each takes what it still owes, until nothing is left. Pure."""
    shares: dict[UUID, int] = {}
    for invoice in invoices:
        share = min(amount_minor, invoice.open_amount)
        if share > 0:
            shares[invoice.id] = share
            amount_minor -= share
    return shares


async def succeed(uow: UnitOfWork, successes: Sequence[tuple[Case, Succeeded]]) -> None:
    """The money is in: settle what is owed, keep the excess as the client's credit. Several at once are of different clients."""
    shares = {case.loaded.payment.id: spread(case.invoices, case.loaded.payment.amount_minor) for case, _ in successes}
    received = {invoice_id: share for each in shares.values() for invoice_id, share in each.items()}
    applied = {each.invoice.id: each for each in (await apply_money(uow, received) if received else [])}
    written = [_success(case, outcome, shares[case.loaded.payment.id]) for case, outcome in successes]
    await attempts.succeed(uow, written)
    await _remember_all(uow, [(case, outcome.reference) for case, outcome in successes])
    await post(uow, [
        _received(case, success, [applied[invoice_id] for invoice_id in shares[case.loaded.payment.id]])
        for (case, _), success in zip(successes, written, strict=True)
    ])  # fmt: skip
    await credit.add(uow, [_excess(case, success) for (case, _), success in zip(successes, written, strict=True)])
    await _follow_successes(uow, [case for case, _ in successes], shares)
    await record(uow, *(
        case.change("payment_succeeded", "payment.succeeded", allocated_minor=success.allocated_minor, credited_minor=success.credited_minor)
        for (case, _), success in zip(successes, written, strict=True)
    ))  # fmt: skip


def _success(case: Case, outcome: Succeeded, shares: Mapping[UUID, int]) -> Success:
    allocated = sum(shares.values())
    credited = case.loaded.payment.amount_minor - allocated
    return Success(case.loaded, outcome.reference, shares, allocated, credited, case.source is not Source.ANSWER)


def _received(case: Case, success: Success, applied: Sequence[AppliedMoney]) -> Posting:
    payment = case.loaded.payment
    return rules.payment_received(
        payment.id, payment.client_id, payment.currency_code, case.loaded.attempt.provider, settled=sum(each.settled for each in applied),
        recovered=sum(each.recovered for each in applied), credited=success.credited_minor,
    )  # fmt: skip


def _excess(case: Case, success: Success) -> NewCredit:
    payment = case.loaded.payment
    return credit.excess(
        payment.id, payment.client_id, payment.currency_code, success.credited_minor, ahead=not case.invoices
    )


async def _follow_successes(uow: UnitOfWork, cases: Sequence[Case], shares: Mapping[UUID, Mapping[UUID, int]]) -> None:
    """What follows for collection and for pages: a slot that has succeeded asks for no more, unless more is owed by now."""
    columns: dict[UUID, dict[str, Any]] = {}
    for case in cases:
        payment, invoice = case.loaded.payment, case.collected
        if invoice is not None:
            columns[invoice.id] = _collected(case, invoice, sum(shares[payment.id].values()))
        else:
            await wake_if_due(uow, case.invoices)
        if payment.kind is PaymentKind.CHECKOUT:
            await sessions.follow_payment(uow, payment.id, AttemptState.SUCCEEDED, ended=False)
    if columns:
        await set_collection(uow, columns)
    for changed in columns.values():
        await slots.wake_for(uow, changed)


def _collected(case: Case, invoice: Invoice, allocated: int) -> dict[str, Any]:
    """Collection columns of an invoice whose slot has succeeded."""
    columns: dict[str, Any] = {
        "autopay_status": AutopayStatus.SUCCEEDED,
        "autopay_next_charge_time": None,
        "retry_pending": False,
    }
    if invoice.open_amount > allocated and invoice.collection.autopay_enabled and case.loaded.client_enabled:
        columns |= {"autopay_status": AutopayStatus.SCHEDULED, "autopay_next_charge_time": case.uow.now}
    return columns


async def _declined(case: Case, outcome: Declined) -> Claim | None:
    """The provider said no: the class of the decline decides what follows."""
    uow, loaded, failure = case.uow, case.loaded, outcome.failure
    payment = loaded.payment
    await _remember(case, outcome.reference)
    decline_class = failure.decline_class or DeclineClass.SOFT
    invoice = case.collected
    goes_on = (
        invoice is not None
        and slots.still_collected(invoice, client_enabled=loaded.client_enabled, cycle=payment.cycle)
        and not loaded.other_success
    )
    backup = await _backup(case) if decline_class is DeclineClass.HARD and goes_on else None
    technical = loaded.technical_declines + (decline_class is DeclineClass.TECHNICAL)
    following = retries.after_decline(payment.kind, decline_class, technical, has_backup=backup is not None)
    changes = _decline_changes(case, outcome, decline_class)
    waits = retries.technical_backoff(loaded.attempt.id, technical) if following is retries.Next.REPEAT else None
    method = backup if following is retries.Next.BACKUP else loaded.method if waits is not None and goes_on else None
    if method is not None and invoice is not None:
        await _tell_attempt_failed(case, failure)
        if invoice.open_amount != payment.amount_minor:
            await _begin_anew(case, invoice, changes, waits or timedelta())
            return None
        moved = {"method_id": method.id} if backup is not None else {}
        await attempts.settle(uow, loaded, **changes, payment_state=PaymentState.PROCESSING.value, **moved)
        return await _next_attempt(case, method, due_in=waits)
    if payment.state.is_final:
        await attempts.settle(uow, loaded, **changes, touch_payment=False)
    elif payment.kind is PaymentKind.CHECKOUT and ends_page(failure):
        await _page_ended(case, changes, failure)
    else:
        await _payment_failed(case, failure, changes)
    return None


async def _begin_anew(case: Case, invoice: Invoice, changes: dict[str, Any], waits: timedelta) -> None:
    """The slot is not used up, and its payment's amount is owed no more: the slot goes on under a new revision."""
    uow, loaded = case.uow, case.loaded
    reason = "the amount owed has changed"
    await attempts.settle(
        uow, loaded, **changes, payment_state=PaymentState.CANCELLED.value, payment_message=reason, finish_time=uow.now, release=True,
    )  # fmt: skip
    status = AutopayStatus.FAILED if invoice.collection.retry_pending else AutopayStatus.SCHEDULED
    due = uow.now + waits
    await set_collection(uow, {invoice.id: {"autopay_status": status, "autopay_next_charge_time": due}})
    await wake(uow, WorkKind.COLLECT, due)
    await case.tell("payment_cancelled", "payment.cancelled", reason=reason, again_time=due.isoformat())


def _decline_changes(case: Case, outcome: Declined, decline_class: DeclineClass) -> dict[str, Any]:
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


async def _backup(case: Case) -> PaymentMethod | None:
    loaded = case.loaded
    client_id = loaded.payment.client_id
    attached = (await methods.of_clients(case.uow, [client_id]))[client_id]
    return next_backup(attached, loaded.default_method_id, loaded.tried_methods)


async def _next_attempt(case: Case, method: PaymentMethod, *, due_in: timedelta | None) -> Claim | None:
    """Open the payment's next attempt: sent by the bearer at once, or left to the workers at its time."""
    uow, payment = case.uow, case.loaded.payment
    owner = case.claim.owner if case.claim is not None and due_in is None else None
    due = None if owner else uow.now + (due_in or timedelta())
    attempt_id = await attempts.add(uow, payment, case.loaded.attempt.attempt_no + 1, method, owner=owner, due=due)
    if owner is None:
        await wake(uow, WorkKind.ATTEMPTS, due)
        return None
    return Claim(
        attempt_id, payment.id, payment.invoice_id, payment.client_id, method.account_id, AttemptState.CREATED, 1, owner
    )


async def _tell_attempt_failed(case: Case, failure: Failure) -> None:
    """A refusal that does not end the payment is told, without an event of its own failing."""
    await case.tell(
        "payment_attempt_failed", "payment.attempt_failed", Severity.WARNING, failure_code=failure.code.value,
        provider_code=failure.provider_code, decline_class=failure.decline_class.value if failure.decline_class else None,
    )  # fmt: skip


async def _page_ended(case: Case, changes: dict[str, Any], failure: Failure) -> None:
    """The provider has closed the page unpaid: the payment is given up, its invoice may be asked for otherwise. No slot was used."""
    uow, loaded = case.uow, case.loaded
    await attempts.settle(
        uow, loaded, **changes, payment_state=PaymentState.CANCELLED.value, payment_message=failure.message, finish_time=uow.now, release=True,
    )  # fmt: skip
    await sessions.follow_payment(uow, loaded.payment.id, AttemptState.DECLINED, ended=True)
    await wake_if_due(uow, case.invoices)
    await case.tell("payment_cancelled", "payment.cancelled", reason="the page was closed before it was paid")


async def _payment_failed(case: Case, failure: Failure, changes: dict[str, Any]) -> None:
    """End the payment as FAILED, release its invoices, and move the schedule where the payment was one of its slots."""
    uow, loaded = case.uow, case.loaded
    payment = loaded.payment
    await attempts.settle(
        uow, loaded, **changes, payment_state=PaymentState.FAILED.value, payment_failure_code=failure.code.value,
        payment_provider_code=failure.provider_code, payment_message=failure.message, finish_time=uow.now, release=True,
    )  # fmt: skip
    columns: dict[str, Any] = {}
    invoice = case.collected
    if invoice is not None:
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
        await wake_if_due(uow, case.invoices)
    if payment.kind is PaymentKind.CHECKOUT:
        await sessions.follow_payment(uow, payment.id, AttemptState(changes["state"]), ended=False)
    await record(uow, *slots.told(payment.invoice_id, payment.client_id, payment.id, payment.slot, failure, columns))


async def wake_if_due(uow: UnitOfWork, invoices: Sequence[Invoice]) -> None:
    """Holds have been released: collect what fell due meanwhile."""
    dues = (invoice.collection.autopay_next_charge_time for invoice in invoices)
    if any(due is not None and due <= uow.now for due in dues):
        await wake(uow, WorkKind.COLLECT)


async def _pending(case: Case, outcome: Pending) -> None:
    uow, loaded = case.uow, case.loaded
    attempt = loaded.attempt
    due = ladder.next_poll(attempt.send_time or uow.now, uow.now)
    repeated = attempt.state is AttemptState.PENDING
    person = waited_too_long(case)
    asks = person and not attempt.needs_person
    await attempts.settle(
        uow, loaded, state=AttemptState.PENDING.value, reference=outcome.reference, next_check_time=due,
        payment_state=PaymentState.PROCESSING.value, needs_person=person, checked=int(repeated),
        touch_payment=asks or not repeated,
    )  # fmt: skip
    await _remember(case, outcome.reference)
    await wake(uow, WorkKind.ATTEMPTS, due)
    if not repeated:
        await case.tell("payment_pending", "payment.pending")
    if asks:
        await ask_person(case)


async def _action_required(case: Case, outcome: ActionRequired) -> None:
    uow, loaded = case.uow, case.loaded
    attempt = loaded.attempt
    expires = outcome.expire_time or attempt.action_expire_time or uow.now + ACTION_LIFE
    due = min(ladder.next_poll(attempt.send_time or uow.now, uow.now), max(expires, uow.now + timedelta(seconds=5)))
    repeated = attempt.state is AttemptState.REQUIRES_ACTION
    person = waited_too_long(case)
    asks = person and not attempt.needs_person
    await attempts.settle(
        uow, loaded, state=AttemptState.REQUIRES_ACTION.value, reference=outcome.reference, action_url=outcome.url or attempt.action_url,
        action_expire_time=expires, next_check_time=due, payment_state=PaymentState.REQUIRES_ACTION.value, needs_person=person,
        checked=int(repeated),
        touch_payment=asks or not repeated,
    )  # fmt: skip
    await _remember(case, outcome.reference)
    await wake(uow, WorkKind.ATTEMPTS, due)
    if not repeated:
        await case.tell("payment_action_required", "payment.requires_action", expire_time=expires.isoformat())
    if asks:
        await ask_person(case)


async def _not_sent(case: Case, outcome: NotSent) -> None:
    """Proven not to have happened: the same attempt and key go again; an explicit request is given up after a few tries."""
    uow, loaded = case.uow, case.loaded
    attempt, payment = loaded.attempt, loaded.payment
    evidence = {"not_sent": outcome.reason}
    if payment.kind is not PaymentKind.AUTOPAY and attempt.send_count >= retries.UNSENT_TRIES_OF_A_REQUEST:
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


async def _unknown(case: Case, outcome: Unknown) -> None:
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
        await ask_person(case)


def waited_too_long(case: Case) -> bool:
    """Whether the provider has had the attempt for so long, decided or not, that a person should look at it."""
    now = case.uow.now
    return ladder.waits_too_long(case.loaded.attempt.first_send_time or now, now)


async def ask_person(case: Case) -> None:
    """Tell the firm's people that an outcome has been open for too long."""
    metadata = {"notice": "attempt_needs_person", **case.metadata}
    await record(case.uow, Change(
        Category.PAYMENT, "attempt_needs_person", "payment", case.loaded.payment.id, "admin.notice", Severity.CRITICAL, metadata,
    ))  # fmt: skip
