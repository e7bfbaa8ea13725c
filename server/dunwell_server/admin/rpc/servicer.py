"""AdminService."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

from dunwell.v1 import admin_service_pb2 as pb
from dunwell.v1 import approval_pb2, firm_pb2, provider_pb2, run_pb2
from dunwell_server.admin import jobs
from dunwell_server.admin.model import ProviderStanding
from dunwell_server.admin.rpc import firm_messages, messages
from dunwell_server.admin.rpc.clock_stream import tail_advance
from dunwell_server.admin.rpc.data_exit import DataExitHandlers
from dunwell_server.admin.service import api_keys, audit, clocks, configuring, firms, providers
from dunwell_server.admin.service.firms import Installation
from dunwell_server.admin.store import audit as audit_store
from dunwell_server.admin.store import firms as firm_store
from dunwell_server.admin.store import keys as key_store
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.ids import Prefix
from dunwell_server.platform import runs
from dunwell_server.platform.all_firms import RunFilter
from dunwell_server.platform.anchors import AnchorStore
from dunwell_server.platform.approvals import ApprovalDesk
from dunwell_server.platform.context import CallContext, Role
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.rpc.calls import Calls
from dunwell_server.rpc.converters import (
    Page,
    Pager,
    enum_name,
    expected_version,
    id_value,
    optional_id,
    optional_instant,
    optional_value,
)
from dunwell_server.rpc.current import current_call
from dunwell_server.rpc.field_masks import apply_mask, checked_paths, top_level
from dunwell_server.rpc.run_progress import KINDS, Planned, run_message, tail_all_firms, tail_run


class OutsideClock(Protocol):
    """A clock beside ours that follows the firm's: the sandbox gateway's."""

    async def move_to(self, database: Database, context: CallContext, now: datetime) -> None:
        """Set it to `now`; what falls due there happens."""
        ...


@dataclass(frozen=True, slots=True, repr=False)
class AdminParts:
    """What bootstrap gives to the servicer."""

    calls: Calls
    pager: Pager
    installation: Installation
    pepper: bytes
    """`Keys.api_key_peppers[0]`."""
    anchors: AnchorStore | None = None
    outside: Sequence[OutsideClock] = ()
    planned: Planned | None = None
    """How billing tells the invoice of a dry run's item."""


class AdminServicer(DataExitHandlers):
    """Firms, keys, providers, clocks, the audit trail, verification and runs; data exit."""

    def __init__(self, parts: AdminParts) -> None:
        self._parts = parts
        self._calls = parts.calls
        self._pager = parts.pager
        self._installation = parts.installation

    # Firms

    async def CreateFirm(self, request: pb.CreateFirmRequest, context: Any) -> pb.CreateFirmResponse:
        new = firm_messages.new_firm(request.firm)

        async def work(uow: UnitOfWork) -> pb.CreateFirmResponse:
            firm = await firms.create(uow, new, self._installation)
            return pb.CreateFirmResponse(firm=firm_messages.firm_message(firm))

        return await self._calls.firmless_write(request, pb.CreateFirmResponse, work)

    async def GetFirm(self, request: pb.GetFirmRequest, context: Any) -> pb.GetFirmResponse:
        asked = optional_id(Prefix.FIRM, request.firm_id, "firm_id")

        async def work(uow: UnitOfWork) -> pb.GetFirmResponse:
            firm = await firms.get(uow, firms.named_firm(uow, asked))
            return pb.GetFirmResponse(firm=firm_messages.firm_message(firm))

        return await self._calls.read(work)

    async def UpdateFirm(self, request: pb.UpdateFirmRequest, context: Any) -> pb.UpdateFirmResponse:
        paths = checked_paths(request.update_mask, firm_pb2.Firm)
        firm_id = self._own(id_value(Prefix.FIRM, request.firm.id, "firm.id"))

        async def work(uow: UnitOfWork) -> pb.UpdateFirmResponse:
            firm = await firms.lock(uow, firm_id, expected_version(request.etag))
            message = firm_messages.firm_message(firm)
            apply_mask(message, request.firm, paths)
            changed = firm_messages.changed_firm(firm, message)
            updated = await firms.update(uow, changed, sorted(top_level(paths)), self._installation)
            return pb.UpdateFirmResponse(firm=firm_messages.firm_message(updated))

        return await self._calls.firmless_write(request, pb.UpdateFirmResponse, work)

    async def ListFirms(self, request: pb.ListFirmsRequest, context: Any) -> pb.ListFirmsResponse:
        page = self._pager.read(request)
        after = _uuid(page.after)
        states = [enum_name(firm_pb2.FirmState, state, "FIRM_STATE_") for state in request.states]
        rows = await self._calls.read(
            lambda uow: firm_store.list_firms(
                uow, external_id=request.external_id or None, states=states, after=after, limit=page.limit
            )
        )
        shown, token = page.split(rows, lambda firm: (firm.id,))
        found = [firm_messages.firm_message(firm) for firm in shown]
        return pb.ListFirmsResponse(firms=found, next_page_token=token)

    # Keys

    async def CreateApiKey(self, request: pb.CreateApiKeyRequest, context: Any) -> pb.CreateApiKeyResponse:
        new = messages.new_api_key(request.api_key)

        async def work(uow: UnitOfWork) -> pb.CreateApiKeyResponse:
            key, minted = await api_keys.create(uow, new, self._parts.pepper)
            shown = messages.api_key_message(key, uow.machine_now)
            return pb.CreateApiKeyResponse(api_key=shown, secret=minted.text)

        write = self._calls.firmless_write if current_call().firm_id is None else self._calls.write
        return await write(request, pb.CreateApiKeyResponse, work, keep=_without_secret)

    async def ListApiKeys(self, request: pb.ListApiKeysRequest, context: Any) -> pb.ListApiKeysResponse:
        page = self._pager.read(request)
        after = _uuid(page.after)

        async def work(uow: UnitOfWork) -> pb.ListApiKeysResponse:
            active_at = None if request.include_inactive else uow.machine_now
            rows = await key_store.list_keys(
                uow, uow.context.firm_id, active_at=active_at, after=after, limit=page.limit
            )
            shown, token = page.split(rows, lambda key: (key.id,))
            found = [messages.api_key_message(key, uow.machine_now) for key in shown]
            return pb.ListApiKeysResponse(api_keys=found, next_page_token=token)

        return await self._calls.read(work)

    async def RevokeApiKey(self, request: pb.RevokeApiKeyRequest, context: Any) -> pb.RevokeApiKeyResponse:
        key_id = id_value(Prefix.API_KEY, request.api_key_id, "api_key_id")

        async def work(uow: UnitOfWork) -> pb.RevokeApiKeyResponse:
            key = await api_keys.revoke(uow, key_id)
            return pb.RevokeApiKeyResponse(api_key=messages.api_key_message(key, uow.machine_now))

        write = self._calls.firmless_write if current_call().firm_id is None else self._calls.write
        return await write(request, pb.RevokeApiKeyResponse, work)

    # Providers

    async def ListProviders(self, request: pb.ListProvidersRequest, context: Any) -> pb.ListProvidersResponse:
        registry = self._installation.registry
        standings = await self._calls.read(lambda uow: providers.list_providers(uow, registry))
        found = [messages.provider_message(standing, registry.get(standing.name)) for standing in standings]
        return pb.ListProvidersResponse(providers=found)

    async def ConfigureProvider(
        self, request: pb.ConfigureProviderRequest, context: Any
    ) -> pb.ConfigureProviderResponse:
        wanted, installation = messages.configuration(request), self._installation

        async def work(uow: UnitOfWork) -> pb.ConfigureProviderResponse:
            configure = configuring.configure_shared if request.shared else configuring.configure
            return pb.ConfigureProviderResponse(provider=self._provider(await configure(uow, wanted, installation)))

        bound = current_call().firm_id is not None
        if request.shared and bound and current_call().actor.role is Role.ADMIN:
            raise field_invalid("shared", "the installation's account belongs to no firm: leave dunwell-firm out")
        if not request.shared and not bound:
            raise DunwellError(Reason.FIRM_REQUIRED, "Name the firm in the dunwell-firm metadata.")
        write = self._calls.firmless_write if request.shared else self._calls.write
        return await write(request, pb.ConfigureProviderResponse, work)

    async def ResetBreaker(self, request: pb.ResetBreakerRequest, context: Any) -> pb.ResetBreakerResponse:
        async def work(uow: UnitOfWork) -> pb.ResetBreakerResponse:
            registry = self._installation.registry
            standing = await providers.reset_breaker(uow, request.provider, request.note, registry)
            return pb.ResetBreakerResponse(provider=self._provider(standing))

        return await self._calls.write(request, pb.ResetBreakerResponse, work)

    def _provider(self, standing: ProviderStanding) -> provider_pb2.Provider:
        return messages.provider_message(standing, self._installation.registry.get(standing.name))

    # Approvals

    async def ListPendingApprovals(
        self, request: pb.ListPendingApprovalsRequest, context: Any
    ) -> pb.ListPendingApprovalsResponse:
        page, kinds = self._pager.read(request), messages.approval_kinds(request)

        async def work(uow: UnitOfWork) -> pb.ListPendingApprovalsResponse:
            desk = uow.bus.port(ApprovalDesk)  # type: ignore[type-abstract]
            rows = await desk.list_pending(uow, kinds=kinds, after=_time_and_id(page), limit=page.limit)
            shown, token = page.split(rows, lambda approval: (approval.create_time, approval.id))
            found = [messages.approval_message(approval, uow.firm_id) for approval in shown]
            return pb.ListPendingApprovalsResponse(approvals=found, next_page_token=token)

        return await self._calls.read(work)

    async def ApproveAction(self, request: pb.ApproveActionRequest, context: Any) -> pb.ApproveActionResponse:
        approval_id = id_value(Prefix.APPROVAL, request.approval_id, "approval_id")
        approve = request.decision == approval_pb2.APPROVAL_DECISION_APPROVE

        async def work(uow: UnitOfWork) -> pb.ApproveActionResponse:
            desk = uow.bus.port(ApprovalDesk)  # type: ignore[type-abstract]
            decided = await desk.decide(uow, approval_id, approve=approve, note=request.note)
            return pb.ApproveActionResponse(approval=messages.approval_message(decided, uow.firm_id))

        return await self._calls.write(request, pb.ApproveActionResponse, work)

    # Test clocks

    async def CreateTestClock(self, request: pb.CreateTestClockRequest, context: Any) -> pb.CreateTestClockResponse:
        firm_time = optional_instant(request, "firm_time")

        async def create(uow: UnitOfWork) -> UUID:
            return (await clocks.create(uow, firm_time)).id

        async def present(uow: UnitOfWork, clock_id: UUID) -> pb.CreateTestClockResponse:
            return pb.CreateTestClockResponse(test_clock=messages.clock_message(await clocks.get(uow, clock_id)))

        return await self._calls.provider(request, create, self._set_outside_clocks, present)

    async def GetTestClock(self, request: pb.GetTestClockRequest, context: Any) -> pb.GetTestClockResponse:
        clock_id = optional_id(Prefix.CLOCK, request.test_clock_id, "test_clock_id")
        clock = await self._calls.read(lambda uow: clocks.get(uow, clock_id))
        return pb.GetTestClockResponse(test_clock=messages.clock_message(clock))

    async def AdvanceTestClock(
        self, request: pb.AdvanceTestClockRequest, context: Any
    ) -> AsyncIterator[pb.AdvanceTestClockResponse]:
        clock_id = optional_id(Prefix.CLOCK, request.test_clock_id, "test_clock_id")
        target = optional_instant(request, "target_time")
        by = request.advance_by.ToTimedelta() if request.HasField("advance_by") else None
        run_id = _advance_run(current_call())
        if not await self._is_advancing(run_id, target, by):
            stream = self._calls.run(
                request, lambda uow: clocks.start_advance(uow, clock_id, target, by, run_id), self._tail_advance
            )
        else:
            stream = self._tail_advance(current_call(), run_id)
        async for message in stream:
            yield message

    # Audit

    async def ListAuditEvents(self, request: pb.ListAuditEventsRequest, context: Any) -> pb.ListAuditEventsResponse:
        page = self._pager.read(request)
        chosen = messages.audit_filter(request)

        async def work(uow: UnitOfWork) -> pb.ListAuditEventsResponse:
            rows = await audit_store.list_entries(uow, chosen, _time_and_id(page), page.limit)
            shown, token = page.split(rows, lambda entry: (entry.create_time, entry.id))
            found = [messages.audit_message(entry, uow.firm_id) for entry in shown]
            return pb.ListAuditEventsResponse(audit_events=found, next_page_token=token)

        return await self._calls.read(work)

    async def VerifyAuditTrail(self, request: pb.VerifyAuditTrailRequest, context: Any) -> pb.VerifyAuditTrailResponse:
        report = await self._calls.read(lambda uow: audit.verify_trail(uow, self._parts.anchors))
        return messages.chain_message(report)

    async def VerifyLedger(self, request: pb.VerifyLedgerRequest, context: Any) -> pb.VerifyLedgerResponse:
        return messages.ledger_message(await self._calls.read(audit.verify_ledger))

    # Runs

    async def ListRuns(self, request: pb.ListRunsRequest, context: Any) -> pb.ListRunsResponse:
        page, call = self._pager.read(request), current_call()
        parent = optional_id(Prefix.RUN, request.parent_run_id, "parent_run_id")
        chosen = _run_filter(request)
        rows = await jobs.list_runs(self._calls.database, call, chosen, parent, _time_and_id(page), page.limit)
        shown, token = page.split(rows, lambda run: (run.create_time, run.id))
        found = [run_message(run, call.firm_id) for run in shown]
        return pb.ListRunsResponse(runs=found, next_page_token=token)

    async def GetRun(self, request: pb.GetRunRequest, context: Any) -> pb.GetRunResponse:
        call = current_call()
        run = await jobs.get_run(self._calls.database, call, id_value(Prefix.RUN, request.run_id, "run_id"))
        return pb.GetRunResponse(run=run_message(run, call.firm_id))

    async def WatchRun(self, request: pb.WatchRunRequest, context: Any) -> AsyncIterator[pb.WatchRunResponse]:
        run_id, call, database = id_value(Prefix.RUN, request.run_id, "run_id"), current_call(), self._calls.database
        stream = (
            tail_all_firms(database, call, run_id)
            if call.firm_id is None
            else tail_run(
                database,
                call,
                run_id,
                after_seq=request.after_seq,
                omit_items=request.omit_items,
                planned=self._parts.planned,
            )
        )
        async for progress in stream:
            yield pb.WatchRunResponse(progress=progress)

    # What handlers share

    def _own(self, firm_id: UUID) -> UUID:
        """A firm that the caller may change; RESOURCE_NOT_FOUND for another one's."""
        call = current_call()
        if call.firm_id not in (None, firm_id) and call.actor.role.value != "ADMIN":
            raise firms.not_found(firm_id)
        return firm_id

    async def _set_outside_clocks(self, context: CallContext, clock_id: UUID) -> None:
        """Have the sandbox's account stand where the firm does. Should it be away, the first advance does it."""
        clock = await self._calls.database.run(context, lambda uow: clocks.get(uow, clock_id), write=False)
        for outside in self._parts.outside:
            await outside.move_to(self._calls.database, context, clock.now_time)

    def _tail_advance(self, context: CallContext, run_id: UUID) -> AsyncIterator[pb.AdvanceTestClockResponse]:
        return tail_advance(self._calls.database, context, run_id)

    async def _is_advancing(self, run_id: UUID, target: datetime | None, by: timedelta | None) -> bool:
        """Whether this very request moves the clock now: then nothing may be written, only told.

        CLOCK_ADVANCING where another one does; REQUEST_ID_REUSED where the same one had another target.
        """

        async def look(uow: UnitOfWork) -> bool:
            clock = await clocks.get(uow, None)
            if not clock.is_advancing:
                return False
            if clock.run_id != run_id:
                raise clocks.advancing(clock)
            clocks.check_same_target(await runs.get(uow, run_id), target, by)
            return True

        return await self._calls.read(look)


def _without_secret(response: pb.CreateApiKeyResponse) -> pb.CreateApiKeyResponse:
    return pb.CreateApiKeyResponse(api_key=response.api_key)


def _advance_run(call: CallContext) -> UUID:
    if call.firm_id is None or call.request_id is None:
        raise DunwellError(Reason.FIRM_REQUIRED, "Name the firm in the dunwell-firm metadata.")
    return clocks.advance_run_id(call.firm_id, call.request_id)


def _run_filter(request: pb.ListRunsRequest) -> RunFilter:
    since, until = messages.time_range(request)
    kinds = {number: kind.value for kind, number in KINDS.items()}
    return RunFilter(
        kinds=[kinds[kind] for kind in request.kinds],
        states=[enum_name(run_pb2.RunState, state, "RUN_STATE_") for state in request.states],
        dry_run=optional_value(request, "dry_run"),
        since=since,
        until=until,
        oldest_first=request.order == run_pb2.RUN_ORDER_CREATE_TIME_ASC,
    )


def _uuid(after: Any) -> UUID | None:
    return None if after is None else after[0]


def _time_and_id(page: Page) -> tuple[datetime, UUID] | None:
    if page.after is None:
        return None
    when, row_id = page.after
    assert isinstance(when, datetime)
    assert isinstance(row_id, UUID)
    return when, row_id
