"""The package run's SQL: claims, one COPY of what was computed, and the rows of a chunk of invoices derived from it.

Row security refuses COPY into a tenant's table, so a chunk is copied into temporary tables and inserted from there. They
are made once per connection and emptied at each commit: nothing relies on them from one transaction to the next, so a
transaction pooler may hand out another connection each time, and the catalogue does not grow with the number of chunks.
A change of their columns needs a new name, for connections that an older release has used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from psycopg.rows import args_row

from dunwell_server.billing.model import proration_from_json
from dunwell_server.billing.packages import BillablePeriod, describe
from dunwell_server.billing.ports import CollectionPlan
from dunwell_server.kernel.calendar import Period
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.kernel.money import exponent
from dunwell_server.kernel.proration import ProrationPolicy
from dunwell_server.platform.database import UnitOfWork

Position = tuple[date, UUID]
"""Where an engagement stands in a run: its next bill date and its id."""
FIRST: Final[Position] = (date.min, UUID(int=0))
"""Before every engagement."""


class DueEngagement(NamedTuple):
    """An engagement with something to bill, and what its invoice takes from its client. Fields as `_COLUMNS`."""

    id: UUID
    client_id: UUID
    pricing_mode: str
    currency_code: str
    start_date: date
    end_date: date | None
    fee_minor: int
    billing_interval: str
    anchor: str
    timing: str
    partial_periods: str
    proration_text: str
    line_description: str
    payment_terms_days: int | None
    billed_through_date: date
    next_bill_date: date
    void_count: int
    client_state: str
    client_currency_code: str
    autopay_enabled: bool
    autopay_cadence: str
    autopay_method_id: UUID | None
    autopay_enable_time: datetime | None

    @property
    def proration(self) -> ProrationPolicy:
        """The policy for its partial periods; parsed only where there is one."""
        return proration_from_json(json.loads(self.proration_text))

    @property
    def position(self) -> Position:
        """Where it stands in the run."""
        return self.next_bill_date, self.id


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


@dataclass(frozen=True, slots=True)
class Scope:
    """Which engagements a run is about: those due by `as_of`, of one client or one engagement where given."""

    run_id: UUID
    as_of: date
    client_id: UUID | None = None
    engagement_id: UUID | None = None

    def params(self, uow: UnitOfWork, **more: Any) -> dict[str, Any]:
        """The parameters of a statement over the scope."""
        return {
            "firm_id": uow.firm_id,
            "run_id": self.run_id,
            "as_of": self.as_of,
            "client_id": self.client_id,
            "engagement_id": self.engagement_id,
            **more,
        }

    def filter(self) -> str:
        """The condition on the engagement `e` that narrows the run."""
        if self.engagement_id is not None:
            return "AND e.id = %(engagement_id)s"
        return "" if self.client_id is None else "AND e.client_id = %(client_id)s"


# A chunk touches a few thousand rows of tables that may grow a hundredfold during the run. So its statements are planned
# anew each time (`prepare=False`: a kept plan would be that of small tables), and by index, in the index's order.
READ_BY_INDEX: Final = """
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
       set_config('enable_sort', 'off', true)
"""
_COLUMNS: Final = """
e.id, e.client_id, e.pricing_mode, e.currency_code, e.start_date, e.end_date, e.fee_minor, e.billing_interval, e.anchor,
e.timing, e.partial_periods, e.proration::text, e.line_description,
coalesce(e.payment_terms_days, c.payment_terms_days), e.billed_through_date, e.next_bill_date, e.void_count, c.state,
c.currency_code, c.autopay_enabled, c.autopay_cadence, c.autopay_method_id, c.autopay_enable_time
"""
_DUE: Final = "e.firm_id = %(firm_id)s AND e.next_bill_date <= %(as_of)s"
# OFFSET 0 keeps this a look-up per row: as a join, it would read all items of the run for every chunk. So does hiding
# run_id from the index of the items' order.
_NOT_DONE: Final = """
NOT EXISTS (SELECT 1 FROM run_item i WHERE i.firm_id = e.firm_id AND i.subject_id = e.id
            AND i.run_id IS NOT DISTINCT FROM %(run_id)s OFFSET 0)
"""
_BEHIND: Final = "(e.next_bill_date, e.id) > (%(after_date)s, %(after_id)s)"
_ORDER: Final = "ORDER BY e.next_bill_date, e.id"
_NAMED: Final = f"""
WITH due AS MATERIALIZED (
    SELECT e.* FROM unnest(%(ids)s::uuid[]) AS named (id) JOIN engagement e ON e.firm_id = %(firm_id)s AND e.id = named.id
    WHERE {_DUE} AND {_NOT_DONE} FOR NO KEY UPDATE OF e SKIP LOCKED
)
SELECT {_COLUMNS} FROM due e JOIN client c ON c.firm_id = %(firm_id)s AND c.id = e.client_id {_ORDER}
FOR NO KEY UPDATE OF c SKIP LOCKED
"""
_COVERED: Final = """
SELECT e.id, lower(v.period), upper(v.period)
FROM unnest(%(ids)s::uuid[]) AS named (id)
JOIN engagement e ON e.firm_id = %(firm_id)s AND e.id = named.id
JOIN coverage v ON v.firm_id = %(firm_id)s AND v.engagement_id = e.id AND v.component = 'PACKAGE'
    AND v.release_time IS NULL AND v.period && daterange(e.billed_through_date, NULL)
"""
_RESCHEDULE: Final = """
UPDATE engagement e SET billed_through_date = d.billed_through, next_bill_date = d.next_bill, version = e.version + 1,
    update_time = %(now)s
FROM unnest(%(ids)s::uuid[], %(billed_throughs)s::date[], %(next_bills)s::date[]) AS d (id, billed_through, next_bill)
WHERE e.firm_id = %(firm_id)s AND e.id = d.id
"""


async def read_by_index(uow: UnitOfWork) -> None:
    """Have this transaction's statements planned for a chunk of rows out of tables of any size."""
    await uow.execute(READ_BY_INDEX)


async def run_state(uow: UnitOfWork, run_id: UUID, *, lock: bool) -> str | None:
    """Where the run stands now; locked against other workers' progress when asked."""
    statement = "SELECT state FROM run WHERE firm_id = %(firm_id)s AND id = %(id)s"
    params = {"firm_id": uow.firm_id, "id": run_id}
    state: str | None = await uow.fetch_value(f"{statement} FOR NO KEY UPDATE" if lock else statement, params)
    return state


async def count_due(uow: UnitOfWork, scope: Scope) -> int:
    """How many engagements the run is about."""
    count: int = await uow.fetch_value(
        f"SELECT count(*) FROM engagement e WHERE {_DUE} {scope.filter()}", scope.params(uow)
    )
    return count


async def is_any_left(uow: UnitOfWork, scope: Scope) -> bool:
    """Whether there is an engagement, locked or not, that the run has not dealt with."""
    left: bool = await uow.fetch_value(
        f"SELECT EXISTS (SELECT 1 FROM engagement e WHERE {_DUE} AND {_NOT_DONE} {scope.filter()})", scope.params(uow)
    )
    return left


async def claim(uow: UnitOfWork, scope: Scope, after: Position, limit: int) -> list[DueEngagement]:
    """Lock the next due engagements behind `after`, with their clients; those that others hold are passed over."""
    return await _fetch_due(uow, claim_statement(scope), _page_params(uow, scope, after, limit))


async def page(uow: UnitOfWork, scope: Scope, after: Position, limit: int) -> list[DueEngagement]:
    """The same engagements as `claim`, without locks: for dry runs."""
    return await _fetch_due(uow, _page(scope, "", ""), _page_params(uow, scope, after, limit))


def claim_statement(scope: Scope) -> str:
    """The statement of `claim`."""
    return _page(scope, "FOR NO KEY UPDATE OF e SKIP LOCKED", "FOR NO KEY UPDATE OF c SKIP LOCKED")


def _page(scope: Scope, lock_engagement: str, lock_client: str) -> str:
    return f"""
WITH due AS MATERIALIZED (
    SELECT e.* FROM engagement e WHERE {_DUE} AND {_BEHIND} AND {_NOT_DONE} {scope.filter()}
    {_ORDER} LIMIT %(limit)s {lock_engagement}
)
SELECT {_COLUMNS} FROM due e JOIN client c ON c.firm_id = %(firm_id)s AND c.id = e.client_id {_ORDER} {lock_client}
"""


def _page_params(uow: UnitOfWork, scope: Scope, after: Position, limit: int) -> dict[str, Any]:
    return scope.params(uow, after_date=after[0], after_id=after[1], limit=limit)


async def claim_named(uow: UnitOfWork, scope: Scope, ids: Sequence[UUID]) -> list[DueEngagement]:
    """Lock those of the named engagements that are still to be dealt with and that nobody else holds."""
    return await _fetch_due(uow, _NAMED, scope.params(uow, ids=list(ids)))


async def _fetch_due(uow: UnitOfWork, statement: str, params: Mapping[str, Any]) -> list[DueEngagement]:
    async with uow.conn.cursor(row_factory=args_row(DueEngagement)) as cursor:
        await cursor.execute(statement, params, prepare=False)
        return await cursor.fetchall()


async def covered(uow: UnitOfWork, due: Sequence[DueEngagement]) -> dict[UUID, list[Period]]:
    """The live coverage beyond `billed_through_date`, by engagement: only a voided invoice leaves any."""
    ids = [engagement.id for engagement in due if engagement.void_count]
    result: dict[UUID, list[Period]] = {}
    if ids:
        cursor = await uow.conn.execute(_COVERED, {"firm_id": uow.firm_id, "ids": ids}, prepare=False)
        for engagement_id, start, end in await cursor.fetchall():
            result.setdefault(engagement_id, []).append((start, end))
    return result


async def reschedule(uow: UnitOfWork, changes: Mapping[UUID, tuple[date, date | None]]) -> None:
    """Set (billed_through_date, next_bill_date) of locked engagements that had nothing to bill after all."""
    if changes:
        params = {
            "firm_id": uow.firm_id, "now": uow.now, "ids": list(changes),
            "billed_throughs": [change[0] for change in changes.values()], "next_bills": [change[1] for change in changes.values()],
        }  # fmt: skip
        await uow.execute(_RESCHEDULE, params)


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
