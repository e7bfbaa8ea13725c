"""The webhooks of a service as a whole: HTTP in, verified by the server, stored in PostgreSQL."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import grpc
import httpx
import psycopg
import pytest

from dunwell.v1 import admin_service_pb2, admin_service_pb2_grpc, firm_pb2, provider_pb2
from dunwell_server.kernel.ids import Prefix, decode
from tests import support
from tests.integration.cli.command import Command
from tests.integration.cli.test_serve import serving
from tests.rpc.floor.test_server import certificate

SECRET = "whsec_of_these_tests_0123456789"
STRIPE = {"STRIPE_SECRET_KEY": "sk_test_of_these_tests", "STRIPE_WEBHOOK_SECRET": SECRET}


def event(event_id: str) -> bytes:
    created = int(time.time())
    return json.dumps(
        {
            "id": event_id, "object": "event", "api_version": "2026-01-01", "created": created, "livemode": False,
            "type": "customer.created", "data": {"object": {"id": "cus_1", "object": "customer", "metadata": {}}},
        }
    ).encode()  # fmt: skip


def signed(body: bytes, secret: str = SECRET) -> dict[str, str]:
    at = int(time.time())
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return {"Stripe-Signature": f"t={at},v1={digest}", "Content-Type": "application/json"}


def sidecar_of(said: str) -> str:
    found = re.search(r"Webhooks\s+(\S+)/webhooks/", said)
    assert found is not None, said
    return found.group(1)


def pid_of(process: subprocess.Popen[str], word: str) -> int:
    """The child whose command line ends so."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        if parent == process.pid and command[-2:-1] == [word.encode()]:
            return int(folder.name)
    raise AssertionError(f"no child {word}")


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_an_event_of_the_installations_account_is_taken_in(
    dunwell: Command, database_urls: support.DatabaseUrls, tmp_path: Path
) -> None:
    with serving(dunwell, **STRIPE) as (process, _, said):
        with httpx.Client(base_url=sidecar_of(said), trust_env=False, timeout=60) as client:
            body = event("evt_serve_1")
            for duplicate in (False, True):
                answer = client.post("/webhooks/stripe", content=body, headers=signed(body))
                assert (answer.status_code, answer.json()) == (200, {"received": True, "duplicate": duplicate})
            assert client.post("/webhooks/stripe", content=body, headers=signed(body, "whsec_x")).status_code == 400
            assert client.post("/webhooks/stripe", content=body + b" ", headers=signed(body)).status_code == 400
            assert client.post("/webhooks/nobody", content=body, headers=signed(body)).status_code == 404
            sidecar = pid_of(process, "sidecar")
            environment = Path(f"/proc/{sidecar}/environ").read_bytes().decode()
            assert not any(
                word in environment for word in (SECRET, "sk_test_", "postgresql://", "password=", "root secret")
            )
            os.kill(sidecar, signal.SIGKILL)
            until(lambda: _answers(client) == 200)
            body = event("evt_serve_2")
            assert client.post("/webhooks/stripe", content=body, headers=signed(body)).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(35) == 0
    with psycopg.connect(database_urls.owner) as connection:
        [(count,)] = connection.execute("SELECT count(*) FROM control.inbox_envelope")
        [(keys,)] = connection.execute("SELECT count(*) FROM control.api_key WHERE role = 'SIDECAR'")
    assert (count, keys) == (2, 1)


def _answers(client: httpx.Client) -> int:
    try:
        return client.get("/readyz").status_code
    except httpx.TransportError:
        return 0


@pytest.mark.slow
def test_over_tls_with_a_certificate_of_nobodys(dunwell: Command, tmp_path: Path) -> None:
    cert, key, _ = certificate(tmp_path, "server")
    tls = {"DUNWELL_TLS_CERT_FILE": str(cert), "DUNWELL_TLS_KEY_FILE": str(key)}
    with serving(dunwell, **tls, **STRIPE) as (_, _, said):
        body = event("evt_tls_1")
        answer = httpx.post(
            f"{sidecar_of(said)}/webhooks/stripe", content=body, headers=signed(body), trust_env=False, timeout=60
        )
        assert answer.status_code == 200


@pytest.mark.slow
def test_a_payment_at_the_sandbox_comes_back_as_a_webhook(
    dunwell: Command, database_urls: support.DatabaseUrls
) -> None:
    key = dunwell("create-admin-key", "--json").json["secret"]
    with serving(dunwell) as (_, address, said), grpc.insecure_channel(address) as channel:
        admin = admin_service_pb2_grpc.AdminServiceStub(channel)
        metadata = (("authorization", f"Bearer {key}"),)
        firm = firm_pb2.Firm(
            display_name="W", currency_code="USD", time_zone="UTC", mode=provider_pb2.ACCOUNT_MODE_TEST
        )
        request = admin_service_pb2.CreateFirmRequest(firm=firm, request_id=str(uuid4()))
        firm_id = admin.CreateFirm(request, metadata=metadata, timeout=60).firm.id
        listed = admin.ListProviders(
            admin_service_pb2.ListProvidersRequest(), metadata=(*metadata, ("dunwell-firm", firm_id)), timeout=60
        )
        [account] = [provider.provider_account_id for provider in listed.providers if provider.name == "sandbox"]
        found = re.search(r"Sandbox\s+(http://\S+)", said)
        assert found is not None
        answer = httpx.post(
            f"{found.group(1)}/v1/customers", json={"name": "A client"}, headers={"Authorization": f"Bearer sk_test_{account}"},
            trust_env=False, timeout=60,
        )  # fmt: skip
        assert answer.is_success

        def arrived() -> bool:
            with psycopg.connect(database_urls.owner) as connection:
                statement = "SELECT count(*) FROM provider_event WHERE firm_id = %s AND type = 'customer.created'"
                [(count,)] = connection.execute(statement, (decode(Prefix.FIRM, firm_id, "firm"),))
            return bool(count == 1)

        until(arrived)
