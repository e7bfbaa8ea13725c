"""What the daily jobs look for: one indexed look each."""

from __future__ import annotations

from datetime import date
from typing import Final

from dunwell_server.billing.store.renewals import IS_DUE
from dunwell_server.platform.database import UnitOfWork

_MARKS: Final = """
SELECT EXISTS (SELECT 1 FROM invoice WHERE firm_id = %(firm_id)s AND due_date < %(today)s AND state IN ('SENT', 'FAILED') AND NOT autopay_enabled)
    OR EXISTS (SELECT 1 FROM engagement WHERE firm_id = %(firm_id)s AND state = 'ACTIVE' AND end_date <= %(today)s)
    OR EXISTS (SELECT 1 FROM credit_entry WHERE firm_id = %(firm_id)s AND remaining_minor > 0 AND expire_time <= %(now)s)
"""
_RENEWALS: Final = f"SELECT {IS_DUE}"


async def marks_due(uow: UnitOfWork, today: date) -> bool:
    """Whether an invoice is to be marked overdue, an engagement ended, or credit expired."""
    return bool(await uow.fetch_value(_MARKS, {"firm_id": uow.firm_id, "today": today, "now": uow.now}))


async def renewals_due(uow: UnitOfWork, today: date) -> bool:
    """Whether an engagement is to be renewed by itself."""
    return bool(await uow.fetch_value(_RENEWALS, {"firm_id": uow.firm_id, "today": today}))
