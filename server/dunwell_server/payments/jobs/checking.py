"""Looking after attempts: those whose holder is gone, the ladder of those that are UNKNOWN, polls of those that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from dunwell_server.kernel.money import Money
from dunwell_server.payments import ladder
from dunwell_server.payments.evidence import Evidence, NotSent, Unknown
from dunwell_server.payments.jobs.charging import Charger
from dunwell_server.payments.jobs.gateways import Gateway
from dunwell_server.payments.jobs.opening import Answer, close_page, find_page, open_page, read_page
from dunwell_server.payments.jobs.translation import charge_request, evidence_of
from dunwell_server.payments.model import Attempt, AttemptState, Claim, PaymentKind, Source
from dunwell_server.payments.service.sending import SendOrder, order_of
from dunwell_server.payments.service.settling import lock_targets
from dunwell_server.payments.store import attempts
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.failpoints import failpoint
from dunwell_server.platform.logging import get_logger
from dunwell_server.providers.base import after_unknown

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Subject:
    """A claimed attempt as it stands, and what was or would be sent for it."""

    attempt: Attempt
    order: SendOrder | None
    now: datetime
    owed: bool = True
    """Whether anything is still owed of what the payment is for."""
    covered: bool = False
    """Whether so much has been paid otherwise that it would not be asked for any more."""


class Checker:
    """Does the next step of every claimed attempt, according to its state."""

    def __init__(self, charger: Charger) -> None:
        self.charger = charger

    async def run(self, database: Database, context: CallContext, claims: Iterable[Claim]) -> None:
        """One step for each. One that goes wrong stops no other."""
        claims = list(claims)
        if not claims:
            return
        async with self.charger.leases(database, context, [claim.attempt_id for claim in claims]):
            results = await asyncio.gather(
                *(self._step(database, context, claim) for claim in claims), return_exceptions=True
            )
        for claim, result in zip(claims, results, strict=True):
            if isinstance(result, Exception):
                log.error("a check was interrupted", attempt_id=str(claim.attempt_id), exc_info=result)
            elif isinstance(result, BaseException):
                raise result

    async def _step(self, database: Database, context: CallContext, claim: Claim) -> None:
        match claim.state:
            case AttemptState.CREATED | AttemptState.NOT_SENT:
                await self.charger.drive(database, context, claim)
            case AttemptState.SENT:
                # Whoever sent it is gone, or has not answered in time: it may have happened.
                await self.charger.record(
                    database, context, claim, Unknown("the sender's lease ended without an answer"), Source.CRASH
                )
            case _:
                await self._ask(database, context, claim)

    async def _ask(self, database: Database, context: CallContext, claim: Claim) -> None:
        async def read(uow: UnitOfWork) -> _Subject:
            invoices = await lock_targets(uow, claim.payment_id, claim.invoice_id, claim.client_id)
            loaded = await attempts.load(uow, claim.attempt_id)
            order = None if loaded.account is None else await order_of(uow, loaded, invoices, claim)
            due = sum(invoice.open_amount for invoice in invoices)
            least = 1 if loaded.payment.kind is PaymentKind.ONE_TIME else loaded.attempt.amount_minor
            covered = bool(invoices) and due < least
            return _Subject(loaded.attempt, order, uow.now, not invoices or due > 0, covered)

        subject = await self.charger.transact(database, context, read)
        if subject.attempt.state is not claim.state or subject.attempt.fence != claim.fence:
            return
        if subject.order is None:
            await self.charger.record(database, context, claim, Unknown("the provider account is gone"), Source.LOOKUP)
            return
        gateway = self.charger.gateways.gateway(subject.order.account)
        if claim.state is AttemptState.UNKNOWN:
            evidence, source = await self._climb(database, context, claim, subject, gateway)
        else:
            evidence, source = await self._poll(subject, gateway), Source.LOOKUP
        applied = await self.charger.record(database, context, claim, evidence, source)
        if applied.follow_up is not None:
            await self.charger.drive(database, context, applied.follow_up)

    async def _climb(
        self, database: Database, context: CallContext, claim: Claim, subject: _Subject, gateway: Gateway
    ) -> tuple[Answer, Source]:
        """One step of the ladder: the same key again while the provider remembers it, then its record.

        Where the record can already prove that nothing happened it is asked first: a repeat would make it young again. Where the invoice was
        paid otherwise meanwhile only the record is asked: if nothing has happened yet, a repeat would take the money a second time.
        """
        attempt, memory = subject.attempt, gateway.memory
        last_sent = attempt.send_time or subject.now
        if ladder.absence_is_proof(last_sent, subject.now, memory):
            evidence = await self.look_up(subject, gateway)
            if not isinstance(evidence, Unknown):
                return evidence, Source.LOOKUP
        silent = subject.covered and memory.authoritative
        if silent or not ladder.may_replay(attempt.first_send_time or last_sent, subject.now, memory):
            return await self.look_up(subject, gateway), Source.LOOKUP
        if not await self.charger.transact(database, context, lambda uow: attempts.mark_resent(uow, claim)):
            return Unknown("somebody else has the attempt"), Source.REPLAY
        evidence = await self._replay(subject, gateway)
        if not isinstance(evidence, Unknown):
            return evidence, Source.REPLAY
        found = await self.look_up(subject, gateway)
        # What was sent a moment ago may still be on its way: its absence proves nothing yet.
        return (evidence if isinstance(found, NotSent) else found), Source.LOOKUP

    async def _replay(self, subject: _Subject, gateway: Gateway) -> Answer:
        assert subject.order is not None
        failpoint("resolver.replay")
        if subject.order.session is not None:
            return await open_page(gateway, subject.order, repeated=True)
        try:
            outcome = await gateway.charge(charge_request(subject.order, gateway))
        except Exception as error:
            log.warning("a provider adapter failed", provider=gateway.provider.name, exc_info=error)
            return Unknown(f"the adapter failed: {type(error).__name__}")
        return evidence_of(after_unknown(outcome), subject.now)

    async def look_up(self, subject: _Subject, gateway: Gateway) -> Answer:
        """What the provider's record says. Absence is NOT_SENT only where it is proof; otherwise nothing is known."""
        attempt, order = subject.attempt, subject.order
        assert order is not None
        failpoint("resolver.lookup")
        if order.session is not None:
            found = await find_page(gateway, order.session, attempt.first_send_time or subject.now)
            return self._absence(subject, gateway) if found is None else found
        try:
            async with gateway.turn():
                outcome = await gateway.provider.lookup(
                    gateway.account, key=attempt.idempotency_key, money=Money(attempt.currency_code, attempt.amount_minor),
                    provider_reference=attempt.provider_reference, customer_reference=order.customer_reference,
                    since=attempt.first_send_time,
                )  # fmt: skip
        except Exception as error:
            log.warning("a provider adapter failed", provider=gateway.provider.name, exc_info=error)
            return Unknown(f"the adapter failed: {type(error).__name__}")
        if outcome is not None:
            return evidence_of(outcome, subject.now)
        return self._absence(subject, gateway)

    @staticmethod
    def _absence(subject: _Subject, gateway: Gateway) -> Evidence:
        """What it means that the provider's record does not show the attempt."""
        if ladder.absence_is_proof(subject.attempt.send_time or subject.now, subject.now, gateway.memory):
            return NotSent("the provider has no such payment")
        return Unknown("the provider's record does not show it yet")

    async def _poll(self, subject: _Subject, gateway: Gateway) -> Answer:
        """Ask about what waits; a link whose time is over, or for which nothing is owed any more, is ended at the provider first."""
        attempt = subject.attempt
        expired = attempt.action_expire_time is not None and attempt.action_expire_time <= subject.now
        ends = attempt.state is AttemptState.REQUIRES_ACTION and (expired or not subject.owed)
        session = None if subject.order is None else subject.order.session
        if session is not None:
            # The answer is what the page has become, which may be complete.
            return await (close_page if ends or not subject.owed else read_page)(gateway, session)
        if not (ends and attempt.provider_reference):
            return await self.look_up(subject, gateway)
        try:
            async with gateway.turn():
                outcome = await gateway.provider.cancel(gateway.account, attempt.provider_reference)
        except Exception as error:
            log.warning("a provider adapter failed", provider=gateway.provider.name, exc_info=error)
            return Unknown(f"the adapter failed: {type(error).__name__}")
        return evidence_of(outcome, subject.now)
