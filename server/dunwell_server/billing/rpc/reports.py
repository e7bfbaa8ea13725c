"""The handlers of the reports: receivables by age, revenue, deferred revenue, trial balance, overview, and the exchange rates they use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dunwell.v1 import billing_service_pb2 as pb
from dunwell.v1 import invoice_pb2, money_pb2
from dunwell.v1 import report_pb2 as rp
from dunwell_server.billing.exchange import Rate
from dunwell_server.billing.rpc.parts import BillingHandlers
from dunwell_server.billing.service import exchange, reports
from dunwell_server.billing.store.revenue_schedules import ScheduleQuery
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.kernel.money import check_int64
from dunwell_server.platform.database import Row, UnitOfWork
from dunwell_server.rpc.converters import (
    civil_date,
    date_message,
    decimal,
    decimal_message,
    enum_value,
    id_text,
    optional_date,
    optional_id,
    timestamp,
)


class ReportHandlers(BillingHandlers):
    """Reports."""

    async def SetExchangeRates(self, request: pb.SetExchangeRatesRequest, context: Any) -> pb.SetExchangeRatesResponse:
        rates = [
            Rate(
                each.base_currency_code,
                each.quote_currency_code,
                civil_date(each.rate_date, f"rates[{position}].rate_date"),
                decimal(each.rate, f"rates[{position}].rate"),
            )
            for position, each in enumerate(request.rates)
        ]

        async def work(uow: UnitOfWork) -> pb.SetExchangeRatesResponse:
            await exchange.set_rates(uow, rates)
            return pb.SetExchangeRatesResponse(rates=_rates(rates))

        return await self._calls.write(request, pb.SetExchangeRatesResponse, work)

    async def GetReceivablesAging(
        self, request: pb.GetReceivablesAgingRequest, context: Any
    ) -> pb.GetReceivablesAgingResponse:
        page, client_id = self._pager.read(request), optional_id(Prefix.CLIENT, request.client_id, "client_id")
        day, target = optional_date(request, "as_of_date"), request.convert_to_currency_code or None

        async def work(uow: UnitOfWork) -> pb.GetReceivablesAgingResponse:
            wanted = PageRequest(page.limit, page.after)
            found = await reports.aging(uow, day, client_id=client_id, convert_to=target, page=wanted)
            shown, token = page.split(found.clients, lambda row: (row.client_id, row.amounts.currency_code))
            return pb.GetReceivablesAgingResponse(aging=_aging(found, shown), next_page_token=token)

        return await self._calls.read(work)

    async def GetRevenueReport(self, request: pb.GetRevenueReportRequest, context: Any) -> pb.GetRevenueReportResponse:
        start = optional_date(request.range, "start_date", "range.start_date")
        end = optional_date(request.range, "end_date", "range.end_date")
        currency, target = request.currency_code or None, request.convert_to_currency_code or None

        async def work(uow: UnitOfWork) -> pb.GetRevenueReportResponse:
            report = await reports.revenue_report(uow, start, end, currency=currency, convert_to=target)
            return pb.GetRevenueReportResponse(report=_revenue(report))

        return await self._calls.read(work)

    async def GetRevenueSchedule(
        self, request: pb.GetRevenueScheduleRequest, context: Any
    ) -> pb.GetRevenueScheduleResponse:
        page, query = self._pager.read(request), _schedule_query(request)

        async def work(uow: UnitOfWork) -> pb.GetRevenueScheduleResponse:
            found = await reports.revenue_schedules(uow, query, PageRequest(page.limit, page.after))
            shown, token = page.split(found, lambda row: (row["invoice_id"], row["line_no"]))
            months = [] if page.after else await reports.revenue_forecast(uow, query)
            return pb.GetRevenueScheduleResponse(
                schedules=map(_schedule, shown), forecast=map(_forecast, months), next_page_token=token
            )

        return await self._calls.read(work)

    async def GetTrialBalance(self, request: pb.GetTrialBalanceRequest, context: Any) -> pb.GetTrialBalanceResponse:
        day = optional_date(request, "as_of_date")
        currency, target = request.currency_code or None, request.convert_to_currency_code or None

        async def work(uow: UnitOfWork) -> pb.GetTrialBalanceResponse:
            found = await reports.trial_balance(uow, day, currency=currency, convert_to=target)
            return pb.GetTrialBalanceResponse(trial_balance=_trial_balance(found))

        return await self._calls.read(work)

    async def GetBillingOverview(
        self, request: pb.GetBillingOverviewRequest, context: Any
    ) -> pb.GetBillingOverviewResponse:
        async def work(uow: UnitOfWork) -> pb.GetBillingOverviewResponse:
            return pb.GetBillingOverviewResponse(overview=_overview(await reports.overview(uow)))

        return await self._calls.read(work)


def _money(currency: str, minor: int) -> money_pb2.Money:
    """AMOUNT_OUT_OF_RANGE where the sum does not fit."""
    return money_pb2.Money(currency_code=currency, amount_minor=check_int64(minor, "amount"))


def _moneys(amounts: Mapping[str, int]) -> list[money_pb2.Money]:
    return [_money(currency, minor) for currency, minor in sorted(amounts.items())]


def _rates(rates: Iterable[Rate]) -> list[rp.ExchangeRate]:
    return [
        rp.ExchangeRate(
            base_currency_code=rate.base,
            quote_currency_code=rate.quote,
            rate_date=date_message(rate.day),
            rate=decimal_message(rate.value),
        )
        for rate in rates
    ]


def _amounts(amounts: reports.AgingAmounts) -> rp.AgingAmounts:
    current, first, second, third, older = (_money(amounts.currency_code, minor) for minor in amounts.buckets)
    return rp.AgingAmounts(
        current=current, days_1_to_30=first, days_31_to_60=second, days_61_to_90=third, over_90_days=older,
        total=_money(amounts.currency_code, amounts.total), invoice_count=amounts.invoices,
    )  # fmt: skip


def _aging(aging: reports.Aging, shown: Iterable[reports.ClientAging]) -> rp.ReceivablesAging:
    return rp.ReceivablesAging(
        as_of_date=date_message(aging.day),
        clients=[
            rp.ClientAging(
                client_id=encode(Prefix.CLIENT, each.client_id),
                client_name=each.client_name,
                amounts=_amounts(each.amounts),
            )
            for each in shown
        ],
        totals=map(_amounts, aging.totals),
        converted=None if aging.converted is None else _amounts(aging.converted),
        rates=_rates(aging.rates),
    )


def _month(month: reports.RevenueMonth) -> rp.RevenueReportMonth:
    def money(minor: int) -> money_pb2.Money:
        return _money(month.currency_code, minor)

    return rp.RevenueReportMonth(
        month=month.month, billed=money(month.billed), invoiced=money(month.invoiced), voided=money(month.voided),
        credited=money(month.credited), tax=money(month.tax), collected=money(month.collected), received=money(month.received),
        refunded=money(month.refunded), charged_back=money(month.charged_back), recognized=money(month.recognized),
        deferred=money(month.deferred), written_off=money(month.written_off),
    )  # fmt: skip


def _revenue(report: reports.RevenueReport) -> rp.RevenueReport:
    return rp.RevenueReport(
        months=map(_month, report.months),
        totals=map(_month, report.totals),
        converted=map(_month, report.converted),
        rates=_rates(report.rates),
    )


def _schedule_query(request: pb.GetRevenueScheduleRequest) -> ScheduleQuery:
    return ScheduleQuery(
        optional_id(Prefix.INVOICE, request.invoice_id, "invoice_id"),
        optional_id(Prefix.ENGAGEMENT, request.engagement_id, "engagement_id"),
        optional_id(Prefix.CLIENT, request.client_id, "client_id"),
        request.open_only,
    )


def _schedule(row: Row) -> rp.RevenueSchedule:
    def money(minor: int) -> money_pb2.Money:
        return _money(row["currency_code"], minor)

    return rp.RevenueSchedule(
        invoice_id=encode(Prefix.INVOICE, row["invoice_id"]), invoice_number=row["number"], line_no=row["line_no"],
        description=row["description"], client_id=encode(Prefix.CLIENT, row["client_id"]),
        engagement_id=id_text(Prefix.ENGAGEMENT, row["engagement_id"]), start_date=date_message(row["start_date"]),
        end_date=date_message(row["end_date"]), amount=money(row["amount_minor"]), recognized=money(row["recognized_minor"]),
        taken_back=money(row["taken_back_minor"]),
        remaining=money(row["amount_minor"] - row["recognized_minor"] - row["taken_back_minor"]),
        recognized_through_date=date_message(row["recognized_through_date"]), close_time=timestamp(row["close_time"]),
    )  # fmt: skip


def _forecast(row: Row) -> rp.RevenueForecastMonth:
    return rp.RevenueForecastMonth(month=row["month"], amount=_money(row["currency_code"], row["amount"]))


def _account(account: reports.AccountBalance) -> rp.TrialBalanceAccount:
    return rp.TrialBalanceAccount(
        account=account.account,
        debit=_money(account.currency_code, account.debit),
        credit=_money(account.currency_code, account.credit),
        balance=_money(account.currency_code, account.balance),
    )


def _trial_balance(balance: reports.TrialBalance) -> rp.TrialBalance:
    return rp.TrialBalance(
        as_of_date=date_message(balance.day),
        accounts=map(_account, balance.accounts),
        converted=map(_account, balance.converted),
        rates=_rates(balance.rates),
    )


def _tally(tally: reports.Tally, state: int = 0) -> rp.InvoiceTally:
    return rp.InvoiceTally(
        state=state,  # type: ignore[arg-type]  # the stubs want the enum's wrapper
        count=tally.count,
        totals=_moneys(tally.totals),
        amounts_due=_moneys(tally.due),
    )


def _overview(overview: reports.Overview) -> rp.BillingOverview:
    return rp.BillingOverview(
        as_of_time=timestamp(overview.now),
        states=[
            _tally(tally, enum_value(invoice_pb2.InvoiceState, state.value, "INVOICE_STATE_"))
            for state, tally in overview.states.items()
        ],
        due_soon=_tally(overview.due_soon), overdue=_tally(overview.overdue), active_client_count=overview.clients,
        active_engagement_count=overview.engagements, unbilled_engagement_count=overview.unbilled_engagements,
        unbilled_minutes=overview.unbilled_minutes, billed_this_month=_month_amounts(overview, "billed"),
        collected_this_month=_month_amounts(overview, "collected"),
        recognized_this_month=_month_amounts(overview, "recognized"), deferred=_moneys(overview.deferred),
        client_credit=_moneys(overview.credit),
    )  # fmt: skip


def _month_amounts(overview: reports.Overview, name: str) -> list[money_pb2.Money]:
    return [_money(each.currency_code, getattr(each, name)) for each in overview.month]
