"""Refunds: money sent back, in parts or whole, now or later, and sometimes coming home again."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass

from dunwell_server.sandbox.accounts import Account
from dunwell_server.sandbox.answers import Answer, Json, dumps, instant, invalid, missing
from dunwell_server.sandbox.fields import amount_field, currency_field, metadata_field, needed, new_id, only, text_field
from dunwell_server.sandbox.instruments import INSTRUMENTS, Behaviour, Instrument
from dunwell_server.sandbox.movements import move_money
from dunwell_server.sandbox.outbox import record_event
from dunwell_server.sandbox.payments import find_payment


@dataclass(frozen=True, slots=True)
class RefundOrder:
    """A well-formed request to refund. Without ``amount`` all that is left."""

    payment: str
    amount: int | None
    currency: str | None
    reference: str | None
    metadata: dict[str, str]

    @classmethod
    def parse(cls, body: Json) -> RefundOrder:
        """Raises Refusal for what is not a request to refund."""
        only(body, cls.__slots__)
        return cls(
            needed(body, "payment"),
            amount_field(body) if body.get("amount") is not None else None,
            currency_field(body) if body.get("currency") is not None else None,
            text_field(body, "reference"),
            metadata_field(body),
        )


def refundable(connection: sqlite3.Connection, account: Account, order: RefundOrder) -> tuple[sqlite3.Row, int]:
    """The payment and the amount to send back. Raises Refusal where that may not be."""
    payment = find_payment(connection, account, order.payment, "payment")
    if payment["status"] != "succeeded":
        raise invalid("payment_unexpected_state", f"A payment that is {payment['status']} has nothing to refund.")
    if payment["disputed"]:
        raise invalid(
            "payment_disputed", "A payment that is disputed, or was charged back, is not refunded.", "payment"
        )
    left = payment["amount_received"] - payment["amount_refunded"]
    amount = left if order.amount is None else order.amount
    if not 0 < amount <= left:
        raise invalid("refund_exceeds_payment", f"Of the payment {left} can be refunded.", "amount")
    if order.currency is not None and order.currency != payment["currency_received"]:
        raise invalid("currency_invalid", "A refund has the currency of its payment.", "currency")
    return payment, amount


def instrument_of(connection: sqlite3.Connection, payment: sqlite3.Row) -> Instrument:
    """The test method that a payment was made with."""
    bare = INSTRUMENTS.get(payment["method"])
    if bare is not None:
        return bare
    row = connection.execute("SELECT token FROM methods WHERE id = ?", (payment["method"],)).fetchone()
    return INSTRUMENTS[row["token"]]


def open_refund(
    connection: sqlite3.Connection,
    account: Account,
    payment: sqlite3.Row,
    amount: int,
    order: RefundOrder,
    key: str | None,
    behaviour: Behaviour,
) -> sqlite3.Row:
    """Writes the refund, the movement it causes and what will become of it."""
    now = account.now_ms
    status, later, wait, reason = _plan(account, behaviour)
    if behaviour is Behaviour.WRONG_AMOUNT:
        left = payment["amount_received"] - payment["amount_refunded"]
        amount += 1 if amount < left else -1 if amount > 1 else 0
    row: sqlite3.Row = connection.execute(
        "INSERT INTO refunds (id, account, payment, key, reference, status, amount, currency, failure_reason, metadata, "
        "created_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING *",
        (
            new_id("re"),
            account.name,
            payment["id"],
            key,
            order.reference or payment["reference"],
            status,
            amount,
            payment["currency_received"],
            reason,
            dumps(order.metadata),
            now,
        ),
    ).fetchone()
    if status != "failed":
        _refunded(connection, payment["id"], amount)
    if status == "succeeded":
        move_money(connection, payment, "refund", row["id"], -amount, now)
    if later is not None:
        account.plan(connection, row["id"], later, now + int(wait * 1000))
    record_event(connection, account, "refund.created", refund_object(row), now)
    if status == "failed":
        record_event(connection, account, "refund.failed", refund_object(row), now)
    return row


def _plan(account: Account, behaviour: Behaviour) -> tuple[str, str | None, float, str | None]:
    """Status at first, what happens later and after how many seconds, and the reason of a failure."""
    settings = account.settings
    match behaviour:
        case Behaviour.PENDING_THEN_SUCCESS:
            return "pending", "refund_succeed", settings.refund_seconds, None
        case Behaviour.PENDING_THEN_FAILURE:
            return "pending", "refund_fail", settings.refund_seconds, None
        case Behaviour.SUCCEED_THEN_FAIL:
            return "succeeded", "refund_fail", settings.refund_failure_seconds, None
        case Behaviour.DECLINE:
            return "failed", None, 0.0, "declined"
    return "succeeded", None, 0.0, None


def _refunded(connection: sqlite3.Connection, payment: str, amount: int) -> None:
    connection.execute("UPDATE payments SET amount_refunded = amount_refunded + ? WHERE id = ?", (amount, payment))


def refund_object(row: sqlite3.Row) -> Json:
    """A refund as the API shows it."""
    return {
        "id": row["id"],
        "object": "refund",
        "status": row["status"],
        "amount": row["amount"],
        "currency": row["currency"],
        "payment": row["payment"],
        "reference": row["reference"],
        "key": row["key"],
        "failure_reason": row["failure_reason"],
        "metadata": json.loads(row["metadata"]),
        "created": instant(row["created_ms"]),
    }


def find_refund(connection: sqlite3.Connection, account: Account, identifier: str) -> sqlite3.Row:
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM refunds WHERE id = ? AND account = ?", (identifier, account.name)
    ).fetchone()
    if row is None:
        raise missing("refund", identifier)
    return row


def get_refund(connection: sqlite3.Connection, account: Account, identifier: str) -> Answer:
    return Answer(200, dumps(refund_object(find_refund(connection, account, identifier))))


def end_refund(
    connection: sqlite3.Connection,
    account: Account,
    row: sqlite3.Row,
    status: str,
    at_ms: int,
    reason: str = "expired_or_canceled_card",
) -> sqlite3.Row:
    """Has a pending refund succeed or fail, or one that had succeeded fail after all: the money comes home."""
    if row["status"] == "failed" or row["status"] == status:
        raise invalid("refund_unexpected_state", f"A refund that is {row['status']} does not become {status}.")
    failed = status == "failed"
    changed: sqlite3.Row = connection.execute(
        "UPDATE refunds SET status = ?, failure_reason = ? WHERE seq = ? RETURNING *",
        (status, reason if failed else None, row["seq"]),
    ).fetchone()
    payment = find_payment(connection, account, row["payment"])
    if not failed:
        move_money(connection, payment, "refund", row["id"], -row["amount"], at_ms)
    else:
        _refunded(connection, row["payment"], -row["amount"])
        if row["status"] == "succeeded":
            move_money(connection, payment, "refund_failure", row["id"], row["amount"], at_ms)
    account.unplan(connection, row["id"])
    record_event(connection, account, "refund.failed" if failed else "refund.updated", refund_object(changed), at_ms)
    return changed
