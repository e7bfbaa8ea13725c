"""Stand-ins for Stripe from other ecosystems, installed once into a cache folder: stripe-stateful-mock, stripe-mock.

``python -m tests.providers.stripe.standins`` installs both. Tests install what is missing, and are skipped, saying why,
where npm or Go is missing or their registries cannot be reached. ``DUNWELL_TEST_CACHE`` names another folder.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx

STATEFUL_MOCK = Path(__file__).with_name("stateful_mock")
STRIPE_MOCK_VERSION = "v0.203.0"
INSTALL_SECONDS = 100


class Missing(Exception):
    """Why a stand-in cannot be had here."""


def cache() -> Path:
    """Where stand-ins are kept."""
    given = os.environ.get("DUNWELL_TEST_CACHE")
    folder = Path(given) if given else Path.home() / ".cache" / "dunwell-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _once(name: str, made: Path, install: Callable[[], None]) -> None:
    """Runs ``install`` unless its result is there; one process at a time."""
    with (cache() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            install()
        if not made.exists():
            raise Missing(f"{name} did not install")


def _run(name: str, command: list[str], folder: Path, **environment: str) -> None:
    if shutil.which(command[0]) is None:
        raise Missing(f"{command[0]} is not installed, which {name} needs")
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Missing(f"{name} did not install in {INSTALL_SECONDS} s") from None
    if done.returncode != 0:
        raise Missing(f"{name} did not install: {done.stderr.strip().splitlines()[-1:]}")


def stateful_mock() -> list[str]:
    """The command that runs stripe-stateful-mock (its port is in ``PORT``). Raises Missing."""
    folder = cache() / "stateful-mock-0.0.16"
    script = folder / "node_modules" / "stripe-stateful-mock" / "dist" / "cli.js"

    def install() -> None:
        folder.mkdir(exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(STATEFUL_MOCK / name, folder)
        _run("stripe-stateful-mock", ["npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts"], folder)

    if shutil.which("node") is None:
        raise Missing("node is not installed, which stripe-stateful-mock needs")
    _once("stripe-stateful-mock", script, install)
    return ["node", str(script)]


def stripe_mock() -> str:
    """The program stripe-mock. Raises Missing."""
    folder = cache() / f"stripe-mock-{STRIPE_MOCK_VERSION}"
    program = folder / "stripe-mock"

    def install() -> None:
        folder.mkdir(exist_ok=True)
        module = f"github.com/stripe/stripe-mock@{STRIPE_MOCK_VERSION}"
        _run("stripe-mock", ["go", "install", module], folder, GOBIN=str(folder))

    _once("stripe-mock", program, install)
    return str(program)


def started(command: list[str], folder: Path, port: int, **environment: str) -> subprocess.Popen[bytes]:
    """A running stand-in, once it answers on its port. Raises RuntimeError with its output if it does not."""
    log = folder / "stand-in.log"
    with log.open("ab") as sink:
        process = subprocess.Popen(command, cwd=folder, env=os.environ | environment, stdout=sink, stderr=sink)
    atexit.register(process.kill)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(f"http://127.0.0.1:{port}/", trust_env=False, timeout=5)
            return process
        except httpx.TransportError:
            time.sleep(0.05)
    process.kill()
    raise RuntimeError(f"{command[0]} did not start: {log.read_text()}")


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


if __name__ == "__main__":
    print(stateful_mock(), stripe_mock())
