"""The package run's writing: one COPY of what was computed, and the rows of a chunk of invoices derived from it.

Row security refuses COPY into a tenant's table, so a chunk is copied into temporary tables and inserted from there. They
are made once per connection and emptied at each commit: nothing relies on them from one transaction to the next, so a
transaction pooler may hand out another connection each time, and the catalogue does not grow with the number of chunks.
A change of their columns needs a new name, for connections that an older release has used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, NamedTuple
from uuid import UUID

from dunwell_server.billing.hourly import TimeCharges
from dunwell_server.billing.lines import PricedLines, earned_and_deferred
from dunwell_server.billing.model import InvoiceDiscount, InvoiceLine, LineTax
from dunwell_server.billing.model.credit import CreditUse
from dunwell_server.billing.ports import CollectionPlan
from dunwell_server.billing.store.package_due import DueEngagement
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.platform.database import UnitOfWork


class PackageInvoice(NamedTuple):
    """An invoice computed and not yet written. `credited` is what the client's credit pays of it, by `credit`; `time` what it bills of
    the engagement's time. `billed_through` and `next_bill` are the engagement's afterwards."""

    id: UUID
    engagement: DueEngagement
    prices: PricedLines
    time: TimeCharges
    credit: Sequence[CreditUse]
    credited: int
    due_date: date
    plan: CollectionPlan
    billed_through: date
    next_bill: date | None

    @property
    def total(self) -> int:
        """What it asks for, in minor units."""
        return self.prices.total

    @property
    def amount_due(self) -> int:
        """What is owed when it is sent."""
        return self.prices.total - self.credited


class Stage(NamedTuple):
    """A temporary table that a chunk is copied into."""

    create: str
    copy: str
    types: Sequence[str]


def _stage(name: str, columns: str) -> Stage:
    """A stage of these columns, written as `name type` and separated by commas; jsonb and uuid are copied in their binary form."""
    types = [column.split()[1] for column in columns.split(",")]
    return Stage(
        f"CREATE TEMPORARY TABLE IF NOT EXISTS {name} ({columns}) ON COMMIT DELETE ROWS",
        f"COPY pg_temp.{name} FROM STDIN (FORMAT binary)",
        ["bytea" if kind in ("jsonb", "uuid") else kind for kind in types],
    )


_INVOICES: Final = _stage(
    "package_invoice_stage_2",
    "position int4, id uuid, trace_id uuid, paid_id uuid, engagement_id uuid, client_id uuid, currency_code text, due_date date, "
    "line_count int4, subtotal int8, discount_total int8, discount_count int2, tax_total int8, tax_included_total int8, total int8, "
    "credited int8, earned int8, deferred int8, autopay_enabled bool, autopay_status text, autopay_cadence text, autopay_method_id uuid, "
    "next_charge_time timestamptz, billed_through date, next_bill date, summary jsonb",
)
_LINES: Final = _stage(
    "package_line_stage_2",
    "invoice_id uuid, engagement_id uuid, line_no int2, kind text, description text, quantity numeric, unit_price numeric, "
    "amount_minor int8, unit text, discount_minor int8, tax_minor int8, tax_included_minor int8, tax_count int2, period_start date, "
    "period_end date, in_advance bool",
)
_TAXES: Final = _stage(
    "package_tax_stage_2",
    "invoice_id uuid, line_no int2, tax_no int2, tax_rate_id uuid, name text, percentage numeric, inclusive bool, reverse_charge bool, "
    "taxable_minor int8, tax_minor int8",
)
_DISCOUNTS: Final = _stage(
    "package_discount_stage_2",
    "invoice_id uuid, discount_no int2, line_no int2, name text, kind text, percent numeric, fixed_minor int8, amount_minor int8, "
    "redemption_id uuid",
)
STAGES: Final = (_INVOICES, _LINES, _TAXES, _DISCOUNTS)


async def stage(uow: UnitOfWork, invoices: Sequence[PackageInvoice]) -> None:
    """Copy the chunk, each fact once, to where `write_unnumbered` and `write_numbered` derive their rows from."""
    rows = (
        (_invoice_row(position, invoice) for position, invoice in enumerate(invoices)),
        (_line_row(invoice, line) for invoice in invoices for line in invoice.prices.lines),
        (_tax_row(invoice, line, tax) for invoice in invoices for line in invoice.prices.lines for tax in line.taxes),
        (_discount_row(invoice, discount) for invoice in invoices for discount in invoice.prices.discounts),
    )
    for each in STAGES:
        await uow.execute(each.create)
    async with uow.conn.cursor() as cursor:
        for each, its_rows in zip(STAGES, rows, strict=True):
            first = next(its_rows, None)
            if first is None:
                continue
            async with cursor.copy(each.copy) as copy:
                copy.set_types(each.types)
                await copy.write_row(first)
                for row in its_rows:
                    await copy.write_row(row)


def _invoice_row(position: int, invoice: PackageInvoice) -> tuple[Any, ...]:
    engagement, prices, plan = invoice.engagement, invoice.prices, invoice.plan
    earned, deferred = earned_and_deferred(prices.lines)
    return (
        position, invoice.id.bytes, uuid7().bytes, None if invoice.amount_due else uuid7().bytes, engagement.id.bytes, engagement.client_id.bytes,
        engagement.currency_code, invoice.due_date, len(prices.lines), prices.subtotal, prices.discount_total, len(prices.discounts),
        prices.tax_total, prices.tax_included_total, prices.total, invoice.credited, earned, deferred, plan.enabled, plan.status,
        plan.cadence, _bytes(plan.method_id), plan.next_charge_time, invoice.billed_through, invoice.next_bill, _summary(invoice),
    )  # fmt: skip


def _line_row(invoice: PackageInvoice, line: InvoiceLine) -> tuple[Any, ...]:
    return (
        invoice.id.bytes, invoice.engagement.id.bytes, line.line_no, line.kind.value, line.description, line.quantity, line.unit_price,
        line.amount_minor, line.unit, line.discount_minor, line.tax_minor, line.tax_included_minor, len(line.taxes), line.period_start,
        line.period_end, line.in_advance,
    )  # fmt: skip


def _tax_row(invoice: PackageInvoice, line: InvoiceLine, tax: LineTax) -> tuple[Any, ...]:
    return (
        invoice.id.bytes, line.line_no, tax.tax_no, _bytes(tax.tax_rate_id), tax.name, tax.percentage, tax.inclusive, tax.reverse_charge,
        tax.taxable_minor, tax.tax_minor,
    )  # fmt: skip


def _discount_row(invoice: PackageInvoice, discount: InvoiceDiscount) -> tuple[Any, ...]:
    return (
        invoice.id.bytes, discount.discount_no, discount.line_no, discount.name, discount.kind.value, discount.percent, discount.fixed_minor,
        discount.amount_minor, _bytes(discount.redemption_id),
    )  # fmt: skip


def _bytes(value: UUID | None) -> bytes | None:
    return None if value is None else value.bytes


def _summary(invoice: PackageInvoice) -> bytes:
    """What `service.journal.invoice_change` says of the invoice, as jsonb's binary form. No value in it needs escaping."""
    engagement, due = invoice.engagement, invoice.amount_due
    text = (
        f'\x01{{"invoice_id":"{encode(Prefix.INVOICE, invoice.id)}",'
        f'"client_id":"{encode(Prefix.CLIENT, engagement.client_id)}","state":"{"SENT" if due else "PAID"}",'
        f'"currency_code":"{engagement.currency_code}","total_minor":{invoice.total},"amount_due_minor":{due},'
        f'"due_date":"{invoice.due_date}"}}'
    )
    return text.encode()


# Everything that needs no number comes first: the number counter's row is what the workers of a run wait for.
UNNUMBERED: Final = (
    """
INSERT INTO ledger_posting (firm_id, id, source_type, source_id, kind, firm_time)
SELECT %(firm_id)s, trace_id, 'invoice', id, 'finalized', %(now)s FROM pg_temp.package_invoice_stage_2 WHERE total > 0
""",
    """
INSERT INTO ledger_entry (firm_id, posting_id, line_no, account, client_id, currency_code, amount_minor)
SELECT %(firm_id)s, s.trace_id, e.line_no, e.account, e.client_id, s.currency_code, e.amount_minor
FROM pg_temp.package_invoice_stage_2 s
CROSS JOIN LATERAL (VALUES
    (1, 'receivable', s.client_id, s.total),
    (2, 'revenue', NULL, -s.earned),
    (2 + (s.earned <> 0)::int, 'deferred_revenue', NULL, -s.deferred),
    (2 + (s.earned <> 0)::int + (s.deferred <> 0)::int, 'tax_payable', NULL, -s.tax_total)
) AS e (line_no, account, client_id, amount_minor)
WHERE e.amount_minor <> 0
""",
    """
INSERT INTO audit_event (firm_id, id, category, action, severity, object_type, object_id, actor, actor_role, method,
    request_id, metadata, firm_time)
SELECT %(firm_id)s, c.id, 'billing', c.action, 'INFO', 'invoice', s.id, %(actor)s, %(role)s, %(method)s, %(request_id)s,
       s.summary, %(now)s
FROM pg_temp.package_invoice_stage_2 s
CROSS JOIN LATERAL (VALUES (s.trace_id, 'invoice_finalized'), (s.paid_id, 'invoice_paid')) AS c (id, action)
WHERE c.id IS NOT NULL
""",
    """
INSERT INTO event (firm_id, id, type, object_type, object_id, object_seq, payload, firm_time)
SELECT %(firm_id)s, c.id, c.type, 'invoice', s.id, c.seq, s.summary, %(now)s
FROM pg_temp.package_invoice_stage_2 s
CROSS JOIN LATERAL (VALUES (s.trace_id, 'invoice.finalized', 1), (s.paid_id, 'invoice.paid', 2)) AS c (id, type, seq)
WHERE c.id IS NOT NULL
""",
    """
UPDATE engagement e SET billed_through_date = s.billed_through, next_bill_date = s.next_bill, version = e.version + 1,
    update_time = %(now)s
FROM pg_temp.package_invoice_stage_2 s WHERE e.firm_id = %(firm_id)s AND e.id = s.engagement_id
""",
    """
INSERT INTO run_item (firm_id, run_id, subject_id, subject_type, outcome, client_id, amount_minor, currency_code, detail)
SELECT %(firm_id)s, %(run_id)s, engagement_id, 'engagement', 'CREATED', client_id, total, currency_code,
       jsonb_build_object('invoice_id', id)
FROM pg_temp.package_invoice_stage_2
""",
)
# The number is the text that `numbering.format_number` gives.
NUMBERED: Final = (
    """
INSERT INTO invoice_series AS s (firm_id, series, next_no) VALUES (%(firm_id)s, %(series)s, 1 + %(count)s)
ON CONFLICT (firm_id, series) DO UPDATE SET next_no = s.next_no + %(count)s
""",
    """
INSERT INTO invoice (firm_id, id, client_id, engagement_id, run_id, origin, currency_code, series, series_no, number,
    issue_date, due_date, line_count, subtotal, discount_total, discount_count, tax_total, tax_included_total, total,
    amount_credited, finalize_time, paid_time, autopay_enabled, autopay_status, autopay_cadence, autopay_method_id, autopay_next_charge_time, create_time, update_time)
SELECT %(firm_id)s, s.id, s.client_id, s.engagement_id, %(run_id)s, 'RUN', s.currency_code, %(series)s, n.no,
       %(series)s || '-' || lpad(n.no::text, greatest(%(padding)s, length(n.no::text)), '0'), %(issue_date)s, s.due_date,
       s.line_count, s.subtotal, s.discount_total, s.discount_count, s.tax_total, s.tax_included_total, s.total, s.credited, %(now)s,
       CASE WHEN s.total = s.credited THEN %(now)s::timestamptz END, s.autopay_enabled,
       s.autopay_status, s.autopay_cadence, s.autopay_method_id, s.next_charge_time, %(now)s, %(now)s
FROM invoice_series v CROSS JOIN pg_temp.package_invoice_stage_2 s
CROSS JOIN LATERAL (SELECT v.next_no - %(count)s + s.position AS no) n
WHERE v.firm_id = %(firm_id)s AND v.series = %(series)s
""",
    """
INSERT INTO invoice_line (firm_id, invoice_id, line_no, kind, description, quantity, unit_price, amount_minor, unit, discount_minor,
    tax_minor, tax_included_minor, tax_count, period_start, period_end, engagement_id, in_advance)
SELECT %(firm_id)s, invoice_id, line_no, kind, description, quantity, unit_price, amount_minor, unit, discount_minor, tax_minor,
       tax_included_minor, tax_count, period_start, period_end, engagement_id, in_advance
FROM pg_temp.package_line_stage_2
""",
    """
INSERT INTO invoice_line_tax (firm_id, invoice_id, line_no, tax_no, tax_rate_id, name, percentage, inclusive, reverse_charge,
    taxable_minor, tax_minor)
SELECT %(firm_id)s, invoice_id, line_no, tax_no, tax_rate_id, name, percentage, inclusive, reverse_charge, taxable_minor, tax_minor
FROM pg_temp.package_tax_stage_2
""",
    """
INSERT INTO invoice_discount (firm_id, invoice_id, discount_no, line_no, name, kind, percent, fixed_minor, amount_minor, redemption_id)
SELECT %(firm_id)s, invoice_id, discount_no, line_no, name, kind, percent, fixed_minor, amount_minor, redemption_id
FROM pg_temp.package_discount_stage_2
""",
    """
INSERT INTO coverage (firm_id, invoice_id, line_no, engagement_id, component, period)
SELECT %(firm_id)s, invoice_id, line_no, engagement_id, 'PACKAGE', daterange(period_start, period_end)
FROM pg_temp.package_line_stage_2 WHERE kind = 'PACKAGE'
""",
)


@dataclass(frozen=True, slots=True)
class Issue:
    """What the invoices of a chunk are issued under."""

    run_id: UUID
    issue_date: date
    series: str
    padding: int
    count: int

    def params(self, uow: UnitOfWork) -> dict[str, Any]:
        """The parameters of the statements that derive rows from the stage."""
        context = uow.context
        return {
            "firm_id": uow.firm_id,
            "now": uow.now,
            "run_id": self.run_id,
            "issue_date": self.issue_date,
            "series": self.series,
            "padding": self.padding,
            "count": self.count,
            "actor": context.actor.label,
            "role": context.actor.role.value,
            "method": context.method,
            "request_id": context.request_id,
        }


async def write_unnumbered(uow: UnitOfWork, issue: Issue) -> None:
    """Derive from the stage what needs no number: ledger, audit, events, engagements, items."""
    await _send(uow, UNNUMBERED, issue.params(uow))


async def write_numbered(uow: UnitOfWork, issue: Issue) -> None:
    """Take the numbers, and derive invoices, lines and coverage. Last: the counter stays locked until the commit."""
    await _send(uow, NUMBERED, issue.params(uow))


async def _send(uow: UnitOfWork, statements: Sequence[str], params: Mapping[str, Any]) -> None:
    """In one round trip: a worker that is busy elsewhere must not keep those waiting who wait for its locks."""
    async with uow.conn.pipeline():
        for statement in statements:
            await uow.conn.execute(statement, params, prepare=False)
