"""Worked cases of another billing system's documents about what an invoice still owes, lived through for real."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from dunwell_server.billing.model import Invoice
from dunwell_server.billing.model.credit import CreditKind
from dunwell_server.billing.model.credit_notes import Excess
from dunwell_server.billing.service import collection, credit, credit_notes
from dunwell_server.billing.service.credit import Grant
from dunwell_server.billing.service.credit_notes import NoteOrder
from dunwell_server.kernel.ids import uuid7
from dunwell_server.kernel.money import Money
from dunwell_server.platform.database import UnitOfWork
from tests.integration.billing.book import Book

_FILE = Path(__file__).parents[2] / "unit" / "kernel" / "oracles" / "proration.json"
BALANCES: dict[str, dict[str, Any]] = {
    case["id"]: case for case in json.loads(_FILE.read_text())["cases"] if case["kind"] == "balance"
}
BILLED = "100"
"""What every case's invoice was before anything was taken off it."""


def usd(amount: str) -> Money:
    return Money("USD", int(Decimal(amount) * 100))


@pytest.mark.parametrize("case_id", BALANCES)
async def test_what_an_invoice_still_owes(book: Book, case_id: str) -> None:
    """`charges` less than billed is a credit note; where it came after the payment, `credit_generated` is the client's
    credit. A refund brings a credit note, unless the charges stay: then the amount is owed again."""
    given = {name: Decimal(value) for name, value in BALANCES[case_id]["input"].items()}
    client = await book.client()
    if used := given.get("credit_used"):
        await book.do(credit.grant, Grant(client.id, CreditKind.GOODWILL, usd(str(used))))
    invoice = await book.sent(client, BILLED)
    if paid := given["paid"]:
        await book.pay(invoice, usd(str(paid)).minor)
    adjusted = usd(BILLED).minor - usd(str(given["charges"])).minor
    if refunded := given["refunded"]:
        await _refund(book, invoice, usd(str(refunded)).minor, reopen=not adjusted)
    elif adjusted:
        order = NoteOrder(invoice.id, Money("USD", adjusted), excess=Excess.CREDIT)
        await book.do(credit_notes.create_credit_note, order)
    found = await book.get(invoice)
    assert found.amount_due == usd(BALANCES[case_id]["expect"]["balance"]).minor
    generated = usd(str(given.get("credit_generated", 0))).minor
    balances = await book.see(credit.balances, client.id)
    assert sum(balance.available_minor for balance in balances) == generated


async def _refund(book: Book, invoice: Invoice, amount: int, *, reopen: bool) -> None:
    async def work(uow: UnitOfWork) -> None:
        await collection.lock_invoices(uow, [invoice.id])
        refunded = await credit_notes.apply_refund(uow, uuid7(), {invoice.id: amount}, reopen=reopen, reason=None)
        await credit_notes.issue_notes(uow, [each.note for each in refunded if each.note is not None])

    await book.do(work)
