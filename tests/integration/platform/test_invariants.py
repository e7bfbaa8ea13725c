"""Each invariant holds for clean books, and each is able to fail: rows are corrupted as the superuser, and the check names them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from dunwell_server.platform import invariants
from dunwell_server.platform.database import Database
from dunwell_server.platform.invariants import (
    CATALOGUE,
    INVARIANTS,
    Check,
    Movement,
    catalogue_checks,
    check_cards,
    check_chains,
    check_provider,
)
from dunwell_server.platform.invariants.model import run
from tests import support
from tests.integration.platform.clean_books import Books, clean_books


@pytest.fixture(scope="module")
async def books(db: Database, database_urls: support.DatabaseUrls) -> Books:
    return await clean_books(db, database_urls.owner)


async def test_clean_books_hold_every_invariant(books: Books, database_urls: support.DatabaseUrls) -> None:
    checks = await invariants.run_all(database_urls.auditor)
    assert [check for check in checks if not check.ok] == []
    assert {check.number for check in checks} == {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 14}
    assert len({check.name for check in checks}) == len(checks) == len(INVARIANTS) + len(CATALOGUE) + 2


async def test_a_firm_sees_its_own_rows_only(books: Books, db: Database, database_urls: support.DatabaseUrls) -> None:
    async with db.transaction(support.context(books.firm), write=False) as uow:
        assert [check for check in await invariants.run_for_firm(uow) if not check.ok] == []
    other = await support.add_firm(db)
    async with await psycopg.AsyncConnection.connect(database_urls.owner, autocommit=True) as connection:
        await connection.execute("UPDATE client_balance SET credit_minor = 201 WHERE firm_id = %s", (books.firm,))
        try:
            async with db.transaction(other, write=False) as uow:
                assert all(check.ok for check in await invariants.run_for_firm(uow))
            async with db.transaction(support.context(books.firm), write=False) as uow:
                bad = {check.name for check in await invariants.run_for_firm(uow) if not check.ok}
        finally:
            await connection.execute("UPDATE client_balance SET credit_minor = 200 WHERE firm_id = %s", (books.firm,))
    assert bad == {"balances_match_entries", "credit"}


def _without(table: str, *constraints: str) -> tuple[str, ...]:
    return tuple(f"ALTER TABLE {table} DROP CONSTRAINT {name} CASCADE" for name in constraints)


PAID = "WHERE id = %(paid)s"
OWED = "WHERE id = %(owed)s"
PAGE = (
    "INSERT INTO checkout_session (firm_id, id, client_id, purpose, channel, state, invoice_id, payment_id, provider, account_id, mode,"
    " idempotency_key, success_url, finish_time, firm_time) SELECT firm_id, %(run)s, client_id, 'INVOICE', 'LINK', '{state}', %(paid)s, id, 'sandbox',"
    " %(account)s, 'TEST', 'page', 'https://example.com', {finished}, now() FROM payment WHERE id = %({payment})s"
)
SCHEDULE = (
    "INSERT INTO revenue_schedule (firm_id, invoice_id, line_no, currency_code, start_date, end_date, amount_minor, recognized_minor, recognized_through_date)"
    " VALUES (%(firm)s, %(owed)s, 1, 'USD', '2026-02-01', '2026-03-01', 1000, {recognized}, '2026-02-15')"
)
APPLIED = (
    "INSERT INTO credit_use (firm_id, id, entry_id, kind, currency_code, amount_minor, invoice_id, firm_time)"
    " VALUES (%(firm)s, %(run)s, %(excess)s, 'APPLIED', 'USD', 100, %(owed)s, now())"
)

# check, the object it must name (`=` before a name that is no object of the books), and what breaks it
CORRUPTIONS: Sequence[tuple[str, str, tuple[str, ...]]] = [
    ("postings_balance", "", ("UPDATE ledger_entry SET amount_minor = amount_minor + 1 WHERE account = 'clearing'",)),
    ("postings_have_entries", "", ("DELETE FROM ledger_entry WHERE posting_id IN (SELECT id FROM ledger_posting WHERE kind = 'voided')",)),
    ("balances_match_entries", "client", ("UPDATE client_balance SET receivable_minor = 999",)),
    ("balances_match_entries", "client", ("DELETE FROM client_balance",)),
    ("receivable_matches_invoices", "client", ("UPDATE client_balance SET receivable_minor = 999",)),
    ("receivable_matches_invoices", "client", (f"UPDATE invoice SET amount_credited = 10 {OWED}",)),
    ("deferred_matches_schedules", "=deferred_revenue", ("UPDATE ledger_entry SET account = 'deferred_revenue' WHERE account = 'revenue' AND amount_minor = -1000",)),
    ("deferred_matches_schedules", "=deferred_revenue", (SCHEDULE.format(recognized=0),)),
    ("schedules_match_lines", "owed", ("UPDATE invoice_line SET in_advance = true WHERE invoice_id = %(owed)s",)),
    ("schedules_match_lines", "owed", (SCHEDULE.format(recognized=0),)),
    ("schedules_match_lines", "owed", ("UPDATE invoice_line SET in_advance = true, discount_minor = 1 WHERE invoice_id = %(owed)s", SCHEDULE.format(recognized=0))),
    ("schedules_follow_days", "owed", (SCHEDULE.format(recognized=501),)),
    ("invoice_totals", "paid", (*_without("invoice", "invoice_total_check"), f"UPDATE invoice SET total = total + 1 {PAID}")),
    ("invoice_totals", "paid", ("UPDATE invoice_line SET amount_minor = 999 WHERE invoice_id = %(paid)s",)),
    ("invoice_totals", "paid", ("DELETE FROM invoice_line WHERE invoice_id = %(paid)s",)),
    ("invoice_amounts", "owed", ("ALTER TABLE invoice ALTER amount_due DROP EXPRESSION", f"UPDATE invoice SET amount_due = 1 {OWED}")),
    ("invoice_amounts", "owed", ("ALTER TABLE invoice ALTER amount_paid DROP EXPRESSION", f"UPDATE invoice SET amount_paid = 1 {OWED}")),
    ("invoice_states", "owed", ("ALTER TABLE invoice ALTER state DROP EXPRESSION", f"UPDATE invoice SET state = 'PAID' {OWED}")),
    ("one_currency", "payment", ("UPDATE payment_allocation SET currency_code = 'EUR'",)),
    ("one_currency", "owed", ("UPDATE ledger_entry SET currency_code = 'EUR' WHERE posting_id IN (SELECT id FROM ledger_posting WHERE source_id = %(owed)s)",)),
    ("invoice_numbers", "INV-2026", ("UPDATE invoice_series SET next_no = 5",)),
    ("invoice_numbers", "INV-2026", (f"UPDATE invoice SET series_no = 7 {OWED}",)),
    ("invoice_numbers", "INV-2026", ("DELETE FROM invoice_series",)),
    ("invoice_number_texts", "", (f"UPDATE invoice SET number = 'INV-2026-000001' {OWED}",)),
    ("credit", "client", ("UPDATE client_balance SET credit_minor = 0",)),
    ("credit", "client", (*_without("client_balance", "client_balance_credit_check"), "UPDATE client_balance SET credit_minor = -1")),
    ("payment_success_recorded_once", "payment", ("DELETE FROM ledger_posting WHERE source_id = %(payment)s",)),
    ("payment_success_recorded_once", "payment", ("DELETE FROM payment_allocation",)),
    ("payment_success_recorded_once", "payment", ("DELETE FROM event WHERE object_id = %(payment)s",)),
    ("payment_success_recorded_once", "payment", ("DELETE FROM audit_event WHERE object_id = %(payment)s",)),
    ("payment_success_recorded_once", "pending_payment", ("UPDATE event SET object_id = %(pending_payment)s WHERE object_id = %(payment)s",)),
    ("payment_posting_amounts", "payment", ("UPDATE ledger_entry SET amount_minor = 1100 WHERE account = 'clearing'",)),
    ("received_matches_allocations", "paid", ("UPDATE payment_allocation SET amount_minor = 999",)),
    ("invoice_facts_recorded_once", "owed", ("DELETE FROM event WHERE object_id = %(owed)s",)),
    ("invoice_facts_recorded_once", "void", ("DELETE FROM ledger_posting WHERE source_id = %(void)s AND kind = 'voided'",)),
    ("invoice_facts_recorded_once", "paid", ("DELETE FROM audit_event WHERE object_id = %(paid)s",)),
    ("payment_refunds", "payment", ("UPDATE refund SET amount_minor = 299 WHERE id = %(refund)s",)),
    ("payment_refunds", "payment", ("UPDATE refund SET state = 'FAILED' WHERE id = %(unknown_refund)s",)),
    ("refund_recorded_once", "refund", ("DELETE FROM ledger_posting WHERE source_id = %(refund)s",)),
    ("refund_recorded_once", "refund", ("DELETE FROM event WHERE object_id = %(refund)s",)),
    ("refund_recorded_once", "refund", ("DELETE FROM audit_event WHERE object_id = %(refund)s",)),
    ("refund_recorded_once", "refund", ("UPDATE refund SET state = 'FAILED', failed_after_success = true WHERE id = %(refund)s",)),
    ("refund_recorded_once", "refund", ("UPDATE refund SET state = 'FAILED' WHERE id = %(refund)s",)),
    ("refund_recorded_once", "unknown_refund", ("UPDATE ledger_posting SET source_id = %(unknown_refund)s WHERE source_id = %(refund)s",)),
    ("refund_amounts", "refund", ("UPDATE refund SET from_credit_minor = 1 WHERE id = %(refund)s",)),
    ("refund_amounts", "refund", ("UPDATE ledger_entry SET amount_minor = -299 WHERE account = 'clearing' AND amount_minor = -300",)),
    ("refund_amounts", "unknown_refund", ("UPDATE refund SET uncovered_minor = 1 WHERE id = %(unknown_refund)s",)),
    ("refund_allocations", "refund", ("UPDATE refund SET reopen_invoice = true WHERE id = %(refund)s",)),
    ("refund_allocations", "refund", ("UPDATE refund_allocation SET credit_note_id = NULL",)),
    ("refund_allocations", "payment", ("UPDATE payment_allocation SET amount_minor = 299",)),
    ("invoice_refunds", "paid", ("UPDATE refund_allocation SET amount_minor = 299",)),
    ("invoice_refunds", "paid", ("UPDATE credit_note SET amount_minor = 299",)),
    ("invoice_refunds", "owed", (f"UPDATE invoice SET amount_credited = 10 {OWED}",)),
    ("credit_notes", "note", ("UPDATE credit_note SET tax_minor = 1",)),
    ("credit_notes", "note", ("DELETE FROM ledger_posting WHERE source_id = %(note)s",)),
    ("credit_notes", "note", ("DELETE FROM event WHERE object_id = %(note)s",)),
    ("credit_notes", "=refund_payable", ("DELETE FROM ledger_entry WHERE account = 'refund_payable' AND amount_minor > 0",)),
    ("invoice_numbers", "CN-INV-2026", ("UPDATE credit_note SET series_no = 2",)),
    ("refund_amounts", "refund", ("UPDATE refund SET from_credit_minor = 1 WHERE id = %(refund)s",)),
    ("refund_amounts", "refund", ("UPDATE refund SET from_payable_minor = 1 WHERE id = %(refund)s",)),
    ("credit", "client", ("UPDATE credit_entry SET remaining_minor = 199",)),
    ("credit", "client", ("DELETE FROM credit_entry",)),
    ("credit_entries", "excess", ("UPDATE credit_entry SET remaining_minor = 199",)),
    ("credit_entries", "excess", ("UPDATE credit_entry SET amount_minor = 201",)),
    ("credit_uses", "owed", (APPLIED, "UPDATE invoice SET client_id = gen_random_uuid() WHERE id = %(owed)s")),
    ("credit_uses", "void", (APPLIED.replace("%(owed)s", "%(void)s"),)),
    ("credit_postings", "run", (APPLIED,)),
    ("credit_sources", "payment", ("UPDATE credit_entry SET amount_minor = 199, remaining_minor = 199",)),
    ("credit_sources", "payment", ("UPDATE credit_entry SET source_id = %(run)s",)),
    ("credit_note_lines", "note", ("UPDATE credit_note_line SET amount_minor = 299",)),
    ("credit_note_lines", "note", ("DELETE FROM credit_note_line",)),
    ("credit_note_lines", "paid", ("UPDATE credit_note_line SET amount_minor = 1001", "UPDATE credit_note SET amount_minor = 1001")),
    ("provider_ids_unique", "", ("DROP INDEX refund_provider_key", "UPDATE refund SET provider_reference = 're_1'")),
    ("returned_within_captured", "payment", (*_without("payment", "payment_returned_check"), "UPDATE payment SET refund_pending_minor = 901 WHERE id = %(payment)s")),
    ("no_expired_claims", "unknown_refund", ("UPDATE refund SET send_state = 'SENT', lease_until = now() - interval '61 s' WHERE id = %(unknown_refund)s",)),
    ("no_stale_sends", "unknown_refund", ("UPDATE refund SET send_state = 'SENT', lease_until = now() - interval '121 s' WHERE id = %(unknown_refund)s",)),
    ("no_unflagged_unknowns", "unknown_refund", ("UPDATE refund SET unknown_time = now() - interval '25 h' WHERE id = %(unknown_refund)s",)),
    ("known_states", "refund", (*_without("refund", "refund_state_check"), "UPDATE refund SET state = 'GONE'")),
    ("append_only_grants", "credit_note", ("GRANT UPDATE ON credit_note TO dunwell_app",)),
    ("triggers_enabled", "=refund", ("DROP TRIGGER fixed ON refund",)),
    ("one_open_attempt", "payment", ("DROP INDEX attempt_open_key", "DROP INDEX attempt_success_key", *_without("attempt", "attempt_key_check"),
        "INSERT INTO attempt (firm_id, id, payment_id, attempt_no, idempotency_key, state, provider, account_id, method_id, currency_code, amount_minor)"
        " SELECT firm_id, gen_random_uuid(), payment_id, 2, 'second', state, provider, account_id, method_id, currency_code, amount_minor FROM attempt WHERE id = %(attempt)s")),
    ("payment_states", "payment", ("UPDATE attempt SET state = 'DECLINED' WHERE id = %(attempt)s",)),
    ("payment_states", "pending_payment", ("UPDATE payment SET state = 'FAILED' WHERE id = %(pending_payment)s",)),
    ("one_asking_hold", "owed", ("DROP INDEX collection_hold_live_key",
        "INSERT INTO collection_hold (firm_id, invoice_id, payment_id, channel) VALUES (%(firm)s, %(owed)s, %(payment)s, 'LINK')")),
    ("one_asking_hold", "paid", ("UPDATE collection_hold SET release_time = NULL",)),
    ("pages_follow_payments", "run", (PAGE.format(state="OPEN", finished="NULL", payment="payment"),)),
    ("pages_follow_payments", "run", (PAGE.format(state="EXPIRED", finished="now()", payment="pending_payment"),)),
    ("provider_ids_unique", "", ("DROP INDEX attempt_provider_key", "UPDATE attempt SET provider_reference = 'ch_1'")),
    ("returned_within_captured", "payment", (*_without("payment", "payment_returned_check"), "UPDATE payment SET refunded_minor = 1201 WHERE id = %(payment)s")),
    ("coverage_overlaps", "engagement", (*_without("coverage", "coverage_overlap_excl"),
        "UPDATE coverage SET period = '[2026-01-31,2026-03-01)' WHERE invoice_id = %(owed)s")),
    ("coverage_gaps", "engagement", ("UPDATE coverage SET period = '[2026-02-02,2026-03-01)' WHERE invoice_id = %(owed)s",)),
    ("coverage_gaps", "engagement", ("UPDATE engagement SET billed_through_date = '2026-03-02'",)),
    ("coverage_follows_invoice", "void", ("UPDATE coverage SET release_time = NULL WHERE invoice_id = %(void)s",)),
    ("coverage_follows_invoice", "paid", ("UPDATE coverage SET release_time = now() WHERE invoice_id = %(paid)s",)),
    ("known_states", "client", (*_without("client", "client_state_check"), "UPDATE client SET state = 'GONE'")),
    ("test_clocks", "", ("UPDATE control.firm SET mode = 'LIVE' WHERE id = %(firm)s",)),
    ("audit_sealed", "", ("UPDATE audit_event SET create_time = create_time - interval '2 min'", "DELETE FROM audit_seal")),
    ("audit_seals_gapless", "", ("DELETE FROM audit_seal WHERE seq = 2",)),
    ("audit_seals_gapless", "", ("DELETE FROM audit_event WHERE object_id = %(owed)s",)),
    ("no_expired_claims", "unknown_attempt", ("UPDATE attempt SET state = 'SENT', lease_until = now() - interval '61 s' WHERE id = %(unknown_attempt)s",)),
    ("no_expired_claims", "run", ("UPDATE run SET state = 'RUNNING', lease_until = now() - interval '61 s'",)),
    ("no_expired_claims", "", ("UPDATE control.test_clock SET state = 'ADVANCING', lease_until = now() - interval '61 s'",)),
    ("clocks_have_runs", "", ("UPDATE control.test_clock SET state = 'ADVANCING', run_id = %(run)s",)),
    ("no_stale_sends", "unknown_attempt", ("UPDATE attempt SET state = 'SENT', lease_until = now() + interval '1 h', update_time = now() - interval '121 s'"
        " WHERE id = %(unknown_attempt)s",)),
    ("no_unflagged_unknowns", "unknown_attempt", ("UPDATE control.test_clock SET now_time = now() + interval '25 h'",)),
    # The catalogue
    ("row_security_forced", "=client", ("ALTER TABLE client NO FORCE ROW LEVEL SECURITY",)),
    ("row_security_forced", "stranger", ("CREATE TABLE stranger (firm_id uuid, id uuid, PRIMARY KEY (firm_id, id))",)),
    ("row_policies", "=client", ("ALTER POLICY application ON client USING (true)",)),
    ("row_policies", "=client", ("ALTER POLICY application ON client WITH CHECK (true)",)),
    ("row_policies", "=client", ("DROP POLICY auditor ON client",)),
    ("row_policies", "=client", ("CREATE POLICY another ON client TO dunwell_app USING (true)",)),
    ("keys_led_by_firm", "client_lone_key", ("ALTER TABLE client ADD CONSTRAINT client_lone_key UNIQUE (id)",)),
    ("keys_led_by_firm", "client_lone_idx", ("CREATE UNIQUE INDEX client_lone_idx ON client (id)",)),
    ("keys_led_by_firm", "lone_fkey", ("CREATE TABLE lone (id uuid PRIMARY KEY, client_firm uuid, client_id uuid,"
        " CONSTRAINT lone_fkey FOREIGN KEY (client_firm, client_id) REFERENCES client (firm_id, id))",)),
    ("application_role", "dunwell_app", ("ALTER TABLE client OWNER TO dunwell_app",)),
    ("append_only_grants", "audit_event", ("GRANT DELETE ON audit_event TO dunwell_app",)),
    ("append_only_grants", "=client", ("GRANT UPDATE ON client TO dunwell_auditor",)),
    ("definer_functions", "sneaky()", ("CREATE FUNCTION sneaky() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'",)),
    ("definer_functions", "peek", ("CREATE VIEW peek AS SELECT * FROM client",)),
    ("triggers_enabled", "ledger_entry", ("ALTER TABLE ledger_entry DISABLE TRIGGER balanced",)),
    ("triggers_enabled", "=invoice", ("DROP TRIGGER state_edge ON invoice",)),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "named", "statements"), CORRUPTIONS, ids=lambda value: value if isinstance(value, str) else ""
)
async def test_each_check_is_able_to_fail(
    name: str, named: str, statements: tuple[str, ...], books: Books, database_urls: support.DatabaseUrls
) -> None:
    values = {key: str(value) for key, value in vars(books).items()}
    async with await psycopg.AsyncConnection.connect(database_urls.owner, row_factory=dict_row) as connection:

        async def fetch(statement: Any, params: dict[str, Any]) -> list[dict[str, Any]]:
            return await (await connection.execute(statement, params)).fetchall()

        [invariant] = [item for item in (*INVARIANTS, *CATALOGUE) if item.name == name]
        assert (await run(invariant, fetch)).ok
        await connection.execute("SET LOCAL session_replication_role = replica")
        for statement in statements:
            await connection.execute(statement, values)
        check = await run(invariant, fetch)
        await connection.rollback()
    assert check.count >= 1
    expected = named[1:] if named.startswith("=") else values.get(named, named)
    assert any(expected in row.object_id for row in check.rows), check.rows
    assert all(row.message for row in check.rows)


def test_every_check_has_a_corruption_that_it_finds() -> None:
    assert {name for name, _, _ in CORRUPTIONS} == {item.name for item in (*INVARIANTS, *CATALOGUE)}


async def test_a_privileged_role_is_named(books: Books, database_urls: support.DatabaseUrls) -> None:
    async with await psycopg.AsyncConnection.connect(database_urls.owner, row_factory=dict_row) as connection:

        async def fetch(statement: Any, params: dict[str, Any]) -> list[dict[str, Any]]:
            return await (await connection.execute(statement, params)).fetchall()

        await connection.execute("ALTER ROLE dunwell_app BYPASSRLS")
        checks = {check.name: check for check in await catalogue_checks(fetch)}
        await connection.rollback()
    assert not checks["application_role"].ok


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE client SET name = 'card 4242 4242 4242 4242' WHERE id = %(client)s",
        """UPDATE client SET metadata = '{"note": "5555-5555-5555-4444"}' WHERE id = %(client)s""",
        'UPDATE audit_event SET metadata = \'{"x": ["378282246310005"]}\' WHERE object_id = %(owed)s',
        "UPDATE control.firm SET display_name = '4000000000000002' WHERE id = %(firm)s",
    ],
)
async def test_a_card_number_is_found_and_not_repeated(
    statement: str, books: Books, database_urls: support.DatabaseUrls
) -> None:
    values = {key: str(value) for key, value in vars(books).items()}
    async with await psycopg.AsyncConnection.connect(database_urls.owner, row_factory=dict_row) as connection:

        async def fetch(query: Any, params: dict[str, Any]) -> list[dict[str, Any]]:
            return await (await connection.execute(query, params)).fetchall()

        assert (await check_cards(fetch)).ok
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(statement, values)
        check = await check_cards(fetch)
        await connection.rollback()
    assert check.count == 1
    assert not any(digits in str(check.rows) for digits in ("4242", "5555", "3782", "40000000"))


async def _agree(urls: support.DatabaseUrls, *movements: Movement, refunds: bool = False) -> Check:
    async with await psycopg.AsyncConnection.connect(urls.auditor, row_factory=dict_row) as connection:

        async def fetch(query: Any, params: dict[str, Any]) -> list[dict[str, Any]]:
            return await (await connection.execute(query, params)).fetchall()

        return await check_provider(fetch, movements, refunds=refunds)


async def test_provider_and_book_are_compared_from_both_sides(
    books: Books, database_urls: support.DatabaseUrls
) -> None:
    right = Movement("ch_1", 1200, "USD", "k1")
    assert (await _agree(database_urls, right)).ok
    for movements, text in [
        ((), "no movement 'ch_1'"),
        ((Movement("ch_1", 1201, "USD", "k1"),), "the provider 1201 USD"),
        ((Movement("ch_1", 1200, "EUR", "k1"),), "the provider 1200 EUR"),
        ((right, Movement("ch_2", 500, "USD", "k2")), "unknown to the book"),
        ((right, Movement("ch_2", 1200, "USD", "k1")), "moved twice under the key k1"),
        ((right, right), "twice"),
    ]:
        check = await _agree(database_urls, *movements)
        assert check.number == 15
        assert any(text in row.message for row in check.rows), (movements, check.rows)


async def test_provider_and_book_are_compared_on_refunds(books: Books, database_urls: support.DatabaseUrls) -> None:
    right = Movement("re_1", 300, "USD", "k1")
    assert (await _agree(database_urls, right, refunds=True)).ok
    for movements, text in [
        ((), "no movement 're_1'"),
        ((Movement("re_1", 301, "USD", "k1"),), "the provider 301 USD"),
        ((right, Movement("re_2", 300, "USD", "k1")), "moved twice under the key k1"),
    ]:
        check = await _agree(database_urls, *movements, refunds=True)
        assert any(text in row.message for row in check.rows), (movements, check.rows)


async def test_a_broken_chain_fails_verify(books: Books, database_urls: support.DatabaseUrls) -> None:
    async with await psycopg.AsyncConnection.connect(database_urls.owner, row_factory=dict_row) as connection:

        async def fetch(query: Any, params: dict[str, Any]) -> list[dict[str, Any]]:
            return await (await connection.execute(query, params)).fetchall()

        assert (await check_chains(fetch, None)).ok
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute("UPDATE audit_event SET actor = 'mallory' WHERE object_id = %s", (books.owed,))
        check = await check_chains(fetch, None)
        await connection.rollback()
    assert [(row.firm_id, row.message[:7]) for row in check.rows] == [(books.firm, "ALTERED")]
