"""Amounts as Stripe counts them: the one table of where its units differ from ISO 4217's.

Stripe's integer amounts are the currency's minor unit, except (docs.stripe.com/currencies, "Minor units in API
amounts" and "Special cases"):

* MGA has two decimals in ISO 4217 (a fifth is the real unit) and none at Stripe;
* ISK and UGX have none in ISO 4217; Stripe takes them as if they had two, which must be 00;
* BHD, JOD, KWD, OMR and TND have three, the last of which must be 0 (card networks carry two).

HUF and TWD differ for payouts only. Other currencies with three or four decimals are not offered by Stripe.
"""

from __future__ import annotations

from typing import Final

from dunwell_server.kernel.money import Money, exponent

_WHOLE_ONLY_AS_TWO: Final = frozenset({"ISK", "UGX"})
_NO_DECIMALS: Final = frozenset({"MGA"})
_LAST_DIGIT_ZERO: Final = frozenset({"BHD", "JOD", "KWD", "OMR", "TND"})


class NotRepresentable(ValueError):
    """An amount that Stripe cannot express in this currency."""


def to_stripe(money: Money) -> int:
    """The integer Stripe takes for an amount. Raises NotRepresentable."""
    currency, minor = money.currency, money.minor
    if currency in _WHOLE_ONLY_AS_TWO:
        return minor * 100
    if currency in _NO_DECIMALS:
        return _divided(money, 100)
    if currency in _LAST_DIGIT_ZERO:
        return _divided(money, 10) * 10
    if exponent(currency) > 2:
        raise NotRepresentable(f"Stripe does not offer {currency}")
    return minor


def _divided(money: Money, unit: int) -> int:
    quotient, rest = divmod(money.minor, unit)
    if rest:
        raise NotRepresentable(f"Stripe takes {money.currency} in steps of {unit} minor units only")
    return quotient


def from_stripe(currency: object, amount: object) -> Money:
    """The amount that Stripe's integer and currency (any case) mean.

    Raises ValueError or DunwellError for what is no amount, or one that the currency cannot have.
    """
    if not isinstance(currency, str) or type(amount) is not int:
        raise ValueError("no amount of money")
    code = currency.upper()
    if code in _WHOLE_ONLY_AS_TWO:
        whole, rest = divmod(amount, 100)
        if rest:
            raise NotRepresentable(f"{code} has no fractions")
        return Money(code, whole)
    if code in _NO_DECIMALS:
        return Money(code, amount * 100)
    return Money(code, amount)
