"""The handler of documents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from dunwell.v1 import billing_service_pb2 as pb
from dunwell.v1 import document_pb2
from dunwell_server.billing.documents.data import Kind
from dunwell_server.billing.jobs.documents import Rendered, render
from dunwell_server.billing.rpc.parts import BillingHandlers
from dunwell_server.billing.service.documents import Form, Wanted
from dunwell_server.kernel.errors import field_invalid
from dunwell_server.kernel.ids import Prefix
from dunwell_server.rpc.converters import civil_date, id_value, optional_currency, timestamp
from dunwell_server.rpc.current import current_call

CHUNK: Final = 65_536
"""Most bytes of a document in one message."""
_FORMS: Final = {
    document_pb2.DOCUMENT_FORMAT_UNSPECIFIED: Form.PDF,
    document_pb2.DOCUMENT_FORMAT_PDF: Form.PDF,
    document_pb2.DOCUMENT_FORMAT_HTML: Form.HTML,
}
_OBJECTS: Final = {
    "invoice_id": (Kind.INVOICE, Prefix.INVOICE),
    "receipt_payment_id": (Kind.RECEIPT, Prefix.PAYMENT),
    "credit_note_id": (Kind.CREDIT_NOTE, Prefix.CREDIT_NOTE),
}


class DocumentHandlers(BillingHandlers):
    """Invoices, receipts, credit notes and statements as PDF and HTML."""

    async def RenderDocument(
        self, request: pb.RenderDocumentRequest, context: Any
    ) -> AsyncIterator[pb.RenderDocumentResponse]:
        rendered = await render(self._calls.database, current_call(), wanted_of(request))
        yield pb.RenderDocumentResponse(header=_header(rendered))
        for start in range(0, len(rendered.content), CHUNK):
            yield pb.RenderDocumentResponse(chunk=rendered.content[start : start + CHUNK])


def wanted_of(request: pb.RenderDocumentRequest) -> Wanted:
    """The document that the request asks for. FIELD_INVALID, INVALID_ID."""
    form, locale = _FORMS[request.format], request.locale or None
    chosen = request.WhichOneof("document")
    if request.current and chosen != "invoice_id":
        raise field_invalid("current", "only of an invoice there is a document as it stands now")
    if chosen == "statement":
        statement = request.statement
        return Wanted(
            Kind.STATEMENT,
            id_value(Prefix.CLIENT, statement.client_id, "statement.client_id"),
            form,
            locale,
            start=civil_date(statement.start_date, "statement.start_date"),
            end=civil_date(statement.end_date, "statement.end_date"),
            currency_code=optional_currency(statement.currency_code, "statement.currency_code"),
        )
    kind, prefix = _OBJECTS[chosen or "invoice_id"]
    return Wanted(
        kind,
        id_value(prefix, getattr(request, chosen or "invoice_id"), chosen or "invoice_id"),
        form,
        locale,
        request.current,
    )


def _header(rendered: Rendered) -> document_pb2.DocumentHeader:
    return document_pb2.DocumentHeader(
        kind=document_pb2.DocumentKind.Value(f"DOCUMENT_KIND_{rendered.kind}"),
        format=document_pb2.DocumentFormat.Value(f"DOCUMENT_FORMAT_{rendered.form}"),
        content_type=rendered.content_type,
        file_name=rendered.file_name,
        sha256=rendered.digest.hex(),
        size_bytes=len(rendered.content),
        locale=rendered.locale,
        kept=rendered.kept,
        create_time=timestamp(rendered.firm_time),
    )
