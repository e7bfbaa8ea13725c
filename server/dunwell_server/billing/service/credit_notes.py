"""Credit notes: those that a person issues, and those that come of refunds.

A note first reduces what is still owed. What was paid already becomes the client's credit or is to be paid back, as the caller chooses; credit
that had paid goes back to where it came from. A refund's note is paid out by that refund.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final
from uuid import UUID

from dunwell_server.billing import credit_rules, crediting
from dunwell_server.billing.crediting import LineLeft, LinePart
from dunwell_server.billing.errors import invoice_conflict, not_found
from dunwell_server.billing.events import AmountDueChanged, InvoicesClosing
from dunwell_server.billing.model import CreditNote, Invoice, InvoiceState
from dunwell_server.billing.model.credit import CreditKind, CreditSource, NewCredit
from dunwell_server.billing.model.credit_notes import CreditedLine, Excess, IssuedNote
from dunwell_server.billing.numbering import series_of
from dunwell_server.billing.service import credit, credit_application, recognition
from dunwell_server.billing.service.engagements import today
from dunwell_server.billing.service.invoices import locked_invoice
from dunwell_server.billing.service.journal import invoice_change
from dunwell_server.billing.store import credit_notes as store
from dunwell_server.billing.store.credit_notes import NoteQuery, Promised
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.ids import Prefix, derive_uuid, encode, uuid7
from dunwell_server.kernel.money import Money
from dunwell_server.ledger import service as ledger
from dunwell_server.platform import journal
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Category, Change, Severity

SERIES: Final = "CN-"
"""Credit notes are numbered in series of their own: the invoices' series with this before it."""


# By hand -----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LineOrder:
    """A line to credit: `amount` of its amount, or `quantity` of its quantity; with neither, all that is left of it."""

    line_no: int
    amount: Money | None = None
    quantity: Decimal | None = None


@dataclass(frozen=True, slots=True)
class NoteOrder:
    """A credit note as a caller asks for it: over `amount` of the total, or over lines; with neither, over all that is left."""

    invoice_id: UUID
    amount: Money | None = None
    lines: Sequence[LineOrder] = ()
    excess: Excess | None = None
    reason: str | None = None


async def create_credit_note(
    uow: UnitOfWork, order: NoteOrder, *, expected_version: int | None = None
) -> tuple[IssuedNote, Invoice]:
    """Issue a credit note for a sent invoice; the note, and the invoice's new facts.

    Errors: RESOURCE_NOT_FOUND, ETAG_MISMATCH, STATE_CONFLICT for a draft or void invoice and for money of a disputed one, CURRENCY_MISMATCH,
    CREDIT_NOTE_EXCEEDS_INVOICE, FIELD_INVALID for lines that are not there or twice, and without `excess` where it is needed,
    COLLECTION_IN_PROGRESS.
    """
    invoice = await locked_invoice(uow, order.invoice_id, expected_version)
    if invoice.state in (InvoiceState.DRAFT, InvoiceState.VOID):
        raise invoice_conflict(invoice, "CreateCreditNote", "a sent invoice")
    left = (await store.left_to_credit(uow, [invoice.id]))[invoice.id]
    parts = _parts(invoice, order, left)
    note = _placed(uow, invoice, order, parts)
    gives_back = note.credited_minor + note.payable_minor > 0
    await uow.publish(InvoicesClosing([invoice], "give_back" if gives_back else "credit"))
    note = (await _with_lines(uow, [(note, parts)]))[0]
    source = (CreditSource.CREDIT_NOTE, note.id)
    if note.released_minor:
        amounts = {invoice.id: note.released_minor}
        await credit_application.give_back(uow, [invoice], amounts, reason=note.reason, source=source)
    await ledger.post(uow, [credit_rules.note_issued(note, written_off=invoice.write_off_time is not None)])
    await credit.add(uow, [NewCredit(
        note.client_id, note.currency_code, CreditKind.REFUND_TO_CREDIT, note.credited_minor, *source, reason=note.reason
    )])  # fmt: skip
    changed = await store.credit(uow, note)
    told = [invoice_change(changed, "credited", {"credited_minor": note.amount_minor}), _issued(note)]
    if note.applied_minor and changed.amount_due == 0:
        told.append(invoice_change(changed, "paid"))
    await journal.record(uow, *told)
    await uow.publish(AmountDueChanged([changed]))
    await issue_notes(uow, [note])
    return (await store.select(uow, NoteQuery(id=note.id), PageRequest(1)))[0], changed


async def list_credit_notes(uow: UnitOfWork, query: NoteQuery, page: PageRequest) -> list[IssuedNote]:
    """One page of credit notes with their lines, the newest first."""
    return await store.select(uow, query, page)


def _parts(invoice: Invoice, order: NoteOrder, left: Sequence[LineLeft]) -> list[LinePart]:
    """What is taken back of each line. Errors: those about amounts, quantities and lines."""
    creditable = sum(line.part.total_minor for line in left)
    if order.lines:
        parts = _of_lines(invoice, order.lines, {line.part.line_no: line for line in left})
    elif order.amount is None:
        parts = [crediting.whole(line) for line in left]
    else:
        _check_currency(order.amount, invoice, "amount")
        if order.amount.minor > creditable:
            raise _exceeds(invoice, creditable, "amount")
        parts = crediting.by_total(left, order.amount.minor)
    if sum(part.total_minor for part in parts) == 0:
        raise _exceeds(invoice, creditable, "lines" if order.lines else "amount")
    return [part for part in parts if part.amount_minor or part.total_minor]


def _of_lines(invoice: Invoice, orders: Sequence[LineOrder], left: Mapping[int, LineLeft]) -> list[LinePart]:
    seen: set[int] = set()
    parts: list[LinePart] = []
    for index, order in enumerate(orders):
        path = f"lines[{index}]"
        line = left.get(order.line_no)
        if line is None or order.line_no in seen:
            raise field_invalid(f"{path}.line_no", "the invoice has no such line" if line is None else "named twice")
        seen.add(order.line_no)
        parts.append(_of_line(invoice, order, line, path))
    return parts


def _of_line(invoice: Invoice, order: LineOrder, left: LineLeft, path: str) -> LinePart:
    if order.amount is not None and order.quantity is not None:
        raise field_invalid(f"{path}.quantity", "give either an amount or a quantity, not both")
    if order.amount is not None:
        _check_currency(order.amount, invoice, f"{path}.amount")
        if order.amount.minor <= 0:
            raise field_invalid(f"{path}.amount", "must be more than zero")
        if order.amount.minor > left.part.amount_minor:
            raise _exceeds(invoice, left.part.amount_minor, f"{path}.amount", order.line_no)
        return crediting.by_amount(left, order.amount.minor)
    if order.quantity is None:
        return crediting.whole(left)
    if order.quantity <= 0:
        raise field_invalid(f"{path}.quantity", "must be more than zero")
    if order.quantity > left.quantity_left:
        raise _exceeds(invoice, left.part.amount_minor, f"{path}.quantity", order.line_no)
    return crediting.by_quantity(left, order.quantity)


def _placed(uow: UnitOfWork, invoice: Invoice, order: NoteOrder, parts: Sequence[LinePart]) -> CreditNote:
    """The note, with what becomes of its amount. Errors: FIELD_INVALID, STATE_CONFLICT."""
    total = sum(part.total_minor for part in parts)
    applied = min(total, invoice.amount_due)
    rest = total - applied
    if rest and order.excess is None:
        raise field_invalid("excess", f"{rest} minor units are paid already: say what becomes of them")
    if rest and invoice.open_chargebacks:
        raise invoice_conflict(invoice, "CreateCreditNote above what is owed", "an invoice that is not disputed")
    money = min(rest, invoice.amount_paid)
    to_credit = order.excess is Excess.CREDIT
    return CreditNote(
        uuid7(), invoice.client_id, invoice.id, None, invoice.currency_code, total, sum(part.tax_minor for part in parts), 0,
        order.reason or None, today(uow), applied_minor=applied, credited_minor=money if to_credit else 0,
        released_minor=rest - money, payable_minor=0 if to_credit else money,
    )  # fmt: skip


def _check_currency(amount: Money, invoice: Invoice, field: str) -> None:
    if amount.currency != invoice.currency_code:
        raise DunwellError(
            Reason.CURRENCY_MISMATCH, f"{field} is in {amount.currency}, the invoice in {invoice.currency_code}.",
            field=f"{field}.currency_code", metadata={"given": amount.currency, "expected": invoice.currency_code},
        )  # fmt: skip


def _exceeds(invoice: Invoice, creditable: int, field: str, line_no: int | None = None) -> DunwellError:
    metadata = {"creditable_minor": str(creditable), "currency_code": invoice.currency_code}
    return DunwellError(
        Reason.CREDIT_NOTE_EXCEEDS_INVOICE,
        f"No more than {creditable} minor units are left to credit of the {'invoice' if line_no is None else 'line'}.",
        field=field,
        metadata=metadata if line_no is None else {**metadata, "line_no": str(line_no)},
        resource=("Invoice", encode(Prefix.INVOICE, invoice.id)),
    )


# For refunds -------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RefundedInvoice:
    """What a refund did to one invoice. One of the three is set: a note to be issued, or the amount that is owed again, or the amount that
    would be, had the invoice not been written off. The invoice carries the new facts, without lines."""

    invoice: Invoice
    note: CreditNote | None
    reopened: int = 0
    given_up: int = 0


async def apply_refund(
    uow: UnitOfWork, refund_id: UUID, parts: Mapping[UUID, int], *, reopen: bool, reason: str | None
) -> list[RefundedInvoice]:
    """Refund parts (minor units, positive) of invoices that this transaction has locked; in id order.

    The caller takes no more of an invoice than was received for it; the database refuses more. Notes are posted and told here and written
    by `issue_notes`, which the caller calls last: it takes their numbers. Publishes AmountDueChanged. A reopened invoice is no longer paid,
    and is owed as it stands: overdue, if its due date has passed.
    """
    if not parts:
        return []
    if any(amount <= 0 for amount in parts.values()):
        raise ValueError("only positive amounts are refunded")
    left = {} if reopen else await store.left_to_credit(uow, list(parts))
    invoices = await store.refund(uow, parts, reopen=reopen)
    if len(invoices) != len(parts):
        known = {invoice.id for invoice in invoices}
        raise not_found("Invoice", next(invoice_id for invoice_id in parts if invoice_id not in known))
    notes: dict[UUID, CreditNote] = {}
    if not reopen:
        drafts = [_refund_note(uow, invoice, refund_id, parts, left, reason) for invoice in invoices]
        notes = {note.invoice_id: note for note in await _with_lines(uow, drafts)}
    refunded = [_refunded(invoice, notes.get(invoice.id), parts[invoice.id]) for invoice in invoices]
    await ledger.post(uow, [credit_rules.note_issued(note, written_off=False) for note in notes.values()])
    await journal.record(uow, *(_told(each.invoice, parts[each.invoice.id], refund_id, reopen) for each in refunded))
    await journal.record(uow, *map(_issued, notes.values()))
    await uow.publish(AmountDueChanged(invoices))
    return refunded


def _refund_note(
    uow: UnitOfWork,
    invoice: Invoice,
    refund_id: UUID,
    amounts: Mapping[UUID, int],
    left: Mapping[UUID, Sequence[LineLeft]],
    reason: str | None,
) -> tuple[CreditNote, list[LinePart]]:
    parts = crediting.by_total(left[invoice.id], amounts[invoice.id])
    note = CreditNote(
        derive_uuid("credit_note", refund_id, invoice.id), invoice.client_id, invoice.id, refund_id, invoice.currency_code,
        amounts[invoice.id], sum(part.tax_minor for part in parts), 0, reason, today(uow),
    )  # fmt: skip
    return note, parts


def _refunded(invoice: Invoice, note: CreditNote | None, amount: int) -> RefundedInvoice:
    if note is not None:
        return RefundedInvoice(invoice, note)
    written_off = invoice.write_off_time is not None
    return RefundedInvoice(invoice, None, 0 if written_off else amount, amount if written_off else 0)


async def promised(uow: UnitOfWork, invoices: Sequence[UUID]) -> list[Promised]:
    """What credit notes of these invoices promised to pay back and no refund has paid out, the oldest note first."""
    return await store.promised(uow, invoices) if invoices else []


async def pay_out(uow: UnitOfWork, refund_id: UUID, parts: Mapping[UUID, int]) -> None:
    """Note which promises (by note) a refund that is posted by the caller pays out, in minor units."""
    if parts:
        await store.pay_out(uow, refund_id, parts)


async def issue_notes(uow: UnitOfWork, notes: Sequence[CreditNote]) -> None:
    """Number and write notes of one day. Last in the transaction: the series is locked from here on."""
    if notes:
        numbering = uow.firm.settings.numbering
        await store.insert(uow, notes, SERIES + series_of(numbering, notes[0].issue_date), numbering.padding)


async def _with_lines(uow: UnitOfWork, drafts: Sequence[tuple[CreditNote, Sequence[LinePart]]]) -> list[CreditNote]:
    """The notes with their lines, and with what of them was deferred, which is taken back by this."""
    nets = {
        (note.invoice_id, part.line_no): part.net_minor for note, parts in drafts for part in parts if part.net_minor
    }
    taken = await recognition.take_back(uow, nets)
    notes: list[CreditNote] = []
    for note, parts in drafts:
        deferred = [taken[key].deferred if (key := (note.invoice_id, part.line_no)) in taken else 0 for part in parts]
        lines = tuple(CreditedLine(part, amount) for part, amount in zip(parts, deferred, strict=True))
        notes.append(replace(note, lines=lines, deferred_minor=sum(deferred)))
    return notes


def _told(invoice: Invoice, amount: int, refund_id: UUID, reopened: bool) -> Change:
    details = {"refund_id": encode(Prefix.REFUND, refund_id), "refunded_minor": amount}
    verb, severity = ("reopened", Severity.WARNING) if reopened else ("refunded", Severity.INFO)
    return invoice_change(invoice, verb, details, severity)


def _issued(note: CreditNote) -> Change:
    """Without its number: the counter is taken after this is written."""
    metadata = {
        "credit_note_id": encode(Prefix.CREDIT_NOTE, note.id), "invoice_id": encode(Prefix.INVOICE, note.invoice_id),
        "client_id": encode(Prefix.CLIENT, note.client_id), "amount_minor": note.amount_minor, "tax_minor": note.tax_minor,
        "currency_code": note.currency_code,
    }  # fmt: skip
    return Change(
        Category.BILLING, "credit_note_issued", "credit_note", note.id, "credit_note.issued", metadata=metadata
    )
