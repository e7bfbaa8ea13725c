"""Time entries and the terms of time between the contract and billing's use cases. Errors name the field as the caller wrote it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from dunwell.v1 import billing_service_pb2 as pb
from dunwell.v1 import engagement_pb2, error_reason_pb2, money_pb2, time_entry_pb2
from dunwell_server.billing.model import HourlyTerms, RoleRate, TimeEntry, TimeGrouping, TimeRounding
from dunwell_server.billing.rpc import messages
from dunwell_server.billing.service.time_billing import TimeSource
from dunwell_server.billing.service.time_entries import ItemResult, NewTimeEntry
from dunwell_server.billing.service.unbilled import EngagementWork, UnbilledSum
from dunwell_server.billing.store.time_entries import TimeEntryQuery
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.ids import Prefix
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.rpc.converters import (
    civil_date,
    date_message,
    decimal,
    decimal_message,
    enum_name,
    etag,
    id_text,
    id_value,
    optional_date,
    optional_decimal,
    optional_id,
    timestamp,
)

_STATES: Final = time_entry_pb2.TimeEntryState
_FIELDS: Final = ("external_id", "person", "role", "work_date", "minutes", "description", "rate")
_BUCKETS: Final = ((0, 30), (31, 60), (61, 90), (91, 0))


# Terms


def hourly_terms(message: engagement_pb2.HourlyTerms) -> HourlyTerms:
    """The terms of time of an engagement; what is not set has its default."""
    path = "engagement.hourly"
    return HourlyTerms(
        default_rate=decimal(message.default_rate, f"{path}.default_rate"),
        role_rates=tuple(
            _role_rate(rate, f"{path}.role_rates[{index}]") for index, rate in enumerate(message.role_rates)
        ),
        increment_minutes=message.billing_increment_minutes or 1,
        rounding=_chosen(TimeRounding, messages.ROUNDINGS, message.rounding, TimeRounding.UP),
        grouping=_chosen(TimeGrouping, messages.GROUPINGS, message.grouping, TimeGrouping.ROLE),
        included_minutes=message.included_minutes,
        rollover_periods=message.rollover_periods,
        period_cap_minor=message.period_cap.amount_minor if message.HasField("period_cap") else None,
        total_cap_minor=message.total_cap.amount_minor if message.HasField("total_cap") else None,
    )


def cap_currencies(message: engagement_pb2.HourlyTerms) -> dict[str, str]:
    """The currencies that its caps are in, by their names."""
    currencies: dict[str, str] = {}
    if message.HasField("period_cap"):
        currencies["period_cap"] = message.period_cap.currency_code
    if message.HasField("total_cap"):
        currencies["total_cap"] = message.total_cap.currency_code
    return currencies


def _role_rate(message: engagement_pb2.RoleRate, path: str) -> RoleRate:
    return RoleRate(
        message.role,
        decimal(message.rate, f"{path}.rate"),
        optional_date(message, "start_date", f"{path}.start_date"),
        optional_date(message, "end_date", f"{path}.end_date"),
    )


def _chosen(kind: Any, numbers: dict[str | None, Any], number: int, default: Any) -> Any:
    return next(kind(name) for name, value in numbers.items() if value == number) if number else default


# Entries


def new_time_entry(message: time_entry_pb2.TimeEntry) -> NewTimeEntry:
    """The entry to create."""
    engagement_id = id_value(Prefix.ENGAGEMENT, message.engagement_id, "time_entry.engagement_id")
    return NewTimeEntry(engagement_id=engagement_id, **time_entry_changes(message, _FIELDS))


def read_time_entry(message: time_entry_pb2.TimeEntry) -> NewTimeEntry | DunwellError:
    """One of many entries to create, or why it is refused: the contract checks of a list only what is not empty."""
    try:
        given = {
            "engagement_id": message.engagement_id, "person": message.person, "work_date": message.HasField("work_date"),
            "minutes": message.minutes,
        }  # fmt: skip
        for name, value in given.items():
            if not value:
                raise field_invalid(f"time_entry.{name}", "is required")
        return new_time_entry(message)
    except DunwellError as error:
        return error


def time_entry_changes(message: time_entry_pb2.TimeEntry, fields: Iterable[str]) -> dict[str, Any]:
    """The named fields, from a message that has their new values."""
    readers: dict[str, Any] = {
        "person": lambda: message.person,
        "work_date": lambda: civil_date(message.work_date, "time_entry.work_date"),
        "minutes": lambda: message.minutes,
        "rate": lambda: optional_decimal(message, "rate", "time_entry.rate"),
    }
    return {name: readers[name]() if name in readers else getattr(message, name) or None for name in fields}


def time_entry_query(request: pb.ListTimeEntriesRequest) -> TimeEntryQuery:
    """The filters and the order of a list of entries. Errors: PERIOD_INVALID."""
    start = optional_date(request.work_date, "start_date", "work_date.start_date")
    end = optional_date(request.work_date, "end_date", "work_date.end_date")
    if start is not None and end is not None and end < start:
        raise DunwellError(Reason.PERIOD_INVALID, "the range ends before it starts", field="work_date.end_date")
    return TimeEntryQuery(
        client_id=optional_id(Prefix.CLIENT, request.client_id, "client_id"),
        engagement_id=optional_id(Prefix.ENGAGEMENT, request.engagement_id, "engagement_id"),
        external_id=request.external_id or None,
        states=[enum_name(_STATES, state, "TIME_ENTRY_STATE_") for state in request.states],
        person=request.person or None,
        invoice_id=optional_id(Prefix.INVOICE, request.invoice_id, "invoice_id"),
        work_date=(start, end),
        descending=request.order != time_entry_pb2.TIME_ENTRY_ORDER_CREATE_TIME_ASC,
    )


def time_entry_message(uow: UnitOfWork, entry: TimeEntry) -> time_entry_pb2.TimeEntry:
    """An entry."""
    return time_entry_pb2.TimeEntry(
        id=id_text(Prefix.TIME_ENTRY, entry.id),
        firm_id=id_text(Prefix.FIRM, uow.firm_id),
        external_id=entry.external_id or "",
        engagement_id=id_text(Prefix.ENGAGEMENT, entry.engagement_id),
        client_id=id_text(Prefix.CLIENT, entry.client_id),
        person=entry.person,
        role=entry.role or "",
        work_date=date_message(entry.work_date),
        minutes=entry.minutes,
        description=entry.description or "",
        rate=decimal_message(entry.rate),
        state=_STATES.Value(f"TIME_ENTRY_STATE_{entry.state}"),
        written_down_minutes=entry.written_down_minutes,
        write_down_reason=entry.write_down_reason or "",
        submit_actor=entry.submit_actor or "",
        submit_time=timestamp(entry.submit_time),
        approve_actor=entry.approve_actor or "",
        approve_time=timestamp(entry.approve_time),
        reject_actor=entry.reject_actor or "",
        reject_time=timestamp(entry.reject_time),
        reject_reason=entry.reject_reason or "",
        etag=etag(entry.version),
        create_time=timestamp(entry.create_time),
        update_time=timestamp(entry.update_time),
        invoice_id=id_text(Prefix.INVOICE, entry.invoice_id),
    )


def item_messages(uow: UnitOfWork, results: Sequence[ItemResult]) -> list[time_entry_pb2.TimeEntryResult]:
    """What became of each item of a bulk call."""
    return [
        time_entry_pb2.TimeEntryResult(
            time_entry_id=id_text(Prefix.TIME_ENTRY, result.entry_id),
            time_entry=None if result.entry is None else time_entry_message(uow, result.entry),
            error=None if result.error is None else _error(result.error),
        )
        for result in results
    ]


def _error(error: DunwellError) -> time_entry_pb2.TimeEntryError:
    return time_entry_pb2.TimeEntryError(
        reason=error_reason_pb2.ErrorReason.Value(f"ERROR_REASON_{error.reason}"),
        message=error.message,
        metadata=error.metadata,
        field=error.violations[0].field if error.violations else "",
    )


def time_sources(sources: Sequence[time_entry_pb2.TimeToBill]) -> list[TimeSource]:
    """The time that an invoice is to bill."""
    return [
        TimeSource(
            optional_id(Prefix.ENGAGEMENT, source.engagement_id, f"time[{index}].engagement_id"),
            optional_date(source, "through_date", f"time[{index}].through_date"),
        )
        for index, source in enumerate(sources)
    ]


# Unbilled work


def work_message(work: EngagementWork) -> time_entry_pb2.UnbilledWork:
    """The unbilled work of one engagement."""
    return time_entry_pb2.UnbilledWork(
        client_id=id_text(Prefix.CLIENT, work.client_id),
        engagement_id=id_text(Prefix.ENGAGEMENT, work.engagement_id),
        approved=[_bucket(part, work.currency_code, ages) for part, ages in zip(work.approved, _BUCKETS, strict=True)],
        approved_total=_bucket(work.approved_total, work.currency_code),
        submitted=_bucket(work.submitted, work.currency_code),
        draft=_bucket(work.draft, work.currency_code),
        oldest_work_date=date_message(work.oldest_work_date),
    )


def total_messages(totals: dict[str, UnbilledSum]) -> list[time_entry_pb2.UnbilledBucket]:
    """Sums by currency."""
    return [_bucket(total, currency) for currency, total in sorted(totals.items())]


def _bucket(total: UnbilledSum, currency: str, ages: tuple[int, int] = (0, 0)) -> time_entry_pb2.UnbilledBucket:
    return time_entry_pb2.UnbilledBucket(
        from_days=ages[0],
        to_days=ages[1],
        entry_count=total.entries,
        minutes=total.minutes,
        amount=money_pb2.Money(currency_code=currency, amount_minor=total.amount_minor),
    )
