"""`apply_outcome`: the one way in which anything learned about an attempt changes the books, forward-only.

The reply of the call, a repeat, a look-up, a notification, a person: all come through here. In one transaction: attempt, payment, hold,
allocations, invoices, ledger, journal, next step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from dunwell_server.billing.service import credit
from dunwell_server.billing.service.collection import lock_invoices
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.ledger import rules
from dunwell_server.ledger.service import post
from dunwell_server.payments import ladder
from dunwell_server.payments.evidence import Evidence, NotSent, Succeeded, Unknown, Verdict, judge
from dunwell_server.payments.model import AttemptState, Claim, PaymentKind, Source, late_payment_id
from dunwell_server.payments.service.settling import (
    ACTION_LIFE,
    Case,
    ask_person,
    lock_targets,
    settle,
    succeed,
    waited_too_long,
    wake_if_due,
)
from dunwell_server.payments.store import attempts, payments
from dunwell_server.payments.store.attempts import Loaded
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.failpoints import failpoint
from dunwell_server.platform.journal import Category, Change, Severity, record
from dunwell_server.platform.provider_references import remember
from dunwell_server.platform.work import WorkKind, wake

__all__ = ["ACTION_LIFE", "Answered", "Applied", "apply_outcome", "apply_outcomes", "wake_if_due"]


@dataclass(frozen=True, slots=True)
class Applied:
    """What evidence led to. `follow_up` is an attempt that the bearer is to send at once: a backup method."""

    attempt_id: UUID
    payment_id: UUID
    state: AttemptState
    changed: bool
    follow_up: Claim | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """What was learned about a claimed attempt, by whom, and how."""

    claim: Claim
    outcome: Evidence
    source: Source


async def apply_outcome(
    uow: UnitOfWork, attempt_id: UUID, outcome: Evidence, source: Source, claim: Claim | None = None
) -> Applied:
    """Apply what was learned about an attempt; evidence that adds nothing changes nothing.

    `claim` is what the bearer holds: it decides whether its own failure to send counts, and who sends a backup. RESOURCE_NOT_FOUND for an
    attempt that the firm does not have.
    """
    if claim is not None:
        invoices = await lock_targets(uow, claim.payment_id, claim.invoice_id, claim.client_id)
    else:
        where = await attempts.whereabouts(uow, attempt_id)
        if where is None:
            resource = ("PaymentAttempt", encode(Prefix.ATTEMPT, attempt_id))
            raise DunwellError(Reason.RESOURCE_NOT_FOUND, "No such attempt.", resource=resource)
        invoices = await lock_targets(uow, where["payment_id"], where["invoice_id"], where["client_id"])
    case = Case(uow, await attempts.load(uow, attempt_id), invoices, claim, source)
    outcome = _of_its_money(case, outcome)
    return await _accept(case, outcome, _judge(case, outcome))


async def apply_outcomes(uow: UnitOfWork, answered: Sequence[Answered]) -> list[Applied]:
    """`apply_outcome` of several claimed attempts at once, in their order: each of another client, and for one invoice.

    Plain successes are written in sets, the rest one after the other.
    """
    locked = await lock_invoices(uow, [each.claim.invoice_id for each in answered if each.claim.invoice_id is not None])
    invoices = {invoice.id: invoice for invoice in locked}
    loaded = await attempts.load_all(uow, [each.claim.attempt_id for each in answered])
    applied: dict[UUID, Applied] = {}
    successes: list[tuple[Case, Succeeded]] = []
    rest: list[tuple[Case, Evidence, Verdict]] = []
    for each in answered:
        claim = each.claim
        assert claim.invoice_id is not None
        case = Case(uow, loaded[claim.attempt_id], [invoices[claim.invoice_id]], claim, each.source)
        outcome = _of_its_money(case, each.outcome)
        verdict = _judge(case, outcome)
        if isinstance(outcome, Succeeded) and verdict.state is not None and not verdict.late_landing:
            successes.append((case, outcome))
            applied[claim.attempt_id] = Applied(claim.attempt_id, claim.payment_id, verdict.state, True)
        else:
            rest.append((case, outcome, verdict))
    if successes:
        await succeed(uow, successes)
        for case, _ in successes:
            _recorded(case)
    for case, outcome, verdict in rest:
        applied[case.loaded.attempt.id] = await _accept(case, outcome, verdict)
    return [applied[each.claim.attempt_id] for each in answered]


def _of_its_money(case: Case, outcome: Evidence) -> Evidence:
    """The evidence, unless it claims a success of other money than was asked for: that tells nothing."""
    if isinstance(outcome, Succeeded) and not _fits(case.loaded, outcome):
        return Unknown("the provider speaks of other money than was asked for", other_money=True)
    return outcome


def _holds_fence(case: Case) -> bool:
    claim, attempt = case.claim, case.loaded.attempt
    return claim is not None and attempt.fence == claim.fence and attempt.owner == claim.owner


def _judge(case: Case, outcome: Evidence) -> Verdict:
    loaded = case.loaded
    return judge(
        loaded.attempt.state, outcome, case.source, holds_fence=_holds_fence(case), other_success=loaded.other_success
    )


async def _accept(case: Case, outcome: Evidence, verdict: Verdict) -> Applied:
    attempt_id, payment_id = case.loaded.attempt.id, case.loaded.payment.id
    if verdict.late_landing:
        assert isinstance(outcome, Succeeded)
        return await _late_landing(case, outcome, verdict.state)
    if verdict.state is None:
        await _name(case, outcome)
        return await _inconclusive(case, outcome, holds_fence=_holds_fence(case))
    follow_up = await settle(case, outcome)
    _recorded(case)
    return Applied(attempt_id, payment_id, verdict.state, True, follow_up)


async def _name(case: Case, outcome: Evidence) -> None:
    """A success that a person has told of is confirmed: from now on the payment has the provider's id, not what the person has typed."""
    attempt = case.loaded.attempt
    by_hand = attempt.state is AttemptState.SUCCEEDED and (attempt.evidence or {}).get("by_hand") is True
    if by_hand and isinstance(outcome, Succeeded) and outcome.reference:
        await payments.note_reference(case.uow, attempt.payment_id, outcome.reference)
        await remember(case.uow, attempt.account_id, outcome.reference)


def _recorded(case: Case) -> None:
    if case.source in (Source.REPLAY, Source.LOOKUP):
        failpoint("resolver.record")
    else:
        failpoint("attempt.record")


def _fits(loaded: Loaded, outcome: Succeeded) -> bool:
    payment = loaded.payment
    return (outcome.amount_minor, outcome.currency_code) == (payment.amount_minor, payment.currency_code)


async def _late_landing(case: Case, outcome: Succeeded, state: AttemptState | None) -> Applied:
    """A further success of a payment: money of its own, kept as the client's credit."""
    uow, loaded = case.uow, case.loaded
    attempt, payment = loaded.attempt, loaded.payment
    late_id = late_payment_id(uow.firm_id, attempt.id)
    if await payments.get(uow, late_id) is not None:
        return Applied(attempt.id, payment.id, attempt.state, False)
    received = payments.Received(
        late_id, payment.client_id, PaymentKind.LATE_LANDING.value, payment.currency_code, payment.amount_minor, payment.amount_minor, (),
        attempt.provider, attempt.account_id, payment.mode, attempt.method_id, late_attempt_id=attempt.id,
    )  # fmt: skip
    await payments.insert_received(uow, received)
    state = state or attempt.state
    await attempts.settle(
        uow, loaded, state=state.value, reference=outcome.reference, attempt_finish_time=uow.now, needs_person=False, touch_payment=False,
        message="landed after another success of the payment", success_time=uow.now,
    )  # fmt: skip
    await remember(uow, attempt.account_id, outcome.reference)
    await post(uow, [rules.payment_received(
        late_id, payment.client_id, payment.currency_code, attempt.provider, settled=0, recovered=0, credited=payment.amount_minor,
    )])  # fmt: skip
    await credit.add(uow, [credit.excess(late_id, payment.client_id, payment.currency_code, payment.amount_minor)])
    metadata = {**case.metadata, "kind": PaymentKind.LATE_LANDING.value, "credited_minor": payment.amount_minor}
    await record(uow, Change(
        Category.PAYMENT, "payment_landed_late", "payment", late_id, "payment.succeeded", Severity.WARNING, metadata,
    ))  # fmt: skip
    failpoint("attempt.record")
    return Applied(attempt.id, payment.id, state, True)


async def _inconclusive(case: Case, outcome: Evidence, *, holds_fence: bool) -> Applied:
    """Nothing was learned. Whoever was asked to check plans the next check; others leave the attempt alone.

    Unless the provider claims other money than was asked for, whoever brings that: then a person is asked at once.
    """
    uow, attempt = case.uow, case.loaded.attempt
    unchanged = Applied(attempt.id, case.loaded.payment.id, attempt.state, False)
    other_money = isinstance(outcome, Unknown) and outcome.other_money
    learned = holds_fence or (other_money and not attempt.needs_person)
    if not learned or not attempt.state.is_open:
        return unchanged
    person, due = attempt.needs_person or other_money, None
    if attempt.state is AttemptState.UNKNOWN:
        since = attempt.unknown_time or uow.now
        due = ladder.next_check(since, uow.now)
        person = person or ladder.needs_person(since, uow.now)
    elif attempt.state in (AttemptState.PENDING, AttemptState.REQUIRES_ACTION):
        due = ladder.next_poll(attempt.send_time or uow.now, uow.now)
        person = person or waited_too_long(case)
    else:
        return unchanged
    reason = outcome.reason if isinstance(outcome, Unknown | NotSent) else type(outcome).__name__
    asks = person and not attempt.needs_person
    await attempts.settle(
        uow, case.loaded, next_check_time=due, needs_person=person, checked=int(holds_fence), evidence={"unknown": reason}, touch_payment=asks,
        unknown_time=attempt.unknown_time, action_url=attempt.action_url, action_expire_time=attempt.action_expire_time,
    )  # fmt: skip
    if due is not None:
        await wake(uow, WorkKind.ATTEMPTS, due)
    if asks:
        await ask_person(case)
    failpoint("resolver.record")
    return replace(unchanged, changed=asks)
