"""Taking what is due: a batch of invoices becomes payments with claimed attempts, slots that fail without a call, and skips with reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from dunwell_server.billing.model import AutopayStatus
from dunwell_server.billing.service.collection import set_collection
from dunwell_server.payments.choosing import Choice, choose
from dunwell_server.payments.model import (
    COLLECTIBLE,
    AttemptState,
    Channel,
    Claim,
    Failure,
    FailureCode,
    PaymentKind,
    PaymentMethod,
    slot_payment_id,
)  # fmt: skip
from dunwell_server.payments.service import breakers, slots
from dunwell_server.payments.store import attempts, due, methods, reconciliation
from dunwell_server.payments.store.attempts import FailedSlot, NewPayment
from dunwell_server.payments.store.breakers import Asked
from dunwell_server.payments.store.due import DueInvoice
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.failpoints import failpoint
from dunwell_server.platform.features import Feature, is_enabled
from dunwell_server.platform.journal import Change, record
from dunwell_server.platform.runs import RunItem

NO_METHOD = "There is no usable payment method."
BREAKER_OPEN = "BREAKER_OPEN"
RECOVERING = "RECOVERING"


@dataclass(slots=True)
class Batch:
    """What a claim of due invoices came to."""

    claims: list[Claim] = field(default_factory=list)
    items: list[RunItem] = field(default_factory=list)
    """Skips, and slots that failed without a call: finished in the claiming transaction."""
    taken: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """Items by outcome."""
        return dict(Counter(item.outcome for item in self.items))


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to happen with one due invoice: a charge of `method`, a failure without a call, or a skip."""

    invoice: DueInvoice
    method: PaymentMethod | None = None
    failure: Failure | None = None
    skip: str | None = None
    message: str | None = None

    @property
    def item(self) -> RunItem:
        """The line that a run tells about it; for a charge, as a dry run words it."""
        invoice = self.invoice
        outcome = "SKIPPED" if self.skip else "DECLINED" if self.failure else "CHARGED"
        reason = self.skip or ("NO_PAYMENT_METHOD" if self.failure else None)
        message = self.message or (self.failure.message if self.failure else None)
        if self.method is not None:
            message = f"{self.method.brand or self.method.kind} {self.method.last4 or ''}".strip()
        return RunItem(
            "invoice", invoice.id, outcome, reason, message, invoice.client_id, invoice.amount_due, invoice.currency_code,
            {"payment_method_id": str(self.method.id)} if self.method else None,
        )  # fmt: skip


def plan(invoice: DueInvoice, attached: Sequence[PaymentMethod], stopped: Collection[UUID] = ()) -> Plan:
    """Decide about one due invoice. `stopped` are the accounts whose breaker is open. Pure."""
    if invoice.state not in COLLECTIBLE or invoice.amount_due <= 0:
        return Plan(invoice, skip="NOT_OWED", message=f"the invoice is {invoice.state}")
    if not (invoice.client_enabled and invoice.autopay_enabled):
        return Plan(invoice, skip="AUTOPAY_OFF", message="autopay is switched off")
    choice = choose(attached, invoice.autopay_method_id, invoice.default_method_id)
    if choice.method is not None and choice.method.account_id in stopped:
        return Plan(invoice, skip=BREAKER_OPEN, message=f"charging at {choice.method.provider} has stopped by itself")
    if choice.method is not None:
        return Plan(invoice, method=choice.method)
    return Plan(invoice, failure=failure_without_call(choice))


def failure_without_call(choice: Choice) -> Failure:
    """Why a slot fails without a call: no method, or one that waits for its client."""
    if choice.blocked is None:
        return Failure(FailureCode.MISSING_PAYMENT_METHOD, message=NO_METHOD)
    code = FailureCode(choice.blocked.block_code) if choice.blocked.block_code else FailureCode.MISSING_PAYMENT_METHOD
    return Failure(code, message="The payment method waits for its holder; it was not charged.")


async def claim_batch(
    uow: UnitOfWork, owner: UUID, limit: int, *, run_id: UUID | None = None, client_id: UUID | None = None
) -> Batch:
    """Take up to `limit` due invoices that nobody else is taking, and write what is to happen with each. Never waits for a lock."""
    if not is_enabled(uow, Feature.CARD_PAYMENTS):
        return Batch()
    if uow.recovering:
        return Batch()
    stopped = await breakers.open_accounts(uow)
    taken = await due.claim_due(uow, limit, client_id, stopped=stopped)
    if not taken:
        return Batch()
    attached = await methods.of_clients(uow, list({invoice.client_id for invoice in taken}))
    # What waits for an open breaker is left as it is: due.
    plans = await _within_limits(uow, [
        each for invoice in taken
        if (each := plan(invoice, attached[invoice.client_id], stopped)).skip != BREAKER_OPEN
    ])  # fmt: skip
    batch = Batch(taken=len(plans))
    columns: dict[UUID, dict[str, Any]] = {}
    await _charge(uow, [each for each in plans if each.method is not None], owner, run_id, batch, columns)
    await _fail(uow, [each for each in plans if each.failure is not None], run_id, batch, columns)
    for each in plans:
        if each.skip is not None:
            columns[each.invoice.id] = slots.ended()
            batch.items.append(each.item)
    if columns:
        await set_collection(uow, columns)
    for changed in columns.values():
        await slots.wake_for(uow, changed)
    failpoint("slot.claim")
    return batch


async def _within_limits(uow: UnitOfWork, plans: list[Plan]) -> list[Plan]:
    """The plans without the charges that trip a breaker, or are beyond what is left to its limit: those stay due."""
    asked = [
        Asked(each.invoice.client_id, each.method.account_id, each.invoice.amount_due, each.invoice.currency_code)
        for each in plans if each.method is not None
    ]  # fmt: skip
    tripped, room = await breakers.trip_where_due(uow, asked)
    kept: list[Plan] = []
    for each in plans:
        account = None if each.method is None else each.method.account_id
        if account in tripped:
            continue
        if account in room:
            room[account] -= 1
            if room[account] < 0:
                continue
        kept.append(each)
    return kept


async def _charge(
    uow: UnitOfWork,
    plans: Sequence[Plan],
    owner: UUID,
    run_id: UUID | None,
    batch: Batch,
    columns: dict[UUID, dict[str, Any]],
) -> None:
    new = [_new_payment(uow.firm_id, each) for each in plans]
    written = await attempts.create(
        uow, new, kind=PaymentKind.AUTOPAY.value, channel=Channel.AUTOPAY.value, owner=owner, run_id=run_id
    )
    refused = [payment.id for payment in new if payment.id not in written]
    known = await reconciliation.adopted_among(uow, refused) if refused else set()
    for payment in new:
        if payment.id in known:
            # Its money came before the book had lost the invoice, and is the client's credit: it is never asked for again.
            columns[payment.invoice_id] = slots.ended()
            await record(uow, slots.paid_before(payment.invoice_id, payment.client_id, payment.id))
            continue
        if payment.id not in written:
            batch.taken -= 1  # Held by another channel since: it stays due.
            continue
        columns[payment.invoice_id] = {"autopay_status": AutopayStatus.PROCESSING, "autopay_next_charge_time": None}
        batch.claims.append(Claim(
            payment.attempt_id, payment.id, payment.invoice_id, payment.client_id, payment.method.account_id, AttemptState.CREATED, 1, owner,
        ))  # fmt: skip


def _new_payment(firm_id: UUID, each: Plan) -> NewPayment:
    invoice, method = each.invoice, each.method
    assert method is not None
    return NewPayment(
        slot_payment_id(firm_id, invoice.id, invoice.cycle, invoice.slot, invoice.revision), invoice.client_id, invoice.id,
        invoice.currency_code, invoice.amount_due, method, invoice.cycle, invoice.slot, invoice.revision,
    )  # fmt: skip


async def _fail(
    uow: UnitOfWork, plans: Sequence[Plan], run_id: UUID | None, batch: Batch, columns: dict[UUID, dict[str, Any]]
) -> None:
    """Slots that fail without a call count like any other."""
    failed: list[FailedSlot] = []
    changes: list[Change] = []
    for each in plans:
        invoice, failure = each.invoice, each.failure
        assert failure is not None
        payment_id = slot_payment_id(uow.firm_id, invoice.id, invoice.cycle, invoice.slot, invoice.revision)
        failed.append(FailedSlot(
            payment_id, invoice.client_id, invoice.id, invoice.currency_code, invoice.amount_due, invoice.cycle, invoice.slot, invoice.revision,
            None, failure.code.value, failure.message or NO_METHOD,
        ))  # fmt: skip
        columns[invoice.id] = slots.failed(uow, invoice.slot, failure)
        changes += slots.told(invoice.id, invoice.client_id, payment_id, invoice.slot, failure, columns[invoice.id])
        batch.items.append(each.item)
    await attempts.create_failed(uow, failed, provider=uow.firm.settings.default_provider, run_id=run_id)
    await record(uow, *changes)


async def preview(
    uow: UnitOfWork, as_of: datetime, after: tuple[datetime, UUID] | None, limit: int, client_id: UUID | None
) -> tuple[list[Plan], tuple[datetime, UUID] | None]:
    """What a run as of `as_of` would do with the next invoices after the cursor; writes nothing. Returns the new cursor, None at the end."""
    found = await due.page_due(uow, as_of, after, limit, client_id)
    attached = await methods.of_clients(uow, list({invoice.client_id for invoice in found}))
    stopped = await breakers.open_accounts(uow)
    plans = [
        Plan(invoice, skip="IN_PROGRESS", message="another way of collecting it is under way") if invoice.held
        else Plan(invoice, skip=RECOVERING, message="the providers' record is being taken over") if uow.recovering
        else plan(invoice, attached[invoice.client_id], stopped)
        for invoice in found
    ]  # fmt: skip
    return plans, (found[-1].due_time, found[-1].id) if len(found) == limit else None
