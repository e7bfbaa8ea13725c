"""Pages, links, set-up intents and provider customers as the contract's messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from dunwell.v1 import checkout_pb2, provider_pb2
from dunwell_server.kernel.ids import Prefix
from dunwell_server.kernel.money import Money
from dunwell_server.payments.jobs.customers import Live
from dunwell_server.payments.model import Payment, PaymentMethod
from dunwell_server.payments.page_model import CheckoutSession, Customer, SetupIntent
from dunwell_server.payments.rpc.messages import method_message
from dunwell_server.providers.abilities import SetupDetails
from dunwell_server.rpc.converters import enum_value, etag, id_text, money_message, timestamp

PURPOSE: Final = "CHECKOUT_PURPOSE_"
LINK_PURPOSE: Final = "HOSTED_LINK_PURPOSE_"


def _mode(mode: str) -> Any:
    return enum_value(provider_pb2.AccountMode, mode, "ACCOUNT_MODE_")


def session_message(session: CheckoutSession, payment: Payment | None, firm_text: str) -> checkout_pb2.CheckoutSession:
    """A page; `payment` is what it asks for, where it asks for money."""
    asked = None if payment is None else Money(payment.currency_code, payment.amount_minor)
    return checkout_pb2.CheckoutSession(
        id=id_text(Prefix.CHECKOUT_SESSION, session.id),
        firm_id=firm_text,
        client_id=id_text(Prefix.CLIENT, session.client_id),
        purpose=enum_value(checkout_pb2.CheckoutPurpose, session.purpose.value, PURPOSE),  # type: ignore[arg-type]
        state=enum_value(checkout_pb2.CheckoutSessionState, session.state.value, "CHECKOUT_SESSION_STATE_"),  # type: ignore[arg-type]
        url=session.url or "",
        expire_time=timestamp(session.expire_time),
        invoice_id=id_text(Prefix.INVOICE, session.invoice_id),
        payment_id=id_text(Prefix.PAYMENT, session.payment_id),
        amount=money_message(asked),
        provider_price_id=session.price_reference or "",
        provider_subscription_id=session.subscription_reference or "",
        payment_method_id=id_text(Prefix.PAYMENT_METHOD, session.method_id),
        provider=session.provider,
        mode=_mode(session.mode),
        provider_reference=session.provider_reference or "",
        finish_time=timestamp(session.finish_time),
        etag=etag(session.version),
        create_time=timestamp(session.firm_time),
        update_time=timestamp(session.update_time),
    )


def setup_message(
    setup: SetupIntent, method: PaymentMethod | None, details: SetupDetails | None, publishable_key: str, firm_text: str
) -> checkout_pb2.SetupIntent:
    """A set-up intent. The client secret is the provider's word of this moment, where it can still be used."""
    usable = setup.state in ("OPEN", "FAILED") and details is not None
    return checkout_pb2.SetupIntent(
        id=id_text(Prefix.SETUP_INTENT, setup.id),
        firm_id=firm_text,
        client_id=id_text(Prefix.CLIENT, setup.client_id),
        state=enum_value(checkout_pb2.SetupIntentState, setup.state.value, "SETUP_INTENT_STATE_"),  # type: ignore[arg-type]
        provider=setup.provider,
        mode=_mode(setup.mode),
        provider_reference=setup.provider_reference or "",
        client_secret=(details.client_secret or "") if usable and details is not None else "",
        publishable_key=publishable_key,
        payment_method=None if method is None else method_message(method, firm_text),
        failure_code=setup.failure_code or "",
        make_default=setup.make_default,
        enable_autopay=setup.enable_autopay,
        create_time=timestamp(setup.firm_time),
        update_time=timestamp(setup.update_time),
    )


def link_message(purpose: int, session: CheckoutSession | None, payment: Payment | None) -> checkout_pb2.HostedLink:
    """A link: a page's, or that of a charge that waits for its client."""
    url = session.url if session is not None else payment.action_url if payment is not None else None
    expires = (
        session.expire_time if session is not None else payment.action_expire_time if payment is not None else None
    )
    return checkout_pb2.HostedLink(
        purpose=purpose,  # type: ignore[arg-type]
        url=url or "",
        expire_time=timestamp(expires),
        checkout_session_id=id_text(Prefix.CHECKOUT_SESSION, session.id if session is not None else None),
        payment_id=id_text(Prefix.PAYMENT, payment.id if payment is not None else None),
    )


def customer_message(
    customer: Customer, live: Live, methods: Sequence[PaymentMethod], firm_text: str
) -> checkout_pb2.ProviderCustomer:
    """A client as the provider has it."""
    theirs = live.theirs
    return checkout_pb2.ProviderCustomer(
        client_id=id_text(Prefix.CLIENT, customer.client_id),
        provider=customer.provider,
        mode=_mode(live.place.account.mode),
        provider_reference=customer.provider_reference,
        name=(theirs.name or "") if theirs is not None else "",
        email=(theirs.email or "") if theirs is not None else "",
        adopted=customer.adopted,
        deleted=customer.deleted or (theirs is not None and theirs.deleted),
        payment_methods=[method_message(method, firm_text) for method in methods],
        provider_subscription_ids=list(live.subscriptions),
        create_time=timestamp(customer.create_time),
    )
