"""The package run's claims: which engagements are due, locked with their clients, page after page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

from psycopg.rows import args_row

from dunwell_server.billing.model import proration_from_json
from dunwell_server.kernel.calendar import Period
from dunwell_server.kernel.proration import ProrationPolicy
from dunwell_server.platform.database import UnitOfWork

Position = tuple[date, UUID]
"""Where an engagement stands in a run: its next bill date and its id."""
FIRST: Final[Position] = (date.min, UUID(int=0))
"""Before every engagement."""


class DueEngagement(NamedTuple):
    """An engagement with something to bill, and what its invoice takes from its client. Fields as `_COLUMNS`."""

    id: UUID
    client_id: UUID
    pricing_mode: str
    currency_code: str
    start_date: date
    end_date: date | None
    fee_minor: int
    billing_interval: str
    anchor: str
    anchor_day: int | None
    timing: str
    partial_periods: str
    proration_text: str
    line_description: str
    payment_terms_days: int | None
    billed_through_date: date
    next_bill_date: date
    void_count: int
    client_state: str
    client_currency_code: str
    autopay_enabled: bool
    autopay_cadence: str
    autopay_method_id: UUID | None
    autopay_enable_time: datetime | None
    client_tax_status: str
    client_country_code: str | None
    client_region: str | None
    client_tax_id: str | None

    @property
    def proration(self) -> ProrationPolicy:
        """The policy for its partial periods; parsed only where there is one."""
        return proration_from_json(json.loads(self.proration_text))

    @property
    def position(self) -> Position:
        """Where it stands in the run."""
        return self.next_bill_date, self.id


@dataclass(frozen=True, slots=True)
class Scope:
    """Which engagements a run is about: those due by `as_of`, of one client or one engagement where given."""

    run_id: UUID
    as_of: date
    client_id: UUID | None = None
    engagement_id: UUID | None = None

    def params(self, uow: UnitOfWork, **more: Any) -> dict[str, Any]:
        """The parameters of a statement over the scope."""
        return {
            "firm_id": uow.firm_id,
            "run_id": self.run_id,
            "as_of": self.as_of,
            "client_id": self.client_id,
            "engagement_id": self.engagement_id,
            **more,
        }

    def filter(self) -> str:
        """The condition on the engagement `e` that narrows the run."""
        if self.engagement_id is not None:
            return "AND e.id = %(engagement_id)s"
        return "" if self.client_id is None else "AND e.client_id = %(client_id)s"


# A chunk touches a few thousand rows of tables that may grow a hundredfold during the run. So its statements are planned
# anew each time (`prepare=False`: a kept plan would be that of small tables), and by index, in the index's order. For any values: of a firm
# that came after the last ANALYZE the statistics say that it has no rows, and any index led by firm_id would do for a look-up by id.
READ_BY_INDEX: Final = """
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true),
       set_config('enable_sort', 'off', true), set_config('plan_cache_mode', 'force_generic_plan', true)
"""
_COLUMNS: Final = """
e.id, e.client_id, e.pricing_mode, e.currency_code, e.start_date, e.end_date, e.fee_minor, e.billing_interval, e.anchor,
e.anchor_day, e.timing, e.partial_periods, e.proration::text, e.line_description,
coalesce(e.payment_terms_days, c.payment_terms_days), e.billed_through_date, e.next_bill_date, e.void_count, c.state,
c.currency_code, c.autopay_enabled, c.autopay_cadence, c.autopay_method_id, c.autopay_enable_time, c.tax_status,
c.address ->> 'country_code', c.address ->> 'region', c.tax_id
"""
_DUE: Final = "e.firm_id = %(firm_id)s AND e.next_bill_date <= %(as_of)s"
# OFFSET 0 keeps this a look-up per row: as a join, it would read all items of the run for every chunk. So does hiding
# run_id from the index of the items' order.
_NOT_DONE: Final = """
NOT EXISTS (SELECT 1 FROM run_item i WHERE i.firm_id = e.firm_id AND i.subject_id = e.id
            AND i.run_id IS NOT DISTINCT FROM %(run_id)s OFFSET 0)
"""
_BEHIND: Final = "(e.next_bill_date, e.id) > (%(after_date)s, %(after_id)s)"
_ORDER: Final = "ORDER BY e.next_bill_date, e.id"
_NAMED: Final = f"""
WITH due AS MATERIALIZED (
    SELECT e.* FROM unnest(%(ids)s::uuid[]) AS named (id) JOIN engagement e ON e.firm_id = %(firm_id)s AND e.id = named.id
    WHERE {_DUE} AND {_NOT_DONE} FOR NO KEY UPDATE OF e SKIP LOCKED
)
SELECT {_COLUMNS} FROM due e JOIN client c ON c.firm_id = %(firm_id)s AND c.id = e.client_id {_ORDER}
FOR NO KEY UPDATE OF c SKIP LOCKED
"""
_COVERED: Final = """
SELECT e.id, lower(v.period), upper(v.period)
FROM unnest(%(ids)s::uuid[]) AS named (id)
JOIN engagement e ON e.firm_id = %(firm_id)s AND e.id = named.id
JOIN coverage v ON v.firm_id = %(firm_id)s AND v.engagement_id = e.id AND v.component = 'PACKAGE'
    AND v.release_time IS NULL AND v.period && daterange(e.billed_through_date, NULL)
"""
_RESCHEDULE: Final = """
UPDATE engagement e SET billed_through_date = d.billed_through, next_bill_date = d.next_bill, version = e.version + 1,
    update_time = %(now)s
FROM unnest(%(ids)s::uuid[], %(billed_throughs)s::date[], %(next_bills)s::date[]) AS d (id, billed_through, next_bill)
WHERE e.firm_id = %(firm_id)s AND e.id = d.id
"""


async def read_by_index(uow: UnitOfWork) -> None:
    """Have this transaction's statements planned for a chunk of rows out of tables of any size."""
    await uow.execute(READ_BY_INDEX)


async def run_state(uow: UnitOfWork, run_id: UUID, *, lock: bool) -> str | None:
    """Where the run stands now; locked against other workers' progress when asked."""
    statement = "SELECT state FROM run WHERE firm_id = %(firm_id)s AND id = %(id)s"
    params = {"firm_id": uow.firm_id, "id": run_id}
    state: str | None = await uow.fetch_value(f"{statement} FOR NO KEY UPDATE" if lock else statement, params)
    return state


async def count_due(uow: UnitOfWork, scope: Scope) -> int:
    """How many engagements the run is about."""
    count: int = await uow.fetch_value(
        f"SELECT count(*) FROM engagement e WHERE {_DUE} {scope.filter()}", scope.params(uow)
    )
    return count


async def is_any_left(uow: UnitOfWork, scope: Scope) -> bool:
    """Whether there is an engagement, locked or not, that the run has not dealt with."""
    left: bool = await uow.fetch_value(
        f"SELECT EXISTS (SELECT 1 FROM engagement e WHERE {_DUE} AND {_NOT_DONE} {scope.filter()})", scope.params(uow)
    )
    return left


async def claim(uow: UnitOfWork, scope: Scope, after: Position, limit: int) -> list[DueEngagement]:
    """Lock the next due engagements behind `after`, with their clients; those that others hold are passed over."""
    return await _fetch_due(uow, claim_statement(scope), _page_params(uow, scope, after, limit))


async def page(uow: UnitOfWork, scope: Scope, after: Position, limit: int) -> list[DueEngagement]:
    """The same engagements as `claim`, without locks: for dry runs."""
    return await _fetch_due(uow, _page(scope, "", ""), _page_params(uow, scope, after, limit))


def claim_statement(scope: Scope) -> str:
    """The statement of `claim`."""
    return _page(scope, "FOR NO KEY UPDATE OF e SKIP LOCKED", "FOR NO KEY UPDATE OF c SKIP LOCKED")


def _page(scope: Scope, lock_engagement: str, lock_client: str) -> str:
    return f"""
WITH due AS MATERIALIZED (
    SELECT e.* FROM engagement e WHERE {_DUE} AND {_BEHIND} AND {_NOT_DONE} {scope.filter()}
    {_ORDER} LIMIT %(limit)s {lock_engagement}
)
SELECT {_COLUMNS} FROM due e JOIN client c ON c.firm_id = %(firm_id)s AND c.id = e.client_id {_ORDER} {lock_client}
"""


def _page_params(uow: UnitOfWork, scope: Scope, after: Position, limit: int) -> dict[str, Any]:
    return scope.params(uow, after_date=after[0], after_id=after[1], limit=limit)


async def claim_named(uow: UnitOfWork, scope: Scope, ids: Sequence[UUID]) -> list[DueEngagement]:
    """Lock those of the named engagements that are still to be dealt with and that nobody else holds."""
    return await _fetch_due(uow, _NAMED, scope.params(uow, ids=list(ids)))


async def _fetch_due(uow: UnitOfWork, statement: str, params: Mapping[str, Any]) -> list[DueEngagement]:
    async with uow.conn.cursor(row_factory=args_row(DueEngagement)) as cursor:
        await cursor.execute(statement, params, prepare=False)
        return await cursor.fetchall()


async def covered(uow: UnitOfWork, due: Sequence[DueEngagement]) -> dict[UUID, list[Period]]:
    """The live coverage beyond `billed_through_date`, by engagement: only a voided invoice leaves any."""
    ids = [engagement.id for engagement in due if engagement.void_count]
    result: dict[UUID, list[Period]] = {}
    if ids:
        cursor = await uow.conn.execute(_COVERED, {"firm_id": uow.firm_id, "ids": ids}, prepare=False)
        for engagement_id, start, end in await cursor.fetchall():
            result.setdefault(engagement_id, []).append((start, end))
    return result


async def reschedule(uow: UnitOfWork, changes: Mapping[UUID, tuple[date, date | None]]) -> None:
    """Set (billed_through_date, next_bill_date) of locked engagements that had nothing to bill after all."""
    if changes:
        params = {
            "firm_id": uow.firm_id, "now": uow.now, "ids": list(changes),
            "billed_throughs": [change[0] for change in changes.values()], "next_bills": [change[1] for change in changes.values()],
        }  # fmt: skip
        await uow.execute(_RESCHEDULE, params)
