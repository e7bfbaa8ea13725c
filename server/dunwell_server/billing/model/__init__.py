"""Clients, engagements, invoices and credit notes as the rules see them, a file for each. Pure: no I/O, no clock.

The order of the fields is the order in which `store` selects the columns.
"""

from __future__ import annotations

from dunwell_server.billing.model.clients import (
    Client,
    ClientState,
)
from dunwell_server.billing.model.collection import (
    AutopayCadence,
    AutopayStatus,
    CollectionColumns,
)
from dunwell_server.billing.model.credit_notes import (
    CreditNote,
)
from dunwell_server.billing.model.engagements import (
    BillingAnchor,
    BillingInterval,
    BillingTiming,
    Engagement,
    EngagementState,
    PartialPeriods,
    PricingMode,
    proration_from_json,
    proration_to_json,
)
from dunwell_server.billing.model.invoices import (
    COLLECTIBLE,
    TRANSITIONS,
    VOIDABLE,
    WRITABLE_OFF,
    Invoice,
    InvoiceFacts,
    InvoiceLine,
    InvoiceOrigin,
    InvoiceState,
    LineKind,
    derive_state,
)

__all__ = [
    "COLLECTIBLE",
    "TRANSITIONS",
    "VOIDABLE",
    "WRITABLE_OFF",
    "AutopayCadence",
    "AutopayStatus",
    "BillingAnchor",
    "BillingInterval",
    "BillingTiming",
    "Client",
    "ClientState",
    "CollectionColumns",
    "CreditNote",
    "Engagement",
    "EngagementState",
    "Invoice",
    "InvoiceFacts",
    "InvoiceLine",
    "InvoiceOrigin",
    "InvoiceState",
    "LineKind",
    "PartialPeriods",
    "PricingMode",
    "derive_state",
    "proration_from_json",
    "proration_to_json",
]
