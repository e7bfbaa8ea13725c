"""A gateway process for each module, and a plain HTTP client per account."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import pytest

from tests.integration.sandbox.account import SandboxAccount
from tests.integration.sandbox.receiver import Receiver
from tests.providers.gateway import GatewayProcess, start_gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    process = start_gateway(tmp_path_factory.mktemp("gateway"))
    yield process
    assert process.stop() == 0


@pytest.fixture
async def account(gateway: GatewayProcess) -> AsyncIterator[SandboxAccount]:
    """A fresh account."""
    client = SandboxAccount(gateway.url, uuid4().hex[:12])
    yield client
    await client.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """An endpoint for webhooks."""
    ready = Receiver()
    yield ready
    ready.close()
