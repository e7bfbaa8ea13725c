"""Credit notes as one would write them: of each line a part of what is left of its price, its discount and its taxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from tests.integration.billing.golden.arithmetic import nearest, shares
from tests.integration.billing.golden.prices import Line


@dataclass
class Part:
    """Of a line: its price before discounts, the discount, each tax; `inside` says which taxes the price contains."""

    line: int
    amount: int
    discount: int
    taxes: list[int]
    inside: list[bool]
    quantity: Fraction | None = None

    @property
    def tax(self) -> int:
        """All tax."""
        return sum(self.taxes)

    @property
    def contained(self) -> int:
        """Tax that the price contains."""
        return sum(tax for tax, inside in zip(self.taxes, self.inside, strict=True) if inside)

    @property
    def net(self) -> int:
        """The price without discount and tax."""
        return self.amount - self.discount - self.contained

    @property
    def total(self) -> int:
        """What the client was charged."""
        return self.net + self.tax


@dataclass
class Left:
    """What is left to credit of an invoice, by line, and how much of each line's quantity was credited."""

    lines: Sequence[Line]
    parts: list[Part] = field(default_factory=list)
    quantities: dict[int, Fraction] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parts = [
            Part(number, line.amount, line.discount, [tax.amount for tax in line.taxes], [tax.inclusive for tax in line.taxes])
            for number, line in enumerate(self.lines, 1)
        ]  # fmt: skip

    @property
    def total(self) -> int:
        """What is left in all."""
        return sum(part.total for part in self.parts)

    def quantity_left(self, number: int) -> Fraction:
        """The quantity of a line that was not credited by quantity."""
        return self.lines[number - 1].quantity - self.quantities.get(number, Fraction(0))

    def take(self, parts: Sequence[Part]) -> None:
        """A note over these parts."""
        for part in parts:
            left = self.parts[part.line - 1]
            left.amount -= part.amount
            left.discount -= part.discount
            left.taxes = [one - other for one, other in zip(left.taxes, part.taxes, strict=True)]
            if part.quantity is not None:
                self.quantities[part.line] = self.quantities.get(part.line, Fraction(0)) + part.quantity
            assert min(left.amount, left.discount, left.net, *left.taxes, 0) == 0, "more is credited than was billed"

    def everything(self) -> list[Part]:
        """All that is left."""
        return [Part(one.line, one.amount, one.discount, list(one.taxes), one.inside) for one in self.parts]

    def over_total(self, total: int) -> list[Part]:
        """An amount with tax: over the lines by what is left of each, in a line over its net price and its taxes; the discount follows."""
        parts = []
        for left, share in zip(self.parts, shares(total, [part.total for part in self.parts]), strict=True):
            if not share:
                continue
            net, *taxes = shares(share, [left.net, *left.taxes])
            discount = nearest(Fraction(left.discount * share, left.total))
            contained = sum(tax for tax, inside in zip(taxes, left.inside, strict=True) if inside)
            parts.append(Part(left.line, net + discount + contained, discount, taxes, left.inside))
        return parts

    def over_line(self, number: int, amount: int) -> Part:
        """An amount of a line's price before discounts: over the net price, the discount and what it contains of taxes; taxes on top follow."""
        left = self.parts[number - 1]
        if amount == left.amount:
            return Part(number, left.amount, left.discount, list(left.taxes), left.inside)
        contained = [tax for tax, inside in zip(left.taxes, left.inside, strict=True) if inside]
        _, discount, *of_contained = shares(amount, [left.net, left.discount, *contained])
        following = iter(of_contained)
        taxes = [
            next(following) if inside else nearest(Fraction(tax * amount, left.amount))
            for tax, inside in zip(left.taxes, left.inside, strict=True)
        ]
        return Part(number, amount, discount, taxes, left.inside)

    def over_quantity(self, number: int, quantity: Fraction) -> Part:
        """So many of a line: together with those before worth their share of its price."""
        line, before = self.lines[number - 1], self.quantities.get(number, Fraction(0))
        worth = [nearest(line.amount * so_many / line.quantity) for so_many in (before, before + quantity)]
        amount = worth[1] - worth[0]
        if before + quantity == line.quantity:
            amount = self.parts[number - 1].amount
        part = self.over_line(number, min(amount, self.parts[number - 1].amount))
        part.quantity = quantity
        return part
