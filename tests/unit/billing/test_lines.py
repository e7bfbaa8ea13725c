"""Lines: amounts rounded once, totals within 64 bits, errors that name the field."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest

from dunwell_server.billing.lines import (
    MAX_LINES,
    LineInput,
    build_lines,
    due_date,
    earned_and_deferred,
    first_terms,
    subtotal,
)
from dunwell_server.billing.model import InvoiceLine, LineKind
from dunwell_server.kernel.errors import DunwellError, Reason


def line(price: str, quantity: str = "1", **fields: date) -> LineInput:
    return LineInput("work", Decimal(price), Decimal(quantity), **fields)  # type: ignore[arg-type]


def refused(inputs: list[LineInput], currency: str = "USD") -> tuple[Reason, str]:
    with pytest.raises(DunwellError) as caught:
        subtotal(build_lines(inputs, currency))
    return caught.value.reason, caught.value.violations[0].field


@pytest.mark.parametrize(
    ("price", "quantity", "currency", "minor"),
    [
        ("249.95", "3", "USD", 74985),
        ("0.005", "1", "USD", 1),
        ("0.0049", "1", "USD", 0),
        ("0.333", "3", "USD", 100),
        ("1.5", "1", "JPY", 2),
        ("1.2345", "1", "KWD", 1235),
        ("100", "0", "USD", 0),
    ],
)
def test_each_line_is_rounded_once_half_away_from_zero(price: str, quantity: str, currency: str, minor: int) -> None:
    (built,) = build_lines([line(price, quantity)], currency)
    assert built == InvoiceLine(1, LineKind.ITEM, "work", Decimal(quantity), Decimal(price), minor)


def test_lines_are_numbered_and_add_up() -> None:
    lines = build_lines([line("0.005"), line("0.005"), line("10")], "USD")
    assert [built.line_no for built in lines] == [1, 2, 3]
    assert subtotal(lines) == 1 + 1 + 1000


@pytest.mark.parametrize(("price", "quantity", "field"), [("-1", "1", "unit_price"), ("1", "-2", "quantity")])
def test_negative_numbers_name_their_field(price: str, quantity: str, field: str) -> None:
    assert refused([line("1"), line(price, quantity)]) == (Reason.FIELD_INVALID, f"invoice.lines[1].{field}")


def test_what_is_no_number_is_refused() -> None:
    assert refused([line("NaN")]) == (Reason.FIELD_INVALID, "invoice.lines[0].unit_price")
    assert refused([line("1", "Infinity")]) == (Reason.FIELD_INVALID, "invoice.lines[0].quantity")


def test_amounts_beyond_64_bits_name_the_line_or_the_sum() -> None:
    largest = "92233720368547758.07"
    assert build_lines([line(largest)], "USD")[0].amount_minor == 2**63 - 1
    assert refused([line("1"), line("92233720368547758.08")]) == (
        Reason.AMOUNT_OUT_OF_RANGE,
        "invoice.lines[1].unit_price",
    )
    assert refused([line("999999999999", "999999999999")])[0] is Reason.AMOUNT_OUT_OF_RANGE
    assert refused([line(largest), line("0.01")]) == (Reason.AMOUNT_OUT_OF_RANGE, "invoice.lines")


def test_periods_end_after_they_start_and_are_whole() -> None:
    day = date(2026, 3, 1)
    field = "invoice.lines[0].period_end_date"
    assert refused([line("1", period_start=day, period_end=day)]) == (Reason.PERIOD_INVALID, field)
    assert refused([line("1", period_start=day)]) == (Reason.FIELD_INVALID, field)
    assert refused([line("1", period_end=day)]) == (Reason.FIELD_INVALID, field)


def test_the_number_of_lines_is_limited() -> None:
    assert len(build_lines([line("1")] * MAX_LINES, "USD")) == MAX_LINES
    assert refused([line("1")] * (MAX_LINES + 1)) == (Reason.FIELD_INVALID, "invoice.lines")


def test_what_is_billed_in_advance_is_deferred() -> None:
    month = date(2026, 1, 1), date(2026, 2, 1)
    advance = InvoiceLine(2, LineKind.PACKAGE, "fee", Decimal(1), Decimal(3), 300, *month, in_advance=True)
    lines = [*build_lines([line("1")], "USD"), advance]
    assert earned_and_deferred(lines) == (100, 300)
    reduced = advance._replace(discount_minor=30, tax_minor=50, tax_included_minor=20)
    assert earned_and_deferred([*lines[:1], reduced]) == (100, 250)


def test_without_a_period_there_are_no_days_to_earn_it_in() -> None:
    advance = InvoiceLine(1, LineKind.PACKAGE, "fee", Decimal(1), Decimal(3), 300, in_advance=True)
    assert earned_and_deferred([advance]) == (300, 0)


def test_the_due_date_is_given_or_follows_from_the_terms() -> None:
    issued = date(2026, 1, 31)
    assert due_date(issued, None, 30) == date(2026, 3, 2)
    assert due_date(issued, None, 0) == issued
    assert due_date(issued, issued, 30) == issued
    with pytest.raises(DunwellError) as caught:
        due_date(issued, date(2026, 1, 30), 30)
    assert (caught.value.reason, caught.value.violations[0].field) == (Reason.PERIOD_INVALID, "invoice.due_date")


def test_the_first_terms_that_are_set_apply_also_zero() -> None:
    assert first_terms(None, None, None, 30) == 30
    assert first_terms(None, 0, 14, 30) == 0
    assert first_terms(7, 0, 14, 30) == 7
