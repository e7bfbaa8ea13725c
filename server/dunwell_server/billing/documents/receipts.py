"""Receipts as documents. Pure."""

from __future__ import annotations

from dunwell_server.billing.documents.data import Document, Fact, Kind, Line
from dunwell_server.billing.documents.facts import ReceiptFacts
from dunwell_server.billing.documents.formats import Formats
from dunwell_server.billing.documents.parties import branding, buyer, seller


def receipt_document(facts: ReceiptFacts, formats: Formats) -> Document:
    """The receipt of a payment: how it came, what it settled, and what of it was sent back since."""
    currency = facts.currency_code
    head = [
        Fact(formats.word("head.number"), facts.number),
        Fact(formats.word("receipt.date"), formats.day(facts.day)),
    ]
    if facts.method:
        head.append(Fact(formats.word("receipt.method"), _method(facts, formats)))
    if facts.reference:
        head.append(Fact(formats.word("head.reference"), facts.reference))
    head.append(Fact(formats.word("head.currency"), currency))
    totals = [Fact(formats.word("receipt.received"), formats.money(facts.amount_minor, currency), strong=True)]
    if facts.refunded_minor:
        totals.append(Fact(formats.word("receipt.refunded"), formats.money(facts.refunded_minor, currency)))
    return Document(
        kind=Kind.RECEIPT,
        locale=formats.tag,
        language=formats.language,
        title=formats.word("title.receipt"),
        number=facts.number,
        mark="",
        seller=seller(facts.firm, formats),
        buyer=buyer(facts.client, formats),
        buyer_label=formats.word("receipt.received_from"),
        branding=branding(facts.firm),
        facts=tuple(head),
        page_label=formats.word("head.page", page="{page}", pages="{pages}"),
        line_heads=(formats.word("line.description"), "", "", f"{formats.word('line.amount')} ({currency})"),
        lines=_lines(facts, formats),
        totals=tuple(totals),
        notes=(formats.word("receipt.thanks"),),
    )


def _lines(facts: ReceiptFacts, formats: Formats) -> tuple[Line, ...]:
    def line(text: str, minor: int) -> Line:
        return Line(text, (), "", "", formats.amount(minor, facts.currency_code))

    lines = [
        line(formats.word("receipt.invoice", number=part.invoice_number), part.amount_minor) for part in facts.parts
    ]
    if facts.credited_minor:
        lines.append(line(formats.word("receipt.kept_as_credit"), facts.credited_minor))
    return tuple(lines or [line(formats.word("receipt.without_invoice"), facts.amount_minor)])


def _method(facts: ReceiptFacts, formats: Formats) -> str:
    kind = formats.word(f"method.{facts.method}")
    if not facts.last4:
        return f"{kind} ({facts.brand})" if facts.brand else kind
    return formats.word("method.card", brand=facts.brand or kind, last4=facts.last4)
