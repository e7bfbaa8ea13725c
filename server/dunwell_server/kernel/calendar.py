"""Civil dates, billing periods and time zones.

Periods are half-open [start, end) civil dates, laid out from an *anchor*: a date whose day of month is aimed for in
every month and clamped where the month is shorter, springing back afterwards (Jan 31, Feb 28, Mar 31). Every edge is
computed from the anchor directly, so successive periods share an edge and no clamp is ever inherited. Edges exist on
both sides of the anchor: a leading stub lies in the full period that would have ended at the anchor.

Where a day of month is billed on that the anchor's own month does not have (aiming for 31 from a February), pass it
as ``anchor_day``; it replaces the anchor's day.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from enum import StrEnum
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from dunwell_server.kernel.errors import DunwellError, Reason

Period = tuple[date, date]

_DAY: Final = timedelta(days=1)
_MONTH_LENGTHS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class Interval(StrEnum):
    """How often a fee recurs. ``months`` or ``days`` is the length of a period; both are zero for ONE_TIME."""

    months: int
    days: int

    WEEK = "WEEK"
    MONTH = "MONTH"
    QUARTER = "QUARTER"
    HALF_YEAR = "HALF_YEAR"
    YEAR = "YEAR"
    ONE_TIME = "ONE_TIME"


for _interval, _months, _days in (
    (Interval.WEEK, 0, 7),
    (Interval.MONTH, 1, 0),
    (Interval.QUARTER, 3, 0),
    (Interval.HALF_YEAR, 6, 0),
    (Interval.YEAR, 12, 0),
    (Interval.ONE_TIME, 0, 0),
):
    _interval.months = _months
    _interval.days = _days


def _invalid(message: str) -> DunwellError:
    return DunwellError(Reason.PERIOD_INVALID, message)


def days_in_month(year: int, month: int) -> int:
    """28 to 31. ``month`` is 1 to 12."""
    if month == 2 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0):
        return 29
    return _MONTH_LENGTHS[month - 1]


def _day_of(month_number: int, day: int) -> date:
    """The ``day`` of a month counted from year 0 (year * 12 + month - 1), clamped to the month's end."""
    year, month = divmod(month_number, 12)
    if not 1 <= year <= 9999:
        raise _invalid("the date is out of the calendar's range")
    if day > 28:
        day = min(day, days_in_month(year, month + 1))
    return date(year, month + 1, day)


def _month_number(day: date) -> int:
    return day.year * 12 + day.month - 1


def period_edge(anchor: date, interval: Interval, index: int, anchor_day: int | None = None) -> date:
    """Edge number ``index`` of the periods anchored at ``anchor``: period ``index`` starts there, the one before ends.

    Edge 0 is the anchor itself (clamped, if ``anchor_day`` is given). A ONE_TIME fee has one period: the anchor's day.
    Raises PERIOD_INVALID outside years 1 to 9999, and for any other edge of a ONE_TIME fee.
    """
    if interval.months:
        return _day_of(_month_number(anchor) + index * interval.months, anchor_day or anchor.day)
    if not interval.days and index not in (0, 1):
        raise _invalid("a one-time fee has a single period")
    try:
        return anchor + timedelta(days=(interval.days or 1) * index)
    except OverflowError:
        raise _invalid("the date is out of the calendar's range") from None


def add_periods(anchor: date, interval: Interval, n: int) -> date:
    """The date ``n`` periods after ``anchor`` (before, if negative), aiming for the anchor's own day of month."""
    return period_edge(anchor, interval, n)


def period_index(anchor: date, interval: Interval, day: date, anchor_day: int | None = None) -> int:
    """Number of the period that ``day`` lies in; negative before the anchor. Takes constant time.

    Raises PERIOD_INVALID for a ONE_TIME fee and a day other than the anchor's.
    """
    if interval.months:
        index = (_month_number(day) - _month_number(anchor)) // interval.months
        return index - 1 if period_edge(anchor, interval, index, anchor_day) > day else index
    if interval.days:
        return (day - anchor).days // interval.days
    if day != anchor:
        raise _invalid("the day is outside the only period of a one-time fee")
    return 0


@lru_cache(maxsize=16384)
def period_containing(anchor: date, interval: Interval, day: date, anchor_day: int | None = None) -> Period:
    """The full period [start, end) that ``day`` lies in, before or after the anchor. Errors as ``period_index``."""
    index = period_index(anchor, interval, day, anchor_day)
    return (
        period_edge(anchor, interval, index, anchor_day),
        period_edge(anchor, interval, index + 1, anchor_day),
    )


def periods(
    anchor: date, interval: Interval, start: date, until: date, anchor_day: int | None = None
) -> Iterator[Period]:
    """Every full period that overlaps [start, until), in order, tiling without gap or overlap.

    The first may begin before ``start`` and the last end after ``until``: cut them with ``clip``, and keep the full
    period as the denominator of the stub. Nothing if ``until`` is not after ``start``.
    """
    if start >= until:
        return
    if interval is Interval.ONE_TIME:
        if start <= anchor < until:
            yield anchor, period_edge(anchor, interval, 1)
        return
    index = period_index(anchor, interval, start, anchor_day)
    low = period_edge(anchor, interval, index, anchor_day)
    while low < until:
        index += 1
        high = period_edge(anchor, interval, index, anchor_day)
        yield low, high
        low = high


def clip(period: Period, start: date | None, until: date | None) -> Period | None:
    """The part of ``period`` inside [start, until), where None means unbounded; None if nothing is left."""
    low, high = period
    if start is not None and start > low:
        low = start
    if until is not None and until < high:
        high = until
    return (low, high) if low < high else None


def calendar_anchor(interval: Interval, day: date) -> date:
    """First day of the calendar period that ``day`` lies in: Monday, the 1st of the month, quarter, half-year or year.

    For ONE_TIME the day itself.
    """
    if interval.months:
        return date(day.year, day.month - (day.month - 1) % interval.months, 1)
    if interval.days:
        # Not by subtraction of a timedelta: 0001-01-01 is a Monday, so this never leaves the calendar.
        return date.fromordinal(day.toordinal() - day.weekday())
    return day


def first_cycle_date(start: date, anchor_day: int, interval: Interval, *, anchor_month: int | None = None) -> date:
    """The first billing date on or after ``start`` that falls on the anchor.

    ``anchor_day`` is a day of month (1 to 31, clamped to the month's end), for WEEK an ISO weekday (1 is Monday). The
    months counted are those of ``start``'s month plus whole periods, or of ``anchor_month`` if given (a yearly anchor
    is a month and a day). For ONE_TIME the start itself. Raises PERIOD_INVALID for a day or month that does not exist.
    """
    if interval.days:
        if not 1 <= anchor_day <= 7:
            raise _invalid("a weekly anchor is a weekday from 1 (Monday) to 7")
        return start + timedelta(days=(anchor_day - start.isoweekday()) % 7)
    if not interval.months:
        return start
    _check_day(anchor_day)
    month = _month_number(start)
    if anchor_month is not None:
        if not 1 <= anchor_month <= 12:
            raise _invalid("a month is from 1 to 12")
        month += (anchor_month - start.month) % interval.months
    first = _day_of(month, anchor_day)
    return first if first >= start else _day_of(month + interval.months, anchor_day)


def _check_day(day_of_month: int) -> None:
    if not 1 <= day_of_month <= 31:
        raise _invalid("a day of month is from 1 to 31")


def next_collection_day(enabled_day_of_month: int, every_months: int, enabled_on: date, after: date) -> date:
    """The first collection day on or after ``after``, for autopay collected monthly (1) or quarterly (3).

    Collection days are ``enabled_day_of_month`` (clamped to the month's end) of the month autopay was switched on and
    of every ``every_months``-th month from there, none before ``enabled_on``. Raises PERIOD_INVALID for a day outside
    1 to 31 or a non-positive step.
    """
    _check_day(enabled_day_of_month)
    if every_months < 1:
        raise _invalid("collection needs a positive number of months")
    earliest = max(after, enabled_on)
    base = _month_number(enabled_on)
    month = base + (_month_number(earliest) - base) // every_months * every_months
    candidate = _day_of(month, enabled_day_of_month)
    return candidate if candidate >= earliest else _day_of(month + every_months, enabled_day_of_month)


_ZONE_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+)*")
# Present in zone databases, but not names of zones: machine-dependent links and leap-second variants.
_NOT_ZONES: Final = ("localtime", "posixrules", "Factory", "posix/", "right/")


@lru_cache(maxsize=1024)
def zone(name: str) -> ZoneInfo:
    """The IANA time zone called ``name`` ("Asia/Kolkata"). Raises UNKNOWN_TIME_ZONE."""
    if len(name) <= 64 and _ZONE_NAME.fullmatch(name) and not name.startswith(_NOT_ZONES):
        try:
            return ZoneInfo(name)
        except (KeyError, ValueError, OSError):  # absent, not a zone file, or a directory such as "America"
            pass
    raise DunwellError(
        Reason.UNKNOWN_TIME_ZONE,
        f"{name[:64]!r} is not an IANA time zone",
        field="time_zone",
        metadata={"time_zone": name[:64]},
    )


def local_instant(day: date, at: time, zone: tzinfo) -> datetime:
    """The UTC instant when it is ``at`` o'clock on ``day`` in ``zone``.

    A local time skipped by the clocks moves forward by the length of the gap; one that occurs twice means the first.
    """
    # With fold=0 a skipped time is read with the offset before the gap, which is exactly that move.
    return datetime(
        day.year, day.month, day.day, at.hour, at.minute, at.second, at.microsecond, tzinfo=zone
    ).astimezone(UTC)


def day_start(day: date, zone: tzinfo) -> datetime:
    """The UTC instant at which the civil ``day`` begins in ``zone``."""
    return local_instant(day, time.min, zone)


def local_date(instant: datetime, zone: tzinfo) -> date:
    """The civil date in ``zone`` at an aware instant. Raises ValueError for a naive datetime."""
    if instant.tzinfo is None:
        raise ValueError("an instant needs a time zone")
    return instant.astimezone(zone).date()


def next_local_time(after_utc: datetime, at: time, zone: tzinfo) -> datetime:
    """The first instant strictly after ``after_utc`` when it is ``at`` o'clock in ``zone``, in UTC.

    Occurs exactly once for each local day: not twice when clocks go back, and moved by the gap when ``at`` is skipped.
    """
    # The previous day's time may still be ahead: a gap across midnight moves it into today.
    day = local_date(after_utc, zone) - _DAY
    while (instant := local_instant(day, at, zone)) <= after_utc:
        day += _DAY
    return instant
