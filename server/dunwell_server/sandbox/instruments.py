"""Test payment methods: what each token does when it is attached and charged.

Names of Stripe's test payment methods do what they do at Stripe, with two exceptions made so that dunning can be
tried out: tokens that decline can be attached, and ``pm_card_threeDSecure2Required`` asks for action off session too.
Names with ``pm_sandbox_`` play faults that only a sandbox can.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dunwell_server.sandbox.answers import invalid


class Behaviour(StrEnum):
    """What happens to a charge. A scripted fault names one of these as well."""

    SUCCEED = "succeed"
    DECLINE = "decline"
    REQUIRE_ACTION = "require_action"
    REQUIRE_ACTION_ON_SESSION = "require_action_on_session"
    """Off session: declined with ``authentication_required``."""
    PENDING_THEN_SUCCESS = "pending_then_success"
    PENDING_THEN_FAILURE = "pending_then_failure"
    FAIL_THEN_SUCCEED = "fail_then_succeed"
    WRONG_AMOUNT = "wrong_amount"
    WRONG_CURRENCY = "wrong_currency"
    # Executed, but the caller does not learn the outcome:
    ACCEPT_THEN_TIMEOUT = "accept_then_timeout"
    ACCEPT_THEN_DROP = "accept_then_drop"
    SERVER_ERROR_AFTER_ACCEPT = "server_error_after_accept"
    UNPARSABLE = "unparsable"
    SLOW = "slow"
    # Not executed (or not yet):
    SERVER_ERROR_BEFORE_ACCEPT = "server_error_before_accept"
    DROP_BEFORE_ACCEPT = "drop_before_accept"
    LATE_LANDING = "late_landing"
    RATE_LIMITED = "rate_limited"
    CONFLICT = "conflict"
    # Of refunds only:
    SUCCEED_THEN_FAIL = "succeed_then_fail"


@dataclass(frozen=True, slots=True)
class Decline:
    """How the network words a refusal. Some come as ``code`` alone, without a ``decline_code``, as at Stripe."""

    code: str
    decline_code: str | None
    message: str
    network_decline_code: str | None = None
    advice_code: str | None = None


def _card(decline_code: str, message: str, network: str | None = None, advice: str | None = None) -> Decline:
    return Decline("card_declined", decline_code, message, network, advice)


DECLINES: dict[str, Decline] = {
    "generic_decline": _card("generic_decline", "Your card was declined.", "05", "try_again_later"),
    "do_not_honor": _card("do_not_honor", "Your card was declined.", "05"),
    "insufficient_funds": _card("insufficient_funds", "Your card has insufficient funds.", "51", "try_again_later"),
    "lost_card": _card("lost_card", "Your card was declined.", "41", "do_not_try_again"),
    "stolen_card": _card("stolen_card", "Your card was declined.", "43", "do_not_try_again"),
    "fraudulent": _card("fraudulent", "Your card was declined.", None, "do_not_try_again"),
    "transaction_not_allowed": _card("transaction_not_allowed", "Your card does not support this purchase."),
    "issuer_not_available": _card("issuer_not_available", "Your card's issuer could not be reached.", "91"),
    "expired_card": Decline("expired_card", None, "Your card has expired.", "54", "confirm_card_data"),
    "incorrect_cvc": Decline("incorrect_cvc", None, "Your card's security code is incorrect."),
    "processing_error": Decline("processing_error", None, "An error occurred while processing your card."),
    "authentication_required": Decline(
        "authentication_required", "authentication_required", "Your card requires authentication."
    ),
    "authentication_not_handled": Decline(
        "authentication_required", "authentication_not_handled", "The payment was not authenticated."
    ),
}


@dataclass(frozen=True, slots=True)
class Instrument:
    """One test payment method."""

    token: str
    behaviour: Behaviour = Behaviour.SUCCEED
    decline: str | None = None
    brand: str = "visa"
    last4: str = "4242"
    refuses_attach: bool = False
    refund: Behaviour = Behaviour.SUCCEED
    """What happens to refunds of what was paid with it."""
    dispute: str | None = None
    """The reason for which each payment with it is disputed at once."""
    inquiry: bool = False
    """Its dispute is only an inquiry."""

    def details(self) -> dict[str, Any]:
        """What a provider tells about the card."""
        return {
            "brand": self.brand,
            "last4": self.last4,
            "exp_month": 12,
            "exp_year": 2039,
            "country": "US",
            "fingerprint": f"fp_{self.brand}_{self.last4}",
        }


def _declines(suffix: str, decline: str, last4: str) -> Instrument:
    return Instrument(f"pm_card_{suffix}", Behaviour.DECLINE, decline, last4=last4)


def _refunds(name: str, behaviour: Behaviour, last4: str) -> Instrument:
    return Instrument(name, last4=last4, refund=behaviour)


def _disputed(suffix: str, reason: str, last4: str, *, inquiry: bool = False) -> Instrument:
    return Instrument(f"pm_card_createDispute{suffix}", last4=last4, dispute=reason, inquiry=inquiry)


def _sandbox(suffix: str, behaviour: Behaviour, last4: str, decline: str | None = None) -> Instrument:
    return Instrument(f"pm_sandbox_{suffix}", behaviour, decline, last4=last4)


_ALL = (
    Instrument("pm_card_visa"),
    Instrument("pm_card_mastercard", brand="mastercard", last4="4444"),
    _declines("chargeDeclined", "generic_decline", "0002"),
    _declines("visa_chargeDeclined", "generic_decline", "0002"),
    _declines("chargeDeclinedInsufficientFunds", "insufficient_funds", "9995"),
    _declines("visa_chargeDeclinedInsufficientFunds", "insufficient_funds", "9995"),
    _declines("chargeDeclinedLostCard", "lost_card", "9987"),
    _declines("visa_chargeDeclinedLostCard", "lost_card", "9987"),
    _declines("chargeDeclinedStolenCard", "stolen_card", "9979"),
    _declines("visa_chargeDeclinedStolenCard", "stolen_card", "9979"),
    _declines("chargeDeclinedExpiredCard", "expired_card", "0069"),
    _declines("chargeDeclinedIncorrectCvc", "incorrect_cvc", "0127"),
    _declines("chargeDeclinedProcessingError", "processing_error", "0119"),
    _declines("chargeCustomerFail", "generic_decline", "0341"),
    Instrument("pm_card_authenticationRequired", Behaviour.REQUIRE_ACTION_ON_SESSION, last4="3184"),
    Instrument("pm_card_threeDSecure2Required", Behaviour.REQUIRE_ACTION, last4="3220"),
    _refunds("pm_card_pendingRefund", Behaviour.PENDING_THEN_SUCCESS, "7726"),
    _refunds("pm_card_refundFail", Behaviour.SUCCEED_THEN_FAIL, "5126"),
    _refunds("pm_sandbox_refundPendingThenFailure", Behaviour.PENDING_THEN_FAILURE, "8021"),
    _refunds("pm_sandbox_refundDeclined", Behaviour.DECLINE, "8022"),
    _refunds("pm_sandbox_refundAcceptThenTimeout", Behaviour.ACCEPT_THEN_TIMEOUT, "8023"),
    _refunds("pm_sandbox_refundAcceptThenDrop", Behaviour.ACCEPT_THEN_DROP, "8024"),
    _refunds("pm_sandbox_refundServerErrorAfterAccept", Behaviour.SERVER_ERROR_AFTER_ACCEPT, "8025"),
    _refunds("pm_sandbox_refundWrongAmount", Behaviour.WRONG_AMOUNT, "8026"),
    _disputed("", "fraudulent", "0259"),
    _disputed("ProductNotReceived", "product_not_received", "2685"),
    _disputed("Inquiry", "general", "1976", inquiry=True),
    _sandbox("acceptThenTimeout", Behaviour.ACCEPT_THEN_TIMEOUT, "8001"),
    _sandbox("acceptThenDrop", Behaviour.ACCEPT_THEN_DROP, "8002"),
    _sandbox("serverErrorAfterAccept", Behaviour.SERVER_ERROR_AFTER_ACCEPT, "8003"),
    _sandbox("serverErrorBeforeAccept", Behaviour.SERVER_ERROR_BEFORE_ACCEPT, "8004"),
    _sandbox("pendingThenSuccess", Behaviour.PENDING_THEN_SUCCESS, "8005"),
    _sandbox("pendingThenFailure", Behaviour.PENDING_THEN_FAILURE, "8006", "generic_decline"),
    _sandbox("dropBeforeAccept", Behaviour.DROP_BEFORE_ACCEPT, "8007"),
    _sandbox("rateLimited", Behaviour.RATE_LIMITED, "8008"),
    _sandbox("wrongAmount", Behaviour.WRONG_AMOUNT, "8009"),
    _sandbox("wrongCurrency", Behaviour.WRONG_CURRENCY, "8010"),
    _sandbox("failTwiceThenSucceed", Behaviour.FAIL_THEN_SUCCEED, "8011", "generic_decline"),
    _sandbox("lateLanding", Behaviour.LATE_LANDING, "8012"),
    _sandbox("unparsable", Behaviour.UNPARSABLE, "8013"),
    Instrument("pm_sandbox_attachDeclined", Behaviour.DECLINE, "generic_decline", last4="8014", refuses_attach=True),
)

INSTRUMENTS: dict[str, Instrument] = {instrument.token: instrument for instrument in _ALL}

_DIGITS = re.compile(r"\d{13,19}")


def looks_like_card_number(text: str) -> bool:
    """Whether the whole text is 13 to 19 digits (spaces and dashes aside) that pass the Luhn check."""
    digits = text.replace(" ", "").replace("-", "")
    if not _DIGITS.fullmatch(digits):
        return False
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def refuse_card_data(body: Any) -> None:
    """Refuses a request with a card number, or a ``card`` object, anywhere in it. The number is not repeated."""
    if isinstance(body, str):
        if looks_like_card_number(body):
            raise invalid("raw_card_data", "Card numbers are never accepted. Send a token such as pm_card_visa.")
    elif isinstance(body, dict):
        if "card" in body:
            raise invalid("raw_card_data", "Card data is never accepted. Send a token such as pm_card_visa.", "card")
        for value in body.values():
            refuse_card_data(value)
    elif isinstance(body, list):
        for value in body:
            refuse_card_data(value)
