"""`report ageing`, `report revenue` and `report trial-balance`: tables for people, JSON, CSV files, and pictures."""

from __future__ import annotations

import csv
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from rich.markup import escape

from dunwell_server.billing.exchange import Rate
from dunwell_server.billing.service import reports
from dunwell_server.billing.service.reports import (
    Aging,
    AgingAmounts,
    ClientAging,
    RevenueMonth,
    RevenueReport,
    TrialBalance,
)
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.cli import plots
from dunwell_server.cli.output import Output, money, table
from dunwell_server.cli.problems import FAILED, USAGE, CommandError
from dunwell_server.cli.session import FirmRow, application, context, firms
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.kernel.money import to_major
from dunwell_server.platform.database import UnitOfWork

R = TypeVar("R")
BUCKETS: Final = ("Current", "1–30 days", "31–60 days", "61–90 days", "Over 90")
_BUCKET_NAMES: Final = ("current", "days_1_to_30", "days_31_to_60", "days_61_to_90", "over_90_days")
_REVENUE_NAMES: Final = (
    "billed", "invoiced", "voided", "credited", "tax", "collected", "received", "refunded", "charged_back", "recognized", "deferred", "written_off",
)  # fmt: skip
_CLIENTS_SHOWN: Final = 20
_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Outputs:
    """Where a report goes besides the terminal. `csv` may be `-`, standard output."""

    as_json: bool = False
    csv: str | None = None
    svg: Path | None = None
    png: Path | None = None

    @property
    def draws(self) -> bool:
        """A picture is asked for."""
        return self.svg is not None or self.png is not None


async def each_firm(
    firm_id: str | None, outputs: Outputs, report: Callable[[UnitOfWork], Awaitable[R]]
) -> list[tuple[FirmRow, R]]:
    """The report of the firm named, or of every active one. CommandError for outputs that do not go together."""
    if outputs.as_json and outputs.csv == "-":
        raise CommandError("give either --json or --csv -", USAGE)
    found: list[tuple[FirmRow, R]] = []
    async with application("report", pool_size=2) as app:
        for firm in await firms(app.database, "report", firm_id):
            async with app.database.transaction(context(firm.id, "report"), write=False) as uow:
                found.append((firm, await report(uow)))
    if outputs.draws and len(found) > 1:
        raise CommandError("a picture is of one firm: name it with --firm-id", USAGE)
    if not found:
        raise CommandError(
            "there is no active firm yet: CreateFirm makes one, or `dunwell demo` a whole example", FAILED
        )
    return found


def write_csv(target: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write the rows under the columns' names, to a file or, for `-`, to standard output."""
    if target == "-":
        _write_rows(sys.stdout, columns, rows)
        return
    with Path(target).open("w", encoding="utf-8", newline="") as file:
        _write_rows(file, columns, rows)


def _write_rows(file: Any, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)


def _converted_column(convert_to: str | None) -> list[str]:
    """The last column where numbers are converted: the rows with `yes` repeat the others, converted and added up."""
    return [] if convert_to is None else ["converted"]


def _marks(convert_to: str | None) -> tuple[list[str], list[str]]:
    """What a row has in that column: one as it stands, and one that is converted."""
    return ([], []) if convert_to is None else (["no"], ["yes"])


def say_rates(output: Output, rates: Sequence[Rate]) -> None:
    """The rates that converted numbers were made with."""
    for rate in rates:
        output.say(f"1 {rate.base} = {rate.value:f} {rate.quote} from {rate.day}")


def rates_json(rates: Sequence[Rate]) -> list[dict[str, Any]]:
    """The same as JSON."""
    return [
        {"base_currency_code": rate.base, "quote_currency_code": rate.quote, "rate_date": rate.day, "rate": f"{rate.value:f}"} for rate in rates
    ]  # fmt: skip


# Ageing --------------------------------------------------------------------------------------------------------------


async def ageing(*, firm_id: str | None, as_of: date | None, convert_to: str | None, outputs: Outputs) -> int:
    """What clients owe by age. Nothing is written."""

    async def report(uow: UnitOfWork) -> Aging:
        found = await reports.aging(uow, as_of, convert_to=convert_to, page=PageRequest(_PAGE))
        clients, page = list(found.clients), found.clients
        while len(page) == _PAGE:
            after = (page[-1].client_id, page[-1].amounts.currency_code)
            page = (await reports.aging(uow, as_of, page=PageRequest(_PAGE, after))).clients
            clients += page
        return reports.Aging(found.day, clients, found.totals, found.converted, found.rates)

    found = await each_firm(firm_id, outputs, report)
    output = Output(as_json=outputs.as_json)
    output.result({"command": "report ageing", "firms": [_aging_json(firm, aging) for firm, aging in found]})
    if outputs.csv is not None:
        columns = (
            "firm_id",
            "firm",
            "as_of_date",
            "client_id",
            "client",
            "currency_code",
            *_BUCKET_NAMES,
            "total",
            "invoices",
            *_converted_column(convert_to),
        )
        write_csv(outputs.csv, columns, (row for firm, aging in found for row in _aging_rows(firm, aging, convert_to)))
    if outputs.csv != "-":
        for firm, aging in found:
            _show_aging(output, firm, aging)
    if outputs.draws:
        [(firm, aging)] = found
        plots.draw(
            f"Receivables by age, {firm.display_name}", f"as of {aging.day}", _aging_panels(aging), svg=outputs.svg, png=outputs.png
        )  # fmt: skip
    return 0


def _show_aging(output: Output, firm: FirmRow, aging: Aging) -> None:
    output.say(f"\n[bold]{escape(firm.display_name)}[/bold], receivables as of {aging.day}")
    if not aging.totals:
        output.say("Nobody owes anything.")
        return
    totals = table("", *BUCKETS, "Total", "Invoices", right=[*BUCKETS, "Total", "Invoices"])
    for each in aging.totals:
        totals.add_row(each.currency_code, *_cells(each), f"{each.invoices:,}")
    if aging.converted is not None:
        totals.add_row(
            f"all in {aging.converted.currency_code}", *_cells(aging.converted), f"{aging.converted.invoices:,}"
        )
    output.say(totals)
    say_rates(output, aging.rates)
    clients = table("Client", "", *BUCKETS, "Total", right=[*BUCKETS, "Total"], title="By client")
    ranked = sorted(aging.clients, key=lambda each: (each.amounts.currency_code, -each.amounts.total))
    for owing in ranked[:_CLIENTS_SHOWN]:
        clients.add_row(escape(owing.client_name), owing.amounts.currency_code, *_cells(owing.amounts))
    output.say(clients)
    if len(ranked) > _CLIENTS_SHOWN:
        output.say(f"… and {len(ranked) - _CLIENTS_SHOWN:,} more; --csv FILE lists them.")


def _cells(amounts: AgingAmounts) -> list[str]:
    return [plain(minor, amounts.currency_code) for minor in (*amounts.buckets, amounts.total)]


def plain(minor: int, currency: str) -> str:
    """An amount without its code, for a column that has it beside; a dash for nothing."""
    return money(minor, currency).removeprefix(f"{currency} ") if minor else "–"


def _aging_rows(firm: FirmRow, aging: Aging, convert_to: str | None) -> Iterable[list[Any]]:
    plain_mark, converted_mark = _marks(convert_to)

    def row(client_id: str, name: str, amounts: AgingAmounts) -> list[Any]:
        values = major(amounts.currency_code, (*amounts.buckets, amounts.total))
        return [
            firm.public_id, firm.display_name, aging.day, client_id, name, amounts.currency_code, *values, amounts.invoices
        ]  # fmt: skip

    for each in aging.clients:
        yield [*row(encode(Prefix.CLIENT, each.client_id), each.client_name, each.amounts), *plain_mark]
    if aging.converted is not None:
        yield [*row("", "", aging.converted), *converted_mark]


def major(currency: str, amounts: Iterable[int]) -> list[str]:
    """Major units with the currency's decimals, as spreadsheets read them."""
    return [f"{to_major(minor, currency):f}" for minor in amounts]


def _aging_json(firm: FirmRow, aging: Aging) -> dict[str, Any]:
    return {
        "firm_id": firm.public_id, "display_name": firm.display_name, "as_of_date": aging.day,
        "totals": [_amounts_json(each) for each in aging.totals],
        "converted": None if aging.converted is None else _amounts_json(aging.converted), "rates": rates_json(aging.rates),
        "clients": [_client_json(each) for each in aging.clients],
    }  # fmt: skip


def _client_json(each: ClientAging) -> dict[str, Any]:
    return {
        "client_id": encode(Prefix.CLIENT, each.client_id),
        "client_name": each.client_name,
        **_amounts_json(each.amounts),
    }


def _amounts_json(amounts: AgingAmounts) -> dict[str, Any]:
    minor = {f"{name}_minor": value for name, value in zip(_BUCKET_NAMES, amounts.buckets, strict=True)}
    return {"currency_code": amounts.currency_code, **minor, "total_minor": amounts.total, "invoices": amounts.invoices}


def _aging_panels(aging: Aging) -> list[plots.Panel]:
    totals = aging.totals if aging.converted is None else [aging.converted]
    return [
        plots.Panel(each.currency_code, BUCKETS, {"owed": each.buckets}, plots.AGES, horizontal=True, by_category=True) for each in totals
    ]  # fmt: skip


# Revenue -------------------------------------------------------------------------------------------------------------


async def revenue(
    *,
    firm_id: str | None,
    start: date | None,
    until: date | None,
    currency: str | None,
    convert_to: str | None,
    outputs: Outputs,
) -> int:
    """Revenue billed, collected and recognised by month. Nothing is written."""

    async def report(uow: UnitOfWork) -> RevenueReport:
        return await reports.revenue_report(uow, start, until, currency=currency, convert_to=convert_to)

    found = await each_firm(firm_id, outputs, report)
    output = Output(as_json=outputs.as_json)
    output.result({"command": "report revenue", "firms": [_revenue_json(firm, each) for firm, each in found]})
    if outputs.csv is not None:
        columns = ("firm_id", "firm", "month", "currency_code", *_REVENUE_NAMES, *_converted_column(convert_to))
        write_csv(outputs.csv, columns, (row for firm, each in found for row in _revenue_rows(firm, each, convert_to)))
    if outputs.csv != "-":
        for firm, each in found:
            _show_revenue(output, firm, each)
    if outputs.draws:
        [(firm, drawn)] = found
        plots.draw(
            f"Revenue by month, {firm.display_name}", f"{drawn.start} to {drawn.end - timedelta(days=1)}", _revenue_panels(drawn),
            svg=outputs.svg, png=outputs.png,
        )  # fmt: skip
    return 0


def _show_revenue(output: Output, firm: FirmRow, report: RevenueReport) -> None:
    last = report.end - timedelta(days=1)
    output.say(f"\n[bold]{escape(firm.display_name)}[/bold], revenue from {report.start} to {last}")
    if not report.months:
        output.say("Nothing moved.")
        return
    for total in report.totals:
        _show_months(output, [each for each in report.months if each.currency_code == total.currency_code], total)
    if report.converted:
        _show_months(output, report.converted[:-1], report.converted[-1], converted=True)
        say_rates(output, report.rates)


def _show_months(
    output: Output, months: Sequence[RevenueMonth], total: RevenueMonth, *, converted: bool = False
) -> None:
    names = ("Billed", "of it tax", "Collected", "Recognised", "Deferred", "Written off")
    rows = table(
        "Month", *names, right=names, title=f"All in {total.currency_code}" if converted else total.currency_code
    )
    for each in (*months, total):
        values = (each.billed, each.tax, each.collected, each.recognized, each.deferred, each.written_off)
        cells = [plain(value, each.currency_code) for value in values]
        rows.add_row(each.month or "Sum", *cells, style=None if each.month else "bold")
    output.say(rows)


def _revenue_rows(firm: FirmRow, report: RevenueReport, convert_to: str | None) -> Iterable[list[Any]]:
    # The converted months end with their sum, which is not a month.
    for months, mark in zip((report.months, report.converted[:-1]), _marks(convert_to), strict=True):
        for each in months:
            amounts = major(each.currency_code, (getattr(each, name) for name in _REVENUE_NAMES))
            yield [firm.public_id, firm.display_name, each.month, each.currency_code, *amounts, *mark]


def _revenue_json(firm: FirmRow, report: RevenueReport) -> dict[str, Any]:
    def month(each: RevenueMonth) -> dict[str, Any]:
        amounts = {f"{name}_minor": getattr(each, name) for name in _REVENUE_NAMES}
        return {"month": each.month, "currency_code": each.currency_code, **amounts}

    return {
        "firm_id": firm.public_id, "display_name": firm.display_name, "start_date": report.start, "end_date": report.end,
        "months": list(map(month, report.months)), "totals": list(map(month, report.totals)),
        "converted": list(map(month, report.converted)), "rates": rates_json(report.rates),
    }  # fmt: skip


def _revenue_panels(report: RevenueReport) -> list[plots.Panel]:
    months = report.converted[:-1] or report.months
    panels = []
    for currency in sorted({each.currency_code for each in months}):
        by_month = {each.month: each for each in months if each.currency_code == currency}
        names = list(_months_between(min(by_month), max(by_month)))
        rows = [by_month.get(name, RevenueMonth(name, currency)) for name in names]
        series = {
            "billed": [each.billed for each in rows], "collected": [each.collected for each in rows], "recognised": [each.recognized for each in rows],
        }  # fmt: skip
        panels.append(plots.Panel(currency, names, series, plots.SERIES))
    return panels


def _months_between(first: str, last: str) -> Iterable[str]:
    number, end = (int(text[:4]) * 12 + int(text[5:]) - 1 for text in (first, last))
    while number <= end:
        yield f"{number // 12:04d}-{number % 12 + 1:02d}"
        number += 1


# Trial balance -------------------------------------------------------------------------------------------------------


async def trial_balance(
    *, firm_id: str | None, as_of: date | None, currency: str | None, convert_to: str | None, outputs: Outputs
) -> int:
    """Every account of the ledger. Nothing is written."""

    async def report(uow: UnitOfWork) -> TrialBalance:
        return await reports.trial_balance(uow, as_of, currency=currency, convert_to=convert_to)

    found = await each_firm(firm_id, outputs, report)
    output = Output(as_json=outputs.as_json)
    output.result({"command": "report trial-balance", "firms": [_balance_json(firm, each) for firm, each in found]})
    if outputs.csv is not None:
        names = ("firm_id", "firm", "as_of_date", "currency_code", "account", "debit", "credit", "balance")
        columns = (*names, *_converted_column(convert_to))
        write_csv(outputs.csv, columns, (row for firm, each in found for row in _balance_rows(firm, each, convert_to)))
    if outputs.csv != "-":
        for firm, each in found:
            _show_balance(output, firm, each)
    if outputs.draws:
        [(firm, drawn)] = found
        title = f"Trial balance, {firm.display_name}"
        subtitle = f"as of {drawn.day}; debit balances to the right, credit balances to the left"
        plots.draw(title, subtitle, _balance_panels(drawn), svg=outputs.svg, png=outputs.png)
    return 0


def _show_balance(output: Output, firm: FirmRow, report: TrialBalance) -> None:
    output.say(f"\n[bold]{escape(firm.display_name)}[/bold], trial balance as of {report.day}")
    if not report.accounts:
        output.say("No account has moved.")
        return
    names = ("Debits", "Credits", "Balance")
    for currency, accounts in _by_currency(report.accounts):
        _show_accounts(output, currency, accounts, names)
    if report.converted:
        _show_accounts(output, f"All in {report.converted[0].currency_code}", report.converted, names)
        say_rates(output, report.rates)


def _show_accounts(
    output: Output, title: str, accounts: Sequence[reports.AccountBalance], names: Sequence[str]
) -> None:
    rows = table("Account", *names, right=names, title=title)
    for each in accounts:
        cells = [plain(value, each.currency_code) for value in (each.debit, each.credit, each.balance)]
        rows.add_row(each.account.replace("_", " "), *cells)
    code, sums = (
        accounts[0].currency_code,
        (sum(each.debit for each in accounts), sum(each.credit for each in accounts)),
    )
    rows.add_row("Sum", *(plain(value, code) for value in (*sums, sums[0] - sums[1])), style="bold")
    output.say(rows)


def _by_currency(accounts: Sequence[reports.AccountBalance]) -> list[tuple[str, list[reports.AccountBalance]]]:
    codes = sorted({each.currency_code for each in accounts})
    return [(code, [each for each in accounts if each.currency_code == code]) for code in codes]


def _balance_rows(firm: FirmRow, report: TrialBalance, convert_to: str | None) -> Iterable[list[Any]]:
    for accounts, mark in zip((report.accounts, report.converted), _marks(convert_to), strict=True):
        for each in accounts:
            amounts = major(each.currency_code, (each.debit, each.credit, each.balance))
            yield [firm.public_id, firm.display_name, report.day, each.currency_code, each.account, *amounts, *mark]


def _balance_json(firm: FirmRow, report: TrialBalance) -> dict[str, Any]:
    def account(each: reports.AccountBalance) -> dict[str, Any]:
        return {
            "account": each.account, "currency_code": each.currency_code, "debit_minor": each.debit, "credit_minor": each.credit,
            "balance_minor": each.balance,
        }  # fmt: skip

    return {
        "firm_id": firm.public_id, "display_name": firm.display_name, "as_of_date": report.day,
        "accounts": list(map(account, report.accounts)), "converted": list(map(account, report.converted)),
        "rates": rates_json(report.rates),
    }  # fmt: skip


def _balance_panels(report: TrialBalance) -> list[plots.Panel]:
    panels = []
    for currency, accounts in _by_currency(report.converted or report.accounts):
        moved = [each for each in accounts if each.balance]
        names = [each.account.replace("_", " ") for each in moved]
        colours = [plots.SERIES[0] if each.balance > 0 else plots.SERIES[2] for each in moved]
        if moved:
            series = {"balance": [each.balance for each in moved]}
            panels.append(plots.Panel(currency, names, series, colours, horizontal=True, by_category=True))
    return panels
