"""Credit on invoices: which entries pay, writing that down, and giving it back.

All of it works on many invoices at once, with the same number of statements. Whoever calls has locked the clients, so that nobody else uses
their credit meanwhile; the database refuses more than is left of an entry in any case.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from dunwell_server.billing import credit_rules
from dunwell_server.billing.events import CreditPlanning
from dunwell_server.billing.model import Invoice
from dunwell_server.billing.model.credit import CreditEntry, CreditSource, CreditUse, CreditUseKind, NewCredit
from dunwell_server.billing.service.journal import credit_change
from dunwell_server.billing.store import credit as store
from dunwell_server.billing.store.credit import AppliedCredit, Wanted
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.ledger import service as ledger
from dunwell_server.platform import journal
from dunwell_server.platform.database import UnitOfWork

__all__ = ["Wanted", "give_back", "plan", "record"]


async def plan(uow: UnitOfWork, wanted: Sequence[Wanted], *, by_hand: bool = False) -> dict[UUID, list[CreditUse]]:
    """Which credit would pay for which invoice, by invoice; those without any are missing. Writes nothing.

    Entries are used by priority, then expiry (none last), then age; several invoices of one client share what there is, in their order.
    Clients whose credit is not used by itself are passed over, unless `by_hand`. What is about to be paid out is left alone.
    """
    asked = [each for each in wanted if each.amount_minor > 0]
    if not asked:
        return {}
    uses, payments = await store.plan(uow, asked, {}, by_hand=by_hand)
    if payments:
        planning = CreditPlanning(sorted(payments), {})
        await uow.publish(planning)
        if planning.reserved:
            uses, _ = await store.plan(uow, asked, planning.reserved, by_hand=by_hand)
    found: dict[UUID, list[CreditUse]] = {}
    for use in uses:
        assert use.invoice_id is not None
        found.setdefault(use.invoice_id, []).append(use)
    return found


async def record(uow: UnitOfWork, uses: Sequence[CreditUse], *, written_off: Collection[UUID] = ()) -> None:
    """Write what was planned: uses, postings, audit and events. What the invoices say (`amount_credited`) is the caller's to write.

    `written_off`: the invoices among them that are, whose payment is a recovery. After the invoices' own postings: they are owed by then.
    """
    if not uses:
        return
    await store.insert_uses(uow, uses)
    await ledger.post(uow, [credit_rules.applied(use, written_off=use.invoice_id in written_off) for use in uses])
    await journal.record(uow, *(_told(use, "applied") for use in uses))


async def give_back(
    uow: UnitOfWork,
    invoices: Sequence[Invoice],
    amounts: Mapping[UUID, int] | None = None,
    *,
    reason: str | None = None,
    source: tuple[CreditSource, UUID] | None = None,
) -> list[CreditUse]:
    """Give credit back from (locked) invoices to the entries that it came from, the last applied first; the uses that did.

    `amounts`: how much of each invoice (None: all that was applied); less where less was applied. Posts that it is owed again. An entry that has
    expired meanwhile goes on in a new one, which lasts as long as the old one had left when it was applied. `amount_credited` is the caller's.
    """
    uses: list[CreditUse] = []
    moves: list[tuple[CreditUse, AppliedCredit]] = []
    left = None if amounts is None else dict(amounts)
    kind, source_id = source or (None, None)
    for applied in await store.applied_to(uow, [invoice.id for invoice in invoices]):
        amount = applied.amount_minor if left is None else min(applied.amount_minor, left.get(applied.invoice_id, 0))
        if amount <= 0:
            continue
        if left is not None:
            left[applied.invoice_id] -= amount
        entry = applied.entry
        use = CreditUse(
            uuid7(), entry.id, CreditUseKind.RELEASED, entry.client_id, entry.currency_code, amount, applied.invoice_id, kind, source_id,
            reason,
        )  # fmt: skip
        uses.append(use)
        if entry.expire_time is not None and entry.expire_time <= uow.now:
            moves.append((use, applied))
    if not uses:
        return []
    await store.insert_uses(uow, uses)
    written_off = {invoice.id for invoice in invoices if invoice.write_off_time is not None}
    await ledger.post(uow, [credit_rules.released(use, written_off=use.invoice_id in written_off) for use in uses])
    await journal.record(uow, *(_told(use, "released") for use in uses))
    await _move(uow, moves)
    return uses


async def _move(uow: UnitOfWork, moves: Sequence[tuple[CreditUse, AppliedCredit]]) -> None:
    """Let what came back to expired entries go on in new ones. Nothing is posted: the client's credit stays what it is."""
    if not moves:
        return
    ids = await store.insert(
        uow, [_successor(use, applied.entry, applied.last_time, uow.now) for use, applied in moves]
    )
    moved = [
        replace(
            use, id=uuid7(), kind=CreditUseKind.MOVED, invoice_id=None, source=CreditSource.CREDIT_ENTRY, source_id=successor, reason=None
        )
        for (use, _), successor in zip(moves, ids, strict=True)
    ]  # fmt: skip
    await store.insert_uses(uow, moved)
    await journal.record(uow, *(_told(use, "moved") for use in moved))


def _successor(use: CreditUse, entry: CreditEntry, applied: datetime, now: datetime) -> NewCredit:
    assert entry.expire_time is not None
    return NewCredit(
        entry.client_id, entry.currency_code, entry.kind, use.amount_minor, CreditSource.CREDIT_ENTRY, entry.id, entry.reason, entry.priority,
        now + (entry.expire_time - applied),
    )  # fmt: skip


def _told(use: CreditUse, verb: str) -> journal.Change:
    details: dict[str, Any] = {
        "used_minor": use.amount_minor,
        "invoice_id": encode(Prefix.INVOICE, use.invoice_id) if use.invoice_id else None,
    }
    return credit_change(use.entry_id, use.client_id, use.currency_code, verb, details, reason=use.reason)
