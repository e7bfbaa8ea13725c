"""A served pair for tests that need nothing special of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.webhooks.fakes import Pair, pair


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[Pair]:
    """A server and a sidecar before it."""
    async with pair(tmp_path) as running:
        yield running
