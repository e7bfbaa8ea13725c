"""Customers and the payment methods kept for them."""

from __future__ import annotations

import json
import sqlite3

from dunwell_server.sandbox.accounts import Account
from dunwell_server.sandbox.answers import Answer, Json, dumps, instant, invalid, missing
from dunwell_server.sandbox.fields import metadata_field, needed, new_id, number_field, only, text_field
from dunwell_server.sandbox.instruments import DECLINES, INSTRUMENTS, Instrument
from dunwell_server.sandbox.outbox import record_event
from dunwell_server.sandbox.payments import decline_error


def new_customer(
    connection: sqlite3.Connection, account: Account, name: str | None, email: str | None, metadata: dict[str, str]
) -> sqlite3.Row:
    row: sqlite3.Row = connection.execute(
        "INSERT INTO customers (id, account, name, email, metadata, created_ms) VALUES (?, ?, ?, ?, ?, ?) RETURNING *",
        (new_id("cus"), account.name, name, email, dumps(metadata), account.now_ms),
    ).fetchone()
    record_event(connection, account, "customer.created", customer_object(row), account.now_ms)
    return row


def create_customer(connection: sqlite3.Connection, account: Account, body: Json) -> Answer:
    """A new customer of the account."""
    row = new_customer(connection, account, text_field(body, "name"), text_field(body, "email"), metadata_field(body))
    return Answer(200, dumps(customer_object(row)))


def get_customer(connection: sqlite3.Connection, account: Account, identifier: str) -> Answer:
    return Answer(200, dumps(customer_object(find_customer(connection, account, identifier))))


def find_customer(
    connection: sqlite3.Connection, account: Account, identifier: str, param: str | None = None
) -> sqlite3.Row:
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM customers WHERE id = ? AND account = ?", (identifier, account.name)
    ).fetchone()
    if row is None:
        raise missing("customer", identifier, param)
    return row


def update_customer(connection: sqlite3.Connection, account: Account, identifier: str, body: Json) -> Answer:
    """Sets what is named: name, e-mail, default method; merges metadata (an empty text removes)."""
    only(body, ("name", "email", "metadata", "default_payment_method"))
    row = find_customer(connection, account, identifier)
    name, email = text_field(body, "name"), text_field(body, "email")
    default = text_field(body, "default_payment_method")
    if default is not None:
        method = find_method(connection, account, default, "default_payment_method")
        if method["detached"] or method["customer"] != identifier:
            raise missing("payment_method", default, "default_payment_method")
    merged = json.loads(row["metadata"]) | metadata_field(body)
    changed: sqlite3.Row = connection.execute(
        "UPDATE customers SET name = coalesce(?, name), email = coalesce(?, email), metadata = ?, "
        "default_method = coalesce(?, default_method) WHERE id = ? RETURNING *",
        (name, email, dumps({key: value for key, value in merged.items() if value}), default, identifier),
    ).fetchone()
    record_event(connection, account, "customer.updated", customer_object(changed), account.now_ms)
    return Answer(200, dumps(customer_object(changed)))


def customer_object(row: sqlite3.Row) -> Json:
    """A customer as the API shows it."""
    return {
        "id": row["id"],
        "object": "customer",
        "name": row["name"],
        "email": row["email"],
        "default_payment_method": row["default_method"],
        "metadata": json.loads(row["metadata"]),
        "created": instant(row["created_ms"]),
    }


def customer_methods(connection: sqlite3.Connection, account: Account, identifier: str) -> Answer:
    """The customer's methods, newest first."""
    find_customer(connection, account, identifier)
    rows = connection.execute(
        "SELECT * FROM methods WHERE customer = ? AND account = ? AND NOT detached ORDER BY created_ms DESC, id DESC",
        (identifier, account.name),
    )
    return Answer(200, dumps({"object": "list", "data": [method_object(row) for row in rows]}))


def token_field(body: Json, name: str) -> Instrument:
    """The test method that a field names."""
    token = needed(body, name)
    instrument = INSTRUMENTS.get(token)
    if instrument is None:
        raise invalid("resource_missing", f"{name} is not a known test payment method.", name)
    return instrument


def keep_method(connection: sqlite3.Connection, account: Account, customer: str, instrument: Instrument) -> sqlite3.Row:
    """Keeps a test method for a customer, under an id of its own."""
    row: sqlite3.Row = connection.execute(
        "INSERT INTO methods (id, account, customer, token, created_ms) VALUES (?, ?, ?, ?, ?) RETURNING *",
        (new_id("pm"), account.name, customer, instrument.token, account.now_ms),
    ).fetchone()
    record_event(connection, account, "payment_method.attached", method_object(row), account.now_ms)
    return row


def attach_method(connection: sqlite3.Connection, account: Account, body: Json) -> Answer:
    """Keeps a test token for a customer; 402 where the method is refused."""
    customer = needed(body, "customer")
    instrument = token_field(body, "token")
    find_customer(connection, account, customer, "customer")
    if instrument.refuses_attach:
        return Answer(402, dumps({"error": decline_error(DECLINES["generic_decline"])}))
    return Answer(200, dumps(method_object(keep_method(connection, account, customer, instrument))))


def find_method(
    connection: sqlite3.Connection, account: Account, identifier: str, param: str | None = None
) -> sqlite3.Row:
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM methods WHERE id = ? AND account = ?", (identifier, account.name)
    ).fetchone()
    if row is None:
        raise missing("payment_method", identifier, param)
    return row


def get_method(connection: sqlite3.Connection, account: Account, identifier: str) -> Answer:
    return Answer(200, dumps(method_object(find_method(connection, account, identifier))))


def update_method(connection: sqlite3.Connection, account: Account, identifier: str, body: Json) -> Answer:
    """What a card network's updater does: another expiry, or another card behind the same id (``token``)."""
    only(body, ("token", "exp_month", "exp_year"))
    row = find_method(connection, account, identifier)
    token = token_field(body, "token").token if body.get("token") is not None else row["token"]
    month, year = number_field(body, "exp_month", 1, 12), number_field(body, "exp_year", 2000, 2200)
    changed: sqlite3.Row = connection.execute(
        "UPDATE methods SET token = ?, exp_month = coalesce(?, exp_month), exp_year = coalesce(?, exp_year) "
        "WHERE id = ? RETURNING *",
        (token, month, year, identifier),
    ).fetchone()
    record_event(connection, account, "payment_method.updated", method_object(changed), account.now_ms)
    return Answer(200, dumps(method_object(changed)))


def detach_method(connection: sqlite3.Connection, account: Account, identifier: str) -> Answer:
    """Makes a kept method unusable. Detaching it again changes nothing."""
    row = find_method(connection, account, identifier)
    if not row["detached"]:
        connection.execute("UPDATE customers SET default_method = NULL WHERE default_method = ?", (identifier,))
        former = row["customer"]
        row = connection.execute("UPDATE methods SET detached = 1 WHERE id = ? RETURNING *", (identifier,)).fetchone()
        body = method_object(row) | {"previous_customer": former}
        record_event(connection, account, "payment_method.detached", body, account.now_ms)
    return Answer(200, dumps(method_object(row)))


def method_object(row: sqlite3.Row) -> Json:
    """A kept method as the API shows it."""
    details = INSTRUMENTS[row["token"]].details()
    if row["exp_month"] is not None:
        details["exp_month"] = row["exp_month"]
    if row["exp_year"] is not None:
        details["exp_year"] = row["exp_year"]
    return {
        "id": row["id"],
        "object": "payment_method",
        "type": "card",
        "customer": None if row["detached"] else row["customer"],
        "card": details,
        "created": instant(row["created_ms"]),
    }
