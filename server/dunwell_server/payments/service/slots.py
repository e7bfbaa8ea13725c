"""What a failed slot does to its invoice, and what is told about it."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from dunwell_server.billing.model import AutopayStatus, Invoice
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments.model import COLLECTIBLE, Failure
from dunwell_server.payments.retries import next_retry
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Category, Change, Severity
from dunwell_server.platform.work import WorkKind, wake


def still_collected(invoice: Invoice, *, client_enabled: bool, cycle: int | None) -> bool:
    """Whether automatic collection of the invoice goes on: owed, enrolled in this cycle, and the client's autopay on."""
    collection = invoice.collection
    return (
        client_enabled
        and collection.autopay_enabled
        and invoice.state in COLLECTIBLE
        and invoice.open_amount > 0
        and collection.collection_cycle == cycle
    )


def ended() -> dict[str, Any]:
    """Collection columns of an invoice whose collection has ended without success."""
    return {"autopay_status": AutopayStatus.CANCELLED, "autopay_next_charge_time": None, "retry_pending": False}


def failed(uow: UnitOfWork, slot: int, failure: Failure) -> dict[str, Any]:
    """Collection columns after slot `slot` has failed: the next retry, or the end of them.

    Advice of the provider may delay the retry, never advance it.
    """
    failures = slot + 1
    due = next_retry(uow.firm.settings, failures, uow.now, failure.not_before)
    return {
        **recorded(uow.now, slot, failure),
        "failure_count": failures,
        "autopay_status": AutopayStatus.FAILED,
        "autopay_next_charge_time": due,
        "retry_pending": due is not None,
        "retries_exhausted": due is None,
    }


def recorded(now: datetime, slot: int, failure: Failure) -> dict[str, Any]:
    """Collection columns that tell of the failure alone."""
    columns: dict[str, Any] = {
        "failure_code": failure.code.value,
        "failure_provider_code": failure.provider_code,
        "failure_message": failure.message,
        "failure_time": now,
    }
    if slot > 0:
        columns["last_retry_time"] = now
    return columns


def told(
    invoice_id: UUID | None,
    client_id: UUID,
    payment_id: UUID,
    slot: int | None,
    failure: Failure,
    columns: dict[str, Any],
) -> list[Change]:
    """Journal entries of a failed payment; for the last slot, also the notice to the firm's administrators."""
    due: datetime | None = columns.get("autopay_next_charge_time")
    exhausted = bool(columns.get("retries_exhausted"))
    metadata: dict[str, Any] = {
        "invoice_id": encode(Prefix.INVOICE, invoice_id) if invoice_id else None,
        "client_id": encode(Prefix.CLIENT, client_id),
        "failure_code": failure.code.value,
        "provider_code": failure.provider_code,
        "decline_class": failure.decline_class.value if failure.decline_class else None,
        "slot_no": slot,
        "next_retry_time": due.isoformat() if due else None,
        "retries_exhausted": exhausted,
    }
    changes = [
        Change(Category.PAYMENT, "payment_failed", "payment", payment_id, "payment.failed", Severity.WARNING, metadata)
    ]
    if exhausted and invoice_id is not None:
        notice = {"notice": "collection_exhausted", "payment_id": encode(Prefix.PAYMENT, payment_id), **metadata}
        changes.append(
            Change(
                Category.PAYMENT,
                "collection_exhausted",
                "invoice",
                invoice_id,
                "admin.notice",
                Severity.CRITICAL,
                notice,
            )
        )
    return changes


def paid_before(invoice_id: UUID, client_id: UUID, payment_id: UUID) -> Change:
    """The notice that an invoice's slot was paid before a restore lost the invoice: the money is credit, a person settles the invoice."""
    metadata = {
        "notice": "slot_paid_before", "client_id": encode(Prefix.CLIENT, client_id), "payment_id": encode(Prefix.PAYMENT, payment_id),
    }  # fmt: skip
    return Change(
        Category.PAYMENT, "slot_paid_before", "invoice", invoice_id, "admin.notice", Severity.CRITICAL, metadata
    )


async def wake_for(uow: UnitOfWork, columns: dict[str, Any]) -> None:
    """Have collection look at the firm when the retry is due."""
    due = columns.get("autopay_next_charge_time")
    if due is not None:
        await wake(uow, WorkKind.COLLECT, due)
