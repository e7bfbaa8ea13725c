"""What disputes ask of payments: whose they are, what they have settled, and to note what was contested or taken back."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from dunwell_server.billing.model import Invoice
from dunwell_server.billing.service.clients import get_client
from dunwell_server.billing.service.collection import lock_invoices
from dunwell_server.payments.model import PaymentState
from dunwell_server.payments.service import reactions
from dunwell_server.payments.service.refund_outcomes import give_way
from dunwell_server.payments.store import disputed as store
from dunwell_server.payments.store import payments
from dunwell_server.platform.database import UnitOfWork


@dataclass(frozen=True, slots=True)
class DisputedPayment:
    """A payment under dispute, locked together with its client and invoices. Amounts in minor units."""

    id: UUID
    client_id: UUID
    succeeded: bool
    currency_code: str
    provider: str
    left_minor: int
    """Captured, and neither refunded, asked back, nor charged back yet."""
    settled: tuple[tuple[UUID, int], ...]
    """Invoice and what the payment still settles of it, the newest allocation first."""
    credit_minor: int
    """The client's credit."""
    invoices: dict[UUID, Invoice]


async def find_payment(uow: UnitOfWork, account_id: UUID, reference: str) -> UUID | None:
    """The payment that a provider's account knows under this id; None where the book has none."""
    return await store.find(uow, account_id, reference)


async def lock_payment(uow: UnitOfWork, payment_id: UUID) -> DisputedPayment:
    """Lock client, invoices and payment, in this order, and read what a dispute needs."""
    around = await store.invoices_of(uow, payment_id)
    invoices = await lock_invoices(uow, around["invoices"]) if around["invoices"] else []
    if not invoices:
        await get_client(uow, around["client_id"], lock=True)
    payment = await store.lock(uow, payment_id)
    settled = await store.settled(uow, payment_id)
    return DisputedPayment(
        payment_id,
        payment["client_id"],
        payment["state"] == PaymentState.SUCCEEDED,
        payment["currency_code"],
        payment["provider"],
        payment["left_minor"],
        tuple((row["invoice_id"], row["amount_minor"]) for row in settled),
        await store.client_credit(uow, payment["client_id"], payment["currency_code"]),
        {invoice.id: invoice for invoice in invoices},
    )


async def note_dispute(uow: UnitOfWork, payment_id: UUID, *, opened: int = 0, charged_back: int = 0) -> None:
    """Add to the payment's open disputes, and to what was charged back of it. While one is open it cannot be refunded."""
    if opened or charged_back:
        await store.record(uow, payment_id, opened, charged_back)


async def make_room(uow: UnitOfWork, payment: DisputedPayment, amount_minor: int) -> DisputedPayment:
    """The payment, locked, with room for what the bank has taken, where refunds that have not been sent keep that back."""
    if payment.left_minor >= amount_minor:
        return payment
    beyond = amount_minor - payment.left_minor
    await give_way(uow, payment.id, beyond, "the payment was charged back", code="payment_disputed")
    return await lock_payment(uow, payment.id)


async def stop_collection(uow: UnitOfWork, invoices: list[Invoice]) -> None:
    """A disputed invoice is not collected automatically any more."""
    await reactions.stop(uow, invoices, "a dispute was opened")


async def is_settled(uow: UnitOfWork, payment_id: UUID) -> bool:
    """Whether the payment's money has been received, as far as the book knows."""
    payment = await payments.get(uow, payment_id)
    return payment is not None and payment.state is PaymentState.SUCCEEDED
