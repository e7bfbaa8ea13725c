"""What notifications say of refunds."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Protocol
from uuid import UUID

from dunwell_server.inbox.ports import Applied, NotYet, Origin, Unusable
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments.model import Source
from dunwell_server.payments.service.disputed import find_payment
from dunwell_server.payments.service.refund_taking import claimed_id, take_refund
from dunwell_server.payments.service.tracing import Located, Tracer, locate
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.providers.abilities import ProviderRefund
from dunwell_server.providers.events import RefundNotice, RefundTotalNotice

_FOREIGN: Final = "a refund of a payment that is none of ours"


class RefundNotices:
    """A refund was made, or has become something else."""

    notices = (RefundNotice,)

    def __init__(self, tracer: Tracer | None = None) -> None:
        """`tracer` None: no provider can be asked about payments that the book does not know."""
        self._tracer = tracer

    async def prepare(
        self, database: Database, context: CallContext, origin: Origin, notice: RefundNotice
    ) -> Located | None:
        """Whose payment it is of, where we have not made the refund ourselves."""
        if claimed_id(notice.refund) is not None:
            return None
        return await locate(self._tracer, database, context, origin, notice.refund.payment_reference)

    async def apply(self, uow: UnitOfWork, origin: Origin, notice: RefundNotice, prepared: Located | None) -> Applied:
        """Take it over; a refund that nobody asked for here is adopted. NotYet while its payment is not in the book."""
        refund = notice.refund
        if prepared is not None:
            if prepared.foreign and not await find_payment(uow, origin.account_id, prepared.reference):
                return Applied.ignored(_FOREIGN)
            refund = replace(refund, payment_reference=prepared.reference)
        return Applied(await _take(uow, origin, refund))


class RefundLister(Protocol):
    """Asks a provider for the refunds of one payment."""

    async def refunds_of(
        self, database: Database, context: CallContext, account_id: UUID, payment_reference: str
    ) -> list[ProviderRefund]:
        """All of them; no transaction is open. Errors: PROVIDER_NOT_CONFIGURED, PROVIDER_UNAVAILABLE."""
        ...


class RefundTotalNotices:
    """So much of a payment has been refunded in all: which refunds these are is asked of the provider."""

    notices = (RefundTotalNotice,)

    def __init__(self, lister: RefundLister, tracer: Tracer | None = None) -> None:
        """`tracer` None: no provider can be asked about payments that the book does not know."""
        self._lister = lister
        self._tracer = tracer

    async def prepare(
        self, database: Database, context: CallContext, origin: Origin, notice: RefundTotalNotice
    ) -> list[ProviderRefund] | None:
        """The provider's list of the payment's refunds; None for a payment that is none of ours."""
        located = await locate(self._tracer, database, context, origin, notice.payment_reference)
        if located.foreign:
            return None
        return await self._lister.refunds_of(database, context, origin.account_id, notice.payment_reference)

    async def apply(
        self, uow: UnitOfWork, origin: Origin, notice: RefundTotalNotice, prepared: list[ProviderRefund] | None
    ) -> Applied:
        """Take each of them over. NotYet while the provider's list of a payment of ours lags behind what its event tells of."""
        if prepared is None:
            return Applied.ignored(_FOREIGN)
        if not prepared:
            if notice.refunded.minor and await find_payment(uow, origin.account_id, notice.payment_reference):
                raise NotYet("the provider lists no refunds of the payment yet")
            return Applied.ignored("the provider lists no refunds of the payment")
        return Applied("; ".join([await _take(uow, origin, refund) for refund in prepared])[:500])


async def _take(uow: UnitOfWork, origin: Origin, refund: ProviderRefund) -> str:
    taken = await take_refund(uow, origin.account_id, origin.provider, refund, Source.EVENT)
    if taken.applied is None:
        raise (Unusable if taken.never else NotYet)(taken.why)
    name = encode(Prefix.REFUND, taken.applied.refund_id)
    if taken.adopted:
        return f"refund {name} adopted: {taken.applied.state}"
    return f"refund {name} is {taken.applied.state}" + ("" if taken.applied.changed else " already")
