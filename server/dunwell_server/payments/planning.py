"""When a new invoice is collected automatically. Pure: the same terms give the same plan.

Dates become instants at the firm's collection time (03:00 by default) in its zone, with daylight saving taken care of by the calendar.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta

from dunwell_server.billing.model import AutopayCadence, AutopayStatus
from dunwell_server.billing.ports import CollectionPlan, CollectionTerms
from dunwell_server.kernel.calendar import local_date, local_instant, next_collection_day
from dunwell_server.platform.firms import FirmSettings

_MONTHS = {AutopayCadence.MONTHLY: 1, AutopayCadence.QUARTERLY: 3}


class Planner:
    """Billing's `CollectionPlanner`: fills the collection columns of an invoice that is being finalised."""

    def plan(self, terms: CollectionTerms) -> CollectionPlan:
        """The plan for one invoice. Nothing is scheduled where nothing is owed."""
        if not terms.autopay_enabled:
            return CollectionPlan(enabled=False)
        if terms.amount_due <= 0:
            return CollectionPlan(enabled=True, cadence=terms.autopay_cadence, method_id=terms.autopay_method_id)
        due = first_charge(
            terms.settings, AutopayCadence(terms.autopay_cadence), terms.now, terms.due_date, terms.autopay_enable_time
        )
        return CollectionPlan(True, AutopayStatus.SCHEDULED.value, terms.autopay_cadence, terms.autopay_method_id, due)


def first_charge(
    settings: FirmSettings, cadence: AutopayCadence, now: datetime, due_date: date, enabled_at: datetime | None
) -> datetime:
    """When an invoice that is enrolled at `now` is first charged, in firm time.

    ON_DUE: its due date, at the collection time. MONTHLY and QUARTERLY: the first collection day whose collection time is still to come, the
    days being those of the month that autopay was switched on. IMMEDIATE: now.
    """
    if cadence is AutopayCadence.IMMEDIATE:
        return now
    if cadence is AutopayCadence.ON_DUE:
        return local_instant(due_date, settings.collection_run_time, settings.zone)
    enabled_on = local_date(enabled_at or now, settings.zone)
    day = local_date(now, settings.zone)
    while True:
        day = next_collection_day(enabled_on.day, _MONTHS[cadence], enabled_on, day)
        due = local_instant(day, settings.collection_run_time, settings.zone)
        if due > now:
            return due
        day += timedelta(days=1)
