"""Worked time, and the terms it is billed by. Pure.

Rates are prices of an hour in the currency's major unit, and may be finer than a minor unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final
from uuid import UUID


class TimeEntryState(StrEnum):
    """How far an entry has come. Only APPROVED time is billed; voiding its invoice returns INVOICED time to APPROVED."""

    DRAFT = "DRAFT"
    SUBMITTED = "SUBMITTED"
    APPROVED = "APPROVED"
    INVOICED = "INVOICED"
    REJECTED = "REJECTED"


TIME_ENTRY_TRANSITIONS: Final[dict[TimeEntryState, frozenset[TimeEntryState]]] = {
    TimeEntryState.DRAFT: frozenset({TimeEntryState.SUBMITTED}),
    TimeEntryState.SUBMITTED: frozenset({TimeEntryState.APPROVED, TimeEntryState.REJECTED}),
    TimeEntryState.REJECTED: frozenset({TimeEntryState.DRAFT}),
    TimeEntryState.APPROVED: frozenset({TimeEntryState.INVOICED, TimeEntryState.SUBMITTED}),
    TimeEntryState.INVOICED: frozenset({TimeEntryState.APPROVED}),
}
"""Every change of state. The database refuses all others."""


class TimeRounding(StrEnum):
    """Which way the minutes of a line are rounded to the billing increment; NEAREST takes half an increment up."""

    UP = "UP"
    NEAREST = "NEAREST"
    DOWN = "DOWN"


class TimeGrouping(StrEnum):
    """What the entries of one line have in common, besides period and rate. ENTRY: a line for each."""

    ROLE = "ROLE"
    PERSON = "PERSON"
    ENTRY = "ENTRY"


@dataclass(frozen=True, slots=True)
class RoleRate:
    """The price of an hour of a role for work dates in [start, end); an end that is None does not limit."""

    role: str
    rate: Decimal
    start: date | None = None
    end: date | None = None


@dataclass(frozen=True, slots=True)
class HourlyTerms:
    """How an engagement's time is billed.

    `increment_minutes`: what the sum of a line is rounded to a multiple of. `included_minutes`: how many a full period's
    fee pays for, MIXED only; unused, they carry to the next `rollover_periods` periods. The caps are minor units that the
    time of one period, and of the whole engagement, may cost at most; None: no limit.
    """

    default_rate: Decimal
    role_rates: tuple[RoleRate, ...] = ()
    increment_minutes: int = 1
    rounding: TimeRounding = TimeRounding.UP
    grouping: TimeGrouping = TimeGrouping.ROLE
    included_minutes: int = 0
    rollover_periods: int = 0
    period_cap_minor: int | None = None
    total_cap_minor: int | None = None


@dataclass(frozen=True, slots=True)
class TimeEntry:
    """A worked duration on an engagement. `minutes` are as worked and never change once submitted; `written_down_minutes`
    of them are not billed. `rate` is its own, None where the engagement's applies."""

    id: UUID
    external_id: str | None
    client_id: UUID
    engagement_id: UUID
    person: str
    role: str | None
    work_date: date
    minutes: int
    description: str | None
    rate: Decimal | None
    state: TimeEntryState
    written_down_minutes: int
    write_down_reason: str | None
    submit_actor: str | None
    submit_time: datetime | None
    approve_actor: str | None
    approve_time: datetime | None
    reject_actor: str | None
    reject_time: datetime | None
    reject_reason: str | None
    invoice_id: UUID | None
    version: int
    create_time: datetime
    update_time: datetime

    @property
    def billable_minutes(self) -> int:
        """The minutes that are billed."""
        return self.minutes - self.written_down_minutes
