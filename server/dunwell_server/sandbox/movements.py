"""The account's money movements: the independent book that everything else is compared with."""

from __future__ import annotations

import sqlite3

from dunwell_server.sandbox.accounts import machine_ms
from dunwell_server.sandbox.answers import Json, instant

KINDS = (
    "charge",
    "refund",
    "refund_failure",
    "dispute",
    "dispute_fee",
    "dispute_reversal",
    "dispute_fee_reversal",
)


def move_money(
    connection: sqlite3.Connection, payment: sqlite3.Row, kind: str, moved_by: str, amount: int, at_ms: int
) -> None:
    """One line: so much has moved for this payment, below zero if away from the account. Each kind once per object."""
    connection.execute(
        "INSERT INTO movements (account, kind, object, payment, reference, key, amount, currency, created_ms, "
        "recorded_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            payment["account"],
            kind,
            moved_by,
            payment["id"],
            payment["reference"],
            payment["key"],
            amount,
            payment["currency_received"],
            at_ms,
            machine_ms(),
        ),
    )


def movement_object(row: sqlite3.Row) -> Json:
    """A line as the API shows it."""
    return {
        "account": row["account"],
        "kind": row["kind"],
        "object": row["object"],
        "payment": row["payment"],
        "reference": row["reference"],
        "key": row["key"],
        "amount": row["amount"],
        "currency": row["currency"],
        "created": instant(row["created_ms"]),
        "recorded": instant(row["recorded_ms"]),
    }
