"""Payments of the gateway: charging, what a payment may become later, and the movements they cause.

Functions here run inside one group commit of the book and are all or nothing.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from dunwell_server.sandbox import disputes
from dunwell_server.sandbox.accounts import Account
from dunwell_server.sandbox.answers import Answer, Json, dumps, error_body, instant, invalid, missing
from dunwell_server.sandbox.fields import (
    amount_field,
    currency_field,
    flag_field,
    metadata_field,
    needed,
    new_id,
    only,
    text_field,
    url_field,
)
from dunwell_server.sandbox.instruments import DECLINES, INSTRUMENTS, Behaviour, Decline, Instrument
from dunwell_server.sandbox.movements import move_money
from dunwell_server.sandbox.outbox import record_event


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
    return_url: str | None = None

    @classmethod
    def parse(cls, body: Json) -> Charge:
        """Raises Refusal for what is not a request to charge."""
        only(body, cls.__slots__)
        return cls(
            amount_field(body),
            currency_field(body),
            needed(body, "payment_method"),
            text_field(body, "customer"),
            text_field(body, "reference"),
            text_field(body, "description"),
            flag_field(body, "off_session"),
            metadata_field(body),
            url_field(body, "return_url"),
        )


def payment_object(account: Account, row: sqlite3.Row) -> Json:
    """A payment as the API shows it."""
    waits = row["status"] == "requires_action"
    return {
        "id": row["id"],
        "object": "payment",
        "status": row["status"],
        "amount": row["amount"],
        "currency": row["currency_received"],
        "amount_received": row["amount_received"],
        "amount_refunded": row["amount_refunded"],
        "disputed": bool(row["disputed"]),
        "customer": row["customer"],
        "payment_method": row["method"],
        "description": row["description"],
        "reference": row["reference"],
        "key": row["key"],
        "metadata": json.loads(row["metadata"]),
        "off_session": bool(row["off_session"]),
        "session": row["session"],
        "last_payment_error": json.loads(row["error"]) if row["error"] else None,
        "cancellation_reason": row["canceled_reason"],
        "next_action": {
            "type": "redirect_to_url",
            "url": authenticate_url(account, row["id"]),
            "expires_at": instant(row["action_expires_ms"]),
        }
        if waits
        else None,
        "created": instant(row["created_ms"]),
    }


def authenticate_url(account: Account, identifier: str) -> str:
    """The hosted page on which the payer passes or fails the authentication of a payment or a set-up."""
    return f"{account.home.public_url}/authenticate/{identifier}"


def find_payment(
    connection: sqlite3.Connection, account: Account, identifier: str, param: str | None = None
) -> sqlite3.Row:
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM payments WHERE id = ? AND account = ?", (identifier, account.name)
    ).fetchone()
    if row is None:
        raise missing("payment", identifier, param)
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
    connection: sqlite3.Connection,
    account: Account,
    charge: Charge,
    key: str | None,
    plan: Plan,
    instrument: Instrument,
    session: str | None = None,
) -> sqlite3.Row:
    """Writes the payment, the movement it causes and what will become of it.

    On a hosted page (``session``) the payment bears its key only once it succeeds or is under way: until then the
    payer may try another way, and nothing about the key is decided.
    """
    identifier, now = new_id("pay"), account.now_ms
    failed = plan.status == "failed"
    row: sqlite3.Row = connection.execute(
        "INSERT INTO payments (id, account, key, reference, status, amount, currency, amount_received, "
        "currency_received, customer, method, description, metadata, off_session, error, action_expires_ms, "
        "return_url, session, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING *",
        (
            identifier,
            account.name,
            key if session is None or plan.status in ("succeeded", "processing") else None,
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
            charge.return_url,
            session,
            now,
        ),
    ).fetchone()
    if plan.status == "succeeded":
        move_money(connection, row, "charge", identifier, row["amount_received"], now)
    if plan.later is not None:
        account.plan(connection, identifier, plan.later, plan.due_ms)
    record_event(connection, account, f"payment.{plan.status}", payment_object(account, row), now)
    if plan.status == "succeeded" and instrument.dispute is not None:
        disputes.open_dispute(connection, account, row, instrument.dispute, inquiry=instrument.inquiry)
        row = find_payment(connection, account, identifier)
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


def charge_answer(account: Account, row: sqlite3.Row) -> Answer:
    """200 with the payment, or 402 with the refusal and the failed payment inside, as at Stripe."""
    body = payment_object(account, row)
    if row["status"] == "failed":
        return Answer(402, dumps({"error": {**body["last_payment_error"], "payment": body}}))
    return Answer(200, dumps(body))


def server_error() -> Answer:
    return Answer(500, error_body("api_error", "internal", "Something went wrong on the gateway's side."))


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
        "UPDATE payments SET status = ?, amount_received = ?, error = ?, canceled_reason = ?, action_expires_ms = NULL, "
        "key = coalesce(key, ?) WHERE seq = ? RETURNING *",
        (
            status,
            row["amount"] if succeeded else 0,
            dumps(decline_error(decline)) if decline else None,
            reason,
            json.loads(row["metadata"]).get("key") if succeeded and row["session"] else None,
            row["seq"],
        ),
    ).fetchone()
    if succeeded:
        move_money(connection, changed, "charge", row["id"], changed["amount_received"], at_ms)
    account.unplan(connection, row["id"])
    record_event(connection, account, f"payment.{status}", payment_object(account, changed), at_ms)
    return changed
