"""The lists of the API: pages of the one book, oldest first. What is not in a list does not exist."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

from dunwell_server.sandbox.accounts import Account
from dunwell_server.sandbox.answers import Answer, Json, dumps, invalid, parse_instant
from dunwell_server.sandbox.checkouts import session_object
from dunwell_server.sandbox.disputes import dispute_object
from dunwell_server.sandbox.movements import movement_object
from dunwell_server.sandbox.outbox import event_object
from dunwell_server.sandbox.payments import payment_object
from dunwell_server.sandbox.refunds import refund_object

MAX_PAGE = 100
Query = Mapping[str, str]


def list_payments(connection: sqlite3.Connection, account: Account, query: Query) -> Answer:
    """Payments, by ``reference``, ``key``, ``status`` and time of creation."""
    where = _where(query, "reference", "key", "status")
    return _page(connection, account, "payments", where, query, lambda row: payment_object(account, row))


def list_refunds(connection: sqlite3.Connection, account: Account, query: Query) -> Answer:
    """Refunds, by ``payment``, ``reference``, ``key``, ``status`` and time of creation."""
    where = _where(query, "payment", "reference", "key", "status")
    return _page(connection, account, "refunds", where, query, refund_object)


def list_disputes(connection: sqlite3.Connection, account: Account, query: Query) -> Answer:
    """Disputes, by ``payment``, ``status`` and time of creation."""
    return _page(connection, account, "disputes", _where(query, "payment", "status"), query, dispute_object)


def list_sessions(connection: sqlite3.Connection, account: Account, query: Query) -> Answer:
    """Hosted pages, by ``key``, ``status`` and time of creation."""
    where = _where(query, "key", "status")
    return _page(connection, account, "sessions", where, query, lambda row: session_object(connection, account, row))


def list_movements(connection: sqlite3.Connection, account: Account, query: Query) -> Answer:
    """The account's money movements, by ``reference`` and ``kind``."""
    where = {f"{name} = ?": query[name] for name in ("reference", "kind") if name in query}
    return _page(connection, account, "movements", where, query, movement_object)


def list_events(connection: sqlite3.Connection, account: Account, query: Query) -> Answer:
    """What happened in the account, by ``type`` and time."""
    return _page(connection, account, "events", _where(query, "type"), query, event_object)


def _where(query: Query, *names: str) -> dict[str, Any]:
    where: dict[str, Any] = {f"{name} = ?": query[name] for name in names if name in query}
    if "created_from" in query:
        where["created_ms >= ?"] = parse_instant(query["created_from"], "created_from")
    if "created_to" in query:
        where["created_ms < ?"] = parse_instant(query["created_to"], "created_to")
    return where


def _page(
    connection: sqlite3.Connection,
    account: Account,
    table: str,
    where: Mapping[str, Any],
    query: Query,
    show: Callable[[sqlite3.Row], Json],
) -> Answer:
    try:
        limit, after = int(query.get("limit", "50")), int(query.get("page", "0"))
    except ValueError:
        raise invalid("parameter_invalid", "limit and page are whole numbers.") from None
    if not 1 <= limit <= MAX_PAGE or not 0 <= after < 2**63:
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
