"""Engagements' SQL, and that of the coverage that their invoices hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from psycopg.types.json import Jsonb

from dunwell_server.billing.model import (
    AutoRenew,
    BillingAnchor,
    BillingInterval,
    BillingTiming,
    Engagement,
    EngagementState,
    HourlyTerms,
    PartialPeriods,
    PricingMode,
    RoleRate,
    TimeGrouping,
    TimeRounding,
    proration_from_json,
    proration_to_json,
)
from dunwell_server.billing.store.rows import (
    Conditions,
    PageRequest,
    TimeRange,
    TupleRow,
    assignments,
    fetch,
    fetch_first,
    words,
)
from dunwell_server.kernel.calendar import Period
from dunwell_server.platform.database import UnitOfWork

HOURLY_TERMS: Final = (
    "CASE WHEN e.default_rate IS NOT NULL THEN json_build_array(e.default_rate::text, e.billing_increment_minutes, e.time_rounding, "
    "e.time_grouping, e.included_minutes, e.rollover_periods, e.period_cap_minor, e.total_cap_minor, "
    "(SELECT json_agg(json_build_array(r.role, r.rate::text, lower(r.period), upper(r.period)) ORDER BY r.rate_no) FROM engagement_rate r "
    "WHERE r.firm_id = e.firm_id AND r.engagement_id = e.id)) END"
)
"""The hourly terms of engagement `e`, as `hourly_from_json` reads them."""
COLUMNS: Final = (
    "e.id, e.external_id, e.client_id, e.name, e.description, e.pricing_mode, e.currency_code, e.start_date, e.end_date, "
    "e.state, e.fee_minor, e.billing_interval, e.anchor, e.timing, e.partial_periods, e.proration, e.line_description, "
    "e.payment_terms_days, e.billed_through_date, e.next_bill_date, e.void_count, e.metadata, "
    "e.version, e.create_time, e.update_time, "
    "e.anchor_day, (SELECT p.id FROM engagement p WHERE p.firm_id = e.firm_id AND p.renewed_to_id = e.id), e.renewed_to_id, "
    "CASE WHEN e.auto_renew_days IS NOT NULL THEN ARRAY[e.auto_renew_days, e.auto_renew_months, e.auto_renew_uplift] END, "
    f"e.renewal_notice_time, {HOURLY_TERMS}"
)
_INSERTED: Final = words(
    "id external_id client_id name description pricing_mode currency_code start_date end_date state fee_minor "
    "billing_interval anchor timing partial_periods proration line_description payment_terms_days billed_through_date "
    "next_bill_date void_count metadata create_time update_time anchor_day renewed_to_id renewal_notice_time "
    "auto_renew_days auto_renew_months auto_renew_uplift default_rate billing_increment_minutes time_rounding time_grouping "
    "included_minutes rollover_periods period_cap_minor total_cap_minor"
)
_CHANGEABLE: Final = frozenset(
    words(
        "external_id name description end_date state fee_minor partial_periods proration line_description "
        "payment_terms_days billed_through_date next_bill_date void_count metadata renewed_to_id auto_renew hourly"
    )
)

_INSERT = f"""
INSERT INTO engagement (firm_id, {", ".join(_INSERTED)})
VALUES (%(firm_id)s, {", ".join(f"%({name})s" for name in _INSERTED)})
"""
_GET = f"SELECT {COLUMNS} FROM engagement e WHERE e.firm_id = %(firm_id)s AND e.id = %(id)s"
_GET_MANY = f"""
SELECT {COLUMNS} FROM engagement e WHERE e.firm_id = %(firm_id)s AND e.id = ANY(%(ids)s) ORDER BY e.id
"""
_COVERED = """
SELECT lower(period), upper(period) FROM coverage
WHERE firm_id = %(firm_id)s AND engagement_id = %(id)s AND component = 'PACKAGE' AND release_time IS NULL
  AND period && daterange(%(from_date)s, NULL)
ORDER BY period
"""
_RELEASE = """
UPDATE coverage SET release_time = %(now)s
WHERE firm_id = %(firm_id)s AND invoice_id = %(invoice_id)s AND release_time IS NULL
RETURNING engagement_id, lower(period)
"""
_DELETE_RATES = "DELETE FROM engagement_rate WHERE firm_id = %(firm_id)s AND engagement_id = %(id)s"
_INSERT_RATES = """
INSERT INTO engagement_rate (firm_id, engagement_id, rate_no, role, rate, period)
SELECT %(firm_id)s, %(id)s, r.rate_no, r.role, r.rate, daterange(r.first, r.past)
FROM unnest(%(roles)s::text[], %(rates)s::numeric[], %(starts)s::date[], %(ends)s::date[]) WITH ORDINALITY
    AS r (role, rate, first, past, rate_no)
"""
_HOURLY: Final = {
    "default_rate": "default_rate",
    "billing_increment_minutes": "increment_minutes",
    "time_rounding": "rounding",
    "time_grouping": "grouping",
    "included_minutes": "included_minutes",
    "rollover_periods": "rollover_periods",
    "period_cap_minor": "period_cap_minor",
    "total_cap_minor": "total_cap_minor",
}
"""The columns of the hourly terms, and their names there."""
# The engagements that invoice `id` covers periods of, or bills time of.
LOCK_COVERED_BY: Final = """
SELECT id FROM engagement
WHERE firm_id = %(firm_id)s
  AND id IN (SELECT engagement_id FROM coverage WHERE firm_id = %(firm_id)s AND invoice_id = %(id)s
             UNION ALL SELECT engagement_id FROM invoice_time_period WHERE firm_id = %(firm_id)s AND invoice_id = %(id)s)
ORDER BY id FOR NO KEY UPDATE
"""
# Rows locked by somebody who changes them are left to the next call; ending is not urgent.
_END_DUE = f"""
WITH due AS MATERIALIZED (
    SELECT id FROM engagement
    WHERE firm_id = %(firm_id)s AND state = 'ACTIVE' AND end_date <= %(today)s
    ORDER BY id LIMIT %(limit)s FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE engagement e SET state = 'ENDED', version = version + 1, update_time = %(now)s
FROM due WHERE e.firm_id = %(firm_id)s AND e.id = due.id
RETURNING {COLUMNS}
"""


_MAKERS: Final[tuple[tuple[int, Callable[[Any], Any]], ...]] = (
    (5, PricingMode),
    (9, EngagementState),
    (11, BillingInterval),
    (12, BillingAnchor),
    (13, BillingTiming),
    (14, PartialPeriods),
    (15, proration_from_json),
    (28, lambda terms: None if terms is None else _auto_renew(*terms)),
    (30, lambda terms: None if terms is None else hourly_from_json(terms)),
)
"""The columns that are more than their raw value, by position."""


@dataclass(frozen=True, slots=True)
class EngagementQuery:
    """The filters of a list of engagements, and its order: newest or oldest first."""

    client_id: UUID | None = None
    external_id: str | None = None
    states: Sequence[str] = ()
    pricing_modes: Sequence[str] = ()
    next_bill_date_until: date | None = None
    create_time: TimeRange = field(default_factory=TimeRange)
    descending: bool = True


def engagement_of(row: TupleRow) -> Engagement:
    """An engagement from a row of `COLUMNS`."""
    values = list(row)
    for position, make in _MAKERS:
        values[position] = make(values[position])
    return Engagement(*values)


async def insert(uow: UnitOfWork, engagement: Engagement) -> None:
    """Add an engagement; its version is 1."""
    values = {name: getattr(engagement, name) for name in _INSERTED if hasattr(engagement, name)}
    values.update(auto_renew=engagement.auto_renew, hourly=engagement.hourly)
    await uow.execute(_INSERT, {**_adapted(values), "firm_id": uow.firm_id})
    if engagement.hourly is not None and engagement.hourly.role_rates:
        await _insert_rates(uow, engagement.id, engagement.hourly.role_rates)


async def get(uow: UnitOfWork, engagement_id: UUID, *, lock: bool = False) -> Engagement | None:
    """The engagement; locked against other changes and the billing run when asked."""
    statement = f"{_GET} FOR NO KEY UPDATE" if lock else _GET
    return await fetch_first(uow, engagement_of, statement, {"firm_id": uow.firm_id, "id": engagement_id})


async def get_many(uow: UnitOfWork, engagement_ids: Sequence[UUID]) -> dict[UUID, Engagement]:
    """Those of the engagements that exist, by id."""
    rows = await fetch(uow, engagement_of, _GET_MANY, {"firm_id": uow.firm_id, "ids": list(engagement_ids)})
    return {engagement.id: engagement for engagement in rows}


async def update(uow: UnitOfWork, engagement_id: UUID, changes: Mapping[str, Any]) -> Engagement | None:
    """Change columns by name; None where there is no such engagement."""
    if not _CHANGEABLE.issuperset(changes):
        raise ValueError(f"not columns that change: {set(changes) - _CHANGEABLE}")
    hourly: HourlyTerms | None = changes.get("hourly")
    if hourly is not None:
        # Before the update, which answers with the rates as they are then.
        await uow.execute(_DELETE_RATES, {"firm_id": uow.firm_id, "id": engagement_id})
        await _insert_rates(uow, engagement_id, hourly.role_rates)
    adapted = _adapted(changes)
    columns = sorted(adapted)
    statement = (
        f"UPDATE engagement e SET {assignments(columns)}, version = version + 1, update_time = %(now)s "
        f"WHERE e.firm_id = %(firm_id)s AND e.id = %(id)s RETURNING {COLUMNS}"
    )
    params = {**adapted, "firm_id": uow.firm_id, "id": engagement_id, "now": uow.now}
    return await fetch_first(uow, engagement_of, statement, params)


async def end_due(uow: UnitOfWork, today: date, limit: int) -> list[Engagement]:
    """Mark as ENDED those whose end date has come."""
    params = {"firm_id": uow.firm_id, "today": today, "now": uow.now, "limit": limit}
    return await fetch(uow, engagement_of, _END_DUE, params)


async def covered(uow: UnitOfWork, engagement_id: UUID, from_date: date) -> list[Period]:
    """The live coverage that reaches beyond `from_date`, in order."""
    params = {"firm_id": uow.firm_id, "id": engagement_id, "from_date": from_date}
    return await fetch(uow, lambda row: (row[0], row[1]), _COVERED, params)


async def release(uow: UnitOfWork, invoice_id: UUID) -> dict[UUID, date]:
    """Release what an invoice covers; the earliest day released, by engagement."""
    earliest: dict[UUID, date] = {}
    params = {"firm_id": uow.firm_id, "invoice_id": invoice_id, "now": uow.now}
    for engagement_id, start in await fetch(uow, lambda row: (row[0], row[1]), _RELEASE, params):
        earliest[engagement_id] = min(start, earliest.get(engagement_id, start))
    return earliest


async def select(uow: UnitOfWork, query: EngagementQuery, page: PageRequest) -> list[Engagement]:
    """One page of engagements."""
    where = Conditions(uow.firm_id, "e")
    where.compare("client_id", query.client_id)
    where.compare("external_id", query.external_id)
    where.any_of("state", query.states)
    where.any_of("pricing_mode", query.pricing_modes)
    where.compare("next_bill_date", query.next_bill_date_until, "<=")
    where.within("create_time", query.create_time.start, query.create_time.end)
    tail = where.page(("create_time", "id"), query.descending, page)
    return await fetch(uow, engagement_of, f"SELECT {COLUMNS} FROM engagement e {tail}", where.params)


def _adapted(values: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(values)
    if "proration" in result:
        result["proration"] = Jsonb(proration_to_json(result["proration"]))
    if "metadata" in result:
        result["metadata"] = Jsonb(result["metadata"])
    if "auto_renew" in result:
        terms: AutoRenew | None = result.pop("auto_renew")
        result["auto_renew_days"] = None if terms is None else terms.days_ahead
        result["auto_renew_months"] = None if terms is None else terms.months
        result["auto_renew_uplift"] = None if terms is None else terms.uplift_percent
    if "hourly" in result:
        hourly: HourlyTerms | None = result.pop("hourly")
        result.update({column: None if hourly is None else getattr(hourly, name) for column, name in _HOURLY.items()})
    return result


def _auto_renew(days_ahead: Decimal, months: Decimal | None, uplift_percent: Decimal) -> AutoRenew:
    return AutoRenew(int(days_ahead), None if months is None else int(months), uplift_percent)


async def _insert_rates(uow: UnitOfWork, engagement_id: UUID, rates: Sequence[RoleRate]) -> None:
    params = {
        "firm_id": uow.firm_id, "id": engagement_id, "roles": [rate.role for rate in rates],
        "rates": [rate.rate for rate in rates], "starts": [rate.start for rate in rates], "ends": [rate.end for rate in rates],
    }  # fmt: skip
    await uow.execute(_INSERT_RATES, params)


def hourly_from_json(terms: Sequence[Any]) -> HourlyTerms:
    """The hourly terms from the JSON of `HOURLY_TERMS`."""
    rate, increment, rounding, grouping, included, rollover, period_cap, total_cap, rates = terms
    return HourlyTerms(
        Decimal(rate),
        tuple(RoleRate(role, Decimal(price), _day(start), _day(end)) for role, price, start, end in rates or ()),
        increment,
        TimeRounding(rounding),
        TimeGrouping(grouping),
        included,
        rollover,
        period_cap,
        total_cap,
    )


def _day(text: str | None) -> date | None:
    return None if text is None else date.fromisoformat(text)
