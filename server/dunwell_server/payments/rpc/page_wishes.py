"""Requests about pages, set-up intents and one-time payments, as the use cases want them."""

from __future__ import annotations

from typing import Any

from dunwell.v1 import checkout_pb2
from dunwell.v1 import payment_service_pb2 as pb
from dunwell_server.kernel.errors import field_invalid
from dunwell_server.kernel.ids import Prefix
from dunwell_server.payments.model import Channel
from dunwell_server.payments.page_model import CheckoutPurpose
from dunwell_server.payments.rpc.page_messages import LINK_PURPOSE, PURPOSE
from dunwell_server.payments.service.checkouts import PageWish
from dunwell_server.payments.service.one_time import PaymentWish
from dunwell_server.payments.service.setups import SetupWish
from dunwell_server.rpc.converters import enum_name, id_value, id_values, metadata_map, money, optional_id


def setup_wish(request: pb.CreateSetupIntentRequest) -> SetupWish:
    """CreateSetupIntent."""
    return SetupWish(
        client_id=id_value(Prefix.CLIENT, request.client_id, "client_id"),
        provider=request.provider or None,
        make_default=request.make_default,
        enable_autopay=request.enable_autopay,
        backup_priority=request.backup_priority,
        metadata=metadata_map(request.metadata),
    )


def page_wish(request: pb.CreateCheckoutSessionRequest) -> PageWish:
    """CreateCheckoutSession. Errors: FIELD_INVALID for switches that the purpose knows nothing of."""
    purpose = CheckoutPurpose(enum_name(checkout_pb2.CheckoutPurpose, request.purpose, PURPOSE))
    if request.save_payment_method and purpose is not CheckoutPurpose.INVOICE:
        raise field_invalid(
            "save_payment_method", "it belongs to an INVOICE page; a SETUP page saves the method anyway"
        )
    saves = purpose is CheckoutPurpose.SETUP or request.save_payment_method
    if request.enable_autopay and not saves:
        raise field_invalid(
            "enable_autopay", "it needs a page that saves the method: SETUP, or INVOICE with save_payment_method"
        )
    if request.quantity and purpose is not CheckoutPurpose.SUBSCRIPTION:
        raise field_invalid("quantity", "it belongs to a SUBSCRIPTION page")
    return PageWish(
        purpose=purpose,
        channel=Channel.CHECKOUT,
        success_url=request.success_url,
        invoice_id=optional_id(Prefix.INVOICE, request.invoice_id, "invoice_id"),
        client_id=optional_id(Prefix.CLIENT, request.client_id, "client_id"),
        provider=request.provider or None,
        cancel_url=request.cancel_url or None,
        life_seconds=request.life_seconds or None,
        price_reference=request.provider_price_id or None,
        quantity=request.quantity or 1,
        save_method=request.save_payment_method,
        enable_autopay=request.enable_autopay,
    )


def link_wish(request: pb.CreateHostedLinkRequest, fallback: str | None) -> PageWish:
    """CreateHostedLink. Errors: FIELD_INVALID where the client would have nowhere to come back to."""
    updates = enum_name(checkout_pb2.HostedLinkPurpose, request.purpose, LINK_PURPOSE) == "UPDATE_CARD"
    if request.enable_autopay and not updates:
        raise field_invalid("enable_autopay", "it belongs to a link with which the card is updated")
    back = request.return_url or fallback
    if back is None:
        raise field_invalid("return_url", "name where the client comes back to, here or in DUNWELL_RETURN_URL")
    return PageWish(
        purpose=CheckoutPurpose.SETUP if updates else CheckoutPurpose.INVOICE,
        channel=Channel.LINK,
        success_url=back,
        invoice_id=optional_id(Prefix.INVOICE, request.invoice_id, "invoice_id"),
        client_id=optional_id(Prefix.CLIENT, request.client_id, "client_id"),
        provider=request.provider or None,
        make_default=updates,
        enable_autopay=request.enable_autopay,
    )


def payment_wish(request: pb.CreatePaymentRequest, return_url: str | None) -> PaymentWish:
    """CreatePayment. Errors: UNKNOWN_CURRENCY, INVALID_ID."""
    return PaymentWish(
        client_id=id_value(Prefix.CLIENT, request.client_id, "client_id"),
        money=money(request.amount, "amount"),
        invoices=id_values(Prefix.INVOICE, request.invoice_ids, "invoice_ids"),
        method_id=optional_id(Prefix.PAYMENT_METHOD, request.payment_method_id, "payment_method_id"),
        client_present=request.client_present,
        return_url=request.return_url or return_url,
        description=request.description or None,
        payer=_payer(request),
    )


def _payer(request: pb.CreatePaymentRequest) -> dict[str, Any] | None:
    """What is known of the payer, kept for disputes; what is empty is left out."""
    names = ("ip_address", "user_agent", "device_id", "account_id")
    known = {name: getattr(request.payer, name) for name in names if getattr(request.payer, name)}
    return known or None
