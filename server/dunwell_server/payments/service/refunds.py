"""Refunds: asking for one, and reading. What is learned about one comes through `refund_outcomes`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

from dunwell_server.kernel.errors import DunwellError, Reason, field_invalid
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments.evidence import Succeeded
from dunwell_server.payments.model import PaymentState, Source
from dunwell_server.payments.refunds import (
    Destination,
    Failed,
    Refund,
    RefundClaim,
    RefundState,
    SendState,
    refund_key,
    request_refund_id,
)
from dunwell_server.payments.service.queries import unless_in_hand
from dunwell_server.payments.service.refund_outcomes import (
    MANUAL_PROVIDER,
    RefundApplied,
    apply_refund_outcome,
    fail,
    lock_all,
    tell_refund,
)
from dunwell_server.payments.store import approvals
from dunwell_server.payments.store import refunds as store
from dunwell_server.payments.store.methods import ProviderAccount
from dunwell_server.payments.store.refunds import LoadedPayment, RefundFilter, RefundView
from dunwell_server.platform.approvals import ApprovalKind
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.failpoints import failpoint
from dunwell_server.platform.questions import Question

__all__ = [
    "RefundApplied", "RefundOrder", "Requested", "apply_refund_outcome", "begin_send", "complete_here", "get_refund", "list_refunds", "refunds_next_due",
    "request_refund",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class RefundOrder:
    """A request to send money back. Without `amount_minor`: all that is left. Without a destination: back the way it came."""

    payment_id: UUID
    amount_minor: int | None = None
    currency_code: str | None = None
    destination: Destination | None = None
    reason: str | None = None
    note: str | None = None
    reopen_invoice: bool = False


@dataclass(frozen=True, slots=True)
class Requested:
    """A refund that was asked for; `claim` where it is now to be sent by whoever asked."""

    refund_id: UUID
    claim: RefundClaim | None = None


# Asking ------------------------------------------------------------------------------------------------------------------


async def request_refund(
    uow: UnitOfWork, order: RefundOrder, owner: UUID, check_provider: Callable[[str], None]
) -> Requested:
    """Store the intent: the refund with its amount kept back of the payment. Refunds to credit, and those paid outside, are done at once.

    `check_provider(name)` raises where that provider cannot refund. The same request is the same refund for ever.

    Errors: RESOURCE_NOT_FOUND, STATE_CONFLICT unless the payment has succeeded, CURRENCY_MISMATCH, PAYMENT_DISPUTED, FIELD_INVALID for a
    destination that the payment does not allow, REFUND_EXCEEDS_PAYMENT, PROVIDER_NOT_CONFIGURED, RECOVERING, PERMISSION_DENIED above the limit
    of approval without a named person, REQUEST_ID_REUSED.
    """
    assert uow.context.request_id is not None
    refund_id = request_refund_id(uow.firm_id, uow.context.request_id)
    loaded = await lock_all(uow, order.payment_id)
    earlier = await store.get(uow, refund_id)
    if earlier is not None:
        return _repeated(earlier, order)
    payment = loaded.payment
    destination = _destination(order, payment.provider)
    amount = _amount(loaded, order, destination)
    values: dict[str, Any] = {
        "id": refund_id, "payment_id": payment.id, "client_id": payment.client_id, "state": RefundState.PROCESSING.value,
        "currency": payment.currency_code, "amount": amount, "destination": destination.value, "reason": order.reason,
        "note": order.note or None, "reopen": order.reopen_invoice, "provider": payment.provider, "key": refund_key(refund_id),
        "actor": uow.context.actor.label,
    }  # fmt: skip
    if destination is Destination.PAYMENT_METHOD:
        await _check_way_back(uow, loaded, check_provider)
        values |= {"account_id": payment.account_id, "payment_reference": loaded.reference}
    limit = uow.firm.settings.refund_approval_limits.get(payment.currency_code)
    if limit is not None and amount > limit:
        return await _await_approval(uow, values, order)
    if destination is Destination.PAYMENT_METHOD:
        await store.insert(uow, {**values, "owner": owner}, reserve=True)
        await _tell_requested(uow, refund_id)
        failpoint("refund.intent")
        assert payment.account_id is not None
        claim = RefundClaim(
            refund_id, payment.id, payment.client_id, payment.account_id, RefundState.PROCESSING, SendState.CREATED, 1, owner
        )  # fmt: skip
        return Requested(refund_id, claim)
    await store.insert(uow, values, reserve=True)
    await _tell_requested(uow, refund_id)
    await complete_here(uow, refund_id)
    return Requested(refund_id)


async def complete_here(uow: UnitOfWork, refund_id: UUID) -> RefundApplied:
    """Book a refund that no provider has a part in: to credit, or paid outside."""
    refund = await store.get(uow, refund_id)
    assert refund is not None
    assert refund.destination is not Destination.PAYMENT_METHOD
    done = Succeeded(None, refund.amount_minor, refund.currency_code)
    return await apply_refund_outcome(uow, refund_id, done, Source.PERSON)


def _repeated(earlier: Refund, order: RefundOrder) -> Requested:
    """The request was made before, and forgotten (its memory ends, a backup was restored): it is that refund."""
    same = earlier.payment_id == order.payment_id and order.amount_minor in (None, earlier.amount_minor)
    if not same or earlier.reopen_invoice != order.reopen_invoice:
        raise DunwellError(
            Reason.REQUEST_ID_REUSED,
            "The request_id was used before; a new refund needs a new one.",
            field="request_id",
        )
    return Requested(earlier.id)


def _destination(order: RefundOrder, provider: str) -> Destination:
    manual = provider == MANUAL_PROVIDER
    if order.destination is None:
        return Destination.MANUAL if manual else Destination.PAYMENT_METHOD
    if manual and order.destination is Destination.PAYMENT_METHOD:
        raise field_invalid("destination", "the money came outside of any provider: pay it back so, or to credit")
    return order.destination


def _amount(loaded: LoadedPayment, order: RefundOrder, destination: Destination) -> int:
    """How much is to be refunded, after every check of the payment."""
    payment = loaded.payment
    resource = ("Payment", encode(Prefix.PAYMENT, payment.id))
    if payment.state is not PaymentState.SUCCEEDED:
        raise DunwellError(
            Reason.STATE_CONFLICT, f"Only a payment that has SUCCEEDED is refunded; this one is {payment.state}.",
            metadata={"state": payment.state.value, "allowed": "none"}, resource=resource,
        )  # fmt: skip
    if order.currency_code is not None and order.currency_code != payment.currency_code:
        raise DunwellError(
            Reason.CURRENCY_MISMATCH, f"The payment is in {payment.currency_code}.", field="amount.currency_code",
            metadata={"given": order.currency_code, "expected": payment.currency_code},
        )  # fmt: skip
    if payment.open_disputes > 0:
        raise DunwellError(
            Reason.PAYMENT_DISPUTED, "The payment is in a dispute: refunding it could lose the money twice.",
            metadata={"payment_id": encode(Prefix.PAYMENT, payment.id)}, resource=resource,
        )  # fmt: skip
    most = loaded.left.refundable(destination)
    amount = most if order.amount_minor is None else order.amount_minor
    if not 0 < amount <= most:
        raise DunwellError(
            Reason.REFUND_EXCEEDS_PAYMENT, "More is asked back than is left of the payment.", field="amount",
            metadata={"refundable_minor": str(most), "currency_code": payment.currency_code}, resource=resource,
        )  # fmt: skip
    return amount


async def _check_way_back(uow: UnitOfWork, loaded: LoadedPayment, check_provider: Callable[[str], None]) -> None:
    payment = loaded.payment
    check_provider(payment.provider)
    if uow.recovering:
        raise DunwellError(
            Reason.RECOVERING, "The firm's book is being compared with its providers'; nothing is sent until it is."
        )
    account = await store.account(uow, payment.account_id) if payment.account_id is not None else None
    if account is None or account.state != "ACTIVE" or account.mode != uow.firm.mode:
        raise DunwellError(
            Reason.PROVIDER_NOT_CONFIGURED, f"The account at {payment.provider} that took the money is not in use any more.",
            metadata={"provider": payment.provider},
        )  # fmt: skip
    if loaded.reference is None:
        raise DunwellError(
            Reason.STATE_CONFLICT, f"What {payment.provider} calls the payment is not known; refund it there, or outside.",
            metadata={"state": payment.state.value, "allowed": "none"}, resource=("Payment", encode(Prefix.PAYMENT, payment.id)),
        )  # fmt: skip


async def _await_approval(uow: UnitOfWork, values: dict[str, Any], order: RefundOrder) -> Requested:
    """Above the firm's limit: keep it for a second person. Its amount is kept back all the same."""
    person = uow.context.actor.person
    if person is None:
        raise DunwellError(
            Reason.PERMISSION_DENIED, "Above the firm's limit: name the person in the dunwell-actor metadata."
        )
    proposal = {"destination": values["destination"], "reason": order.reason, "reopen_invoice": order.reopen_invoice}
    approval_id = await approvals.propose(
        uow, ApprovalKind.REFUND.value, values["id"], payment_id=order.payment_id, amount_minor=values["amount"],
        currency_code=values["currency"], proposal=proposal, actor=person,
    )  # fmt: skip
    waiting = {**values, "state": RefundState.AWAITING_APPROVAL.value, "approval_id": approval_id}
    await store.insert(uow, waiting, reserve=True)
    await _tell_requested(uow, values["id"], approval_id=encode(Prefix.APPROVAL, approval_id))
    return Requested(values["id"])


async def _tell_requested(uow: UnitOfWork, refund_id: UUID, **more: Any) -> None:
    refund = await store.get(uow, refund_id)
    assert refund is not None
    await tell_refund(uow, refund, "refund_requested", "refund.created", **more)


# Sending -----------------------------------------------------------------------------------------------------------------


async def begin_send(uow: UnitOfWork, claim: RefundClaim) -> tuple[Refund, ProviderAccount] | None:
    """Move a claimed refund that is not with the provider to SENT; None where it is not to be sent, or no longer this bearer's.

    What cannot be sent any more (a dispute was opened meanwhile, the account is gone) fails: nothing has happened.
    """
    loaded = await lock_all(uow, claim.payment_id)
    refund = await store.get(uow, claim.refund_id, lock=True)
    assert refund is not None
    unsent = refund.state is RefundState.PROCESSING and refund.send_state in (SendState.CREATED, SendState.NOT_SENT)
    if not unsent or (refund.owner, refund.fence) != (claim.owner, claim.fence):
        return None
    if uow.recovering:
        await store.release(uow, refund.id)
        return None
    account = await store.account(uow, claim.account_id)
    if loaded.payment.open_disputes > 0:
        await fail(uow, refund, Failed("payment_disputed"), Source.ANSWER)
        return None
    if account is None or account.mode != uow.firm.mode:
        await fail(uow, refund, Failed("provider_account_gone"), Source.ANSWER)
        return None
    await store.mark_sent(uow, refund.id)
    failpoint("refund.intent")
    return replace(refund, send_state=SendState.SENT), account


# Reading -----------------------------------------------------------------------------------------------------------------


async def get_refund(uow: UnitOfWork, refund_id: UUID) -> RefundView:
    """One refund with its allocations. Errors: RESOURCE_NOT_FOUND."""
    found = await store.view(uow, refund_id)
    if found is None:
        resource = ("Refund", encode(Prefix.REFUND, refund_id))
        raise DunwellError(Reason.RESOURCE_NOT_FOUND, "No such refund.", resource=resource)
    return found


async def list_refunds(
    uow: UnitOfWork, wanted: RefundFilter, *, after: tuple[Any, ...] | None, limit: int
) -> list[RefundView]:
    """A page of refunds, newest first."""
    return await store.page(uow, wanted, after=(after[0], after[1]) if after else None, limit=limit)


def refunds_next_due(uow: UnitOfWork) -> Question[datetime | None]:
    """When a refund next needs somebody, in firm time; a test clock does not pass by one that is under way."""
    return unless_in_hand(uow, store.in_hand(uow), store.next_due(uow))
