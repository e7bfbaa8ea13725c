"""The handlers of invoices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dunwell.v1 import billing_service_pb2 as pb
from dunwell.v1 import invoice_pb2, run_pb2
from dunwell_server.billing.rpc import messages, requests
from dunwell_server.billing.rpc.parts import BillingHandlers
from dunwell_server.billing.rpc.time_messages import time_sources
from dunwell_server.billing.service import closing, invoices, preview
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.kernel.ids import Prefix
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.rpc.converters import expected_version, id_value, optional_date
from dunwell_server.rpc.field_masks import apply_mask, checked_paths, top_level


class InvoiceHandlers(BillingHandlers):
    """Invoices, from draft to void."""

    async def CreateInvoice(self, request: pb.CreateInvoiceRequest, context: Any) -> pb.CreateInvoiceResponse:
        new = replace(requests.new_invoice(request.invoice), time=time_sources(request.time))

        async def work(uow: UnitOfWork) -> pb.CreateInvoiceResponse:
            invoice = await invoices.create_invoice(uow, new, finalize=request.finalize)
            return pb.CreateInvoiceResponse(invoice=messages.invoice_message(uow, invoice))

        return await self._calls.write(request, pb.CreateInvoiceResponse, work)

    async def GetInvoice(self, request: pb.GetInvoiceRequest, context: Any) -> pb.GetInvoiceResponse:
        invoice_id = id_value(Prefix.INVOICE, request.invoice_id, "invoice_id")

        async def work(uow: UnitOfWork) -> pb.GetInvoiceResponse:
            invoice = await invoices.get_invoice(uow, invoice_id)
            return pb.GetInvoiceResponse(invoice=messages.invoice_message(uow, invoice))

        return await self._calls.read_once(work)

    async def ListInvoices(self, request: pb.ListInvoicesRequest, context: Any) -> pb.ListInvoicesResponse:
        query, page = requests.invoice_query(request), self._pager.read(request)

        async def work(uow: UnitOfWork) -> pb.ListInvoicesResponse:
            found = await invoices.list_invoices(uow, query, PageRequest(page.limit, page.after))
            shown, token = page.split(found, lambda row: (row.create_time, row.id))
            return pb.ListInvoicesResponse(
                invoices=[messages.invoice_message(uow, invoice) for invoice in shown], next_page_token=token
            )

        return await self._calls.read_once(work)

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
                    new = replace(requests.new_invoice(request.invoice), time=time_sources(request.time))
                    shown = await preview.preview_new(uow, new)
                case "invoice_id":
                    draft_id = id_value(Prefix.INVOICE, request.invoice_id, "invoice_id")
                    shown = await preview.preview_draft(uow, draft_id)
                case _:
                    return await _preview_engagement(uow, request.engagement)
            return pb.PreviewInvoiceResponse(invoice=messages.invoice_message(uow, shown))

        return await self._calls.read(work)


async def _preview_engagement(uow: UnitOfWork, source: pb.EngagementPreview) -> pb.PreviewInvoiceResponse:
    engagement_id = id_value(Prefix.ENGAGEMENT, source.engagement_id, "engagement.engagement_id")
    as_of = optional_date(source, "as_of_date", "engagement.as_of_date")
    shown = await preview.preview_engagement(uow, engagement_id, as_of)
    if shown is None:
        return pb.PreviewInvoiceResponse(skip_reason=run_pb2.RUN_ITEM_REASON_NOTHING_TO_BILL)
    return pb.PreviewInvoiceResponse(invoice=messages.invoice_message(uow, shown))
