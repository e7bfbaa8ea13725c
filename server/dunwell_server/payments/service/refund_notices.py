"""What notifications say of refunds."""

from __future__ import annotations

from typing import Any, Protocol
from uuid import UUID

from dunwell_server.inbox.ports import Applied, NotYet, Origin, QuietPreparation
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments.model import Source
from dunwell_server.payments.service.disputed import find_payment
from dunwell_server.payments.service.refund_taking import take_refund
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.providers.abilities import ProviderRefund
from dunwell_server.providers.events import RefundNotice, RefundTotalNotice


class RefundNotices(QuietPreparation):
    """A refund was made, or has become something else."""

    notices = (RefundNotice,)

    async def apply(self, uow: UnitOfWork, origin: Origin, notice: RefundNotice, prepared: Any) -> Applied:
        """Take it over; a refund that nobody asked for here is adopted. NotYet while its payment is not in the book."""
        return Applied(await _take(uow, origin, notice.refund))


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

    def __init__(self, lister: RefundLister) -> None:
        self._lister = lister

    async def prepare(
        self, database: Database, context: CallContext, origin: Origin, notice: RefundTotalNotice
    ) -> list[ProviderRefund]:
        """The provider's list of the payment's refunds."""
        return await self._lister.refunds_of(database, context, origin.account_id, notice.payment_reference)

    async def apply(
        self, uow: UnitOfWork, origin: Origin, notice: RefundTotalNotice, prepared: list[ProviderRefund]
    ) -> Applied:
        """Take each of them over. NotYet while the provider's list of a payment of ours lags behind what its event tells of."""
        if not prepared:
            if notice.refunded.minor and await find_payment(uow, origin.account_id, notice.payment_reference):
                raise NotYet("the provider lists no refunds of the payment yet")
            return Applied.ignored("the provider lists no refunds of the payment")
        return Applied("; ".join([await _take(uow, origin, refund) for refund in prepared])[:500])


async def _take(uow: UnitOfWork, origin: Origin, refund: ProviderRefund) -> str:
    taken = await take_refund(uow, origin.account_id, origin.provider, refund, Source.EVENT)
    if taken.applied is None:
        raise NotYet(taken.why)
    name = encode(Prefix.REFUND, taken.applied.refund_id)
    if taken.adopted:
        return f"refund {name} adopted: {taken.applied.state}"
    return f"refund {name} is {taken.applied.state}" + ("" if taken.applied.changed else " already")
