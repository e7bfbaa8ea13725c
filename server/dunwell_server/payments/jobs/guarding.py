"""The charge that trips a breaker is refused, and the trip is kept nevertheless."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from dunwell_server.payments.service.breakers import BreakerTrips, trip_where_due
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database


@asynccontextmanager
async def tripping(database: Database, context: CallContext) -> AsyncIterator[None]:
    """Around a transaction that asks `breakers.require_closed`: where it is refused for tripping a breaker, trip it in one of its own."""
    try:
        yield
    except BreakerTrips as refusal:
        async with database.transaction(replace(context, deadline=None)) as uow:
            await trip_where_due(uow, [refusal.asked])
        raise
