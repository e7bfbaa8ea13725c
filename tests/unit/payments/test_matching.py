"""The comparison of one payment of the provider's list with ours."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from dunwell_server.payments.evidence import ActionRequired, Declined, Evidence, Pending, Succeeded, Unknown
from dunwell_server.payments.matching import Ours, Step, Theirs, compare, key_parts, subject_of
from dunwell_server.payments.model import AttemptState, Failure, FailureCode, idempotency_key

NOW = datetime(2026, 3, 2, tzinfo=UTC)
PAID = Succeeded("pi_1", 500, "USD")
REFUSED = Declined(Failure(FailureCode.CARD_DECLINED), "pi_1")
LINK = ActionRequired("pi_1", None, None)


def theirs(evidence: Evidence, amount: int = 500, reference: str = "pi_1") -> Theirs:
    return Theirs(reference, "key", True, uuid4(), 1, amount, "USD", evidence, NOW)


def ours(state: AttemptState, *, in_hand: bool = False, reference: str | None = "pi_1") -> Ours:
    return Ours(uuid4(), uuid4(), uuid4(), None, state, "key", reference, 500, "USD", in_hand)


@pytest.mark.parametrize(
    ("state", "evidence", "step"),
    [
        (AttemptState.SUCCEEDED, PAID, Step.MATCHED),
        (AttemptState.UNKNOWN, PAID, Step.TAKE),
        (AttemptState.CREATED, PAID, Step.TAKE),
        (AttemptState.DECLINED, PAID, Step.TAKE),
        (AttemptState.CLOSED, PAID, Step.TAKE),
        (AttemptState.SUCCEEDED, REFUSED, Step.DIFFERS),
        (AttemptState.DECLINED, REFUSED, Step.MATCHED),
        (AttemptState.UNKNOWN, REFUSED, Step.TAKE),
        (AttemptState.CREATED, REFUSED, Step.TAKE),
        (AttemptState.PENDING, Pending("pi_1"), Step.MATCHED),
        (AttemptState.UNKNOWN, Pending("pi_1"), Step.TAKE),
        (AttemptState.SUCCEEDED, Pending("pi_1"), Step.DIFFERS),
        (AttemptState.DECLINED, Pending("pi_1"), Step.WAITS),
        (AttemptState.REQUIRES_ACTION, LINK, Step.MATCHED),
        (AttemptState.SENT, LINK, Step.TAKE),
        (AttemptState.UNKNOWN, Unknown("?"), Step.WAITS),
        (AttemptState.SUCCEEDED, Unknown("?"), Step.WAITS),
    ],
)
def test_what_follows(state: AttemptState, evidence: Evidence, step: Step) -> None:
    assert compare(ours(state), theirs(evidence)).step is step


@pytest.mark.parametrize("state", list(AttemptState))
def test_another_amount_is_never_taken_over(state: AttemptState) -> None:
    found = compare(ours(state), theirs(PAID, amount=501))
    assert (found.step, found.reason) == (Step.DIFFERS, "AMOUNT_DIFFERS")


@pytest.mark.parametrize("evidence", [PAID, REFUSED, Pending("pi_1")])
def test_what_somebody_is_asking_about_is_left_to_them(evidence: Evidence) -> None:
    assert compare(ours(AttemptState.SENT, in_hand=True), theirs(evidence)).step in (Step.WAITS, Step.MATCHED)


def test_a_second_object_under_one_key_is_money_of_its_own_or_nothing() -> None:
    mine = ours(AttemptState.SUCCEEDED)
    assert compare(mine, theirs(PAID, reference="pi_2")).step is Step.ADOPT
    assert compare(mine, theirs(REFUSED, reference="pi_2")).step is Step.MATCHED
    assert compare(replace(mine, reference=None), theirs(PAID, reference="pi_2")).step is Step.MATCHED
    by_hand = replace(mine, reference=None, by_hand=True)
    assert compare(by_hand, theirs(PAID, reference="pi_2")).step is Step.TAKE, "now the provider says which it was"
    confirmed = replace(mine, by_hand=True)
    assert compare(confirmed, theirs(PAID, reference="pi_1")).step is Step.MATCHED
    assert compare(confirmed, theirs(PAID, reference="pi_2")).step is Step.ADOPT


def test_keys_are_read_back_and_nothing_else_is() -> None:
    payment = uuid4()
    assert key_parts(idempotency_key(payment, 12)) == (payment, 12)
    for text in (
        None,
        "",
        "v1",
        "v1:x:1",
        f"v2:{payment}:1",
        f"v1:{payment}",
        f"v1:{payment}:x",
        f"v1:{payment.hex}:1",
        f"v1:refund:{payment}",
    ):
        assert key_parts(text) is None, text


def test_subjects_are_the_same_in_every_run_and_differ_by_account_and_kind() -> None:
    account = UUID(int=7 << 64)
    assert subject_of(account, "payment", "x") == subject_of(account, "payment", "x")
    assert len({subject_of(a, k, "x") for a in (account, uuid4()) for k in ("payment", "refund")}) == 4
