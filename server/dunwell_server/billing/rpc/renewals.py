"""The handlers of terms that follow one another."""

from __future__ import annotations

from typing import Any

from dunwell.v1 import billing_service_pb2 as pb
from dunwell_server.billing.renewal import TermChoice
from dunwell_server.billing.rpc import messages
from dunwell_server.billing.rpc.parts import BillingHandlers
from dunwell_server.billing.service import renewals
from dunwell_server.kernel.ids import Prefix
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.rpc.converters import expected_version, id_value, money, optional_date, optional_decimal


class RenewalHandlers(BillingHandlers):
    """Renewing engagements, and letting ended ones go on."""

    async def RenewEngagement(self, request: pb.RenewEngagementRequest, context: Any) -> pb.RenewEngagementResponse:
        engagement_id = id_value(Prefix.ENGAGEMENT, request.engagement_id, "engagement_id")
        choice, version = _choice(request), expected_version(request.etag)

        async def work(uow: UnitOfWork) -> pb.RenewEngagementResponse:
            term, renewed = await renewals.renew_engagement(uow, engagement_id, choice, expected_version=version)
            return pb.RenewEngagementResponse(
                engagement=messages.engagement_message(uow, term), renewed=messages.engagement_message(uow, renewed)
            )

        return await self._calls.write(request, pb.RenewEngagementResponse, work)

    async def ReopenEngagement(self, request: pb.ReopenEngagementRequest, context: Any) -> pb.ReopenEngagementResponse:
        engagement_id = id_value(Prefix.ENGAGEMENT, request.engagement_id, "engagement_id")
        end_date, version = optional_date(request, "end_date"), expected_version(request.etag)

        async def work(uow: UnitOfWork) -> pb.ReopenEngagementResponse:
            reopened = await renewals.reopen_engagement(uow, engagement_id, end_date, expected_version=version)
            return pb.ReopenEngagementResponse(engagement=messages.engagement_message(uow, reopened))

        return await self._calls.write(request, pb.ReopenEngagementResponse, work)


def _choice(request: pb.RenewEngagementRequest) -> TermChoice:
    fee = money(request.fee, "fee") if request.HasField("fee") else None
    return TermChoice(
        months=request.months if request.HasField("months") else None,
        end_date=optional_date(request, "end_date"),
        open_ended=request.open_ended,
        uplift_percent=optional_decimal(request, "uplift_percent"),
        fee_minor=None if fee is None else fee.minor,
        fee_currency=None if fee is None else fee.currency,
        name=request.name or None,
        external_id=request.external_id or None,
    )
