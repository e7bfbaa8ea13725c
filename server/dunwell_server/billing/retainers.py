"""Included minutes and caps: what of the time of an engagement its package pays for, and what of it a limit cuts off.

Pure. Each period grants minutes. Work uses them oldest entry first; an entry uses the oldest grant that has not expired.
A grant lasts its own period and, with roll-over, the next k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from typing import Final

from dunwell_server.billing.packages import PackageTerms
from dunwell_server.kernel.calendar import Period
from dunwell_server.kernel.money import round_ratio
from dunwell_server.kernel.proration import part_ratio

ALERTS: Final = (80, 100)
"""Percents of a cap that are told of when they are reached."""


def granted_minutes(engagement: PackageTerms, included_minutes: int, whole: Period, full: Period) -> int:
    """The minutes that one period includes: of a partial one the same share as of its fee, to the nearest minute.

    `whole` is what the engagement's dates leave of the `full` period. Counted in days of the policy's day count, also
    where its fee is prorated by seconds.
    """
    if whole == full or engagement.partial_periods == "FULL":
        return included_minutes
    numerator, denominator = part_ratio(whole, full, engagement.proration)
    return round_ratio(included_minutes * numerator, denominator)


def split(
    work: Iterable[tuple[int, int]],
    granted: Callable[[int], int],
    used: Mapping[int, int],
    rollover_periods: int,
    first: int,
) -> list[list[tuple[int, int]]]:
    """Which grants each piece of work uses, as (number of the granting period, minutes); what is missing is overage.

    `work` is (number of the period, minutes), oldest first; `used` what others have used of each grant; `first` the number
    of the engagement's first period. No grant is used beyond what it has, nor by work of another than its own and the
    next `rollover_periods` periods.
    """
    left: dict[int, int] = {}
    result: list[list[tuple[int, int]]] = []
    for period, minutes in work:
        uses: list[tuple[int, int]] = []
        for grant in range(max(first, period - rollover_periods), period + 1):
            if minutes == 0:
                break
            if grant not in left:
                left[grant] = max(0, granted(grant) - used.get(grant, 0))
            taken = min(minutes, left[grant])
            if taken:
                left[grant] -= taken
                minutes -= taken
                uses.append((grant, taken))
        result.append(uses)
    return result


def above_caps(
    amounts: Sequence[tuple[date, int]],
    period_cap: int | None,
    total_cap: int | None,
    billed: Mapping[date, int],
) -> list[int]:
    """How much of each period's amount is above the caps; all in minor units.

    `amounts` is (first day of the period, amount) in order of time, each period once; `billed` what has been billed before of each period,
    after its caps. The earlier period has what is left of the total first.
    """
    total = sum(billed.values())
    result = []
    for period, amount in amounts:
        allowed = amount
        if period_cap is not None:
            allowed = min(allowed, max(0, period_cap - billed.get(period, 0)))
        if total_cap is not None:
            allowed = min(allowed, max(0, total_cap - total))
        total += allowed
        result.append(amount - allowed)
    return result


def reached(amount_minor: int, cap_minor: int | None) -> list[int]:
    """Which of `ALERTS` an amount has reached of a cap; nothing reaches what is not limited, anything a cap of zero."""
    if cap_minor is None or amount_minor <= 0:
        return []
    return [percent for percent in ALERTS if amount_minor * 100 >= cap_minor * percent]
