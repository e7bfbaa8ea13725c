"""Asks providers whose payment it is that a refund or a dispute names."""

from __future__ import annotations

from uuid import UUID

from dunwell_server.payments.jobs.gateways import Gateways
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database
from dunwell_server.providers.tracing import TracedPayment, TracesPayments


class PaymentTracer:
    """Traces payments through the accounts' providers."""

    def __init__(self, gateways: Gateways) -> None:
        self._gateways = gateways

    async def trace(
        self, database: Database, context: CallContext, account_id: UUID, reference: str
    ) -> TracedPayment | None:
        """The payment that an id is of; None where the provider has none, or cannot be asked. Errors: PROVIDER_UNAVAILABLE, …"""
        gateway = await self._gateways.of_account(database, context, account_id)
        if gateway is None or not isinstance(gateway.provider, TracesPayments):
            return None
        async with gateway.turn():
            return await gateway.provider.trace_payment(gateway.account, reference)
