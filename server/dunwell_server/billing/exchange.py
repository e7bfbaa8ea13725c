"""Exchange rates, and amounts converted with them. Pure. Only reports are converted, never what is billed or posted."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from fractions import Fraction

from dunwell_server.kernel.money import exponent, round_half_away


@dataclass(frozen=True, slots=True)
class Rate:
    """One major unit of `base` is worth `value` major units of `quote`, from `day` on until the pair's next rate."""

    base: str
    quote: str
    day: date
    value: Decimal


def convert(minor: int, currency: str, rate: Rate) -> int:
    """Minor units of `currency` in minor units of the rate's other currency, rounded once, half away from zero.

    A rate that was set the other way round is divided by. Raises ValueError for a rate of other currencies,
    AMOUNT_OUT_OF_RANGE beyond 64 bits.
    """
    if currency == rate.base:
        target, factor = rate.quote, Fraction(rate.value)
    elif currency == rate.quote:
        target, factor = rate.base, 1 / Fraction(rate.value)
    else:
        raise ValueError(f"{currency} is not in the rate of {rate.base} and {rate.quote}")
    return round_half_away(minor * factor * Fraction(10) ** (exponent(target) - exponent(currency)))
