"""Which processes `serve` runs, in which order, and what each is told."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
import httpx
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dunwell_server.bootstrap import DatabaseUrls
from dunwell_server.cli.installation import free_port, sandbox_book, sandbox_url, sidecar_key_file
from dunwell_server.config import Settings, describe_settings
from dunwell_server.rpc.startup import StartupError, probe_port
from dunwell_server.supervisor import ChildSpec, Probe, python_child

SANDBOX: Final = "sandbox"
SIDECAR: Final = "sidecar"
FIRST_WORKER: Final = "rpc-0"
_PROBE_SECONDS: Final = 2.0
_KEY: Final = "DUNWELL_SIDECAR_KEY"


@dataclass(frozen=True, slots=True)
class Plan:
    """What will run and where it answers."""

    settings: Settings
    children: list[ChildSpec]
    sandbox: str | None
    """The sandbox gateway's address; None where there is none."""
    sidecar: str | None
    """The webhook sidecar's address; None where there is none."""


def plan_children(settings: Settings, urls: DatabaseUrls) -> Plan:
    """The processes in the order in which they depend on one another. What they need to know travels in their environment."""
    children: list[ChildSpec] = []
    environment = _environment(settings, urls)
    port = _sidecar_port(settings) if settings.enable_sidecar else 0
    sidecar = _sidecar_address(settings, port) if settings.enable_sidecar else None
    gateway: str | None = None
    if settings.enable_sandbox and settings.sandbox_url is None and settings.environment == "development":
        gateway = _add_sandbox(settings, children, sidecar)
        environment["DUNWELL_SANDBOX_URL"] = gateway
    elif settings.enable_sandbox and settings.sandbox_url:
        gateway = sandbox_url(settings)
    first = (SANDBOX,) if children else ()
    for index in range(settings.workers):
        children.append(
            ChildSpec(
                f"rpc-{index}", python_child("rpc-worker", "rpc-worker", "--index", str(index)), environment,
                # The workers share a port: that it answers tells of the first one only, and a start-up error ends any.
                ready=_grpc_probe(settings) if index == 0 else None, after=first,
            )
        )  # fmt: skip
    for index in range(settings.jobs):
        arguments = python_child("job-worker", "job-worker", "--index", str(index))
        children.append(ChildSpec(f"job-{index}", arguments, environment, after=first))
    if sidecar is not None:
        # Behind the worker, so that it ends before: webhooks in progress are still taken in.
        ready = _http_probe(f"{sidecar}/readyz", verify=not settings.sidecar_uses_tls)
        told = _sidecar_environment(settings, port)
        children.append(ChildSpec(SIDECAR, python_child(SIDECAR), told, ready=ready, after=(FIRST_WORKER,)))
    return Plan(settings, children, gateway, sidecar)


def _add_sandbox(settings: Settings, children: list[ChildSpec], sidecar: str | None) -> str:
    """The gateway as the first child; returns its address. Its webhooks go to our sidecar, where there is one."""
    port = settings.sandbox_port or free_port()
    probe_port("127.0.0.1", port)
    gateway = f"http://127.0.0.1:{port}"
    arguments = ["--port", str(port), "--book", str(sandbox_book(settings))]
    if sidecar is not None:
        # An account's name there is our own id of it, so the path needs no table.
        arguments += ["--webhook-url", f"{sidecar}/webhooks/{SANDBOX}/{{account}}"]
    command = python_child(SANDBOX, "sandbox-gateway", *arguments)
    children.append(ChildSpec(SANDBOX, command, ready=_http_probe(f"{gateway}/healthz"), stop_timeout=5.0))
    return gateway


def _environment(settings: Settings, urls: DatabaseUrls) -> dict[str, str]:
    """What workers are told beside our own environment. The owner's URL is for migrations and goes no further."""
    return {
        "DATABASE_URL": urls.application,
        "DUNWELL_OWNER_DATABASE_URL": "",
        "DUNWELL_AUDIT_DATABASE_URL": urls.auditor or "",
        "DUNWELL_HOST": settings.host,
        "DUNWELL_PORT": str(settings.port),
        "DUNWELL_WORKERS": str(settings.workers),
        "DUNWELL_JOBS": str(settings.jobs),
        "DUNWELL_DATA_DIR": str(settings.data_dir.resolve()),
    }


def _sidecar_environment(settings: Settings, port: int) -> dict[str, str]:
    """What the sidecar is told: where to listen and whom to call. Every secret of ours but its own key is taken away."""
    told = {row.variable: "" for row in describe_settings() if row.secret and row.variable != _KEY}
    told["DUNWELL_SIDECAR_PORT"] = str(port)
    if "sidecar_server" not in settings.model_fields_set:
        told["DUNWELL_SIDECAR_SERVER"] = local_address(settings)
        told |= _trust(settings)
    if not settings.metrics_port and "sidecar_metrics_port" not in settings.model_fields_set:
        told["DUNWELL_SIDECAR_METRICS_PORT"] = "0"
    if settings.makes_sidecar_key:
        told["DUNWELL_SIDECAR_KEY_FILE"] = str(sidecar_key_file(settings).resolve())
    return told


def _trust(settings: Settings) -> dict[str, str]:
    """How our own sidecar knows our own server, where nothing else was said: by the very certificate that the server shows.

    StartupError where the server wants to see a certificate too and the sidecar has none.
    """
    if settings.tls_cert_file is None:
        return {}
    if settings.tls_client_ca_file is not None and settings.sidecar_client_cert_file is None:
        raise StartupError(
            "the webhook sidecar has to show the server a certificate: set DUNWELL_SIDECAR_CLIENT_CERT_FILE and "
            "DUNWELL_SIDECAR_CLIENT_KEY_FILE, or run none with ENABLE_SIDECAR=false"
        )
    told = {"DUNWELL_SIDECAR_SERVER_TLS": "on"}
    if settings.sidecar_ca_file is None:
        told["DUNWELL_SIDECAR_CA_FILE"] = str(settings.tls_cert_file.resolve())
    if settings.sidecar_server_name is None:
        name = _certified_name(settings.tls_cert_file)
        if name is not None:
            told["DUNWELL_SIDECAR_SERVER_NAME"] = name
    return told


def _certified_name(cert_file: Path) -> str | None:
    """A host name that the certificate is good for; None where it has none. StartupError for a file that is no certificate."""
    try:
        certificate = x509.load_pem_x509_certificate(cert_file.read_bytes())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    except (OSError, ValueError) as error:
        raise StartupError(f"the TLS files cannot be read: {error}") from error
    found = names.get_values_for_type(x509.DNSName)
    # Of a wildcard any name will do.
    return found[0].replace("*", "sidecar") if found else None


def _sidecar_port(settings: Settings) -> int:
    port = settings.sidecar_port or free_port()
    probe_port(settings.sidecar_host, port)
    return port


def _sidecar_address(settings: Settings, port: int) -> str:
    """Where this machine reaches the sidecar."""
    scheme = "https" if settings.sidecar_uses_tls else "http"
    return f"{scheme}://{_reachable(settings.sidecar_host)}:{port}"


def _http_probe(url: str, *, verify: bool = True) -> Probe:
    async def probe() -> bool:
        async with httpx.AsyncClient(timeout=_PROBE_SECONDS, trust_env=False, verify=verify) as client:
            return (await client.get(url)).is_success

    return probe


def _grpc_probe(settings: Settings) -> Probe:
    """Health over the wire, as a client has it; behind mutual TLS, that the port accepts connections."""

    async def check() -> bool:
        async with grpc.aio.insecure_channel(local_address(settings)) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)  # whose type stubs are older than its code
            request = health_pb2.HealthCheckRequest()
            answer = await stub.Check(request, timeout=_PROBE_SECONDS)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def connect() -> bool:
        host, _, port = local_address(settings).rpartition(":")
        _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        writer.close()
        return True

    return connect if settings.uses_tls else check


def local_address(settings: Settings) -> str:
    """`host:port` where this machine reaches the RPCs, also when they are bound to every address."""
    return f"{_reachable(settings.host)}:{settings.port}"


def _reachable(host: str) -> str:
    """A host to connect to for one that was bound, an IPv6 address in brackets."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))
    return f"[{host}]" if ":" in host else host
