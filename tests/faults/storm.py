"""A storm: job workers that are killed again and again while a firm's months go by, and the proof that the books are right.

Workers are forked from this process, which has everything imported, so that a new one works within milliseconds. Each kills itself with
SIGKILL at a failpoint, by the dice of its seed. Nothing is told to them; what they leave behind is all the next one has.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import time as clock_time
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import httpx
import psycopg
from psycopg.rows import dict_row

from dunwell_server.billing.jobs import PackageRunExecutor
from dunwell_server.billing.model import AutopayCadence, BillingInterval, PricingMode
from dunwell_server.billing.service.engagements import NewEngagement, create_engagement, end_due_engagements
from dunwell_server.billing.service.overdue import mark_overdue
from dunwell_server.billing.store.due import marks_due
from dunwell_server.kernel.ids import uuid7
from dunwell_server.payments.jobs.clocks import ProviderClocks
from dunwell_server.platform import failpoints, runs
from dunwell_server.platform.database import Database
from dunwell_server.platform.invariants import Check, Movement, check_provider, run_all
from dunwell_server.platform.runs import RunExecutor, RunKind
from dunwell_server.platform.sealer import AuditSealer
from dunwell_server.platform.work import WorkHandler, WorkKind
from dunwell_server.providers.registry import ProviderRegistry
from dunwell_server.scheduler.clock import ClockRunExecutor
from dunwell_server.scheduler.daily import DailyMarks, DailyRun
from dunwell_server.scheduler.runs import RunHandler
from dunwell_server.scheduler.worker import JobWorker
from tests import support
from tests.integration.payments.world import START, Workers, World, new_bus
from tests.providers.gateway import GatewayProcess

SWEEP_SECONDS = 0.5


def job_worker(database: Database, workers: Workers) -> JobWorker:
    """What `dunwell job-worker` runs, on the tests' vault and gateway."""
    registry = ProviderRegistry()
    registry.register("sandbox", lambda: workers.provider)
    handlers: list[WorkHandler] = [
        DailyRun(WorkKind.PACKAGES, RunKind.PACKAGES, lambda settings: settings.package_run_time),
        DailyMarks([mark_overdue, end_due_engagements], marks_due),
        workers.collect,
        workers.attempts,
    ]
    inner: list[RunExecutor] = [PackageRunExecutor(), workers.executor]
    clock = ClockRunExecutor(handlers, RunHandler(inner), [ProviderClocks(registry, workers.charger.gateways)])
    return JobWorker(database, [RunHandler([*inner, clock]), *handlers], concurrency=4, idle_seconds=0.05)


async def work_until_killed(application_url: str, gateway_url: str) -> None:
    """A worker's life: sweep, tick, until a failpoint or the parent ends it."""
    database = await Database.open(application_url, bus=new_bus(), max_size=6)
    worker = job_worker(database, Workers.at(gateway_url, timeout=0.4))

    async def sweeping() -> None:
        while True:
            await worker.sweep()
            await asyncio.sleep(SWEEP_SECONDS)

    async with asyncio.TaskGroup() as group:
        group.create_task(sweeping())
        group.create_task(worker.run())


def aimed_at(left: Collection[str]) -> str:
    """Only at those that have killed nobody yet: among many kills a worker seldom lives to see a step that a month passes seldom."""
    return ",".join(f"{name}=0.5" for name in sorted(left))


@dataclass
class Storm:
    """One database, one gateway, some firms, and workers that die."""

    urls: support.DatabaseUrls
    gateway: GatewayProcess
    seed: int
    log: Path
    probabilities: str = "*=0.02"
    accounts: list[str] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    children: dict[int, int] = field(default_factory=dict)
    born: int = 0

    # Workers -----------------------------------------------------------------------------------------------------

    def spawn(self, *, deadly: bool) -> None:
        """Fork one worker."""
        self.born += 1
        seed = self.seed * 1_000_003 + self.born
        pid = os.fork()
        if pid:
            self.children[pid] = seed
            return
        try:
            failpoints.configure(self.probabilities if deadly else "", seed)
            asyncio.run(work_until_killed(self.urls.application, self.gateway.url))
        except BaseException:
            traceback.print_exc(file=sys.stderr)
        finally:
            os._exit(1)

    def reap(self) -> int:
        """Collect dead workers; a worker that ended otherwise than by SIGKILL is a failure of the test."""
        dead = 0
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid not in self.children:
                continue
            seed = self.children.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            assert code == -signal.SIGKILL, f"worker with seed {seed} ended by itself: {code}"
            dead += 1
        return dead

    def kill_all(self) -> None:
        """End the workers as bluntly as they live."""
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
        for pid in list(self.children):
            os.waitpid(pid, 0)
        self.children.clear()

    def weather(self, done: Sequence[UUID], *, kills: int, workers: int, seconds: float) -> int:
        """Kill and replace workers until the runs `done` are over or `kills` is reached; returns the kills."""
        dead, until = 0, time.monotonic() + seconds
        while time.monotonic() < until and dead < kills and not self.finished(done):
            while len(self.children) < workers:
                self.spawn(deadly=True)
            time.sleep(0.01)
            dead += self.reap()
        return dead

    def calm(self, done: Sequence[UUID], *, workers: int = 2, seconds: float = 180) -> None:
        """Faults off: everything must come to its end."""
        self.kill_all()
        until = time.monotonic() + seconds
        while not self.finished(done):
            assert time.monotonic() < until, f"not settled after {seconds} s (seed {self.seed}): {self.open_runs()}"
            while len(self.children) < workers:
                self.spawn(deadly=False)
            time.sleep(0.05)
            assert self.reap() == 0
        self.kill_all()

    # Looking -----------------------------------------------------------------------------------------------------

    def finished(self, run_ids: Sequence[UUID]) -> bool:
        """Whether none of the runs is open."""
        with psycopg.connect(self.urls.owner) as connection:
            query = "SELECT count(*) FROM run WHERE id = ANY(%s) AND state IN ('QUEUED', 'RUNNING')"
            row = connection.execute(query, (list(run_ids),)).fetchone()
        return row is not None and row[0] == 0

    def open_runs(self) -> list[tuple[object, ...]]:
        """For the message of a failure."""
        with psycopg.connect(self.urls.owner) as connection:
            query = "SELECT kind, state, error FROM run WHERE state <> 'SUCCEEDED' ORDER BY create_time LIMIT 10"
            return connection.execute(query).fetchall()

    def failpoints_hit(self) -> Counter[str]:
        """How often each failpoint killed."""
        return Counter(self.log.read_text().split()) if self.log.exists() else Counter()

    async def problems(self) -> list[Check]:
        """Every invariant that does not hold, the provider's book against ours included. The audit trail is sealed first."""
        return await problems_of(self.urls, self.gateway, self.accounts)


async def problems_of(urls: support.DatabaseUrls, gateway: GatewayProcess, accounts: Sequence[str]) -> list[Check]:
    """Every invariant that does not hold, the gateway's book of these accounts against ours included. The audit trail is sealed first."""
    database = await Database.open(urls.application, max_size=2)
    sealer = AuditSealer(database)
    while await sealer.tick():
        pass
    await database.close()
    checks = await run_all(urls.auditor)
    async with await psycopg.AsyncConnection.connect(urls.auditor, row_factory=dict_row) as connection:

        async def fetch(statement, params):  # type: ignore[no-untyped-def]
            return await (await connection.execute(statement, params)).fetchall()

        for kind in ("charge", "refund"):
            movements = [movement for account in accounts for movement in account_movements(gateway.url, account, kind)]
            checks.append(await check_provider(fetch, movements, refunds=kind == "refund"))
    return [check for check in checks if not check.ok]


def account_movements(url: str, account: str, kind: str) -> list[Movement]:
    """Every charge or refund of one account, page by page."""
    headers, found, page = {"Authorization": f"Bearer sk_test_{account}"}, [], ""
    named = "payment" if kind == "charge" else "object"
    with httpx.Client(base_url=url, headers=headers, trust_env=False) as client:
        while True:
            params: dict[str, str | int] = {"limit": 100, "kind": kind, **({"page": page} if page else {})}
            answer = client.get("/v1/ledger", params=params).raise_for_status().json()
            found += [
                Movement(
                    each[named],
                    abs(each["amount"]),
                    each["currency"].upper(),
                    each["key"] if kind == "charge" else None,
                )
                for each in answer["data"]
            ]
            if not answer.get("next_page"):
                return found
            page = answer["next_page"]


# What the firms have ------------------------------------------------------------------------------------------------

METHODS = (
    ("pm_card_visa",),
    ("pm_card_visa",),
    ("pm_card_mastercard",),
    ("pm_sandbox_acceptThenTimeout",),
    ("pm_sandbox_serverErrorAfterAccept",),
    ("pm_sandbox_dropBeforeAccept",),
    ("pm_sandbox_rateLimited",),
    ("pm_sandbox_pendingThenSuccess",),
    ("pm_sandbox_pendingThenFailure",),
    ("pm_sandbox_failTwiceThenSucceed",),
    ("pm_card_chargeDeclinedInsufficientFunds",),
    ("pm_card_chargeDeclinedLostCard", "pm_card_visa"),
    ("pm_card_chargeDeclinedProcessingError",),
    (),
)
"""Payment methods of a firm's clients, one client each; the later of two is the backup."""


async def found_firm(database: Database, gateway: GatewayProcess, workers: Workers, seed: int) -> World:
    """A firm with a client for each kind of method, autopay on where there is one, and an engagement each."""
    world = await World.create(database, gateway, workers, package_run_time=clock_time(2))
    dice = random.Random(seed)
    for tokens in METHODS:
        client, _ = await world.client(
            *tokens, autopay=bool(tokens), **({"cadence": AutopayCadence.ON_DUE} if tokens else {})
        )
        await add_engagement(world, client.id, dice.choice(("WEEKLY", "MONTHLY")), dice.randrange(5_000, 90_000))
        if tokens:
            await world.invoice(
                client, f"{dice.randrange(20, 900)}.{dice.randrange(10, 99)}", terms=dice.randrange(0, 6)
            )
    return world


async def add_engagement(world: World, client_id: UUID, interval: str, fee_minor: int) -> None:
    """A package engagement that began a month ago."""
    new = NewEngagement(
        client_id, "Advice", PricingMode.PACKAGE, (START - timedelta(days=31)).date(), fee_minor, "USD", BillingInterval(interval),
        payment_terms_days=3,
    )  # fmt: skip
    async with world.db.transaction(world.call()) as uow:
        await create_engagement(uow, new)


async def start_advance(world: World, by: timedelta) -> UUID:
    """What AdvanceTestClock does in its transaction; returns the run's id."""
    run_id = uuid7()
    async with world.db.transaction(world.context) as uow:
        target = uow.now + by
        await runs.create(uow, RunKind.CLOCK, {"target": target.isoformat()}, dry_run=False, run_id=run_id)
        await uow.execute(
            "UPDATE control.test_clock SET state = 'ADVANCING', target_time = %s, run_id = %s WHERE firm_id = %s AND state = 'READY'",
            (target, run_id, world.firm_id),
        )
    return run_id
