"""Amounts converted between currencies of zero to four decimals, either way round."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwell_server.billing.exchange import Rate, convert
from dunwell_server.kernel.errors import DunwellError, Reason

DAY = date(2026, 3, 1)


def rate(base: str, quote: str, value: str) -> Rate:
    return Rate(base, quote, DAY, Decimal(value))


@pytest.mark.parametrize(
    ("minor", "currency", "with_rate", "expected"),
    [
        (10_000, "USD", rate("USD", "EUR", "0.915"), 9_150),
        (10_000, "USD", rate("USD", "JPY", "147.55"), 14_755),
        (1, "JPY", rate("JPY", "USD", "0.005"), 1),
        (-1, "JPY", rate("JPY", "USD", "0.005"), -1),
        (1_000, "KWD", rate("KWD", "USD", "3.25"), 325),
        (325, "USD", rate("KWD", "USD", "3.25"), 1_000),
        (100, "JPY", rate("USD", "JPY", "150"), 67),
        (-100, "JPY", rate("USD", "JPY", "150"), -67),
        (5, "CLF", rate("CLF", "JPY", "1000"), 1),
        (0, "USD", rate("USD", "EUR", "0.9"), 0),
    ],
)
def test_worked_cases(minor: int, currency: str, with_rate: Rate, expected: int) -> None:
    assert convert(minor, currency, with_rate) == expected


@given(st.integers(-(10**10), 10**10), st.decimals("0.000001", "1000000", places=6))
def test_a_negative_amount_cancels_its_positive_one(minor: int, value: Decimal) -> None:
    both = [convert(amount, "USD", Rate("USD", "KWD", DAY, value)) for amount in (minor, -minor)]
    assert sum(both) == 0


def test_a_rate_of_other_currencies_is_a_mistake_and_64_bits_are_the_end() -> None:
    with pytest.raises(ValueError, match="GBP is not in the rate"):
        convert(1, "GBP", rate("USD", "EUR", "1"))
    with pytest.raises(DunwellError) as caught:
        convert(2**62, "USD", rate("USD", "EUR", "10"))
    assert caught.value.reason is Reason.AMOUNT_OUT_OF_RANGE
