"""What changes the price of a line: discounts and taxes as they stand on an invoice. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Final
from uuid import UUID

STANDARD_TAX_CATEGORY: Final = "standard"
"""The tax category of a line that names none."""


class DiscountKind(StrEnum):
    """How a discount is measured: a share of what is left of the price, or an amount."""

    PERCENT = "PERCENT"
    FIXED = "FIXED"


class TaxStatus(StrEnum):
    """How a client is taxed: as the rates say, not at all, or by itself under the reverse charge."""

    TAXABLE = "TAXABLE"
    EXEMPT = "EXEMPT"
    REVERSE_CHARGE = "REVERSE_CHARGE"


@dataclass(frozen=True, slots=True)
class LineTax:
    """One tax on one line, in minor units. `tax_minor` is inside the line's amount where `inclusive`, else on top of it.

    `taxable_minor` is what it is a share of: the price after discounts without any tax. A `reverse_charge` is zero, and printed.
    """

    tax_no: int
    tax_rate_id: UUID | None
    name: str
    percentage: Decimal
    inclusive: bool
    reverse_charge: bool
    taxable_minor: int
    tax_minor: int


@dataclass(frozen=True, slots=True)
class InvoiceDiscount:
    """One discount of an invoice, or of the line `line_no`. `amount_minor` is what it took off; `fixed_minor` what a FIXED one would take
    where there is enough. One with a `redemption_id` comes from a coupon; the others were given by a caller."""

    discount_no: int
    line_no: int | None
    name: str
    kind: DiscountKind
    percent: Decimal | None
    fixed_minor: int | None
    amount_minor: int
    redemption_id: UUID | None = None
