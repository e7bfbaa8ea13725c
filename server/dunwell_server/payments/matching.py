"""What the provider's list says beside what the book says: pure comparison, for reconciliation."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from dunwell_server.kernel.ids import derive_uuid
from dunwell_server.payments.evidence import ActionRequired, Declined, Evidence, Pending, Succeeded
from dunwell_server.payments.model import AttemptState


class Step(StrEnum):
    """What follows from one comparison."""

    MATCHED = "MATCHED"
    TAKE = "TAKE"
    """The provider knows more: its answer is applied to our attempt."""
    ADOPT = "ADOPT"
    """Money of its own that the book does not have."""
    DIFFERS = "DIFFERS"
    WAITS = "WAITS"
    """Nothing can be said yet: the outcome is still on its way."""


@dataclass(frozen=True, slots=True)
class Theirs:
    """One payment of the provider's list. `is_ours`: its metadata names this firm; `payment_id` and `attempt_no` come from there too."""

    reference: str
    key: str | None
    is_ours: bool
    payment_id: UUID | None
    attempt_no: int | None
    amount_minor: int
    currency_code: str
    evidence: Evidence
    created_time: datetime
    customer_reference: str | None = None

    @property
    def moved(self) -> bool:
        """Money has come."""
        return isinstance(self.evidence, Succeeded)

    @property
    def failed(self) -> bool:
        """No money has come, finally."""
        return isinstance(self.evidence, Declined)


@dataclass(frozen=True, slots=True)
class Ours:
    """The same in the book: an attempt, or (`attempt_id` None) a payment that was adopted before."""

    attempt_id: UUID | None
    payment_id: UUID
    client_id: UUID
    invoice_id: UUID | None
    state: AttemptState
    key: str | None
    reference: str | None
    amount_minor: int
    currency_code: str
    in_hand: bool
    """Somebody is asking about it at this moment."""
    send_time: datetime | None = None
    by_hand: bool = False
    """A person has said that it succeeded; `reference` is the provider's own word since, None: the provider has said nothing yet."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The step, and for a difference what differs."""

    step: Step
    reason: str | None = None
    message: str | None = None


MATCHED: Final = Decision(Step.MATCHED)
TAKE: Final = Decision(Step.TAKE)
WAITS: Final = Decision(Step.WAITS)


def compare(ours: Ours, theirs: Theirs) -> Decision:
    """Compare one payment as the provider has it with our attempt of the same key or reference."""
    same_object = ours.reference in (None, theirs.reference)
    match theirs.evidence:
        case Succeeded():
            if (theirs.amount_minor, theirs.currency_code) != (ours.amount_minor, ours.currency_code):
                message = (
                    f"the book says {ours.amount_minor} {ours.currency_code}, "
                    f"the provider {theirs.amount_minor} {theirs.currency_code} (minor units)"
                )
                return Decision(Step.DIFFERS, "AMOUNT_DIFFERS", message)
            if ours.state is AttemptState.SUCCEEDED and ours.by_hand and ours.reference is None:
                return TAKE
            if ours.state is AttemptState.SUCCEEDED:
                return MATCHED if same_object else Decision(Step.ADOPT)
            return WAITS if ours.in_hand else TAKE
        case Declined():
            if ours.state is AttemptState.SUCCEEDED:
                return _contradiction(ours, "failed") if same_object else MATCHED
            return TAKE if ours.state.is_open and not ours.in_hand else MATCHED
        case Pending() | ActionRequired():
            pending = isinstance(theirs.evidence, Pending)
            if ours.state is (AttemptState.PENDING if pending else AttemptState.REQUIRES_ACTION):
                return MATCHED
            if ours.state is AttemptState.SUCCEEDED:
                return _contradiction(ours, "not finished") if same_object else WAITS
            return TAKE if ours.state.is_open and not ours.in_hand else WAITS
        case _:
            return WAITS


def _contradiction(ours: Ours, theirs: str) -> Decision:
    return Decision(Step.DIFFERS, "STATE_DIFFERS", f"the book says {ours.state.value}, the provider: {theirs}")


def key_parts(key: str | None) -> tuple[UUID, int] | None:
    """Payment and attempt number in an idempotency key of ours; None for any other text."""
    version, _, rest = (key or "").partition(":")
    payment, _, number = rest.partition(":")
    if version != "v1" or not number.isdecimal() or len(number) > 4:
        return None
    try:
        found = UUID(payment)
    except ValueError:
        return None
    return (found, int(number)) if str(found) == payment else None


def subject_of(account_id: UUID, kind: str, reference: str) -> UUID:
    """The id under which runs tell of one object of an account: the same in every run."""
    return derive_uuid("reconciled", account_id, kind, reference)
