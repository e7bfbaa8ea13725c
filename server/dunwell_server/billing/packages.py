"""Package fees: which periods of an engagement are to be billed as of a day, for how much, and when the next one is.

Pure. A run as of a day bills every part of a period that has begun by then (in advance) or ended by then (in arrears),
lies inside the engagement's dates and is not covered by a live invoice line. What has been billed is known as
`billed_through_date` (everything before it is covered) and the live coverage beyond it, which exists only where an
invoice in the middle was voided or an ended engagement went on.

Amounts are differences of one running sum per period, from 0 where the billable part of the period begins to its fee
where it ends, rounded at each edge. So the parts of a period add up to its fee however it is cut.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, date, timedelta, tzinfo
from decimal import Decimal
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from dunwell_server.billing.model import BillingInterval, InvoiceLine, LineKind
from dunwell_server.kernel.calendar import (
    Interval,
    Period,
    calendar_anchor,
    clip,
    day_start,
    period_containing,
    period_index,
    periods,
)
from dunwell_server.kernel.money import round_ratio, to_major
from dunwell_server.kernel.proration import ProrationPolicy, ProrationUnit, part_ratio

MAX_LINES: Final = 32_767
"""Lines that one invoice can hold."""

_DAY: Final = timedelta(days=1)
_ONE: Final = Decimal(1)
_INTERVALS: Final[dict[str, Interval]] = {interval.value: interval.interval for interval in BillingInterval}


class PackageTerms(Protocol):
    """What these rules read of an engagement; `model.Engagement` and the bulk run's rows both have it."""

    @property
    def pricing_mode(self) -> str: ...
    @property
    def currency_code(self) -> str: ...
    @property
    def start_date(self) -> date: ...
    @property
    def end_date(self) -> date | None: ...
    @property
    def fee_minor(self) -> int: ...
    @property
    def billing_interval(self) -> str: ...
    @property
    def anchor(self) -> str: ...
    @property
    def anchor_day(self) -> int | None: ...
    @property
    def timing(self) -> str: ...
    @property
    def partial_periods(self) -> str: ...
    @property
    def proration(self) -> ProrationPolicy: ...
    @property
    def line_description(self) -> str: ...
    @property
    def billed_through_date(self) -> date: ...


class BillablePeriod(NamedTuple):
    """A part [start, end) to bill, in civil dates, of the full period [full_start, full_end), and its amount in minor units.

    `prorated` says that the amount is a share of the fee.
    """

    start: date
    end: date
    full_start: date
    full_end: date
    amount_minor: int
    prorated: bool


def billable_periods(
    engagement: PackageTerms, as_of: date, covered: Sequence[Period] = (), *, zone: tzinfo = UTC
) -> list[BillablePeriod]:
    """What a run as of `as_of` bills of `engagement`, in order of time.

    `covered` is the live coverage from `billed_through_date` on (earlier ranges do no harm). `zone` is the firm's; it
    matters to proration by seconds only. The same terms give the same parts and amounts whether billed day by day or all
    at once.
    """
    if engagement.pricing_mode == "HOURLY":
        return []
    interval = _INTERVALS[engagement.billing_interval]
    if interval is Interval.ONE_TIME:
        return _one_time(engagement, as_of, covered)
    in_advance = engagement.timing == "IN_ADVANCE"
    end = engagement.end_date
    until = as_of + _DAY if in_advance else as_of
    if end is not None and end < until:
        until = end
    result: list[BillablePeriod] = []
    anchor, anchor_day = _anchor(engagement, interval)
    for full in periods(anchor, interval, engagement.billed_through_date, until, anchor_day):
        whole = clip(full, engagement.start_date, end)
        if whole is None:
            continue
        rest = clip(whole, engagement.billed_through_date, None)
        for part in _uncovered(rest, covered) if covered or rest is None else (rest,):
            if (part[0] if in_advance else part[1]) <= as_of:
                amount, prorated = _price(engagement, part, whole, full, zone)
                result.append(BillablePeriod(part[0], part[1], full[0], full[1], amount, prorated))
    return result


def package_lines(
    engagement: PackageTerms,
    engagement_id: UUID,
    as_of: date,
    covered: Sequence[Period] = (),
    *,
    zone: tzinfo = UTC,
) -> list[InvoiceLine]:
    """The invoice lines of a run as of that day, one for each of `billable_periods`. None: nothing to bill."""
    return lines_of(engagement, engagement_id, billable_periods(engagement, as_of, covered, zone=zone))


def lines_of(engagement: PackageTerms, engagement_id: UUID, parts: Sequence[BillablePeriod]) -> list[InvoiceLine]:
    """One line for each part. Its price is its amount: a prorated line multiplies out, too."""
    currency, in_advance = engagement.currency_code, engagement.timing == "IN_ADVANCE"
    return [
        InvoiceLine(
            line_no=line_no,
            kind=LineKind.PACKAGE,
            description=describe(engagement.line_description, part),
            quantity=_ONE,
            unit_price=to_major(part.amount_minor, currency),
            amount_minor=part.amount_minor,
            period_start=part.start,
            period_end=part.end,
            engagement_id=engagement_id,
            in_advance=in_advance,
        )
        for line_no, part in enumerate(parts, 1)
    ]


def next_bill_date(
    engagement: PackageTerms, billed_through: date, covered: Sequence[Period] = (), *, as_of: date | None = None
) -> date | None:
    """The first day on which a run has something to bill, when everything before `billed_through` is billed.

    None: nothing is left. `covered` is the live coverage beyond. `as_of` is the day up to which time has been billed, where
    a run has just done that: what is worked until the end of a MIXED engagement is billed on that day, also when its fees are
    billed long before.
    """
    if engagement.pricing_mode == "HOURLY":
        return _next_time_date(engagement, billed_through)
    fee_date = _next_fee_date(engagement, billed_through, covered)
    end = engagement.end_date
    if fee_date is not None or engagement.pricing_mode != "MIXED" or end is None or end == engagement.start_date:
        return fee_date
    return end if as_of is None or as_of < end else None


def _next_time_date(engagement: PackageTerms, billed_through: date) -> date | None:
    """The end of the first period whose time has not been billed. None where that is not known, or none is left."""
    start, end = engagement.start_date, engagement.end_date
    if end is not None and billed_through >= end:
        return None
    if engagement.billing_interval == "ONE_TIME":
        return end
    edge = numbered_period(engagement, max(billed_through, start))[1][1]
    return edge if end is None else min(edge, end)


def _next_fee_date(engagement: PackageTerms, billed_through: date, covered: Sequence[Period]) -> date | None:
    interval = _INTERVALS[engagement.billing_interval]
    in_advance = engagement.timing == "IN_ADVANCE"
    start, end = engagement.start_date, engagement.end_date
    if interval is Interval.ONE_TIME:
        if billed_through > start or covered or end == start:
            return None
        return start if in_advance else end
    begin = billed_through_date(max(billed_through, start), covered)
    if end is not None and begin >= end:
        return None
    if in_advance:
        return begin
    anchor, anchor_day = _anchor(engagement, interval)
    full = period_containing(anchor, interval, begin, anchor_day)
    part = next(_uncovered(clip(full, begin, end), covered))
    return part[1]


def initial_next_bill_date(engagement: PackageTerms) -> date | None:
    """`next_bill_date` of an engagement of which nothing has been billed."""
    return next_bill_date(engagement, engagement.start_date)


def billed_through_date(billed_through: date, covered: Sequence[Period]) -> date:
    """How far coverage reaches without a gap from `billed_through`, given further live ranges in any order."""
    for low, high in sorted(covered):
        if low > billed_through:
            break
        if high > billed_through:
            billed_through = high
    return billed_through


def _anchor(engagement: PackageTerms, interval: Interval) -> tuple[date, int | None]:
    """Where periods are laid out from, and the day of month they aim for where it is not that date's own."""
    if engagement.anchor == "CALENDAR":
        return calendar_anchor(interval, engagement.start_date), None
    return engagement.start_date, engagement.anchor_day


def numbered_period(engagement: PackageTerms, day: date) -> tuple[int, Period]:
    """The full period that a day lies in, and its number, which grows by one from period to period.

    A ONE_TIME fee has one, number 0: the engagement from its start to its end (the end of the calendar, while open-ended).
    """
    interval = _INTERVALS[engagement.billing_interval]
    if interval is Interval.ONE_TIME:
        return 0, (engagement.start_date, engagement.end_date or date.max)
    anchor, anchor_day = _anchor(engagement, interval)
    return period_index(anchor, interval, day, anchor_day), period_containing(anchor, interval, day, anchor_day)


def _one_time(engagement: PackageTerms, as_of: date, covered: Sequence[Period]) -> list[BillablePeriod]:
    """One fee for the whole engagement: on its first day in advance, on its end date in arrears (so not while open-ended).

    Any live coverage means that it was billed, also when the end has moved since.
    """
    start, end = engagement.start_date, engagement.end_date
    due = start if engagement.timing == "IN_ADVANCE" else end
    if due is None or due > as_of or covered or engagement.billed_through_date > start or end == start:
        return []
    until = end or start + _DAY
    return [BillablePeriod(start, until, start, until, engagement.fee_minor, False)]


def _uncovered(part: Period | None, covered: Sequence[Period]) -> Iterator[Period]:
    """What of `part` no range in `covered` touches, in order."""
    if part is None:
        return
    low, high = part
    if covered:
        for taken_low, taken_high in sorted(covered):
            if taken_high <= low:
                continue
            if taken_low >= high:
                break
            if taken_low > low:
                yield low, taken_low
            low = taken_high
    if low < high:
        yield low, high


def _price(engagement: PackageTerms, part: Period, whole: Period, full: Period, zone: tzinfo) -> tuple[int, bool]:
    """Minor units of `part`, and whether it is a share of the fee.

    `whole` is all of the full period that the engagement's dates allow. Billed in FULL, its first part carries the fee, and
    later ones, which exist where an engagement went on after its end was billed, nothing more.
    """
    fee = engagement.fee_minor
    if part == full:
        return fee, False
    if engagement.partial_periods == "FULL":
        return (fee if part[0] == whole[0] else 0), False
    policy = engagement.proration
    amount = _share(fee, (whole[0], part[1]), full, policy, zone)
    if part[0] > whole[0]:
        amount -= _share(fee, (whole[0], part[0]), full, policy, zone)
    return amount, True


def _share(fee: int, part: Period, full: Period, policy: ProrationPolicy, zone: tzinfo) -> int:
    if policy.unit is ProrationUnit.SECOND:
        part, full = _instants(part, zone), _instants(full, zone)
    numerator, denominator = part_ratio(part, full, policy)
    return round_ratio(fee * numerator, denominator)


def _instants(period: Period, zone: tzinfo) -> Period:
    """In the firm's zone: months of thirty days are counted on its clock."""
    return day_start(period[0], zone).astimezone(zone), day_start(period[1], zone).astimezone(zone)


def describe(text: str, part: BillablePeriod) -> str:
    """The text of the part's invoice line: the engagement's, and the days from first to last."""
    last = part.end - _DAY
    span = f"{part.start} to {last}" if last > part.start else f"{part.start}"
    return f"{text} ({span}, prorated)" if part.prorated else f"{text} ({span})"
