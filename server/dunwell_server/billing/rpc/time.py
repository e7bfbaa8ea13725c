"""The handlers of time entries."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from google.protobuf.message import Message

from dunwell.v1 import billing_service_pb2 as pb
from dunwell.v1 import time_entry_pb2
from dunwell_server.billing.rpc import time_messages as messages
from dunwell_server.billing.rpc.parts import BillingHandlers
from dunwell_server.billing.service import time_entries, unbilled
from dunwell_server.billing.service.time_entries import ItemResult
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.billing.store.unbilled import UnbilledQuery
from dunwell_server.kernel.errors import DunwellError
from dunwell_server.kernel.ids import Prefix
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.rpc.converters import expected_version, id_value, id_values, optional_date, optional_id
from dunwell_server.rpc.field_masks import apply_mask, checked_paths, top_level

R = TypeVar("R", bound=Message)


class TimeHandlers(BillingHandlers):
    """Time entries, one by one and in bulk, and what of them is not billed."""

    async def CreateTimeEntry(self, request: pb.CreateTimeEntryRequest, context: Any) -> pb.CreateTimeEntryResponse:
        if not request.HasField("time_entry"):
            return await self._create_many(request)
        new = messages.new_time_entry(request.time_entry)

        async def work(uow: UnitOfWork) -> pb.CreateTimeEntryResponse:
            entry = await time_entries.create_time_entry(uow, new)
            return pb.CreateTimeEntryResponse(time_entry=messages.time_entry_message(uow, entry))

        return await self._calls.write(request, pb.CreateTimeEntryResponse, work)

    async def _create_many(self, request: pb.CreateTimeEntryRequest) -> pb.CreateTimeEntryResponse:
        read = [messages.read_time_entry(entry) for entry in request.time_entries]
        new = [entry for entry in read if not isinstance(entry, DunwellError)]

        async def work(uow: UnitOfWork) -> pb.CreateTimeEntryResponse:
            created = iter(await time_entries.create_time_entries(uow, new))
            results = [
                ItemResult(None, error=entry) if isinstance(entry, DunwellError) else next(created) for entry in read
            ]
            return pb.CreateTimeEntryResponse(results=messages.item_messages(uow, results))

        return await self._calls.write(request, pb.CreateTimeEntryResponse, work)

    async def UpdateTimeEntry(self, request: pb.UpdateTimeEntryRequest, context: Any) -> pb.UpdateTimeEntryResponse:
        paths = checked_paths(request.update_mask, time_entry_pb2.TimeEntry)
        entry_id = id_value(Prefix.TIME_ENTRY, request.time_entry.id, "time_entry.id")

        async def work(uow: UnitOfWork) -> pb.UpdateTimeEntryResponse:
            current = await time_entries.get_time_entry(uow, entry_id, lock=True)
            message = messages.time_entry_message(uow, current)
            apply_mask(message, request.time_entry, paths)
            changes = messages.time_entry_changes(message, sorted(top_level(paths)))
            version = expected_version(request.etag)
            changed = await time_entries.update_time_entry(uow, entry_id, changes, expected_version=version)
            return pb.UpdateTimeEntryResponse(time_entry=messages.time_entry_message(uow, changed))

        return await self._calls.write(request, pb.UpdateTimeEntryResponse, work)

    async def ListTimeEntries(self, request: pb.ListTimeEntriesRequest, context: Any) -> pb.ListTimeEntriesResponse:
        query, page = messages.time_entry_query(request), self._pager.read(request)

        async def work(uow: UnitOfWork) -> pb.ListTimeEntriesResponse:
            found = await time_entries.list_time_entries(uow, query, PageRequest(page.limit, page.after))
            shown, token = page.split(found, lambda row: (row.create_time, row.id))
            return pb.ListTimeEntriesResponse(
                time_entries=[messages.time_entry_message(uow, entry) for entry in shown], next_page_token=token
            )

        return await self._calls.read(work)

    async def SubmitTimeEntries(
        self, request: pb.SubmitTimeEntriesRequest, context: Any
    ) -> pb.SubmitTimeEntriesResponse:
        ids = id_values(Prefix.TIME_ENTRY, request.time_entry_ids, "time_entry_ids")
        return await self._each(
            request, pb.SubmitTimeEntriesResponse, lambda uow: time_entries.submit_time_entries(uow, ids)
        )

    async def ApproveTimeEntries(
        self, request: pb.ApproveTimeEntriesRequest, context: Any
    ) -> pb.ApproveTimeEntriesResponse:
        ids = id_values(Prefix.TIME_ENTRY, request.time_entry_ids, "time_entry_ids")
        return await self._each(
            request, pb.ApproveTimeEntriesResponse, lambda uow: time_entries.approve_time_entries(uow, ids)
        )

    async def UnapproveTimeEntries(
        self, request: pb.UnapproveTimeEntriesRequest, context: Any
    ) -> pb.UnapproveTimeEntriesResponse:
        ids = id_values(Prefix.TIME_ENTRY, request.time_entry_ids, "time_entry_ids")
        return await self._each(
            request, pb.UnapproveTimeEntriesResponse, lambda uow: time_entries.unapprove_time_entries(uow, ids)
        )

    async def RejectTimeEntries(
        self, request: pb.RejectTimeEntriesRequest, context: Any
    ) -> pb.RejectTimeEntriesResponse:
        ids = id_values(Prefix.TIME_ENTRY, request.time_entry_ids, "time_entry_ids")
        return await self._each(
            request,
            pb.RejectTimeEntriesResponse,
            lambda uow: time_entries.reject_time_entries(uow, ids, request.reason),
        )

    async def WriteDownTimeEntries(
        self, request: pb.WriteDownTimeEntriesRequest, context: Any
    ) -> pb.WriteDownTimeEntriesResponse:
        minutes = {
            id_value(Prefix.TIME_ENTRY, one.time_entry_id, f"write_downs[{index}].time_entry_id"): one.minutes
            for index, one in enumerate(request.write_downs)
        }
        return await self._each(
            request,
            pb.WriteDownTimeEntriesResponse,
            lambda uow: time_entries.write_down_time_entries(uow, minutes, request.reason),
        )

    async def ListUnbilledWork(self, request: pb.ListUnbilledWorkRequest, context: Any) -> pb.ListUnbilledWorkResponse:
        query = UnbilledQuery(
            optional_id(Prefix.CLIENT, request.client_id, "client_id"),
            optional_id(Prefix.ENGAGEMENT, request.engagement_id, "engagement_id"),
            optional_date(request, "as_of_date"),
        )
        page = self._pager.read(request)

        async def work(uow: UnitOfWork) -> pb.ListUnbilledWorkResponse:
            found, totals = await unbilled.list_unbilled_work(uow, query, PageRequest(page.limit, page.after))
            shown, token = page.split(found, lambda row: (row.client_id, row.engagement_id))
            return pb.ListUnbilledWorkResponse(
                work=[messages.work_message(row) for row in shown],
                next_page_token=token,
                approved_totals=messages.total_messages(totals),
            )

        return await self._calls.read(work)

    async def _each(
        self, request: Message, reply: type[R], verb: Callable[[UnitOfWork], Awaitable[list[ItemResult]]]
    ) -> R:
        """A bulk call: `reply` has a list of `results`."""

        async def work(uow: UnitOfWork) -> R:
            return reply(results=messages.item_messages(uow, await verb(uow)))

        return await self._calls.write(request, reply, work)
