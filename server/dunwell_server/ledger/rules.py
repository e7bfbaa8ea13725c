"""Which accounts each business fact moves. Pure; amounts are minor units and zero parts are left out."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from dunwell_server.ledger.model import Account, Entry, Posting


def _posting(source_type: str, source_id: UUID, kind: str, entries: list[Entry]) -> Posting:
    return Posting(source_type, source_id, kind, [entry for entry in entries if entry.amount_minor])


def invoice_finalized(
    invoice_id: UUID, client_id: UUID, currency: str, *, earned: int, deferred: int, tax: int
) -> Posting:
    """The client owes the total; what is billed in advance is deferred revenue until it is recognised."""
    return _posting("invoice", invoice_id, "finalized", [
        Entry(Account.RECEIVABLE, earned + deferred + tax, currency, client_id),
        Entry(Account.REVENUE, -earned, currency),
        Entry(Account.DEFERRED_REVENUE, -deferred, currency),
        Entry(Account.TAX_PAYABLE, -tax, currency),
    ])  # fmt: skip


def opening_balance(invoice_id: UUID, client_id: UUID, currency: str, amount: int) -> Posting:
    """The client owes what another system billed; there it was earned, so no revenue is earned here."""
    return _posting("invoice", invoice_id, "finalized", [
        Entry(Account.RECEIVABLE, amount, currency, client_id),
        Entry(Account.OPENING_BALANCE, -amount, currency),
    ])  # fmt: skip


def invoice_voided(
    invoice_id: UUID, client_id: UUID, currency: str, *, earned: int, deferred: int, tax: int
) -> Posting:
    """The reverse of the finalisation: nothing was received, nothing is owed, nothing was earned.

    What was deferred and has been recognised since is `earned` by now.
    """
    return _posting("invoice", invoice_id, "voided", [
        Entry(Account.RECEIVABLE, -(earned + deferred + tax), currency, client_id),
        Entry(Account.REVENUE, earned, currency),
        Entry(Account.DEFERRED_REVENUE, deferred, currency),
        Entry(Account.TAX_PAYABLE, tax, currency),
    ])  # fmt: skip


def revenue_recognized(recognition_id: UUID, currency: str, amount: int, firm_time: datetime) -> Posting:
    """What one day has earned of all that was billed in advance, at the end of that day."""
    return Posting("recognition", recognition_id, "recognized", [
        Entry(Account.DEFERRED_REVENUE, amount, currency),
        Entry(Account.REVENUE, -amount, currency),
    ] if amount else [], firm_time)  # fmt: skip


def invoice_written_off(invoice_id: UUID, client_id: UUID, currency: str, amount_due: int) -> Posting:
    """What is still owed becomes bad debt; money that comes later is a recovery."""
    return _posting("invoice", invoice_id, "written_off", [
        Entry(Account.BAD_DEBT, amount_due, currency),
        Entry(Account.RECEIVABLE, -amount_due, currency, client_id),
    ])  # fmt: skip


def payment_received(
    payment_id: UUID, client_id: UUID, currency: str, provider: str, *, settled: int, recovered: int, credited: int
) -> Posting:
    """Money in. `settled` pays open invoices, `recovered` pays written-off ones, `credited` is the excess kept as client credit.

    A provider's money is in clearing until it is paid out; offline money is cash.
    """
    money = Account.CASH if provider == "manual" else Account.CLEARING
    return _posting("payment", payment_id, "received", [
        Entry(money, settled + recovered + credited, currency, provider=provider),
        Entry(Account.RECEIVABLE, -settled, currency, client_id),
        Entry(Account.RECOVERIES, -recovered, currency),
        Entry(Account.CLIENT_CREDIT, -credited, currency, client_id),
    ])  # fmt: skip


def refunded(
    refund_id: UUID,
    client_id: UUID,
    currency: str,
    *,
    payable: int,
    reopened: int,
    given_up: int,
    from_credit: int,
    kept: bool,
    provider: str,
) -> Posting:
    """Money out. `payable` was credited by notes, `reopened` is owed again, `from_credit` was the client's credit.

    `given_up` is owed again but not expected: of invoices that are written off, or what neither credit nor invoices cover. `kept`: the money
    stays as the client's credit. Otherwise it leaves the provider's clearing; what is paid back outside of any leaves cash.
    """
    amount = payable + reopened + given_up + from_credit
    money = Account.CASH if provider == "manual" else Account.CLEARING
    out = (
        Entry(Account.CLIENT_CREDIT, -amount, currency, client_id) if kept else Entry(money, -amount, currency, provider=provider)
    )  # fmt: skip
    return _posting("refund", refund_id, "refunded", [
        Entry(Account.REFUND_PAYABLE, payable, currency),
        Entry(Account.RECEIVABLE, reopened, currency, client_id),
        Entry(Account.BAD_DEBT, given_up, currency),
        Entry(Account.CLIENT_CREDIT, from_credit, currency, client_id),
        out,
    ])  # fmt: skip


def refund_came_back(refund_id: UUID, client_id: UUID, currency: str, provider: str, amount: int) -> Posting:
    """A refund that had succeeded failed: its money is with the provider again, and is the client's credit."""
    return _posting("refund", refund_id, "came_back", [
        Entry(Account.CLEARING, amount, currency, provider=provider),
        Entry(Account.CLIENT_CREDIT, -amount, currency, client_id),
    ])  # fmt: skip
