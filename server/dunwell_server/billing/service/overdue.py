"""The daily look at due dates: what is late without autopay becomes OVERDUE."""

from __future__ import annotations

from typing import Final

from dunwell_server.billing.model import Invoice
from dunwell_server.billing.service.engagements import today
from dunwell_server.billing.service.journal import invoice_change
from dunwell_server.billing.store import invoices as store
from dunwell_server.platform import journal
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Severity

BATCH: Final = 1000
"""Invoices marked in one call."""


async def mark_overdue(uow: UnitOfWork, limit: int = BATCH) -> list[Invoice]:
    """Give an overdue time to at most `limit` invoices that are SENT or FAILED, not on autopay, and due before today in
    the firm's zone; their new facts. Call again, in a transaction of its own, while it returns that many."""
    late = await store.mark_overdue(uow, today(uow), limit)
    await journal.record(uow, *(invoice_change(invoice, "overdue", severity=Severity.WARNING) for invoice in late))
    return late
