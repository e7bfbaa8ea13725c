"""Payments of the gateway: charging, what a payment may become later, and the movements they cause.

Functions here run inside one group commit of the book and are all or nothing.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from dataclasses import dataclass
from typing import Any

from dunwell_server.sandbox.accounts import Account, machine_ms, next_due
from dunwell_server.sandbox.answers import Answer, Json, dumps, error_body, instant, invalid, missing
from dunwell_server.sandbox.instruments import DECLINES, INSTRUMENTS, Behaviour, Decline, Instrument

MAX_AMOUNT = 10**15


@dataclass(frozen=True, slots=True)
class Charge:
    """A well-formed request to charge."""

    amount: int
    currency: str
    payment_method: str
    customer: str | None
    reference: str | None
    description: str | None
    off_session: bool
    metadata: dict[str, str]

    @classmethod
    def parse(cls, body: Json) -> Charge:
        """Raises Refusal for what is not a request to charge."""
        unknown = set(body) - set(cls.__slots__)
        if unknown:
            raise invalid("parameter_unknown", f"Unknown fields: {', '.join(sorted(unknown))}.")
        amount, currency, off_session = body.get("amount"), body.get("currency"), body.get("off_session", False)
        if not isinstance(amount, int) or isinstance(amount, bool) or not 0 < amount <= MAX_AMOUNT:
            raise invalid("amount_invalid", "amount is a positive whole number of minor units.", "amount")
        if not isinstance(currency, str) or not (len(currency) == 3 and currency.isascii() and currency.isalpha()):
            raise invalid("currency_invalid", "currency is an ISO 4217 code.", "currency")
        if not isinstance(off_session, bool):
            raise invalid("parameter_invalid", "off_session is true or false.", "off_session")
        method = text_field(body, "payment_method")
        if method is None:
            raise invalid("parameter_missing", "payment_method is required.", "payment_method")
        return cls(
            amount,
            currency.upper(),
            method,
            text_field(body, "customer"),
            text_field(body, "reference"),
            text_field(body, "description"),
            off_session,
            metadata_field(body),
        )


def text_field(body: Json, name: str) -> str | None:
    value = body.get(name)
    if value is not None and (not isinstance(value, str) or not 0 < len(value) <= 1000):
        raise invalid("parameter_invalid", f"{name} is a text of 1 to 1000 characters.", name)
    return value


def metadata_field(body: Json) -> dict[str, str]:
    metadata = body.get("metadata", {})
    if not isinstance(metadata, dict) or len(metadata) > 50 or not all(isinstance(v, str) for v in metadata.values()):
        raise invalid("parameter_invalid", "metadata has at most 50 text values.", "metadata")
    return metadata


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def payment_object(row: sqlite3.Row) -> Json:
    """A payment as the API shows it."""
    waits = row["status"] == "requires_action"
    return {
        "id": row["id"],
        "object": "payment",
        "status": row["status"],
        "amount": row["amount"],
        "currency": row["currency_received"],
        "amount_received": row["amount_received"],
        "customer": row["customer"],
        "payment_method": row["method"],
        "description": row["description"],
        "reference": row["reference"],
        "key": row["key"],
        "metadata": json.loads(row["metadata"]),
        "off_session": bool(row["off_session"]),
        "last_payment_error": json.loads(row["error"]) if row["error"] else None,
        "cancellation_reason": row["canceled_reason"],
        "next_action": {
            "type": "redirect_to_url",
            "url": f"https://sandbox.invalid/authenticate/{row['id']}",
            "expires_at": instant(row["action_expires_ms"]),
        }
        if waits
        else None,
        "created": instant(row["created_ms"]),
    }


def find_payment(connection: sqlite3.Connection, account: Account, identifier: str) -> sqlite3.Row:
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM payments WHERE id = ? AND account = ?", (identifier, account.name)
    ).fetchone()
    if row is None:
        raise missing("payment", identifier)
    return row


def resolve_instrument(connection: sqlite3.Connection, account: Account, charge: Charge) -> Instrument:
    """The test method behind the named payment method: attached to the customer, or a bare token."""
    bare = INSTRUMENTS.get(charge.payment_method)
    if charge.customer is not None:
        owned = connection.execute(
            "SELECT 1 FROM customers WHERE id = ? AND account = ?", (charge.customer, account.name)
        ).fetchone()
        if owned is None:
            raise missing("customer", charge.customer, "customer")
    if bare is not None:
        return bare
    row = connection.execute(
        "SELECT customer, token, detached FROM methods WHERE id = ? AND account = ?",
        (charge.payment_method, account.name),
    ).fetchone()
    if row is None or row["detached"]:
        raise missing("payment_method", charge.payment_method, "payment_method")
    if charge.customer != row["customer"]:
        raise invalid("payment_method_customer_mismatch", "The method belongs to another customer.", "payment_method")
    return INSTRUMENTS[row["token"]]


def count_up(connection: sqlite3.Connection, account: Account, name: str) -> int:
    """Adds one to a counter of the account and returns the new value (1 the first time)."""
    row = connection.execute(
        "INSERT INTO counters (account, name, n) VALUES (?, ?, 1) "
        "ON CONFLICT (account, name) DO UPDATE SET n = n + 1 RETURNING n",
        (account.name, name),
    ).fetchone()
    return int(row["n"])


@dataclass(frozen=True, slots=True)
class Plan:
    """What a charge becomes."""

    status: str
    received: int = 0
    currency: str | None = None
    decline: Decline | None = None
    later: str | None = None
    due_ms: int = 0


def plan_for(
    connection: sqlite3.Connection, account: Account, charge: Charge, behaviour: Behaviour, decline: str | None
) -> Plan:
    """Decides the outcome of a charge that is being executed."""
    now, settings = account.now_ms, account.settings
    success = Plan("succeeded", charge.amount)
    declined = Plan("failed", decline=DECLINES[decline or "generic_decline"])
    match behaviour:
        case Behaviour.DECLINE:
            return declined
        case Behaviour.REQUIRE_ACTION_ON_SESSION if charge.off_session:
            return Plan("failed", decline=DECLINES["authentication_required"])
        case Behaviour.REQUIRE_ACTION | Behaviour.REQUIRE_ACTION_ON_SESSION:
            expires = now + int(settings.action_seconds * 1000)
            return Plan("requires_action", later="expire_action", due_ms=expires)
        case Behaviour.PENDING_THEN_SUCCESS | Behaviour.PENDING_THEN_FAILURE:
            due = now + int(settings.pending_seconds * 1000)
            succeeds = behaviour is Behaviour.PENDING_THEN_SUCCESS
            return Plan("processing", decline=declined.decline, later="settle" if succeeds else "fail", due_ms=due)
        case Behaviour.FAIL_THEN_SUCCEED:
            uses = count_up(connection, account, f"uses:{charge.payment_method}")
            return success if uses > settings.failures_before_success else declined
        case Behaviour.WRONG_AMOUNT:
            return Plan("succeeded", charge.amount + 1)
        case Behaviour.WRONG_CURRENCY:
            return Plan("succeeded", charge.amount, "EUR" if charge.currency != "EUR" else "USD")
        case _:
            return success


def open_payment(
    connection: sqlite3.Connection, account: Account, charge: Charge, key: str | None, plan: Plan
) -> sqlite3.Row:
    """Writes the payment, the movement it causes and what will become of it."""
    identifier, now = new_id("pay"), account.now_ms
    failed = plan.status == "failed"
    row: sqlite3.Row = connection.execute(
        "INSERT INTO payments (id, account, key, reference, status, amount, currency, amount_received, "
        "currency_received, customer, method, description, metadata, off_session, error, action_expires_ms, created_ms)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING *",
        (
            identifier,
            account.name,
            key,
            charge.reference,
            plan.status,
            charge.amount,
            charge.currency,
            plan.received,
            plan.currency or charge.currency,
            charge.customer,
            charge.payment_method,
            charge.description,
            dumps(charge.metadata),
            int(charge.off_session),
            dumps(decline_error(plan.decline)) if failed and plan.decline else None,
            plan.due_ms if plan.status == "requires_action" else None,
            now,
        ),
    ).fetchone()
    if plan.status == "succeeded":
        move_money(connection, row, now)
    if plan.later is not None:
        connection.execute(
            "INSERT INTO transitions (account, due_ms, payment, kind) VALUES (?, ?, ?, ?)",
            (account.name, plan.due_ms, identifier, plan.later),
        )
        account.next_due_ms = min(account.next_due_ms or plan.due_ms, plan.due_ms)
    record_event(connection, account, f"payment.{plan.status}", payment_object(row), now)
    return row


def decline_error(decline: Decline) -> Json:
    error: dict[str, Any] = {
        "type": "card_error",
        "code": decline.code,
        "decline_code": decline.decline_code,
        "network_decline_code": decline.network_decline_code,
        "advice_code": decline.advice_code,
        "message": decline.message,
    }
    return {name: value for name, value in error.items() if value is not None}


def charge_answer(row: sqlite3.Row) -> Answer:
    """200 with the payment, or 402 with the refusal and the failed payment inside, as at Stripe."""
    body = payment_object(row)
    if row["status"] == "failed":
        return Answer(402, dumps({"error": {**body["last_payment_error"], "payment": body}}))
    return Answer(200, dumps(body))


def server_error() -> Answer:
    return Answer(500, error_body("api_error", "internal", "Something went wrong on the gateway's side."))


def move_money(connection: sqlite3.Connection, row: sqlite3.Row, at_ms: int) -> None:
    """One line of the independent book: this much money has moved for this payment."""
    connection.execute(
        "INSERT INTO movements (account, kind, payment, reference, key, amount, currency, created_ms, recorded_ms) "
        "VALUES (?, 'charge', ?, ?, ?, ?, ?, ?, ?)",
        (
            row["account"],
            row["id"],
            row["reference"],
            row["key"],
            row["amount_received"],
            row["currency_received"],
            at_ms,
            machine_ms(),
        ),
    )


def record_event(connection: sqlite3.Connection, account: Account, kind: str, body: Json, at_ms: int) -> None:
    """Remembers a transition for whoever tells the outside about it."""
    connection.execute(
        "INSERT INTO events (id, account, type, object, created_ms) VALUES (?, ?, ?, ?, ?)",
        (new_id("evt"), account.name, kind, dumps(body), at_ms),
    )


def change_status(
    connection: sqlite3.Connection,
    account: Account,
    row: sqlite3.Row,
    status: str,
    at_ms: int,
    *,
    decline: Decline | None = None,
    reason: str | None = None,
) -> sqlite3.Row:
    """Ends a waiting payment: money moves if it succeeded, what was planned for it is dropped, an event is written."""
    succeeded = status == "succeeded"
    changed: sqlite3.Row = connection.execute(
        "UPDATE payments SET status = ?, amount_received = ?, error = ?, canceled_reason = ?, action_expires_ms = NULL "
        "WHERE seq = ? RETURNING *",
        (
            status,
            row["amount"] if succeeded else 0,
            dumps(decline_error(decline)) if decline else None,
            reason,
            row["seq"],
        ),
    ).fetchone()
    if succeeded:
        move_money(connection, changed, at_ms)
    connection.execute("DELETE FROM transitions WHERE payment = ?", (row["id"],))
    record_event(connection, account, f"payment.{status}", payment_object(changed), at_ms)
    return changed


def run_due(connection: sqlite3.Connection, account: Account, until_ms: int) -> list[Json]:
    """Executes the transitions due by ``until_ms`` (account time), earliest first, and tells what happened."""
    happened: list[Json] = []
    if account.next_due_ms is None or account.next_due_ms > until_ms:
        return happened
    while True:
        due = connection.execute(
            "SELECT due_ms, payment, kind FROM transitions WHERE account = ? AND due_ms <= ? "
            "ORDER BY due_ms, seq LIMIT 1",
            (account.name, until_ms),
        ).fetchone()
        if due is None:
            break
        row = find_payment(connection, account, due["payment"])
        match due["kind"]:
            case "settle":
                changed = change_status(connection, account, row, "succeeded", due["due_ms"])
            case "fail":
                decline = DECLINES["generic_decline"]
                changed = change_status(connection, account, row, "failed", due["due_ms"], decline=decline)
            case _:
                changed = change_status(connection, account, row, "canceled", due["due_ms"], reason="expired")
        happened.append(
            {
                "payment": row["id"],
                "reference": row["reference"],
                "from": row["status"],
                "to": changed["status"],
                "at": instant(due["due_ms"]),
            }
        )
    account.next_due_ms = next_due(connection, account)
    return happened


def cancel(connection: sqlite3.Connection, account: Account, identifier: str) -> Answer:
    """Ends a payment that waits for the payer. Cancelling what is canceled changes nothing."""
    row = find_payment(connection, account, identifier)
    if row["status"] == "requires_action":
        row = change_status(connection, account, row, "canceled", account.now_ms, reason="requested_by_merchant")
    elif row["status"] != "canceled":
        raise invalid("payment_unexpected_state", f"A payment that is {row['status']} cannot be canceled.")
    return Answer(200, dumps(payment_object(row)))


def complete_action(connection: sqlite3.Connection, account: Account, identifier: str, body: Json) -> Answer:
    """Plays the payer: passes or fails the authentication that the payment waits for."""
    result = body.get("result")
    if result not in ("succeed", "fail"):
        raise invalid("parameter_invalid", 'result is "succeed" or "fail".', "result")
    row = find_payment(connection, account, identifier)
    if row["status"] != "requires_action":
        raise invalid("payment_unexpected_state", f"A payment that is {row['status']} waits for no action.")
    if result == "succeed":
        changed = change_status(connection, account, row, "succeeded", account.now_ms)
    else:
        decline = DECLINES["authentication_not_handled"]
        changed = change_status(connection, account, row, "failed", account.now_ms, decline=decline)
    return Answer(200, dumps(payment_object(changed)))
