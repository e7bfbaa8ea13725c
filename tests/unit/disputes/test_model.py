"""How a lost amount is spread, and which words of a provider are stale."""

from __future__ import annotations

from uuid import UUID, uuid5

from hypothesis import given
from hypothesis import strategies as st

from dunwell_server.disputes.model import DisputeKind, DisputeState, Settled, next_state, spread

_SPACE = UUID(int=7)
PARTS = st.lists(st.integers(0, 10**6), max_size=6).map(
    lambda amounts: [Settled(uuid5(_SPACE, str(place)), amount) for place, amount in enumerate(amounts)]
)
KINDS = st.sampled_from(DisputeKind)
STATES = st.sampled_from(DisputeState)


@given(st.integers(0, 10**7), PARTS, st.integers(0, 10**6))
def test_the_parts_of_a_loss_add_up_and_none_takes_more_than_there_is(
    amount: int, settled: list[Settled], credit: int
) -> None:
    parts = spread(amount, settled, credit)
    assert sum(part.amount_minor for part in parts.invoices) + parts.credit_minor + parts.loss_minor == amount
    there = {part.invoice_id: part.amount_minor for part in settled}
    assert all(0 < part.amount_minor <= there[part.invoice_id] for part in parts.invoices)
    assert 0 <= parts.credit_minor <= credit
    assert not parts.loss_minor or parts.credit_minor == credit


@given(KINDS, STATES, KINDS, STATES)
def test_a_stale_word_never_reopens_what_is_decided(
    kind: DisputeKind, state: DisputeState, said_kind: DisputeKind, said_state: DisputeState
) -> None:
    move = next_state(kind, state, said_kind, said_state, fresh=False)
    if move is not None and kind is said_kind and not state.is_open:
        assert move[1] is DisputeState.CLOSED or (state is DisputeState.LOST and move[1] is DisputeState.WON)


@given(STATES, STATES)
def test_a_chargeback_is_never_an_inquiry_again(state: DisputeState, said_state: DisputeState) -> None:
    assert next_state(DisputeKind.CHARGEBACK, state, DisputeKind.INQUIRY, said_state, fresh=True) is None
