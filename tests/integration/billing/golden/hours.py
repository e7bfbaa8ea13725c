"""Hours computed as one would in a spreadsheet: minute by minute against what is included, then summed, rounded and capped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from fractions import Fraction
from zoneinfo import ZoneInfo

from tests.integration.billing.golden.arithmetic import minor, nearest, shares
from tests.integration.billing.golden.facts import Hours, Worked
from tests.integration.billing.golden.fees import ONE_DAY, Terms, days, full_periods, weight

CAP = "Not-to-exceed cap"
FOR_EVER = date(9999, 1, 1)


@dataclass(frozen=True)
class Period:
    """A billing period: what the agreement's dates leave of it, and all of it."""

    number: int
    start: date
    end: date
    full_start: date
    full_end: date


@dataclass(frozen=True)
class TimeLine:
    """A line of time: so many minutes at a price of an hour."""

    kind: str
    start: date
    end: date
    minutes: int
    price: Fraction
    amount: int
    capped: int = 0


@dataclass
class TimeBill:
    """What one invoice bills of time, and what of the allowances and the caps it uses up."""

    lines: list[TimeLine] = field(default_factory=list)
    work: list[Worked] = field(default_factory=list)
    used: dict[int, int] = field(default_factory=dict)
    charged: dict[date, int] = field(default_factory=dict)


@dataclass
class TimeSheet:
    """The time of one engagement. `waiting` is approved and not billed; `used` are minutes taken of each period's allowance, `charged`
    minor units charged for each period's time; both by live invoices."""

    mode: str
    terms: Terms
    hours: Hours
    currency: str
    waiting: list[Worked] = field(default_factory=list)
    used: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    charged: dict[date, int] = field(default_factory=lambda: defaultdict(int))

    def bill(self, before: date, *, everything: bool = False) -> TimeBill:
        """Bill what was worked before a day; `everything`: and after it, for the engagement is over."""
        due = [everything or each.day < before for each in self.waiting]
        work = [each for each, is_due in zip(self.waiting, due, strict=True) if is_due]
        self.waiting = [each for each, is_due in zip(self.waiting, due, strict=True) if not is_due]
        bill = TimeBill(work=work)
        work = sorted(work, key=lambda each: (each.day, each.goes_in, each.number))
        included = self._included(work, bill)
        for period in sorted({self.period(each.day) for each in work}, key=lambda period: period.number):
            mine = [each for each in work if self.period(each.day) == period]
            until = min(period.end, max(before, period.start + ONE_DAY))
            lines = self._lines(period, until, [(each, included[id(each)]) for each in mine])
            bill.lines += self._capped(period, lines, bill)
        for number, minutes in bill.used.items():
            self.used[number] += minutes
        for start, amount in bill.charged.items():
            self.charged[start] += amount
        return bill

    def give_back(self, bill: TimeBill) -> None:
        """The invoice is void: its work waits again, what it used is free."""
        self.waiting = bill.work + self.waiting
        for number, minutes in bill.used.items():
            self.used[number] -= minutes
        for start, amount in bill.charged.items():
            self.charged[start] -= amount

    def period(self, day: date) -> Period:
        """The period that a day lies in."""
        if self.terms.interval == "ONE_TIME":
            end = self.terms.end or FOR_EVER
            return Period(0, self.terms.start, end, self.terms.start, end)
        number, (low, high) = [*enumerate(full_periods(self.terms, day + ONE_DAY))][-1]
        assert low <= day < high
        return Period(number, max(low, self.terms.start), min(high, self.terms.end or high), low, high)

    def allowance(self, period: Period) -> int:
        """The minutes that a period includes: of a part of one its share of the days, to the nearest minute."""
        if self.terms.partial == "FULL" or self.terms.interval == "ONE_TIME":
            return self.hours.included
        zone, by_day = ZoneInfo("UTC"), Terms(**{**self.terms.__dict__, "unit": "DAY"})
        part = sum(weight(day, by_day, zone) for day in days(period.start, period.end))
        whole = sum(weight(day, by_day, zone) for day in days(period.full_start, period.full_end))
        return nearest(self.hours.included * Fraction(part) / whole)

    def _included(self, work: Sequence[Worked], bill: TimeBill) -> dict[int, int]:
        """How many minutes of each work the fee pays for: minute by minute from the oldest allowance that still lasts."""
        result: dict[int, int] = {id(each): 0 for each in work}
        if self.mode != "MIXED" or not self.hours.included:
            return result
        left: dict[int, int] = {}
        for each in work:
            number = self.period(each.day).number
            lasting = [one for one in range(number - self.hours.rollover, number + 1) if one >= 0]
            for one in lasting:
                if one not in left:
                    left[one] = self.allowance(self._numbered(one)) - self.used[one]
            for _ in range(each.minutes - each.down):
                open_ = [one for one in lasting if left[one] > 0]
                if not open_:
                    break
                left[open_[0]] -= 1
                result[id(each)] += 1
                bill.used[open_[0]] = bill.used.get(open_[0], 0) + 1
        return result

    def _numbered(self, number: int) -> Period:
        if self.terms.interval == "ONE_TIME":
            return self.period(self.terms.start)
        for position, (low, _) in enumerate(full_periods(self.terms, FOR_EVER)):
            if position == number:
                return self.period(max(low, self.terms.start))
        raise AssertionError("periods go on for ever")

    def _lines(self, period: Period, until: date, work: Sequence[tuple[Worked, int]]) -> list[TimeLine]:
        """What is included on one line, then a line for each group and price, by their order; or for each work by the order of the days."""
        lines: list[TimeLine] = []
        paid_for = sum(free for _, free in work)
        if paid_for:
            lines.append(TimeLine("TIME", period.start, until, paid_for, Fraction(0), 0))
        groups: dict[tuple[str, Fraction], int] = {}
        for position, (each, free) in enumerate(work):
            minutes = each.minutes - each.down
            if free and free == minutes:
                continue
            label = {"ROLE": each.role or "", "PERSON": each.person, "ENTRY": f"{position:09}"}[self.hours.grouping]
            key = label, self._price(each)
            groups[key] = groups.get(key, 0) + minutes - free
        kind = "OVERAGE" if self.mode == "MIXED" else "TIME"
        for (_, price), minutes in sorted(groups.items()):
            billed = self._rounded(minutes)
            amount = nearest(minor(price * billed / 60, self.currency))
            lines.append(TimeLine(kind, period.start, until, billed, price, amount))
        return lines

    def _price(self, work: Worked) -> Fraction:
        """The work's own, else the role's on that day, else the engagement's."""
        if work.price is not None:
            return Fraction(work.price)
        for rate in self.hours.rates:
            begun = rate.start is None or rate.start <= work.day
            if rate.role == work.role and begun and (rate.end is None or work.day < rate.end):
                return Fraction(rate.price)
        return Fraction(self.hours.price)

    def _rounded(self, minutes: int) -> int:
        """To a whole number of increments."""
        steps = Fraction(minutes, self.hours.increment)
        down = steps.numerator // steps.denominator
        up = down if steps == down else down + 1
        return self.hours.increment * {"DOWN": down, "UP": up, "NEAREST": nearest(steps)}[self.hours.rounding]

    def _capped(self, period: Period, lines: Sequence[TimeLine], bill: TimeBill) -> list[TimeLine]:
        """The lines with what is above the caps taken off, in proportion."""
        amount = allowed = sum(line.amount for line in lines)
        if self.hours.period_cap is not None:
            allowed = min(allowed, max(0, self.hours.period_cap - self.charged[period.start]))
        if self.hours.total_cap is not None:
            so_far = sum(self.charged.values()) + sum(bill.charged.values())
            allowed = min(allowed, max(0, self.hours.total_cap - so_far))
        bill.charged[period.start] = allowed
        taken = shares(amount - allowed, [line.amount for line in lines])
        return [TimeLine(**{**line.__dict__, "capped": part}) for line, part in zip(lines, taken, strict=True)]


def instant(day: date, hour: int, zone: ZoneInfo) -> datetime:
    """The hour of a day on the firm's clock."""
    return datetime(day.year, day.month, day.day, hour, tzinfo=zone)
