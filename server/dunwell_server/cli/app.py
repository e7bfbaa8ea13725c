"""The commands and their options. Each hands over to its module, so that `--help` and small commands load little."""

from __future__ import annotations

from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from dunwell_server.cli.problems import USAGE, CommandError, finish, load_settings, run_async

app = typer.Typer(
    name="dunwell",
    help="Dunwell: billing, collection and the book behind it, as one gRPC service on PostgreSQL.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
report_app = typer.Typer(
    help="Reports for people, as tables, JSON or CSV.", no_args_is_help=True, rich_markup_mode=None
)
recover_app = typer.Typer(
    help="After a restore: charge nothing until the providers' record agrees.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(report_app, name="report")
app.add_typer(recover_app, name="recover")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Compute everything, change nothing.")]
OneFirm = Annotated[
    str | None, typer.Option("--firm-id", metavar="FIRM", help="Only this firm; otherwise all of them.")
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dunwell {metadata.version('dunwell-server')}")
        raise typer.Exit()


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Dunwell: billing, collection and the book behind it, as one gRPC service on PostgreSQL.

    Settings come from the environment; the README lists them. Exit codes: 0 done, 1 something failed, 2 wrong call or
    configuration.
    """


@app.command()
def serve(
    workers: Annotated[
        int | None, typer.Option(min=1, max=256, help="RPC worker processes. Default: DUNWELL_WORKERS.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=0, max=256, help="Job worker processes. Default: DUNWELL_JOBS.")
    ] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port of the RPCs. Default: DUNWELL_PORT.")] = None,
) -> None:
    """Run the service until it is told to stop: RPC workers, job workers and, in development, database and sandbox."""
    from dunwell_server.cli import serve as command

    finish(lambda: command.serve(load_settings(workers=workers, jobs=jobs, port=port)))


@app.command()
def sidecar(
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: DUNWELL_SIDECAR_HOST.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on. Default: DUNWELL_SIDECAR_PORT.")
    ] = None,
) -> None:
    """Take providers' webhooks over HTTP and hand them to the RPC server; needs no database. `serve` runs one by itself."""

    def work() -> int:
        from dunwell_server.cli import sidecar as command

        return command.sidecar(sidecar_host=host, sidecar_port=port)

    finish(work)


@app.command()
def migrate(as_json: AsJson = False) -> None:
    """Create the database's roles and bring its schema to this release."""
    from dunwell_server.cli import migrate as command

    finish(lambda: command.migrate(load_settings(), as_json=as_json))


@app.command("generate-package-invoices")
def generate_package_invoices(
    dry_run: DryRun = False,
    firm_id: OneFirm = None,
    as_of: Annotated[
        datetime | None,
        typer.Option(
            "--as-of", formats=["%Y-%m-%d"], metavar="DATE", help="Bill as of this day. Default: each firm's today."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Invoice every period of every package that has come and is not billed yet. Running it twice bills nothing twice."""
    from dunwell_server.cli import bulk
    from dunwell_server.platform.runs import RunKind

    day = as_of.date() if as_of else None
    run_async(lambda: bulk.run(RunKind.PACKAGES, dry_run=dry_run, firm_id=firm_id, as_of=day, as_json=as_json))


@app.command("process-recurring-charges")
def process_recurring_charges(dry_run: DryRun = False, firm_id: OneFirm = None, as_json: AsJson = False) -> None:
    """Charge every invoice on autopay that is due, retries among them. Running it twice charges nothing twice."""
    from dunwell_server.cli import bulk
    from dunwell_server.platform.runs import RunKind

    run_async(lambda: bulk.run(RunKind.COLLECTION, dry_run=dry_run, firm_id=firm_id, as_of=None, as_json=as_json))


@app.command("advance-clock")
def advance_clock(
    firm_id: Annotated[str, typer.Option("--firm-id", metavar="FIRM", help="The firm, which must be on a test clock.")],
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="TIME", help="A day (2027-03-01), or an instant (2027-03-01T09:00:00Z)."),
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", metavar="SPAN", help="A span: 30d, 2w, 12h, 90m, or several: 1d12h.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Move a firm's test clock, do everything that falls due on the way, and tell what happened."""
    from dunwell_server.cli import clock

    if (to is None) == (by is None):
        finish(lambda: _refuse("give either --to or --by"))
    run_async(lambda: clock.advance(firm_id, to=to, by=by, as_json=as_json))


@app.command()
def verify(
    firm_id: OneFirm = None,
    as_json: AsJson = False,
) -> None:
    """Recompute the books: every invariant, the audit chain, the catalogue, and the sandbox's record. 1 on any violation."""
    from dunwell_server.cli import verify as command

    run_async(lambda: command.verify(firm_id=firm_id, as_json=as_json))


@app.command()
def reconcile(
    firm_id: OneFirm = None,
    provider: Annotated[
        str | None, typer.Option("--provider", metavar="NAME", help="Only this provider; otherwise all that were used.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Start of the window. Default: three days before its end."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="End of the window. Default: now.")
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Compare the book with the providers' lists both ways, and take over what is theirs only. 1 where a difference is left."""
    from dunwell_server.cli import reconcile as command

    run_async(
        lambda: command.reconcile(
            firm_id=firm_id, provider=provider, since=since, until=until, dry_run=dry_run, as_json=as_json
        )
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


@recover_app.command("enter")
def recover_enter(
    since: Annotated[
        str,
        typer.Option(
            "--since", metavar="TIME", help="When the restored backup was made: a little earlier does no harm."
        ),
    ],
    firm_id: OneFirm = None,
    as_json: AsJson = False,
) -> None:
    """Stop all charging and refunding. Do this after a restore, before the service is started."""
    from dunwell_server.cli import recover

    run_async(lambda: recover.enter(firm_id=firm_id, since=since, as_json=as_json))


@recover_app.command("status")
def recover_status(as_json: AsJson = False) -> None:
    """List the firms in recovery. 1 while there is one."""
    from dunwell_server.cli import recover

    run_async(lambda: recover.status(as_json=as_json))


@recover_app.command("run")
def recover_run(firm_id: OneFirm = None, as_json: AsJson = False) -> None:
    """Take the providers' record over and let every firm whose book agrees charge again. 1 where one does not."""
    from dunwell_server.cli import recover

    run_async(lambda: recover.run(firm_id=firm_id, as_json=as_json))


@recover_app.command("leave")
def recover_leave(
    firm_id: Annotated[str, typer.Option("--firm-id", metavar="FIRM", help="The firm.")],
    force: Annotated[bool, typer.Option("--force", help="Although its record may not agree.")] = False,
    as_json: AsJson = False,
) -> None:
    """End a firm's recovery by hand, when a person has explained what `run` could not."""
    from dunwell_server.cli import recover

    run_async(lambda: recover.end(firm_id=firm_id, force=force, as_json=as_json))


@app.command("create-admin-key")
def create_admin_key(
    name: Annotated[
        str, typer.Option("--name", help="What it is for; the audit trail and key lists show it.")
    ] = "operator",
    as_json: AsJson = False,
) -> None:
    """Make an API key of role ADMIN, the first of an installation, and print it once. Other keys come from CreateApiKey."""
    from dunwell_server.cli import keys

    run_async(lambda: keys.create_admin_key(name, as_json=as_json))


@app.command()
def settings(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table of the README: defaults and meanings only.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List every setting with its value here and its meaning. Secrets show only whether they are set."""
    from dunwell_server.cli import settings_table

    finish(lambda: settings_table.show(markdown=markdown, as_json=as_json))


@app.command()
def demo(
    once: Annotated[bool, typer.Option("--once", help="Show everything once and stop, instead of serving on.")] = False,
    reset: Annotated[bool, typer.Option("--reset", help="Delete the data folder's database and begin anew.")] = False,
) -> None:
    """Start everything with a demonstration firm, bill and collect, show the result, and keep serving until Ctrl-C."""
    from dunwell_server.cli.demo import command

    finish(lambda: command.demo(load_settings(), once=once, reset=reset))


@app.command("rpc-worker", hidden=True)
def rpc_worker(index: Annotated[int, typer.Option(min=0)] = 0) -> None:
    """One RPC worker process; `serve` starts it."""
    from dunwell_server.cli import processes

    finish(lambda: processes.rpc_worker(load_settings(), index))


@app.command("job-worker", hidden=True)
def job_worker(index: Annotated[int, typer.Option(min=0)] = 0) -> None:
    """One job worker process; `serve` starts it."""
    from dunwell_server.cli import processes

    finish(lambda: processes.job_worker(load_settings(), index))


@app.command("sandbox-gateway", hidden=True)
def sandbox_gateway(
    port: Annotated[int, typer.Option(min=0, max=65535)],
    book: Annotated[Path, typer.Option(help="File of the gateway's own book.")],
    webhook_url: Annotated[
        str | None,
        typer.Option(
            help="Where its events go; {account} is the account's name. Default: DUNWELL_SANDBOX_WEBHOOK_URL."
        ),
    ] = None,
    public_url: Annotated[
        str | None,
        typer.Option(help="Where browsers find its pages, if not at the port. Default: DUNWELL_SANDBOX_PUBLIC_URL."),
    ] = None,
) -> None:
    """The sandbox payment gateway; `serve` starts it."""
    from dunwell_server.cli import processes

    finish(lambda: processes.sandbox_gateway(port, book, webhook_url, public_url))


def _refuse(message: str) -> int:
    raise CommandError(message, USAGE)
