"""Approved time as invoice lines: rates, periods, groups, rounding, and what is left of them by retainers and caps.

Pure. Entries share a line where period, rate and group (role, person, or none) are the same. The sum of a line is rounded
to the billing increment, not each entry; its amount is those minutes at the rate, rounded once. Lines never span periods,
so that billing period by period and all at once come to the same.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Final, NamedTuple, Protocol
from uuid import UUID

from dunwell_server.billing import packages, retainers
from dunwell_server.billing.model import (
    DiscountKind,
    HourlyTerms,
    InvoiceDiscount,
    InvoiceLine,
    LineKind,
    TimeGrouping,
    TimeRounding,
)
from dunwell_server.billing.packages import PackageTerms
from dunwell_server.kernel.calendar import Period, clip
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.money import check_int64, distribute, exact_minor, exponent, round_ratio

CAP_DISCOUNT: Final = "Not-to-exceed cap"
"""The name of the discount that keeps time within its caps."""
_DAY: Final = timedelta(days=1)
_HOUR: Final = Decimal(60)
_QUANTUM: Final = Decimal("0.000001")
_MAX_TEXT: Final = 500


class TimeTerms(PackageTerms, Protocol):
    """What these rules read of an engagement besides its hourly terms."""

    @property
    def id(self) -> UUID: ...


class BillableTime(NamedTuple):
    """An approved entry as it is billed: `minutes` are those worked less those written down."""

    id: UUID
    person: str
    role: str | None
    work_date: date
    minutes: int
    rate: Decimal | None
    description: str | None


@dataclass(frozen=True, slots=True)
class TimeUsage:
    """What live invoices hold of an engagement: minutes used of each period's grant, and minor units billed of each
    period's time after its caps; both by the first day of the period within the engagement."""

    used: Mapping[date, int] = field(default_factory=dict)
    billed: Mapping[date, int] = field(default_factory=dict)


class InvoicedTime(NamedTuple):
    """An entry on a line. Of its billable `minutes` the package pays for `included_minutes`."""

    entry_id: UUID
    line_no: int
    minutes: int
    included_minutes: int


class PeriodCharge(NamedTuple):
    """What one invoice charges of the time of one period, in minor units: `amount_minor`, less `capped_minor`."""

    start: date
    end: date
    minutes: int
    amount_minor: int
    capped_minor: int


class AllowanceUse(NamedTuple):
    """Minutes that work of the period from `period_start` uses of what the period from `grant_start` grants."""

    period_start: date
    grant_start: date
    minutes: int
    granted_minutes: int


@dataclass(frozen=True, slots=True)
class TimeCharges:
    """What an invoice charges for the time of one engagement. Lines and discounts are numbered from 1.

    `through`, where a run bills, is the day before which all periods have been looked at.
    """

    engagement_id: UUID
    lines: tuple[InvoiceLine, ...] = ()
    discounts: tuple[InvoiceDiscount, ...] = ()
    entries: tuple[InvoicedTime, ...] = ()
    periods: tuple[PeriodCharge, ...] = ()
    uses: tuple[AllowanceUse, ...] = ()
    through: date | None = None

    def behind(self, lines: int, discounts: int = 0) -> TimeCharges:
        """The same, numbered to follow that many other lines and discounts of the invoice."""
        if not self.lines or not (lines or discounts):
            return self
        return replace(
            self,
            lines=tuple(line._replace(line_no=line.line_no + lines) for line in self.lines),
            discounts=tuple(
                replace(
                    one, discount_no=one.discount_no + discounts, line_no=None if one.line_no is None else one.line_no + lines
                )
                for one in self.discounts
            ),
            entries=tuple(entry._replace(line_no=entry.line_no + lines) for entry in self.entries),
        )  # fmt: skip


def time_edge(engagement: PackageTerms, as_of: date) -> date | None:
    """The day before which a run as of `as_of` bills time: the end of the last period that has ended by then.

    None: no period has. From the engagement's end on it is that, and whatever was worked is billed.
    """
    start, end = engagement.start_date, engagement.end_date
    if end is not None and as_of >= end:
        return end
    if engagement.billing_interval == "ONE_TIME":
        return None
    edge = packages.numbered_period(engagement, as_of)[1][0]
    return edge if edge > start else None


def period_end(engagement: PackageTerms, day: date) -> date:
    """The end of the period that a day lies in: where a run bills its time."""
    edge = packages.numbered_period(engagement, day)[1][1]
    return edge if engagement.end_date is None else min(edge, engagement.end_date)


def rate_of(terms: HourlyTerms, role: str | None, work_date: date, own: Decimal | None = None) -> Decimal:
    """The price of an hour: the entry's own, else the role's on that day, else the default."""
    if own is not None:
        return own
    if role is not None:
        for rate in terms.role_rates:
            if (
                rate.role == role
                and (rate.start is None or rate.start <= work_date)
                and (rate.end is None or work_date < rate.end)
            ):
                return rate.rate
    return terms.default_rate


def rounded_minutes(minutes: int, increment: int, rounding: TimeRounding) -> int:
    """`minutes` as a multiple of the increment; half an increment counts as nearer to the next."""
    whole, rest = divmod(minutes, increment)
    up = rest > 0 if rounding is TimeRounding.UP else rounding is TimeRounding.NEAREST and 2 * rest >= increment
    return (whole + up) * increment


@lru_cache(maxsize=4096)
def amount_of(minutes: int, rate: Decimal, currency: str) -> int:
    """Minor units of `minutes` at a rate per hour, rounded once, half away from zero. AMOUNT_OUT_OF_RANGE."""
    top, bottom = exact_minor(rate, Decimal(minutes), exponent(currency)).as_integer_ratio()
    return check_int64(round_ratio(top, bottom * 60), "amount")


def charge(
    engagement: TimeTerms, terms: HourlyTerms, entries: Sequence[BillableTime], usage: TimeUsage, until: date
) -> TimeCharges:
    """What the entries cost. `until` is the first day that is not billed; it ends the last line's period at the latest.

    Errors: AMOUNT_OUT_OF_RANGE for more lines than an invoice can hold, or an amount beyond 64 bits.
    """
    return _Charging(engagement, terms, usage, until).of(sorted(entries, key=lambda entry: (entry.work_date, entry.id)))


class _WorkPeriod(NamedTuple):
    """A period that work lies in: its number, what the engagement's dates leave of it, and all of it."""

    number: int
    whole: Period
    full: Period


class _Piece(NamedTuple):
    """An entry with its period, and the grants it uses as (number of the granting period, minutes)."""

    entry: BillableTime
    period: _WorkPeriod
    included: int


class _Charging:
    """One computation, with what it looks up once."""

    def __init__(self, engagement: TimeTerms, terms: HourlyTerms, usage: TimeUsage, until: date) -> None:
        self._engagement = engagement
        self._terms = terms
        self._usage = usage
        self._until = until
        self._periods: dict[date, _WorkPeriod] = {}
        self._rates: dict[tuple[str | None, date], Decimal] = {}
        self._lines: list[InvoiceLine] = []
        self._entries: list[InvoicedTime] = []
        self._label = _label_of(terms.grouping)

    def of(self, entries: Sequence[BillableTime]) -> TimeCharges:
        pieces, uses = self._pieces(entries)
        by_period: dict[_WorkPeriod, list[_Piece]] = defaultdict(list)
        for piece in pieces:
            by_period[piece.period].append(piece)
        spans: list[tuple[_WorkPeriod, int, int]] = []
        for period in sorted(by_period):
            first = len(self._lines)
            self._bill(period, by_period[period])
            spans.append((period, first, len(self._lines)))
        if len(self._lines) > packages.MAX_LINES:
            raise DunwellError(Reason.AMOUNT_OUT_OF_RANGE, f"{len(self._lines)} lines of time do not fit one invoice.")
        minutes = {period: sum(piece.entry.minutes for piece in members) for period, members in by_period.items()}
        periods, discounts = self._capped(spans, minutes)
        return TimeCharges(
            self._engagement.id, tuple(self._lines), tuple(discounts), tuple(self._entries), tuple(periods), tuple(uses)
        )

    def _period(self, work_date: date) -> _WorkPeriod:
        """The period of a day; work outside of the engagement's dates, which moved since, counts to the nearest."""
        found = self._periods.get(work_date)
        if found is None:
            start, end = self._engagement.start_date, self._engagement.end_date
            day = max(start, work_date if end is None else min(work_date, end - _DAY))
            number, full = packages.numbered_period(self._engagement, day)
            whole = clip(full, start, end)
            assert whole is not None
            found = self._periods[work_date] = _WorkPeriod(number, whole, full)
        return found

    def _pieces(self, entries: Sequence[BillableTime]) -> tuple[list[_Piece], list[AllowanceUse]]:
        """The entries with their periods and what is included of each, and the uses of each grant by each period."""
        placed = [(entry, self._period(entry.work_date)) for entry in entries]
        if not self._terms.included_minutes or self._engagement.pricing_mode != "MIXED":
            return [_Piece(entry, period, 0) for entry, period in placed], []
        grants = _Grants(self._engagement, self._terms, self._usage)
        taken = retainers.split(
            [(period.number, entry.minutes) for entry, period in placed],
            grants.minutes,
            grants.used,
            self._terms.rollover_periods,
            grants.first,
        )
        sums: dict[tuple[date, int], int] = defaultdict(int)
        pieces = []
        for (entry, period), uses in zip(placed, taken, strict=True):
            for grant, minutes in uses:
                sums[period.whole[0], grant] += minutes
            pieces.append(_Piece(entry, period, sum(minutes for _, minutes in uses)))
        return pieces, [
            AllowanceUse(start, grants.start(grant), minutes, grants.minutes(grant))
            for (start, grant), minutes in sorted(sums.items())
        ]

    def _bill(self, period: _WorkPeriod, pieces: Sequence[_Piece]) -> None:
        """The lines of one period: what is included, then group by group."""
        included = sum(piece.included for piece in pieces)
        if included:
            text = f"{self._engagement.line_description}: included hours used"
            self._line(LineKind.TIME, self._described(text, period), included, Decimal(0), period)
            covered = [piece for piece in pieces if piece.included and piece.included == piece.entry.minutes]
            self._put(covered)
            pieces = [piece for piece in pieces if not piece.included or piece.included != piece.entry.minutes]
        kind = LineKind.OVERAGE if self._engagement.pricing_mode == "MIXED" else LineKind.TIME
        for label, rate, members in self._groups(pieces):
            minutes = sum([piece.entry.minutes - piece.included for piece in members])
            billed = rounded_minutes(minutes, self._terms.increment_minutes, self._terms.rounding)
            self._line(kind, self._text(label, members, period), billed, rate, period)
            self._put(members)

    def _groups(self, pieces: Sequence[_Piece]) -> Iterator[tuple[str, Decimal, Sequence[_Piece]]]:
        """Label, rate and members of each line: groups by label and rate, or entry by entry in the order of the work."""
        if self._terms.grouping is TimeGrouping.ENTRY:
            for piece in pieces:
                yield piece.entry.person, self._rate(piece.entry), (piece,)
            return
        groups: dict[tuple[str, Decimal], list[_Piece]] = defaultdict(list)
        for piece in pieces:
            groups[self._label(piece.entry), self._rate(piece.entry)].append(piece)
        for label, rate in sorted(groups):
            yield label, rate, groups[label, rate]

    def _rate(self, entry: BillableTime) -> Decimal:
        if entry.rate is not None:
            return entry.rate
        key = entry.role, entry.work_date
        if key not in self._rates:
            self._rates[key] = rate_of(self._terms, entry.role, entry.work_date)
        return self._rates[key]

    def _line(self, kind: LineKind, text: str, minutes: int, rate: Decimal, period: _WorkPeriod) -> None:
        self._lines.append(
            InvoiceLine(
                line_no=len(self._lines) + 1,
                kind=kind,
                description=text,
                quantity=_hours(minutes),
                unit_price=rate,
                amount_minor=amount_of(minutes, rate, self._engagement.currency_code),
                period_start=period.whole[0],
                period_end=self._end(period),
                engagement_id=self._engagement.id,
                unit="hour",
            )
        )

    def _put(self, pieces: Sequence[_Piece]) -> None:
        """Put the entries on the last line."""
        line_no = len(self._lines)
        self._entries += [InvoicedTime(entry.id, line_no, entry.minutes, part) for entry, _, part in pieces]

    def _end(self, period: _WorkPeriod) -> date:
        return min(period.whole[1], max(self._until, period.whole[0] + _DAY))

    def _text(self, label: str, members: Sequence[_Piece], period: _WorkPeriod) -> str:
        name = f"{self._engagement.line_description}: {label}" if label else self._engagement.line_description
        if self._terms.grouping is TimeGrouping.ENTRY:
            entry = members[0].entry
            done = f", {entry.description}" if entry.description else ""
            return f"{name}{done}"[: _MAX_TEXT - 13] + f" ({entry.work_date})"
        return self._described(name, period)

    def _described(self, text: str, period: _WorkPeriod) -> str:
        start, last = period.whole[0], self._end(period) - _DAY
        return f"{text} ({start} to {last})" if last > start else f"{text} ({start})"

    def _capped(
        self, spans: Sequence[tuple[_WorkPeriod, int, int]], minutes: Mapping[_WorkPeriod, int]
    ) -> tuple[list[PeriodCharge], list[InvoiceDiscount]]:
        """The sums by period, and the discounts that take what is above the caps off their lines, in proportion."""
        amounts = [
            (period.whole[0], check_int64(sum(line.amount_minor for line in self._lines[first:past]), "amount"))
            for period, first, past in spans
        ]
        terms = self._terms
        above = retainers.above_caps(amounts, terms.period_cap_minor, terms.total_cap_minor, self._usage.billed)
        charges: list[PeriodCharge] = []
        discounts: list[InvoiceDiscount] = []
        for (period, first, past), (start, amount), excess in zip(spans, amounts, above, strict=True):
            charges.append(PeriodCharge(start, self._end(period), minutes[period], amount, excess))
            lines = self._lines[first:past]
            for line, share in zip(lines, distribute(excess, [line.amount_minor for line in lines]), strict=True):
                if share:
                    number = len(discounts) + 1
                    discounts.append(
                        InvoiceDiscount(number, line.line_no, CAP_DISCOUNT, DiscountKind.FIXED, None, share, share)
                    )
        return charges, discounts


class _Grants:
    """The minutes that the periods of an engagement include, by number."""

    def __init__(self, engagement: TimeTerms, terms: HourlyTerms, usage: TimeUsage) -> None:
        self._engagement = engagement
        self._included = terms.included_minutes
        self._bounds: dict[int, tuple[Period, Period]] = {}
        self.first = self._add(engagement.start_date)
        self.used = {self._add(start): minutes for start, minutes in usage.used.items()}

    def _add(self, day: date) -> int:
        number, full = packages.numbered_period(self._engagement, day)
        start, end = self._engagement.start_date, self._engagement.end_date
        if end is not None and start < end < self._engagement.billed_through_date:
            # Ended after its fee was billed beyond the end, which stays billed: so do the minutes that this fee pays for.
            end = self._engagement.billed_through_date
        whole = clip(full, start, end)
        self._bounds[number] = (full if whole is None else whole), full
        return number

    def _of(self, number: int) -> tuple[Period, Period]:
        """Its bounds; periods are reached one after another, from the first on."""
        while number not in self._bounds:
            nearest = max(known for known in self._bounds if known < number)
            self._add(self._bounds[nearest][1][1])
        return self._bounds[number]

    def start(self, number: int) -> date:
        return self._of(number)[0][0]

    def minutes(self, number: int) -> int:
        whole, full = self._of(number)
        return retainers.granted_minutes(self._engagement, self._included, whole, full)


def _label_of(grouping: TimeGrouping) -> Callable[[BillableTime], str]:
    if grouping is TimeGrouping.ROLE:
        return lambda entry: entry.role or ""
    return lambda entry: entry.person


@lru_cache(maxsize=4096)
def _hours(minutes: int) -> Decimal:
    """Hours for people, to six decimals and without zeros at the end; the amount is computed from the minutes."""
    whole, rest = divmod(minutes, 60)
    return Decimal(whole) + (Decimal(rest) / _HOUR).quantize(_QUANTUM).normalize()
