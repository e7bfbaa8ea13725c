"""The lines of an invoice: amounts, periods, totals. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from dunwell_server.billing.discounts import DiscountInput
from dunwell_server.billing.model import STANDARD_TAX_CATEGORY, InvoiceDiscount, InvoiceLine, LineKind
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.money import check_int64, line_amount

MAX_LINES = 500
"""Lines that a caller may put on one invoice."""


@dataclass(frozen=True, slots=True)
class LineInput:
    """A line as a caller enters it. `unit_price` is in the currency's major unit; the period is half-open."""

    description: str
    unit_price: Decimal
    quantity: Decimal = Decimal(1)
    period_start: date | None = None
    period_end: date | None = None
    engagement_id: UUID | None = None
    tax_category: str = STANDARD_TAX_CATEGORY
    discounts: Sequence[DiscountInput] = ()


class PricedLines(NamedTuple):
    """The lines with their discounts and taxes, and the totals, in minor units."""

    lines: tuple[InvoiceLine, ...]
    discounts: tuple[InvoiceDiscount, ...]
    subtotal: int
    discount_total: int
    tax_total: int
    tax_included_total: int

    @property
    def total(self) -> int:
        """What is owed."""
        return self.subtotal - self.discount_total + self.tax_total - self.tax_included_total


def build_lines(inputs: Sequence[LineInput], currency: str, path: str = "invoice.lines") -> tuple[InvoiceLine, ...]:
    """Number the lines and compute their amounts, each rounded once, half away from zero.

    Errors name the line's field under `path`: FIELD_INVALID for too many lines, negative or non-finite numbers, or half
    a period; PERIOD_INVALID for a period that does not end after it starts; AMOUNT_OUT_OF_RANGE beyond 64 bits.
    """
    if len(inputs) > MAX_LINES:
        raise field_invalid(path, f"an invoice has at most {MAX_LINES} lines")
    return tuple(_line(position, line, currency, f"{path}[{position}]") for position, line in enumerate(inputs))


def _line(position: int, line: LineInput, currency: str, path: str) -> InvoiceLine:
    for name, value in (("quantity", line.quantity), ("unit_price", line.unit_price)):
        if not value.is_finite() or value < 0:
            raise field_invalid(f"{path}.{name}", "must be a number that is not negative")
    if (line.period_start is None) != (line.period_end is None):
        raise field_invalid(f"{path}.period_end_date", "a period needs both its start and its end")
    if line.period_start is not None and line.period_end is not None and line.period_end <= line.period_start:
        raise DunwellError(Reason.PERIOD_INVALID, "a period must end after it starts", field=f"{path}.period_end_date")
    try:
        amount = line_amount(line.unit_price, line.quantity, currency)
    except DunwellError as error:
        raise DunwellError(error.reason, error.message, field=f"{path}.unit_price") from error
    return InvoiceLine(
        position + 1,
        LineKind.ITEM,
        line.description,
        line.quantity,
        line.unit_price,
        amount,
        line.period_start,
        line.period_end,
        line.engagement_id,
        tax_category=line.tax_category,
    )


def subtotal(lines: Sequence[InvoiceLine], path: str = "invoice.lines") -> int:
    """The sum of the lines in minor units; AMOUNT_OUT_OF_RANGE naming `path` beyond 64 bits."""
    return check_int64(sum(line.amount_minor for line in lines), path)


def earned_and_deferred(lines: Sequence[InvoiceLine]) -> tuple[int, int]:
    """How much of the lines, net of discounts and tax, is revenue when sent, and how much is deferred.

    Deferred is what is billed in advance for a period; without a period there are no days to earn it in.
    """
    deferred = sum(line.net_minor for line in lines if line.in_advance and line.period_start is not None)
    return sum(line.net_minor for line in lines) - deferred, deferred


def due_date(issue_date: date, given: date | None, terms_days: int, path: str = "invoice.due_date") -> date:
    """When an invoice is due: the date given, or `terms_days` after its issue. PERIOD_INVALID before the issue."""
    if given is None:
        return issue_date + timedelta(days=terms_days)
    if given < issue_date:
        raise DunwellError(
            Reason.PERIOD_INVALID, f"the due date lies before the date of issue, {issue_date}", field=path
        )
    return given


def first_terms(*terms_days: int | None) -> int:
    """The payment terms that apply: the first that are set, of the invoice, the engagement, the client, the firm."""
    return next(days for days in terms_days if days is not None)
