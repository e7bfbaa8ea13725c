"""Which accounts a dispute moves. Pure; amounts are minor units and zero parts are left out."""

from __future__ import annotations

from dunwell_server.disputes.model import Dispute
from dunwell_server.ledger.model import Account, Entry, Posting


def _posting(dispute: Dispute, kind: str, entries: list[Entry]) -> Posting:
    return Posting("dispute", dispute.id, kind, [entry for entry in entries if entry.amount_minor])


def withdrawn(dispute: Dispute) -> Posting:
    """The provider has taken the disputed amount and its fee."""
    currency, provider = dispute.currency_code, dispute.provider
    return _posting(dispute, "withdrawn", [
        Entry(Account.DISPUTED_FUNDS, dispute.amount_minor, currency),
        Entry(Account.DISPUTE_FEES, dispute.fee_minor, currency),
        Entry(Account.CLEARING, -(dispute.amount_minor + dispute.fee_minor), currency, provider=provider),
    ])  # fmt: skip


def reinstated(dispute: Dispute, fee_returned: int, version: int) -> Posting:
    """Won: the amount, and perhaps the fee, come back."""
    currency, provider = dispute.currency_code, dispute.provider
    return _posting(dispute, f"reinstated_{version}", [
        Entry(Account.CLEARING, dispute.amount_minor + fee_returned, currency, provider=provider),
        Entry(Account.DISPUTED_FUNDS, -dispute.amount_minor, currency),
        Entry(Account.DISPUTE_FEES, -fee_returned, currency),
    ])  # fmt: skip


def _lost_entries(dispute: Dispute, owed: int, recovered: int, sign: int) -> list[Entry]:
    currency, client = dispute.currency_code, dispute.client_id
    return [
        Entry(Account.RECEIVABLE, sign * owed, currency, client),
        Entry(Account.RECOVERIES, sign * recovered, currency),
        Entry(Account.CLIENT_CREDIT, sign * dispute.credit_minor, currency, client),
        Entry(Account.BAD_DEBT, sign * dispute.loss_minor, currency),
        Entry(Account.DISPUTED_FUNDS, -sign * dispute.amount_minor, currency),
    ]


def lost(dispute: Dispute, owed: int, recovered: int, version: int) -> Posting:
    """Lost: what was settled is owed again, what had become credit is taken from it, and the rest is the firm's loss."""
    return _posting(dispute, f"lost_{version}", _lost_entries(dispute, owed, recovered, 1))


def unlost(dispute: Dispute, owed: int, recovered: int, version: int) -> Posting:
    """The reverse, when a lost dispute is open again. `dispute` is as it was when lost."""
    return _posting(dispute, f"appealed_{version}", _lost_entries(dispute, owed, recovered, -1))


def covered(dispute: Dispute, owed: int, recovered: int, credit: int, version: int) -> Posting:
    """Part of what the firm had borne of a lost dispute is there after all: it is owed again, or taken from the client's credit."""
    currency, client = dispute.currency_code, dispute.client_id
    return _posting(dispute, f"covered_{version}", [
        Entry(Account.RECEIVABLE, owed, currency, client),
        Entry(Account.RECOVERIES, recovered, currency),
        Entry(Account.CLIENT_CREDIT, credit, currency, client),
        Entry(Account.BAD_DEBT, -(owed + recovered + credit), currency),
    ])  # fmt: skip
