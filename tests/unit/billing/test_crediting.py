"""Laws of crediting: in parts, and in the end everything, to the cent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwell_server.billing.crediting import CreditParts, credit_parts

PART = st.integers(min_value=0, max_value=10**6)
BOOKED = st.builds(CreditParts, PART, PART, PART)


@given(BOOKED, st.lists(st.integers(1, 10**6), max_size=30))
def test_crediting_in_any_steps_takes_exactly_what_was_booked(booked: CreditParts, steps: list[int]) -> None:
    left, credited = booked, CreditParts(0, 0, 0)
    for wanted in [*steps, booked.total]:
        amount = min(wanted, left.total)
        if not amount:
            continue
        taken = credit_parts(amount, left)
        assert taken.total == amount
        left, credited = left - taken, credited + taken
        assert min(left.earned, left.deferred, left.tax) >= 0
        assert min(taken.earned, taken.deferred, taken.tax) >= 0
    assert left.total == 0
    assert credited == booked


def test_parts_are_proportional() -> None:
    assert credit_parts(60, CreditParts(500, 500, 200)) == CreditParts(25, 25, 10)
    assert credit_parts(1, CreditParts(0, 0, 3)) == CreditParts(0, 0, 1)


@pytest.mark.parametrize("amount", [0, -1, 1201])
def test_more_than_is_left_cannot_be_credited(amount: int) -> None:
    with pytest.raises(ValueError, match="cannot credit"):
        credit_parts(amount, CreditParts(500, 500, 200))
