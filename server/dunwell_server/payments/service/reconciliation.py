"""Reconciliation's use cases: what is done about one object that book and provider do not agree on, and what is told of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments.evidence import ActionRequired, Pending
from dunwell_server.payments.matching import WAITS, Decision, Ours, Step, Theirs, compare, subject_of
from dunwell_server.payments.model import AttemptState, Source, late_payment_id
from dunwell_server.payments.service import adoption
from dunwell_server.payments.service.findings import ADOPTED, DIFFERENT, MATCHED, SKIPPED, WAITING, Finding
from dunwell_server.payments.service.outcomes import apply_outcome
from dunwell_server.payments.service.settling import lock_targets
from dunwell_server.payments.store import due, payments
from dunwell_server.payments.store import reconciliation as store
from dunwell_server.payments.store.methods import ProviderAccount
from dunwell_server.platform import runs
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.journal import Category, Change, Severity, record
from dunwell_server.platform.questions import Question, known


@dataclass(frozen=True, slots=True)
class Pair:
    """One payment of the provider's list that concerns the firm, with ours where there is one, and the step that follows."""

    theirs: Theirs
    ours: Ours | None
    decision: Decision


async def pairs(uow: UnitOfWork, account: ProviderAccount, listed: Sequence[Theirs]) -> list[Pair]:
    """Match a page with the book. What is another firm's, or nobody's at a shared account, is left out."""
    keys = [theirs.key for theirs in listed if theirs.key]
    references = [theirs.reference for theirs in listed]
    found = await store.match(uow, account.id, keys, references)
    by_key = {ours.key: ours for ours in found if ours.key}
    by_reference = {ours.reference: ours for ours in found if ours.reference}
    owned = await store.owned(uow, account.id, references) if account.firm_id is None else set()
    result = []
    for theirs in listed:
        ours = by_reference.get(theirs.reference) or (by_key.get(theirs.key) if theirs.key else None)
        if ours is not None:
            result.append(Pair(theirs, ours, compare(ours, theirs)))
        elif theirs.is_ours or theirs.reference in owned or account.firm_id is not None:
            result.append(Pair(theirs, None, _alone(theirs)))
    return result


def _alone(theirs: Theirs) -> Decision:
    """Only the provider has it: money that has come, or is on its way under our name, is looked into."""
    looks = theirs.moved or (theirs.is_ours and isinstance(theirs.evidence, Pending | ActionRequired))
    return Decision(Step.ADOPT) if looks else WAITS


def counted(pair: Pair) -> str:
    """The outcome under which what is not told one by one is counted."""
    if pair.decision.step is not Step.WAITS:
        return MATCHED
    return SKIPPED if pair.ours is None and pair.theirs.failed else WAITING


async def settle(uow: UnitOfWork, run_id: UUID, account: ProviderAccount, theirs: Theirs) -> None:
    """Do what follows from one payment of the list and tell of it, in the run's name; once, however often it is called."""
    found = await pairs(uow, account, [theirs])
    if not found:
        return
    [pair] = found
    match pair.decision.step:
        case Step.TAKE:
            finding = await _take(uow, account, pair)
        case Step.ADOPT:
            finding = await adoption.adopt(uow, account, pair.theirs, pair.ours)
        case Step.DIFFERS:
            finding = _difference(account, pair)
        case _:
            return
    if finding is not None:
        await tell(uow, run_id, account, finding)


async def preview(uow: UnitOfWork, account: ProviderAccount, pair: Pair) -> Finding | None:
    """What a dry run tells of it; nothing is written."""
    match pair.decision.step:
        case Step.TAKE:
            confirmed = pair.ours is not None and pair.ours.by_hand and pair.ours.state is AttemptState.SUCCEEDED
            return None if confirmed or await _landed(uow, pair) else _taken(account, pair)
        case Step.ADOPT:
            return await adoption.preview(uow, account, pair.theirs, pair.ours)
        case Step.DIFFERS:
            return _difference(account, pair)
        case _:
            return None


async def _take(uow: UnitOfWork, account: ProviderAccount, pair: Pair) -> Finding | None:
    """Apply the provider's answer to our attempt; one that the book thinks unsent is sent, whatever the book remembers."""
    ours, theirs = pair.ours, pair.theirs
    assert ours is not None
    assert ours.attempt_id is not None
    if ours.state.is_unsent:
        await lock_targets(uow, ours.payment_id, ours.invoice_id, ours.client_id)
        await store.mark_sent(uow, ours.attempt_id, theirs.created_time)
    applied = await apply_outcome(uow, ours.attempt_id, theirs.evidence, Source.LOOKUP)
    if applied.changed:
        return _taken(account, pair)
    if applied.state in (AttemptState.SUCCEEDED, AttemptState.DECLINED) or await _landed(uow, pair):
        return None
    message = f"the provider's answer does not fit an attempt that is {applied.state.value}"
    return _finding(account, theirs, ours, DIFFERENT, "STATE_DIFFERS", message)


async def _landed(uow: UnitOfWork, pair: Pair) -> bool:
    """Whether the money was recorded as a late landing."""
    if pair.ours is None or pair.ours.attempt_id is None:
        return False
    return await payments.get(uow, late_payment_id(uow.firm_id, pair.ours.attempt_id)) is not None


def _taken(account: ProviderAccount, pair: Pair) -> Finding:
    assert pair.ours is not None
    message = f"the book said {pair.ours.state.value}; the provider: {type(pair.theirs.evidence).__name__.lower()}"
    amount = pair.theirs.amount_minor if pair.theirs.moved else None
    return _finding(account, pair.theirs, pair.ours, ADOPTED, None, message, amount=amount)


def _difference(account: ProviderAccount, pair: Pair) -> Finding:
    return _finding(account, pair.theirs, pair.ours, DIFFERENT, pair.decision.reason, pair.decision.message)


def _finding(
    account: ProviderAccount,
    theirs: Theirs,
    ours: Ours | None,
    outcome: str,
    reason: str | None,
    message: str | None,
    *,
    amount: int | None = -1,
) -> Finding:
    minor = theirs.amount_minor if amount == -1 else amount
    return Finding(
        subject_of(account.id, "payment", theirs.reference), outcome, theirs.reference, reason, message,
        payment_id=ours.payment_id if ours else None, client_id=ours.client_id if ours else None,
        invoice_id=ours.invoice_id if ours else None, amount_minor=minor,
        currency_code=theirs.currency_code if minor is not None else None,
    )  # fmt: skip


def ours_only(account: ProviderAccount, ours: Ours) -> Finding:
    """A success of the book that the provider says it does not have."""
    reference = ours.reference or ours.key or str(ours.attempt_id)
    return Finding(
        subject_of(account.id, "payment", reference), DIFFERENT, reference, "OURS_ONLY", "the provider has no such payment",
        payment_id=ours.payment_id, client_id=ours.client_id, invoice_id=ours.invoice_id, amount_minor=ours.amount_minor,
        currency_code=ours.currency_code,
    )  # fmt: skip


async def tell(uow: UnitOfWork, run_id: UUID, account: ProviderAccount, finding: Finding) -> None:
    """Add a finding to the run, once; alert what differs the first time that a run finds it."""
    await due.lock_run(uow, run_id)
    if await due.reported(uow, run_id, [finding.subject]):
        return
    if finding.outcome == DIFFERENT and not await store.told_before(uow, finding.subject, run_id):
        await record(uow, _alert(run_id, account, finding))
    await runs.advance(uow, run_id, done=1, counts={finding.outcome: 1}, amounts=finding.amounts, items=[finding.item])


def _alert(run_id: UUID, account: ProviderAccount, finding: Finding) -> Change:
    metadata: dict[str, Any] = {
        "notice": "reconciliation_difference",
        "provider": account.provider,
        "provider_account_id": encode(Prefix.PROVIDER_ACCOUNT, account.id),
        "provider_reference": finding.reference,
        "reason": finding.reason,
        "message": finding.message,
        "payment_id": encode(Prefix.PAYMENT, finding.payment_id) if finding.payment_id else None,
        "client_id": encode(Prefix.CLIENT, finding.client_id) if finding.client_id else None,
        "amount_minor": finding.amount_minor,
        "currency_code": finding.currency_code,
    }
    return Change(
        Category.PAYMENT, "reconciliation_difference", "run", run_id, "admin.notice", Severity.CRITICAL, metadata
    )


def something_to_reconcile(uow: UnitOfWork, _: datetime) -> Question[bool]:
    """Whether the day's run has anything to compare. A firm on a test clock is reconciled when asked only: its days pass in moments."""
    return known(uow, False) if uow.clock.is_test else store.used_lately(uow)


def no_account(provider: str) -> DunwellError:
    """The firm has no account of that provider."""
    return DunwellError(
        Reason.PROVIDER_NOT_CONFIGURED, f"The firm has no account at {provider}.", metadata={"provider": provider}
    )
