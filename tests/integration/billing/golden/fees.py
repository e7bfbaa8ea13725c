"""Package fees, day by day, in fractions.

This module must import nothing of `dunwell_server`: it is what the server's arithmetic is held against.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

ONE_DAY = timedelta(days=1)
MONTHS = {"MONTHLY": 1, "QUARTERLY": 3, "HALF_YEARLY": 6, "YEARLY": 12}


@dataclass(frozen=True)
class Terms:
    """What was agreed. `end` is the first day after it; `aim` the day of month that periods begin on."""

    start: date
    end: date | None
    interval: str
    anchor: str
    timing: str
    partial: str
    unit: str
    day_count: str
    fee: int
    aim: int = 0


@dataclass(frozen=True)
class Charge:
    """A line of an invoice: [start, end), its amount in minor units, and the day from which it may be billed."""

    start: date
    end: date
    amount: int
    due: date


@dataclass(frozen=True)
class Bill:
    """An invoice."""

    issued: date
    payable: date
    total: int
    charges: tuple[Charge, ...]


def month_length(year: int, month: int) -> int:
    """Days from the first of the month to the first of the next."""
    following = date(year + 1, 1, 1) if month == 12 else date(year, month + 1, 1)
    return (following - date(year, month, 1)).days


def shifted(day: date, months: int, aim: int) -> date:
    """The aimed-for day so many months later, or the last one of a shorter month."""
    year, month = day.year, day.month
    for _ in range(abs(months)):
        month += 1 if months > 0 else -1
        if month == 13:
            year, month = year + 1, 1
        elif month == 0:
            year, month = year - 1, 12
    return date(year, month, min(aim, month_length(year, month)))


def first_edge(terms: Terms) -> date:
    """Where the period that the first day lies in begins."""
    if terms.anchor == "START_DATE":
        return terms.start
    day = terms.start
    if terms.interval == "WEEKLY":
        while day.isoweekday() != 1:
            day -= ONE_DAY
        return day
    while day.day != 1 or (day.month - 1) % MONTHS[terms.interval]:
        day -= ONE_DAY
    return day


def full_periods(terms: Terms, until: date) -> Iterator[tuple[date, date]]:
    """Every full period that begins before `until`."""
    first = first_edge(terms)
    aim = 1 if terms.anchor == "CALENDAR" else terms.aim or terms.start.day
    low, count = first, 0
    while low < until:
        count += 1
        weekly = terms.interval == "WEEKLY"
        high = low + 7 * ONE_DAY if weekly else shifted(first, count * MONTHS[terms.interval], aim)
        yield low, high
        low = high


def weight(day: date, terms: Terms, zone: ZoneInfo) -> Fraction:
    """What one day counts for."""
    if terms.day_count == "FIXED_30" and terms.interval != "WEEKLY":
        last = day.day == month_length(day.year, day.month)
        if day.day == 31:
            return Fraction(0)
        return Fraction(31 - day.day) if last and day.month == 2 else Fraction(1)
    if terms.unit == "SECOND":
        midnights = (datetime(each.year, each.month, each.day, tzinfo=zone) for each in (day, day + ONE_DAY))
        begin, end = (each.timestamp() for each in midnights)
        return Fraction(int(end - begin), 86_400)
    return Fraction(1)


def days(low: date, high: date) -> Iterator[date]:
    """Every day from `low` to the one before `high`."""
    while low < high:
        yield low
        low += ONE_DAY


def rounded(amount: Fraction) -> int:
    """The nearest whole number; a half goes up (there are no negative fees)."""
    whole = amount.numerator // amount.denominator
    return whole + 1 if amount - whole >= Fraction(1, 2) else whole


def charges(terms: Terms, until: date, zone: ZoneInfo, billed: date | None = None) -> list[Charge]:
    """Everything that may be billed by `until`, in order of time; all before `billed` is billed already."""
    advance, billed = terms.timing == "IN_ADVANCE", billed or terms.start
    if terms.interval == "ONE_TIME":
        due = terms.start if advance else terms.end
        if due is None or due > until or billed > terms.start:
            return []
        return [Charge(terms.start, terms.end or terms.start + ONE_DAY, terms.fee, due)]
    result = []
    for low, high in full_periods(terms, until + ONE_DAY):
        first, end = max(low, terms.start), min(high, terms.end or high)
        begin = max(first, billed)
        due = begin if advance else end
        if begin >= end or due > until:
            continue
        if terms.partial == "FULL":
            amount = terms.fee if begin == first else 0
        else:
            whole = sum(weight(day, terms, zone) for day in days(low, high))
            before, after = (sum(weight(day, terms, zone) for day in days(first, edge)) for edge in (begin, end))
            amount = rounded(terms.fee * Fraction(after) / whole) - rounded(terms.fee * Fraction(before) / whole)
        result.append(Charge(begin, end, amount, due))
    return result


def bills(history: Sequence[tuple[date, Terms]], last_run: date, zone: ZoneInfo, payable_after: int = 30) -> list[Bill]:
    """The invoices of a run on each day from the first of the history to `last_run`, by the terms in force on that day.

    What had fallen due before the first day, or before the terms changed, is on the first invoice after it.
    """
    result: list[Bill] = []
    billed: date | None = None
    for position, (since, terms) in enumerate(history):
        until = history[position + 1][0] - ONE_DAY if position + 1 < len(history) else last_run
        left = charges(terms, until, zone, billed)
        for day in days(since, until + ONE_DAY):
            now = tuple(charge for charge in left if charge.due <= day)
            if now:
                left = [charge for charge in left if charge.due > day]
                billed = now[-1].end
                total = sum(charge.amount for charge in now)
                result.append(Bill(day, day + payable_after * ONE_DAY, total, now))
    return result
