"""Revenue, receivables by age, the trial balance and the overview: sums by currency, converted to one where asked.

A past day is taken at its end in the firm's time zone; today is as things are now. Converted numbers are each converted by themselves with the
rate of their day, and rounded once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import date, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from dunwell_server.billing.errors import sums_in_range
from dunwell_server.billing.exchange import Rate
from dunwell_server.billing.model import InvoiceState
from dunwell_server.billing.service.clients import get_client
from dunwell_server.billing.service.engagements import get_engagement, today
from dunwell_server.billing.service.exchange import Converter, converter
from dunwell_server.billing.service.invoices import get_invoice
from dunwell_server.billing.store import aging as aging_store
from dunwell_server.billing.store import reports as store
from dunwell_server.billing.store import revenue_schedules as schedule_store
from dunwell_server.billing.store.revenue_schedules import ScheduleQuery
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.kernel.calendar import day_start
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.money import known_currency
from dunwell_server.platform.database import Row, UnitOfWork

LONGEST_RANGE: Final = 3660
"""Days that a revenue report may cover."""
SOON: Final = timedelta(days=7)
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class RevenueMonth:
    """What one month (YYYY-MM; empty: the whole range) brought in one currency, in minor units. See the contract's message for each."""

    month: str
    currency_code: str
    invoiced: int = 0
    voided: int = 0
    credited: int = 0
    tax: int = 0
    received: int = 0
    refunded: int = 0
    charged_back: int = 0
    recognized: int = 0
    deferred: int = 0
    written_off: int = 0
    billed: int = 0
    collected: int = 0


@dataclass(frozen=True, slots=True)
class RevenueReport:
    """The report of [start, end). `converted` ends with the sum, whose month is empty."""

    start: date
    end: date
    months: list[RevenueMonth]
    totals: list[RevenueMonth]
    converted: list[RevenueMonth] = field(default_factory=list)
    rates: list[Rate] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class AgingAmounts:
    """What is owed in one currency by how long it has been due, in minor units, over `invoices` invoices."""

    currency_code: str
    current: int
    days_1_to_30: int
    days_31_to_60: int
    days_61_to_90: int
    over_90_days: int
    invoices: int

    @property
    def buckets(self) -> tuple[int, int, int, int, int]:
        """The five amounts, from current to oldest."""
        return self.current, self.days_1_to_30, self.days_31_to_60, self.days_61_to_90, self.over_90_days

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.buckets)


@dataclass(frozen=True, slots=True)
class ClientAging:
    """What one client owes in one currency."""

    client_id: UUID
    client_name: str
    amounts: AgingAmounts


@dataclass(frozen=True, slots=True)
class Aging:
    """Receivables at the end of `day`; `clients` is one page."""

    day: date
    clients: list[ClientAging]
    totals: list[AgingAmounts]
    converted: AgingAmounts | None = None
    rates: list[Rate] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class AccountBalance:
    """One account in one currency, in minor units."""

    account: str
    currency_code: str
    debit: int
    credit: int

    @property
    def balance(self) -> int:
        """Debits − credits."""
        return self.debit - self.credit


@dataclass(frozen=True, slots=True)
class TrialBalance:
    """Every account at the end of `day`."""

    day: date
    accounts: list[AccountBalance]
    converted: list[AccountBalance] = field(default_factory=list)
    rates: list[Rate] = field(default_factory=list)


@dataclass(slots=True)
class Tally:
    """How many invoices, over what totals and still due, in minor units by currency."""

    count: int = 0
    totals: dict[str, int] = field(default_factory=dict)
    due: dict[str, int] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """One currency's part."""
        currency = row["currency_code"]
        self.count += row["invoices"]
        self.totals[currency] = self.totals.get(currency, 0) + row["total"]
        if row["due"]:
            self.due[currency] = self.due.get(currency, 0) + row["due"]


@dataclass(frozen=True, slots=True)
class Overview:
    """How the firm stands at `now`. Amounts are minor units by currency."""

    now: datetime
    states: dict[InvoiceState, Tally]
    due_soon: Tally
    overdue: Tally
    clients: int
    engagements: int
    unbilled_engagements: int
    unbilled_minutes: int
    month: list[RevenueMonth]
    deferred: dict[str, int]
    credit: dict[str, int]


@sums_in_range
async def revenue_report(
    uow: UnitOfWork, start: date | None, end: date | None, *, currency: str | None = None, convert_to: str | None = None
) -> RevenueReport:
    """Revenue of the days [start, end) in the firm's zone; through today, and from eleven months before the last month, where not given.

    Errors: PERIOD_INVALID for a range that is empty or longer than LONGEST_RANGE; those of `converter`.
    """
    end = end or today(uow) + _DAY
    if start is None:
        last = end - _DAY
        start = _month_start(last.year * 12 + last.month - 12)
    if not start < end <= start + timedelta(days=LONGEST_RANGE):
        raise DunwellError(
            Reason.PERIOD_INVALID, f"The range must end after it starts, and be at most {LONGEST_RANGE} days long.", field="range"
        )  # fmt: skip
    if currency is not None:
        known_currency(currency, "currency_code")
    zone = uow.firm.settings.zone
    rows = await store.revenue(uow, day_start(start, zone), day_start(end, zone), currency)
    found = [_revenue_month(row) for row in rows]
    report = RevenueReport(
        start, end, [each for each in found if each.month], [each for each in found if not each.month]
    )
    if convert_to is None:
        return report
    days = {each.month: min(_month_end(each.month), end) - _DAY for each in report.months}
    exchange = await converter(uow, convert_to, ((each.currency_code, days[each.month]) for each in report.months))
    return replace(report, converted=_converted_months(report.months, days, exchange), rates=exchange.rates)


def _revenue_month(row: Mapping[str, Any]) -> RevenueMonth:
    return RevenueMonth(
        **{**row, "month": row["month"] or ""},
        billed=row["invoiced"] - row["voided"] - row["credited"],
        collected=row["received"] - row["refunded"] - row["charged_back"],
    )


_AMOUNTS: Final = tuple(each.name for each in fields(RevenueMonth) if each.name not in ("month", "currency_code"))


def _converted_months(
    months: Sequence[RevenueMonth], days: Mapping[str, date], exchange: Converter
) -> list[RevenueMonth]:
    """The months of all currencies together, and their sum. What is a sum of others is summed from the converted parts."""
    sums: dict[str, dict[str, int]] = {}
    for each in months:
        into = sums.setdefault(each.month, dict.fromkeys(_AMOUNTS, 0))
        for name in _AMOUNTS:
            into[name] += exchange(getattr(each, name), each.currency_code, days[each.month])
    whole = {name: sum(amounts[name] for amounts in sums.values()) for name in _AMOUNTS}
    rows = [*sums.items(), ("", whole)] if sums else []
    return [_in_sum(RevenueMonth(month, exchange.currency, **amounts)) for month, amounts in rows]


def _in_sum(month: RevenueMonth) -> RevenueMonth:
    return replace(
        month,
        billed=month.invoiced - month.voided - month.credited,
        collected=month.received - month.refunded - month.charged_back,
    )


def _month_start(number: int) -> date:
    """First day of a month counted from year 0."""
    return date(number // 12, number % 12 + 1, 1)


def _month_end(month: str) -> date:
    """First day after a month YYYY-MM."""
    return _month_start(int(month[:4]) * 12 + int(month[5:]))


@sums_in_range
async def aging(
    uow: UnitOfWork,
    day: date | None,
    *,
    client_id: UUID | None = None,
    convert_to: str | None = None,
    page: PageRequest | None = None,
) -> Aging:
    """Receivables at the end of a day, or now. `page` chooses of the clients; one row more than its limit tells of another page.

    Errors: PERIOD_INVALID for a day to come, RESOURCE_NOT_FOUND, those of `converter`.
    """
    as_of, cut = _cut(uow, day)
    if client_id is not None:
        await get_client(uow, client_id)
    page = page or PageRequest()
    clients = await aging_store.by_client(uow, as_of, cut, client_id, page.after, page.limit)
    totals = [_aging_amounts(row) for row in await aging_store.totals(uow, as_of, cut, client_id)]
    result = Aging(as_of, [ClientAging(row["client_id"], row["name"], _aging_amounts(row)) for row in clients], totals)
    if convert_to is None:
        return result
    exchange = await converter(uow, convert_to, ((each.currency_code, as_of) for each in totals))
    current, first, second, third, older = (
        sum(exchange(each.buckets[position], each.currency_code, as_of) for each in totals) for position in range(5)
    )
    invoices = sum(each.invoices for each in totals)
    converted = AgingAmounts(exchange.currency, current, first, second, third, older, invoices)
    return replace(result, converted=converted, rates=exchange.rates)


def _aging_amounts(row: Row) -> AgingAmounts:
    return AgingAmounts(
        row["currency_code"], row["current_minor"], row["days_1_to_30_minor"], row["days_31_to_60_minor"], row["days_61_to_90_minor"],
        row["over_90_days_minor"], row["invoices"],
    )  # fmt: skip


@sums_in_range
async def trial_balance(
    uow: UnitOfWork, day: date | None, *, currency: str | None = None, convert_to: str | None = None
) -> TrialBalance:
    """Every account at the end of a day, or now. Errors: PERIOD_INVALID for a day to come, those of `converter`."""
    as_of, cut = _cut(uow, day)
    if currency is not None:
        known_currency(currency, "currency_code")
    rows = await store.trial_balance(uow, cut, currency)
    accounts = [AccountBalance(**row) for row in rows]
    result = TrialBalance(as_of, accounts)
    if convert_to is None:
        return result
    exchange = await converter(uow, convert_to, ((each.currency_code, as_of) for each in accounts))
    sums: dict[str, list[int]] = {}
    for each in accounts:
        into = sums.setdefault(each.account, [0, 0])
        into[0] += exchange(each.debit, each.currency_code, as_of)
        into[1] += exchange(each.credit, each.currency_code, as_of)
    converted = [AccountBalance(account, exchange.currency, *amounts) for account, amounts in sorted(sums.items())]
    return replace(result, converted=converted, rates=exchange.rates)


def _cut(uow: UnitOfWork, day: date | None) -> tuple[date, datetime | None]:
    """The day of a report, and the instant that it ends at: None for today, which has no end yet."""
    now = today(uow)
    if day is None or day == now:
        return now, None
    if day > now:
        raise DunwellError(Reason.PERIOD_INVALID, f"The day is to come: today is {now}.", field="as_of_date")
    return day, day_start(day + _DAY, uow.firm.settings.zone)


async def revenue_schedules(uow: UnitOfWork, query: ScheduleQuery, page: PageRequest) -> list[Row]:
    """One page of schedules, as rows of `revenue_schedule` with number, client, engagement and description. Errors: RESOURCE_NOT_FOUND."""
    if query.invoice_id is not None:
        await get_invoice(uow, query.invoice_id)
    if query.engagement_id is not None:
        await get_engagement(uow, query.engagement_id)
    if query.client_id is not None:
        await get_client(uow, query.client_id)
    return await schedule_store.select(uow, query, page)


@sums_in_range
async def revenue_forecast(uow: UnitOfWork, query: ScheduleQuery) -> list[Row]:
    """What is left to earn by `month` and `currency_code`, as `amount` in minor units."""
    return await schedule_store.forecast(uow, query)


@sums_in_range
async def overview(uow: UnitOfWork) -> Overview:
    """How the firm stands now."""
    day = today(uow)
    by_state: dict[InvoiceState, Tally] = {}
    for row in await store.states(uow):
        by_state.setdefault(InvoiceState(row["state"]), Tally()).add(row)
    soon, late = Tally(), Tally()
    for row in await store.due(uow, day, day + SOON):
        (late if row["late"] else soon).add(row)
    counts = await store.counts(uow, day)
    month = await revenue_report(uow, day.replace(day=1), day + _DAY)
    held = await store.held(uow)
    return Overview(
        uow.now, {state: by_state[state] for state in InvoiceState if state in by_state}, soon, late, counts["clients"], counts["engagements"],
        counts["unbilled_engagements"], counts["unbilled_minutes"], month.totals, _present(held, "deferred"), _present(held, "credit"),
    )  # fmt: skip


def _present(rows: Iterable[Row], column: str) -> dict[str, int]:
    return {row["currency_code"]: row[column] for row in rows if row[column]}
