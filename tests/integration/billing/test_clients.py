"""Clients."""

from __future__ import annotations

from datetime import UTC, date, datetime
from uuid import uuid4

from dunwell_server.billing.service import clients, closing, engagements
from dunwell_server.billing.store.clients import ClientQuery
from dunwell_server.billing.store.rows import PageRequest, TimeRange
from dunwell_server.kernel.errors import Reason
from dunwell_server.ledger.service import ClientBalance
from tests.integration.billing.book import Book, field_of
from tests.integration.billing.conftest import NOON, MakeBook


async def test_a_client_is_kept_as_given(make_book: MakeBook) -> None:
    book = await make_book(currency_code="INR")
    new = clients.NewClient(
        name="Asha Traders", external_id="c-1", email="asha@example.com", phone="+911234567890",
        address={"lines": ["12 MG Road"], "city": "Pune"}, tax_id="27AAPFU0939F1ZV", locale="hi-IN", payment_terms_days=0,
        metadata={"tier": "gold"},
    )  # fmt: skip
    client = await book.do(clients.create_client, new)
    assert client == await book.see(clients.get_client, client.id)
    assert (client.name, client.currency_code, client.payment_terms_days, client.state) == (
        "Asha Traders",
        "INR",
        0,
        "ACTIVE",
    )
    assert (client.address, client.metadata) == ({"lines": ["12 MG Road"], "city": "Pune"}, {"tier": "gold"})
    assert (client.create_time, client.version, client.autopay_enabled) == (NOON, 1, False)
    assert await book.journal(client.id) == (["client_created"], ["client.created"])
    audit = await book.sql("SELECT metadata::text AS text FROM audit_event")
    assert "asha" not in audit[0]["text"].lower()


async def test_unknown_currencies_and_taken_ids_are_refused(book: Book) -> None:
    for code in ("ABC", "XAU"):
        error = await book.refused(clients.create_client, clients.NewClient("x", currency_code=code))
        assert (error.reason, field_of(error)) == (Reason.UNKNOWN_CURRENCY, "client.currency_code")
    await book.client(external_id="c-1")
    error = await book.refused(clients.create_client, clients.NewClient("x", external_id="c-1"))
    assert (error.reason, field_of(error)) == (Reason.EXTERNAL_ID_TAKEN, "client.external_id")


async def test_named_fields_change_and_only_those(book: Book) -> None:
    client = await book.client(email="old@example.com", payment_terms_days=7)
    changes = {"email": None, "name": "New", "address": {"city": "Rome"}, "payment_terms_days": None}
    changed = await book.do(clients.update_client, client.id, changes, expected_version=1)
    assert (changed.email, changed.name, changed.address) == (None, "New", {"city": "Rome"})
    assert (changed.payment_terms_days, changed.currency_code, changed.version) == (None, "USD", 2)
    error = await book.refused(clients.update_client, client.id, {"name": "Mine"}, expected_version=1)
    assert error.reason is Reason.ETAG_MISMATCH
    assert (await book.refused(clients.update_client, uuid4(), {"name": "x"})).reason is Reason.RESOURCE_NOT_FOUND


async def test_the_currency_changes_only_while_nothing_is_in_the_old_one(book: Book) -> None:
    client = await book.client()
    change = {"currency_code": "EUR"}
    draft = await book.draft(client, "1")
    assert (await book.refused(clients.update_client, client.id, change)).reason is Reason.STATE_CONFLICT
    sent = await book.sent(client, "1")
    await book.sql("DELETE FROM invoice_line WHERE invoice_id = %s", draft.id)
    await book.sql("DELETE FROM invoice WHERE id = %s", draft.id)
    assert (await book.refused(clients.update_client, client.id, change)).reason is Reason.STATE_CONFLICT
    await book.do(closing.void_invoice, sent.id)
    agreed = await book.engagement(client)
    assert (await book.refused(clients.update_client, client.id, change)).reason is Reason.STATE_CONFLICT
    await book.do(engagements.end_engagement, agreed.id, date(2026, 1, 2))
    assert (
        await book.refused(clients.update_client, client.id, change)
    ).reason is Reason.STATE_CONFLICT  # still to bill
    await book.billed(agreed, date(2026, 1, 1), date(2026, 1, 2), 0)
    await book.sql("UPDATE engagement SET next_bill_date = NULL")
    assert (await book.do(clients.update_client, client.id, change)).currency_code == "EUR"
    error = await book.refused(clients.update_client, client.id, {"currency_code": "QQQ"})
    assert error.reason is Reason.UNKNOWN_CURRENCY
    assert (await book.do(clients.update_client, client.id, {"currency_code": None})).currency_code == "USD"


async def test_balances_tell_what_is_owed(book: Book) -> None:
    client = await book.client()
    assert await book.see(clients.client_balances, client.id) == []
    await book.sent(client, "12.34")
    assert await book.see(clients.client_balances, client.id) == [ClientBalance("USD", 1234, 0)]


async def test_lists_are_filtered_ordered_and_paged(book: Book, make_book: MakeBook) -> None:
    made = [await book.client(name=name, email=f"{name}@x.org", external_id=name) for name in ("b", "c", "a")]
    other = await make_book()
    await other.client(name="z")

    async def names(query: ClientQuery, page: PageRequest | None = None) -> str:
        found = await book.see(clients.list_clients, query, page or PageRequest())
        return "".join(client.name for client in found)

    assert await names(ClientQuery()) == "acb"
    assert await names(ClientQuery(order="CREATE_TIME_ASC")) == "bca"
    assert await names(ClientQuery(order="NAME_ASC")) == "abc"
    assert await names(ClientQuery(order="NAME_ASC"), PageRequest(1, ("a", made[2].id))) == "b"
    assert await names(ClientQuery(email="c@x.org")) == "c"
    assert await names(ClientQuery(external_id="b")) == "b"
    assert await names(ClientQuery(autopay_enabled=True)) == ""
    assert await names(ClientQuery(create_time=TimeRange(NOON, None))) == "acb"
    assert await names(ClientQuery(create_time=TimeRange(None, NOON))) == ""
    assert await names(ClientQuery(create_time=TimeRange(datetime(2030, 1, 1, tzinfo=UTC)))) == ""
