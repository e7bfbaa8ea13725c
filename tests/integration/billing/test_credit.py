"""Credit: given, used by itself and by hand, taken back, given back, expired; never more than there is, whoever comes at once."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from dunwell_server.billing import events
from dunwell_server.billing.model import Client, Invoice
from dunwell_server.billing.model.credit import CreditKind, CreditSource, CreditUseKind, NewCredit, StatedEntry
from dunwell_server.billing.service import clients, closing, collection, credit, credit_application, invoices, preview
from dunwell_server.billing.service.credit import Grant
from dunwell_server.billing.service.credit_application import Wanted
from dunwell_server.billing.store.credit import EntryQuery
from dunwell_server.billing.store.due import marks_due
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.money import Money
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.invariants import run_for_firm
from tests.integration.billing.book import Book, field_of, new_invoice
from tests.integration.billing.conftest import NOON

DAY = timedelta(days=1)


async def grant(
    book: Book,
    client: Client,
    minor: int,
    kind: CreditKind = CreditKind.GOODWILL,
    currency: str = "USD",
    **more: object,
) -> StatedEntry:
    return await book.do(credit.grant, Grant(client.id, kind, Money(currency, minor), **more))  # type: ignore[arg-type]


async def left(book: Book, client: Client) -> list[tuple[str, int]]:
    """Kinds and what is left of the client's entries, the oldest first."""
    found = await book.see(credit.statement, EntryQuery(client.id), PageRequest(100))
    return [(stated.entry.kind.value, stated.entry.remaining_minor) for stated in reversed(found)]


async def balance(book: Book, client: Client) -> int:
    return sum(
        row["credit_minor"]
        for row in await book.sql("SELECT credit_minor FROM client_balance WHERE client_id = %s", client.id)
    )


async def verified(book: Book) -> None:
    """Every invariant holds."""
    broken = [check for check in await book.see(run_for_firm) if not check.ok]
    assert broken == []


# Giving ------------------------------------------------------------------------------------------------------------------------------


async def test_a_balance_that_leaves_64_bits_is_refused_by_name(book: Book) -> None:
    client = await book.client()
    await grant(book, client, 2**63 - 1)
    more = Grant(client.id, CreditKind.GOODWILL, Money("USD", 1))
    assert (await book.refused(credit.grant, more)).reason is Reason.AMOUNT_OUT_OF_RANGE
    debtor = await book.client()
    await book.sent(debtor, "90000000000000000")
    refusal = await book.refused(invoices.create_invoice, new_invoice(debtor, "90000000000000000"), finalize=True)
    assert refusal.reason is Reason.AMOUNT_OUT_OF_RANGE


@pytest.mark.parametrize(
    ("kind", "account"),
    [
        (CreditKind.GOODWILL, "promotional_contra_revenue"),
        (CreditKind.PROMOTION, "promotional_contra_revenue"),
        (CreditKind.PREPAYMENT, "cash"),
        (CreditKind.DISPUTE_ADJUSTMENT, "bad_debt"),
    ],
)
async def test_credit_is_given_and_taken_back(book: Book, kind: CreditKind, account: str) -> None:
    client = await book.client()
    stated = await grant(book, client, 5000, kind, reason="sorry")
    assert (stated.entry.remaining_minor, stated.entry.priority, stated.balance_after) == (5000, 50, 5000)
    assert await book.trial() == {"client_credit": -5000, account: 5000}
    assert await book.journal(stated.entry.id) == (["credit_granted"], ["credit.granted"])
    [stated] = await book.do(credit.reverse_grant, stated.entry.id, Money("USD", 2000), "too much")
    assert [(each.use.kind, each.use.amount_minor, each.balance_after) for each in stated.uses] == [
        ("REVERSED", 2000, 3000)
    ]
    [stated] = await book.do(credit.reverse_grant, stated.entry.id)
    assert stated.entry.remaining_minor == 0
    assert await book.trial() == {}
    error = await book.refused(credit.reverse_grant, stated.entry.id)
    assert (error.reason, error.metadata["available_minor"]) == (Reason.CREDIT_INSUFFICIENT, "0")
    await verified(book)


async def test_what_cannot_be_given(book: Book) -> None:
    client = await book.client()
    for kind in (CreditKind.OVERPAYMENT, CreditKind.REFUND_TO_CREDIT):
        error = await book.refused(credit.grant, Grant(client.id, kind, Money("USD", 1)))
        assert (error.reason, field_of(error)) == (Reason.FIELD_INVALID, "kind")
    error = await book.refused(credit.grant, Grant(client.id, CreditKind.GOODWILL, Money("USD", 1), expire_time=NOON))
    assert (error.reason, field_of(error)) == (Reason.PERIOD_INVALID, "expire_time")
    error = await book.refused(credit.grant, Grant(uuid4(), CreditKind.GOODWILL, Money("USD", 1)))
    assert error.reason is Reason.RESOURCE_NOT_FOUND


async def test_money_of_the_client_is_not_taken_back(book: Book) -> None:
    client = await book.client()

    async def overpaid(uow: UnitOfWork) -> list[UUID]:
        return await credit.add(uow, [credit.excess(uuid4(), client.id, "USD", 10)])

    [entry_id] = await book.do(overpaid)
    error = await book.refused(credit.reverse_grant, entry_id)
    assert (error.reason, error.metadata) == (
        Reason.STATE_CONFLICT,
        {"state": "OVERPAYMENT", "allowed": "RefundPayment"},
    )


# By itself ---------------------------------------------------------------------------------------------------------------------------


async def test_credit_pays_by_priority_then_expiry_then_age(book: Book) -> None:
    client = await book.client()
    order = [
        await grant(book, client, 100),
        await grant(book, client, 200, expire_time=NOON + 9 * DAY),
        await grant(book, client, 400, expire_time=NOON + 5 * DAY),
        await grant(book, client, 800, priority=10),
        await grant(book, client, 1600, priority=60, expire_time=NOON + DAY),
        await grant(book, client, 3200),
    ]
    invoice = await book.sent(client, "31.00")
    assert (invoice.amount_credited, invoice.amount_due, invoice.state) == (3100, 0, "PAID")
    uses = await book.sql("SELECT entry_id, amount_minor FROM credit_use ORDER BY create_time, id")
    wanted = [(3, 800), (2, 400), (1, 200), (0, 100), (5, 1600)]
    assert [(row["entry_id"], row["amount_minor"]) for row in uses] == [(order[i].entry.id, each) for i, each in wanted]
    assert await balance(book, client) == 3200
    await verified(book)


async def test_an_invoice_that_credit_covers_is_paid_at_once_and_never_charged(book: Book) -> None:
    client = await book.client()
    await book.do(collection.set_autopay, client.id, True, uuid4(), "IMMEDIATE", NOON)
    entry = await grant(book, client, 5000, CreditKind.PREPAYMENT)
    paid = await book.sent(client, "30")
    assert (paid.state, paid.amount_due, paid.paid_time) == ("PAID", 0, NOON)
    assert paid.collection.autopay_next_charge_time is None
    assert (await book.get(paid)) == paid
    assert await book.journal(paid.id) == (["invoice_finalized", "invoice_paid"], ["invoice.finalized", "invoice.paid"])
    rest = await book.sent(client, "30")
    assert (rest.state, rest.amount_credited, rest.amount_due) == ("SENT", 2000, 1000)
    assert rest.collection.autopay_next_charge_time == NOON
    assert await book.trial() == {"cash": 5000, "receivable": 1000, "revenue": -6000}
    assert (await book.journal(entry.entry.id))[1] == ["credit.granted", "credit.applied", "credit.applied"]
    await verified(book)


async def test_a_draft_shows_in_its_preview_what_it_will_use(book: Book) -> None:
    client = await book.client()
    await grant(book, client, 700)
    draft = await book.draft(client, "10")
    assert draft.amount_credited == 0
    shown = await book.see(preview.preview_draft, draft.id)
    assert (shown.amount_credited, shown.amount_due, await balance(book, client)) == (700, 300, 700)
    sent = await book.do(invoices.finalize_invoice, draft.id)
    assert (sent.amount_credited, sent.amount_due, sent.credit) == (700, 300, ())
    assert await book.get(sent) == sent


async def test_credit_is_not_used_across_currencies_clients_nor_against_the_clients_will(book: Book) -> None:
    client, other, unwilling = await book.client(), await book.client(), await book.client(auto_apply_credit=False)
    await grant(book, client, 700, currency="EUR")
    await grant(book, other, 700)
    await grant(book, unwilling, 700)
    assert (await book.sent(client, "5")).amount_credited == 0
    invoice = await book.sent(unwilling, "5")
    assert invoice.amount_credited == 0
    by_hand = await book.do(credit.apply, invoice.id)
    assert by_hand.invoice.state == "PAID"
    await book.do(clients.update_client, unwilling.id, {"auto_apply_credit": True})
    assert (await book.sent(unwilling, "5")).amount_credited == 200
    await verified(book)


async def test_invoices_of_one_call_share_credit_in_their_order(book: Book) -> None:
    first, second = await book.client(), await book.client()
    a = await grant(book, first, 500, priority=1)
    b = await grant(book, first, 700)
    c = await grant(book, second, 300)
    ids = [uuid4() for _ in range(5)]
    wanted = [
        Wanted(ids[0], first.id, "USD", 300),
        Wanted(ids[1], second.id, "USD", 1000),
        Wanted(ids[2], first.id, "USD", 400),
        Wanted(ids[3], first.id, "USD", 0),
        Wanted(ids[4], first.id, "USD", 900),
    ]
    planned = await book.see(credit_application.plan, wanted)
    shares = {key: [(use.entry_id, use.amount_minor) for use in uses] for key, uses in planned.items()}
    assert shares == {
        ids[0]: [(a.entry.id, 300)],
        ids[1]: [(c.entry.id, 300)],
        ids[2]: [(a.entry.id, 200), (b.entry.id, 200)],
        ids[4]: [(b.entry.id, 500)],
    }


async def test_expired_credit_pays_nothing_also_before_it_is_booked_so(book: Book) -> None:
    client = await book.client()
    await grant(book, client, 700, expire_time=NOON + DAY)
    await grant(book, client, 50)
    await book.set_clock(NOON + DAY)
    assert (await book.sent(client, "5")).amount_credited == 50
    [shown] = await book.see(credit.balances, client.id)
    assert (shown.balance_minor, shown.available_minor, shown.next_expire_time) == (700, 0, None)


# By time -----------------------------------------------------------------------------------------------------------------------------


async def test_expired_credit_is_the_firms(book: Book) -> None:
    one, two = await book.client(), await book.client()
    due = await grant(book, one, 700, expire_time=NOON + DAY)
    await grant(book, one, 300, expire_time=NOON + 2 * DAY)
    await grant(book, two, 50, CreditKind.PREPAYMENT, expire_time=NOON + timedelta(hours=1))
    await book.sent(one, "2")
    assert await book.do(credit.expire_credit) == []
    await book.set_clock(NOON + DAY)
    assert len(await book.do(credit.expire_credit, 1)) == 1
    assert len(await book.do(credit.expire_credit, 1)) == 1
    assert await book.do(credit.expire_credit) == []
    assert (await balance(book, one), await balance(book, two)) == (300, 0)
    assert (await book.trial())["breakage"] == -550
    assert (await book.journal(due.entry.id))[0] == ["credit_granted", "credit_applied", "credit_expired"]
    await verified(book)


async def test_the_daily_marks_know_of_expired_credit(book: Book) -> None:
    await grant(book, await book.client(), 10, expire_time=NOON + DAY)
    assert not await book.see(marks_due, NOON.date())
    await book.set_clock(NOON + DAY)
    assert await book.see(marks_due, NOON.date())
    await book.do(credit.expire_credit)
    assert not await book.see(marks_due, NOON.date())


async def test_what_expires_next_is_told(book: Book) -> None:
    client = await book.client()
    for days, minor in ((5, 100), (3, 20), (3, 7)):
        await grant(book, client, minor, expire_time=NOON + days * DAY)
    [shown] = await book.see(credit.balances, client.id)
    assert (shown.balance_minor, shown.available_minor, shown.expiring_minor) == (127, 127, 27)
    assert shown.next_expire_time == NOON + 3 * DAY


# By hand -----------------------------------------------------------------------------------------------------------------------------


async def test_credit_is_put_on_an_invoice_and_taken_off_again(book: Book) -> None:
    client = await book.client()
    invoice = await book.sent(client, "10")
    assert (await book.refused(credit.apply, invoice.id)).reason is Reason.CREDIT_INSUFFICIENT
    entry = await grant(book, client, 1500)
    applied = await book.do(credit.apply, invoice.id, Money("USD", 400), expected_version=invoice.version)
    assert (applied.invoice.amount_due, applied.invoice.state) == (600, "SENT")
    assert (await book.refused(credit.apply, invoice.id, Money("USD", 601))).reason is Reason.AMOUNT_OUT_OF_RANGE
    assert (await book.refused(credit.apply, invoice.id, Money("EUR", 1))).reason is Reason.CURRENCY_MISMATCH
    assert (await book.refused(credit.apply, invoice.id, expected_version=1)).reason is Reason.ETAG_MISMATCH
    applied = await book.do(credit.apply, invoice.id)
    assert (applied.invoice.state, applied.invoice.paid_time, await balance(book, client)) == ("PAID", NOON, 500)
    assert (await book.refused(credit.apply, invoice.id)).reason is Reason.STATE_CONFLICT
    reopened, [stated] = await book.do(credit.reverse_application, invoice.id, Money("USD", 300))
    assert (reopened.amount_due, reopened.state, reopened.paid_time) == (300, "SENT", None)
    assert not (await book.get(invoice)).collection.autopay_enabled
    kinds = [(each.use.kind.value, each.use.amount_minor, each.balance_after) for each in stated.uses]
    assert kinds == [("APPLIED", 400, 1100), ("APPLIED", 600, 500), ("RELEASED", 300, 800)]
    error = await book.refused(credit.reverse_application, invoice.id, Money("USD", 701))
    assert (error.reason, error.metadata["available_minor"]) == (Reason.CREDIT_INSUFFICIENT, "700")
    reopened, _ = await book.do(credit.reverse_application, invoice.id)
    assert (reopened.amount_due, reopened.amount_credited, await balance(book, client)) == (1000, 0, 1500)
    assert await left(book, client) == [("GOODWILL", 1500)]
    assert (await book.journal(entry.entry.id))[1][-1] == "credit.released"
    await verified(book)


async def test_an_open_charge_refuses_credit(book: Book) -> None:
    client = await book.client()
    invoice = await book.sent(client, "10")
    await grant(book, client, 500)
    book.recorder.refuse = events.InvoicesClosing
    assert (await book.refused(credit.apply, invoice.id)).reason is Reason.COLLECTION_IN_PROGRESS


async def test_credit_on_a_written_off_invoice_is_a_recovery_and_back_off_it_a_loss(book: Book) -> None:
    client = await book.client()
    invoice = await book.sent(client, "10")
    await book.do(closing.write_off_invoice, invoice.id)
    await grant(book, client, 1000)
    assert (await book.do(credit.apply, invoice.id)).invoice.state == "PAID"
    assert (await book.trial())["recoveries"] == -1000
    reopened, _ = await book.do(credit.reverse_application, invoice.id)
    assert reopened.state == "UNCOLLECTIBLE"
    await verified(book)


# Giving back -------------------------------------------------------------------------------------------------------------------------


async def test_a_void_invoice_gives_its_credit_back(book: Book) -> None:
    client = await book.client()
    await grant(book, client, 300, expire_time=NOON + DAY)
    await grant(book, client, 400, CreditKind.PREPAYMENT)
    before = await book.trial()
    invoice = await book.sent(client, "10")
    assert invoice.amount_credited == 700
    void = await book.do(closing.void_invoice, invoice.id)
    assert (void.state, void.amount_credited, await book.trial()) == ("VOID", 0, before)
    assert await left(book, client) == [("GOODWILL", 300), ("PREPAYMENT", 400)]
    await verified(book)


async def test_credit_that_comes_back_expired_lasts_as_long_as_it_had_left(book: Book) -> None:
    client = await book.client()
    given = await grant(
        book, client, 300, CreditKind.PROMOTION, priority=7, expire_time=NOON + 10 * DAY, reason="spring"
    )
    await book.set_clock(NOON + 4 * DAY)
    invoice = await book.sent(client, "10")
    await book.set_clock(NOON + 30 * DAY)
    await book.do(closing.void_invoice, invoice.id)
    new, old = await book.see(credit.statement, EntryQuery(client.id), PageRequest(10))
    assert (old.entry.id, old.entry.remaining_minor) == (given.entry.id, 0)
    assert [each.use.kind.value for each in old.uses] == ["APPLIED", "RELEASED", "MOVED"]
    entry = new.entry
    assert (entry.kind, entry.remaining_minor, entry.priority, entry.reason) == ("PROMOTION", 300, 7, "spring")
    assert (entry.expire_time, entry.source, entry.source_id) == (NOON + 36 * DAY, "credit_entry", given.entry.id)
    assert old.uses[-1].use.source_id == entry.id
    assert await balance(book, client) == 300
    [reversed_] = await book.do(credit.reverse_grant, entry.id)
    assert (reversed_.entry.remaining_minor, await book.trial()) == (0, {})
    await verified(book)


# For payments ------------------------------------------------------------------------------------------------------------------------


async def test_only_what_the_client_has_paid_for_is_paid_out(book: Book) -> None:
    client, payment = await book.client(), uuid4()
    await grant(book, client, 1000)
    await grant(book, client, 200, CreditKind.PREPAYMENT)

    async def work(uow: UnitOfWork) -> tuple[int, int]:
        await credit.add(uow, [
            NewCredit(client.id, "USD", CreditKind.OVERPAYMENT, 500, CreditSource.PAYMENT, payment),
            NewCredit(client.id, "USD", CreditKind.OVERPAYMENT, 0, CreditSource.PAYMENT, uuid4()),
        ])  # fmt: skip
        source = (CreditSource.REFUND, uuid4())
        first = await credit.take(uow, client.id, "USD", 600, CreditUseKind.REFUNDED, source, first=payment)
        return first, await credit.take(uow, client.id, "USD", 600, CreditUseKind.REFUNDED, source)

    assert await book.do(work) == (600, 100)
    assert await left(book, client) == [("GOODWILL", 1000), ("PREPAYMENT", 0), ("OVERPAYMENT", 0)]


# At once -----------------------------------------------------------------------------------------------------------------------------


async def test_a_grant_while_invoices_are_finalised(book: Book) -> None:
    """Whatever comes first: the credit is used once, and all balances agree."""
    client = await book.client()
    drafts = [await book.draft(client, "3") for _ in range(8)]
    sending = [book.do(invoices.finalize_invoice, draft.id) for draft in drafts]
    giving = [book.do(credit.grant, Grant(client.id, CreditKind.GOODWILL, Money("USD", 500))) for _ in range(3)]
    await asyncio.gather(*sending, *giving)
    sent = [await book.get(draft) for draft in drafts]
    used = sum(invoice.amount_credited for invoice in sent)
    assert await balance(book, client) == 1500 - used
    assert all(0 <= invoice.amount_credited <= 300 for invoice in sent)
    await verified(book)


async def test_applications_at_once_never_overdraw(book: Book) -> None:
    client = await book.client()
    open_ones = [await book.sent(client, "4") for _ in range(6)]
    await grant(book, client, 1000)

    async def one(invoice: Invoice) -> int:
        try:
            return sum(use.amount_minor for use in (await book.do(credit.apply, invoice.id, Money("USD", 400))).uses)
        except DunwellError as error:
            if error.reason is not Reason.CREDIT_INSUFFICIENT:
                raise
            return 0

    assert sorted(await asyncio.gather(*map(one, open_ones))) == [0, 0, 0, 0, 400, 400]
    assert await balance(book, client) == 200
    await verified(book)


async def test_expiry_reversal_and_use_at_once(book: Book) -> None:
    client = await book.client()
    entry = await grant(book, client, 900, expire_time=NOON + DAY)
    invoice = await book.sent(client, "1", "1")
    assert invoice.amount_credited == 200
    await book.set_clock(NOON + DAY)
    await asyncio.gather(
        book.do(credit.expire_credit), book.do(closing.void_invoice, invoice.id), book.do(credit.reverse_grant, entry.entry.id),
        return_exceptions=True,
    )  # fmt: skip
    await verified(book)


async def test_the_database_refuses_to_overdraw_without_any_lock(book: Book) -> None:
    """Two transactions that skip the client's lock: the second waits for the entry, and is refused."""
    client = await book.client()
    entry = await grant(book, client, 1000)
    invoice = await book.sent(await book.client(), "100")
    use = (
        "INSERT INTO credit_use (firm_id, id, entry_id, kind, currency_code, amount_minor, invoice_id, firm_time)"
        " VALUES (%s, gen_random_uuid(), %s, 'APPLIED', 'USD', 600, %s, now())"
    )

    async def spend() -> None:
        async with book.db.transaction(book.context) as uow:
            await uow.execute(use, (uow.firm_id, entry.entry.id, invoice.id))
            await asyncio.sleep(0.05)

    results = await asyncio.gather(spend(), spend(), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["CheckViolation", "NoneType"]
    assert (await book.sql("SELECT remaining_minor FROM credit_entry"))[0]["remaining_minor"] == 400


# Showing ------------------------------------------------------------------------------------------------------------------------


async def test_a_statement_has_pages_and_balances_after_each_movement(book: Book) -> None:
    client = await book.client()
    await grant(book, client, 100)
    await grant(book, client, 40, currency="EUR")
    await book.sent(client, "0.30")
    await grant(book, client, 5, CreditKind.PROMOTION)
    new_to_old = await book.see(credit.statement, EntryQuery(client.id), PageRequest(10))
    assert [(each.entry.currency_code, each.balance_after) for each in new_to_old] == [
        ("USD", 75),
        ("EUR", 40),
        ("USD", 100),
    ]
    assert [use.balance_after for use in new_to_old[-1].uses] == [70]
    last = new_to_old[1].entry
    page = await book.see(credit.statement, EntryQuery(client.id), PageRequest(1, (last.create_time, last.id)))
    assert page == [new_to_old[2]]
    limited = await book.see(credit.statement, EntryQuery(client.id, "USD", ["PROMOTION"], True), PageRequest(10))
    assert limited == [new_to_old[0]]
    error = await book.refused(credit.statement, EntryQuery(uuid4()), PageRequest(1))
    assert error.reason is Reason.RESOURCE_NOT_FOUND
