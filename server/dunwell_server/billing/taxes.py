"""Which taxes are on the lines of an invoice, and how much they come to. Pure; amounts are minor units of one currency.

Every rate that applies to a line is charged on the line's price without any tax. Of prices that contain taxes, what they contain is
taken out together (price - price / (1 + sum of rates)), rounded, and divided over the rates; so net and taxes are the price again, exactly.
Taxes on top are rounded each for itself, so that two equal rates give two equal taxes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from math import lcm
from typing import Final, NamedTuple
from uuid import UUID

from dunwell_server.billing.model import LineTax, TaxStatus
from dunwell_server.kernel.money import distribute, round_ratio

REVERSE_CHARGE_NAME: Final = "Reverse charge"
"""The name of the tax that says on a line that the client owes it itself."""
_ZERO: Final = Decimal(0)


class TaxBehavior(StrEnum):
    """Whether prices contain the tax."""

    INCLUSIVE = "INCLUSIVE"
    EXCLUSIVE = "EXCLUSIVE"


class TaxRounding(StrEnum):
    """Where tax is rounded: on each line, or once for each rate over the invoice."""

    LINE = "LINE"
    RATE = "RATE"


@dataclass(frozen=True, slots=True)
class TaxRate:
    """A rate of the firm's table. `percentage` 9 is nine percent. The validity is half-open; None does not limit.

    An empty `region` is the whole country, save `excluded_regions`. `behavior` None: as the firm's policy says.
    """

    id: UUID
    name: str
    percentage: Decimal
    country_code: str
    region: str = ""
    excluded_regions: tuple[str, ...] = ()
    tax_category: str = "standard"
    behavior: TaxBehavior | None = None
    valid_from_date: date | None = None
    valid_until_date: date | None = None


class TaxPlace(NamedTuple):
    """Where tax is due: a country (ISO 3166-1 alpha-2; empty: nowhere known) and a region as in the address."""

    country_code: str
    region: str = ""


class TaxableLine(NamedTuple):
    """What of a line is taxed: its price after discounts, in minor units."""

    line_no: int
    price_minor: int
    tax_category: str = "standard"


@dataclass(frozen=True, slots=True)
class TaxRequest:
    """One invoice to be taxed: whose, issued when, due where, and what is on it."""

    client_id: UUID
    currency_code: str
    issue_date: date
    place: TaxPlace
    status: TaxStatus
    lines: Sequence[TaxableLine]
    tax_id: str | None = None


@dataclass(frozen=True, slots=True)
class TaxTable:
    """A firm's rates that are in use, and its policy."""

    rates: tuple[TaxRate, ...] = ()
    rounding: TaxRounding = TaxRounding.LINE
    behavior: TaxBehavior = TaxBehavior.EXCLUSIVE
    _known: dict[tuple[TaxPlace, str, date], _Charge] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def rates_for(self, place: TaxPlace, tax_category: str, issue_date: date) -> tuple[TaxRate, ...]:
        """The rates that apply there to lines of that category on an invoice issued that day, in the order of the table."""
        region = _plain(place.region)
        return tuple(
            rate
            for rate in self.rates
            if rate.country_code == place.country_code
            and rate.tax_category == tax_category
            and (rate.valid_from_date is None or rate.valid_from_date <= issue_date)
            and (rate.valid_until_date is None or issue_date < rate.valid_until_date)
            and (not rate.region or _plain(rate.region) == region)
            and region not in map(_plain, rate.excluded_regions)
        )

    def is_inclusive(self, rate: TaxRate) -> bool:
        """Whether prices contain that tax."""
        return (rate.behavior or self.behavior) is TaxBehavior.INCLUSIVE

    def charge_for(self, place: TaxPlace, tax_category: str, issue_date: date) -> _Charge:
        """`rates_for`, ready to be charged; found once for all invoices of one place and day."""
        key = (place, tax_category, issue_date)
        known = self._known.get(key)
        if known is None:
            rates = self.rates_for(place, tax_category, issue_date)
            known = self._known[key] = _Charge(rates, [self.is_inclusive(rate) for rate in rates])
        return known


LineTaxes = tuple[LineTax, ...]
"""The taxes on one line, numbered from 1."""


class _Charge:
    """The rates on a line with their arithmetic prepared, in integers: positions in `rates`, and ratios."""

    __slots__ = ("contained", "inside", "is_inside", "outside", "rates", "ratios", "weights")

    def __init__(self, rates: tuple[TaxRate, ...], is_inside: Sequence[bool]) -> None:
        self.rates = rates
        self.is_inside = tuple(is_inside)
        self.inside = tuple(position for position, inside in enumerate(is_inside) if inside)
        self.outside = tuple(position for position, inside in enumerate(is_inside) if not inside)
        shares = [Fraction(rate.percentage) / 100 for rate in rates]
        self.ratios = tuple((share.numerator, share.denominator) for share in shares)
        contained = [shares[position] for position in self.inside]
        scale = lcm(*(share.denominator for share in contained))
        self.weights = [int(share * scale) for share in contained]
        whole = sum(self.weights)
        self.contained = (whole, scale + whole)

    def tax_inside(self, price: int) -> int:
        """What of a price is tax: price - price / (1 + sum of rates), rounded once."""
        return round_ratio(price * self.contained[0], self.contained[1]) if self.inside else 0

    def split(self, amount: int) -> list[int]:
        """A tax that the rates inside make up, by rate."""
        return distribute(amount, self.weights) if amount else [0] * len(self.weights)

    def tax_outside(self, position: int, net: int) -> int:
        """What a rate on top comes to, rounded once."""
        top, bottom = self.ratios[position]
        return round_ratio(net * top, bottom)

    def taxes(self, net: int, amounts: Sequence[int]) -> LineTaxes:
        """The taxes of a line, given the amount of each rate."""
        return tuple(
            LineTax(position + 1, rate.id, rate.name, rate.percentage, self.is_inside[position], False, net, amounts[position])
            for position, rate in enumerate(self.rates)
        )  # fmt: skip


class Applicable(NamedTuple):
    """The rates on a line: all in the order of the table, those inside its price, those on top."""

    rates: tuple[TaxRate, ...]
    inclusive: tuple[TaxRate, ...]
    exclusive: tuple[TaxRate, ...]


Known = dict[tuple[TaxPlace, str, date], Applicable]
"""The rates by place, tax category and day of issue, as far as they have been looked up."""


def tax_lines(table: TaxTable, request: TaxRequest, known: Known | None = None) -> list[LineTaxes]:
    """The taxes of each line, in the order of the lines. `known` remembers look-ups over many requests by one table."""
    lines = request.lines
    if request.status is TaxStatus.REVERSE_CHARGE:
        return [(_reverse_charge(line),) for line in lines]
    if request.status is TaxStatus.EXEMPT or not table.rates:
        return [()] * len(lines)
    charges = [table.charge_for(request.place, line.tax_category, request.issue_date) for line in lines]
    prices = [line.price_minor for line in lines]
    if table.rounding is TaxRounding.LINE:
        return [_by_line(charge, price) for charge, price in zip(charges, prices, strict=True)]
    return _by_rate(charges, prices)


def _by_line(charge: _Charge, price: int) -> LineTaxes:
    """Each rate's tax on one line, rounded there."""
    if not charge.rates:
        return ()
    contained = charge.tax_inside(price)
    net = price - contained
    amounts = [0] * len(charge.rates)
    if contained:
        for position, amount in zip(charge.inside, charge.split(contained), strict=True):
            amounts[position] = amount
    for position in charge.outside:
        amounts[position] = charge.tax_outside(position, net)
    return charge.taxes(net, amounts)


def _by_rate(charges: Sequence[_Charge], prices: Sequence[int]) -> list[LineTaxes]:
    """Each rate's tax, rounded once over all lines that it is on, and divided over them by largest remainder.

    Rates inside prices are rounded together for all lines that have the same ones.
    """
    nets = list(prices)
    amounts = [[0] * len(charge.rates) for charge in charges]
    groups: dict[tuple[UUID, ...], list[int]] = {}
    by_rate: dict[UUID, list[tuple[int, int]]] = {}
    for number, charge in enumerate(charges):
        if charge.inside:
            groups.setdefault(tuple(charge.rates[position].id for position in charge.inside), []).append(number)
        for position in charge.outside:
            by_rate.setdefault(charge.rates[position].id, []).append((number, position))
    for numbers in groups.values():
        of_group = _inside_together(charges[numbers[0]], [prices[number] for number in numbers])
        for number, parts in zip(numbers, of_group, strict=True):
            nets[number] -= sum(parts)
            for position, part in zip(charges[number].inside, parts, strict=True):
                amounts[number][position] = part
    for places in by_rate.values():
        first, position = places[0]
        weights = [nets[number] for number, _ in places]
        total = charges[first].tax_outside(position, sum(weights))
        for (number, position), part in zip(places, distribute(total, weights), strict=True):
            amounts[number][position] = part
    return [charge.taxes(net, parts) for charge, net, parts in zip(charges, nets, amounts, strict=True)]


def _inside_together(charge: _Charge, prices: Sequence[int]) -> Iterator[list[int]]:
    """What lines with the same rates inside contain of each: rounded once for all, divided so that lines and rates both add up."""
    total = charge.tax_inside(sum(prices))
    left = charge.split(total)
    for amount in distribute(total, prices):
        # In proportion to what is left of each rate: no line takes more of one than there is, and the last takes all.
        parts = distribute(amount, left) if amount else [0] * len(left)
        left = [rest - part for rest, part in zip(left, parts, strict=True)]
        yield parts


def _reverse_charge(line: TaxableLine) -> LineTax:
    return LineTax(1, None, REVERSE_CHARGE_NAME, _ZERO, False, True, line.price_minor, 0)


def _plain(region: str) -> str:
    return " ".join(region.split()).casefold()


def totals_by_rate(lines: Iterable[LineTaxes]) -> list[LineTax]:
    """The sum of each tax over the lines, in the order in which they first appear; numbered from 1.

    Taxes are the same where everything but the amounts is.
    """
    totals: dict[tuple[object, ...], LineTax] = {}
    for taxes in lines:
        for tax in taxes:
            key = (tax.tax_rate_id, tax.name, tax.percentage, tax.inclusive, tax.reverse_charge)
            so_far = totals.get(key)
            if so_far is None:
                totals[key] = replace(tax, tax_no=len(totals) + 1)
            else:
                taxable, amount = so_far.taxable_minor + tax.taxable_minor, so_far.tax_minor + tax.tax_minor
                totals[key] = replace(so_far, taxable_minor=taxable, tax_minor=amount)
    return list(totals.values())
