"""What is on an invoice below its header: lines with their taxes, and discounts. Parts of the statements of `store.invoices`.

Taxes and discounts cost nothing where there are none: counters in the rows above say whether to look for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from dunwell_server.billing.model import DiscountKind, Invoice, InvoiceDiscount, InvoiceLine, LineKind, LineTax
from dunwell_server.platform.database import UnitOfWork

LINES: Final = """
(SELECT json_agg(json_build_array(l.line_no, l.kind, l.description, l.quantity::text, l.unit_price::text, l.amount_minor,
                                  l.period_start, l.period_end, l.engagement_id, l.in_advance, l.unit, l.tax_category, l.discount_minor,
                                  l.tax_minor, l.tax_included_minor, CASE WHEN l.tax_count > 0 THEN (
     SELECT json_agg(json_build_array(t.tax_no, t.tax_rate_id, t.name, t.percentage::text, t.inclusive, t.reverse_charge, t.taxable_minor,
                                      t.tax_minor) ORDER BY t.tax_no)
     FROM invoice_line_tax t WHERE t.firm_id = l.firm_id AND t.invoice_id = l.invoice_id AND t.line_no = l.line_no) END) ORDER BY l.line_no)
 FROM invoice_line l WHERE l.firm_id = i.firm_id AND l.invoice_id = i.id)
"""
"""The lines of the invoice `i` as JSON; `lines_of` reads them."""
DISCOUNTS: Final = """
CASE WHEN i.discount_count > 0 THEN (
    SELECT json_agg(json_build_array(d.discount_no, d.line_no, d.name, d.kind, d.percent::text, d.fixed_minor, d.amount_minor, d.redemption_id)
                    ORDER BY d.discount_no)
    FROM invoice_discount d WHERE d.firm_id = i.firm_id AND d.invoice_id = i.id) END
"""
"""The discounts of the invoice `i` as JSON; `discounts_of` reads them."""

INSERT_LINES: Final = """
    INSERT INTO invoice_line (firm_id, invoice_id, line_no, kind, description, quantity, unit_price, amount_minor,
                              period_start, period_end, engagement_id, in_advance, unit, tax_category, discount_minor, tax_minor,
                              tax_included_minor, tax_count)
    SELECT %(firm_id)s, %(id)s, line_no, kind, description, quantity, unit_price, amount_minor, period_start, period_end,
           engagement_id, in_advance, unit, tax_category, discount_minor, tax_minor, tax_included_minor, tax_count
    FROM unnest(%(l_line_no)s::int[], %(l_kind)s::text[], %(l_description)s::text[], %(l_quantity)s::numeric[],
                %(l_unit_price)s::numeric[], %(l_amount_minor)s::bigint[], %(l_period_start)s::date[],
                %(l_period_end)s::date[], %(l_engagement_id)s::uuid[], %(l_in_advance)s::boolean[], %(l_unit)s::text[],
                %(l_tax_category)s::text[], %(l_discount_minor)s::bigint[], %(l_tax_minor)s::bigint[], %(l_tax_included_minor)s::bigint[],
                %(l_tax_count)s::int[])
        AS l (line_no, kind, description, quantity, unit_price, amount_minor, period_start, period_end, engagement_id,
              in_advance, unit, tax_category, discount_minor, tax_minor, tax_included_minor, tax_count)
"""
INSERT_TAXES: Final = """
    INSERT INTO invoice_line_tax (firm_id, invoice_id, line_no, tax_no, tax_rate_id, name, percentage, inclusive, reverse_charge,
                                  taxable_minor, tax_minor)
    SELECT %(firm_id)s, %(id)s, t.* FROM unnest(%(t_line_no)s::int[], %(t_tax_no)s::int[], %(t_tax_rate_id)s::uuid[], %(t_name)s::text[],
        %(t_percentage)s::numeric[], %(t_inclusive)s::boolean[], %(t_reverse_charge)s::boolean[], %(t_taxable_minor)s::bigint[],
        %(t_tax_minor)s::bigint[]) AS t
"""
INSERT_DISCOUNTS: Final = """
    INSERT INTO invoice_discount (firm_id, invoice_id, discount_no, line_no, name, kind, percent, fixed_minor, amount_minor, redemption_id)
    SELECT %(firm_id)s, %(id)s, d.* FROM unnest(%(d_discount_no)s::int[], %(d_line_no)s::int[], %(d_name)s::text[], %(d_kind)s::text[],
        %(d_percent)s::numeric[], %(d_fixed_minor)s::bigint[], %(d_amount_minor)s::bigint[], %(d_redemption_id)s::uuid[]) AS d
"""
DELETES: Final = tuple(
    f"DELETE FROM {table} WHERE firm_id = %(firm_id)s AND invoice_id = %(id)s"
    for table in ("invoice_line_tax", "invoice_discount", "invoice_line")
)
"""Take everything off a draft."""
_REPRICE: Final = """
UPDATE invoice_line l SET discount_minor = p.discount_minor, tax_minor = p.tax_minor, tax_included_minor = p.tax_included_minor,
    tax_count = p.tax_count
FROM unnest(%(l_line_no)s::int[], %(l_discount_minor)s::bigint[], %(l_tax_minor)s::bigint[], %(l_tax_included_minor)s::bigint[],
            %(l_tax_count)s::int[]) AS p (line_no, discount_minor, tax_minor, tax_included_minor, tax_count)
WHERE l.firm_id = %(firm_id)s AND l.invoice_id = %(id)s AND l.line_no = p.line_no
"""
_LINE_FIELDS: Final = (
    "line_no", "description", "quantity", "unit_price", "amount_minor", "period_start", "period_end", "engagement_id", "in_advance", "unit",
    "tax_category", "discount_minor", "tax_minor", "tax_included_minor",
)  # fmt: skip
_TAX_FIELDS: Final = (
    "tax_no", "tax_rate_id", "name", "percentage", "inclusive", "reverse_charge", "taxable_minor", "tax_minor",
)  # fmt: skip
_DISCOUNT_FIELDS: Final = (
    "discount_no", "line_no", "name", "percent", "fixed_minor", "amount_minor", "redemption_id",
)  # fmt: skip


def inserts(invoice: Invoice) -> dict[str, str]:
    """The statements that write what is on the invoice, by name: only those that have rows to write, and lines always."""
    statements = {"lines": INSERT_LINES}
    if any(line.taxes for line in invoice.lines):
        statements["taxes"] = INSERT_TAXES
    if invoice.discounts:
        statements["discounts"] = INSERT_DISCOUNTS
    return statements


def params_of(invoice: Invoice) -> dict[str, list[Any]]:
    """The parameters of `inserts`, save `firm_id` and `id`."""
    lines, discounts = invoice.lines, invoice.discounts
    params = {f"l_{name}": [getattr(line, name) for line in lines] for name in _LINE_FIELDS}
    params["l_kind"] = [line.kind.value for line in lines]
    params["l_tax_count"] = [len(line.taxes) for line in lines]
    taxes = [(line.line_no, tax) for line in lines for tax in line.taxes]
    if taxes:
        params["t_line_no"] = [line_no for line_no, _ in taxes]
        params.update({f"t_{name}": [getattr(tax, name) for _, tax in taxes] for name in _TAX_FIELDS})
    if discounts:
        params["d_kind"] = [discount.kind.value for discount in discounts]
        params.update({f"d_{name}": [getattr(discount, name) for discount in discounts] for name in _DISCOUNT_FIELDS})
    return params


async def replace_all(uow: UnitOfWork, invoice: Invoice) -> None:
    """Put the lines and discounts of `invoice` in place of those of the draft."""
    params = {**params_of(invoice), "firm_id": uow.firm_id, "id": invoice.id}
    async with uow.conn.pipeline():
        for statement in (*DELETES, *inserts(invoice).values()):
            await uow.conn.execute(statement, params)


async def reprice(uow: UnitOfWork, invoice: Invoice) -> None:
    """Give the lines that a draft has the discounts and taxes that `invoice` has."""
    params = {**params_of(invoice), "firm_id": uow.firm_id, "id": invoice.id}
    inserted = [text for name, text in inserts(invoice).items() if name != "lines"]
    async with uow.conn.pipeline():
        for statement in (*DELETES[:2], _REPRICE, *inserted):
            await uow.conn.execute(statement, params)


def lines_of(rows: Sequence[Sequence[Any]] | None) -> tuple[InvoiceLine, ...]:
    """The lines in what `LINES` gave."""
    return () if rows is None else tuple(map(_line, rows))


def discounts_of(rows: Sequence[Sequence[Any]] | None) -> tuple[InvoiceDiscount, ...]:
    """The discounts in what `DISCOUNTS` gave."""
    return () if rows is None else tuple(map(_discount, rows))


def _line(row: Sequence[Any]) -> InvoiceLine:
    number, kind, description, quantity, price, amount, start, end, engagement, in_advance = row[:10]
    unit, tax_category, discount, tax, tax_included, taxes = row[10:]
    return InvoiceLine(
        number,
        LineKind(kind),
        description,
        Decimal(quantity),
        Decimal(price),
        amount,
        None if start is None else date.fromisoformat(start),
        None if end is None else date.fromisoformat(end),
        None if engagement is None else UUID(engagement),
        in_advance,
        unit,
        tax_category,
        discount,
        tax,
        tax_included,
        () if taxes is None else tuple(map(_tax, taxes)),
    )


def _tax(row: Sequence[Any]) -> LineTax:
    number, rate, name, percentage, *rest = row
    return LineTax(number, None if rate is None else UUID(rate), name, Decimal(percentage), *rest)


def _discount(row: Sequence[Any]) -> InvoiceDiscount:
    number, line_no, name, kind, percent, fixed, amount, redemption = row
    return InvoiceDiscount(
        number, line_no, name, DiscountKind(kind), None if percent is None else Decimal(percent), fixed, amount,
        None if redemption is None else UUID(redemption),
    )  # fmt: skip
