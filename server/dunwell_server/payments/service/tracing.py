"""Which payment of the book a refund or a dispute is of: by the id that it names, else by what its provider says of that id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from dunwell_server.inbox.ports import Origin
from dunwell_server.payments.service.disputed import find_payment
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database
from dunwell_server.providers.tracing import TracedPayment


class Tracer(Protocol):
    """Asks a provider whose payment an id is of."""

    async def trace(
        self, database: Database, context: CallContext, account_id: UUID, reference: str
    ) -> TracedPayment | None:
        """What the provider says; None where it has nothing to say. No transaction is open. Errors: PROVIDER_UNAVAILABLE, …"""
        ...


@dataclass(frozen=True, slots=True)
class Located:
    """The id to look a payment up by."""

    reference: str
    foreign: bool = False
    """The provider has it, and it was not made by us: waiting for it would be in vain."""


async def locate(
    tracer: Tracer | None, database: Database, context: CallContext, origin: Origin, reference: str
) -> Located:
    """Ask the provider about a payment that the book does not know, once it is not known. Errors: PROVIDER_UNAVAILABLE, …"""
    known = await database.run(context, lambda uow: find_payment(uow, origin.account_id, reference), write=False)
    traced = None
    if known is None and tracer is not None:
        traced = await tracer.trace(database, context, origin.account_id, reference)
    return Located(reference) if traced is None else Located(traced.provider_reference, not traced.is_ours)
