"""SyncInvoice: asks the providers for everything that is open about one invoice, now."""

from __future__ import annotations

from uuid import UUID

from dunwell_server.payments.jobs.charging import Charger
from dunwell_server.payments.jobs.checking import Checker
from dunwell_server.payments.jobs.refunding import Refunder
from dunwell_server.payments.model import AttemptState
from dunwell_server.payments.store import syncing as store
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database


class Syncer:
    """Checks attempts (those of hosted pages among them) and refunds of an invoice ahead of their time."""

    def __init__(self, charger: Charger) -> None:
        self._charger = charger
        self._checker = Checker(charger)
        self._refunder = Refunder(charger)

    async def sync(self, database: Database, context: CallContext, invoice_id: UUID) -> None:
        """One look at everything that is open and in nobody's hands; an attempt whose sender is gone gets a second one."""
        for _ in range(2):
            claims = await self._charger.transact(
                database, context, lambda uow: store.claim(uow, invoice_id, self._charger.owner)
            )
            await self._checker.run(database, context, claims)
            if not any(claim.state is AttemptState.SENT for claim in claims):
                break
        refunds = await self._charger.transact(
            database, context, lambda uow: store.claim_refunds(uow, invoice_id, self._refunder.owner)
        )
        await self._refunder.run(database, context, refunds)
