"""Takes over what providers' events say of disputes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

import structlog

from dunwell_server.disputes.service import apply_dispute
from dunwell_server.inbox.ports import Applied, NotYet, Origin, Unusable
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments.service.disputed import find_payment, is_settled
from dunwell_server.payments.service.tracing import Located, Tracer, locate
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.providers.abilities import ProviderDispute
from dunwell_server.providers.events import DisputeNotice

log = structlog.get_logger(__name__)


class DisputeReader(Protocol):
    """Reads a dispute from an account's provider."""

    async def read_dispute(
        self, database: Database, context: CallContext, account_id: UUID, reference: str
    ) -> ProviderDispute | None:
        """Its present state; None where the provider has no such ability."""
        ...


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was asked about a dispute."""

    dispute: ProviderDispute | None
    """As it is now; None: its provider cannot tell."""
    payment: Located | None = None
    """What it is about; None: it names nothing."""


class DisputeApplier:
    """An event about a dispute is a hint: what the provider now says of it is applied, where it can be asked."""

    notices: tuple[type, ...] = (DisputeNotice,)

    def __init__(self, reader: DisputeReader, tracer: Tracer | None = None) -> None:
        """`tracer` None: no provider can be asked about payments that the book does not know."""
        self._reader = reader
        self._tracer = tracer

    async def prepare(
        self, database: Database, context: CallContext, origin: Origin, notice: DisputeNotice
    ) -> Prepared:
        """Ask the provider, also whose payment it is about where the book does not know the id that it names."""
        read = await self._read(database, context, origin, notice.dispute.provider_reference)
        reference = (read or notice.dispute).payment_reference
        if reference is None:
            return Prepared(read)
        return Prepared(read, await locate(self._tracer, database, context, origin, reference))

    async def _read(
        self, database: Database, context: CallContext, origin: Origin, reference: str
    ) -> ProviderDispute | None:
        """The dispute as it is now. A provider that does not know its own any more is not believed over its event."""
        try:
            return await self._reader.read_dispute(database, context, origin.account_id, reference)
        except DunwellError as error:
            if error.reason is not Reason.STATE_CONFLICT:
                raise
            log.warning("dispute_not_readable", provider=origin.provider)
            return None

    async def apply(self, uow: UnitOfWork, origin: Origin, notice: DisputeNotice, prepared: Prepared) -> Applied:
        """Find the payment and apply; a payment that is not in the book yet is waited for."""
        theirs = prepared.dispute or notice.dispute
        located = prepared.payment
        if located is None:
            return Applied.ignored("the dispute names no payment")
        payment_id = await find_payment(uow, origin.account_id, located.reference)
        if payment_id is None and located.foreign:
            return Applied.ignored("a dispute of a payment that is none of ours")
        if payment_id is None or not await is_settled(uow, payment_id):
            raise NotYet(f"the book has no received payment {located.reference}")
        if theirs.money.minor <= 0:
            raise Unusable("a dispute about no money")
        applied = await apply_dispute(uow, origin.account_id, payment_id, theirs, fresh=prepared.dispute is not None)
        dispute = applied.dispute
        what = f"{dispute.kind.value.lower()} {encode(Prefix.DISPUTE, dispute.id)} is {dispute.state.value}"
        return Applied(what if applied.changed else f"nothing new: {what}")
