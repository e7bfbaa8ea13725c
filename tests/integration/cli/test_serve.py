"""`serve`: everything starts, answers, and ends with exit code 0; what is wrong is told before anything runs."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dunwell.v1 import admin_service_pb2, admin_service_pb2_grpc
from tests import support
from tests.integration.cli.command import Command


@contextmanager
def serving(dunwell: Command, *arguments: str, **more: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """A service on free ports, its address, and what it said at its start."""
    more = {"DUNWELL_SANDBOX_PORT": "0", "DUNWELL_LOG_LEVEL": "ERROR", **more}
    process = dunwell.start("serve", "--port", "0", *arguments, **more)
    assert process.stderr is not None
    said = ""
    try:
        while "stops it" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        found = re.search(r"RPCs\s+(127\.0\.0\.1:\d+)", said)
        assert found is not None, said
        yield process, found.group(1), said
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(35)
        process.stderr.close()
        assert process.stdout is not None
        process.stdout.close()


def test_it_serves_with_several_workers_and_stops_within_its_time(dunwell: Command) -> None:
    key = dunwell("create-admin-key", "--json").json["secret"]
    with serving(dunwell, "--workers", "2", "--jobs", "1") as (process, address, said):
        assert "2 workers, 1 job worker" in said
        assert "Sandbox" in said
        with grpc.insecure_channel(address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            answer = health.Check(health_pb2.HealthCheckRequest(service="dunwell.v1.BillingService"), timeout=60)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            admin = admin_service_pb2_grpc.AdminServiceStub(channel)
            listed = admin.ListFirms(
                admin_service_pb2.ListFirmsRequest(), metadata=(("authorization", f"Bearer {key}"),), timeout=60
            )
            assert list(listed.firms) == []
        children = _children(process.pid)
        assert len(children) == 5
        assert not any(word in command for command in children for word in ("password", "postgresql://", key))
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(35) == 0
        assert time.monotonic() - began < 30
    assert not any(_runs(pid) for pid in children.values())


def test_killed_by_force_it_leaves_no_process_behind(dunwell: Command) -> None:
    with serving(dunwell) as (process, _, _):
        children = _children(process.pid)
        assert len(children) == 4
        process.kill()
        process.wait(10)
        deadline = time.monotonic() + 30
        while any(_runs(pid) for pid in children.values()) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not [command for command, pid in children.items() if _runs(pid)]


def test_a_port_in_use_is_told_before_anything_is_started(dunwell: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = dunwell("serve", "--port", str(port))
    assert result.code == 2
    assert f"127.0.0.1:{port} is in use by another process" in result.err
    assert result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"DUNWELL_HOST": "0.0.0.0"}, "TLS is off"),
        (
            {"DUNWELL_TLS_CERT_FILE": "/nowhere/cert.pem", "DUNWELL_TLS_KEY_FILE": "/nowhere/key.pem"},
            "TLS files cannot be read",
        ),
        (
            {"DUNWELL_ENVIRONMENT": "production", "DUNWELL_SECRET_KEY": ""},
            "DUNWELL_SECRET_KEY must be set in production",
        ),
    ],
)
def test_a_wrong_configuration_is_refused_in_one_line(dunwell: Command, settings: dict[str, str], words: str) -> None:
    result = dunwell("serve", timeout=60, **settings)
    assert result.code == 2
    assert words in result.err
    assert result.err.count("\n") == 1


def test_a_privileged_role_is_refused(dunwell: Command, database_urls: support.DatabaseUrls) -> None:
    result = dunwell("serve", DATABASE_URL=database_urls.owner)
    assert result.code == 2
    assert "must name the application's role" in result.err


def test_in_production_the_schema_is_not_touched(cluster_url: str, tmp_path: Path) -> None:
    empty = Command(support.DatabaseUrls(cluster_url, cluster_url, cluster_url), tmp_path)
    result = empty(
        "serve", DUNWELL_ENVIRONMENT="production", DUNWELL_OWNER_DATABASE_URL="", DUNWELL_AUDIT_DATABASE_URL=""
    )
    assert result.code == 2
    assert "error: " in result.err


def _children(pid: int) -> dict[str, int]:
    """The command lines of a process's children, and their ids."""
    found: dict[str, int] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
            command = (status.parent / "cmdline").read_text(encoding="utf-8", errors="replace").replace("\0", " ")
        except (OSError, IndexError):
            continue
        if parent == pid:
            found[command] = int(status.parent.name)
    return found


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
