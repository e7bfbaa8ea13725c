"""Terms that follow one another: how long the next term of an engagement is, what it costs, where its periods begin. Pure.

A next term begins the day the old one ends. Its periods aim for the day of month that the old one's aimed for, also where
the old term ended on the last day of a shorter month: a term that began on Jan 31 and ended on Feb 28 is followed by one
whose next edges are Mar 31 and Apr 30.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Final
from uuid import UUID

from dunwell_server.billing import packages
from dunwell_server.billing.model import AutoRenew, Engagement, EngagementState, PricingMode
from dunwell_server.kernel.calendar import Interval, days_in_month, period_edge
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.money import round_half_away
from dunwell_server.kernel.proration import service_end

LAST_DATE: Final = date(2199, 12, 31)
"""The last date of the contract."""
MAX_UPLIFT: Final = Decimal(1000)
MIN_UPLIFT: Final = Decimal(-100)
_UPLIFT_DECIMALS: Final = 4
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class TermChoice:
    """What of a next term is not simply as before; None is as before.

    Of `months`, `end_date` and `open_ended` one at most, of `uplift_percent` and `fee_minor` one at most. `end_date` is as
    people give it under the proration policy's `end`. `fee_currency` is that of the fee, None where it has none of its own.
    """

    months: int | None = None
    end_date: date | None = None
    open_ended: bool = False
    uplift_percent: Decimal | None = None
    fee_minor: int | None = None
    fee_currency: str | None = None
    name: str | None = None
    external_id: str | None = None


AS_BEFORE: Final = TermChoice()


def whole_months(start: date, end: date, anchor_day: int | None = None) -> int | None:
    """How many months [start, end) lasts, counted from `start` and aiming for `anchor_day` (None: its own day).

    None where it is no whole number of months. A term that begins on a day which its last month does not have is whole
    whether it ends on that month's last day or on the day after: Feb 29 to Feb 28 and to Mar 1 are both twelve months.
    """
    months = (end.year - start.year) * 12 + end.month - start.month
    if months > 0 and period_edge(start, Interval.MONTH, months, anchor_day) == end:
        return months
    if months > 1 and end.day == 1:
        edge = period_edge(start, Interval.MONTH, months - 1, anchor_day)
        if edge + _DAY == end and edge.day < (anchor_day or start.day):
            return months - 1
    return None


def next_anchor_day(old: Engagement) -> int | None:
    """The day of month that the next term's periods aim for, where that term begins at the end of a month too short for it."""
    begin, aim = end_of(old), old.anchor_day or old.start_date.day
    is_month_end = begin.day == days_in_month(begin.year, begin.month)
    return aim if is_month_end and begin.day < aim else None


def next_end(old: Engagement, months: int | None = None) -> date:
    """The end of a next term of so many months; None: as long as the old one, in whole months where it is, else in days.

    PERIOD_INVALID beyond the contract's last date.
    """
    begin = end_of(old)
    if months is None:
        months = whole_months(old.start_date, begin, old.anchor_day)
    if months is not None:
        end = period_edge(begin, Interval.MONTH, months, next_anchor_day(old))
    else:
        length = begin - old.start_date
        end = begin + length if length <= LAST_DATE - begin else date.max
    if end > LAST_DATE:
        raise DunwellError(Reason.PERIOD_INVALID, f"the next term would end after {LAST_DATE}", field="months")
    return end


def uplifted(fee_minor: int, percent: Decimal) -> int:
    """The fee raised by so many percent, in minor units, rounded once half away from zero. AMOUNT_OUT_OF_RANGE."""
    return round_half_away(fee_minor * (100 + Fraction(percent)) / 100)


def check_uplift(percent: Decimal | None, mode: PricingMode, path: str) -> None:
    """FIELD_INVALID naming `path` for a percentage out of range or too fine, and for one where there is no fee to raise."""
    if percent is None:
        return
    if not MIN_UPLIFT <= percent <= MAX_UPLIFT:
        raise field_invalid(path, f"must be from {MIN_UPLIFT} to {MAX_UPLIFT}")
    if percent != round(percent, _UPLIFT_DECIMALS):
        raise field_invalid(path, f"must have at most {_UPLIFT_DECIMALS} decimals")
    if percent and mode is PricingMode.HOURLY:
        raise field_invalid(path, "an HOURLY engagement has no fee to raise; change its rates")


def check_auto_renew(terms: AutoRenew | None, mode: PricingMode, end: date | None) -> None:
    """FIELD_INVALID for auto-renewal of an engagement that has no end, and for an uplift that it cannot take."""
    if terms is None:
        return
    if end is None:
        raise field_invalid("engagement.auto_renew", "an open-ended engagement is never renewed: it needs an end_date")
    check_uplift(terms.uplift_percent, mode, "engagement.auto_renew.uplift_percent")


def next_term(old: Engagement, choice: TermChoice, term_id: UUID, today: date, now: datetime) -> Engagement:
    """The term that follows `old`, which has an end. `today` is the firm's civil date: a term that is over by then is ENDED.

    Errors: PERIOD_INVALID, AMOUNT_OUT_OF_RANGE.
    """
    begin = end_of(old)
    end = _chosen_end(old, choice)
    name = choice.name or old.name
    term = replace(
        old,
        id=term_id,
        external_id=choice.external_id,
        name=name,
        line_description=name if old.line_description == old.name else old.line_description,
        start_date=begin,
        end_date=end,
        anchor_day=next_anchor_day(old),
        state=EngagementState.ENDED if end is not None and end <= today else EngagementState.ACTIVE,
        fee_minor=_chosen_fee(old, choice),
        auto_renew=None if end is None else old.auto_renew,
        renewed_from_id=old.id,
        renewed_to_id=None,
        renewal_notice_time=None,
        billed_through_date=begin,
        next_bill_date=None,
        void_count=0,
        version=1,
        create_time=now,
        update_time=now,
    )
    return replace(term, next_bill_date=packages.initial_next_bill_date(term))


def by_itself(old: Engagement) -> TermChoice:
    """What auto-renewal chooses."""
    assert old.auto_renew is not None
    return TermChoice(months=old.auto_renew.months, uplift_percent=old.auto_renew.uplift_percent)


def end_of(term: Engagement) -> date:
    """The day the term ends and the next one begins. Only for terms that have one."""
    assert term.end_date is not None
    return term.end_date


def _chosen_end(old: Engagement, choice: TermChoice) -> date | None:
    if choice.open_ended:
        return None
    if choice.end_date is None:
        return next_end(old, choice.months)
    end = service_end(choice.end_date, old.proration)
    if end <= end_of(old):
        message = f"the next term must end after it begins, {old.end_date}"
        raise DunwellError(Reason.PERIOD_INVALID, message, field="end_date")
    return end


def _chosen_fee(old: Engagement, choice: TermChoice) -> int:
    if choice.fee_minor is not None:
        return choice.fee_minor
    return old.fee_minor if choice.uplift_percent is None else uplifted(old.fee_minor, choice.uplift_percent)
