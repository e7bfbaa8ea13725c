"""Invoices and credit notes as documents. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, Final

from dunwell_server.billing.documents.data import Document, Fact, Kind, Line, PayOption, Table
from dunwell_server.billing.documents.facts import CreditNoteFacts, InvoiceFacts, PayFacts, WorkFacts
from dunwell_server.billing.documents.formats import Formats
from dunwell_server.billing.documents.parties import branding, buyer, seller
from dunwell_server.billing.documents.qr import qr_svg
from dunwell_server.billing.model import Invoice, InvoiceLine, InvoiceState
from dunwell_server.billing.model.pricing import InvoiceDiscount, LineTax

_HOUR: Final = "hour"
TaxGroup = tuple[str, Decimal, bool, bool]
"""Taxes that are printed together: of one name, percentage, and way of counting."""


def invoice_document(facts: InvoiceFacts, formats: Formats) -> Document:
    """An invoice: as issued, or as it stands, or a draft."""
    invoice = facts.invoice
    taxes = _taxes(invoice.lines)
    return Document(
        kind=Kind.INVOICE,
        locale=formats.tag,
        language=formats.language,
        title=formats.word("title.invoice"),
        number=invoice.number or "",
        mark=_mark(facts, formats),
        seller=seller(facts.firm, formats),
        buyer=buyer(facts.client, formats),
        buyer_label=formats.word("head.billed_to"),
        branding=branding(facts.firm),
        facts=tuple(_head(invoice, formats)),
        page_label=formats.word("head.page", page="{page}", pages="{pages}"),
        line_heads=_line_heads(invoice.currency_code, formats),
        lines=tuple(_lines(invoice, formats)),
        totals=tuple(_totals(facts, taxes, formats)),
        taxes=_tax_table(taxes, invoice.currency_code, formats),
        memo=tuple((invoice.memo or "").splitlines()),
        notes=tuple(_notes(facts, taxes, formats)),
        pay=_pay(facts.pay, formats) if _owed(facts) > 0 and _is_live(invoice) else None,
        annex=_annex(facts.work, invoice, formats),
    )


def credit_note_document(facts: CreditNoteFacts, formats: Formats) -> Document:
    """A credit note: what is taken back, the tax in it, and of which invoice."""
    currency, number = facts.currency_code, facts.invoice_number
    lines = [
        Line(
            part.description,
            (),
            _quantity(part.quantity, part.unit, formats),
            "",
            formats.amount(part.amount_minor, currency),
        )
        for part in facts.lines
    ]
    net = facts.amount_minor - facts.tax_minor
    if not lines:
        lines.append(
            Line(formats.word("credit_note.credited", number=number), (), "", "", formats.amount(net, currency))
        )
    head = [
        Fact(formats.word("head.number"), facts.number),
        Fact(formats.word("head.issue_date"), formats.day(facts.issue_date)),
        Fact(formats.word("credit_note.invoice"), number),
    ]
    if facts.invoice_date is not None:
        head.append(Fact(formats.word("credit_note.invoice_date"), formats.day(facts.invoice_date)))
    head.append(Fact(formats.word("head.currency"), currency))
    totals = []
    if facts.tax_minor:
        totals.append(Fact(formats.word("total.net"), formats.money(net, currency)))
        totals.extend(
            Fact(
                formats.word("total.tax", name=tax.name, rate=formats.percent(tax.percentage)),
                formats.money(tax.tax_minor, currency),
            )
            for tax in facts.taxes
        )
        if not facts.taxes:
            totals.append(Fact(formats.word("tax.tax"), formats.money(facts.tax_minor, currency)))
    totals.append(Fact(formats.word("credit_note.total"), formats.money(facts.amount_minor, currency), strong=True))
    reason = f"{formats.word('credit_note.reason')}: {facts.reason}" if facts.reason else ""
    return Document(
        kind=Kind.CREDIT_NOTE,
        locale=formats.tag,
        language=formats.language,
        title=formats.word("title.credit_note"),
        number=facts.number,
        mark="",
        seller=seller(facts.firm, formats),
        buyer=buyer(facts.client, formats),
        buyer_label=formats.word("head.billed_to"),
        branding=branding(facts.firm),
        facts=tuple(head),
        page_label=formats.word("head.page", page="{page}", pages="{pages}"),
        line_heads=(
            formats.word("line.description"),
            formats.word("line.quantity") if any(each.quantity for each in lines) else "",
            "",
            _with_currency(formats.word("line.amount"), currency),
        ),
        lines=tuple(lines),
        totals=tuple(totals),
        memo=tuple(reason.splitlines()),
        notes=(formats.word("tax.reverse_charge"),) if facts.reverse_charge else (),
    )


def _head(invoice: Invoice, formats: Formats) -> Iterable[Fact]:
    if invoice.number:
        yield Fact(formats.word("head.number"), invoice.number)
    if invoice.issue_date:
        yield Fact(formats.word("head.issue_date"), formats.day(invoice.issue_date))
    if invoice.due_date:
        yield Fact(formats.word("head.due_date"), formats.day(invoice.due_date))
    if invoice.external_id:
        yield Fact(formats.word("head.reference"), invoice.external_id)
    yield Fact(formats.word("head.currency"), invoice.currency_code)


def _mark(facts: InvoiceFacts, formats: Formats) -> str:
    match facts.invoice.state:
        case InvoiceState.DRAFT:
            return formats.word("mark.draft")
        case InvoiceState.VOID:
            return formats.word("mark.void")
        case InvoiceState.PAID if facts.current:
            return formats.word("mark.paid")
        case InvoiceState.OVERDUE if facts.current:
            return formats.word("mark.overdue")
        case _:
            return ""


def _line_heads(currency: str, formats: Formats) -> tuple[str, ...]:
    names = ("description", "quantity", "unit_price")
    return (*(formats.word(f"line.{name}") for name in names), _with_currency(formats.word("line.amount"), currency))


def _with_currency(label: str, currency: str) -> str:
    return f"{label} ({currency})"


def _lines(invoice: Invoice, formats: Formats) -> Iterable[Line]:
    given: dict[int | None, list[InvoiceDiscount]] = defaultdict(list)
    for discount in invoice.discounts:
        given[discount.line_no].append(discount)
    for line in invoice.lines:
        yield _line(line, given[line.line_no], invoice.currency_code, formats)


def _line(line: InvoiceLine, discounts: Sequence[InvoiceDiscount], currency: str, formats: Formats) -> Line:
    """A line with the discounts that were given on it alone; those of the whole invoice are among the totals."""
    details = []
    if line.period_start is not None and line.period_end is not None:
        details.append(formats.period(line.period_start, line.period_end))
    for discount in discounts:
        name = discount.name or formats.word("line.discount")
        details.append(f"{name}: {formats.amount(-discount.amount_minor, currency)}")
    details.extend(f"{tax.name} {formats.percent(tax.percentage)}" for tax in line.taxes)
    return Line(
        line.description,
        tuple(details),
        _quantity(line.quantity, line.unit, formats),
        formats.unit_price(line.unit_price, currency),
        formats.amount(line.amount_minor, currency),
    )


def _quantity(quantity: Decimal | None, unit: str, formats: Formats) -> str:
    if quantity is None:
        return ""
    number = formats.quantity(quantity)
    return formats.word("line.hours", quantity=number) if unit == _HOUR else number


def _taxes(lines: Iterable[InvoiceLine]) -> dict[TaxGroup, tuple[int, int]]:
    """Taxable amount and tax by rate, in the order in which the lines name them."""
    sums: dict[TaxGroup, list[int]] = defaultdict(lambda: [0, 0])
    for line in lines:
        for tax in line.taxes:
            group = sums[_group(tax)]
            group[0] += tax.taxable_minor
            group[1] += tax.tax_minor
    return {group: (taxable, tax) for group, (taxable, tax) in sums.items()}


def _group(tax: LineTax) -> TaxGroup:
    return tax.name, tax.percentage.normalize(), tax.inclusive, tax.reverse_charge


def _totals(facts: InvoiceFacts, taxes: dict[TaxGroup, tuple[int, int]], formats: Formats) -> Iterable[Fact]:
    invoice = facts.invoice
    currency = invoice.currency_code

    def fact(word: str, minor: int, *, strong: bool = False, taken: bool = False, **values: str) -> Fact:
        return Fact(
            formats.word(f"total.{word}", **values), formats.money(-minor if taken else minor, currency), strong
        )

    if invoice.total != invoice.subtotal or invoice.tax_total:
        yield fact("subtotal", invoice.subtotal)
    named = [discount for discount in invoice.discounts if discount.amount_minor]
    for discount in named:
        yield Fact(discount.name or formats.word("total.discount"), formats.money(-discount.amount_minor, currency))
    if invoice.discount_total and not named:
        yield fact("discount", invoice.discount_total, taken=True)
    if invoice.tax_total and invoice.discount_total:
        yield fact("net", invoice.total - invoice.tax_total)
    for (name, percentage, inclusive, reverse_charge), (_, tax) in taxes.items():
        if not inclusive and not reverse_charge:
            yield fact("tax", tax, name=name, rate=formats.percent(percentage))
    yield fact("total", invoice.total, strong=True)
    for (name, percentage, inclusive, _), (_, tax) in taxes.items():
        if inclusive:
            yield fact("tax_included", tax, name=name, rate=formats.percent(percentage))
    yield from _settled(facts, fact)
    if invoice.state is not InvoiceState.DRAFT:
        yield fact("due", _owed(facts), strong=True)


def _settled(facts: InvoiceFacts, fact: Any) -> Iterable[Fact]:
    """What has been taken off the total; of an invoice as issued only the credit that was applied then."""
    if facts.credit_applied:
        yield fact("credit", facts.credit_applied, taken=True)
    if not facts.current:
        return
    invoice = facts.invoice
    if facts.credit_notes:
        yield fact("credit_notes", facts.credit_notes, taken=True)
    if invoice.amount_received:
        yield fact("paid", invoice.amount_received, taken=True)
    if invoice.amount_refunded:
        yield fact("refunded", invoice.amount_refunded)
    if invoice.amount_charged_back:
        yield fact("charged_back", invoice.amount_charged_back)


def _owed(facts: InvoiceFacts) -> int:
    """What the document asks for: of an issued invoice what was due then."""
    invoice = facts.invoice
    if invoice.state is InvoiceState.VOID:
        return 0
    if facts.current:
        return invoice.amount_due
    return max(0, invoice.total - facts.credit_applied)


def _is_live(invoice: Invoice) -> bool:
    return invoice.state not in (InvoiceState.DRAFT, InvoiceState.VOID)


def _tax_table(taxes: dict[TaxGroup, tuple[int, int]], currency: str, formats: Formats) -> Table | None:
    if not taxes:
        return None
    rows = []
    for (name, percentage, inclusive, _), (taxable, tax) in taxes.items():
        rate = formats.percent(percentage)
        label = formats.word("tax.included", name=name, rate=rate) if inclusive else f"{name} {rate}"
        rows.append((label, formats.amount(taxable, currency), formats.amount(tax, currency)))
    heads = (
        formats.word("tax.rate"),
        _with_currency(formats.word("tax.taxable"), currency),
        _with_currency(formats.word("tax.tax"), currency),
    )
    return Table(formats.word("tax.summary"), heads, tuple(rows), numbers=2)


def _notes(facts: InvoiceFacts, taxes: dict[TaxGroup, tuple[int, int]], formats: Formats) -> Iterable[str]:
    invoice = facts.invoice
    if any(reverse for _, _, _, reverse in taxes):
        yield formats.word("tax.reverse_charge")
    if invoice.state is InvoiceState.DRAFT:
        yield formats.word("terms.draft")
    elif invoice.state is InvoiceState.VOID:
        yield formats.word("terms.void")
    elif _owed(facts) == 0:
        yield formats.word("terms.paid")
    else:
        if invoice.due_date is not None and invoice.due_date == invoice.issue_date:
            yield formats.word("terms.on_receipt")
        elif invoice.due_date is not None:
            yield formats.word("terms.due", date=formats.day(invoice.due_date))
        if invoice.collection.autopay_enabled and not facts.current:
            yield formats.word("terms.autopay")


def _pay(pay: PayFacts, formats: Formats) -> PayOption | None:
    if not pay.link and not pay.upi:
        return None
    until = formats.word("pay.until", date=formats.day(pay.link_until)) if pay.link and pay.link_until else ""
    return PayOption(
        pay.link,
        formats.word("pay.online") if pay.link else "",
        until,
        qr_svg(pay.upi) if pay.upi else "",
        formats.word("pay.upi") if pay.upi else "",
    )


def _annex(work: Sequence[WorkFacts], invoice: Invoice, formats: Formats) -> Table | None:
    rows = tuple(
        (
            formats.day(entry.day),
            entry.person,
            entry.work,
            formats.hours(entry.minutes),
            "" if entry.rate is None else formats.unit_price(entry.rate, invoice.currency_code),
        )
        for entry in work
    )
    if not rows:
        return None
    heads = tuple(formats.word(f"annex.{name}") for name in ("date", "person", "work", "hours"))
    rate = _with_currency(formats.word("annex.rate"), invoice.currency_code)
    minutes = sum(entry.minutes for entry in work)
    last = (formats.word("annex.total"), "", "", formats.hours(minutes), "")
    title = formats.word("annex.title", number=invoice.number or "").strip()
    return Table(title, (*heads, rate), rows, numbers=2, last=last)
