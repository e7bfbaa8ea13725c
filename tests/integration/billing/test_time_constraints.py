"""What the database refuses about time, attacked with plain SQL as the application's role."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.errors import (
    CheckViolation,
    ExclusionViolation,
    ForeignKeyViolation,
    InsufficientPrivilege,
    UniqueViolation,
)

from dunwell_server.billing.service import closing
from tests.integration.billing.book import Book
from tests.integration.billing.timebook import (
    FEBRUARY,
    JANUARY,
    TERMS,
    approved,
    bill,
    draft,
    hourly,
    mixed,
    submitted,
    worked,
)

LINK = "INSERT INTO invoice_time (firm_id, invoice_id, time_entry_id, line_no, minutes) VALUES (%s, %s, %s, 1, 1)"
PERIOD = (
    "INSERT INTO invoice_time_period (firm_id, invoice_id, engagement_id, period_start, period_end, minutes, amount_minor, capped_minor)"
    " VALUES (%s, %s, %s, %s, '2027-01-01', 1, %s, %s)"
)
USE = (
    "INSERT INTO allowance_use (firm_id, invoice_id, engagement_id, period_start, grant_start, minutes, granted_minutes)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s)"
)


async def refuses(book: Book, kind: type[psycopg.Error], constraint: str | None, statement: str, *params: Any) -> None:
    """The statement fails with that error, on that constraint."""
    with pytest.raises(kind) as caught:
        await book.sql(statement, *params)
    if constraint is not None:
        assert caught.value.diag.constraint_name == constraint, caught.value


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("minutes = 0", "time_entry_minutes_check"),
        ("minutes = 100001", "time_entry_minutes_check"),
        ("written_down_minutes = 61, write_down_reason = 'x'", "time_entry_minutes_check"),
        ("written_down_minutes = 1", "time_entry_write_down_check"),
        ("write_down_reason = 'x'", "time_entry_write_down_check"),
        ("rate = -1", "time_entry_rate_check"),
        ("state = 'SUBMITTED'", "time_entry_submitted_check"),
        ("submit_actor = 'x'", "time_entry_submitted_check"),
        ("approve_actor = 'x', approve_time = now()", "time_entry_approved_check"),
        ("reject_reason = 'x'", "time_entry_rejected_check"),
        ("invoice_id = gen_random_uuid()", "time_entry_invoiced_check"),
        ("state = 'APPROVED', submit_actor = 'a', submit_time = now(), approve_actor = 'x', approve_time = now()", "time_entry_state_edge"),
        ("state = 'REJECTED', submit_actor = 'a', submit_time = now(), reject_actor = 'x', reject_time = now(), reject_reason = 'y'", "time_entry_state_edge"),
        ("engagement_id = gen_random_uuid()", "time_entry_fixed"),
        ("client_id = gen_random_uuid()", "time_entry_fixed"),
    ],
)  # fmt: skip
async def test_a_draft_keeps_its_rules(book: Book, change: str, constraint: str) -> None:
    await draft(book, worked(await hourly(book, await book.client()), JANUARY, 60))
    await refuses(book, CheckViolation, constraint, f"UPDATE time_entry SET {change}")


@pytest.mark.parametrize(
    "change", ["person = 'x'", "role = 'x'", "work_date = '2026-02-01'", "minutes = 1", "description = 'x'", "rate = 1"]
)
async def test_what_was_worked_is_fixed_once_submitted(book: Book, change: str) -> None:
    client = await book.client()
    agreed = await hourly(book, client)
    await submitted(book, worked(agreed, JANUARY, 60))
    await refuses(book, CheckViolation, "time_entry_fixed", f"UPDATE time_entry SET {change}")
    await book.sql("UPDATE time_entry SET state = 'APPROVED', approve_actor = 'x', approve_time = now()")
    await refuses(book, CheckViolation, "time_entry_fixed", f"UPDATE time_entry SET {change}")
    await refuses(
        book, CheckViolation, "time_entry_fixed",
        f"UPDATE time_entry SET state = 'SUBMITTED', approve_actor = NULL, approve_time = NULL, {change}",
    )  # fmt: skip
    await bill(book, client)
    await refuses(book, CheckViolation, "time_entry_fixed", f"UPDATE time_entry SET {change}")


async def test_approved_and_invoiced_time_keeps_who_did_what(book: Book) -> None:
    client = await book.client()
    agreed = await hourly(book, client)
    await approved(book, worked(agreed, JANUARY, 60))
    for change in ("approve_actor = 'me'", "submit_actor = 'me'", "approve_time = now() + interval '1 day'"):
        await refuses(book, CheckViolation, "time_entry_fixed", f"UPDATE time_entry SET {change}")
    await bill(book, client)
    for change in (
        "approve_actor = 'me'",
        "written_down_minutes = 1, write_down_reason = 'x'",
        "invoice_id = gen_random_uuid()",
        "state = 'APPROVED', invoice_id = NULL, written_down_minutes = 1, write_down_reason = 'x'",
    ):
        await refuses(book, CheckViolation, "time_entry_fixed", f"UPDATE time_entry SET {change}")
    await refuses(book, InsufficientPrivilege, None, "DELETE FROM time_entry")


async def test_time_begins_as_a_draft_of_the_engagements_client(book: Book) -> None:
    client, other = await book.client(), await book.client()
    agreed = await hourly(book, client)
    begin = (
        "INSERT INTO time_entry (firm_id, id, client_id, engagement_id, person, work_date, minutes, state, submit_actor, submit_time)"
        " VALUES (%s, gen_random_uuid(), %s, %s, 'x', now(), 1, %s, 'x', now())"
    )
    firm = book.context.firm_id
    await refuses(book, CheckViolation, "time_entry_state_edge", begin, firm, client.id, agreed.id, "SUBMITTED")
    await refuses(book, ForeignKeyViolation, None, begin, firm, other.id, agreed.id, "DRAFT")


async def test_an_entry_is_on_at_most_one_live_invoice_which_holds_it(book: Book) -> None:
    client = await book.client()
    agreed = await hourly(book, client)
    (entry,) = await approved(book, worked(agreed, JANUARY, 60))
    firm, elsewhere = book.context.firm_id, await book.sent(client, "1")
    await refuses(book, CheckViolation, "invoice_time_holds", LINK, firm, elsewhere.id, entry.id)
    await refuses(book, CheckViolation, "invoice_time_holds", LINK, firm, elsewhere.id, uuid4())
    mark = "UPDATE time_entry SET state = 'INVOICED', invoice_id = %s"
    await refuses(book, CheckViolation, "time_entry_held", mark, elsewhere.id)
    invoice = await bill(book, client)
    await refuses(book, UniqueViolation, "invoice_time_live_key", LINK, firm, elsewhere.id, entry.id)
    release = "UPDATE invoice_time SET release_time = now()"
    await refuses(book, CheckViolation, "invoice_time_holds", release)
    await refuses(
        book, CheckViolation, "invoice_time_fixed", "UPDATE invoice_time SET minutes = 1, release_time = now()"
    )
    await refuses(book, CheckViolation, None, "DELETE FROM invoice_time")
    await refuses(book, CheckViolation, "invoice_time_period_fixed", "DELETE FROM invoice_time_period")
    await book.do(closing.void_invoice, invoice.id)
    await refuses(book, CheckViolation, "invoice_time_fixed", "UPDATE invoice_time SET release_time = NULL")
    await refuses(book, CheckViolation, "time_entry_held", mark, invoice.id)


async def test_no_more_is_used_of_a_grant_than_it_has(book: Book) -> None:
    client = await book.client()
    agreed = await mixed(book, client)
    firm, invoice = book.context.firm_id, await book.sent(client, "1")
    await book.sql(USE, firm, invoice.id, agreed.id, JANUARY, JANUARY, 400, 600)
    await refuses(
        book, CheckViolation, "allowance_use_granted", USE, firm, invoice.id, agreed.id, FEBRUARY, JANUARY, 201, 600
    )
    await refuses(
        book,
        CheckViolation,
        "allowance_use_minutes_check",
        USE,
        firm,
        invoice.id,
        agreed.id,
        FEBRUARY,
        FEBRUARY,
        601,
        600,
    )
    await refuses(
        book, CheckViolation, "allowance_use_period_check", USE, firm, invoice.id, agreed.id, JANUARY, FEBRUARY, 1, 600
    )
    await book.sql(USE, firm, invoice.id, agreed.id, FEBRUARY, JANUARY, 200, 600)
    await refuses(book, ForeignKeyViolation, None, USE, firm, uuid4(), agreed.id, FEBRUARY, FEBRUARY, 1, 600)


async def test_no_more_is_billed_than_the_caps_allow(book: Book) -> None:
    client = await book.client()
    agreed = await hourly(book, client, replace(TERMS, period_cap_minor=1000, total_cap_minor=1500))
    firm = book.context.firm_id
    one, two = await book.sent(client, "1"), await book.sent(client, "1")
    await refuses(book, CheckViolation, "invoice_time_period_cap", PERIOD, firm, one.id, agreed.id, JANUARY, 1001, 0)
    await book.sql(PERIOD, firm, one.id, agreed.id, JANUARY, 1200, 200)
    await refuses(book, CheckViolation, "invoice_time_period_cap", PERIOD, firm, two.id, agreed.id, JANUARY, 1, 0)
    await refuses(book, CheckViolation, "invoice_time_period_cap", PERIOD, firm, two.id, agreed.id, FEBRUARY, 501, 0)
    await book.sql(PERIOD, firm, two.id, agreed.id, FEBRUARY, 500, 0)
    await book.sql(PERIOD, firm, two.id, agreed.id, JANUARY, 70, 70)


@pytest.mark.parametrize(
    ("change", "constraint"),
    [
        ("default_rate = NULL", "engagement_hourly_check"),
        ("pricing_mode = 'PACKAGE'", "engagement_hourly_check"),
        ("default_rate = -1", "engagement_hourly_terms_check"),
        ("billing_increment_minutes = 0", "engagement_hourly_terms_check"),
        ("included_minutes = 1", "engagement_hourly_terms_check"),
        ("rollover_periods = -1", "engagement_hourly_terms_check"),
        ("period_cap_minor = -1", "engagement_caps_check"),
        ("time_rounding = 'UPWARD'", "engagement_time_rounding_check"),
        ("time_grouping = 'TEAM'", "engagement_time_grouping_check"),
    ],
)
async def test_hourly_terms_keep_their_rules(book: Book, change: str, constraint: str) -> None:
    await hourly(book, await book.client())
    await refuses(book, CheckViolation, constraint, f"UPDATE engagement SET {change}")


async def test_rates_of_a_role_never_overlap(book: Book) -> None:
    agreed = await hourly(book, await book.client())
    insert = "INSERT INTO engagement_rate VALUES (%s, %s, %s, %s, %s, daterange(%s, %s))"
    key = book.context.firm_id, agreed.id
    await book.sql(insert, *key, 1, "a", 1, JANUARY, FEBRUARY)
    await book.sql(insert, *key, 2, "a", 1, FEBRUARY, None)
    await book.sql(insert, *key, 3, "b", 1, None, None)
    await refuses(
        book, ExclusionViolation, "engagement_rate_overlap_excl", insert, *key, 4, "a", 1, None, date(2026, 1, 2)
    )
    await refuses(book, CheckViolation, "engagement_rate_rate_check", insert, *key, 4, "c", -1, None, None)
    await refuses(book, CheckViolation, "engagement_rate_period_check", insert, *key, 4, "c", 1, JANUARY, JANUARY)
    await refuses(book, InsufficientPrivilege, None, "UPDATE engagement_rate SET rate = 2")


async def test_alerts_stay(book: Book) -> None:
    agreed = await hourly(book, await book.client(), replace(TERMS, period_cap_minor=100))
    await approved(book, worked(agreed, JANUARY, 60))
    assert len(await book.sql("SELECT 1 FROM cap_alert")) == 2
    await refuses(book, InsufficientPrivilege, None, "DELETE FROM cap_alert")
    await refuses(book, UniqueViolation, None, "INSERT INTO cap_alert SELECT * FROM cap_alert")
