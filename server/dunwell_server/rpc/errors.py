"""From an error of the business to a gRPC status with details, always below the size that trailers can carry.

Above 8 KB of trailers gRPC replaces the real error by a random RESOURCE_EXHAUSTED, so the serialised status stays
under 4 KB: violations that do not fit are counted, texts are cut.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from dunwell_server.kernel.errors import DunwellError, FieldViolation, Reason
from dunwell_server.rpc.catalogue import CATALOGUE

DOMAIN: Final = "dunwell"
MAX_STATUS_BYTES: Final = 4000
MAX_MESSAGE_BYTES: Final = 500
_MAX_VIOLATION_BYTES: Final = 300
_MAX_FIELD_BYTES: Final = 200
_MAX_METADATA_BYTES: Final = 200
_MAX_METADATA_ITEMS: Final = 12
_MORE_BYTES: Final = 48
STATUS_TRAILER: Final = "grpc-status-details-bin"
PUSHBACK_TRAILER: Final = "grpc-retry-pushback-ms"

Trailers = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True, slots=True)
class RpcStatus:
    """A status ready to be sent."""

    code: StatusCode
    message: str
    trailers: Trailers


def new_error_id() -> str:
    """A random id that connects an INTERNAL answer with its line in the log."""
    return secrets.token_hex(8)


def internal_error(error_id: str) -> DunwellError:
    """What a caller may know of an unexpected exception: nothing but its id."""
    return DunwellError(Reason.INTERNAL, f"Internal error {error_id}.", metadata={"error_id": error_id})


def to_rpc_status(error: DunwellError) -> RpcStatus:
    """The status of an error: code and message, `google.rpc.Status` in the trailers, and the retry push-back."""
    entry = CATALOGUE[error.reason]
    retry_after = error.retry_after if error.retry_after is not None else entry.retry_after
    message = _cut(error.message, MAX_MESSAGE_BYTES)
    status = status_pb2.Status(code=entry.code.value[0], message=message)
    _add(status, _error_info(error))
    if retry_after is not None:
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromMilliseconds(round(retry_after * 1000))
        _add(status, info)
    kind, name = (_cut(part, _MAX_FIELD_BYTES) for part in error.resource or ("", ""))
    if error.resource is not None:
        _add(status, error_details_pb2.ResourceInfo(resource_type=kind, resource_name=name))
    if entry.precondition:
        subject = f"{kind}/{name}" if error.resource is not None else ""
        failure = error_details_pb2.PreconditionFailure()
        failure.violations.add(type=error.reason.value, subject=subject, description=message)
        _add(status, failure)
    if entry.quota:
        quota = error_details_pb2.QuotaFailure()
        subject = error.metadata.get("limit", "calls")
        quota.violations.add(subject=_cut(subject, _MAX_FIELD_BYTES), description=message)
        _add(status, quota)
    if error.violations and entry.code is StatusCode.INVALID_ARGUMENT:
        _add(status, _bad_request(error.violations, MAX_STATUS_BYTES - status.ByteSize()))
    trailers: list[tuple[str, str | bytes]] = [(STATUS_TRAILER, status.SerializeToString())]
    if retry_after is not None:
        trailers.append((PUSHBACK_TRAILER, str(round(retry_after * 1000))))
    return RpcStatus(entry.code, message, tuple(trailers))


def _error_info(error: DunwellError) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo(reason=error.reason.value, domain=DOMAIN)
    if error.resource is not None and error.reason is Reason.RESOURCE_NOT_FOUND:
        info.metadata["resource_type"] = _cut(error.resource[0], _MAX_METADATA_BYTES)
        info.metadata["resource_id"] = _cut(error.resource[1], _MAX_METADATA_BYTES)
    for name, value in list(error.metadata.items())[:_MAX_METADATA_ITEMS]:
        info.metadata[_cut(name, 64)] = _cut(str(value), _MAX_METADATA_BYTES)
    while info.ByteSize() > MAX_STATUS_BYTES // 2:
        info.metadata.pop(max(info.metadata))
    return info


def _bad_request(violations: tuple[FieldViolation, ...], budget: int) -> error_details_pb2.BadRequest:
    """As many violations as fit into `budget` bytes; a last one says how many more there are."""
    request = error_details_pb2.BadRequest()
    # The wrapping Any adds its type URL and lengths.
    room = budget - 80
    for index, violation in enumerate(violations):
        item = error_details_pb2.BadRequest.FieldViolation(
            field=_cut(violation.field, _MAX_FIELD_BYTES), description=_cut(violation.description, _MAX_VIOLATION_BYTES)
        )
        size = item.ByteSize() + 4
        left = len(violations) - index
        if room < size + (_MORE_BYTES if left > 1 else 0):
            request.field_violations.add(description=f"{left} more")
            break
        request.field_violations.append(item)
        room -= size
    return request


def _add(status: status_pb2.Status, detail: Message) -> None:
    packed = AnyMessage()
    packed.Pack(detail)
    status.details.append(packed)


def _cut(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8, never half a character."""
    raw = text.encode("utf-8", "replace")
    return raw.decode() if len(raw) <= limit else raw[: limit - 3].decode("utf-8", "ignore") + "…"
