"""A client's credit: given, used by hand, taken back, expired, and shown.

Payments and disputes keep what they leave to a client here (`add`), and take from it (`take`); they post it with their own facts. Whoever changes
credit has locked the client.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from dunwell_server.billing import credit_rules
from dunwell_server.billing.errors import invoice_conflict, not_found
from dunwell_server.billing.events import AmountDueChanged, InvoicesClosing
from dunwell_server.billing.model import AutopayStatus, Invoice, InvoiceState
from dunwell_server.billing.model.credit import (
    DEFAULT_PRIORITY,
    GRANTABLE,
    MONEY,
    CreditBalance,
    CreditEntry,
    CreditKind,
    CreditSource,
    CreditUse,
    CreditUseKind,
    NewCredit,
    StatedEntry,
)
from dunwell_server.billing.service import credit_application
from dunwell_server.billing.service.clients import get_client
from dunwell_server.billing.service.collection import refuse_closed, set_collection
from dunwell_server.billing.service.credit_application import Wanted
from dunwell_server.billing.service.invoices import locked_invoice
from dunwell_server.billing.service.journal import credit_change, invoice_change
from dunwell_server.billing.store import credit as store
from dunwell_server.billing.store.credit import EntryQuery
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.kernel.money import Money, known_currency
from dunwell_server.ledger import service as ledger
from dunwell_server.platform import journal
from dunwell_server.platform.database import UnitOfWork

BATCH: Final = 1000
"""Clients whose expired credit is booked in one call, at most."""


# For payments and disputes -----------------------------------------------------------------------------------------------------------


async def add(uow: UnitOfWork, news: Sequence[NewCredit]) -> list[UUID]:
    """Keep credit that another fact leaves to its (locked) client, and posts itself. Nothing for amounts of zero; the new entries' ids."""
    worth = [new for new in news if new.amount_minor > 0]
    if not worth:
        return []
    ids = await store.insert(uow, worth)
    await journal.record(uow, *(_added(entry_id, new, "added") for entry_id, new in zip(ids, worth, strict=True)))
    return ids


def excess(payment_id: UUID, client_id: UUID, currency: str, amount_minor: int, *, ahead: bool = False) -> NewCredit:
    """What no invoice took of a payment. `ahead`: it was for no invoice in the first place, so that it is a prepayment."""
    kind = CreditKind.PREPAYMENT if ahead else CreditKind.OVERPAYMENT
    return NewCredit(client_id, currency, kind, amount_minor, CreditSource.PAYMENT, payment_id)


async def take(
    uow: UnitOfWork,
    client_id: UUID,
    currency: str,
    amount_minor: int,
    kind: CreditUseKind,
    source: tuple[CreditSource, UUID],
    *,
    first: UUID | None = None,
    only: bool = False,
) -> int:
    """Take credit that the (locked) client has paid for, for a fact that posts it itself: what came of `first` (a payment), then, unless `only`
    that, the oldest.

    Returns how much was taken: all that was asked for, or all there is.
    """
    uses: list[CreditUse] = []
    taken = 0
    entries = await store.open_entries(uow, client_id, currency, MONEY, first, only=only) if amount_minor > 0 else []
    for entry in entries:
        part = min(entry.remaining_minor, amount_minor - taken)
        if part > 0:
            uses.append(
                CreditUse(uuid7(), entry.id, kind, client_id, currency, part, source=source[0], source_id=source[1])
            )
            taken += part
    if uses:
        await store.insert_uses(uow, uses)
        verb = kind.value.lower()
        await journal.record(
            uow, *(credit_change(use.entry_id, client_id, currency, verb, {"used_minor": use.amount_minor}) for use in uses)
        )  # fmt: skip
    return taken


# By hand -----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Grant:
    """Credit that a person gives. `expire_time` is firm time."""

    client_id: UUID
    kind: CreditKind
    amount: Money
    priority: int = DEFAULT_PRIORITY
    expire_time: datetime | None = None
    reason: str | None = None


async def grant(uow: UnitOfWork, given: Grant) -> StatedEntry:
    """Give credit. Errors: RESOURCE_NOT_FOUND, UNKNOWN_CURRENCY, PERIOD_INVALID for an expiry that has passed, FIELD_INVALID for a kind that
    nobody grants."""
    if given.kind not in GRANTABLE:
        raise field_invalid("kind", f"{given.kind} is made by payments and refunds, not granted")
    currency = known_currency(given.amount.currency, "amount.currency_code")
    if given.expire_time is not None and given.expire_time <= uow.now:
        raise DunwellError(Reason.PERIOD_INVALID, "credit must not have expired when it is given", field="expire_time")
    client = await get_client(uow, given.client_id, lock=True)
    new = NewCredit(
        client.id, currency, given.kind, given.amount.minor, CreditSource.GRANT, None, given.reason or None, given.priority,
        given.expire_time,
    )  # fmt: skip
    [entry_id] = await store.insert(uow, [new])
    await ledger.post(uow, [credit_rules.granted(entry_id, client.id, currency, given.kind, given.amount.minor)])
    await journal.record(uow, _added(entry_id, new, "granted"))
    return (await _stated(uow, client.id, [entry_id]))[0]


@dataclass(frozen=True, slots=True)
class Applied:
    """An invoice after credit was put on it, without lines, and what paid."""

    invoice: Invoice
    uses: list[CreditUse]


async def apply(
    uow: UnitOfWork, invoice_id: UUID, amount: Money | None = None, *, expected_version: int | None = None
) -> Applied:
    """Pay for a sent invoice with credit: `amount`, or as much as is owed and as there is.

    Errors: RESOURCE_NOT_FOUND, ETAG_MISMATCH, CURRENCY_MISMATCH, STATE_CONFLICT for what is not owed, COLLECTION_IN_PROGRESS,
    AMOUNT_OUT_OF_RANGE above what is owed, CREDIT_INSUFFICIENT.
    """
    invoice = await locked_invoice(uow, invoice_id, expected_version)
    refuse_closed([invoice], "ApplyCredit")
    _check_currency(amount, invoice.currency_code)
    if amount is not None and amount.minor > invoice.amount_due:
        raise DunwellError(Reason.AMOUNT_OUT_OF_RANGE, "More than the invoice owes.", field="amount")
    await uow.publish(InvoicesClosing([invoice], "credit"))
    wanted = Wanted(
        invoice.id, invoice.client_id, invoice.currency_code, amount.minor if amount else invoice.amount_due
    )
    uses = (await credit_application.plan(uow, [wanted], by_hand=True)).get(invoice.id, [])
    total = sum(use.amount_minor for use in uses)
    if total == 0 or (amount is not None and total < amount.minor):
        raise _insufficient(invoice.client_id, invoice.currency_code, total)
    await credit_application.record(uow, uses, written_off=[invoice.id] if invoice.write_off_time else ())
    [changed] = await store.change_credited(uow, {invoice.id: total})
    if changed.amount_due == 0:
        await journal.record(uow, invoice_change(changed, "paid"))
    await uow.publish(AmountDueChanged([changed]))
    return Applied(changed, uses)


async def reverse_grant(
    uow: UnitOfWork, credit_id: UUID, amount: Money | None = None, reason: str | None = None
) -> list[StatedEntry]:
    """Take back what is left of a grant, or `amount` of it.

    Errors: RESOURCE_NOT_FOUND, CURRENCY_MISMATCH, CREDIT_INSUFFICIENT, STATE_CONFLICT for credit that nobody has granted.
    """
    found = await store.get(uow, credit_id)
    if found is None:
        raise not_found("Credit", credit_id)
    await get_client(uow, found.client_id, lock=True)
    [entry] = await store.get_many(uow, [credit_id])
    if entry.source not in (CreditSource.GRANT, CreditSource.CREDIT_ENTRY):
        raise DunwellError(
            Reason.STATE_CONFLICT,
            "ReverseCredit needs credit that was granted; this is the client's own money: refund it instead.",
            metadata={"state": entry.kind.value, "allowed": "RefundPayment"},
            resource=("Credit", encode(Prefix.CREDIT, credit_id)),
        )
    _check_currency(amount, entry.currency_code)
    taken = entry.remaining_minor if amount is None else amount.minor
    if taken == 0 or taken > entry.remaining_minor:
        raise _insufficient(entry.client_id, entry.currency_code, entry.remaining_minor)
    use = CreditUse(
        uuid7(), entry.id, CreditUseKind.REVERSED, entry.client_id, entry.currency_code, taken, reason=reason or None
    )
    await store.insert_uses(uow, [use])
    await ledger.post(uow, [credit_rules.reversed_grant(use, entry)])
    details = {"used_minor": taken}
    change = credit_change(entry.id, entry.client_id, entry.currency_code, "reversed", details, reason=reason or None)
    await journal.record(uow, change)
    return await _stated(uow, entry.client_id, [entry.id])


async def reverse_application(
    uow: UnitOfWork, invoice_id: UUID, amount: Money | None = None, reason: str | None = None
) -> tuple[Invoice, list[StatedEntry]]:
    """Take applied credit off an invoice, all or `amount` of it, the last applied first: it goes back, and is owed again.

    An invoice that was paid leaves autopay, as one does that a refund reopens. Errors: RESOURCE_NOT_FOUND, CURRENCY_MISMATCH,
    CREDIT_INSUFFICIENT for more than was applied, STATE_CONFLICT for a draft, void or refunded invoice, COLLECTION_IN_PROGRESS.
    """
    invoice = await locked_invoice(uow, invoice_id, None)
    if invoice.state in (InvoiceState.DRAFT, InvoiceState.VOID, InvoiceState.REFUNDED):
        raise invoice_conflict(invoice, "ReverseCredit", "an invoice that credit was applied to")
    _check_currency(amount, invoice.currency_code)
    await uow.publish(InvoicesClosing([invoice], "credit"))
    amounts = None if amount is None else {invoice.id: amount.minor}
    uses = await credit_application.give_back(uow, [invoice], amounts, reason=reason or None)
    total = sum(use.amount_minor for use in uses)
    if total == 0 or (amount is not None and total < amount.minor):
        raise _insufficient(invoice.client_id, invoice.currency_code, total)
    [changed] = await store.change_credited(uow, {invoice.id: -total})
    if invoice.amount_due == 0:
        ended = {"autopay_enabled": False, "autopay_next_charge_time": None, "retry_pending": False}
        status = AutopayStatus.CANCELLED if invoice.collection.autopay_status else None
        await set_collection(uow, {invoice.id: {**ended, "autopay_status": status}})
        await journal.record(uow, invoice_change(changed, "reopened", severity=journal.Severity.WARNING))
    await uow.publish(AmountDueChanged([changed]))
    entries = await _stated(uow, invoice.client_id, list(dict.fromkeys(use.entry_id for use in uses)))
    return changed, entries


async def balances(uow: UnitOfWork, client_id: UUID) -> list[CreditBalance]:
    """The client's credit per currency. Errors: RESOURCE_NOT_FOUND."""
    await get_client(uow, client_id)
    return await store.balances(uow, client_id)


async def statement(uow: UnitOfWork, query: EntryQuery, page: PageRequest) -> list[StatedEntry]:
    """One page of the client's entries with their uses and the balance after each, the newest first. Errors: RESOURCE_NOT_FOUND."""
    await get_client(uow, query.client_id)
    return await store.statement(uow, query, page)


# By time -----------------------------------------------------------------------------------------------------------------------------


async def expire_credit(uow: UnitOfWork, limit: int = BATCH) -> list[CreditEntry]:
    """Book what is left of credit whose time is over, of at most `limit` entries' clients, as the firm's: the entries. Call again, in a
    transaction of its own, while it returns any."""
    entries = await store.lock_expired(uow, limit)
    if not entries:
        return []
    uses = [
        CreditUse(uuid7(), each.id, CreditUseKind.EXPIRED, each.client_id, each.currency_code, each.remaining_minor)
        for each in entries
    ]
    await store.insert_uses(uow, uses)
    await ledger.post(uow, [credit_rules.expired(use) for use in uses])
    await journal.record(uow, *(
        credit_change(use.entry_id, use.client_id, use.currency_code, "expired", {"used_minor": use.amount_minor}) for use in uses
    ))  # fmt: skip
    return entries


async def _stated(uow: UnitOfWork, client_id: UUID, ids: Sequence[UUID]) -> list[StatedEntry]:
    return await store.statement(uow, EntryQuery(client_id, ids=ids), PageRequest(max(len(ids), 1)))


def _added(entry_id: UUID, new: NewCredit, verb: str) -> journal.Change:
    details = {
        "kind": new.kind.value, "amount_minor": new.amount_minor, "priority": new.priority,
        "expire_time": new.expire_time.isoformat() if new.expire_time else None,
    }  # fmt: skip
    return credit_change(entry_id, new.client_id, new.currency_code, verb, details, reason=new.reason)


def _check_currency(amount: Money | None, currency: str) -> None:
    if amount is not None and amount.currency != currency:
        raise DunwellError(
            Reason.CURRENCY_MISMATCH,
            f"The amount is in {amount.currency}, what it is for in {currency}.",
            field="amount.currency_code",
            metadata={"given": amount.currency, "expected": currency},
        )


def _insufficient(client_id: UUID, currency: str, available: int) -> DunwellError:
    return DunwellError(
        Reason.CREDIT_INSUFFICIENT,
        "There is less credit than asked for.",
        metadata={
            "client_id": encode(Prefix.CLIENT, client_id),
            "currency_code": currency,
            "available_minor": str(available),
        },
    )
