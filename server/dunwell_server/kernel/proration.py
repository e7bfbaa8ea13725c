"""Prorating fees: which part of a full period is charged or credited, and for how much.

All ranges are half-open [start, end) and lie within a *full period*: for a leading stub the one that would have ended
at the anchor, for a trailing stub the one that began at the last anchor; ``calendar.period_containing`` gives both.
Edges are civil dates, or aware instants for unit SECOND. Whatever the policy, every edge has a position within the
full period that never decreases with time, from 0 to the period's length; a part is the difference of two positions.
Hence parts tile the whole under every day count, and no part exceeds the whole.

A part reaching outside its full period is cut to it, so it never costs more than the period; a part of no length
costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from itertools import pairwise
from typing import Final

from dunwell_server.kernel.calendar import Interval, days_in_month, local_instant, period_edge
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.money import exact_minor, exponent, fraction_of_exact, round_ratio

Range = tuple[date, date]

_DAY: Final = timedelta(days=1)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DAY_SECONDS: Final = 86_400


class ProrationUnit(StrEnum):
    """What is counted: whole civil days in the firm's zone, or elapsed seconds."""

    DAY = "DAY"
    SECOND = "SECOND"


class DayCount(StrEnum):
    """ACTUAL counts calendar time. FIXED_30 takes every month as 30 days.

    Under FIXED_30 a 31st counts nothing, February's last day counts up to the 30th, and a period of k months is 30·k
    days whatever its anchor. Periods that are not whole months (weeks) are counted as ACTUAL. Instants are read on their
    own clock: give them in the firm's zone.
    """

    ACTUAL = "ACTUAL"
    FIXED_30 = "FIXED_30"


class AnchorPolicy(StrEnum):
    """What a mid-period change does to the billing anchor: it stays, or moves to the day of the change."""

    KEEP = "KEEP"
    RESET = "RESET"


class ChangeDay(StrEnum):
    """Which price the day of a change is charged at."""

    CHARGE_NEW = "CHARGE_NEW"
    KEEP_OLD = "KEEP_OLD"


class EndPolicy(StrEnum):
    """Whether an end date as people give it is the first day without service, or the last day with it."""

    HALF_OPEN = "HALF_OPEN"
    INCLUSIVE = "INCLUSIVE"


@dataclass(frozen=True, slots=True)
class ProrationPolicy:
    """How partial periods are charged. Stored on a price, and on an engagement for partial package periods."""

    unit: ProrationUnit = ProrationUnit.DAY
    day_count: DayCount = DayCount.ACTUAL
    anchor: AnchorPolicy = AnchorPolicy.KEEP
    change_day: ChangeDay = ChangeDay.CHARGE_NEW
    end: EndPolicy = EndPolicy.HALF_OPEN


DEFAULT_POLICY: Final = ProrationPolicy()


def service_end(end: date, policy: ProrationPolicy = DEFAULT_POLICY) -> date:
    """The first day without service, from an end date as given: the day itself, or the day after when INCLUSIVE.

    Apply it once, where an end date enters; everything else works on half-open ranges. An instant is returned as it is:
    there is no last instant to include.
    """
    return end + _DAY if policy.end is EndPolicy.INCLUSIVE and not isinstance(end, datetime) else end


def change_edge(day: date, policy: ProrationPolicy = DEFAULT_POLICY) -> date:
    """The first day charged at the new price: the day of the change, or the day after when it KEEPs the OLD price.

    A change at an instant (unit SECOND) takes effect at that instant under either rule.
    """
    return day + _DAY if policy.change_day is ChangeDay.KEEP_OLD and not isinstance(day, datetime) else day


@dataclass(frozen=True, slots=True)
class PriceChange:
    """What a change of price in the middle of a full period is about.

    The old price is kept for [period start, `edge`) and given back for `unused`; the new one is charged for `charged` of
    the full period `charged_period`. `anchor` is where billing periods are laid out from afterwards. `unused` and
    `charged` are empty ranges where the change takes effect at the period's end under KEEP.
    """

    edge: date
    unused: Range
    charged: Range
    charged_period: Range
    anchor: date


def price_change(
    at: date,
    period: Range,
    interval: Interval,
    policy: ProrationPolicy = DEFAULT_POLICY,
    *,
    anchor: date | None = None,
    zone: tzinfo = UTC,
) -> PriceChange:
    """The parts of a change of price at `at`, within the full `period` of an `interval`; a day, or an instant under SECOND.

    `anchor` is the anchor so far (None: the period's start). KEEP: it stays, and the rest of the period changes price.
    RESET: a new full period begins at the edge, counted in `zone`'s calendar, and is charged whole. PERIOD_INVALID outside
    the period, TypeError as `part_ratio`.
    """
    if policy.unit is ProrationUnit.DAY and isinstance(at, datetime):
        raise TypeError("prorating by days takes civil dates of the firm's zone, not instants")
    if isinstance(at, datetime) is not isinstance(period[0], datetime):
        raise TypeError("a change and its full period are both dates or both instants")
    if not period[0] <= at < period[1]:
        raise _invalid("a change of price lies within the full period")
    edge = change_edge(at, policy)
    rest = (edge, period[1])
    if policy.anchor is AnchorPolicy.KEEP:
        return PriceChange(edge, rest, rest, period, period[0] if anchor is None else anchor)
    anew = (edge, _one_interval_after(edge, interval, zone))
    return PriceChange(edge, rest, anew, anew, edge)


def change_amounts(
    change: PriceChange,
    period: Range,
    charged: int,
    credited_before: int,
    price: Decimal,
    quantity: Decimal,
    currency: str,
    policy: ProrationPolicy = DEFAULT_POLICY,
    *,
    charged_part: Range | None = None,
) -> tuple[int, int]:
    """(credit, charge) of a change of price, both minor units and not negative; the client owes their difference.

    `charged`, `credited_before`, `period` and `charged_part` are about the old price, as in `unused_credit`; `price` (major
    units of `currency`) × `quantity` is the new price of a full period. Each is rounded once.
    """
    credit = unused_credit(charged, credited_before, change.unused, period, policy, charged_part=charged_part)
    return credit, prorate(price, quantity, change.charged, change.charged_period, currency, policy)


def _one_interval_after(edge: date, interval: Interval, zone: tzinfo) -> date:
    """The end of the full period that begins at the edge: the same day of month, and for instants the same local time."""
    if not isinstance(edge, datetime):
        return period_edge(edge, interval, 1)
    local = edge.astimezone(zone)
    return local_instant(period_edge(local.date(), interval, 1), local.timetz().replace(tzinfo=None), zone)


def _invalid(message: str) -> DunwellError:
    return DunwellError(Reason.PERIOD_INVALID, message)


def _actual(edge: date) -> int:
    """Position on a line of civil days (dates), or of whole elapsed seconds (instants)."""
    if isinstance(edge, datetime):
        return (edge - _EPOCH) // timedelta(seconds=1)
    return edge.toordinal()


def _fixed_30(edge: date) -> int:
    """Position on a line where every month has 30 days; in seconds for instants, by their own clock."""
    days = (edge.year * 12 + edge.month) * 30
    if isinstance(edge, datetime):
        seconds = (edge.day - 1) * _DAY_SECONDS + edge.hour * 3600 + edge.minute * 60 + edge.second
        return days * _DAY_SECONDS + min(seconds, 30 * _DAY_SECONDS)
    return days + edge.day - 1  # a 31st coincides with the following 1st


def _whole_months(start: date, end: date) -> int:
    """How many months [start, end) lasts if its edges are anchored on one day of month, else 0."""
    months = (end.year - start.year) * 12 + end.month - start.month
    if months <= 0 or start.day == end.day:
        return max(months, 0)
    clamped = start if start.day < end.day else end
    return months if clamped.day == days_in_month(clamped.year, clamped.month) else 0


def _checked(period: Range, policy: ProrationPolicy) -> int:
    """Refuse an empty period and edges that do not fit the unit; return the months to count as 30 days, else 0."""
    start, end = period
    if isinstance(start, datetime) is not isinstance(end, datetime):
        raise TypeError("the edges of a period are both dates or both instants")
    if isinstance(start, datetime) and policy.unit is ProrationUnit.DAY:
        raise TypeError("prorating by days takes civil dates of the firm's zone, not instants")
    if end <= start:
        raise _invalid("the full period of a proration must not be empty")
    return _whole_months(start, end) if policy.day_count is DayCount.FIXED_30 else 0


def _positions(edges: Sequence[date], period: Range, policy: ProrationPolicy) -> tuple[list[int], int]:
    """The position of each edge within the full period, cut to it, and the period's length in the same unit."""
    months = _checked(period, policy)
    start, end = period
    instants = isinstance(start, datetime)
    if isinstance(edges[0], datetime) is not instants or isinstance(edges[-1], datetime) is not instants:
        raise TypeError("a part and its full period are both dates or both instants")
    if not months:
        origin = _actual(start)
        length = _actual(end) - origin
        if length <= 0:
            raise _invalid("the full period of a proration must not be empty")
        return [min(max(_actual(edge) - origin, 0), length) for edge in edges], length
    scale = _DAY_SECONDS if instants else 1
    length = months * 30 * scale
    # A clamped edge (Feb 28 for an anchor of 31) stands where the anchor day would, so that the length is always 30·k.
    origin = max(_fixed_30(start), _fixed_30(end) - length)
    result = []
    for edge in edges:
        if edge <= start:
            result.append(0)
        elif edge >= end:
            result.append(length)
        else:
            result.append(min(max(_fixed_30(edge) - origin, 0), length))
    return result, length


def part_ratio(part: Range, period: Range, policy: ProrationPolicy = DEFAULT_POLICY) -> tuple[int, int]:
    """The part's share of the full period as (numerator, denominator), not reduced: 0 ≤ numerator ≤ denominator.

    Raises PERIOD_INVALID for an empty period or a part that ends before it starts; TypeError for instants under DAY.
    """
    if part[1] < part[0]:
        raise _invalid("a part must not end before it starts")
    (low, high), length = _positions(part, period, policy)
    return high - low, length


def fraction(
    start: date, end: date, period_start: date, period_end: date, policy: ProrationPolicy = DEFAULT_POLICY
) -> Fraction:
    """The share of [period_start, period_end) that [start, end) makes up, exactly. Errors as ``part_ratio``."""
    return Fraction(*part_ratio((start, end), (period_start, period_end), policy))


def prorate(
    price: Decimal,
    quantity: Decimal,
    part: Range,
    period: Range,
    currency: str,
    policy: ProrationPolicy = DEFAULT_POLICY,
) -> int:
    """Minor units for ``part`` of the full ``period`` at ``price`` (major units) × ``quantity``, rounded once.

    Half away from zero, so that prorating -price is exactly the negative. Errors as ``part_ratio`` and ``line_amount``.
    """
    numerator, denominator = part_ratio(part, period, policy)
    return fraction_of_exact(exact_minor(price, quantity, exponent(currency)), numerator, denominator)


def split_amount(
    total_minor: int, edges: Sequence[date], period: Range | None = None, policy: ProrationPolicy = DEFAULT_POLICY
) -> list[int]:
    """Split ``total_minor`` over the successive parts between ``edges``; the parts always sum to the total.

    ``total_minor`` is the amount of the whole range from the first edge to the last. Rounding is cumulative: an inner
    edge always cuts the total at the same minor unit, however many other edges there are, so parts can be joined or
    split further without a cent moving. ``period`` is the full period when the edges cover only a stub (it matters to
    FIXED_30); by default it is the range itself. Raises PERIOD_INVALID unless the edges ascend and the range is not
    empty.
    """
    if len(edges) < 2 or any(late < early for early, late in pairwise(edges)):
        raise _invalid("an amount is split at two or more edges in ascending order")
    positions, _ = _positions(edges, period or (edges[0], edges[-1]), policy)
    first = positions[0]
    length = positions[-1] - first
    if length <= 0:
        raise _invalid("an amount cannot be split over a range of no length")
    parts: list[int] = []
    before = 0
    for position in positions[1:]:
        until = round_ratio(total_minor * (position - first), length)
        parts.append(until - before)
        before = until
    return parts


def unused_credit(
    charged: int,
    credited_before: int,
    part: Range,
    period: Range,
    policy: ProrationPolicy = DEFAULT_POLICY,
    *,
    charged_part: Range | None = None,
) -> int:
    """Minor units to credit for the unused ``part``, as a non-negative amount.

    ``charged`` is what was really charged, after discounts, for ``charged_part`` (by default the whole ``period``);
    ``credited_before`` what has been credited of that charge already. The credit is the charge's share of the unused
    time, rounded once, and at most what is left of the charge. Errors as ``part_ratio``.
    """
    whole = charged_part or period
    unused = (max(part[0], whole[0]), min(part[1], whole[1]))
    left = charged - credited_before
    if left <= 0 or unused[1] <= unused[0]:
        part_ratio(part, period, policy)  # still refuse what is malformed
        return 0
    numerator, _ = part_ratio(unused, period, policy)
    denominator, _ = part_ratio(whole, period, policy)
    if denominator == 0:
        return 0
    return min(round_ratio(charged * numerator, denominator), left)
