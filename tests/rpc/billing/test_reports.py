"""The reports through a real channel."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from google.type.decimal_pb2 import Decimal
from grpc import StatusCode

from dunwell.v1 import billing_service_pb2 as pb
from dunwell.v1 import invoice_pb2, money_pb2, range_pb2, report_pb2
from dunwell_server.billing.service import recognition
from dunwell_server.kernel.ids import Prefix
from dunwell_server.platform.context import Role
from tests import support
from tests.rpc.billing.conftest import Served
from tests.rpc.billing.requests import day, exchange_rate, line, new_client, new_engagement, new_invoice, unknown, usd

READS = ("GetBillingOverview", "GetReceivablesAging", "GetRevenueReport", "GetRevenueSchedule", "GetTrialBalance")


def money(code: str, minor: int) -> money_pb2.Money:
    return money_pb2.Money(currency_code=code, amount_minor=minor)


def share_of_march(days: int) -> int:
    """What the first days of March earn of 1,000.00, half away from zero."""
    return (2 * 100_000 * days + 31) // (2 * 31)


async def aging(served: Served, **fields: Any) -> Any:
    return await served.call("GetReceivablesAging", pb.GetReceivablesAgingRequest(**fields), Role.READER)


async def billed_ahead(served: Served) -> tuple[str, str]:
    """An engagement whose March is billed in advance on the 10th, and its client."""
    client = await new_client(served)
    made = await new_engagement(served, client.id, start_date=day(2026, 3, 1))
    async for _ in served.start("GeneratePackageInvoices", pb.GeneratePackageInvoicesRequest(engagement_id=made.id)):
        pass
    return client.id, made.id


async def live_until(served: Served, *moment: int) -> None:
    assert served.firm.firm_id is not None
    await support.set_clock(served.db, served.firm.firm_id, datetime(*moment, tzinfo=UTC))  # type: ignore[arg-type, misc]
    while await served.db.run(served.firm, recognition.recognize):
        pass


async def test_receivables_by_age(served: Served) -> None:
    dollars, yen = await new_client(served, name="Ada"), await new_client(served, currency_code="JPY")
    await new_invoice(served, dollars.id, line("100"), payment_terms_days=0)
    await new_invoice(served, yen.id, line("700"), payment_terms_days=60)
    await live_until(served, 2026, 4, 20, 12)
    reply = await aging(served)
    assert reply.aging.as_of_date == day(2026, 4, 20)
    assert [(each.client_id, each.client_name, each.amounts.total) for each in reply.aging.clients] == [
        (dollars.id, "Ada", usd(10_000)), (yen.id, "Ada Byron", money("JPY", 700)),
    ]  # fmt: skip
    assert reply.aging.clients[0].amounts == report_pb2.AgingAmounts(
        current=usd(0), days_1_to_30=usd(0), days_31_to_60=usd(10_000), days_61_to_90=usd(0), over_90_days=usd(0), total=usd(10_000), invoice_count=1,
    )  # fmt: skip
    assert [each.current for each in reply.aging.totals] == [money("JPY", 700), usd(0)]
    past = await aging(served, as_of_date=day(2026, 3, 11), client_id=dollars.id)
    assert [each.days_1_to_30 for each in past.aging.totals] == [usd(10_000)]
    assert not (await aging(served, as_of_date=day(2026, 3, 9))).aging.totals
    first = await aging(served, page_size=1)
    assert len(first.aging.clients) == 1
    assert first.next_page_token
    second = await aging(served, page_size=1, page_token=first.next_page_token)
    assert [each.client_id for each in second.aging.clients] == [yen.id]
    assert (second.next_page_token, second.aging.totals) == ("", first.aging.totals)


async def test_reports_are_converted_where_asked_and_tell_the_rates(served: Served) -> None:
    dollars, yen = await new_client(served), await new_client(served, currency_code="JPY")
    await new_invoice(served, dollars.id, line("100"))
    await new_invoice(served, yen.id, line("1475"))
    refused = await served.refused("GetReceivablesAging", pb.GetReceivablesAgingRequest(convert_to_currency_code="USD"))
    assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "EXCHANGE_RATE_MISSING")
    assert refused.metadata == {"base_currency_code": "JPY", "quote_currency_code": "USD", "rate_date": "2026-03-10"}
    rates = [exchange_rate("USD", "JPY", "147.5"), exchange_rate("EUR", "USD", "1.08")]
    reply = await served.call("SetExchangeRates", pb.SetExchangeRatesRequest(rates=rates))
    assert list(reply.rates) == rates
    found = (await aging(served, convert_to_currency_code="USD")).aging
    assert (found.converted.total, found.converted.invoice_count, list(found.rates)) == (usd(11_000), 2, rates[:1])
    assert not (await aging(served)).aging.HasField("converted")
    wanted = pb.GetRevenueReportRequest(convert_to_currency_code="JPY")
    revenue = (await served.call("GetRevenueReport", wanted, Role.READER)).report
    assert [(each.month, each.billed) for each in revenue.converted] == [
        ("2026-03", money("JPY", 16_225)),
        ("", money("JPY", 16_225)),
    ]
    assert list(revenue.rates) == rates[:1]
    trial = (
        await served.call("GetTrialBalance", pb.GetTrialBalanceRequest(convert_to_currency_code="JPY"), Role.READER)
    ).trial_balance
    assert [(each.account, each.balance.amount_minor) for each in trial.converted] == [
        ("receivable", 16_225),
        ("revenue", -16_225),
    ]
    assert list(trial.rates) == rates[:1]


@pytest.mark.parametrize(
    ("rates", "reason", "field"),
    [
        ([exchange_rate("USD", "XXX", "1")], "UNKNOWN_CURRENCY", "rates[0].quote_currency_code"),
        ([exchange_rate("USD", "USD", "1")], "FIELD_INVALID", "rates[0].quote_currency_code"),
        ([exchange_rate("USD", "EUR", "0")], "FIELD_INVALID", "rates[0].rate"),
        ([exchange_rate("USD", "EUR", "cheap")], "FIELD_INVALID", "rates[0].rate"),
        ([exchange_rate("USD", "EUR", "1", day(2026, 2, 30))], "FIELD_INVALID", "rates[0].rate_date"),
        ([exchange_rate("USD", "EUR", "1"), exchange_rate("USD", "EUR", "2")], "FIELD_INVALID", "rates[1]"),
        ([exchange_rate("usd", "EUR", "1")], "FIELD_INVALID", "rates[0].base_currency_code"),
        ([], "FIELD_INVALID", "rates"),
    ],
)
async def test_wrong_rates_are_refused_by_name(
    served: Served, rates: Sequence[report_pb2.ExchangeRate], reason: str, field: str
) -> None:
    refused = await served.refused("SetExchangeRates", pb.SetExchangeRatesRequest(rates=rates))
    assert refused.reason == reason
    assert refused.details["BadRequest"].field_violations[0].field == field


async def test_deferred_revenue_and_its_months(served: Served) -> None:
    client_id, engagement_id = await billed_ahead(served)
    await live_until(served, 2026, 3, 21, 12)
    wanted = pb.GetRevenueScheduleRequest(engagement_id=engagement_id)
    reply = await served.call("GetRevenueSchedule", wanted, Role.READER)
    [schedule] = reply.schedules
    earned = share_of_march(20)
    assert (schedule.client_id, schedule.engagement_id, schedule.line_no) == (client_id, engagement_id, 1)
    assert (schedule.start_date, schedule.end_date, schedule.recognized_through_date) == (
        day(2026, 3, 1),
        day(2026, 4, 1),
        day(2026, 3, 21),
    )
    assert (schedule.amount, schedule.recognized, schedule.taken_back, schedule.remaining) == (
        usd(100_000), usd(earned), usd(0), usd(100_000 - earned),
    )  # fmt: skip
    assert schedule.invoice_number == "INV-2026-000001"
    assert schedule.description.startswith("Bookkeeping")
    assert not schedule.HasField("close_time")
    assert [(each.month, each.amount) for each in reply.forecast] == [("2026-03", usd(100_000 - earned))]
    await live_until(served, 2026, 4, 1, 12)
    done = await served.call(
        "GetRevenueSchedule", pb.GetRevenueScheduleRequest(invoice_id=schedule.invoice_id), Role.READER
    )
    assert done.schedules[0].HasField("close_time")
    assert not done.forecast
    open_ones = pb.GetRevenueScheduleRequest(client_id=client_id, open_only=True)
    assert not (await served.call("GetRevenueSchedule", open_ones, Role.READER)).ListFields()


async def test_revenue_the_trial_balance_and_the_overview(served: Served) -> None:
    client_id, _ = await billed_ahead(served)
    await new_invoice(served, client_id, line("10"), payment_terms_days=2)
    await new_invoice(served, client_id, finalize=False)
    await live_until(served, 2026, 3, 21, 12)
    span = range_pb2.DateRange(start_date=day(2026, 3, 1), end_date=day(2026, 4, 1))
    report = (await served.call("GetRevenueReport", pb.GetRevenueReportRequest(range=span), Role.READER)).report
    [month] = report.months
    earned = share_of_march(20)
    assert (month.month, month.billed, month.invoiced, month.collected) == (
        "2026-03",
        usd(101_000),
        usd(101_000),
        usd(0),
    )
    assert (month.recognized, month.deferred, month.tax) == (usd(earned + 1_000), usd(100_000 - earned), usd(0))
    assert report.totals[0].billed == month.billed
    trial = (await served.call("GetTrialBalance", pb.GetTrialBalanceRequest(), Role.READER)).trial_balance
    assert {each.account: each.balance for each in trial.accounts} == {
        "deferred_revenue": usd(earned - 100_000), "receivable": usd(101_000), "revenue": usd(-earned - 1_000),
    }  # fmt: skip
    past = pb.GetTrialBalanceRequest(as_of_date=day(2026, 3, 10), currency_code="USD")
    then = (await served.call("GetTrialBalance", past, Role.READER)).trial_balance
    balances = {each.account: each.balance.amount_minor for each in then.accounts}
    assert balances["revenue"] == -share_of_march(10) - 1_000
    overview = (await served.call("GetBillingOverview", pb.GetBillingOverviewRequest(), Role.READER)).overview
    assert overview.as_of_time.ToJsonString() == "2026-03-21T12:00:00Z"
    assert [(each.state, each.count) for each in overview.states] == [
        (invoice_pb2.INVOICE_STATE_DRAFT, 1), (invoice_pb2.INVOICE_STATE_SENT, 2),
    ]  # fmt: skip
    assert (overview.overdue.count, list(overview.overdue.amounts_due)) == (1, [usd(1_000)])
    assert (overview.due_soon.count, overview.active_client_count, overview.active_engagement_count) == (0, 1, 1)
    assert list(overview.billed_this_month) == [usd(101_000)]
    assert list(overview.recognized_this_month) == [usd(earned + 1_000)]
    assert list(overview.deferred) == [usd(100_000 - earned)]


async def test_what_is_asked_wrongly_is_refused_by_name(served: Served) -> None:
    ahead = day(2026, 3, 11)
    for rpc, request, reason in (
        ("GetReceivablesAging", pb.GetReceivablesAgingRequest(as_of_date=ahead), "PERIOD_INVALID"),
        ("GetTrialBalance", pb.GetTrialBalanceRequest(as_of_date=ahead), "PERIOD_INVALID"),
        ("GetReceivablesAging", pb.GetReceivablesAgingRequest(client_id=unknown(Prefix.CLIENT)), "RESOURCE_NOT_FOUND"),
        ("GetRevenueSchedule", pb.GetRevenueScheduleRequest(invoice_id=unknown(Prefix.INVOICE)), "RESOURCE_NOT_FOUND"),
        ("GetRevenueSchedule", pb.GetRevenueScheduleRequest(engagement_id=unknown(Prefix.CLIENT)), "FIELD_INVALID"),
        ("GetTrialBalance", pb.GetTrialBalanceRequest(convert_to_currency_code="XXX"), "UNKNOWN_CURRENCY"),
        ("GetRevenueReport", pb.GetRevenueReportRequest(currency_code="XXX"), "UNKNOWN_CURRENCY"),
        ("GetReceivablesAging", pb.GetReceivablesAgingRequest(page_token="nonsense"), "PAGE_TOKEN_INVALID"),
    ):
        assert (await served.refused(rpc, request)).reason == reason, rpc


async def test_sums_that_do_not_fit_are_refused_each_client_is_still_told(served: Served) -> None:
    clients = [(await new_client(served, name=name)).id for name in ("Ada", "Bob")]
    for client_id in clients:
        await new_invoice(served, client_id, line("999999999999", quantity=Decimal(value="80000")))
    for rpc in ("GetBillingOverview", "GetReceivablesAging", "GetRevenueReport", "GetTrialBalance"):
        refused = await served.refused(rpc, getattr(pb, f"{rpc}Request")(), Role.READER)
        assert (refused.reason, refused.code) == ("AMOUNT_OUT_OF_RANGE", StatusCode.INVALID_ARGUMENT), rpc
    (one,) = (await aging(served, client_id=clients[0])).aging.clients
    assert one.amounts.total == usd(7_999_999_999_992_000_000)


async def test_other_firms_see_nothing_and_sidecars_are_refused(served: Served) -> None:
    client_id, _ = await billed_ahead(served)
    await new_invoice(served, client_id)
    other = await support.add_firm(served.db, clock=datetime(2026, 3, 10, 12, tzinfo=UTC))
    for rpc in READS:
        request = getattr(pb, f"{rpc}Request")()
        assert (await served.refused(rpc, request, Role.SIDECAR)).reason == "PERMISSION_DENIED"
        reply = await served.call(rpc, request, Role.READER, firm=other.firm_id)
        assert "USD" not in str(reply), rpc
        assert "USD" in str(await served.call(rpc, request, Role.READER)), rpc
