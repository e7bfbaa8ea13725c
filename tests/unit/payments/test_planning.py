"""When a new invoice is collected."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dunwell_server.billing.model import AutopayCadence
from dunwell_server.billing.ports import CollectionPlan, CollectionTerms
from dunwell_server.kernel.calendar import days_in_month, local_date
from dunwell_server.payments.planning import Planner, first_charge
from dunwell_server.platform.firms import FirmSettings

METHOD = UUID("01890000-0000-7000-8000-000000000001")
ZONES = [
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",
    "Pacific/Apia",
    "America/Sao_Paulo",
    "Africa/Cairo",
]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text + "+00:00")


def plan(
    cadence: str, *, now: str, due: date, enabled_at: str = "2026-01-31T10:00", zone: str = "UTC", amount: int = 100
) -> CollectionPlan:
    terms = CollectionTerms(FirmSettings(time_zone=zone), at(now), due, amount, True, cadence, METHOD, at(enabled_at))
    return Planner().plan(terms)


def test_on_due_is_the_due_date_at_the_collection_time() -> None:
    made = plan("ON_DUE", now="2026-03-01T12:00", due=date(2026, 3, 31), zone="Europe/Berlin")
    assert made == CollectionPlan(True, "SCHEDULED", "ON_DUE", METHOD, at("2026-03-31T01:00"))


def test_a_skipped_collection_time_moves_forward() -> None:
    # New York skips 02:00 to 03:00 on 8 March 2026.
    from datetime import time

    settings = FirmSettings(time_zone="America/New_York", collection_run_time=time(2, 30))
    due = first_charge(settings, AutopayCadence.ON_DUE, at("2026-03-01T12:00"), date(2026, 3, 8), None)
    assert due == at("2026-03-08T07:30")


def test_immediate_is_now() -> None:
    assert plan("IMMEDIATE", now="2026-03-01T12:00", due=date(2026, 3, 31)).next_charge_time == at("2026-03-01T12:00")


@pytest.mark.parametrize(
    ("cadence", "now", "due"),
    [
        ("MONTHLY", "2026-02-10T12:00", "2026-02-28T03:00"),
        ("MONTHLY", "2026-02-28T02:00", "2026-02-28T03:00"),
        ("MONTHLY", "2026-02-28T03:00", "2026-03-31T03:00"),
        ("QUARTERLY", "2026-02-10T12:00", "2026-04-30T03:00"),
        ("QUARTERLY", "2026-04-30T04:00", "2026-07-31T03:00"),
    ],
)
def test_collection_days_are_those_of_the_day_autopay_was_switched_on(cadence: str, now: str, due: str) -> None:
    assert plan(cadence, now=now, due=date(2027, 1, 1)).next_charge_time == at(due)


def test_nothing_is_scheduled_where_nothing_is_owed_or_autopay_is_off() -> None:
    assert plan("ON_DUE", now="2026-03-01T12:00", due=date(2026, 3, 31), amount=0).next_charge_time is None
    off = CollectionTerms(FirmSettings(), at("2026-03-01T12:00"), date(2026, 3, 31), 100, False, "ON_DUE", METHOD, None)
    assert Planner().plan(off) == CollectionPlan(enabled=False)


@given(
    cadence=st.sampled_from(list(AutopayCadence)),
    now=st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    before=st.timedeltas(timedelta(0), timedelta(days=4000)),
    terms=st.integers(0, 365),
    zone=st.sampled_from(ZONES),
)
def test_a_charge_is_planned_once_at_a_collection_time_on_a_collection_day(
    cadence: AutopayCadence, now: datetime, before: timedelta, terms: int, zone: str
) -> None:
    settings = FirmSettings(time_zone=zone)
    enabled_at = now - before
    due_date = local_date(now, settings.zone) + timedelta(days=terms)
    due = first_charge(settings, cadence, now, due_date, enabled_at)
    day = local_date(due, settings.zone)
    if cadence is AutopayCadence.IMMEDIATE:
        assert due == now
    elif cadence is AutopayCadence.ON_DUE:
        assert day == due_date
    else:
        step = 1 if cadence is AutopayCadence.MONTHLY else 3
        enabled_on = local_date(enabled_at, settings.zone)
        assert now < due <= now + timedelta(days=31 * step + 1)
        assert day.day == min(enabled_on.day, days_in_month(day.year, day.month))
        assert ((day.year - enabled_on.year) * 12 + day.month - enabled_on.month) % step == 0
