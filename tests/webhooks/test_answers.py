"""What each webhook is answered, and what of it reaches the server."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pool

from dunwell.v1 import options_pb2
from dunwell.v1 import provider_event_service_pb2 as pb
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform.context import Role
from dunwell_server.rpc.registry import contract_services
from dunwell_server.webhooks.requests import MAX_BODY_BYTES
from tests.webhooks.fakes import Pair, RunningServer, pair, rpc_server, running_sidecar, sidecar_settings

ACCOUNT = "pva_01k2m9v3e8f0r9t6z1q4x7w5ab"
INTERNALS = (b"Traceback", b"Error", b"grpc", b"dw_test_", b"127.0.0.1", b"CANARY")


def raising(error: Exception) -> Any:
    """A service that fails so."""

    async def fail(_: pb.IngestProviderEventRequest) -> pb.IngestProviderEventResponse:
        raise error

    return fail


async def test_the_bytes_arrive_as_they_were_sent(both: Pair) -> None:
    dice = random.Random(7)
    bodies = [
        b"{}", b'{ "id" :\t"evt_1" }\r\n', "{\"n\":\"Müller ☃ 注文\"}".encode(), b"\xff\xfe\x00\x80 not utf-8", b"\0", b" ",
        dice.randbytes(MAX_BODY_BYTES), b"a=1&b=%20", bytes(range(256)),
    ]  # fmt: skip
    for body in bodies:
        answer = await both.sidecar.post(f"/webhooks/stripe/{ACCOUNT}", body, stripe_signature="t=1,v1=ab")
        assert (answer.status_code, answer.json()) == (200, {"received": True, "duplicate": False})
    assert [request.body for request in both.events.requests] == bodies
    assert {(request.provider, request.provider_account_id) for request in both.events.requests} == {
        ("stripe", ACCOUNT)
    }
    assert all(request.source_address in ("127.0.0.1", "::1") for request in both.events.requests)


async def test_a_body_in_pieces_arrives_whole(both: Pair) -> None:
    pieces = [os.urandom(size) for size in (1, 70_000, 0, 5)]

    async def content() -> Any:
        for piece in pieces:
            yield piece
            await asyncio.sleep(0.01)

    answer = await both.sidecar.client.post("/webhooks/paypal", content=content())
    assert answer.status_code == 200
    assert both.events.requests[-1].body == b"".join(pieces)


async def test_only_headers_that_matter_go_on(both: Pair) -> None:
    given = {
        "Stripe-Signature": "t=1,v1=ab", "PAYPAL-Transmission-Id": "x", "X-Razorpay-Event-Id": "evt", "Dunwell-Sandbox-Signature": "t=2",
        "Webhook-Id": "msg", "User-Agent": "Stripe/1.0", "Content-Type": "application/json; charset=utf-8", "Toy-Sig": "s", "X-Toy-Time": "9",
        "Authorization": "Bearer CANARY", "Cookie": "CANARY", "X-Forwarded-For": "9.9.9.9", "X-Api-Key": "CANARY", "Stripe-Long": "y" * 4097,
    }  # fmt: skip
    await both.sidecar.client.post("/webhooks/toy", content=b"{}", headers=given)
    request = both.events.requests[-1]
    assert dict(request.headers) == {
        "stripe-signature": "t=1,v1=ab", "paypal-transmission-id": "x", "x-razorpay-event-id": "evt",
        "dunwell-sandbox-signature": "t=2", "webhook-id": "msg", "user-agent": "Stripe/1.0",
        "content-type": "application/json; charset=utf-8", "toy-sig": "s", "x-toy-time": "9",
    }  # fmt: skip
    await both.sidecar.client.post(
        "/webhooks/stripe",
        content=b"{}",
        headers=[("Toy-Sig", "s"), ("Stripe-Signature", "a"), ("stripe-signature", "b")],
    )
    headers = both.events.requests[-1].headers
    assert headers["stripe-signature"] == "a,b"
    assert "toy-sig" not in headers


async def test_more_headers_than_the_contract_takes_are_left_out(both: Pair) -> None:
    many = {f"Stripe-H{number}": "v" for number in range(80)}
    answer = await both.sidecar.client.post("/webhooks/stripe", content=b"{}", headers=many)
    assert answer.status_code == 200
    assert len(both.events.requests[-1].headers) == 50


async def test_the_call_is_made_with_the_sidecars_own_credential(both: Pair) -> None:
    await both.sidecar.post()
    [call] = both.events.calls
    assert (call.actor.role, call.firm_id) == (Role.SIDECAR, None)


def test_that_credential_opens_nothing_else() -> None:
    may = [
        f"{service.name}.{method.name}"
        for name in contract_services()
        for service in [descriptor_pool.Default().FindServiceByName(name)]
        for method in service.methods
        if options_pb2.ROLE_SIDECAR in method.GetOptions().Extensions[options_pb2.permission].roles
    ]
    assert may == ["ProviderEventService.IngestProviderEvent"]


async def test_the_sender_behind_a_proxy_is_named_only_where_the_proxy_is_known(tmp_path: Path) -> None:
    for proxies, source in (
        ((), ("127.0.0.1", "::1")),
        (("127.0.0.1", "::1"), ("203.0.113.9",)),
        (("10.0.0.0/8",), ("127.0.0.1", "::1")),
    ):
        async with pair(tmp_path, sidecar_proxies=proxies) as both:
            await both.sidecar.post(x_forwarded_for="203.0.113.9")
            assert both.events.requests[0].source_address in source


async def test_a_repeat_is_answered_as_stored(both: Pair) -> None:
    async def again(_: Any) -> pb.IngestProviderEventResponse:
        return pb.IngestProviderEventResponse(provider_event_id="pev_x", duplicate=True)

    both.events.behaviour = again
    answer = await both.sidecar.post()
    assert (answer.status_code, answer.json()) == (200, {"received": True, "duplicate": True})
    assert both.sidecar.registry.get_sample_value("dunwell_webhook_duplicates_total", {"provider": "stripe"}) == 1


@pytest.mark.parametrize(
    ("error", "status", "provider"),
    [
        (DunwellError(Reason.SIGNATURE_INVALID, "CANARY"), 400, "stripe"),
        (DunwellError(Reason.FIELD_INVALID, "CANARY", field="body"), 400, "stripe"),
        (DunwellError(Reason.RESOURCE_NOT_FOUND, "CANARY"), 404, "unknown"),
        (DunwellError(Reason.MESSAGE_TOO_LARGE, "CANARY"), 413, "unknown"),
        (DunwellError(Reason.DATABASE_UNAVAILABLE, "CANARY"), 503, "unknown"),
        (DunwellError(Reason.OVERLOADED, "CANARY"), 503, "unknown"),
        (DunwellError(Reason.DEADLINE_EXCEEDED, "CANARY"), 503, "unknown"),
        (DunwellError(Reason.SERIALIZATION_CONFLICT, "CANARY"), 503, "unknown"),
        (DunwellError(Reason.STATE_CONFLICT, "CANARY"), 500, "unknown"),
        (DunwellError(Reason.PERMISSION_DENIED, "CANARY"), 500, "unknown"),
        (ZeroDivisionError("CANARY"), 500, "unknown"),
    ],
)
async def test_each_refusal_has_its_status(both: Pair, error: Exception, status: int, provider: str) -> None:
    both.events.behaviour = raising(error)
    answer = await both.sidecar.post()
    assert answer.status_code == status
    assert answer.json()["received"] is False
    assert not any(word in answer.content for word in INTERNALS)
    assert ("retry-after" in answer.headers) is (status == 503)
    assert both.sidecar.count(provider, status) == 1


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/webhooks/Stripe", 404), ("/webhooks/s", 404), (f"/webhooks/{'a' * 33}", 404), ("/webhooks/stripe/acct_1", 404),
        ("/webhooks/stripe/pva_1", 404), (f"/webhooks/stripe/{ACCOUNT}/", 404), (f"/webhooks/stripe/{ACCOUNT}/x", 404),
        ("/webhooks/", 404), ("/webhooks", 404), ("/", 404), ("/webhooks/%00", 404), ("/webhooks/stripe%0a", 404), ("/metrics", 404),
    ],
)  # fmt: skip
async def test_a_path_that_names_nothing_never_reaches_the_server(both: Pair, path: str, status: int) -> None:
    assert (await both.sidecar.post(path)).status_code == status
    assert both.events.requests == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_only_post(both: Pair, method: str) -> None:
    answer = await both.sidecar.client.request(method, "/webhooks/stripe")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert both.events.requests == []


async def test_an_empty_body_is_refused(both: Pair) -> None:
    assert (await both.sidecar.post(body=b"")).status_code == 400
    assert both.events.requests == []


@pytest.mark.parametrize("kind", ["none", "wrong role"])
async def test_a_credential_that_opens_nothing_is_our_own_trouble(tmp_path: Path, kind: str) -> None:
    async with rpc_server(tmp_path) as server:
        key = server.key(Role.SIDECAR)[:-4] + "AAAA" if kind == "none" else _reader(server)
        async with running_sidecar(sidecar_settings(server.address, key)) as sidecar:
            answer = await sidecar.post()
    assert answer.status_code == 500
    assert not any(word in answer.content for word in INTERNALS)
    assert server.events.requests == []


def _reader(server: RunningServer) -> str:
    return server.keys.add(Role.READER).text


async def test_a_key_that_is_replaced_needs_no_restart(tmp_path: Path) -> None:
    file = tmp_path / "sidecar-key"
    async with rpc_server(tmp_path) as server:
        file.write_text(server.key()[:-4] + "AAAA\n")
        given = sidecar_settings(server.address, "", sidecar_key=None, sidecar_key_file=file)
        async with running_sidecar(given) as sidecar:
            assert (await sidecar.post()).status_code == 500
            file.write_text(server.key() + "\n")
            assert (await sidecar.post()).status_code == 200


async def test_a_server_that_is_away_is_told_to_the_provider_and_found_again(tmp_path: Path) -> None:
    async with rpc_server(tmp_path) as server:
        key, port = server.key(), server.server.port
        async with running_sidecar(sidecar_settings(server.address, key)) as sidecar:
            assert (await sidecar.post()).status_code == 200
            assert (await sidecar.client.get("/readyz")).status_code == 200
            await server.server.stop()
            began = time.monotonic()
            answer = await sidecar.post()
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
            assert time.monotonic() - began < 4
            assert (await sidecar.client.get("/readyz")).status_code == 503
            assert (await sidecar.client.get("/healthz")).status_code == 200
            async with rpc_server(tmp_path, port=port) as back:
                back.keys.rows.update(server.keys.rows)
                async with asyncio.timeout(15):
                    while (await sidecar.post()).status_code != 200:  # noqa: ASYNC110 - another server has no event
                        await asyncio.sleep(0.1)
                assert (await sidecar.client.get("/readyz")).status_code == 200


async def test_a_slow_server_does_not_hold_the_provider(tmp_path: Path) -> None:
    async def sleep(_: Any) -> pb.IngestProviderEventResponse:
        await asyncio.sleep(30)
        raise AssertionError("not reached")

    async with pair(tmp_path, sidecar_deadline=0.4) as both:
        both.events.behaviour = sleep
        began = time.monotonic()
        answer = await both.sidecar.post()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert 0.3 < time.monotonic() - began < 3


async def test_not_ready_while_the_server_does_not_serve(tmp_path: Path) -> None:
    async def sick() -> None:
        raise ConnectionError

    async with pair(tmp_path, probe=sick) as both:
        assert (await both.sidecar.client.get("/readyz")).status_code == 503
        assert (await both.sidecar.client.get("/healthz")).json() == {"status": "ok"}
