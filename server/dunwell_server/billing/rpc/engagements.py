"""The handlers of engagements."""

from __future__ import annotations

from typing import Any

from dunwell.v1 import billing_service_pb2 as pb
from dunwell.v1 import engagement_pb2
from dunwell_server.billing.rpc import messages, requests
from dunwell_server.billing.rpc.parts import BillingHandlers
from dunwell_server.billing.service import engagements
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.kernel.ids import Prefix
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.rpc.converters import expected_version, id_value, optional_date
from dunwell_server.rpc.field_masks import apply_mask, checked_paths


class EngagementHandlers(BillingHandlers):
    """Engagements."""

    async def CreateEngagement(self, request: pb.CreateEngagementRequest, context: Any) -> pb.CreateEngagementResponse:
        new = requests.new_engagement(request.engagement)

        async def work(uow: UnitOfWork) -> pb.CreateEngagementResponse:
            engagement = await engagements.create_engagement(uow, new)
            return pb.CreateEngagementResponse(engagement=messages.engagement_message(uow, engagement))

        return await self._calls.write(request, pb.CreateEngagementResponse, work)

    async def GetEngagement(self, request: pb.GetEngagementRequest, context: Any) -> pb.GetEngagementResponse:
        engagement_id = id_value(Prefix.ENGAGEMENT, request.engagement_id, "engagement_id")

        async def work(uow: UnitOfWork) -> pb.GetEngagementResponse:
            engagement = await engagements.get_engagement(uow, engagement_id)
            return pb.GetEngagementResponse(engagement=messages.engagement_message(uow, engagement))

        return await self._calls.read_once(work)

    async def UpdateEngagement(self, request: pb.UpdateEngagementRequest, context: Any) -> pb.UpdateEngagementResponse:
        paths = checked_paths(request.update_mask, engagement_pb2.Engagement)
        requests.refuse_whole_package(paths)
        engagement_id = id_value(Prefix.ENGAGEMENT, request.engagement.id, "engagement.id")

        async def work(uow: UnitOfWork) -> pb.UpdateEngagementResponse:
            current = await engagements.get_engagement(uow, engagement_id, lock=True)
            message = messages.engagement_message(uow, current)
            apply_mask(message, request.engagement, paths)
            changes, version = requests.engagement_changes(message, paths), expected_version(request.etag)
            changed = await engagements.update_engagement(uow, engagement_id, changes, expected_version=version)
            return pb.UpdateEngagementResponse(engagement=messages.engagement_message(uow, changed))

        return await self._calls.write(request, pb.UpdateEngagementResponse, work)

    async def ListEngagements(self, request: pb.ListEngagementsRequest, context: Any) -> pb.ListEngagementsResponse:
        query, page = requests.engagement_query(request), self._pager.read(request)

        async def work(uow: UnitOfWork) -> pb.ListEngagementsResponse:
            found = await engagements.list_engagements(uow, query, PageRequest(page.limit, page.after))
            shown, token = page.split(found, lambda row: (row.create_time, row.id))
            return pb.ListEngagementsResponse(
                engagements=[messages.engagement_message(uow, engagement) for engagement in shown],
                next_page_token=token,
            )

        return await self._calls.read_once(work)

    async def EndEngagement(self, request: pb.EndEngagementRequest, context: Any) -> pb.EndEngagementResponse:
        engagement_id = id_value(Prefix.ENGAGEMENT, request.engagement_id, "engagement_id")
        end_date, version = optional_date(request, "end_date"), expected_version(request.etag)

        async def work(uow: UnitOfWork) -> pb.EndEngagementResponse:
            ended = await engagements.end_engagement(uow, engagement_id, end_date, expected_version=version)
            return pb.EndEngagementResponse(engagement=messages.engagement_message(uow, ended))

        return await self._calls.write(request, pb.EndEngagementResponse, work)
