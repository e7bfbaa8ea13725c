"""A client's accounts as a statement tells of them, from the ledger's entries. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final
from zoneinfo import ZoneInfo

from dunwell_server.billing.documents.facts import AccountFacts, Movement
from dunwell_server.billing.store.documents import Moved
from dunwell_server.kernel.calendar import local_date

_WORDS: Final = {
    ("invoice", "finalized"): "invoice",
    ("invoice", "voided"): "invoice_voided",
    ("invoice", "written_off"): "invoice_written_off",
    ("payment", "received"): "payment",
    ("refund", "refunded"): "refund",
    ("refund", "came_back"): "refund_came_back",
    ("credit_note", "issued"): "credit_note",
    ("credit", "granted"): "credit_granted",
    ("credit_use", "applied"): "credit_applied",
    ("credit_use", "released"): "credit_reversed",
    ("credit_use", "reversed"): "credit_reversed",
    ("credit_use", "expired"): "credit_expired",
}
"""The words `movement.…` for a posting's source and kind."""


def movement_name(source_type: str, kind: str) -> str:
    """The word for a posting: `movement.other` for what has none of its own."""
    return _WORDS.get((source_type, kind), "dispute" if source_type == "dispute" else "other")


def accounts(opening: Iterable[Mapping[str, Any]], movements: Iterable[Moved], zone: ZoneInfo) -> list[AccountFacts]:
    """The accounts in each currency, by its code. What a client owes is a debit of the ledger; what it holds as credit, a credit."""
    before: dict[str, dict[str, int]] = {}
    for row in opening:
        before.setdefault(row["currency_code"], {})[row["account"]] = row["balance"]
    moved: dict[str, dict[str, list[Movement]]] = {}
    for each in movements:
        movement = Movement(
            local_date(each.firm_time, zone),
            movement_name(each.source_type, each.kind),
            each.number,
            each.amount if each.account == "receivable" else -each.amount,
        )
        moved.setdefault(each.currency_code, {}).setdefault(each.account, []).append(movement)
    return [
        AccountFacts(
            currency,
            before.get(currency, {}).get("receivable", 0),
            -before.get(currency, {}).get("client_credit", 0),
            moved.get(currency, {}).get("receivable", []),
            moved.get(currency, {}).get("client_credit", []),
        )
        for currency in sorted(before.keys() | moved.keys())
    ]
