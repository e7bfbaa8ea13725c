"""Credit notes: whole, by amount, by line; what is owed first, then as the caller chooses; in the end exactly what was billed."""

from __future__ import annotations

import asyncio
import random
from datetime import date, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import pytest
from psycopg.errors import CheckViolation, ForeignKeyViolation, InsufficientPrivilege

from dunwell_server.billing import events
from dunwell_server.billing.discounts import DiscountInput
from dunwell_server.billing.lines import LineInput
from dunwell_server.billing.model import Client, Invoice, InvoiceState
from dunwell_server.billing.model.credit import CreditKind
from dunwell_server.billing.model.credit_notes import Excess, IssuedNote
from dunwell_server.billing.service import closing, credit, credit_notes, invoices, recognition, tax_rates
from dunwell_server.billing.service.credit import Grant
from dunwell_server.billing.service.credit_notes import LineOrder, NoteOrder
from dunwell_server.billing.store.credit_notes import NoteQuery
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.billing.store.tax_rates import NewTaxRate
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.money import Money
from dunwell_server.platform.invariants import run_for_firm
from tests.integration.billing.book import Book, field_of
from tests.integration.billing.conftest import NOON

CREDIT, PAYABLE = Excess.CREDIT, Excess.REFUND_PAYABLE
# Money of these books is applied to invoices without payments, so what concerns payments is another suite's.
OF_PAYMENTS = {"received_matches_allocations", "receivable_matches_invoices"}


async def issue(book: Book, invoice: Invoice, amount: int | None = None, **more: object) -> tuple[IssuedNote, Invoice]:
    order = NoteOrder(invoice.id, None if amount is None else Money(invoice.currency_code, amount), **more)  # type: ignore[arg-type]
    return await book.do(credit_notes.create_credit_note, order)


async def refused(book: Book, invoice: Invoice, amount: int | None = None, **more: object) -> DunwellError:
    order = NoteOrder(invoice.id, None if amount is None else Money("USD", amount), **more)  # type: ignore[arg-type]
    return await book.refused(credit_notes.create_credit_note, order)


async def verified(book: Book, *but: str) -> None:
    broken = {check.name for check in await book.see(run_for_firm) if not check.ok}
    assert broken <= set(but)


async def paid(book: Book, invoice: Invoice, amount: int) -> Invoice:
    """Money for the invoice, with its posting, as payments do it."""
    await book.pay(invoice, amount)
    await book.sql(
        "WITH p AS (INSERT INTO ledger_posting (firm_id, id, source_type, source_id, kind, firm_time)"
        " SELECT firm_id, gen_random_uuid(), 'test', gen_random_uuid(), 'received', now() FROM invoice WHERE id = %s RETURNING firm_id, id)"
        " INSERT INTO ledger_entry (firm_id, posting_id, line_no, account, client_id, provider, currency_code, amount_minor)"
        " SELECT p.firm_id, p.id, n, CASE n WHEN 1 THEN 'cash' ELSE 'receivable' END, CASE n WHEN 2 THEN %s::uuid END,"
        " CASE n WHEN 1 THEN 'manual' END, 'USD', CASE n WHEN 1 THEN %s ELSE -%s END::bigint FROM p, generate_series(1, 2) n",
        invoice.id, invoice.client_id, amount, amount,
    )  # fmt: skip
    return await book.get(invoice)


async def taxed(book: Book) -> Client:
    """A client in a place with two rates on top."""
    client = await book.client(
        address={"lines": ["1 Way"], "city": "B", "region": "", "postal_code": "1", "country_code": "CA"}
    )
    for name, percent in (("GST", "5"), ("PST", "7.35")):
        await book.do(tax_rates.create_tax_rate, NewTaxRate(name=name, percentage=Decimal(percent), country_code="CA"))
    return client


# What is still owed --------------------------------------------------------------------------------------------------------------------


async def test_a_note_reduces_what_is_owed(book: Book) -> None:
    invoice = await book.sent(await book.client(), "60", "40")
    note, changed = await issue(book, invoice, 3000, reason="late")
    assert (changed.state, changed.amount_due, changed.amount_credited) == ("SENT", 7000, 3000)
    assert (note.number, note.note.applied_minor, note.note.reason) == ("CN-INV-2026-000001", 3000, "late")
    assert [(line.part.line_no, line.part.total_minor) for line in note.note.lines] == [(1, 1800), (2, 1200)]
    assert await book.trial() == {"receivable": 7000, "revenue": -7000}
    last, settled = await issue(book, invoice)
    assert (settled.state, settled.amount_due, settled.paid_time, last.note.amount_minor) == ("PAID", 0, NOON, 7000)
    assert await book.trial() == {}
    assert (await book.journal(invoice.id))[1] == [
        "invoice.finalized",
        "invoice.credited",
        "invoice.credited",
        "invoice.paid",
    ]
    assert (await book.journal(note.note.id)) == (["credit_note_issued"], ["credit_note.issued"])
    assert [[each.id for each in event.invoices] for event in book.recorder.of(events.AmountDueChanged)] == [
        [invoice.id]
    ] * 2
    error = await refused(book, invoice)
    assert (error.reason, error.metadata["creditable_minor"]) == (Reason.CREDIT_NOTE_EXCEEDS_INVOICE, "0")
    await verified(book)


async def test_a_note_on_a_written_off_invoice_undoes_the_loss(book: Book) -> None:
    invoice = await book.sent(await book.client(), "10")
    await book.do(closing.write_off_invoice, invoice.id)
    _, changed = await issue(book, invoice)
    assert changed.state == "PAID"
    assert await book.trial() == {}
    await verified(book)


# What was paid -------------------------------------------------------------------------------------------------------------------------


async def test_the_excess_becomes_credit(book: Book) -> None:
    client = await book.client()
    invoice = await paid(book, await book.sent(client, "100"), 8000)
    error = await refused(book, invoice, 5000)
    assert (error.reason, field_of(error)) == (Reason.FIELD_INVALID, "excess")
    note, changed = await issue(book, invoice, 5000, excess=CREDIT)
    assert (note.note.applied_minor, note.note.credited_minor, note.note.payable_minor) == (2000, 3000, 0)
    assert (changed.state, changed.amount_due, changed.amount_paid, changed.amount_refunded) == ("PAID", 0, 5000, 3000)
    assert await book.trial() == {"cash": 8000, "client_credit": -3000, "revenue": -5000}
    [entry] = await book.sql("SELECT kind, remaining_minor, source_id FROM credit_entry")
    assert entry == {"kind": "REFUND_TO_CREDIT", "remaining_minor": 3000, "source_id": note.note.id}
    _, changed = await issue(book, invoice, excess=CREDIT)
    assert (changed.state, changed.amount_paid) == (InvoiceState.REFUNDED, 0)
    assert await book.trial() == {"cash": 8000, "client_credit": -8000}
    await verified(book, *OF_PAYMENTS)


async def test_the_excess_is_to_be_paid_back(book: Book) -> None:
    invoice = await paid(book, await book.sent(await book.client(), "100"), 10000)
    note, changed = await issue(book, invoice, 2500, excess=PAYABLE)
    assert (note.note.payable_minor, note.paid_out_minor, changed.amount_refunded) == (2500, 0, 2500)
    assert await book.trial() == {"cash": 10000, "refund_payable": -2500, "revenue": -7500}
    await verified(book, *OF_PAYMENTS)


async def test_credit_that_paid_goes_back_to_where_it_came_from(book: Book) -> None:
    client = await book.client()
    entry = await book.do(credit.grant, Grant(client.id, CreditKind.PROMOTION, Money("USD", 4000)))
    invoice = await paid(book, await book.sent(client, "100"), 6000)
    note, changed = await issue(book, invoice, 7500, excess=PAYABLE)
    assert (note.note.payable_minor, note.note.released_minor, note.note.applied_minor) == (6000, 1500, 0)
    assert (changed.amount_due, changed.amount_credited, changed.state) == (0, 10000, "REFUNDED")
    [row] = await book.sql("SELECT remaining_minor FROM credit_entry WHERE id = %s", entry.entry.id)
    assert row["remaining_minor"] == 1500
    note, changed = await issue(book, invoice, excess=CREDIT)
    assert (note.note.released_minor, changed.amount_credited) == (2500, 10000)
    assert await book.trial() == {
        "cash": 6000,
        "refund_payable": -6000,
        "client_credit": -4000,
        "promotional_contra_revenue": 4000,
    }
    await verified(book, *OF_PAYMENTS)


async def test_money_of_a_disputed_invoice_is_not_given_back(book: Book) -> None:
    invoice = await paid(book, await book.sent(await book.client(), "100"), 10000)
    await book.sql("UPDATE invoice SET open_chargebacks = 1 WHERE id = %s", invoice.id)
    assert (await refused(book, invoice, 1, excess=CREDIT)).reason is Reason.STATE_CONFLICT


async def test_refusals(book: Book) -> None:
    draft = await book.draft(await book.client(), "10")
    assert (await refused(book, draft)).reason is Reason.STATE_CONFLICT
    invoice = await book.sent(await book.client(), "10", "5")
    assert (await book.refused(credit_notes.create_credit_note, NoteOrder(uuid4()))).reason is Reason.RESOURCE_NOT_FOUND
    for amount, reason in ((1501, Reason.CREDIT_NOTE_EXCEEDS_INVOICE),):
        assert (await refused(book, invoice, amount)).reason is reason
    wrong = NoteOrder(invoice.id, Money("EUR", 1))
    assert (await book.refused(credit_notes.create_credit_note, wrong)).reason is Reason.CURRENCY_MISMATCH
    stale = await book.refused(credit_notes.create_credit_note, NoteOrder(invoice.id), expected_version=7)
    assert stale.reason is Reason.ETAG_MISMATCH
    for lines, reason, field in (
        ([LineOrder(3)], Reason.FIELD_INVALID, "lines[0].line_no"),
        ([LineOrder(1), LineOrder(1)], Reason.FIELD_INVALID, "lines[1].line_no"),
        ([LineOrder(1, Money("USD", 1001))], Reason.CREDIT_NOTE_EXCEEDS_INVOICE, "lines[0].amount"),
        ([LineOrder(1, Money("USD", 0))], Reason.FIELD_INVALID, "lines[0].amount"),
        ([LineOrder(1, Money("EUR", 1))], Reason.CURRENCY_MISMATCH, "lines[0].amount.currency_code"),
        ([LineOrder(1, quantity=Decimal("1.5"))], Reason.CREDIT_NOTE_EXCEEDS_INVOICE, "lines[0].quantity"),
        ([LineOrder(1, quantity=Decimal(0))], Reason.FIELD_INVALID, "lines[0].quantity"),
        ([LineOrder(1, Money("USD", 1), Decimal(1))], Reason.FIELD_INVALID, "lines[0].quantity"),
    ):
        error = await refused(book, invoice, lines=lines)
        assert (error.reason, field_of(error)) == (reason, field)
    book.recorder.refuse = events.InvoicesClosing
    assert (await refused(book, invoice)).reason is Reason.COLLECTION_IN_PROGRESS
    book.recorder.reset()
    await book.do(closing.void_invoice, invoice.id)
    assert (await refused(book, invoice)).reason is Reason.STATE_CONFLICT


async def test_an_invoice_with_credit_notes_is_not_voided(book: Book) -> None:
    client = await book.client()
    await book.do(credit.grant, Grant(client.id, CreditKind.GOODWILL, Money("USD", 100)))
    invoice = await book.sent(client, "10")
    await issue(book, invoice, 300)
    assert (await book.refused(closing.void_invoice, invoice.id)).reason is Reason.STATE_CONFLICT


# By line, with discounts and taxes -----------------------------------------------------------------------------------------------------


async def test_tax_and_discounts_follow_the_line(book: Book) -> None:
    client = await taxed(book)
    new = invoices.NewInvoice(
        client.id,
        lines=(LineInput("Hours", Decimal("33.33"), Decimal(3), discounts=(DiscountInput("Friend", percent=Decimal(10)),)), LineInput("Fee", Decimal(20))),
    )  # fmt: skip
    invoice = await book.do(invoices.create_invoice, new, finalize=True)
    line = invoice.lines[0]
    assert (line.amount_minor, line.discount_minor, len(line.taxes)) == (9999, 1000, 2)
    notes = [(await issue(book, invoice, lines=[LineOrder(1, quantity=Decimal(1))]))[0] for _ in range(3)]
    parts = [each.note.lines[0].part for each in notes]
    assert [part.amount_minor for part in parts] == [3333, 3333, 3333]
    assert sum(part.discount_minor for part in parts) == 1000
    for position, tax in enumerate(line.taxes):
        assert sum(part.taxes[position].tax_minor for part in parts) == tax.tax_minor
    assert sum(each.note.amount_minor for each in notes) == line.net_minor + line.tax_minor
    assert [(tax.name, tax.percentage) for tax in notes[0].taxes] == [("GST", Decimal(5)), ("PST", Decimal("7.35"))]
    assert (await refused(book, invoice, lines=[LineOrder(1)])).reason is Reason.CREDIT_NOTE_EXCEEDS_INVOICE
    _, changed = await issue(book, invoice)
    assert (changed.state, changed.amount_due) == ("PAID", 0)
    assert await book.trial() == {}
    await verified(book)


async def test_deferred_revenue_is_taken_back_before_what_was_earned(book: Book) -> None:
    agreed = await book.engagement(await book.client(), start_date=date(2026, 3, 1))
    invoice = await book.billed(agreed, date(2026, 3, 1), date(2026, 4, 1), 31_00)
    await book.set_clock(NOON + timedelta(days=10))
    while await book.do(recognition.recognize):
        pass
    trial = await book.trial()
    earned = -trial["revenue"]
    assert earned > 0
    note, _ = await issue(book, invoice, 31_00 - earned)
    assert note.note.deferred_minor == 31_00 - earned
    assert await book.trial() == {"receivable": earned, "revenue": -earned}
    note, _ = await issue(book, invoice)
    assert (note.note.deferred_minor, await book.trial()) == (0, {})
    await verified(book)


async def test_random_notes_in_random_ways_come_to_the_total(book: Book) -> None:
    """Lines with discounts and two taxes, partly paid by credit, credited at random until nothing is left: every invariant, and the very total."""
    client = await taxed(book)
    dice = random.Random(11)
    for _ in range(4):
        await book.do(
            credit.grant,
            Grant(
                client.id,
                CreditKind.GOODWILL,
                Money("USD", dice.randint(1, 5000)),
                expire_time=NOON + timedelta(days=9),
            ),
        )
        lines = tuple(
            LineInput(f"L{n}", Decimal(dice.randint(1, 9999)) / 100, Decimal(dice.randint(1, 900)) / 100,
                      discounts=(DiscountInput("D", percent=Decimal(dice.randint(1, 60))),) if dice.random() < 0.5 else ())
            for n in range(dice.randint(1, 5))
        )  # fmt: skip
        new = invoices.NewInvoice(client.id, lines=lines, discounts=(DiscountInput("All", fixed=Money("USD", 17)),))
        invoice = await book.do(invoices.create_invoice, new, finalize=True)
        credited, changed = 0, invoice
        while credited < invoice.total:
            order = NoteOrder(invoice.id, excess=CREDIT)
            way = dice.random()
            if way < 0.5:
                order = NoteOrder(
                    invoice.id,
                    Money("USD", min(dice.randint(1, max(invoice.total // 3, 1)), invoice.total - credited)),
                    excess=CREDIT,
                )
            elif way < 0.9:
                order = NoteOrder(invoice.id, lines=[_some(dice, invoice)], excess=CREDIT)
            try:
                note, changed = await book.do(credit_notes.create_credit_note, order)
            except DunwellError as error:
                if error.reason is not Reason.CREDIT_NOTE_EXCEEDS_INVOICE:
                    raise
                continue
            credited += note.note.amount_minor
        assert credited == invoice.total
        assert (changed.amount_due, changed.amount_credited) == (0, invoice.total)
        taxes = await book.sql(
            "SELECT coalesce(sum(tax_minor), 0)::bigint AS tax FROM credit_note WHERE invoice_id = %s", invoice.id
        )
        assert taxes == [{"tax": invoice.tax_total}]
        await verified(book)
    trial = await book.trial()
    assert trial["client_credit"] == -trial["promotional_contra_revenue"]
    assert set(trial) == {"client_credit", "promotional_contra_revenue"}


def _some(dice: random.Random, invoice: Invoice) -> LineOrder:
    line = dice.choice(invoice.lines)
    match dice.randint(0, 2):
        case 0:
            return LineOrder(line.line_no, Money("USD", dice.randint(1, line.amount_minor)))
        case 1:
            return LineOrder(
                line.line_no, quantity=(line.quantity / dice.randint(1, 4)).quantize(Decimal("0.01")) or Decimal("0.01")
            )
        case _:
            return LineOrder(line.line_no)


# At once, and against the database ------------------------------------------------------------------------------------------------------


async def test_notes_at_once_never_credit_more_than_was_billed(book: Book) -> None:
    invoice = await book.sent(await book.client(), "10")

    async def one() -> int:
        try:
            return (await issue(book, invoice, 400))[0].note.amount_minor
        except DunwellError as error:
            if error.reason is not Reason.CREDIT_NOTE_EXCEEDS_INVOICE:
                raise
            return 0

    assert sorted(await asyncio.gather(*(one() for _ in range(5)))) == [0, 0, 0, 400, 400]
    await verified(book)


async def test_void_while_paying_and_crediting(book: Book) -> None:
    """Whoever comes first; the others are refused or see what is left."""
    for _ in range(5):
        invoice = await book.sent(await book.client(), "10")
        await asyncio.gather(
            book.do(closing.void_invoice, invoice.id), book.pay(invoice, 600), issue(book, invoice, 500, excess=CREDIT),
            return_exceptions=True,
        )  # fmt: skip
        now = await book.get(invoice)
        assert now.amount_due >= 0
        if now.void_time is not None:
            assert (now.amount_received, now.amount_credited) == (0, 0)


LINE = "UPDATE credit_note_line SET amount_minor = 1"
MORE = (
    "WITH n AS (INSERT INTO credit_note (firm_id, id, client_id, invoice_id, series, series_no, number, currency_code, amount_minor, issue_date,"
    " applied_minor) SELECT firm_id, gen_random_uuid(), client_id, invoice_id, series, 9, 'CN-9', currency_code, {amount}, issue_date, {applied}"
    " FROM credit_note RETURNING firm_id, id, invoice_id)"
    " INSERT INTO credit_note_line (firm_id, credit_note_id, line_no, invoice_id, amount_minor) SELECT firm_id, id, 1, invoice_id, {line} FROM n"
)


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        (LINE, InsufficientPrivilege),
        ("DELETE FROM credit_note", InsufficientPrivilege),
        ("UPDATE credit_note SET applied_minor = 0", InsufficientPrivilege),
        (MORE.format(amount=601, applied=601, line=601), CheckViolation),
        (MORE.format(amount=100, applied=100, line=99), CheckViolation),
        (MORE.format(amount=100, applied=99, line=100), CheckViolation),
        (
            "INSERT INTO credit_note_line_tax (firm_id, credit_note_id, line_no, tax_no, invoice_id, tax_minor)"
            " SELECT firm_id, credit_note_id, line_no, 1, invoice_id, 1 FROM credit_note_line",
            ForeignKeyViolation,
        ),
    ],
)
async def test_the_database_refuses(book: Book, statement: str, error: type[Exception]) -> None:
    invoice = await book.sent(await book.client(), "10")
    await issue(book, invoice, 400)
    with pytest.raises(error):
        await book.sql(statement)


async def test_within_what_is_left_the_database_agrees(book: Book) -> None:
    invoice = await book.sent(await book.client(), "10")
    await issue(book, invoice, 400)
    await book.sql(MORE.format(amount=600, applied=600, line=600))


async def test_notes_are_listed(book: Book) -> None:
    one, two = [await book.sent(await book.client(), "10") for _ in range(2)]
    made = [(await issue(book, each, 100))[0] for each in (one, two, one)]

    async def listed(page: int = 10, after: tuple[object, UUID] | None = None, **query: object) -> list[UUID]:
        found = await book.see(credit_notes.list_credit_notes, NoteQuery(**query), PageRequest(page, after))  # type: ignore[arg-type]
        return [each.note.id for each in found]

    ids = [each.note.id for each in made]
    assert await listed() == ids[::-1]
    assert await listed(invoice_id=one.id) == [ids[2], ids[0]]
    assert await listed(client_id=two.client_id) == [ids[1]]
    assert await listed(number="CN-INV-2026-000002") == [ids[1]]
    assert await listed(issue_date=(date(2026, 3, 11), None)) == []
    assert await listed(1, (made[1].create_time, ids[1])) == [ids[0]]
