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

from dunwell_server.billing.packages import BillablePeriod, describe
from dunwell_server.billing.ports import CollectionPlan
from dunwell_server.billing.store.package_due import DueEngagement
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.kernel.money import exponent
from dunwell_server.platform.database import UnitOfWork


class PackageInvoice(NamedTuple):
    """An invoice computed and not yet written. `billed_through` and `next_bill` are the engagement's afterwards."""

    id: UUID
    engagement: DueEngagement
    parts: Sequence[BillablePeriod]
    total: int
    due_date: date
    plan: CollectionPlan
    billed_through: date
    next_bill: date | None


_STAGE_INVOICES: Final = """
CREATE TEMPORARY TABLE IF NOT EXISTS package_invoice_stage_1 (
    position integer, id uuid, trace_id uuid, paid_id uuid, engagement_id uuid, client_id uuid, currency_code text,
    due_date date, line_count integer, total bigint, in_advance boolean, autopay_enabled boolean, autopay_status text,
    autopay_cadence text, autopay_method_id uuid, next_charge_time timestamptz, billed_through date, next_bill date,
    summary jsonb
) ON COMMIT DELETE ROWS
"""
_STAGE_TYPES: Final = (
    "int4", "uuid", "uuid", "uuid", "uuid", "uuid", "text", "date", "int4", "int8", "bool", "bool", "text", "text", "uuid",
    "timestamptz", "date", "date", "bytea",
)  # fmt: skip
_STAGE_LINES: Final = """
CREATE TEMPORARY TABLE IF NOT EXISTS package_line_stage_1 (
    invoice_id uuid, engagement_id uuid, line_no smallint, description text, amount_minor bigint, digits smallint,
    period_start date, period_end date, in_advance boolean
) ON COMMIT DELETE ROWS
"""
STAGES: Final = (_STAGE_INVOICES, _STAGE_LINES)
_LINE_TYPES: Final = ("uuid", "uuid", "int2", "text", "int8", "int2", "date", "date", "bool")
_COPY: Final = "COPY pg_temp.package_invoice_stage_1 FROM STDIN (FORMAT binary)"
_COPY_LINES: Final = "COPY pg_temp.package_line_stage_1 FROM STDIN (FORMAT binary)"


async def stage(uow: UnitOfWork, invoices: Sequence[PackageInvoice]) -> None:
    """Copy the chunk, each fact once, to where `write` derives its rows from."""
    for statement in STAGES:
        await uow.execute(statement)
    async with uow.conn.cursor() as cursor:
        async with cursor.copy(_COPY) as copy:
            copy.set_types(_STAGE_TYPES)
            for position, invoice in enumerate(invoices):
                await copy.write_row(_invoice_row(position, invoice))
        async with cursor.copy(_COPY_LINES) as copy:
            copy.set_types(_LINE_TYPES)
            for invoice in invoices:
                engagement = invoice.engagement
                text, in_advance = engagement.line_description, engagement.timing == "IN_ADVANCE"
                digits = exponent(engagement.currency_code)
                for line_no, part in enumerate(invoice.parts, 1):
                    await copy.write_row((
                        invoice.id, engagement.id, line_no, describe(text, part), part.amount_minor, digits, part.start,
                        part.end, in_advance,
                    ))  # fmt: skip


def _invoice_row(position: int, invoice: PackageInvoice) -> tuple[Any, ...]:
    engagement, plan = invoice.engagement, invoice.plan
    return (
        position, invoice.id, uuid7(), None if invoice.total else uuid7(), engagement.id, engagement.client_id,
        engagement.currency_code, invoice.due_date, len(invoice.parts), invoice.total, engagement.timing == "IN_ADVANCE",
        plan.enabled, plan.status, plan.cadence, plan.method_id, plan.next_charge_time, invoice.billed_through,
        invoice.next_bill, _summary(invoice),
    )  # fmt: skip


def _summary(invoice: PackageInvoice) -> bytes:
    """What `service.journal.invoice_change` says of the invoice, as jsonb's binary form. No value in it needs escaping."""
    engagement, total = invoice.engagement, invoice.total
    text = (
        f'\x01{{"invoice_id":"{encode(Prefix.INVOICE, invoice.id)}",'
        f'"client_id":"{encode(Prefix.CLIENT, engagement.client_id)}","state":"{"SENT" if total else "PAID"}",'
        f'"currency_code":"{engagement.currency_code}","total_minor":{total},"amount_due_minor":{total},'
        f'"due_date":"{invoice.due_date}"}}'
    )
    return text.encode()


# Everything that needs no number comes first: the number counter's row is what the workers of a run wait for.
UNNUMBERED: Final = (
    """
INSERT INTO ledger_posting (firm_id, id, source_type, source_id, kind, firm_time)
SELECT %(firm_id)s, trace_id, 'invoice', id, 'finalized', %(now)s FROM pg_temp.package_invoice_stage_1 WHERE total > 0
""",
    """
INSERT INTO ledger_entry (firm_id, posting_id, line_no, account, client_id, currency_code, amount_minor)
SELECT %(firm_id)s, s.trace_id, e.line_no, e.account, e.client_id, s.currency_code, e.amount_minor
FROM pg_temp.package_invoice_stage_1 s
CROSS JOIN LATERAL (VALUES
    (1::smallint, 'receivable', s.client_id, s.total),
    (2::smallint, CASE WHEN s.in_advance THEN 'deferred_revenue' ELSE 'revenue' END, NULL, -s.total)
) AS e (line_no, account, client_id, amount_minor)
WHERE s.total > 0
""",
    """
INSERT INTO audit_event (firm_id, id, category, action, severity, object_type, object_id, actor, actor_role, method,
    request_id, metadata, firm_time)
SELECT %(firm_id)s, c.id, 'billing', c.action, 'INFO', 'invoice', s.id, %(actor)s, %(role)s, %(method)s, %(request_id)s,
       s.summary, %(now)s
FROM pg_temp.package_invoice_stage_1 s
CROSS JOIN LATERAL (VALUES (s.trace_id, 'invoice_finalized'), (s.paid_id, 'invoice_paid')) AS c (id, action)
WHERE c.id IS NOT NULL
""",
    """
INSERT INTO event (firm_id, id, type, object_type, object_id, object_seq, payload, firm_time)
SELECT %(firm_id)s, c.id, c.type, 'invoice', s.id, c.seq, s.summary, %(now)s
FROM pg_temp.package_invoice_stage_1 s
CROSS JOIN LATERAL (VALUES (s.trace_id, 'invoice.finalized', 1), (s.paid_id, 'invoice.paid', 2)) AS c (id, type, seq)
WHERE c.id IS NOT NULL
""",
    """
UPDATE engagement e SET billed_through_date = s.billed_through, next_bill_date = s.next_bill, version = e.version + 1,
    update_time = %(now)s
FROM pg_temp.package_invoice_stage_1 s WHERE e.firm_id = %(firm_id)s AND e.id = s.engagement_id
""",
    """
INSERT INTO run_item (firm_id, run_id, subject_id, subject_type, outcome, client_id, amount_minor, currency_code, detail)
SELECT %(firm_id)s, %(run_id)s, engagement_id, 'engagement', 'CREATED', client_id, total, currency_code,
       jsonb_build_object('invoice_id', id)
FROM pg_temp.package_invoice_stage_1
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
    issue_date, due_date, line_count, subtotal, total, finalize_time, paid_time, autopay_enabled, autopay_status,
    autopay_cadence, autopay_method_id, autopay_next_charge_time, create_time, update_time)
SELECT %(firm_id)s, s.id, s.client_id, s.engagement_id, %(run_id)s, 'RUN', s.currency_code, %(series)s, n.no,
       %(series)s || '-' || lpad(n.no::text, greatest(%(padding)s, length(n.no::text)), '0'), %(issue_date)s, s.due_date,
       s.line_count, s.total, s.total, %(now)s, CASE WHEN s.total = 0 THEN %(now)s::timestamptz END, s.autopay_enabled,
       s.autopay_status, s.autopay_cadence, s.autopay_method_id, s.next_charge_time, %(now)s, %(now)s
FROM invoice_series v CROSS JOIN pg_temp.package_invoice_stage_1 s
CROSS JOIN LATERAL (SELECT v.next_no - %(count)s + s.position AS no) n
WHERE v.firm_id = %(firm_id)s AND v.series = %(series)s
""",
    """
INSERT INTO invoice_line (firm_id, invoice_id, line_no, kind, description, quantity, unit_price, amount_minor,
    period_start, period_end, engagement_id, in_advance)
SELECT %(firm_id)s, invoice_id, line_no, 'PACKAGE', description, 1, (amount_minor::text || 'e-' || digits)::numeric,
       amount_minor, period_start, period_end, engagement_id, in_advance
FROM pg_temp.package_line_stage_1
""",
    """
INSERT INTO coverage (firm_id, invoice_id, line_no, engagement_id, component, period)
SELECT %(firm_id)s, invoice_id, line_no, engagement_id, 'PACKAGE', daterange(period_start, period_end)
FROM pg_temp.package_line_stage_1
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
