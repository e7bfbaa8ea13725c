"""Set-up intents: saving a method for charges without the client.

The client's browser confirms one with its ``client_secret`` and the account's publishable key (``pk_test_<account>``).
"""

from __future__ import annotations

import json
import secrets
import sqlite3

from dunwell_server.sandbox.accounts import Account
from dunwell_server.sandbox.answers import Answer, Json, dumps, instant, invalid, missing
from dunwell_server.sandbox.customers import find_customer, find_method, keep_method, method_object
from dunwell_server.sandbox.fields import metadata_field, needed, new_id, only
from dunwell_server.sandbox.instruments import DECLINES, INSTRUMENTS, Behaviour, Instrument
from dunwell_server.sandbox.outbox import record_event
from dunwell_server.sandbox.payments import authenticate_url, decline_error

CONFIRMABLE = "requires_payment_method"
OPEN = (CONFIRMABLE, "requires_action")


def open_setup(
    connection: sqlite3.Connection,
    account: Account,
    customer: str,
    metadata: dict[str, str],
    session: str | None = None,
) -> sqlite3.Row:
    """Writes a set-up intent. One that belongs to no hosted page is canceled by itself after a while."""
    identifier, now = new_id("seti"), account.now_ms
    row: sqlite3.Row = connection.execute(
        "INSERT INTO setups (id, account, customer, status, secret, session, metadata, created_ms) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING *",
        (
            identifier,
            account.name,
            customer,
            CONFIRMABLE,
            f"{identifier}_secret_{secrets.token_hex(12)}",
            session,
            dumps(metadata),
            now,
        ),
    ).fetchone()
    if session is None:
        account.plan(connection, identifier, "expire_setup", now + int(account.settings.setup_seconds * 1000))
    return row


def create_setup(connection: sqlite3.Connection, account: Account, body: Json) -> Answer:
    """Opens one for a customer."""
    only(body, ("customer", "metadata"))
    customer = needed(body, "customer")
    metadata = metadata_field(body)
    find_customer(connection, account, customer, "customer")
    return Answer(200, dumps(setup_object(connection, account, open_setup(connection, account, customer, metadata))))


def find_setup(connection: sqlite3.Connection, account: Account, identifier: str) -> sqlite3.Row:
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM setups WHERE id = ? AND account = ?", (identifier, account.name)
    ).fetchone()
    if row is None:
        raise missing("setup_intent", identifier)
    return row


def get_setup(connection: sqlite3.Connection, account: Account, identifier: str) -> Answer:
    return Answer(200, dumps(setup_object(connection, account, find_setup(connection, account, identifier))))


def setup_object(connection: sqlite3.Connection, account: Account, row: sqlite3.Row, *, public: bool = False) -> Json:
    """A set-up intent as the API shows it; to a browser (``public``) without what is the firm's."""
    method = None if row["method"] is None else method_object(find_method(connection, account, row["method"]))
    body: Json = {
        "id": row["id"],
        "object": "setup_intent",
        "status": row["status"],
        "client_secret": row["secret"],
        "customer": row["customer"],
        "payment_method": method,
        "last_setup_error": json.loads(row["error"]) if row["error"] else None,
        "next_action": {"type": "redirect_to_url", "url": authenticate_url(account, row["id"])}
        if row["status"] == "requires_action"
        else None,
        "session": row["session"],
        "metadata": json.loads(row["metadata"]),
        "created": instant(row["created_ms"]),
    }
    if public:
        del body["metadata"], body["customer"], body["session"]
    return body


def confirm_setup(
    connection: sqlite3.Connection, account: Account, identifier: str, instrument: Instrument
) -> tuple[sqlite3.Row, bool]:
    """Tries to save a test method. The flag is False where it was refused: the intent stays open for another."""
    row = find_setup(connection, account, identifier)
    if row["status"] != CONFIRMABLE:
        raise invalid("setup_intent_unexpected_state", f"A set-up intent that is {row['status']} is not confirmed.")
    if instrument.refuses_attach:
        return _refused(connection, account, row, "generic_decline"), False
    if instrument.behaviour in (Behaviour.REQUIRE_ACTION, Behaviour.REQUIRE_ACTION_ON_SESSION):
        changed: sqlite3.Row = connection.execute(
            "UPDATE setups SET status = 'requires_action', token = ? WHERE seq = ? RETURNING *",
            (instrument.token, row["seq"]),
        ).fetchone()
        _tell(connection, account, "setup_intent.requires_action", changed, account.now_ms)
        return changed, True
    return _saved(connection, account, row, instrument), True


def authenticated(connection: sqlite3.Connection, account: Account, row: sqlite3.Row, *, passed: bool) -> sqlite3.Row:
    """What becomes of a set-up intent whose payer passed, or failed, the authentication."""
    if row["status"] != "requires_action":
        raise invalid("setup_intent_unexpected_state", f"A set-up intent that is {row['status']} waits for no action.")
    if passed:
        return _saved(connection, account, row, INSTRUMENTS[row["token"]])
    return _refused(connection, account, row, "authentication_not_handled")


def _saved(connection: sqlite3.Connection, account: Account, row: sqlite3.Row, instrument: Instrument) -> sqlite3.Row:
    method = keep_method(connection, account, row["customer"], instrument)
    changed: sqlite3.Row = connection.execute(
        "UPDATE setups SET status = 'succeeded', method = ?, error = NULL WHERE seq = ? RETURNING *",
        (method["id"], row["seq"]),
    ).fetchone()
    account.unplan(connection, row["id"])
    _tell(connection, account, "setup_intent.succeeded", changed, account.now_ms)
    return changed


def _refused(connection: sqlite3.Connection, account: Account, row: sqlite3.Row, decline: str) -> sqlite3.Row:
    changed: sqlite3.Row = connection.execute(
        "UPDATE setups SET status = ?, token = NULL, error = ? WHERE seq = ? RETURNING *",
        (CONFIRMABLE, dumps(decline_error(DECLINES[decline])), row["seq"]),
    ).fetchone()
    _tell(connection, account, "setup_intent.setup_failed", changed, account.now_ms)
    return changed


def cancel_setup(
    connection: sqlite3.Connection, account: Account, identifier: str, at_ms: int | None = None
) -> sqlite3.Row:
    """Ends an open one. Cancelling what is canceled changes nothing."""
    row = find_setup(connection, account, identifier)
    if row["status"] in OPEN:
        row = connection.execute(
            "UPDATE setups SET status = 'canceled' WHERE seq = ? RETURNING *", (row["seq"],)
        ).fetchone()
        account.unplan(connection, identifier)
        _tell(connection, account, "setup_intent.canceled", row, account.now_ms if at_ms is None else at_ms)
    elif row["status"] != "canceled":
        raise invalid("setup_intent_unexpected_state", f"A set-up intent that is {row['status']} is not canceled.")
    return row


def _tell(connection: sqlite3.Connection, account: Account, kind: str, row: sqlite3.Row, at_ms: int) -> None:
    record_event(connection, account, kind, setup_object(connection, account, row), at_ms)
