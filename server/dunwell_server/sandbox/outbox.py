"""What happened in an account, and the sendings of it that are owed: both are written with the change itself."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace

from dunwell_server.sandbox.accounts import Account, machine_ms
from dunwell_server.sandbox.answers import Json, dumps, instant
from dunwell_server.sandbox.fields import new_id


def record_event(connection: sqlite3.Connection, account: Account, kind: str, body: Json, at_ms: int) -> None:
    """Remembers what happened at ``at_ms`` (account time), and that the account's endpoint is to hear of it."""
    row = connection.execute(
        "INSERT INTO events (id, account, type, object, created_ms) VALUES (?, ?, ?, ?, ?) RETURNING seq, id",
        (new_id("evt"), account.name, kind, dumps(body), at_ms),
    ).fetchone()
    if account.webhook_url:
        _owe(connection, account, row["id"], row["seq"])


def _owe(connection: sqlite3.Connection, account: Account, event: str, nth: int) -> None:
    now = machine_ms()
    settings = account.webhooks
    waits = settings.waits(nth)
    if settings.lose_next:
        waits = ()
        account.webhooks = replace(settings, lose_next=settings.lose_next - 1)
        connection.execute(
            "UPDATE accounts SET webhooks = ? WHERE name = ?", (json.dumps(account.webhooks.dump()), account.name)
        )
    rows = [(_open_state(account), now + int(wait * 1000)) for wait in waits] or [("lost", now)]
    connection.executemany(
        "INSERT INTO deliveries (account, event, state, due_ms, created_ms) VALUES (?, ?, ?, ?, ?)",
        [(account.name, event, state, due, now) for state, due in rows],
    )
    account.home.wake()


def owe_again(connection: sqlite3.Connection, account: Account, event: str) -> None:
    """One more sending of an event, now, whatever befell the others."""
    now = machine_ms()
    connection.execute(
        "INSERT INTO deliveries (account, event, state, due_ms, created_ms) VALUES (?, ?, ?, ?, ?)",
        (account.name, event, _open_state(account), now, now),
    )
    account.home.wake()


def _open_state(account: Account) -> str:
    """Whether what is owed may be sent, or is kept until the account's webhooks go on."""
    return "held" if account.webhooks.paused else "due"


def pause_or_resume(connection: sqlite3.Connection, account: Account) -> None:
    """Has what is owed already follow the account's setting."""
    state = _open_state(account)
    connection.execute(
        "UPDATE deliveries SET state = ? WHERE account = ? AND state IN ('due', 'held') AND state <> ?",
        (state, account.name, state),
    )


def settle(
    connection: sqlite3.Connection, account: Account, seq: int, answer: str, *, ended: str | None, due_ms: int
) -> None:
    """Notes what came of a sending: how it ``ended``, or when it is tried again."""
    connection.execute(
        "UPDATE deliveries SET state = ?, attempts = attempts + 1, last_answer = ?, due_ms = ? WHERE seq = ?",
        (ended or _open_state(account), answer, due_ms, seq),
    )


def undelivered(connection: sqlite3.Connection, account: str | None) -> int:
    """How many sendings of an account, or of all, have not been answered with 2xx yet."""
    clause, values = ("", ()) if account is None else (" AND account = ?", (account,))
    row = connection.execute(
        f"SELECT count(*) AS n FROM deliveries WHERE state IN ('due', 'held'){clause}", values
    ).fetchone()
    return int(row["n"])


def event_object(row: sqlite3.Row) -> Json:
    """An event as the API shows it and as it is sent."""
    return {
        "id": row["id"],
        "object": "event",
        "type": row["type"],
        "account": row["account"],
        "created": instant(row["created_ms"]),
        "data": {"object": json.loads(row["object"])},
    }
