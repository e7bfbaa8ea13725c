"""What documents show of payments: billing's port `PaymentOptions`."""

from __future__ import annotations

from uuid import UUID

from dunwell_server.billing.ports import PayOptions, ReceivedPayment
from dunwell_server.kernel.calendar import local_date
from dunwell_server.payments.model import PaymentState
from dunwell_server.payments.store import documents as store
from dunwell_server.platform.database import UnitOfWork


class DocumentPayments:
    """Reads links and payments for documents."""

    async def options(self, uow: UnitOfWork, invoice_id: UUID) -> PayOptions:
        """The open hosted link of the invoice, if there is one."""
        link = await store.open_link(uow, invoice_id)
        return PayOptions() if link is None else PayOptions(link["url"], link["expire_time"])

    async def received(self, uow: UnitOfWork, payment_id: UUID) -> ReceivedPayment | None:
        """The payment as its receipt tells of it."""
        row = await store.received(uow, payment_id)
        if row is None:
            return None
        return ReceivedPayment(
            id=row["id"],
            client_id=row["client_id"],
            succeeded=row["state"] == PaymentState.SUCCEEDED,
            day=row["received_date"] or local_date(row["paid_time"], uow.firm.settings.zone),
            currency_code=row["currency_code"],
            amount_minor=row["captured_minor"],
            credited_minor=row["credited_minor"],
            refunded_minor=row["refunded_minor"],
            method=row["manual_method"] or row["kind"] or "",
            brand=row["brand"] or "",
            last4=row["last4"] or "",
            reference=row["manual_reference"] or "",
            parts=[(number, amount) for number, amount in row["parts"]],
        )
