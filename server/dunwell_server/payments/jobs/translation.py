"""From our orders to the providers' requests."""

from __future__ import annotations

from datetime import timedelta

from dunwell_server.kernel.hashing import digest_parts
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.kernel.money import Money
from dunwell_server.payments.jobs.gateways import Gateway
from dunwell_server.payments.page_model import CheckoutPurpose, CheckoutSession
from dunwell_server.payments.reading import evidence_of
from dunwell_server.payments.service.sending import SendOrder
from dunwell_server.providers.abilities import CheckoutMode, CheckoutRequest
from dunwell_server.providers.base import ChargeReferences, ChargeRequest

__all__ = ["charge_request", "evidence_of", "order_page", "page_request", "request_digest"]

_MODES = {
    CheckoutPurpose.INVOICE: CheckoutMode.PAYMENT,
    CheckoutPurpose.SETUP: CheckoutMode.SETUP,
    CheckoutPurpose.SUBSCRIPTION: CheckoutMode.SUBSCRIPTION,
}


def charge_request(order: SendOrder, gateway: Gateway) -> ChargeRequest:
    """The provider's form of an order to charge a method."""
    assert order.method_reference is not None
    return ChargeRequest(
        account=gateway.account,
        key=order.key,
        references=ChargeReferences(order.firm_text, order.payment_text),
        money=Money(order.currency_code, order.amount_minor),
        method_reference=order.method_reference,
        customer_reference=order.customer_reference,
        description=order.description,
        off_session=order.off_session,
        return_url=order.return_url,
    )


def order_page(order: SendOrder, gateway: Gateway) -> CheckoutRequest:
    """The provider's form of an order to ask for money on a page."""
    assert order.session is not None
    return page_request(
        order.session, gateway, order.firm_text, order.customer_reference, money=Money(order.currency_code, order.amount_minor),
        description=order.description,
    )  # fmt: skip


def page_request(
    session: CheckoutSession,
    gateway: Gateway,
    firm_text: str,
    customer_reference: str | None,
    *,
    money: Money | None = None,
    description: str = "",
) -> CheckoutRequest:
    """The provider's form of a page: a function of what never changes, so that it is made once however often it is asked for."""
    metadata = {
        "firm": firm_text,
        "client": encode(Prefix.CLIENT, session.client_id),
        "checkout": encode(Prefix.CHECKOUT_SESSION, session.id),
        "key": session.idempotency_key,
    }
    if session.payment_id is not None:
        metadata["payment"] = encode(Prefix.PAYMENT, session.payment_id)
    life = session.life_seconds
    return CheckoutRequest(
        account=gateway.account,
        key=session.idempotency_key,
        mode=_MODES[session.purpose],
        metadata=metadata,
        success_url=session.success_url,
        cancel_url=session.cancel_url,
        customer_reference=customer_reference,
        money=money,
        description=description,
        price_reference=session.price_reference,
        quantity=session.quantity,
        expire_time=session.firm_time + timedelta(seconds=life) if life else None,
        save_method=session.save_method and session.purpose is CheckoutPurpose.INVOICE,
    )


def request_digest(order: SendOrder, gateway: Gateway) -> bytes:
    """SHA-256 over what the provider will be asked, kept with the attempt."""
    if order.session is None:
        return charge_request(order, gateway).digest
    page = order_page(order, gateway)
    return digest_parts(
        (
            page.account.id, page.key, page.mode.value, page.success_url, page.cancel_url or "", page.customer_reference or "",
            order.currency_code, order.amount_minor, page.description, int(page.save_method), str(page.expire_time or ""),
        )
    )  # fmt: skip
