"""Approved time on its way to invoices: loaded for many engagements at once, charged purely, recorded and released.

Whoever bills time holds the engagement's lock, so that grants, caps and entries stand still between `load` and `record`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Final
from uuid import UUID

from dunwell_server.billing import hourly
from dunwell_server.billing.errors import not_found
from dunwell_server.billing.hourly import BillableTime, TimeCharges, TimeTerms, TimeUsage
from dunwell_server.billing.model import Engagement, HourlyTerms, Invoice, InvoiceDiscount, InvoiceLine, LineKind
from dunwell_server.billing.service.engagements import today
from dunwell_server.billing.service.switches import in_force
from dunwell_server.billing.service.time_entries import refuse_package
from dunwell_server.billing.store import clients as client_store
from dunwell_server.billing.store import engagements as engagement_store
from dunwell_server.billing.store import time_billing as store
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.platform.database import UnitOfWork

TIME_KINDS: Final = frozenset({LineKind.TIME, LineKind.OVERAGE})
"""The kinds of the lines that time makes."""
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class EngagementTime:
    """What the charges of one engagement follow from. `until` is the first day whose work is not billed."""

    terms: HourlyTerms
    usage: TimeUsage
    until: date
    entries: tuple[BillableTime, ...] = ()


@dataclass(frozen=True, slots=True)
class TimeFacts:
    """The approved, unbilled time of engagements, with its terms; an engagement without any is missing."""

    engagements: dict[UUID, EngagementTime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TimeSource:
    """Time that an invoice is to bill at once: of one engagement, or of all of the client's; through a day, inclusive
    (None: today)."""

    engagement_id: UUID | None = None
    through: date | None = None


async def load(uow: UnitOfWork, engagements: Sequence[TimeTerms], as_of: date, *, lock: bool = True) -> TimeFacts:
    """What a run as of that day bills of the engagements' time: approved work of the periods that have ended by then.

    Two statements for any number of engagements, none where all are PACKAGE. The engagements must be locked; their entries
    are when `lock`.
    """
    limits = {
        engagement.id: edge
        for engagement in engagements
        if engagement.pricing_mode != "PACKAGE" and (edge := hourly.time_edge(engagement, as_of)) is not None
    }
    # From the end of an engagement on, all its time is billed, also work dated later: the end may have moved.
    open_ended = {engagement.id for engagement in engagements if limits.get(engagement.id) == engagement.end_date}
    return await _load(uow, limits, open_ended, lock)


def charges(facts: TimeFacts, engagement: TimeTerms, as_of: date) -> TimeCharges:
    """The lines, discounts and records of one engagement's time; empty where it has none. Pure.

    Errors: AMOUNT_OUT_OF_RANGE.
    """
    if engagement.pricing_mode == "PACKAGE":
        return TimeCharges(engagement.id)
    through = hourly.time_edge(engagement, as_of)
    found = facts.engagements.get(engagement.id)
    if found is None or not found.entries:
        return TimeCharges(engagement.id, through=through)
    charged = hourly.charge(engagement, found.terms, found.entries, found.usage, found.until)
    return replace(charged, through=through)


async def record(uow: UnitOfWork, invoiced: Sequence[tuple[UUID, TimeCharges]]) -> None:
    """Mark the entries INVOICED, and write what each invoice holds of time, grants and caps: set-based.

    The invoices may be written after it, in the same transaction. SERIALIZATION_CONFLICT where an entry is no longer
    APPROVED, which holding the locks of `load` prevents.
    """
    entries = [(invoice_id, entry) for invoice_id, charged in invoiced for entry in charged.entries]
    if not entries:
        return
    periods = [(invoice_id, one.engagement_id, part) for invoice_id, one in invoiced for part in one.periods]
    uses = [(invoice_id, one.engagement_id, use) for invoice_id, one in invoiced for use in one.uses]
    if await store.record(uow, entries, periods, uses) != len(entries):
        raise DunwellError(Reason.SERIALIZATION_CONFLICT, "The time has changed meanwhile; try again.", retry_after=0.1)


async def release(uow: UnitOfWork, invoice_id: UUID) -> None:
    """Give the time of a voided invoice back: its entries are APPROVED again, its grants and caps free.

    The next run of each engagement bills it again. One statement where the invoice holds none.
    """
    released = await store.release_periods(uow, invoice_id)
    if not released:
        return
    await store.release_entries(uow, invoice_id)
    await _bill_again(uow, released)


async def discard(uow: UnitOfWork, invoice_id: UUID) -> None:
    """Give the time on a draft back, which is to be deleted. One statement where it holds none."""
    discarded = await store.discard_periods(uow, invoice_id)
    if not discarded:
        return
    await store.discard_entries(uow, invoice_id)
    await _bill_again(uow, discarded)


async def _bill_again(uow: UnitOfWork, released: dict[UUID, date]) -> None:
    """Have the next run of each engagement begin with the first of its periods that are released."""
    engagements = await engagement_store.get_many(uow, list(released))
    edges = {
        engagement_id: (start, hourly.period_end(engagements[engagement_id], start))
        for engagement_id, start in released.items()
    }
    await store.reschedule(uow, edges)


async def prepare(
    uow: UnitOfWork, client_id: UUID, sources: Sequence[TimeSource], *, lock: bool, path: str = "time"
) -> list[TimeCharges]:
    """The charges for the approved time that an invoice of the client is to bill at once, one after another.

    Locks the client, then its engagements, then their entries, when `lock`. Errors: RESOURCE_NOT_FOUND, FIELD_INVALID for an
    engagement that is named twice or is another client's, STATE_CONFLICT for one that bills no time, AMOUNT_OUT_OF_RANGE.
    """
    if not sources:
        return []
    if await client_store.get(uow, client_id, lock=lock) is None:
        raise not_found("Client", client_id)
    engagements = await store.engagements_of(uow, client_id, lock=lock)
    untils = _untils(uow, engagements, sources, path)
    missing = [one.engagement_id for one in sources if one.engagement_id and one.engagement_id not in engagements]
    if missing:
        await _refuse_missing(uow, missing[0], sources, path)
    facts = await _load(uow, untils, set(), lock)
    result: list[TimeCharges] = []
    for engagement_id, found in sorted(facts.engagements.items()):
        if found.entries:
            engagement = in_force(uow, engagements[engagement_id])
            charged = hourly.charge(engagement, found.terms, found.entries, found.usage, found.until)
            lines, discounts = sum(len(one.lines) for one in result), sum(len(one.discounts) for one in result)
            result.append(charged.behind(lines, discounts))
    return result


def lines_of(charged: Sequence[TimeCharges]) -> tuple[InvoiceLine, ...]:
    """The lines of several engagements' charges, in order."""
    return tuple(line for one in charged for line in one.lines)


def discounts_of(charged: Sequence[TimeCharges]) -> tuple[InvoiceDiscount, ...]:
    """Their discounts, in order."""
    return tuple(discount for one in charged for discount in one.discounts)


def time_lines(invoice: Invoice) -> tuple[InvoiceLine, ...]:
    """The lines of time that a draft carries: always its first, and fixed."""
    return tuple(line for line in invoice.lines if line.kind in TIME_KINDS)


def _untils(
    uow: UnitOfWork, engagements: dict[UUID, Engagement], sources: Sequence[TimeSource], path: str
) -> dict[UUID, date]:
    """The first day that is not billed, by engagement."""
    untils: dict[UUID, date] = {}
    for position, source in enumerate(sources):
        through = today(uow) if source.through is None else source.through
        if source.engagement_id is None and len(sources) > 1:
            raise field_invalid(f"{path}[{position}].engagement_id", "name the engagements, or give one entry for all")
        if source.engagement_id in untils:
            raise field_invalid(f"{path}[{position}].engagement_id", "each engagement may be named once")
        wanted = engagements if source.engagement_id is None else [source.engagement_id]
        untils.update({one: through + _DAY for one in wanted if one in engagements})
    return untils


async def _refuse_missing(uow: UnitOfWork, engagement_id: UUID, sources: Sequence[TimeSource], path: str) -> None:
    """Say why an engagement is not among the client's that bill time."""
    engagement = await engagement_store.get(uow, engagement_id)
    if engagement is None:
        raise not_found("Engagement", engagement_id)
    refuse_package(engagement)
    position = [source.engagement_id for source in sources].index(engagement_id)
    raise field_invalid(f"{path}[{position}].engagement_id", "the engagement is of another client")


async def _load(uow: UnitOfWork, untils: dict[UUID, date], unlimited: set[UUID], lock: bool) -> TimeFacts:
    if not untils:
        return TimeFacts()
    entries = await store.billable(
        uow, {one: None if one in unlimited else until for one, until in untils.items()}, lock=lock
    )
    terms = await store.terms(uow, list(entries)) if entries else {}
    return TimeFacts({one: EngagementTime(*terms[one], untils[one], tuple(found)) for one, found in entries.items()})
