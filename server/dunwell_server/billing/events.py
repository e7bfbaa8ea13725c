"""What billing tells the contexts above it, in the transaction in which it happens. Always sets, never one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from dunwell_server.billing.model import Invoice

Verb = Literal["void", "write_off"]
Closing = Literal["void", "write_off", "credit", "give_back"]


@dataclass(frozen=True, slots=True)
class InvoicesFinalized:
    """The invoices were sent: numbered, posted, and their collection planned."""

    invoices: list[Invoice]


@dataclass(frozen=True, slots=True)
class AmountDueChanged:
    """Money or credit changed what is owed. The invoices carry the new facts; what they owed before does not matter."""

    invoices: list[Invoice]


@dataclass(frozen=True, slots=True)
class CreditPlanning:
    """What payments left as credit is about to pay for invoices. A subscriber puts into `reserved` how much of it, by payment and in minor
    units, is promised otherwise already: that much is left alone."""

    payments: list[UUID]
    reserved: dict[UUID, int]


@dataclass(frozen=True, slots=True)
class InvoicesClosing:
    """The invoices are about to be voided or written off, or credit is about to be put on them or taken off (`credit`), or money that
    was received for them to be given back by a credit note (`give_back`); they are locked. A subscriber refuses by raising
    COLLECTION_IN_PROGRESS; nothing is written then."""

    invoices: list[Invoice]
    verb: Closing


@dataclass(frozen=True, slots=True)
class InvoicesClosed:
    """The invoices were voided or written off; they carry the new facts, with their collection cancelled."""

    invoices: list[Invoice]
    verb: Verb
