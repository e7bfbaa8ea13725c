"""The handlers of credit and credit notes."""

from __future__ import annotations

from typing import Any, Final

from dunwell.v1 import billing_service_pb2 as pb
from dunwell.v1 import credit_note_pb2
from dunwell_server.billing.model.credit import DEFAULT_PRIORITY
from dunwell_server.billing.model.credit_notes import Excess
from dunwell_server.billing.rpc import messages
from dunwell_server.billing.rpc.credit_messages import (
    balance_message,
    credit_kind,
    entry_message,
    note_message,
    use_message,
)
from dunwell_server.billing.rpc.parts import BillingHandlers
from dunwell_server.billing.service import credit, credit_notes
from dunwell_server.billing.service.credit import Grant
from dunwell_server.billing.service.credit_notes import LineOrder, NoteOrder
from dunwell_server.billing.store.credit import EntryQuery
from dunwell_server.billing.store.credit_notes import NoteQuery
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix
from dunwell_server.kernel.money import Money
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.rpc.converters import (
    expected_version,
    id_value,
    money,
    optional_currency,
    optional_date,
    optional_decimal,
    optional_id,
    optional_instant,
)

_EXCESSES: Final = {
    credit_note_pb2.CREDIT_NOTE_EXCESS_CREDIT: Excess.CREDIT,
    credit_note_pb2.CREDIT_NOTE_EXCESS_REFUND_PAYABLE: Excess.REFUND_PAYABLE,
}


class CreditHandlers(BillingHandlers):
    """Credit that clients hold, and credit notes."""

    async def CreateCreditNote(self, request: pb.CreateCreditNoteRequest, context: Any) -> pb.CreateCreditNoteResponse:
        order, version = _note_order(request), expected_version(request.etag)

        async def work(uow: UnitOfWork) -> pb.CreateCreditNoteResponse:
            note, invoice = await credit_notes.create_credit_note(uow, order, expected_version=version)
            shown = await messages.present_invoice(uow, invoice)
            return pb.CreateCreditNoteResponse(credit_note=note_message(uow, note), invoice=shown)

        return await self._calls.write(request, pb.CreateCreditNoteResponse, work)

    async def ListCreditNotes(self, request: pb.ListCreditNotesRequest, context: Any) -> pb.ListCreditNotesResponse:
        query, page = _note_query(request), self._pager.read(request)

        async def work(uow: UnitOfWork) -> pb.ListCreditNotesResponse:
            found = await credit_notes.list_credit_notes(uow, query, PageRequest(page.limit, page.after))
            shown, token = page.split(found, lambda row: (row.create_time, row.note.id))
            notes = [note_message(uow, note) for note in shown]
            return pb.ListCreditNotesResponse(credit_notes=notes, next_page_token=token)

        return await self._calls.read(work)

    async def GrantCredit(self, request: pb.GrantCreditRequest, context: Any) -> pb.GrantCreditResponse:
        given = _grant(request)

        async def work(uow: UnitOfWork) -> pb.GrantCreditResponse:
            return pb.GrantCreditResponse(entry=entry_message(uow, await credit.grant(uow, given)))

        return await self._calls.write(request, pb.GrantCreditResponse, work)

    async def ApplyCredit(self, request: pb.ApplyCreditRequest, context: Any) -> pb.ApplyCreditResponse:
        invoice_id = id_value(Prefix.INVOICE, request.invoice_id, "invoice_id")
        amount, version = _amount(request), expected_version(request.etag)

        async def work(uow: UnitOfWork) -> pb.ApplyCreditResponse:
            applied = await credit.apply(uow, invoice_id, amount, expected_version=version)
            shown = await messages.present_invoice(uow, applied.invoice)
            return pb.ApplyCreditResponse(invoice=shown, uses=[use_message(use) for use in applied.uses])

        return await self._calls.write(request, pb.ApplyCreditResponse, work)

    async def ReverseCredit(self, request: pb.ReverseCreditRequest, context: Any) -> pb.ReverseCreditResponse:
        credit_id = optional_id(Prefix.CREDIT, request.credit_id, "credit_id")
        invoice_id = optional_id(Prefix.INVOICE, request.invoice_id, "invoice_id")
        amount = _amount(request)

        async def work(uow: UnitOfWork) -> pb.ReverseCreditResponse:
            if credit_id is not None:
                entries = await credit.reverse_grant(uow, credit_id, amount, request.reason)
                return pb.ReverseCreditResponse(entries=[entry_message(uow, entry) for entry in entries])
            assert invoice_id is not None
            invoice, entries = await credit.reverse_application(uow, invoice_id, amount, request.reason)
            shown = await messages.present_invoice(uow, invoice)
            return pb.ReverseCreditResponse(entries=[entry_message(uow, each) for each in entries], invoice=shown)

        return await self._calls.write(request, pb.ReverseCreditResponse, work)

    async def GetCreditBalance(self, request: pb.GetCreditBalanceRequest, context: Any) -> pb.GetCreditBalanceResponse:
        client_id = id_value(Prefix.CLIENT, request.client_id, "client_id")

        async def work(uow: UnitOfWork) -> pb.GetCreditBalanceResponse:
            balances = await credit.balances(uow, client_id)
            return pb.GetCreditBalanceResponse(balances=[balance_message(balance) for balance in balances])

        return await self._calls.read(work)

    async def ListCreditEntries(
        self, request: pb.ListCreditEntriesRequest, context: Any
    ) -> pb.ListCreditEntriesResponse:
        query, page = _entry_query(request), self._pager.read(request)

        async def work(uow: UnitOfWork) -> pb.ListCreditEntriesResponse:
            found = await credit.statement(uow, query, PageRequest(page.limit, page.after))
            shown, token = page.split(found, lambda row: (row.entry.create_time, row.entry.id))
            entries = [entry_message(uow, entry) for entry in shown]
            return pb.ListCreditEntriesResponse(entries=entries, next_page_token=token)

        return await self._calls.read(work)


def _amount(request: Any) -> Money | None:
    return money(request.amount, "amount") if request.HasField("amount") else None


def _grant(request: pb.GrantCreditRequest) -> Grant:
    return Grant(
        client_id=id_value(Prefix.CLIENT, request.client_id, "client_id"),
        kind=credit_kind(request.kind),
        amount=money(request.amount, "amount"),
        priority=request.priority if request.HasField("priority") else DEFAULT_PRIORITY,
        expire_time=optional_instant(request, "expire_time"),
        reason=request.reason or None,
    )


def _entry_query(request: pb.ListCreditEntriesRequest) -> EntryQuery:
    return EntryQuery(
        client_id=id_value(Prefix.CLIENT, request.client_id, "client_id"),
        currency_code=optional_currency(request.currency_code, "currency_code"),
        kinds=[credit_kind(kind).value for kind in request.kinds],
        only_open=request.only_open,
    )


def _note_order(request: pb.CreateCreditNoteRequest) -> NoteOrder:
    return NoteOrder(
        invoice_id=id_value(Prefix.INVOICE, request.invoice_id, "invoice_id"),
        amount=_amount(request),
        lines=[_line_order(line, f"lines[{index}]") for index, line in enumerate(request.lines)],
        excess=_EXCESSES.get(request.excess),
        reason=request.reason or None,
    )


def _line_order(line: credit_note_pb2.CreditNoteLineInput, path: str) -> LineOrder:
    amount = money(line.amount, f"{path}.amount") if line.HasField("amount") else None
    return LineOrder(line.line_no, amount, optional_decimal(line, "quantity", f"{path}.quantity"))


def _note_query(request: pb.ListCreditNotesRequest) -> NoteQuery:
    start = optional_date(request.issue_date, "start_date", "issue_date.start_date")
    end = optional_date(request.issue_date, "end_date", "issue_date.end_date")
    if start is not None and end is not None and end < start:
        raise DunwellError(Reason.PERIOD_INVALID, "the range ends before it starts", field="issue_date.end_date")
    return NoteQuery(
        client_id=optional_id(Prefix.CLIENT, request.client_id, "client_id"),
        invoice_id=optional_id(Prefix.INVOICE, request.invoice_id, "invoice_id"),
        number=request.number or None,
        issue_date=(start, end),
    )
