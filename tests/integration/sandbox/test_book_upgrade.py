"""A book of the first form goes on under this one: payments, what is due, movements, keys."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from tests.integration.sandbox.account import SandboxAccount
from tests.providers.gateway import start_gateway

FIRST_FORM = """
CREATE TABLE accounts (name TEXT PRIMARY KEY, clock_ms INTEGER, settings TEXT NOT NULL, faults TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE customers (id TEXT PRIMARY KEY, account TEXT NOT NULL, name TEXT, email TEXT, metadata TEXT NOT NULL,
    created_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE methods (id TEXT PRIMARY KEY, account TEXT NOT NULL, customer TEXT NOT NULL, token TEXT NOT NULL,
    detached INTEGER NOT NULL DEFAULT 0, created_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE payments (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, account TEXT NOT NULL, key TEXT, reference TEXT,
    status TEXT NOT NULL CHECK (status IN ('succeeded', 'failed', 'requires_action', 'processing', 'canceled')),
    amount INTEGER NOT NULL CHECK (amount > 0), currency TEXT NOT NULL, amount_received INTEGER NOT NULL DEFAULT 0,
    currency_received TEXT NOT NULL, customer TEXT, method TEXT NOT NULL, description TEXT, metadata TEXT NOT NULL,
    off_session INTEGER NOT NULL, error TEXT, canceled_reason TEXT, action_expires_ms INTEGER, created_ms INTEGER NOT NULL);
CREATE INDEX payments_by_reference ON payments (account, reference, seq);
CREATE INDEX payments_by_key ON payments (account, key, seq);
CREATE INDEX payments_by_account ON payments (account, seq);
CREATE TABLE movements (seq INTEGER PRIMARY KEY, account TEXT NOT NULL, kind TEXT NOT NULL, payment TEXT NOT NULL,
    reference TEXT, key TEXT, amount INTEGER NOT NULL, currency TEXT NOT NULL, created_ms INTEGER NOT NULL,
    recorded_ms INTEGER NOT NULL, UNIQUE (payment, kind));
CREATE INDEX movements_by_account ON movements (account, seq);
CREATE TABLE events (seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, account TEXT NOT NULL, type TEXT NOT NULL,
    object TEXT NOT NULL, created_ms INTEGER NOT NULL);
CREATE INDEX events_by_account ON events (account, seq);
CREATE TABLE transitions (seq INTEGER PRIMARY KEY, account TEXT NOT NULL, due_ms INTEGER NOT NULL, payment TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('settle', 'fail', 'expire_action')));
CREATE INDEX transitions_by_due ON transitions (account, due_ms, seq);
CREATE INDEX transitions_by_payment ON transitions (payment);
CREATE TABLE idempotency_keys (account TEXT NOT NULL, key TEXT NOT NULL, digest TEXT NOT NULL, status INTEGER NOT NULL,
    body TEXT NOT NULL, created_ms INTEGER NOT NULL, PRIMARY KEY (account, key)) WITHOUT ROWID;
CREATE TABLE counters (account TEXT NOT NULL, name TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (account, name)) WITHOUT ROWID;
INSERT INTO accounts VALUES ('a', 1000000, '{"latency_ms": 0.0, "pending_seconds": 60.0}', '{"seed": 0, "faults": [{"outcome":
    "decline", "probability": 1.0, "count": 0, "decline": "generic_decline", "delay_seconds": null}]}');
INSERT INTO customers VALUES ('cus_1', 'a', 'Ada', NULL, '{}', 1000000);
INSERT INTO methods VALUES ('pm_1', 'a', 'cus_1', 'pm_card_visa', 0, 1000000);
INSERT INTO payments VALUES (1, 'pay_1', 'a', 'k1', 'r1', 'succeeded', 500, 'USD', 500, 'USD', 'cus_1', 'pm_1', NULL, '{}', 1,
    NULL, NULL, NULL, 1000000);
INSERT INTO payments VALUES (2, 'pay_2', 'a', 'k2', 'r2', 'processing', 700, 'USD', 0, 'USD', NULL,
    'pm_sandbox_pendingThenSuccess', NULL, '{}', 1, NULL, NULL, NULL, 1000000);
INSERT INTO movements VALUES (1, 'a', 'charge', 'pay_1', 'r1', 'k1', 500, 'USD', 1000000, 1000000);
INSERT INTO transitions VALUES (1, 'a', 2000000, 'pay_2', 'settle');
"""


async def test_a_book_of_the_first_form_is_taken_over(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "gateway.db")) as old:
        old.executescript(FIRST_FORM)
    for _ in range(2):  # Taken over once; the second start finds it as it is.
        gateway = start_gateway(tmp_path)
        assert gateway.movements("r1", "a") == 1
        assert gateway.stop() == 0
    gateway = start_gateway(tmp_path)
    account = SandboxAccount(gateway.url, "a")
    await account.post("/v1/clock", now=2000)
    assert gateway.movements("r2", "a") == 1
    for amount in (200, 300):
        assert (await account.refund("pay_1", amount=amount)).status_code == 200
    assert gateway.ledger("a", "payment", "all")["groups"]["pay_1"]["amounts"] == {"USD": 0}
    assert (await account.charge("pm_1", customer="cus_1")).status_code == 200
    await account.close()
    assert gateway.stop() == 0
