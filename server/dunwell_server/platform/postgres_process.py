"""Runs PostgreSQL's programs as the right user, and reads from the machine which server is alive."""

from __future__ import annotations

import os
import pwd
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dunwell_server.platform.postgres_binaries import EmbeddedPostgresError

HOST = "127.0.0.1"
_LOG_TAIL_LINES = 15
# Sends standard input to a new file and renames it, so that a reader sees the old or the new content and never half.
_WRITE_SCRIPT = 'umask 077 && cat > "$1.$2" && chmod "$3" "$1.$2" && mv -f "$1.$2" "$1"'


@dataclass(frozen=True)
class Account:
    """The user that root hands the server to."""

    uid: int
    gid: int
    name: str


@dataclass(frozen=True)
class Postmaster:
    """What `postmaster.pid` says about the server that wrote it."""

    pid: int
    port: int
    ready: bool


# ---- accounts


def account_of(uid: int) -> Account | None:
    """The account of an ordinary user; None for root and for a number without an account, which initdb refuses."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return None
    return Account(uid, entry.pw_gid, entry.pw_name) if uid != 0 else None


def unprivileged_account() -> Account:
    """The account for a server that root starts where no ordinary user is at home."""
    for name in ("nobody", "postgres", "daemon"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid, name)
    raise EmbeddedPostgresError("PostgreSQL will not run as root, and there is no user such as nobody to run it.")


def owner_name(path: Path) -> str:
    """The name of the user that owns `path`, or the number of one without a name."""
    try:
        uid = path.stat().st_uid
    except OSError:
        return "unknown"
    account = account_of(uid)
    return account.name if account else "root" if uid == 0 else f"user {uid}"


def run(
    command: Sequence[str], account: Account | None, standard_input: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `command` as `account` (None: as the present user) in a session of its own, so that Ctrl-C misses it.

    The environment is a bare one: PGDATA, PGOPTIONS and their like must not steer our server.
    """
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
    try:
        return subprocess.run(
            list(command),
            input=standard_input,
            stdin=subprocess.DEVNULL if standard_input is None else None,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env=environment,
            start_new_session=True,
            umask=0o077,
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )
    except OSError as error:
        who = f" as {account.name}" if account else ""
        raise EmbeddedPostgresError(f"Cannot run {command[0]}{who}: {error.strerror}.") from error


def can_enter(account: Account, folder: Path) -> bool:
    """Whether the account gets into `folder`: tried and not computed, for there are ACLs and security modules too."""
    return run(["/bin/sh", "-c", 'cd "$1"', "sh", str(folder)], account).returncode == 0


def can_run(account: Account, program: str) -> bool:
    """Whether the account can run `program`, libraries included."""
    try:
        return run([program, "--version"], account).returncode == 0
    except EmbeddedPostgresError:
        return False


def write_file(path: Path, content: str, mode: int, account: Account | None) -> None:
    """Replace `path` in one step. Written by the account itself: root must not follow links that others can place."""
    command = ["/bin/sh", "-c", _WRITE_SCRIPT, "sh", str(path), secrets.token_hex(4), f"{mode:o}"]
    result = run(command, account, standard_input=content)
    if result.returncode != 0:
        raise EmbeddedPostgresError(f"Cannot write {path}: {result.stderr.strip()}")


# ---- the live server


def read_postmaster(data: Path) -> Postmaster | None:
    """The live server behind `postmaster.pid` in `data`; None if there is no file, or only a dead server's."""
    path = data / "postmaster.pid"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return None
    # pid, data folder, start time, port, socket folder, listen address, shared memory, status
    if len(lines) < 4:
        return Postmaster(0, 0, ready=False) if age < 2.0 else None  # perhaps still being written
    # A copied tree carries the file of the server it was copied from, and after a reboot the number may be anyone's.
    if Path(lines[1]) != data or not _is_postgres(int(lines[0]), data):
        return None
    return Postmaster(int(lines[0]), int(lines[3]), ready=len(lines) >= 8 and lines[7].strip() == "ready")


def _is_postgres(pid: int, data: Path) -> bool:
    """Whether `pid` is the postmaster of `data`: alive, no zombie, and started for that folder."""
    if sys.platform == "linux":
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")  # empty for a zombie
        except OSError:
            return False
        return b"postgres" in arguments[0] and os.fsencode(data) in arguments
    command = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return "postgres" in said and str(data) in said


def log_tail(log: Path) -> str:
    """The last lines of the log as the end of an error message; empty if there is no log."""
    lines = read_from(log, max(0, log.stat().st_size - 8192) if log.exists() else 0).splitlines()[-_LOG_TAIL_LINES:]
    return "\n".join([f"\nThe log {log} ends:", *(f"  {line}" for line in lines)]) if lines else ""


def read_from(log: Path, offset: int) -> str:
    """What was written to the log after its first `offset` bytes."""
    try:
        with open(log, "rb") as file:
            file.seek(offset)
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def free_port() -> int:
    """A TCP port of the loopback address that nobody holds at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether a server could take `port` of the loopback address now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as PostgreSQL does
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
