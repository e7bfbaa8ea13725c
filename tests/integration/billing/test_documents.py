"""Documents of a real book: what they show, what is kept of them, and whose they are."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any
from uuid import UUID

import psycopg
import pytest

from dunwell_server.billing.documents.data import Kind
from dunwell_server.billing.jobs.documents import Rendered, render
from dunwell_server.billing.lines import LineInput
from dunwell_server.billing.model import Client, Invoice, TaxStatus
from dunwell_server.billing.model.credit import CreditKind
from dunwell_server.billing.model.credit_notes import Excess
from dunwell_server.billing.service import clients, closing, credit, credit_notes, invoices, tax_rates
from dunwell_server.billing.service.documents import Form, Wanted
from dunwell_server.billing.store.tax_rates import NewTaxRate
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import uuid7
from dunwell_server.kernel.money import Money
from dunwell_server.payments.model import Allocation, Payment
from dunwell_server.payments.service.manual import record_manual
from dunwell_server.platform.database import Database
from tests import support
from tests.integration.billing.book import Book
from tests.integration.billing.conftest import MakeBook
from tests.integration.billing.timebook import JANUARY, approved, bill, hourly, worked
from tests.pdf_text import Pdf
from tests.unit.billing.documents.samples import png


async def rendered(book: Book, kind: Kind, object_id: UUID, form: Form = Form.HTML, **more: Any) -> Rendered:
    return await render(book.db, book.context, Wanted(kind, object_id, form, **more))


async def page(book: Book, invoice: Invoice, **more: Any) -> str:
    return (await rendered(book, Kind.INVOICE, invoice.id, **more)).content.decode()


async def statement(book: Book, client: Client, start: date, end: date, **more: Any) -> str:
    wanted = Wanted(Kind.STATEMENT, client.id, Form.HTML, start=start, end=end, **more)
    return (await render(book.db, book.context, wanted)).content.decode()


async def test_what_was_sent_is_kept_byte_for_byte(book: Book) -> None:
    client = await book.client(name="Ada Byron", locale="de-DE")
    invoice = await book.sent(client, "100")
    first = {form: await rendered(book, Kind.INVOICE, invoice.id, form) for form in Form}
    assert "Rechnung" in Pdf(first[Form.PDF].content).text()
    assert all(each.kept for each in first.values())
    await book.do(clients.update_client, client.id, {"name": "Countess Lovelace"})
    await book.pay(invoice, 4_000)
    await book.set_clock(datetime(2026, 5, 1, tzinfo=UTC))
    for form in Form:
        again = await rendered(book, Kind.INVOICE, invoice.id, form)
        assert again == first[form]
    rows = await book.sql("SELECT kind, edition, format, locale, content, content_hash FROM document ORDER BY format")
    assert [(row["kind"], row["edition"], row["format"], row["locale"]) for row in rows] == [
        ("INVOICE", "ISSUED", "HTML", "de-DE"), ("INVOICE", "ISSUED", "PDF", "de-DE"),
    ]  # fmt: skip
    assert all(row["content_hash"] == sha256(row["content"]).digest() for row in rows)
    kept = await book.sql("SELECT object_id FROM audit_event WHERE action = 'document_kept'")
    assert len(kept) == 2


async def test_each_language_is_kept_by_itself_and_the_request_decides(book: Book) -> None:
    client = await book.client(locale="fr-FR")
    invoice = await book.sent(client, "1234.5")
    assert "Facture" in await page(book, invoice)
    assert "請求書" in await page(book, invoice, locale="ja-JP")
    assert "Facture" in await page(book, invoice, locale="nl-NL")  # no words: the client's comes next
    assert [row["locale"] for row in await book.sql("SELECT locale FROM document ORDER BY 1")] == ["fr-FR", "ja-JP"]


async def test_without_a_language_of_its_own_a_client_gets_the_firms(make_book: MakeBook) -> None:
    book = await make_book(locale="es-ES")
    assert "Factura" in await page(book, await book.sent(await book.client(), "10"))


async def test_two_first_renderings_are_one(book: Book) -> None:
    invoice = await book.sent(await book.client(), "100")
    found = await asyncio.gather(*(rendered(book, Kind.INVOICE, invoice.id, Form.PDF) for _ in range(6)))
    assert len({each.content for each in found}) == 1
    assert await book.sql("SELECT count(*) AS n FROM document") == [{"n": 1}]
    assert len(await book.sql("SELECT 1 FROM audit_event WHERE action = 'document_kept'")) == 1


async def test_a_draft_is_marked_and_not_kept(book: Book) -> None:
    draft = await book.draft(await book.client(), "100")
    found = await rendered(book, Kind.INVOICE, draft.id)
    assert not found.kept
    assert ">Draft<" in found.content.decode()
    assert found.file_name.startswith("invoice-inv_")
    await book.do(invoices.finalize_invoice, draft.id)
    assert ">Draft<" not in await page(book, draft)
    assert await book.sql("SELECT count(*) AS n FROM document") == [{"n": 1}]


async def test_a_void_invoice_says_so_and_what_was_sent_stays(book: Book) -> None:
    invoice = await book.sent(await book.client(), "100")
    sent = await rendered(book, Kind.INVOICE, invoice.id)
    await book.do(closing.void_invoice, invoice.id)
    void = await rendered(book, Kind.INVOICE, invoice.id)
    assert ">Void<" in void.content.decode()
    assert void == await rendered(book, Kind.INVOICE, invoice.id)
    rows = await book.sql("SELECT edition, content FROM document ORDER BY edition")
    assert [(row["edition"], bytes(row["content"])) for row in rows] == [
        ("ISSUED", sent.content),
        ("VOID", void.content),
    ]


async def test_as_it_stands_an_invoice_tells_what_was_paid(book: Book) -> None:
    client = await book.client()
    await book.do(credit.grant, credit.Grant(client.id, CreditKind.GOODWILL, Money("USD", 1_000)))
    invoice = await book.sent(client, "100")
    await book.pay(invoice, 4_000)
    now = await page(book, invoice, current=True)
    for text in ("Credit applied", "-$10.00", "Paid", "-$40.00", "Amount due", "$50.00"):
        assert text in now
    issued = await page(book, invoice)
    assert "$90.00" in issued
    assert "-$40.00" not in issued
    assert [row["edition"] for row in await book.sql("SELECT edition FROM document")] == ["ISSUED"]


async def test_taxes_and_discounts_are_on_it(book: Book) -> None:
    await book.do(tax_rates.create_tax_rate, new_rate())
    client = await book.client(address={"lines": ["1 Quay"], "city": "Galway", "country_code": "IE"})
    shown = await page(book, await book.sent(client, "100"))
    for text in ("VAT 23%", "Tax summary", "$23.00", "$123.00"):
        assert text in shown


def new_rate() -> NewTaxRate:
    return NewTaxRate(name="VAT", percentage=Decimal(23), country_code="IE")


async def test_the_hours_behind_an_invoice_are_annexed(book: Book) -> None:
    client = await book.client()
    engagement = await hourly(book, client)
    await approved(book, worked(engagement, JANUARY, 90, description="Review of leases", role="Partner"))
    invoice = await bill(book, client)
    shown = await page(book, invoice)
    for text in (
        f"Time annex to invoice {invoice.number}",
        "Ada (Partner)",
        "Review of leases",
        "1.50",
        "60.00",
        "1.5 h",
    ):
        assert text in shown, text


async def test_an_open_link_is_printed_until_it_ends(book: Book) -> None:
    invoice = await book.sent(await book.client(), "100")
    await add_link(book, invoice, "https://pay.test/abc", datetime(2026, 3, 11, 12, tzinfo=UTC))
    assert 'href="https://pay.test/abc"' in await page(book, invoice, current=True)
    await book.set_clock(datetime(2026, 3, 12, tzinfo=UTC))
    assert "pay.test" not in await page(book, invoice, current=True)


async def test_what_is_no_web_address_becomes_no_link(book: Book) -> None:
    invoice = await book.sent(await book.client(), "100")
    await add_link(book, invoice, "javascript:alert(1)", None)
    assert "javascript" not in await page(book, invoice)


async def add_link(book: Book, invoice: Invoice, url: str, until: datetime | None) -> None:
    """A hosted link of the invoice, as payments keep it."""
    payment_id, session_id, account = uuid7(), uuid7(), uuid7()
    await book.sql(
        "INSERT INTO payment (firm_id, id, client_id, invoice_id, kind, state, currency_code, amount_minor, provider, firm_time)"
        " VALUES (current_setting('app.firm_id')::uuid, %s, %s, %s, 'CHECKOUT', 'PROCESSING', 'USD', %s, 'sandbox', now())",
        payment_id, invoice.client_id, invoice.id, invoice.total,
    )  # fmt: skip
    await book.sql(
        "INSERT INTO checkout_session (firm_id, id, client_id, purpose, channel, state, invoice_id, payment_id, provider, account_id, mode,"
        " idempotency_key, url, success_url, expire_time, firm_time) VALUES (current_setting('app.firm_id')::uuid, %s, %s, 'INVOICE', 'LINK',"
        " 'CREATING', %s, %s, 'sandbox', %s, 'TEST', 'k', %s, 'https://x.test', %s, now())",
        session_id, invoice.client_id, invoice.id, payment_id, account, url, until,
    )  # fmt: skip
    await book.sql("UPDATE checkout_session SET state = 'OPEN' WHERE id = %s", session_id)


async def test_a_credit_note_is_kept_too(book: Book) -> None:
    await book.do(tax_rates.create_tax_rate, new_rate())
    client = await book.client(address={"country_code": "IE"}, locale="en-GB")
    invoice = await book.sent(client, "100", "50")
    order = credit_notes.NoteOrder(invoice.id, lines=(credit_notes.LineOrder(2),), reason="Not delivered")
    note, _ = await book.do(credit_notes.create_credit_note, order)
    found = await rendered(book, Kind.CREDIT_NOTE, note.note.id)
    shown = found.content.decode()
    for text in (
        note.number,
        invoice.number or "?",
        "Item 2",
        "50.00",
        "VAT 23%",
        "US$11.50",
        "US$61.50",
        "Reason: Not delivered",
    ):
        assert text in shown, text
    assert "Item 1" not in shown
    assert found.kept
    assert found.file_name == f"credit-note-{note.number}.html"
    await book.do(clients.update_client, client.id, {"name": "Somebody else"})
    assert await rendered(book, Kind.CREDIT_NOTE, note.note.id) == found


async def test_a_credit_note_of_the_reverse_charge_says_so_too(book: Book) -> None:
    client = await book.client(
        address={"country_code": "DE"}, tax_id="DE136695976", tax_status=TaxStatus.REVERSE_CHARGE, locale="de-DE"
    )
    plain, charged = await book.sent(await book.client(), "100"), await book.sent(client, "100")
    pages = {}
    for invoice in (plain, charged):
        note, _ = await book.do(credit_notes.create_credit_note, credit_notes.NoteOrder(invoice.id))
        for form in Form:
            content = (await rendered(book, Kind.CREDIT_NOTE, note.note.id, form, locale="de-DE")).content
            pages[invoice.id, form] = Pdf(content).text() if form is Form.PDF else content.decode()
    for form in Form:
        assert "Steuerschuldnerschaft des Leistungsempfängers" in pages[charged.id, form]
        assert "Steuerschuldnerschaft" not in pages[plain.id, form]


async def test_a_receipt_tells_of_a_payment_by_hand(book: Book) -> None:
    client = await book.client()
    invoice = await book.sent(client, "100")
    payment = await by_hand(
        book, client, 12_000, "USD", method="CHEQUE", reference="No 17", received_date=date(2026, 3, 9),
        allocations=[Allocation(invoice.id, 10_000)],
    )  # fmt: skip
    found = await rendered(book, Kind.RECEIPT, payment.id)
    shown = found.content.decode()
    for text in (
        "Receipt",
        f"Invoice {invoice.number}",
        "100.00",
        "Kept as credit",
        "20.00",
        "Cheque",
        "No 17",
        "Mar 9, 2026",
        "$120.00",
    ):
        assert text in shown, text
    assert not found.kept


async def test_there_is_no_receipt_of_what_was_not_received(book: Book) -> None:
    invoice = await book.sent(await book.client(), "100")
    await add_link(book, invoice, "https://pay.test/abc", None)
    (row,) = await book.sql("SELECT id FROM payment")
    assert await refusal(book, Wanted(Kind.RECEIPT, row["id"])) is Reason.STATE_CONFLICT


async def test_a_statement_opens_where_the_last_one_closed(book: Book) -> None:
    client = await book.client()
    await book.set_clock(datetime(2026, 3, 20, 12, tzinfo=UTC))
    first = await book.sent(client, "100")
    await book.set_clock(datetime(2026, 4, 2, 12, tzinfo=UTC))
    second = await book.sent(client, "200")
    await by_hand(book, client, 15_000, "USD", method="CASH", allocations=[Allocation(first.id, 10_000)])
    order = credit_notes.NoteOrder(second.id, amount=Money("USD", 2_000), excess=Excess.CREDIT)
    await book.do(credit_notes.create_credit_note, order)
    march = await statement(book, client, date(2026, 3, 1), date(2026, 4, 1))
    april = await statement(book, client, date(2026, 4, 1), date(2026, 5, 1))
    assert f"Invoice {first.number}" in march
    assert f"Invoice {first.number}" not in april
    for text in (
        f"Invoice {second.number}",
        "Payment",
        "Credit note CN-",
        "Opening balance",
        "Closing balance",
        "Credit in USD",
    ):
        assert text in april, text
    (balance,) = await book.sql("SELECT receivable_minor, credit_minor FROM client_balance")
    assert (balance["receivable_minor"], balance["credit_minor"]) == (18_000, 5_000)
    assert "$180.00" in april
    assert "$50.00" in april
    assert "There were no transactions." in await statement(book, client, date(2025, 1, 1), date(2025, 2, 1))
    assert "There were no transactions." in await statement(
        book, client, date(2026, 4, 1), date(2026, 5, 1), currency_code="EUR"
    )


async def test_a_statements_days_are_the_firms(make_book: MakeBook) -> None:
    book = await make_book(clock=datetime(2026, 3, 31, 20, tzinfo=UTC), time_zone="Asia/Kolkata")
    client = await book.client()
    invoice = await book.sent(client, "100")  # half past one on the first of April, where the firm is
    assert f"{invoice.number}" not in await statement(book, client, date(2026, 3, 1), date(2026, 4, 1))
    assert f"{invoice.number}" in await statement(book, client, date(2026, 4, 1), date(2026, 4, 2))


@pytest.mark.parametrize(
    ("start", "end"),
    [(date(2026, 3, 1), date(2026, 3, 1)), (date(2026, 3, 2), date(2026, 3, 1)), (date(2020, 1, 1), date(2026, 1, 1))],
)
async def test_a_statement_is_of_a_range(book: Book, start: date, end: date) -> None:
    client = await book.client()
    assert await refusal(book, Wanted(Kind.STATEMENT, client.id, start=start, end=end)) is Reason.PERIOD_INVALID


async def test_another_firms_documents_are_not_there(make_book: MakeBook) -> None:
    mine, theirs = await make_book(), await make_book()
    client = await theirs.client()
    invoice = await theirs.sent(client, "100")
    await rendered(theirs, Kind.INVOICE, invoice.id)
    payment = await by_hand(theirs, client, 1_000, "USD", method="CASH")
    for wanted in (
        Wanted(Kind.INVOICE, invoice.id),
        Wanted(Kind.RECEIPT, payment.id),
        Wanted(Kind.CREDIT_NOTE, uuid7()),
        Wanted(Kind.STATEMENT, client.id, start=date(2026, 3, 1), end=date(2026, 4, 1)),
    ):
        assert await refusal(mine, wanted) is Reason.RESOURCE_NOT_FOUND
    assert await mine.sql("SELECT count(*) AS n FROM document") == [{"n": 0}]


async def test_a_suspended_firm_gets_its_documents_and_they_are_kept(book: Book, db: Database) -> None:
    invoice = await book.sent(await book.client(), "100")
    async with db.transaction(support.context(None)) as uow:
        await uow.execute("UPDATE control.firm SET state = 'SUSPENDED' WHERE id = %s", (book.context.firm_id,))
    found = await rendered(book, Kind.INVOICE, invoice.id)
    assert found.kept
    assert found == await rendered(book, Kind.INVOICE, invoice.id)


async def test_the_firms_look_is_on_its_documents(make_book: MakeBook) -> None:
    picture = base64.b64encode(png(120, 40, (1, 120, 90))).decode()
    look = {
        "legal_name": "Harbour & Vale <LLP>", "tax_id": "GB 123", "address": {"lines": ["1 Quay"], "city": "Leeds", "country_code": "GB"},
        "branding": {"color": "#0a5c36", "logo_image": picture, "footer": "Registered in England\nSort code 11-22-33"},
    }  # fmt: skip
    book = await make_book(document=look)
    shown = await page(book, await book.sent(await book.client(), "100"))
    for text in ("Harbour &amp; Vale &lt;LLP&gt;", "GB 123", "Leeds", "#0a5c36", picture, "Sort code 11-22-33"):
        assert text in shown, text


async def test_kept_documents_never_change(book: Book) -> None:
    invoice = await book.sent(await book.client(), "100")
    await rendered(book, Kind.INVOICE, invoice.id)
    for statement in (
        "UPDATE document SET locale = 'de'",
        "DELETE FROM document",
        "INSERT INTO document (firm_id, id, kind, invoice_id, edition, format, locale, content, content_hash, firm_time)"
        " SELECT firm_id, gen_random_uuid(), kind, invoice_id, edition, 'PDF', locale, 'x', content_hash, firm_time FROM document",
        "INSERT INTO document (firm_id, id, kind, invoice_id, edition, format, locale, content, content_hash, firm_time)"
        " SELECT firm_id, gen_random_uuid(), kind, invoice_id, edition, format, locale, content, content_hash, firm_time FROM document",
        "INSERT INTO document (firm_id, id, kind, edition, format, locale, content, content_hash, firm_time)"
        " SELECT firm_id, gen_random_uuid(), kind, edition, 'PDF', locale, content, content_hash, firm_time FROM document",
    ):
        with pytest.raises(psycopg.Error):
            await book.sql(statement)


async def by_hand(book: Book, client: Client, amount: int, currency: str, **more: Any) -> Payment:
    """Money that came outside any provider."""
    asked = replace(book, context=replace(book.context, request_id=uuid7()))
    return await asked.do(record_manual, client.id, amount, currency, **more)


async def refusal(book: Book, wanted: Wanted) -> Reason:
    with pytest.raises(DunwellError) as caught:
        await render(book.db, book.context, replace(wanted, form=Form.HTML))
    return caught.value.reason


async def test_a_line_in_another_script_is_set(book: Book) -> None:
    client = await book.client(name="श्री गणेश 株式会社", locale="hi-IN")
    new = invoices.NewInvoice(client.id, lines=(LineInput("मासिक लेखा-परीक्षण", Decimal(10)),))
    invoice = await book.do(invoices.create_invoice, new, finalize=True)
    text = Pdf((await rendered(book, Kind.INVOICE, invoice.id, Form.PDF)).content).text()
    assert "परीक्षण" in text.replace("\n", "")
