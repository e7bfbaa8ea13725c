"""What the daily jobs look for: one indexed look each."""

from __future__ import annotations

from datetime import date
from typing import Final

from dunwell_server.billing.store.renewals import IS_DUE
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.questions import Question, ask

_MARKS: Final = """
SELECT EXISTS (SELECT 1 FROM invoice WHERE firm_id = %(firm_id)s AND due_date < %(today)s AND state IN ('SENT', 'FAILED') AND NOT autopay_enabled)
    OR EXISTS (SELECT 1 FROM engagement WHERE firm_id = %(firm_id)s AND state = 'ACTIVE' AND end_date <= %(today)s)
    OR EXISTS (SELECT 1 FROM credit_entry WHERE firm_id = %(firm_id)s AND remaining_minor > 0 AND expire_time <= %(now)s)
"""
_PACKAGES: Final = (
    "SELECT EXISTS (SELECT 1 FROM engagement e WHERE e.firm_id = %(firm_id)s AND e.next_bill_date <= %(today)s)"
)
_RENEWALS: Final = f"SELECT {IS_DUE}"


def marks_due(uow: UnitOfWork, today: date) -> Question[bool]:
    """Whether an invoice is to be marked overdue, an engagement ended, or credit expired."""
    return ask(uow, _MARKS, {"today": today, "now": uow.now})


def packages_due(uow: UnitOfWork, today: date) -> Question[bool]:
    """Whether an engagement is to be billed."""
    return ask(uow, _PACKAGES, {"today": today})


def renewals_due(uow: UnitOfWork, today: date) -> Question[bool]:
    """Whether an engagement is to be renewed by itself."""
    return ask(uow, _RENEWALS, {"today": today})
