"""A firm's tax rates, and the calculator that taxes by them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

from psycopg.errors import ExclusionViolation

from dunwell_server.billing.store import tax_rates as store
from dunwell_server.billing.store.rows import PageRequest
from dunwell_server.billing.store.tax_rates import NewTaxRate, StoredTaxRate, TaxRateQuery
from dunwell_server.billing.taxes import Known, LineTaxes, TaxRequest, TaxTable, tax_lines
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.platform import journal
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Category, Change

TAXED_AT_ONCE: Final = 50
"""Invoices taxed before the loop is given to others."""


class TableTaxCalculator:
    """Taxes by the firm's own table of rates."""

    async def calculate(
        self, uow: UnitOfWork, table: TaxTable, requests: Sequence[TaxRequest]
    ) -> Sequence[Sequence[LineTaxes]]:
        """The taxes that the table gives; nothing is read."""
        known: Known = {}
        found = []
        for number, request in enumerate(requests, 1):
            found.append(tax_lines(table, request, known))
            if number % TAXED_AT_ONCE == 0:
                await asyncio.sleep(0)
        return found


async def create_tax_rate(uow: UnitOfWork, new: NewTaxRate) -> StoredTaxRate:
    """Add a rate. Errors: PERIOD_INVALID, ALREADY_EXISTS where an active one of its name, place and category has common days."""
    _check_validity(new.valid_from_date, new.valid_until_date)
    with _one_at_a_time():
        rate = await store.insert(uow, new)
    await journal.record(uow, _change(rate, "created"))
    return rate


async def get_tax_rate(uow: UnitOfWork, rate_id: UUID, *, lock: bool = False) -> StoredTaxRate:
    """The rate; locked against other changes when asked. Errors: RESOURCE_NOT_FOUND."""
    rate = await store.get(uow, rate_id, lock=lock)
    if rate is None:
        raise DunwellError(
            Reason.RESOURCE_NOT_FOUND, "No such tax rate.", resource=("TaxRate", encode(Prefix.TAX_RATE, rate_id))
        )
    return rate


async def update_tax_rate(
    uow: UnitOfWork, rate_id: UUID, changes: Mapping[str, Any], *, expected_version: int | None = None
) -> StoredTaxRate:
    """Change `name`, `valid_until_date` and `state`; the rest of a rate is fixed.

    Errors: RESOURCE_NOT_FOUND, ETAG_MISMATCH, PERIOD_INVALID, ALREADY_EXISTS.
    """
    current = await get_tax_rate(uow, rate_id, lock=True)
    if expected_version is not None and expected_version != current.version:
        raise DunwellError(
            Reason.ETAG_MISMATCH,
            "The tax rate has changed since it was read; read it again and repeat the change.",
            resource=("TaxRate", encode(Prefix.TAX_RATE, rate_id)),
        )
    _check_validity(current.rate.valid_from_date, changes.get("valid_until_date", current.rate.valid_until_date))
    with _one_at_a_time():
        updated = await store.update(uow, rate_id, changes)
    await journal.record(uow, _change(updated, "updated", {"fields": sorted(changes)}))
    return updated


async def list_tax_rates(uow: UnitOfWork, query: TaxRateQuery, page: PageRequest) -> list[StoredTaxRate]:
    """One page of rates, newest first."""
    return await store.select(uow, query, page)


def _change(rate: StoredTaxRate, verb: str, details: Mapping[str, Any] | None = None) -> Change:
    """`tax_rate_created` / `tax_rate.created` and so on."""
    metadata = {
        "tax_rate_id": encode(Prefix.TAX_RATE, rate.rate.id),
        "name": rate.rate.name,
        "percentage": format(rate.rate.percentage, "f"),
        "country_code": rate.rate.country_code,
        "state": rate.state,
        **(details or {}),
    }
    return Change(
        Category.BILLING, f"tax_rate_{verb}", "tax_rate", rate.rate.id, event=f"tax_rate.{verb}", metadata=metadata
    )


def _check_validity(start: Any, end: Any) -> None:
    if start is not None and end is not None and end <= start:
        raise DunwellError(Reason.PERIOD_INVALID, "a rate must end after it begins", field="tax_rate.valid_until_date")


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """ALREADY_EXISTS for the database's refusal of the same tax twice."""
    try:
        yield
    except ExclusionViolation as error:
        raise DunwellError(
            Reason.ALREADY_EXISTS,
            "An active rate of this name, place and category is valid on some of these days.",
            field="tax_rate.name",
        ) from error
