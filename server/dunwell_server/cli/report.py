"""`report payments`: how collection went, as tables and bars for people, as JSON, or as CSV."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.markup import escape

from dunwell_server.cli.output import Output, amount_lines, amounts, table
from dunwell_server.cli.problems import FAILED, USAGE, CommandError
from dunwell_server.cli.session import FirmRow, application, context, firms
from dunwell_server.cli.spans import parse_moment
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments.model import PaymentMethod
from dunwell_server.payments.service.reports import PaymentReport, SlotTally, Tally, payment_report

COMMAND: Final = "report payments"
CSV_COLUMNS: Final = (
    "firm_id", "firm", "part", "name", "currency_code", "finished", "failed", "succeeded", "rate", "amount_minor",
)  # fmt: skip
_BAR: Final = 24
_METHODS_SHOWN: Final = 15


async def payments(
    *,
    firm_id: str | None,
    since: str | None,
    until: str | None,
    currency: str | None,
    provider: str | None,
    as_json: bool,
    as_csv: bool,
) -> int:
    """Report one firm or every active one. Nothing is written."""
    if as_json and as_csv:
        raise CommandError("give either --json or --csv", USAGE)
    output = Output(as_json=as_json)
    start, end = _moment(since, "--since"), _moment(until, "--until")
    found: list[tuple[FirmRow, PaymentReport]] = []
    async with application("report", pool_size=2) as app:
        for firm in await firms(app.database, "report", firm_id):
            async with app.database.transaction(context(firm.id, "report"), write=False) as uow:
                report = await payment_report(uow, start, end, currency=currency, provider=provider)
            found.append((firm, report))
    if as_csv:
        _write_csv(found)
        return 0
    output.result({"command": COMMAND, "firms": [_as_json(firm, report) for firm, report in found]})
    if not found:
        output.say("There is no active firm yet. CreateFirm makes one, or `dunwell demo` a whole example.")
        return FAILED
    for firm, report in found:
        _show(firm, report, output)
    return 0


def _moment(text: str | None, option: str) -> datetime | None:
    return parse_moment(text, UTC, option) if text is not None else None


def bar(share: float, width: int = _BAR) -> str:
    """A share of 1 as a bar of `width` places; what is not nothing shows."""
    filled = min(width, round(share * width)) or (1 if share > 0 else 0)
    return "█" * filled + "░" * (width - filled)


def _show(firm: FirmRow, report: PaymentReport, output: Output) -> None:
    total = report.total
    output.say(f"\n[bold]{escape(firm.display_name)}[/bold], {report.since:%Y-%m-%d} to {report.until:%Y-%m-%d}")
    if total.finished:
        output.say(f"{total.finished:,} payments ended, {total.failed:,} of them failed ({total.rate:.1%}).")
    else:
        output.say("No payment came to an end.")
    _show_tallies(output, "Failure rate by month", "Month", report.months)
    if len(report.providers) > 1:
        _show_tallies(output, "Failure rate by provider", "Provider", report.providers)
    _show_codes(output, report)
    _show_slots(output, report.slots)
    if report.invoices_at_risk or report.exhausted:
        output.say(
            f"\nAt risk: {amounts(report.at_risk)} on {report.invoices_at_risk:,} invoices that wait for a retry; "
            f"after their last retry: {amounts(report.exhausted)}."
        )
    _show_methods(output, report)


def _show_tallies(output: Output, title: str, heading: str, tallies: Sequence[Tally]) -> None:
    if not tallies:
        return
    rows = table(heading, "Ended", "Failed", "Rate", "", right=["Ended", "Failed", "Rate"], title=title)
    for each in tallies:
        rows.add_row(escape(each.name), f"{each.finished:,}", f"{each.failed:,}", f"{each.rate:.1%}", bar(each.rate))
    output.say(rows)


def _show_codes(output: Output, report: PaymentReport) -> None:
    failures = sum(code.count for code in report.codes)
    if not failures:
        return
    rows = table(
        "Why", "Times", "Share", "", "Asked for", right=["Times", "Share", "Asked for"], title="Why payments failed"
    )
    for each in report.codes:
        share = each.count / failures
        rows.add_row(
            each.code.replace("_", " "), f"{each.count:,}", f"{share:.1%}", bar(share), amount_lines(each.amounts)
        )
    output.say(rows)


def _show_slots(output: Output, slots: Sequence[SlotTally]) -> None:
    if not slots:
        return
    rows = table(
        "Try", "Ended", "Paid", "Rate", "", "Brought in", right=["Ended", "Paid", "Rate", "Brought in"], title="What each try brought in",
    )  # fmt: skip
    for each in slots:
        name = "first try" if each.slot == 0 else f"retry {each.slot}"
        rows.add_row(
            name,
            f"{each.finished:,}",
            f"{each.succeeded:,}",
            f"{each.rate:.1%}",
            bar(each.rate),
            amount_lines(each.amounts),
        )
    output.say(rows)


def _show_methods(output: Output, report: PaymentReport) -> None:
    if not report.expiring_count:
        return
    rows = table("Card", "Expires", "Client", title=f"Cards that expire within 30 days: {report.expiring_count:,}")
    for method in report.expiring[:_METHODS_SHOWN]:
        rows.add_row(_card(method), _expiry(method), encode(Prefix.CLIENT, method.client_id))
    output.say(rows)
    if report.expiring_count > _METHODS_SHOWN:
        output.say(f"… and {report.expiring_count - _METHODS_SHOWN:,} more; --json lists them.")


def _card(method: PaymentMethod) -> str:
    return escape(f"{method.brand or method.kind} {method.last4 or ''}".strip())


def _expiry(method: PaymentMethod) -> str:
    return f"{method.exp_year:04d}-{method.exp_month:02d}" if method.exp_year and method.exp_month else "–"


def _write_csv(found: Sequence[tuple[FirmRow, PaymentReport]]) -> None:
    writer = csv.DictWriter(sys.stdout, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for firm, report in found:
        for row in _csv_rows(report):
            writer.writerow({"firm_id": firm.public_id, "firm": firm.display_name, **row})


def _csv_rows(report: PaymentReport) -> Iterator[dict[str, Any]]:
    """One line per number, in the long form that spreadsheets pivot."""
    for part, tallies in (("total", [report.total]), ("month", report.months), ("provider", report.providers)):
        for each in tallies:
            yield {
                "part": part,
                "name": each.name,
                "finished": each.finished,
                "failed": each.failed,
                "rate": f"{each.rate:.6f}",
            }
    for code in report.codes:
        yield {"part": "code", "name": code.code, "failed": code.count}
        yield from _csv_amounts("code", code.code, code.amounts)
    for slot in report.slots:
        yield {
            "part": "slot", "name": slot.slot, "finished": slot.finished, "succeeded": slot.succeeded, "rate": f"{slot.rate:.6f}",
        }  # fmt: skip
        yield from _csv_amounts("slot", slot.slot, slot.amounts)
    yield from _csv_amounts("at_risk", "", report.at_risk)
    yield from _csv_amounts("exhausted", "", report.exhausted)


def _csv_amounts(part: str, name: object, by_currency: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    for currency, minor in sorted(by_currency.items()):
        yield {"part": part, "name": name, "currency_code": currency, "amount_minor": minor}


def _as_json(firm: FirmRow, report: PaymentReport) -> dict[str, Any]:
    failures = sum(code.count for code in report.codes)
    return {
        "firm_id": firm.public_id, "display_name": firm.display_name, "since": report.since, "until": report.until,
        "finished": report.total.finished, "failed": report.total.failed, "failure_rate": report.total.rate,
        "months": [_tally_json("month", each) for each in report.months],
        "providers": [_tally_json("provider", each) for each in report.providers],
        "codes": [
            {"code": each.code, "count": each.count, "share": each.count / failures, "amounts": each.amounts} for each in report.codes
        ],
        "slots": [
            {"slot": each.slot, "finished": each.finished, "succeeded": each.succeeded, "recovery_rate": each.rate, "amounts": each.amounts}
            for each in report.slots
        ],
        "amounts_at_risk": report.at_risk, "invoices_at_risk": report.invoices_at_risk, "amounts_exhausted": report.exhausted,
        "expiring_count": report.expiring_count,
        "expiring": [
            {
                "payment_method_id": encode(Prefix.PAYMENT_METHOD, method.id), "client_id": encode(Prefix.CLIENT, method.client_id),
                "card": f"{method.brand or method.kind} {method.last4 or ''}".strip(), "expires": _expiry(method),
            }
            for method in report.expiring
        ],
    }  # fmt: skip


def _tally_json(kind: str, tally: Tally) -> dict[str, Any]:
    return {kind: tally.name, "finished": tally.finished, "failed": tally.failed, "failure_rate": tally.rate}
