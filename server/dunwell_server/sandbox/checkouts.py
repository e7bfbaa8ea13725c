"""Checkout sessions: hosted pages on which a payer pays, saves a method, or subscribes."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass

from dunwell_server.sandbox import payments, setups
from dunwell_server.sandbox.accounts import Account
from dunwell_server.sandbox.answers import Answer, Json, dumps, instant, invalid, missing, parse_instant
from dunwell_server.sandbox.customers import find_customer, find_method, keep_method, method_object, new_customer
from dunwell_server.sandbox.fields import (
    amount_field,
    currency_field,
    flag_field,
    metadata_field,
    needed,
    new_id,
    number_field,
    only,
    text_field,
    url_field,
)
from dunwell_server.sandbox.instruments import DECLINES, INSTRUMENTS, Instrument
from dunwell_server.sandbox.outbox import record_event
from dunwell_server.sandbox.payments import Charge, decline_error

MODES = ("payment", "setup", "subscription")
MAX_LIFE_MS = 30 * 86_400_000


@dataclass(frozen=True, slots=True)
class SessionOrder:
    """A well-formed request for a hosted page."""

    mode: str
    customer: str | None
    amount: int | None
    currency: str | None
    description: str | None
    price: str | None
    quantity: int
    save_method: bool
    success_url: str
    cancel_url: str | None
    expires_at: int | None
    metadata: dict[str, str]

    @classmethod
    def parse(cls, body: Json) -> SessionOrder:
        """Raises Refusal for what is not a request for a page."""
        only(body, cls.__slots__)
        mode = needed(body, "mode")
        if mode not in MODES:
            raise invalid("parameter_invalid", f"mode is one of {', '.join(MODES)}.", "mode")
        pays = mode == "payment"
        success_url = url_field(body, "success_url")
        if success_url is None:
            raise invalid("parameter_missing", "success_url is required.", "success_url")
        if not pays and body.get("amount") is not None:
            raise invalid("parameter_invalid", "Only mode payment asks for an amount.", "amount")
        expires = body.get("expires_at")
        return cls(
            mode,
            text_field(body, "customer"),
            amount_field(body) if pays else None,
            currency_field(body) if pays else None,
            text_field(body, "description"),
            needed(body, "price") if mode == "subscription" else None,
            number_field(body, "quantity", 1, 1_000_000) or 1,
            flag_field(body, "save_method"),
            success_url,
            url_field(body, "cancel_url"),
            None if expires is None else parse_instant(expires, "expires_at"),
            metadata_field(body),
        )


def open_session(connection: sqlite3.Connection, account: Account, order: SessionOrder, key: str | None) -> sqlite3.Row:
    """Writes the page, with the set-up intent it is for, and when it closes by itself. Raises Refusal."""
    now = account.now_ms
    expires = order.expires_at
    if expires is None:
        expires = now + int(account.settings.checkout_seconds * 1000)
    if expires <= now:
        raise invalid("parameter_invalid", "expires_at has passed already.", "expires_at")
    expires = min(expires, now + MAX_LIFE_MS)
    customer = order.customer
    if customer is not None:
        find_customer(connection, account, customer, "customer")
    elif order.mode != "payment" or order.save_method:
        customer = new_customer(connection, account, None, None, order.metadata)["id"]
    identifier, setup = new_id("cs_test"), None
    if order.mode == "setup" and customer is not None:
        setup = setups.open_setup(connection, account, customer, order.metadata, identifier)["id"]
    row: sqlite3.Row = connection.execute(
        "INSERT INTO sessions (id, account, key, mode, status, customer, amount, currency, description, price, "
        "quantity, save_method, success_url, cancel_url, setup, metadata, expires_ms, created_ms) "
        "VALUES (?, ?, ?, ?, 'open', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING *",
        (
            identifier,
            account.name,
            key,
            order.mode,
            customer,
            order.amount,
            order.currency,
            order.description,
            order.price,
            order.quantity,
            int(order.save_method),
            order.success_url,
            order.cancel_url,
            setup,
            dumps(order.metadata),
            expires,
            now,
        ),
    ).fetchone()
    account.plan(connection, identifier, "expire_session", expires)
    return row


def find_session(connection: sqlite3.Connection, account: Account, identifier: str) -> sqlite3.Row:
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM sessions WHERE id = ? AND account = ?", (identifier, account.name)
    ).fetchone()
    if row is None:
        raise missing("checkout_session", identifier)
    return row


def get_session(connection: sqlite3.Connection, account: Account, identifier: str) -> Answer:
    return Answer(200, dumps(session_object(connection, account, find_session(connection, account, identifier))))


def session_object(connection: sqlite3.Connection, account: Account, row: sqlite3.Row) -> Json:
    """A hosted page as the API shows it, with the objects that have come of it."""
    paid = None
    if row["payment"] is not None:
        paid = payments.payment_object(account, payments.find_payment(connection, account, row["payment"]))
    method = None if row["method"] is None else method_object(find_method(connection, account, row["method"]))
    return {
        "id": row["id"],
        "object": "checkout.session",
        "mode": row["mode"],
        "status": row["status"],
        "url": f"{account.home.public_url}/checkout/{row['id']}" if row["status"] == "open" else None,
        "success_url": row["success_url"],
        "cancel_url": row["cancel_url"],
        "customer": row["customer"],
        "amount": row["amount"],
        "currency": row["currency"],
        "description": row["description"],
        "price": row["price"],
        "quantity": row["quantity"],
        "key": row["key"],
        "payment": paid,
        "setup_intent": row["setup"],
        "subscription": row["subscription"],
        "payment_method": method,
        "last_error": json.loads(row["error"]) if row["error"] else None,
        "metadata": json.loads(row["metadata"]),
        "expires_at": instant(row["expires_ms"]),
        "created": instant(row["created_ms"]),
    }


def complete(connection: sqlite3.Connection, account: Account, identifier: str, instrument: Instrument) -> sqlite3.Row:
    """The payer confirms with a test method. The page is complete afterwards, or waits, or shows why not. Raises Refusal."""
    row = find_session(connection, account, identifier)
    if row["status"] != "open":
        raise invalid("checkout_session_unexpected_state", f"A session that is {row['status']} cannot be completed.")
    if waiting_payment(connection, account, row) is not None:
        raise invalid("checkout_session_unexpected_state", "The session waits for the payer's authentication.")
    match row["mode"]:
        case "payment":
            return _pay(connection, account, row, instrument)
        case "setup":
            setup, _ = setups.confirm_setup(connection, account, row["setup"], instrument)
            return follow_setup(connection, account, setup) or find_session(connection, account, identifier)
    if instrument.refuses_attach:
        return _failed(connection, row, dumps(decline_error(DECLINES["generic_decline"])))
    method = keep_method(connection, account, row["customer"], instrument)
    return _done(connection, account, row, account.now_ms, method=method["id"], subscription=new_id("sub"))


def _pay(connection: sqlite3.Connection, account: Account, row: sqlite3.Row, instrument: Instrument) -> sqlite3.Row:
    metadata = json.loads(row["metadata"])
    charge = Charge(
        amount=row["amount"],
        currency=row["currency"],
        payment_method=instrument.token,
        customer=row["customer"],
        reference=metadata.get("payment"),
        description=row["description"],
        off_session=False,
        metadata=metadata,
    )
    plan = payments.plan_for(connection, account, charge, instrument.behaviour, instrument.decline)
    key = metadata.get("key", row["key"])
    paid = payments.open_payment(connection, account, charge, key, plan, instrument, row["id"])
    connection.execute("UPDATE sessions SET payment = ? WHERE seq = ?", (paid["id"], row["seq"]))
    return follow_payment(connection, account, paid, account.now_ms) or row


def waiting_payment(connection: sqlite3.Connection, account: Account, row: sqlite3.Row) -> sqlite3.Row | None:
    """The page's payment, if it waits for its payer."""
    if row["payment"] is None:
        return None
    paid = payments.find_payment(connection, account, row["payment"])
    return paid if paid["status"] == "requires_action" else None


def follow_payment(
    connection: sqlite3.Connection, account: Account, paid: sqlite3.Row, at_ms: int
) -> sqlite3.Row | None:
    """What the state of a payment makes of the page it was made on; None where there is no such page."""
    if paid["session"] is None:
        return None
    row = find_session(connection, account, paid["session"])
    if row["status"] != "open" or paid["status"] in ("requires_action", "canceled"):
        return row
    if paid["status"] == "failed":
        connection.execute("UPDATE sessions SET payment = NULL WHERE seq = ?", (row["seq"],))
        return _failed(connection, row, paid["error"])
    method = None
    if row["save_method"]:
        kept = keep_method(connection, account, row["customer"], INSTRUMENTS[paid["method"]])
        method = kept["id"]
    return _done(connection, account, row, at_ms, method=method)


def follow_setup(connection: sqlite3.Connection, account: Account, setup: sqlite3.Row) -> sqlite3.Row | None:
    """What the state of a set-up intent makes of the page it was made for; None where there is no such page."""
    if setup["session"] is None:
        return None
    row = find_session(connection, account, setup["session"])
    if row["status"] != "open" or setup["status"] == "requires_action":
        return row
    if setup["status"] != "succeeded":
        return _failed(connection, row, setup["error"])
    return _done(connection, account, row, account.now_ms, method=setup["method"])


def _failed(connection: sqlite3.Connection, row: sqlite3.Row, error: str | None) -> sqlite3.Row:
    changed: sqlite3.Row = connection.execute(
        "UPDATE sessions SET error = ? WHERE seq = ? RETURNING *", (error, row["seq"])
    ).fetchone()
    return changed


def _done(
    connection: sqlite3.Connection,
    account: Account,
    row: sqlite3.Row,
    at_ms: int,
    *,
    method: str | None,
    subscription: str | None = None,
) -> sqlite3.Row:
    changed: sqlite3.Row = connection.execute(
        "UPDATE sessions SET status = 'complete', method = ?, subscription = ?, error = NULL WHERE seq = ? RETURNING *",
        (method, subscription, row["seq"]),
    ).fetchone()
    account.unplan(connection, row["id"])
    body = session_object(connection, account, changed)
    record_event(connection, account, "checkout.session.completed", body, at_ms)
    return changed


def expire(connection: sqlite3.Connection, account: Account, identifier: str, at_ms: int | None = None) -> sqlite3.Row:
    """Closes an open page, and what waits on it. Closing one that has expired changes nothing. Raises Refusal."""
    row = find_session(connection, account, identifier)
    if row["status"] == "complete":
        raise invalid("checkout_session_unexpected_state", "A session that is complete does not expire.")
    if row["status"] == "expired":
        return row
    now = account.now_ms if at_ms is None else at_ms
    waiting = waiting_payment(connection, account, row)
    changed: sqlite3.Row = connection.execute(
        "UPDATE sessions SET status = 'expired' WHERE seq = ? RETURNING *", (row["seq"],)
    ).fetchone()
    account.unplan(connection, identifier)
    if waiting is not None:
        payments.change_status(connection, account, waiting, "canceled", now, reason="expired")
    if row["setup"] is not None:
        setups.cancel_setup(connection, account, row["setup"], now)
    body = session_object(connection, account, changed)
    record_event(connection, account, "checkout.session.expired", body, now)
    return changed
