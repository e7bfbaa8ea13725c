"""RecordManualPayment: money that came outside any provider. It is always recorded, whatever else is going on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from uuid import UUID

from dunwell_server.billing.model import Invoice
from dunwell_server.billing.service import credit
from dunwell_server.billing.service.clients import get_client
from dunwell_server.billing.service.collection import AppliedMoney, apply_money, lock_invoices
from dunwell_server.kernel.calendar import local_date
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.ledger import rules
from dunwell_server.ledger.service import post
from dunwell_server.payments.model import Allocation, Payment, PaymentKind, manual_payment_id
from dunwell_server.payments.store import payments, scheduling
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Category, Change, record

PROVIDER = "manual"


async def record_manual(
    uow: UnitOfWork,
    client_id: UUID,
    amount_minor: int,
    currency_code: str,
    *,
    method: str,
    reference: str | None = None,
    received_date: date | None = None,
    allocations: Sequence[Allocation] = (),
) -> Payment:
    """Record money and settle invoices with it: as told, or the client's open ones in that currency, the one due first before the others.

    What an invoice cannot take (it owes less by now, is paid, void or a draft) becomes the client's credit: the money is here. Errors:
    RESOURCE_NOT_FOUND, CURRENCY_MISMATCH, STATE_CONFLICT for another client's invoice, AMOUNT_OUT_OF_RANGE for allocations above the amount,
    PERIOD_INVALID for a day to come.
    """
    today = local_date(uow.now, uow.firm.settings.zone)
    if received_date is not None and received_date > today:
        raise DunwellError(Reason.PERIOD_INVALID, "received_date lies in the future.", field="received_date")
    await scheduling.lock_client(uow, client_id)
    client = await get_client(uow, client_id)
    if allocations:
        invoices = await lock_invoices(uow, [part.invoice_id for part in allocations])
        _check(invoices, client_id, currency_code, amount_minor, allocations)
        wanted = {part.invoice_id: part.amount_minor for part in allocations}
    else:
        order = await scheduling.owed_in(uow, client_id, currency_code)
        invoices = await lock_invoices(uow, order) if order else []
        wanted = _oldest_first(invoices, amount_minor)
    parts = {
        invoice.id: share for invoice in invoices if (share := min(wanted.get(invoice.id, 0), invoice.open_amount)) > 0
    }
    applied = await apply_money(uow, parts) if parts else []
    credited = amount_minor - sum(parts.values())
    assert uow.context.request_id is not None
    payment_id = manual_payment_id(uow.firm_id, uow.context.request_id)
    await payments.insert_received(uow, payments.Received(
        payment_id, client.id, PaymentKind.MANUAL.value, currency_code, amount_minor, credited,
        [Allocation(invoice_id, share) for invoice_id, share in parts.items()], PROVIDER, manual_method=method,
        manual_reference=reference or None, received_date=received_date or today,
    ))  # fmt: skip
    await _post(uow, payment_id, client_id, currency_code, applied, credited)
    await credit.add(uow, [credit.excess(payment_id, client_id, currency_code, credited, ahead=not invoices)])
    await record(uow, _told(payment_id, client_id, method, amount_minor, currency_code, parts))
    payment = await payments.get(uow, payment_id)
    assert payment is not None
    return payment


def _told(
    payment_id: UUID, client_id: UUID, method: str, amount_minor: int, currency_code: str, parts: dict[UUID, int]
) -> Change:
    settled = [{"invoice_id": encode(Prefix.INVOICE, each), "amount_minor": share} for each, share in parts.items()]
    metadata = {
        "client_id": encode(Prefix.CLIENT, client_id), "amount_minor": amount_minor, "currency_code": currency_code, "kind": "MANUAL",
        "method": method, "credited_minor": amount_minor - sum(parts.values()), "allocations": settled,
    }  # fmt: skip
    return Change(Category.PAYMENT, "payment_succeeded", "payment", payment_id, "payment.succeeded", metadata=metadata)


async def _post(
    uow: UnitOfWork, payment_id: UUID, client_id: UUID, currency: str, applied: Sequence[AppliedMoney], credited: int
) -> None:
    await post(uow, [rules.payment_received(
        payment_id, client_id, currency, PROVIDER, settled=sum(each.settled for each in applied),
        recovered=sum(each.recovered for each in applied), credited=credited,
    )])  # fmt: skip


def _oldest_first(invoices: Sequence[Invoice], amount_minor: int) -> dict[UUID, int]:
    """Fill the invoices in the order of their due dates until the money is used up."""
    shares: dict[UUID, int] = {}
    for invoice in sorted(invoices, key=lambda each: (each.due_date or date.max, each.id)):
        share = min(amount_minor, invoice.open_amount)
        if share <= 0:
            continue
        shares[invoice.id] = share
        amount_minor -= share
    return shares


def _check(
    invoices: Sequence[Invoice],
    client_id: UUID,
    currency_code: str,
    amount_minor: int,
    allocations: Sequence[Allocation],
) -> None:
    position = {part.invoice_id: index for index, part in enumerate(allocations)}
    for invoice in invoices:
        field = f"allocations[{position[invoice.id]}]"
        resource = ("Invoice", encode(Prefix.INVOICE, invoice.id))
        if invoice.client_id != client_id:
            raise DunwellError(
                Reason.STATE_CONFLICT,
                "The invoice belongs to another client.",
                field=f"{field}.invoice_id",
                resource=resource,
            )
        if invoice.currency_code != currency_code:
            raise DunwellError(
                Reason.CURRENCY_MISMATCH, f"The invoice is in {invoice.currency_code}, the payment in {currency_code}.",
                field=f"{field}.amount", metadata={"given": currency_code, "expected": invoice.currency_code}, resource=resource,
            )  # fmt: skip
    if sum(part.amount_minor for part in allocations) > amount_minor:
        raise DunwellError(
            Reason.AMOUNT_OUT_OF_RANGE, "The allocations add up to more than the payment.", field="allocations"
        )
