"""How a call's end is counted, logged and answered: the metrics, access-log and error stages."""

from __future__ import annotations

import asyncio
import time
from typing import Any, TypeAlias

import grpc
from grpc import StatusCode

from dunwell_server.kernel.errors import DunwellError
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.logging import FastLog, get_logger, redact_text
from dunwell_server.platform.metrics import MethodMetrics, RpcMetrics
from dunwell_server.rpc.catalogue import CATALOGUE
from dunwell_server.rpc.errors import RpcStatus, internal_error, new_error_id, to_rpc_status

log = get_logger(__name__)

ServicerContext: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class Reporter:
    """One per server; knows where counts and lines go."""

    def __init__(self, metrics: RpcMetrics) -> None:
        self.metrics = metrics
        self._access = FastLog("dunwell_server.access", "call")

    def finish(
        self,
        label: str,
        metrics: MethodMetrics,
        code: StatusCode,
        started: float,
        context: CallContext | None,
        peer: str,
        details: dict[str, Any] | None = None,
    ) -> None:
        """Count a call that ended and write its line to the access log."""
        seconds = time.perf_counter() - started
        metrics.finish(code, seconds)
        if not self._access.enabled:
            return
        fields: dict[str, Any] = {
            "method": label,
            "code": code.name,
            "ms": round(seconds * 1000, 2),
            "peer": peer,
        }
        if context is not None:
            actor = context.actor
            fields["actor"] = actor.id
            if actor.person is not None:
                fields["person"] = redact_text(actor.person)
            if context.firm_id is not None:
                fields["firm"] = str(context.firm_id)
            if context.request_id is not None:
                fields["request_id"] = str(context.request_id)
        if details:
            fields.update(details)
        self._access.write(fields)

    def status_of(self, error: BaseException, label: str) -> tuple[RpcStatus, dict[str, Any]]:
        """The status that answers an exception of a call, and what the access log says of it.

        Whatever is not ours becomes INTERNAL with a random id: its text goes to the log only.
        """
        if isinstance(error, DunwellError):
            if CATALOGUE[error.reason].logged:
                log.warning(
                    "call failed", method=label, reason=error.reason.value, message=error.message,
                    cause=repr(error.__cause__),
                )  # fmt: skip
            return to_rpc_status(error), {"reason": error.reason.value}
        error_id = new_error_id()
        self.metrics.errors.inc()
        log.error("unexpected exception", method=label, error_id=error_id, exc_info=error)
        return to_rpc_status(internal_error(error_id)), {"reason": "INTERNAL", "error_id": error_id}


def code_of_departure(error: BaseException, context: ServicerContext) -> StatusCode | None:
    """The code of an exception that has to pass on as it is: the caller left, or the handler aborted. Else None."""
    if isinstance(error, asyncio.CancelledError):
        remaining = context.time_remaining()
        return StatusCode.DEADLINE_EXCEEDED if remaining is not None and remaining <= 0 else StatusCode.CANCELLED
    if isinstance(error, grpc.aio.AbortError):
        code = context.code()
        return code if isinstance(code, StatusCode) else StatusCode.UNKNOWN
    if isinstance(error, grpc.aio.BaseError):  # the transport is gone, or the server has stopped
        return StatusCode.CANCELLED
    if not isinstance(error, Exception):  # SystemExit, KeyboardInterrupt
        return StatusCode.UNKNOWN
    return None
