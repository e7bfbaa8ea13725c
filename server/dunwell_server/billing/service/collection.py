"""What payments may do to invoices: lock them, apply money, set how they and their clients are collected from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import UUID

from dunwell_server.billing.errors import invoice_conflict, not_found
from dunwell_server.billing.events import AmountDueChanged
from dunwell_server.billing.model import Client, Invoice, InvoiceState
from dunwell_server.billing.service.journal import invoice_change
from dunwell_server.billing.store import clients as client_store
from dunwell_server.billing.store import invoices as store
from dunwell_server.platform import journal
from dunwell_server.platform.database import UnitOfWork


@dataclass(frozen=True, slots=True)
class AppliedMoney:
    """What became of money for one invoice, in minor units: it settled what was owed, or recovered what was written off.

    One of the two is zero. The invoice carries the new facts, without lines.
    """

    invoice: Invoice
    settled: int
    recovered: int


async def lock_invoices(uow: UnitOfWork, ids: Collection[UUID]) -> list[Invoice]:
    """Lock the invoices' clients, then the invoices, each in id order; their fresh facts in id order, without lines.

    Errors: RESOURCE_NOT_FOUND naming the first that the firm does not have.
    """
    wanted = sorted(set(ids))
    invoices = await store.lock_many(uow, wanted)
    if len(invoices) != len(wanted):
        found = {invoice.id for invoice in invoices}
        raise not_found("Invoice", next(invoice_id for invoice_id in wanted if invoice_id not in found))
    return invoices


async def apply_money(uow: UnitOfWork, received: Mapping[UUID, int]) -> list[AppliedMoney]:
    """Add money (minor units, positive) to invoices that this transaction has locked; in id order.

    The caller splits what it received so that no invoice gets more than it owes; the database refuses more. Sets
    `paid_time` and journals `invoice.paid` where nothing is due any more, then publishes AmountDueChanged.
    """
    if not received:
        return []
    if any(amount <= 0 for amount in received.values()):
        raise ValueError("only positive amounts are received")
    updated = await store.add_money(uow, received)
    if len(updated) != len(received):
        known = {invoice.id for invoice in updated}
        raise not_found("Invoice", next(invoice_id for invoice_id in received if invoice_id not in known))
    applied: list[AppliedMoney] = []
    for invoice in updated:
        amount = received[invoice.id]
        written_off = invoice.write_off_time is not None
        applied.append(AppliedMoney(invoice, 0 if written_off else amount, amount if written_off else 0))
    settled = [invoice for invoice in updated if invoice.amount_due == 0]
    await journal.record(uow, *(invoice_change(invoice, "paid") for invoice in settled))
    await uow.publish(AmountDueChanged(updated))
    return applied


async def set_collection(uow: UnitOfWork, changes: Mapping[UUID, Mapping[str, Any]]) -> None:
    """Set columns of `CollectionColumns`, by name, on invoices that this transaction has locked. The caller journals.

    One statement for each set of columns. Raises ValueError for a name that is not a collection column.
    """
    plain = {
        invoice_id: {name: value.value if isinstance(value, Enum) else value for name, value in columns.items()}
        for invoice_id, columns in changes.items()
    }
    await store.set_collection(uow, plain)


async def set_autopay(
    uow: UnitOfWork,
    client_id: UUID,
    enabled: bool,
    method_id: UUID | None,
    cadence: str,
    enable_time: datetime | None,
) -> Client:
    """Set the client's autopay settings, under a lock on the client. The caller journals.

    `enable_time` is firm time and required when enabled. Errors: RESOURCE_NOT_FOUND.
    """
    client = await client_store.get(uow, client_id, lock=True)
    if client is None:
        raise not_found("Client", client_id)
    updated = await client_store.update(uow, client_id, {
        "autopay_enabled": enabled,
        "autopay_method_id": method_id,
        "autopay_cadence": str(cadence),
        "autopay_enable_time": enable_time,
    })  # fmt: skip
    assert updated is not None
    return updated


def refuse_closed(invoices: Sequence[Invoice], verb: str) -> None:
    """Raise STATE_CONFLICT for the first invoice of which nothing can be collected: a draft, void or paid one."""
    for invoice in invoices:
        if invoice.state in (InvoiceState.DRAFT, InvoiceState.VOID) or not invoice.amount_due:
            raise invoice_conflict(invoice, verb, "an invoice that is sent and owed")
