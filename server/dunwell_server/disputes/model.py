"""A dispute's states, and what a provider's word about it changes. Pure and forward-only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from dunwell_server.providers.abilities import ProviderDispute, ProviderDisputeState


class DisputeState(StrEnum):
    """How far a dispute has come."""

    OPENED = "OPENED"
    UNDER_REVIEW = "UNDER_REVIEW"
    WON = "WON"
    LOST = "LOST"
    CLOSED = "CLOSED"

    @property
    def is_open(self) -> bool:
        """The bank has not decided yet."""
        return self in (DisputeState.OPENED, DisputeState.UNDER_REVIEW)


class DisputeKind(StrEnum):
    """Whether money moves."""

    INQUIRY = "INQUIRY"
    CHARGEBACK = "CHARGEBACK"


@dataclass(frozen=True, slots=True)
class Dispute:
    """One dispute as the book has it. Amounts in minor units of the payment's currency."""

    id: UUID
    payment_id: UUID
    client_id: UUID
    account_id: UUID
    provider: str
    provider_reference: str
    kind: DisputeKind
    state: DisputeState
    reason: str
    currency_code: str
    amount_minor: int
    fee_minor: int
    withdrawn: bool
    """The provider has taken amount and fee."""
    charged_back_minor: int
    """Taken from the payment when it was lost; after an appeal, what its invoices could not take again: they had been paid otherwise."""
    credit_minor: int
    """Taken from the client's credit when it was lost."""
    loss_minor: int
    """Borne by the firm: the money had gone elsewhere already."""
    respond_by_time: datetime | None


_STATES = {
    ProviderDisputeState.INQUIRY_NEEDS_RESPONSE: (DisputeKind.INQUIRY, DisputeState.OPENED),
    ProviderDisputeState.INQUIRY_UNDER_REVIEW: (DisputeKind.INQUIRY, DisputeState.UNDER_REVIEW),
    ProviderDisputeState.INQUIRY_CLOSED: (DisputeKind.INQUIRY, DisputeState.CLOSED),
    ProviderDisputeState.NEEDS_RESPONSE: (DisputeKind.CHARGEBACK, DisputeState.OPENED),
    ProviderDisputeState.UNDER_REVIEW: (DisputeKind.CHARGEBACK, DisputeState.UNDER_REVIEW),
    ProviderDisputeState.WON: (DisputeKind.CHARGEBACK, DisputeState.WON),
    ProviderDisputeState.LOST: (DisputeKind.CHARGEBACK, DisputeState.LOST),
    ProviderDisputeState.PREVENTED: (DisputeKind.INQUIRY, DisputeState.CLOSED),
}

_RANK = {
    DisputeState.OPENED: 0,
    DisputeState.UNDER_REVIEW: 1,
    DisputeState.WON: 2,
    DisputeState.LOST: 2,
    DisputeState.CLOSED: 3,
}


def said(theirs: ProviderDispute) -> tuple[DisputeKind, DisputeState]:
    """Kind and state in our words."""
    return _STATES[theirs.state]


def next_state(
    kind: DisputeKind, state: DisputeState, said_kind: DisputeKind, said_state: DisputeState, *, fresh: bool
) -> tuple[DisputeKind, DisputeState] | None:
    """What becomes of a known dispute; None where the word is stale or changes nothing.

    `fresh`: the word was read from the provider just now, so that one which lies behind the book is an appeal, not an echo. An inquiry may
    become a chargeback; never the other way round.
    """
    if said_kind is DisputeKind.INQUIRY and kind is DisputeKind.CHARGEBACK:
        return None
    if said_kind is not kind:
        return said_kind, said_state
    if said_state is state or state is DisputeState.CLOSED:
        return None
    if state is DisputeState.LOST and said_state in (DisputeState.UNDER_REVIEW, DisputeState.WON):
        return (kind, said_state) if fresh or said_state is DisputeState.WON else None
    if state is DisputeState.WON and said_state is DisputeState.LOST:
        return None
    return (kind, said_state) if _RANK[said_state] > _RANK[state] else None


@dataclass(frozen=True, slots=True)
class Settled:
    """What a payment has settled of one invoice, and still has."""

    invoice_id: UUID
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Spread:
    """Where a lost amount is taken from. The parts add up to what was asked, or to what the payment still has."""

    invoices: tuple[Settled, ...]
    credit_minor: int
    loss_minor: int


def spread(amount: int, settled: Sequence[Settled], credit: int) -> Spread:
    """Take `amount` from the invoices that the payment has settled, in the given order, then from the client's credit; the firm bears the rest."""
    parts: list[Settled] = []
    left = amount
    for part in settled:
        taken = min(left, part.amount_minor)
        if taken > 0:
            parts.append(Settled(part.invoice_id, taken))
            left -= taken
    from_credit = min(left, max(credit, 0))
    return Spread(tuple(parts), from_credit, left - from_credit)


def settle_again(dispute: Dispute, held: Sequence[Settled], open_amounts: Mapping[UUID, int]) -> Spread:
    """What undoing a lost dispute gives back: to the invoices that it `held` charged back, as far as they still owe that (minor units by
    invoice); all else to the client's credit, save what the firm had borne, which is the firm's again."""
    parts: list[Settled] = []
    left = dispute.amount_minor - dispute.credit_minor - dispute.loss_minor
    for part in held:
        returned = min(left, part.amount_minor, open_amounts.get(part.invoice_id, 0))
        if returned > 0:
            parts.append(Settled(part.invoice_id, returned))
            left -= returned
    return Spread(tuple(parts), dispute.credit_minor + left, dispute.loss_minor)


def merged(held: Sequence[Settled], parts: Sequence[Settled], *, sign: int = 1) -> list[Settled]:
    """What is held charged back of each invoice once `parts` are added to it, or with `sign` -1 taken off it."""
    amounts = {part.invoice_id: part.amount_minor for part in held}
    for part in parts:
        amounts[part.invoice_id] = amounts.get(part.invoice_id, 0) + sign * part.amount_minor
    return [Settled(invoice_id, amount) for invoice_id, amount in amounts.items()]
