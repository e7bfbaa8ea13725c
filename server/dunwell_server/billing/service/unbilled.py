"""Work in progress: what has been worked and is not billed, by client, engagement and age."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from uuid import UUID

from dunwell_server.billing.service.engagements import today
from dunwell_server.billing.store import unbilled as store
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.billing.store.unbilled import UnbilledQuery
from dunwell_server.kernel.money import check_int64, exact_minor, exponent, round_ratio
from dunwell_server.platform.database import UnitOfWork


@dataclass(frozen=True, slots=True)
class UnbilledSum:
    """Entries taken together: how many, their billable minutes, and their value at the rates that apply, in minor units and
    rounded once. Increments, included hours, caps, discounts and tax are left aside."""

    entries: int = 0
    minutes: int = 0
    amount_minor: int = 0


@dataclass(frozen=True, slots=True)
class EngagementWork:
    """The unbilled work of one engagement. `approved` is by age: 0-30 days, 31-60, 61-90, older."""

    client_id: UUID
    engagement_id: UUID
    currency_code: str
    approved: tuple[UnbilledSum, UnbilledSum, UnbilledSum, UnbilledSum]
    submitted: UnbilledSum
    draft: UnbilledSum
    oldest_work_date: date | None

    @property
    def approved_total(self) -> UnbilledSum:
        """Approved work of all ages."""
        return add(self.approved)


def add(parts: Iterable[UnbilledSum]) -> UnbilledSum:
    """The sum of parts."""
    listed = list(parts)
    return UnbilledSum(
        sum(part.entries for part in listed),
        sum(part.minutes for part in listed),
        check_int64(sum(part.amount_minor for part in listed), "amount"),
    )


async def list_unbilled_work(
    uow: UnitOfWork, query: UnbilledQuery, page: PageRequest
) -> tuple[list[EngagementWork], dict[str, UnbilledSum]]:
    """One page of engagements with unbilled work, by client and engagement; and the approved work of all pages by currency.

    Two statements. Errors: AMOUNT_OUT_OF_RANGE.
    """
    as_of = today(uow) if query.as_of is None else query.as_of
    by_engagement: dict[tuple[UUID, UUID, str], dict[int, UnbilledSum]] = {}
    oldest: dict[UUID, date] = {}
    for client_id, engagement_id, currency, bucket, entries, minutes, value, first in await store.page(
        uow, query, as_of, page
    ):
        buckets = by_engagement.setdefault((client_id, engagement_id, currency), {})
        buckets[bucket] = _sum(entries, minutes, value, currency)
        if bucket < 4:
            oldest[engagement_id] = min(first, oldest.get(engagement_id, first))
    return [_work(key, buckets, oldest) for key, buckets in by_engagement.items()], await _totals(uow, query, as_of)


async def _totals(uow: UnitOfWork, query: UnbilledQuery, as_of: date) -> dict[str, UnbilledSum]:
    parts: dict[str, list[UnbilledSum]] = defaultdict(list)
    for _, currency, _, entries, minutes, value in await store.totals(uow, query, as_of):
        parts[currency].append(_sum(entries, minutes, value, currency))
    return {currency: add(sums) for currency, sums in parts.items()}


def _work(key: tuple[UUID, UUID, str], buckets: dict[int, UnbilledSum], oldest: dict[UUID, date]) -> EngagementWork:
    one, two, three, four, submitted, draft = (buckets.get(number, UnbilledSum()) for number in range(store.BUCKETS))
    return EngagementWork(*key, (one, two, three, four), submitted, draft, oldest.get(key[1]))


def _sum(entries: int, minutes: int, value: Decimal, currency: str) -> UnbilledSum:
    top, bottom = exact_minor(value, Decimal(1), exponent(currency)).as_integer_ratio()
    return UnbilledSum(entries, minutes, check_int64(round_ratio(top, bottom * 60), "amount"))
