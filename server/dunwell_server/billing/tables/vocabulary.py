"""Enumerations that several tables share."""

from __future__ import annotations

CADENCES = ("ON_DUE", "MONTHLY", "QUARTERLY", "IMMEDIATE")
AUTOPAY_STATUSES = ("SCHEDULED", "PROCESSING", "SUCCEEDED", "FAILED", "CANCELLED")
FAILURE_CODES = (
    "card_declined", "insufficient_funds", "expired_card", "incorrect_cvc", "processing_error", "authentication_required", "network_error",
    "missing_payment_method",
)  # fmt: skip
