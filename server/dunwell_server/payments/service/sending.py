"""Step A of a charge: re-check everything under lock, and record the intent to send. The provider is called after the commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dunwell_server.billing.model import AutopayStatus, Invoice
from dunwell_server.billing.service.collection import lock_invoices, set_collection
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments import retries
from dunwell_server.payments.choosing import choose
from dunwell_server.payments.model import COLLECTIBLE, AttemptState, Claim, PaymentKind, PaymentMethod, PaymentState
from dunwell_server.payments.page_model import CheckoutSession
from dunwell_server.payments.service import sessions, slots
from dunwell_server.payments.service.settling import lock_targets, wake_if_due
from dunwell_server.payments.store import attempts, checkouts, methods
from dunwell_server.payments.store.attempts import Loaded
from dunwell_server.payments.store.methods import ProviderAccount
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.failpoints import failpoint
from dunwell_server.platform.journal import Category, Change, record
from dunwell_server.platform.work import WorkKind, wake


@dataclass(frozen=True, slots=True)
class SendOrder:
    """What is to be sent, exactly so, under the attempt's key: a charge of a method, or a page to be made. Sent again it is the same."""

    claim: Claim
    account: ProviderAccount
    key: str
    amount_minor: int
    currency_code: str
    method_reference: str | None
    """None: the client chooses on the page."""
    customer_reference: str | None
    description: str
    off_session: bool
    firm_text: str
    payment_text: str
    return_url: str | None = None
    session: CheckoutSession | None = None
    """The page, where the client is asked on one."""


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why an attempt is not sent. `again_at`: the slot goes on under a new revision at that firm time; None: collection ends here."""

    reason: str
    again_at: datetime | None = None


_WAIT = _Refusal("other tries of the card are on their way")
"""Not a refusal: the attempt is taken up again when their answers are there, or the firm's recovery has ended."""


async def begin_send(uow: UnitOfWork, claim: Claim, digest_of: Any) -> SendOrder | None:
    """Move a claimed CREATED or NOT_SENT attempt to SENT; None where it is not to be sent, with its payment cancelled where that is final.

    `digest_of(order)` is the digest of what the adapter will send; it is kept with the attempt.
    """
    invoices = await lock_targets(uow, claim.payment_id, claim.invoice_id, claim.client_id)
    loaded = await attempts.load(uow, claim.attempt_id)
    order = await _order(uow, claim, loaded, invoices)
    if order is not None:
        await attempts.mark_sent(uow, claim, digest_of(order))
        failpoint("attempt.intent")
    return order


async def begin_sends(uow: UnitOfWork, claims: Sequence[Claim], digest_of: Any) -> list[SendOrder]:
    """`begin_send` of several slots at once, each of another client and one invoice; what is not to be sent is left out."""
    locked = await lock_invoices(uow, [claim.invoice_id for claim in claims if claim.invoice_id is not None])
    invoices = {invoice.id: invoice for invoice in locked}
    loaded = await attempts.load_all(uow, [claim.attempt_id for claim in claims])
    orders: list[SendOrder] = []
    for claim in claims:
        assert claim.invoice_id is not None
        order = await _order(uow, claim, loaded[claim.attempt_id], [invoices[claim.invoice_id]])
        if order is not None:
            orders.append(order)
    await attempts.mark_all_sent(uow, [(order.claim, digest_of(order)) for order in orders])
    failpoint("attempt.intent")
    return orders


async def _order(uow: UnitOfWork, claim: Claim, loaded: Loaded, invoices: Sequence[Invoice]) -> SendOrder | None:
    """What to send for a locked attempt; None where it is not to be sent, after what follows from that."""
    attempt = loaded.attempt
    if not attempt.state.is_unsent or (attempt.owner, attempt.fence) != (claim.owner, claim.fence):
        return None
    refusal = await _refusal(uow, loaded, invoices)
    if refusal is _WAIT:
        await attempts.postpone(uow, attempt.id)
        await wake(uow, WorkKind.ATTEMPTS)
        return None
    if refusal is not None:
        await cancel_unsent(uow, loaded, invoices, refusal.reason, again_at=refusal.again_at)
        return None
    return await order_of(uow, loaded, invoices, claim)


async def order_of(uow: UnitOfWork, loaded: Loaded, invoices: Sequence[Invoice], claim: Claim) -> SendOrder:
    """What goes to the provider for an attempt: a function of rows that never change, so that a repeat is identical."""
    attempt, payment, method = loaded.attempt, loaded.payment, loaded.method
    assert loaded.account is not None
    session = await checkouts.of_payment(uow, payment.id) if payment.kind is PaymentKind.CHECKOUT else None
    return SendOrder(
        claim, loaded.account, attempt.idempotency_key, attempt.amount_minor, attempt.currency_code,
        None if method is None else method.provider_reference, loaded.customer_reference, payment.description or _description(invoices),
        not payment.client_present, encode(Prefix.FIRM, uow.firm_id), encode(Prefix.PAYMENT, payment.id), payment.return_url, session,
    )  # fmt: skip


def _description(invoices: Sequence[Invoice]) -> str:
    return f"Invoice {invoices[0].number}" if invoices else "Payment"


async def _refusal(uow: UnitOfWork, loaded: Loaded, invoices: Sequence[Invoice]) -> _Refusal | None:
    """Every condition of sending, under lock; None: send."""
    if uow.recovering:
        return _WAIT
    payment, attempt, method = loaded.payment, loaded.attempt, loaded.method
    automatic = payment.kind is PaymentKind.AUTOPAY
    owed = [invoice for invoice in invoices if invoice.state in COLLECTIBLE and invoice.open_amount > 0]
    if invoices and not owed:
        return _Refusal("nothing is owed any more")
    if automatic and not slots.still_collected(owed[0], client_enabled=loaded.client_enabled, cycle=payment.cycle):
        return _Refusal("autopay was switched off")
    again = uow.now if automatic else None
    if payment.kind is not PaymentKind.ONE_TIME and sum(each.open_amount for each in owed) != attempt.amount_minor:
        return _Refusal("the amount owed has changed", again)
    account = loaded.account
    if account is None or account.mode != uow.firm.mode or (method is not None and account.mode != method.mode):
        return _Refusal("the provider account is gone", again)
    if method is None:
        return None if account.state == "ACTIVE" else _Refusal("the provider account is gone")
    if not method.usable:
        return _Refusal("the payment method cannot be charged any more", again)
    if loaded.breaker_open:
        return _Refusal("charging at the provider has stopped by itself", again)
    if automatic and attempt.attempt_no == 1 and not await _still_chosen(uow, loaded, method, owed[0]):
        return _Refusal("another payment method is to be charged", again)
    declines = await _recent_declines(uow, loaded, method)
    until = retries.ceiling_until(declines, uow.now)
    if until is not None:
        return _Refusal("the card has reached the networks' ceiling of tries", until if automatic else None)
    today = sum(at > uow.now - retries.DECLINES_WINDOW for at in declines)
    return _WAIT if retries.may_reach_ceiling(today, loaded.on_their_way) else None


async def _still_chosen(uow: UnitOfWork, loaded: Loaded, method: PaymentMethod, invoice: Invoice) -> bool:
    own, default = invoice.collection.autopay_method_id, loaded.default_method_id
    if method.id in (own, default) and own in (None, method.id):
        return True
    client_id = loaded.payment.client_id
    attached = (await methods.of_clients(uow, [client_id]))[client_id]
    chosen = choose(attached, own, default).method
    return chosen is not None and chosen.id == method.id


async def _recent_declines(uow: UnitOfWork, loaded: Loaded, method: PaymentMethod) -> list[datetime]:
    """When tries of the method's card were refused lately; asks only where there was a refusal at all."""
    since = uow.now - retries.TRIES_WINDOW
    if loaded.card_failure_time is None or loaded.card_failure_time <= since:
        return []
    return await methods.declines_since(uow, method, since)


async def cancel_unsent(
    uow: UnitOfWork,
    loaded: Loaded,
    invoices: Sequence[Invoice],
    reason: str,
    *,
    again_at: datetime | None,
    keep_schedule: bool = False,
) -> None:
    """Close an attempt that is provably not with the provider, cancel its payment, release its invoices.

    The slot goes on under a new revision at `again_at`; None ends the collection.
    """
    payment = loaded.payment
    await attempts.settle(
        uow, loaded, state=AttemptState.CLOSED.value, message=reason, attempt_finish_time=uow.now, needs_person=False,
        payment_state=PaymentState.CANCELLED.value, payment_message=reason, finish_time=uow.now, release=True,
    )  # fmt: skip
    invoice = invoices[0] if payment.kind is PaymentKind.AUTOPAY else None
    if invoice is not None and invoice.collection.collection_cycle == payment.cycle:
        collection, columns = invoice.collection, dict[str, Any]()
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
        await wake_if_due(uow, invoices)
    if payment.kind is PaymentKind.CHECKOUT:
        await sessions.follow_payment(uow, payment.id, AttemptState.CLOSED, ended=False)
    metadata = {
        "invoice_id": encode(Prefix.INVOICE, payment.invoice_id) if payment.invoice_id else None, "client_id": encode(Prefix.CLIENT, payment.client_id), "reason": reason,
        "again_time": again_at.isoformat() if again_at else None,
    }  # fmt: skip
    await record(
        uow,
        Change(Category.PAYMENT, "payment_cancelled", "payment", payment.id, "payment.cancelled", metadata=metadata),
    )
