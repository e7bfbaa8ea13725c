"""What disputes may do to invoices: mark them disputed, and take money that was lost off what they have received."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from dunwell_server.billing.events import AmountDueChanged
from dunwell_server.billing.model import Invoice
from dunwell_server.billing.service.journal import invoice_change
from dunwell_server.billing.store import invoices as store
from dunwell_server.platform import journal
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Severity


@dataclass(frozen=True, slots=True)
class DisputeChange:
    """What changes of an invoice's facts about disputes; amounts in minor units."""

    open_chargebacks: int = 0
    lost_disputes: int = 0
    charged_back: int = 0


async def apply_disputes(uow: UnitOfWork, changes: Mapping[UUID, DisputeChange]) -> list[Invoice]:
    """Change the facts of invoices that this transaction has locked; their new facts, in id order, without lines.

    Journals what their state has become, and publishes AmountDueChanged where what is owed has changed.
    """
    if not changes:
        return []
    updated = await store.add_disputes(
        uow,
        {
            invoice_id: (change.open_chargebacks, change.lost_disputes, change.charged_back)
            for invoice_id, change in changes.items()
        },
    )
    for invoice in updated:
        change = changes[invoice.id]
        verb = "disputed" if change.open_chargebacks > 0 else "charged_back" if change.charged_back > 0 else None
        if verb is not None:
            await journal.record(uow, invoice_change(invoice, verb, severity=Severity.CRITICAL))
        elif change.open_chargebacks < 0 or change.charged_back < 0:
            await journal.record(uow, invoice_change(invoice, "dispute_settled"))
    owed = [invoice for invoice in updated if changes[invoice.id].charged_back]
    if owed:
        await uow.publish(AmountDueChanged(owed))
    return updated
