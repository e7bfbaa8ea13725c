"""The appliers of events about payments, set-up intents, pages, customers and methods. An event is a hint: what it leaves out is asked for first."""

from __future__ import annotations

from typing import Any

from dunwell_server.inbox.ports import Applied, EventApplier, Origin, QuietPreparation
from dunwell_server.payments.jobs.gateways import Gateway, Gateways
from dunwell_server.payments.jobs.opening import listed_method, pages_of, setups_of, with_method
from dunwell_server.payments.jobs.pages import complete_setup
from dunwell_server.payments.page_model import CheckoutPurpose, CheckoutSession
from dunwell_server.payments.reading import is_bare
from dunwell_server.payments.service import notices
from dunwell_server.payments.store import checkouts, customers, setups
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.providers.abilities import CheckoutDetails, CheckoutState, SetupDetails, SetupState
from dunwell_server.providers.base import MethodDetails, OutcomeClass, ProviderRefused
from dunwell_server.providers.events import (
    CheckoutNotice,
    CustomerNotice,
    MethodChange,
    MethodNotice,
    PaymentNotice,
    SetupNotice,
)


class _Asking:
    """What appliers that ask the provider share."""

    def __init__(self, gateways: Gateways) -> None:
        self._gateways = gateways

    async def _gateway(self, database: Database, context: CallContext, origin: Origin) -> Gateway | None:
        account = await database.run(context, lambda uow: customers.account(uow, origin.account_id), write=False)
        return None if account is None else self._gateways.gateway(account)


class PaymentApplier(QuietPreparation):
    """Takes `PaymentNotice`."""

    notices = (PaymentNotice,)

    async def apply(self, uow: UnitOfWork, origin: Origin, notice: PaymentNotice, prepared: Any) -> Applied:
        """The outcome of an attempt, by the one way in which anything changes the books."""
        return await notices.payment_told(uow, origin, notice)


class SetupApplier(_Asking):
    """Takes `SetupNotice`."""

    notices = (SetupNotice,)

    async def prepare(
        self, database: Database, context: CallContext, origin: Origin, notice: SetupNotice
    ) -> SetupDetails:
        """The method saved, in full. The event is evidence by itself: what is asked for only adds to it."""
        details = notice.details
        incomplete = details.method is None or is_bare(details.method)
        if details.state is not SetupState.SUCCEEDED or not incomplete:
            return details
        if "setup" not in details.metadata and not await self._is_known(database, context, origin, details):
            return details
        gateway = await self._gateway(database, context, origin)
        if gateway is None:
            return details
        try:
            async with gateway.turn():
                found = await setups_of(gateway).get_setup_intent(gateway.account, details.provider_reference)
            # Success is final: an answer that does not know of it is older than the event.
            knows = found.state is SetupState.SUCCEEDED and found.method is not None
            return await complete_setup(gateway, found if knows else details)
        except ProviderRefused:
            if details.method is None:
                raise
            return details

    @staticmethod
    async def _is_known(database: Database, context: CallContext, origin: Origin, details: SetupDetails) -> bool:
        known = await database.run(
            context,
            lambda uow: setups.by_reference(uow, origin.account_id, details.provider_reference),
            write=False,
        )
        return known is not None

    async def apply(self, uow: UnitOfWork, origin: Origin, notice: SetupNotice, prepared: SetupDetails) -> Applied:
        """What has become of a set-up intent."""
        return await notices.setup_told(uow, origin, prepared)


class CheckoutApplier(_Asking):
    """Takes `CheckoutNotice`."""

    notices = (CheckoutNotice,)

    async def prepare(
        self, database: Database, context: CallContext, origin: Origin, notice: CheckoutNotice
    ) -> CheckoutDetails:
        """The page as it is now where the event does not say what became of its money, and the method saved on it in full."""
        details = notice.details
        session = await database.run(context, lambda uow: _session(uow, origin, details), write=False)
        if session is None or details.state is not CheckoutState.COMPLETED:
            return details
        gateway = await self._gateway(database, context, origin)
        if gateway is None:
            return details
        vague = details.payment is None or details.payment.outcome is OutcomeClass.UNKNOWN
        if session.purpose is CheckoutPurpose.INVOICE and vague:
            async with gateway.turn():
                details = await pages_of(gateway).get_checkout(gateway.account, details.provider_reference)
        return await with_method(gateway, session, details)

    async def apply(
        self, uow: UnitOfWork, origin: Origin, notice: CheckoutNotice, prepared: CheckoutDetails
    ) -> Applied:
        """What has become of a page."""
        return await notices.page_told(uow, origin, prepared)


class CustomerApplier(QuietPreparation):
    """Takes `CustomerNotice`."""

    notices = (CustomerNotice,)

    async def apply(self, uow: UnitOfWork, origin: Origin, notice: CustomerNotice, prepared: Any) -> Applied:
        """What has become of a customer."""
        return await notices.customer_told(uow, origin, notice)


class MethodApplier(_Asking):
    """Takes `MethodNotice`."""

    notices = (MethodNotice,)

    async def prepare(
        self, database: Database, context: CallContext, origin: Origin, notice: MethodNotice
    ) -> MethodDetails:
        """The method as it is now: an event may hold its id only, or tell of what has changed again since."""
        asks = notice.change is MethodChange.UPDATED or (
            notice.change is MethodChange.ATTACHED and is_bare(notice.method)
        )
        reference = notice.customer_reference
        if not asks or reference is None:
            return notice.method
        known = await database.run(
            context, lambda uow: customers.by_reference(uow, origin.account_id, reference), write=False
        )
        gateway = None if known is None else await self._gateway(database, context, origin)
        return notice.method if gateway is None else await listed_method(gateway, reference, notice.method)

    async def apply(self, uow: UnitOfWork, origin: Origin, notice: MethodNotice, prepared: MethodDetails) -> Applied:
        """What has become of a method."""
        told = MethodNotice(prepared, notice.customer_reference, notice.change)
        return await notices.method_told(uow, origin, told)


def payment_appliers(gateways: Gateways) -> list[EventApplier]:
    """Every applier of this file, for the inbox."""
    return [
        PaymentApplier(),
        SetupApplier(gateways),
        CheckoutApplier(gateways),
        CustomerApplier(),
        MethodApplier(gateways),
    ]


async def _session(uow: UnitOfWork, origin: Origin, details: CheckoutDetails) -> CheckoutSession | None:
    found = await notices.session_named(uow, origin, details)
    return None if found is None else await checkouts.get(uow, found)
