"""Discounts, taxes and rates as the contract shows them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dunwell.v1 import coupon_pb2, money_pb2, tax_pb2
from dunwell_server.billing.model import InvoiceDiscount, InvoiceLine, LineTax
from dunwell_server.billing.store.tax_rates import StoredTaxRate
from dunwell_server.billing.taxes import totals_by_rate
from dunwell_server.kernel.ids import Prefix
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.rpc.converters import date_message, decimal_message, etag, id_text, timestamp


def discount_message(discount: InvoiceDiscount, currency: str) -> coupon_pb2.Discount:
    """A discount, and what it took off."""
    return coupon_pb2.Discount(
        name=discount.name,
        percent=decimal_message(discount.percent),
        amount=None if discount.fixed_minor is None else _money(currency, discount.fixed_minor),
        discounted=_money(currency, discount.amount_minor),
        coupon_redemption_id=id_text(Prefix.COUPON_REDEMPTION, discount.redemption_id),
    )


def tax_messages(line: InvoiceLine, currency: str) -> list[tax_pb2.LineTax]:
    """The taxes on a line."""
    return [tax_pb2.LineTax(**_tax(tax, currency)) for tax in line.taxes]


def tax_totals(lines: Iterable[InvoiceLine], currency: str) -> list[tax_pb2.TaxTotal]:
    """The taxes of an invoice, each over all its lines."""
    return [tax_pb2.TaxTotal(**_tax(tax, currency)) for tax in totals_by_rate(line.taxes for line in lines)]


def tax_rate_message(uow: UnitOfWork, stored: StoredTaxRate) -> tax_pb2.TaxRate:
    """A rate of the firm's table."""
    rate = stored.rate
    return tax_pb2.TaxRate(
        id=id_text(Prefix.TAX_RATE, rate.id),
        firm_id=id_text(Prefix.FIRM, uow.firm_id),
        name=rate.name,
        percentage=decimal_message(rate.percentage),
        country_code=rate.country_code,
        region=rate.region,
        excluded_regions=rate.excluded_regions,
        tax_category=rate.tax_category,
        behavior=tax_pb2.TaxBehavior.Value(f"TAX_BEHAVIOR_{rate.behavior.value if rate.behavior else 'UNSPECIFIED'}"),
        valid_from_date=date_message(rate.valid_from_date),
        valid_until_date=date_message(rate.valid_until_date),
        archived=stored.state == "ARCHIVED",
        state=tax_pb2.TaxRateState.Value(f"TAX_RATE_STATE_{stored.state}"),
        etag=etag(stored.version),
        create_time=timestamp(stored.create_time),
        update_time=timestamp(stored.update_time),
    )


def _tax(tax: LineTax, currency: str) -> dict[str, Any]:
    return {
        "tax_rate_id": id_text(Prefix.TAX_RATE, tax.tax_rate_id),
        "name": tax.name,
        "percentage": decimal_message(tax.percentage),
        "inclusive": tax.inclusive,
        "reverse_charge": tax.reverse_charge,
        "taxable": _money(currency, tax.taxable_minor),
        "tax": _money(currency, tax.tax_minor),
    }


def _money(currency: str, minor: int) -> money_pb2.Money:
    return money_pb2.Money(currency_code=currency, amount_minor=minor)
