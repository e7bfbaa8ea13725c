"""What discounts take off the lines of an invoice, before tax. Pure; amounts are minor units of one currency.

The order is written: discounts of single lines first, then those of the whole invoice; among each the percentages first, then the
amounts; else as given. Each works on what those before it have left, and takes no more than that. A discount of several lines is divided
over them in proportion to what is left of each, by largest remainder, so that the parts always add up to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from dunwell_server.billing.model import DiscountKind, InvoiceDiscount, InvoiceLine
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.money import Money, distribute, round_ratio


@dataclass(frozen=True, slots=True)
class DiscountInput:
    """A discount as a caller enters it: a `percent` of what is left, or an amount; exactly one of them is set."""

    name: str
    percent: Decimal | None = None
    fixed: Money | None = None

    def terms(self, currency: str, path: str, line_no: int | None = None) -> DiscountTerms:
        """The terms on an invoice in that currency, or on one of its lines. Errors name the field under `path`: CURRENCY_MISMATCH."""
        if self.fixed is None:
            return DiscountTerms(self.name, self.percent, line_no=line_no)
        if self.fixed.currency != currency:
            raise DunwellError(
                Reason.CURRENCY_MISMATCH,
                f"the discount is in {self.fixed.currency}, the invoice in {currency}",
                field=f"{path}.amount.currency_code",
                metadata={"given": self.fixed.currency, "expected": currency},
            )
        return DiscountTerms(self.name, fixed_minor=self.fixed.minor, line_no=line_no)


@dataclass(frozen=True, slots=True)
class DiscountTerms:
    """A discount as it is asked for: a `percent` of what is left, or `fixed_minor`; exactly one of them is set.

    It is about the line `line_no`; or about the lines of `engagement_id`; or, where both are None, about all.
    """

    name: str
    percent: Decimal | None = None
    fixed_minor: int | None = None
    line_no: int | None = None
    engagement_id: UUID | None = None
    redemption_id: UUID | None = None

    @property
    def kind(self) -> DiscountKind:
        """A share, or an amount."""
        return DiscountKind.FIXED if self.percent is None else DiscountKind.PERCENT


class Discounted(NamedTuple):
    """What discounts come to: the part of each line, in the order of the lines, and each discount, in the order taken.

    One of a coupon that found nothing to take is not among them; one that a caller gave always is.
    """

    parts: tuple[int, ...]
    discounts: tuple[InvoiceDiscount, ...]


def apply_discounts(
    lines: Sequence[InvoiceLine], wanted: Iterable[DiscountTerms], engagement_id: UUID | None = None
) -> Discounted:
    """Take the discounts off the lines. `engagement_id` is that of lines which name none themselves."""
    wanted = list(wanted)
    if not wanted:
        return Discounted((0,) * len(lines), ())
    if len(wanted) > 1:
        wanted.sort(key=_rank)
    left = [line.amount_minor for line in lines]
    discounts: list[InvoiceDiscount] = []
    for terms in wanted:
        concerned = _concerned(lines, terms, engagement_id)
        weights = [left[position] for position in concerned]
        amount = _amount(terms, sum(weights))
        if amount:
            for position, part in zip(concerned, distribute(amount, weights), strict=True):
                left[position] -= part
        elif terms.redemption_id is not None:
            continue
        discounts.append(
            InvoiceDiscount(
                len(discounts) + 1, terms.line_no, terms.name, terms.kind, terms.percent, terms.fixed_minor, amount,
                terms.redemption_id,
            )
        )  # fmt: skip
    parts = tuple(line.amount_minor - rest for line, rest in zip(lines, left, strict=True))
    return Discounted(parts, tuple(discounts))


def as_given(
    on_lines: Sequence[Sequence[DiscountInput]], on_invoice: Sequence[DiscountInput], currency: str
) -> tuple[InvoiceDiscount, ...]:
    """What callers give an invoice, before it is priced: nothing taken off yet. `on_lines` has the discounts of each line.

    Errors: CURRENCY_MISMATCH.
    """
    terms = [
        given.terms(currency, f"invoice.lines[{position}].discounts[{number}]", position + 1)
        for position, discounts in enumerate(on_lines)
        for number, given in enumerate(discounts)
    ]
    terms += [given.terms(currency, f"invoice.discounts[{number}]") for number, given in enumerate(on_invoice)]
    return tuple(
        InvoiceDiscount(number, given.line_no, given.name, given.kind, given.percent, given.fixed_minor, 0)
        for number, given in enumerate(terms, 1)
    )


def _rank(terms: DiscountTerms) -> tuple[bool, bool, bool]:
    """The written order; the sort is stable, so the given order decides the rest."""
    return terms.line_no is None, terms.kind is DiscountKind.FIXED, terms.redemption_id is not None


def _concerned(lines: Sequence[InvoiceLine], terms: DiscountTerms, engagement_id: UUID | None) -> list[int]:
    """The positions of the lines that the discount is about."""
    if terms.line_no is not None:
        if 0 < terms.line_no <= len(lines) and lines[terms.line_no - 1].line_no == terms.line_no:
            return [terms.line_no - 1]
        return [position for position, line in enumerate(lines) if line.line_no == terms.line_no]
    if terms.engagement_id is None:
        return list(range(len(lines)))
    return [
        position for position, line in enumerate(lines) if (line.engagement_id or engagement_id) == terms.engagement_id
    ]


def _amount(terms: DiscountTerms, left: int) -> int:
    """What the discount takes of what is left, rounded once, half away from zero."""
    if terms.percent is None:
        assert terms.fixed_minor is not None
        return min(terms.fixed_minor, left)
    top, bottom = terms.percent.as_integer_ratio()
    return min(round_ratio(left * top, bottom * 100), left)
