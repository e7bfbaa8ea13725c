"""Books of which documents are made: one firm and client for each language, with every part that a document can have."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from dunwell_server.billing.documents import facts
from dunwell_server.billing.model import (
    AutopayCadence,
    Client,
    ClientState,
    CollectionColumns,
    Invoice,
    InvoiceLine,
    InvoiceOrigin,
    InvoiceState,
    LineKind,
)
from dunwell_server.billing.model.pricing import DiscountKind, InvoiceDiscount, LineTax
from dunwell_server.kernel.money import distribute, exponent, line_amount, round_half_away

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)
ISSUED, DUE = date(2026, 3, 10), date(2026, 4, 9)
UPI = "upi://pay?pa=harbour@okbank&pn=Harbour%20Vale&tr=HV2026000042&am=28320.00&cu=INR&tn=HV-2026-000042"
LINK = "https://pay.example.com/i/chk_01kb2v7q8e5x9f3m6n4p2r0s1t?lang=auto"


def png(width: int, height: int, rgb: tuple[int, int, int]) -> bytes:
    """A picture of one colour."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = (b"\0" + bytes(rgb) * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


LOGO = base64.b64encode(png(240, 80, (20, 110, 120))).decode()


def firm(name: str = "Harbour & Vale LLP", locale: str = "en", **details: Any) -> facts.FirmFacts:
    """A firm in Mumbai with colour, logo and foot."""
    known = {
        "legal_name": name, "tax_id": "27AAPFU0939F1ZV",
        "address": {"lines": ["14 Ballard Estate"], "city": "Mumbai", "region": "Maharashtra", "postal_code": "400001", "country_code": "IN"},
        "branding": {"color": "#146e78", "logo_image": LOGO, "footer": "Harbour & Vale LLP · AAB-1234\nIBAN DE89 3704 0044 0532 0130 00"},
    }  # fmt: skip
    return facts.FirmFacts(name, locale, {**known, **details})


def client(name: str = "Ada Byron Ltd", **changes: Any) -> Client:
    """A client in Galway."""
    address = {"lines": ["1 Quay Street", "Floor 3"], "city": "Galway", "postal_code": "H91 X2RP", "country_code": "IE"}
    made = Client(
        UUID(int=1), None, ClientState.ACTIVE, name, "ada@example.com", None, address, "IE1234567T", None, "EUR", None, {}, False, None,
        AutopayCadence.ON_DUE, None, 1, NOW, NOW,
    )  # fmt: skip
    return replace(made, **changes)


def line(number: int, description: str, quantity: str, price: str, currency: str, **changes: Any) -> InvoiceLine:
    """A line of its quantity times its price."""
    amount = line_amount(Decimal(price), Decimal(quantity), currency)
    return InvoiceLine(number, LineKind.ITEM, description, Decimal(quantity), Decimal(price), amount)._replace(
        **changes
    )


def taxed(
    made: InvoiceLine, name: str, percentage: str, *, inclusive: bool = False, reverse: bool = False
) -> InvoiceLine:
    """The line with one tax more, on what is left after discounts."""
    rate = Decimal(percentage)
    left = made.amount_minor - made.discount_minor
    tax = round_half_away(Decimal(left) * rate / (100 + rate if inclusive else 100))
    tax = 0 if reverse else tax
    taxable = left - tax if inclusive else left
    taxes = (*made.taxes, LineTax(len(made.taxes) + 1, None, name, rate, inclusive, reverse, taxable, tax))
    included = made.tax_included_minor + (tax if inclusive else 0)
    return made._replace(taxes=taxes, tax_minor=made.tax_minor + tax, tax_included_minor=included)


def discounted(lines: Sequence[InvoiceLine], amount: int) -> list[InvoiceLine]:
    """The lines with a discount spread over them."""
    parts = distribute(amount, [each.amount_minor for each in lines])
    return [each._replace(discount_minor=part) for each, part in zip(lines, parts, strict=True)]


def invoice(lines: Sequence[InvoiceLine], currency: str, *, discount: str = "", **changes: Any) -> Invoice:
    """A sent invoice of the lines, with the totals that follow from them."""
    subtotal = sum(each.amount_minor for each in lines)
    off = sum(each.discount_minor for each in lines)
    tax, included = sum(each.tax_minor for each in lines), sum(each.tax_included_minor for each in lines)
    total = subtotal - off + tax - included
    discounts = (InvoiceDiscount(1, None, discount, DiscountKind.FIXED, None, off, off),) if discount else ()
    made = Invoice(
        id=UUID(int=2), external_id=None, client_id=UUID(int=1), engagement_id=None, run_id=None, origin=InvoiceOrigin.MANUAL,
        currency_code=currency, series="HV-2026", series_no=42, number="HV-2026-000042", memo=None, metadata={}, issue_date=ISSUED, due_date=DUE,
        payment_terms_days=None, line_count=len(lines), subtotal=subtotal, discount_total=off, tax_total=tax, total=total, amount_received=0,
        amount_refunded=0, amount_charged_back=0, amount_credited=0, amount_paid=0, amount_due=total, finalize_time=NOW, void_time=None,
        write_off_time=None, overdue_time=None, paid_time=None, open_chargebacks=0, lost_disputes=0, state=InvoiceState.SENT, version=1,
        create_time=NOW, update_time=NOW, collection=CollectionColumns(), lines=tuple(lines), tax_included_total=included,
        discount_count=len(discounts), discounts=discounts,
    )  # fmt: skip
    return replace(made, **changes)


def invoice_facts(made: Invoice, **changes: Any) -> facts.InvoiceFacts:
    """The invoice of the firm in Mumbai to the client in Galway, as issued."""
    return replace(facts.InvoiceFacts(firm(), client(), made, ISSUED), **changes)


def usual(
    currency: str = "EUR", descriptions: Sequence[str] = ("Bookkeeping", "Advice", "Travel"), tax: str = "VAT"
) -> Invoice:
    """A package, hours and an item, a discount, and a tax of 19 %."""
    digits = exponent(currency)
    price = "1250" if not digits else f"1250.{'5' * digits}"
    month = {"period_start": date(2026, 3, 1), "period_end": date(2026, 4, 1)}
    lines = [
        line(1, descriptions[0], "1", price, currency, **month),
        line(2, descriptions[1], "12.5", "95" if not digits else "95.25", currency, unit="hour", **month),
        line(3, descriptions[2], "3", "7" if not digits else "7.125", currency),
    ]
    off = sum(each.amount_minor for each in lines) // 20
    return invoice([taxed(each, tax, "19") for each in discounted(lines, off)], currency, discount="SPRING26")


def work(count: int) -> list[facts.WorkFacts]:
    """That many time entries."""
    people = ("Mina Harker", "Jonathan Reed", "अनीता शर्मा")
    return [
        facts.WorkFacts(
            date(2026, 1, 1) + timedelta(days=number % 90), people[number % 3],
            f"Review of ledger {number} and correspondence with the tax office", 6 + number % 120, Decimal("95.25"),
        )
        for number in range(count)
    ]  # fmt: skip
