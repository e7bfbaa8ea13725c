"""The demonstration's client: the generated stubs over a channel, as any caller has them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, TypeVar
from uuid import UUID, uuid4, uuid5

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from dunwell.v1 import (
    admin_service_pb2_grpc,
    billing_service_pb2_grpc,
    payment_service_pb2_grpc,
    provider_event_service_pb2_grpc,
    subscription_service_pb2_grpc,
)
from dunwell_server.cli.problems import CommandError

R = TypeVar("R")
TIMEOUT = 40.0
_NAMESPACE = UUID("6f1c1c0e-6a3f-5a57-9d0a-3d2f6a5d8b10")


def request_id(*parts: str) -> str:
    """The request id of one step: the same step asks under the same id, so that an interrupted set-up goes on where it stopped."""
    return str(uuid5(_NAMESPACE, "/".join(parts)))


def fresh_request_id() -> str:
    """A request id of its own, for what must happen anew each time."""
    return str(uuid4())


class Api:
    """One credential's view of the service."""

    def __init__(self, address: str, key: str, *, firm_id: str | None = None) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._metadata = (("authorization", f"Bearer {key}"), *((("dunwell-firm", firm_id),) if firm_id else ()))
        # The stubs' type says that they belong to the synchronous interface too; here they are awaited.
        self.admin: Any = admin_service_pb2_grpc.AdminServiceStub(self._channel)
        self.billing: Any = billing_service_pb2_grpc.BillingServiceStub(self._channel)
        self.payments: Any = payment_service_pb2_grpc.PaymentServiceStub(self._channel)
        self.provider_events: Any = provider_event_service_pb2_grpc.ProviderEventServiceStub(self._channel)
        self.subscriptions: Any = subscription_service_pb2_grpc.SubscriptionServiceStub(self._channel)

    async def __aenter__(self) -> Api:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def call(self, method: Callable[..., Awaitable[R]], request: Any, *, actor: str | None = None) -> R:
        """One unary call, in the name of `actor`. CommandError with the server's reason where it is refused."""
        try:
            named = (("dunwell-actor", actor),) if actor else ()
            return await method(request, metadata=(*self._metadata, *named), timeout=TIMEOUT)
        except grpc.aio.AioRpcError as error:
            raise CommandError(f"{type(request).__name__.removesuffix('Request')}: {explain(error)}") from error

    async def accepts(self, method: Callable[..., Awaitable[Any]], request: Any) -> bool:
        """Whether the call is answered; False for a credential or object that is not known (any more)."""
        try:
            await method(request, metadata=self._metadata, timeout=TIMEOUT)
        except grpc.aio.AioRpcError as error:
            if error.code() in (
                grpc.StatusCode.UNAUTHENTICATED,
                grpc.StatusCode.NOT_FOUND,
                grpc.StatusCode.PERMISSION_DENIED,
            ):
                return False
            raise CommandError(explain(error)) from error
        return True


def explain(error: grpc.aio.AioRpcError) -> str:
    """One line about a refused call: the message, its reason, and the fields it is about."""
    call: Any = error
    status = rpc_status.from_call(call)
    reason, fields = error.code().name, []
    for detail in status.details if status is not None else ():
        info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(bad):
            fields = [f"{violation.field}: {violation.description}" for violation in bad.field_violations]
    return f"{'; '.join(fields) or error.details()} ({reason})"
