"""What Stripe's events say, in the house's words.

Pure: bytes in, `NormalisedEvent` out. An event's shape is that of the endpoint's API version, not of ours, so every
field is looked for where newer and older versions have it. Types that are not listed here, and objects in a state
nobody knew when this was written, give an event without notices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Final

from dunwell_server.kernel.errors import DunwellError
from dunwell_server.providers.abilities import CheckoutState
from dunwell_server.providers.event_json import read_event_json
from dunwell_server.providers.events import (
    CheckoutNotice,
    CustomerNotice,
    DisputeNotice,
    InvoiceNotice,
    MethodChange,
    MethodNotice,
    NormalisedEvent,
    Notice,
    PaymentNotice,
    RefundNotice,
    RefundTotalNotice,
    SetupNotice,
    SubscriptionNotice,
)
from dunwell_server.providers.outcomes import OutcomeClass
from dunwell_server.providers.stripe.amounts import NotRepresentable, from_stripe
from dunwell_server.providers.stripe.charges import payment_outcome
from dunwell_server.providers.stripe.checkout import checkout_details, refused_later
from dunwell_server.providers.stripe.customers import customer_of, method_details
from dunwell_server.providers.stripe.disputes import dispute_of
from dunwell_server.providers.stripe.reading import (
    Body,
    Unmapped,
    ids,
    items,
    maybe_obj,
    maybe_text,
    metadata,
    moment,
    obj,
    reference,
    text,
)
from dunwell_server.providers.stripe.refunds import refund_of
from dunwell_server.providers.stripe.setups import setup_details
from dunwell_server.providers.stripe.subscriptions import (
    invoice_metadata,
    invoice_of,
    invoice_payment,
    invoice_subscription,
    subscription_of,
)

_UNREADABLE: Final = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, DunwellError)


def read_json(body: bytes) -> Body:
    """The JSON object of a body. Raises ValueError."""
    return obj(read_event_json(body))


def normalise(body: bytes) -> NormalisedEvent:
    """What an event says. Raises ValueError for what is no event, or one whose object cannot be read."""
    try:
        return _normalised(read_json(body))
    except _UNREADABLE as error:
        raise ValueError(f"an event that cannot be read: {type(error).__name__}") from error


def _normalised(event: Body) -> NormalisedEvent:
    kind = text(event, "type")
    created = event.get("created")
    if event.get("object") == "v2.core.event":
        # Thin: it names an object, which may be one of a kind we know; nothing else is in it.
        related = reference(event.get("related_object"))
        return NormalisedEvent(
            event_id=maybe_text(event, "id"),
            type=kind,
            create_time=moment(created),
            references=() if related is None else (related,),
        )
    if event.get("account") is not None:
        # Of an account connected to this one (Connect): its money is somebody else's, whatever is written on it.
        return NormalisedEvent(event_id=maybe_text(event, "id"), type=kind, create_time=moment(created))
    subject = obj(obj(event.get("data")).get("object"))
    before = maybe_obj(maybe_obj(event.get("data")).get("previous_attributes"))
    notices = _notices(kind, subject, before)
    return NormalisedEvent(
        event_id=maybe_text(event, "id"),
        type=kind,
        create_time=moment(created),
        notices=notices,
        firm=_firm(subject),
        references=_references(subject, before),
    )


def _notices(kind: str, subject: Body, before: Body) -> tuple[Notice, ...]:
    reader = _READERS.get(kind)
    if reader is None:
        return ()
    try:
        return tuple(reader(kind, subject, before))
    except Unmapped:
        return ()
    except (DunwellError, NotRepresentable):
        # Money that this book cannot hold. What we make never has such, so that it is another's.
        if "key" in metadata(subject):
            raise
        return ()


def _firm(subject: Body) -> str | None:
    """Our id of the firm, wherever metadata of ours can be: on the object, or on what is expanded in it."""
    for holder in (
        subject,
        *(maybe_obj(subject.get(name)) for name in ("payment_intent", "charge", "setup_intent", "subscription")),
    ):
        firm = metadata(holder).get("firm")
        if firm:
            return firm
    return invoice_metadata(subject).get("firm")


_REFERRING: Final = (
    "customer",
    "payment_intent",
    "charge",
    "latest_charge",
    "setup_intent",
    "subscription",
    "invoice",
    "latest_invoice",
    "dispute",
    "payment_method",
)


def _references(subject: Body, before: Body) -> tuple[str, ...]:
    """The ids of the object and of what it belongs to, each once, the object's own first."""
    found = [*ids([subject, *(subject.get(name) for name in _REFERRING)])]
    if subject.get("object") == "invoice" or "parent" in subject:
        found += ids([invoice_subscription(subject), invoice_payment(subject)])
    found += ids([before.get("customer")])  # What was detached belonged to it.
    return tuple(dict.fromkeys(found))


_Reader = Callable[[str, Body, Body], Iterator[Notice]]


def _payment(kind: str, intent: Body, _: Body) -> Iterator[Notice]:
    outcome = payment_outcome(intent)
    if outcome.outcome is not OutcomeClass.UNKNOWN:
        yield PaymentNotice(
            provider_reference=text(intent, "id"),
            key=metadata(intent).get("key"),
            outcome=outcome,
            customer_reference=reference(intent.get("customer")),
        )


def _refunded(kind: str, charge: Body, _: Body) -> Iterator[Notice]:
    embedded = maybe_obj(charge.get("refunds"))
    listed = items(embedded)
    total = from_stripe(charge.get("currency"), charge.get("amount_refunded"))
    payment = reference(charge.get("payment_intent")) or text(charge, "id")
    complete = bool(listed) and embedded.get("has_more") is not True
    if complete:
        for refund in listed:
            # Embedded refunds of older versions do not name their payment.
            yield RefundNotice(refund_of({"charge": charge.get("id"), **refund, "payment_intent": payment}))
    else:
        yield RefundTotalNotice(payment_reference=payment, refunded=total)


def _refund(kind: str, refund: Body, _: Body) -> Iterator[Notice]:
    yield RefundNotice(refund_of(refund))


def _dispute(kind: str, dispute: Body, _: Body) -> Iterator[Notice]:
    moved = {"charge.dispute.funds_withdrawn": True, "charge.dispute.funds_reinstated": False}
    yield DisputeNotice(dispute_of(dispute, withdrawn=moved.get(kind)))


def _setup(kind: str, setup: Body, _: Body) -> Iterator[Notice]:
    yield SetupNotice(setup_details(setup))


def _checkout(kind: str, session: Body, _: Body) -> Iterator[Notice]:
    details = checkout_details(session)
    if kind == "checkout.session.async_payment_failed" and details.state is CheckoutState.COMPLETED:
        details = replace(details, payment=refused_later(details))
    yield CheckoutNotice(details)


def _customer(kind: str, customer: Body, _: Body) -> Iterator[Notice]:
    known = customer_of(customer)
    yield CustomerNotice(
        provider_reference=known.provider_reference,
        name=known.name,
        email=known.email,
        deleted=known.deleted or kind == "customer.deleted",
        metadata=known.metadata,
    )


_CHANGES: Final = {
    "payment_method.attached": MethodChange.ATTACHED,
    "payment_method.detached": MethodChange.DETACHED,
    "payment_method.updated": MethodChange.UPDATED,
    "payment_method.automatically_updated": MethodChange.UPDATED,
    "payment_method.card_automatically_updated": MethodChange.UPDATED,
}


def _method(kind: str, method: Body, before: Body) -> Iterator[Notice]:
    # Once detached it belongs to nobody; whose it was is among what has changed.
    owner = reference(method.get("customer")) or reference(before.get("customer"))
    yield MethodNotice(method=method_details(method), customer_reference=owner, change=_CHANGES[kind])


def _subscription(kind: str, subscription: Body, _: Body) -> Iterator[Notice]:
    yield SubscriptionNotice(subscription_of(subscription))


def _invoice(kind: str, invoice: Body, _: Body) -> Iterator[Notice]:
    yield InvoiceNotice(invoice_of(invoice))


def _under(prefix: str, names: str, reader: _Reader) -> dict[str, _Reader]:
    return {f"{prefix}.{name}": reader for name in names.split()}


_READERS: Final[dict[str, _Reader]] = {
    **_under(
        "payment_intent",
        "succeeded payment_failed processing requires_action canceled amount_capturable_updated partially_funded",
        _payment,
    ),
    **_under("charge", "refunded", _refunded),
    **_under("charge", "refund.updated", _refund),
    **_under("refund", "created updated failed", _refund),
    **_under("charge.dispute", "created updated closed funds_withdrawn funds_reinstated", _dispute),
    **_under("setup_intent", "created succeeded setup_failed requires_action canceled", _setup),
    **_under("checkout.session", "completed expired async_payment_succeeded async_payment_failed", _checkout),
    **_under("customer", "created updated deleted", _customer),
    **dict.fromkeys(_CHANGES, _method),
    **_under(
        "customer.subscription",
        "created updated deleted paused resumed pending_update_applied pending_update_expired trial_will_end",
        _subscription,
    ),
    **_under(
        "invoice",
        "created finalized paid payment_succeeded payment_failed payment_action_required updated voided "
        "marked_uncollectible overpaid overdue sent",
        _invoice,
    ),
}
"""By the event's type. All others (reviews, early fraud warnings, mandates, …) are kept without notices."""

HANDLED: Final = frozenset(_READERS)
"""The types that give notices, which are those to subscribe an endpoint to."""
