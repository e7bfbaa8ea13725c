"""What other contexts ask of the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from psycopg.errors import NumericValueOutOfRange

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.ledger import store
from dunwell_server.ledger.model import Posting
from dunwell_server.platform.database import UnitOfWork


@dataclass(frozen=True, slots=True)
class ClientBalance:
    """What a client owes the firm and what the firm holds for it, in minor units of one currency; neither is negative."""

    currency_code: str
    receivable_minor: int
    credit_minor: int


async def post(uow: UnitOfWork, postings: Sequence[Posting]) -> None:
    """Post business facts in the caller's transaction; facts without an amount leave no trace.

    Errors: AMOUNT_OUT_OF_RANGE where what a client owes or holds would leave 64 bits.
    """
    worth = [posting for posting in postings if posting.entries]
    if not worth:
        return
    try:
        await store.insert(uow, worth)
    except NumericValueOutOfRange as error:
        message = "What the client owes or holds in this currency would not fit a 64-bit integer."
        raise DunwellError(Reason.AMOUNT_OUT_OF_RANGE, message) from error


async def client_balances(uow: UnitOfWork, client_id: UUID) -> list[ClientBalance]:
    """The client's balances, one per currency it has ever used, in the currencies' order."""
    return [ClientBalance(**row) for row in await store.client_balances(uow, client_id)]
