"""CreatePayment: one explicit payment with a saved method, for several invoices, one, or none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg.errors import UniqueViolation

from dunwell_server.billing.model import Client, Invoice
from dunwell_server.billing.service.clients import get_client
from dunwell_server.billing.service.collection import lock_invoices
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.kernel.money import Money
from dunwell_server.payments.choosing import choose
from dunwell_server.payments.model import (
    COLLECTIBLE,
    Channel,
    Claim,
    PaymentKind,
    PaymentMethod,
    one_time_payment_id,
)
from dunwell_server.payments.service import breakers
from dunwell_server.payments.service.autopay import missing_method, unusable_method
from dunwell_server.payments.service.charges import refuse_ceiling
from dunwell_server.payments.service.checkouts import reused
from dunwell_server.payments.service.methods import method_of, resolve_account
from dunwell_server.payments.service.reactions import in_progress
from dunwell_server.payments.store import asking, methods, scheduling
from dunwell_server.payments.store.breakers import Asked
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.features import Feature, require_feature
from dunwell_server.platform.journal import Category, Change, record

_NAMED_INVOICES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentWish:
    """A payment as a caller wants it. `invoices` are settled in their order; the rest, or all without any, becomes credit."""

    client_id: UUID
    money: Money
    invoices: Sequence[UUID] = ()
    method_id: UUID | None = None
    client_present: bool = False
    return_url: str | None = None
    description: str | None = None
    payer: dict[str, Any] | None = None


async def request_payment(uow: UnitOfWork, wish: PaymentWish, owner: UUID) -> Claim:
    """Store the intent: the payment, holds on its invoices, and a CREATED attempt claimed by `owner`.

    Errors: RESOURCE_NOT_FOUND, CURRENCY_MISMATCH, STATE_CONFLICT, COLLECTION_IN_PROGRESS, PAYMENT_METHOD_MISSING, PAYMENT_METHOD_UNUSABLE,
    PROVIDER_NOT_CONFIGURED, PROVIDER_MODE_MISMATCH, BREAKER_OPEN, RECOVERING, FEATURE_DISABLED, REQUEST_ID_REUSED.
    """
    require_feature(uow, Feature.CARD_PAYMENTS)
    invoices = await _invoices(uow, wish)
    client = await get_client(uow, wish.client_id)
    method = await _method(uow, client, wish.method_id)
    account = await resolve_account(uow, method.provider)
    if account.id != method.account_id or account.mode != method.mode:
        raise unusable_method(method)
    await refuse_ceiling(uow, method)
    asked = Asked(client.id, account.id, wish.money.minor, wish.money.currency)
    await breakers.require_closed(uow, account.id, asked)
    assert uow.context.request_id is not None
    new = asking.NewRequest(
        id=one_time_payment_id(uow.firm_id, uow.context.request_id), client_id=client.id, kind=PaymentKind.ONE_TIME.value,
        channel=Channel.CHARGE.value, invoices=list(wish.invoices), currency_code=wish.money.currency, amount_minor=wish.money.minor,
        provider=method.provider, account_id=account.id, mode=account.mode, method_id=method.id,
        description=wish.description or describe(invoices), return_url=wish.return_url if wish.client_present else None,
        client_present=wish.client_present, payer=wish.payer,
    )  # fmt: skip
    busy = await scheduling.being_collected(uow, wish.invoices) if wish.invoices else None
    if busy is not None:
        raise in_progress(*busy)
    try:
        opened = await asking.open_request(uow, new, owner)
    except UniqueViolation as error:
        raise reused() from error
    if not opened:
        raise in_progress(wish.invoices[0])
    metadata = {
        "invoice_ids": [encode(Prefix.INVOICE, invoice_id) for invoice_id in wish.invoices], "client_id": encode(Prefix.CLIENT, client.id),
        "amount_minor": new.amount_minor, "currency_code": new.currency_code, "payment_method_id": encode(Prefix.PAYMENT_METHOD, method.id),
        "client_present": wish.client_present,
    }  # fmt: skip
    await record(
        uow, Change(Category.PAYMENT, "payment_requested", "payment", new.id, "payment.created", metadata=metadata)
    )
    return new.claim(owner)


def describe(invoices: Sequence[Invoice]) -> str:
    """What the provider shows for a payment of these invoices. Pure."""
    if not invoices:
        return "Payment"
    numbers = ", ".join(str(invoice.number) for invoice in invoices[:_NAMED_INVOICES])
    more = len(invoices) - _NAMED_INVOICES
    text = f"Invoice {numbers}" if len(invoices) == 1 else f"Invoices {numbers}"
    return f"{text} and {more} more" if more > 0 else text


async def _invoices(uow: UnitOfWork, wish: PaymentWish) -> list[Invoice]:
    """Lock client and invoices; the invoices in the wished order. Errors: those of the wish."""
    if not wish.invoices:
        await scheduling.lock_client(uow, wish.client_id)
        return []
    locked = {invoice.id: invoice for invoice in await lock_invoices(uow, wish.invoices)}
    invoices = [locked[invoice_id] for invoice_id in wish.invoices]
    for index, invoice in enumerate(invoices):
        field, resource = f"invoice_ids[{index}]", ("Invoice", encode(Prefix.INVOICE, invoice.id))
        if invoice.client_id != wish.client_id:
            raise DunwellError(
                Reason.STATE_CONFLICT, "The invoice belongs to another client.", field=field, resource=resource
            )
        if invoice.currency_code != wish.money.currency:
            raise DunwellError(
                Reason.CURRENCY_MISMATCH, f"The invoice is in {invoice.currency_code}, the payment in {wish.money.currency}.",
                field=field, metadata={"given": wish.money.currency, "expected": invoice.currency_code}, resource=resource,
            )  # fmt: skip
        if invoice.state not in COLLECTIBLE or invoice.open_amount <= 0:
            raise DunwellError(
                Reason.STATE_CONFLICT, f"Nothing is owed of the invoice: it is {invoice.state}.", field=field,
                metadata={"state": invoice.state.value, "allowed": "none"}, resource=resource,
            )  # fmt: skip
    return invoices


async def _method(uow: UnitOfWork, client: Client, method_id: UUID | None) -> PaymentMethod:
    """The method that was asked for, or the client's default, or the first backup in its place."""
    if method_id is not None:
        method = await method_of(uow, client.id, method_id)
        if not method.usable:
            raise unusable_method(method)
        return method
    attached = (await methods.of_clients(uow, [client.id]))[client.id]
    choice = choose(attached, None, client.autopay_method_id)
    if choice.method is not None:
        return choice.method
    raise unusable_method(choice.blocked) if choice.blocked is not None else missing_method(client.id)
