"""Executing reconciliation: the provider's list of a window, page by page, beside the book, both ways.

The run's row holds its place (account, stage, page), moved in the transaction that counts the page. Whatever a page leads to is done in
transactions of its own before, each telling its item once: a run that dies anywhere goes on with the page it was at. What lies in memory is
one page and the references of the last minute.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID, uuid4

from dunwell_server.kernel.clock import machine_now
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, decode, encode, uuid7
from dunwell_server.kernel.money import Money
from dunwell_server.payments.jobs.charging import Charger
from dunwell_server.payments.jobs.reconciling_work import LAG, LONGEST_WINDOW, OVERLAP, Place, Work, window
from dunwell_server.payments.jobs.refund_reconciling import RefundStage
from dunwell_server.payments.jobs.translation import evidence_of
from dunwell_server.payments.matching import Ours, Step, Theirs, key_parts, subject_of
from dunwell_server.payments.service import reconciliation as service
from dunwell_server.payments.service.findings import FAILED, Finding
from dunwell_server.payments.store import due
from dunwell_server.payments.store import reconciliation as store
from dunwell_server.payments.store.methods import ProviderAccount
from dunwell_server.platform import runs
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.failpoints import failpoint
from dunwell_server.platform.leases import renewing
from dunwell_server.platform.runs import Run, RunKind
from dunwell_server.providers.base import OutcomeClass, ProviderPayment, ProviderUnavailable

_OURS: Final = 500
_PAUSE: Final = 0.5
_PASSING: Final = frozenset(
    {Reason.DATABASE_UNAVAILABLE, Reason.PROVIDER_UNAVAILABLE, Reason.OVERLOADED, Reason.SERIALIZATION_CONFLICT, Reason.CLOCK_ADVANCING}
)  # fmt: skip


class ReconciliationExecutor:
    """Executes RunKind.RECONCILIATION. Safe to be killed anywhere, executed again, and executed by several workers at once."""

    kind = RunKind.RECONCILIATION

    def __init__(self, charger: Charger) -> None:
        self._charger = charger
        self._refunds = RefundStage(charger)
        self._owner = uuid4()

    async def execute(self, database: Database, context: CallContext, run: Run) -> None:
        """Work until nothing of the run is left, and finish it. Returns soon where another worker is at it."""
        if not await self._charger.transact(database, context, lambda uow: store.take_run(uow, run.id, self._owner)):
            await asyncio.sleep(_PAUSE)
            return
        try:
            async with renewing(
                lambda: self._charger.transact(database, context, lambda uow: store.take_run(uow, run.id, self._owner))
            ):
                await self._all(database, context, run)
        finally:
            await self._charger.transact(database, context, lambda uow: store.give_run(uow, run.id, self._owner))

    async def _all(self, database: Database, context: CallContext, run: Run) -> None:
        while True:
            fresh, place = await self._begin(database, context, run)
            if fresh.state.is_final:
                return
            if place.index >= len(place.accounts):
                await self._charger.transact(database, context, partial(_finish, run_id=run.id))
                return
            await self._account(database, context, fresh, place)

    async def _begin(self, database: Database, context: CallContext, run: Run) -> tuple[Run, Place]:
        """The run as it stands and its place; a new run gets its window and accounts."""

        async def begin(uow: UnitOfWork) -> tuple[Run, Place]:
            await due.lock_run(uow, run.id)
            fresh = await runs.get(uow, run.id)
            if fresh.state.is_final or "place" in fresh.params:
                return fresh, Place(**fresh.params.get("place", {"accounts": []}))
            accounts = await store.accounts(
                uow, fresh.params.get("provider"), everything=bool(fresh.params.get("recovery"))
            )
            place = Place([str(account.id) for account in accounts])
            since, until = window(fresh.params, uow.now)
            await runs.begin(
                uow, run.id, await store.count_successes(uow, [each.id for each in accounts], since, until)
            )
            await store.move_run(uow, run.id, None, place.as_json(), 0)
            await store.fix_window(uow, run.id, since, until)
            return await runs.get(uow, run.id), place

        return await self._charger.transact(database, context, begin)

    async def _account(self, database: Database, context: CallContext, run: Run, place: Place) -> None:
        """One page of the account at hand, or its end."""
        account_id = UUID(place.accounts[place.index])
        since, until = window(run.params, datetime.min.replace(tzinfo=UTC))
        async with database.transaction(context, write=False) as uow:
            account = await store.account(uow, account_id)
        following = Place(place.accounts, place.index + 1)
        if account is None:
            await self._skip(database, context, run, place, following)
            return
        try:
            work = Work(database, context, run, account, self._charger.gateways.gateway(account), since, until)
            while place.stage == "payments":
                place = await self._page(work, place)
            while place.stage == "refunds":
                place = await self._refunds.page(work, place, following)
        except DunwellError as error:
            if error.reason in _PASSING and not await self._gives_up(database, context, run, place, error):
                raise
            await self._tell_failed(database, context, run, account, error)
            await self._skip(database, context, run, place, following)

    async def _gives_up(
        self, database: Database, context: CallContext, run: Run, place: Place, error: DunwellError
    ) -> bool:
        """Whether the account has been unreachable for too long; notes since when it is."""
        if error.reason is not Reason.PROVIDER_UNAVAILABLE:
            return False
        if place.unreachable is not None:
            return place.gives_up(machine_now())
        failing = replace(place, unreachable=machine_now().isoformat())
        await self._charger.transact(
            database, context, lambda uow: store.move_run(uow, run.id, place.as_json(), failing.as_json(), 0)
        )
        return False

    async def _skip(self, database: Database, context: CallContext, run: Run, place: Place, following: Place) -> None:
        await self._charger.transact(
            database, context, lambda uow: store.move_run(uow, run.id, place.as_json(), following.as_json(), 0)
        )

    async def _tell_failed(
        self, database: Database, context: CallContext, run: Run, account: ProviderAccount, error: DunwellError
    ) -> None:
        """An account that cannot be asked does not keep the others from being compared."""
        subject = subject_of(account.id, "account", account.provider)
        finding = Finding(
            subject, FAILED, "", "NOT_ENABLED", f"{account.provider}: {error.message}", "provider_account"
        )
        await self._charger.transact(database, context, lambda uow: service.tell(uow, run.id, account, finding))

    async def _page(self, work: Work, place: Place) -> Place:
        """Compare one page of the provider's payments; returns the place behind it."""
        gateway = work.gateway
        async with gateway.turn():
            page = await gateway.provider.list_payments(gateway.account, work.since - OVERLAP, work.until, place.page)
        assert work.context.firm_id is not None
        firm = encode(Prefix.FIRM, work.context.firm_id)
        listed = [theirs for payment in page.payments if (theirs := theirs_of(payment, firm)) is not None]
        for payment in page.payments:
            work.saw(payment.created_time, payment.provider_reference)
        pairs = await self._read(work, listed)
        findings = await self._settle(work, pairs)
        compared = datetime.fromisoformat(place.compared) if place.compared else work.since
        upto = work.until
        if page.next_page is not None:
            # A page may be empty though others follow: of a span in which nothing happened, or only what others did.
            upto = page.payments[-1].created_time - LAG if page.payments else compared
        if upto > compared:
            findings += await self._ours_only(work, compared, upto)
            compared = upto
        following = Place(place.accounts, place.index, "payments", page.next_page, compared.isoformat())
        if page.next_page is None:
            work.seen.clear()
            following = Place(place.accounts, place.index, "refunds")
        await self._commit(work, pairs, findings, place, following)
        work.forget(compared)
        return following

    async def _read(self, work: Work, listed: Sequence[Theirs]) -> list[service.Pair]:
        async with work.database.transaction(work.context, write=False) as uow:
            return await service.pairs(uow, work.account, listed)

    async def _settle(self, work: Work, pairs: Sequence[service.Pair]) -> list[Finding]:
        """Do what the page calls for; a dry run only finds out."""
        findings: list[Finding] = []
        for pair in pairs:
            if pair.decision.step in (Step.MATCHED, Step.WAITS):
                continue
            if work.run.dry_run:
                async with work.database.transaction(work.context, write=False) as uow:
                    finding = await service.preview(uow, work.account, pair)
                findings += [finding] if finding is not None else []
                continue
            failpoint("reconcile.settle")
            settle = partial(service.settle, run_id=work.run.id, account=work.account, theirs=pair.theirs)
            await self._charger.transact(work.database, work.context, settle)
        return findings

    async def _ours_only(self, work: Work, since: datetime, until: datetime) -> list[Finding]:
        """Our successes first sent in [since, until) that were not in the list: asked for one by one."""
        seen = work.has_seen()
        findings: list[Finding] = []
        after: Ours | None = None
        while True:
            async with work.database.transaction(work.context, write=False) as uow:
                ours = await store.successes(uow, work.account.id, since, until, after, _OURS)
            for each in ours:
                if each.reference in seen or await self._provider_has(work, each):
                    continue
                finding = service.ours_only(work.account, each)
                findings.append(finding)
                if not work.run.dry_run:
                    tell = partial(service.tell, run_id=work.run.id, account=work.account, finding=finding)
                    await self._charger.transact(work.database, work.context, tell)
            if len(ours) < _OURS:
                return findings if work.run.dry_run else []
            after = ours[-1]

    async def _provider_has(self, work: Work, ours: Ours) -> bool:
        """Whether the provider knows the success after all; raises ProviderUnavailable where it does not say."""
        gateway = work.gateway
        async with gateway.turn():
            outcome = await gateway.provider.lookup(
                gateway.account, key=ours.key or "", money=Money(ours.currency_code, ours.amount_minor),
                provider_reference=ours.reference, since=ours.send_time,
            )  # fmt: skip
        if outcome is not None and outcome.outcome is OutcomeClass.UNKNOWN:
            raise ProviderUnavailable(work.account.provider, "the payment could not be looked up")
        return outcome is not None and outcome.outcome is OutcomeClass.SUCCEEDED

    async def _commit(
        self, work: Work, pairs: Sequence[service.Pair], findings: Sequence[Finding], place: Place, following: Place
    ) -> None:
        """Count the page and move on, together; nothing where another worker has done so."""
        subjects = {subject_of(work.account.id, "payment", pair.theirs.reference): pair for pair in pairs}

        async def commit(uow: UnitOfWork) -> None:
            await due.lock_run(uow, work.run.id)
            told = await due.reported(uow, work.run.id, list(subjects))
            found = {finding.subject: finding for finding in findings}
            counts = Counter(
                service.counted(pair)
                for subject, pair in subjects.items()
                if subject not in told and subject not in found
            )
            fresh = [finding for finding in found.values() if finding.subject not in told]
            if not await store.move_run(
                uow, work.run.id, place.as_json(), following.as_json(), counts.total() + len(fresh)
            ):
                return
            counts.update(finding.outcome for finding in fresh)
            amounts: Counter[str] = Counter()
            for finding in fresh:
                amounts.update(finding.amounts)
            await runs.advance(
                uow,
                work.run.id,
                done=counts.total(),
                counts=counts,
                amounts=amounts,
                items=[each.item for each in fresh],
            )
            failpoint("reconcile.page")

        await self._charger.transact(work.database, work.context, commit)


async def _finish(uow: UnitOfWork, run_id: UUID) -> None:
    await store.close_total(uow, run_id)
    await runs.finish(uow, run_id)


def theirs_of(payment: ProviderPayment, firm: str) -> Theirs | None:
    """A payment of the list in our words; None where its metadata names another firm."""
    named = payment.metadata.get("firm")
    if named and named != firm:
        return None
    key = payment.metadata.get("key") or payment.key
    parts = key_parts(key)
    payment_id = None
    if named:
        payment_id = _payment_id(payment.metadata.get("payment")) or (parts[0] if parts else None)
    return Theirs(
        reference=payment.provider_reference,
        key=key,
        is_ours=bool(named),
        payment_id=payment_id,
        attempt_no=parts[1] if parts and parts[0] == payment_id else None,
        amount_minor=payment.money.minor,
        currency_code=payment.money.currency,
        evidence=evidence_of(payment.outcome, payment.created_time),
        created_time=payment.created_time,
        customer_reference=payment.customer_reference,
    )


def _payment_id(text: str | None) -> UUID | None:
    try:
        return decode(Prefix.PAYMENT, text, "payment") if text else None
    except DunwellError:
        return None


async def start(uow: UnitOfWork, params: dict[str, Any], *, dry_run: bool) -> Run:
    """Queue a reconciliation of the firm. Errors: PERIOD_INVALID, PROVIDER_NOT_CONFIGURED where it has no account at that provider."""
    since, until = window(params, uow.now)
    if not timedelta(0) <= until - since <= LONGEST_WINDOW and not params.get("recovery"):
        raise DunwellError(
            Reason.PERIOD_INVALID,
            f"The window must not end before it starts, nor be longer than {LONGEST_WINDOW.days} days.",
            field="window",
        )
    provider = params.get("provider")
    if provider is not None and not await store.accounts(uow, provider, everything=True):
        raise service.no_account(provider)
    return await runs.create(uow, RunKind.RECONCILIATION, params, dry_run=dry_run, run_id=uuid7())
