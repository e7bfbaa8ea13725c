"""The command on the module's database, and firms with something to bill."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from dunwell_server.billing.model import BillingInterval, PricingMode
from dunwell_server.billing.service.clients import NewClient, create_client
from dunwell_server.billing.service.engagements import NewEngagement, create_engagement
from dunwell_server.bootstrap import wire
from dunwell_server.config import Settings
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from tests import support
from tests.integration.cli.command import Command

NOON = datetime(2027, 3, 10, 12, tzinfo=UTC)
MakeFirm = Callable[..., Awaitable[CallContext]]


@pytest.fixture(scope="module")
async def db(database_urls: support.DatabaseUrls) -> AsyncIterator[Database]:
    """The module's database, wired as in production."""
    database = await Database.open(database_urls.application, bus=wire(Settings()), max_size=4)
    yield database
    await database.close()


@pytest.fixture
def dunwell(database_urls: support.DatabaseUrls, tmp_path: Path) -> Command:
    """The command on the module's database."""
    return Command(database_urls, tmp_path)


@pytest.fixture
def make_billable(db: Database) -> MakeFirm:
    """A firm at `NOON` on a test clock with so many monthly packages of 1,000.00 since January, each with a client of its own."""

    async def make(clients: int = 3) -> CallContext:
        context = await support.add_firm(db, clock=NOON)

        async def fill(uow: UnitOfWork) -> None:
            for number in range(clients):
                client = await create_client(uow, NewClient(name=f"Client {number}"))
                new = NewEngagement(
                    client_id=client.id, name="Bookkeeping", pricing_mode=PricingMode.PACKAGE, start_date=date(2027, 1, 1),
                    fee_minor=100_000, fee_currency="USD", billing_interval=BillingInterval.MONTHLY,
                )  # fmt: skip
                await create_engagement(uow, new)

        await db.run(context, fill)
        return context

    return make


def public_id(context: CallContext) -> str:
    """The firm's id as commands take it."""
    assert context.firm_id is not None
    return encode(Prefix.FIRM, context.firm_id)
