"""Voiding and writing off: the two ways in which an invoice ends without being paid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from uuid import UUID

from dunwell_server.billing import packages
from dunwell_server.billing.errors import invoice_conflict
from dunwell_server.billing.events import InvoicesClosed, InvoicesClosing, Verb
from dunwell_server.billing.lines import earned_and_deferred
from dunwell_server.billing.model import VOIDABLE, WRITABLE_OFF, AutopayStatus, Invoice
from dunwell_server.billing.recognition import NOTHING_TAKEN
from dunwell_server.billing.service import coupons, credit_application, recognition, time_billing
from dunwell_server.billing.service.invoices import get_invoice, locked_invoice
from dunwell_server.billing.service.journal import invoice_change
from dunwell_server.billing.store import engagements as engagement_store
from dunwell_server.billing.store import invoices as store
from dunwell_server.ledger import rules as ledger_rules
from dunwell_server.ledger import service as ledger
from dunwell_server.platform import journal
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Severity


async def void_invoice(
    uow: UnitOfWork, invoice_id: UUID, *, reason: str = "", expected_version: int | None = None
) -> Invoice:
    """Void an invoice of which nothing was received: it is not owed, and its periods are billed again by the next run.

    The number stays used. Errors: RESOURCE_NOT_FOUND, ETAG_MISMATCH, COLLECTION_IN_PROGRESS, STATE_CONFLICT unless it is
    SENT, FAILED or OVERDUE and nothing was received.
    """
    invoice = await locked_invoice(uow, invoice_id, expected_version, [engagement_store.LOCK_COVERED_BY])
    if invoice.state not in VOIDABLE or invoice.amount_received:
        raise invoice_conflict(
            invoice, "VoidInvoice", "an invoice that is SENT, FAILED or OVERDUE and of which nothing was received"
        )
    await uow.publish(InvoicesClosing([invoice], "void"))
    await _give_credit_back(uow, invoice)
    earned, deferred = earned_and_deferred(invoice.lines)
    taken = (await recognition.take_back_all(uow, [invoice_id]))[invoice_id] if deferred else NOTHING_TAKEN
    posting = ledger_rules.invoice_voided(
        invoice.id, invoice.client_id, invoice.currency_code,
        earned=earned + taken.earned, deferred=deferred - taken.earned, tax=invoice.tax_total,
    )  # fmt: skip
    await ledger.post(uow, [posting])
    if any(discount.redemption_id for discount in invoice.discounts):
        await coupons.give_back(uow, [invoice_id])
    await _bill_again(uow, invoice_id)
    await time_billing.release(uow, invoice_id)
    return await _close(uow, invoice, "void", {"void_time": uow.now, "amount_credited": 0}, reason)


async def write_off_invoice(
    uow: UnitOfWork, invoice_id: UUID, *, reason: str = "", expected_version: int | None = None
) -> Invoice:
    """Give up what is still due: it becomes bad debt, and the invoice UNCOLLECTIBLE. It may be paid all the same.

    Errors: RESOURCE_NOT_FOUND, ETAG_MISMATCH, COLLECTION_IN_PROGRESS, STATE_CONFLICT unless it is SENT, FAILED, OVERDUE
    or CHARGED_BACK.
    """
    invoice = await locked_invoice(uow, invoice_id, expected_version)
    if invoice.state not in WRITABLE_OFF:
        raise invoice_conflict(invoice, "WriteOffInvoice", "an invoice that is SENT, FAILED, OVERDUE or CHARGED_BACK")
    await uow.publish(InvoicesClosing([invoice], "write_off"))
    posting = ledger_rules.invoice_written_off(invoice.id, invoice.client_id, invoice.currency_code, invoice.amount_due)
    await ledger.post(uow, [posting])
    return await _close(uow, invoice, "write_off", {"write_off_time": uow.now}, reason)


async def _close(uow: UnitOfWork, invoice: Invoice, verb: Verb, facts: dict[str, Any], reason: str) -> Invoice:
    """Write the closing fact, cancel what of the collection is still going on, tell everybody."""
    collection = invoice.collection
    status = collection.autopay_status
    going_on = (AutopayStatus.SCHEDULED, AutopayStatus.PROCESSING, AutopayStatus.FAILED)
    facts["autopay_status"] = AutopayStatus.CANCELLED if status in going_on else status
    facts["autopay_next_charge_time"] = None
    facts["retry_pending"] = False
    await store.update(uow, invoice.id, facts)
    closed = replace(await get_invoice(uow, invoice.id), lines=invoice.lines)
    action = "voided" if verb == "void" else "written_off"
    details: dict[str, Any] = {"reason": reason or None}
    if verb == "write_off":
        details["written_off_minor"] = invoice.amount_due
    await journal.record(uow, invoice_change(closed, action, details, Severity.WARNING))
    await uow.publish(InvoicesClosed([closed], verb))
    return closed


async def _give_credit_back(uow: UnitOfWork, invoice: Invoice) -> None:
    """Give all credit back that was applied. STATE_CONFLICT where a credit note has taken something back already."""
    if not invoice.amount_credited:
        return
    uses = await credit_application.give_back(uow, [invoice], reason="voided")
    if sum(use.amount_minor for use in uses) != invoice.amount_credited:
        raise invoice_conflict(invoice, "VoidInvoice", "an invoice without credit notes")


async def _bill_again(uow: UnitOfWork, invoice_id: UUID) -> None:
    """Release what the invoice covered, and have the next run of its engagements begin there."""
    released = await engagement_store.release(uow, invoice_id)
    if not released:
        return
    engagements = await engagement_store.get_many(uow, list(released))
    for engagement_id, start in sorted(released.items()):
        engagement = engagements[engagement_id]
        billed_through = min(engagement.billed_through_date, start)
        covered = await engagement_store.covered(uow, engagement_id, billed_through)
        await engagement_store.update(uow, engagement_id, {
            "billed_through_date": billed_through,
            "next_bill_date": packages.next_bill_date(engagement, billed_through, covered),
            "void_count": engagement.void_count + 1,
        })  # fmt: skip
