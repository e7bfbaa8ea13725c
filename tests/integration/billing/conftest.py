"""Billing on a real database, with the planner of production and a recorder in place of the contexts above."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from dunwell_server.billing import events
from dunwell_server.billing.ports import CollectionPlanner, PaymentOptions, TaxCalculator
from dunwell_server.billing.service.tax_rates import TableTaxCalculator
from dunwell_server.payments.planning import Planner
from dunwell_server.payments.service.documents import DocumentPayments
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database
from dunwell_server.platform.domain_events import Bus
from tests import support
from tests.integration.billing.book import Book, Recorder

MakeBook = Callable[..., Awaitable[Book]]
NOON = datetime(2026, 3, 10, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
async def db(database_urls: support.DatabaseUrls) -> AsyncIterator[Database]:
    """The module's database, with billing's port filled and its events recorded."""
    bus, recorder = Bus(), Recorder()
    bus.provide(CollectionPlanner, Planner())  # type: ignore[type-abstract]
    bus.provide(PaymentOptions, DocumentPayments())  # type: ignore[type-abstract]
    bus.provide(TaxCalculator, TableTaxCalculator())  # type: ignore[type-abstract]
    bus.provide(Recorder, recorder)
    for event in (
        events.InvoicesFinalized,
        events.AmountDueChanged,
        events.InvoicesClosing,
        events.InvoicesClosed,
    ):
        bus.subscribe(event, recorder.record)
    database = await Database.open(database_urls.application, bus=bus, max_size=24)
    yield database
    await database.close()


@pytest.fixture
def make_book(db: Database) -> MakeBook:
    """A firm at `NOON` on a test clock (or at `clock`), with the means to fill and read its book."""

    async def make(clock: datetime = NOON, **settings: Any) -> Book:
        context: CallContext = await support.add_firm(db, clock=clock, **settings)
        recorder = db.bus.port(Recorder)
        recorder.reset()
        return Book(db, context, recorder)

    return make


@pytest.fixture
async def book(make_book: MakeBook) -> Book:
    """A firm in UTC and USD at `NOON`."""
    return await make_book()
