"""Amounts, numbers and dates as people of a locale write them, and the words of its language. Pure."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_interval
from babel.numbers import NumberPattern, parse_pattern

from dunwell_server.kernel.money import exponent, to_major

WORDS: Final = Path(__file__).with_name("words")
LANGUAGES: Final = tuple(sorted(path.stem for path in WORDS.glob("*.toml")))
"""The languages that documents are written in: a file of words each."""
DEFAULT_LANGUAGE: Final = "en"
_MAX_DECIMALS: Final = 9
_NO_BREAK: Final = "\u00a0"
_OWN_SYMBOLS: Final = {"EUR": "€", "GBP": "£", "ILS": "₪", "INR": "₹", "JPY": "¥", "KRW": "₩", "UAH": "₴", "VND": "₫"}
"""Signs that stand for one currency, also where a locale would write its code."""
_LETTER_BEFORE_DIGIT: Final = re.compile(r"(?<=[^\W\d_])(?=\d)")


@cache
def words_of(language: str) -> Mapping[str, str]:
    """The words of a language by `section.name`. KeyError for a language that there are no words in."""
    if language not in LANGUAGES:
        raise KeyError(language)
    sections = tomllib.loads((WORDS / f"{language}.toml").read_text("utf-8"))
    return {f"{section}.{name}": text for section, words in sections.items() for name, text in words.items()}


@dataclass(frozen=True, slots=True)
class Formats:
    """How one document is written. `tag` is the BCP 47 tag that says so, `locale` how numbers and dates look."""

    tag: str
    language: str
    locale: Locale

    def word(self, key: str, /, **values: str) -> str:
        """The words of the key `section.name` with what is in braces filled in."""
        text = words_of(self.language)[key]
        return text.format_map(values) if values else text

    def money(self, minor: int, currency: str) -> str:
        """With the currency's symbol, and exactly the decimals of its minor unit: `1.234,50 €`, `￥1,235`, `KWD 1.234`."""
        digits = exponent(currency)
        pattern = _pattern(self.locale.currency_formats["standard"].pattern, digits, digits)
        text = pattern.apply(to_major(minor, currency), self.locale, currency=currency, currency_digits=False)
        if self.locale.currency_symbols.get(currency, currency) == currency:
            text = text.replace(currency, _OWN_SYMBOLS.get(currency, currency))
        return _kept_together(_LETTER_BEFORE_DIGIT.sub(_NO_BREAK, text))

    def amount(self, minor: int, currency: str) -> str:
        """The bare number, for columns whose head names the currency."""
        digits = exponent(currency)
        return self._number(to_major(minor, currency), digits, digits)

    def unit_price(self, price: Decimal, currency: str) -> str:
        """A price in major units, with the currency's decimals at least, and as many as it needs."""
        return self._number(price, exponent(currency), _MAX_DECIMALS)

    def quantity(self, quantity: Decimal) -> str:
        """A number with the decimals it needs."""
        return self._number(quantity, 0, _MAX_DECIMALS)

    def hours(self, minutes: int) -> str:
        """Minutes as hours with two decimals."""
        return self._number((Decimal(minutes) / 60).quantize(Decimal("0.01"), ROUND_HALF_UP), 2, 2)

    def percent(self, percentage: Decimal) -> str:
        """18 as `18%`, or as the locale has it."""
        pattern = _pattern(self.locale.percent_formats[None].pattern, 0, 4)
        return _kept_together(pattern.apply(percentage / 100, self.locale))

    def day(self, day: date) -> str:
        """A civil date in the locale's middle length."""
        return _day(self.locale, day)

    def period(self, start: date, end: date) -> str:
        """The days from `start` to the one before `end`: people count the last day in."""
        last: date = end - timedelta(days=1)
        if last <= start:
            return self.day(start)
        return str(format_interval(start, last, "yMMMd", locale=self.locale))

    def country(self, code: str) -> str:
        """The country's name; its code where the locale has none."""
        return str(self.locale.territories.get(code, code))

    def _number(self, value: Decimal, least: int, most: int) -> str:
        return _number(self.locale, value, least, most)


# A long annex has few different days, lengths and rates.
@lru_cache(maxsize=4096)
def _day(locale: Locale, day: date) -> str:
    return format_date(day, "medium", locale)


@lru_cache(maxsize=4096)
def _number(locale: Locale, value: Decimal, least: int, most: int) -> str:
    return _kept_together(_pattern(locale.decimal_formats[None].pattern, least, most).apply(value, locale))


@cache
def _pattern(text: str, least: int, most: int) -> NumberPattern:
    """A locale's pattern with so many decimals: its own tables know other decimals of some currencies than ISO 4217."""
    pattern = parse_pattern(text)
    pattern.frac_prec = (least, most)
    return pattern


def formats_for(*tags: str | None) -> Formats:
    """The formats of the first BCP 47 tag in whose language there are words; English where there is none.

    A region that nobody has heard of is left out of account.
    """
    for tag in tags:
        language = (tag or "").replace("_", "-").split("-")[0].lower()
        if tag and language in LANGUAGES:
            return _formats(tag)
    return _formats(DEFAULT_LANGUAGE)


@lru_cache(maxsize=256)
def _formats(tag: str) -> Formats:
    language = tag.replace("_", "-").split("-")[0].lower()
    parts = tag.replace("_", "-").split("-")
    for candidate in (tag.replace("_", "-"), f"{language}-{parts[-1]}", language):
        try:
            locale = Locale.parse(candidate, sep="-")
        except (UnknownLocaleError, ValueError):
            continue
        return Formats(str(locale).replace("_", "-"), language, locale)
    raise AssertionError("a language with words has a locale")


def _kept_together(text: str) -> str:
    """No line breaks inside an amount."""
    return text.replace(" ", _NO_BREAK)
