"""Reads disputes from the provider that has them."""

from __future__ import annotations

from uuid import UUID

from dunwell_server.payments.jobs.gateways import Gateways
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database
from dunwell_server.providers.abilities import Disputes, ProviderDispute


class DisputeDesk:
    """What other contexts may ask providers about disputes."""

    def __init__(self, gateways: Gateways) -> None:
        self._gateways = gateways

    async def read_dispute(
        self, database: Database, context: CallContext, account_id: UUID, reference: str
    ) -> ProviderDispute | None:
        """Its present state; None where the account is gone or its provider has no disputes. Errors: PROVIDER_UNAVAILABLE, STATE_CONFLICT."""
        gateway = await self._gateways.of_account(database, context, account_id)
        if gateway is None:
            return None
        provider = gateway.provider
        if not provider.capabilities.disputes or not isinstance(provider, Disputes):
            return None
        async with gateway.turn():
            return await provider.get_dispute(gateway.account, reference)
