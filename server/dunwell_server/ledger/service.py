"""What other contexts ask of the ledger."""

from __future__ import annotations

from collections.abc import Sequence

from dunwell_server.ledger import store
from dunwell_server.ledger.model import Posting
from dunwell_server.platform.database import UnitOfWork


async def post(uow: UnitOfWork, postings: Sequence[Posting]) -> None:
    """Post business facts in the caller's transaction; facts without an amount leave no trace."""
    worth = [posting for posting in postings if posting.entries]
    if worth:
        await store.insert(uow, worth)
