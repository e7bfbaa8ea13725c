"""Reconciliation of refunds: the provider's list of a window beside the book, both ways, as for payments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Final
from uuid import UUID

from dunwell_server.kernel.errors import DunwellError
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.payments.jobs.charging import Charger
from dunwell_server.payments.jobs.reconciling_work import LAG, OVERLAP, Place, Work
from dunwell_server.payments.matching import Decision, Step, subject_of
from dunwell_server.payments.service import reconciliation as service
from dunwell_server.payments.service.findings import ADOPTED, DIFFERENT, MATCHED, SKIPPED, WAITING, Finding
from dunwell_server.payments.service.refund_taking import RefundIntake
from dunwell_server.payments.store import due
from dunwell_server.payments.store import refund_reconciliation as store
from dunwell_server.payments.store.reconciliation import move_run
from dunwell_server.payments.store.refund_reconciliation import OurRefund
from dunwell_server.platform import runs
from dunwell_server.platform.database import UnitOfWork
from dunwell_server.platform.failpoints import failpoint
from dunwell_server.providers.abilities import ProviderRefund, RefundOutcomeClass, Refunds
from dunwell_server.providers.base import ProviderUnavailable

_OURS: Final = 500
_ON_ITS_WAY: Final = (RefundOutcomeClass.PENDING, RefundOutcomeClass.UNKNOWN, RefundOutcomeClass.NOT_SENT)


class RefundStage:
    """The second stage of a reconciliation, for accounts whose provider lists refunds."""

    def __init__(self, charger: Charger) -> None:
        self._charger = charger
        self._intake = RefundIntake()

    async def page(self, work: Work, place: Place, following_account: Place) -> Place:
        """Compare one page of the provider's refunds; returns the place behind it."""
        provider = work.gateway.provider
        if not provider.capabilities.refunds or not isinstance(provider, Refunds):
            await self._commit(work, {}, [], place, following_account)
            return following_account
        async with work.gateway.turn():
            page = await provider.list_refunds(
                work.gateway.account, since=work.since - OVERLAP, until=work.until, page=place.page
            )
        for refund in page.refunds:
            work.saw(refund.created_time, refund.provider_reference)
        pairs = await self._match(work, page.refunds)
        findings = await self._settle(work, pairs)
        last = page.next_page is None
        compared = datetime.fromisoformat(place.compared) if place.compared else work.since
        upto = work.until
        if not last:
            # A page may be empty though others follow, as one of payments may.
            upto = page.refunds[-1].created_time - LAG if page.refunds else compared
        if upto > compared:
            findings += await self._ours_only(work, provider, compared, upto)
            compared = upto
        following = Place(place.accounts, place.index, "refunds", page.next_page, compared.isoformat())
        if last:
            following = following_account
        await self._commit(work, pairs, findings, place, following)
        work.forget(compared)
        return following

    async def _match(self, work: Work, listed: Sequence[ProviderRefund]) -> dict[UUID, _Pair]:
        """The refunds of the page that are this firm's, by their subject."""
        assert work.context.firm_id is not None
        firm = encode(Prefix.FIRM, work.context.firm_id)
        async with work.database.transaction(work.context, write=False) as uow:
            found = await store.match(uow, work.account.id, listed)
            payments = await store.known_payments(uow, work.account.id, [each.payment_reference for each in listed])
        pairs: dict[UUID, _Pair] = {}
        for refund in listed:
            named = refund.metadata.get("firm")
            ours = found.get(refund.provider_reference) or found.get(refund.metadata.get("key", ""))
            if (named and named != firm) or (ours is None and refund.payment_reference not in payments and not named):
                continue
            pairs[subject_of(work.account.id, "refund", refund.provider_reference)] = (refund, ours)
        return pairs

    async def _settle(self, work: Work, pairs: dict[UUID, _Pair]) -> list[Finding]:
        findings: list[Finding] = []
        for subject, (refund, ours) in pairs.items():
            decision = compare(refund, ours)
            if decision.step in (Step.MATCHED, Step.WAITS):
                continue
            if work.run.dry_run:
                findings.append(_finding(subject, refund, ours, decision, takes=True))
                continue
            failpoint("reconcile.settle")
            await self._one(work, subject, refund)
        return findings

    async def _one(self, work: Work, subject: UUID, refund: ProviderRefund) -> None:
        """Do what one refund calls for and tell of it. What the book has no place for is told as a difference."""

        async def settle(uow: UnitOfWork) -> None:
            found = await store.match(uow, work.account.id, [refund])
            ours = found.get(refund.provider_reference) or found.get(refund.metadata.get("key", ""))
            decision = compare(refund, ours)
            if decision.step in (Step.MATCHED, Step.WAITS):
                return
            takes = False
            if decision.step is not Step.DIFFERS:
                takes = await self._intake.take(uow, work.account, refund)
            finding = _finding(subject, refund, ours, decision, takes=takes)
            await service.tell(uow, work.run.id, work.account, finding)

        try:
            await self._charger.transact(work.database, work.context, settle)
        except DunwellError as error:
            if error.retry_after is not None:
                raise
            decision = Decision(Step.DIFFERS, "DATA", error.message)
            finding = _finding(subject, refund, None, decision, takes=False)
            await self._charger.transact(
                work.database, work.context, lambda uow: service.tell(uow, work.run.id, work.account, finding)
            )

    async def _ours_only(self, work: Work, provider: Refunds, since: datetime, until: datetime) -> list[Finding]:
        """Our refunds first sent in [since, until) that were not in the list: asked for one by one."""
        seen = work.has_seen()
        findings: list[Finding] = []
        after: OurRefund | None = None
        while True:
            async with work.database.transaction(work.context, write=False) as uow:
                ours = await store.successes(uow, work.account.id, since, until, after, _OURS)
            for each in ours:
                if each.reference in seen or await self._provider_has(work, provider, each):
                    continue
                reference = each.reference or each.key
                findings.append(Finding(
                    subject_of(work.account.id, "refund", reference), DIFFERENT, reference, "OURS_ONLY", "the provider has no such refund",
                    "provider_refund", each.payment_id, each.client_id, None, each.amount_minor, each.currency_code,
                ))  # fmt: skip
                if not work.run.dry_run:
                    tell = partial(service.tell, run_id=work.run.id, account=work.account, finding=findings[-1])
                    await self._charger.transact(work.database, work.context, tell)
            if len(ours) < _OURS:
                return findings if work.run.dry_run else []
            after = ours[-1]

    async def _provider_has(self, work: Work, provider: Refunds, ours: OurRefund) -> bool:
        async with work.gateway.turn():
            outcome = await provider.lookup_refund(
                work.gateway.account, key=ours.key, payment_reference=ours.payment_reference or "",
                provider_reference=ours.reference,
            )  # fmt: skip
        if outcome is not None and outcome.outcome is RefundOutcomeClass.UNKNOWN:
            raise ProviderUnavailable(work.account.provider, "the refund could not be looked up")
        return outcome is not None and outcome.outcome is RefundOutcomeClass.SUCCEEDED

    async def _commit(
        self, work: Work, pairs: dict[UUID, _Pair], findings: Sequence[Finding], place: Place, following: Place
    ) -> None:
        """Count the page and move on, together; nothing where another worker has done so."""

        async def commit(uow: UnitOfWork) -> None:
            await due.lock_run(uow, work.run.id)
            told = await due.reported(uow, work.run.id, list(pairs)) if pairs else set()
            fresh = {each.subject: each for each in findings if each.subject not in told}
            counts = Counter(
                _counted(*pair) for subject, pair in pairs.items() if subject not in told and subject not in fresh
            )
            counts.update(finding.outcome for finding in fresh.values())
            if not await move_run(uow, work.run.id, place.as_json(), following.as_json(), counts.total()):
                return
            items = [finding.item for finding in fresh.values()]
            await runs.advance(uow, work.run.id, done=counts.total(), counts=counts, items=items)
            failpoint("reconcile.page")

        await self._charger.transact(work.database, work.context, commit)


_Pair = tuple[ProviderRefund, OurRefund | None]


def compare(theirs: ProviderRefund, ours: OurRefund | None) -> Decision:
    """Compare one refund as the provider has it with ours."""
    outcome = theirs.outcome.outcome
    if ours is None:
        return Decision(Step.ADOPT if outcome is RefundOutcomeClass.SUCCEEDED else Step.WAITS)
    if (theirs.money.minor, theirs.money.currency) != (ours.amount_minor, ours.currency_code):
        message = (
            f"the book says {ours.amount_minor} {ours.currency_code}, "
            f"the provider {theirs.money.minor} {theirs.money.currency} (minor units)"
        )
        return Decision(Step.DIFFERS, "AMOUNT_DIFFERS", message)
    if outcome in _ON_ITS_WAY:
        return Decision(Step.MATCHED if ours.state == "PENDING" else Step.WAITS)
    if outcome.value == ours.state:
        return Decision(Step.MATCHED)
    if outcome is RefundOutcomeClass.SUCCEEDED and ours.state == "FAILED":
        # A refund that failed after success may still read as succeeded in a list that lags; a person looks.
        return Decision(Step.DIFFERS, "STATE_DIFFERS", "the book says FAILED, the provider: succeeded")
    return Decision(Step.TAKE)


def _counted(theirs: ProviderRefund, ours: OurRefund | None) -> str:
    decision = compare(theirs, ours)
    if decision.step is not Step.WAITS:
        return MATCHED
    return SKIPPED if ours is None and theirs.outcome.outcome is RefundOutcomeClass.FAILED else WAITING


def _finding(
    subject: UUID, refund: ProviderRefund, ours: OurRefund | None, decision: Decision, *, takes: bool
) -> Finding:
    outcome, reason, message = DIFFERENT, decision.reason, decision.message
    if decision.step is not Step.DIFFERS:
        outcome, reason = (ADOPTED, None) if takes else (DIFFERENT, "STATE_DIFFERS" if ours else "THEIRS_ONLY")
        said = f"the book said {ours.state}" if ours else "the book did not have it"
        message = f"refund: {said}; the provider: {refund.outcome.outcome.value.lower()}"
    return Finding(
        subject, outcome, refund.provider_reference, reason, message, "provider_refund", ours.payment_id if ours else None,
        ours.client_id if ours else None, None, refund.money.minor, refund.money.currency,
    )  # fmt: skip
