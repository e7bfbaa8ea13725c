"""Credit and credit notes as the contract shows them."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from dunwell.v1 import credit_note_pb2, credit_pb2, money_pb2
from dunwell_server.billing.model.credit import (
    CreditBalance,
    CreditEntry,
    CreditKind,
    CreditSource,
    CreditUse,
    StatedEntry,
    StatedUse,
)
from dunwell_server.billing.model.credit_notes import CreditedLine, IssuedNote
from dunwell_server.kernel.ids import Prefix
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.rpc.converters import date_message, decimal_message, enum_name, enum_value, id_text, timestamp

_SOURCES: Final = {
    CreditSource.PAYMENT: ("payment_id", Prefix.PAYMENT),
    CreditSource.REFUND: ("refund_id", Prefix.REFUND),
    CreditSource.CREDIT_NOTE: ("credit_note_id", Prefix.CREDIT_NOTE),
    CreditSource.CREDIT_ENTRY: ("credit_id", Prefix.CREDIT),
}


def credit_kind(number: int) -> CreditKind:
    """The kind that the enum's number stands for."""
    return CreditKind(enum_name(credit_pb2.CreditKind, number, "CREDIT_KIND_"))


def entry_message(uow: UnitOfWork, stated: StatedEntry) -> credit_pb2.CreditEntry:
    """One entry with its uses."""
    entry, currency = stated.entry, stated.entry.currency_code
    return credit_pb2.CreditEntry(
        id=id_text(Prefix.CREDIT, entry.id),
        firm_id=id_text(Prefix.FIRM, uow.firm_id),
        client_id=id_text(Prefix.CLIENT, entry.client_id),
        kind=enum_value(credit_pb2.CreditKind, entry.kind.value, "CREDIT_KIND_"),  # type: ignore[arg-type]
        amount=_money(currency, entry.amount_minor),
        remaining=_money(currency, entry.remaining_minor),
        priority=entry.priority,
        expire_time=timestamp(entry.expire_time),
        reason=entry.reason or "",
        balance_after=_money(currency, stated.balance_after),
        uses=[_stated_use(use) for use in stated.uses],
        grant_time=timestamp(entry.firm_time),
        create_time=timestamp(entry.create_time),
        **_source(entry),
    )


def _source(entry: CreditEntry) -> dict[str, Any]:
    named = _SOURCES.get(entry.source)
    return {} if named is None or entry.source_id is None else {named[0]: id_text(named[1], entry.source_id)}


def _stated_use(stated: StatedUse) -> credit_pb2.CreditUse:
    message = use_message(stated.use)
    message.balance_after.CopyFrom(_money(stated.use.currency_code, stated.balance_after))
    message.use_time.FromDatetime(stated.firm_time)
    return message


def use_message(use: CreditUse) -> credit_pb2.CreditUse:
    """One use, without the balance after it."""
    return credit_pb2.CreditUse(
        credit_id=id_text(Prefix.CREDIT, use.entry_id),
        kind=enum_value(credit_pb2.CreditUseKind, use.kind.value, "CREDIT_USE_KIND_"),  # type: ignore[arg-type]
        amount=_money(use.currency_code, use.amount_minor),
        invoice_id=id_text(Prefix.INVOICE, use.invoice_id),
        refund_id=id_text(Prefix.REFUND, _named(use, CreditSource.REFUND)),
        successor_id=id_text(Prefix.CREDIT, _named(use, CreditSource.CREDIT_ENTRY)),
        reason=use.reason or "",
    )


def _named(use: CreditUse, source: CreditSource) -> UUID | None:
    return use.source_id if use.source is source else None


def balance_message(balance: CreditBalance) -> credit_pb2.CreditBalance:
    """A client's credit in one currency."""
    currency = balance.currency_code
    return credit_pb2.CreditBalance(
        balance=_money(currency, balance.balance_minor),
        available=_money(currency, balance.available_minor),
        next_expire_time=timestamp(balance.next_expire_time),
        expiring=_money(currency, balance.expiring_minor),
    )


def note_message(uow: UnitOfWork, issued: IssuedNote) -> credit_note_pb2.CreditNote:
    """A credit note with its lines."""
    note, currency = issued.note, issued.note.currency_code
    payable = note.payable_minor if note.refund_id is None else note.amount_minor
    return credit_note_pb2.CreditNote(
        id=id_text(Prefix.CREDIT_NOTE, note.id),
        firm_id=id_text(Prefix.FIRM, uow.firm_id),
        client_id=id_text(Prefix.CLIENT, note.client_id),
        invoice_id=id_text(Prefix.INVOICE, note.invoice_id),
        number=issued.number,
        lines=[_line(line, issued.descriptions.get(line.part.line_no, ""), currency) for line in note.lines],
        total=_money(currency, note.amount_minor),
        tax_total=_money(currency, note.tax_minor),
        taxes=[
            credit_note_pb2.CreditNoteTax(
                name=tax.name, percentage=decimal_message(tax.percentage), tax=_money(currency, tax.tax_minor)
            )
            for tax in issued.taxes
        ],
        amount_applied=_money(currency, note.applied_minor),
        amount_credited=_money(currency, note.credited_minor),
        amount_released=_money(currency, note.released_minor),
        amount_payable=_money(currency, payable),
        amount_paid_out=_money(currency, issued.paid_out_minor if note.refund_id is None else note.amount_minor),
        refund_id=id_text(Prefix.REFUND, note.refund_id),
        reason=note.reason or "",
        issue_date=date_message(note.issue_date),
        create_time=timestamp(issued.create_time),
    )


def _line(line: CreditedLine, description: str, currency: str) -> credit_note_pb2.CreditNoteLine:
    part = line.part
    return credit_note_pb2.CreditNoteLine(
        line_no=part.line_no,
        description=description,
        quantity=decimal_message(part.quantity),
        amount=_money(currency, part.amount_minor),
        discount=_money(currency, part.discount_minor),
        tax=_money(currency, part.tax_minor),
        tax_included=_money(currency, part.tax_included_minor),
        total=_money(currency, part.total_minor),
    )


def _money(currency: str, minor: int) -> money_pb2.Money:
    return money_pb2.Money(currency_code=currency, amount_minor=minor)
