"""ChargeInvoice: one explicit request for what is due of an invoice. Uses no retry slot and moves no schedule."""

from __future__ import annotations

from uuid import UUID

from psycopg.errors import UniqueViolation

from dunwell_server.billing.model import Client, Invoice
from dunwell_server.billing.service.clients import get_client
from dunwell_server.billing.service.collection import lock_invoices
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments import retries
from dunwell_server.payments.choosing import best_at, choose
from dunwell_server.payments.model import (
    COLLECTIBLE,
    AttemptState,
    Channel,
    Claim,
    PaymentKind,
    PaymentMethod,
    request_payment_id,
)
from dunwell_server.payments.service import breakers
from dunwell_server.payments.service.autopay import missing_method, unusable_method
from dunwell_server.payments.service.methods import method_of, resolve_account
from dunwell_server.payments.service.reactions import in_progress
from dunwell_server.payments.store import attempts, methods, scheduling
from dunwell_server.payments.store.attempts import NewPayment
from dunwell_server.payments.store.breakers import Asked
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.features import Feature, require_feature
from dunwell_server.platform.journal import Category, Change, record


async def request_charge(
    uow: UnitOfWork,
    invoice_id: UUID,
    owner: UUID,
    *,
    method_id: UUID | None = None,
    provider: str | None = None,
    expected_version: int | None = None,
) -> Claim:
    """Store the intent: the payment, its hold on the invoice, and a CREATED attempt claimed by `owner`.

    Errors: RESOURCE_NOT_FOUND, ETAG_MISMATCH, STATE_CONFLICT when nothing is owed, COLLECTION_IN_PROGRESS, PAYMENT_METHOD_MISSING,
    PAYMENT_METHOD_UNUSABLE, PROVIDER_NOT_CONFIGURED, PROVIDER_MODE_MISMATCH, FEATURE_DISABLED, BREAKER_OPEN, RECOVERING.
    """
    require_feature(uow, Feature.CARD_PAYMENTS)
    [invoice] = await lock_invoices(uow, [invoice_id])
    _check(invoice, expected_version)
    client = await get_client(uow, invoice.client_id)
    method = await _method(uow, invoice, client, method_id, provider)
    account = await resolve_account(uow, method.provider)
    if account.id != method.account_id or account.mode != method.mode:
        raise unusable_method(method)
    await refuse_ceiling(uow, method)
    await breakers.require_closed(
        uow, account.id, Asked(client.id, account.id, invoice.open_amount, invoice.currency_code)
    )
    assert uow.context.request_id is not None
    new = NewPayment(
        request_payment_id(uow.firm_id, uow.context.request_id), invoice.client_id, invoice.id, invoice.currency_code,
        invoice.open_amount, method,
    )  # fmt: skip
    busy = await scheduling.being_collected(uow, [invoice_id])
    if busy is not None:
        raise in_progress(*busy)
    if not await _create(uow, new, owner):
        raise in_progress(invoice_id)
    metadata = {
        "invoice_id": encode(Prefix.INVOICE, invoice.id), "client_id": encode(Prefix.CLIENT, client.id), "amount_minor": new.amount_minor,
        "currency_code": new.currency_code, "payment_method_id": encode(Prefix.PAYMENT_METHOD, method.id),
    }  # fmt: skip
    await record(
        uow, Change(Category.PAYMENT, "payment_requested", "payment", new.id, "payment.created", metadata=metadata)
    )
    return Claim(new.attempt_id, new.id, invoice.id, client.id, method.account_id, AttemptState.CREATED, 1, owner)


async def _create(uow: UnitOfWork, new: NewPayment, owner: UUID) -> bool:
    try:
        return bool(await attempts.create(
            uow, [new], kind=PaymentKind.CHARGE.value, channel=Channel.CHARGE.value, owner=owner, run_id=None
        ))  # fmt: skip
    except UniqueViolation as error:
        # The payment outlives the memory of its request_id: the same request is the same payment for ever.
        raise DunwellError(
            Reason.REQUEST_ID_REUSED,
            "The request_id was used before; a new charge needs a new one.",
            field="request_id",
        ) from error


def _check(invoice: Invoice, expected_version: int | None) -> None:
    resource = ("Invoice", encode(Prefix.INVOICE, invoice.id))
    if expected_version is not None and expected_version != invoice.version:
        raise DunwellError(
            Reason.ETAG_MISMATCH,
            "The invoice has changed since it was read; read it again and repeat the change.",
            resource=resource,
        )
    if invoice.state not in COLLECTIBLE or invoice.open_amount <= 0:
        raise DunwellError(
            Reason.STATE_CONFLICT,
            f"ChargeInvoice needs an invoice that is SENT, FAILED or OVERDUE and owed; the invoice is {invoice.state}.",
            metadata={"state": invoice.state.value, "allowed": "none"},
            resource=resource,
        )


async def _method(
    uow: UnitOfWork, invoice: Invoice, client: Client, method_id: UUID | None, provider: str | None
) -> PaymentMethod:
    """The method that was asked for, or the one that collection would take."""
    if method_id is not None:
        method = await method_of(uow, client.id, method_id)
        if provider is not None and provider != method.provider:
            raise field_invalid("provider", f"the payment method is kept at {method.provider}")
        if not method.usable:
            raise unusable_method(method)
        return method
    attached = (await methods.of_clients(uow, [client.id]))[client.id]
    own, default = invoice.collection.autopay_method_id, client.autopay_method_id
    if provider is not None:
        await resolve_account(uow, provider)
        best = best_at(attached, provider, own, default)
        if best is None:
            raise missing_method(client.id)
        return best
    choice = choose(attached, own, default)
    if choice.method is not None:
        return choice.method
    raise unusable_method(choice.blocked) if choice.blocked is not None else missing_method(client.id)


async def refuse_ceiling(uow: UnitOfWork, method: PaymentMethod) -> None:
    """Errors: PAYMENT_METHOD_UNUSABLE while the card networks' ceilings forbid another try of the card."""
    if method.last_failure_time is None:
        return
    until = retries.ceiling_until(await methods.declines_since(uow, method, uow.now - retries.TRIES_WINDOW), uow.now)
    if until is not None:
        error = unusable_method(method)
        error.message = "The card has reached the card networks' ceiling of tries; charge it later, or another one."
        error.metadata["retry_time"] = until.isoformat()
        raise error
