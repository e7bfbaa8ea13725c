"""The commands and their options. Each hands over to its module, so that `--help` and small commands load little."""

from __future__ import annotations

from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from dunwell_server.cli.options import AsJson, DryRun, OneFirm
from dunwell_server.cli.problems import USAGE, CommandError, finish, load_settings, run_async
from dunwell_server.cli.report_app import report_app

app = typer.Typer(
    name="dunwell",
    help="Dunwell: billing, collection and the book behind it, as one gRPC service on PostgreSQL.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
recover_app = typer.Typer(
    help="After a restore: charge nothing until the providers' record agrees.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(report_app, name="report")
app.add_typer(recover_app, name="recover")


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


@app.command()
def document(
    object_id: Annotated[
        str,
        typer.Argument(
            metavar="OBJECT", help="An invoice, a payment (its receipt), a credit note, or a client (a statement)."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Default: a name of its own, here.")
    ] = None,
    html: Annotated[bool, typer.Option("--html", help="HTML instead of PDF.")] = False,
    locale: Annotated[
        str | None, typer.Option("--locale", metavar="TAG", help="Such as de-AT. Default: the client's.")
    ] = None,
    current: Annotated[
        bool, typer.Option("--current", help="The invoice as it stands now, not as it was issued.")
    ] = False,
    start: Annotated[
        datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], metavar="DATE", help="A statement's first day.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], metavar="DATE", help="A statement's last day.")
    ] = None,
    firm_id: OneFirm = None,
    as_json: AsJson = False,
) -> None:
    """Write an invoice, a receipt, a credit note or a statement to a file, as the client gets it."""
    from dunwell_server.cli import document as command

    run_async(
        lambda: command.document(
            object_id=object_id, firm_id=firm_id, output=output, html=html, locale=locale, current=current,
            start=start.date() if start else None, until=until.date() if until else None, as_json=as_json,
        )
    )  # fmt: skip


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


@app.command()
def export(
    firm_id: Annotated[str, typer.Argument(metavar="FIRM", help="The firm.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Where to; compressed if its name ends in .gz.")
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write everything of a firm to a file of JSON Lines, from one snapshot; secrets are left out. It can be imported elsewhere."""
    from dunwell_server.cli import data_exit

    run_async(lambda: data_exit.export(firm_id, output, overwrite=overwrite, as_json=as_json))


@app.command("import")
def import_firm(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="What `dunwell export` wrote.")
    ],
    as_json: AsJson = False,
) -> None:
    """Bring an exported firm in, where it must not exist yet; verifies file and books, and leaves the firm suspended."""
    from dunwell_server.cli import data_exit

    run_async(lambda: data_exit.import_firm(file, as_json=as_json))


@app.command("import-records")
def import_records(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="clients, engagements or invoices.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, help="A CSV file in UTF-8.")],
    firm_id: Annotated[str, typer.Option("--firm-id", metavar="FIRM", help="The firm.")],
    dry_run: DryRun = False,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Import the rows that are right although others are wrong.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Create clients, engagements or open invoices from a CSV file, and name every row that is wrong. 1 where one is."""
    from dunwell_server.billing.importing import RecordKind
    from dunwell_server.cli import data_exit

    if kind.upper() not in RecordKind.__members__:
        finish(lambda: _refuse(f"KIND is one of {', '.join(each.value.lower() for each in RecordKind)}"))
    run_async(
        lambda: data_exit.records(
            RecordKind[kind.upper()], file, firm_id=firm_id, dry_run=dry_run, skip_invalid=skip_invalid, as_json=as_json
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
