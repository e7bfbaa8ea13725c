"""The tables of billing, a file for each topic. Importing this declares them all."""

from __future__ import annotations

from dunwell_server.billing.tables import credit, documents, invoices, parties, pricing, recognition, time
from dunwell_server.billing.tables.vocabulary import AUTOPAY_STATUSES, CADENCES, FAILURE_CODES

__all__ = [
    "AUTOPAY_STATUSES",
    "CADENCES",
    "FAILURE_CODES",
    "credit",
    "documents",
    "invoices",
    "parties",
    "pricing",
    "recognition",
    "time",
]
