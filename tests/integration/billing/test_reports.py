"""The reports against sums made in the test from what was put in, in currencies of zero, two and three decimals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from dunwell_server.billing.exchange import Rate
from dunwell_server.billing.model import Invoice, InvoiceState
from dunwell_server.billing.model.credit import CreditKind
from dunwell_server.billing.model.credit_notes import Excess
from dunwell_server.billing.service import closing, credit, credit_notes, exchange, recognition, reports
from dunwell_server.billing.store.revenue_schedules import ScheduleQuery
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.kernel.errors import Reason
from dunwell_server.kernel.ids import uuid7
from dunwell_server.kernel.money import Money
from tests.integration.billing.book import Book
from tests.integration.billing.test_recognition import at, billed, catch_up, share

MakeBook = Callable[..., Awaitable[Book]]
ALL = PageRequest(1000)


def rate(base: str, quote: str, day: date, value: str) -> Rate:
    return Rate(base, quote, day, Decimal(value))


def half_up(value: Fraction) -> int:
    return int(value + Fraction(1, 2)) if value >= 0 else -int(-value + Fraction(1, 2))


# Receivables by age ------------------------------------------------------------------------------------------------


async def test_each_day_falls_into_its_bucket(make_book: MakeBook) -> None:
    book = await make_book(clock=at(date(2026, 1, 1)))
    client = await book.client()
    ages = [-5, 0, 1, 30, 31, 60, 61, 90, 91, 400]
    today = date(2027, 3, 1)
    for position, age in enumerate(ages):
        await book.sent(
            client, f"{10**position}", due_date=today - timedelta(days=age) if age < 400 else date(2026, 1, 26)
        )
    await book.set_clock(at(today))
    found = await book.see(reports.aging, None)
    [row] = found.clients
    assert (found.day, row.client_id, row.client_name) == (today, client.id, client.name)
    assert row.amounts.buckets == (1100, 110_000, 11_000_000, 1_100_000_000, 110_000_000_000)
    assert (row.amounts.total, row.amounts.invoices) == (111_111_111_100, 10)
    assert found.totals == [row.amounts]


async def test_the_past_is_told_as_it_was(make_book: MakeBook) -> None:
    """Void, written off and drafted: each owes nothing from its day on, and what it was before."""
    book = await make_book(clock=datetime(2026, 3, 1, 12, tzinfo=UTC), time_zone="America/New_York")
    client = await book.client()
    sent = [await book.sent(client, "100", payment_terms_days=10) for _ in range(3)]
    await book.draft(client, "5000")
    # 23:30 of the 5th in New York is the 6th in UTC already.
    await book.set_clock(datetime(2026, 3, 6, 4, 30, tzinfo=UTC))
    await book.do(closing.void_invoice, sent[0].id)
    await book.set_clock(datetime(2026, 3, 15, 12, tzinfo=UTC))
    await book.do(closing.write_off_invoice, sent[1].id)
    await book.set_clock(datetime(2026, 4, 15, 12, tzinfo=UTC))
    expected = {
        date(2026, 2, 28): None, date(2026, 3, 1): (30_000, 0, 0), date(2026, 3, 4): (30_000, 0, 0), date(2026, 3, 5): (20_000, 0, 0),
        date(2026, 3, 11): (20_000, 0, 0), date(2026, 3, 12): (0, 20_000, 0), date(2026, 3, 14): (0, 20_000, 0),
        date(2026, 3, 15): (0, 10_000, 0), date(2026, 4, 10): (0, 10_000, 0), date(2026, 4, 11): (0, 0, 10_000), date(2026, 4, 15): (0, 0, 10_000),
    }  # fmt: skip
    for day, amounts in expected.items():
        found = await book.see(reports.aging, day)
        assert [each.amounts.buckets[:3] for each in found.clients] == ([amounts] if amounts else []), day
        assert [each.buckets[:3] for each in found.totals] == ([amounts] if amounts else [])
    refused = await book.refused(reports.aging, date(2026, 4, 16))
    assert refused.reason is Reason.PERIOD_INVALID


async def test_clients_come_in_pages_and_alone(make_book: MakeBook) -> None:
    book = await make_book()
    owing = [await book.client(currency_code=code) for code in ("USD", "JPY", "KWD", "USD")]
    for client in owing:
        await book.sent(client, "7")
    first = await book.see(reports.aging, None, page=PageRequest(2))
    assert [each.client_id for each in first.clients] == [client.id for client in owing[:2]]
    last = first.clients[-1]
    after = (last.client_id, last.amounts.currency_code)
    rest = await book.see(reports.aging, None, page=PageRequest(5, after))
    assert [(each.client_id, each.amounts.current) for each in rest.clients] == [
        (owing[2].id, 7_000),
        (owing[3].id, 700),
    ]
    assert rest.totals == first.totals
    assert {each.currency_code: each.current for each in rest.totals} == {"JPY": 7, "KWD": 7_000, "USD": 1_400}
    alone = await book.see(reports.aging, None, client_id=owing[1].id)
    assert [each.current for each in alone.totals] == [7]
    assert (await book.refused(reports.aging, None, client_id=uuid7())).reason is Reason.RESOURCE_NOT_FOUND


async def test_credit_and_credit_notes_are_told_as_they_were(make_book: MakeBook) -> None:
    """A prepayment pays by itself; a note gives part of it back, another reduces what is owed: each from its day on."""
    book = await make_book(clock=at(date(2026, 3, 1)))
    client = await book.client()
    await book.do(credit.grant, credit.Grant(client.id, CreditKind.PREPAYMENT, Money("USD", 4_000)))
    first = await book.sent(client, "100")
    second = await book.sent(client, "50")
    await book.set_clock(at(date(2026, 3, 5)))
    await book.do(
        credit_notes.create_credit_note, credit_notes.NoteOrder(first.id, Money("USD", 8_000), excess=Excess.CREDIT)
    )
    await book.set_clock(at(date(2026, 3, 9)))
    await book.do(credit_notes.create_credit_note, credit_notes.NoteOrder(second.id, Money("USD", 1_000)))
    await book.set_clock(at(date(2026, 3, 20)))
    owed = {day: (await book.see(reports.aging, date(2026, 3, day))).totals[0].total for day in (1, 4, 5, 8, 9, 20)}
    assert owed == {1: 11_000, 4: 11_000, 5: 5_000, 8: 5_000, 9: 4_000, 20: 4_000}
    [month] = (await book.see(reports.revenue_report, None, None)).months
    assert (month.invoiced, month.credited, month.billed, month.recognized) == (15_000, 9_000, 6_000, 6_000)
    assert (month.received, month.collected) == (4_000, 4_000)


# Exchange rates ----------------------------------------------------------------------------------------------------


async def test_amounts_are_converted_with_the_latest_rate_of_their_day_either_way(make_book: MakeBook) -> None:
    book = await make_book()
    for code, price in (("USD", "10.01"), ("JPY", "333"), ("KWD", "1.005"), ("EUR", "99.99")):
        await book.sent(await book.client(currency_code=code), price)
    await book.do(exchange.set_rates, [
        rate("USD", "EUR", date(2026, 3, 1), "0.9"), rate("USD", "EUR", date(2026, 3, 10), "0.915"), rate("USD", "EUR", date(2026, 3, 11), "0.5"),
        rate("EUR", "JPY", date(2026, 1, 1), "160.5"), rate("KWD", "EUR", date(2026, 2, 1), "3"), rate("EUR", "KWD", date(2026, 3, 2), "0.3"),
    ])  # fmt: skip
    found = await book.see(reports.aging, None, convert_to="EUR")
    expected = (
        half_up(Fraction(1001) * Fraction("0.915")) + half_up(Fraction(333 * 100) / Fraction("160.5"))
        + half_up(Fraction(1005, 10) / Fraction("0.3")) + 9999
    )  # fmt: skip
    assert found.converted is not None
    assert (found.converted.currency_code, found.converted.current, found.converted.invoices) == ("EUR", expected, 4)
    assert found.rates == [
        rate("EUR", "JPY", date(2026, 1, 1), "160.5"), rate("EUR", "KWD", date(2026, 3, 2), "0.3"), rate("USD", "EUR", date(2026, 3, 10), "0.915"),
    ]  # fmt: skip
    yen = await book.see(reports.aging, None, client_id=found.clients[0].client_id, convert_to="USD")
    assert yen.converted is not None
    assert (yen.converted.total, yen.rates) == (1001, [])
    missing = await book.refused(reports.trial_balance, None, convert_to="GBP")
    assert missing.reason is Reason.EXCHANGE_RATE_MISSING
    assert missing.metadata == {"base_currency_code": "EUR", "quote_currency_code": "GBP", "rate_date": "2026-03-10"}
    assert (await book.refused(reports.aging, None, convert_to="XXX")).reason is Reason.UNKNOWN_CURRENCY


async def test_setting_a_rate_again_replaces_it_and_wrong_ones_change_nothing(make_book: MakeBook) -> None:
    book = await make_book()
    day = date(2026, 3, 1)
    await book.do(exchange.set_rates, [rate("USD", "EUR", day, "0.9")])
    await book.do(exchange.set_rates, [rate("USD", "EUR", day, "0.8")])
    assert await book.sql("SELECT rate FROM exchange_rate") == [{"rate": Decimal("0.8")}]
    for wrong, reason, field in (
        (rate("USD", "XXX", day, "1"), Reason.UNKNOWN_CURRENCY, "rates[1].quote_currency_code"),
        (rate("USD", "USD", day, "1"), Reason.FIELD_INVALID, "rates[1].quote_currency_code"),
        (rate("USD", "JPY", day, "0"), Reason.FIELD_INVALID, "rates[1].rate"),
        (rate("USD", "JPY", day, "NaN"), Reason.FIELD_INVALID, "rates[1].rate"),
        (rate("GBP", "EUR", day, "1"), Reason.FIELD_INVALID, "rates[1]"),
    ):
        error = await book.refused(exchange.set_rates, [rate("GBP", "EUR", day, "1.1"), wrong])
        assert (error.reason, error.violations[0].field) == (reason, field)
    assert len(await book.sql("SELECT 1 FROM exchange_rate")) == 1


# Revenue -----------------------------------------------------------------------------------------------------------


async def test_revenue_by_month_is_what_was_put_in(make_book: MakeBook) -> None:
    """A year in Kolkata: sent, voided, written off and earned by the day, against sums made here from the same facts."""
    zone = ZoneInfo("Asia/Kolkata")
    book = await make_book(clock=datetime(2027, 12, 1, 6, tzinfo=UTC), time_zone="Asia/Kolkata")
    expected: dict[tuple[str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))

    def month() -> str:
        return now.astimezone(zone).strftime("%Y-%m")

    kept: list[tuple[Invoice, date, date, int, str]] = []
    clients = {code: await book.client(currency_code=code) for code in ("INR", "JPY", "KWD")}
    now = datetime(2027, 12, 1, 6, tzinfo=UTC)
    for step in range(12):
        # The last hours of each month by UTC are the first of the next one in India.
        now = datetime(2028 if step else 2027, step or 12, 28, 20, tzinfo=UTC) + timedelta(days=step % 3)
        await book.set_clock(now)
        await catch_up(book)
        for code, client in clients.items():
            plain = await book.sent(client, "12.5" if code != "JPY" else "13")
            expected[month(), code]["invoiced"] += plain.total
            expected[month(), code]["recognized"] += plain.total
            if step % 4 == 1:
                await book.do(closing.void_invoice, plain.id)
                expected[month(), code]["voided"] += plain.total
                expected[month(), code]["recognized"] -= plain.total
            if step % 4 == 2:
                await book.do(closing.write_off_invoice, plain.id)
                expected[month(), code]["written_off"] += plain.total
        start = now.astimezone(zone).date() - timedelta(days=step)
        end, code = start + timedelta(days=40 + 30 * step), ("INR", "JPY", "KWD")[step % 3]
        ahead = await billed(book, start, end, 100_003 + step, currency_code=code)
        expected[month(), code]["invoiced"] += ahead.total
        expected[month(), code]["deferred"] += ahead.total
        kept.append((ahead, start, end, ahead.total, code))
    today = now.astimezone(zone).date()
    for ahead, start, end, amount, code in kept:
        issued = ahead.issue_date
        assert issued is not None
        earned_before = 0
        day = issued
        while day < min(today, max(end, issued + timedelta(days=1))):
            earned = share(amount, min((day - start).days + 1, (end - start).days), (end - start).days)
            expected[day.strftime("%Y-%m"), code]["recognized"] += earned - earned_before
            expected[day.strftime("%Y-%m"), code]["deferred"] -= earned - earned_before
            earned_before, day = earned, day + timedelta(days=1)
    report = await book.see(reports.revenue_report, date(2027, 12, 1), today + timedelta(days=1))
    names = (
        "invoiced",
        "voided",
        "recognized",
        "deferred",
        "written_off",
        "credited",
        "tax",
        "received",
        "refunded",
        "charged_back",
    )
    assert {
        (each.month, each.currency_code): {name: getattr(each, name) for name in names} for each in report.months
    } == {key: {name: amounts[name] for name in names} for key, amounts in expected.items()}
    for each in report.months:
        assert each.billed == each.invoiced - each.voided == each.recognized + each.deferred + each.tax
    for total in report.totals:
        parts = [each for each in report.months if each.currency_code == total.currency_code]
        assert (total.month, total.invoiced) == ("", sum(each.invoiced for each in parts))
    only = await book.see(reports.revenue_report, date(2028, 2, 1), date(2028, 3, 1), currency="JPY")
    assert only.months == [each for each in report.months if (each.month, each.currency_code) == ("2028-02", "JPY")]


async def test_months_are_converted_at_their_last_day(make_book: MakeBook) -> None:
    book = await make_book(clock=at(date(2026, 1, 15)))
    dollars, yen = await book.client(), await book.client(currency_code="JPY")
    for month in (1, 2):
        await book.set_clock(at(date(2026, month, 15)))
        await book.sent(dollars, "100")
        await book.sent(yen, "1001")
    await book.do(exchange.set_rates, [rate("USD", "JPY", date(2026, 1, 1), "150"), rate("USD", "JPY", date(2026, 1, 31), "140"), rate("USD", "JPY", date(2026, 2, 20), "1")])  # fmt: skip
    report = await book.see(reports.revenue_report, None, None, convert_to="USD")
    assert report.start == date(2025, 3, 1)
    january, february = 10_000 + half_up(Fraction(100_100, 140)), 10_000 + half_up(Fraction(100_100, 140))
    assert [(each.month, each.currency_code, each.billed, each.recognized) for each in report.converted] == [
        ("2026-01", "USD", january, january), ("2026-02", "USD", february, february), ("", "USD", january + february, january + february),
    ]  # fmt: skip
    assert report.rates == [rate("USD", "JPY", date(2026, 1, 31), "140")]
    assert (
        await book.refused(reports.revenue_report, date(2026, 1, 1), date(2026, 1, 1))
    ).reason is Reason.PERIOD_INVALID
    assert (
        await book.refused(reports.revenue_report, date(2015, 1, 1), date(2026, 1, 1))
    ).reason is Reason.PERIOD_INVALID


async def test_the_trial_balance_of_any_day_adds_up_to_nothing(make_book: MakeBook) -> None:
    start = date(2026, 3, 1)
    book = await make_book(clock=at(start))
    await billed(book, start, date(2026, 3, 11), 1_000)
    await billed(book, start, date(2026, 3, 11), 10_000, currency_code="KWD")
    await book.set_clock(at(date(2026, 3, 20)))
    await catch_up(book)
    for day in range(14):
        as_of = start + timedelta(days=day)
        found = await book.see(reports.trial_balance, as_of)
        elapsed = min(day + 1, 10)
        dollars = {each.account: each.balance for each in found.accounts if each.currency_code == "USD"}
        assert dollars["revenue"] == -100 * elapsed
        assert dollars["deferred_revenue"] == -1_000 + 100 * elapsed
        assert sum(each.balance for each in found.accounts if each.currency_code == "KWD") == sum(dollars.values()) == 0
    only = await book.see(reports.trial_balance, None, currency="KWD")
    assert [(each.account, each.debit, each.credit) for each in only.accounts] == [
        ("deferred_revenue", 10_000, 10_000), ("receivable", 10_000, 0), ("revenue", 0, 10_000),
    ]  # fmt: skip
    await book.do(exchange.set_rates, [rate("KWD", "USD", start, "3.25")])
    both = await book.see(reports.trial_balance, None, convert_to="USD")
    assert {each.account: each.balance for each in both.converted} == {
        "deferred_revenue": 0,
        "receivable": 4_250,
        "revenue": -4_250,
    }
    assert both.rates == [rate("KWD", "USD", start, "3.25")]
    assert (await book.refused(reports.trial_balance, date(2026, 3, 21))).reason is Reason.PERIOD_INVALID


# Schedules and the overview ----------------------------------------------------------------------------------------


async def test_schedules_tell_what_is_earned_and_what_the_months_will_earn(make_book: MakeBook) -> None:
    start = date(2026, 1, 15)
    book = await make_book(clock=at(start))
    client = await book.client()
    engagement = await book.engagement(client, start_date=start)
    first = await book.billed(engagement, start, date(2026, 4, 15), 90_001)
    second = await billed(book, date(2026, 2, 1), date(2026, 3, 1), 500, currency_code="JPY")
    late = await billed(book, date(2026, 1, 1), date(2026, 1, 10), 700)
    await book.set_clock(at(date(2026, 2, 3)))
    months = {
        (row["month"], row["currency_code"]): row["amount"]
        for row in await book.see(reports.revenue_forecast, ScheduleQuery())
    }
    by = {month: share(90_001, day, 90) for month, day in (("2026-01", 17), ("2026-02", 45), ("2026-03", 76))}
    assert months == {
        ("2026-01", "USD"): by["2026-01"] + 700, ("2026-02", "USD"): by["2026-02"] - by["2026-01"], ("2026-02", "JPY"): 500,
        ("2026-03", "USD"): by["2026-03"] - by["2026-02"], ("2026-04", "USD"): 90_001 - by["2026-03"],
    }  # fmt: skip
    await catch_up(book)
    after = {
        (row["month"], row["currency_code"]): row["amount"]
        for row in await book.see(reports.revenue_forecast, ScheduleQuery(open_only=True))
    }
    earned = share(90_001, 19, 90)
    assert after == {
        ("2026-02", "USD"): by["2026-02"] - earned, ("2026-02", "JPY"): 500 - share(500, 2, 28),
        ("2026-03", "USD"): by["2026-03"] - by["2026-02"], ("2026-04", "USD"): 90_001 - by["2026-03"],
    }  # fmt: skip

    async def ids(**only: Any) -> list[Any]:
        rows = await book.see(reports.revenue_schedules, ScheduleQuery(**only), ALL)
        return [row["invoice_id"] for row in rows]

    assert await ids() == [first.id, second.id, late.id]
    assert await ids(open_only=True) == [first.id, second.id]
    assert (
        await ids(client_id=client.id)
        == await ids(engagement_id=engagement.id)
        == await ids(invoice_id=first.id)
        == [first.id]
    )
    assert await ids(client_id=client.id, invoice_id=second.id) == []
    [row] = await book.see(reports.revenue_schedules, ScheduleQuery(invoice_id=first.id), ALL)
    assert (row["recognized_minor"], row["recognized_through_date"], row["engagement_id"], row["number"]) == (
        earned, date(2026, 2, 3), engagement.id, first.number,
    )  # fmt: skip
    rest = await book.see(reports.revenue_schedules, ScheduleQuery(), PageRequest(5, (second.id, 1)))
    assert [each["invoice_id"] for each in rest] == [late.id]
    for unknown in (ScheduleQuery(uuid7()), ScheduleQuery(None, uuid7()), ScheduleQuery(None, None, uuid7())):
        assert (await book.refused(reports.revenue_schedules, unknown, ALL)).reason is Reason.RESOURCE_NOT_FOUND


async def test_the_overview_counts_what_there_is(make_book: MakeBook) -> None:
    book = await make_book(clock=at(date(2026, 3, 1)))
    client, yen = await book.client(), await book.client(currency_code="JPY")
    await book.engagement(client)
    late = await book.sent(client, "10", payment_terms_days=2)
    await book.set_clock(at(date(2026, 4, 10)))
    soon = await book.sent(client, "20", payment_terms_days=6)
    await book.sent(client, "40", payment_terms_days=7)
    await book.sent(yen, "500", payment_terms_days=0)
    gone = await book.sent(yen, "9")
    await book.draft(yen, "123")
    await book.do(closing.void_invoice, gone.id)
    await billed(book, date(2026, 4, 9), date(2026, 4, 19), 1_000)
    found = await book.see(reports.overview)
    states = {state: (tally.count, tally.totals, tally.due) for state, tally in found.states.items()}
    assert states == {
        InvoiceState.DRAFT: (1, {"JPY": 123}, {}),
        InvoiceState.VOID: (1, {"JPY": 9}, {}),
        InvoiceState.SENT: (5, {"JPY": 500, "USD": 8_000}, {"JPY": 500, "USD": 8_000}),
    }
    assert list(found.states) == [InvoiceState.DRAFT, InvoiceState.VOID, InvoiceState.SENT]
    assert (found.overdue.count, found.overdue.due) == (1, {"USD": late.total})
    assert (found.due_soon.count, found.due_soon.due) == (2, {"USD": soon.total, "JPY": 500})
    assert (found.clients, found.engagements, found.unbilled_engagements) == (3, 2, 1)
    assert {each.currency_code: each.billed for each in found.month} == {"JPY": 500, "USD": 7_000}
    assert (found.deferred, found.credit, found.unbilled_minutes) == ({"USD": 1_000}, {}, 0)
    assert await book.do(recognition.recognize) == []
