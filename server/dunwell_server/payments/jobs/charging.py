"""A charge, step by step: transaction A records the intent, the provider is called with none open, transaction B applies the outcome.

Hundreds of charges wait on providers at once in one loop; the few transactions that may run at once are the process's share of the pool.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID, uuid4

from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.payments.evidence import NotSent, Unknown
from dunwell_server.payments.jobs.gateways import Gateway, Gateways
from dunwell_server.payments.jobs.opening import Answer, PageAnswer, open_page
from dunwell_server.payments.jobs.recording import WRITERS_OF_A_CLOCK, Recorder
from dunwell_server.payments.jobs.translation import charge_request, evidence_of, request_digest
from dunwell_server.payments.model import Claim, Source
from dunwell_server.payments.service.checkouts import apply_page
from dunwell_server.payments.service.outcomes import Answered, Applied, apply_outcome, apply_outcomes
from dunwell_server.payments.service.sending import SendOrder, begin_send, begin_sends
from dunwell_server.payments.store import attempts
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.failpoints import failpoint
from dunwell_server.platform.leases import renewing
from dunwell_server.platform.logging import get_logger
from dunwell_server.platform.rate_limits import LimitUnavailable

log = get_logger(__name__)
T = TypeVar("T")

_TRANSIENT = frozenset(
    {Reason.OVERLOADED, Reason.DATABASE_UNAVAILABLE, Reason.SERIALIZATION_CONFLICT, Reason.DEADLINE_EXCEEDED}
)
_RECORD_PATIENCE = 25.0
"""Seconds for which recording an answer is tried again; afterwards the ladder finds it at the provider."""

_AFTER_A_REFUSAL = 0.05
"""Seconds: what is not to be sent now, or goes on under another revision, is not taken up again in a busy loop."""
_INTENTS = 20
"""Slots whose intents are recorded in one transaction: what a crash between it and the calls leaves to be asked about."""
_BULK_TRANSACTIONS = 1
"""Transactions of many slots at once: one keeps a processor of the database busy, and whoever reads meanwhile has the others."""
_BULK_OF_A_CLOCK = 1 + WRITERS_OF_A_CLOCK
"""The same where somebody waits for a test clock: intents beside records."""


def _recording(context: CallContext) -> CallContext:
    """The call, as it records what has happened: whatever the firm's state and clock, and without a deadline."""
    return replace(context, upkeep=True, deadline=None)


def groups_of(claims: Sequence[Claim], size: int) -> list[list[Claim]]:
    """The claims in groups of at most `size`, no client twice in one: what is at the provider for a card is counted before the next goes."""
    groups: list[list[Claim]] = []
    places: Counter[UUID] = Counter()
    for claim in claims:
        place = places[claim.client_id]
        while place < len(groups) and len(groups[place]) >= size:
            place += 1
        if place == len(groups):
            groups.append([])
        groups[place].append(claim)
        places[claim.client_id] = place + 1
    return groups


class Charger:
    """Sends claimed attempts and records what comes back. One per process; `owner` is its identity in claims, new at every boot."""

    def __init__(self, gateways: Gateways, *, concurrency: int = 256, transactions: int = 8) -> None:
        """`concurrency`: charges in flight at once over all accounts. `transactions`: the share of the database's pool."""
        self.gateways = gateways
        self.owner = uuid4()
        self._flights = asyncio.Semaphore(concurrency)
        self._transactions = asyncio.Semaphore(transactions)
        self._bulk = {
            False: asyncio.Semaphore(_BULK_TRANSACTIONS),
            True: asyncio.Semaphore(_BULK_OF_A_CLOCK),
        }
        self._recorder = Recorder(self._record_together, self._record_one)

    async def transact(self, database: Database, context: CallContext, work: Callable[[UnitOfWork], Awaitable[T]]) -> T:
        """`work` in a transaction of its own, within the process's share."""
        async with self._transactions:
            return await database.run(context, work)

    async def run(self, database: Database, context: CallContext, claims: Iterable[Claim]) -> None:
        """Drive every claimed attempt until it rests. One that goes wrong stops no other: its lease ends and it is found again."""
        claims = list(claims)
        if not claims:
            return
        async with self.leases(database, context, [claim.attempt_id for claim in claims]):
            await self._gather(claims, [self._one(database, context, claim) for claim in claims])

    async def run_slots(self, database: Database, context: CallContext, claims: Sequence[Claim]) -> None:
        """`run` for slots that `claim_batch` has claimed: their intents are recorded many in a transaction."""
        if not claims:
            return
        async with self.leases(database, context, [claim.attempt_id for claim in claims]):
            await asyncio.gather(*(self._group(database, context, group) for group in groups_of(claims, _INTENTS)))

    async def _group(self, database: Database, context: CallContext, claims: Sequence[Claim]) -> None:
        started: list[datetime] = []

        async def intents(uow: UnitOfWork) -> list[SendOrder]:
            started[:] = [uow.now]
            return await begin_sends(
                uow, claims, lambda order: request_digest(order, self.gateways.gateway(order.account))
            )

        try:
            async with self._bulk[context.holds_clock]:
                orders = await self.transact(database, context, intents)
        except Exception as error:
            log.warning("charges are begun one by one", charges=len(claims), exc_info=error)
            return await self._gather(claims, [self._one(database, context, claim) for claim in claims])
        if not orders:
            await asyncio.sleep(_AFTER_A_REFUSAL)
        await self._gather(
            [order.claim for order in orders], [self._ordered(database, context, order, started[0]) for order in orders]
        )

    async def _ordered(self, database: Database, context: CallContext, order: SendOrder, now: datetime) -> None:
        """Send what a transaction has begun, and the backups that follow it."""
        recording = _recording(context)
        async with self._flights:
            with self._recorder.expecting(database, recording):
                answer = await self.call(self.gateways.gateway(order.account), order, now)
                if isinstance(answer, PageAnswer):
                    applied = await self.record(database, context, order.claim, answer, Source.ANSWER)
                else:
                    answered = Answered(order.claim, answer, Source.ANSWER)
                    applied = await self._recorder.record(database, recording, answered)
            following = applied.follow_up
            if following is not None:
                await self.drive(database, context, following)

    async def _gather(self, claims: Sequence[Claim], charges: Sequence[Coroutine[Any, Any, None]]) -> None:
        """Wait for all. One that goes wrong stops no other: its lease ends and it is found again."""
        results = await asyncio.gather(*charges, return_exceptions=True)
        for claim, result in zip(claims, results, strict=True):
            if isinstance(result, Exception):
                log.error("a charge was interrupted", attempt_id=str(claim.attempt_id), exc_info=result)
            elif isinstance(result, BaseException):
                raise result

    async def _one(self, database: Database, context: CallContext, claim: Claim) -> None:
        async with self._flights:
            await self.drive(database, context, claim)

    async def drive(self, database: Database, context: CallContext, claim: Claim) -> None:
        """Send one claimed attempt, and the backups that follow it at once, until nothing is to be sent."""
        following: Claim | None = claim
        while following is not None:
            following = await self._send(database, context, following)

    async def _send(self, database: Database, context: CallContext, claim: Claim) -> Claim | None:
        started: list[datetime] = []

        async def intent(uow: UnitOfWork) -> SendOrder | None:
            started[:] = [uow.now]
            return await begin_send(
                uow, claim, lambda order: request_digest(order, self.gateways.gateway(order.account))
            )

        order = await self.transact(database, context, intent)
        if order is None:
            await asyncio.sleep(_AFTER_A_REFUSAL)
            return None
        return await self._ask(database, context, order, started[0])

    async def _ask(self, database: Database, context: CallContext, order: SendOrder, now: datetime) -> Claim | None:
        answer = await self.call(self.gateways.gateway(order.account), order, now)
        return (await self.record(database, context, order.claim, answer, Source.ANSWER)).follow_up

    async def call(self, gateway: Gateway, order: SendOrder, now: datetime) -> Answer:
        """Ask the provider, with no transaction open. Whatever goes wrong here leaves the outcome unknown."""
        failpoint("provider.before_send")
        if order.session is not None:
            answer = await open_page(gateway, order)
            failpoint("provider.after_reply")
            return answer
        try:
            outcome = await gateway.charge(charge_request(order, gateway))
        except LimitUnavailable:
            return NotSent("no place under the rate limit could be had")
        except Exception as error:
            log.warning("a provider adapter failed", provider=gateway.provider.name, exc_info=error)
            return Unknown(f"the adapter failed: {type(error).__name__}")
        failpoint("provider.after_reply")
        return evidence_of(outcome, now)

    async def record(
        self, database: Database, context: CallContext, claim: Claim, answer: Answer, source: Source
    ) -> Applied:
        """Apply an answer; money that has moved is recorded whatever the firm's clock does, and a database that is away is waited for."""

        async def apply(uow: UnitOfWork) -> Applied:
            if not isinstance(answer, PageAnswer):
                return await apply_outcome(uow, claim.attempt_id, answer, source, claim)
            applied = await apply_page(uow, answer.session_id, answer.details, source, claim)
            assert applied is not None
            return applied

        loop = asyncio.get_running_loop()
        patience, wait = loop.time() + _RECORD_PATIENCE, 0.05
        while True:
            try:
                return await self.transact(database, _recording(context), apply)
            except DunwellError as error:
                if error.reason not in _TRANSIENT or loop.time() > patience:
                    raise
            await asyncio.sleep(wait * (0.5 + random.random()))
            wait = min(wait * 2, 2.0)

    async def _record_together(
        self, database: Database, context: CallContext, answered: Sequence[Answered]
    ) -> list[Applied]:
        async with self._bulk[context.holds_clock]:
            return await self.transact(database, context, lambda uow: apply_outcomes(uow, answered))

    async def _record_one(self, database: Database, context: CallContext, answered: Answered) -> Applied:
        return await self.record(database, context, answered.claim, answered.outcome, answered.source)

    def leases(self, database: Database, context: CallContext, held: list[UUID]) -> AbstractAsyncContextManager[None]:
        """Renew the leases of the attempts in hand, every third of their time, while the block runs."""
        renewal = _recording(context)
        return renewing(lambda: self.transact(database, renewal, lambda uow: attempts.renew(uow, held, self.owner)))
