"""What documents are made of, read in few statements, and documents as they were sent.

`prepare` reads what is wanted: the document as it was sent, where one is kept, or what it is to be rendered of. `keep` keeps the first
rendering of what is issued; whoever comes second gets the first one's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import partial
from typing import Final
from uuid import UUID

from dunwell_server.billing.documents import facts
from dunwell_server.billing.documents.data import Document, Kind
from dunwell_server.billing.documents.formats import Formats, formats_for
from dunwell_server.billing.documents.invoices import credit_note_document, invoice_document
from dunwell_server.billing.documents.receipts import receipt_document
from dunwell_server.billing.documents.statements import statement_document
from dunwell_server.billing.model import Client, Invoice, InvoiceState
from dunwell_server.billing.ports import PaymentOptions
from dunwell_server.billing.service import account_statements
from dunwell_server.billing.service.clients import get_client
from dunwell_server.billing.service.engagements import today
from dunwell_server.billing.service.invoices import get_invoice
from dunwell_server.billing.store import documents as store
from dunwell_server.kernel.calendar import local_date, local_instant
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.platform import journal
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Category, Change

LONGEST_STATEMENT: Final = timedelta(days=1096)


class Form(StrEnum):
    """In which form a document is rendered."""

    PDF = "PDF"
    HTML = "HTML"


class Edition(StrEnum):
    """Which of an invoice's documents is kept: as it was issued, and as it is once it is void."""

    ISSUED = "ISSUED"
    VOID = "VOID"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A document that somebody asks for. `object_id` is the invoice, payment, credit note or, of a statement, the client.

    `locale` is a BCP 47 tag, None: the client's, else the firm's. `current`: an invoice as it stands, not as it was issued. `start`, `end`
    (exclusive) and `currency_code` (None: all) are a statement's.
    """

    kind: Kind
    object_id: UUID
    form: Form = Form.PDF
    locale: str | None = None
    current: bool = False
    start: date | None = None
    end: date | None = None
    currency_code: str | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """Either `kept`, or how the document to render is made, which takes its time; with an `edition` the first rendering is to be kept."""

    name: str
    """What a file of it is called, without the ending."""
    formats: Formats
    firm_time: datetime
    kept: facts.Kept | None = None
    make: Callable[[], Document] | None = None
    edition: Edition | None = None


async def prepare(uow: UnitOfWork, wanted: Wanted) -> Prepared:
    """Read what is wanted. Errors: RESOURCE_NOT_FOUND, PERIOD_INVALID, STATE_CONFLICT for the receipt of what was not received."""
    match wanted.kind:
        case Kind.INVOICE:
            return await _invoice(uow, wanted)
        case Kind.CREDIT_NOTE:
            return await _credit_note(uow, wanted)
        case Kind.RECEIPT:
            return await _receipt(uow, wanted)
        case Kind.STATEMENT:
            return await _statement(uow, wanted)


async def keep(uow: UnitOfWork, wanted: Wanted, prepared: Prepared, content: bytes, digest: bytes) -> facts.Kept:
    """Keep the rendering of what is issued, with its SHA-256; the one that is kept, which is another's where that came first."""
    assert prepared.edition is not None
    key = (wanted.kind.value, wanted.object_id, prepared.edition.value, wanted.form.value, prepared.formats.tag)
    document_id = await store.keep(uow, *key, content, digest)
    if document_id is not None:
        prefix = Prefix.INVOICE if wanted.kind is Kind.INVOICE else Prefix.CREDIT_NOTE
        metadata = {
            "document_id": encode(Prefix.DOCUMENT, document_id),
            f"{wanted.kind.lower()}_id": encode(prefix, wanted.object_id),
            "edition": prepared.edition.value,
            "format": wanted.form.value,
            "locale": prepared.formats.tag,
        }
        await journal.record(uow, Change(Category.BILLING, "document_kept", "document", document_id, metadata=metadata))
        return facts.Kept(document_id, prepared.formats.tag, content, digest, uow.now)
    first = await store.kept(uow, *key)
    assert first is not None
    return first


async def _invoice(uow: UnitOfWork, wanted: Wanted) -> Prepared:
    invoice = await get_invoice(uow, wanted.object_id)
    client = await get_client(uow, invoice.client_id)
    formats = _formats(uow, wanted, client)
    name = f"invoice-{invoice.number or encode(Prefix.INVOICE, invoice.id)}"
    edition = _edition(invoice, wanted)
    if edition is not None:
        kept = await store.kept(uow, "INVOICE", invoice.id, edition.value, wanted.form.value, formats.tag)
        if kept is not None:
            return Prepared(name, formats, kept.firm_time, kept=kept)
    issued, now = await store.credit_of(uow, invoice.id, invoice.finalize_time)
    made = facts.InvoiceFacts(
        firm=await _firm(uow),
        client=client,
        invoice=invoice,
        today=today(uow),
        current=wanted.current,
        credit_applied=now if wanted.current else issued,
        credit_notes=invoice.amount_credited - now,
        pay=await _pay(uow, invoice),
        work=await store.work_on(uow, invoice.id),
    )
    return Prepared(name, formats, uow.now, make=partial(invoice_document, made, formats), edition=edition)


def _edition(invoice: Invoice, wanted: Wanted) -> Edition | None:
    if wanted.current or invoice.state is InvoiceState.DRAFT:
        return None
    return Edition.VOID if invoice.state is InvoiceState.VOID else Edition.ISSUED


async def _pay(uow: UnitOfWork, invoice: Invoice) -> facts.PayFacts:
    """Only what is a web address becomes a link: the text is a provider's."""
    if invoice.open_amount <= 0:
        return facts.PayFacts()
    options = await uow.bus.port(PaymentOptions).options(uow, invoice.id)  # type: ignore[type-abstract]
    link = options.link if options.link.startswith(("https://", "http://")) else ""
    until = local_date(options.link_expire_time, uow.firm.settings.zone) if options.link_expire_time else None
    return facts.PayFacts(link, until, options.upi if invoice.currency_code == "INR" else "")


async def _credit_note(uow: UnitOfWork, wanted: Wanted) -> Prepared:
    note = await store.credit_note(uow, wanted.object_id)
    if note is None:
        raise DunwellError(
            Reason.RESOURCE_NOT_FOUND,
            "No such credit note.",
            resource=("CreditNote", encode(Prefix.CREDIT_NOTE, wanted.object_id)),
        )
    client = await get_client(uow, note["client_id"])
    formats = _formats(uow, wanted, client)
    name = f"credit-note-{note['number']}"
    kept = await store.kept(uow, "CREDIT_NOTE", note["id"], Edition.ISSUED.value, wanted.form.value, formats.tag)
    if kept is not None:
        return Prepared(name, formats, kept.firm_time, kept=kept)
    made = facts.CreditNoteFacts(
        firm=await _firm(uow),
        client=client,
        number=note["number"],
        issue_date=note["issue_date"],
        currency_code=note["currency_code"],
        amount_minor=note["amount_minor"],
        tax_minor=note["tax_minor"],
        reason=note["reason"],
        invoice_number=note["invoice_number"],
        invoice_date=note["invoice_date"],
        lines=[
            facts.NoteLineFacts(text, None if quantity is None else Decimal(quantity), unit, net, tax)
            for text, quantity, unit, net, tax in note["lines"]
        ],
        taxes=[facts.NoteTaxFacts(name, Decimal(percentage), tax) for name, percentage, tax in note["taxes"]],
        reverse_charge=note["reverse_charge"],
    )
    make = partial(credit_note_document, made, formats)
    return Prepared(name, formats, uow.now, make=make, edition=Edition.ISSUED)


async def _receipt(uow: UnitOfWork, wanted: Wanted) -> Prepared:
    payment = await uow.bus.port(PaymentOptions).received(uow, wanted.object_id)  # type: ignore[type-abstract]
    number = encode(Prefix.PAYMENT, wanted.object_id)
    if payment is None:
        raise DunwellError(Reason.RESOURCE_NOT_FOUND, "No such payment.", resource=("Payment", number))
    if not payment.succeeded:
        raise DunwellError(
            Reason.STATE_CONFLICT,
            "Nothing was received by this payment.",
            metadata={"allowed": "SUCCEEDED"},
            resource=("Payment", number),
        )
    client = await get_client(uow, payment.client_id)
    formats = _formats(uow, wanted, client)
    made = facts.ReceiptFacts(
        firm=await _firm(uow),
        client=client,
        number=number,
        day=payment.day,
        currency_code=payment.currency_code,
        amount_minor=payment.amount_minor,
        credited_minor=payment.credited_minor,
        refunded_minor=payment.refunded_minor,
        method=payment.method,
        brand=payment.brand,
        last4=payment.last4,
        reference=payment.reference,
        parts=[facts.PaidPart(invoice, amount) for invoice, amount in payment.parts],
    )
    return Prepared(f"receipt-{number}", formats, uow.now, make=partial(receipt_document, made, formats))


async def _statement(uow: UnitOfWork, wanted: Wanted) -> Prepared:
    start, end = wanted.start, wanted.end
    if start is None or end is None or not start < end <= start + LONGEST_STATEMENT:
        raise DunwellError(
            Reason.PERIOD_INVALID,
            f"a statement's range ends after it starts, and at most {LONGEST_STATEMENT.days} days after",
            field="statement.end_date",
        )
    client = await get_client(uow, wanted.object_id)
    formats, zone = _formats(uow, wanted, client), uow.firm.settings.zone
    rows = await store.account_rows(
        uow, client.id, local_instant(start, time(), zone), local_instant(end, time(), zone), wanted.currency_code
    )
    firm, day = await _firm(uow), today(uow)

    def make() -> Document:
        accounts = account_statements.accounts(*rows, zone)
        return statement_document(facts.StatementFacts(firm, client, start, end, day, accounts), formats)

    name = f"statement-{encode(Prefix.CLIENT, client.id)}-{start:%Y%m%d}-{end:%Y%m%d}"
    return Prepared(name, formats, uow.now, make=make)


async def _firm(uow: UnitOfWork) -> facts.FirmFacts:
    settings = uow.firm.settings
    return facts.FirmFacts(await store.firm_name(uow), settings.locale, settings.document)


def _formats(uow: UnitOfWork, wanted: Wanted, client: Client) -> Formats:
    return formats_for(wanted.locale, client.locale, uow.firm.settings.locale)
