"""A served floor for tests that need nothing special of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.rpc.floor.fakes import Served, serve


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """A server with fake servicers."""
    async with serve(tmp_path) as running:
        yield running
