"""What documents say: lines, taxes, sums, marks and notes."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from dunwell_server.billing.documents import facts
from dunwell_server.billing.documents.data import Document, to_json
from dunwell_server.billing.documents.formats import formats_for
from dunwell_server.billing.documents.invoices import credit_note_document, invoice_document
from dunwell_server.billing.documents.receipts import receipt_document
from dunwell_server.billing.documents.statements import statement_document
from dunwell_server.billing.model import CollectionColumns, InvoiceState
from dunwell_server.billing.model.pricing import DiscountKind, InvoiceDiscount
from tests.unit.billing.documents import samples

EN = formats_for("en-GB")


def sums(document: Document) -> list[tuple[str, str]]:
    return [(fact.label, fact.value) for fact in document.totals]


def test_an_invoice_adds_up_from_subtotal_to_due() -> None:
    document = invoice_document(samples.invoice_facts(samples.usual(), credit_applied=50_000), EN)
    assert sums(document) == [
        ("Subtotal", "€2,462.56"), ("SPRING26", "-€123.12"), ("Total before tax", "€2,339.44"), ("VAT 19%", "€444.50"),
        ("Total", "€2,783.94"), ("Credit applied", "-€500.00"), ("Amount due", "€2,283.94"),
    ]  # fmt: skip
    assert document.taxes is not None
    assert document.taxes.rows == (("VAT 19%", "2,339.44", "444.50"),)
    advice = document.lines[1]
    assert (advice.quantity, advice.unit_price, advice.amount) == ("12.5 h", "95.25", "1,190.63")
    assert advice.details[1:] == ("VAT 19%",)
    assert document.line_heads[3] == "Amount (EUR)"
    assert document.notes == ("Payable by 9 Apr 2026.",)


def test_a_discount_of_one_line_is_told_at_the_line() -> None:
    line = samples.line(1, "Work", "1", "100", "USD")._replace(discount_minor=1_000)
    given = InvoiceDiscount(1, 1, "Friends", DiscountKind.PERCENT, Decimal(10), None, 1_000)
    made = replace(samples.invoice([line], "USD"), discounts=(given,), discount_count=1)
    document = invoice_document(samples.invoice_facts(made), EN)
    assert document.lines[0].details == ("Friends: -10.00",)
    assert ("Friends", "-US$10.00") in sums(document)


def test_taxes_inside_prices_are_told_after_the_total_and_add_nothing() -> None:
    lines = [
        samples.taxed(samples.line(1, "Course", "1", "119", "EUR"), "VAT", "19", inclusive=True),
        samples.taxed(samples.line(2, "Book", "1", "107", "EUR"), "VAT", "7", inclusive=True),
        samples.taxed(samples.line(3, "Second course", "2", "119", "EUR"), "VAT", "19.0", inclusive=True),
    ]
    document = invoice_document(samples.invoice_facts(samples.invoice(lines, "EUR")), EN)
    assert sums(document) == [
        ("Subtotal", "€464.00"), ("Total", "€464.00"), ("of which VAT 19%", "€57.00"), ("of which VAT 7%", "€7.00"), ("Amount due", "€464.00"),
    ]  # fmt: skip
    assert document.taxes is not None
    assert document.taxes.rows == (("VAT 19% (included)", "300.00", "57.00"), ("VAT 7% (included)", "100.00", "7.00"))


def test_the_reverse_charge_is_said_in_words() -> None:
    line = samples.taxed(samples.line(1, "Beratung", "1", "100", "EUR"), "USt", "19", reverse=True)
    document = invoice_document(samples.invoice_facts(samples.invoice([line], "EUR")), formats_for("de"))
    assert "Steuerschuldnerschaft des Leistungsempfängers (Reverse Charge)." in document.notes
    assert [label for label, _ in sums(document)] == ["Gesamtbetrag", "Offener Betrag"]
    assert document.taxes is not None
    assert document.taxes.rows[0][2] == "0,00"


def test_an_invoice_as_it_stands_tells_what_was_paid() -> None:
    made = replace(
        samples.invoice([samples.line(1, "Work", "1", "100", "USD")], "USD"), amount_received=8_000, amount_refunded=1_000,
        amount_charged_back=500, amount_credited=1_500, amount_paid=6_500, amount_due=2_000, state=InvoiceState.OVERDUE,
    )  # fmt: skip
    given = samples.invoice_facts(made, current=True, credit_applied=1_000, credit_notes=500)
    document = invoice_document(given, formats_for("en-US"))
    assert sums(document) == [
        ("Total", "$100.00"), ("Credit applied", "-$10.00"), ("Credited", "-$5.00"), ("Paid", "-$80.00"), ("Refunded", "$10.00"),
        ("Taken back by the bank", "$5.00"), ("Amount due", "$20.00"),
    ]  # fmt: skip
    assert document.mark == "Overdue"
    as_issued = invoice_document(replace(given, current=False), formats_for("en-US"))
    assert sums(as_issued)[-1] == ("Amount due", "$90.00")
    assert as_issued.mark == ""


@pytest.mark.parametrize(
    ("state", "mark", "note"),
    [
        (InvoiceState.DRAFT, "Draft", "This is a draft and not a demand for payment."),
        (InvoiceState.VOID, "Void", "This invoice is void; nothing is owed."),
        (InvoiceState.SENT, "", "Payable by 9 Apr 2026."),
    ],
)
def test_what_is_no_demand_says_so(state: InvoiceState, mark: str, note: str) -> None:
    pay = facts.PayFacts(samples.LINK)
    document = invoice_document(samples.invoice_facts(replace(samples.usual(), state=state), pay=pay), EN)
    assert (document.mark, document.notes) == (mark, (note,))
    assert (document.pay is not None) == (state is InvoiceState.SENT)


def test_payment_terms_in_words() -> None:
    at_once = replace(samples.usual(), due_date=samples.ISSUED)
    assert invoice_document(samples.invoice_facts(at_once), EN).notes == ("Payable on receipt.",)
    automatic = replace(samples.usual(), collection=CollectionColumns(autopay_enabled=True))
    assert invoice_document(samples.invoice_facts(automatic), EN).notes[-1].startswith("This invoice is collected")
    covered = samples.usual()
    document = invoice_document(samples.invoice_facts(covered, credit_applied=covered.total), EN)
    assert document.notes == ("Nothing is due. Thank you.",)


def test_the_annex_tells_every_hour_and_their_sum() -> None:
    document = invoice_document(samples.invoice_facts(samples.usual(), work=samples.work(100)), EN)
    assert document.annex is not None
    assert document.annex.title == "Time annex to invoice HV-2026-000042"
    assert len(document.annex.rows) == 100
    minutes = sum(entry.minutes for entry in samples.work(100))
    assert document.annex.last[3] == EN.hours(minutes) == "92.50"
    packaged = replace(samples.work(1)[0], rate=None)
    included = invoice_document(samples.invoice_facts(samples.usual(), work=[packaged]), EN)
    assert included.annex is not None
    assert included.annex.rows[0][4] == ""


def test_a_credit_note_names_its_invoice_and_the_tax_in_it() -> None:
    made = facts.CreditNoteFacts(
        samples.firm(), samples.client(), "CN-1", date(2026, 3, 12), "EUR", 11_900, 1_900, "Wrong hours", "HV-7", samples.ISSUED,
        [facts.NoteLineFacts("Advice", Decimal("2.5"), "hour", 10_000, 1_900)],
    )  # fmt: skip
    document = credit_note_document(made, EN)
    assert sums(document) == [("Total before tax", "€100.00"), ("Tax", "€19.00"), ("Total credited", "€119.00")]
    assert ("For invoice", "HV-7") in [(fact.label, fact.value) for fact in document.facts]
    assert (document.lines[0].quantity, document.lines[0].amount) == ("2.5 h", "100.00")
    assert document.memo == ("Reason: Wrong hours",)
    bare = credit_note_document(replace(made, lines=(), reason=None), EN)
    assert bare.lines[0].description == "Credit for invoice HV-7"
    assert bare.line_heads[1] == ""
    assert document.notes == ()
    charged = credit_note_document(replace(made, reverse_charge=True), formats_for("de"))
    assert charged.notes == ("Steuerschuldnerschaft des Leistungsempfängers (Reverse Charge).",)


def test_a_receipt_tells_how_it_came_and_where_it_went() -> None:
    made = facts.ReceiptFacts(
        samples.firm(), samples.client(), "pay_1", date(2026, 3, 12), "EUR", 10_000, 1_000, 500, "CARD", "Visa", "4242", "",
        [facts.PaidPart("HV-7", 9_000)],
    )  # fmt: skip
    document = receipt_document(made, formats_for("de"))
    assert [(line.description, line.amount) for line in document.lines] == [
        ("Rechnung HV-7", "90,00"),
        ("Als Guthaben behalten", "10,00"),
    ]
    assert ("Zahlungsart", "Visa mit den Endziffern 4242") in [(fact.label, fact.value) for fact in document.facts]
    assert [fact.label for fact in document.totals] == ["Erhaltener Betrag", "Seitdem erstattet"]
    by_hand = receipt_document(
        replace(made, method="CHEQUE", brand="", last4="", reference="No 7", parts=(), credited_minor=0), EN
    )
    assert ("Method", "Cheque") in [(fact.label, fact.value) for fact in by_hand.facts]
    assert ("Reference", "No 7") in [(fact.label, fact.value) for fact in by_hand.facts]
    assert by_hand.lines[0].description == "Payment"
    unknown = receipt_document(replace(made, method=""), EN)
    assert "Method" not in [fact.label for fact in unknown.facts]


def test_a_statement_carries_balances_forward() -> None:
    moved = [
        facts.Movement(date(2026, 1, 3), "invoice", "HV-1", 20_000),
        facts.Movement(date(2026, 1, 9), "payment", "", -15_000),
    ]
    account = facts.AccountFacts("EUR", 1_000, 0, moved, [facts.Movement(date(2026, 1, 9), "payment", "", 500)])
    yen = facts.AccountFacts("JPY", 0, 0, [facts.Movement(date(2026, 1, 3), "invoice", "HV-2", 5_000)], [])
    made = facts.StatementFacts(
        samples.firm(), samples.client(), date(2026, 1, 1), date(2026, 2, 1), date(2026, 2, 1), [account, yen]
    )
    document = statement_document(made, EN)
    assert [row[1:] for row in document.tables[0].rows] == [
        ("Opening balance", "", "", "10.00"), ("Invoice HV-1", "200.00", "", "210.00"), ("Payment", "", "150.00", "60.00"),
    ]  # fmt: skip
    assert document.tables[0].last == ("", "Closing balance", "", "", "60.00")
    assert [table.title for table in document.tables] == ["Account in EUR", "Credit in EUR", "Account in JPY"]
    assert sums(document) == [("Amount owed", "€60.00"), ("Credit held", "€5.00"), ("Amount owed", "JP¥5,000")]
    empty = statement_document(replace(made, accounts=()), EN)
    assert empty.notes == ("There were no transactions.",)


def test_the_data_of_a_long_document_is_the_same_in_parts() -> None:
    document = invoice_document(samples.invoice_facts(samples.usual(), work=samples.work(1234)), EN)
    data = json.loads(to_json(document))
    assert document.annex is not None
    assert [tuple(row) for row in data["annex"]["rows"]] == list(document.annex.rows)
    assert data["lines"][0]["description"] == "Bookkeeping"
    assert data["seller"]["name"] == "Harbour & Vale LLP"
    assert data["pay"] is None
    empty = replace(document, annex=replace(document.annex, rows=()))
    assert json.loads(to_json(empty))["annex"]["rows"] == []
