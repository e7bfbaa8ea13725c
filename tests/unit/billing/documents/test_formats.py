"""Amounts, numbers and dates as a locale writes them; words that every language has."""

from __future__ import annotations

import re
import tomllib
from datetime import date
from decimal import Decimal

import pytest

from dunwell_server.billing.documents.formats import LANGUAGES, WORDS, formats_for, words_of

NB = "\u00a0"
THIN = "\u202f"


@pytest.mark.parametrize(
    ("tag", "currency", "minor", "text"),
    [
        ("en-US", "USD", 123456789, "$1,234,567.89"),
        ("en-IN", "INR", 123456789, "₹12,34,567.89"),
        ("hi-IN", "INR", 2_500_000, "₹25,000.00"),
        ("de-DE", "EUR", 123456, f"1.234,56{NB}€"),
        ("fr-FR", "EUR", 123456789, f"1{THIN}234{THIN}567,89{NB}€"),
        ("fr-FR", "INR", 100, f"1,00{NB}₹"),
        ("es-ES", "JPY", 1234567, f"1.234.567{NB}¥"),
        ("es-ES", "INR", 1234567, f"12.345,67{NB}₹"),
        ("ja-JP", "JPY", 1234567, "￥1,234,567"),
        ("en-US", "JPY", 1234567, "¥1,234,567"),
        ("en-US", "KWD", 1234567, f"KWD{NB}1,234.567"),
        ("de-DE", "KWD", 5, f"0,005{NB}KWD"),
        ("de-CH", "CHF", 123456789, f"CHF{NB}1’234’567.89"),
        ("en-US", "USD", -5, "-$0.05"),
        ("en-US", "USD", 0, "$0.00"),
        # Currencies of which the locales' own tables know fewer decimals than ISO 4217.
        ("en-US", "PKR", 12345, f"PKR{NB}123.45"),
        ("en-US", "IQD", 12345, f"IQD{NB}12.345"),
    ],
)
def test_money_has_the_currencys_decimals_and_the_locales_form(tag: str, currency: str, minor: int, text: str) -> None:
    assert formats_for(tag).money(minor, currency) == text


def test_an_amount_of_any_size_is_exact() -> None:
    assert formats_for("en").amount(9_223_372_036_854_775_807, "USD") == "92,233,720,368,547,758.07"


def test_prices_keep_what_is_finer_than_a_minor_unit() -> None:
    formats = formats_for("de")
    assert formats.unit_price(Decimal("0.000125"), "EUR") == "0,000125"
    assert formats.unit_price(Decimal("12"), "EUR") == "12,00"
    assert formats.unit_price(Decimal("12.5"), "JPY") == "12,5"
    assert formats.quantity(Decimal("1234.500")) == "1.234,5"


@pytest.mark.parametrize(
    ("tag", "day", "month", "long"),
    [
        ("en-GB", "1 Mar 2026", "1–31 Mar 2026", "1 Dec 2025 – 31 Jan 2026"),
        ("de-DE", "01.03.2026", "1.–31. März 2026", "1. Dez. 2025 – 31. Jan. 2026"),
        ("hi-IN", "1 मार्च 2026", "1–31 मार्च 2026", "1 दिस॰ 2025 – 31 जन॰ 2026"),
        ("ja-JP", "2026/03/01", "2026年3月1日～31日", "2025年12月1日～2026年1月31日"),
    ],
)
def test_periods_end_on_their_last_day(tag: str, day: str, month: str, long: str) -> None:
    formats = formats_for(tag)

    def plain(text: str) -> str:
        return re.sub(r"[\u2009\u202f\u00a0]", " ", text)

    assert formats.day(date(2026, 3, 1)) == day
    assert plain(formats.period(date(2026, 3, 1), date(2026, 4, 1))) == month
    assert plain(formats.period(date(2025, 12, 1), date(2026, 2, 1))) == long
    assert formats.period(date(2026, 3, 1), date(2026, 3, 2)) == day


def test_percentages_and_hours() -> None:
    assert formats_for("en").percent(Decimal("18.125")) == "18.125%"
    assert formats_for("de").percent(Decimal("19.00")) == f"19{NB}%"
    assert formats_for("en").hours(100) == "1.67"
    assert formats_for("de").hours(30) == "0,50"


@pytest.mark.parametrize(
    ("tags", "language", "tag"),
    [
        (("fr-CA", "de"), "fr", "fr-CA"),
        ((None, "de-AT"), "de", "de-AT"),
        (("", "ja"), "ja", "ja"),
        (("pt-BR", "es"), "es", "es"),
        (("pt-BR",), "en", "en"),
        (("de-XX",), "de", "de"),
        (("HI-in",), "hi", "hi-IN"),
        ((), "en", "en"),
    ],
)
def test_the_first_tag_with_words_decides(tags: tuple[str | None, ...], language: str, tag: str) -> None:
    formats = formats_for(*tags)
    assert (formats.language, formats.tag) == (language, tag)


def test_languages_have_the_same_words_with_the_same_places_to_fill() -> None:
    assert set(LANGUAGES) >= {"de", "en", "es", "fr", "hi", "ja"}
    english = {key: set(re.findall(r"\{(\w+)\}", text)) for key, text in words_of("en").items()}
    for language in LANGUAGES:
        words = words_of(language)
        assert {key: set(re.findall(r"\{(\w+)\}", text)) for key, text in words.items()} == english, language
        assert all(text.strip() for text in words.values())


def test_words_are_in_sections_that_a_translator_can_follow() -> None:
    orders = {
        language: [
            (section, name)
            for section, words in tomllib.loads((WORDS / f"{language}.toml").read_text("utf-8")).items()
            for name in words
        ]
        for language in LANGUAGES
    }
    assert all(order == orders["en"] for order in orders.values())


def test_what_is_filled_in_is_not_read_again() -> None:
    assert formats_for("en").word("movement.invoice", number="{date} {0}") == "Invoice {date} {0}"
