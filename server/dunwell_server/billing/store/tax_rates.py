"""Tax rates' SQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from dunwell_server.billing.store.rows import (
    Conditions,
    PageRequest,
    TupleRow,
    assignments,
    fetch,
    fetch_first,
    words,
)
from dunwell_server.billing.taxes import TaxBehavior, TaxRate
from dunwell_server.kernel.ids import uuid7
from dunwell_server.platform.database import UnitOfWork

_RATE: Final = 10
_COLUMNS: Final = (
    "t.id, t.name, t.percentage, t.country_code, t.region, t.excluded_regions, t.tax_category, t.behavior, t.valid_from_date, "
    "t.valid_until_date, t.state, t.version, t.create_time, t.update_time"
)
_INSERT: Final = f"""
INSERT INTO tax_rate AS t (firm_id, id, name, percentage, country_code, region, excluded_regions, tax_category, behavior, valid_from_date,
                           valid_until_date, state, create_time, update_time)
VALUES (%(firm_id)s, %(id)s, %(name)s, %(percentage)s, %(country_code)s, %(region)s, %(excluded_regions)s, %(tax_category)s, %(behavior)s,
        %(valid_from_date)s, %(valid_until_date)s, %(state)s, %(now)s, %(now)s)
RETURNING {_COLUMNS}
"""
_GET: Final = f"SELECT {_COLUMNS} FROM tax_rate t WHERE t.firm_id = %(firm_id)s AND t.id = %(id)s"
_LOCK: Final = f"{_GET} FOR NO KEY UPDATE"
_CHANGEABLE: Final = frozenset(words("name valid_until_date state"))


@dataclass(frozen=True, slots=True)
class NewTaxRate:
    """A rate as a caller creates it. `behavior` None: as the firm's settings say."""

    name: str
    percentage: Decimal
    country_code: str
    region: str = ""
    excluded_regions: tuple[str, ...] = ()
    tax_category: str = "standard"
    behavior: TaxBehavior | None = None
    valid_from_date: date | None = None
    valid_until_date: date | None = None
    state: str = "ACTIVE"


@dataclass(frozen=True, slots=True)
class StoredTaxRate:
    """A rate, whether it is in use (ACTIVE or ARCHIVED), and its history. `version` is behind the etag."""

    rate: TaxRate
    state: str
    version: int
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True)
class TaxRateQuery:
    """The filters of a list of rates."""

    country_code: str | None = None
    tax_category: str | None = None
    valid_on: date | None = None
    include_archived: bool = False


def _stored(row: TupleRow) -> StoredTaxRate:
    values = list(row[:_RATE])
    values[5] = tuple(values[5])
    values[7] = None if values[7] is None else TaxBehavior(values[7])
    return StoredTaxRate(TaxRate(*values), *row[_RATE:])


async def insert(uow: UnitOfWork, new: NewTaxRate) -> StoredTaxRate:
    """Add a rate."""
    params = {name: getattr(new, name) for name in NewTaxRate.__slots__}
    params["excluded_regions"] = list(new.excluded_regions)
    params.update(firm_id=uow.firm_id, id=uuid7(), now=uow.now)
    rate = await fetch_first(uow, _stored, _INSERT, params)
    assert rate is not None
    return rate


async def get(uow: UnitOfWork, rate_id: UUID, *, lock: bool = False) -> StoredTaxRate | None:
    """The rate; locked against other changes when asked."""
    return await fetch_first(uow, _stored, _LOCK if lock else _GET, {"firm_id": uow.firm_id, "id": rate_id})


async def update(uow: UnitOfWork, rate_id: UUID, changes: Mapping[str, Any]) -> StoredTaxRate:
    """Change columns of a (locked) rate by name."""
    columns = sorted(changes)
    if not _CHANGEABLE.issuperset(columns):
        raise ValueError(f"not columns that change: {set(columns) - _CHANGEABLE}")
    statement = (
        f"UPDATE tax_rate t SET {assignments(columns)}, version = version + 1, update_time = %(now)s "
        f"WHERE t.firm_id = %(firm_id)s AND t.id = %(id)s RETURNING {_COLUMNS}"
    )
    params = {**changes, "firm_id": uow.firm_id, "id": rate_id, "now": uow.now}
    rate = await fetch_first(uow, _stored, statement, params)
    assert rate is not None
    return rate


async def select(uow: UnitOfWork, query: TaxRateQuery, page: PageRequest) -> list[StoredTaxRate]:
    """One page of rates, newest first."""
    where = Conditions(uow.firm_id, "t")
    where.compare("country_code", query.country_code)
    where.compare("tax_category", query.tax_category)
    if not query.include_archived:
        where.compare("state", "ACTIVE")
    if query.valid_on is not None:
        where.add("daterange(t.valid_from_date, t.valid_until_date) @> %(valid_on)s::date", valid_on=query.valid_on)
    tail = where.page(("create_time", "id"), True, page)
    return await fetch(uow, _stored, f"SELECT {_COLUMNS} FROM tax_rate t {tail}", where.params)
