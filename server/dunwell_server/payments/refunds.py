"""Refunds: what they are, how one is spread over what its payment settled, and what evidence does to it. Pure and forward-only.

A refund is asked for once, under one key for ever. Its `state` is what callers see; while it is PROCESSING, `send_state` says how far the
asking has come, as an attempt's state does. The books move when it succeeds, and once more if it comes back afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from dunwell_server.kernel.ids import derive_uuid
from dunwell_server.payments.evidence import NotSent, Pending, Succeeded, Unknown
from dunwell_server.payments.model import Source
from dunwell_server.providers.abilities import RefundOutcome, RefundOutcomeClass


class RefundState(StrEnum):
    """How far a refund has come."""

    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    PROCESSING = "PROCESSING"
    PENDING = "PENDING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    REJECTED = "REJECTED"

    @property
    def reserves(self) -> bool:
        """Its amount is kept back of the payment: nothing has been booked, and it may still happen."""
        return self in (RefundState.AWAITING_APPROVAL, RefundState.PROCESSING, RefundState.PENDING)


class SendState(StrEnum):
    """How far the asking of a PROCESSING refund has come; ANSWERED once the provider has taken or refused it."""

    CREATED = "CREATED"
    SENT = "SENT"
    NOT_SENT = "NOT_SENT"
    UNKNOWN = "UNKNOWN"
    ANSWERED = "ANSWERED"


class Destination(StrEnum):
    """Where the money goes."""

    PAYMENT_METHOD = "PAYMENT_METHOD"
    CREDIT = "CREDIT"
    MANUAL = "MANUAL"


MADE_AT_PROVIDER: Final = "MADE_AT_PROVIDER"
"""The reason of a refund that was found in the provider's record."""


@dataclass(frozen=True, slots=True)
class Refund:
    """Money sent back from one payment, in minor units of its currency. `lease_until` is machine time, all other times firm time.

    Once it has succeeded, `amount_minor` = `from_payable_minor` (what credit notes had promised to pay back) + `from_credit_minor` + its
    allocations to invoices + `uncovered_minor`.
    """

    id: UUID
    payment_id: UUID
    client_id: UUID
    state: RefundState
    send_state: SendState
    currency_code: str
    amount_minor: int
    from_credit_minor: int
    from_payable_minor: int
    uncovered_minor: int
    destination: Destination
    reason: str | None
    note: str | None
    reopen_invoice: bool
    provider: str
    account_id: UUID | None
    idempotency_key: str
    provider_reference: str | None
    payment_reference: str | None
    failure_code: str | None
    failed_after_success: bool
    evidence: dict[str, Any] | None
    approval_id: UUID | None
    actor: str
    send_count: int
    check_count: int
    next_check_time: datetime | None
    needs_person: bool
    first_send_time: datetime | None
    send_time: datetime | None
    unknown_time: datetime | None
    succeed_time: datetime | None
    finish_time: datetime | None
    owner: UUID | None
    fence: int
    lease_until: datetime | None
    firm_time: datetime
    version: int
    create_time: datetime
    update_time: datetime


@dataclass(frozen=True, slots=True)
class RefundClaim:
    """The right to work on a refund, until its lease ends or a higher fence exists."""

    refund_id: UUID
    payment_id: UUID
    client_id: UUID
    account_id: UUID
    state: RefundState
    send_state: SendState
    fence: int
    owner: UUID


def request_refund_id(firm_id: UUID, request_id: UUID) -> UUID:
    """The id of the refund that one request asks for: the same request, also after a restore, is the same refund."""
    return derive_uuid("refund", firm_id, request_id)


def adopted_refund_id(firm_id: UUID, account_id: UUID, reference: str) -> UUID:
    """The id of a refund that was made at the provider."""
    return derive_uuid("refund", "adopted", firm_id, account_id, reference)


def refund_key(refund_id: UUID) -> str:
    """The key under which the provider knows the refund, for ever."""
    return f"v1:refund:{refund_id}"


def refund_id_of_key(key: str | None) -> UUID | None:
    """The refund that a key is about; None for what is no key of a refund."""
    if key is None or not key.startswith("v1:refund:"):
        return None
    try:
        return UUID(key.removeprefix("v1:refund:"))
    except ValueError:
        return None


# How much, and of what ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a payment. `settled`: of each invoice, the newest allocation first; `credit`: of what it left as client credit, as far as
    the client still has it; `promised`: what credit notes of its invoices promised to pay back, by note. `returned` is refunded and charged back;
    `reserved` is asked back and not back yet.
    """

    captured: int
    returned: int
    reserved: int
    credit: int
    settled: Sequence[tuple[UUID, int]]
    promised: Sequence[tuple[UUID, int]] = ()

    def refundable(self, destination: Destination) -> int:
        """The most that a new refund may take.

        What has become client credit is credit already, so a refund to credit takes settled money only; what is reserved takes credit first.
        """
        settled = sum(amount for _, amount in (*self.settled, *self.promised))
        reachable = settled + self.credit - self.reserved
        if destination is Destination.CREDIT:
            reachable = settled - max(0, self.reserved - self.credit)
        return max(0, min(self.captured - self.returned - self.reserved, reachable))

    def fits(self, amount: int, *, reserved: bool) -> bool:
        """Whether a refund of `amount` can be booked; `reserved`: its own amount is among what is reserved."""
        return self.returned + self.reserved + (0 if reserved else amount) <= self.captured


@dataclass(frozen=True, slots=True)
class Spread:
    """What a refund is taken from: `promises` by credit note, `parts` by invoice. `uncovered` is money that neither credit nor invoices can give back: zero, unless the client has used up
    its credit while the refund was on its way."""

    from_credit: int
    parts: dict[UUID, int]
    uncovered: int
    promises: dict[UUID, int] = field(default_factory=dict)


def spread(amount: int, left: Left, destination: Destination) -> Spread:
    """Take `amount` first of what credit notes promised to pay back, then of the client credit that the payment left, then of its invoices, the
    newest allocation first."""
    promises, rest = _fill(amount, left.promised)
    from_credit = 0 if destination is Destination.CREDIT else min(rest, left.credit)
    parts, rest = _fill(rest - from_credit, left.settled)
    return Spread(from_credit, parts, rest, promises)


def _fill(amount: int, places: Sequence[tuple[UUID, int]]) -> tuple[dict[UUID, int], int]:
    """Take `amount` from the places in their order; what each gives, and what none had."""
    parts: dict[UUID, int] = {}
    for place, available in places:
        share = min(amount, available)
        if share > 0:
            parts[place] = share
            amount -= share
    return parts, amount


# What evidence does ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Failed:
    """The provider refused it, or its money has come back. `code` is the provider's word."""

    code: str
    reference: str | None = None


RefundEvidence = Succeeded | Pending | Failed | NotSent | Unknown


class Step(StrEnum):
    """What evidence makes of a refund."""

    NOTHING = "nothing"
    SUCCEED = "succeed"
    SUCCEED_AND_COME_BACK = "succeed_and_come_back"
    """News from the past: it had succeeded before it failed. The end is the same as in the right order."""
    COME_BACK = "come_back"
    """The money of a success is with the firm again."""
    FAIL = "fail"
    PEND = "pend"
    UNSENT = "unsent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Standing:
    """What the effect of evidence depends on. `refused`: it failed without an object of its own at the provider."""

    state: RefundState
    send_state: SendState
    refused: bool = False
    came_back: bool = False


_SETTLES_NOT_SENT = frozenset({Source.LOOKUP, Source.PERSON})


def judge_refund(standing: Standing, evidence: RefundEvidence, source: Source, *, holds_fence: bool) -> Step:
    """The refund's next step. A definitive answer of the provider is always accepted; the absence of one proves nothing.

    `holds_fence`: the bearer is the one who may send; only its own failure to send says anything about the refund.
    """
    state, send_state = standing.state, standing.send_state
    sent = state is RefundState.PROCESSING and send_state is SendState.SENT
    match evidence:
        case Succeeded():
            return _success(standing)
        case Failed():
            if state is RefundState.SUCCEEDED:
                return Step.COME_BACK
            return Step.FAIL if state in (RefundState.PROCESSING, RefundState.PENDING) else Step.NOTHING
        case Pending():
            return Step.PEND if state in (RefundState.AWAITING_APPROVAL, RefundState.PROCESSING) else Step.NOTHING
        case NotSent():
            unknown = state is RefundState.PROCESSING and send_state is SendState.UNKNOWN
            proven = (sent and source is Source.ANSWER and holds_fence) or (unknown and source in _SETTLES_NOT_SENT)
            return Step.UNSENT if proven else Step.NOTHING
        case Unknown():
            return Step.UNKNOWN if sent and (holds_fence or source is Source.CRASH) else Step.NOTHING


def _success(standing: Standing) -> Step:
    match standing.state:
        case RefundState.SUCCEEDED | RefundState.REJECTED:
            return Step.NOTHING
        case RefundState.FAILED:
            if standing.came_back:
                return Step.NOTHING
            return Step.SUCCEED if standing.refused else Step.SUCCEED_AND_COME_BACK
        case _:
            return Step.SUCCEED


def refund_evidence(outcome: RefundOutcome) -> RefundEvidence:
    """What a provider's answer says."""
    match outcome.outcome:
        case RefundOutcomeClass.SUCCEEDED if outcome.money is not None:
            return Succeeded(outcome.provider_reference, outcome.money.minor, outcome.money.currency)
        case RefundOutcomeClass.PENDING:
            return Pending(outcome.provider_reference)
        case RefundOutcomeClass.FAILED:
            return Failed(outcome.provider_code or "refused", outcome.provider_reference)
        case RefundOutcomeClass.NOT_SENT:
            wait = outcome.retry_after_seconds
            return NotSent(
                outcome.evidence.get("why", "not sent"), timedelta(seconds=wait) if wait is not None else None
            )
        case _:
            return Unknown(_why(outcome))


def repeated_evidence(outcome: RefundOutcome) -> RefundEvidence:
    """What the answer to a *repeated* sending says when an earlier one is unknown: what was not executed says nothing about the earlier one."""
    if outcome.executed and outcome.outcome is not RefundOutcomeClass.NOT_SENT:
        return refund_evidence(outcome)
    return Unknown(f"the repeat was not executed: {_why(outcome)}")


def _why(outcome: RefundOutcome) -> str:
    parts = [f"{name}: {value}" if name != "why" else value for name, value in outcome.evidence.items()]
    return "; ".join(parts)[:500] or "no definite answer"
