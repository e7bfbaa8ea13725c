"""Taking a renewal back before it has begun: when the term before it ends earlier than agreed, or by itself."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from dunwell_server.billing.model import Engagement, EngagementState
from dunwell_server.billing.service.journal import engagement_change
from dunwell_server.billing.store import engagements as store
from dunwell_server.billing.store import renewals as renewal_store
from dunwell_server.kernel.calendar import local_date
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.platform import journal
from dunwell_server.platform.database import UnitOfWork


async def withdraw_after(uow: UnitOfWork, term: Engagement) -> None:
    """Withdraw every term that follows `term`, the last one first. The chain is locked. Errors: as `withdraw`."""
    if term.renewed_to_id is not None:
        following = await _get(uow, term.renewed_to_id)
        await withdraw(uow, following)


async def withdraw(uow: UnitOfWork, term: Engagement) -> Engagement:
    """Take a renewal back, and what follows it: a term of no days is left, over, linked to nothing.

    The term before it is no longer renewed, also not by itself. STATE_CONFLICT where the renewal has begun in the firm's
    zone, something of it is billed, or work is recorded on it.
    """
    assert term.renewed_from_id is not None
    await _refuse_begun(uow, term)
    await withdraw_after(uow, term)
    before = await store.update(uow, term.renewed_from_id, {"renewed_to_id": None, "auto_renew": None})
    assert before is not None
    changes = {
        "end_date": term.start_date,
        "state": EngagementState.ENDED.value,
        "next_bill_date": None,
        "renewed_to_id": None,
        "auto_renew": None,
    }
    withdrawn = await store.update(uow, term.id, changes)
    assert withdrawn is not None
    details = {"renewed_from_id": encode(Prefix.ENGAGEMENT, before.id)}
    await journal.record(uow, engagement_change(withdrawn, "renewal_withdrawn", details))
    return replace(withdrawn, renewed_from_id=None)


async def _refuse_begun(uow: UnitOfWork, term: Engagement) -> None:
    if term.start_date <= local_date(uow.now, uow.firm.settings.zone):
        problem = "has begun"
    elif term.billed_through_date > term.start_date or await store.covered(uow, term.id, term.start_date):
        problem = "has been billed"
    elif term.hourly is not None and await renewal_store.has_time(uow, term.id):
        problem = "has work recorded on it"
    else:
        return
    own_id = encode(Prefix.ENGAGEMENT, term.id)
    raise DunwellError(
        Reason.STATE_CONFLICT,
        f"The next term, {own_id}, {problem}: it cannot be withdrawn. End that term.",
        metadata={"state": term.state.value, "allowed": "EndEngagement", "engagement_id": own_id},
        resource=("Engagement", own_id),
    )


async def _get(uow: UnitOfWork, engagement_id: UUID) -> Engagement:
    term = await store.get(uow, engagement_id, lock=True)
    assert term is not None
    return term
