"""What billing tells the contexts above it, in the transaction in which it happens. Always sets, never one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dunwell_server.billing.model import Invoice

Verb = Literal["void", "write_off"]


@dataclass(frozen=True, slots=True)
class InvoicesFinalized:
    """The invoices were sent: numbered, posted, and their collection planned."""

    invoices: list[Invoice]


@dataclass(frozen=True, slots=True)
class AmountDueChanged:
    """Money or credit changed what is owed. The invoices carry the new facts; what they owed before does not matter."""

    invoices: list[Invoice]


@dataclass(frozen=True, slots=True)
class InvoicesClosing:
    """The invoices are about to be voided or written off, and are locked. A subscriber refuses by raising
    COLLECTION_IN_PROGRESS; nothing is written then."""

    invoices: list[Invoice]
    verb: Verb


@dataclass(frozen=True, slots=True)
class InvoicesClosed:
    """The invoices were voided or written off; they carry the new facts, with their collection cancelled."""

    invoices: list[Invoice]
    verb: Verb
