"""What waits for a second person, refunds and hand-resolved outcomes alike: listing it, and deciding."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.kernel.money import Money, format_money
from dunwell_server.payments.refunds import Destination, Refund, RefundState
from dunwell_server.payments.service import resolution
from dunwell_server.payments.service.refund_outcomes import lock_all, tell_refund
from dunwell_server.payments.service.refunds import complete_here
from dunwell_server.payments.store import approvals as store
from dunwell_server.payments.store import refunds
from dunwell_server.payments.store.refunds import LoadedPayment
from dunwell_server.platform.approvals import ApprovalKind, ApprovalState, PendingApproval, same_person
from dunwell_server.platform.database import Row, UnitOfWork
from dunwell_server.platform.journal import Severity
from dunwell_server.platform.work import WorkKind, wake


class Approvals:
    """`platform.approvals.ApprovalDesk` for everything that payments keep for a second person."""

    async def list_pending(
        self, uow: UnitOfWork, *, kinds: Sequence[ApprovalKind], after: tuple[datetime, UUID] | None, limit: int
    ) -> list[PendingApproval]:
        """What waits, oldest first."""
        return [_approval(row) for row in await store.page(uow, kinds, after=after, limit=limit)]

    async def decide(self, uow: UnitOfWork, approval_id: UUID, *, approve: bool, note: str = "") -> PendingApproval:
        """Do or drop what was proposed. Errors: those of the port."""
        person = uow.context.actor.person
        if person is None:
            raise DunwellError(Reason.PERMISSION_DENIED, "Name the person in the dunwell-actor metadata.")
        found = await store.get(uow, approval_id)
        resource = ("Approval", encode(Prefix.APPROVAL, approval_id))
        if found is None:
            raise DunwellError(Reason.RESOURCE_NOT_FOUND, "No such approval.", resource=resource)
        # The payment is locked before its refund or attempt, and the approval after both: whoever decides second sees what the first did.
        loaded = await lock_all(uow, await _payment_of(uow, found))
        refund = (
            await refunds.get(uow, found["subject_id"], lock=True) if found["kind"] == ApprovalKind.REFUND else None
        )
        row = await store.get(uow, approval_id, lock=True)
        assert row is not None
        state = _state(row)
        if state is not ApprovalState.PENDING:
            raise _conflict(state.value, f"It was decided already: {state.value}.", resource)
        if approve and same_person(row["actor"], person):
            raise DunwellError(
                Reason.APPROVAL_REQUIRED, "Whoever proposed it cannot approve it: a second person must.",
                metadata={"approval_id": encode(Prefix.APPROVAL, approval_id)}, resource=resource,
            )  # fmt: skip
        if approve:
            await store.approve(uow, approval_id, person, note)
        else:
            await store.reject(uow, approval_id, person, note)
        if refund is not None:
            await self._decide_refund(uow, loaded, refund, approve=approve, note=note)
        elif approve:
            await resolution.carry_out(uow, row["subject_id"], row["proposal"], note)
        else:
            await resolution.tell_rejected(uow, row["subject_id"], row["proposal"], note)
        decided = await store.get(uow, approval_id)
        assert decided is not None
        return _approval(decided)

    async def _decide_refund(
        self, uow: UnitOfWork, loaded: LoadedPayment, refund: Refund, *, approve: bool, note: str
    ) -> None:
        resource = ("Refund", encode(Prefix.REFUND, refund.id))
        if refund.state is not RefundState.AWAITING_APPROVAL:
            raise _conflict(refund.state.value, f"The refund is {refund.state} by now.", resource)
        if not approve:
            await refunds.reject(uow, refund)
            await tell_refund(uow, refund, "refund_rejected", "refund.rejected", Severity.WARNING, note=note or None)
            return
        if loaded.payment.open_disputes > 0:
            raise _conflict(
                refund.state.value, "The payment is in a dispute by now: reject the refund, or wait.", resource
            )
        await tell_refund(uow, refund, "refund_approved", "refund.approved", Severity.WARNING, note=note or None)
        if refund.destination is Destination.PAYMENT_METHOD:
            await refunds.release(uow, refund.id)
            await wake(uow, WorkKind.REFUNDS)
        else:
            await complete_here(uow, refund.id)


async def _payment_of(uow: UnitOfWork, row: Row) -> UUID:
    payment_id: UUID | None = row["payment_id"] or await resolution.payment_of(uow, row["subject_id"])
    assert payment_id is not None
    return payment_id


def _conflict(state: str, message: str, resource: tuple[str, str]) -> DunwellError:
    return DunwellError(Reason.STATE_CONFLICT, message, metadata={"state": state, "allowed": "none"}, resource=resource)


def _state(row: Row) -> ApprovalState:
    if row["approve_time"] is not None:
        return ApprovalState.APPROVED
    return ApprovalState.REJECTED if row["reject_time"] is not None else ApprovalState.PENDING


def _approval(row: Row) -> PendingApproval:
    kind = ApprovalKind(row["kind"])
    return PendingApproval(
        row["id"], kind, _state(row), row["subject_id"], row["payment_id"], row["amount_minor"], row["currency_code"],
        _summary(kind, row), row["actor"], row["approve_actor"] or row["reject_actor"], row["note"], row["create_time"],
        row["approve_time"] or row["reject_time"],
    )  # fmt: skip


_WAYS = {
    Destination.PAYMENT_METHOD: "the way it came",
    Destination.CREDIT: "to the client's credit",
    Destination.MANUAL: "outside of any provider",
}


def _summary(kind: ApprovalKind, row: Row) -> str:
    amount, proposal = format_money(Money(row["currency_code"], row["amount_minor"])), row["proposal"]
    if kind is ApprovalKind.REFUND:
        again = ", to be owed again" if proposal["reopen_invoice"] else ""
        return f"Refund {amount} {_WAYS[Destination(proposal['destination'])]}{again}"
    reference = f" ({proposal['provider_reference']})" if proposal.get("provider_reference") else ""
    return f"Take a charge of {amount}, whose outcome is unknown, as {proposal['resolution']}{reference}"
