"""What one installation has besides its processes: the embedded database's life, the sandbox gateway's address, its files."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from dunwell_server.config import Settings
from dunwell_server.platform.embedded import EmbeddedPostgres

_OTHERS = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"


def is_embedded(settings: Settings) -> bool:
    """Whether the database is the embedded one."""
    return settings.database_url is None and settings.owner_database_url is None


@contextmanager
def database_of(settings: Settings, *, keep: bool = True) -> Iterator[None]:
    """Have the embedded PostgreSQL run, where it is the one. At the end it is stopped, unless somebody else uses it.

    `keep`: leave one alone that ran before. Commands do; the service, to which it belongs, also stops one that a killed service left.
    """
    if not is_embedded(settings):
        yield
        return
    server = EmbeddedPostgres(settings.data_dir)
    server.start()
    try:
        yield
    finally:
        if (server.started_here or not keep) and not _is_used(server):
            server.stop()


def sandbox_url(settings: Settings) -> str:
    """Where the sandbox gateway answers: the one configured, else the one that `serve` starts."""
    return settings.sandbox_url or f"http://127.0.0.1:{settings.sandbox_port}"


def sandbox_book(settings: Settings) -> Path:
    """The file of the sandbox gateway's own book."""
    return settings.data_dir / "sandbox.sqlite"


def sidecar_key_file(settings: Settings) -> Path:
    """Where the API key of the sidecar that `serve` starts is kept, mode 600."""
    return settings.data_dir / "sidecar-key"


def anchor_folder(settings: Settings) -> Path:
    """Where the audit chains' heads are anchored, outside of the database."""
    return settings.data_dir / "anchors"


def free_port() -> int:
    """A loopback port that nobody uses at this moment."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_used(server: EmbeddedPostgres) -> bool:
    try:
        with psycopg.connect(server.url, connect_timeout=5) as connection:
            row = connection.execute(_OTHERS).fetchone()
    except Exception:  # it has ended by itself
        return True
    return bool(row and row[0])
