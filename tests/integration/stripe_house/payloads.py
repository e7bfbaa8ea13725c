"""Webhooks as Stripe documents them, written by hand, and their signatures, made without any code of ours or of Stripe's."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import Any
from uuid import uuid4

OLD = "2019-05-16"
MIDDLE = "2022-11-15"
NEW = "2026-10-28.endive"
Fields = dict[str, Any]


def event_id() -> str:
    """An id such as Stripe's."""
    return f"evt_{uuid4().hex}"


def event(
    kind: str, subject: Fields, *, before: Fields | None = None, version: str = NEW, name: str | None = None, **fields: Any
) -> bytes:  # fmt: skip
    """An event's body, in the form in which Stripe sends it."""
    data: Fields = {"object": subject} if before is None else {"object": subject, "previous_attributes": before}
    whole = {
        "id": name or event_id(), "object": "event", "api_version": version, "created": int(time.time()), "data": data, "livemode": False,
        "pending_webhooks": 1, "request": {"id": None, "idempotency_key": None}, "type": kind, **fields,
    }  # fmt: skip
    return json.dumps(whole, indent=2).encode()


def signature(body: bytes, secret: str, *, at: int | None = None) -> str:
    """The header's value for one secret."""
    stamp = int(time.time()) if at is None else at
    digest = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={stamp},v1={digest}"


def payment_intent(
    reference: str, amount: int, status: str, metadata: Fields, *, version: str = NEW, **fields: Any
) -> Fields:
    """A PaymentIntent as the versions have it: with its charges in it before the end of 2022, with the last one's id later."""
    charge = f"ch_{reference[3:]}"
    paid = status == "succeeded"
    whole = {
        "id": reference, "object": "payment_intent", "amount": amount, "amount_capturable": 0, "amount_received": amount if paid else 0,
        "application": None, "canceled_at": None, "cancellation_reason": None, "capture_method": "automatic", "client_secret": f"{reference}_secret_x",
        "confirmation_method": "automatic", "created": int(time.time()) - 5, "currency": "usd", "customer": None, "description": None,
        "last_payment_error": None, "livemode": False, "metadata": metadata, "next_action": None, "payment_method": "pm_1",
        "payment_method_types": ["card"], "status": status,
    }  # fmt: skip
    if version < MIDDLE:
        whole["charges"] = {
            "object": "list", "has_more": False, "total_count": 1, "url": f"/v1/charges?payment_intent={reference}",
            "data": [{"id": charge, "object": "charge", "amount": amount, "currency": "usd", "paid": paid, "payment_intent": reference}],
        }  # fmt: skip
    else:
        whole["latest_charge"] = charge
    return {**whole, **fields}


def refund(reference: str, intent: str, amount: int, status: str, **fields: Any) -> Fields:
    """A Refund."""
    return {
        "id": reference, "object": "refund", "amount": amount, "balance_transaction": None, "charge": f"ch_{intent[3:]}", "created": int(time.time()),
        "currency": "usd", "metadata": {}, "payment_intent": intent, "reason": "requested_by_customer", "receipt_number": None, "status": status,
        **fields,
    }  # fmt: skip


def charge(intent: str, amount: int, refunded: int, **fields: Any) -> Fields:
    """A Charge of which something was refunded."""
    return {
        "id": f"ch_{intent[3:]}", "object": "charge", "amount": amount, "amount_captured": amount, "amount_refunded": refunded, "captured": True,
        "created": int(time.time()) - 60, "currency": "usd", "metadata": {}, "paid": True, "payment_intent": intent, "status": "succeeded",
        "refunded": refunded == amount, **fields,
    }  # fmt: skip


def dispute(reference: str, intent: str, amount: int, status: str, **fields: Any) -> Fields:
    """A Dispute with what it moved so far: the amount and a fee of 15 dollars at once, both back when it is won."""
    out = {"id": "txn_1", "object": "balance_transaction", "amount": -amount, "fee": 1500, "net": -amount - 1500, "currency": "usd",
           "reporting_category": "dispute", "type": "adjustment"}  # fmt: skip
    back = {
        **out,
        "id": "txn_2",
        "amount": amount,
        "fee": -1500,
        "net": amount + 1500,
        "reporting_category": "dispute_reversal",
    }
    moved = [] if status.startswith("warning") else [out, back] if status == "won" else [out]
    return {
        "id": reference, "object": "dispute", "amount": amount, "balance_transactions": moved, "charge": f"ch_{intent[3:]}",
        "created": int(time.time()), "currency": "usd", "evidence": {}, "is_charge_refundable": status.startswith("warning"), "livemode": False,
        "evidence_details": {"due_by": int(time.time()) + 864_000, "has_evidence": False, "past_due": False, "submission_count": 0},
        "metadata": {}, "payment_intent": intent, "reason": "fraudulent", "status": status, **fields,
    }  # fmt: skip


def card(reference: str, customer: str | None, **fields: Any) -> Fields:
    """A PaymentMethod that is a card."""
    details = {
        "brand": "mastercard", "checks": {}, "country": "US", "exp_month": 8, "exp_year": 2031, "fingerprint": "Xt5EWLLDS7FJjR1c", "funding": "credit",
        "generated_from": None, "last4": "4444", "networks": {"available": ["mastercard"], "preferred": None}, "wallet": None, **fields,
    }  # fmt: skip
    return {
        "id": reference, "object": "payment_method", "billing_details": {"email": None, "name": None}, "card": details, "created": int(time.time()),
        "customer": customer, "livemode": False, "metadata": {}, "type": "card",
    }  # fmt: skip
