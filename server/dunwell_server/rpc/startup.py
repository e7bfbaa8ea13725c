"""What a server checks before it serves. Each failure is a StartupError that says what to change."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc
import psycopg
from psycopg.rows import dict_row

from dunwell_server.config import Settings, is_loopback


class StartupError(Exception):
    """The server refuses to start."""


def refuse_plaintext(settings: Settings) -> None:
    """Without TLS only on loopback, unless it was asked for."""
    if not settings.uses_tls and not is_loopback(settings.host) and not settings.allow_plaintext:
        raise StartupError(
            f"{settings.host} can be reached from outside and TLS is off: set DUNWELL_TLS_CERT_FILE and "
            "DUNWELL_TLS_KEY_FILE, bind a loopback address, or allow it with DUNWELL_ALLOW_PLAINTEXT=true"
        )


def probe_port(host: str, port: int) -> None:
    """Make sure that nobody listens on the port: gRPC's own bind may share it silently (SO_REUSEPORT)."""
    if port == 0:
        return
    try:
        candidates = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise StartupError(f"{host} is not an address of this machine: {error}") from error
    family, kind, protocol, _, address = candidates[0]
    with socket.socket(family, kind, protocol) as probe:
        # Connections that linger after a restart do not count; a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise StartupError(f"{host}:{port} is in use by another process") from error
            raise StartupError(f"{host}:{port} cannot be bound: {error.strerror}") from error


_ROLE = """
SELECT current_user AS name, r.rolsuper, r.rolbypassrls, r.rolcreaterole,
       (SELECT string_agg(n.nspname || '.' || c.relname, ', ' ORDER BY n.nspname, c.relname)
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('public', 'control') AND c.relkind IN ('r', 'p', 'v', 'm')
          AND pg_has_role(r.oid, c.relowner, 'MEMBER')) AS owned,
       (SELECT string_agg(b.rolname, ', ') FROM pg_roles b
        WHERE (b.rolsuper OR b.rolbypassrls) AND pg_has_role(r.oid, b.oid, 'MEMBER')) AS powers,
       to_regclass('{versions}') IS NOT NULL AS versioned
FROM pg_roles r WHERE r.rolname = current_user
"""


async def check_database(url: str, expected_revision: str, *, version_table: str = "public.alembic_version") -> None:
    """Refuse a role that could see past row security, and a schema of another release. One connection, two queries."""
    try:
        connection = await psycopg.AsyncConnection.connect(
            url, autocommit=True, connect_timeout=5, row_factory=dict_row
        )
    except psycopg.OperationalError as error:
        raise StartupError("the database does not answer; check DATABASE_URL") from error
    async with connection:
        row = await (await connection.execute(_ROLE.replace("{versions}", version_table))).fetchone()
        if row is None:
            raise StartupError("the database does not know its own role")
        _refuse_power(row)
        found = None
        if row["versioned"]:
            cursor = await connection.execute(f"SELECT version_num FROM {version_table}")
            found = await cursor.fetchone()
    revision = None if found is None else found["version_num"]
    if revision != expected_revision:
        raise StartupError(
            f"the database's schema is {revision or 'empty'}, this release needs {expected_revision}: run `dunwell migrate`"
        )


def _refuse_power(row: dict[str, Any]) -> None:
    name = row["name"]
    if row["rolsuper"] or row["rolbypassrls"] or row["powers"]:
        raise StartupError(
            f"the database role {name} is a superuser or bypasses row security: DATABASE_URL must name the application's role"
        )
    if row["owned"]:
        raise StartupError(
            f"the database role {name} owns tables ({row['owned'][:100]}…): DATABASE_URL must name the application's role, "
            "the owner's belongs into DUNWELL_OWNER_DATABASE_URL"
        )


def load_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """TLS from the configured files, mutual where client authorities are given; None for plaintext.

    The files are looked at for every new connection, so that a renewed certificate needs no restart.
    """
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        return None
    files = [settings.tls_cert_file, settings.tls_key_file]
    if settings.tls_client_ca_file is not None:
        files.append(settings.tls_client_ca_file)
    try:
        stamps, configuration = _stamps(files), _certificates(settings)
    except (OSError, ValueError) as error:
        raise StartupError(f"the TLS files cannot be read: {error}") from error
    state = {"stamps": stamps}

    def renewed() -> Any:  # None: no change, which the type stubs do not know
        try:
            now = _stamps(files)
            if now == state["stamps"]:
                return None
            fresh = _certificates(settings)
        except OSError:
            return None  # between the removal of the old file and the arrival of the new: keep what works
        state["stamps"] = now
        return fresh

    return grpc.dynamic_ssl_server_credentials(
        configuration, renewed, require_client_authentication=settings.tls_client_ca_file is not None
    )


def _stamps(files: Iterable[Path]) -> list[tuple[int, int]]:
    return [(status.st_mtime_ns, status.st_ino) for status in (path.stat() for path in files)]


def _certificates(settings: Settings) -> grpc.ServerCertificateConfiguration:
    if settings.tls_cert_file is None or settings.tls_key_file is None:
        raise ValueError("no certificate")
    authority = settings.tls_client_ca_file
    return grpc.ssl_server_certificate_configuration(
        [(settings.tls_key_file.read_bytes(), settings.tls_cert_file.read_bytes())],
        None if authority is None else authority.read_bytes(),
    )
