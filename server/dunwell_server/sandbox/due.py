"""What an account's time brings about by itself, and what a payer does: changes that reach over several objects."""

from __future__ import annotations

import sqlite3

from dunwell_server.sandbox import checkouts, disputes, payments, refunds, setups
from dunwell_server.sandbox.accounts import Account, next_due
from dunwell_server.sandbox.answers import Answer, Json, dumps, instant, invalid
from dunwell_server.sandbox.instruments import DECLINES


def run_due(connection: sqlite3.Connection, account: Account, until_ms: int) -> list[Json]:
    """Executes the transitions due by ``until_ms`` (account time), earliest first, and tells what happened."""
    happened: list[Json] = []
    if account.next_due_ms is None or account.next_due_ms > until_ms:
        return happened
    while True:
        due = connection.execute(
            "SELECT seq, due_ms, object, kind FROM transitions WHERE account = ? AND due_ms <= ? "
            "ORDER BY due_ms, seq LIMIT 1",
            (account.name, until_ms),
        ).fetchone()
        if due is None:
            break
        connection.execute("DELETE FROM transitions WHERE seq = ?", (due["seq"],))
        before, after, reference = _execute(connection, account, due["kind"], due["object"], due["due_ms"])
        happened.append(
            {
                "object": due["object"],
                "reference": reference,
                "from": before,
                "to": after,
                "at": instant(due["due_ms"]),
            }
        )
    account.next_due_ms = next_due(connection, account)
    return happened


def _execute(
    connection: sqlite3.Connection, account: Account, kind: str, identifier: str, at_ms: int
) -> tuple[str, str, str | None]:
    """One transition: status before, status after, and the reference of what it is about."""
    match kind:
        case "settle" | "fail" | "expire_action":
            row = payments.find_payment(connection, account, identifier)
            changed = _end_payment(connection, account, row, kind, at_ms)
            return row["status"], changed["status"], row["reference"]
        case "refund_succeed" | "refund_fail":
            row = refunds.find_refund(connection, account, identifier)
            status = "succeeded" if kind == "refund_succeed" else "failed"
            return (
                row["status"],
                refunds.end_refund(connection, account, row, status, at_ms)["status"],
                row["reference"],
            )
        case "expire_setup":
            row = setups.find_setup(connection, account, identifier)
            return row["status"], setups.cancel_setup(connection, account, identifier, at_ms)["status"], None
        case "expire_session":
            row = checkouts.find_session(connection, account, identifier)
            return row["status"], checkouts.expire(connection, account, identifier, at_ms)["status"], None
    row = disputes.find_dispute(connection, account, identifier)
    verdict = "won" if kind == "dispute_won" else "lost"
    return row["status"], disputes.decide(connection, account, row, verdict, at_ms)["status"], row["reference"]


def _end_payment(
    connection: sqlite3.Connection, account: Account, row: sqlite3.Row, kind: str, at_ms: int
) -> sqlite3.Row:
    match kind:
        case "settle":
            return payments.change_status(connection, account, row, "succeeded", at_ms)
        case "fail":
            decline = DECLINES["generic_decline"]
            return payments.change_status(connection, account, row, "failed", at_ms, decline=decline)
    return payments.change_status(connection, account, row, "canceled", at_ms, reason="expired")


def cancel(connection: sqlite3.Connection, account: Account, identifier: str) -> Answer:
    """Ends a payment that waits for the payer. Cancelling what is canceled changes nothing."""
    row = payments.find_payment(connection, account, identifier)
    if row["status"] == "requires_action":
        reason = "requested_by_merchant"
        row = payments.change_status(connection, account, row, "canceled", account.now_ms, reason=reason)
    elif row["status"] != "canceled":
        raise invalid("payment_unexpected_state", f"A payment that is {row['status']} cannot be canceled.")
    return Answer(200, dumps(payments.payment_object(account, row)))


def complete_action(connection: sqlite3.Connection, account: Account, identifier: str, body: Json) -> Answer:
    """Plays the payer: passes or fails the authentication that a payment or a set-up waits for."""
    result = body.get("result")
    if result not in ("succeed", "fail"):
        raise invalid("parameter_invalid", 'result is "succeed" or "fail".', "result")
    passed = result == "succeed"
    if identifier.startswith("seti_"):
        setup = setups.authenticated(
            connection, account, setups.find_setup(connection, account, identifier), passed=passed
        )
        checkouts.follow_setup(connection, account, setup)
        return Answer(200, dumps(setups.setup_object(connection, account, setup)))
    row = payments.find_payment(connection, account, identifier)
    if row["status"] != "requires_action":
        raise invalid("payment_unexpected_state", f"A payment that is {row['status']} waits for no action.")
    status = "succeeded" if passed else "failed"
    decline = None if passed else DECLINES["authentication_not_handled"]
    changed = payments.change_status(connection, account, row, status, account.now_ms, decline=decline)
    checkouts.follow_payment(connection, account, changed, account.now_ms)
    return Answer(200, dumps(payments.payment_object(account, changed)))
