"""Step A of a charge: re-check everything under lock, and record the intent to send. The provider is called after the commit."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dunwell_server.billing.model import AutopayStatus, Invoice
from dunwell_server.billing.service.collection import lock_invoices, set_collection
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments import retries
from dunwell_server.payments.choosing import choose
from dunwell_server.payments.model import COLLECTIBLE, AttemptState, Claim, PaymentKind, PaymentState
from dunwell_server.payments.service import slots
from dunwell_server.payments.service.outcomes import wake_if_due
from dunwell_server.payments.store import attempts, methods
from dunwell_server.payments.store.attempts import Loaded
from dunwell_server.payments.store.methods import ProviderAccount
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.failpoints import failpoint
from dunwell_server.platform.journal import Category, Change, record
from dunwell_server.platform.work import WorkKind, wake


@dataclass(frozen=True, slots=True)
class SendOrder:
    """What is to be sent, exactly so, under the attempt's key. Sent again it is the same."""

    claim: Claim
    account: ProviderAccount
    key: str
    amount_minor: int
    currency_code: str
    method_reference: str
    customer_reference: str | None
    description: str
    off_session: bool
    firm_text: str
    payment_text: str


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why an attempt is not sent. `again_at`: the slot goes on under a new revision at that firm time; None: collection ends here."""

    reason: str
    again_at: datetime | None = None


_WAIT = _Refusal("other tries of the card are on their way")
"""Not a refusal: the attempt is taken up again when their answers are there."""


async def begin_send(uow: UnitOfWork, claim: Claim, digest_of: Any) -> SendOrder | None:
    """Move a claimed CREATED or NOT_SENT attempt to SENT; None where it is not to be sent, with its payment cancelled where that is final.

    `digest_of(order)` is the digest of what the adapter will send; it is kept with the attempt.
    """
    assert claim.invoice_id is not None
    [invoice] = await lock_invoices(uow, [claim.invoice_id])
    loaded = await attempts.load(uow, claim.attempt_id)
    attempt = loaded.attempt
    if not attempt.state.is_unsent or (attempt.owner, attempt.fence) != (claim.owner, claim.fence):
        return None
    refusal = await _refusal(uow, loaded, invoice)
    if refusal is _WAIT:
        await attempts.postpone(uow, attempt.id)
        await wake(uow, WorkKind.ATTEMPTS)
        return None
    if refusal is not None:
        await cancel_unsent(uow, loaded, invoice, refusal.reason, again_at=refusal.again_at)
        return None
    order = order_of(uow, loaded, invoice, claim)
    await attempts.mark_sent(uow, claim, digest_of(order))
    failpoint("attempt.intent")
    return order


def order_of(uow: UnitOfWork, loaded: Loaded, invoice: Invoice, claim: Claim) -> SendOrder:
    """What goes to the provider for an attempt: a function of rows that never change, so that a repeat is identical."""
    attempt, payment = loaded.attempt, loaded.payment
    assert loaded.account is not None
    return SendOrder(
        claim, loaded.account, attempt.idempotency_key, attempt.amount_minor, attempt.currency_code, loaded.method.provider_reference,
        loaded.customer_reference, f"Invoice {invoice.number}", True, encode(Prefix.FIRM, uow.firm_id), encode(Prefix.PAYMENT, payment.id),
    )  # fmt: skip


async def _refusal(uow: UnitOfWork, loaded: Loaded, invoice: Invoice) -> _Refusal | None:
    """Every condition of sending, under lock; None: send."""
    payment, attempt = loaded.payment, loaded.attempt
    automatic = payment.kind is PaymentKind.AUTOPAY
    if invoice.state not in COLLECTIBLE or invoice.open_amount <= 0:
        return _Refusal("nothing is owed any more")
    if automatic and not slots.still_collected(invoice, client_enabled=loaded.client_enabled, cycle=payment.cycle):
        return _Refusal("autopay was switched off")
    again = uow.now if automatic else None
    if invoice.open_amount != attempt.amount_minor:
        return _Refusal("the amount owed has changed", again)
    if loaded.account is None or loaded.account.mode != uow.firm.mode or loaded.account.mode != loaded.method.mode:
        return _Refusal("the provider account is gone", again)
    if not loaded.method.usable:
        return _Refusal("the payment method cannot be charged any more", again)
    if loaded.breaker_open:
        return _Refusal("charging at the provider has stopped by itself", again)
    if automatic and attempt.attempt_no == 1 and not await _still_chosen(uow, loaded, invoice):
        return _Refusal("another payment method is to be charged", again)
    declines = await _recent_declines(uow, loaded)
    until = retries.ceiling_until(declines, uow.now)
    if until is not None:
        return _Refusal("the card has reached the networks' ceiling of tries", until if automatic else None)
    today = sum(at > uow.now - retries.DECLINES_WINDOW for at in declines)
    return _WAIT if retries.may_reach_ceiling(today, loaded.on_their_way) else None


async def _still_chosen(uow: UnitOfWork, loaded: Loaded, invoice: Invoice) -> bool:
    own, default = invoice.collection.autopay_method_id, loaded.default_method_id
    if loaded.method.id in (own, default) and own in (None, loaded.method.id):
        return True
    client_id = loaded.payment.client_id
    attached = (await methods.of_clients(uow, [client_id]))[client_id]
    chosen = choose(attached, own, default).method
    return chosen is not None and chosen.id == loaded.method.id


async def _recent_declines(uow: UnitOfWork, loaded: Loaded) -> list[datetime]:
    """When tries of the method's card were refused lately; asks only where there was a refusal at all."""
    method = loaded.method
    since = uow.now - retries.TRIES_WINDOW
    if loaded.card_failure_time is None or loaded.card_failure_time <= since:
        return []
    return await methods.declines_since(uow, method, since)


async def cancel_unsent(
    uow: UnitOfWork,
    loaded: Loaded,
    invoice: Invoice,
    reason: str,
    *,
    again_at: datetime | None,
    keep_schedule: bool = False,
) -> None:
    """Close an attempt that is provably not with the provider, cancel its payment, release the invoice.

    The slot goes on under a new revision at `again_at`; None ends the collection.
    """
    payment = loaded.payment
    await attempts.settle(
        uow, loaded, state=AttemptState.CLOSED.value, message=reason, attempt_finish_time=uow.now, needs_person=False,
        payment_state=PaymentState.CANCELLED.value, payment_message=reason, finish_time=uow.now, release=True,
    )  # fmt: skip
    collection = invoice.collection
    if payment.kind is PaymentKind.AUTOPAY and collection.collection_cycle == payment.cycle:
        columns: dict[str, Any] = {}
        if again_at is not None:
            status = AutopayStatus.FAILED if collection.retry_pending else AutopayStatus.SCHEDULED
            columns = {"autopay_status": status, "autopay_next_charge_time": again_at}
        elif collection.autopay_status == AutopayStatus.PROCESSING:
            columns = slots.ended()
        if columns:
            await set_collection(uow, {invoice.id: columns})
            if again_at is not None:
                await wake(uow, WorkKind.COLLECT, again_at)
    else:
        await wake_if_due(uow, invoice)
    metadata = {
        "invoice_id": encode(Prefix.INVOICE, invoice.id), "client_id": encode(Prefix.CLIENT, payment.client_id), "reason": reason,
        "again_time": again_at.isoformat() if again_at else None,
    }  # fmt: skip
    await record(
        uow,
        Change(Category.PAYMENT, "payment_cancelled", "payment", payment.id, "payment.cancelled", metadata=metadata),
    )
