"""What strangers can make of the sidecar: bounded memory, bounded work, bounded time, bounded time series."""

from __future__ import annotations

import asyncio
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from dunwell.v1 import provider_event_service_pb2 as pb
from dunwell_server.webhooks import app
from dunwell_server.webhooks.requests import MAX_BODY_BYTES
from tests.webhooks.fakes import Pair, RunningSidecar, pair


async def raw(sidecar: RunningSidecar, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection over which `data` has been sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.sidecar.port)
    writer.write(data)
    await writer.drain()
    return reader, writer


def head(length: str) -> bytes:
    return f"POST /webhooks/stripe HTTP/1.1\r\nhost: x\r\n{length}\r\n\r\n".encode()


@pytest.mark.parametrize("size", [MAX_BODY_BYTES + 1, 3 * MAX_BODY_BYTES])
async def test_a_body_above_the_cap_is_refused(both: Pair, size: int) -> None:
    answer = await both.sidecar.post(body=b"x" * size)
    assert answer.status_code == 413
    assert both.events.requests == []
    assert both.sidecar.count("unknown", 413) == 1


async def test_what_is_announced_too_large_is_refused_unread(both: Pair) -> None:
    reader, writer = await raw(both.sidecar, head(f"content-length: {10**9}"))
    answer = await asyncio.wait_for(reader.read(), 30)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer.lower()
    writer.close()


async def test_an_endless_body_is_cut_off_and_not_kept(both: Pair) -> None:
    """64 MiB are offered in chunks, of which little more than the cap may ever be in memory."""
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    reader, writer = await raw(both.sidecar, head("transfer-encoding: chunked"))
    tracemalloc.start()
    try:
        answer = asyncio.create_task(reader.read())
        for _ in range(1024):
            writer.write(piece)
            try:
                await writer.drain()
            except ConnectionError:
                break
            if answer.done():
                break
        text = await asyncio.wait_for(answer, 10)
        assert tracemalloc.get_traced_memory()[1] < 8 * MAX_BODY_BYTES
    except ConnectionError:
        text = b"HTTP/1.1 413 "  # the answer was lost to the reset that follows unread bytes
    finally:
        tracemalloc.stop()
        writer.close()
    assert text.startswith(b"HTTP/1.1 413 ")
    assert both.sidecar.count("unknown", 413) == 1
    assert both.events.requests == []


async def test_a_body_that_does_not_come_is_not_waited_for(both: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "BODY_SECONDS", 0.2)
    reader, writer = await raw(both.sidecar, head("content-length: 100") + b"{")
    answer = await asyncio.wait_for(reader.read(), 30)
    assert answer.startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_a_sender_that_leaves_is_no_error(both: Pair) -> None:
    _, writer = await raw(both.sidecar, head("content-length: 100") + b"{")
    await asyncio.sleep(0.05)
    writer.close()
    async with asyncio.timeout(5):
        while not both.sidecar.count("unknown", app.DISCONNECTED):  # noqa: ASYNC110 - the sidecar has no event for it
            await asyncio.sleep(0.01)
    assert both.events.requests == []
    assert (await both.sidecar.post()).status_code == 200


async def test_more_at_once_than_allowed_come_again_later(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def wait(_: Any) -> pb.IngestProviderEventResponse:
        await gate.wait()
        return pb.IngestProviderEventResponse()

    async with pair(tmp_path, sidecar_max_concurrent=3) as both:
        both.events.behaviour = wait
        taken = [asyncio.create_task(both.sidecar.post()) for _ in range(3)]
        async with asyncio.timeout(5):
            while len(both.events.requests) < 3:  # noqa: ASYNC110 - the server has no event for it
                await asyncio.sleep(0.01)
        refused = await both.sidecar.post()
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert (await both.sidecar.client.get("/healthz")).status_code == 200
        gate.set()
        assert [(await task).status_code for task in taken] == [200, 200, 200]
        assert (await both.sidecar.post()).status_code == 200
        assert len(both.events.requests) == 4


async def test_a_hundred_at_once_all_arrive(both: Pair) -> None:
    bodies = [f'{{"id":"evt_{number}"}}'.encode() for number in range(100)]
    answers = await asyncio.gather(*(both.sidecar.post(body=body) for body in bodies))
    assert {answer.status_code for answer in answers} == {200}
    assert sorted(request.body for request in both.events.requests) == sorted(bodies)
    assert both.sidecar.count("stripe", 200) == 100


async def test_names_that_strangers_make_up_become_no_time_series(both: Pair) -> None:
    from dunwell_server.kernel.errors import DunwellError, Reason

    async def unknown(_: Any) -> pb.IngestProviderEventResponse:
        raise DunwellError(Reason.RESOURCE_NOT_FOUND, "no")

    both.events.behaviour = unknown
    for number in range(20):
        await both.sidecar.post(f"/webhooks/made_up_{number}")
    assert both.sidecar.count("unknown", 404) == 20
    labels = {sample.labels.get("provider") for metric in both.sidecar.registry.collect() for sample in metric.samples}
    assert labels <= {None, "unknown"}
