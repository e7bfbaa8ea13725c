"""Bulk records: many clients, engagements or open invoices at once, by the rules that single ones follow.

Every row is judged on its own, then what is right is written in sets: a few statements for a thousand rows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from decimal import Decimal
from itertools import islice
from typing import Any, Final
from uuid import UUID

from dunwell_server.billing.errors import currency_of, external_id_unique, refuse_archived
from dunwell_server.billing.events import InvoicesFinalized
from dunwell_server.billing.importing import Batch, OpenInvoice, Outcome, Record, RecordKind, RowError, errors_of
from dunwell_server.billing.model import Client, Engagement, Invoice, InvoiceLine, InvoiceOrigin, InvoiceState, LineKind
from dunwell_server.billing.numbering import series_of
from dunwell_server.billing.service import clients as client_service
from dunwell_server.billing.service import engagements as engagement_service
from dunwell_server.billing.service.engagements import today
from dunwell_server.billing.service.journal import client_change, engagement_change, invoice_change
from dunwell_server.billing.store import clients as client_store
from dunwell_server.billing.store import engagements as engagement_store
from dunwell_server.billing.store import importing as store
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.ids import uuid7
from dunwell_server.kernel.money import from_major
from dunwell_server.ledger import rules as ledger_rules
from dunwell_server.ledger import service as ledger
from dunwell_server.platform import journal
from dunwell_server.platform.database import UnitOfWork

CHUNK: Final = 1000
"""Rows written by one statement."""
OPENING: Final = "OB-"
"""What the series of imported invoices begins with: they leave the firm's own numbers without a gap."""
OLD_NUMBER: Final = "imported_number"
"""Where an imported invoice's metadata has the number of the system that it came from."""

Prepared = tuple[Record, Any]
Judge = Callable[[UnitOfWork, Sequence[Record], list[RowError], bool], Awaitable[list[Prepared]]]
"""Tells which rows can be written, and as what; locks what they need when asked."""
Writer = Callable[[UnitOfWork, Sequence[Any]], Awaitable[None]]


async def import_records(uow: UnitOfWork, batch: Batch, *, dry_run: bool, skip_invalid: bool) -> Outcome:
    """Write the rows of a file: all of them, or none where one is wrong; with `skip_invalid` those that are right.

    What is wrong is in the outcome, not raised. `dry_run` checks the same and writes nothing.
    """
    errors = list(batch.errors)
    judge, writer = _STEPS[batch.kind]
    prepared = await judge(uow, await _unique(uow, batch, errors), errors, not dry_run)
    write = not dry_run and bool(prepared) and (skip_invalid or not errors)
    if write:
        with external_id_unique(_kind_name(batch)):
            await writer(uow, [new for _, new in prepared])
    errors.sort(key=lambda each: (each.row, each.column))
    return Outcome(batch.count, len(prepared), len(prepared) if write else 0, errors)


def _kind_name(batch: Batch) -> str:
    return batch.kind.value.lower().removesuffix("s")


async def _unique(uow: UnitOfWork, batch: Batch, errors: list[RowError]) -> list[Record]:
    """The rows whose external id is neither another row's nor in use."""
    kind = _kind_name(batch)
    used = await store.taken(uow, kind, [record.external_id for record in batch.records if record.external_id])
    first: dict[str, int] = {}
    kept = []
    for record in batch.records:
        own = record.external_id
        if own is None or (own not in used and first.setdefault(own, record.row) == record.row):
            kept.append(record)
            continue
        message = f"another {kind} of the firm has it" if own in used else f"row {first[own]} has it too"
        errors.append(RowError(record.row, "external_id", message, Reason.EXTERNAL_ID_TAKEN))
    return kept


def _judged(records: Sequence[Record], errors: list[RowError], judge: Callable[[Record], Any]) -> list[Prepared]:
    prepared = []
    for record in records:
        try:
            prepared.append((record, judge(record)))
        except DunwellError as error:
            errors.extend(errors_of(record.row, error))
    return prepared


async def _clients(uow: UnitOfWork, records: Sequence[Record], errors: list[RowError], lock: bool) -> list[Prepared]:
    refused: dict[str, DunwellError] = {}
    for provider in {record.new.default_provider for record in records if record.new.default_provider}:
        try:
            await client_service.check_provider(uow, provider)
        except DunwellError as error:
            refused[provider] = error

    def judge(record: Record) -> dict[str, Any]:
        problem = refused.get(record.new.default_provider)
        if problem is not None:
            raise problem
        return client_service.planned(uow, record.new)

    return _judged(records, errors, judge)


async def _write_clients(uow: UnitOfWork, rows: Sequence[dict[str, Any]]) -> None:
    for chunk in _chunks(rows):
        written = await client_store.insert_many(uow, chunk)
        await journal.record(uow, *(client_change(client, "created") for client in written))


async def _engagements(
    uow: UnitOfWork, records: Sequence[Record], errors: list[RowError], lock: bool
) -> list[Prepared]:
    client_of = await _client_finder(uow, records, lock=lock)

    def judge(record: Record) -> Engagement:
        client = client_of(record)
        fee = None if record.fee is None else from_major(record.fee, client.currency_code, "fee")
        new = replace(record.new, client_id=client.id, fee_minor=fee or 0, fee_currency=None)
        return engagement_service.planned(uow, new, client)

    return _judged(records, errors, judge)


async def _write_engagements(uow: UnitOfWork, engagements: Sequence[Engagement]) -> None:
    for chunk in _chunks(engagements):
        # Sent without waiting for each other: one round trip for all.
        async with uow.conn.pipeline():
            for engagement in chunk:
                await engagement_store.insert(uow, engagement)
        await journal.record(uow, *(engagement_change(engagement, "created") for engagement in chunk))


async def _invoices(uow: UnitOfWork, records: Sequence[Record], errors: list[RowError], lock: bool) -> list[Prepared]:
    client_of = await _client_finder(uow, records, lock=lock)
    return _judged(records, errors, lambda record: _opened(uow, record.new, client_of(record)))


def _opened(uow: UnitOfWork, new: OpenInvoice, client: Client) -> Invoice:
    """The invoice that an old one goes on as, but for its number."""
    refuse_archived(client, "invoice")
    currency = currency_of(new.currency_code, client, "invoice.currency_code")
    amount = from_major(new.amount, currency, "open_amount")
    if amount <= 0:
        raise field_invalid("open_amount", "must be more than zero: an invoice that is paid is not imported")
    if new.issue_date > today(uow):
        raise field_invalid("issue_date", f"must not lie in the future; today is {today(uow)}")
    if new.due_date < new.issue_date:
        raise DunwellError(Reason.PERIOD_INVALID, "must not lie before the issue date", field="due_date")
    line = InvoiceLine(1, LineKind.ITEM, new.description, Decimal(1), new.amount, amount)
    return Invoice(
        id=uuid7(), external_id=new.external_id, client_id=client.id, engagement_id=None, run_id=None, origin=InvoiceOrigin.MANUAL,
        currency_code=currency, series=OPENING + series_of(uow.firm.settings.numbering, today(uow)), series_no=None, number=None,
        memo=new.memo, metadata={OLD_NUMBER: new.number, **new.metadata}, issue_date=new.issue_date, due_date=new.due_date,
        payment_terms_days=None, line_count=1, subtotal=amount, discount_total=0, tax_total=0, total=amount, amount_received=0,
        amount_refunded=0, amount_charged_back=0, amount_credited=0, amount_paid=0, amount_due=amount, finalize_time=uow.now, void_time=None,
        write_off_time=None, overdue_time=None, paid_time=None, open_chargebacks=0, lost_disputes=0, state=InvoiceState.SENT, version=1,
        create_time=uow.now, update_time=uow.now, lines=(line,),
    )  # fmt: skip


async def _write_invoices(uow: UnitOfWork, invoices: Sequence[Invoice]) -> None:
    """The books and the journal first; numbers are taken last, all of them at once."""
    for chunk in _chunks(invoices):
        await ledger.post(uow, [
            ledger_rules.opening_balance(each.id, each.client_id, each.currency_code, each.total) for each in chunk
        ])  # fmt: skip
        await journal.record(
            uow, *(invoice_change(each, "finalized", {OLD_NUMBER: each.metadata[OLD_NUMBER]}) for each in chunk)
        )
    await uow.publish(InvoicesFinalized(list(invoices)))
    series, padding = invoices[0].series or "", uow.firm.settings.numbering.padding
    number = await store.take_numbers(uow, series, len(invoices))
    for chunk in _chunks(invoices):
        await store.insert_open_invoices(uow, [_row(each, number + at, padding) for at, each in enumerate(chunk)])
        number += len(chunk)


def _row(invoice: Invoice, series_no: int, padding: int) -> dict[str, Any]:
    [line] = invoice.lines
    return {
        "id": invoice.id, "external_id": invoice.external_id, "client_id": invoice.client_id, "currency_code": invoice.currency_code,
        "series": invoice.series, "series_no": series_no, "number": f"{invoice.series}-{series_no:0{padding}d}", "memo": invoice.memo,
        "metadata": invoice.metadata, "issue_date": invoice.issue_date, "due_date": invoice.due_date, "total": invoice.total,
        "description": line.description, "unit_price": line.unit_price,
    }  # fmt: skip


async def _client_finder(uow: UnitOfWork, records: Sequence[Record], *, lock: bool) -> Callable[[Record], Client]:
    """Tells the client of a row; RESOURCE_NOT_FOUND naming the column where there is none."""
    references = [record.client for record in records if record.client is not None]
    found = await store.find_clients(
        uow, [each.id for each in references if each.id], [each.external_id for each in references if each.external_id], lock=lock
    )  # fmt: skip
    by_id: dict[UUID, Client] = {client.id: client for client in found}
    by_external_id = {client.external_id: client for client in found}

    def client_of(record: Record) -> Client:
        wanted = record.client
        assert wanted is not None
        client = by_id.get(wanted.id) if wanted.id else by_external_id.get(wanted.external_id)
        if client is None:
            column = "client_id" if wanted.id else "client_external_id"
            raise DunwellError(
                Reason.RESOURCE_NOT_FOUND, "the firm has no such client: import clients first", field=column
            )
        return client

    return client_of


def _chunks(items: Sequence[Any]) -> list[list[Any]]:
    iterator = iter(items)
    return list(iter(lambda: list(islice(iterator, CHUNK)), []))


_STEPS: Final[dict[RecordKind, tuple[Judge, Writer]]] = {
    RecordKind.CLIENTS: (_clients, _write_clients),
    RecordKind.ENGAGEMENTS: (_engagements, _write_engagements),
    RecordKind.INVOICES: (_invoices, _write_invoices),
}
