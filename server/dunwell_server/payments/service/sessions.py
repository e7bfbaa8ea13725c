"""How far pages have come: states move forward only, and every step is told."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments.model import AttemptState
from dunwell_server.payments.page_model import CheckoutSession, SessionState
from dunwell_server.payments.store import checkouts
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Category, Change, Severity, record
from dunwell_server.platform.provider_references import remember

_FORWARD: Final = {
    SessionState.CREATING: frozenset(SessionState) - {SessionState.CREATING},
    SessionState.OPEN: frozenset({SessionState.COMPLETED, SessionState.EXPIRED}),
    SessionState.EXPIRED: frozenset({SessionState.COMPLETED}),
    SessionState.FAILED: frozenset({SessionState.COMPLETED}),
    SessionState.COMPLETED: frozenset[SessionState](),
}


async def advance(
    uow: UnitOfWork, session: CheckoutSession, state: SessionState | None = None, **facts: Any
) -> CheckoutSession:
    """Take over facts about a locked page, and its next state where that lies ahead; what is known already changes nothing."""
    changes = {name: value for name, value in facts.items() if value != getattr(session, name)}
    moves = state is not None and state in _FORWARD[session.state]
    if moves:
        assert state is not None
        changes["state"] = state
        if state.is_final:
            changes |= {"finish_time": session.finish_time or uow.now, "next_check_time": None}
    if changes.get("state", session.state).is_final:
        changes["url"] = None
        if session.url is None:
            del changes["url"]
    if not changes:
        return session
    changed = await checkouts.change(uow, session, **changes)
    if changes.get("provider_reference") or changes.get("subscription_reference"):
        await remember(uow, session.account_id, changed.provider_reference, changed.subscription_reference)
    if moves:
        await record(uow, _told(changed))
    return changed


async def follow_payment(uow: UnitOfWork, payment_id: UUID, state: AttemptState, *, ended: bool) -> None:
    """The payment asked for on a page has come to something: so has its page. `ended`: the provider closed it unpaid."""
    reached: SessionState | None = None
    if state is AttemptState.SUCCEEDED:
        reached = SessionState.COMPLETED
    elif state is AttemptState.DECLINED and ended:
        reached = SessionState.EXPIRED
    elif state in (AttemptState.DECLINED, AttemptState.CLOSED):
        reached = SessionState.FAILED
    if reached is None:
        return
    session = await checkouts.of_payment(uow, payment_id, lock=True)
    if session is not None:
        await advance(uow, session, reached)


def _told(session: CheckoutSession) -> Change:
    verb = {SessionState.OPEN: "opened"}.get(session.state, session.state.value.lower())
    metadata = {
        "client_id": encode(Prefix.CLIENT, session.client_id), "purpose": session.purpose.value, "channel": session.channel,
        "provider": session.provider, "provider_reference": session.provider_reference,
        "invoice_id": encode(Prefix.INVOICE, session.invoice_id) if session.invoice_id else None,
        "payment_id": encode(Prefix.PAYMENT, session.payment_id) if session.payment_id else None,
        "subscription_reference": session.subscription_reference, "failure_code": session.failure_code,
        "expire_time": session.expire_time.isoformat() if session.expire_time else None,
    }  # fmt: skip
    severity = Severity.WARNING if session.state is SessionState.FAILED else Severity.INFO
    return Change(
        Category.PAYMENT,
        f"checkout_session_{verb}",
        "checkout_session",
        session.id,
        f"checkout_session.{verb}",
        severity,
        metadata,
    )
