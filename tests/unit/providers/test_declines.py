"""The combined decline table, and who wins when its sources disagree."""

from __future__ import annotations

from datetime import timedelta

import pytest

from dunwell_server.providers.declines import (
    DECLINE_CLASSES,
    DISPUTED,
    NETWORK_NEVER,
    advised_wait,
    decline_class_of,
    failure_code_of,
)
from dunwell_server.providers.outcomes import DeclineClass, FailureCode

HARD, SOFT, CUSTOMER, TECHNICAL = DeclineClass.HARD, DeclineClass.SOFT, DeclineClass.CUSTOMER, DeclineClass.TECHNICAL

# Written out once more, code by code, so that a slip in the table is caught.
EXPECTED = {
    "lost_card": HARD,
    "stolen_card": HARD,
    "pickup_card": HARD,
    "fraudulent": HARD,
    "merchant_blacklist": HARD,
    "invalid_account": HARD,
    "incorrect_number": HARD,
    "invalid_number": HARD,
    "currency_not_supported": HARD,
    "do_not_try_again": HARD,
    "revocation_of_authorization": HARD,
    "revocation_of_all_authorizations": HARD,
    "stop_payment_order": HARD,
    "testmode_decline": HARD,
    "insufficient_funds": SOFT,
    "do_not_honor": SOFT,
    "generic_decline": SOFT,
    "call_issuer": SOFT,
    "approve_with_id": SOFT,
    "card_velocity_exceeded": SOFT,
    "withdrawal_count_limit_exceeded": SOFT,
    "invalid_amount": SOFT,
    "no_action_taken": SOFT,
    "pin_try_exceeded": SOFT,
    "try_again_later": SOFT,
    "issuer_not_available": TECHNICAL,
    "processing_error": TECHNICAL,
    "reenter_transaction": TECHNICAL,
    "expired_card": CUSTOMER,
    "incorrect_cvc": CUSTOMER,
    "invalid_cvc": CUSTOMER,
    "incorrect_zip": CUSTOMER,
    "incorrect_address": CUSTOMER,
    "invalid_expiry_month": CUSTOMER,
    "invalid_expiry_year": CUSTOMER,
    "incorrect_pin": CUSTOMER,
    "invalid_pin": CUSTOMER,
    "offline_pin_required": CUSTOMER,
    "online_or_offline_pin_required": CUSTOMER,
    "new_account_information_available": CUSTOMER,
    "authentication_required": CUSTOMER,
    "authentication_not_handled": CUSTOMER,
    "mobile_device_authentication_required": CUSTOMER,
    "card_not_supported": CUSTOMER,
    "not_permitted": CUSTOMER,
    "restricted_card": CUSTOMER,
    "security_violation": CUSTOMER,
    "service_not_allowed": CUSTOMER,
    "transaction_not_allowed": CUSTOMER,
    "duplicate_transaction": CUSTOMER,
}


def test_the_table_has_exactly_the_fifty_codes() -> None:
    assert len(EXPECTED) == 50
    assert dict(DECLINE_CLASSES) == EXPECTED


@pytest.mark.parametrize(("code", "expected"), EXPECTED.items())
def test_a_code_counts_alike_as_decline_code_and_as_code(code: str, expected: DeclineClass) -> None:
    assert decline_class_of(code) is expected
    assert decline_class_of(code, "card_declined") is expected
    assert decline_class_of(None, code) is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        *dict.fromkeys(("account_closed", "debit_not_authorized", "no_account", "payment_method_bank_account_blocked"), HARD).items(),
        *dict.fromkeys(("payment_intent_mandate_invalid", "expired_payment_method", "payment_method_restricted"), CUSTOMER).items(),
        ("payment_method_provider_timeout", TECHNICAL),
    ],
)  # fmt: skip
def test_methods_that_are_no_cards_have_codes_of_their_own(code: str, expected: DeclineClass) -> None:
    assert decline_class_of(None, code) is expected
    assert decline_class_of(code, "payment_intent_payment_attempt_failed") is expected
    assert decline_class_of(None, code, advice_code="do_not_try_again") is HARD


@pytest.mark.parametrize("code", [None, "", "a_code_of_next_year"])
def test_a_code_nobody_lists_is_a_plain_decline(code: str | None) -> None:
    assert decline_class_of(code, "card_declined") is SOFT
    assert failure_code_of(code, "card_declined") is FailureCode.CARD_DECLINED


@pytest.mark.parametrize("never", sorted(NETWORK_NEVER))
def test_never_from_the_network_wins_over_everything(never: str) -> None:
    assert decline_class_of("insufficient_funds", "card_declined", never, "try_again_later") is HARD
    assert decline_class_of("processing_error", None, never) is HARD


def test_never_from_any_source_wins() -> None:
    assert decline_class_of("insufficient_funds", "card_declined", "51", "do_not_try_again") is HARD
    assert decline_class_of("lost_card", "card_declined", "51", "try_again_later") is HARD
    assert decline_class_of("insufficient_funds", network_advice_code="03") is HARD
    assert decline_class_of("insufficient_funds", network_advice_code="21") is HARD
    # As a response code, "21" and "03" say something else.
    assert decline_class_of("insufficient_funds", network_code="21") is SOFT


def test_advice_goes_before_the_decline_code() -> None:
    assert decline_class_of("generic_decline", advice_code="confirm_card_data") is CUSTOMER
    assert decline_class_of("expired_card", advice_code="try_again_later") is SOFT
    assert decline_class_of("processing_error", advice_code="try_again_later") is TECHNICAL
    assert decline_class_of("expired_card", advice_code="advice_of_next_year") is CUSTOMER


@pytest.mark.parametrize("code", sorted(DISPUTED))
def test_disputed_codes_are_never_retried_by_themselves(code: str) -> None:
    assert decline_class_of(code, "card_declined", None, "try_again_later") is CUSTOMER
    assert decline_class_of(code, "card_declined", None, "do_not_try_again") is HARD


def test_waits_asked_for_by_the_network() -> None:
    assert [advised_wait(str(code)) for code in range(24, 31)] == [
        timedelta(hours=1),
        timedelta(hours=24),
        timedelta(days=2),
        timedelta(days=4),
        timedelta(days=6),
        timedelta(days=8),
        timedelta(days=10),
    ]
    assert advised_wait("03") is None
    assert advised_wait(None) is None


@pytest.mark.parametrize(
    ("decline_code", "code", "expected"),
    [
        ("insufficient_funds", "card_declined", FailureCode.INSUFFICIENT_FUNDS),
        (None, "expired_card", FailureCode.EXPIRED_CARD),
        (None, "incorrect_cvc", FailureCode.INCORRECT_CVC),
        ("invalid_cvc", "card_declined", FailureCode.INCORRECT_CVC),
        (None, "processing_error", FailureCode.PROCESSING_ERROR),
        ("issuer_not_available", "card_declined", FailureCode.PROCESSING_ERROR),
        ("authentication_required", "authentication_required", FailureCode.AUTHENTICATION_REQUIRED),
        ("stolen_card", "card_declined", FailureCode.CARD_DECLINED),
    ],
)
def test_failure_codes(decline_code: str | None, code: str, expected: FailureCode) -> None:
    assert failure_code_of(decline_code, code) is expected
