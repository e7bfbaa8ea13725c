"""What is learned about an attempt, from whatever side, and what it may change. Pure and forward-only.

The reply to a call, a repeat, a look-up, a notification and a person all bring the same kinds of evidence. A definitive answer of the
provider is always accepted; the absence of an answer never proves anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from dunwell_server.payments.model import AttemptState, Failure, Source


@dataclass(frozen=True, slots=True)
class Succeeded:
    """The provider took the money: `amount_minor` of `currency_code`, under its id `reference`."""

    reference: str | None
    amount_minor: int
    currency_code: str


@dataclass(frozen=True, slots=True)
class Declined:
    """The provider said no."""

    failure: Failure
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class ActionRequired:
    """The client must act at `url`, until `expire_time` (firm time)."""

    reference: str | None
    url: str | None
    expire_time: datetime | None


@dataclass(frozen=True, slots=True)
class Pending:
    """The provider has accepted it and will tell the outcome later."""

    reference: str | None


@dataclass(frozen=True, slots=True)
class NotSent:
    """Proven not to have happened. `retry_after` is the provider's wish."""

    reason: str
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nothing can be concluded: timeout, reset, server error, an answer that does not fit."""

    reason: str
    other_money: bool = False
    """The provider claims to have taken money, and it is not what was asked for: asking again will not change that."""


Evidence = Succeeded | Declined | ActionRequired | Pending | NotSent | Unknown


@dataclass(frozen=True, slots=True)
class Verdict:
    """What evidence does to an attempt: its new state, or none where the evidence changes nothing."""

    state: AttemptState | None
    late_landing: bool = False
    """The money is real but the payment has its success already: it is recorded as a payment of its own."""


IGNORED = Verdict(None)

_WITH_PROVIDER = frozenset(
    {AttemptState.SENT, AttemptState.UNKNOWN, AttemptState.PENDING, AttemptState.REQUIRES_ACTION}
)
_SETTLES_NOT_SENT = frozenset({Source.LOOKUP, Source.PERSON})


def judge(
    state: AttemptState, evidence: Evidence, source: Source, *, holds_fence: bool, other_success: bool
) -> Verdict:
    """The attempt's next state.

    `holds_fence`: the bearer is the one who may send; only its own failure to send says anything about the attempt. `other_success`: another
    attempt of the payment has succeeded.
    """
    match evidence:
        case Succeeded():
            return _success(state, other_success)
        case Declined():
            return Verdict(AttemptState.DECLINED) if state in _WITH_PROVIDER else IGNORED
        case Pending():
            return Verdict(AttemptState.PENDING) if state in _WITH_PROVIDER else IGNORED
        case ActionRequired():
            return Verdict(AttemptState.REQUIRES_ACTION) if state in _WITH_PROVIDER else IGNORED
        case NotSent():
            if state is AttemptState.SENT and source is Source.ANSWER and holds_fence:
                return Verdict(AttemptState.NOT_SENT)
            if state is AttemptState.UNKNOWN and source in _SETTLES_NOT_SENT:
                return Verdict(AttemptState.NOT_SENT)
            return IGNORED
        case Unknown():
            if state is AttemptState.SENT and (holds_fence or source is Source.CRASH):
                return Verdict(AttemptState.UNKNOWN)
            return IGNORED


def _success(state: AttemptState, other_success: bool) -> Verdict:
    if state is AttemptState.SUCCEEDED:
        return IGNORED
    if other_success:
        return Verdict(AttemptState.CLOSED if state.is_open else None, late_landing=True)
    return Verdict(AttemptState.SUCCEEDED)
