"""Sending refunds and finding out what became of them: intent committed, then the call with no transaction open, then the answer recorded."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from uuid import UUID

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import Prefix, encode
from dunwell_server.kernel.money import Money
from dunwell_server.payments import ladder
from dunwell_server.payments.evidence import NotSent, Unknown
from dunwell_server.payments.jobs.charging import Charger
from dunwell_server.payments.jobs.gateways import RATE_LIMITED, Gateway
from dunwell_server.payments.model import Source
from dunwell_server.payments.refunds import (
    Refund,
    RefundClaim,
    RefundEvidence,
    RefundState,
    SendState,
    refund_evidence,
    repeated_evidence,
)
from dunwell_server.payments.service.refund_outcomes import RefundApplied, apply_refund_outcome
from dunwell_server.payments.service.refunds import begin_send, refunds_next_due
from dunwell_server.payments.store import refunds as store
from dunwell_server.payments.store.methods import ProviderAccount
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.failpoints import failpoint
from dunwell_server.platform.leases import renewing
from dunwell_server.platform.logging import get_logger
from dunwell_server.platform.questions import Question
from dunwell_server.platform.rate_limits import LimitUnavailable
from dunwell_server.platform.work import WorkKind
from dunwell_server.providers.abilities import ProviderRefund, RefundOutcomeClass, RefundRequest, Refunds
from dunwell_server.providers.base import require_ability

log = get_logger(__name__)

BATCH: Final = 50
_TRANSIENT: Final = frozenset(
    {Reason.OVERLOADED, Reason.DATABASE_UNAVAILABLE, Reason.SERIALIZATION_CONFLICT, Reason.DEADLINE_EXCEEDED}
)
_RECORD_PATIENCE: Final = 25.0
"""Seconds for which recording an answer is tried again; afterwards the ladder finds it at the provider."""
_OTHERS_PATIENCE: Final = 40.0
"""Seconds that the holder of a test clock waits for refunds in others' hands: longer than any lease."""


@dataclass(frozen=True, slots=True)
class _Subject:
    """A claimed refund as it stands, with the account that it goes through; None: the account is not in use any more."""

    refund: Refund
    account: ProviderAccount | None
    now: datetime


class Refunder:
    """Does the next step of claimed refunds, within the charger's share of transactions and as the same owner of claims."""

    def __init__(self, charger: Charger) -> None:
        self._charger = charger
        self.owner = charger.owner

    def check_provider(self, name: str) -> None:
        """Raise PROVIDER_NOT_CONFIGURED where the provider cannot refund."""
        require_ability(self._charger.gateways.provider(name), "refunds", Refunds)  # type: ignore[type-abstract]

    async def claim(self, database: Database, context: CallContext, limit: int = BATCH) -> list[RefundClaim]:
        """Take what needs somebody now."""
        return await self._charger.transact(database, context, lambda uow: store.claim(uow, self.owner, limit))

    async def run(self, database: Database, context: CallContext, claims: Iterable[RefundClaim]) -> None:
        """One step for each. One that goes wrong stops no other: its lease ends and it is found again."""
        claims = list(claims)
        if not claims:
            return
        held = [claim.refund_id for claim in claims]
        renewal = replace(context, upkeep=True, deadline=None)
        async with renewing(
            lambda: self._charger.transact(database, renewal, lambda uow: store.renew(uow, held, self.owner))
        ):
            results = await asyncio.gather(
                *(self._step(database, context, claim) for claim in claims), return_exceptions=True
            )
        for claim, result in zip(claims, results, strict=True):
            if isinstance(result, Exception):
                log.error("a refund was interrupted", refund_id=str(claim.refund_id), exc_info=result)
            elif isinstance(result, BaseException):
                raise result

    async def refunds_of(
        self, database: Database, context: CallContext, account_id: UUID, payment_reference: str
    ) -> list[ProviderRefund]:
        """The provider's refunds of one payment. Errors: PROVIDER_NOT_CONFIGURED, PROVIDER_UNAVAILABLE."""
        gateway = await self._charger.gateways.of_account(database, context, account_id)
        if gateway is None:
            raise DunwellError(Reason.PROVIDER_NOT_CONFIGURED, "The account is not in use any more.")
        ability = require_ability(gateway.provider, "refunds", Refunds)  # type: ignore[type-abstract]
        found: list[ProviderRefund] = []
        page: str | None = None
        while True:
            async with gateway.turn():
                listed = await ability.list_refunds(gateway.account, payment_reference=payment_reference, page=page)
            found += listed.refunds
            page = listed.next_page
            if page is None:
                return found

    async def _step(self, database: Database, context: CallContext, claim: RefundClaim) -> None:
        match claim.state, claim.send_state:
            case RefundState.PROCESSING, SendState.CREATED | SendState.NOT_SENT:
                await self._send(database, context, claim)
            case RefundState.PROCESSING, SendState.SENT:
                # Whoever sent it is gone, or has not answered in time: it may have happened.
                gone = Unknown("the sender's lease ended without an answer")
                await self._record(database, context, claim, gone, Source.CRASH)
            case _:
                await self._ask(database, context, claim)

    async def _send(self, database: Database, context: CallContext, claim: RefundClaim) -> None:
        async def intent(uow: UnitOfWork) -> _Subject | None:
            order = await begin_send(uow, claim)
            return None if order is None else _Subject(order[0], order[1], uow.now)

        subject = await self._charger.transact(database, context, intent)
        if subject is None:
            return
        assert subject.account is not None
        gateway = self._charger.gateways.gateway(subject.account)
        failpoint("refund.before_send")
        evidence = await self._call(context, gateway, subject.refund, repeated=False)
        failpoint("refund.after_reply")
        await self._record(database, context, claim, evidence, Source.ANSWER)

    async def _ask(self, database: Database, context: CallContext, claim: RefundClaim) -> None:
        async def read(uow: UnitOfWork) -> _Subject:
            refund = await store.get(uow, claim.refund_id)
            assert refund is not None
            return _Subject(refund, await store.account(uow, claim.account_id), uow.now)

        subject = await self._charger.transact(database, context, read)
        refund = subject.refund
        if (refund.state, refund.send_state, refund.fence) != (claim.state, claim.send_state, claim.fence):
            return
        if subject.account is None:
            gone = Unknown("the provider account is gone")
            await self._record(database, context, claim, gone, Source.LOOKUP)
            return
        gateway = self._charger.gateways.gateway(subject.account)
        if refund.state is RefundState.PENDING:
            evidence, source = await self._look_up(gateway, subject), Source.LOOKUP
        else:
            evidence, source = await self._climb(database, context, claim, gateway, subject)
        await self._record(database, context, claim, evidence, source)

    async def _climb(
        self, database: Database, context: CallContext, claim: RefundClaim, gateway: Gateway, subject: _Subject
    ) -> tuple[RefundEvidence, Source]:
        """One step of the ladder, as for attempts: the same key again while the provider remembers it, then its record."""
        refund, memory = subject.refund, gateway.memory
        last_sent = refund.send_time or subject.now
        if ladder.absence_is_proof(last_sent, subject.now, memory):
            evidence = await self._look_up(gateway, subject)
            if not isinstance(evidence, Unknown):
                return evidence, Source.LOOKUP
        if not ladder.may_replay(refund.first_send_time or last_sent, subject.now, memory):
            return await self._look_up(gateway, subject), Source.LOOKUP
        if not await self._charger.transact(database, context, lambda uow: store.mark_resent(uow, claim)):
            return Unknown("somebody else has the refund"), Source.REPLAY
        evidence = await self._call(context, gateway, refund, repeated=True)
        if not isinstance(evidence, Unknown):
            return evidence, Source.REPLAY
        found = await self._look_up(gateway, subject)
        # What was sent a moment ago may still be on its way: its absence proves nothing yet.
        return (evidence if isinstance(found, NotSent) else found), Source.LOOKUP

    async def _call(self, context: CallContext, gateway: Gateway, refund: Refund, *, repeated: bool) -> RefundEvidence:
        """Ask the provider, with no transaction open. Whatever goes wrong here leaves the outcome unknown."""
        assert context.firm_id is not None
        assert refund.payment_reference is not None
        request = RefundRequest(
            account=gateway.account, key=refund.idempotency_key, firm=encode(Prefix.FIRM, context.firm_id),
            payment=encode(Prefix.PAYMENT, refund.payment_id), refund=encode(Prefix.REFUND, refund.id),
            payment_reference=refund.payment_reference, money=Money(refund.currency_code, refund.amount_minor),
        )  # fmt: skip
        try:
            ability = require_ability(gateway.provider, "refunds", Refunds)  # type: ignore[type-abstract]
            async with gateway.turn():
                outcome = await ability.refund(request)
                if outcome.outcome is RefundOutcomeClass.NOT_SENT and outcome.evidence.get("why") == RATE_LIMITED:
                    await gateway.pause(outcome.retry_after_seconds)
        except LimitUnavailable:
            return Unknown("no turn was to be had") if repeated else NotSent("no turn was to be had")
        except Exception as error:
            log.warning("a provider adapter failed", provider=gateway.provider.name, exc_info=error)
            return Unknown(f"the adapter failed: {type(error).__name__}")
        return repeated_evidence(outcome) if repeated else refund_evidence(outcome)

    async def _look_up(self, gateway: Gateway, subject: _Subject) -> RefundEvidence:
        """What the provider's record says. Absence is NOT_SENT only where it is proof; otherwise nothing is known."""
        refund = subject.refund
        assert refund.payment_reference is not None
        try:
            ability = require_ability(gateway.provider, "refunds", Refunds)  # type: ignore[type-abstract]
            async with gateway.turn():
                outcome = await ability.lookup_refund(
                    gateway.account, key=refund.idempotency_key, payment_reference=refund.payment_reference,
                    provider_reference=refund.provider_reference,
                )  # fmt: skip
        except Exception as error:
            log.warning("a provider adapter failed", provider=gateway.provider.name, exc_info=error)
            return Unknown(f"the adapter failed: {type(error).__name__}")
        if outcome is not None:
            return refund_evidence(outcome)
        if ladder.absence_is_proof(refund.send_time or subject.now, subject.now, gateway.memory):
            return NotSent("the provider has no such refund")
        return Unknown("the provider's record does not show it yet")

    async def _record(
        self, database: Database, context: CallContext, claim: RefundClaim, evidence: RefundEvidence, source: Source
    ) -> RefundApplied:
        """Apply an answer; money that has moved is recorded whatever the firm's clock does, and a database that is away is waited for."""
        recording = replace(context, upkeep=True, deadline=None)
        loop = asyncio.get_running_loop()
        patience, wait = loop.time() + _RECORD_PATIENCE, 0.05
        while True:
            try:
                return await self._charger.transact(
                    database, recording, lambda uow: apply_refund_outcome(uow, claim.refund_id, evidence, source, claim)
                )
            except DunwellError as error:
                if error.reason not in _TRANSIENT or loop.time() > patience:
                    raise
            await asyncio.sleep(wait * (0.5 + random.random()))
            wait = min(wait * 2, 2.0)


class RefundsHandler:
    """WorkKind.REFUNDS: sends what was approved or left behind, climbs the ladder of the unknown ones, polls those that wait."""

    kind = WorkKind.REFUNDS

    def __init__(self, refunder: Refunder, *, batch: int = BATCH) -> None:
        self._refunder = refunder
        self._batch = batch

    def next_due(self, uow: UnitOfWork) -> Question[datetime | None]:
        """When a refund next needs somebody, in firm time. A test clock does not pass by a refund that is under way."""
        return refunds_next_due(uow)

    async def work(self, database: Database, context: CallContext) -> None:
        """One step for a batch of refunds. The holder of a test clock first waits for what is in others' hands."""
        if context.holds_clock:
            await self._wait_for_others(database, context)
        await self._refunder.run(database, context, await self._refunder.claim(database, context, self._batch))

    async def _wait_for_others(self, database: Database, context: CallContext) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + _OTHERS_PATIENCE
        while loop.time() < until:
            async with database.transaction(context, write=False) as uow:
                if not await store.in_hand(uow):
                    return
            await asyncio.sleep(0.1)

    async def handle(self, database: Database, context: CallContext) -> datetime | None:
        """One step; returns when a refund next needs somebody."""
        await self.work(database, context)
        async with database.transaction(context, write=False) as uow:
            return await self.next_due(uow)
