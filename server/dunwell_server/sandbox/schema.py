"""The tables of the gateway's book, and how a book of an earlier form becomes one of this form."""

from __future__ import annotations

import sqlite3

VERSION = 2

SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (
    name TEXT PRIMARY KEY,
    clock_ms INTEGER,              -- NULL: the account follows real time
    settings TEXT NOT NULL,
    faults TEXT NOT NULL,
    webhooks TEXT NOT NULL DEFAULT '{}'
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS customers (
    id TEXT PRIMARY KEY,
    account TEXT NOT NULL,
    name TEXT, email TEXT, metadata TEXT NOT NULL,
    default_method TEXT,
    created_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS methods (
    id TEXT PRIMARY KEY,
    account TEXT NOT NULL,
    customer TEXT NOT NULL,
    token TEXT NOT NULL,
    detached INTEGER NOT NULL DEFAULT 0,
    exp_month INTEGER, exp_year INTEGER,   -- NULL: the token's own
    created_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS methods_by_customer ON methods (customer, created_ms);
CREATE TABLE IF NOT EXISTS payments (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    account TEXT NOT NULL,
    key TEXT, reference TEXT,
    status TEXT NOT NULL CHECK (status IN ('succeeded', 'failed', 'requires_action', 'processing', 'canceled')),
    amount INTEGER NOT NULL CHECK (amount > 0),
    currency TEXT NOT NULL,
    amount_received INTEGER NOT NULL DEFAULT 0,
    currency_received TEXT NOT NULL,
    customer TEXT, method TEXT NOT NULL, description TEXT, metadata TEXT NOT NULL,
    off_session INTEGER NOT NULL,
    error TEXT,
    canceled_reason TEXT,
    action_expires_ms INTEGER,
    return_url TEXT,
    session TEXT,                          -- the hosted page it was made on
    amount_refunded INTEGER NOT NULL DEFAULT 0,
    disputed INTEGER NOT NULL DEFAULT 0,   -- a dispute of it is open, or was lost
    created_ms INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS payments_by_reference ON payments (account, reference, seq);
CREATE INDEX IF NOT EXISTS payments_by_key ON payments (account, key, seq);
CREATE INDEX IF NOT EXISTS payments_by_account ON payments (account, seq);
CREATE TABLE IF NOT EXISTS refunds (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    account TEXT NOT NULL,
    payment TEXT NOT NULL,
    key TEXT, reference TEXT,
    status TEXT NOT NULL CHECK (status IN ('pending', 'succeeded', 'failed')),
    amount INTEGER NOT NULL CHECK (amount > 0),
    currency TEXT NOT NULL,
    failure_reason TEXT,
    metadata TEXT NOT NULL,
    created_ms INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS refunds_by_payment ON refunds (payment, seq);
CREATE INDEX IF NOT EXISTS refunds_by_key ON refunds (account, key, seq);
CREATE INDEX IF NOT EXISTS refunds_by_account ON refunds (account, seq);
CREATE TABLE IF NOT EXISTS disputes (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    account TEXT NOT NULL,
    payment TEXT NOT NULL,
    reference TEXT,
    status TEXT NOT NULL,
    reason TEXT NOT NULL,
    amount INTEGER NOT NULL, fee INTEGER NOT NULL, currency TEXT NOT NULL,
    withdrawn INTEGER NOT NULL,
    evidence TEXT NOT NULL DEFAULT '{}',
    submissions INTEGER NOT NULL DEFAULT 0,
    respond_by_ms INTEGER NOT NULL,
    metadata TEXT NOT NULL,
    created_ms INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS disputes_by_payment ON disputes (payment, seq);
CREATE INDEX IF NOT EXISTS disputes_by_account ON disputes (account, seq);
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY,
    account TEXT NOT NULL,
    name TEXT NOT NULL, content_type TEXT NOT NULL, size INTEGER NOT NULL, sha256 TEXT NOT NULL,
    created_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS setups (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    account TEXT NOT NULL,
    customer TEXT NOT NULL,
    status TEXT NOT NULL,
    secret TEXT NOT NULL,
    token TEXT,                            -- the test method that waits for the payer's authentication
    method TEXT,
    error TEXT,
    session TEXT,
    metadata TEXT NOT NULL,
    created_ms INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS sessions (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    account TEXT NOT NULL,
    key TEXT,
    mode TEXT NOT NULL CHECK (mode IN ('payment', 'setup', 'subscription')),
    status TEXT NOT NULL CHECK (status IN ('open', 'complete', 'expired')),
    customer TEXT,
    amount INTEGER, currency TEXT, description TEXT,
    price TEXT, quantity INTEGER NOT NULL,
    save_method INTEGER NOT NULL,
    success_url TEXT NOT NULL, cancel_url TEXT,
    payment TEXT, setup TEXT, subscription TEXT, method TEXT,
    error TEXT,
    metadata TEXT NOT NULL,
    expires_ms INTEGER NOT NULL,
    created_ms INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS sessions_by_key ON sessions (account, key, seq);
CREATE INDEX IF NOT EXISTS sessions_by_account ON sessions (account, seq);
CREATE TABLE IF NOT EXISTS movements (
    seq INTEGER PRIMARY KEY,
    account TEXT NOT NULL,
    kind TEXT NOT NULL,
    object TEXT NOT NULL,          -- what moved it: payment, refund or dispute
    payment TEXT NOT NULL,
    reference TEXT, key TEXT,
    amount INTEGER NOT NULL,       -- below zero: to the payer
    currency TEXT NOT NULL,
    created_ms INTEGER NOT NULL,   -- the account's time
    recorded_ms INTEGER NOT NULL,  -- the machine's time
    UNIQUE (object, kind)
);
CREATE INDEX IF NOT EXISTS movements_by_account ON movements (account, seq);
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    account TEXT NOT NULL,
    type TEXT NOT NULL,
    object TEXT NOT NULL,
    created_ms INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS events_by_account ON events (account, seq);
CREATE TABLE IF NOT EXISTS deliveries (
    seq INTEGER PRIMARY KEY,
    account TEXT NOT NULL,
    event TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('due', 'held', 'delivered', 'lost', 'given_up')),
    attempts INTEGER NOT NULL DEFAULT 0,
    last_answer TEXT,
    due_ms INTEGER NOT NULL,       -- this and all of a delivery is machine time
    created_ms INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS deliveries_due ON deliveries (due_ms, seq) WHERE state = 'due';
CREATE INDEX IF NOT EXISTS deliveries_open ON deliveries (account) WHERE state IN ('due', 'held');
CREATE INDEX IF NOT EXISTS deliveries_by_account ON deliveries (account, seq);
CREATE TABLE IF NOT EXISTS transitions (
    seq INTEGER PRIMARY KEY,
    account TEXT NOT NULL,
    due_ms INTEGER NOT NULL,
    object TEXT NOT NULL,
    kind TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS transitions_by_due ON transitions (account, due_ms, seq);
CREATE INDEX IF NOT EXISTS transitions_by_object ON transitions (object);
CREATE TABLE IF NOT EXISTS idempotency_keys (
    account TEXT NOT NULL,
    key TEXT NOT NULL,
    digest TEXT NOT NULL,
    status INTEGER NOT NULL,
    body TEXT NOT NULL,
    created_ms INTEGER NOT NULL,   -- the account's time
    PRIMARY KEY (account, key)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS idempotency_keys_by_age ON idempotency_keys (account, created_ms);
CREATE TABLE IF NOT EXISTS counters (
    account TEXT NOT NULL,
    name TEXT NOT NULL,
    n INTEGER NOT NULL,
    PRIMARY KEY (account, name)
) WITHOUT ROWID;
"""

TABLES = (
    "accounts",
    "customers",
    "methods",
    "payments",
    "refunds",
    "disputes",
    "files",
    "setups",
    "sessions",
    "movements",
    "events",
    "deliveries",
    "transitions",
    "idempotency_keys",
    "counters",
)

_FROM_VERSION_1 = """
ALTER TABLE accounts ADD COLUMN webhooks TEXT NOT NULL DEFAULT '{}';
ALTER TABLE customers ADD COLUMN default_method TEXT;
ALTER TABLE methods ADD COLUMN exp_month INTEGER;
ALTER TABLE methods ADD COLUMN exp_year INTEGER;
ALTER TABLE payments ADD COLUMN return_url TEXT;
ALTER TABLE payments ADD COLUMN session TEXT;
ALTER TABLE payments ADD COLUMN amount_refunded INTEGER NOT NULL DEFAULT 0;
ALTER TABLE payments ADD COLUMN disputed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE movements RENAME TO old_movements;
DROP INDEX movements_by_account;
ALTER TABLE transitions RENAME TO old_transitions;
DROP INDEX transitions_by_due;
DROP INDEX transitions_by_payment;
"""

_COPY_FROM_VERSION_1 = """
INSERT INTO movements SELECT seq, account, kind, payment, payment, reference, key, amount, currency, created_ms, recorded_ms
    FROM old_movements;
DROP TABLE old_movements;
INSERT INTO transitions SELECT seq, account, due_ms, payment, kind FROM old_transitions;
DROP TABLE old_transitions;
"""


def prepare(connection: sqlite3.Connection) -> None:
    """Brings the book to the present form, all of it or nothing. Raises sqlite3.Error when it cannot be had."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    first = version == 0 and connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'movements'").fetchone()
    before, after = (_FROM_VERSION_1, _COPY_FROM_VERSION_1) if first else ("", "")
    try:
        connection.executescript(f"BEGIN IMMEDIATE;{before}{SCHEMA}{after}PRAGMA user_version = {VERSION};COMMIT;")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
