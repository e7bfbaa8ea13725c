"""Laws of refunds: what may be taken, of what, and what evidence does in whatever order it comes."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwell_server.kernel.money import Money
from dunwell_server.payments.evidence import NotSent, Pending, Succeeded, Unknown
from dunwell_server.payments.model import Source
from dunwell_server.payments.refunds import (
    Destination,
    Failed,
    Left,
    RefundEvidence,
    RefundState,
    SendState,
    Standing,
    Step,
    judge_refund,
    refund_evidence,
    refund_id_of_key,
    refund_key,
    repeated_evidence,
    spread,
)
from dunwell_server.providers.abilities import RefundOutcome, RefundOutcomeClass

AMOUNTS = st.integers(min_value=0, max_value=10**6)
INVOICES = [uuid4() for _ in range(5)]


@st.composite
def payments(draw: st.DrawFn) -> Left:
    """A payment of which nothing was refunded yet; the client still has some of the credit it left."""
    settled = [(invoice, draw(st.integers(1, 10**6))) for invoice in INVOICES[: draw(st.integers(0, 5))]]
    credit = draw(AMOUNTS)
    usable = draw(st.integers(0, credit))
    captured = sum(amount for _, amount in settled) + credit
    return Left(captured=captured, returned=0, reserved=0, credit=usable, settled=settled)


@given(payments(), st.lists(st.tuples(st.integers(1, 10**6), st.sampled_from(Destination)), max_size=12))
def test_any_sequence_of_refunds_stays_within_the_payment_and_covers_every_cent(
    left: Left, wanted: list[tuple[int, Destination]]
) -> None:
    first = left
    taken: dict[UUID, int] = {}
    from_credit = 0
    for amount, destination in wanted:
        amount = min(amount, left.refundable(destination))
        if not amount:
            continue
        part = spread(amount, left, destination)
        assert part.uncovered == 0
        assert part.from_credit + sum(part.parts.values()) == amount
        assert all(share > 0 for share in part.parts.values())
        if destination is Destination.CREDIT:
            assert part.from_credit == 0
        from_credit += part.from_credit
        for invoice, share in part.parts.items():
            taken[invoice] = taken.get(invoice, 0) + share
        left = Left(
            captured=left.captured, returned=left.returned + amount, reserved=0, credit=left.credit - part.from_credit,
            settled=[(invoice, rest - part.parts.get(invoice, 0)) for invoice, rest in left.settled],
        )  # fmt: skip
    assert left.returned <= first.captured
    assert from_credit <= first.credit
    assert all(taken.get(invoice, 0) <= amount for invoice, amount in first.settled)


@given(payments())
def test_all_that_is_left_is_refunded_to_the_cent(left: Left) -> None:
    whole = left.refundable(Destination.PAYMENT_METHOD)
    settled = sum(amount for _, amount in left.settled)
    assert whole == settled + left.credit
    if whole:
        part = spread(whole, left, Destination.PAYMENT_METHOD)
        assert (part.from_credit, part.parts, part.uncovered) == (left.credit, dict(left.settled), 0)
    assert left.refundable(Destination.CREDIT) == settled


@given(payments(), AMOUNTS, st.sampled_from(Destination))
def test_what_is_reserved_is_not_given_away_twice(left: Left, reserved: int, destination: Destination) -> None:
    reserved = min(reserved, left.refundable(Destination.PAYMENT_METHOD))
    with_open = Left(
        captured=left.captured, returned=0, reserved=reserved, credit=left.credit, settled=left.settled
    )  # fmt: skip
    more = with_open.refundable(destination)
    assert more + reserved <= left.refundable(Destination.PAYMENT_METHOD)
    # The open one succeeds first or last: both are covered.
    for order in (
        [(reserved, Destination.PAYMENT_METHOD), (more, destination)],
        [(more, destination), (reserved, Destination.PAYMENT_METHOD)],
    ):
        now = left
        for amount, way in order:
            part = spread(amount, now, way)
            assert part.uncovered == 0
            now = Left(
                captured=now.captured, returned=0, reserved=0, credit=now.credit - part.from_credit,
                settled=[(invoice, rest - part.parts.get(invoice, 0)) for invoice, rest in now.settled],
            )  # fmt: skip


def test_credit_goes_first_and_the_newest_invoice_next() -> None:
    newest, oldest = INVOICES[:2]
    left = Left(captured=1000, returned=0, reserved=0, credit=200, settled=[(newest, 300), (oldest, 500)])
    assert spread(600, left, Destination.PAYMENT_METHOD).parts == {newest: 300, oldest: 100}
    assert spread(150, left, Destination.PAYMENT_METHOD).parts == {}
    assert spread(600, left, Destination.CREDIT).parts == {newest: 300, oldest: 300}
    gone = Left(captured=1000, returned=0, reserved=0, credit=0, settled=[(newest, 300)])
    assert spread(400, gone, Destination.PAYMENT_METHOD).uncovered == 100


DONE, GONE, WAITS = Succeeded("re_1", 100, "USD"), Failed("expired_or_canceled_card", "re_1"), Pending("re_1")
EVIDENCE: list[RefundEvidence] = [DONE, GONE, WAITS, NotSent("429"), Unknown("timeout")]


def after(standing: Standing, step: Step) -> Standing:
    """The standing that a step leads to."""
    match step:
        case Step.SUCCEED:
            return Standing(RefundState.SUCCEEDED, SendState.ANSWERED)
        case Step.SUCCEED_AND_COME_BACK | Step.COME_BACK:
            return Standing(RefundState.FAILED, SendState.ANSWERED, came_back=True)
        case Step.FAIL:
            return Standing(RefundState.FAILED, SendState.ANSWERED)
        case Step.PEND:
            return Standing(RefundState.PENDING, SendState.ANSWERED)
        case Step.UNSENT:
            return Standing(RefundState.PROCESSING, SendState.NOT_SENT)
        case Step.UNKNOWN:
            return Standing(RefundState.PROCESSING, SendState.UNKNOWN)
        case _:
            return standing


def reaches(events: list[RefundEvidence], source: Source = Source.EVENT) -> Standing:
    standing = Standing(RefundState.PROCESSING, SendState.SENT)
    for evidence in events:
        standing = after(standing, judge_refund(standing, evidence, source, holds_fence=False))
    return standing


@given(st.permutations([WAITS, DONE, GONE]), st.data())
def test_notifications_lead_to_the_same_end_in_any_order_and_number(
    order: list[RefundEvidence], data: st.DataObject
) -> None:
    events = [event for event in order for _ in range(data.draw(st.integers(1, 3)))]
    assert reaches(events) == reaches([WAITS, DONE, GONE])
    assert reaches(events).came_back


@given(
    st.lists(st.tuples(st.sampled_from(EVIDENCE), st.sampled_from(Source), st.booleans()), max_size=12),
    st.sampled_from([SendState.CREATED, SendState.SENT, SendState.UNKNOWN, SendState.NOT_SENT]),
)
def test_money_moves_at_most_once_out_and_once_back(
    history: list[tuple[RefundEvidence, Source, bool]], begin: SendState
) -> None:
    standing, out, back = Standing(RefundState.PROCESSING, begin), 0, 0
    for evidence, source, fence in history:
        step = judge_refund(standing, evidence, source, holds_fence=fence)
        out += step in (Step.SUCCEED, Step.SUCCEED_AND_COME_BACK)
        back += step in (Step.COME_BACK, Step.SUCCEED_AND_COME_BACK)
        following = after(standing, step)
        if standing.state is RefundState.SUCCEEDED:
            assert following.state in (RefundState.SUCCEEDED, RefundState.FAILED)
        standing = following
    assert back <= out <= 1
    assert (standing.state is RefundState.SUCCEEDED) == (out == 1 and back == 0)


@pytest.mark.parametrize("source", Source)
@pytest.mark.parametrize("fence", [True, False])
@pytest.mark.parametrize("send_state", [SendState.CREATED, SendState.SENT, SendState.UNKNOWN, SendState.NOT_SENT])
def test_only_proof_makes_it_unsent(source: Source, fence: bool, send_state: SendState) -> None:
    standing = Standing(RefundState.PROCESSING, send_state)
    proven = (send_state is SendState.SENT and source is Source.ANSWER and fence) or (
        send_state is SendState.UNKNOWN and source in (Source.LOOKUP, Source.PERSON)
    )
    step = judge_refund(standing, NotSent("none"), source, holds_fence=fence)
    assert (step is Step.UNSENT) == proven


def test_what_was_refused_and_moved_all_the_same_has_succeeded() -> None:
    refused = Standing(RefundState.FAILED, SendState.ANSWERED, refused=True)
    assert judge_refund(refused, DONE, Source.LOOKUP, holds_fence=False) is Step.SUCCEED
    for state in (RefundState.REJECTED, RefundState.SUCCEEDED):
        assert judge_refund(Standing(state, SendState.ANSWERED), DONE, Source.EVENT, holds_fence=False) is Step.NOTHING
    for evidence in (GONE, NotSent("none"), Unknown("none")):
        standing = Standing(RefundState.AWAITING_APPROVAL, SendState.CREATED)
        assert judge_refund(standing, evidence, Source.EVENT, holds_fence=False) is Step.NOTHING


def test_answers_are_read_as_evidence() -> None:
    money = Money("USD", 100)
    for outcome, expected in [
        (RefundOutcome(outcome=RefundOutcomeClass.SUCCEEDED, provider_reference="re_1", money=money), DONE),
        (RefundOutcome(outcome=RefundOutcomeClass.PENDING, provider_reference="re_1", money=money), WAITS),
        (RefundOutcome(outcome=RefundOutcomeClass.FAILED, provider_code="x"), Failed("x")),
    ]:
        assert refund_evidence(outcome) == repeated_evidence(outcome) == expected
    silent = RefundOutcome(outcome=RefundOutcomeClass.SUCCEEDED, provider_reference="re_1")
    assert isinstance(refund_evidence(silent), Unknown)
    for refused in (
        RefundOutcome(outcome=RefundOutcomeClass.NOT_SENT, executed=False, evidence={"why": "rate limited"}),
        RefundOutcome(outcome=RefundOutcomeClass.FAILED, executed=False, provider_code="x"),
    ):
        assert isinstance(refund_evidence(refused), NotSent | Failed)
        assert isinstance(repeated_evidence(refused), Unknown), "a repeat that was not executed says nothing"


def test_keys_name_their_refund() -> None:
    refund = uuid4()
    assert refund_id_of_key(refund_key(refund)) == refund
    assert [refund_id_of_key(key) for key in (None, "", "v1:pay:1", "v1:refund:x")] == [None] * 4
