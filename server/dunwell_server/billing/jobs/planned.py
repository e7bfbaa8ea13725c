"""What a dry run says of an invoice, kept with its item: the invoice as the real run would write it, save id and number."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

from dunwell_server.billing.model import InvoiceDiscount, InvoiceLine, LineTax
from dunwell_server.billing.store.package_stage import PackageInvoice
from dunwell_server.platform.runs import RunItem


def planned_item(invoice: PackageInvoice, issue_date: date) -> RunItem:
    """The item of an invoice that a dry run shows. `rpc.runs` reads its detail."""
    engagement, prices = invoice.engagement, invoice.prices
    detail: Mapping[str, Any] = {
        "issue_date": issue_date.isoformat(),
        "due_date": invoice.due_date.isoformat(),
        "subtotal": prices.subtotal,
        "discount_total": prices.discount_total,
        "tax_total": prices.tax_total,
        "tax_included_total": prices.tax_included_total,
        "credited": invoice.credited,
        "lines": [_line(line) for line in prices.lines],
        "discounts": [_discount(discount) for discount in prices.discounts],
    }
    return RunItem(
        "engagement", engagement.id, "CREATED", client_id=engagement.client_id, amount_minor=invoice.total,
        currency_code=engagement.currency_code, detail=detail,
    )  # fmt: skip


def _line(line: InvoiceLine) -> dict[str, Any]:
    return {
        "line_no": line.line_no,
        "kind": line.kind.value,
        "description": line.description,
        "quantity": str(line.quantity),
        "unit_price": str(line.unit_price),
        "amount_minor": line.amount_minor,
        "unit": line.unit,
        "period_start": str(line.period_start),
        "period_end": str(line.period_end),
        "engagement_id": str(line.engagement_id),
        "in_advance": line.in_advance,
        "tax_category": line.tax_category,
        "discount_minor": line.discount_minor,
        "tax_minor": line.tax_minor,
        "tax_included_minor": line.tax_included_minor,
        "taxes": [_tax(tax) for tax in line.taxes],
    }


def _tax(tax: LineTax) -> dict[str, Any]:
    return {
        "tax_no": tax.tax_no,
        "tax_rate_id": None if tax.tax_rate_id is None else str(tax.tax_rate_id),
        "name": tax.name,
        "percentage": str(tax.percentage),
        "inclusive": tax.inclusive,
        "reverse_charge": tax.reverse_charge,
        "taxable_minor": tax.taxable_minor,
        "tax_minor": tax.tax_minor,
    }


def _discount(discount: InvoiceDiscount) -> dict[str, Any]:
    return {
        "discount_no": discount.discount_no,
        "line_no": discount.line_no,
        "name": discount.name,
        "kind": discount.kind.value,
        "percent": None if discount.percent is None else str(discount.percent),
        "fixed_minor": discount.fixed_minor,
        "amount_minor": discount.amount_minor,
        "redemption_id": None if discount.redemption_id is None else str(discount.redemption_id),
    }
