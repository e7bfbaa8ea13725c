"""Pages on which clients pay, save a method or subscribe: asked for, and what the provider says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from psycopg.errors import UniqueViolation

from dunwell_server.billing.model import Invoice
from dunwell_server.billing.service.clients import get_client
from dunwell_server.billing.service.collection import lock_invoices
from dunwell_server.billing.service.invoices import get_invoice
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments import ladder
from dunwell_server.payments.model import (
    COLLECTIBLE,
    Channel,
    Claim,
    PaymentKind,
    PaymentState,
    Source,
    checkout_payment_id,
    checkout_session_id,
    idempotency_key,
)
from dunwell_server.payments.page_model import CheckoutPurpose, CheckoutSession, NewSession, SessionState
from dunwell_server.payments.reading import page_evidence
from dunwell_server.payments.service import saving, sessions
from dunwell_server.payments.service.methods import provider_of, resolve_account
from dunwell_server.payments.service.outcomes import Applied, apply_outcome
from dunwell_server.payments.service.reactions import in_progress
from dunwell_server.payments.store import asking, checkouts, scheduling
from dunwell_server.payments.store.methods import ProviderAccount
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.features import Feature, require_feature
from dunwell_server.platform.journal import Category, Change, record
from dunwell_server.platform.work import WorkKind, wake
from dunwell_server.providers.abilities import CheckoutDetails, CheckoutState

FIRST_LOOK: Final = timedelta(seconds=30)
"""When a page that is being made is looked after, should its maker die."""

_SOON: Final = timedelta(seconds=5)
_REACHED: Final = {
    CheckoutState.OPEN: SessionState.OPEN,
    CheckoutState.COMPLETED: SessionState.COMPLETED,
    CheckoutState.EXPIRED: SessionState.EXPIRED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PageWish:
    """A page as a caller wants it. INVOICE names the invoice, the others the client."""

    purpose: CheckoutPurpose
    channel: Channel
    success_url: str
    invoice_id: UUID | None = None
    client_id: UUID | None = None
    provider: str | None = None
    cancel_url: str | None = None
    life_seconds: int | None = None
    price_reference: str | None = None
    quantity: int = 1
    save_method: bool = False
    make_default: bool = False
    enable_autopay: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """The page that is to be made, and, for an invoice's, the claim of the attempt under which it is."""

    session_id: UUID
    claim: Claim | None


async def request_page(uow: UnitOfWork, wish: PageWish, owner: UUID, able: Callable[[ProviderAccount], None]) -> Asked:
    """Store the intent: the page, and for an invoice its payment with the hold. `able(account)` refuses a provider without pages.

    Errors: RESOURCE_NOT_FOUND, STATE_CONFLICT when nothing is owed, COLLECTION_IN_PROGRESS, PROVIDER_NOT_CONFIGURED, PROVIDER_MODE_MISMATCH,
    FEATURE_DISABLED, RECOVERING, REQUEST_ID_REUSED.
    """
    require_feature(uow, Feature.CARD_PAYMENTS)
    refuse_recovering(uow)
    assert uow.context.request_id is not None
    session_id = checkout_session_id(uow.firm_id, uow.context.request_id)
    client_id = wish.client_id if wish.invoice_id is None else (await get_invoice(uow, wish.invoice_id)).client_id
    assert client_id is not None
    account = await resolve_account(uow, provider_of(uow, await get_client(uow, client_id), wish.provider))
    able(account)
    if wish.purpose is CheckoutPurpose.INVOICE:
        assert wish.invoice_id is not None
        [invoice] = await lock_invoices(uow, [wish.invoice_id])
        claim = await _ask_for(uow, invoice, session_id, wish, account, owner)
        await _insert(uow, _new(session_id, invoice.client_id, wish, account, claim))
        return Asked(session_id, claim)
    new = _new(session_id, client_id, wish, account, None, look=uow.now + FIRST_LOOK)
    await _insert(uow, new)
    await wake(uow, WorkKind.PAGES, new.next_check_time)
    return Asked(session_id, None)


def refuse_recovering(uow: UnitOfWork) -> None:
    """Errors: RECOVERING while the providers' record is being taken over after a restore."""
    if uow.recovering:
        raise DunwellError(
            Reason.RECOVERING,
            "The firm asks for no money until the providers' record has been taken over after a restore.",
        )


def _new(
    session_id: UUID,
    client_id: UUID,
    wish: PageWish,
    account: ProviderAccount,
    claim: Claim | None,
    look: datetime | None = None,
) -> NewSession:
    key = f"v1:checkout:{session_id}" if claim is None else idempotency_key(claim.payment_id, 1)
    return NewSession(
        id=session_id, client_id=client_id, purpose=wish.purpose, channel=wish.channel.value, provider=account.provider, account_id=account.id,
        mode=account.mode, idempotency_key=key, success_url=wish.success_url, cancel_url=wish.cancel_url or wish.success_url,
        life_seconds=wish.life_seconds, invoice_id=wish.invoice_id, payment_id=None if claim is None else claim.payment_id,
        price_reference=wish.price_reference, quantity=wish.quantity, save_method=wish.save_method, make_default=wish.make_default,
        enable_autopay=wish.enable_autopay, next_check_time=look,
    )  # fmt: skip


async def _insert(uow: UnitOfWork, new: NewSession) -> None:
    try:
        await checkouts.insert(uow, new)
    except UniqueViolation as error:
        raise reused() from error


def reused() -> DunwellError:
    """What a request asked for outlives the memory of its request_id: the same request is the same object for ever."""
    return DunwellError(
        Reason.REQUEST_ID_REUSED, "The request_id was used before; a new request needs a new one.", field="request_id"
    )


async def _ask_for(
    uow: UnitOfWork, invoice: Invoice, session_id: UUID, wish: PageWish, account: ProviderAccount, owner: UUID
) -> Claim:
    """Open the invoice's payment: what is due, its hold, and a CREATED attempt of no method."""
    if invoice.state not in COLLECTIBLE or invoice.open_amount <= 0:
        raise DunwellError(
            Reason.STATE_CONFLICT, f"Nothing is owed of the invoice: it is {invoice.state}.",
            metadata={"state": invoice.state.value, "allowed": "none"}, resource=("Invoice", encode(Prefix.INVOICE, invoice.id)),
        )  # fmt: skip
    busy = await scheduling.being_collected(uow, [invoice.id])
    if busy is not None:
        raise in_progress(*busy)
    new = asking.NewRequest(
        id=checkout_payment_id(session_id), client_id=invoice.client_id, kind=PaymentKind.CHECKOUT.value, channel=wish.channel.value,
        invoices=[invoice.id], currency_code=invoice.currency_code, amount_minor=invoice.open_amount, provider=account.provider,
        account_id=account.id, mode=account.mode, description=f"Invoice {invoice.number}", client_present=True,
    )  # fmt: skip
    try:
        opened = await asking.open_request(uow, new, owner)
    except UniqueViolation as error:
        raise reused() from error
    if not opened:
        raise in_progress(invoice.id)
    metadata = {
        "invoice_id": encode(Prefix.INVOICE, invoice.id), "client_id": encode(Prefix.CLIENT, invoice.client_id), "amount_minor": new.amount_minor,
        "currency_code": new.currency_code, "checkout_session_id": encode(Prefix.CHECKOUT_SESSION, session_id),
    }  # fmt: skip
    await record(
        uow, Change(Category.PAYMENT, "payment_requested", "payment", new.id, "payment.created", metadata=metadata)
    )
    return new.claim(owner)


async def get_session(uow: UnitOfWork, session_id: UUID) -> CheckoutSession:
    """One page. Errors: RESOURCE_NOT_FOUND."""
    session = await checkouts.get(uow, session_id)
    if session is None:
        raise DunwellError(
            Reason.RESOURCE_NOT_FOUND, "No such checkout session.",
            resource=("CheckoutSession", encode(Prefix.CHECKOUT_SESSION, session_id)),
        )  # fmt: skip
    return session


async def continued_link(uow: UnitOfWork, invoice_id: UUID) -> UUID | None:
    """The payment of the invoice that waits for its client at a link, to be sent again; None: there is none.

    Errors: RESOURCE_NOT_FOUND, COLLECTION_IN_PROGRESS where the invoice is being collected, but not at a link.
    """
    await lock_invoices(uow, [invoice_id])
    row = await asking.asking(uow, invoice_id)
    if row is None:
        return None
    if row["state"] == PaymentState.REQUIRES_ACTION and row["action_url"]:
        payment_id: UUID = row["id"]
        return payment_id
    raise in_progress(invoice_id, row["id"])


async def apply_page(
    uow: UnitOfWork, session_id: UUID, details: CheckoutDetails, source: Source, claim: Claim | None = None
) -> Applied | None:
    """Take over what the provider says of a page: for an invoice through `apply_outcome`, then the page's own facts. Forward-only.

    Returns what the evidence led to; None for a page that asks for no money.
    """
    session = await get_session(uow, session_id)
    applied: Applied | None = None
    if session.purpose is CheckoutPurpose.INVOICE:
        assert session.payment_id is not None
        attempt_id = claim.attempt_id if claim is not None else asking.first_attempt(session.payment_id)
        applied = await apply_outcome(uow, attempt_id, page_evidence(details, uow.now), source, claim)
    else:
        await scheduling.lock_client(uow, session.client_id)
    locked = await checkouts.get(uow, session_id, lock=True)
    assert locked is not None
    completes = details.state is CheckoutState.COMPLETED and locked.state is not SessionState.COMPLETED
    method_id = await _save_method(uow, locked, details) if completes or locked.method_id is None else None
    facts: dict[str, Any] = {}
    if applied is None and locked.state is SessionState.CREATING and details.state is CheckoutState.OPEN:
        facts["next_check_time"] = next_look(locked.firm_time, details.expire_time, uow.now)
        await wake(uow, WorkKind.PAGES, facts["next_check_time"])
    await sessions.advance(
        uow, locked, _REACHED[details.state], **facts, provider_reference=locked.provider_reference or details.provider_reference,
        url=details.url or (locked.url if details.state is CheckoutState.OPEN else None), expire_time=details.expire_time or locked.expire_time,
        subscription_reference=locked.subscription_reference or details.subscription_reference, method_id=method_id or locked.method_id,
    )  # fmt: skip
    return applied


def next_look(since: datetime, expires: datetime | None, now: datetime) -> datetime:
    """When an open page is looked at next (firm time): ever more rarely, and when its time is over. Pure."""
    due = ladder.next_poll(since, now)
    return due if expires is None else min(due, max(expires, now + _SOON))


async def _save_method(uow: UnitOfWork, session: CheckoutSession, details: CheckoutDetails) -> UUID | None:
    """Attach what the client has saved on the page, once."""
    if details.state is not CheckoutState.COMPLETED or details.method is None or session.method_id is not None:
        return None
    if session.purpose is CheckoutPurpose.INVOICE and not session.save_method:
        return None
    return await saving.save(
        uow, session.client_id, session.account_id, details.method, details.customer_reference,
        make_default=session.make_default, enable_autopay=session.enable_autopay,
    )  # fmt: skip


async def fail_page(uow: UnitOfWork, session_id: UUID, code: str) -> None:
    """The provider has refused to make the page, or surely has not made it: for a page that asks for no money."""
    locked = await checkouts.get(uow, session_id, lock=True)
    if locked is not None and locked.state is SessionState.CREATING:
        await sessions.advance(uow, locked, SessionState.FAILED, failure_code=code)
