"""Time entries on their way to an invoice: entered, submitted, approved or rejected, written down.

Bulk verbs treat each entry by itself: what is refused of one is told in its place, and harms no other. They take a constant
number of statements.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from dunwell_server.billing.errors import check_version, external_id_unique, not_found
from dunwell_server.billing.model import Engagement, PricingMode, TimeEntry, TimeEntryState
from dunwell_server.billing.service import time_caps
from dunwell_server.billing.service.journal import time_entry_change
from dunwell_server.billing.store import engagements as engagement_store
from dunwell_server.billing.store import time_entries as store
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.billing.store.time_entries import TimeEntryQuery
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.platform import journal
from dunwell_server.platform.database import UnitOfWork

_CHANGEABLE: Final = (TimeEntryState.DRAFT, TimeEntryState.REJECTED)
_ALLOWED: Final[dict[TimeEntryState, str]] = {
    TimeEntryState.DRAFT: "UpdateTimeEntry,SubmitTimeEntries",
    TimeEntryState.SUBMITTED: "ApproveTimeEntries,RejectTimeEntries,WriteDownTimeEntries",
    TimeEntryState.APPROVED: "UnapproveTimeEntries,WriteDownTimeEntries",
    TimeEntryState.INVOICED: "none",
    TimeEntryState.REJECTED: "UpdateTimeEntry",
}


@dataclass(frozen=True, slots=True)
class NewTimeEntry:
    """Worked time as a caller enters it. `rate` is the price of an hour in the major unit; None: the engagement's."""

    engagement_id: UUID
    person: str
    work_date: date
    minutes: int
    role: str | None = None
    description: str | None = None
    rate: Decimal | None = None
    external_id: str | None = None


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What became of one item of a bulk call: the entry as it is now, or why nothing was done."""

    entry_id: UUID | None
    entry: TimeEntry | None = None
    error: DunwellError | None = None


async def create_time_entry(uow: UnitOfWork, new: NewTimeEntry) -> TimeEntry:
    """Enter worked time as a DRAFT. Errors: RESOURCE_NOT_FOUND, EXTERNAL_ID_TAKEN, PERIOD_INVALID outside of the
    engagement, STATE_CONFLICT where it bills no time."""
    (result,) = await create_time_entries(uow, [new])
    if result.error is not None:
        raise result.error
    assert result.entry is not None
    return result.entry


async def create_time_entries(uow: UnitOfWork, many: Sequence[NewTimeEntry]) -> list[ItemResult]:
    """Enter many, each by itself; the outcomes in their order. Errors of an item: those of `create_time_entry`."""
    engagements = await engagement_store.get_many(uow, sorted({new.engagement_id for new in many}))
    refused: dict[int, DunwellError] = {}
    rows: dict[int, dict[str, Any]] = {}
    for position, new in enumerate(many):
        try:
            engagement = _billing_time(engagements.get(new.engagement_id), new.engagement_id)
            _check_work_date(engagement, new.work_date)
        except DunwellError as error:
            refused[position] = error
        else:
            rows[position] = {
                "id": uuid7(), "external_id": new.external_id, "client_id": engagement.client_id,
                "engagement_id": engagement.id, "person": new.person, "role": new.role, "work_date": new.work_date,
                "minutes": new.minutes, "description": new.description, "rate": new.rate,
            }  # fmt: skip
    added = await store.insert(uow, list(rows.values())) if rows else {}
    await journal.record(uow, *(time_entry_change(entry, "created") for entry in added.values()))
    results = []
    for position in range(len(many)):
        if position in refused:
            results.append(ItemResult(None, error=refused[position]))
        elif (entry := added.get(rows[position]["id"])) is None:
            results.append(ItemResult(None, error=_taken()))
        else:
            results.append(ItemResult(entry.id, entry))
    return results


async def get_time_entry(uow: UnitOfWork, entry_id: UUID, *, lock: bool = False) -> TimeEntry:
    """The entry; locked against other changes when asked. Errors: RESOURCE_NOT_FOUND."""
    entry = await store.get(uow, entry_id, lock=lock)
    if entry is None:
        raise not_found("TimeEntry", entry_id)
    return entry


async def update_time_entry(
    uow: UnitOfWork, entry_id: UUID, changes: Mapping[str, Any], *, expected_version: int | None = None
) -> TimeEntry:
    """Change the named fields of a DRAFT or REJECTED entry, which is a DRAFT then.

    Errors: RESOURCE_NOT_FOUND, ETAG_MISMATCH, EXTERNAL_ID_TAKEN, PERIOD_INVALID, STATE_CONFLICT; FIELD_INVALID for fewer minutes than
    were written down before it was rejected.
    """
    entry = await get_time_entry(uow, entry_id, lock=True)
    check_version("TimeEntry", entry_id, entry.version, expected_version)
    if entry.state not in _CHANGEABLE:
        raise _conflict(entry, "UpdateTimeEntry", "a DRAFT or REJECTED")
    if "work_date" in changes:
        engagement = await engagement_store.get(uow, entry.engagement_id)
        assert engagement is not None
        _check_work_date(engagement, changes["work_date"])
    if changes.get("minutes", entry.minutes) < entry.written_down_minutes:
        message = f"must not be less than the {entry.written_down_minutes} minutes that are written down"
        raise field_invalid("time_entry.minutes", message)
    with external_id_unique("time_entry"):
        changed = await store.update(uow, entry_id, changes)
    await journal.record(uow, time_entry_change(changed, "updated", {"fields": sorted(changes)}))
    return changed


async def list_time_entries(uow: UnitOfWork, query: TimeEntryQuery, page: PageRequest) -> list[TimeEntry]:
    """One page of entries."""
    return await store.select(uow, query, page)


async def submit_time_entries(uow: UnitOfWork, entry_ids: Sequence[UUID]) -> list[ItemResult]:
    """Submit drafts for approval. Errors of an item: RESOURCE_NOT_FOUND, STATE_CONFLICT."""
    needs = _Needs("SubmitTimeEntries", "a DRAFT", (TimeEntryState.DRAFT,))
    return await _each(uow, entry_ids, "submitted", needs, lambda ids: store.submit(uow, ids))


async def approve_time_entries(uow: UnitOfWork, entry_ids: Sequence[UUID]) -> list[ItemResult]:
    """Approve submitted time, which is fixed then and will be billed; tells of the caps that it reaches.

    Errors of an item: RESOURCE_NOT_FOUND, STATE_CONFLICT, SELF_APPROVAL_REFUSED.
    """
    actor, own = uow.context.actor.label, uow.firm.settings.time_policy.allow_self_approval

    def refuse_own(entry: TimeEntry) -> None:
        if entry.submit_actor == actor and not own:
            raise DunwellError(
                Reason.SELF_APPROVAL_REFUSED,
                "Who submitted time may not approve it.",
                metadata={"submit_actor": actor},
                resource=_resource(entry.id),
            )

    needs = _Needs("ApproveTimeEntries", "a SUBMITTED", (TimeEntryState.SUBMITTED,), refuse_own, engagements=True)
    results = await _each(uow, entry_ids, "approved", needs, lambda ids: store.approve(uow, ids))
    approved = {result.entry.engagement_id for result in results if result.entry is not None}
    await time_caps.alert(uow, sorted(approved))
    return results


async def unapprove_time_entries(uow: UnitOfWork, entry_ids: Sequence[UUID]) -> list[ItemResult]:
    """Take approvals back, while the time is not invoiced. Errors of an item: RESOURCE_NOT_FOUND, STATE_CONFLICT."""
    needs = _Needs("UnapproveTimeEntries", "an APPROVED", (TimeEntryState.APPROVED,))
    return await _each(uow, entry_ids, "unapproved", needs, lambda ids: store.unapprove(uow, ids))


async def reject_time_entries(uow: UnitOfWork, entry_ids: Sequence[UUID], reason: str) -> list[ItemResult]:
    """Reject submitted time with a reason. Errors of an item: RESOURCE_NOT_FOUND, STATE_CONFLICT."""
    needs = _Needs("RejectTimeEntries", "a SUBMITTED", (TimeEntryState.SUBMITTED,))
    return await _each(uow, entry_ids, "rejected", needs, lambda ids: store.reject(uow, ids, reason))


async def write_down_time_entries(uow: UnitOfWork, minutes: Mapping[UUID, int], reason: str) -> list[ItemResult]:
    """Set how many minutes of each entry are not billed, in all; those worked stay on record.

    Errors of an item: RESOURCE_NOT_FOUND, STATE_CONFLICT unless SUBMITTED or APPROVED, FIELD_INVALID for more than worked.
    """

    def refuse_excess(entry: TimeEntry) -> None:
        if minutes[entry.id] > entry.minutes:
            raise field_invalid("minutes", f"only {entry.minutes} minutes were worked")

    states = (TimeEntryState.SUBMITTED, TimeEntryState.APPROVED)
    needs = _Needs("WriteDownTimeEntries", "a SUBMITTED or APPROVED", states, refuse_excess)
    return await _each(
        uow,
        list(minutes),
        "written_down",
        needs,
        lambda ids: store.write_down(uow, {entry_id: minutes[entry_id] for entry_id in ids}, reason),
    )


@dataclass(frozen=True, slots=True)
class _Needs:
    """What a bulk verb asks of an entry: one of `states`, and that `check` does not refuse it."""

    verb: str
    needed: str
    states: tuple[TimeEntryState, ...]
    check: Callable[[TimeEntry], None] = lambda entry: None
    engagements: bool = False
    """Whether the engagements are locked, too."""


async def _each(
    uow: UnitOfWork,
    entry_ids: Sequence[UUID],
    done: str,
    needs: _Needs,
    change: Callable[[list[UUID]], Awaitable[dict[UUID, TimeEntry]]],
) -> list[ItemResult]:
    """Lock all, change those that may be changed, and tell what became of each, in the order asked for."""
    found = await store.lock_many(uow, entry_ids, engagements=needs.engagements)
    refused: dict[UUID, DunwellError] = {}
    for entry_id in entry_ids:
        entry = found.get(entry_id)
        try:
            if entry is None:
                raise not_found("TimeEntry", entry_id)
            if entry.state not in needs.states:
                raise _conflict(entry, needs.verb, needs.needed)
            needs.check(entry)
        except DunwellError as error:
            refused[entry_id] = error
    changed = await change([entry_id for entry_id in entry_ids if entry_id not in refused])
    await journal.record(uow, *(time_entry_change(entry, done) for entry in changed.values()))
    return [ItemResult(entry_id, changed.get(entry_id), refused.get(entry_id)) for entry_id in entry_ids]


def _billing_time(engagement: Engagement | None, engagement_id: UUID) -> Engagement:
    if engagement is None:
        raise not_found("Engagement", engagement_id)
    refuse_package(engagement)
    return engagement


def refuse_package(engagement: Engagement) -> None:
    """Raise STATE_CONFLICT for an engagement that bills no time."""
    if engagement.pricing_mode is PricingMode.PACKAGE:
        raise DunwellError(
            Reason.STATE_CONFLICT,
            "The engagement is priced PACKAGE: it bills no time.",
            metadata={"state": engagement.pricing_mode.value, "allowed": "none"},
            resource=("Engagement", encode(Prefix.ENGAGEMENT, engagement.id)),
        )


def _check_work_date(engagement: Engagement, work_date: date) -> None:
    start, end = engagement.start_date, engagement.end_date
    if work_date < start or (end is not None and work_date >= end):
        span = f"from {start} on" if end is None else f"from {start} until before {end}"
        raise DunwellError(
            Reason.PERIOD_INVALID, f"the work lies outside of the engagement, {span}", field="time_entry.work_date"
        )


def _taken() -> DunwellError:
    return DunwellError(
        Reason.EXTERNAL_ID_TAKEN, "Another time entry of the firm has this external_id.", field="time_entry.external_id"
    )


def _conflict(entry: TimeEntry, verb: str, needed: str) -> DunwellError:
    allowed = _ALLOWED[entry.state]
    return DunwellError(
        Reason.STATE_CONFLICT,
        f"{verb} needs {needed} entry; this one is {entry.state}. Allowed now: {allowed.replace(',', ', ')}.",
        metadata={"state": entry.state.value, "allowed": allowed},
        resource=_resource(entry.id),
    )


def _resource(entry_id: UUID) -> tuple[str, str]:
    return "TimeEntry", encode(Prefix.TIME_ENTRY, entry_id)
