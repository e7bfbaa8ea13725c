"""Which accounts each business fact moves. Pure; amounts are minor units and zero parts are left out."""

from __future__ import annotations

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


def invoice_voided(
    invoice_id: UUID, client_id: UUID, currency: str, *, earned: int, deferred: int, tax: int
) -> Posting:
    """The exact reverse of the finalisation: nothing was received, nothing is owed, nothing was earned."""
    return _posting("invoice", invoice_id, "voided", [
        Entry(Account.RECEIVABLE, -(earned + deferred + tax), currency, client_id),
        Entry(Account.REVENUE, earned, currency),
        Entry(Account.DEFERRED_REVENUE, deferred, currency),
        Entry(Account.TAX_PAYABLE, tax, currency),
    ])  # fmt: skip


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
