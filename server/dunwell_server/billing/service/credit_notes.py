"""What a refund does to invoices, and the credit notes that come of it.

A refunded invoice gets a credit note for the same amount, so that nothing is owed again; or, where that is asked for, it is owed again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from dunwell_server.billing.crediting import credit_parts
from dunwell_server.billing.errors import not_found
from dunwell_server.billing.events import AmountDueChanged
from dunwell_server.billing.model import CreditNote, Invoice
from dunwell_server.billing.numbering import series_of
from dunwell_server.billing.service.engagements import today
from dunwell_server.billing.service.journal import invoice_change
from dunwell_server.billing.store import credit_notes as store
from dunwell_server.kernel.ids import Prefix, derive_uuid, encode
from dunwell_server.ledger import rules
from dunwell_server.ledger import service as ledger
from dunwell_server.ledger.model import Posting
from dunwell_server.platform import journal
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Category, Change, Severity

SERIES: Final = "CN-"
"""Credit notes are numbered in series of their own: the invoices' series with this before it."""


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
    refunded: list[RefundedInvoice] = []
    for invoice in invoices:
        amount = parts[invoice.id]
        if not reopen:
            split = credit_parts(amount, left[invoice.id])
            note = CreditNote(
                derive_uuid("credit_note", refund_id, invoice.id), invoice.client_id, invoice.id, refund_id, invoice.currency_code,
                amount, split.tax, split.deferred, reason, today(uow),
            )  # fmt: skip
            refunded.append(RefundedInvoice(invoice, note))
        elif invoice.write_off_time is not None:
            refunded.append(RefundedInvoice(invoice, None, given_up=amount))
        else:
            refunded.append(RefundedInvoice(invoice, None, reopened=amount))
    notes = [each.note for each in refunded if each.note is not None]
    await ledger.post(uow, [_posting(note) for note in notes])
    await journal.record(uow, *(_told(each.invoice, parts[each.invoice.id], refund_id, reopen) for each in refunded))
    await journal.record(uow, *map(_issued, notes))
    await uow.publish(AmountDueChanged(invoices))
    return refunded


async def issue_notes(uow: UnitOfWork, notes: Sequence[CreditNote]) -> None:
    """Number and write the notes of one refund. Last in the transaction: the series is locked from here on."""
    if notes:
        numbering = uow.firm.settings.numbering
        await store.insert(uow, notes, SERIES + series_of(numbering, notes[0].issue_date), numbering.padding)


def _posting(note: CreditNote) -> Posting:
    return rules.credit_note_issued(
        note.id,
        note.currency_code,
        earned=note.amount_minor - note.tax_minor - note.deferred_minor,
        deferred=note.deferred_minor,
        tax=note.tax_minor,
    )


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
