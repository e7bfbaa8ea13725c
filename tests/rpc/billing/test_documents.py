"""RenderDocument through a real channel: a header, then bytes in chunks."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import protovalidate
import pytest
from grpc import StatusCode

from dunwell.v1 import billing_service_pb2 as pb
from dunwell.v1 import document_pb2, firm_pb2
from dunwell_server.kernel.ids import Prefix
from dunwell_server.platform.context import Role
from tests import support
from tests.pdf_text import Pdf
from tests.rpc.billing.conftest import Served
from tests.rpc.billing.requests import day, line, new_client, new_invoice, unknown
from tests.unit.billing.documents.samples import png

HTML = document_pb2.DOCUMENT_FORMAT_HTML


async def render(
    served: Served, role: Role = Role.READER, **fields: Any
) -> tuple[document_pb2.DocumentHeader, list[bytes]]:
    """The header and the chunks of a document."""
    parts = [part async for part in served.start("RenderDocument", pb.RenderDocumentRequest(**fields), role)]
    assert [part.WhichOneof("part") for part in parts] == ["header", *["chunk"] * (len(parts) - 1)]
    return parts[0].header, [part.chunk for part in parts[1:]]


async def test_an_invoice_comes_as_a_header_and_its_bytes(served: Served) -> None:
    client = await new_client(served, locale="de-DE")
    invoice = await new_invoice(served, client.id, line(price="1234.5"))
    header, chunks = await render(served, invoice_id=invoice.id)
    content = b"".join(chunks)
    assert (header.kind, header.format) == (document_pb2.DOCUMENT_KIND_INVOICE, document_pb2.DOCUMENT_FORMAT_PDF)
    assert (header.content_type, header.file_name) == ("application/pdf", f"invoice-{invoice.number}.pdf")
    assert (header.sha256, header.size_bytes) == (sha256(content).hexdigest(), len(content))
    assert (header.locale, header.kept) == ("de-DE", True)
    assert header.create_time.ToJsonString() == "2026-03-10T12:00:00Z"
    assert "1.234,50" in Pdf(content).text()
    again, same = await render(served, invoice_id=invoice.id, format=document_pb2.DOCUMENT_FORMAT_PDF)
    assert (again, b"".join(same)) == (header, content)


async def test_html_in_another_language(served: Served) -> None:
    invoice = await new_invoice(served, (await new_client(served)).id)
    header, chunks = await render(served, invoice_id=invoice.id, format=HTML, locale="ja-JP")
    assert (header.content_type, header.locale) == ("text/html; charset=utf-8", "ja-JP")
    assert "請求書" in b"".join(chunks).decode()


async def test_chunks_are_at_most_64_kibibytes(served: Served) -> None:
    client = await new_client(served)
    invoice = await new_invoice(served, client.id, *(line(description="y" * 500) for _ in range(400)))
    header, chunks = await render(served, invoice_id=invoice.id, format=HTML)
    assert header.size_bytes > 3 * 65_536
    assert {len(chunk) for chunk in chunks[:-1]} == {65_536}
    assert 0 < len(chunks[-1]) <= 65_536
    assert sum(map(len, chunks)) == header.size_bytes


async def test_a_draft_is_not_kept_nor_is_an_invoice_as_it_stands(served: Served) -> None:
    client = await new_client(served)
    draft = await new_invoice(served, client.id, finalize=False)
    header, chunks = await render(served, invoice_id=draft.id)
    assert not header.kept
    assert "Draft" in Pdf(b"".join(chunks)).text()
    sent = await new_invoice(served, client.id)
    assert not (await render(served, invoice_id=sent.id, current=True))[0].kept


async def test_a_statement_of_a_client(served: Served) -> None:
    client = await new_client(served)
    invoice = await new_invoice(served, client.id)
    asked = pb.StatementRange(client_id=client.id, start_date=day(2026, 3, 1), end_date=day(2026, 4, 1))
    header, chunks = await render(served, statement=asked, format=HTML)
    assert header.kind == document_pb2.DOCUMENT_KIND_STATEMENT
    assert header.file_name == f"statement-{client.id}-20260301-20260401.html"
    assert f"Invoice {invoice.number}" in b"".join(chunks).decode()
    turned = pb.StatementRange(client_id=client.id, start_date=day(2026, 4, 1), end_date=day(2026, 3, 1))
    refused = await served.refused("RenderDocument", pb.RenderDocumentRequest(statement=turned))
    assert (refused.reason, refused.code) == ("PERIOD_INVALID", StatusCode.INVALID_ARGUMENT)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "FIELD_INVALID"),
        ({"invoice_id": "inv_x"}, "FIELD_INVALID"),
        ({"invoice_id": unknown(Prefix.INVOICE)}, "RESOURCE_NOT_FOUND"),
        ({"receipt_payment_id": unknown(Prefix.PAYMENT)}, "RESOURCE_NOT_FOUND"),
        ({"credit_note_id": unknown(Prefix.CREDIT_NOTE)}, "RESOURCE_NOT_FOUND"),
        ({"receipt_payment_id": unknown(Prefix.PAYMENT), "current": True}, "FIELD_INVALID"),
        ({"invoice_id": unknown(Prefix.INVOICE), "locale": "no locale"}, "FIELD_INVALID"),
        ({"invoice_id": unknown(Prefix.INVOICE), "format": 9}, "FIELD_INVALID"),
        ({"statement": pb.StatementRange(client_id=unknown(Prefix.CLIENT))}, "FIELD_INVALID"),
    ],
)
async def test_what_cannot_be_rendered_is_refused(served: Served, fields: dict[str, Any], reason: str) -> None:
    refused = await served.refused("RenderDocument", pb.RenderDocumentRequest(**fields))
    assert refused.reason == reason


async def test_a_statement_in_no_currency_is_refused_naming_the_field(served: Served) -> None:
    client = await new_client(served)
    asked = pb.StatementRange(
        client_id=client.id, start_date=day(2026, 3, 1), end_date=day(2026, 4, 1), currency_code="ZZZ"
    )
    refused = await served.refused("RenderDocument", pb.RenderDocumentRequest(statement=asked))
    assert (refused.reason, refused.fields, refused.metadata) == (
        "UNKNOWN_CURRENCY",
        ["statement.currency_code"],
        {"currency_code": "ZZZ"},
    )


async def test_another_firms_invoice_is_not_found(served: Served) -> None:
    invoice = await new_invoice(served, (await new_client(served)).id)
    other = (await support.add_firm(served.db)).firm_id
    request = pb.RenderDocumentRequest(invoice_id=invoice.id)
    assert (await served.refused("RenderDocument", request, firm=other)).reason == "RESOURCE_NOT_FOUND"


def test_a_logo_is_a_picture() -> None:
    """The rule that is written in the contract holds for bytes."""
    for good in (b"", png(2, 2, (0, 0, 0)), b"\xff\xd8\xff\xe0"):
        protovalidate.validate(firm_pb2.Branding(logo_image=good))
    for bad in (b"<svg/>", b"GIF89a", b"\x89PN", b"\xff\xd8\xff" + bytes(65_536)):
        with pytest.raises(protovalidate.ValidationError):
            protovalidate.validate(firm_pb2.Branding(logo_image=bad))
