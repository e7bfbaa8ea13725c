"""The `report` commands and their options. Each hands over to its module, so that `--help` loads little."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from dunwell_server.cli.options import AsJson, AsOf, ConvertTo, CsvFile, OneCurrency, OneFirm, PngFile, SvgFile
from dunwell_server.cli.problems import run_async

report_app = typer.Typer(
    help="Reports for people, as tables, JSON or CSV.", no_args_is_help=True, rich_markup_mode=None
)


@report_app.command("payments")
def report_payments(
    firm_id: OneFirm = None,
    since: Annotated[
        str | None, typer.Option("--since", metavar="TIME", help="From then on. Default: 90 days before the end.")
    ] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Before that. Default: now.")] = None,
    currency: Annotated[str | None, typer.Option("--currency", metavar="CODE", help="Only this currency.")] = None,
    provider: Annotated[str | None, typer.Option("--provider", metavar="NAME", help="Only this provider.")] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print one line per number, for spreadsheets.")] = False,
) -> None:
    """How collection went: failure rates by month, code and provider, what each retry brought in, what is at risk."""
    from dunwell_server.cli import report as command

    run_async(
        lambda: command.payments(
            firm_id=firm_id,
            since=since,
            until=until,
            currency=currency,
            provider=provider,
            as_json=as_json,
            as_csv=as_csv,
        )
    )


@report_app.command("ageing")
def report_ageing(
    firm_id: OneFirm = None,
    as_of: AsOf = None,
    convert_to: ConvertTo = None,
    as_json: AsJson = False,
    csv_file: CsvFile = None,
    svg: SvgFile = None,
    png: PngFile = None,
) -> None:
    """What clients owe by how long it has been due: current, 1-30, 31-60, 61-90, over 90 days; as of any day."""
    from dunwell_server.cli import finance_reports as command

    outputs = command.Outputs(as_json, csv_file, svg, png)
    day = as_of.date() if as_of else None
    run_async(lambda: command.ageing(firm_id=firm_id, as_of=day, convert_to=convert_to, outputs=outputs))


@report_app.command("revenue")
def report_revenue(
    firm_id: OneFirm = None,
    start: Annotated[
        datetime | None,
        typer.Option(
            "--from",
            formats=["%Y-%m-%d"],
            metavar="DATE",
            help="First day. Default: eleven months before the last month.",
        ),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option("--until", formats=["%Y-%m-%d"], metavar="DATE", help="First day after it. Default: tomorrow."),
    ] = None,
    currency: OneCurrency = None,
    convert_to: ConvertTo = None,
    as_json: AsJson = False,
    csv_file: CsvFile = None,
    svg: SvgFile = None,
    png: PngFile = None,
) -> None:
    """Revenue billed, collected and recognised by month and currency."""
    from dunwell_server.cli import finance_reports as command

    outputs = command.Outputs(as_json, csv_file, svg, png)
    first, end = (moment.date() if moment else None for moment in (start, until))
    run_async(
        lambda: command.revenue(
            firm_id=firm_id, start=first, until=end, currency=currency, convert_to=convert_to, outputs=outputs
        )
    )


@report_app.command("trial-balance")
def report_trial_balance(
    firm_id: OneFirm = None,
    as_of: AsOf = None,
    currency: OneCurrency = None,
    convert_to: ConvertTo = None,
    as_json: AsJson = False,
    csv_file: CsvFile = None,
    svg: SvgFile = None,
    png: PngFile = None,
) -> None:
    """Debits, credits and balance of every account of the ledger, as of any day."""
    from dunwell_server.cli import finance_reports as command

    outputs = command.Outputs(as_json, csv_file, svg, png)
    day = as_of.date() if as_of else None
    run_async(
        lambda: command.trial_balance(
            firm_id=firm_id, as_of=day, currency=currency, convert_to=convert_to, outputs=outputs
        )
    )


@report_app.command("unbilled")
def report_unbilled(
    firm_id: OneFirm = None,
    as_of: AsOf = None,
    as_json: AsJson = False,
    csv_file: CsvFile = None,
    svg: SvgFile = None,
    png: PngFile = None,
) -> None:
    """Work that is not billed yet, by client, engagement and age; work up to that day and its age then, with --as-of."""
    from dunwell_server.cli import unbilled_report as command
    from dunwell_server.cli.finance_reports import Outputs

    outputs = Outputs(as_json, csv_file, svg, png)
    day = as_of.date() if as_of else None
    run_async(lambda: command.unbilled(firm_id=firm_id, as_of=day, outputs=outputs))
