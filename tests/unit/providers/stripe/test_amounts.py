"""Stripe's units against ISO 4217's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwell_server.kernel.money import Money
from dunwell_server.providers.stripe.amounts import NotRepresentable, from_stripe, to_stripe


@pytest.mark.parametrize(
    ("currency", "minor", "stripe"),
    [
        ("USD", 4999, 4999),
        ("JPY", 500, 500),
        ("KRW", 500, 500),
        ("XOF", 500, 500),
        ("ISK", 5, 500),
        ("UGX", 5, 500),
        ("MGA", 500, 5),
        ("KWD", 12_340, 12_340),
        ("HUF", 1000, 1000),
        ("TWD", 1000, 1000),
    ],
)
def test_each_way(currency: str, minor: int, stripe: int) -> None:
    assert to_stripe(Money(currency, minor)) == stripe
    assert from_stripe(currency.lower(), stripe) == Money(currency, minor)


@pytest.mark.parametrize(
    ("currency", "minor"), [("KWD", 12_345), ("BHD", 1), ("TND", 999), ("MGA", 550), ("IQD", 1000), ("CLF", 10_000)]
)
def test_what_stripe_cannot_express_is_refused(currency: str, minor: int) -> None:
    with pytest.raises(NotRepresentable):
        to_stripe(Money(currency, minor))


@pytest.mark.parametrize(("currency", "amount"), [("isk", 550), (None, 1), ("usd", None), ("usd", 1.5), ("usd", True)])
def test_what_is_no_amount_is_refused(currency: object, amount: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        from_stripe(currency, amount)


@given(st.sampled_from(["USD", "JPY", "ISK", "UGX", "MGA", "KWD", "BHD", "EUR", "INR"]), st.integers(-(10**12), 10**12))
def test_what_goes_out_comes_back(currency: str, minor: int) -> None:
    money = Money(currency, minor)
    try:
        sent = to_stripe(money)
    except NotRepresentable:
        return
    assert from_stripe(currency, sent) == money
