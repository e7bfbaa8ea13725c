"""Keeps the processes of one installation running: starts them in order, restarts what crashes, stops all at the end.

Children are started by exec, never forked: gRPC and threads do not survive a fork. Each inherits the read end of a
pipe whose write end only the supervisor holds; a child that called `die_with_supervisor` ends when the pipe does, also
when the supervisor was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from dunwell_server.platform.logging import get_logger

log = get_logger(__name__)

PIPE_VARIABLE = "DUNWELL_SUPERVISOR_PIPE"
FIRST_BACKOFF = 0.2
MAX_BACKOFF = 10.0
STABLE_SECONDS = 10.0
"""A child that ran this long and then crashed is restarted without a longer pause."""
READY_POLL = 0.05
STOP_TIMEOUT = 29.0
HARD_EXIT_SECONDS = 30.0

Probe = Callable[[], Awaitable[bool]]


class SupervisorError(Exception):
    """The children cannot be run: one ended or was not ready in time while starting, or the list is wrong."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One process: what to run, when it counts as ready, and which others must be ready before it starts."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to the supervisor's own environment. Secrets go here, never into `argv`, which every user can read."""
    ready: Probe | None = None
    """True once the child can be used; None: as soon as it runs."""
    after: Sequence[str] = ()
    ready_timeout: float = 30.0
    stop_timeout: float = STOP_TIMEOUT


@dataclass(slots=True)
class _Child:
    spec: ChildSpec
    process: asyncio.subprocess.Process | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    restarts: int = 0


class Supervisor:
    """Runs children until told to stop."""

    def __init__(self, children: Sequence[ChildSpec], *, on_ready: Callable[[], Awaitable[None]] | None = None) -> None:
        """`on_ready` is called once, when every child is ready. SupervisorError where `after` names nobody or a ring."""
        self._children = {spec.name: _Child(spec) for spec in children}
        if len(self._children) != len(children):
            raise SupervisorError("two children have the same name")
        _check_order(children)
        self._on_ready = on_ready
        self._stopping = asyncio.Event()
        self._pipe: tuple[int, int] | None = None
        self._failure: str | None = None

    @property
    def restarts(self) -> Mapping[str, int]:
        """How often each child was started again."""
        return {name: child.restarts for name, child in self._children.items()}

    def pid(self, name: str) -> int | None:
        """The process id of a child that runs."""
        process = self._children[name].process
        return process.pid if process is not None and process.returncode is None else None

    def stop(self) -> None:
        """Begin to stop; `run` returns when every child has ended."""
        self._stopping.set()

    async def run(self) -> None:
        """Run the children until `stop`, SIGTERM or SIGINT. SupervisorError where one could not be started at all."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, self.stop)
        self._pipe = os.pipe()
        os.set_inheritable(self._pipe[0], True)
        keepers = [asyncio.create_task(self._keep(child), name=child.spec.name) for child in self._children.values()]
        announcer = asyncio.create_task(self._announce())
        try:
            await self._stopping.wait()
        finally:
            announcer.cancel()
            await self._stop_all()
            await asyncio.gather(*keepers, announcer, return_exceptions=True)
            for number in signals:
                loop.remove_signal_handler(number)
            for end in self._pipe:
                os.close(end)
        if self._failure is not None:
            raise SupervisorError(self._failure)

    async def _announce(self) -> None:
        began = time.monotonic()
        await asyncio.gather(*(child.ready.wait() for child in self._children.values()))
        log.info("everything runs", children=list(self._children), ms=round((time.monotonic() - began) * 1000))
        if self._on_ready is not None:
            await self._on_ready()

    async def _keep(self, child: _Child) -> None:
        """Start a child and keep it running."""
        backoff = FIRST_BACKOFF
        try:
            if not await self._or_stopping(self._prerequisites(child)):
                return
            while not self._stopping.is_set():
                began = time.monotonic()
                await self._start(child)
                process = child.process
                if process is None:
                    return
                code = await process.wait()
                if self._stopping.is_set():
                    return
                if not child.ready.is_set():
                    self._fail(f"{child.spec.name} ended with {_describe(code)} before it was ready")
                    return
                backoff = FIRST_BACKOFF if time.monotonic() - began > STABLE_SECONDS else min(backoff * 2, MAX_BACKOFF)
                log.error("child ended", child=child.spec.name, ended=_describe(code), restart_in=round(backoff, 1))
                await self._or_stopping(asyncio.sleep(backoff))
                child.restarts += 1
        finally:
            child.gone.set()

    async def _prerequisites(self, child: _Child) -> None:
        for name in child.spec.after:
            await self._children[name].ready.wait()

    async def _start(self, child: _Child) -> None:
        if self._pipe is None or self._stopping.is_set():
            child.process = None
            return
        spec = child.spec
        environment = {**os.environ, **spec.env, PIPE_VARIABLE: str(self._pipe[0])}
        try:
            # A session of its own: Ctrl-C on the terminal reaches the supervisor alone, which stops children in order.
            child.process = await asyncio.create_subprocess_exec(
                *spec.argv, env=environment, pass_fds=(self._pipe[0],), start_new_session=True
            )
        except OSError as error:
            child.process = None
            self._fail(f"{spec.name} cannot be started: {error.strerror}")
            return
        log.debug("child started", child=spec.name, pid=child.process.pid)
        if not child.ready.is_set():
            await self._wait_ready(child, child.process)

    async def _wait_ready(self, child: _Child, process: asyncio.subprocess.Process) -> None:
        spec = child.spec
        deadline = time.monotonic() + spec.ready_timeout
        while not self._stopping.is_set() and process.returncode is None:
            if spec.ready is None or await _answers(spec.ready):
                child.ready.set()
                return
            if time.monotonic() > deadline:
                self._fail(f"{spec.name} was not ready after {spec.ready_timeout:.0f} s")
                return
            await asyncio.sleep(READY_POLL)

    def _fail(self, message: str) -> None:
        if not self._stopping.is_set():
            log.error("giving up", why=message)
            self._failure = self._failure or message
            self._stopping.set()

    async def _stop_all(self) -> None:
        """Those that others depend on end last."""
        await asyncio.gather(*(self._stop_after_dependents(child) for child in self._children.values()))

    async def _stop_after_dependents(self, child: _Child) -> None:
        name = child.spec.name
        await asyncio.gather(*(other.gone.wait() for other in self._children.values() if name in other.spec.after))
        process = child.process
        if process is not None and process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), child.spec.stop_timeout)
            except TimeoutError:
                log.error("child did not stop in time", child=name)
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        await child.gone.wait()

    async def _or_stopping(self, work: Awaitable[None]) -> bool:
        """Wait for `work` or for the stop, whichever comes first; True if the work is done."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if task.done():
            task.result()
            return True
        task.cancel()
        return False


async def _answers(probe: Probe) -> bool:
    try:
        return await probe()
    except Exception:
        return False  # refused connections and the like: not ready yet


def _check_order(children: Sequence[ChildSpec]) -> None:
    placed: set[str] = set()
    waiting = list(children)
    while waiting:
        free = [spec for spec in waiting if placed.issuperset(spec.after)]
        if not free:
            raise SupervisorError(
                f"these children wait for each other or for nobody: {[spec.name for spec in waiting]}"
            )
        placed.update(spec.name for spec in free)
        waiting = [spec for spec in waiting if spec.name not in placed]


def _describe(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def die_with_supervisor() -> bool:
    """For a child's first line: end by SIGTERM when the supervisor is gone, and by force half a minute later.

    False where no supervisor started this process.
    """
    number = os.environ.pop(PIPE_VARIABLE, None)
    if number is None:
        return False
    pipe = int(number)
    os.set_inheritable(pipe, False)

    def watch() -> None:
        with contextlib.suppress(OSError):
            while os.read(pipe, 1):
                pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(HARD_EXIT_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="supervisor-pipe", daemon=True).start()
    return True


def python_child(name: str, *arguments: str) -> tuple[str, ...]:
    """The command line of one of our own kinds of process: `python -m dunwell_server <arguments>`."""
    return (sys.executable, "-m", "dunwell_server", *(arguments or (name,)))
