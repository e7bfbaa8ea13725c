"""Switching automatic collection on and off, for a client and for one invoice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from dunwell_server.billing.model import AutopayCadence, AutopayStatus, Client, Invoice, InvoiceState
from dunwell_server.billing.service.clients import get_client
from dunwell_server.billing.service.collection import lock_invoices, set_autopay, set_collection
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments.model import PaymentMethod
from dunwell_server.payments.planning import first_charge
from dunwell_server.payments.service import reactions
from dunwell_server.payments.service.methods import follow_default, method_of
from dunwell_server.payments.store import scheduling
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Category, Change, record
from dunwell_server.platform.work import WorkKind, wake

_ENROLLABLE = (InvoiceState.SENT, InvoiceState.FAILED, InvoiceState.OVERDUE)


@dataclass(frozen=True, slots=True)
class AutopayChange:
    """What switching a client's autopay did."""

    client: Client
    enrolled: int
    cancelled: int


async def switch_client(
    uow: UnitOfWork,
    client_id: UUID,
    *,
    enabled: bool,
    method_id: UUID | None = None,
    cadence: AutopayCadence | None = None,
    enroll_open: bool = False,
    expected_version: int | None = None,
) -> AutopayChange:
    """SetAutopay. On needs a usable method and keeps the time of enabling; off cancels what waits, at once.

    Errors: RESOURCE_NOT_FOUND, ETAG_MISMATCH, PAYMENT_METHOD_MISSING, PAYMENT_METHOD_UNUSABLE.
    """
    await scheduling.lock_client(uow, client_id)
    client = await get_client(uow, client_id)
    if expected_version is not None and expected_version != client.version:
        raise DunwellError(
            Reason.ETAG_MISMATCH, "The client has changed since it was read; read it again and repeat the change.",
            resource=("Client", encode(Prefix.CLIENT, client_id)),
        )  # fmt: skip
    if not enabled:
        return await _off(uow, client, method_id, cadence)
    method = await usable_method(uow, client_id, method_id or client.autopay_method_id)
    since = client.autopay_enable_time if client.autopay_enabled else uow.now
    changed = await set_autopay(uow, client_id, True, method.id, cadence or client.autopay_cadence, since or uow.now)
    await follow_default(uow, changed, client.autopay_method_id)
    enrolled = await _enroll_open(uow, changed) if enroll_open else 0
    await record(uow, _told(changed, "autopay_enabled", "client.autopay_enabled", enrolled=enrolled))
    return AutopayChange(changed, enrolled, 0)


async def _off(
    uow: UnitOfWork, client: Client, method_id: UUID | None, cadence: AutopayCadence | None
) -> AutopayChange:
    if method_id is not None:
        await method_of(uow, client.id, method_id)
    changed = await set_autopay(
        uow,
        client.id,
        False,
        method_id or client.autopay_method_id,
        cadence or client.autopay_cadence,
        client.autopay_enable_time,
    )
    invoices = await lock_invoices(uow, await scheduling.going_on(uow, client.id))
    cancelled = await reactions.stop(uow, invoices, "autopay was switched off", autopay_enabled=False)
    await record(uow, _told(changed, "autopay_disabled", "client.autopay_disabled", cancelled=cancelled))
    return AutopayChange(changed, 0, cancelled)


async def _enroll_open(uow: UnitOfWork, client: Client) -> int:
    invoices = await lock_invoices(uow, await scheduling.open_invoices(uow, client.id))
    columns: dict[UUID, dict[str, Any]] = {}
    for invoice in invoices:
        if invoice.state in _ENROLLABLE and not (invoice.collection.autopay_enabled and _is_going_on(invoice)):
            columns[invoice.id] = _enrolment(uow, invoice, client, client.autopay_method_id, client.autopay_cadence)
    await _enroll(uow, columns)
    return len(columns)


def _is_going_on(invoice: Invoice) -> bool:
    return (
        invoice.collection.autopay_status in (AutopayStatus.SCHEDULED, AutopayStatus.PROCESSING)
        or invoice.retry_pending
    )


def _enrolment(
    uow: UnitOfWork, invoice: Invoice, client: Client, method_id: UUID | None, cadence: AutopayCadence
) -> dict[str, Any]:
    """Collection columns of an invoice that is enrolled anew: a fresh cycle with all its slots, unless one is in flight."""
    columns: dict[str, Any] = {"autopay_enabled": True, "autopay_cadence": cadence, "autopay_method_id": method_id}
    collection = invoice.collection
    if collection.autopay_status is AutopayStatus.PROCESSING:
        return columns
    assert invoice.due_date is not None
    due = first_charge(uow.firm.settings, cadence, uow.now, invoice.due_date, client.autopay_enable_time)
    columns |= {"autopay_status": AutopayStatus.SCHEDULED, "autopay_next_charge_time": max(due, uow.now)}
    if collection.autopay_status is not None:
        columns |= {"collection_cycle": collection.collection_cycle + 1, "failure_count": 0}
    return columns | {"retry_pending": False, "retries_exhausted": False}


async def _enroll(uow: UnitOfWork, columns: dict[UUID, dict[str, Any]]) -> None:
    if not columns:
        return
    await set_collection(uow, columns)
    due = [at for each in columns.values() if (at := each.get("autopay_next_charge_time")) is not None]
    if due:
        await wake(uow, WorkKind.COLLECT, min(due))


async def switch_invoice(
    uow: UnitOfWork,
    invoice_id: UUID,
    *,
    enabled: bool,
    method_id: UUID | None = None,
    cadence: AutopayCadence | None = None,
    expected_version: int | None = None,
) -> Invoice:
    """SetInvoiceAutopay. A draft remembers the choice; an invoice whose collection had ended begins a new cycle.

    Errors: RESOURCE_NOT_FOUND, ETAG_MISMATCH, AUTOPAY_DISABLED, PAYMENT_METHOD_MISSING, PAYMENT_METHOD_UNUSABLE, STATE_CONFLICT,
    COLLECTION_IN_PROGRESS.
    """
    [invoice] = await lock_invoices(uow, [invoice_id])
    if expected_version is not None and expected_version != invoice.version:
        raise DunwellError(
            Reason.ETAG_MISMATCH, "The invoice has changed since it was read; read it again and repeat the change.",
            resource=("Invoice", encode(Prefix.INVOICE, invoice_id)),
        )  # fmt: skip
    if not enabled:
        await reactions.stop(uow, [invoice], "the invoice was taken off autopay", autopay_enabled=False)
    else:
        await _switch_on(uow, invoice, method_id, cadence)
    [changed] = await lock_invoices(uow, [invoice_id])
    metadata = {
        "invoice_id": encode(Prefix.INVOICE, invoice_id), "client_id": encode(Prefix.CLIENT, invoice.client_id), "enabled": enabled,
    }  # fmt: skip
    await record(uow, Change(
        Category.PAYMENT, "invoice_autopay_set", "invoice", invoice_id, "invoice.autopay_set", metadata=metadata,
    ))  # fmt: skip
    return changed


async def _switch_on(uow: UnitOfWork, invoice: Invoice, method_id: UUID | None, cadence: AutopayCadence | None) -> None:
    client = await get_client(uow, invoice.client_id)
    if not client.autopay_enabled:
        raise DunwellError(
            Reason.AUTOPAY_DISABLED, "The client's autopay is switched off; see SetAutopay.",
            resource=("Client", encode(Prefix.CLIENT, client.id)),
        )  # fmt: skip
    if method_id is not None or client.autopay_method_id is not None:
        await usable_method(uow, client.id, method_id or client.autopay_method_id)
    else:
        raise missing_method(client.id)
    chosen = cadence or client.autopay_cadence
    if invoice.state is InvoiceState.DRAFT:
        columns: dict[str, Any] = {"autopay_enabled": True, "autopay_cadence": chosen, "autopay_method_id": method_id}
        await set_collection(uow, {invoice.id: columns})
        return
    if invoice.state not in _ENROLLABLE or not invoice.amount_due:
        raise DunwellError(
            Reason.STATE_CONFLICT, f"Autopay needs an invoice that is sent and owed; the invoice is {invoice.state}.",
            metadata={"state": invoice.state.value, "allowed": "none"}, resource=("Invoice", encode(Prefix.INVOICE, invoice.id)),
        )  # fmt: skip
    busy = await scheduling.being_collected(uow, [invoice.id])
    if busy is not None:
        raise reactions.in_progress(*busy)
    columns = _enrolment(uow, invoice, client, method_id, chosen)
    if invoice.collection.autopay_enabled and invoice.retry_pending:
        # Re-choosing method or cadence during the retries resets nothing: the schedule and its count stay.
        columns = {"autopay_method_id": method_id, "autopay_cadence": chosen}
    await _enroll(uow, {invoice.id: columns})


async def usable_method(uow: UnitOfWork, client_id: UUID, method_id: UUID | None) -> PaymentMethod:
    """The client's method, if it can be charged. Errors: PAYMENT_METHOD_MISSING, PAYMENT_METHOD_UNUSABLE, RESOURCE_NOT_FOUND."""
    if method_id is None:
        raise missing_method(client_id)
    method = await method_of(uow, client_id, method_id)
    if not method.usable:
        raise unusable_method(method)
    return method


def missing_method(client_id: UUID) -> DunwellError:
    """The client has no method to charge."""
    return DunwellError(
        Reason.PAYMENT_METHOD_MISSING, "The client has no usable payment method; attach one first.",
        resource=("Client", encode(Prefix.CLIENT, client_id)),
    )  # fmt: skip


def unusable_method(method: PaymentMethod) -> DunwellError:
    """The method cannot be charged in its state."""
    return DunwellError(
        Reason.PAYMENT_METHOD_UNUSABLE, f"The payment method is {method.state}; it cannot be charged.",
        metadata={"state": method.state.value, "block_code": method.block_code or ""},
        resource=("PaymentMethod", encode(Prefix.PAYMENT_METHOD, method.id)),
    )  # fmt: skip


def _told(client: Client, action: str, event: str, **more: Any) -> Change:
    metadata = {"client_id": encode(Prefix.CLIENT, client.id), "cadence": client.autopay_cadence.value, **more}
    return Change(Category.PAYMENT, action, "client", client.id, event, metadata=metadata)
