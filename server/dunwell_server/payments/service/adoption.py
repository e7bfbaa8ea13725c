"""Taking over what the provider has and the book has lost: after a restore, or money under a key that moved twice.

A payment's id follows from what it is for, so that one the book has lost is found again from the invoices that are open; it then gets the
provider's answer as any attempt does. What cannot be found that way is money received: it settles what the client owes, the rest is credit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from dunwell_server.billing.model import Invoice
from dunwell_server.billing.service import credit
from dunwell_server.billing.service.collection import apply_money, lock_invoices
from dunwell_server.kernel.ids import Prefix, derive_uuid, encode
from dunwell_server.ledger import rules
from dunwell_server.ledger.service import post
from dunwell_server.payments.matching import Ours, Theirs, subject_of
from dunwell_server.payments.model import (
    Channel,
    Payment,
    PaymentKind,
    PaymentState,
    Source,
    attempt_id_of,
    idempotency_key,
    slot_payment_id,
)
from dunwell_server.payments.service.findings import ADOPTED, DIFFERENT, Finding
from dunwell_server.payments.service.outcomes import apply_outcome
from dunwell_server.payments.store import methods, payments, scheduling
from dunwell_server.payments.store import reconciliation as store
from dunwell_server.payments.store.methods import ProviderAccount
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Category, Change, Severity, record
from dunwell_server.platform.provider_references import remember

_SLOTS_AHEAD: Final = 5
_REVISIONS_AHEAD: Final = 4
_CYCLES_AHEAD: Final = 3


@dataclass(frozen=True, slots=True)
class _Slot:
    """What a lost payment was for."""

    invoice_id: UUID
    client_id: UUID
    cycle: int
    slot: int
    revision: int


@dataclass(frozen=True, slots=True)
class _Home:
    """Where theirs-only money belongs, as far as the book can tell: a slot, an invoice, a client, or nothing."""

    slot: _Slot | None = None
    payment: Payment | None = None
    client_id: UUID | None = None

    @property
    def is_again(self) -> bool:
        """The money that was asked for has come already."""
        return self.payment is not None and self.payment.state is PaymentState.SUCCEEDED


async def preview(uow: UnitOfWork, account: ProviderAccount, theirs: Theirs, ours: Ours | None) -> Finding:
    """What `adopt` would tell; nothing is written."""
    home = await _home(uow, account, theirs, ours)
    return _told(account, theirs, home, None) if _can_take(theirs, home) else _unexplained(account, theirs, home)


async def adopt(uow: UnitOfWork, account: ProviderAccount, theirs: Theirs, ours: Ours | None) -> Finding | None:
    """Take over what only the provider has; what nothing explains is told as a difference. None: somebody else was faster.

    `ours`: an attempt with the same key whose success is another object: this money came on top of it.
    """
    home = await _home(uow, account, theirs, ours)
    if home.client_id is not None:
        await scheduling.lock_client(uow, home.client_id)
        keys = [theirs.key] if theirs.key and ours is None else []
        if await store.match(uow, account.id, keys, [theirs.reference]):
            return None
    if home.slot is not None and ours is None:
        payment_id = await _recover_slot(uow, account, theirs, home.slot)
        if payment_id is not None:
            return _told(account, theirs, home, payment_id)
    if not _can_take(theirs, home):
        return _unexplained(account, theirs, home)
    payment_id = await _receive(uow, account, theirs, home)
    return _told(account, theirs, home, payment_id)


def _can_take(theirs: Theirs, home: _Home) -> bool:
    return home.client_id is not None and (theirs.moved or home.slot is not None)


async def _home(uow: UnitOfWork, account: ProviderAccount, theirs: Theirs, ours: Ours | None) -> _Home:
    if ours is not None:
        return _Home(payment=await payments.get(uow, ours.payment_id), client_id=ours.client_id)
    if not theirs.is_ours or theirs.payment_id is None:
        return _Home()
    existing = await payments.get(uow, theirs.payment_id)
    if existing is not None:
        return _Home(payment=existing, client_id=existing.client_id)
    client_id = None
    if theirs.customer_reference is not None:
        known = await store.clients_of(uow, account.id, [theirs.customer_reference])
        client_id = known.get(theirs.customer_reference)
    slot = await _slot(uow, theirs, client_id)
    return _Home(slot=slot, client_id=slot.client_id if slot else client_id)


async def _slot(uow: UnitOfWork, theirs: Theirs, client_id: UUID | None) -> _Slot | None:
    """The slot whose payment has the id that the provider names, among the invoices that are open."""
    for invoice in await store.open_invoices(uow, client_id, theirs.currency_code, theirs.amount_minor):
        for cycle in range(invoice.collection_cycle, invoice.collection_cycle + _CYCLES_AHEAD):
            for slot in range(invoice.failure_count + _SLOTS_AHEAD):
                for revision in range(_REVISIONS_AHEAD):
                    if slot_payment_id(uow.firm_id, invoice.id, cycle, slot, revision) == theirs.payment_id:
                        return _Slot(invoice.id, invoice.client_id, cycle, slot, revision)
    return None


async def _recover_slot(uow: UnitOfWork, account: ProviderAccount, theirs: Theirs, slot: _Slot) -> UUID | None:
    """Write the lost payment and attempt again, and give them the provider's answer; None where the book has no room for them."""
    assert theirs.payment_id is not None
    await lock_invoices(uow, [slot.invoice_id])
    attached = (await methods.of_clients(uow, [slot.client_id]))[slot.client_id]
    method = next((method for method in attached if method.account_id == account.id), None)
    if method is None:
        return None
    attempt_no = theirs.attempt_no or 1
    attempt_id = attempt_id_of(theirs.payment_id, attempt_no)
    written = await store.insert_payment(uow, {
        "payment_id": theirs.payment_id, "client_id": slot.client_id, "invoice_id": slot.invoice_id, "channel": Channel.AUTOPAY.value,
        "kind": PaymentKind.AUTOPAY.value, "currency": theirs.currency_code, "amount": theirs.amount_minor, "cycle": slot.cycle,
        "slot": slot.slot, "revision": slot.revision, "provider": account.provider, "account_id": account.id, "mode": account.mode,
        "method_id": method.id, "created": theirs.created_time, "attempt_id": attempt_id, "attempt_no": attempt_no,
        "key": idempotency_key(theirs.payment_id, attempt_no),
    })  # fmt: skip
    if not written:
        return None
    await store.mark_sent(uow, attempt_id, theirs.created_time)
    await apply_outcome(uow, attempt_id, theirs.evidence, Source.LOOKUP)
    await remember(uow, account.id, theirs.reference)
    return theirs.payment_id


async def _receive(uow: UnitOfWork, account: ProviderAccount, theirs: Theirs, home: _Home) -> UUID:
    """Record the money as received: it settles what it was for, or what the client owes, and what is left is credit."""
    assert home.client_id is not None
    parts = await _shares(uow, theirs, home)
    applied = await apply_money(uow, parts) if parts else []
    credited = theirs.amount_minor - sum(parts.values())
    # Under its own id where that is free: the request that made it, repeated, then finds it.
    payment_id = derive_uuid("payment", "adopted", account.id, theirs.reference)
    if home.payment is None and theirs.payment_id is not None:
        payment_id = theirs.payment_id
    await store.insert_adopted(uow, {
        "id": payment_id, "client_id": home.client_id, "invoice_id": next(iter(parts)) if len(parts) == 1 else None,
        "currency": theirs.currency_code, "amount": theirs.amount_minor, "allocated": sum(parts.values()), "credited": credited,
        "provider": account.provider, "account_id": account.id, "mode": account.mode, "reference": theirs.reference,
        "invoices": list(parts), "amounts": list(parts.values()),
    })  # fmt: skip
    await post(uow, [rules.payment_received(
        payment_id, home.client_id, theirs.currency_code, account.provider, settled=sum(each.settled for each in applied),
        recovered=sum(each.recovered for each in applied), credited=credited,
    )])  # fmt: skip
    await credit.add(uow, [credit.excess(payment_id, home.client_id, theirs.currency_code, credited)])
    metadata = {
        "client_id": encode(Prefix.CLIENT, home.client_id), "amount_minor": theirs.amount_minor, "currency_code": theirs.currency_code,
        "kind": PaymentKind.ADOPTED.value, "provider": account.provider, "provider_reference": theirs.reference, "credited_minor": credited,
        "allocations": [{"invoice_id": encode(Prefix.INVOICE, each), "amount_minor": share} for each, share in parts.items()],
        "source": Source.LOOKUP.value,
    }  # fmt: skip
    # Money on top of a success means that somebody has paid twice.
    severity = Severity.CRITICAL if home.is_again else Severity.WARNING
    await record(uow, Change(
        Category.PAYMENT, "payment_recorded", "payment", payment_id, "payment.succeeded", severity, metadata,
    ))  # fmt: skip
    await remember(uow, account.id, theirs.reference)
    return payment_id


async def _shares(uow: UnitOfWork, theirs: Theirs, home: _Home) -> dict[UUID, int]:
    """Which invoices the money settles: the one it was for, else the one that owes just that, else the one due first before the others."""
    assert home.client_id is not None
    named = home.slot.invoice_id if home.slot else home.payment.invoice_id if home.payment else None
    if named is not None:
        invoices = await lock_invoices(uow, [named])
    else:
        owed = await scheduling.owed_in(uow, home.client_id, theirs.currency_code) if home.payment is None else []
        locked = {invoice.id: invoice for invoice in (await lock_invoices(uow, owed) if owed else [])}
        invoices = [locked[each] for each in owed]
        exact = [invoice for invoice in invoices if invoice.open_amount == theirs.amount_minor]
        invoices = exact[:1] or invoices
    return _fill(invoices, theirs.amount_minor)


def _fill(invoices: list[Invoice], amount_minor: int) -> dict[UUID, int]:
    parts: dict[UUID, int] = {}
    for invoice in invoices:
        share = min(amount_minor, invoice.open_amount)
        if share > 0:
            parts[invoice.id] = share
            amount_minor -= share
    return parts


def _told(account: ProviderAccount, theirs: Theirs, home: _Home, payment_id: UUID | None) -> Finding:
    invoice_id = home.slot.invoice_id if home.slot else home.payment.invoice_id if home.payment else None
    if home.is_again:
        message = "money came a second time; it is kept as the client's credit"
    else:
        message = "the book had lost it" if theirs.moved else "the book had lost it; it is still on its way"
    return Finding(
        subject_of(account.id, "payment", theirs.reference), ADOPTED, theirs.reference, None, message, payment_id=payment_id,
        client_id=home.client_id, invoice_id=invoice_id, amount_minor=theirs.amount_minor if theirs.moved else None,
        currency_code=theirs.currency_code if theirs.moved else None,
    )  # fmt: skip


def _unexplained(account: ProviderAccount, theirs: Theirs, home: _Home) -> Finding:
    message = "the provider has it, the book does not, and nothing on it tells what it is for"
    return Finding(
        subject_of(account.id, "payment", theirs.reference), DIFFERENT, theirs.reference, "THEIRS_ONLY", message, client_id=home.client_id,
        amount_minor=theirs.amount_minor, currency_code=theirs.currency_code,
    )  # fmt: skip
