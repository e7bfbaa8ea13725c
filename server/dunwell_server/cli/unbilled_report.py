"""`report unbilled`: work in progress by client, engagement and age, as tables, JSON, a CSV file, and a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, Final
from uuid import UUID

from rich.markup import escape

from dunwell_server.billing.service.engagements import today
from dunwell_server.billing.service.unbilled import EngagementWork, UnbilledSum, list_unbilled_work
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.billing.store.unbilled import UnbilledQuery
from dunwell_server.cli import plots
from dunwell_server.cli.finance_reports import Outputs, each_firm, major, plain, write_csv
from dunwell_server.cli.output import Output, table
from dunwell_server.cli.session import FirmRow
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.platform.database import UnitOfWork

AGES: Final = ("0–30 days", "31–60 days", "61–90 days", "Over 90")
_AGE_NAMES: Final = ("days_0_to_30", "days_31_to_60", "days_61_to_90", "over_90_days")
_SHOWN: Final = 30
_DRAWN: Final = 12
_PAGE: Final = 1000
_NAMES: Final = """
SELECT id, name FROM client WHERE firm_id = %(firm_id)s AND id = ANY(%(clients)s)
UNION ALL SELECT id, name FROM engagement WHERE firm_id = %(firm_id)s AND id = ANY(%(engagements)s)
"""


@dataclass(frozen=True, slots=True)
class Unbilled:
    """The unbilled work of a firm up to a day: every engagement's, approved sums by currency, and the names of what is named."""

    day: date
    work: list[EngagementWork]
    totals: dict[str, UnbilledSum]
    names: dict[UUID, str]


async def unbilled(*, firm_id: str | None, as_of: date | None, outputs: Outputs) -> int:
    """Report one firm or every active one. Nothing is written."""

    async def report(uow: UnitOfWork) -> Unbilled:
        query = UnbilledQuery(as_of=as_of)
        work, totals = await list_unbilled_work(uow, query, PageRequest(_PAGE))
        page = work
        while len(page) == _PAGE:
            after = (page[-1].client_id, page[-1].engagement_id)
            page, _ = await list_unbilled_work(uow, query, PageRequest(_PAGE, after))
            work = [*work, *page]
        wanted = {"clients": [each.client_id for each in work], "engagements": [each.engagement_id for each in work]}
        names = await uow.fetch_all(_NAMES, {"firm_id": uow.firm_id, **wanted})
        return Unbilled(as_of or today(uow), work, totals, {row["id"]: row["name"] for row in names})

    found = await each_firm(firm_id, outputs, report)
    output = Output(as_json=outputs.as_json)
    output.result({"command": "report unbilled", "firms": [_json(firm, each) for firm, each in found]})
    if outputs.csv is not None:
        columns = (
            "firm_id", "firm", "as_of_date", "client_id", "client", "engagement_id", "engagement", "currency_code", *_AGE_NAMES, "approved",
            "submitted", "draft", "approved_minutes", "oldest_work_date",
        )  # fmt: skip
        write_csv(outputs.csv, columns, (row for firm, each in found for row in _rows(firm, each)))
    if outputs.csv != "-":
        for firm, each in found:
            _show(output, firm, each)
    if outputs.draws:
        [(firm, drawn)] = found
        title, subtitle = f"Unbilled work, {firm.display_name}", f"approved and on no invoice, by age as of {drawn.day}"
        plots.draw(title, subtitle, _panels(drawn), svg=outputs.svg, png=outputs.png)
    return 0


def _ranked(work: Iterable[EngagementWork]) -> list[EngagementWork]:
    return sorted(work, key=lambda each: (each.currency_code, -each.approved_total.amount_minor))


def _hours(minutes: int) -> str:
    return f"{minutes // 60:,}:{minutes % 60:02d}" if minutes else "–"


def _show(output: Output, firm: FirmRow, report: Unbilled) -> None:
    output.say(f"\n[bold]{escape(firm.display_name)}[/bold], work that is not billed as of {report.day}")
    if not report.work:
        output.say("Everything is billed.")
        return
    names = ("Hours", *AGES, "Approved", "Submitted", "Draft")
    rows = table("Client", "Engagement", "", *names, right=names)
    ranked = _ranked(report.work)
    for each in ranked[:_SHOWN]:
        sums = (*each.approved, each.approved_total, each.submitted, each.draft)
        rows.add_row(
            escape(report.names[each.client_id]), escape(report.names[each.engagement_id]), each.currency_code, _hours(each.approved_total.minutes),
            *(plain(part.amount_minor, each.currency_code) for part in sums),
        )  # fmt: skip
    output.say(rows)
    if len(ranked) > _SHOWN:
        output.say(f"… and {len(ranked) - _SHOWN:,} more; --csv FILE lists them.")
    totals = table("", "Hours", "Approved", right=["Hours", "Approved"], title="Approved and not billed")
    for currency, total in sorted(report.totals.items()):
        totals.add_row(currency, _hours(total.minutes), plain(total.amount_minor, currency))
    output.say(totals)


def _rows(firm: FirmRow, report: Unbilled) -> Iterable[list[Any]]:
    for each in report.work:
        sums = (*each.approved, each.approved_total, each.submitted, each.draft)
        yield [
            firm.public_id, firm.display_name, report.day, encode(Prefix.CLIENT, each.client_id), report.names[each.client_id],
            encode(Prefix.ENGAGEMENT, each.engagement_id), report.names[each.engagement_id], each.currency_code,
            *major(each.currency_code, (part.amount_minor for part in sums)), each.approved_total.minutes, each.oldest_work_date or "",
        ]  # fmt: skip


def _json(firm: FirmRow, report: Unbilled) -> dict[str, Any]:
    return {
        "firm_id": firm.public_id, "display_name": firm.display_name, "as_of_date": report.day,
        "approved_totals": [{"currency_code": currency, **_sum_json(total)} for currency, total in sorted(report.totals.items())],
        "engagements": [
            {
                "client_id": encode(Prefix.CLIENT, each.client_id), "client_name": report.names[each.client_id],
                "engagement_id": encode(Prefix.ENGAGEMENT, each.engagement_id), "engagement_name": report.names[each.engagement_id],
                "currency_code": each.currency_code, "oldest_work_date": each.oldest_work_date,
                "approved": {name: _sum_json(part) for name, part in zip(_AGE_NAMES, each.approved, strict=True)},
                "submitted": _sum_json(each.submitted), "draft": _sum_json(each.draft),
            }
            for each in report.work
        ],
    }  # fmt: skip


def _sum_json(part: UnbilledSum) -> dict[str, int]:
    return {"entries": part.entries, "minutes": part.minutes, "amount_minor": part.amount_minor}


def _panels(report: Unbilled) -> list[plots.Panel]:
    """Clients with the most approved work, the others together."""
    by_client: dict[tuple[str, UUID], list[int]] = {}
    for each in report.work:
        amounts = by_client.setdefault((each.currency_code, each.client_id), [0] * len(AGES))
        for position, part in enumerate(each.approved):
            amounts[position] += part.amount_minor
    panels = []
    for currency in sorted(report.totals):
        clients = [
            (report.names[client], amounts)
            for (code, client), amounts in by_client.items()
            if code == currency and any(amounts)
        ]
        clients.sort(key=lambda client: -sum(client[1]))
        shown, others = clients[:_DRAWN], clients[_DRAWN:]
        if others:
            shown.append(
                (f"{len(others):,} others", [sum(column) for column in zip(*(each[1] for each in others), strict=True)])
            )
        panels += [_panel(currency, shown)] if shown else []
    return panels


def _panel(currency: str, clients: Sequence[tuple[str, Sequence[int]]]) -> plots.Panel:
    series = {name: [amounts[position] for _, amounts in clients] for position, name in enumerate(AGES)}
    names = [name if len(name) <= 32 else name[:31] + "…" for name, _ in clients]
    return plots.Panel(currency, names, series, (plots.AGES[0], *plots.AGES[2:]), horizontal=True, stacked=True)
