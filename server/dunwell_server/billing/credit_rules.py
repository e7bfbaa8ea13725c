"""Which accounts a client's credit moves. Pure; amounts are minor units."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from dunwell_server.billing.model import CreditNote
from dunwell_server.billing.model.credit import CreditEntry, CreditKind, CreditUse
from dunwell_server.ledger.model import Account, Entry, Posting

_PAID_BY: Final = {
    CreditKind.GOODWILL: Account.PROMOTIONAL_CONTRA_REVENUE,
    CreditKind.PROMOTION: Account.PROMOTIONAL_CONTRA_REVENUE,
    CreditKind.PREPAYMENT: Account.CASH,
    CreditKind.DISPUTE_ADJUSTMENT: Account.BAD_DEBT,
}
_OUTSIDE: Final = "manual"
"""The provider of money that came outside of any."""


def _other(kind: CreditKind, amount: int, currency: str) -> Entry:
    account = _PAID_BY[kind]
    return Entry(account, amount, currency, provider=_OUTSIDE if account is Account.CASH else None)


def granted(entry_id: UUID, client_id: UUID, currency: str, kind: CreditKind, amount: int) -> Posting:
    """A person gives credit. Good will and promotions cost revenue; a prepayment is money received outside any provider; what is given
    after a dispute is a loss."""
    entries = [_other(kind, amount, currency), Entry(Account.CLIENT_CREDIT, -amount, currency, client_id)]
    return Posting("credit", entry_id, "granted", entries)


def reversed_grant(use: CreditUse, entry: CreditEntry) -> Posting:
    """What is left of a grant is taken back: its reverse."""
    amount, currency = use.amount_minor, use.currency_code
    entries = [Entry(Account.CLIENT_CREDIT, amount, currency, entry.client_id), _other(entry.kind, -amount, currency)]
    return Posting("credit_use", use.id, "reversed", entries)


def applied(use: CreditUse, *, written_off: bool) -> Posting:
    """Credit pays what is owed; of an invoice that was written off it is a recovery."""
    amount, currency = use.amount_minor, use.currency_code
    paid = (
        Entry(Account.RECOVERIES, -amount, currency)
        if written_off
        else Entry(Account.RECEIVABLE, -amount, currency, use.client_id)
    )
    return Posting(
        "credit_use", use.id, "applied", [Entry(Account.CLIENT_CREDIT, amount, currency, use.client_id), paid]
    )


def released(use: CreditUse, *, written_off: bool) -> Posting:
    """Credit goes back from an invoice, which is owed again; of one that was written off it is given up at once."""
    owed = (
        Entry(Account.BAD_DEBT, use.amount_minor, use.currency_code)
        if written_off
        else Entry(Account.RECEIVABLE, use.amount_minor, use.currency_code, use.client_id)
    )
    credit = Entry(Account.CLIENT_CREDIT, -use.amount_minor, use.currency_code, use.client_id)
    return Posting("credit_use", use.id, "released", [owed, credit])


def expired(use: CreditUse) -> Posting:
    """The client's time is over: what was held for it is the firm's."""
    return Posting("credit_use", use.id, "expired", [
        Entry(Account.CLIENT_CREDIT, use.amount_minor, use.currency_code, use.client_id),
        Entry(Account.BREAKAGE, -use.amount_minor, use.currency_code),
    ])  # fmt: skip


def note_issued(note: CreditNote, *, written_off: bool) -> Posting:
    """What was billed is taken back, in the parts in which it was booked: it is not owed any more (or, of an invoice that was written off, was not
    lost), becomes the client's credit, or is owed to the client until it is paid back, as all of a refund's note is."""
    currency = note.currency_code
    owed = note.applied_minor + note.released_minor
    payable = note.payable_minor if note.refund_id is None else note.amount_minor
    entries = [
        Entry(Account.REVENUE, note.amount_minor - note.tax_minor - note.deferred_minor, currency),
        Entry(Account.DEFERRED_REVENUE, note.deferred_minor, currency),
        Entry(Account.TAX_PAYABLE, note.tax_minor, currency),
        Entry(Account.BAD_DEBT, -owed, currency) if written_off else Entry(Account.RECEIVABLE, -owed, currency, note.client_id),
        Entry(Account.CLIENT_CREDIT, -note.credited_minor, currency, note.client_id),
        Entry(Account.REFUND_PAYABLE, -payable, currency),
    ]  # fmt: skip
    return Posting("credit_note", note.id, "issued", [entry for entry in entries if entry.amount_minor])
