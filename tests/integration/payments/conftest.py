"""The gateway process and the worlds of the payments suite."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dunwell_server.platform.database import Database
from dunwell_server.platform.invariants import run_for_firm
from dunwell_server.platform.sealer import AuditSealer
from tests import support
from tests.integration.payments.world import Workers, World, new_bus
from tests.providers.gateway import GatewayProcess, start_gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """The sandbox gateway as a real process, with a book of its own."""
    folder: Path = tmp_path_factory.mktemp("gateway")
    process = start_gateway(folder)
    yield process
    process.stop()


@pytest.fixture(scope="module")
async def db(database_urls: support.DatabaseUrls) -> AsyncIterator[Database]:
    """The module's database, wired for billing and payments."""
    database = await Database.open(database_urls.application, bus=new_bus(), max_size=12)
    yield database
    await database.close()


@pytest.fixture(scope="module")
async def workers(gateway: GatewayProcess) -> AsyncIterator[Workers]:
    """Workers that wait a second for the gateway."""
    made = Workers.at(gateway.url)
    yield made
    await made.provider.close()


@pytest.fixture
async def make_world(
    request: pytest.FixtureRequest, db: Database, gateway: GatewayProcess, workers: Workers
) -> AsyncIterator[Callable[..., Awaitable[World]]]:
    """Add a firm with the given settings. Afterwards everything that must hold is checked, unless the module tampers with rows."""
    made: list[World] = []

    async def make(**settings: Any) -> World:
        made.append(await World.create(db, gateway, workers, **settings))
        return made[-1]

    yield make
    if getattr(request.module, "TAMPERS", False):
        return
    sealer = AuditSealer(db)  # On a busy machine a test may take longer than an entry may wait for its seal.
    while await sealer.tick():
        pass
    for world in made:
        async with db.transaction(world.context, write=False) as uow:
            broken = [check for check in await run_for_firm(uow) if not check.ok]
        assert not broken, broken


@pytest.fixture
async def world(make_world: Callable[..., Awaitable[World]]) -> World:
    """A firm in UTC with the default policy."""
    return await make_world()
