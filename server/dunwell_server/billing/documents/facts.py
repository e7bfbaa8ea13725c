"""What of the book a document is made of, as the service loads it. Amounts are minor units. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from dunwell_server.billing.model import Client, Invoice


@dataclass(frozen=True, slots=True)
class FirmFacts:
    """The firm as its documents name it: its display name, and `FirmSettings.document`."""

    name: str
    locale: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PayFacts:
    """How an invoice can be paid at once. The link ends on `link_until`, a civil date."""

    link: str = ""
    link_until: date | None = None
    upi: str = ""


@dataclass(frozen=True, slots=True)
class WorkFacts:
    """One time entry on an invoice. `minutes` are raw; `rate` is in major units, per hour, None where the hours are in a package."""

    day: date
    person: str
    work: str
    minutes: int
    rate: Decimal | None


@dataclass(frozen=True, slots=True)
class InvoiceFacts:
    """An invoice with its lines, as issued or as it stands. `credit_applied` and `credit_notes` count as of then."""

    firm: FirmFacts
    client: Client
    invoice: Invoice
    today: date
    current: bool = False
    credit_applied: int = 0
    credit_notes: int = 0
    pay: PayFacts = field(default_factory=PayFacts)
    work: Sequence[WorkFacts] = ()


@dataclass(frozen=True, slots=True)
class NoteLineFacts:
    """One line of a credit note: what it takes back, without and of tax. `quantity` is None where an amount was credited."""

    description: str
    quantity: Decimal | None
    unit: str
    amount_minor: int
    tax_minor: int


@dataclass(frozen=True, slots=True)
class NoteTaxFacts:
    """What of a credit note is tax of one rate."""

    name: str
    percentage: Decimal
    tax_minor: int


@dataclass(frozen=True, slots=True)
class CreditNoteFacts:
    """A credit note, and the invoice that it reduces. `amount_minor` is with tax, `tax_minor` the tax in it, `taxes` that by rate.

    `reverse_charge`: it takes back something of which the client owes the tax itself.
    """

    firm: FirmFacts
    client: Client
    number: str
    issue_date: date
    currency_code: str
    amount_minor: int
    tax_minor: int
    reason: str | None
    invoice_number: str
    invoice_date: date | None
    lines: Sequence[NoteLineFacts] = ()
    taxes: Sequence[NoteTaxFacts] = ()
    reverse_charge: bool = False


@dataclass(frozen=True, slots=True)
class PaidPart:
    """What of a payment went to an invoice."""

    invoice_number: str
    amount_minor: int


@dataclass(frozen=True, slots=True)
class ReceiptFacts:
    """A payment that has succeeded. `method` is CARD, UPI, … or how it came by hand; `credited_minor` went to no invoice."""

    firm: FirmFacts
    client: Client
    number: str
    day: date
    currency_code: str
    amount_minor: int
    credited_minor: int
    refunded_minor: int
    method: str
    brand: str = ""
    last4: str = ""
    reference: str = ""
    parts: Sequence[PaidPart] = ()


@dataclass(frozen=True, slots=True)
class Movement:
    """One posting's effect on what a client owes (positive: more) or on the credit it holds (positive: more).

    `name` is the word for it, `number` that of the invoice or credit note, empty where it has none.
    """

    day: date
    name: str
    number: str
    amount_minor: int


@dataclass(frozen=True, slots=True)
class AccountFacts:
    """A client's account in one currency over the range: balances at its start, and what moved them, in order."""

    currency_code: str
    owed_before: int = 0
    credit_before: int = 0
    owed: Sequence[Movement] = ()
    credit: Sequence[Movement] = ()


@dataclass(frozen=True, slots=True)
class StatementFacts:
    """A client's accounts from `start` to before `end`."""

    firm: FirmFacts
    client: Client
    start: date
    end: date
    issue_date: date
    accounts: Sequence[AccountFacts] = ()


@dataclass(frozen=True, slots=True)
class Kept:
    """A document as it was sent. `content_hash` is its SHA-256, `firm_time` when it was first rendered."""

    id: UUID
    locale: str
    content: bytes
    content_hash: bytes
    firm_time: datetime
