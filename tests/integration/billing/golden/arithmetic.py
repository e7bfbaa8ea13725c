"""Rounding and dividing, in fractions."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

DECIMALS = {"USD": 2, "EUR": 2, "INR": 2, "CAD": 2, "JPY": 0, "KWD": 3}
"""The currencies of the golden firm, with the decimals of their minor units."""


def nearest(amount: Fraction) -> int:
    """The nearest whole number; a half goes away from zero."""
    size = abs(amount)
    whole = size.numerator // size.denominator
    if size - whole >= Fraction(1, 2):
        whole += 1
    return whole if amount >= 0 else -whole


def minor(major: Fraction, currency: str) -> Fraction:
    """An amount in major units, exactly, in minor ones."""
    return major * Fraction(10 ** DECIMALS[currency])


def major(amount: int, currency: str) -> Fraction:
    """Minor units in major ones."""
    return Fraction(amount, 10 ** DECIMALS[currency])


def shares(total: int, weights: Sequence[int]) -> list[int]:
    """The total divided in proportion to the weights: each gets the whole units of its share, and the units that are left go one each to the
    largest remainders, of equal ones to the first."""
    whole = sum(weights)
    if whole == 0:
        assert total == 0
        return [0] * len(weights)
    exact = [Fraction(total * weight, whole) for weight in weights]
    parts = [share.numerator // share.denominator for share in exact]
    while sum(parts) < total:
        behind = [share - part for share, part in zip(exact, parts, strict=True)]
        parts[behind.index(max(behind))] += 1
    return parts


def figure(amount: int, currency: str) -> str:
    """The amount as an English statement writes it: 1,234.50."""
    decimals = DECIMALS[currency]
    digits = str(abs(amount)).rjust(decimals + 1, "0")
    whole, rest = (digits[:-decimals], digits[-decimals:]) if decimals else (digits, "")
    groups: list[str] = []
    while len(whole) > 3:
        whole, group = whole[:-3], whole[-3:]
        groups.insert(0, group)
    text = ",".join([whole, *groups]) + (f".{rest}" if decimals else "")
    return f"-{text}" if amount < 0 else text
