"""Telling in time that the approved work of an engagement comes near what it may cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from uuid import UUID

from dunwell_server.billing import hourly, retainers
from dunwell_server.billing.hourly import BillableTime, TimeUsage
from dunwell_server.billing.model import Engagement, HourlyTerms
from dunwell_server.billing.service.journal import engagement_change
from dunwell_server.billing.service.switches import in_force
from dunwell_server.billing.store import engagements as engagement_store
from dunwell_server.billing.store import time_billing as store
from dunwell_server.platform import journal
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Severity

Alert = tuple[UUID, str, date, int, int, int]
"""Engagement, scope (PERIOD or TOTAL), first day of what the cap is for, percent reached, amount and cap in minor units."""


async def alert(uow: UnitOfWork, engagement_ids: Sequence[UUID]) -> None:
    """Write `engagement.cap_reached` for each cap of the (locked) engagements of which what is billed and approved has
    reached 80 or 100 percent: once per engagement, period, percent and value of the cap. Nothing where none has a cap."""
    capped = await store.capped(uow, engagement_ids) if engagement_ids else []
    if not capped:
        return
    engagements = await engagement_store.get_many(uow, capped)
    entries = await store.billable(uow, dict.fromkeys(capped), lock=False)
    terms = await store.terms(uow, capped)
    reached = [
        one for key in capped for one in alerts(in_force(uow, engagements[key]), *terms[key], entries.get(key, []))
    ]  # fmt: skip
    if not reached:
        return
    new = await store.insert_alerts(uow, reached)
    told = [
        engagement_change(
            engagements[engagement_id],
            "cap_reached",
            {"scope": scope, "period_start_date": start.isoformat(), "percent": percent, "amount_minor": amount, "cap_minor": cap,
             "currency_code": engagements[engagement_id].currency_code},
            Severity.WARNING,
        )
        for engagement_id, scope, start, percent, amount, cap in reached
        if (engagement_id, scope, start, percent, cap) in new
    ]  # fmt: skip
    await journal.record(uow, *told)


def alerts(
    engagement: Engagement, terms: HourlyTerms, usage: TimeUsage, entries: Sequence[BillableTime]
) -> Iterator[Alert]:
    """What of the caps is reached by what was billed and what is approved. Pure."""
    open_terms = replace(terms, period_cap_minor=None, total_cap_minor=None)
    charged = hourly.charge(engagement, open_terms, entries, usage, date.max)
    total = sum(usage.billed.values())
    for period in charged.periods:
        total += period.amount_minor
        amount = period.amount_minor + usage.billed.get(period.start, 0)
        for percent in retainers.reached(amount, terms.period_cap_minor):
            yield engagement.id, "PERIOD", period.start, percent, amount, terms.period_cap_minor or 0
    for percent in retainers.reached(total, terms.total_cap_minor):
        yield engagement.id, "TOTAL", engagement.start_date, percent, total, terms.total_cap_minor or 0
