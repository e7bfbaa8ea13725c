"""Waiting for the snapshot horizon: it belongs to the whole cluster, which other suites write to at the same time."""

from __future__ import annotations

import asyncio

from dunwell_server.platform.database import Database
from tests import support


async def past_horizon(db: Database, seconds: float = 30.0) -> None:
    """Return once everything that is committed by now lies below the horizon."""
    async with db.transaction(support.context(None)) as uow:
        mark = await uow.fetch_value("SELECT pg_current_xact_id()::text::bigint")
    for _ in range(int(seconds / 0.02)):
        async with db.transaction(support.context(None), write=False) as uow:
            if await uow.fetch_value("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint") > mark:
                return
        await asyncio.sleep(0.02)
    raise TimeoutError("some transaction of the cluster does not end")
