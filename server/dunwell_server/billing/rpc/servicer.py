"""BillingService. A handler parses, calls one use case, and maps what comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from dunwell.v1 import billing_service_pb2 as pb
from dunwell.v1 import run_pb2
from dunwell_server.billing.rpc.clients import ClientHandlers
from dunwell_server.billing.rpc.credit import CreditHandlers
from dunwell_server.billing.rpc.documents import DocumentHandlers
from dunwell_server.billing.rpc.engagements import EngagementHandlers
from dunwell_server.billing.rpc.invoices import InvoiceHandlers
from dunwell_server.billing.rpc.parts import BillingHandlers
from dunwell_server.billing.rpc.renewals import RenewalHandlers
from dunwell_server.billing.rpc.reports import ReportHandlers
from dunwell_server.billing.rpc.runs import all_firms_params, check_reach, planned_invoice, start_package_run
from dunwell_server.billing.rpc.taxes import TaxHandlers
from dunwell_server.billing.rpc.time import TimeHandlers
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.runs import RunKind
from dunwell_server.rpc.current import current_call
from dunwell_server.rpc.run_progress import tail_run


class BillingServicer(
    TaxHandlers,
    ClientHandlers,
    CreditHandlers,
    DocumentHandlers,
    EngagementHandlers,
    InvoiceHandlers,
    RenewalHandlers,
    ReportHandlers,
    TimeHandlers,
    BillingHandlers,
):
    """Every RPC of the service: runs here, the other topics in files of their own."""

    async def GeneratePackageInvoices(
        self, request: pb.GeneratePackageInvoicesRequest, context: Any
    ) -> AsyncIterator[pb.GeneratePackageInvoicesResponse]:
        check_reach(request, current_call())

        async def start(uow: UnitOfWork) -> UUID:
            if not request.all_firms:
                return await start_package_run(uow, request)
            params = all_firms_params(request)
            return await self._all_firms.start(uow, RunKind.PACKAGES, params, dry_run=request.dry_run)

        def tail(call: CallContext, run_id: UUID) -> AsyncIterator[run_pb2.RunProgress]:
            if call.firm_id is None:
                return self._all_firms.tail(call, run_id)
            omit = request.omit_items
            return tail_run(self._calls.database, call, run_id, omit_items=omit, planned=planned_invoice)

        async for progress in self._calls.run(request, start, tail):
            yield pb.GeneratePackageInvoicesResponse(progress=progress)
