"""Laws of crediting: by lines, by quantities, by amounts, in any order and any steps; in the end exactly what was billed, to the cent."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dunwell_server.billing.crediting import (
    LineLeft,
    LinePart,
    TaxPart,
    by_amount,
    by_quantity,
    by_total,
    whole,
)


@dataclass
class Bill:
    """The lines of an invoice and what of them is left, kept by the test's own sums."""

    lines: list[LineLeft]

    def take(self, parts: list[LinePart], *, quantity: bool = False) -> None:
        """Subtract what was credited, checking every law that holds for each step."""
        for part in parts:
            index = next(i for i, line in enumerate(self.lines) if line.part.line_no == part.line_no)
            line = self.lines[index]
            left = line.part
            assert 0 <= part.amount_minor <= left.amount_minor
            assert 0 <= part.discount_minor <= left.discount_minor
            assert 0 <= part.net_minor <= left.net_minor
            assert len(part.taxes) == len(left.taxes)
            for mine, theirs in zip(part.taxes, left.taxes, strict=True):
                assert (mine.tax_no, mine.inclusive) == (theirs.tax_no, theirs.inclusive)
                assert 0 <= mine.tax_minor <= theirs.tax_minor
            assert (
                part.total_minor == part.amount_minor - part.discount_minor - part.tax_included_minor + part.tax_minor
            )
            taxes = tuple(
                TaxPart(a.tax_no, a.inclusive, a.tax_minor - b.tax_minor)
                for a, b in zip(left.taxes, part.taxes, strict=True)
            )
            rest = LinePart(
                left.line_no, left.amount_minor - part.amount_minor, left.discount_minor - part.discount_minor, taxes
            )
            credited = line.credited_quantity + (part.quantity if quantity and part.quantity else 0)
            self.lines[index] = LineLeft(rest, line.billed_minor, line.quantity, credited)

    @property
    def total(self) -> int:
        return sum(line.part.total_minor for line in self.lines)


@st.composite
def billed_lines(draw: st.DrawFn) -> list[LineLeft]:
    lines = []
    for number in range(1, draw(st.integers(1, 6)) + 1):
        amount = draw(st.integers(0, 10**5))
        discount = draw(st.integers(0, amount))
        room = amount - discount
        taxes = []
        for tax_no in range(1, draw(st.integers(0, 3)) + 1):
            inclusive = draw(st.booleans())
            tax = draw(st.integers(0, room if inclusive else 10**4))
            room -= tax if inclusive else 0
            taxes.append(TaxPart(tax_no, inclusive, tax))
        quantity = Decimal(draw(st.integers(1, 5000))) / 100
        lines.append(LineLeft(LinePart(number, amount, discount, tuple(taxes)), amount, quantity))
    return lines


@settings(max_examples=300)
@given(billed_lines(), st.data())
def test_any_steps_credit_exactly_the_whole(lines: list[LineLeft], data: st.DataObject) -> None:
    bill = Bill(list(lines))
    credited = 0
    for _ in range(data.draw(st.integers(0, 8))):
        way = data.draw(st.sampled_from(["total", "amount", "quantity", "line"]))
        line = data.draw(st.sampled_from(bill.lines))
        quantity = False
        if way == "total" and bill.total:
            parts = by_total(bill.lines, wanted := data.draw(st.integers(1, bill.total)))
            assert sum(part.total_minor for part in parts) == wanted
        elif way == "amount":
            parts = [by_amount(line, data.draw(st.integers(0, line.part.amount_minor)))]
        elif way == "quantity" and line.quantity_left > 0:
            units = int(line.quantity_left * 100)
            parts, quantity = [by_quantity(line, Decimal(data.draw(st.integers(1, units))) / 100)], True
        else:
            parts = [whole(line)]
        credited += sum(part.total_minor for part in parts)
        bill.take(parts, quantity=quantity)
    rest = [whole(line) for line in bill.lines]
    credited += sum(part.total_minor for part in rest)
    bill.take(rest)
    assert credited == sum(line.part.total_minor for line in lines)
    for line in bill.lines:
        assert (line.part.amount_minor, line.part.discount_minor, line.part.tax_minor) == (0, 0, 0)


@given(billed_lines(), st.lists(st.integers(1, 10**5), max_size=10))
def test_amounts_that_come_to_the_total_leave_nothing_of_any_rate(lines: list[LineLeft], steps: list[int]) -> None:
    bill = Bill(list(lines))
    for step in [*steps, bill.total]:
        if amount := min(step, bill.total):
            bill.take(by_total(bill.lines, amount))
    assert bill.total == 0
    assert all(tax.tax_minor == 0 for line in bill.lines for tax in line.part.taxes)
    assert all(line.part.net_minor == 0 for line in bill.lines)


@given(billed_lines(), st.data())
def test_tax_follows_the_amount(lines: list[LineLeft], data: st.DataObject) -> None:
    """Each part of a line is within a minor unit of its exact share."""
    line = data.draw(st.sampled_from(lines))
    part = line.part
    amount = data.draw(st.integers(0, part.amount_minor))
    credited = by_amount(line, amount)
    assert credited.amount_minor == amount
    if part.amount_minor:
        share = Fraction(amount, part.amount_minor)
        assert abs(credited.discount_minor - part.discount_minor * share) < 1
        for mine, theirs in zip(credited.taxes, part.taxes, strict=True):
            assert abs(mine.tax_minor - theirs.tax_minor * share) < 1


@given(st.integers(0, 10**6), st.integers(1, 40))
def test_single_units_come_to_the_line(amount: int, quantity: int) -> None:
    line = LineLeft(LinePart(1, amount, 0), amount, Decimal(quantity))
    bill = Bill([line])
    for done in range(1, quantity + 1):
        bill.take([by_quantity(bill.lines[0], Decimal(1))], quantity=True)
        left = Fraction(amount * (quantity - done), quantity)
        assert abs(bill.lines[0].part.amount_minor - left) <= Fraction(1, 2)
    assert bill.total == 0


def test_a_worked_case() -> None:
    """100.00 less 10.00, 19 % on top: half of the line is 45.00 and 8.55."""
    line = LineLeft(LinePart(1, 10_000, 1_000, (TaxPart(1, False, 1_710),)), 10_000, Decimal(4))
    for half in (by_amount(line, 5_000), by_quantity(line, Decimal(2)), by_total([line], 5_355)[0]):
        assert (half.amount_minor, half.discount_minor, half.tax_minor, half.total_minor) == (5_000, 500, 855, 5_355)


def test_tax_inside_of_the_price() -> None:
    """119.00 with 19.00 inside: 59.50 of it are 50.00 and 9.50."""
    line = LineLeft(LinePart(1, 11_900, 0, (TaxPart(1, True, 1_900),)), 11_900, Decimal(1))
    half = by_amount(line, 5_950)
    assert (half.net_minor, half.tax_minor, half.total_minor) == (5_000, 950, 5_950)


def test_lines_that_nothing_falls_on_are_left_out() -> None:
    lines = [LineLeft(LinePart(n, amount, 0), amount, Decimal(1)) for n, amount in ((1, 100), (2, 0), (3, 900))]
    assert [(part.line_no, part.amount_minor) for part in by_total(lines, 500)] == [(1, 50), (3, 450)]


@pytest.mark.parametrize("amount", [-1, 1_201])
def test_more_than_is_left_cannot_be_credited(amount: int) -> None:
    line = LineLeft(LinePart(1, 1_200, 0), 1_200, Decimal(2), Decimal(1))
    with pytest.raises(ValueError, match="cannot credit"):
        by_amount(line, amount)
    with pytest.raises(ValueError, match="cannot credit"):
        by_total([line], amount)
    for quantity in ("0", "-1", "1.01"):
        with pytest.raises(ValueError, match="cannot credit"):
            by_quantity(line, Decimal(quantity))
