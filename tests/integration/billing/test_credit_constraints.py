"""Credit against SQL: whatever is written as the application's role, or as the owner's, entries and uses keep their rules."""

from __future__ import annotations

from uuid import uuid4

import psycopg
import pytest
from psycopg.errors import CheckViolation, ForeignKeyViolation, InsufficientPrivilege, UniqueViolation

from dunwell_server.billing.service import credit
from tests import support
from tests.integration.billing.book import Book
from tests.integration.billing.test_credit import grant

USE = (
    "INSERT INTO credit_use (firm_id, id, entry_id, kind, currency_code, amount_minor, invoice_id, firm_time)"
    " SELECT firm_id, gen_random_uuid(), id, {kind}, {currency}, {amount}, {invoice}, now() FROM credit_entry WHERE kind = 'GOODWILL'"
)
INVOICE = "(SELECT id FROM invoice LIMIT 1)"


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        (USE.format(kind="'APPLIED'", currency="'USD'", amount=1001, invoice=INVOICE), CheckViolation),
        (USE.format(kind="'REVERSED'", currency="'USD'", amount=1001, invoice="NULL"), CheckViolation),
        (USE.format(kind="'REVERSED'", currency="'USD'", amount=0, invoice="NULL"), CheckViolation),
        (USE.format(kind="'REVERSED'", currency="'USD'", amount=1, invoice=INVOICE), CheckViolation),
        (USE.format(kind="'APPLIED'", currency="'USD'", amount=1, invoice="NULL"), CheckViolation),
        (USE.format(kind="'RELEASED'", currency="'USD'", amount=1, invoice=INVOICE), CheckViolation),
        (USE.format(kind="'SPENT'", currency="'USD'", amount=1, invoice="NULL"), CheckViolation),
        (USE.format(kind="'REVERSED'", currency="'EUR'", amount=1, invoice="NULL"), ForeignKeyViolation),
        (USE.format(kind="'APPLIED'", currency="'USD'", amount=1, invoice="gen_random_uuid()"), ForeignKeyViolation),
        ("UPDATE credit_entry SET remaining_minor = 5000", InsufficientPrivilege),
        ("UPDATE credit_use SET amount_minor = 1", InsufficientPrivilege),
        ("DELETE FROM credit_entry", InsufficientPrivilege),
        ("DELETE FROM credit_use", InsufficientPrivilege),
        (
            "INSERT INTO credit_entry (firm_id, id, client_id, currency_code, kind, amount_minor, remaining_minor, source_type, source_id, firm_time)"
            " SELECT firm_id, gen_random_uuid(), client_id, currency_code, kind, 1, 1, 'payment', source_id, now() FROM credit_entry"
            " WHERE source_type = 'payment'",
            UniqueViolation,
        ),
        (
            "INSERT INTO credit_entry (firm_id, id, client_id, currency_code, kind, amount_minor, remaining_minor, source_type, firm_time)"
            " SELECT firm_id, gen_random_uuid(), client_id, currency_code, kind, 0, 0, 'grant', now() FROM credit_entry",
            CheckViolation,
        ),
    ],
)
async def test_the_database_refuses(book: Book, statement: str, error: type[Exception]) -> None:
    client = await book.client()
    await book.sent(client, "5")
    await grant(book, client, 1000)
    await book.do(credit.add, [credit.excess(uuid4(), client.id, "USD", 10)])
    with pytest.raises(error):
        await book.sql(statement)


async def test_what_is_left_begins_as_all_whatever_is_said(book: Book) -> None:
    client = await book.client()
    rows = await book.sql(
        "INSERT INTO credit_entry (firm_id, id, client_id, currency_code, kind, amount_minor, remaining_minor, source_type, firm_time)"
        " SELECT firm_id, gen_random_uuid(), id, 'USD', 'GOODWILL', 100, 7, 'grant', now() FROM client WHERE id = %s RETURNING remaining_minor",
        client.id,
    )
    assert rows == [{"remaining_minor": 100}]


async def test_the_owner_cannot_edit_an_entry_either(book: Book, database_urls: support.DatabaseUrls) -> None:
    client = await book.client()
    await grant(book, client, 1000)
    with psycopg.connect(database_urls.owner) as connection, pytest.raises(CheckViolation):
        connection.execute("UPDATE credit_entry SET amount_minor = 2000, remaining_minor = 2000")
