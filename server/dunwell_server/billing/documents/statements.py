"""Statements of account as documents. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from dunwell_server.billing.documents.data import Document, Fact, Kind, Table
from dunwell_server.billing.documents.facts import AccountFacts, Movement, StatementFacts
from dunwell_server.billing.documents.formats import Formats
from dunwell_server.billing.documents.parties import branding, buyer, seller


def statement_document(facts: StatementFacts, formats: Formats) -> Document:
    """A client's accounts over a range: a table for what is owed in each currency, and one for credit where there was any."""
    tables: list[Table] = []
    totals: list[Fact] = []
    for account in facts.accounts:
        currency = account.currency_code
        tables.append(_owed_table(account, formats))
        owed = _closing(account.owed_before, account.owed)
        totals.append(Fact(formats.word("statement.owed"), formats.money(owed, currency), strong=True))
        if account.credit or account.credit_before:
            tables.append(_credit_table(account, formats))
            held = _closing(account.credit_before, account.credit)
            totals.append(Fact(formats.word("statement.held"), formats.money(held, currency)))
    return Document(
        kind=Kind.STATEMENT,
        locale=formats.tag,
        language=formats.language,
        title=formats.word("title.statement"),
        number="",
        mark="",
        seller=seller(facts.firm, formats),
        buyer=buyer(facts.client, formats),
        buyer_label=formats.word("head.billed_to"),
        branding=branding(facts.firm),
        facts=(
            Fact(formats.word("statement.period"), formats.period(facts.start, facts.end)),
            Fact(formats.word("head.issue_date"), formats.day(facts.issue_date)),
        ),
        page_label=formats.word("head.page", page="{page}", pages="{pages}"),
        totals=tuple(totals),
        tables=tuple(tables),
        notes=() if tables else (formats.word("statement.nothing"),),
    )


def _closing(before: int, movements: Sequence[Movement]) -> int:
    return before + sum(movement.amount_minor for movement in movements)


def _owed_table(account: AccountFacts, formats: Formats) -> Table:
    heads = ("date", "movement", "charged", "settled", "balance")
    return _table("account", heads, account.currency_code, account.owed_before, account.owed, formats)


def _credit_table(account: AccountFacts, formats: Formats) -> Table:
    heads = ("date", "movement", "credit_added", "credit_used", "balance")
    return _table("credit", heads, account.currency_code, account.credit_before, account.credit, formats)


def _table(
    title: str, heads: Sequence[str], currency: str, before: int, movements: Sequence[Movement], formats: Formats
) -> Table:
    balance = before
    rows = [("", formats.word("statement.opening"), "", "", formats.amount(before, currency))]
    for movement in movements:
        balance += movement.amount_minor
        size = formats.amount(abs(movement.amount_minor), currency)
        more, less = (size, "") if movement.amount_minor > 0 else ("", size)
        text = formats.word(f"movement.{movement.name}", number=movement.number)
        rows.append((formats.day(movement.day), text, more, less, formats.amount(balance, currency)))
    return Table(
        formats.word(f"statement.{title}", currency=currency),
        tuple(formats.word(f"statement.{head}") for head in heads),
        tuple(rows),
        numbers=3,
        last=("", formats.word("statement.closing"), "", "", formats.amount(balance, currency)),
    )
