"""The builder's refusals, health, reflection, channelz, TLS and the graceful end."""

from __future__ import annotations

import asyncio
import datetime
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf import descriptor_pb2
from grpc import StatusCode
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from prometheus_client import CollectorRegistry

from dunwell.v1 import admin_service_pb2, admin_service_pb2_grpc, billing_service_pb2, billing_service_pb2_grpc
from dunwell_server.platform.metrics import Exporter
from dunwell_server.rpc.auth import ApiKeys, Authenticator
from dunwell_server.rpc.registry import contract_services
from dunwell_server.rpc.server import RpcServer
from dunwell_server.rpc.startup import StartupError
from tests.rpc.floor import requests
from tests.rpc.floor.fakes import (
    ADMIN,
    BILLING,
    PEPPER,
    AdminServicer,
    KeyRing,
    Script,
    Served,
    failure,
    healthy,
    serve,
    settings,
)
from tests.rpc.floor.test_limits import endless
from tests.support import eventually

add_admin = admin_service_pb2_grpc.add_AdminServiceServicer_to_server
add_billing = billing_service_pb2_grpc.add_BillingServiceServicer_to_server


def bare_server(tmp: Path, services: set[str] | None = None, **changes: Any) -> RpcServer:
    """A server without servicers."""
    authenticator = Authenticator(ApiKeys(KeyRing(), (PEPPER,)))
    return RpcServer(settings(tmp, **changes), authenticator, healthy, services=services or {ADMIN})


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# Refusals


async def test_refuses_a_missing_servicer(tmp_path: Path) -> None:
    server = bare_server(tmp_path, {ADMIN, BILLING})
    server.add(add_admin, AdminServicer(Script()))
    with pytest.raises(StartupError, match="BillingService"):
        await server.start()


def test_the_whole_contract_is_required_by_default() -> None:
    assert {ADMIN, BILLING, "dunwell.v1.PaymentService"} <= contract_services()


def test_refuses_an_rpc_without_a_handler(tmp_path: Path) -> None:
    half: Any = type("Half", (admin_service_pb2_grpc.AdminServiceServicer,), {})
    with pytest.raises(StartupError, match=r"Half does not serve AdminService\.\w+"):
        bare_server(tmp_path).add(add_admin, half())


def test_refuses_a_service_registered_twice(tmp_path: Path) -> None:
    server = bare_server(tmp_path)
    server.add(add_admin, AdminServicer(Script()))
    with pytest.raises(StartupError, match="twice"):
        server.add(add_admin, AdminServicer(Script()))


def test_refuses_an_rpc_without_permission(tmp_path: Path) -> None:
    from grpc_health.v1._async import HealthServicer

    class Complete(HealthServicer):
        async def List(self, request: Any, context: Any) -> Any:
            """Never called."""

    add: Any = health_pb2_grpc.add_HealthServicer_to_server
    with pytest.raises(StartupError, match=r"Health\.\w+ has no permission"):
        bare_server(tmp_path).add(add, Complete())


def test_refuses_the_wrong_kind_of_handler(tmp_path: Path) -> None:
    class Blocking(AdminServicer):  # type: ignore[misc]
        def GetFirm(self, request: Any, context: Any) -> Any:
            """Not a coroutine: it would block the loop."""

    with pytest.raises(StartupError, match="coroutine"):
        bare_server(tmp_path).add(add_admin, Blocking(Script()))

    class NoStream(AdminServicer):  # type: ignore[misc]
        async def WatchRun(self, request: Any, context: Any) -> Any:
            """Not a generator."""

    with pytest.raises(StartupError, match="generator"):
        bare_server(tmp_path).add(add_admin, NoStream(Script()))


async def test_refuses_a_port_in_use_even_one_that_could_be_shared(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        server = bare_server(tmp_path, port=served.server.port)
        server.add(add_admin, AdminServicer(Script()))
        with pytest.raises(StartupError, match="in use"):
            await server.start()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = bare_server(tmp_path, port=listener.getsockname()[1])
        server.add(add_admin, AdminServicer(Script()))
        with pytest.raises(StartupError, match="in use"):
            await server.start()


async def test_workers_may_share_a_port(tmp_path: Path) -> None:
    port = free_port()
    authenticator = Authenticator(ApiKeys(KeyRing(), (PEPPER,)))
    servers = [
        RpcServer(settings(tmp_path, port=port), authenticator, healthy, services={ADMIN}, shared_port=True)
        for _ in range(2)
    ]
    for server in servers:
        server.add(add_admin, AdminServicer(Script()))
        await server.start()
    assert [server.port for server in servers] == [port, port]
    for server in servers:
        await server.stop()


async def test_refuses_plaintext_off_loopback(tmp_path: Path) -> None:
    server = bare_server(tmp_path, host="0.0.0.0")
    server.add(add_admin, AdminServicer(Script()))
    with pytest.raises(StartupError, match="TLS"):
        await server.start()
    allowed = bare_server(tmp_path, host="0.0.0.0", allow_plaintext=True)
    allowed.add(add_admin, AdminServicer(Script()))
    await allowed.start()
    await allowed.stop()


# Health, reflection, channelz, metrics


async def test_health_follows_the_probe(tmp_path: Path) -> None:
    trouble: list[Exception] = []

    async def probe() -> None:
        if trouble:
            raise trouble[0]

    async with serve(tmp_path, probe=probe, health_interval=0.02) as served:
        stub: Any = health_pb2_grpc.HealthStub(served.channel)

        async def statuses() -> set[int]:
            names = ("", ADMIN, BILLING)
            return {(await stub.Check(health_pb2.HealthCheckRequest(service=name))).status for name in names}

        watch = stub.Watch(health_pb2.HealthCheckRequest(service=BILLING))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        assert await statuses() == {health_pb2.HealthCheckResponse.SERVING}
        trouble.append(OSError("gone"))
        assert (await asyncio.wait_for(watch.read(), 30)).status == health_pb2.HealthCheckResponse.NOT_SERVING
        await eventually(lambda: not served.server.serving)
        assert await statuses() == {health_pb2.HealthCheckResponse.NOT_SERVING}
        assert served.metric("dunwell_healthy") == 0
        trouble.clear()
        assert (await asyncio.wait_for(watch.read(), 30)).status == health_pb2.HealthCheckResponse.SERVING
        await eventually(lambda: served.server.serving)
        assert await statuses() == {health_pb2.HealthCheckResponse.SERVING}
        failed = await failure(stub.Check(health_pb2.HealthCheckRequest(service="nobody")))
        assert failed.code is StatusCode.NOT_FOUND
        newer: Any = health_pb2  # than its type stubs
        listed = await stub.List(newer.HealthListRequest())
        assert set(listed.statuses) == {"", ADMIN, BILLING}


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection(served: Served, version: str) -> None:
    channel: Any = served.channel
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )(
        iter(
            [
                reflection_pb2.ServerReflectionRequest(list_services=""),
                reflection_pb2.ServerReflectionRequest(file_containing_symbol=BILLING),
            ]
        )
    )
    services = {service.name for service in (await call.read()).list_services_response.service}
    assert {
        ADMIN, BILLING, "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
    } == services  # fmt: skip
    found = (await call.read()).file_descriptor_response.file_descriptor_proto
    names = {descriptor_pb2.FileDescriptorProto.FromString(raw).name for raw in found}
    assert "dunwell/v1/billing_service.proto" in names


async def test_reflection_can_be_switched_off(tmp_path: Path) -> None:
    async with serve(tmp_path, enable_reflection=False) as served:
        channel: Any = served.channel
        call = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")(iter([b""]))
        assert (await failure(call)).code is StatusCode.UNIMPLEMENTED


async def test_channelz_on_its_own_port(tmp_path: Path) -> None:
    port = free_port()
    async with serve(tmp_path, channelz_port=port) as served:
        await served.billing.GetInvoice(requests.get_invoice(), metadata=served.metadata())
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channelz:
            typed_for_sync: Any = channelz
            stub = channelz_pb2_grpc.ChannelzStub(typed_for_sync)
            answer = await stub.GetServers(channelz_pb2.GetServersRequest())
            assert sum(server.data.calls_succeeded for server in answer.server) >= 1
        channel: Any = served.channel
        failed = await failure(channel.unary_unary("/grpc.channelz.v1.Channelz/GetServers")(b""))
        assert failed.code is StatusCode.UNIMPLEMENTED


async def test_metrics_over_http(served: Served) -> None:
    await served.billing.GetInvoice(requests.get_invoice(), metadata=served.metadata())
    exporter = Exporter(0, registry=served.registry)
    try:
        url = f"http://127.0.0.1:{exporter.port}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url).read().decode())
    finally:
        exporter.close()
    expected = 'grpc_method="GetInvoice",grpc_service="dunwell.v1.BillingService",grpc_type="unary"'
    line = next(
        line for line in text.splitlines() if line.startswith("grpc_server_handled_total") and "GetInvoice" in line
    )
    assert all(part in line for part in (*expected.split(","), 'grpc_code="OK"'))
    assert "dunwell_loop_lag_seconds_bucket" in text


# TLS


def certificate(tmp: Path, name: str, issuer: tuple[Any, Any] | None = None) -> tuple[Path, Path, tuple[Any, Any]]:
    """A certificate for localhost, signed by `issuer` or by itself; returns the files and (certificate, key)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .sign(issuer[1] if issuer else key, hashes.SHA256())
    )
    cert_file, key_file = tmp / f"{name}.pem", tmp / f"{name}.key"
    cert_file.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file, (built, key)


async def test_tls_mutual_tls_and_a_renewed_certificate(tmp_path: Path) -> None:
    ca_file, _, ca = certificate(tmp_path, "authority")
    cert_file, key_file, _ = certificate(tmp_path, "server", ca)
    client_cert, client_key, _ = certificate(tmp_path, "client", ca)
    files: dict[str, Any] = {"tls_cert_file": cert_file, "tls_key_file": key_file, "tls_client_ca_file": ca_file}

    async def check(port: int, *identity: Path) -> StatusCode:
        pems = [path.read_bytes() for path in identity]
        credentials = grpc.ssl_channel_credentials(ca_file.read_bytes(), *pems)
        async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            try:
                await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
            except grpc.aio.AioRpcError as error:
                return error.code()
            return StatusCode.OK

    async with serve(tmp_path, **files) as served:
        assert await check(served.server.port, client_key, client_cert) is StatusCode.OK
        assert await check(served.server.port) is StatusCode.UNAVAILABLE
        before = await asyncio.to_thread(_serial, served.server.port, ca_file, client_cert, client_key)
        certificate(tmp_path, "server", ca)
        after = await asyncio.to_thread(_serial, served.server.port, ca_file, client_cert, client_key)
        assert before != after
        assert await check(served.server.port, client_key, client_cert) is StatusCode.OK


def _serial(port: int, ca_file: Path, cert: Path, key: Path) -> int:
    import ssl

    context = ssl.create_default_context(cafile=str(ca_file))
    context.load_cert_chain(str(cert), str(key))
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("localhost", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        raw = secure.getpeercert(binary_form=True)
    assert raw is not None
    return x509.load_der_x509_certificate(raw).serial_number


# The graceful end


async def test_shutdown_ends_streams_and_lets_calls_finish(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def held(_: Any) -> Any:
        await release.wait()
        return billing_service_pb2.GetInvoiceResponse()

    async with serve(tmp_path, drain_delay=0.2) as served:
        served.script.watch, served.script.get_invoice = endless, held
        metadata = served.metadata()
        stream = served.admin.WatchRun(requests.watch_run(), metadata=metadata)
        await stream.read()
        health: Any = health_pb2_grpc.HealthStub(served.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        call = asyncio.ensure_future(served.billing.GetInvoice(requests.get_invoice(), metadata=metadata))
        await eventually(lambda: len(served.script.seen) == 2)
        stopping = asyncio.ensure_future(served.server.stop())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        failed = await failure(stream.read())
        assert (failed.code, failed.reason) == (StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
        assert (await failure(watch.read())).code is StatusCode.UNAVAILABLE
        assert not stopping.done()
        release.set()
        assert await call == billing_service_pb2.GetInvoiceResponse()
        await asyncio.wait_for(stopping, 30)
        assert (await failure(served.billing.GetInvoice(requests.get_invoice(), metadata=metadata))).code is (
            StatusCode.UNAVAILABLE
        )


async def read_to_the_end(stream: Any) -> None:
    """Read what is left of a stream."""
    while await stream.read() is not grpc.aio.EOF:
        pass


async def test_shutdown_ends_a_stream_whose_reader_does_not_read(tmp_path: Path) -> None:
    written = []

    async def flood(_: Any) -> AsyncIterator[Any]:
        response = admin_service_pb2.WatchRunResponse()
        response.progress.run.id = "x" * 100_000
        while True:
            written.append(1)
            yield response

    async with serve(tmp_path, shutdown_grace=5.0) as served:
        served.script.watch = flood
        stream = served.admin.WatchRun(requests.watch_run(), metadata=served.metadata())
        await stream.read()

        async def stalled() -> bool:
            before = len(written)
            await asyncio.sleep(0.2)
            return len(written) == before

        async with asyncio.timeout(20):
            while not await stalled():
                pass
        assert len(written) < 1000  # flow control holds the writer back
        began = time.monotonic()
        stopping = asyncio.ensure_future(served.server.stop())
        failed = await failure(read_to_the_end(stream))
        await stopping
        assert failed.code in (StatusCode.UNAVAILABLE, StatusCode.CANCELLED)
        assert time.monotonic() - began < 20


SERVE = """
import asyncio, sys
from pathlib import Path
from tests.rpc.floor.fakes import *
from tests.rpc.floor.test_limits import endless
from tests.rpc.floor.test_server import add_admin
from dunwell_server.platform.logging import configure_logging

async def main():
    configure_logging(form="json")
    keys, script = KeyRing(), Script(watch=endless)
    server = RpcServer(settings(Path(sys.argv[1]), port=int(sys.argv[2])), Authenticator(ApiKeys(keys, (PEPPER,))), healthy, services={ADMIN})
    server.add(add_admin, AdminServicer(script))
    print(keys.add(Role.READER).text, flush=True)
    await server.serve()

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_process_with_zero(tmp_path: Path, number: signal.Signals) -> None:
    port = free_port()
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root}/server:{root}/clients/python/src"}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SERVE,
        str(tmp_path),
        str(port),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    key = (await process.stdout.readline()).decode().strip()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = admin_service_pb2_grpc.AdminServiceStub(channel)
        metadata = (("authorization", f"Bearer {key}"),)
        stream = stub.WatchRun(requests.watch_run(), metadata=metadata, wait_for_ready=True)
        await asyncio.wait_for(stream.read(), 10)
        process.send_signal(number)
        failed = await failure(stream.read())
    _, log = await asyncio.wait_for(process.communicate(), 10)
    assert process.returncode == 0, log.decode()
    assert failed.reason == "SHUTTING_DOWN", failed
    assert '"level":"error"' not in log.decode()
    assert "Traceback" not in log.decode()


async def test_two_servers_in_one_process_do_not_share_metrics(tmp_path: Path) -> None:
    async with serve(tmp_path) as first, serve(tmp_path) as second:
        await first.billing.GetInvoice(requests.get_invoice(), metadata=first.metadata())
        labels = {"grpc_type": "unary", "grpc_service": BILLING, "grpc_method": "GetInvoice"}
        assert first.metric("grpc_server_started_total", **labels) == 1
        assert second.metric("grpc_server_started_total", **labels) == 0
        assert isinstance(first.registry, CollectorRegistry)
