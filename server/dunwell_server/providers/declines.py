"""Decline codes of card networks and of Stripe, and what may follow them.

Three sources speak, the network's code first, then the provider's advice, then the decline code; and "never again" from
any of them wins. Where public sources disagree about a code (`DISPUTED`) it is treated as CUSTOMER: not retried on that
method without someone acting, whatever advice says short of "never". A code nobody lists counts as a plain decline.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Final

from dunwell_server.providers.outcomes import DeclineClass, FailureCode


def _table(**classes: str) -> Mapping[str, DeclineClass]:
    return MappingProxyType({code: DeclineClass[name] for name, codes in classes.items() for code in codes.split()})


DISPUTED: Final = frozenset(
    {
        "card_not_supported",
        "duplicate_transaction",
        "not_permitted",
        "restricted_card",
        "security_violation",
        "service_not_allowed",
        "transaction_not_allowed",
    }
)

DECLINE_CLASSES: Final = _table(
    HARD="lost_card stolen_card pickup_card fraudulent merchant_blacklist invalid_account incorrect_number "
    "invalid_number currency_not_supported do_not_try_again revocation_of_authorization "
    "revocation_of_all_authorizations stop_payment_order testmode_decline",
    SOFT="insufficient_funds do_not_honor generic_decline call_issuer approve_with_id card_velocity_exceeded "
    "withdrawal_count_limit_exceeded invalid_amount no_action_taken pin_try_exceeded try_again_later",
    TECHNICAL="issuer_not_available processing_error reenter_transaction",
    CUSTOMER="expired_card incorrect_cvc invalid_cvc incorrect_zip incorrect_address invalid_expiry_month "
    "invalid_expiry_year incorrect_pin invalid_pin offline_pin_required online_or_offline_pin_required "
    "new_account_information_available authentication_required authentication_not_handled "
    "mobile_device_authentication_required " + " ".join(sorted(DISPUTED)),
)
"""By Stripe's ``decline_code``, or by ``code`` where a decline comes without one."""

_OTHER_CODES: Final = _table(
    HARD="account_closed account_number_invalid bank_account_restricted bank_account_unusable debit_not_authorized no_account "
    "india_recurring_payment_mandate_canceled payment_method_bank_account_blocked sepa_unsupported_account",
    CUSTOMER="billing_invalid_mandate expired_payment_method incorrect_postal_code payment_intent_mandate_invalid "
    "payment_method_customer_decline payment_method_restricted payment_method_unactivated setup_intent_mandate_invalid",
    TECHNICAL="payment_method_provider_timeout three_d_secure_authentication_upstream_error",
)
"""Codes of methods that are no cards, and of mandates. A debit that its payer's bank has refused for ever is not sent again: schemes fine that."""

NETWORK_NEVER: Final = frozenset({"04", "07", "12", "14", "15", "41", "43", "46", "57", "R0", "R1", "R3"})
"""Network decline codes after which the issuer will never approve (Visa's category 1)."""

NETWORK_ADVICE_NEVER: Final = frozenset({"03", "21"})
"""Mastercard's merchant advice codes that say: do not try again; stop all recurring payments."""

NETWORK_ADVICE_WAIT: Final[Mapping[str, timedelta]] = MappingProxyType(
    {
        "24": timedelta(hours=1),
        "25": timedelta(hours=24),
        "26": timedelta(days=2),
        "27": timedelta(days=4),
        "28": timedelta(days=6),
        "29": timedelta(days=8),
        "30": timedelta(days=10),
    }
)
"""Mastercard's merchant advice codes that say how long to wait."""

_ADVICE: Final = MappingProxyType(
    {
        "do_not_try_again": DeclineClass.HARD,
        "confirm_card_data": DeclineClass.CUSTOMER,
        "try_again_later": DeclineClass.SOFT,
    }
)

_FAILURE_CODES: Final = MappingProxyType(
    {
        "insufficient_funds": FailureCode.INSUFFICIENT_FUNDS,
        "expired_card": FailureCode.EXPIRED_CARD,
        "expired_payment_method": FailureCode.EXPIRED_CARD,
        "incorrect_cvc": FailureCode.INCORRECT_CVC,
        "invalid_cvc": FailureCode.INCORRECT_CVC,
        "processing_error": FailureCode.PROCESSING_ERROR,
        "issuer_not_available": FailureCode.PROCESSING_ERROR,
        "reenter_transaction": FailureCode.PROCESSING_ERROR,
        "authentication_required": FailureCode.AUTHENTICATION_REQUIRED,
        "authentication_not_handled": FailureCode.AUTHENTICATION_REQUIRED,
        "mobile_device_authentication_required": FailureCode.AUTHENTICATION_REQUIRED,
    }
)


def decline_class_of(
    decline_code: str | None,
    code: str | None = None,
    network_code: str | None = None,
    advice_code: str | None = None,
    network_advice_code: str | None = None,
) -> DeclineClass:
    """What may follow a decline, from everything the answer says about it.

    ``decline_code`` and ``code`` are Stripe's words (some declines have only the latter), ``network_code`` the
    network's response code, ``advice_code`` Stripe's advice, ``network_advice_code`` Mastercard's two digits. None
    means the answer did not say.
    """
    word = decline_code or code or ""
    by_code = DECLINE_CLASSES.get(word) or _OTHER_CODES.get(word)
    advice = _ADVICE.get(advice_code or "")
    never = (
        network_code in NETWORK_NEVER
        or network_advice_code in NETWORK_ADVICE_NEVER
        or advice is DeclineClass.HARD
        or by_code is DeclineClass.HARD
    )
    if never:
        return DeclineClass.HARD
    if word in DISPUTED:
        return DeclineClass.CUSTOMER
    if advice is DeclineClass.SOFT and by_code is DeclineClass.TECHNICAL:
        return DeclineClass.TECHNICAL  # The same advice, worded more finely: later, and it was not the card.
    return advice or by_code or DeclineClass.SOFT


def advised_wait(network_advice_code: str | None) -> timedelta | None:
    """How long the network asks to wait before another try; None if it does not say."""
    return NETWORK_ADVICE_WAIT.get(network_advice_code or "")


def failure_code_of(decline_code: str | None, code: str | None = None) -> FailureCode:
    """The contract's failure code for a decline; plain ``card_declined`` for all that need no word of their own."""
    return _FAILURE_CODES.get(decline_code or code or "", FailureCode.CARD_DECLINED)
