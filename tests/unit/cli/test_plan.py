"""Which processes `serve` runs, and what each is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dunwell_server.bootstrap import DatabaseUrls
from dunwell_server.cli.plan import Plan, local_address, plan_children
from dunwell_server.config import Settings, describe_settings
from dunwell_server.rpc.startup import StartupError
from dunwell_server.supervisor import Supervisor
from tests.rpc.floor.test_server import certificate

URLS = DatabaseUrls("postgresql://owner:CANARY@db/x", "postgresql://app:CANARY@db/x", None)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable of the machine."""
    for row in describe_settings():
        monkeypatch.delenv(row.variable, raising=False)
    monkeypatch.chdir(tmp_path)


def plan(**values: Any) -> Plan:
    given: dict[str, Any] = {"port": 40001, "sandbox_port": 0, "sidecar_port": 0, "metrics_port": 0, **values}
    return plan_children(Settings(_env_file=None, **given), URLS)


def told(made: Plan, name: str) -> dict[str, str]:
    [child] = [child for child in made.children if child.name == name]
    return dict(child.env)


def test_the_sandbox_sends_its_webhooks_to_the_sidecar(tmp_path: Path) -> None:
    made = plan(workers=2)
    Supervisor(made.children)  # the order is one that can be started
    assert [child.name for child in made.children] == ["sandbox", "rpc-0", "rpc-1", "job-0", "sidecar"]
    sandbox, sidecar = made.children[0], made.children[-1]
    assert made.sidecar is not None
    assert f"{made.sidecar}/webhooks/sandbox/{{account}}" in sandbox.argv
    assert sidecar.after == ("rpc-0",)
    assert sidecar.argv[-1] == "sidecar"
    assert told(made, "sidecar")["DUNWELL_SIDECAR_PORT"] == made.sidecar.rpartition(":")[2]
    assert told(made, "sidecar")["DUNWELL_SIDECAR_SERVER"] == "127.0.0.1:40001"
    assert told(made, "sidecar")["DUNWELL_SIDECAR_METRICS_PORT"] == "0"


def test_the_sidecar_is_told_no_secret_but_its_key(tmp_path: Path) -> None:
    made = plan(secret_key="CANARY" * 8, stripe_secret_key="sk_test_CANARY", stripe_webhook_secret="whsec_CANARY")
    mine = told(made, "sidecar")
    assert mine["DUNWELL_SIDECAR_KEY_FILE"] == str(tmp_path / ".dunwell" / "sidecar-key")
    emptied = {name for name, value in mine.items() if not value}
    assert emptied >= {
        "DATABASE_URL", "DUNWELL_OWNER_DATABASE_URL", "DUNWELL_AUDIT_DATABASE_URL", "DUNWELL_SECRET_KEY", "DUNWELL_PREVIOUS_SECRET_KEYS",
        "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET",
    }  # fmt: skip
    assert "CANARY" not in str(mine)
    assert all("CANARY" not in part for child in made.children for part in child.argv)


def test_a_sidecar_that_was_given_a_key_and_a_server_keeps_them() -> None:
    mine = told(plan(sidecar_key="mine", sidecar_server="billing.example:443", sidecar_metrics_port=9999), "sidecar")
    assert not mine.keys() & {
        "DUNWELL_SIDECAR_KEY", "DUNWELL_SIDECAR_KEY_FILE", "DUNWELL_SIDECAR_SERVER", "DUNWELL_SIDECAR_METRICS_PORT",
    }  # fmt: skip


def test_a_server_with_a_certificate_is_called_over_tls_and_known_by_it(tmp_path: Path) -> None:
    cert, key, _ = certificate(tmp_path, "server")
    mine = told(plan(host="0.0.0.0", tls_cert_file=cert, tls_key_file=key), "sidecar")
    assert (mine["DUNWELL_SIDECAR_SERVER"], mine["DUNWELL_SIDECAR_SERVER_TLS"]) == ("127.0.0.1:40001", "on")
    assert (mine["DUNWELL_SIDECAR_CA_FILE"], mine["DUNWELL_SIDECAR_SERVER_NAME"]) == (str(cert), "localhost")
    given = {"sidecar_ca_file": Path("ca.pem"), "sidecar_server_name": "billing.example"}
    mine = told(plan(tls_cert_file=cert, tls_key_file=key, **given), "sidecar")
    assert not mine.keys() & {"DUNWELL_SIDECAR_CA_FILE", "DUNWELL_SIDECAR_SERVER_NAME"}


def test_a_server_that_wants_to_see_a_certificate_is_not_called_without_one(tmp_path: Path) -> None:
    cert, key, _ = certificate(tmp_path, "server")
    files = {"tls_cert_file": cert, "tls_key_file": key, "tls_client_ca_file": cert}
    with pytest.raises(StartupError, match="DUNWELL_SIDECAR_CLIENT_CERT_FILE"):
        plan(**files)
    assert plan(**files, enable_sidecar=False).sidecar is None
    assert plan(**files, sidecar_client_cert_file=cert, sidecar_client_key_file=key).sidecar is not None


def test_without_a_sidecar_the_sandbox_sends_nothing() -> None:
    made = plan(enable_sidecar=False, jobs=0)
    assert [child.name for child in made.children] == ["sandbox", "rpc-0"]
    assert made.sidecar is None
    assert "--webhook-url" not in made.children[0].argv


def test_a_port_in_use_is_told() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(StartupError, match="in use"):
        plan(sidecar_port=taken.getsockname()[1])


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "127.0.0.1:1"), ("0.0.0.0", "127.0.0.1:1"), ("::", "[::1]:1"), ("[::1]", "[::1]:1"), ("10.0.0.1", "10.0.0.1:1")],
)  # fmt: skip
def test_where_this_machine_reaches_it(host: str, address: str) -> None:
    assert local_address(Settings(_env_file=None, host=host, port=1)) == address
