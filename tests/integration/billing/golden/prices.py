"""Discounts and taxes computed as one would in a spreadsheet: a column for each, from left to right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from fractions import Fraction

from tests.integration.billing.golden.arithmetic import nearest, shares
from tests.integration.billing.golden.facts import Coupon, Discount, TaxRule


@dataclass
class LineTax:
    """One tax on one line."""

    name: str
    percent: Fraction
    inclusive: bool
    base: int
    amount: int
    reverse_charge: bool = False


@dataclass
class Line:
    """A line of an invoice. `engagement` is the name of its term, empty where it has none."""

    kind: str
    start: date | None
    end: date | None
    quantity: Fraction
    price: Fraction
    amount: int
    engagement: str = ""
    category: str = "standard"
    given: tuple[Discount, ...] = ()
    discount: int = 0
    taxes: list[LineTax] = field(default_factory=list)

    @property
    def reduced(self) -> int:
        """The price after discounts."""
        return self.amount - self.discount

    @property
    def tax(self) -> int:
        """All tax."""
        return sum(tax.amount for tax in self.taxes)

    @property
    def tax_inside(self) -> int:
        """Tax that the amount contains."""
        return sum(tax.amount for tax in self.taxes if tax.inclusive)


@dataclass
class Held:
    """A coupon in the client's hands: for the lines of one engagement, or all. `left` None: it lasts for ever."""

    coupon: Coupon
    engagement: str | None
    left: int | None


@dataclass
class Reduction:
    """What a discount took off: of line `line` (from 1), or of the invoice."""

    name: str
    line: int | None
    amount: int
    held: Held | None = None


@dataclass
class _Wish:
    name: str
    percent: str | None
    fixed: int | None
    line: int | None = None
    held: Held | None = None

    def concerns(self, number: int, line: Line) -> bool:
        """Whether it is about a line."""
        if self.line is not None:
            return number == self.line
        return self.held is None or self.held.engagement in (None, line.engagement)


def discount(lines: Sequence[Line], given: Sequence[Discount], held: Sequence[Held], currency: str) -> list[Reduction]:
    """Take off what is given for lines, then what is given for the invoice, then coupons: of lines and of the invoice percentages before
    amounts. Each takes from what is left, and is divided over the lines by what is left of them. A coupon that takes something is used once."""
    on_lines = [
        _Wish(one.name, one.percent, one.fixed, number) for number, line in enumerate(lines, 1) for one in line.given
    ]
    on_all = [_Wish(one.name, one.percent, one.fixed) for one in given]
    coupons = [
        _Wish(one.coupon.code, one.coupon.percent, one.coupon.fixed, held=one)
        for one in held
        if one.left != 0 and one.coupon.currency in (None, currency)
    ]
    wishes: list[_Wish] = []
    for group in (on_lines, on_all + coupons):
        wishes += [wish for wish in group if wish.percent is not None]
        wishes += [wish for wish in group if wish.percent is None]
    reductions: list[Reduction] = []
    for wish in wishes:
        concerned = [line for number, line in enumerate(lines, 1) if wish.concerns(number, line)]
        left = sum(line.reduced for line in concerned)
        amount = min(left, wish.fixed) if wish.fixed is not None else nearest(left * Fraction(wish.percent or 0) / 100)
        for line, part in zip(concerned, shares(amount, [line.reduced for line in concerned]), strict=True):
            line.discount += part
        if wish.held is not None:
            if not amount:
                continue
            if wish.held.left is not None:
                wish.held.left -= 1
        reductions.append(Reduction(wish.name, wish.line, amount, wish.held))
    return reductions


def applicable(rules: Sequence[TaxRule], country: str, region: str, category: str, issued: date) -> list[TaxRule]:
    """The rates on a line of that category, due in that place, on an invoice issued that day."""
    return [
        rule
        for rule in rules
        if (rule.country, rule.category) == (country, category)
        and rule.region in ("", region)
        and region not in rule.excluded
        and (rule.start is None or rule.start <= issued)
        and (rule.end is None or issued < rule.end)
    ]


def tax_by_line(line: Line, rules: Sequence[TaxRule]) -> None:
    """Tax one line: what its price contains is taken out in one piece and divided over the rates; what comes on top, rate by rate."""
    inside = [rule for rule in rules if rule.inclusive]
    contained = _contained(line.reduced, inside)
    base = line.reduced - contained
    of_rates = iter(shares(contained, _weights(inside)))
    for rule in rules:
        percent = Fraction(rule.percent)
        amount = next(of_rates) if rule.inclusive else nearest(base * percent / 100)
        line.taxes.append(LineTax(rule.name, percent, rule.inclusive, base, amount))


def tax_by_rate(lines: Sequence[Line], rules_of: Sequence[list[TaxRule]]) -> None:
    """Tax an invoice: each rate is rounded once over the invoice, and divided over its lines by their prices without tax."""
    cells: list[dict[TaxRule, int]] = [{} for _ in lines]
    together: dict[tuple[TaxRule, ...], list[int]] = {}
    for number, rules in enumerate(rules_of):
        if inside := tuple(rule for rule in rules if rule.inclusive):
            together.setdefault(inside, []).append(number)
    for inside, numbers in together.items():
        total = _contained(sum(lines[number].reduced for number in numbers), inside)
        of_rates = shares(total, _weights(inside))
        # Line by line, out of what is left of each rate, so that lines and rates both add up.
        for number, of_line in zip(numbers, shares(total, [lines[number].reduced for number in numbers]), strict=True):
            parts = shares(of_line, of_rates)
            of_rates = [left - part for left, part in zip(of_rates, parts, strict=True)]
            cells[number].update(zip(inside, parts, strict=True))
    bases = [line.reduced - sum(cell.values()) for line, cell in zip(lines, cells, strict=True)]
    for rule in {rule: None for rules in rules_of for rule in rules if not rule.inclusive}:
        numbers = [number for number, rules in enumerate(rules_of) if rule in rules]
        total = nearest(sum(bases[number] for number in numbers) * Fraction(rule.percent) / 100)
        for number, part in zip(numbers, shares(total, [bases[number] for number in numbers]), strict=True):
            cells[number][rule] = part
    for line, base, cell, rules in zip(lines, bases, cells, rules_of, strict=True):
        line.taxes = [LineTax(rule.name, Fraction(rule.percent), rule.inclusive, base, cell[rule]) for rule in rules]


def reverse_charge(lines: Sequence[Line]) -> None:
    """The client owes the tax itself: the lines say so."""
    for line in lines:
        line.taxes = [LineTax("Reverse charge", Fraction(0), False, line.reduced, 0, True)]


def _contained(price: int, inside: Sequence[TaxRule]) -> int:
    """price - price / (1 + the rates), to the nearest unit."""
    rate = sum((Fraction(rule.percent) for rule in inside), Fraction(0)) / 100
    return nearest(price - price / (1 + rate))


def _weights(inside: Sequence[TaxRule]) -> list[int]:
    return [int(Fraction(rule.percent) * 10_000) for rule in inside]
