"""TLS on both sides of the sidecar, and what it refuses to send in the clear."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from dunwell_server.sidecar_config import SidecarSettings
from dunwell_server.webhooks.server import Sidecar, SidecarError
from tests.rpc.floor.test_server import certificate
from tests.webhooks.fakes import rpc_server, running_sidecar, sidecar_settings


async def test_the_server_is_called_over_tls_and_only_if_it_is_the_right_one(tmp_path: Path) -> None:
    ca_file, _, ca = certificate(tmp_path, "authority")
    other_ca, _, _ = certificate(tmp_path, "stranger")
    cert_file, key_file, _ = certificate(tmp_path, "server", ca)
    async with rpc_server(tmp_path, tls_cert_file=cert_file, tls_key_file=key_file) as server:
        port = server.server.port
        for changes, status in (
            ({"sidecar_ca_file": ca_file}, 200),
            ({"sidecar_ca_file": other_ca}, 503),
            ({"sidecar_server_tls": "on"}, 503),
            ({}, 503),
        ):
            given = sidecar_settings(f"localhost:{port}", server.key(), **changes)
            async with running_sidecar(given) as sidecar:
                assert (await sidecar.post()).status_code == status, changes
                assert (await sidecar.client.get("/readyz")).status_code == status
        named = sidecar_settings(f"127.0.0.1:{port}", server.key(), sidecar_ca_file=ca_file)
        async with running_sidecar(named) as sidecar:
            assert (await sidecar.post()).status_code == 503  # the certificate is localhost's
        named = sidecar_settings(
            f"127.0.0.1:{port}", server.key(), sidecar_ca_file=ca_file, sidecar_server_name="localhost"
        )
        async with running_sidecar(named) as sidecar:
            assert (await sidecar.post()).status_code == 200
    assert len(server.events.requests) == 2


async def test_a_server_is_known_by_its_own_certificate(tmp_path: Path) -> None:
    """As `serve` tells its own sidecar, whoever has signed the certificate."""
    _, _, ca = certificate(tmp_path, "authority")
    for name, issuer in (("signed", ca), ("selfsigned", None)):
        cert_file, key_file, _ = certificate(tmp_path, name, issuer)
        async with rpc_server(tmp_path, tls_cert_file=cert_file, tls_key_file=key_file) as server:
            given = sidecar_settings(
                server.address, server.key(), sidecar_ca_file=cert_file, sidecar_server_name="localhost"
            )
            async with running_sidecar(given) as sidecar:
                assert (await sidecar.post()).status_code == 200, name


async def test_mutual_tls(tmp_path: Path) -> None:
    ca_file, _, ca = certificate(tmp_path, "authority")
    cert_file, key_file, _ = certificate(tmp_path, "server", ca)
    client_cert, client_key, _ = certificate(tmp_path, "client", ca)
    files: dict[str, Any] = {"tls_cert_file": cert_file, "tls_key_file": key_file, "tls_client_ca_file": ca_file}
    async with rpc_server(tmp_path, **files) as server:
        for more, status in (
            ({}, 503),
            ({"sidecar_client_cert_file": client_cert, "sidecar_client_key_file": client_key}, 200),
        ):
            given = sidecar_settings(f"localhost:{server.server.port}", server.key(), sidecar_ca_file=ca_file, **more)
            async with running_sidecar(given) as sidecar:
                assert (await sidecar.post()).status_code == status


async def test_webhooks_over_https(tmp_path: Path) -> None:
    ca_file, _, ca = certificate(tmp_path, "authority")
    cert_file, key_file, _ = certificate(tmp_path, "sidecar", ca)
    async with rpc_server(tmp_path) as server:
        given = sidecar_settings(
            server.address, server.key(), sidecar_tls_cert_file=cert_file, sidecar_tls_key_file=key_file
        )
        async with running_sidecar(given, verify=ssl.create_default_context(cafile=str(ca_file))) as sidecar:
            assert (await sidecar.post()).status_code == 200


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sidecar_host": "0.0.0.0"}, "TLS is off"),
        ({"sidecar_server": "db.example:50051", "sidecar_server_tls": "off"}, "another machine"),
        ({"sidecar_key": None}, "DUNWELL_SIDECAR_KEY"),
        ({"sidecar_key": " "}, "empty"),
        ({"sidecar_key": None, "sidecar_key_file": Path("/nowhere/key")}, "cannot be read"),
        ({"sidecar_ca_file": Path("/nowhere/ca.pem")}, "TLS files"),
        (
            {"sidecar_tls_cert_file": Path("/nowhere/c.pem"), "sidecar_tls_key_file": Path("/nowhere/k.pem")},
            "TLS files",
        ),
        ({"sidecar_host": "192.0.2.1", "allow_plaintext": True}, "cannot be bound"),
    ],
)
async def test_refused_at_the_start(changes: dict[str, Any], words: str) -> None:
    given = sidecar_settings("127.0.0.1:1", "key", **changes)
    with pytest.raises(SidecarError, match=words):
        await Sidecar(given).start()


async def test_a_port_in_use_is_told() -> None:
    async with running_sidecar(sidecar_settings("127.0.0.1:1", "key")) as sidecar:
        with pytest.raises(SidecarError, match="in use"):
            await Sidecar(sidecar_settings("127.0.0.1:1", "key", sidecar_port=sidecar.sidecar.port)).start()


@pytest.mark.parametrize(
    ("values", "tls"),
    [
        ({"sidecar_server": "127.0.0.1:1"}, False), ({"sidecar_server": "localhost:1"}, False), ({"sidecar_server": "[::1]:1"}, False),
        ({"sidecar_server": "127.0.0.1:1", "sidecar_ca_file": Path("ca.pem")}, True), ({"sidecar_server": "10.0.0.1:1"}, True),
        ({"sidecar_server": "dunwell:1"}, True), ({"sidecar_server": "[2001:db8::1]:1"}, True),
        ({"sidecar_server": "dunwell:1", "sidecar_server_tls": "off"}, False), ({"sidecar_server_tls": "on"}, True),
    ],
)  # fmt: skip
def test_whether_the_server_is_called_over_tls(values: dict[str, Any], tls: bool) -> None:
    assert SidecarSettings(_env_file=None, **values).calls_over_tls is tls
