"""Composes the stages into the handlers that gRPC calls, one per method, when the server is built.

gRPC hands over the request's bytes and takes the response's: parsing and serialising happen here, after a caller is
known and inside the error stage, so that malformed bytes and unserialisable answers are errors like any other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, cast
from uuid import UUID

import grpc
from google.protobuf.message import Message
from grpc import StatusCode

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.platform.context import CallContext
from dunwell_server.rpc.auth import Authenticator, Principal
from dunwell_server.rpc.current import Call, set_current
from dunwell_server.rpc.interceptors.deadline import Deadline, DeadlinePolicy
from dunwell_server.rpc.interceptors.load import RateLimit, StreamLoad, UnaryLoad
from dunwell_server.rpc.interceptors.method import Method
from dunwell_server.rpc.interceptors.permission import admit
from dunwell_server.rpc.interceptors.reporting import Reporter, ServicerContext, code_of_departure
from dunwell_server.rpc.interceptors.streams import OpenStreams
from dunwell_server.rpc.interceptors.validation import RequestValidator, parse

UnaryBehaviour = Callable[[Any, ServicerContext], Awaitable[Message]]
StreamBehaviour = Callable[[Any, ServicerContext], AsyncIterator[Message]]

_LARGE: Final = 16 * 1024
"""Bytes above which a message is parsed and checked beside the loop: at 256 KiB that is 10 ms and more."""


@dataclass(frozen=True, slots=True)
class Floor:
    """What the stages of all methods share."""

    authenticator: Authenticator
    reporter: Reporter
    rate: RateLimit
    unary_load: UnaryLoad
    stream_load: StreamLoad
    streams: OpenStreams
    deadlines: DeadlinePolicy
    max_stream_age: float = 900.0

    def unary_handler(self, method: Method, behaviour: UnaryBehaviour) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler of a unary RPC."""
        admission = _Admission(self, method)
        reporter, label = self.reporter, method.label
        metrics = reporter.metrics.method("unary", method.service, method.name)

        async def handle(raw: bytes, context: ServicerContext) -> bytes:
            started = time.perf_counter()
            metrics.start()
            call = Call()
            set_current(call)
            try:
                response = await self._run_unary(admission, behaviour, call, raw, context)
                answer = response.SerializeToString()
                if call.trailers:
                    context.set_trailing_metadata(tuple(call.trailers))
            except BaseException as error:
                code = code_of_departure(error, context)
                if code is not None:
                    reporter.finish(label, metrics, code, started, call.context, context.peer())
                    raise
                status, details = reporter.status_of(error, label)
            else:
                metrics.send()
                reporter.finish(label, metrics, StatusCode.OK, started, call.context, context.peer())
                return answer
            reporter.finish(label, metrics, status.code, started, call.context, context.peer(), details)
            await context.abort(status.code, status.message, status.trailers)

        return grpc.unary_unary_rpc_method_handler(handle)

    async def _run_unary(
        self, admission: _Admission, behaviour: UnaryBehaviour, call: Call, raw: bytes, context: ServicerContext
    ) -> Message:
        metadata = cast(Mapping[str, Any], dict(context.invocation_metadata() or ()))
        principal = await admission.caller(metadata)
        self.rate.take(principal.id)
        self.unary_load.enter()
        try:
            deadline = self.deadlines.unary(context.time_remaining())
            message = await admission.request(principal, metadata, raw, deadline, call)
            if not deadline.ours:
                return await behaviour(message, context)
            return await _within(deadline, behaviour(message, context))
        finally:
            self.unary_load.leave()

    def stream_handler(self, method: Method, behaviour: StreamBehaviour) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler of a server-streaming RPC, whose behaviour is an asynchronous generator."""
        admission = _Admission(self, method)
        reporter, label = self.reporter, method.label
        metrics = reporter.metrics.method("server_stream", method.service, method.name)

        async def handle(raw: bytes, context: ServicerContext) -> None:
            started = time.perf_counter()
            metrics.start()
            call = Call()
            set_current(call)
            try:
                await self._run_stream(admission, behaviour, call, raw, context, metrics.send)
                if call.trailers:
                    context.set_trailing_metadata(tuple(call.trailers))
            except BaseException as error:
                code = code_of_departure(error, context)
                if code is not None:
                    reporter.finish(label, metrics, code, started, call.context, context.peer())
                    raise
                status, details = reporter.status_of(error, label)
            else:
                reporter.finish(label, metrics, StatusCode.OK, started, call.context, context.peer())
                return
            reporter.finish(label, metrics, status.code, started, call.context, context.peer(), details)
            await context.abort(status.code, status.message, status.trailers)

        return grpc.unary_stream_rpc_method_handler(handle)

    async def _run_stream(
        self,
        admission: _Admission,
        behaviour: StreamBehaviour,
        call: Call,
        raw: bytes,
        context: ServicerContext,
        count: Callable[[], None],
    ) -> None:
        metadata = cast(Mapping[str, Any], dict(context.invocation_metadata() or ()))
        principal = await admission.caller(metadata)
        self.rate.take(principal.id)
        self.stream_load.enter(principal.id)
        try:
            stream = self.streams.open()
            try:
                deadline = self.deadlines.stream(context.time_remaining())
                message = await admission.request(principal, metadata, raw, deadline, call)
                await stream.send(context.send_initial_metadata(()))
                async with asyncio.timeout(self.max_stream_age) as age:
                    async with aclosing(cast(Any, behaviour(message, context))) as responses:
                        async for response in responses:
                            await stream.send(context.write(response.SerializeToString()))
                            count()
            except asyncio.CancelledError:
                ending = stream.take_over()
                if ending is None:
                    raise
                raise ending from None
            except TimeoutError:
                if age.expired():
                    raise _stream_too_old() from None
                raise
            finally:
                self.streams.close(stream)
        finally:
            self.stream_load.leave(principal.id)


class _Admission:
    """The stages between the caller's bytes and the handler of one method."""

    __slots__ = ("_authenticator", "_method", "_validator")

    def __init__(self, floor: Floor, method: Method) -> None:
        self._authenticator = floor.authenticator
        self._method = method
        self._validator = RequestValidator(method.request_type.DESCRIPTOR)

    async def caller(self, metadata: Mapping[str, Any]) -> Principal:
        """Who calls; waits only where the credential's row is not in the cache."""
        known = self._authenticator.known(metadata)
        return known if known is not None else await self._authenticator.authenticate(metadata)

    async def request(
        self, principal: Principal, metadata: Mapping[str, Any], raw: bytes, deadline: Deadline, call: Call
    ) -> Message:
        """The checked request of a caller who may make it; fills in the call's context."""
        method = self._method
        actor, firm_id = admit(principal, method.permission, metadata)
        call.context = CallContext(firm_id, actor, method.label, None, deadline.at)
        if len(raw) > method.max_bytes:
            raise DunwellError(
                Reason.MESSAGE_TOO_LARGE,
                f"The message has more than {method.max_bytes} bytes.",
                metadata={"limit_bytes": str(method.max_bytes)},
            )
        if len(raw) > _LARGE:
            message = await asyncio.to_thread(self._checked, raw)
        else:
            message = self._checked(raw)
        if method.has_request_id:
            call.context = CallContext(firm_id, actor, method.label, _request_id(message), deadline.at)
        return message

    def _checked(self, raw: bytes) -> Message:
        message = parse(self._method.request_type, raw)
        self._validator.check(message, raw)
        return message


def _request_id(message: Any) -> UUID:
    try:
        return UUID(message.request_id)
    except ValueError:
        raise DunwellError(Reason.FIELD_INVALID, "must be a UUID", field="request_id") from None


async def _within(deadline: Deadline, work: Awaitable[Message]) -> Message:
    """Stop work at a deadline that gRPC does not know of."""
    remaining = None if deadline.at is None else deadline.at - time.monotonic()
    try:
        async with asyncio.timeout(remaining) as scope:
            return await work
    except TimeoutError:
        if not scope.expired():
            raise
    raise DunwellError(Reason.DEADLINE_EXCEEDED, "The call took longer than a call without a deadline may.")


def _stream_too_old() -> DunwellError:
    return DunwellError(
        Reason.SHUTTING_DOWN,
        "Streams are ended after a while, so that load spreads; go on where this one stopped.",
        metadata={"cause": "stream_age"},
    )
