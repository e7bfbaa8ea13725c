"""Clients as customers of their providers: made once, adopted by id, read live. The provider is called with no transaction open."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import UUID

from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments.jobs.gateways import Gateway, Gateways
from dunwell_server.payments.jobs.opening import customers_of
from dunwell_server.payments.page_model import Customer
from dunwell_server.payments.service import customers
from dunwell_server.payments.service.customers import Place
from dunwell_server.payments.store.methods import ProviderAccount
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database
from dunwell_server.platform.failpoints import failpoint
from dunwell_server.providers.abilities import ManagedSubscriptions, ProviderCustomer
from dunwell_server.providers.base import (
    ClientProfile,
    MethodDetails,
    ProviderRefused,
    ProviderUnavailable,
    require_ability,
)

MISSING = "resource_missing"
_PATIENCE = 2.0
"""Seconds for which the making of a customer is tried again; each try has the provider's own timeout besides."""


@dataclass(frozen=True, slots=True)
class Live:
    """A customer as the provider has it at this moment."""

    place: Place
    reference: str
    theirs: ProviderCustomer | None
    """None: the provider cannot be asked about customers."""
    subscriptions: tuple[str, ...] = ()
    methods: tuple[MethodDetails, ...] = ()
    """Filled for a customer that is to be adopted."""


class CustomerKeeper:
    """Keeps clients as customers of provider accounts."""

    def __init__(self, gateways: Gateways) -> None:
        self._gateways = gateways

    def able(self, check: Callable[[Gateway], object]) -> Callable[[ProviderAccount], None]:
        """What refuses an account whose provider lacks an ability, before anything is written."""

        def refuse(account: ProviderAccount) -> None:
            check(self._gateways.gateway(account))

        return refuse

    async def ensure(
        self,
        database: Database,
        context: CallContext,
        client_id: UUID,
        provider: str | None,
        able: Callable[[ProviderAccount], None] | None = None,
    ) -> Customer:
        """The client as a customer of the firm's account; made at the provider if need be, once per client and account.

        Errors: RESOURCE_NOT_FOUND, PROVIDER_NOT_CONFIGURED, PROVIDER_MODE_MISMATCH, PROVIDER_UNAVAILABLE.
        """
        place = await database.run(context, lambda uow: customers.place_of(uow, client_id, provider), write=False)
        if able is not None:
            able(place.account)
        return await self._ensure(database, context, place)

    async def _ensure(self, database: Database, context: CallContext, place: Place) -> Customer:
        known = place.customer
        if known is not None and not known.deleted:
            return known
        gateway = self._gateways.gateway(place.account)
        assert context.firm_id is not None
        client = place.client
        profile = ClientProfile(
            encode(Prefix.CLIENT, client.id), encode(Prefix.FIRM, context.firm_id), client.name, client.email
        )
        key = f"customer:{context.firm_id}:{client.id}:{place.account.id}"
        if known is not None:
            key = f"{key}:{known.provider_reference}"  # In place of one that was deleted there.
        provider, started = place.account.provider, time.monotonic()
        while True:
            failpoint("customer.before_create")
            try:
                async with gateway.turn():
                    made = await gateway.provider.ensure_customer(gateway.account, profile, key)
                break
            except ProviderUnavailable:
                # Another call may be making the same customer at this moment: a provider refuses to do that twice at once.
                if time.monotonic() - started > _PATIENCE:
                    raise
            await asyncio.sleep(0.1 + 0.2 * random.random())
            again = await database.run(context, lambda uow: customers.place_of(uow, client.id, provider), write=False)
            if again.customer is not None and not again.customer.deleted:
                return again.customer
        failpoint("customer.after_create")
        recording = replace(context, deadline=None)
        return await database.run(recording, lambda uow: customers.keep_made(uow, place, made.provider_reference))

    async def synchronise(
        self, database: Database, context: CallContext, client_id: UUID, provider: str | None
    ) -> Live:
        """The client's customer, made if need be, with the client's name and e-mail. One that was deleted there is made anew.

        Errors: those of `ensure`.
        """
        customer = await self.ensure(database, context, client_id, provider)
        place = await database.run(context, lambda uow: customers.place_of(uow, client_id, provider), write=False)
        gateway = self._gateways.gateway(place.account)
        if not gateway.provider.capabilities.customers:
            return Live(
                place, customer.provider_reference, None, await _subscriptions(gateway, customer.provider_reference)
            )
        try:
            theirs = await self._update(gateway, context, place, customer.provider_reference)
            gone = theirs.deleted
        except ProviderRefused as refusal:
            if refusal.provider_code != MISSING:
                raise
            gone = True
        if gone:
            await database.run(context, lambda uow: customers.note_deleted(uow, customer))
            place = await database.run(context, lambda uow: customers.place_of(uow, client_id, provider), write=False)
            customer = await self._ensure(database, context, place)
            theirs = await self._update(gateway, context, place, customer.provider_reference)
        subscriptions = await _subscriptions(gateway, customer.provider_reference)
        return Live(place, customer.provider_reference, theirs, subscriptions)

    async def adoptable(
        self, database: Database, context: CallContext, client_id: UUID, provider: str | None, reference: str
    ) -> Live:
        """A customer that exists at the provider, with its methods and subscriptions, to be adopted; it gets the client's name and e-mail.

        Errors: RESOURCE_NOT_FOUND, ALREADY_EXISTS, PROVIDER_NOT_CONFIGURED, PROVIDER_MODE_MISMATCH, PROVIDER_UNAVAILABLE.
        """
        place = await database.run(
            context, lambda uow: customers.place_to_adopt(uow, client_id, provider, reference), write=False
        )
        gateway = self._gateways.gateway(place.account)
        ours = customers_of(gateway)
        try:
            async with gateway.turn():
                theirs = await ours.get_customer(gateway.account, reference)
        except ProviderRefused as refusal:
            if refusal.provider_code != MISSING:
                raise
            raise customers.no_such_customer("existing_reference") from refusal
        assert context.firm_id is not None
        customers.refuse_foreign(place, theirs, context.firm_id)
        async with gateway.turn():
            methods = await ours.list_methods(gateway.account, reference)
        theirs = await self._update(gateway, context, place, reference)
        return Live(place, reference, theirs, await _subscriptions(gateway, reference), methods)

    async def read(self, database: Database, context: CallContext, client_id: UUID, provider: str | None) -> Live:
        """The client as the provider has it now. Errors: RESOURCE_NOT_FOUND, also when it is no customer there, and those of `ensure`."""
        place = await database.run(context, lambda uow: customers.place_of(uow, client_id, provider), write=False)
        if place.customer is None:
            raise customers.no_such_customer()
        gateway = self._gateways.gateway(place.account)
        reference = place.customer.provider_reference
        try:
            async with gateway.turn():
                theirs = await customers_of(gateway).get_customer(gateway.account, reference)
        except ProviderRefused as refusal:
            if refusal.provider_code != MISSING:
                raise
            raise customers.no_such_customer() from refusal
        gone = theirs.deleted
        return Live(place, reference, theirs, () if gone else await _subscriptions(gateway, reference))

    async def _update(self, gateway: Gateway, context: CallContext, place: Place, reference: str) -> ProviderCustomer:
        assert context.firm_id is not None
        metadata = {"firm": encode(Prefix.FIRM, context.firm_id), "client": encode(Prefix.CLIENT, place.client.id)}
        async with gateway.turn():
            return await customers_of(gateway).update_customer(
                gateway.account, reference, name=place.client.name, email=place.client.email, metadata=metadata
            )


async def _subscriptions(gateway: Gateway, reference: str) -> tuple[str, ...]:
    if not gateway.provider.capabilities.managed_subscriptions:
        return ()
    ability = require_ability(gateway.provider, "managed_subscriptions", ManagedSubscriptions)  # type: ignore[type-abstract]
    async with gateway.turn():
        found = await ability.list_subscriptions(gateway.account, reference)
    return tuple(each.provider_reference for each in found)
