"""What payments do when billing tells that invoices were sent, paid, or closed. Bootstrap subscribes these, in this order of events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from dunwell_server.billing.events import (
    AmountDueChanged,
    CreditPlanning,
    InvoicesClosed,
    InvoicesClosing,
    InvoicesFinalized,
)
from dunwell_server.billing.model import AutopayStatus, Invoice
from dunwell_server.billing.service.collection import set_collection
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments.model import AttemptState
from dunwell_server.payments.service import slots
from dunwell_server.payments.service.sending import cancel_unsent
from dunwell_server.payments.store import attempts, scheduling
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.domain_events import Bus
from dunwell_server.platform.work import WorkKind, wake

_WAITING = (AutopayStatus.SCHEDULED, AutopayStatus.FAILED)


def subscribe(bus: Bus) -> None:
    """Wire payments to billing's events."""
    bus.subscribe(InvoicesFinalized, on_finalized)
    bus.subscribe(AmountDueChanged, on_amount_due_changed)
    bus.subscribe(InvoicesClosing, on_closing)
    bus.subscribe(CreditPlanning, on_credit_planning)
    bus.subscribe(InvoicesClosed, on_closed)


async def on_finalized(uow: UnitOfWork, event: InvoicesFinalized) -> None:
    """Have collection look at the firm when the first of the invoices is due."""
    due = [at for invoice in event.invoices if (at := invoice.collection.autopay_next_charge_time) is not None]
    if due:
        await wake(uow, WorkKind.COLLECT, min(due))


async def on_amount_due_changed(uow: UnitOfWork, event: AmountDueChanged) -> None:
    """What is paid is not asked for again: pending retries and everything scheduled are cancelled at once, links and pages are closed."""
    paid = [invoice for invoice in event.invoices if invoice.amount_due == 0]
    await stop(uow, paid, "the invoice was paid otherwise")
    if paid and await scheduling.ask_now(uow, [invoice.id for invoice in paid]):
        await wake(uow, WorkKind.ATTEMPTS)


async def on_closing(uow: UnitOfWork, event: InvoicesClosing) -> None:
    """Refuse while money may still come, and to give money back that a refund is about to: COLLECTION_IN_PROGRESS."""
    ids = [invoice.id for invoice in event.invoices]
    busy = await scheduling.being_collected(uow, ids)
    if busy is None and event.verb == "give_back":
        busy = await scheduling.being_refunded(uow, ids)
    if busy is not None:
        raise in_progress(*busy)


async def on_credit_planning(uow: UnitOfWork, event: CreditPlanning) -> None:
    """Money that is asked back is not spent meanwhile."""
    event.reserved.update(await scheduling.asked_back(uow, event.payments))


async def on_closed(uow: UnitOfWork, event: InvoicesClosed) -> None:
    """Nothing of a closed invoice is collected any more."""
    await stop(uow, event.invoices, "the invoice was closed")


def in_progress(invoice_id: UUID, payment_id: UUID | None = None) -> DunwellError:
    """COLLECTION_IN_PROGRESS: one channel at a time asks for an invoice's money."""
    metadata = {"payment_id": encode(Prefix.PAYMENT, payment_id)} if payment_id else {}
    return DunwellError(
        Reason.COLLECTION_IN_PROGRESS,
        "The invoice is being collected, or the outcome of its collection is not known yet; try again when it is.",
        metadata=metadata,
        resource=("Invoice", encode(Prefix.INVOICE, invoice_id)),
    )


async def stop(uow: UnitOfWork, invoices: Sequence[Invoice], reason: str, **more: Any) -> int:
    """End the automatic collection of locked invoices at once; what is with a provider finishes. Returns how many were waiting.

    `more` are further collection columns to set on each.
    """
    if not invoices:
        return 0
    in_flight = [invoice for invoice in invoices if invoice.collection.autopay_status == AutopayStatus.PROCESSING]
    if in_flight:
        await _close_unsent(uow, in_flight, reason)
    columns: dict[UUID, dict[str, Any]] = {}
    stopped = 0
    for invoice in invoices:
        collection = invoice.collection
        waits = collection.autopay_next_charge_time is not None or collection.retry_pending
        if waits and (collection.autopay_status in _WAITING or collection.autopay_status is None):
            columns[invoice.id] = {**slots.ended(), **more}
            stopped += 1
        elif more:
            columns[invoice.id] = dict(more)
    if columns:
        await set_collection(uow, columns)
    return stopped


async def _close_unsent(uow: UnitOfWork, invoices: Sequence[Invoice], reason: str) -> None:
    """Close what was claimed but is not with the provider: it must not be sent any more."""
    by_id = {invoice.id: invoice for invoice in invoices}
    for attempt_id, invoice_id in await scheduling.unsent_attempts(uow, list(by_id)):
        loaded = await attempts.load(uow, attempt_id)
        if loaded.attempt.state in (AttemptState.CREATED, AttemptState.NOT_SENT):
            await cancel_unsent(uow, loaded, [by_id[invoice_id]], reason, again_at=None)
