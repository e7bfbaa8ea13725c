"""What an outcome may be, and when it is not believed."""

from __future__ import annotations

import pytest

from dunwell_server.kernel.money import Money
from dunwell_server.providers.outcomes import (
    DeclineClass,
    FailureCode,
    Outcome,
    OutcomeClass,
    after_unknown,
    checked,
    not_sent,
    payer_message,
    unknown,
)

USD = Money("USD", 1000)


def success(money: Money = USD) -> Outcome:
    return Outcome(outcome=OutcomeClass.SUCCEEDED, provider_reference="pay_1", money=money)


def decline(*, executed: bool = True) -> Outcome:
    return Outcome(
        outcome=OutcomeClass.DECLINED,
        failure_code=FailureCode.CARD_DECLINED,
        decline_class=DeclineClass.SOFT,
        executed=executed,
    )


def test_what_means_nothing_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="decline class"):
        Outcome(outcome=OutcomeClass.DECLINED, failure_code=FailureCode.CARD_DECLINED)
    with pytest.raises(ValueError, match="decline class"):
        Outcome(outcome=OutcomeClass.PENDING, decline_class=DeclineClass.SOFT)
    with pytest.raises(ValueError, match="failure code"):
        Outcome(outcome=OutcomeClass.DECLINED, decline_class=DeclineClass.SOFT)
    with pytest.raises(ValueError, match="success"):
        Outcome(outcome=OutcomeClass.SUCCEEDED, provider_reference="pay_1")
    with pytest.raises(ValueError, match="success"):
        Outcome(outcome=OutcomeClass.SUCCEEDED, money=USD)
    with pytest.raises(ValueError, match="payer"):
        Outcome(outcome=OutcomeClass.REQUIRES_ACTION)
    for seconds in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="negative"):
            not_sent("limited", retry_after_seconds=seconds)


@pytest.mark.parametrize("said", [Money("USD", 1001), Money("USD", 0), Money("EUR", 1000)])
@pytest.mark.parametrize("claimed", [OutcomeClass.SUCCEEDED, OutcomeClass.PENDING, OutcomeClass.REQUIRES_ACTION])
def test_other_money_than_asked_is_unknown(said: Money, claimed: OutcomeClass) -> None:
    outcome = checked(USD, Outcome(outcome=claimed, provider_reference="pay_1", money=said, action_url="https://x"))
    assert outcome.outcome is OutcomeClass.UNKNOWN
    assert outcome.action_url is None
    assert outcome.provider_reference == "pay_1"
    assert outcome.evidence["claimed"] == claimed
    assert outcome.evidence["said"] == f"{said.minor} {said.currency}"


def test_what_agrees_or_moves_nothing_stays_as_it_is() -> None:
    for outcome in (success(), decline(), unknown("x"), not_sent("x")):
        assert checked(USD, outcome) is outcome


def test_after_an_unknown_only_what_was_executed_counts() -> None:
    for definitive in (success(), decline(), unknown("x")):
        assert after_unknown(definitive) is definitive
    for unproven in (not_sent("refused", evidence={"status": "429"}), decline(executed=False)):
        outcome = after_unknown(unproven)
        assert outcome.outcome is OutcomeClass.UNKNOWN
        assert outcome.decline_class is None
        assert outcome.evidence["answer"] == unproven.outcome


def test_every_failure_code_has_a_harmless_message() -> None:
    for code in FailureCode:
        assert payer_message(code).endswith(".")
