"""Events as Stripe sends them: about 3 kB of indented JSON, each with an id of its own, and the header that signs it."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

HEADER: Final = "stripe-signature"
_MARK: Final = "evt_the_id_of_this_one_event"
_CARD: Final = {
    "amount_authorized": 104300, "authorization_code": "123456", "brand": "visa", "checks": {
        "address_line1_check": None, "address_postal_code_check": "pass", "cvc_check": None,
    },
    "country": "US", "exp_month": 8, "exp_year": 2031, "fingerprint": "mToisGZ01V71BCos", "funding": "credit", "installments": None,
    "last4": "4242", "mandate": None, "network": "visa", "network_token": {"used": False}, "network_transaction_id": "104118610185181",
    "overcapture": {"maximum_amount_capturable": 104300, "status": "unavailable"}, "three_d_secure": None, "wallet": None,
}  # fmt: skip
_PAYMENT: Final = {
    "id": "pi_3RLoad1ng0fWebh00ks00001", "object": "payment_intent", "amount": 104300, "amount_capturable": 0,
    "amount_details": {"tip": {}}, "amount_received": 104300, "application": None, "application_fee_amount": None,
    "automatic_payment_methods": None, "canceled_at": None, "cancellation_reason": None, "capture_method": "automatic",
    "client_secret": "pi_3RLoad1ng0fWebh00ks00001_secret_Y0u5eeN0th1ng", "confirmation_method": "automatic", "created": 1767225600,
    "currency": "usd", "customer": "cus_Loadingofwebhooks", "description": "Invoice 2026-000123", "invoice": None, "last_payment_error": None,
    "latest_charge": {
        "id": "ch_3RLoad1ng0fWebh00ks00001", "object": "charge", "amount": 104300, "captured": True, "currency": "usd", "paid": True,
        "balance_transaction": "txn_3RLoad1ng0fWebh00ks00001", "billing_details": {
            "address": {"city": "Portland", "country": "US", "line1": "12 Harbour Street", "line2": None, "postal_code": "97201", "state": "OR"},
            "email": "books@example.com", "name": "Harbour Bakery", "phone": None,
        },
        "outcome": {
            "advice_code": None, "network_advice_code": None, "network_decline_code": None, "network_status": "approved_by_network",
            "reason": None, "risk_level": "normal", "risk_score": 12, "seller_message": "Payment complete.", "type": "authorized",
        },
        "payment_method": "pm_1RLoad1ng0fWebh00ks00001", "payment_method_details": {"card": _CARD, "type": "card"}, "status": "succeeded",
    },
    "livemode": False, "metadata": {"firm": "firm_01jd3v5zj0f2pr3ahxn5ksm0tb", "key": "v1:01939a0e-1111-7222-8333-444455556666:1"},
    "next_action": None, "on_behalf_of": None, "payment_method": "pm_1RLoad1ng0fWebh00ks00001", "payment_method_types": ["card"],
    "processing": None, "receipt_email": None, "setup_future_usage": None, "shipping": None, "source": None, "statement_descriptor": None,
    "status": "succeeded", "transfer_data": None, "transfer_group": None,
}  # fmt: skip
_EVENT: Final = {
    "id": _MARK, "object": "event", "api_version": "2026-01-28.clover", "created": 1767225601, "data": {"object": _PAYMENT},
    "livemode": False, "pending_webhooks": 1, "request": {"id": "req_Loadingwebhooks", "idempotency_key": "v1:01939a0e:1"},
    "type": "payment_intent.succeeded",
}  # fmt: skip
_TEMPLATE: Final = json.dumps(_EVENT, indent=2).encode()


@dataclass(frozen=True, slots=True)
class SignedEvent:
    """One webhook: its bytes and the value of `HEADER`."""

    body: bytes
    signature: str


def signed_events(secret: str, count: int) -> Iterator[SignedEvent]:
    """`count` different events, signed now: they are good for five minutes."""
    stamp, key, mark = str(int(time.time())), secret.encode(), _MARK.encode()
    for _ in range(count):
        body = _TEMPLATE.replace(mark, b"evt_" + uuid4().hex.encode(), 1)
        digest = hmac.new(key, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
        yield SignedEvent(body, f"t={stamp},v1={digest}")
