"""The loop for what belongs to no firm yet: finds the firms of waiting events, and polls the platform's own accounts for gaps."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Final

from dunwell_server.inbox import metrics
from dunwell_server.inbox.jobs.gaps import GapPoller
from dunwell_server.inbox.model import Account, clipped, retry_delay
from dunwell_server.inbox.service import operations, routing
from dunwell_server.inbox.service.accounts import Endpoints, Vault
from dunwell_server.inbox.service.routing import FOREIGN, Route
from dunwell_server.inbox.store import accounts, envelopes
from dunwell_server.kernel.errors import DunwellError
from dunwell_server.platform.context import CallContext, system_context
from dunwell_server.platform.crypto import VaultError
from dunwell_server.platform.database import Database, Row, UnitOfWork
from dunwell_server.platform.logging import get_logger
from dunwell_server.providers.events import NormalisedEvent, payment_named
from dunwell_server.providers.tracing import TracesPayments

INTERVAL: Final = 1.0
"""Seconds between two looks at what waits."""
POLL_SECONDS: Final = 30.0
BATCH: Final = 100

log = get_logger(__name__)


class RoutingLoop:
    """Runs in every job worker; of several, each takes what the others have not."""

    def __init__(
        self, database: Database, endpoints: Endpoints, vault: Vault, poller: GapPoller, *, interval: float = INTERVAL
    ) -> None:
        self._database = database
        self._endpoints = endpoints
        self._vault = vault
        self._poller = poller
        self._interval = interval
        self._context = system_context(None, "job:routing", upkeep=True)
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Look and route until `stop`. Trouble is logged and waited out."""
        polled = 0.0
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            try:
                while await self.tick() == BATCH:
                    pass
                if loop.time() - polled >= POLL_SECONDS:
                    polled = loop.time()
                    await self._poller.work(self._database, self._context)
                    metrics.note(None, *await self._database.run(self._context, envelopes.standing, write=False))
            except DunwellError as error:
                log.warning("routing_postponed", reason=error.reason.value)
            except Exception:
                log.exception("routing_failed")
            try:
                await asyncio.wait_for(self._stopping.wait(), self._interval * random.uniform(0.8, 1.2))
            except TimeoutError:
                continue

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopping.set()

    async def tick(self) -> int:
        """Look at a batch of waiting envelopes that are due; returns how many were looked at."""
        rows = await self._database.run(self._context, lambda uow: envelopes.claim_waiting(uow, BATCH))
        for row in rows:
            try:
                await self._look(row)
            except DunwellError as error:
                log.warning("routing_postponed", event_id=str(row["id"]), reason=error.reason.value)
            except Exception as error:
                log.exception("routing_failed", event_id=str(row["id"]))
                await self._postpone(self._context, row, f"{type(error).__name__}")
        return len(rows)

    async def _look(self, row: Row) -> None:
        try:
            body = routing.unseal(self._vault, row)
        except VaultError as error:
            await self._postpone(self._context, row, str(error))
            return
        webhooks = self._endpoints.webhooks_of(row["provider"])
        read = None if webhooks is None else routing.read_event(webhooks, body)
        account = Account(row["account_id"], None, row["provider"], row["mode"], b"", "", 0)

        found = await routing.find_firm(self._database, self._context, account, read)
        if read is not None and found.firm_id is None and found.waits:
            found = await self._traced(account, read) or found
        if (firm_id := found.firm_id) is not None:
            firm = self._context.for_firm(firm_id)
            await self._database.run(firm, lambda uow: routing.assign(uow, row, firm_id, body))
        elif not found.waits:
            await self._database.run(self._context, lambda uow: envelopes.discard(uow, row["id"], found.why))
        else:
            await self._postpone(self._context, row, found.why, give_up=webhooks is not None and read is None)

    async def _traced(self, account: Account, read: NormalisedEvent) -> Route | None:
        """Where an event about a payment belongs that names it by no id that we noted; None: its provider has nothing to say."""
        reference = next(filter(None, map(payment_named, read.notices)), None)
        if reference is None or read.firm is not None:
            return None
        row = await self._database.run(self._context, lambda uow: accounts.by_id(uow, account.id), write=False)
        provider = self._endpoints.registry.get(account.provider)
        if row is None or not isinstance(provider, TracesPayments):
            return None
        try:
            payment = await provider.trace_payment(self._endpoints.endpoint(row).account, reference)
        except DunwellError as error:
            log.info("payment_not_traced", provider=account.provider, reason=error.reason.value)
            return None
        if payment is None:
            return None
        ids = (payment.provider_reference, payment.customer_reference)
        told = replace(read, firm=payment.metadata.get("firm"), references=(*read.references, *filter(None, ids)))
        found = await routing.find_firm(self._database, self._context, account, told)
        # Nothing on it says that we have made it, and no id on it is ours: it never will be.
        foreign = found.firm_id is None and not payment.is_ours
        return replace(found, why=FOREIGN, waits=False) if foreign else found

    async def _postpone(self, context: CallContext, row: Row, why: str, *, give_up: bool = False) -> None:
        """Look again later; leave it to a person where waiting is over, or would not help (`give_up`)."""
        delay = None if give_up else retry_delay(row["attempts"] + 2)

        async def keep(uow: UnitOfWork) -> None:
            await envelopes.postpone(uow, row["id"], clipped(why), delay)
            if delay is None:
                await operations.record_firmless(uow, "provider_event_quarantined", row["id"], clipped(why))

        await self._database.run(context, keep)
        if delay is None:
            log.error("provider_event_quarantined", event_id=str(row["id"]), provider=row["provider"], why=why)
