"""What a billing run makes of engagements that are due: invoices, or items that say why there are none. Writes nothing.

The run, its dry run and the preview of one engagement all compute here, so that they show the same. Everything that a chunk of
engagements follows from is read by a number of statements that does not depend on their number.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial
from typing import Final, TypeVar
from uuid import UUID

import psycopg
import structlog

from dunwell_server.billing import packages
from dunwell_server.billing.discounts import Discounted
from dunwell_server.billing.hourly import TimeCharges
from dunwell_server.billing.lines import PricedLines
from dunwell_server.billing.model import ClientState, InvoiceLine, TaxStatus
from dunwell_server.billing.model.credit import CreditUse
from dunwell_server.billing.packages import BillablePeriod
from dunwell_server.billing.ports import CollectionPlanner, CollectionTerms, TaxCalculator
from dunwell_server.billing.service import credit_application, pricing, time_billing
from dunwell_server.billing.service.pricing import ClientFacts, PriceRequest, PricingFacts
from dunwell_server.billing.service.switches import due_in_force
from dunwell_server.billing.service.time_billing import TimeFacts
from dunwell_server.billing.store import package_due as store
from dunwell_server.billing.store.package_due import DueEngagement, Position
from dunwell_server.billing.store.package_stage import PackageInvoice
from dunwell_server.kernel.calendar import Period
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import derive_uuid, uuid7
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.runs import RunItem

CHUNK_LINES: Final = 10_000
"""Lines after which a chunk takes no further engagement: years of missed weeks must not make a transaction of minutes."""
COMPUTED_AT_ONCE: Final = 50
"""Engagements computed before the loop is given to others: about a millisecond."""

T = TypeVar("T")
_log = structlog.get_logger(__name__)


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


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a chunk of engagements is computed from, besides themselves."""

    as_of: date
    issue_date: date
    covered: dict[UUID, list[Period]]
    time: TimeFacts
    pricing: PricingFacts


@dataclass(frozen=True, slots=True)
class _Unpriced:
    """An invoice with its lines and discounts. `through` and `next_bill` are the engagement's afterwards."""

    engagement: DueEngagement
    parts: Sequence[BillablePeriod]
    time: TimeCharges
    request: PriceRequest
    discounted: Discounted
    through: date
    next_bill: date | None


async def compute(
    uow: UnitOfWork, due: Sequence[DueEngagement], as_of: date, issue_date: date, *, lock: bool = True
) -> Chunk:
    """What a run as of `as_of` makes of the engagements, which are locked with their clients where it is to write (`lock`)."""
    due = due_in_force(uow, due)
    facts = _Facts(
        as_of,
        issue_date,
        await store.covered(uow, due),
        await time_billing.load(uow, due, as_of, lock=lock),
        await pricing.load(uow, {engagement.client_id for engagement in due}),
    )
    chunk = Chunk()
    unpriced: list[_Unpriced] = []
    for number, engagement in enumerate(due, 1):
        if number % COMPUTED_AT_ONCE == 0:
            await asyncio.sleep(0)
        found = _try(chunk, engagement, partial(_unpriced, uow, chunk, facts, engagement))
        if found is not None:
            unpriced.append(found)
            chunk.lines += len(found.request.lines)
        chunk.last = engagement.position
        if chunk.lines >= CHUNK_LINES:
            break
    await _plan(uow, chunk, facts, await _price(uow, chunk, facts, unpriced))
    return chunk


def _unpriced(uow: UnitOfWork, chunk: Chunk, facts: _Facts, engagement: DueEngagement) -> _Unpriced | None:
    """The lines of an engagement's invoice, with their discounts. None: it has nothing to bill, which the chunk is told."""
    _refuse(engagement)
    covered = facts.covered.get(engagement.id, ())
    parts = packages.billable_periods(engagement, facts.as_of, covered, zone=uow.firm.settings.zone)
    time = time_billing.charges(facts.time, engagement, facts.as_of)
    through, next_bill = _billed(engagement, parts, time, covered, facts.as_of)
    if not parts and not time.lines:
        chunk.stale[engagement.id] = (through, next_bill)
        message = "Every period that could be billed by then has been."
        chunk.items.append(_item(engagement, "SKIPPED", "NOTHING_TO_BILL", message))
        return None
    if len(parts) + len(time.lines) > packages.MAX_LINES:
        raise DunwellError(Reason.AMOUNT_OUT_OF_RANGE, f"{len(parts) + len(time.lines)} lines do not fit one invoice.")
    time = time.behind(len(parts))
    lines: Sequence[InvoiceLine] = [*packages.lines_of(engagement, engagement.id, parts), *time.lines]
    request = PriceRequest(
        _client(engagement), engagement.id, engagement.currency_code, facts.issue_date, lines,
        pricing.given_terms(time.discounts),
    )  # fmt: skip
    discounted = pricing.discount(facts.pricing, request)
    return _Unpriced(engagement, parts, time, request, discounted, through, next_bill)


def _billed(
    engagement: DueEngagement,
    parts: Sequence[BillablePeriod],
    time: TimeCharges,
    covered: Sequence[Period],
    as_of: date,
) -> tuple[date, date | None]:
    """How far the engagement is billed after this run, and when the next one has something to do."""
    if engagement.pricing_mode == "HOURLY":
        through = max(engagement.billed_through_date, time.through or engagement.billed_through_date)
        return through, packages.next_bill_date(engagement, through, as_of=as_of)
    through = parts[-1].end if parts else engagement.billed_through_date
    if covered:
        billed = [*covered, *((part.start, part.end) for part in parts)]
        through = packages.billed_through_date(engagement.billed_through_date, billed)
    return through, packages.next_bill_date(engagement, through, covered, as_of=as_of)


async def _price(
    uow: UnitOfWork, chunk: Chunk, facts: _Facts, unpriced: Sequence[_Unpriced]
) -> list[tuple[_Unpriced, PricedLines]]:
    """Tax all invoices at once; those that cannot be are told."""
    requests = [pricing.tax_request(facts.pricing, one.request, one.discounted) for one in unpriced]
    calculator = uow.bus.port(TaxCalculator)  # type: ignore[type-abstract]
    taxes = await calculator.calculate(uow, facts.pricing.table, requests)
    priced: list[tuple[_Unpriced, PricedLines]] = []
    for one, of_lines in zip(unpriced, taxes, strict=True):
        found = _try(chunk, one.engagement, partial(pricing.priced, one.request, one.discounted, of_lines))
        if found is not None:
            priced.append((one, found))
    return priced


async def _plan(uow: UnitOfWork, chunk: Chunk, facts: _Facts, priced: Sequence[tuple[_Unpriced, PricedLines]]) -> None:
    """Pay what the clients' credit pays, plan the collection of the rest, and put the invoices into the chunk."""
    ids = [_invoice_id(uow.firm_id, one) for one, _ in priced]
    wanted = [
        credit_application.Wanted(invoice_id, one.engagement.client_id, one.engagement.currency_code, prices.total)
        for invoice_id, (one, prices) in zip(ids, priced, strict=True)
    ]
    credit = await credit_application.plan(uow, wanted)
    planner = uow.bus.port(CollectionPlanner)  # type: ignore[type-abstract]
    for invoice_id, (one, prices) in zip(ids, priced, strict=True):
        uses = credit.get(invoice_id, ())
        made = _try(chunk, one.engagement, partial(_invoice, uow, planner, facts, invoice_id, one, prices, uses))
        if made is not None:
            chunk.invoices.append(made)


def _invoice(
    uow: UnitOfWork, planner: CollectionPlanner, facts: _Facts, invoice_id: UUID, one: _Unpriced, prices: PricedLines,
    uses: Sequence[CreditUse],
) -> PackageInvoice:  # fmt: skip
    engagement, settings = one.engagement, uow.firm.settings
    days = engagement.payment_terms_days
    due_date = facts.issue_date + timedelta(days=settings.payment_terms_days if days is None else days)
    credited = sum(use.amount_minor for use in uses)
    plan = planner.plan(
        CollectionTerms(
            settings, uow.now, due_date, prices.total - credited, engagement.autopay_enabled, engagement.autopay_cadence,
            engagement.autopay_method_id, engagement.autopay_enable_time,
        )
    )  # fmt: skip
    return PackageInvoice(
        invoice_id, engagement, prices, one.time, uses, credited, due_date, plan, one.through, one.next_bill
    )


def _invoice_id(firm_id: UUID, one: _Unpriced) -> UUID:
    """The same periods, or the same time, give the same id whoever bills them, so that money asked for under it is asked for once."""
    engagement = one.engagement
    if one.parts:
        what: tuple[str, str] = ("PACKAGE", one.parts[0].start.isoformat())
    else:
        what = ("TIME", str(min(entry.entry_id for entry in one.time.entries)))
    return derive_uuid("invoice", firm_id, engagement.id, *what, engagement.void_count)


def _client(engagement: DueEngagement) -> ClientFacts:
    return ClientFacts(
        engagement.client_id, TaxStatus(engagement.client_tax_status), engagement.client_country_code or "",
        engagement.client_region or "", engagement.client_tax_id,
    )  # fmt: skip


def _try(chunk: Chunk, engagement: DueEngagement, step: Callable[[], T]) -> T | None:
    """What the step gives; None where it fails, which becomes the engagement's item. One that breaks harms no other."""
    try:
        return step()
    except _Skip as skip:
        chunk.items.append(_item(engagement, "SKIPPED", skip.reason, skip.message))
    except DunwellError as error:
        chunk.items.append(failed(engagement, "DATA", f"{error.reason.value}: {error.message}"))
    except Exception as error:
        chunk.items.append(failed(engagement, *explain(engagement, error)))
    return None


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
