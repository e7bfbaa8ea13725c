"""What the server wrote of the golden firm and what the spreadsheet says, each as plain values that can be compared line by line."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, timedelta
from fractions import Fraction
from itertools import pairwise
from typing import Any
from uuid import UUID

from dunwell_server.billing.documents.data import Kind
from dunwell_server.billing.service import documents
from dunwell_server.billing.service.documents import Wanted
from tests.integration.billing.book import Book
from tests.integration.billing.golden.account import Account, Movement, Note, Paper
from tests.integration.billing.golden.arithmetic import figure
from tests.integration.billing.golden.credit import Entry

_INVOICES = """
SELECT i.*, (SELECT coalesce(json_agg(u.amount_minor ORDER BY u.id), '[]') FROM credit_use u
             WHERE u.firm_id = i.firm_id AND u.invoice_id = i.id AND u.kind = 'APPLIED' AND u.firm_time = i.finalize_time) AS at_issue
FROM invoice i ORDER BY i.issue_date, i.series_no
"""
_LINES = "SELECT * FROM invoice_line ORDER BY invoice_id, line_no"
_TAXES = "SELECT * FROM invoice_line_tax ORDER BY invoice_id, line_no, tax_no"
_DISCOUNTS = "SELECT * FROM invoice_discount ORDER BY invoice_id, discount_no"
_ENTRIES = "SELECT * FROM credit_entry ORDER BY create_time, id"
_USES = "SELECT * FROM credit_use ORDER BY create_time, id"
_NOTES = "SELECT * FROM credit_note ORDER BY issue_date, series_no"
_NOTE_LINES = "SELECT * FROM credit_note_line ORDER BY credit_note_id, line_no"
_NOTE_TAXES = "SELECT * FROM credit_note_line_tax ORDER BY credit_note_id, line_no, tax_no"

Row = dict[str, Any]
Plain = dict[str, Any]


@dataclass
class Seen:
    """Everything that the server wrote, by client."""

    invoices: dict[UUID, list[Plain]]
    ids: dict[UUID, list[UUID]]
    numbers: dict[UUID, list[str]]
    runs: dict[tuple[UUID, date], list[UUID]]
    entries: dict[UUID, list[Plain]]
    notes: dict[UUID, list[Plain]]
    note_numbers: dict[UUID, list[str]]


async def read(book: Book) -> Seen:
    """All of it, in a few statements."""
    lines, taxes = _by(await book.sql(_LINES), "invoice_id"), _by(await book.sql(_TAXES), "invoice_id", "line_no")
    discounts = _by(await book.sql(_DISCOUNTS), "invoice_id")
    seen = Seen(
        defaultdict(list), defaultdict(list), defaultdict(list), defaultdict(list), defaultdict(list), defaultdict(list), defaultdict(list)
    )  # fmt: skip
    for row in await book.sql(_INVOICES):
        client = row["client_id"]
        seen.ids[client].append(row["id"])
        seen.numbers[client].append(row["number"])
        if row["engagement_id"] is not None:
            seen.runs[client, row["issue_date"]].append(row["engagement_id"])
        seen.invoices[client].append({
            "issued": row["issue_date"], "payable": row["due_date"],
            "lines": [_line(line, taxes[row["id"], line["line_no"]]) for line in lines[row["id"],]],
            "discounts": sorted((one["line_no"] or 0, one["name"], one["amount_minor"]) for one in discounts[row["id"],]),
            "credit": row["at_issue"],
            "totals": (row["subtotal"], row["discount_total"], row["tax_total"], row["tax_included_total"], row["total"]),
            "void": row["state"] == "VOID", "due": row["amount_due"], "credited": row["amount_credited"],
        })  # fmt: skip
    await _read_credit(book, seen)
    await _read_notes(book, seen)
    return seen


def _line(line: Row, taxes: list[Row]) -> Plain:
    return {
        "kind": line["kind"], "period": (line["period_start"], line["period_end"]), "quantity": Fraction(line["quantity"]),
        "price": Fraction(line["unit_price"]), "amount": line["amount_minor"], "discount": line["discount_minor"],
        "taxes": [
            (tax["name"], Fraction(tax["percentage"]), tax["inclusive"], tax["reverse_charge"], tax["taxable_minor"], tax["tax_minor"])
            for tax in taxes
        ],
    }  # fmt: skip


async def _read_credit(book: Book, seen: Seen) -> None:
    uses = _by(await book.sql(_USES), "entry_id")
    for row in await book.sql(_ENTRIES):
        client = row["client_id"]
        seen.entries[client].append({
            "kind": row["kind"], "amount": row["amount_minor"], "priority": row["priority"], "expires": row["expire_time"],
            "left": row["remaining_minor"],
            "uses": [
                (use["kind"], use["amount_minor"], None if use["invoice_id"] is None else seen.ids[client].index(use["invoice_id"]))
                for use in uses[row["id"],]
            ],
        })  # fmt: skip


async def _read_notes(book: Book, seen: Seen) -> None:
    lines = _by(await book.sql(_NOTE_LINES), "credit_note_id")
    taxes = _by(await book.sql(_NOTE_TAXES), "credit_note_id", "line_no")
    for row in await book.sql(_NOTES):
        client = row["client_id"]
        seen.note_numbers[client].append(row["number"])
        seen.notes[client].append({
            "issued": row["issue_date"], "invoice": seen.ids[client].index(row["invoice_id"]),
            "lines": [
                (line["line_no"], line["amount_minor"], line["discount_minor"],
                 {tax["tax_no"]: tax["tax_minor"] for tax in taxes[row["id"], line["line_no"]]},
                 None if line["quantity"] is None else Fraction(line["quantity"]))
                for line in lines[row["id"],]
            ],
            "placed": (row["applied_minor"], row["credited_minor"], row["released_minor"], row["payable_minor"]),
            "total": row["amount_minor"],
        })  # fmt: skip


def _by(rows: list[Row], *columns: str) -> dict[tuple[Any, ...], list[Row]]:
    found: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        found[tuple(row[column] for column in columns)].append(row)
    return found


# The spreadsheet's


def paper(one: Paper) -> Plain:
    """An invoice of the spreadsheet as `read` gives the server's."""
    lines = [
        {
            "kind": line.kind, "period": (line.start, line.end), "quantity": line.quantity, "price": line.price, "amount": line.amount,
            "discount": line.discount,
            "taxes": [(tax.name, tax.percent, tax.inclusive, tax.reverse_charge, tax.base, tax.amount) for tax in line.taxes],
        }
        for line in one.lines
    ]  # fmt: skip
    columns = [(line.amount, line.discount, line.tax, line.tax_inside) for line in one.lines]
    subtotal, discounted, tax, inside = (sum(column) for column in zip(*columns, strict=True))
    return {
        "issued": one.issued, "payable": one.payable, "lines": lines,
        "discounts": sorted((each.line or 0, each.name, each.amount) for each in one.reductions),
        "credit": one.credit_at_issue, "totals": (subtotal, discounted, tax, inside, one.total), "void": one.void, "due": one.unpaid,
        "credited": one.credited + one.noted,
    }  # fmt: skip


def entry(one: Entry) -> Plain:
    """An entry of credit."""
    return {
        "kind": one.kind, "amount": one.amount, "priority": one.priority, "expires": one.expires, "left": one.left,
        "uses": [(use.kind, use.amount, use.invoice) for use in one.uses],
    }  # fmt: skip


def note(one: Note) -> Plain:
    """A credit note."""
    return {
        "issued": one.issued, "invoice": one.invoice,
        "lines": [
            (part.line, part.amount, part.discount, {number: tax for number, tax in enumerate(part.taxes, 1) if tax}, part.quantity)
            for part in one.parts
        ],
        "placed": (one.applied, one.credit, one.released, one.payable), "total": sum(part.total for part in one.parts),
    }  # fmt: skip


# Statements


async def statement(book: Book, client: UUID, start: date, end: date) -> dict[str, list[tuple[str, ...]]]:
    """The statement that the client gets: rows by table, with the closing one."""
    prepared = await book.see(documents.prepare, Wanted(Kind.STATEMENT, client, start=start, end=end, locale="en"))
    assert prepared.make is not None
    tables = prepared.make().tables
    return {table.title: [tuple(row) for row in (*table.rows, table.last)] for table in tables}


def stated(
    account: Account, start: date, end: date, invoices: list[str], notes: list[str]
) -> dict[str, list[tuple[str, ...]]]:
    """The same on paper."""
    currency = account.scene.currency
    tables: dict[str, list[tuple[str, ...]]] = {}
    if not any(each.day < end for each in account.movements):
        return {}
    for name, title in (("owed", "Account"), ("credit", "Credit")):
        mine = [each for each in account.movements if each.account == name]
        balance = sum(each.amount for each in mine if each.day < start)
        inside = [each for each in mine if start <= each.day < end]
        if not inside and not balance and name == "credit":
            continue
        rows: list[tuple[str, ...]] = [("", "Opening balance", "", "", figure(balance, currency))]
        for each in inside:
            balance += each.amount
            size = figure(abs(each.amount), currency)
            more, less = (size, "") if each.amount > 0 else ("", size)
            rows.append((written(each.day), _text(each, invoices, notes), more, less, figure(balance, currency)))
        rows.append(("", "Closing balance", "", "", figure(balance, currency)))
        tables[f"{title} in {currency}"] = rows
    return tables


def written(day: date) -> str:
    """As an English statement writes it: Feb 29, 2028."""
    return f"{day:%b} {day.day}, {day.year}"


def _text(movement: Movement, invoices: list[str], notes: list[str]) -> str:
    """The words of a movement, with the server's numbers for the client's n-th invoice or note."""
    word = movement.word
    for name, numbers in (("Invoice ", invoices), ("Credit note ", notes)):
        if word.startswith(name):
            index, *rest = word.removeprefix(name).split(" ")
            return " ".join([name.strip(), numbers[int(index)], *rest])
    return word


def unordered_within_days(rows: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Rows with those of a day in the order of their texts: which of two things at the same instant comes first is nobody's rule. Each
    balance is checked against the row before."""
    amounts = [tuple(int(cell.replace(",", "").replace(".", "") or "0") for cell in row[2:]) for row in rows]
    for before, (more, less, balance) in pairwise(amounts):
        assert balance == before[2] + more - less
    first, *middle, last = rows
    place = {text: number for number, text in enumerate(dict.fromkeys(row[0] for row in middle))}
    return [first, *sorted((row[:4] for row in middle), key=lambda row: (place[row[0]], row)), last]


def days_of(first: date, last: date) -> list[date]:
    """Every day, both included."""
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]
