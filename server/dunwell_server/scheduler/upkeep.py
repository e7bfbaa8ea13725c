"""Housekeeping that changes no business fact: stored answers whose time is over are forgotten."""

from __future__ import annotations

import structlog

from dunwell_server.kernel.errors import DunwellError
from dunwell_server.platform import idempotency
from dunwell_server.platform.context import system_context
from dunwell_server.platform.database import Database

BATCH = 1000
_log = structlog.get_logger(__name__)


async def purge_answers(database: Database) -> int:
    """Purge every firm's idempotency rows and those of firmless calls, in short transactions; returns how many went."""
    gone = 0
    try:
        async with database.transaction(system_context(None, "job:purge"), write=False) as uow:
            firms = [row["id"] for row in await uow.fetch_all("SELECT id FROM control.firm ORDER BY id")]
        for firm_id in (None, *firms):
            while True:
                async with database.transaction(system_context(firm_id, "job:purge", upkeep=True)) as uow:
                    purged = await idempotency.purge(uow, firmless=firm_id is None, limit=BATCH)
                gone += purged
                if purged < BATCH:
                    break
    except DunwellError as error:
        _log.warning("purge_postponed", reason=error.reason.value)
    return gone
