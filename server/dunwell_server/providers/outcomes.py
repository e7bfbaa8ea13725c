"""What a provider's answer means: exactly one class per answer, UNKNOWN whenever in doubt.

The classes, and what may be done after each:

===============  ====================================================================================================
SUCCEEDED        The money moved, in the amount asked for.
DECLINED         The provider said no, finally for this key. `DeclineClass` says what may follow.
REQUIRES_ACTION  The payer must act (a link); the key stays open.
PENDING          The provider will know later: webhook or look-up.
NOT_SENT         Proven: *this sending* never reached execution. Same attempt and key may go again.
UNKNOWN          It may or may not have happened. Same key or look-up only; never a new key.
===============  ====================================================================================================

NOT_SENT speaks of one sending. When an earlier sending of the same attempt was UNKNOWN, a refused connection proves
nothing about the earlier one: pass the answer through `after_unknown`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from dunwell_server.kernel.money import Money


class OutcomeClass(StrEnum):
    """What an answer means for the attempt. See the module's table."""

    SUCCEEDED = "SUCCEEDED"
    DECLINED = "DECLINED"
    REQUIRES_ACTION = "REQUIRES_ACTION"
    PENDING = "PENDING"
    NOT_SENT = "NOT_SENT"
    UNKNOWN = "UNKNOWN"


class DeclineClass(StrEnum):
    """What may follow a decline."""

    SOFT = "SOFT"
    """Try again on the firm's schedule."""
    HARD = "HARD"
    """This method is dead and never tried again."""
    CUSTOMER = "CUSTOMER"
    """No blind retry of this method until it changes or the payer acts."""
    TECHNICAL = "TECHNICAL"
    """Recorded trouble on the way: a new attempt after a short wait, a few times, without using a slot."""


class FailureCode(StrEnum):
    """The failure codes of the contract, the same for every provider."""

    CARD_DECLINED = "card_declined"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    EXPIRED_CARD = "expired_card"
    INCORRECT_CVC = "incorrect_cvc"
    PROCESSING_ERROR = "processing_error"
    AUTHENTICATION_REQUIRED = "authentication_required"
    NETWORK_ERROR = "network_error"
    MISSING_PAYMENT_METHOD = "missing_payment_method"


MONEY_MISMATCH: Final = "money mismatch"
"""``evidence["why"]`` of an UNKNOWN that `checked` has made of another claim, which ``evidence["claimed"]`` names."""
CANCELED_CODE: Final = "canceled"
EXPIRED_CODE: Final = "expired"
"""`Outcome.provider_code` of a DECLINED that is the provider's word that a waiting payment has ended unpaid."""

_MESSAGES: Final[Mapping[FailureCode, str]] = MappingProxyType(
    {
        FailureCode.CARD_DECLINED: "The card was declined.",
        FailureCode.INSUFFICIENT_FUNDS: "The card has insufficient funds.",
        FailureCode.EXPIRED_CARD: "The card has expired.",
        FailureCode.INCORRECT_CVC: "The card's security code is incorrect.",
        FailureCode.PROCESSING_ERROR: "The payment could not be processed.",
        FailureCode.AUTHENTICATION_REQUIRED: "The payment needs to be authenticated.",
        FailureCode.NETWORK_ERROR: "The payment provider could not be reached.",
        FailureCode.MISSING_PAYMENT_METHOD: "There is no usable payment method.",
    }
)


def payer_message(code: FailureCode) -> str:
    """What a paying client may be told. It never says lost, stolen, fraud or blocked."""
    return _MESSAGES[code]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One answer about one attempt. Construction refuses combinations that mean nothing (ValueError)."""

    outcome: OutcomeClass
    provider_reference: str | None = None
    """The provider's id of the payment; always known when SUCCEEDED."""
    money: Money | None = None
    """What the provider says it moved (SUCCEEDED) or will move (PENDING, REQUIRES_ACTION)."""
    failure_code: FailureCode | None = None
    decline_class: DeclineClass | None = None
    """Set exactly when DECLINED."""
    provider_code: str | None = None
    """The provider's own code, as it sent it."""
    network_code: str | None = None
    advice_code: str | None = None
    message: str = ""
    """Safe to show to the paying client."""
    action_url: str | None = None
    action_expire_time: datetime | None = None
    retry_after_seconds: float | None = None
    """Advice to wait at least this long. It may delay a retry, never advance one."""
    executed: bool = True
    """False: refused before execution, so the provider remembers nothing under the key."""
    provider_time: datetime | None = None
    """When it happened by the provider's clock."""
    evidence: Mapping[str, str] = field(default_factory=dict)
    """A few redacted facts for the record: status, ids, kinds of error. Never secrets, never whole bodies."""

    def __post_init__(self) -> None:
        if (self.outcome is OutcomeClass.DECLINED) != (self.decline_class is not None):
            raise ValueError("a decline, and only a decline, has a decline class")
        if self.outcome is OutcomeClass.DECLINED and self.failure_code is None:
            raise ValueError("a decline has a failure code")
        if self.outcome is OutcomeClass.SUCCEEDED and (self.provider_reference is None or self.money is None):
            raise ValueError("a success names the provider's payment and the money moved")
        if self.outcome is OutcomeClass.REQUIRES_ACTION and self.provider_reference is None:
            raise ValueError("a payment that waits for its payer names the provider's payment")
        if self.retry_after_seconds is not None and not self.retry_after_seconds >= 0:
            raise ValueError("retry_after_seconds is not negative")

    @property
    def ends_unpaid(self) -> bool:
        """Whether the provider confirms that a waiting payment was cancelled or has expired."""
        return self.outcome is OutcomeClass.DECLINED and self.provider_code in (CANCELED_CODE, EXPIRED_CODE)


def unknown(why: str, *, provider_reference: str | None = None, evidence: Mapping[str, str] | None = None) -> Outcome:
    """An UNKNOWN outcome with a word on why."""
    return Outcome(
        outcome=OutcomeClass.UNKNOWN,
        provider_reference=provider_reference,
        message=payer_message(FailureCode.NETWORK_ERROR),
        evidence={"why": why, **(evidence or {})},
    )


def not_sent(
    why: str, *, retry_after_seconds: float | None = None, evidence: Mapping[str, str] | None = None
) -> Outcome:
    """A NOT_SENT outcome with a word on why. Only where it is proven that nothing was executed."""
    return Outcome(
        outcome=OutcomeClass.NOT_SENT,
        failure_code=FailureCode.NETWORK_ERROR,
        message=payer_message(FailureCode.NETWORK_ERROR),
        retry_after_seconds=retry_after_seconds,
        executed=False,
        evidence={"why": why, **(evidence or {})},
    )


def checked(asked: Money, outcome: Outcome) -> Outcome:
    """The outcome, unless it speaks of other money than was asked for: then UNKNOWN, never a success.

    Applies to every answer that money has moved or will move. The provider's figures are kept as evidence.
    """
    if outcome.outcome in (OutcomeClass.DECLINED, OutcomeClass.NOT_SENT, OutcomeClass.UNKNOWN):
        return outcome
    said = outcome.money
    if said is None or said == asked:
        return outcome
    return replace(
        outcome,
        outcome=OutcomeClass.UNKNOWN,
        message=payer_message(FailureCode.PROCESSING_ERROR),
        action_url=None,
        action_expire_time=None,
        evidence={
            **outcome.evidence,
            "why": MONEY_MISMATCH,
            "claimed": outcome.outcome.value,
            "asked": f"{asked.minor} {asked.currency}",
            "said": f"{said.minor} {said.currency}",
        },
    )


def after_unknown(outcome: Outcome) -> Outcome:
    """What an answer to a *repeated* sending means when an earlier sending of the same key was UNKNOWN.

    An answer that was not executed (a refused connection, a rate limit, a request refused before execution) says
    nothing about the earlier sending, which may still land: the attempt stays UNKNOWN. All else is definitive.
    """
    if outcome.executed and outcome.outcome is not OutcomeClass.NOT_SENT:
        return outcome
    return replace(
        outcome,
        outcome=OutcomeClass.UNKNOWN,
        failure_code=None,
        decline_class=None,
        evidence={**outcome.evidence, "answer": outcome.outcome.value},
    )
