"""Customers, kept payment methods, and the lists of the API."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from dunwell_server.sandbox.accounts import Account
from dunwell_server.sandbox.answers import Answer, Json, dumps, instant, invalid, missing, parse_instant
from dunwell_server.sandbox.instruments import DECLINES, INSTRUMENTS
from dunwell_server.sandbox.payments import (
    decline_error,
    metadata_field,
    new_id,
    payment_object,
    record_event,
    text_field,
)

MAX_PAGE = 100


def create_customer(connection: sqlite3.Connection, account: Account, body: Json) -> Answer:
    """A new customer of the account."""
    row = connection.execute(
        "INSERT INTO customers (id, account, name, email, metadata, created_ms) VALUES (?, ?, ?, ?, ?, ?) RETURNING *",
        (
            new_id("cus"),
            account.name,
            text_field(body, "name"),
            text_field(body, "email"),
            dumps(metadata_field(body)),
            account.now_ms,
        ),
    ).fetchone()
    record_event(connection, account, "customer.created", _customer_object(row), account.now_ms)
    return Answer(200, dumps(_customer_object(row)))


def get_customer(connection: sqlite3.Connection, account: Account, identifier: str) -> Answer:
    return Answer(200, dumps(_customer_object(_customer(connection, account, identifier, None))))


def _customer(connection: sqlite3.Connection, account: Account, identifier: str, param: str | None) -> sqlite3.Row:
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM customers WHERE id = ? AND account = ?", (identifier, account.name)
    ).fetchone()
    if row is None:
        raise missing("customer", identifier, param)
    return row


def _customer_object(row: sqlite3.Row) -> Json:
    return {
        "id": row["id"],
        "object": "customer",
        "name": row["name"],
        "email": row["email"],
        "metadata": json.loads(row["metadata"]),
        "created": instant(row["created_ms"]),
    }


def attach_method(connection: sqlite3.Connection, account: Account, body: Json) -> Answer:
    """Keeps a test token for a customer under an id of its own."""
    customer, token = text_field(body, "customer"), text_field(body, "token")
    if customer is None:
        raise invalid("parameter_missing", "customer is required.", "customer")
    instrument = INSTRUMENTS.get(token or "")
    if instrument is None:
        raise invalid("resource_missing", "token is not a known test payment method.", "token")
    _customer(connection, account, customer, "customer")
    if instrument.refuses_attach:
        return Answer(402, dumps({"error": decline_error(DECLINES["generic_decline"])}))
    row = connection.execute(
        "INSERT INTO methods (id, account, customer, token, created_ms) VALUES (?, ?, ?, ?, ?) RETURNING *",
        (new_id("pm"), account.name, customer, instrument.token, account.now_ms),
    ).fetchone()
    record_event(connection, account, "payment_method.attached", _method_object(row), account.now_ms)
    return Answer(200, dumps(_method_object(row)))


def _method(connection: sqlite3.Connection, account: Account, identifier: str) -> sqlite3.Row:
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM methods WHERE id = ? AND account = ?", (identifier, account.name)
    ).fetchone()
    if row is None:
        raise missing("payment_method", identifier)
    return row


def get_method(connection: sqlite3.Connection, account: Account, identifier: str) -> Answer:
    return Answer(200, dumps(_method_object(_method(connection, account, identifier))))


def detach_method(connection: sqlite3.Connection, account: Account, identifier: str) -> Answer:
    """Makes a kept method unusable. Detaching it again changes nothing."""
    row = _method(connection, account, identifier)
    if not row["detached"]:
        row = connection.execute("UPDATE methods SET detached = 1 WHERE id = ? RETURNING *", (identifier,)).fetchone()
        record_event(connection, account, "payment_method.detached", _method_object(row), account.now_ms)
    return Answer(200, dumps(_method_object(row)))


def _method_object(row: sqlite3.Row) -> Json:
    return {
        "id": row["id"],
        "object": "payment_method",
        "type": "card",
        "customer": None if row["detached"] else row["customer"],
        "card": INSTRUMENTS[row["token"]].details(),
        "created": instant(row["created_ms"]),
    }


def list_payments(connection: sqlite3.Connection, account: Account, query: Mapping[str, str]) -> Answer:
    """Payments, oldest first, from the one book: what is not in this list does not exist."""
    where: dict[str, Any] = {}
    for name in ("reference", "key", "status"):
        if name in query:
            where[f"{name} = ?"] = query[name]
    if "created_from" in query:
        where["created_ms >= ?"] = parse_instant(query["created_from"], "created_from")
    if "created_to" in query:
        where["created_ms < ?"] = parse_instant(query["created_to"], "created_to")
    return _page(connection, account, "payments", where, query, payment_object)


def list_movements(connection: sqlite3.Connection, account: Account, query: Mapping[str, str]) -> Answer:
    """The account's money movements, oldest first."""
    where = {"reference = ?": query["reference"]} if "reference" in query else {}
    return _page(connection, account, "movements", where, query, movement_object)


def list_events(connection: sqlite3.Connection, account: Account, query: Mapping[str, str]) -> Answer:
    """What happened in the account, oldest first."""
    return _page(connection, account, "events", {}, query, _event_object)


def movement_object(row: sqlite3.Row) -> Json:
    return {
        "account": row["account"],
        "kind": row["kind"],
        "payment": row["payment"],
        "reference": row["reference"],
        "key": row["key"],
        "amount": row["amount"],
        "currency": row["currency"],
        "created": instant(row["created_ms"]),
        "recorded": instant(row["recorded_ms"]),
    }


def _event_object(row: sqlite3.Row) -> Json:
    return {
        "id": row["id"],
        "object": "event",
        "type": row["type"],
        "created": instant(row["created_ms"]),
        "data": {"object": json.loads(row["object"])},
    }


def _page(
    connection: sqlite3.Connection,
    account: Account,
    table: str,
    where: Mapping[str, Any],
    query: Mapping[str, str],
    show: Any,
) -> Answer:
    try:
        limit, after = int(query.get("limit", "50")), int(query.get("page", "0"))
    except ValueError:
        raise invalid("parameter_invalid", "limit and page are whole numbers.") from None
    if not 1 <= limit <= MAX_PAGE:
        raise invalid("parameter_invalid", f"limit lies between 1 and {MAX_PAGE}.", "limit")
    conditions = "".join(f" AND {condition}" for condition in where)
    rows = connection.execute(
        f"SELECT * FROM {table} WHERE account = ? AND seq > ?{conditions} ORDER BY seq LIMIT ?",
        (account.name, after, *where.values(), limit + 1),
    ).fetchall()
    more = len(rows) > limit
    body: Json = {
        "object": "list",
        "data": [show(row) for row in rows[:limit]],
        "next_page": str(rows[limit - 1]["seq"]) if more else None,
    }
    return Answer(200, dumps(body))
