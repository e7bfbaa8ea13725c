"""PostgreSQL crashes in the middle of a firm's months: workers go on by themselves, and the books are right."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path

import pytest

from dunwell_server.platform import migrate
from dunwell_server.platform.embedded import EmbeddedPostgres
from tests import support
from tests.faults.storm import Storm
from tests.faults.test_storm import prepare
from tests.providers.gateway import start_gateway

RESTARTS = int(os.environ.get("DUNWELL_STORM_RESTARTS", "6"))


@pytest.mark.timeout(600)
def test_crashes_of_the_database_lose_nothing(tmp_path: Path) -> None:
    gateway = start_gateway(tmp_path)
    server = EmbeddedPostgres(Path(tempfile.mkdtemp(prefix="dunwell-restart-")))
    try:
        owner = server.start()
        urls = migrate.derived_urls(owner, support.SECRET)
        migrate.migrate(owner, urls)
        storm = Storm(support.DatabaseUrls(owner, urls.application, urls.auditor), gateway, 1, tmp_path / "kills.log")
        run_ids = asyncio.run(prepare(storm))
        for _ in range(RESTARTS):
            while len(storm.children) < 2:
                storm.spawn(deadly=False)
            time.sleep(1.5)
            server.stop("immediate")
            server.start()
        assert storm.reap() == 0, "a worker must outlive its database"
        storm.calm(run_ids)
        problems = asyncio.run(storm.problems())
        assert not problems, problems
    finally:
        gateway.stop()
        server.destroy()
