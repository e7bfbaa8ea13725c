"""Deadlines, load and the health of the loop, through a real channel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from dunwell.v1 import admin_service_pb2, billing_service_pb2
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform.context import Role
from dunwell_server.rpc.current import current_call
from dunwell_server.rpc.interceptors.deadline import DeadlinePolicy
from tests.rpc.floor import requests
from tests.rpc.floor.fakes import Served, failure, serve
from tests.rpc.floor.loop_watch import watch_callbacks
from tests.support import eventually


async def test_default_deadline_stops_the_handler(tmp_path: Path) -> None:
    stopped = []

    async def slow(_: Any) -> Any:
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            stopped.append(True)
            raise

    async with serve(tmp_path, default_deadline=0.1) as served:
        served.script.get_invoice = slow
        failed = await failure(served.billing.GetInvoice(requests.get_invoice(), metadata=served.metadata()))
        assert served.server._floor.unary_load.count == 0
    assert (failed.code, failed.reason) == (StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
    assert stopped == [True]


async def test_a_timeout_of_the_handler_itself_is_not_taken_for_the_deadline(tmp_path: Path) -> None:
    async def slow(_: Any) -> Any:
        raise TimeoutError

    async with serve(tmp_path) as served:
        served.script.get_invoice = slow
        failed = await failure(served.billing.GetInvoice(requests.get_invoice(), metadata=served.metadata()))
    assert failed.code is StatusCode.INTERNAL


async def test_callers_deadline_reaches_the_context_and_cancels(served: Served) -> None:
    stopped = asyncio.Event()

    async def slow(_: Any) -> Any:
        try:
            await asyncio.sleep(5)
        finally:
            stopped.set()

    served.script.get_invoice = slow
    began = time.monotonic()
    metadata = served.metadata()
    failed = await failure(served.billing.GetInvoice(requests.get_invoice(), metadata=metadata, timeout=0.2))
    assert failed.code is StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(stopped.wait(), 30)
    deadline = served.script.seen[0].deadline
    assert deadline is not None
    assert began + 0.1 < deadline <= began + 0.2


async def test_a_long_deadline_is_cut(tmp_path: Path) -> None:
    async with serve(tmp_path, max_deadline=0.1) as served:

        async def slow(_: Any) -> Any:
            await asyncio.sleep(5)

        served.script.get_invoice = slow
        metadata = served.metadata()
        failed = await failure(served.billing.GetInvoice(requests.get_invoice(), metadata=metadata, timeout=1000))
    assert failed.reason == "DEADLINE_EXCEEDED"


def test_too_short_a_deadline() -> None:
    for choose in (DeadlinePolicy().unary, DeadlinePolicy().stream):
        with pytest.raises(DunwellError) as caught:
            choose(0.019)
        assert caught.value.reason is Reason.DEADLINE_TOO_SHORT
        assert caught.value.metadata == {"minimum_ms": "20"}
        assert choose(0.021).at is not None
    assert DeadlinePolicy().stream(None).at is None


async def test_too_many_unary_calls_and_streams_apart(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def held(_: Any) -> Any:
        await release.wait()
        return billing_service_pb2.GetInvoiceResponse()

    async with serve(tmp_path, max_concurrent_unary=5) as served:
        served.script.get_invoice = held
        metadata = served.metadata()
        calls = [
            asyncio.ensure_future(served.billing.GetInvoice(requests.get_invoice(), metadata=metadata))
            for _ in range(5)
        ]
        await eventually(lambda: len(served.script.seen) == 5)
        failed = await failure(served.billing.GetInvoice(requests.get_invoice(), metadata=metadata))
        assert (failed.code, failed.reason) == (StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
        assert "grpc-retry-pushback-ms" in failed.trailers
        assert served.metric("dunwell_rpc_unary_in_progress") == 5
        async for _ in served.admin.WatchRun(requests.watch_run(), metadata=metadata):
            pass  # a stream has its own count
        release.set()
        await asyncio.gather(*calls)
        await served.billing.GetInvoice(requests.get_invoice(), metadata=metadata)


async def _until_refused(served: Served, metadata: tuple[tuple[str, str], ...]) -> None:
    """Calls one after another; on a slow machine the first ones may come slower than the rate allows."""
    for _ in range(50):
        await served.billing.GetInvoice(requests.get_invoice(), metadata=metadata)


async def test_rate_per_credential(tmp_path: Path) -> None:
    async with serve(tmp_path, rate_per_caller=2, rate_burst=3) as served:
        greedy, modest = served.metadata(), served.metadata()
        for _ in range(3):
            await served.billing.GetInvoice(requests.get_invoice(), metadata=greedy)
        failed = await failure(_until_refused(served, greedy))
        assert (failed.code, failed.reason) == (StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
        assert failed.metadata == {"limit": "2 calls per second"}
        assert failed.details["QuotaFailure"].violations[0].subject == "2 calls per second"
        assert 0 < failed.details["RetryInfo"].retry_delay.ToMilliseconds() <= 500
        await served.billing.GetInvoice(requests.get_invoice(), metadata=modest)
        await asyncio.sleep(0.55)
        await served.billing.GetInvoice(requests.get_invoice(), metadata=greedy)


async def endless(_: Any) -> AsyncIterator[Any]:
    """A stream that says something once and then waits."""
    yield admin_service_pb2.WatchRunResponse()
    await asyncio.sleep(3600)


async def test_streams_per_credential_and_in_all(tmp_path: Path) -> None:
    async with serve(tmp_path, max_streams_per_caller=2, max_streams=3) as served:
        served.script.watch = endless
        first, second = served.metadata(), served.metadata()
        opened = [served.admin.WatchRun(requests.watch_run(), metadata=first) for _ in range(2)]
        for stream in opened:
            await stream.read()
        failed = await failure(served.admin.WatchRun(requests.watch_run(), metadata=first))
        assert failed.reason == "RATE_LIMITED"
        third = served.admin.WatchRun(requests.watch_run(), metadata=second)
        await third.read()
        failed = await failure(served.admin.WatchRun(requests.watch_run(), metadata=second))
        assert failed.reason == "OVERLOADED"
        assert served.metric("dunwell_rpc_streams_open") == 3
        opened[0].cancel()
        await eventually(lambda: served.metric("dunwell_rpc_streams_open") == 2)
        again = served.admin.WatchRun(requests.watch_run(), metadata=first)
        await again.read()


async def test_old_streams_are_ended(tmp_path: Path) -> None:
    async with serve(tmp_path, max_stream_age=0.1) as served:
        served.script.watch = endless
        stream = served.admin.WatchRun(requests.watch_run(), metadata=served.metadata())
        await stream.read()
        failed = await failure(stream.read())
    assert (failed.code, failed.reason) == (StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    assert failed.metadata == {"cause": "stream_age"}


async def test_a_cancelled_stream_ends_its_generator(served: Served) -> None:
    ended = asyncio.Event()

    async def watch(_: Any) -> AsyncIterator[Any]:
        try:
            while True:
                yield admin_service_pb2.WatchRunResponse()
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    served.script.watch = watch
    stream = served.admin.WatchRun(requests.watch_run(), metadata=served.metadata())
    await stream.read()
    stream.cancel()
    await asyncio.wait_for(ended.wait(), 30)
    labels = {"grpc_type": "server_stream", "grpc_service": "dunwell.v1.AdminService", "grpc_method": "WatchRun"}
    await eventually(lambda: served.metric("grpc_server_handled_total", **labels, grpc_code="Canceled") == 1)


async def test_calls_do_not_see_each_others_context(served: Served) -> None:
    async def whoami(request: Any) -> Any:
        before = current_call()
        await asyncio.sleep(0.005)
        assert current_call() is before
        response = billing_service_pb2.GetInvoiceResponse()
        response.invoice.id = before.actor.id
        return response

    served.script.get_invoice = whoami
    keys = [served.keys.add(Role.READER) for _ in range(20)]
    answers = await asyncio.gather(
        *(
            served.billing.GetInvoice(requests.get_invoice(), metadata=(("authorization", f"Bearer {key.text}"),))
            for key in keys
        )
    )
    assert len({answer.invoice.id for answer in answers}) == 20


async def test_no_callback_of_the_floor_holds_the_loop(served: Served) -> None:
    hostile = requests.create_client()
    for index in range(5000):
        hostile.client.metadata[f"k{index}"] = "4242 4242 4242 424" * 2
    metadata = served.metadata()
    await served.billing.GetInvoice(requests.get_invoice(), metadata=metadata)
    # A machine's noise only ever adds: what holds the loop by itself does so each time.
    for _ in range(5):
        with watch_callbacks() as callbacks:
            failed = await failure(served.billing.CreateClient(hostile, metadata=metadata))
            await asyncio.gather(
                *(served.billing.CreateClient(requests.create_client(), metadata=metadata) for _ in range(50))
            )
        assert failed.reason == "FIELD_INVALID"
        if not callbacks.seen:
            break
    callbacks.assert_none()


async def test_the_loop_watch_finds_a_blocking_handler(served: Served) -> None:
    async def blocking(_: Any) -> Any:
        began = time.thread_time()
        while time.thread_time() - began < 0.02:
            pass
        return billing_service_pb2.GetInvoiceResponse()

    served.script.get_invoice = blocking
    with watch_callbacks() as callbacks:
        await served.billing.GetInvoice(requests.get_invoice(), metadata=served.metadata())
    assert callbacks.seen
