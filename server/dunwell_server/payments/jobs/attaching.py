"""Attaching and detaching payment methods at the provider. Keys follow from the request, so that a repeat finds what the first call made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import derive_uuid
from dunwell_server.kernel.luhn import contains_card_number
from dunwell_server.payments.jobs.customers import CustomerKeeper
from dunwell_server.payments.jobs.gateways import Gateways
from dunwell_server.payments.reading import method_columns
from dunwell_server.payments.service.methods import AttachContext, prepare_attach
from dunwell_server.payments.store import methods
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.features import Feature, require_feature
from dunwell_server.providers.base import CustomerRef


@dataclass(frozen=True, slots=True)
class Attached:
    """A method as the provider has attached it: the columns to keep, and the customer it belongs to."""

    values: dict[str, Any]
    customer_reference: str


class MethodKeeper:
    """Keeps clients' methods at their providers."""

    def __init__(self, gateways: Gateways) -> None:
        self._gateways = gateways
        self.customers = CustomerKeeper(gateways)

    async def attach(
        self,
        database: Database,
        context: CallContext,
        client_id: UUID,
        token: str,
        *,
        provider: str | None = None,
        backup_priority: int = 0,
        metadata: dict[str, str] | None = None,
    ) -> Attached:
        """Attach a tokenised method at the provider, as a customer that is made once per client and account.

        Errors: RESOURCE_NOT_FOUND, FEATURE_DISABLED, CARD_NUMBER_REFUSED, PROVIDER_NOT_CONFIGURED, PROVIDER_MODE_MISMATCH,
        PAYMENT_METHOD_UNUSABLE, PROVIDER_UNAVAILABLE.
        """
        if contains_card_number(token):
            raise DunwellError(
                Reason.CARD_NUMBER_REFUSED, "Card numbers are never accepted; send the provider's token."
            )

        async def prepare(uow: UnitOfWork) -> AttachContext:
            require_feature(uow, Feature.CARD_PAYMENTS)
            return await prepare_attach(uow, client_id, provider)

        found = await database.run(context, prepare, write=False)
        gateway = self._gateways.gateway(found.account)
        assert context.firm_id is not None
        customer = (
            await self.customers.ensure(database, context, client_id, found.account.provider)
        ).provider_reference
        async with gateway.turn():
            details = await gateway.provider.attach_method(
                gateway.account, CustomerRef(customer), token, f"attach:{context.firm_id}:{context.request_id}"
            )
        values = {
            "id": derive_uuid("payment_method", context.firm_id, context.request_id or token),
            "client_id": client_id,
            "provider": found.account.provider,
            "account_id": found.account.id,
            "mode": found.account.mode,
            "backup_priority": backup_priority,
            "metadata": metadata or {},
            **method_columns(details),
        }
        return Attached(values, customer)

    async def detach(self, database: Database, context: CallContext, method_id: UUID) -> None:
        """Make a method that we have detached unusable at its provider too. Errors: PROVIDER_UNAVAILABLE."""

        async def read(uow: UnitOfWork) -> tuple[methods.ProviderAccount, str] | None:
            method = await methods.get(uow, method_id)
            if method is None:
                return None
            for account in await methods.accounts(uow, method.provider):
                if account.id == method.account_id:
                    return account, method.provider_reference
            return None

        found = await database.run(context, read, write=False)
        if found is None:
            return
        gateway = self._gateways.gateway(found[0])
        async with gateway.turn():
            await gateway.provider.detach_method(gateway.account, found[1])
