"""The ledger's database rules, attacked as the application's role."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable

import psycopg
import pytest

from dunwell_server.ledger import rules, service, store
from dunwell_server.ledger.model import Account, Entry, Posting
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database

MakeFirm = Callable[..., Awaitable[CallContext]]


async def test_postings_move_the_stored_balances(db: Database, make_firm: MakeFirm) -> None:
    firm, client = await make_firm(), uuid.uuid4()
    async with db.transaction(firm) as uow:
        await service.post(uow, [
            rules.invoice_finalized(uuid.uuid4(), client, "USD", earned=4000, deferred=6000, tax=500),
            rules.payment_received(uuid.uuid4(), client, "USD", "sandbox", settled=10500, recovered=0, credited=250),
        ])  # fmt: skip
    async with db.transaction(firm, write=False) as uow:
        balance = await uow.fetch_one(
            "SELECT receivable_minor, credit_minor FROM client_balance WHERE client_id = %s", (client,)
        )
        trial = {row["account"]: int(row["balance"]) for row in await store.trial_balance(uow)}
    assert balance == {"receivable_minor": 0, "credit_minor": 250}
    assert trial == {
        "receivable": 0, "revenue": -4000, "deferred_revenue": -6000, "tax_payable": -500, "clearing": 10750, "client_credit": -250,
    }  # fmt: skip


async def test_an_unbalanced_posting_is_refused(db: Database, make_firm: MakeFirm) -> None:
    firm = await make_firm()
    crooked = Posting(
        "test",
        uuid.uuid4(),
        "crooked",
        [Entry(Account.REVENUE, -100, "USD"), Entry(Account.CASH, 99, "USD", provider="manual")],
    )
    with pytest.raises(psycopg.errors.CheckViolation, match="equal in each currency"):
        async with db.transaction(firm) as uow:
            await service.post(uow, [crooked])


async def test_each_currency_balances_by_itself(db: Database, make_firm: MakeFirm) -> None:
    firm = await make_firm()
    mixed = Posting(
        "test",
        uuid.uuid4(),
        "mixed",
        [Entry(Account.REVENUE, -100, "USD"), Entry(Account.CASH, 100, "EUR", provider="manual")],
    )
    with pytest.raises(psycopg.errors.CheckViolation, match="equal in each currency"):
        async with db.transaction(firm) as uow:
            await service.post(uow, [mixed])


async def test_the_same_fact_is_posted_once(db: Database, make_firm: MakeFirm) -> None:
    firm, invoice, client = await make_firm(), uuid.uuid4(), uuid.uuid4()
    posting = rules.invoice_finalized(invoice, client, "USD", earned=100, deferred=0, tax=0)
    async with db.transaction(firm) as uow:
        await service.post(uow, [posting])
    with pytest.raises(psycopg.errors.UniqueViolation):
        async with db.transaction(firm) as uow:
            await service.post(uow, [posting])


async def test_a_fact_without_amount_leaves_no_trace(db: Database, make_firm: MakeFirm) -> None:
    firm = await make_firm()
    async with db.transaction(firm) as uow:
        await service.post(
            uow, [rules.invoice_finalized(uuid.uuid4(), uuid.uuid4(), "USD", earned=0, deferred=0, tax=0)]
        )
        assert await uow.fetch_value("SELECT count(*) FROM ledger_posting") == 0


@pytest.mark.parametrize(
    "attack",
    [
        "UPDATE ledger_entry SET amount_minor = amount_minor + 1",
        "DELETE FROM ledger_entry",
        "DELETE FROM ledger_posting",
        "TRUNCATE ledger_entry",
        "UPDATE client_balance SET credit_minor = 1000000",
        "INSERT INTO client_balance SELECT firm_id, gen_random_uuid(), 'USD', 0, 5 FROM ledger_posting LIMIT 1",
    ],
)
async def test_the_application_cannot_touch_what_is_posted(db: Database, make_firm: MakeFirm, attack: str) -> None:
    firm = await make_firm()
    async with db.transaction(firm) as uow:
        await service.post(
            uow, [rules.invoice_finalized(uuid.uuid4(), uuid.uuid4(), "USD", earned=100, deferred=0, tax=0)]
        )
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        async with db.transaction(firm) as uow:
            await uow.execute(attack)


async def test_entries_cannot_be_added_to_a_closed_posting(db: Database, make_firm: MakeFirm) -> None:
    firm = await make_firm()
    async with db.transaction(firm) as uow:
        await service.post(
            uow, [rules.invoice_finalized(uuid.uuid4(), uuid.uuid4(), "USD", earned=100, deferred=0, tax=0)]
        )
        posting = await uow.fetch_value("SELECT id FROM ledger_posting")
    with pytest.raises(psycopg.errors.CheckViolation, match="all its entries at once"):
        async with db.transaction(firm) as uow:
            await uow.execute(
                "INSERT INTO ledger_entry (firm_id, posting_id, line_no, account, provider, currency_code, amount_minor)"
                " VALUES (%(f)s, %(p)s, 8, 'cash', 'manual', 'USD', 7), (%(f)s, %(p)s, 9, 'revenue', NULL, 'USD', -7)",
                {"f": firm.firm_id, "p": posting},
            )


async def test_credit_and_receivable_never_go_below_zero(db: Database, make_firm: MakeFirm) -> None:
    firm, client = await make_firm(), uuid.uuid4()
    for entry in (Entry(Account.CLIENT_CREDIT, 1, "USD", client), Entry(Account.RECEIVABLE, -1, "USD", client)):
        counter = Entry(Account.CASH, -entry.amount_minor, "USD", provider="manual")
        with pytest.raises(psycopg.errors.CheckViolation, match="client_balance"):
            async with db.transaction(firm) as uow:
                await service.post(uow, [Posting("test", uuid.uuid4(), "negative", [entry, counter])])


async def test_another_firm_sees_nothing(db: Database, make_firm: MakeFirm) -> None:
    ours, theirs = await make_firm(), await make_firm()
    async with db.transaction(ours) as uow:
        await service.post(
            uow, [rules.invoice_finalized(uuid.uuid4(), uuid.uuid4(), "USD", earned=100, deferred=0, tax=0)]
        )
    async with db.transaction(theirs) as uow:
        assert await uow.fetch_value("SELECT count(*) FROM ledger_entry") == 0
        assert await uow.fetch_value("SELECT count(*) FROM client_balance") == 0
