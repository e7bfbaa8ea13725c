"""The ledger's entries as a statement tells of them."""

from __future__ import annotations

from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest

from dunwell_server.billing.documents.formats import words_of
from dunwell_server.billing.service.account_statements import accounts, movement_name
from dunwell_server.billing.store.documents import Moved

LATE = datetime(2026, 3, 31, 20, tzinfo=UTC)


def test_debits_are_owed_and_credits_held() -> None:
    opening = [
        {"currency_code": "USD", "account": "receivable", "balance": 700},
        {"currency_code": "USD", "account": "client_credit", "balance": -300},
    ]
    moved = [
        Moved(LATE, "credit_use", "applied", "USD", "receivable", -200, ""),
        Moved(LATE, "credit_use", "applied", "USD", "client_credit", 200, ""),
        Moved(LATE, "invoice", "finalized", "EUR", "receivable", 900, "HV-1"),
    ]
    euros, dollars = accounts(opening, moved, ZoneInfo("Asia/Kolkata"))
    assert (euros.currency_code, euros.owed_before, euros.credit_before, euros.credit) == ("EUR", 0, 0, [])
    assert [(each.day, each.name, each.number, each.amount_minor) for each in euros.owed] == [
        (date(2026, 4, 1), "invoice", "HV-1", 900)
    ]
    assert (dollars.owed_before, dollars.credit_before) == (700, 300)
    assert [each.amount_minor for each in dollars.owed] == [-200]
    assert [each.amount_minor for each in dollars.credit] == [-200]


@pytest.mark.parametrize(
    ("source", "kind", "name"),
    [
        ("invoice", "finalized", "invoice"), ("invoice", "voided", "invoice_voided"), ("payment", "received", "payment"),
        ("refund", "came_back", "refund_came_back"), ("credit_note", "issued", "credit_note"), ("credit_use", "expired", "credit_expired"),
        ("dispute", "lost_2", "dispute"), ("something", "new", "other"),
    ],
)  # fmt: skip
def test_every_posting_has_words(source: str, kind: str, name: str) -> None:
    assert movement_name(source, kind) == name
    assert f"movement.{name}" in words_of("en")
