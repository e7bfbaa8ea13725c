"""One document of every kind."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

from dunwell_server.billing.documents import facts
from dunwell_server.billing.documents.data import Document
from dunwell_server.billing.documents.formats import Formats
from dunwell_server.billing.documents.invoices import credit_note_document, invoice_document
from dunwell_server.billing.documents.receipts import receipt_document
from dunwell_server.billing.documents.statements import statement_document
from tests.unit.billing.documents import samples


def every_kind(formats: Formats) -> list[Document]:
    """An invoice with hours and a way to pay, a credit note, a receipt, and a statement in two currencies."""
    firm, client, day = samples.firm(), samples.client("株式会社 श्री Ada"), samples.ISSUED
    note = facts.CreditNoteFacts(
        firm, client, "CN-HV-2026-000001", day, "EUR", 11_900, 1_900, "…", "HV-7", day,
        [facts.NoteLineFacts("Advice", Decimal(1), "", 10_000, 1_900)],
    )  # fmt: skip
    receipt = facts.ReceiptFacts(
        firm, client, "pay_1", day, "JPY", 10_000, 0, 0, "UPI", parts=[facts.PaidPart("HV-7", 10_000)]
    )
    movements = [facts.Movement(day, "invoice", "HV-7", 20_000), facts.Movement(day, "credit_note", "CN-1", -5_000)]
    accounts = [
        facts.AccountFacts("KWD", 1_000, 50, movements, [facts.Movement(day, "credit_applied", "", -50)]),
        facts.AccountFacts("INR", 0, 0, movements),
    ]
    statement = facts.StatementFacts(firm, client, date(2026, 1, 1), date(2026, 4, 1), day, accounts)
    pay = facts.PayFacts(samples.LINK, date(2026, 3, 11), samples.UPI)
    made = samples.invoice_facts(samples.usual(), client=client, pay=pay, work=samples.work(3))
    return [
        invoice_document(made, formats),
        credit_note_document(note, formats),
        receipt_document(receipt, formats),
        statement_document(statement, formats),
    ]
