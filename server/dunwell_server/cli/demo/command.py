"""`demo`: start, set up, bill, collect, show, and keep serving.

The set-up and both runs happen before there are job workers, so that each run does all of its work itself and can be watched; then
everything is started as `serve` has it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import psycopg
from pydantic import SecretStr
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from dunwell_server.admin.jobs import ensure_admin_key
from dunwell_server.bootstrap import DatabaseUrls, open_application
from dunwell_server.cli import bulk, bulk_report
from dunwell_server.cli.demo import build, screen, state
from dunwell_server.cli.demo.story import HARBOUR, LANTERN
from dunwell_server.cli.installation import is_embedded, sandbox_book
from dunwell_server.cli.output import Output
from dunwell_server.cli.plan import Plan, local_address, plan_children
from dunwell_server.cli.problems import USAGE, CommandError, describe, levels
from dunwell_server.cli.serve import installation, reserved_port
from dunwell_server.cli.session import firms
from dunwell_server.config import Settings, is_loopback
from dunwell_server.kernel.ids import Prefix, decode
from dunwell_server.platform.embedded import EmbeddedPostgres
from dunwell_server.platform.logging import configure_logging
from dunwell_server.platform.runs import RunKind
from dunwell_server.supervisor import Supervisor, SupervisorError

COMPANIES = (HARBOUR, LANTERN)
LOG = "demo.log"
ADMIN_KEY = "admin-key"
_FIRMS = "SELECT count(*) FROM control.firm WHERE id = ANY(%s)"


def demo(settings: Settings, *, once: bool, reset: bool) -> int:
    """Show the demonstration, and serve on unless `once`. Returns the exit code."""
    _refuse(settings)
    output = Output()
    if reset:
        _reset(settings, output)
    output.say("[bold]Dunwell[/bold]  billing and collection, on PostgreSQL and a sandbox payment gateway\n")
    with ExitStack() as stack:
        stack.enter_context(_logging_to(settings.data_dir / LOG, settings, output))
        with output.err.status("Starting the database …"):
            settings, urls = stack.enter_context(installation(settings))
        settings = stack.enter_context(reserved_port(settings))
        where = f"embedded PostgreSQL in {settings.data_dir}" if is_embedded(settings) else "PostgreSQL at DATABASE_URL"
        output.say(f"  [green]✓[/green] {where}")
        return asyncio.run(_Demo(settings, urls, output).run(once=once))


class _Demo:
    """One start of the demonstration."""

    def __init__(self, settings: Settings, urls: DatabaseUrls, output: Output) -> None:
        self._settings = settings
        self._urls = urls
        self._output = output
        self._address = local_address(settings)
        self._state = state.load(settings.data_dir)

    async def run(self, *, once: bool) -> int:
        """Set up what is missing, show how things stand, and serve until told to stop."""
        warm = self._state.complete and await self._remembers()
        if (once or not warm) and not await self._briefly(lambda plan: self._prepare(plan, warm)):
            return 130
        if once:
            self._output.say("\nEverything was shown once; without --once it keeps serving.")
            return 0
        plan = self._plan(self._settings.jobs)

        async def ready() -> None:
            try:
                if warm:
                    await self._show(warm)
                screen.how_to_try(self._output, self._settings, self._state, plan)
            except Exception as error:
                self._output.say(f"[red]{escape(describe(error)[0])}; `dunwell demo --reset` begins anew[/red]")

        with self._output.err.status("Starting the service …") as status:
            serving = asyncio.create_task(Supervisor(plan.children, on_ready=_then(status.stop, ready)).run())
            await serving
        self._output.say("\nStopped. `make run` starts it again with the same data.")
        return 0

    async def _remembers(self) -> bool:
        """Whether the firms of the last time are in the database."""
        ids = [decode(Prefix.FIRM, firm.firm_id, "firm") for firm in self._state.firms.values()]
        async with await psycopg.AsyncConnection.connect(self._urls.application) as connection:
            row = await (await connection.execute(_FIRMS, [ids])).fetchone()
        return row is not None and row[0] == len(COMPANIES)

    def _plan(self, jobs: int, **environment: str) -> Plan:
        plan = plan_children(self._settings.model_copy(update={"jobs": jobs}), self._urls)
        return replace(plan, children=[replace(child, env={**child.env, **environment}) for child in plan.children])

    async def _briefly(self, work: Callable[[Plan], Awaitable[None]]) -> bool:
        """Do `work` while the service runs without job workers; False where a signal came in between.

        Raises SupervisorError where the service does not start.
        """
        plan, ready = self._plan(0, DUNWELL_DRAIN_DELAY="0"), asyncio.Event()

        async def announce() -> None:
            ready.set()

        supervisor = Supervisor(plan.children, on_ready=announce)
        running = asyncio.create_task(supervisor.run())

        async def act() -> None:
            await ready.wait()
            await work(plan)

        acting = asyncio.create_task(act())
        try:
            await asyncio.wait({running, acting}, return_when=asyncio.FIRST_COMPLETED)
            if not acting.done():
                await running  # raises where a process could not be started
                return False
            acting.result()
            return True
        finally:
            acting.cancel()
            supervisor.stop()
            with suppress(SupervisorError):
                await running

    async def _prepare(self, plan: Plan, warm: bool) -> None:
        self._output.say("  [green]✓[/green] RPC server and sandbox payment gateway")
        if not warm:
            await self._set_up(plan)
        await self._show(warm)

    async def _show(self, warm: bool) -> None:
        """How the main firm stands, and the keys where they are new."""
        output, data_dir = self._output, self._settings.data_dir
        if warm:
            output.say("  [green]✓[/green] the demonstration's data from before is there")
        self._state.address = self._address
        state.save(data_dir, self._state, screen.variables(self._state))
        await screen.standing(output, self._address, self._state.firms[HARBOUR.external_id])
        if not warm:
            screen.keys(output, self._state, data_dir)

    async def _set_up(self, plan: Plan) -> None:
        settings, output = self._settings.model_copy(update={"sandbox_url": plan.sandbox}), self._output
        # What commands in another terminal resolve by themselves is given here, so that nothing is started a second time.
        settings = settings.model_copy(update=_database(self._urls))
        async with open_application(settings, name="demo", pool_size=6) as app:
            peppers = settings.keys.api_key_peppers
            admin_key = await ensure_admin_key(app.database, peppers, settings.data_dir / ADMIN_KEY)
            await self._build(admin_key)
            firm = await firms(app.database, "demo", self._state.firms[HARBOUR.external_id].firm_id)
            for kind, title in ((RunKind.PACKAGES, "The package run"), (RunKind.COLLECTION, "The collection run")):
                output.say(f"\n[bold]{title}[/bold]  (`dunwell {bulk.COMMANDS[kind]}`)")
                parts = await bulk.execute(app, kind, firm, output)
                bulk_report.show(kind, parts, output, dry_run=False, parent_id=None)
        self._state.complete = True

    async def _build(self, admin_key: str) -> None:
        columns = (SpinnerColumn(), TextColumn("  {task.description}"), BarColumn(bar_width=28), MofNCompleteColumn())
        with Progress(*columns, console=self._output.err, transient=True) as progress:
            task = progress.add_task("Setting up two firms with their clients", total=build.clients_count())
            try:
                await build.build(self._address, admin_key, self._state, lambda: progress.advance(task))
            except CommandError as error:
                raise CommandError(f"{error}; `dunwell demo --reset` begins anew") from error
        self._output.say(f"  [green]✓[/green] two firms with {build.clients_count()} clients, set up over gRPC")


def _then(first: Callable[[], None], second: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    async def both() -> None:
        first()
        await second()

    return both


def _database(urls: DatabaseUrls) -> dict[str, object]:
    return {"database_url": SecretStr(urls.application), "owner_database_url": None}


def _refuse(settings: Settings) -> None:
    """What a demonstration is not for."""
    if settings.environment == "production":
        raise CommandError("the demonstration is not for production: unset DUNWELL_ENVIRONMENT", USAGE)
    if settings.uses_tls or not is_loopback(settings.host):
        raise CommandError(
            "the demonstration serves in plaintext on loopback: unset DUNWELL_HOST and DUNWELL_TLS_CERT_FILE", USAGE
        )
    if not settings.enable_sandbox:
        raise CommandError("the demonstration needs the sandbox gateway: unset ENABLE_SANDBOX", USAGE)


def _reset(settings: Settings, output: Output) -> None:
    if not is_embedded(settings):
        raise CommandError(
            "--reset deletes the embedded database only; DATABASE_URL names one that is yours to empty", USAGE
        )
    EmbeddedPostgres(settings.data_dir).destroy()
    state.forget(settings.data_dir)
    book = sandbox_book(settings)
    for path in (book, *book.parent.glob(f"{book.name}-*"), settings.data_dir / ADMIN_KEY):
        path.unlink(missing_ok=True)
    for path in (settings.data_dir / "anchors").glob("*.jsonl"):
        path.unlink()
    output.say(f"The database, the sandbox's book and the keys in {settings.data_dir} are deleted.")


@contextmanager
def _logging_to(path: Path, settings: Settings, output: Output) -> Iterator[None]:
    """Send this process's and its children's output to a file, so that the screen stays the demonstration's. Errors end up on both."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    screen_out, screen_err = os.dup(1), os.dup(2)
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    out_file = os.fdopen(os.dup(screen_out), "w", encoding=sys.stdout.encoding or "utf-8")
    err_file = os.fdopen(os.dup(screen_err), "w", encoding=sys.stderr.encoding or "utf-8")
    output.out, output.err = Console(file=out_file, highlight=False), Console(file=err_file, highlight=False)
    os.dup2(log, 1)
    os.dup2(log, 2)
    configure_logging(level=settings.log_level, levels=levels(settings), form="json", process="supervisor")
    try:
        yield
    finally:
        for file in (out_file, err_file, sys.stdout, sys.stderr):
            file.flush()
        os.dup2(screen_out, 1)
        os.dup2(screen_err, 2)
        for descriptor in (screen_out, screen_err, log):
            os.close(descriptor)
