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
    AutoRenew,
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
from dunwell_server.billing.model.pricing import (
    STANDARD_TAX_CATEGORY,
    DiscountKind,
    InvoiceDiscount,
    LineTax,
    TaxStatus,
)
from dunwell_server.billing.model.time import (
    TIME_ENTRY_TRANSITIONS,
    HourlyTerms,
    RoleRate,
    TimeEntry,
    TimeEntryState,
    TimeGrouping,
    TimeRounding,
)

__all__ = [
    "COLLECTIBLE",
    "STANDARD_TAX_CATEGORY",
    "TIME_ENTRY_TRANSITIONS",
    "TRANSITIONS",
    "VOIDABLE",
    "WRITABLE_OFF",
    "AutoRenew",
    "AutopayCadence",
    "AutopayStatus",
    "BillingAnchor",
    "BillingInterval",
    "BillingTiming",
    "Client",
    "ClientState",
    "CollectionColumns",
    "CreditNote",
    "DiscountKind",
    "Engagement",
    "EngagementState",
    "HourlyTerms",
    "Invoice",
    "InvoiceDiscount",
    "InvoiceFacts",
    "InvoiceLine",
    "InvoiceOrigin",
    "InvoiceState",
    "LineKind",
    "LineTax",
    "PartialPeriods",
    "PricingMode",
    "RoleRate",
    "TaxStatus",
    "TimeEntry",
    "TimeEntryState",
    "TimeGrouping",
    "TimeRounding",
    "derive_state",
    "proration_from_json",
    "proration_to_json",
]
