"""Health, reflection and unknown methods: no credential is asked for, but nothing leaks and all of it is counted."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from grpc import StatusCode

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.rpc.interceptors.load import StreamLoad
from dunwell_server.rpc.interceptors.reporting import Reporter, ServicerContext, code_of_departure
from dunwell_server.rpc.interceptors.streams import OpenStreams

Handlers = Mapping[str, Any]
_MALFORMED: Final = object()
_EVERYBODY: Final = "anonymous"
METHOD_TYPES: Final = {
    (False, False): "unary",
    (False, True): "server_stream",
    (True, False): "client_stream",
    (True, True): "bidi_stream",
}


class PlainFloor:
    """Wraps the handlers of services that everybody may call."""

    def __init__(self, reporter: Reporter, streams: OpenStreams, load: StreamLoad) -> None:
        self._reporter = reporter
        self._streams = streams
        self._load = load

    def wrap(self, service: str, handlers: Handlers) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
        """The same methods behind the metrics and error stages."""
        return {name: self._wrap(service, name, handler) for name, handler in handlers.items()}

    def _wrap(self, service: str, name: str, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
        """Annotated loosely: gRPC's handler type does not tell which of its four behaviours is set."""
        metrics = self._reporter.metrics.method(
            METHOD_TYPES[handler.request_streaming, handler.response_streaming], service, name
        )
        label = f"{service.rpartition('.')[2]}.{name}"
        deserialize = _tolerant(handler.request_deserializer)
        serialize = handler.response_serializer

        async def unary(request: Any, context: ServicerContext) -> Any:
            started = time.perf_counter()
            metrics.start()
            try:
                if request is _MALFORMED:
                    raise _malformed()
                answer = await handler.unary_unary(request, context)
            except BaseException as error:
                await self._fail(error, label, metrics, started, context)
            else:
                metrics.send()
                metrics.finish(StatusCode.OK, time.perf_counter() - started)
                return answer

        async def stream(request: Any, context: ServicerContext) -> None:
            started = time.perf_counter()
            metrics.start()
            try:
                if request is _MALFORMED:
                    raise _malformed()
                await self._serve(handler.stream_stream or handler.unary_stream, request, context)
            except BaseException as error:
                await self._fail(error, label, metrics, started, context)
            else:
                metrics.finish(StatusCode.OK, time.perf_counter() - started)

        if not handler.response_streaming:
            return grpc.unary_unary_rpc_method_handler(unary, deserialize, serialize)
        if not handler.request_streaming:
            return grpc.unary_stream_rpc_method_handler(stream, deserialize, serialize)
        return grpc.stream_stream_rpc_method_handler(stream, deserialize, serialize)

    async def _serve(self, behaviour: Any, request: Any, context: ServicerContext) -> None:
        self._load.enter(_EVERYBODY)
        try:
            stream = self._streams.open()
            try:
                if inspect.isasyncgenfunction(behaviour):
                    async for response in behaviour(_whole(request), context):
                        await stream.send(context.write(response))
                else:
                    await behaviour(request, context)
            except asyncio.CancelledError:
                ending = stream.take_over()
                if ending is None:
                    raise
                raise ending from None
            finally:
                self._streams.close(stream)
        finally:
            self._load.leave(_EVERYBODY)

    async def _fail(
        self, error: BaseException, label: str, metrics: Any, started: float, context: ServicerContext
    ) -> None:
        code = code_of_departure(error, context)
        if code is not None:
            metrics.finish(code, time.perf_counter() - started)
            raise error
        status, _ = self._reporter.status_of(error, label)
        metrics.finish(status.code, time.perf_counter() - started)
        await context.abort(status.code, status.message, status.trailers)


class UnknownMethods(grpc.GenericRpcHandler):
    """Answers every method that no service has, with details as every other error."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._metrics = reporter.metrics.method("bidi_stream", "unknown", "unknown")

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """A handler for whatever was asked for; it reads nothing of the request."""
        path = handler_call_details.method[:200]

        async def refuse(_: Any, context: ServicerContext) -> None:
            started = time.perf_counter()
            self._metrics.start()
            error = DunwellError(
                Reason.UNIMPLEMENTED_METHOD, "This release has no such method.", metadata={"method": path}
            )
            status, _details = self._reporter.status_of(error, "unknown")
            self._metrics.finish(status.code, time.perf_counter() - started)
            await context.abort(status.code, status.message, status.trailers)

        return grpc.stream_stream_rpc_method_handler(refuse)


def _tolerant(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def attempt(raw: bytes) -> Any:
        try:
            return deserialize(raw)
        except (DecodeError, ValueError, RecursionError):
            return _MALFORMED

    return attempt


def _malformed() -> DunwellError:
    return DunwellError(Reason.MALFORMED_MESSAGE, "The bytes are not a message of the expected type.")


def _whole(request: Any) -> Any:
    """A request stream whose malformed messages are errors; a single request as it is."""
    if not hasattr(request, "__aiter__"):
        return request

    async def messages() -> Any:
        async for message in request:
            if message is _MALFORMED:
                raise _malformed()
            yield message

    return messages()
