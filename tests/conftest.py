"""Fixtures for every suite: one embedded cluster per session, one fresh migrated database per module."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database
from dunwell_server.platform.embedded import EmbeddedPostgres
from tests import support

_cluster: EmbeddedPostgres | None = None


def pytest_configure(config: pytest.Config) -> None:
    """Start the cluster in the controlling process; its workers inherit the URL."""
    global _cluster
    if hasattr(config, "workerinput") or support.CLUSTER_URL in os.environ or config.option.collectonly:
        return
    _cluster = EmbeddedPostgres(support.cluster_folder(), durable=False)
    os.environ[support.CLUSTER_URL] = _cluster.start()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the cluster that this session started; one that ran before is somebody else's."""
    if _cluster is not None and _cluster.started_here:
        _cluster.stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with a slow test come first: what is handed out last should not keep one worker busy while the others are done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def cluster_url() -> str:
    """The owner's URL of the session's cluster."""
    return os.environ[support.CLUSTER_URL]


@pytest.fixture(scope="module")
def database_urls(cluster_url: str) -> Iterator[support.DatabaseUrls]:
    """A fresh migrated database for this module."""
    with support.fresh_database(cluster_url) as urls:
        yield urls


@pytest.fixture(scope="module")
async def db(database_urls: support.DatabaseUrls) -> AsyncIterator[Database]:
    """The module's database as the application's role reaches it, wired as in production."""
    database = await Database.open(database_urls.application, max_size=12)
    yield database
    await database.close()


@pytest.fixture
def make_firm(db: Database) -> Callable[..., Awaitable[CallContext]]:
    """Add a firm: `await make_firm(clock=…, **settings)` returns its context."""

    async def make(**settings: Any) -> CallContext:
        return await support.add_firm(db, **settings)

    return make
