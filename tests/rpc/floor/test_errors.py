"""What callers see of failures, through a real channel: unary and streaming."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from dunwell.v1 import admin_service_pb2, billing_service_pb2
from dunwell_server.kernel.errors import DunwellError, FieldViolation, Reason
from dunwell_server.platform.context import Role
from dunwell_server.platform.logging import configure_logging, default_logging
from tests.rpc.floor import requests
from tests.rpc.floor.fakes import Served, failure, serve

CANARY = "SELECT hunter2 FROM secrets"


@pytest.fixture
def logs() -> Iterator[io.StringIO]:
    """The process's log as JSON lines."""
    stream = io.StringIO()
    configure_logging(form="json", stream=stream)
    yield stream
    default_logging()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    """The log's lines, parsed."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


async def explode(_: Any) -> Any:
    raise ValueError(CANARY)


async def test_unexpected_exception_leaks_nothing(logs: io.StringIO, tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        served.script.get_invoice = explode
        failed = await failure(served.billing.GetInvoice(requests.get_invoice(), metadata=served.metadata()))
        counted = served.metric("dunwell_rpc_unexpected_errors_total")
    assert failed.code is StatusCode.INTERNAL
    assert failed.reason == "INTERNAL"
    assert "hunter2" not in str(failed)
    assert "ValueError" not in str(failed)
    error_id = failed.metadata["error_id"]
    assert error_id in failed.message
    (line,) = [line for line in lines(logs) if line["event"] == "unexpected exception"]
    assert line["error_id"] == error_id
    assert CANARY in line["exception"]
    assert counted == 1


async def test_exception_inside_a_stream_leaks_nothing(served: Served) -> None:
    async def watch(_: Any) -> AsyncIterator[Any]:
        yield admin_service_pb2.WatchRunResponse()
        raise ValueError(CANARY)

    served.script.watch = watch
    call = served.admin.WatchRun(requests.watch_run(), metadata=served.metadata())
    assert await call.read() == admin_service_pb2.WatchRunResponse()
    failed = await failure(call.read())
    assert failed.code is StatusCode.INTERNAL
    assert "hunter2" not in str(failed)


async def test_error_of_the_business_inside_a_stream(served: Served) -> None:
    async def watch(_: Any) -> AsyncIterator[Any]:
        yield admin_service_pb2.WatchRunResponse()
        raise DunwellError(Reason.RUN_NOT_ACTIVE, "The run has ended.")

    served.script.watch = watch
    failed = await failure(served.admin.WatchRun(requests.watch_run(), metadata=served.metadata()))
    assert (failed.code, failed.reason) == (StatusCode.FAILED_PRECONDITION, "RUN_NOT_ACTIVE")


async def test_answer_of_the_wrong_type_is_internal(served: Served) -> None:
    async def wrong(_: Any) -> Any:
        return "not a message"

    served.script.get_invoice = wrong
    failed = await failure(served.billing.GetInvoice(requests.get_invoice(), metadata=served.metadata()))
    assert failed.code is StatusCode.INTERNAL
    assert "str" not in failed.message


async def test_details_of_an_error(served: Served) -> None:
    async def refuse(_: Any) -> Any:
        raise DunwellError(
            Reason.CLOCK_ADVANCING, "The clock moves.", resource=("TestClock", "clk_1"), metadata={"run_id": "run_1"},
            retry_after=2.5,
        )  # fmt: skip

    served.script.get_invoice = refuse
    failed = await failure(served.billing.GetInvoice(requests.get_invoice(), metadata=served.metadata()))
    assert failed.code is StatusCode.FAILED_PRECONDITION
    assert failed.details["ErrorInfo"].domain == "dunwell"
    assert failed.metadata == {"run_id": "run_1"}
    assert failed.details["RetryInfo"].retry_delay.ToMilliseconds() == 2500
    assert failed.trailers["grpc-retry-pushback-ms"] == "2500"
    violation = failed.details["PreconditionFailure"].violations[0]
    assert (violation.type, violation.subject) == ("CLOCK_ADVANCING", "TestClock/clk_1")
    assert failed.details["ResourceInfo"].resource_name == "clk_1"


async def test_status_always_fits_into_trailers(served: Served) -> None:
    async def refuse(_: Any) -> Any:
        violations = [
            FieldViolation(f"lines[{index}].déscription", "must be much shorter " * 9) for index in range(500)
        ]
        raise DunwellError(Reason.FIELD_INVALID, "ä" * 5000, violations=violations, metadata={"violations": "500"})

    served.script.get_invoice = refuse
    metadata = served.metadata()
    for _ in range(40):  # above 8 KB gRPC replaces the error at random
        failed = await failure(served.billing.GetInvoice(requests.get_invoice(), metadata=metadata))
        assert failed.code is StatusCode.INVALID_ARGUMENT
    assert len(failed.trailers["grpc-status-details-bin"]) <= 4096
    shown = failed.details["BadRequest"].field_violations
    assert shown[-1].description == f"{500 - len(shown) + 1} more"
    assert len(shown) > 5


def raw(served: Served) -> Any:
    """The channel without its types, for calls that send bytes."""
    return served.channel


async def test_malformed_bytes(served: Served) -> None:
    for path in ("GetInvoice", "CreateClient"):
        call = raw(served).unary_unary(f"/dunwell.v1.BillingService/{path}")
        failed = await failure(call(b"\xff\xff\xff\xff", metadata=served.metadata()))
        assert (failed.code, failed.reason) == (StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")
    stream = raw(served).unary_stream("/dunwell.v1.AdminService/WatchRun")
    failed = await failure(stream(b"\x0a\x05a", metadata=served.metadata()))
    assert (failed.code, failed.reason) == (StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")


async def test_malformed_bytes_for_health_and_reflection(served: Served) -> None:
    check = raw(served).unary_unary("/grpc.health.v1.Health/Check")
    failed = await failure(check(b"\xff\xff"))
    assert (failed.code, failed.reason) == (StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")
    for version in ("v1", "v1alpha"):
        path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        failed = await failure(raw(served).stream_stream(path)(iter([b"\xff\xff"])))
        assert (failed.code, failed.reason) == (StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")


async def test_oversize_message(served: Served) -> None:
    call = raw(served).unary_unary("/dunwell.v1.BillingService/GetInvoice")
    failed = await failure(call(b"\x0a" + b"x" * (300 * 1024), metadata=served.metadata()))
    assert (failed.code, failed.reason) == (StatusCode.RESOURCE_EXHAUSTED, "MESSAGE_TOO_LARGE")
    assert failed.metadata == {"limit_bytes": "262144"}
    failed = await failure(call(b"x" * (900 * 1024), metadata=served.metadata()))
    assert failed.code is StatusCode.RESOURCE_EXHAUSTED  # gRPC itself: such bytes are never held in memory


async def test_unknown_method_and_service(served: Served) -> None:
    for path in ("/dunwell.v1.BillingService/CreateCreditNoteX", "/some.Other/Method"):
        for call in (
            raw(served).unary_unary(path)(b"x"),
            raw(served).unary_stream(path)(b"x"),
            raw(served).stream_stream(path)(iter([b"x"])),
        ):
            failed = await failure(call)
            assert (failed.code, failed.reason) == (StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED_METHOD")
            assert failed.metadata == {"method": path}


async def test_abort_of_a_handler_passes(tmp_path: Path) -> None:
    async with serve(tmp_path) as served:

        async def cancelled(_: Any) -> Any:
            raise DunwellError(Reason.CANCELLED, "Somebody cancelled it.")

        served.script.get_invoice = cancelled
        failed = await failure(served.billing.GetInvoice(requests.get_invoice(), metadata=served.metadata()))
        assert failed.code is StatusCode.CANCELLED


async def test_access_log_and_metrics_carry_the_code(logs: io.StringIO, tmp_path: Path) -> None:
    async with serve(tmp_path) as served:
        metadata = served.metadata(Role.READER)
        await served.billing.GetInvoice(requests.get_invoice(), metadata=metadata)
        await failure(served.billing.GetInvoice(billing_service_pb2.GetInvoiceRequest(), metadata=metadata))
        async for _ in served.admin.WatchRun(requests.watch_run(), metadata=metadata):
            pass
        unary = {"grpc_type": "unary", "grpc_service": "dunwell.v1.BillingService", "grpc_method": "GetInvoice"}
        stream = {"grpc_type": "server_stream", "grpc_service": "dunwell.v1.AdminService", "grpc_method": "WatchRun"}
        assert served.metric("grpc_server_started_total", **unary) == 2
        assert served.metric("grpc_server_handled_total", **unary, grpc_code="OK") == 1
        assert served.metric("grpc_server_handled_total", **unary, grpc_code="InvalidArgument") == 1
        assert served.metric("grpc_server_handling_seconds_count", **unary) == 2
        assert served.metric("grpc_server_handled_total", **stream, grpc_code="OK") == 1
    calls = [line for line in lines(logs) if line["event"] == "call"]
    assert [(line["method"], line["code"], line.get("reason")) for line in calls] == [
        ("BillingService.GetInvoice", "OK", None),
        ("BillingService.GetInvoice", "INVALID_ARGUMENT", "FIELD_INVALID"),
        ("AdminService.WatchRun", "OK", None),
    ]
    assert all(line["actor"].startswith("key_") for line in calls)
    assert "dw_test_" not in logs.getvalue()
