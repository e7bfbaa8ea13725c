"""The catalogue, the business's reasons and the contract's enum are the same set, with the same codes."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from dunwell.v1 import error_reason_pb2
from dunwell_server.kernel.errors import DunwellError, FieldViolation, Reason
from dunwell_server.rpc.catalogue import CATALOGUE
from dunwell_server.rpc.errors import MAX_STATUS_BYTES, to_rpc_status

PROTO = Path(__file__).parents[3] / "protos/dunwell/v1/error_reason.proto"
PREFIX = "ERROR_REASON_"


def test_the_three_sets_are_one() -> None:
    contract = {name.removeprefix(PREFIX) for name in list(error_reason_pb2.ErrorReason.keys())} - {"UNSPECIFIED"}
    assert contract == set(Reason) == set(CATALOGUE)


def test_the_contract_documents_the_codes_that_are_sent() -> None:
    blocks = re.findall(rf"((?:^  //.*\n)+)^  {PREFIX}(\w+) = ", PROTO.read_text(), re.MULTILINE)
    documented = {
        Reason(name): comment.split(".")[0].removeprefix("  // ") for comment, name in blocks if name != "UNSPECIFIED"
    }
    assert documented == {reason: entry.code.name for reason, entry in CATALOGUE.items()}


def test_the_contract_promises_retry_info_where_it_is_sent() -> None:
    blocks = PROTO.read_text().split(PREFIX)
    for before, after in pairwise(blocks):
        name = after.split(" ")[0]
        if name in Reason.__members__ and "RetryInfo" in before:
            assert CATALOGUE[Reason(name)].retry_after is not None, name


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_makes_a_complete_status(reason: Reason) -> None:
    sent = to_rpc_status(DunwellError(reason, "Why.", metadata={"a": "b"}))
    status = status_pb2.Status.FromString(dict(sent.trailers)["grpc-status-details-bin"])  # type: ignore[arg-type]
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain, dict(info.metadata)) == (reason.value, "dunwell", {"a": "b"})
    assert status.code == CATALOGUE[reason].code.value[0]
    assert sent.code is not StatusCode.OK
    names = {detail.TypeName().rpartition(".")[2] for detail in status.details}
    assert ("PreconditionFailure" in names) == (sent.code is StatusCode.FAILED_PRECONDITION)
    assert ("RetryInfo" in names) == ("grpc-retry-pushback-ms" in dict(sent.trailers))


@pytest.mark.parametrize("text", ["x" * 20_000, "₹" * 20_000, "\U0001f4b3" * 20_000, "\ud800 lone surrogate"])
def test_any_text_fits(text: str) -> None:
    error = DunwellError(
        Reason.CLOCK_ADVANCING, text, metadata={f"{index}{text}": text for index in range(40)}, resource=(text, text)
    )
    violations = [FieldViolation(text, text)] * 300
    for failure in (error, DunwellError(Reason.FIELD_INVALID, text, violations=violations, resource=(text, text))):
        sent = to_rpc_status(failure)
        raw = dict(sent.trailers)["grpc-status-details-bin"]
        assert len(raw) <= MAX_STATUS_BYTES + 96
        # What the header of the message costs on the wire, percent-encoded, beside the details in base64.
        header = sum(3 if byte > 126 or byte < 32 else 1 for byte in sent.message.encode())
        assert header + len(raw) * 4 // 3 < 8000


def test_few_violations_are_all_there() -> None:
    violations = [FieldViolation(f"field_{index}", "must not be empty") for index in range(50)]
    sent = to_rpc_status(DunwellError(Reason.FIELD_INVALID, "x", violations=violations))
    status = status_pb2.Status.FromString(dict(sent.trailers)["grpc-status-details-bin"])  # type: ignore[arg-type]
    request = error_details_pb2.BadRequest()
    assert status.details[-1].Unpack(request)
    assert [violation.field for violation in request.field_violations] == [f"field_{index}" for index in range(50)]


def test_not_found_names_the_object() -> None:
    sent = to_rpc_status(DunwellError(Reason.RESOURCE_NOT_FOUND, "No such invoice.", resource=("Invoice", "inv_1")))
    status = status_pb2.Status.FromString(dict(sent.trailers)["grpc-status-details-bin"])  # type: ignore[arg-type]
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert dict(info.metadata) == {"resource_type": "Invoice", "resource_id": "inv_1"}
