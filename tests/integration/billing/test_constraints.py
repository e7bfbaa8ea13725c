"""What the database refuses, attacked with plain SQL as the application's role."""

from __future__ import annotations

import itertools
from collections import defaultdict
from datetime import UTC, date, datetime
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg.errors import (
    CheckViolation,
    ExclusionViolation,
    ForeignKeyViolation,
    GeneratedAlways,
    InsufficientPrivilege,
    NotNullViolation,
    UniqueViolation,
)

from dunwell_server.billing.model import TRANSITIONS, Invoice, derive_state
from dunwell_server.billing.service import closing
from dunwell_server.platform.database import Database
from tests import support
from tests.integration.billing.book import Book
from tests.integration.billing.conftest import MakeBook

T = datetime(2026, 1, 1, tzinfo=UTC)
JANUARY, FEBRUARY, MARCH = date(2026, 1, 1), date(2026, 2, 1), date(2026, 3, 1)
INSERT_LINE = (
    "INSERT INTO invoice_line (firm_id, invoice_id, line_no, kind, description, quantity, unit_price, amount_minor)"
    " VALUES (%s, %s, %s, 'ITEM', 'x', 1, 1, %s)"
)
COVER = (
    "INSERT INTO coverage (firm_id, invoice_id, line_no, engagement_id, component, period)"
    " VALUES (%s, %s, %s, %s, 'PACKAGE', daterange(%s, %s))"
)


async def refuses(book: Book, kind: type[psycopg.Error], constraint: str | None, statement: str, *params: Any) -> None:
    """The statement fails with that error, on that constraint."""
    with pytest.raises(kind) as caught:
        await book.sql(statement, *params)
    if constraint is not None:
        assert caught.value.diag.constraint_name == constraint, caught.value


# The state


async def test_the_stored_state_is_the_derived_state_over_every_combination(book: Book) -> None:
    """The expression behind the generated column, read from the catalogue, against the function."""
    (row,) = await book.sql(
        "SELECT pg_get_expr(d.adbin, d.adrelid) AS expression FROM pg_attrdef d JOIN pg_attribute a"
        " ON a.attrelid = d.adrelid AND a.attnum = d.adnum WHERE d.adrelid = 'invoice'::regclass AND a.attname = 'state'"
    )
    names = ["total", "amount_received", "amount_refunded", "amount_charged_back", "amount_credited"]
    amounts = [
        facts
        for facts in itertools.product(range(3), range(4), range(4), range(3), range(3))
        if facts[2] + facts[3] <= facts[1]
        and facts[4] <= facts[0]
        and facts[0] - facts[4] - facts[1] + facts[2] + facts[3] >= 0
    ]
    times = list(itertools.product([None, T], repeat=4))
    counts = list(itertools.product([0, 1], [0, 1], [False, True], [False, True]))
    assert len(amounts) > 30
    columns = f"""
        SELECT a.*, t.*, c.* FROM unnest({", ".join(["%s::bigint[]"] * 5)}) AS a ({", ".join(names)}),
        unnest(%s::timestamptz[], %s::timestamptz[], %s::timestamptz[], %s::timestamptz[])
            AS t (finalize_time, void_time, write_off_time, overdue_time),
        unnest(%s::smallint[], %s::smallint[], %s::boolean[], %s::boolean[])
            AS c (open_chargebacks, lost_disputes, retry_pending, retries_exhausted)
    """
    params = [list(column) for group in (amounts, times, counts) for column in zip(*group, strict=True)]
    seen: dict[str, int] = defaultdict(int)
    for facts in await book.sql(f"SELECT *, {row['expression']} AS stored FROM ({columns}) AS i", *params):
        stored = facts.pop("stored")
        paid = facts["amount_received"] - facts["amount_refunded"] - facts["amount_charged_back"]
        known = SimpleNamespace(**facts, amount_due=facts["total"] - facts["amount_credited"] - paid)
        assert derive_state(known) == stored, facts
        seen[stored] += 1
    assert sum(seen.values()) == len(amounts) * len(times) * len(counts)
    assert len(seen) == 10


async def test_the_databases_edges_are_the_models(book: Book) -> None:
    edges: dict[str, set[str]] = defaultdict(set)
    for row in await book.sql("SELECT source, target FROM control.state_edge WHERE machine = 'invoice'"):
        edges[row["source"]].add(row["target"])
    assert edges.pop("") == {"DRAFT", "SENT", "PAID"}
    assert edges == {state: set(targets) for state, targets in TRANSITIONS.items() if targets}


async def test_the_state_is_never_written(book: Book) -> None:
    await book.sent(await book.client(), "1")
    await refuses(book, GeneratedAlways, None, "UPDATE invoice SET state = 'PAID'")
    await refuses(book, GeneratedAlways, None, "UPDATE invoice SET amount_due = 0")


@pytest.mark.parametrize(
    ("before", "change"),
    [
        ("", "finalize_time = NULL, series = NULL, series_no = NULL, number = NULL"),
        ("write_off_time = now()", "write_off_time = NULL"),
        ("void_time = now()", "void_time = NULL"),
        ("void_time = now()", "void_time = now() + interval '1 day'"),
        ("open_chargebacks = 1", "void_time = now()"),
        ("write_off_time = now()", "void_time = now()"),
        ("retries_exhausted = true, write_off_time = now()", "amount_received = 0, void_time = now()"),
    ],
)
async def test_states_move_only_along_the_edges(book: Book, before: str, change: str) -> None:
    sent = await book.sent(await book.client(), "1")
    if before:
        await book.sql(f"UPDATE invoice SET {before}")
    state = (await book.get(sent)).state
    with pytest.raises(CheckViolation):
        await book.sql(f"UPDATE invoice SET {change}")
    assert (await book.get(sent)).state is state


async def test_an_invoice_begins_as_draft_sent_or_paid(book: Book) -> None:
    client = await book.client()
    begin = (
        "INSERT INTO invoice (firm_id, id, client_id, origin, currency_code, series, series_no, number, issue_date, due_date,"
        " subtotal, total, finalize_time, overdue_time)"
        " VALUES (%s, gen_random_uuid(), %s, 'MANUAL', 'USD', 'S', 1, 'S-1', now(), now(), 1, 1, now(), now())"
    )
    await refuses(book, CheckViolation, "invoice_state_edge", begin, book.context.firm_id, client.id)


async def test_a_paid_invoice_is_neither_void_nor_uncollectible_all_of_a_sudden(book: Book) -> None:
    sent = await book.sent(await book.client(), "1")
    await book.pay(sent, 100)
    await refuses(book, CheckViolation, "invoice_void_check", "UPDATE invoice SET void_time = now()")
    await refuses(
        book, CheckViolation, "invoice_state_edge", "UPDATE invoice SET amount_received = 0, void_time = now()"
    )


# Amounts


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("amount_received = 101", "invoice_due_check"),
        ("amount_received = 100, amount_credited = 1", "invoice_due_check"),
        ("amount_received = -1", "invoice_facts_check"),
        ("amount_refunded = 1", "invoice_returned_check"),
        ("amount_received = 60, amount_refunded = 40, amount_charged_back = 30", "invoice_returned_check"),
        ("amount_received = 50, amount_refunded = 50, amount_credited = 101", "invoice_credited_check"),
        ("amount_received = 1, void_time = now()", "invoice_void_check"),
        ("retry_pending = true, retries_exhausted = true", "invoice_retries_check"),
        ("failure_count = -1", "invoice_failures_check"),
        ("failure_code = 'made_up'", "invoice_failure_code_check"),
        ("autopay_status = 'MAYBE'", "invoice_autopay_status_check"),
    ],
)
async def test_facts_of_a_sent_invoice_stay_true(book: Book, change: str, constraint: str) -> None:
    await book.sent(await book.client(), "1")
    with pytest.raises(CheckViolation) as caught:
        await book.sql(f"UPDATE invoice SET {change}")
    assert caught.value.diag.constraint_name == constraint


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("total = 99", "invoice_total_check"),
        ("subtotal = 101, tax_total = -1", "invoice_signs_check"),
        ("subtotal = -1, total = -1", "invoice_credited_check"),
        ("amount_credited = 1", "invoice_draft_check"),
        ("finalize_time = now(), issue_date = now(), due_date = now()", "invoice_number_check"),
        ("void_time = now()", "invoice_draft_check"),
        ("write_off_time = now()", "invoice_draft_check"),
        ("finalize_time = now(), issue_date = now(), due_date = now(), number = 'X-1'", "invoice_series_check"),
        ("finalize_time = now(), series = 'X', series_no = 1, number = 'X-1'", "invoice_dates_check"),
        ("currency_code = 'usd'", "invoice_currency_code_check"),
    ],
)
async def test_a_draft_is_whole(book: Book, change: str, constraint: str) -> None:
    await book.draft(await book.client(), "1")
    with pytest.raises(CheckViolation) as caught:
        await book.sql(f"UPDATE invoice SET {change}")
    assert caught.value.diag.constraint_name == constraint


async def test_an_invoice_whose_lines_do_not_add_up_is_not_sent(book: Book) -> None:
    draft = await book.draft(await book.client(), "1", "2")
    send = (
        "UPDATE invoice SET finalize_time = now(), series = 'X', series_no = 1, number = 'X-1', issue_date = now(),"
        " due_date = now(), subtotal = %s, total = %s, line_count = %s"
    )
    await refuses(book, CheckViolation, "invoice_line_sum", send, 301, 301, 2)
    await refuses(book, CheckViolation, "invoice_line_sum", send, 300, 300, 1)
    await book.sql(send, 300, 300, 2)
    assert (await book.get(draft)).state == "SENT"


# What is sent is fixed


@pytest.mark.parametrize(
    "change",
    [
        "subtotal = subtotal + 1, total = total + 1",
        "due_date = due_date + 1",
        "issue_date = issue_date + 1",
        "number = 'X-1'",
        "series_no = 77",
        "currency_code = 'EUR'",
        "line_count = 2",
        "client_id = gen_random_uuid()",
        "origin = 'RUN'",
        "run_id = gen_random_uuid()",
        "finalize_time = finalize_time + interval '1 s'",
    ],
)
async def test_a_sent_invoice_is_fixed(book: Book, change: str) -> None:
    await book.sent(await book.client(), "1")
    await refuses(book, CheckViolation, "invoice_fixed", f"UPDATE invoice SET {change}")


async def test_a_sent_invoice_and_its_lines_stay(book: Book) -> None:
    client = await book.client()
    sent, firm = await book.sent(client, "1"), book.context.firm_id
    await refuses(book, CheckViolation, "invoice_fixed", "DELETE FROM invoice")
    await refuses(book, CheckViolation, "invoice_line_fixed", "DELETE FROM invoice_line")
    await refuses(book, CheckViolation, "invoice_line_fixed", "UPDATE invoice_line SET description = 'else'")
    await refuses(book, CheckViolation, "invoice_line_sum", INSERT_LINE, firm, sent.id, 2, 0)
    await refuses(book, UniqueViolation, "invoice_line_pkey", INSERT_LINE, firm, sent.id, 1, 100)
    draft = await book.draft(client, "5")
    move = "UPDATE invoice_line SET invoice_id = %s, line_no = 2 WHERE invoice_id = %s"
    with pytest.raises(CheckViolation):
        await book.sql(move, sent.id, draft.id)
    for table in ("invoice", "client", "coverage", "engagement"):
        await refuses(book, InsufficientPrivilege, None, f"TRUNCATE {table} CASCADE")


@pytest.mark.parametrize("table", ["client", "engagement", "coverage", "invoice_series"])
async def test_parties_and_coverage_are_never_deleted(book: Book, table: str) -> None:
    await book.billed(await book.engagement(await book.client()), JANUARY, FEBRUARY)
    await refuses(book, InsufficientPrivilege, None, f"DELETE FROM {table}")


@pytest.mark.parametrize(
    ("line", "constraint"),
    [
        ("1, 'ITEM', 'x', -1, 1, 0, NULL, NULL", "invoice_line_signs_check"),
        ("1, 'ITEM', 'x', 1, -1, 0, NULL, NULL", "invoice_line_signs_check"),
        ("1, 'ITEM', 'x', 1, 1, -100, NULL, NULL", "invoice_line_signs_check"),
        ("0, 'ITEM', 'x', 1, 1, 100, NULL, NULL", "invoice_line_line_no_check"),
        ("1, 'GIFT', 'x', 1, 1, 100, NULL, NULL", "invoice_line_kind_check"),
        ("1, 'ITEM', 'x', 1, 1, 100, '2026-01-02', '2026-01-02'", "invoice_line_period_check"),
        ("1, 'ITEM', 'x', 1, 1, 100, '2026-01-02', NULL", "invoice_line_period_whole_check"),
    ],
)
async def test_lines_are_sound(book: Book, line: str, constraint: str) -> None:
    draft = await book.draft(await book.client())
    insert = (
        "INSERT INTO invoice_line (firm_id, invoice_id, line_no, kind, description, quantity, unit_price, amount_minor,"
        f" period_start, period_end) VALUES (%s, %s, {line})"
    )
    await refuses(book, CheckViolation, constraint, insert, book.context.firm_id, draft.id)


# Coverage


async def test_no_day_is_billed_twice(book: Book) -> None:
    agreed = await book.engagement(await book.client())
    first = await book.billed(agreed, JANUARY, MARCH)
    second = await book.draft(await book.client())
    firm = book.context.firm_id
    for start, end in (
        (JANUARY, FEBRUARY),
        (date(2026, 2, 28), date(2026, 3, 2)),
        (date(2025, 12, 1), date(2026, 5, 1)),
    ):
        await refuses(
            book, ExclusionViolation, "coverage_overlap_excl", COVER, firm, second.id, 1, agreed.id, start, end
        )
    await book.sql(COVER, firm, second.id, 1, agreed.id, MARCH, date(2026, 4, 1))
    other = await book.engagement(await book.client())
    await book.sql(COVER, firm, second.id, 2, other.id, JANUARY, MARCH)
    await book.do(closing.void_invoice, first.id)
    await book.sql(COVER, firm, second.id, 3, agreed.id, JANUARY, MARCH)
    await refuses(
        book,
        ExclusionViolation,
        "coverage_overlap_excl",
        "UPDATE coverage SET release_time = NULL WHERE invoice_id = %s",
        first.id,
    )


@pytest.mark.parametrize("period", ["daterange('2026-01-01', '2026-01-01')", "daterange(NULL, '2026-01-01')"])
async def test_coverage_is_a_period(book: Book, period: str) -> None:
    agreed = await book.engagement(await book.client())
    draft = await book.draft(await book.client())
    insert = (
        "INSERT INTO coverage (firm_id, invoice_id, line_no, engagement_id, component, period)"
        f" VALUES (%s, %s, 1, %s, 'PACKAGE', {period})"
    )
    await refuses(book, CheckViolation, "coverage_period_check", insert, book.context.firm_id, draft.id, agreed.id)


# Numbers


async def test_numbers_are_unique_and_counters_only_count_up(book: Book) -> None:
    sent = await book.sent(await book.client(), "1")
    draft = await book.draft(await book.client(), "1")
    take = (
        "UPDATE invoice SET finalize_time = now(), series = %s, series_no = %s, number = %s, issue_date = now(),"
        " due_date = now() WHERE id = %s"
    )
    await refuses(book, UniqueViolation, None, take, sent.series, sent.series_no, sent.number, draft.id)
    await refuses(book, CheckViolation, "invoice_series_fixed", "UPDATE invoice_series SET next_no = 1")


# Engagements and clients


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("end_date = start_date", "engagement_dates_check"),
        ("fee_minor = -1", "engagement_fee_check"),
        ("payment_terms_days = -1", "engagement_terms_check"),
        ("payment_terms_days = 366", "engagement_terms_check"),
        ("billing_interval = 'DAILY'", "engagement_billing_interval_check"),
        ("currency_code = 'EUR'", "engagement_fixed"),
    ],
)
async def test_engagements_are_sound(book: Book, change: str, constraint: str) -> None:
    await book.engagement(await book.client())
    await refuses(book, CheckViolation, constraint, f"UPDATE engagement SET {change}")


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("autopay_enabled = true", "client_autopay_check"),
        ("payment_terms_days = -1", "client_terms_check"),
        ("state = 'GONE'", None),
        ("autopay_cadence = 'DAILY'", "client_autopay_cadence_check"),
    ],
)
async def test_clients_are_sound(book: Book, change: str, constraint: str | None) -> None:
    await book.client()
    await refuses(book, CheckViolation, constraint, f"UPDATE client SET {change}")


# Tenancy


async def test_another_firms_objects_cannot_be_referenced(book: Book, make_book: MakeBook) -> None:
    mine, other = await book.client(), await make_book()
    insert = (
        "INSERT INTO invoice (firm_id, id, client_id, engagement_id, origin, currency_code, subtotal, total)"
        " VALUES (%s, gen_random_uuid(), %s, %s, 'MANUAL', 'USD', 0, 0)"
    )
    firm = other.context.firm_id
    await refuses(other, ForeignKeyViolation, "invoice_firm_id_client_id_fkey", insert, firm, mine.id, None)
    agreed, theirs = await book.engagement(mine), await other.client()
    await refuses(other, ForeignKeyViolation, "invoice_firm_id_engagement_id_fkey", insert, firm, theirs.id, agreed.id)
    draft = await book.draft(mine)
    await refuses(other, ForeignKeyViolation, None, INSERT_LINE, firm, draft.id, 1, 100)
    await refuses(other, ForeignKeyViolation, None, COVER, firm, draft.id, 1, agreed.id, JANUARY, FEBRUARY)


TABLES = ("client", "engagement", "invoice", "invoice_line", "coverage", "invoice_series")


async def test_another_firms_rows_cannot_be_seen_or_touched(book: Book, make_book: MakeBook) -> None:
    client = await book.client()
    await book.billed(await book.engagement(client), JANUARY, FEBRUARY)
    other = await make_book()
    for table in TABLES:
        assert len(await book.sql(f"SELECT 1 FROM {table}")) == 1
        assert await other.sql(f"SELECT 1 FROM {table}") == []
    assert await other.sql("UPDATE client SET name = 'mine' RETURNING 1") == []
    assert await other.sql("DELETE FROM invoice RETURNING 1") == []
    assert (await book.sql("SELECT name FROM client"))[0]["name"] == client.name
    insert = "INSERT INTO client (firm_id, id, name, currency_code) VALUES (%s, gen_random_uuid(), 'x', 'USD')"
    await refuses(other, InsufficientPrivilege, None, insert, book.context.firm_id)
    move = "UPDATE client SET firm_id = %s"
    await other.client()
    await refuses(other, InsufficientPrivilege, None, move, book.context.firm_id)


async def test_outside_a_firm_there_is_nothing(book: Book, db: Database) -> None:
    await book.billed(await book.engagement(await book.client()), JANUARY, FEBRUARY)
    async with db.transaction(support.context(None)) as uow:
        for table in TABLES:
            assert await uow.fetch_all(f"SELECT 1 FROM {table}") == []


async def test_an_invoice_needs_its_firm_and_client(book: Book) -> None:
    insert = (
        "INSERT INTO invoice (firm_id, id, client_id, origin, currency_code, subtotal, total)"
        " VALUES (%s, gen_random_uuid(), %s, 'MANUAL', 'USD', 0, 0)"
    )
    await refuses(book, NotNullViolation, None, insert, book.context.firm_id, None)


async def test_the_stored_balances_are_the_ledgers_alone(book: Book) -> None:
    sent: Invoice = await book.sent(await book.client(), "1")
    for statement in ("UPDATE client_balance SET receivable_minor = 0", "DELETE FROM client_balance"):
        await refuses(book, InsufficientPrivilege, None, statement)
    assert await book.sql("SELECT receivable_minor FROM client_balance") == [{"receivable_minor": sent.total}]
