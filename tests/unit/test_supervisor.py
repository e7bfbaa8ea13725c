"""The supervisor with real processes: order, restart, stop, and what happens when it is killed itself."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from dunwell_server.supervisor import ChildSpec, Supervisor, SupervisorError

ROOT = Path(__file__).parents[2]
CHILD = """
import os, signal, sys, time
sys.path.insert(0, {server!r})
from dunwell_server.supervisor import die_with_supervisor
assert die_with_supervisor()
name, folder = sys.argv[1], sys.argv[2]
def end(*_):
    open(folder + "/events", "a").write(f"{{name}} ended\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
open(folder + "/events", "a").write(f"{{name}} started\\n")
open(f"{{folder}}/{{name}}.pid", "w").write(str(os.getpid()))
while True:
    time.sleep(0.05)
""".format(server=str(ROOT / "server"))


def spec(folder: Path, name: str, *, after: tuple[str, ...] = ()) -> ChildSpec:
    """A child that notes its start and end, ready once it has written its pid."""

    async def ready() -> bool:
        return (folder / f"{name}.pid").exists()

    return ChildSpec(name, (sys.executable, "-c", CHILD, name, str(folder)), ready=ready, after=after, stop_timeout=5)


def events(folder: Path) -> list[str]:
    """What happened, in order."""
    path = folder / "events"
    return path.read_text().splitlines() if path.exists() else []


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait until `condition()` holds."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - other processes have no event
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def test_order_of_start_and_end(tmp_path: Path) -> None:
    announced: list[bool] = []

    async def on_ready() -> None:
        announced.append(True)

    children = [spec(tmp_path, "worker", after=("database",)), spec(tmp_path, "database")]
    supervisor = Supervisor(children, on_ready=on_ready)
    running = asyncio.create_task(supervisor.run())
    await until(lambda: bool(announced))
    assert events(tmp_path) == ["database started", "worker started"]
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(running, 30)
    assert events(tmp_path)[2:] == ["worker ended", "database ended"]
    assert supervisor.pid("worker") is None


async def test_a_crashed_child_comes_back(tmp_path: Path) -> None:
    ready = asyncio.Event()

    async def on_ready() -> None:
        ready.set()

    supervisor = Supervisor([spec(tmp_path, "worker"), spec(tmp_path, "other")], on_ready=on_ready)
    running = asyncio.create_task(supervisor.run())
    # That a child runs is not enough: one that dies before the supervisor has found it ready could not be started at all.
    await asyncio.wait_for(ready.wait(), 30)
    first = supervisor.pid("worker")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: events(tmp_path).count("worker started") == 2, 30)
    assert supervisor.restarts == {"worker": 1, "other": 0}
    assert supervisor.pid("worker") not in (None, first)
    supervisor.stop()
    await asyncio.wait_for(running, 30)
    assert {"worker ended", "other ended"} <= set(events(tmp_path))


async def test_a_child_that_cannot_start_ends_everything(tmp_path: Path) -> None:
    broken = ChildSpec("broken", (sys.executable, "-c", "import sys; sys.exit(3)"), ready=never)
    with pytest.raises(SupervisorError, match="broken ended with exit code 3"):
        await asyncio.wait_for(Supervisor([spec(tmp_path, "good"), broken]).run(), 10)
    await until(lambda: "good started" not in events(tmp_path) or "good ended" in events(tmp_path))
    missing = ChildSpec("missing", ("/nonexistent/program",))
    with pytest.raises(SupervisorError, match="missing cannot be started"):
        await asyncio.wait_for(Supervisor([missing]).run(), 10)
    slow = ChildSpec("slow", (sys.executable, "-c", "import time; time.sleep(60)"), ready=never, ready_timeout=0.3)
    with pytest.raises(SupervisorError, match="slow was not ready"):
        await asyncio.wait_for(Supervisor([slow]).run(), 10)


async def never() -> bool:
    """A probe that fails."""
    raise ConnectionRefusedError


async def test_a_child_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', flush=True); time.sleep(60)"
    )
    supervisor = Supervisor([ChildSpec("stubborn", (sys.executable, "-c", stubborn), stop_timeout=0.5)])
    running = asyncio.create_task(supervisor.run())
    await until(lambda: supervisor.pid("stubborn") is not None)
    await asyncio.sleep(0.5)
    pid = supervisor.pid("stubborn")
    supervisor.stop()
    await asyncio.wait_for(running, 30)
    assert pid is not None
    assert not alive(pid)


SUPERVISE = """
import asyncio, sys
sys.path[:0] = [{root!r}, {server!r}]
from pathlib import Path
from tests.unit.test_supervisor import spec
from dunwell_server.supervisor import Supervisor
asyncio.run(Supervisor([spec(Path(sys.argv[1]), "worker")]).run())
""".format(root=str(ROOT), server=str(ROOT / "server"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
async def test_children_end_with_their_supervisor(tmp_path: Path, number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SUPERVISE, str(tmp_path))
    pid_file = tmp_path / "worker.pid"
    await until(lambda: pid_file.exists() and pid_file.read_text() != "")
    child = int(pid_file.read_text())
    process.send_signal(number)
    code = await asyncio.wait_for(process.wait(), 10)
    assert code == (-signal.SIGKILL if number is signal.SIGKILL else 0)
    await until(lambda: not alive(child))
    assert events(tmp_path) == ["worker started", "worker ended"]


def test_a_list_that_cannot_be_started() -> None:
    def child(name: str, *after: str) -> ChildSpec:
        return ChildSpec(name, ("true",), after=after)

    with pytest.raises(SupervisorError, match="same name"):
        Supervisor([child("a"), child("a")])
    with pytest.raises(SupervisorError, match="wait for each other"):
        Supervisor([child("a", "b"), child("b", "a")])
    with pytest.raises(SupervisorError, match="nobody"):
        Supervisor([child("a", "z")])


async def test_stop_before_everything_runs(tmp_path: Path) -> None:
    waiting = ChildSpec("first", (sys.executable, "-c", "import time; time.sleep(60)"), ready=never)
    supervisor = Supervisor([waiting, spec(tmp_path, "second", after=("first",))])
    running: Awaitable[None] = asyncio.ensure_future(supervisor.run())
    await asyncio.sleep(0.3)
    began = time.monotonic()
    supervisor.stop()
    await asyncio.wait_for(running, 30)
    assert time.monotonic() - began < 3
    assert events(tmp_path) == []
