"""What a credit note takes back of an invoice, line by line. Pure; amounts are minor units.

A line was billed as its amount, less discounts, with tax that is inside of the amount or added to it. Every step credits a share of what is left of
each of these, so that crediting everything, in any steps and by any of the ways below, takes back exactly what was billed, per line and per tax.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from dunwell_server.kernel.money import distribute, round_ratio


@dataclass(frozen=True, slots=True)
class TaxPart:
    """Tax of a line by one of its rates; `inclusive`: it is inside of the line's amount."""

    tax_no: int
    inclusive: bool
    tax_minor: int


@dataclass(frozen=True, slots=True)
class LinePart:
    """What is left of a line, or what is taken back of it. `amount_minor` is before discounts and added tax."""

    line_no: int
    amount_minor: int
    discount_minor: int
    taxes: tuple[TaxPart, ...] = ()
    quantity: Decimal | None = None

    @property
    def tax_minor(self) -> int:
        """All tax."""
        return sum(tax.tax_minor for tax in self.taxes)

    @property
    def tax_included_minor(self) -> int:
        """Tax inside of the amount."""
        return sum(tax.tax_minor for tax in self.taxes if tax.inclusive)

    @property
    def net_minor(self) -> int:
        """Revenue: the amount without discounts and without tax."""
        return self.amount_minor - self.discount_minor - self.tax_included_minor

    @property
    def total_minor(self) -> int:
        """What the client was charged, or is credited."""
        return self.net_minor + self.tax_minor


@dataclass(frozen=True, slots=True)
class LineLeft:
    """What is left of a line of an invoice, and what it was: `billed_minor` for `quantity`, of which `credited_quantity` is credited by quantity."""

    part: LinePart
    billed_minor: int
    quantity: Decimal
    credited_quantity: Decimal = Decimal(0)

    @property
    def quantity_left(self) -> Decimal:
        """The quantity that was not credited by quantity."""
        return self.quantity - self.credited_quantity


def whole(left: LineLeft) -> LinePart:
    """Everything that is left of a line."""
    return left.part


def by_amount(left: LineLeft, amount: int) -> LinePart:
    """`amount` of what is left of the line's amount, with its share of discounts and taxes. ValueError beyond what is left."""
    part = left.part
    if not 0 <= amount <= part.amount_minor:
        raise ValueError(f"cannot credit {amount} of {part.amount_minor}")
    if amount == part.amount_minor:
        return part
    inside = [tax for tax in part.taxes if tax.inclusive]
    weights = [part.net_minor, part.discount_minor, *(tax.tax_minor for tax in inside)]
    _, discount, *included = distribute(amount, weights)
    shares = dict(zip((tax.tax_no for tax in inside), included, strict=True))
    for tax in part.taxes:
        if not tax.inclusive:
            shares[tax.tax_no] = round_ratio(tax.tax_minor * amount, part.amount_minor)
    return LinePart(part.line_no, amount, discount, _taxes(part, shares))


def by_quantity(left: LineLeft, quantity: Decimal) -> LinePart:
    """`quantity` of the line's quantity. Successive quantities credit what their sum is worth. ValueError beyond what is left."""
    if not 0 < quantity <= left.quantity_left:
        raise ValueError(f"cannot credit {quantity} of {left.quantity_left}")
    upto = left.credited_quantity + quantity
    worth = _share(left.billed_minor, upto, left.quantity) - _share(
        left.billed_minor, left.credited_quantity, left.quantity
    )
    part = left.part if upto == left.quantity else by_amount(left, min(worth, left.part.amount_minor))
    return LinePart(part.line_no, part.amount_minor, part.discount_minor, part.taxes, quantity)


def by_total(lefts: Sequence[LineLeft], total: int) -> list[LinePart]:
    """`total`, tax included, over all that is left of the lines, by largest remainder: over lines, and within each over revenue and taxes.

    Lines that nothing falls on are left out. ValueError beyond what is left.
    """
    weights = [left.part.total_minor for left in lefts]
    if not 0 < total <= sum(weights):
        raise ValueError(f"cannot credit {total} of {sum(weights)}")
    shares = distribute(total, weights)
    return [_of_total(left.part, share) for left, share in zip(lefts, shares, strict=True) if share]


def _of_total(part: LinePart, total: int) -> LinePart:
    if total == part.total_minor:
        return part
    net, *taxes = distribute(total, [part.net_minor, *(tax.tax_minor for tax in part.taxes)])
    shares = {tax.tax_no: share for tax, share in zip(part.taxes, taxes, strict=True)}
    discount = round_ratio(part.discount_minor * total, part.total_minor)
    included = sum(shares[tax.tax_no] for tax in part.taxes if tax.inclusive)
    return LinePart(part.line_no, net + discount + included, discount, _taxes(part, shares))


def _taxes(part: LinePart, shares: dict[int, int]) -> tuple[TaxPart, ...]:
    return tuple(TaxPart(tax.tax_no, tax.inclusive, shares[tax.tax_no]) for tax in part.taxes)


def _share(amount: int, quantity: Decimal, of: Decimal) -> int:
    top, bottom = quantity.as_integer_ratio()
    of_top, of_bottom = of.as_integer_ratio()
    return round_ratio(amount * top * of_bottom, bottom * of_top)
