"""BillingService. A handler parses, calls one use case, and maps what comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from dunwell.v1 import billing_service_pb2 as pb
from dunwell.v1 import client_pb2, engagement_pb2, invoice_pb2, run_pb2
from dunwell.v1.billing_service_pb2_grpc import BillingServiceServicer
from dunwell_server.billing.rpc import messages, requests
from dunwell_server.billing.rpc.runs import AllFirms, all_firms_params, check_reach, planned_invoice, start_package_run
from dunwell_server.billing.service import clients, closing, engagements, invoices, preview
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.kernel.ids import Prefix
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.runs import RunKind
from dunwell_server.rpc.calls import Calls
from dunwell_server.rpc.converters import Pager, expected_version, id_value, optional_date
from dunwell_server.rpc.current import current_call
from dunwell_server.rpc.field_masks import apply_mask, checked_paths, top_level
from dunwell_server.rpc.run_progress import tail_run


class BillingServicer(BillingServiceServicer):
    """Clients, engagements and invoices."""

    def __init__(self, calls: Calls, all_firms: AllFirms, page_key: bytes) -> None:
        self._calls = calls
        self._all_firms = all_firms
        self._pager = Pager(page_key)

    # Clients -----------------------------------------------------------------------------------------------------

    async def CreateClient(self, request: pb.CreateClientRequest, context: Any) -> pb.CreateClientResponse:
        new = requests.new_client(request.client)

        async def work(uow: UnitOfWork) -> pb.CreateClientResponse:
            client = await clients.create_client(uow, new)
            return pb.CreateClientResponse(client=messages.client_message(uow, client))

        return await self._calls.write(request, pb.CreateClientResponse, work)

    async def GetClient(self, request: pb.GetClientRequest, context: Any) -> pb.GetClientResponse:
        client_id = id_value(Prefix.CLIENT, request.client_id, "client_id")

        async def work(uow: UnitOfWork) -> pb.GetClientResponse:
            client = await clients.get_client(uow, client_id)
            return pb.GetClientResponse(client=await messages.present_client(uow, client))

        return await self._calls.read(work)

    async def UpdateClient(self, request: pb.UpdateClientRequest, context: Any) -> pb.UpdateClientResponse:
        paths = checked_paths(request.update_mask, client_pb2.Client)
        client_id = id_value(Prefix.CLIENT, request.client.id, "client.id")

        async def work(uow: UnitOfWork) -> pb.UpdateClientResponse:
            message = messages.client_message(uow, await clients.get_client(uow, client_id, lock=True))
            apply_mask(message, request.client, paths)
            changes = requests.client_changes(message, sorted(top_level(paths)))
            client = await clients.update_client(
                uow, client_id, changes, expected_version=expected_version(request.etag)
            )
            return pb.UpdateClientResponse(client=await messages.present_client(uow, client))

        return await self._calls.write(request, pb.UpdateClientResponse, work)

    async def ListClients(self, request: pb.ListClientsRequest, context: Any) -> pb.ListClientsResponse:
        query, page = requests.client_query(request), self._pager.read(request)
        by_name = query.order == "NAME_ASC"

        async def work(uow: UnitOfWork) -> pb.ListClientsResponse:
            found = await clients.list_clients(uow, query, PageRequest(page.limit, page.after))
            shown, token = page.split(found, lambda row: (row.name if by_name else row.create_time, row.id))
            return pb.ListClientsResponse(
                clients=[messages.client_message(uow, client) for client in shown], next_page_token=token
            )

        return await self._calls.read(work)

    # Engagements -------------------------------------------------------------------------------------------------

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

        return await self._calls.read(work)

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

        return await self._calls.read(work)

    async def EndEngagement(self, request: pb.EndEngagementRequest, context: Any) -> pb.EndEngagementResponse:
        engagement_id = id_value(Prefix.ENGAGEMENT, request.engagement_id, "engagement_id")
        end_date, version = optional_date(request, "end_date"), expected_version(request.etag)

        async def work(uow: UnitOfWork) -> pb.EndEngagementResponse:
            ended = await engagements.end_engagement(uow, engagement_id, end_date, expected_version=version)
            return pb.EndEngagementResponse(engagement=messages.engagement_message(uow, ended))

        return await self._calls.write(request, pb.EndEngagementResponse, work)

    # Invoices ----------------------------------------------------------------------------------------------------

    async def CreateInvoice(self, request: pb.CreateInvoiceRequest, context: Any) -> pb.CreateInvoiceResponse:
        new = requests.new_invoice(request.invoice)

        async def work(uow: UnitOfWork) -> pb.CreateInvoiceResponse:
            invoice = await invoices.create_invoice(uow, new, finalize=request.finalize)
            return pb.CreateInvoiceResponse(invoice=messages.invoice_message(uow, invoice))

        return await self._calls.write(request, pb.CreateInvoiceResponse, work)

    async def GetInvoice(self, request: pb.GetInvoiceRequest, context: Any) -> pb.GetInvoiceResponse:
        invoice_id = id_value(Prefix.INVOICE, request.invoice_id, "invoice_id")

        async def work(uow: UnitOfWork) -> pb.GetInvoiceResponse:
            invoice = await invoices.get_invoice(uow, invoice_id)
            return pb.GetInvoiceResponse(invoice=messages.invoice_message(uow, invoice))

        return await self._calls.read(work)

    async def ListInvoices(self, request: pb.ListInvoicesRequest, context: Any) -> pb.ListInvoicesResponse:
        query, page = requests.invoice_query(request), self._pager.read(request)

        async def work(uow: UnitOfWork) -> pb.ListInvoicesResponse:
            found = await invoices.list_invoices(uow, query, PageRequest(page.limit, page.after))
            shown, token = page.split(found, lambda row: (row.create_time, row.id))
            return pb.ListInvoicesResponse(
                invoices=[messages.invoice_message(uow, invoice) for invoice in shown], next_page_token=token
            )

        return await self._calls.read(work)

    async def UpdateInvoice(self, request: pb.UpdateInvoiceRequest, context: Any) -> pb.UpdateInvoiceResponse:
        paths = checked_paths(request.update_mask, invoice_pb2.Invoice)
        invoice_id = id_value(Prefix.INVOICE, request.invoice.id, "invoice.id")

        async def work(uow: UnitOfWork) -> pb.UpdateInvoiceResponse:
            invoice = await invoices.locked_invoice(uow, invoice_id, expected_version(request.etag))
            message = messages.invoice_message(uow, invoice)
            apply_mask(message, request.invoice, paths)
            changes = requests.invoice_changes(message, sorted(top_level(paths)))
            changed = await invoices.update_invoice(uow, invoice_id, changes)
            return pb.UpdateInvoiceResponse(invoice=messages.invoice_message(uow, changed))

        return await self._calls.write(request, pb.UpdateInvoiceResponse, work)

    async def DeleteInvoice(self, request: pb.DeleteInvoiceRequest, context: Any) -> pb.DeleteInvoiceResponse:
        invoice_id = id_value(Prefix.INVOICE, request.invoice_id, "invoice_id")

        async def work(uow: UnitOfWork) -> pb.DeleteInvoiceResponse:
            await invoices.delete_invoice(uow, invoice_id, expected_version=expected_version(request.etag))
            return pb.DeleteInvoiceResponse()

        return await self._calls.write(request, pb.DeleteInvoiceResponse, work)

    async def FinalizeInvoice(self, request: pb.FinalizeInvoiceRequest, context: Any) -> pb.FinalizeInvoiceResponse:
        invoice_id = id_value(Prefix.INVOICE, request.invoice_id, "invoice_id")

        async def work(uow: UnitOfWork) -> pb.FinalizeInvoiceResponse:
            version = expected_version(request.etag)
            invoice = await invoices.finalize_invoice(uow, invoice_id, expected_version=version)
            return pb.FinalizeInvoiceResponse(invoice=messages.invoice_message(uow, invoice))

        return await self._calls.write(request, pb.FinalizeInvoiceResponse, work)

    async def VoidInvoice(self, request: pb.VoidInvoiceRequest, context: Any) -> pb.VoidInvoiceResponse:
        invoice_id = id_value(Prefix.INVOICE, request.invoice_id, "invoice_id")

        async def work(uow: UnitOfWork) -> pb.VoidInvoiceResponse:
            version = expected_version(request.etag)
            invoice = await closing.void_invoice(uow, invoice_id, reason=request.reason, expected_version=version)
            return pb.VoidInvoiceResponse(invoice=messages.invoice_message(uow, invoice))

        return await self._calls.write(request, pb.VoidInvoiceResponse, work)

    async def WriteOffInvoice(self, request: pb.WriteOffInvoiceRequest, context: Any) -> pb.WriteOffInvoiceResponse:
        invoice_id = id_value(Prefix.INVOICE, request.invoice_id, "invoice_id")

        async def work(uow: UnitOfWork) -> pb.WriteOffInvoiceResponse:
            version = expected_version(request.etag)
            invoice = await closing.write_off_invoice(uow, invoice_id, reason=request.reason, expected_version=version)
            return pb.WriteOffInvoiceResponse(invoice=messages.invoice_message(uow, invoice))

        return await self._calls.write(request, pb.WriteOffInvoiceResponse, work)

    async def PreviewInvoice(self, request: pb.PreviewInvoiceRequest, context: Any) -> pb.PreviewInvoiceResponse:
        async def work(uow: UnitOfWork) -> pb.PreviewInvoiceResponse:
            match request.WhichOneof("source"):
                case "invoice":
                    shown = await preview.preview_new(uow, requests.new_invoice(request.invoice))
                case "invoice_id":
                    draft_id = id_value(Prefix.INVOICE, request.invoice_id, "invoice_id")
                    shown = await preview.preview_draft(uow, draft_id)
                case _:
                    return await _preview_engagement(uow, request.engagement)
            return pb.PreviewInvoiceResponse(invoice=messages.invoice_message(uow, shown))

        return await self._calls.read(work)

    # Runs --------------------------------------------------------------------------------------------------------

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


async def _preview_engagement(uow: UnitOfWork, source: pb.EngagementPreview) -> pb.PreviewInvoiceResponse:
    engagement_id = id_value(Prefix.ENGAGEMENT, source.engagement_id, "engagement.engagement_id")
    as_of = optional_date(source, "as_of_date", "engagement.as_of_date")
    shown = await preview.preview_engagement(uow, engagement_id, as_of)
    if shown is None:
        return pb.PreviewInvoiceResponse(skip_reason=run_pb2.RUN_ITEM_REASON_NOTHING_TO_BILL)
    return pb.PreviewInvoiceResponse(invoice=messages.invoice_message(uow, shown))
