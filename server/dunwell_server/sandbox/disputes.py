"""Disputes: opened by a test method or by hand, answered with evidence, decided by the evidence or by hand."""

from __future__ import annotations

import hashlib
import json
import sqlite3

from dunwell_server.sandbox.accounts import Account
from dunwell_server.sandbox.answers import Answer, Json, dumps, instant, invalid, missing
from dunwell_server.sandbox.fields import MAX_TEXT, flag_field, new_id, only
from dunwell_server.sandbox.movements import move_money
from dunwell_server.sandbox.outbox import record_event

REASONS = frozenset(
    [
        "bank_cannot_process",
        "credit_not_processed",
        "duplicate",
        "fraudulent",
        "general",
        "product_not_received",
        "product_unacceptable",
        "subscription_canceled",
        "unrecognized",
    ]
)
OPEN = ("needs_response", "under_review")
INQUIRY = ("inquiry_needs_response", "inquiry_under_review")
MAX_EVIDENCE_TEXT = 20_000
MAX_FILE_BYTES = 5 * 1024 * 1024
VERDICTS = {"winning_evidence": "won", "losing_evidence": "lost"}


def open_dispute(
    connection: sqlite3.Connection, account: Account, payment: sqlite3.Row, reason: str, *, inquiry: bool = False
) -> sqlite3.Row:
    """The payer's bank objects to a payment. A chargeback takes amount and fee at once; an inquiry takes nothing."""
    now, settings = account.now_ms, account.settings
    respond_by = now + int(settings.dispute_response_seconds * 1000)
    amount = payment["amount_received"] - payment["amount_refunded"]
    row: sqlite3.Row = connection.execute(
        "INSERT INTO disputes (id, account, payment, reference, status, reason, amount, fee, currency, withdrawn, "
        "respond_by_ms, metadata, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING *",
        (
            new_id("dp"),
            account.name,
            payment["id"],
            payment["reference"],
            INQUIRY[0] if inquiry else OPEN[0],
            reason,
            amount,
            0 if inquiry else int(settings.dispute_fee),
            payment["currency_received"],
            int(not inquiry),
            respond_by,
            payment["metadata"],
            now,
        ),
    ).fetchone()
    if not inquiry:
        connection.execute("UPDATE payments SET disputed = 1 WHERE id = ?", (payment["id"],))
        move_money(connection, payment, "dispute", row["id"], -amount, now)
        if row["fee"]:
            move_money(connection, payment, "dispute_fee", row["id"], -row["fee"], now)
    account.plan(connection, row["id"], "dispute_overdue", respond_by)
    record_event(connection, account, "dispute.created", dispute_object(row), now)
    return row


def dispute_object(row: sqlite3.Row) -> Json:
    """A dispute as the API shows it."""
    return {
        "id": row["id"],
        "object": "dispute",
        "status": row["status"],
        "reason": row["reason"],
        "payment": row["payment"],
        "reference": row["reference"],
        "amount": row["amount"],
        "fee": row["fee"],
        "currency": row["currency"],
        "funds_withdrawn": bool(row["withdrawn"]),
        "evidence": json.loads(row["evidence"]),
        "submission_count": row["submissions"],
        "respond_by": instant(row["respond_by_ms"]),
        "metadata": json.loads(row["metadata"]),
        "created": instant(row["created_ms"]),
    }


def find_dispute(connection: sqlite3.Connection, account: Account, identifier: str) -> sqlite3.Row:
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM disputes WHERE id = ? AND account = ?", (identifier, account.name)
    ).fetchone()
    if row is None:
        raise missing("dispute", identifier)
    return row


def update_dispute(connection: sqlite3.Connection, account: Account, identifier: str, body: Json) -> Answer:
    """Sets evidence, and submits it with ``"submit": true``, which can be done once."""
    only(body, ("evidence", "submit"))
    row = find_dispute(connection, account, identifier)
    evidence, submit = body.get("evidence", {}), flag_field(body, "submit")
    if not isinstance(evidence, dict) or not all(
        isinstance(value, str) and len(value) <= MAX_EVIDENCE_TEXT for value in evidence.values()
    ):
        raise invalid("parameter_invalid", f"evidence has texts of at most {MAX_EVIDENCE_TEXT} characters.", "evidence")
    if row["status"] not in (OPEN[0], INQUIRY[0]):
        raise invalid("dispute_unexpected_state", f"A dispute that is {row['status']} takes no evidence.")
    kept = json.loads(row["evidence"]) | evidence
    status = row["status"]
    if submit:
        status = OPEN[1] if status == OPEN[0] else INQUIRY[1]
    changed: sqlite3.Row = connection.execute(
        "UPDATE disputes SET evidence = ?, submissions = submissions + ?, status = ? WHERE seq = ? RETURNING *",
        (dumps(kept), int(submit), status, row["seq"]),
    ).fetchone()
    if submit:
        account.unplan(connection, identifier)
        verdict = VERDICTS.get(kept.get("uncategorized_text", ""))
        if verdict is not None:
            due = account.now_ms + int(account.settings.dispute_decision_seconds * 1000)
            account.plan(connection, identifier, f"dispute_{verdict}", due)
    record_event(connection, account, "dispute.updated", dispute_object(changed), account.now_ms)
    return Answer(200, dumps(dispute_object(changed)))


def accept_dispute(connection: sqlite3.Connection, account: Account, identifier: str) -> Answer:
    """Gives a dispute up. Giving up what is lost changes nothing."""
    row = find_dispute(connection, account, identifier)
    if row["status"] not in ("lost", "inquiry_closed"):
        row = decide(connection, account, row, "lost", account.now_ms)
    return Answer(200, dumps(dispute_object(row)))


def decide(connection: sqlite3.Connection, account: Account, row: sqlite3.Row, verdict: str, at_ms: int) -> sqlite3.Row:
    """Ends a dispute as ``won`` (amount and fee come back) or ``lost``; an inquiry is closed either way."""
    if row["status"] not in (*OPEN, *INQUIRY):
        raise invalid("dispute_unexpected_state", f"A dispute that is {row['status']} has been decided.")
    won, inquiry = verdict == "won", row["status"] in INQUIRY
    status = "inquiry_closed" if inquiry else verdict
    changed: sqlite3.Row = connection.execute(
        "UPDATE disputes SET status = ?, withdrawn = ? WHERE seq = ? RETURNING *",
        (status, int(not inquiry and not won), row["seq"]),
    ).fetchone()
    if won and not inquiry:
        payment = connection.execute(
            "UPDATE payments SET disputed = 0 WHERE id = ? RETURNING *", (row["payment"],)
        ).fetchone()
        move_money(connection, payment, "dispute_reversal", row["id"], row["amount"], at_ms)
        if row["fee"]:
            move_money(connection, payment, "dispute_fee_reversal", row["id"], row["fee"], at_ms)
    account.unplan(connection, row["id"])
    record_event(connection, account, "dispute.closed", dispute_object(changed), at_ms)
    return changed


def keep_file(connection: sqlite3.Connection, account: Account, name: str, content_type: str, content: bytes) -> Answer:
    """Takes a file for evidence. Of its content only size and hash are kept: nobody here reads it."""
    if not 0 < len(name) <= MAX_TEXT or not content or len(content) > MAX_FILE_BYTES:
        raise invalid("file_invalid", f"A file has a name and 1 to {MAX_FILE_BYTES} bytes.")
    row = connection.execute(
        "INSERT INTO files (id, account, name, content_type, size, sha256, created_ms) VALUES (?, ?, ?, ?, ?, ?, ?) "
        "RETURNING *",
        (
            new_id("file"),
            account.name,
            name,
            content_type[:100],
            len(content),
            hashlib.sha256(content).hexdigest(),
            account.now_ms,
        ),
    ).fetchone()
    return Answer(200, dumps(file_object(row)))


def get_file(connection: sqlite3.Connection, account: Account, identifier: str) -> Answer:
    row = connection.execute("SELECT * FROM files WHERE id = ? AND account = ?", (identifier, account.name)).fetchone()
    if row is None:
        raise missing("file", identifier)
    return Answer(200, dumps(file_object(row)))


def file_object(row: sqlite3.Row) -> Json:
    return {
        "id": row["id"],
        "object": "file",
        "name": row["name"],
        "type": row["content_type"],
        "size": row["size"],
        "sha256": row["sha256"],
        "created": instant(row["created_ms"]),
    }
