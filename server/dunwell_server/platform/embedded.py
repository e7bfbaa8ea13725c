"""Starts and stops the PostgreSQL server that comes with the project, for machines that have no DATABASE_URL.

A data folder (by default `.dunwell` in the project) holds at most one cluster. Any number of processes may ask for it
at once and get the same server, which outlives them until somebody calls `stop`. It listens on 127.0.0.1 only and
demands a password (SCRAM) that lies beside the cluster in a file of mode 600.

PostgreSQL refuses to run as root. Started by root, the server runs as the owner of the folder around the data folder,
or else as `nobody`; and if that user cannot get into the data folder, because some parent folder is root's alone, the
cluster and a copy of the programs live in a folder under /var/lib and the data folder keeps a note of where.
No mode of a parent folder is ever changed.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import psycopg
from psycopg import sql

from dunwell_server.platform.postgres_binaries import (
    Binaries,
    EmbeddedPostgresError,
    copy_installation,
    find_binaries,
)
from dunwell_server.platform.postgres_process import (
    HOST,
    Account,
    Postmaster,
    account_of,
    can_enter,
    can_run,
    free_port,
    is_free,
    log_tail,
    owner_name,
    read_from,
    read_postmaster,
    run,
    unprivileged_account,
    write_file,
)

__all__ = ["DATABASE", "DEFAULT_DATA_DIR", "OWNER", "EmbeddedPostgres", "EmbeddedPostgresError", "StopMode"]

DEFAULT_DATA_DIR = Path(".dunwell")
"""Where the service keeps its cluster, relative to the project root. Git ignores it."""
OWNER = "dunwell_owner"
"""The cluster's superuser, who owns the schema. The service itself works under a lesser role."""
DATABASE = "dunwell"

StopMode = Literal["smart", "fast", "immediate"]

_LOG_ROTATE_BYTES = 16 * 1024 * 1024
_STATE_PARENTS = (Path("/var/lib"), Path("/var/tmp"))

_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    # Nobody replicates from or archives this cluster, and crash recovery does not need more.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "archive_mode": "off",
    # Statements here are short; compiling them costs more than it gains.
    "jit": "off",
    "random_page_cost": "1.1",
    "password_encryption": "scram-sha-256",
    "idle_in_transaction_session_timeout": "60s",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_checkpoints": "off",
    "full_page_writes": "on",
}
_STOP_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_DURABLE = {"fsync": "on", "synchronous_commit": "on"}
_VOLATILE = {"fsync": "off", "synchronous_commit": "off"}


class EmbeddedPostgres:
    """The cluster below one data folder. Safe to use from several threads and processes at once.

    `durable=False` trades the safety of committed data on a power cut for speed (for tests; a killed server still
    loses nothing but the last moments, and is never corrupt while the machine stays up). `search_path` replaces the
    folders in which PostgreSQL's programs are sought. `timeout` is the number of seconds to start or stop.
    """

    def __init__(
        self,
        data_dir: Path | str = DEFAULT_DATA_DIR,
        *,
        durable: bool = True,
        search_path: Sequence[Path] | None = None,
        timeout: float = 60.0,
    ) -> None:
        self._data_dir = Path(data_dir).resolve()
        self._durable = durable
        self._search_path = search_path
        self._timeout = timeout
        self.started_here = False
        """Whether the last `start` of this object launched the server rather than found it running."""

    # ---- what callers use

    def start(self) -> str:
        """Make the cluster if there is none, start the server if it does not run, and return the owner's URL.

        Raises `EmbeddedPostgresError`; if the server would not start, with the last lines of its log.
        """
        with self._locked():
            home = self._home() or self._new_home()
            postmaster = self._running(home)
            self.started_here = postmaster is None
            if postmaster is None:
                home = self._launch(home)
                postmaster = self._running(home)
            if postmaster is None:
                raise EmbeddedPostgresError(
                    f"PostgreSQL stopped as soon as it had started.{log_tail(home / 'postgres.log')}"
                )
            self._ensure_database(home, postmaster.port)
            return _url(home, postmaster.port, DATABASE)

    ensure_running = start

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server and wait until it has ended; does nothing if it is not running.

        `fast` ends sessions and writes a checkpoint; `immediate` drops everything, and the next start recovers.
        """
        if not self._data_dir.exists():
            return
        with self._locked():
            home = self._home()
            if home is not None:
                self._stop(home, mode)

    def is_running(self) -> bool:
        """Whether the server of this data folder accepts connections now."""
        home = self._home() if self._data_dir.exists() else None
        postmaster = read_postmaster(home / "data") if home else None
        return postmaster is not None and postmaster.ready

    @property
    def url(self) -> str:
        """The owner's URL of the running server. Raises `EmbeddedPostgresError` if it is not running."""
        return self.url_for(DATABASE)

    def url_for(self, database: str) -> str:
        """The owner's URL for another database of the same cluster, such as a copy made for a test."""
        home = self._home() if self._data_dir.exists() else None
        postmaster = read_postmaster(home / "data") if home else None
        if home is None or postmaster is None:
            raise EmbeddedPostgresError(f"The embedded PostgreSQL of {self._data_dir} is not running.")
        return _url(home, postmaster.port, database)

    @property
    def log_file(self) -> Path | None:
        """Where the server writes its log; None before the first start."""
        home = self._home() if self._data_dir.exists() else None
        return home / "postgres.log" if home else None

    def destroy(self) -> None:
        """Stop the server and delete the cluster with everything in it, wherever it lies."""
        if not self._data_dir.exists():
            return
        with self._locked():
            home = self._home()
            if home is not None:
                self._stop(home, "immediate")
                shutil.rmtree(home)
            self._note.unlink(missing_ok=True)

    # ---- where the cluster lies

    @property
    def _local_home(self) -> Path:
        return self._data_dir / "postgres"

    @property
    def _note(self) -> Path:
        """Says where a cluster lies that could not stay in the data folder."""
        return self._data_dir / "postgres.location"

    def _home(self) -> Path | None:
        """The folder that holds cluster, password and log; None if there is none yet."""
        home = self._local_home
        if self._note.exists():
            note = json.loads(self._note.read_text(encoding="utf-8"))
            # A tree copied with its note must not take over the cluster of the tree it was copied from.
            if note["data_dir"] == str(self._data_dir):
                home = Path(note["home"])
        try:
            if not home.exists():
                return None
            (home / "password").exists()
            os.listdir(home)
        except PermissionError as error:
            raise EmbeddedPostgresError(
                f"The database in {home} belongs to another user ({owner_name(home)}). "
                f"Run as that user or as root, or delete {self._data_dir} to begin with an empty database."
            ) from error
        return home

    def _new_home(self) -> Path:
        """Make an empty home for the account that will run the server, in the data folder if it can work there."""
        account = self._account(None)
        if account is not None and not can_enter(account, self._data_dir):
            home = self._make_state_home(account)
            self._settle(home, account)
            return home
        self._note.unlink(missing_ok=True)  # of a tree this one was copied from
        fresh = Path(tempfile.mkdtemp(prefix="postgres-", dir=self._data_dir))
        if account is not None:
            os.chown(fresh, account.uid, account.gid)
        return fresh.rename(self._local_home)

    def _make_state_home(self, account: Account) -> Path:
        for parent in _STATE_PARENTS:
            try:
                # A random name and no name made from the path: a new clone in an old place begins empty.
                home = Path(tempfile.mkdtemp(prefix="dunwell-", dir=parent)).resolve()
            except OSError:
                continue
            if can_enter(account, parent):
                return home
            home.rmdir()
        raise EmbeddedPostgresError(
            f"PostgreSQL will not run as root, and its user {account.name} can enter neither {self._data_dir} nor any "
            f"of {', '.join(map(str, _STATE_PARENTS))}. Run as an ordinary user or set DATABASE_URL."
        )

    def _settle(self, home: Path, account: Account) -> None:
        """Give a state home to its user, and note in the data folder where it is."""
        _give(home, account)
        note = {"data_dir": str(self._data_dir), "home": str(home)}
        write_file(self._note, json.dumps(note, indent=2) + "\n", 0o644, None)

    def _move_to_state_home(self, home: Path, account: Account) -> Path:
        """Move a cluster whose tree has come to lie in a folder that its user cannot enter."""
        state_home = self._make_state_home(account)
        for entry in list(home.iterdir()):
            shutil.move(entry, state_home / entry.name)
        self._settle(state_home, account)
        home.rmdir()
        return state_home

    def _account(self, home: Path | None) -> Account | None:
        """The account that runs the server: the owner of an existing home; None means the present user."""
        if os.geteuid() != 0:
            return None
        if home is None:
            return account_of(self._data_dir.parent.stat().st_uid) or unprivileged_account()
        account = account_of(home.stat().st_uid)
        if account is None:
            raise EmbeddedPostgresError(f"{home} belongs to {owner_name(home)}, who cannot run PostgreSQL.")
        return account

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the data folder's lock, so that two starters cannot both make or launch the cluster."""
        path = self._data_dir / "postgres.lock"
        try:
            self._make_data_dir()
            lock = open(path, "a", encoding="utf-8")  # noqa: SIM115  closed below
        except PermissionError as error:
            raise EmbeddedPostgresError(
                f"Cannot write {error.filename}, which belongs to {owner_name(path.parent)}. Run as that user or as "
                f"root, or delete {self._data_dir} to begin with an empty database."
            ) from error
        with lock:
            if os.geteuid() == 0:
                owner = self._data_dir.stat()
                os.fchown(lock.fileno(), owner.st_uid, owner.st_gid)
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make_data_dir(self) -> None:
        try:
            self._data_dir.mkdir(parents=True)
        except FileExistsError:
            return
        account = self._account(None)
        # Root working in an ordinary user's tree leaves them what they can use and delete.
        if account is not None and account.uid == self._data_dir.parent.stat().st_uid:
            os.chown(self._data_dir, account.uid, account.gid)

    # ---- making and launching

    def _binaries(self, home: Path, account: Account | None) -> Binaries:
        version_file = home / "data" / "PG_VERSION"
        major = int(version_file.read_text(encoding="ascii")) if version_file.exists() else None
        binaries = find_binaries(self._search_path, major)
        if account is not None and not can_run(account, binaries.program("postgres")):
            runtime = home / f"runtime-{binaries.version}"
            binaries = copy_installation(binaries, runtime)
            _give(runtime, account)
        return binaries

    def _launch(self, home: Path) -> Path:
        """Start the server and return its home, which is another one if its user can no longer enter the old one."""
        account = self._account(home)
        if account is not None and not can_enter(account, home):
            home = self._move_to_state_home(home, account)
        binaries = self._binaries(home, account)
        if not (home / "data").exists():
            self._make_cluster(home, binaries, account)
        log = home / "postgres.log"
        if log.exists() and log.stat().st_size > _LOG_ROTATE_BYTES:
            log.replace(home / "postgres.log.1")
        (home / "data" / "postmaster.pid").unlink(missing_ok=True)  # `_running` has found that nobody stands behind it
        command = [binaries.program("pg_ctl"), "start", "-D", str(home / "data"), "-l", str(log), "-w", "-s"]
        command += ["-t", str(max(1, round(self._timeout)))]
        deadline = time.monotonic() + self._timeout
        port = _remembered_port(home)
        while True:
            port = port if port is not None and is_free(port) else free_port()
            write_file(home / "data" / "dunwell.conf", self._config(port), 0o600, account)
            offset = log.stat().st_size if log.exists() else 0
            result = run(command, account)
            if result.returncode == 0:
                return home
            said = read_from(log, offset)
            # Both pass: another program took the port; sessions of a killed server have not noticed its death yet.
            passing = "could not bind" in said or "pre-existing shared memory block" in said
            if not passing or time.monotonic() > deadline:
                raise EmbeddedPostgresError(f"PostgreSQL did not start. {result.stderr.strip()}{log_tail(log)}")
            port = None if "could not bind" in said else port
            time.sleep(0.2)

    def _config(self, port: int) -> str:
        settings = {"port": str(port), **_SETTINGS, **(_DURABLE if self._durable else _VOLATILE)}
        lines = [f"{name} = '{value}'" for name, value in settings.items()]
        return "\n".join(["# Written anew at every start; for your own settings use local.conf.", *lines, ""])

    def _make_cluster(self, home: Path, binaries: Binaries, account: Account | None) -> None:
        """Run initdb in a folder of its own and rename it, so that an interrupted one is never taken for a cluster."""
        for leftover in home.glob("init-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        write_file(home / "password", secrets.token_urlsafe(32), 0o600, account)
        fresh = home / f"init-{secrets.token_hex(4)}"
        command = [binaries.program("initdb"), "-D", str(fresh), f"--username={OWNER}", f"--pwfile={home / 'password'}"]
        command += ["--auth=scram-sha-256", "--data-checksums", "--encoding=UTF8", "--no-instructions"]
        command += _locale_options(binaries.major) + ([] if self._durable else ["--no-sync"])
        result = run(command, account)
        if result.returncode != 0:
            shutil.rmtree(fresh, ignore_errors=True)
            raise EmbeddedPostgresError(f"initdb failed in {home}: {(result.stderr or result.stdout).strip()}")
        defaults = (fresh / "postgresql.conf").read_text(encoding="utf-8")
        include = "\ninclude 'dunwell.conf'\ninclude 'local.conf'\n"
        write_file(fresh / "postgresql.conf", defaults + include, 0o600, account)
        write_file(fresh / "local.conf", "# Settings of your own: they win over dunwell.conf.\n", 0o600, account)
        fresh.rename(home / "data")

    def _ensure_database(self, home: Path, port: int) -> None:
        try:
            with psycopg.connect(_url(home, port, "postgres"), autocommit=True, connect_timeout=10) as connection:
                if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]).fetchone() is None:
                    # The session of a starter that was killed may be making it at this moment.
                    with suppress(psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
                        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        except psycopg.Error as error:
            raise EmbeddedPostgresError(
                f"PostgreSQL runs but does not serve: {error}{log_tail(home / 'postgres.log')}"
            ) from error

    # ---- the running server

    def _running(self, home: Path) -> Postmaster | None:
        """The server of this home, once it accepts connections; None if there is none. Waits for one on its way."""
        deadline = time.monotonic() + self._timeout
        while (postmaster := read_postmaster(home / "data")) is not None:
            if postmaster.ready:
                return postmaster
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"PostgreSQL (process {postmaster.pid}) has been starting or stopping for {self._timeout:.0f} s."
                    f"{log_tail(home / 'postgres.log')}"
                )
            time.sleep(0.05)
        return None

    def _stop(self, home: Path, mode: StopMode) -> None:
        deadline = time.monotonic() + self._timeout
        signalled = 0
        while (postmaster := read_postmaster(home / "data")) is not None:
            if postmaster.pid not in (0, signalled):
                os.kill(postmaster.pid, _STOP_SIGNALS[mode])
                signalled = postmaster.pid
            if time.monotonic() > deadline:
                raise EmbeddedPostgresError(
                    f"PostgreSQL (process {postmaster.pid}) did not stop within {self._timeout:.0f} s."
                    f"{log_tail(home / 'postgres.log')}"
                )
            time.sleep(0.02)


def _give(folder: Path, account: Account) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def _url(home: Path, port: int, database: str) -> str:
    password = (home / "password").read_text(encoding="ascii").strip()
    return f"postgresql://{OWNER}:{password}@{HOST}:{port}/{database}"


def _locale_options(major: int) -> list[str]:
    """Byte order for sorting, Unicode for letters; from 17 on without asking the operating system's locales."""
    if major >= 17:
        return ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    known = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False).stdout.split()
    ctype = next((name for name in ("C.UTF-8", "C.utf8", "UTF-8") if name in known), "C")
    return ["--locale=C", f"--lc-ctype={ctype}"]


def _remembered_port(home: Path) -> int | None:
    """The port of the last start, so that a URL somebody noted keeps working."""
    try:
        lines = (home / "data" / "dunwell.conf").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    return next((int(line.split("'")[1]) for line in lines if line.startswith("port = '")), None)
