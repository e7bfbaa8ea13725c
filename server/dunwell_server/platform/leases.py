"""How long a claim stands without renewal.

Leases follow machine time. A holder renews every third of the lease, so that only a dead or stopped one loses it; its work is back
within a lease and a tick. `DUNWELL_LEASE_SECONDS` shortens it for crash tests, which would otherwise wait more than they kill.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Final

from dunwell_server.kernel.errors import DunwellError
from dunwell_server.platform.logging import get_logger

log = get_logger(__name__)

LEASE_SECONDS: Final = float(os.environ.get("DUNWELL_LEASE_SECONDS", "30"))


@asynccontextmanager
async def renewing(renew: Callable[[], Awaitable[object]]) -> AsyncIterator[None]:
    """Call `renew` every third of a lease while the block runs. Trouble is logged: a lease that could not be renewed is lost in time.

    The renewal is told to end, never cancelled: a cancellation that meets a query just as it ends can be swallowed on its way, and
    then the block would wait for ever for a renewal that goes on.
    """
    ended = asyncio.Event()

    async def keep() -> None:
        while not ended.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), LEASE_SECONDS / 3)
                return
            try:
                await renew()
            except DunwellError as error:
                log.warning("a lease was not renewed", reason=error.reason.value)

    keeper = asyncio.create_task(keep())
    try:
        yield
    finally:
        ended.set()
        await keeper
