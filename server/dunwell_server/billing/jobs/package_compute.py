"""What the package run writes, computed: a chunk of due engagements becomes invoices, or items that say why there are none."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import psycopg
import structlog

from dunwell_server.billing import packages
from dunwell_server.billing.model import ClientState
from dunwell_server.billing.ports import CollectionPlanner, CollectionTerms
from dunwell_server.billing.store import package_due as store
from dunwell_server.billing.store.package_due import DueEngagement, Position
from dunwell_server.billing.store.package_stage import PackageInvoice
from dunwell_server.kernel.calendar import Period
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import derive_uuid, uuid7
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.firms import FirmSettings
from dunwell_server.platform.runs import RunItem

CHUNK_LINES: Final = 10_000
"""Lines after which a chunk takes no further engagement: years of missed weeks must not make a transaction of minutes."""
COMPUTED_AT_ONCE: Final = 50
"""Engagements computed before the loop is given to others: about a millisecond."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Terms:
    """What the invoices of a chunk have in common."""

    settings: FirmSettings
    firm_id: UUID
    now: datetime
    as_of: date
    issue_date: date
    planner: CollectionPlanner


@dataclass(slots=True)
class Chunk:
    """What became of the engagements of a chunk. `last` is where the next one goes on; None: there was nothing."""

    last: Position | None = None
    invoices: list[PackageInvoice] = field(default_factory=list)
    items: list[RunItem] = field(default_factory=list)
    stale: dict[UUID, tuple[date, date | None]] = field(default_factory=dict)
    lines: int = 0

    def counts(self) -> dict[str, int]:
        """Engagements by outcome."""
        counts = Counter(item.outcome for item in self.items)
        if self.invoices:
            counts["CREATED"] += len(self.invoices)
        return dict(counts)

    def amounts(self) -> dict[str, int]:
        """Minor units invoiced, by currency."""
        amounts: Counter[str] = Counter()
        for invoice in self.invoices:
            amounts[invoice.engagement.currency_code] += invoice.total
        return dict(amounts)


async def compute(uow: UnitOfWork, due: Sequence[DueEngagement], as_of: date, issue_date: date) -> Chunk:
    """What a run as of `as_of` makes of the engagements; writes nothing."""
    covered = await store.covered(uow, due)
    terms = Terms(
        uow.firm.settings, uow.firm_id, uow.now, as_of, issue_date,
        uow.bus.port(CollectionPlanner),  # type: ignore[type-abstract]
    )  # fmt: skip
    chunk = Chunk()
    for number, engagement in enumerate(due, 1):
        if number % COMPUTED_AT_ONCE == 0:
            await asyncio.sleep(0)
        bill_one(chunk, terms, engagement, covered.get(engagement.id, ()))
        chunk.last = engagement.position
        if chunk.lines >= CHUNK_LINES:
            break
    return chunk


def bill_one(chunk: Chunk, terms: Terms, engagement: DueEngagement, covered: Sequence[Period]) -> None:
    """Add an engagement's invoice to the chunk, or the item that says why there is none. One that breaks harms no other."""
    try:
        _refuse(engagement)
        parts = packages.billable_periods(engagement, terms.as_of, covered, zone=terms.settings.zone)
        through = parts[-1].end if parts else engagement.billed_through_date
        if covered:
            billed = [*covered, *((part.start, part.end) for part in parts)]
            through = packages.billed_through_date(engagement.billed_through_date, billed)
        next_bill = packages.next_bill_date(engagement, through, covered)
        if parts:
            chunk.invoices.append(_invoice(terms, engagement, parts, through, next_bill))
            chunk.lines += len(parts)
        else:
            chunk.stale[engagement.id] = (through, next_bill)
            message = "Every period that could be billed by then has been."
            chunk.items.append(_item(engagement, "SKIPPED", "NOTHING_TO_BILL", message))
    except _Skip as skip:
        chunk.items.append(_item(engagement, "SKIPPED", skip.reason, skip.message))
    except DunwellError as error:
        chunk.items.append(failed(engagement, "DATA", f"{error.reason.value}: {error.message}"))
    except Exception as error:
        chunk.items.append(failed(engagement, *explain(engagement, error)))


class _Skip(Exception):
    """An engagement that is rightly not billed."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def _refuse(engagement: DueEngagement) -> None:
    """The refusals of FinalizeInvoice that concern a run."""
    if engagement.client_state != ClientState.ACTIVE:
        raise _Skip("CLIENT_ARCHIVED", "The client is archived.")
    if engagement.currency_code != engagement.client_currency_code:
        raise DunwellError(
            Reason.CURRENCY_MISMATCH,
            f"The engagement is in {engagement.currency_code}, its client is invoiced in {engagement.client_currency_code}.",
        )


def _invoice(
    terms: Terms,
    engagement: DueEngagement,
    parts: Sequence[packages.BillablePeriod],
    through: date,
    next_bill: date | None,
) -> PackageInvoice:
    if len(parts) > packages.MAX_LINES:
        raise DunwellError(Reason.AMOUNT_OUT_OF_RANGE, f"{len(parts)} periods do not fit one invoice.")
    total = packages.total_of(parts)
    days = engagement.payment_terms_days
    due_date = terms.issue_date + timedelta(days=terms.settings.payment_terms_days if days is None else days)
    plan = terms.planner.plan(
        CollectionTerms(
            terms.settings, terms.now, due_date, total, engagement.autopay_enabled, engagement.autopay_cadence,
            engagement.autopay_method_id, engagement.autopay_enable_time,
        )
    )  # fmt: skip
    # The same periods give the same id whoever bills them, so that money asked for under it is asked for once.
    invoice_id = derive_uuid(
        "invoice", terms.firm_id, engagement.id, "PACKAGE", parts[0].start.isoformat(), engagement.void_count
    )
    return PackageInvoice(invoice_id, engagement, parts, total, due_date, plan, through, next_bill)


def _item(engagement: DueEngagement, outcome: str, reason: str | None = None, message: str | None = None) -> RunItem:
    return RunItem("engagement", engagement.id, outcome, reason, message, client_id=engagement.client_id)


def failed(engagement: DueEngagement, reason: str, message: str) -> RunItem:
    return _item(engagement, "FAILED", reason, message)


def explain(engagement: DueEngagement, error: Exception) -> tuple[str, str]:
    """Reason and message of a failure. What people cannot mend is logged under an id, and only the id is told."""
    if isinstance(error, psycopg.errors.NumericValueOutOfRange):
        return "DATA", "AMOUNT_OUT_OF_RANGE: what the client owes would not fit a 64-bit integer."
    if isinstance(error, psycopg.errors.ExclusionViolation):
        return "ALREADY_DONE", "A period of it is on another live invoice already."
    error_id = uuid7()
    _log.error("package_invoice_failed", error_id=str(error_id), engagement_id=str(engagement.id), exc_info=error)
    return "INTERNAL", f"It could not be billed; the log has the reason under {error_id}."


def planned_item(invoice: PackageInvoice, issue_date: date) -> RunItem:
    """A dry run's item: the invoice as the real run would write it, save id and number."""
    engagement = invoice.engagement
    detail: Mapping[str, Any] = {
        "issue_date": issue_date.isoformat(),
        "due_date": invoice.due_date.isoformat(),
        "lines": [
            {
                "line_no": line.line_no,
                "kind": line.kind.value,
                "description": line.description,
                "quantity": str(line.quantity),
                "unit_price": str(line.unit_price),
                "amount_minor": line.amount_minor,
                "period_start": str(line.period_start),
                "period_end": str(line.period_end),
                "engagement_id": str(line.engagement_id),
                "in_advance": line.in_advance,
            }
            for line in packages.lines_of(engagement, engagement.id, invoice.parts)
        ],
    }
    return replace(
        _item(engagement, "CREATED"), amount_minor=invoice.total, currency_code=engagement.currency_code, detail=detail
    )
