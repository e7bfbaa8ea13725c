"""A firm with one of everything, written row by row: paid, owed, unknown, sealed. Every invariant holds for it."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field

import psycopg

from dunwell_server.platform import audit_chain
from dunwell_server.platform.context import system_context
from dunwell_server.platform.database import Database
from tests import support
from tests.integration.platform.horizon import past_horizon


@dataclass(frozen=True)
class Books:
    """The ids of the firm's objects."""

    firm: uuid.UUID
    client: uuid.UUID = field(default_factory=uuid.uuid4)
    engagement: uuid.UUID = field(default_factory=uuid.uuid4)
    paid: uuid.UUID = field(default_factory=uuid.uuid4)
    owed: uuid.UUID = field(default_factory=uuid.uuid4)
    void: uuid.UUID = field(default_factory=uuid.uuid4)
    method: uuid.UUID = field(default_factory=uuid.uuid4)
    account: uuid.UUID = field(default_factory=uuid.uuid4)
    payment: uuid.UUID = field(default_factory=uuid.uuid4)
    attempt: uuid.UUID = field(default_factory=uuid.uuid4)
    pending_payment: uuid.UUID = field(default_factory=uuid.uuid4)
    unknown_attempt: uuid.UUID = field(default_factory=uuid.uuid4)
    run: uuid.UUID = field(default_factory=uuid.uuid4)
    refund: uuid.UUID = field(default_factory=uuid.uuid4)
    note: uuid.UUID = field(default_factory=uuid.uuid4)
    excess: uuid.UUID = field(default_factory=uuid.uuid4)
    unknown_refund: uuid.UUID = field(default_factory=uuid.uuid4)


_ROWS = """
INSERT INTO client (firm_id, id, name, currency_code) VALUES (%(firm)s, %(client)s, 'Ada', 'USD');
INSERT INTO engagement (firm_id, id, client_id, name, pricing_mode, currency_code, start_date, fee_minor, billing_interval, anchor, timing,
    partial_periods, proration, line_description, billed_through_date, next_bill_date)
VALUES (%(firm)s, %(engagement)s, %(client)s, 'Care', 'PACKAGE', 'USD', '2026-01-01', 1000, 'MONTHLY', 'START_DATE', 'IN_ADVANCE', 'PRORATE', '{}',
    'Care', '2026-03-01', '2026-03-01');
INSERT INTO invoice_series (firm_id, series, next_no) VALUES (%(firm)s, 'INV-2026', 4), (%(firm)s, 'CN-INV-2026', 2);
INSERT INTO invoice (firm_id, id, client_id, engagement_id, origin, currency_code, series, series_no, number, issue_date, due_date, line_count, subtotal,
    total, amount_received, finalize_time, paid_time, void_time)
SELECT %(firm)s, id, %(client)s, %(engagement)s, 'RUN', 'USD', 'INV-2026', no, 'INV-2026-00000' || no, '2026-01-01', '2026-01-31', 1, 1000, 1000,
    received, now(), CASE WHEN received > 0 THEN now() END, voided
FROM (VALUES (%(paid)s::uuid, 1, 1000, NULL::timestamptz), (%(owed)s, 2, 0, NULL), (%(void)s, 3, 0, now())) AS i (id, no, received, voided);
INSERT INTO invoice_line (firm_id, invoice_id, line_no, kind, description, quantity, unit_price, amount_minor, period_start, period_end, engagement_id)
SELECT %(firm)s, id, 1, 'PACKAGE', 'Care', 1, 10, 1000, low, high, %(engagement)s
FROM (VALUES (%(paid)s::uuid, '2026-01-01'::date, '2026-02-01'::date), (%(owed)s, '2026-02-01', '2026-03-01'), (%(void)s, '2026-03-01', '2026-04-01')) AS l (id, low, high);
INSERT INTO coverage (firm_id, invoice_id, line_no, engagement_id, component, period, release_time)
SELECT firm_id, invoice_id, 1, engagement_id, 'PACKAGE', daterange(period_start, period_end), CASE WHEN invoice_id = %(void)s THEN now() END
FROM invoice_line WHERE firm_id = %(firm)s;
INSERT INTO payment_method (firm_id, id, client_id, provider, account_id, mode, provider_reference, kind)
VALUES (%(firm)s, %(method)s, %(client)s, 'sandbox', %(account)s, 'TEST', 'pm_1', 'CARD');
INSERT INTO payment (firm_id, id, client_id, invoice_id, kind, state, currency_code, amount_minor, captured_minor, allocated_minor, credited_minor, provider,
    account_id, firm_time, finish_time)
VALUES (%(firm)s, %(payment)s, %(client)s, %(paid)s, 'CHARGE', 'SUCCEEDED', 'USD', 1200, 1200, 1000, 200, 'sandbox', %(account)s, now(), now()),
       (%(firm)s, %(pending_payment)s, %(client)s, %(owed)s, 'CHARGE', 'PROCESSING', 'USD', 1000, 0, 0, 0, 'sandbox', %(account)s, now(), NULL);
INSERT INTO attempt (firm_id, id, payment_id, attempt_no, idempotency_key, state, provider, account_id, method_id, currency_code, amount_minor,
    provider_reference, unknown_time)
VALUES (%(firm)s, %(attempt)s, %(payment)s, 1, 'v1:' || %(payment)s::uuid || ':1', 'SUCCEEDED', 'sandbox', %(account)s, %(method)s, 'USD', 1200, 'ch_1', NULL),
       (%(firm)s, %(unknown_attempt)s, %(pending_payment)s, 1, 'v1:' || %(pending_payment)s::uuid || ':1', 'UNKNOWN', 'sandbox', %(account)s, %(method)s, 'USD',
        1000, NULL, now());
INSERT INTO payment_allocation (firm_id, payment_id, invoice_id, currency_code, amount_minor) VALUES (%(firm)s, %(payment)s, %(paid)s, 'USD', 1000);
UPDATE invoice SET amount_refunded = 300, amount_credited = 300 WHERE id = %(paid)s;
UPDATE payment SET refunded_minor = 300, refund_pending_minor = 100 WHERE id = %(payment)s;
INSERT INTO refund (firm_id, id, payment_id, client_id, state, send_state, currency_code, amount_minor, destination, provider, account_id, idempotency_key,
    provider_reference, actor, firm_time, succeed_time, unknown_time)
VALUES (%(firm)s, %(refund)s, %(payment)s, %(client)s, 'SUCCEEDED', 'ANSWERED', 'USD', 300, 'PAYMENT_METHOD', 'sandbox', %(account)s,
        'v1:refund:' || %(refund)s::uuid, 're_1', 'test', now(), now(), NULL),
       (%(firm)s, %(unknown_refund)s, %(payment)s, %(client)s, 'PROCESSING', 'UNKNOWN', 'USD', 100, 'PAYMENT_METHOD', 'sandbox', %(account)s,
        'v1:refund:' || %(unknown_refund)s::uuid, NULL, 'test', now(), NULL, now());
INSERT INTO credit_note (firm_id, id, client_id, invoice_id, refund_id, series, series_no, number, currency_code, amount_minor, issue_date)
VALUES (%(firm)s, %(note)s, %(client)s, %(paid)s, %(refund)s, 'CN-INV-2026', 1, 'CN-INV-2026-000001', 'USD', 300, '2026-01-31');
INSERT INTO refund_allocation (firm_id, refund_id, invoice_id, currency_code, amount_minor, credit_note_id)
VALUES (%(firm)s, %(refund)s, %(paid)s, 'USD', 300, %(note)s);
INSERT INTO credit_note_line (firm_id, credit_note_id, line_no, invoice_id, amount_minor) VALUES (%(firm)s, %(note)s, 1, %(paid)s, 300);
INSERT INTO credit_entry (firm_id, id, client_id, currency_code, kind, amount_minor, remaining_minor, source_type, source_id, firm_time)
VALUES (%(firm)s, %(excess)s, %(client)s, 'USD', 'OVERPAYMENT', 200, 200, 'payment', %(payment)s, now());
INSERT INTO collection_hold (firm_id, invoice_id, payment_id, channel, release_time)
VALUES (%(firm)s, %(paid)s, %(payment)s, 'CHARGE', now()), (%(firm)s, %(owed)s, %(pending_payment)s, 'CHARGE', NULL);
INSERT INTO ledger_posting (firm_id, id, source_type, source_id, kind, firm_time)
SELECT %(firm)s, gen_random_uuid(), type, source, kind, now() FROM (VALUES ('invoice', %(paid)s::uuid, 'finalized'), ('invoice', %(owed)s, 'finalized'),
    ('invoice', %(void)s, 'finalized'), ('invoice', %(void)s, 'voided'), ('payment', %(payment)s, 'received'), ('credit_note', %(note)s, 'issued'),
    ('refund', %(refund)s, 'refunded')) AS p (type, source, kind);
INSERT INTO ledger_entry (firm_id, posting_id, line_no, account, client_id, provider, currency_code, amount_minor)
SELECT %(firm)s, p.id, e.line_no, e.account, e.client, e.provider, 'USD', e.amount
FROM ledger_posting p JOIN (VALUES
    ('finalized', 1, 'receivable', %(client)s::uuid, NULL, 1000), ('finalized', 2, 'revenue', NULL, NULL, -1000),
    ('voided', 1, 'receivable', %(client)s, NULL, -1000), ('voided', 2, 'revenue', NULL, NULL, 1000),
    ('received', 1, 'clearing', NULL, 'sandbox', 1200), ('received', 2, 'receivable', %(client)s, NULL, -1000),
    ('received', 3, 'client_credit', %(client)s, NULL, -200),
    ('issued', 1, 'revenue', NULL, NULL, 300), ('issued', 2, 'refund_payable', NULL, NULL, -300),
    ('refunded', 1, 'refund_payable', NULL, NULL, 300), ('refunded', 2, 'clearing', NULL, 'sandbox', -300)
) AS e (kind, line_no, account, client, provider, amount) ON e.kind = p.kind WHERE p.firm_id = %(firm)s;
INSERT INTO client_balance (firm_id, client_id, currency_code, receivable_minor, credit_minor) VALUES (%(firm)s, %(client)s, 'USD', 1000, 200);
INSERT INTO run (firm_id, id, kind, state, params, actor) VALUES (%(firm)s, %(run)s, 'PACKAGES', 'SUCCEEDED', '{}', 'test');
INSERT INTO event (firm_id, id, type, object_type, object_id, object_seq, payload, firm_time)
SELECT %(firm)s, gen_random_uuid(), type, 'x', object, seq, '{}', now() FROM (VALUES ('invoice.finalized', %(paid)s::uuid, 1), ('invoice.finalized', %(owed)s, 1),
    ('invoice.finalized', %(void)s, 1), ('invoice.voided', %(void)s, 2), ('payment.succeeded', %(payment)s, 1),
    ('refund.succeeded', %(refund)s, 1), ('credit_note.issued', %(note)s, 1)) AS e (type, object, seq);
INSERT INTO audit_event (firm_id, id, category, action, severity, object_type, object_id, actor, actor_role, method, metadata, firm_time)
SELECT %(firm)s, gen_random_uuid(), 'billing', action, 'INFO', 'x', object, 'test', 'SYSTEM', 'test', '{}', now() FROM (VALUES
    ('invoice_finalized', %(paid)s::uuid), ('invoice_finalized', %(owed)s), ('invoice_finalized', %(void)s), ('invoice_voided', %(void)s),
    ('payment_succeeded', %(payment)s), ('refund_succeeded', %(refund)s), ('credit_note_issued', %(note)s)) AS a (action, object);
"""


async def clean_books(db: Database, owner_url: str) -> Books:
    """Write the firm, as the owner with triggers off: the rows are in their final states. Then seal its audit trail."""
    context = await support.add_firm(db)
    assert context.firm_id is not None
    books = Books(context.firm_id)
    values = {name: str(value) for name, value in vars(books).items()}
    async with await psycopg.AsyncConnection.connect(owner_url) as connection:
        await connection.execute("SET session_replication_role = replica")
        for statement in _ROWS.split(";\n"):
            if statement.strip():
                await connection.execute(statement, values)
        await connection.execute(
            "INSERT INTO control.provider_account (id, firm_id, provider, mode, credentials, key_id) VALUES (%s, %s, 'sandbox', 'TEST', '', 'k')",
            (books.account, books.firm),
        )
        await connection.execute(
            "INSERT INTO control.test_clock (firm_id, id, start_time, now_time) VALUES (%s, %s, now(), now())",
            (books.firm, uuid.uuid4()),
        )
    await past_horizon(db)
    await db.run(system_context(books.firm, "job:seal", upkeep=True), audit_chain.seal_batch)
    return books
