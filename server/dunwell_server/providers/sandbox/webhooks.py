"""Webhooks: signatures, the reading of events, and the gateway's own list of them.

The signature is Stripe's scheme: ``Dunwell-Sandbox-Signature: t=<seconds>,v1=<hex>[,v1=<hex>…]`` with HMAC-SHA256 over
``<t>.<body>``. It is checked over the raw bytes and in constant time, against every live secret and every ``v1``.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from dunwell_server.kernel.errors import DunwellError
from dunwell_server.providers.abilities import SignatureRefused
from dunwell_server.providers.base import ProviderAccount
from dunwell_server.providers.event_json import read_event_json
from dunwell_server.providers.events import (
    CheckoutNotice,
    CustomerNotice,
    DisputeNotice,
    EventPage,
    MethodChange,
    MethodNotice,
    NormalisedEvent,
    Notice,
    PaymentNotice,
    RefundNotice,
    SetupNotice,
    SignedEvent,
)
from dunwell_server.providers.sandbox.checkout import checkout_details
from dunwell_server.providers.sandbox.disputes import provider_dispute
from dunwell_server.providers.sandbox.outcomes import payment_outcome
from dunwell_server.providers.sandbox.reading import (
    MALFORMED,
    Body,
    instant,
    maybe_text,
    method_details,
    obj,
    text,
    texts,
)
from dunwell_server.providers.sandbox.refunds import provider_refund
from dunwell_server.providers.sandbox.setups import setup_details
from dunwell_server.providers.sandbox.wire import PAGE_SIZE, Wire

HEADER: Final = "dunwell-sandbox-signature"
TOLERANCE_SECONDS: Final = 300
_MAX_HEADER: Final = 4096
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}")
_SIGNATURE: Final = re.compile(r"[0-9a-f]{64}")
_UNREADABLE: Final = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, DunwellError)


class WebhookCalls(Wire):
    """`abilities.Webhooks`."""

    async def verify(
        self, account: ProviderAccount, secrets: Sequence[str], body: bytes, headers: Mapping[str, str], now: datetime
    ) -> SignedEvent:
        check_signature(secrets, body, headers.get(HEADER), now)
        try:
            return _signed(obj(read_event_json(body)))
        except ValueError:
            # Signed, and yet no event: it is kept, to be looked at; reading it will fail again where that is counted.
            return SignedEvent(event_id=None, type="", create_time=None)

    def normalise(self, body: bytes) -> NormalisedEvent:
        try:
            return _normalised(obj(read_event_json(body)))
        except _UNREADABLE as error:
            raise ValueError(f"an event that cannot be read: {type(error).__name__}") from error

    async def list_events(
        self, account: ProviderAccount, since: datetime, until: datetime, page: str | None = None
    ) -> EventPage:
        params: dict[str, str | int] = {
            "created_from": since.astimezone(UTC).isoformat(),
            "created_to": until.astimezone(UTC).isoformat(),
            "limit": PAGE_SIZE,
        }
        if page is not None:
            params["page"] = page
        return await self.read(account, "GET", "/v1/events", _page, params=params)


def check_signature(secrets: Sequence[str], body: bytes, header: str | None, now: datetime) -> None:
    """Raises SignatureRefused unless one of the secrets that are not blank has signed the body just now."""
    live = [secret for secret in secrets if secret.strip()]
    if not live:
        raise SignatureRefused("no secret")
    if header is None or not header.strip():
        raise SignatureRefused("missing signature")
    stamp, signatures = _parts(header)
    signed = stamp.encode() + b"." + body
    matched = False
    for secret in live:
        expected = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
        for signature in signatures:  # No early end: the time tells nothing about which of them matched.
            matched |= hmac.compare_digest(expected, signature)
    if not matched:
        raise SignatureRefused("no matching signature")
    age = now.timestamp() - int(stamp)
    if age > TOLERANCE_SECONDS:
        raise SignatureRefused("timestamp too old")
    if age < -TOLERANCE_SECONDS:
        raise SignatureRefused("timestamp in the future")


def _parts(header: str) -> tuple[str, list[str]]:
    if len(header) > _MAX_HEADER:
        raise SignatureRefused("malformed signature")
    pairs = [part.strip().partition("=") for part in header.split(",")]
    stamps = {value for name, _, value in pairs if name == "t"}
    signatures = [value for name, _, value in pairs if name == "v1" and _SIGNATURE.fullmatch(value)]
    if len(stamps) != 1 or not signatures or not _TIMESTAMP.fullmatch(stamp := stamps.pop()):
        raise SignatureRefused("malformed signature")
    return stamp, signatures


def _signed(event: Body) -> SignedEvent:
    """What identifies an event. What cannot be read is left out: that is found again when the event is read whole."""
    identifier, kind = event.get("id"), event.get("type")
    try:
        created = instant(event.get("created"))
    except MALFORMED:
        created = None
    return SignedEvent(
        event_id=identifier if isinstance(identifier, str) and identifier else None,
        type=kind if isinstance(kind, str) else "",
        create_time=created,
    )


def _page(body: Body) -> EventPage:
    events = tuple((_signed(obj(event)), raw_event(event)) for event in body["data"])
    return EventPage(events, body["next_page"])


def raw_event(event: Body) -> bytes:
    """A listed event as the very bytes that are sent of it."""
    return json.dumps(event, separators=(",", ":")).encode()


def _normalised(event: Body) -> NormalisedEvent:
    kind, subject = text(event, "type"), obj(obj(event["data"])["object"])
    read = _READERS.get(str(subject.get("object"))) if kind in HANDLED else None
    metadata = subject.get("metadata")
    firm = metadata.get("firm") if isinstance(metadata, dict) else None
    return NormalisedEvent(
        event_id=text(event, "id"),
        type=kind,
        create_time=instant(event["created"]),
        notices=() if read is None else (read(kind, subject),),
        firm=firm if isinstance(firm, str) and firm else None,
        references=_references(subject),
    )


def _references(subject: Body) -> tuple[str, ...]:
    """The gateway's ids of the object and of what it belongs to, the object's own first."""
    found: dict[str, None] = {}
    for name in ("id", "payment", "setup_intent", "subscription", "customer", "previous_customer", "payment_method"):
        value = subject.get(name)
        identifier = value.get("id") if isinstance(value, dict) else value
        if isinstance(identifier, str) and identifier:
            found[identifier] = None
    return tuple(found)


def _payment(_: str, subject: Body) -> Notice:
    return PaymentNotice(
        provider_reference=text(subject, "id"),
        key=maybe_text(subject, "key"),
        outcome=payment_outcome(subject),
        customer_reference=maybe_text(subject, "customer"),
    )


def _refund(_: str, subject: Body) -> Notice:
    return RefundNotice(provider_refund(subject))


def _setup(_: str, subject: Body) -> Notice:
    return SetupNotice(setup_details(subject))


def _checkout(_: str, subject: Body) -> Notice:
    return CheckoutNotice(checkout_details(subject))


def _dispute(_: str, subject: Body) -> Notice:
    return DisputeNotice(provider_dispute(subject))


def _customer(kind: str, subject: Body) -> Notice:
    return CustomerNotice(
        provider_reference=text(subject, "id"),
        name=maybe_text(subject, "name"),
        email=maybe_text(subject, "email"),
        deleted=kind == "customer.deleted",
        metadata=texts(subject["metadata"]),
    )


def _method(kind: str, subject: Body) -> Notice:
    change = MethodChange(kind.rpartition(".")[2].upper())
    former: Any = subject.get("previous_customer")
    return MethodNotice(method_details(subject), maybe_text(subject, "customer") or former, change)


_READERS: Final[Mapping[str, Callable[[str, Body], Notice]]] = {
    "payment": _payment,
    "refund": _refund,
    "setup_intent": _setup,
    "checkout.session": _checkout,
    "dispute": _dispute,
    "customer": _customer,
    "payment_method": _method,
}
"""By the kind of object that an event carries."""

HANDLED: Final = frozenset(
    {
        "payment.succeeded",
        "payment.failed",
        "payment.processing",
        "payment.requires_action",
        "payment.canceled",
        "refund.created",
        "refund.updated",
        "refund.failed",
        "setup_intent.succeeded",
        "setup_intent.setup_failed",
        "setup_intent.requires_action",
        "setup_intent.canceled",
        "checkout.session.completed",
        "checkout.session.expired",
        "dispute.created",
        "dispute.updated",
        "dispute.closed",
        "customer.created",
        "customer.updated",
        "payment_method.attached",
        "payment_method.detached",
        "payment_method.updated",
    }
)
"""The events the gateway sends. Another type gives an event without notices."""
