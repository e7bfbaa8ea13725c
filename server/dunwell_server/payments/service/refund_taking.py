"""Taking over one refund of the provider's record, whoever brings it: a notification, the reconciler, a look at one invoice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, decode
from dunwell_server.payments.evidence import NotSent, Unknown
from dunwell_server.payments.model import Source
from dunwell_server.payments.refunds import (
    MADE_AT_PROVIDER,
    Destination,
    Failed,
    RefundState,
    SendState,
    adopted_refund_id,
    refund_evidence,
    refund_id_of_key,
    refund_key,
)
from dunwell_server.payments.service.refund_outcomes import (
    RefundApplied,
    apply_refund_outcome,
    fail,
    give_way,
    lock_all,
    tell_refund,
)
from dunwell_server.payments.store import refunds as store
from dunwell_server.payments.store.methods import ProviderAccount
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Severity
from dunwell_server.platform.provider_references import remember
from dunwell_server.providers.abilities import ProviderRefund

ADOPTED_NOTE: Final = "Taken over from the provider's record."


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of the provider's refund. `applied` None: it cannot be taken over yet, because of `why`."""

    applied: RefundApplied | None
    adopted: bool = False
    why: str = ""
    never: bool = False
    """Nor ever will it be."""


async def take_refund(
    uow: UnitOfWork, account_id: UUID, provider: str, theirs: ProviderRefund, source: Source
) -> Taken:
    """Find the refund by our id on it, by its key, or by the provider's id, and apply what it has become.

    A refund that nobody asked for here, of a payment that is in the book, is adopted: it was made at the provider, or the book was restored
    to a time before it.
    """
    refund_id = await _ours(uow, account_id, theirs)
    if refund_id is not None:
        return Taken(await apply_refund_outcome(uow, refund_id, refund_evidence(theirs.outcome), source))
    return await _adopt(uow, account_id, provider, theirs, source)


def claimed_id(theirs: ProviderRefund) -> UUID | None:
    """The id that we have put on the object; None where somebody else made it."""
    try:
        named = decode(Prefix.REFUND, theirs.metadata.get("refund", ""), "refund")
    except DunwellError:
        named = None
    keyed = refund_id_of_key(theirs.metadata.get("key"))
    return named if keyed is None or named == keyed else None


async def _ours(uow: UnitOfWork, account_id: UUID, theirs: ProviderRefund) -> UUID | None:
    named = claimed_id(theirs) or refund_id_of_key(theirs.metadata.get("key"))
    if named is not None:
        refund = await store.get(uow, named)
        if refund is not None and refund.account_id == account_id:
            return named
    return await store.by_reference(uow, account_id, theirs.provider_reference)


async def _adopt(uow: UnitOfWork, account_id: UUID, provider: str, theirs: ProviderRefund, source: Source) -> Taken:
    if theirs.money.minor <= 0:
        return Taken(None, why="a refund of no money", never=True)
    evidence = refund_evidence(theirs.outcome)
    if isinstance(evidence, Unknown | NotSent):
        return Taken(None, why="the provider does not say what became of the refund")
    payment_id = await store.payment_by_reference(uow, account_id, theirs.payment_reference)
    if payment_id is None:
        return Taken(None, why="the refunded payment is not in the book yet")
    loaded = await lock_all(uow, payment_id)
    payment = loaded.payment
    known = await store.by_reference(uow, account_id, theirs.provider_reference)
    if known is not None:  # Somebody else was faster, before the locks.
        return Taken(await apply_refund_outcome(uow, known, evidence, source))
    if theirs.money.currency != payment.currency_code:
        return Taken(None, why=f"the refund is in {theirs.money.currency}, the payment in {payment.currency_code}")
    reserve = not isinstance(evidence, Failed)
    if reserve and not loaded.left.fits(theirs.money.minor, reserved=False):
        # It was made at the provider, perhaps in place of one that waits here for its approval.
        beyond = loaded.left.returned + loaded.left.reserved + theirs.money.minor - loaded.left.captured
        await give_way(uow, payment_id, beyond, "the payment was refunded at the provider")
        loaded = await lock_all(uow, payment_id)
    if reserve and not loaded.left.fits(theirs.money.minor, reserved=False):
        return Taken(None, why="more was refunded than is left of the payment, while other refunds are under way")
    refund_id = claimed_id(theirs) or adopted_refund_id(uow.firm_id, account_id, theirs.provider_reference)
    values: dict[str, Any] = {
        "id": refund_id, "payment_id": payment.id, "client_id": payment.client_id, "state": RefundState.PROCESSING.value,
        "send_state": SendState.UNKNOWN.value, "currency": payment.currency_code, "amount": theirs.money.minor,
        "destination": Destination.PAYMENT_METHOD.value, "reason": MADE_AT_PROVIDER, "note": ADOPTED_NOTE, "provider": provider,
        "account_id": account_id, "key": refund_key(refund_id), "payment_reference": theirs.payment_reference,
        "actor": uow.context.actor.label,
    }  # fmt: skip
    if isinstance(evidence, Failed):
        # It has come to nothing, and so keeps nothing back.
        values |= {"state": RefundState.FAILED.value, "send_state": SendState.ANSWERED.value}
    await store.insert(uow, values, reserve=reserve)
    await remember(uow, account_id, theirs.provider_reference)
    refund = await store.get(uow, refund_id)
    assert refund is not None
    await tell_refund(
        uow, refund, "refund_adopted", "refund.created", Severity.WARNING, provider_reference=theirs.provider_reference
    )
    if isinstance(evidence, Failed):
        reference = evidence.reference or theirs.provider_reference
        await fail(uow, refund, replace(evidence, reference=reference), source)
        return Taken(RefundApplied(refund_id, payment_id, RefundState.FAILED, True), adopted=True)
    return Taken(await apply_refund_outcome(uow, refund_id, evidence, source), adopted=True)


class RefundIntake:
    """What the reconciler hands the provider's refunds to."""

    async def take(self, uow: UnitOfWork, account: ProviderAccount, refund: ProviderRefund) -> bool:
        """Apply it; False where it changed nothing. STATE_CONFLICT where the book has no place for it."""
        taken = await take_refund(uow, account.id, account.provider, refund, Source.LOOKUP)
        if taken.applied is None:
            raise DunwellError(
                Reason.STATE_CONFLICT, taken.why, metadata={"state": refund.outcome.outcome.value, "allowed": "none"}
            )
        return taken.applied.changed or taken.adopted
