"""Events as Stripe sends them: every type of the product's list, in the shape of the present API version."""

from __future__ import annotations

from typing import Any

CREATED = 1_767_225_600
"""2026-01-01T00:00:00Z."""
OURS = {"firm": "firm-1", "payment": "payment-1", "key": "v1:payment-1:1"}


def event(kind: str, subject: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The envelope."""
    data: dict[str, Any] = {"object": subject}
    if "previous_attributes" in changes:
        data["previous_attributes"] = changes.pop("previous_attributes")
    return {
        "id": "evt_1MqqbKLt4dXK03v5qaIbiNCC",
        "object": "event",
        "api_version": "2026-10-28.endive",
        "created": CREATED + 10,
        "data": data,
        "livemode": False,
        "pending_webhooks": 1,
        "request": {"id": "req_1", "idempotency_key": "v1:payment-1:1"},
        "type": kind,
        **changes,
    }


def payment_intent(**changes: Any) -> dict[str, Any]:
    return {
        "id": "pi_3MtwBwLkdIwHu7ix28a3tqPa",
        "object": "payment_intent",
        "amount": 4999,
        "amount_capturable": 0,
        "amount_received": 4999,
        "automatic_payment_methods": {"allow_redirects": "never", "enabled": True},
        "cancellation_reason": None,
        "capture_method": "automatic_async",
        "client_secret": "pi_3MtwBwLkdIwHu7ix28a3tqPa_secret_YrKJUKribcBjcG8HVhfZluoGH",
        "created": CREATED,
        "currency": "usd",
        "customer": "cus_NffrFeUfNV2Hib",
        "description": "Invoice HV-2026-000042",
        "last_payment_error": None,
        "latest_charge": "ch_3MtwBwLkdIwHu7ix0snN0B15",
        "livemode": False,
        "metadata": OURS,
        "next_action": None,
        "payment_method": "pm_1MtwBwLkdIwHu7ix0snN0B15",
        "status": "succeeded",
        **changes,
    }


def card_error(**changes: Any) -> dict[str, Any]:
    return {
        "advice_code": "try_again_later",
        "charge": "ch_1",
        "code": "card_declined",
        "decline_code": "insufficient_funds",
        "message": "Your card has insufficient funds.",
        "network_decline_code": "51",
        "type": "card_error",
        **changes,
    }


def setup_intent(**changes: Any) -> dict[str, Any]:
    return {
        "id": "seti_1Mm8s8LkdIwHu7ix0OXBfTRG",
        "object": "setup_intent",
        "client_secret": "seti_1Mm8s8LkdIwHu7ix0OXBfTRG_secret_x",
        "created": CREATED,
        "customer": "cus_NffrFeUfNV2Hib",
        "last_setup_error": None,
        "livemode": False,
        "metadata": {"firm": "firm-1", "client": "client-1", "setup": "setup-1"},
        "payment_method": "pm_1MtwBwLkdIwHu7ix0snN0B15",
        "status": "succeeded",
        "usage": "off_session",
        **changes,
    }


def invoice(**changes: Any) -> dict[str, Any]:
    return {
        "id": "in_1MtHbELkdIwHu7ixl4OzzPMv",
        "object": "invoice",
        "amount_due": 2000,
        "amount_paid": 2000,
        "amount_remaining": 0,
        "attempt_count": 1,
        "billing_reason": "subscription_cycle",
        "created": CREATED,
        "currency": "usd",
        "customer": "cus_NffrFeUfNV2Hib",
        "hosted_invoice_url": "https://invoice.stripe.com/i/acct_1/test_1",
        "livemode": False,
        "metadata": {},
        "number": "ABC-0001",
        "parent": {
            "quote_details": None,
            "subscription_details": {"metadata": {"firm": "firm-1"}, "subscription": "sub_1MowQVLkdIwHu7ixeRlqHVzs"},
            "type": "subscription_details",
        },
        "payments": {
            "object": "list",
            "data": [
                {
                    "id": "inpay_1",
                    "object": "invoice_payment",
                    "is_default": True,
                    "payment": {"payment_intent": "pi_3MtwBwLkdIwHu7ix28a3tqPa", "type": "payment_intent"},
                    "status": "paid",
                }
            ],
            "has_more": False,
        },
        "status": "paid",
        "status_transitions": {
            "finalized_at": CREATED + 1,
            "marked_uncollectible_at": None,
            "paid_at": CREATED + 2,
            "voided_at": None,
        },
        "subtotal": 2000,
        "total": 2000,
        **changes,
    }


def refund(**changes: Any) -> dict[str, Any]:
    return {
        "id": "re_1Nispe2eZvKYlo2Cd31jOCgZ",
        "object": "refund",
        "amount": 1000,
        "charge": "ch_3MtwBwLkdIwHu7ix0snN0B15",
        "created": CREATED,
        "currency": "usd",
        "metadata": {"firm": "firm-1", "refund": "refund-1", "key": "refund:1"},
        "payment_intent": "pi_3MtwBwLkdIwHu7ix28a3tqPa",
        "reason": None,
        "status": "succeeded",
        **changes,
    }


def charge(**changes: Any) -> dict[str, Any]:
    return {
        "id": "ch_3MtwBwLkdIwHu7ix0snN0B15",
        "object": "charge",
        "amount": 4999,
        "amount_captured": 4999,
        "amount_refunded": 1000,
        "captured": True,
        "created": CREATED,
        "currency": "usd",
        "customer": "cus_NffrFeUfNV2Hib",
        "livemode": False,
        "metadata": OURS,
        "paid": True,
        "payment_intent": "pi_3MtwBwLkdIwHu7ix28a3tqPa",
        "refunded": False,
        "status": "succeeded",
        **changes,
    }


def dispute(**changes: Any) -> dict[str, Any]:
    return {
        "id": "du_1MtJUT2eZvKYlo2CNaw2HvEv",
        "object": "dispute",
        "amount": 1000,
        "balance_transactions": [
            {
                "id": "txn_1",
                "object": "balance_transaction",
                "amount": -1000,
                "currency": "usd",
                "fee": 1500,
                "net": -2500,
                "reporting_category": "dispute",
                "type": "adjustment",
            }
        ],
        "charge": "ch_3MtwBwLkdIwHu7ix0snN0B15",
        "created": CREATED,
        "currency": "usd",
        "evidence": {"access_activity_log": None},
        "evidence_details": {
            "due_by": CREATED + 864_000,
            "has_evidence": False,
            "past_due": False,
            "submission_count": 0,
        },
        "is_charge_refundable": False,
        "livemode": False,
        "metadata": {},
        "payment_intent": "pi_3MtwBwLkdIwHu7ix28a3tqPa",
        "reason": "fraudulent",
        "status": "needs_response",
        **changes,
    }


def customer(**changes: Any) -> dict[str, Any]:
    return {
        "id": "cus_NffrFeUfNV2Hib",
        "object": "customer",
        "created": CREATED,
        "email": "pay@example.com",
        "invoice_settings": {"default_payment_method": None},
        "livemode": False,
        "metadata": {"firm": "firm-1", "client": "client-1"},
        "name": "Hollis & Varga",
        **changes,
    }


def subscription(**changes: Any) -> dict[str, Any]:
    return {
        "id": "sub_1MowQVLkdIwHu7ixeRlqHVzs",
        "object": "subscription",
        "cancel_at": None,
        "cancel_at_period_end": False,
        "canceled_at": None,
        "created": CREATED,
        "currency": "usd",
        "customer": "cus_NffrFeUfNV2Hib",
        "items": {
            "object": "list",
            "data": [
                {
                    "id": "si_Na6dzxczY5fwHx",
                    "object": "subscription_item",
                    "current_period_end": CREATED + 2_678_400,
                    "current_period_start": CREATED,
                    "price": {"id": "price_1MowQULkdIwHu7ixraBm864M", "object": "price", "unit_amount": 1000},
                    "quantity": 2,
                }
            ],
            "has_more": False,
        },
        "latest_invoice": "in_1MtHbELkdIwHu7ixl4OzzPMv",
        "metadata": {"firm": "firm-1", "subscription": "subscription-1"},
        "status": "active",
        "trial_end": None,
        **changes,
    }


def payment_method(**changes: Any) -> dict[str, Any]:
    return {
        "id": "pm_1MtwBwLkdIwHu7ix0snN0B15",
        "object": "payment_method",
        "billing_details": {"name": "Hollis & Varga"},
        "card": {
            "brand": "visa",
            "country": "US",
            "exp_month": 8,
            "exp_year": 2030,
            "fingerprint": "mToisGZ01V71BCos",
            "last4": "4242",
            "wallet": None,
        },
        "created": CREATED,
        "customer": "cus_NffrFeUfNV2Hib",
        "livemode": False,
        "metadata": {},
        "type": "card",
        **changes,
    }


def session(**changes: Any) -> dict[str, Any]:
    return {
        "id": "cs_test_a11YYufWQzNY63zpQ6QSNRQhkUpVph4WRmzW0zWJO2znZKdVujZ0N0S22u",
        "object": "checkout.session",
        "amount_subtotal": 4999,
        "amount_total": 4999,
        "client_reference_id": "checkout-1",
        "created": CREATED,
        "currency": "usd",
        "customer": "cus_NffrFeUfNV2Hib",
        "expires_at": CREATED + 86_400,
        "livemode": False,
        "metadata": {"firm": "firm-1", "client": "client-1", "checkout": "checkout-1", "key": "checkout:1"},
        "mode": "payment",
        "payment_intent": "pi_3MtwBwLkdIwHu7ix28a3tqPa",
        "payment_status": "paid",
        "setup_intent": None,
        "status": "complete",
        "subscription": None,
        "url": None,
        **changes,
    }


def warning(**changes: Any) -> dict[str, Any]:
    return {
        "id": "issfr_1NffiLB1jxzBpT0vYBCz5GkN",
        "object": "radar.early_fraud_warning",
        "actionable": True,
        "charge": "ch_3MtwBwLkdIwHu7ix0snN0B15",
        "created": CREATED,
        "fraud_type": "unauthorized_use_of_card",
        "payment_intent": "pi_3MtwBwLkdIwHu7ix28a3tqPa",
        **changes,
    }


_DECLINED = {"status": "requires_payment_method", "last_payment_error": card_error(), "amount_received": 0}

EVENTS: dict[str, dict[str, Any]] = {
    "payment_intent.succeeded": payment_intent(),
    "payment_intent.payment_failed": payment_intent(**_DECLINED),
    "payment_intent.processing": payment_intent(status="processing"),
    "payment_intent.requires_action": payment_intent(status="requires_action"),
    "payment_intent.canceled": payment_intent(status="canceled", cancellation_reason="abandoned"),
    "payment_intent.amount_capturable_updated": payment_intent(status="requires_capture"),
    "setup_intent.succeeded": setup_intent(),
    "setup_intent.setup_failed": setup_intent(status="requires_payment_method", last_setup_error=card_error()),
    "setup_intent.requires_action": setup_intent(status="requires_action"),
    "setup_intent.canceled": setup_intent(status="canceled"),
    "invoice.payment_succeeded": invoice(),
    "invoice.payment_failed": invoice(status="open", amount_paid=0),
    "invoice.created": invoice(status="draft", number=None, amount_paid=0, payments=None),
    "invoice.finalized": invoice(status="open", amount_paid=0),
    "invoice.paid": invoice(),
    "charge.refunded": charge(),
    "refund.created": refund(status="pending"),
    "refund.updated": refund(),
    "refund.failed": refund(status="failed", failure_reason="lost_or_stolen_card"),
    "charge.refund.updated": refund(),
    "charge.dispute.created": dispute(),
    "charge.dispute.updated": dispute(status="under_review"),
    "charge.dispute.closed": dispute(status="lost"),
    "charge.dispute.funds_withdrawn": dispute(),
    "charge.dispute.funds_reinstated": dispute(status="won"),
    "customer.created": customer(),
    "customer.updated": customer(),
    "customer.deleted": customer(),
    "customer.subscription.created": subscription(status="incomplete"),
    "customer.subscription.updated": subscription(),
    "customer.subscription.deleted": subscription(status="canceled", canceled_at=CREATED + 5),
    "payment_method.attached": payment_method(),
    "payment_method.detached": payment_method(customer=None),
    "payment_method.updated": payment_method(),
    "payment_method.automatically_updated": payment_method(),
    "checkout.session.completed": session(),
    "checkout.session.expired": session(status="expired", payment_status="unpaid", payment_intent=None),
    "checkout.session.async_payment_succeeded": session(),
    "checkout.session.async_payment_failed": session(payment_status="unpaid"),
}
"""Each type that gives a notice, with its object."""

KEPT: dict[str, dict[str, Any]] = {
    "charge.failed": charge(status="failed", paid=False),
    "charge.succeeded": charge(),
    "radar.early_fraud_warning.created": warning(),
    "radar.early_fraud_warning.updated": warning(actionable=False),
    "review.opened": {"id": "prv_1", "object": "review", "charge": "ch_1", "payment_intent": "pi_1", "open": True},
    "review.closed": {"id": "prv_1", "object": "review", "charge": "ch_1", "payment_intent": "pi_1", "open": False},
    "mandate.updated": {"id": "mandate_1", "object": "mandate", "payment_method": "pm_1", "status": "inactive"},
    "customer.source.expiring": {"id": "card_1", "object": "card", "customer": "cus_1", "last4": "4242"},
    "invoice.upcoming": {k: v for k, v in invoice(status="draft").items() if k != "id"},
    "payment_intent.created": payment_intent(status="requires_confirmation"),
    "payout.paid": {"id": "po_1", "object": "payout", "amount": 1},
    "invented.next_year": {"id": "inv_1", "object": "invented"},
}
"""Types that are kept without a notice."""
