"""What evidence may change: every state against every kind of evidence from every side."""

from __future__ import annotations

from itertools import product

import pytest

from dunwell_server.payments.evidence import (
    ActionRequired,
    Declined,
    Evidence,
    NotSent,
    Pending,
    Succeeded,
    Unknown,
    judge,
)
from dunwell_server.payments.model import AttemptState, DeclineClass, Failure, FailureCode, Source

YES = Succeeded("pay_1", 100, "USD")
NO = Declined(Failure(FailureCode.CARD_DECLINED, DeclineClass.SOFT))
ALL: list[Evidence] = [
    YES,
    NO,
    Pending("p"),
    ActionRequired("p", "https://x", None),
    NotSent("refused"),
    Unknown("timeout"),
]
END = {AttemptState.SUCCEEDED, AttemptState.DECLINED, AttemptState.CLOSED}


@pytest.mark.parametrize("state", list(AttemptState))
def test_money_is_always_accepted_once(state: AttemptState) -> None:
    verdict = judge(state, YES, Source.EVENT, holds_fence=False, other_success=False)
    assert verdict.state == (None if state is AttemptState.SUCCEEDED else AttemptState.SUCCEEDED)
    late = judge(state, YES, Source.EVENT, holds_fence=False, other_success=True)
    assert late.late_landing is (state is not AttemptState.SUCCEEDED)
    assert late.state is not AttemptState.SUCCEEDED


def test_nothing_but_money_changes_an_end_state() -> None:
    for state, evidence, source, fence, other in product(END, ALL[1:], Source, (True, False), (True, False)):
        assert judge(state, evidence, source, holds_fence=fence, other_success=other).state is None


def test_only_the_sender_itself_may_say_that_it_did_not_send() -> None:
    refused = NotSent("refused")
    sent = AttemptState.SENT
    assert judge(sent, refused, Source.ANSWER, holds_fence=True, other_success=False).state is AttemptState.NOT_SENT
    assert judge(sent, refused, Source.ANSWER, holds_fence=False, other_success=False).state is None
    for source in Source:
        verdict = judge(AttemptState.UNKNOWN, refused, source, holds_fence=True, other_success=False).state
        assert verdict is (AttemptState.NOT_SENT if source in (Source.LOOKUP, Source.PERSON) else None)
    for state in (AttemptState.PENDING, AttemptState.REQUIRES_ACTION):
        for source in Source:
            assert judge(state, refused, source, holds_fence=True, other_success=False).state is None


def test_silence_makes_only_a_sent_attempt_unknown() -> None:
    for state in AttemptState:
        verdict = judge(state, Unknown("timeout"), Source.ANSWER, holds_fence=True, other_success=False).state
        assert verdict is (AttemptState.UNKNOWN if state is AttemptState.SENT else None)
    assert judge(AttemptState.SENT, Unknown("x"), Source.ANSWER, holds_fence=False, other_success=False).state is None
    assert (
        judge(AttemptState.SENT, Unknown("x"), Source.CRASH, holds_fence=False, other_success=False).state
        is AttemptState.UNKNOWN
    )


def test_a_refusal_ends_only_what_was_with_the_provider() -> None:
    for state in AttemptState:
        verdict = judge(state, NO, Source.LOOKUP, holds_fence=False, other_success=False).state
        with_provider = state in (
            AttemptState.SENT,
            AttemptState.UNKNOWN,
            AttemptState.PENDING,
            AttemptState.REQUIRES_ACTION,
        )
        assert verdict is (AttemptState.DECLINED if with_provider else None)
