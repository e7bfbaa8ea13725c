"""ProviderEventService. A handler parses, calls one use case, and maps what comes back."""

from __future__ import annotations

from typing import Any, Final

from dunwell.v1 import provider_event_pb2
from dunwell.v1 import provider_event_service_pb2 as pb
from dunwell.v1.provider_event_service_pb2_grpc import ProviderEventServiceServicer
from dunwell_server.inbox.model import EventFilter, StoredEvent
from dunwell_server.inbox.service import operations
from dunwell_server.inbox.service.accounts import Vault
from dunwell_server.inbox.service.ingest import Ingestor, Webhook
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix
from dunwell_server.platform.context import Role
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.rpc.calls import Calls
from dunwell_server.rpc.converters import (
    Pager,
    enum_name,
    enum_value,
    id_text,
    id_value,
    optional_id,
    optional_instant,
    timestamp,
)
from dunwell_server.rpc.current import current_call

STATE: Final = "PROVIDER_EVENT_STATE_"
LIMITS: Final = {"ProviderEventService.IngestProviderEvent": 512 * 1024}
"""A body of 256 KiB, fifty headers, and room to refuse with details what is larger."""


class ProviderEventServicer(ProviderEventServiceServicer):
    """Every RPC of the service."""

    def __init__(self, calls: Calls, ingestor: Ingestor, vault: Vault, pager: Pager) -> None:
        self._calls = calls
        self._ingestor = ingestor
        self._vault = vault
        self._pager = pager

    async def IngestProviderEvent(
        self, request: pb.IngestProviderEventRequest, context: Any
    ) -> pb.IngestProviderEventResponse:
        webhook = Webhook(
            request.provider,
            optional_id(Prefix.PROVIDER_ACCOUNT, request.provider_account_id, "provider_account_id"),
            request.body,
            dict(request.headers),
            request.source_address,
        )
        stored = await self._ingestor.ingest(current_call(), webhook)
        return pb.IngestProviderEventResponse(
            provider_event_id=id_text(Prefix.PROVIDER_EVENT, stored.id), duplicate=stored.duplicate
        )

    async def ListProviderEvents(
        self, request: pb.ListProviderEventsRequest, context: Any
    ) -> pb.ListProviderEventsResponse:
        _check_reach()
        wanted, page = _filter(request), self._pager.read(request)
        oldest_first = request.order == provider_event_pb2.PROVIDER_EVENT_ORDER_RECEIVE_TIME_ASC
        after: Any = page.after

        async def read(uow: UnitOfWork) -> pb.ListProviderEventsResponse:
            found = await operations.list_events(uow, wanted, oldest_first=oldest_first, after=after, limit=page.limit)
            shown, token = page.split(found, lambda event: (event.create_time, event.id))
            return pb.ListProviderEventsResponse(
                provider_events=[event_message(event) for event in shown], next_page_token=token
            )

        return await self._calls.read(read)

    async def GetProviderEvent(self, request: pb.GetProviderEventRequest, context: Any) -> pb.GetProviderEventResponse:
        _check_reach()
        event_id = id_value(Prefix.PROVIDER_EVENT, request.provider_event_id, "provider_event_id")

        async def read(uow: UnitOfWork) -> pb.GetProviderEventResponse:
            event = await operations.get_event(uow, event_id, self._vault)
            return pb.GetProviderEventResponse(provider_event=event_message(event))

        return await self._calls.read(read)

    async def ReplayProviderEvent(
        self, request: pb.ReplayProviderEventRequest, context: Any
    ) -> pb.ReplayProviderEventResponse:
        event_id = id_value(Prefix.PROVIDER_EVENT, request.provider_event_id, "provider_event_id")

        async def change(uow: UnitOfWork) -> pb.ReplayProviderEventResponse:
            event = await operations.replay(uow, event_id, self._vault)
            return pb.ReplayProviderEventResponse(provider_event=event_message(event))

        return await self._calls.write(request, pb.ReplayProviderEventResponse, change, keep=_replayed_without_body)

    async def DiscardProviderEvent(
        self, request: pb.DiscardProviderEventRequest, context: Any
    ) -> pb.DiscardProviderEventResponse:
        event_id = id_value(Prefix.PROVIDER_EVENT, request.provider_event_id, "provider_event_id")

        async def change(uow: UnitOfWork) -> pb.DiscardProviderEventResponse:
            event = await operations.discard(uow, event_id, request.note, self._vault)
            return pb.DiscardProviderEventResponse(provider_event=event_message(event))

        return await self._calls.write(request, pb.DiscardProviderEventResponse, change, keep=_discarded_without_body)


def event_message(event: StoredEvent) -> provider_event_pb2.ProviderEvent:
    """An event as the contract shows it."""
    return provider_event_pb2.ProviderEvent(
        id=id_text(Prefix.PROVIDER_EVENT, event.id),
        firm_id=id_text(Prefix.FIRM, event.firm_id),
        provider=event.provider,
        provider_account_id=id_text(Prefix.PROVIDER_ACCOUNT, event.account_id),
        event_id=event.event_id or "",
        type=event.type,
        state=enum_value(provider_event_pb2.ProviderEventState, event.state.value, STATE),  # type: ignore[arg-type]
        result=event.result or "",
        attempt_count=event.attempts,
        last_error=event.last_error or "",
        next_attempt_time=timestamp(event.next_attempt_time),
        object_reference=event.object_reference or "",
        fetched=event.fetched,
        body_bytes=event.body_bytes,
        body=bytes(event.body),
        headers=dict(event.headers),
        provider_time=timestamp(event.provider_time),
        receive_time=timestamp(event.create_time),
        finish_time=timestamp(event.finish_time),
    )


def _check_reach() -> None:
    """Events without a firm are ADMIN's; no other credential can be without one, and this does not rest on it."""
    call = current_call()
    if call.firm_id is None and call.actor.role is not Role.ADMIN:
        raise DunwellError(Reason.PERMISSION_DENIED, "Only an ADMIN sees events without a firm.")


def _filter(request: pb.ListProviderEventsRequest) -> EventFilter:
    start = optional_instant(request.receive_time, "start_time", "receive_time.start_time")
    end = optional_instant(request.receive_time, "end_time", "receive_time.end_time")
    if start is not None and end is not None and end < start:
        raise DunwellError(Reason.PERIOD_INVALID, "receive_time ends before it starts.", field="receive_time")
    return EventFilter(
        states=[enum_name(provider_event_pb2.ProviderEventState, state, STATE) for state in request.states],
        provider=request.provider or None,
        type=request.type or None,
        event_id=request.event_id or None,
        object_reference=request.object_reference or None,
        from_time=start,
        until_time=end,
    )


def _replayed_without_body(response: pb.ReplayProviderEventResponse) -> pb.ReplayProviderEventResponse:
    """What is stored for repeats of the call: a quarter of a megabyte is not kept twice."""
    kept = pb.ReplayProviderEventResponse()
    kept.CopyFrom(response)
    kept.provider_event.ClearField("body")
    return kept


def _discarded_without_body(response: pb.DiscardProviderEventResponse) -> pb.DiscardProviderEventResponse:
    kept = pb.DiscardProviderEventResponse()
    kept.CopyFrom(response)
    kept.provider_event.ClearField("body")
    return kept
