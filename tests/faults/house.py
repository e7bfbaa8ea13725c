"""A whole house under SIGKILL: RPC workers, job workers and sidecars that die, in front of one database and one sandbox gateway.

The children are forked from this process, which has everything imported but has made no gRPC object. They are what `dunwell serve` runs: the
composition root's own RPC server on a shared port, its own job worker with every handler, the real sidecar. One child calls the service as
other teams do (`tests.faults.caller`) and is never killed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import psycopg

from dunwell_server.bootstrap import open_application
from dunwell_server.config import Settings
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.platform import failpoints
from dunwell_server.webhooks.server import Sidecar
from tests import support
from tests.faults.storm import problems_of
from tests.providers.gateway import GatewayProcess

SECRET = support.SECRET.decode()
SWEEP_SECONDS = 0.5


class Role(StrEnum):
    """What a child is."""

    RPC = "rpc"
    JOB = "job"
    SIDECAR = "sidecar"
    CALLER = "caller"


def free_port() -> int:
    """A loopback port that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def serve_rpcs(settings: Settings) -> None:
    """A life of an RPC worker."""
    async with open_application(settings, name="storm-rpc") as app:
        await app.rpc_server(shared_port=True).serve()


async def do_work(settings: Settings) -> None:
    """A life of a job worker."""
    async with open_application(settings, name="storm-job") as app:
        worker = app.job_worker(concurrency=6)

        async def sweeping() -> None:
            while True:
                await worker.sweep()
                await asyncio.sleep(SWEEP_SECONDS)

        async with asyncio.TaskGroup() as group:
            group.create_task(sweeping())
            group.create_task(worker.run())
            group.create_task(app.router().run())


async def take_webhooks(settings: Settings) -> None:
    """A life of a sidecar."""
    await Sidecar(settings).serve()


LIVES: dict[Role, Callable[[Settings], Coroutine[Any, Any, None]]] = {
    Role.RPC: serve_rpcs,
    Role.JOB: do_work,
    Role.SIDECAR: take_webhooks,
}


@dataclass
class House:
    """One installation whose processes die and come back."""

    urls: support.DatabaseUrls
    gateway: GatewayProcess
    folder: Path
    seed: int
    rpc_port: int
    sidecar_port: int
    probabilities: str
    children: dict[int, Role] = field(default_factory=dict)
    born: int = 0
    kills: int = 0

    def settings(self) -> Settings:
        """What every child is configured with."""
        values: dict[str, Any] = {
            "DATABASE_URL": self.urls.application, "DUNWELL_DATA_DIR": self.folder, "DUNWELL_SECRET_KEY": SECRET, "DUNWELL_PORT": self.rpc_port,
            "DUNWELL_SANDBOX_URL": self.gateway.url, "DUNWELL_METRICS_PORT": 0, "DUNWELL_SIDECAR_PORT": self.sidecar_port,
            "DUNWELL_SIDECAR_METRICS_PORT": 0, "DUNWELL_SIDECAR_SERVER": f"127.0.0.1:{self.rpc_port}",
            "DUNWELL_SIDECAR_KEY_FILE": self.folder / "sidecar.key", "DUNWELL_LOG_LEVEL": "ERROR", "DUNWELL_DRAIN_DELAY": 0,
            "DUNWELL_POOL_SIZE": 6,
        }  # fmt: skip
        return Settings(_env_file=None, **values)

    def spawn(self, role: Role, *, deadly: bool, life: Callable[[], Coroutine[Any, Any, None]] | None = None) -> int:
        """Fork one child; returns its pid."""
        self.born += 1
        seed = self.seed * 1_000_003 + self.born
        pid = os.fork()
        if pid:
            self.children[pid] = role
            return pid
        code = 1
        try:
            failpoints.configure(self.probabilities if deadly else "", seed)
            os.dup2(os.open(self.folder / f"{role}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), sys.stderr.fileno())
            asyncio.run(life() if life is not None else LIVES[role](self.settings()))
            code = 0
        except BaseException:
            traceback.print_exc(file=sys.stderr)
        finally:
            os._exit(code)

    def keep(self, counts: dict[Role, int], *, deadly: bool) -> None:
        """Replace whoever is missing."""
        for role, count in counts.items():
            for _ in range(count - sum(each is role for each in self.children.values())):
                self.spawn(role, deadly=deadly)

    def reap(self) -> list[tuple[Role, int]]:
        """Who has ended, and how: negative for a signal."""
        ended: list[tuple[Role, int]] = []
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if (role := self.children.pop(pid, None)) is not None:
                ended.append((role, os.waitstatus_to_exitcode(status)))
        return ended

    def kill_one(self, role: Role, dice: random.Random) -> None:
        """SIGKILL one child of a role, at any moment of its life."""
        pids = [pid for pid, each in self.children.items() if each is role]
        if pids:
            os.kill(dice.choice(pids), signal.SIGKILL)

    def kill_all(self) -> None:
        """End everyone as bluntly as they live."""
        for pid in self.children:
            os.kill(pid, signal.SIGKILL)
        for pid in list(self.children):
            os.waitpid(pid, 0)
        self.children.clear()

    def weather(self, counts: dict[Role, int], enough: Callable[[], bool], *, seconds: float) -> None:
        """Kill and replace until it is `enough` or the time is up. Whoever ends otherwise than by SIGKILL fails the test."""
        dice = random.Random(self.seed)
        until = time.monotonic() + seconds
        next_blow = next_look = 0.0
        while time.monotonic() < until:
            if time.monotonic() > next_look:
                if enough():
                    return
                next_look = time.monotonic() + 1.0
            self.keep(counts, deadly=True)
            time.sleep(0.01)
            if time.monotonic() > next_blow:
                # The sidecar has no failpoints: it is struck from outside.
                self.kill_one(Role.SIDECAR, dice)
                next_blow = time.monotonic() + dice.uniform(0.5, 3.0)
            for role, code in self.reap():
                assert role is not Role.CALLER, f"the caller ended with {code}: {self.log(role)}"
                assert code == -signal.SIGKILL, f"{role} ended by itself with {code}: {self.log(role)}"
                self.kills += 1

    def log(self, role: Role) -> str:
        """The end of what a role wrote, of a caller also what its servers wrote; without the calls that went well."""
        told = []
        for each in (role, Role.RPC) if role is Role.CALLER else (role,):
            path = self.folder / f"{each}.log"
            lines = path.read_text(errors="replace").splitlines() if path.exists() else []
            told.append("\n".join([line for line in lines if "[info " not in line][-80:]))
        return "\n----\n".join(told)

    def open_work(self) -> dict[str, int]:
        """What is still to come to its end, by kind."""
        with psycopg.connect(self.urls.owner) as connection:
            rows = connection.execute(OPEN_WORK).fetchall()
        return {kind: count for kind, count in rows if count}

    async def problems(self) -> list[Any]:
        """Every invariant that does not hold, the provider's book against ours included."""
        with psycopg.connect(self.urls.owner) as connection:
            rows = connection.execute("SELECT id FROM control.provider_account WHERE provider = 'sandbox'").fetchall()
        accounts = [encode(Prefix.PROVIDER_ACCOUNT, row[0]) for row in rows]
        return await problems_of(self.urls, self.gateway, accounts)


OPEN_WORK = """
SELECT 'attempt ' || a.state || ' of ' || p.kind, count(*) FROM attempt a JOIN payment p ON (p.firm_id, p.id) = (a.firm_id, a.payment_id)
    WHERE a.state IN ('CREATED', 'SENT', 'NOT_SENT', 'UNKNOWN', 'PENDING') GROUP BY 1
UNION ALL SELECT 'refund ' || state || ' ' || send_state, count(*) FROM refund WHERE state IN ('PROCESSING', 'PENDING') GROUP BY 1
UNION ALL SELECT 'page ' || state, count(*) FROM checkout_session WHERE state = 'CREATING' GROUP BY 1
UNION ALL SELECT 'setup ' || state, count(*) FROM setup_intent WHERE state = 'CREATING' GROUP BY 1
UNION ALL SELECT 'event ' || type, count(*) FROM provider_event WHERE state = 'RECEIVED' GROUP BY 1
UNION ALL SELECT 'run ' || kind, count(*) FROM run WHERE state IN ('QUEUED', 'RUNNING') GROUP BY 1
"""
"""What must come to its end by itself. A page that its client never completes stays open: that is no work."""
