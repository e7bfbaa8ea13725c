"""An invoice's life but its collection: draft, change, finalise, void, write off, read, list.

Creating, finalising and previewing share `compose` and `as_sent`: what a preview shows is what finalising writes, save
id and number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any
from uuid import UUID

from psycopg.errors import NumericValueOutOfRange

from dunwell_server.billing.discounts import DiscountInput, as_given
from dunwell_server.billing.errors import (
    check_version,
    currency_mismatch,
    currency_of,
    external_id_unique,
    invoice_conflict,
    not_found,
    refuse_archived,
)
from dunwell_server.billing.events import InvoicesFinalized
from dunwell_server.billing.hourly import TimeCharges
from dunwell_server.billing.lines import (
    LineInput,
    build_lines,
    due_date,
    earned_and_deferred,
    first_terms,
    subtotal,
)
from dunwell_server.billing.model import (
    AutopayCadence,
    AutopayStatus,
    Client,
    CollectionColumns,
    Engagement,
    Invoice,
    InvoiceDiscount,
    InvoiceLine,
    InvoiceOrigin,
    InvoiceState,
    derive_state,
)
from dunwell_server.billing.numbering import series_of
from dunwell_server.billing.packages import MAX_LINES
from dunwell_server.billing.ports import CollectionPlanner, CollectionTerms
from dunwell_server.billing.service import coupons, credit_application, pricing, recognition, time_billing
from dunwell_server.billing.service.credit_application import Wanted
from dunwell_server.billing.service.engagements import today
from dunwell_server.billing.service.journal import invoice_change
from dunwell_server.billing.service.time_billing import TimeSource
from dunwell_server.billing.store import clients as client_store
from dunwell_server.billing.store import engagements as engagement_store
from dunwell_server.billing.store import invoice_lines
from dunwell_server.billing.store import invoices as store
from dunwell_server.billing.store.invoices import InvoiceQuery
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.ids import uuid7
from dunwell_server.ledger import rules as ledger_rules
from dunwell_server.ledger import service as ledger
from dunwell_server.platform import journal
from dunwell_server.platform.database import UnitOfWork

DRAFT_ONLY = frozenset({"lines", "discounts", "due_date", "payment_terms_days", "memo"})
"""What of an invoice changes only while it is a draft; `external_id` and `metadata` always may."""


@dataclass(frozen=True, slots=True)
class NewInvoice:
    """A one-off invoice as a caller creates it. No currency: the client's. A `due_date` comes before payment terms."""

    client_id: UUID
    engagement_id: UUID | None = None
    external_id: str | None = None
    currency_code: str | None = None
    lines: Sequence[LineInput] = ()
    discounts: Sequence[DiscountInput] = ()
    time: Sequence[TimeSource] = ()
    due_date: date | None = None
    payment_terms_days: int | None = None
    memo: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)


async def create_invoice(uow: UnitOfWork, new: NewInvoice, *, finalize: bool) -> Invoice:
    """Write a draft, or finalise at once. Errors: those of `compose`, and of `as_sent` when finalising;
    EXTERNAL_ID_TAKEN."""
    charged = await time_billing.prepare(uow, new.client_id, new.time, lock=True)
    draft, client, engagement = await compose(uow, new, lock=True, charged=charged)
    await time_billing.record(uow, [(draft.id, one) for one in charged])
    if finalize:
        return await send(uow, await as_sent(uow, draft, client, engagement), is_new=True)
    draft = await priced(uow, draft, client)
    with external_id_unique("invoice"):
        await store.insert_draft(uow, draft)
    await journal.record(uow, invoice_change(draft, "created"))
    return draft


async def finalize_invoice(uow: UnitOfWork, invoice_id: UUID, *, expected_version: int | None = None) -> Invoice:
    """Send a draft. Errors: RESOURCE_NOT_FOUND, ETAG_MISMATCH, STATE_CONFLICT unless it is a draft, and those of
    `as_sent`."""
    draft = await locked_invoice(uow, invoice_id, expected_version)
    if draft.state is not InvoiceState.DRAFT:
        raise invoice_conflict(draft, "FinalizeInvoice", "a DRAFT")
    client, engagement = await parties(uow, draft)
    sent = await as_sent(uow, draft, client, engagement)
    if (sent.lines, sent.discounts) != (draft.lines, draft.discounts):
        await invoice_lines.reprice(uow, sent)
    return await send(uow, sent, is_new=False)


async def compose(
    uow: UnitOfWork, new: NewInvoice, *, lock: bool, charged: Sequence[TimeCharges] = ()
) -> tuple[Invoice, Client, Engagement | None]:
    """The draft that `new` describes, not priced yet, with its client and engagement; writes nothing. The lines of the time that is
    `charged` come before those given.

    Errors: RESOURCE_NOT_FOUND, UNKNOWN_CURRENCY, CURRENCY_MISMATCH, AMOUNT_OUT_OF_RANGE, PERIOD_INVALID, FIELD_INVALID
    for an engagement of another client, STATE_CONFLICT for an archived client.
    """
    client = await client_store.get(uow, new.client_id, lock=lock)
    if client is None:
        raise not_found("Client", new.client_id)
    refuse_archived(client, "invoice")
    currency = currency_of(new.currency_code, client, "invoice.currency_code")
    lines = build_lines(new.lines, currency)
    engagement = await _check_engagements(uow, client, new.engagement_id, lines)
    draft = Invoice(
        id=uuid7(), external_id=new.external_id, client_id=client.id, engagement_id=new.engagement_id, run_id=None,
        origin=InvoiceOrigin.MANUAL, currency_code=currency, series=None, series_no=None, number=None, memo=new.memo,
        metadata=new.metadata, issue_date=None, due_date=new.due_date, payment_terms_days=new.payment_terms_days,
        line_count=0, subtotal=0, discount_total=0, tax_total=0, total=0, amount_received=0, amount_refunded=0,
        amount_charged_back=0, amount_credited=0, amount_paid=0, amount_due=0, finalize_time=None, void_time=None,
        write_off_time=None, overdue_time=None, paid_time=None, open_chargebacks=0, lost_disputes=0, state=InvoiceState.DRAFT, version=1, create_time=uow.now, update_time=uow.now,
    )  # fmt: skip
    discounts = as_given([line.discounts for line in new.lines], new.discounts, currency)
    draft = replace(with_lines(draft, lines), discounts=discounts)
    return behind_time(draft, time_billing.lines_of(charged), time_billing.discounts_of(charged)), client, engagement


def behind_time(draft: Invoice, lines: Sequence[InvoiceLine], discounts: Sequence[InvoiceDiscount]) -> Invoice:
    """The draft, not priced yet, with the lines of time and their discounts before its own. AMOUNT_OUT_OF_RANGE for too many."""
    if not lines:
        return draft
    if len(lines) + len(draft.lines) > MAX_LINES:
        raise DunwellError(Reason.AMOUNT_OUT_OF_RANGE, "The lines do not fit one invoice.", field="invoice.lines")
    own = [line._replace(line_no=line.line_no + len(lines)) for line in draft.lines]
    moved = [
        replace(
            discount,
            discount_no=discount.discount_no + len(discounts),
            line_no=None if discount.line_no is None else discount.line_no + len(lines),
        )
        for discount in draft.discounts
    ]
    return replace(with_lines(draft, [*lines, *own]), discounts=(*discounts, *moved))


async def priced(uow: UnitOfWork, draft: Invoice, client: Client) -> Invoice:
    """The draft with its discounts and taxes as of today. Errors: AMOUNT_OUT_OF_RANGE."""
    (prices,) = await pricing.price(uow, [pricing.request_for(draft, client, today(uow))])
    return pricing.on_invoice(draft, prices)


def with_lines(draft: Invoice, lines: Sequence[InvoiceLine]) -> Invoice:
    """The draft with these lines and the totals that follow, not priced yet. Errors: AMOUNT_OUT_OF_RANGE."""
    total = subtotal(lines)
    return replace(draft, lines=tuple(lines), line_count=len(lines), subtotal=total, total=total, amount_due=total)


async def as_sent(uow: UnitOfWork, draft: Invoice, client: Client, engagement: Engagement | None) -> Invoice:
    """The draft as it is when sent now, but for its number: prices, credit, dates, collection, state. Writes nothing.

    Errors: INVOICE_EMPTY, AMOUNT_OUT_OF_RANGE, PERIOD_INVALID for a due date before today, CURRENCY_MISMATCH and STATE_CONFLICT where the
    client has changed since the draft was made.
    """
    settings = uow.firm.settings
    if not draft.lines:
        raise DunwellError(Reason.INVOICE_EMPTY, "The invoice has no lines.", field="invoice.lines")
    refuse_archived(client, "invoice")
    if draft.currency_code != client.currency_code:
        raise currency_mismatch(draft.currency_code, client.currency_code, "invoice.currency_code")
    draft = await priced(uow, draft, client)
    issued = today(uow)
    terms = first_terms(
        draft.payment_terms_days,
        engagement.payment_terms_days if engagement else None,
        client.payment_terms_days,
        settings.payment_terms_days,
    )
    due = due_date(issued, draft.due_date, terms)
    wanted = Wanted(draft.id, client.id, draft.currency_code, draft.total)
    credit = (await credit_application.plan(uow, [wanted])).get(draft.id, [])
    credited = sum(use.amount_minor for use in credit)
    plan = uow.bus.port(CollectionPlanner).plan(  # type: ignore[type-abstract]
        CollectionTerms(
            settings, uow.now, due, draft.total - credited, client.autopay_enabled, client.autopay_cadence.value,
            client.autopay_method_id, client.autopay_enable_time,
        )
    )  # fmt: skip
    sent = replace(
        draft,
        series=series_of(settings.numbering, issued),
        issue_date=issued,
        due_date=due,
        finalize_time=uow.now,
        paid_time=uow.now if draft.total == credited else None,
        amount_credited=credited,
        amount_due=draft.total - credited,
        credit=tuple(credit),
        update_time=uow.now,
        collection=CollectionColumns(
            plan.enabled,
            AutopayStatus(plan.status) if plan.status else None,
            AutopayCadence(plan.cadence) if plan.cadence else None,
            plan.method_id,
            plan.next_charge_time,
        ),
    )
    return replace(sent, state=derive_state(sent))


async def send(uow: UnitOfWork, sent: Invoice, *, is_new: bool) -> Invoice:
    """Write what `as_sent` computed: ledger, audit and event, then the number and the invoice, in one round trip."""
    earned, deferred = earned_and_deferred(sent.lines)
    posting = ledger_rules.invoice_finalized(
        sent.id, sent.client_id, sent.currency_code, earned=earned, deferred=deferred, tax=sent.tax_total
    )
    changes = [invoice_change(sent, "finalized")]
    if sent.state is InvoiceState.PAID:
        changes.append(invoice_change(sent, "paid"))
    write = store.insert_sent if is_new else store.finalize
    with external_id_unique("invoice"), _ledger_in_range():
        async with uow.conn.pipeline():
            await ledger.post(uow, [posting])
            await credit_application.record(uow, sent.credit)
            await coupons.record_uses(uow, sent.discounts)
            await journal.record(uow, *changes)
            numbered = await write(uow, sent, uow.firm.settings.numbering.padding)
            if deferred:
                await recognition.schedule(uow, [sent.id])
        series_no, number = await store.number_of(numbered)
    invoice = replace(sent, series_no=series_no, number=number, credit=(), version=sent.version + (not is_new))
    await uow.publish(InvoicesFinalized([invoice]))
    return invoice


async def get_invoice(uow: UnitOfWork, invoice_id: UUID) -> Invoice:
    """The invoice with its lines. Errors: RESOURCE_NOT_FOUND."""
    invoice = await store.get(uow, invoice_id)
    if invoice is None:
        raise not_found("Invoice", invoice_id)
    return invoice


async def list_invoices(uow: UnitOfWork, query: InvoiceQuery, page: PageRequest) -> list[Invoice]:
    """One page of invoices, without their lines."""
    return await store.select(uow, query, page)


async def update_invoice(
    uow: UnitOfWork, invoice_id: UUID, changes: Mapping[str, Any], *, expected_version: int | None = None
) -> Invoice:
    """Change the named fields; `lines` is a sequence of `LineInput` that replaces all lines but those of time, with their discounts, `discounts` one of
    `DiscountInput` that replaces those of the whole invoice. Either way the draft is priced anew.

    Errors: RESOURCE_NOT_FOUND, ETAG_MISMATCH, EXTERNAL_ID_TAKEN, AMOUNT_OUT_OF_RANGE, PERIOD_INVALID, and STATE_CONFLICT
    for what is fixed once the invoice is sent.
    """
    invoice = await locked_invoice(uow, invoice_id, expected_version)
    if invoice.state is not InvoiceState.DRAFT and not DRAFT_ONLY.isdisjoint(changes):
        raise invoice_conflict(invoice, "UpdateInvoice of " + ", ".join(sorted(DRAFT_ONLY & set(changes))), "a DRAFT")
    columns = dict(changes)
    if not columns.keys().isdisjoint(("lines", "discounts")):
        billed = await _rebuilt(uow, invoice, columns.pop("lines", None), columns.pop("discounts", None))
        columns.update({name: getattr(billed, name) for name in store.PRICED})
        await invoice_lines.replace_all(uow, billed)
    with external_id_unique("invoice"):
        await store.update(uow, invoice_id, columns)
    updated = await get_invoice(uow, invoice_id)
    await journal.record(uow, invoice_change(updated, "updated", {"fields": sorted(changes)}))
    return updated


async def _rebuilt(
    uow: UnitOfWork, draft: Invoice, inputs: Sequence[LineInput] | None, given: Sequence[DiscountInput] | None
) -> Invoice:
    """The draft with other lines, other discounts on the whole, or both; None: those it has. Priced."""
    client = await client_store.get(uow, draft.client_id)
    assert client is not None
    kept = [discount for discount in draft.discounts if discount.redemption_id is None]
    on_lines = [discount for discount in kept if discount.line_no is not None]
    on_whole = [discount for discount in kept if discount.line_no is None]
    if inputs is not None:
        lines = build_lines(inputs, draft.currency_code)
        await _check_engagements(uow, client, None, lines)
        worked = time_billing.time_lines(draft)
        caps = [discount for discount in on_lines if (discount.line_no or 0) <= len(worked)]
        own = as_given([line.discounts for line in inputs], (), draft.currency_code)
        draft = behind_time(replace(with_lines(draft, lines), discounts=own), worked, caps)
        on_lines = list(draft.discounts)
    if given is not None:
        on_whole = list(as_given((), given, draft.currency_code))
    return await priced(uow, replace(draft, discounts=(*on_lines, *on_whole)), client)


async def delete_invoice(uow: UnitOfWork, invoice_id: UUID, *, expected_version: int | None = None) -> None:
    """Delete a draft; its audit trail stays. Errors: RESOURCE_NOT_FOUND, ETAG_MISMATCH, STATE_CONFLICT once sent."""
    invoice = await locked_invoice(uow, invoice_id, expected_version, [engagement_store.LOCK_COVERED_BY])
    if invoice.state is not InvoiceState.DRAFT:
        raise invoice_conflict(invoice, "DeleteInvoice", "a DRAFT")
    await journal.record(uow, invoice_change(invoice, "deleted"))
    await time_billing.discard(uow, invoice_id)
    await store.delete(uow, invoice_id)


async def locked_invoice(
    uow: UnitOfWork, invoice_id: UUID, expected_version: int | None, before: Sequence[str] = ()
) -> Invoice:
    """The invoice, with its client, what `before` locks, and itself locked, in that order.

    Errors: RESOURCE_NOT_FOUND, ETAG_MISMATCH.
    """
    invoice = await store.lock(uow, invoice_id, before)
    if invoice is None:
        raise not_found("Invoice", invoice_id)
    check_version("Invoice", invoice_id, invoice.version, expected_version)
    return invoice


async def parties(uow: UnitOfWork, invoice: Invoice) -> tuple[Client, Engagement | None]:
    """The client of an invoice, and its engagement where it has one."""
    async with uow.conn.pipeline():
        client = await client_store.get(uow, invoice.client_id)
        engagement = (
            await engagement_store.get(uow, invoice.engagement_id) if invoice.engagement_id is not None else None
        )
    assert client is not None
    return client, engagement


async def _check_engagements(
    uow: UnitOfWork, client: Client, engagement_id: UUID | None, lines: Sequence[InvoiceLine]
) -> Engagement | None:
    """The invoice's engagement, after checking that it and those of the lines exist and are the client's."""
    named = {engagement_id: "invoice.engagement_id"} if engagement_id else {}
    for position, line in enumerate(lines):
        if line.engagement_id is not None:
            named.setdefault(line.engagement_id, f"invoice.lines[{position}].engagement_id")
    if not named:
        return None
    found = await engagement_store.get_many(uow, list(named))
    for wanted, path in named.items():
        engagement = found.get(wanted)
        if engagement is None:
            raise not_found("Engagement", wanted)
        if engagement.client_id != client.id:
            raise field_invalid(path, "the engagement is of another client")
        if engagement.currency_code != client.currency_code:
            raise currency_mismatch(engagement.currency_code, client.currency_code, path)
    return found[engagement_id] if engagement_id else None


@contextmanager
def _ledger_in_range() -> Iterator[None]:
    """AMOUNT_OUT_OF_RANGE where the client's balance would leave 64 bits."""
    try:
        yield
    except NumericValueOutOfRange as error:
        raise DunwellError(
            Reason.AMOUNT_OUT_OF_RANGE, "What the client owes would not fit a 64-bit integer.", field="invoice.lines"
        ) from error
