"""Gaps: the provider's own list of events, compared with the inbox. What no webhook brought is fetched over the authenticated API."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from dunwell_server.inbox import metrics
from dunwell_server.inbox.model import Account, dedupe_key
from dunwell_server.inbox.service import routing
from dunwell_server.inbox.service.accounts import Endpoint, Endpoints
from dunwell_server.inbox.service.ingest import Ingestor, new_event
from dunwell_server.inbox.store import accounts, envelopes
from dunwell_server.kernel.errors import DunwellError
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from dunwell_server.platform.logging import get_logger
from dunwell_server.platform.work import WorkKind
from dunwell_server.providers.events import SignedEvent

EVERY: Final = timedelta(minutes=15)
LOOK_BACK: Final = timedelta(hours=1)
OVERLAP: Final = timedelta(minutes=5)
"""Looked at again before what was polled: events appear in a list some time after the instant they bear."""
SETTLE: Final = timedelta(minutes=1)
"""The youngest events are left to their webhooks, which may be on their way."""
MAX_BACK: Final = timedelta(days=30)
MAX_PAGES: Final = 500

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Window:
    since: datetime
    until: datetime


class GapPoller:
    """Polls accounts, a firm's own or the platform's."""

    def __init__(self, endpoints: Endpoints, ingestor: Ingestor) -> None:
        self._endpoints = endpoints
        self._ingestor = ingestor

    async def next_due(self, uow: UnitOfWork, firm_id: UUID | None) -> datetime | None:
        """When the next account is to be polled, in machine time; None where there is none."""
        dues = []
        for account, polled in await self._accounts(uow, firm_id):
            due = uow.machine_now if polled is None else polled + EVERY
            # A firm that has never used an account has nothing there to miss.
            if firm_id is None or await accounts.in_use(uow, account.id):
                dues.append(due)
        return min(dues, default=None)

    async def work(self, database: Database, context: CallContext) -> int:
        """Poll what is due of the context's firm (None: of the platform); returns how many missing events were found."""

        async def due(uow: UnitOfWork) -> list[Account]:
            found = await self._accounts(uow, context.firm_id)
            return [row for row, polled in found if polled is None or polled + EVERY <= uow.machine_now]

        found = 0
        for account in await database.run(context, due, write=False):
            try:
                found += await self._poll(database, context, account)
            except DunwellError as error:
                log.warning("gap_poll_postponed", account_id=str(account.id), reason=error.reason.value)
        return found

    async def _accounts(self, uow: UnitOfWork, firm_id: UUID | None) -> list[tuple[Account, datetime | None]]:
        names = self._endpoints.webhook_providers
        return await accounts.to_poll(uow, firm_id, names) if names else []

    async def _poll(self, database: Database, context: CallContext, account: Account) -> int:
        endpoint = self._endpoints.endpoint(account)

        async def claim(uow: UnitOfWork) -> _Window | None:
            if context.firm_id is not None and not await accounts.in_use(uow, account.id):
                return None
            mine, before = await accounts.claim_poll(uow, account.id, EVERY.total_seconds() - 1)
            return _window(uow, endpoint, before) if mine else None

        window = await database.run(context, claim)
        if window is None:
            return 0
        found, page = 0, None
        for _ in range(MAX_PAGES):
            listed = await endpoint.webhooks.list_events(endpoint.account, window.since, window.until, page)
            found += await self._compare(database, context, endpoint, listed.events)
            page = listed.next_page
            if page is None:
                await database.run(context, lambda uow: accounts.note_polled(uow, account.id, window.until))
                break
        if found:
            metrics.gaps.labels(account.provider).inc(found)
            log.warning("webhooks_missed", provider=account.provider, account_id=str(account.id), count=found)
        return found

    async def _compare(
        self,
        database: Database,
        context: CallContext,
        endpoint: Endpoint,
        listed: Sequence[tuple[SignedEvent, bytes]],
    ) -> int:
        """Store what the inbox lacks of a page and what concerns us; returns how much that was."""
        if not listed:
            return 0
        keys = [dedupe_key(signed.event_id, body) for signed, body in listed]
        known = await database.run(context, lambda uow: envelopes.known(uow, endpoint.row.id, keys), write=False)
        found = 0
        for key, (signed, body) in zip(keys, listed, strict=True):
            if key in known:
                continue
            read = routing.read_event(endpoint.webhooks, body)
            if read is None or not read.notices:
                # The list has everything that happens there; webhooks bring what the endpoint asked for.
                continue
            event = new_event(endpoint, signed, body, {}, fetched=True)
            stored = await self._ingestor.store(context, endpoint, event)
            found += not stored.duplicate
        return found


def _window(uow: UnitOfWork, endpoint: Endpoint, before: datetime | None) -> _Window:
    """The part of the list that is compared, by the account's clock: a firm's test clock where the provider follows it."""
    if uow.context.firm_id is not None and endpoint.provider.capabilities.follows_test_clock and uow.clock.is_test:
        # It stands still, so that everything on it has happened; and what happens at this very instant is seen next time too.
        now, until = uow.now, uow.now + timedelta(seconds=1)
    else:
        now, until = uow.machine_now, uow.machine_now - SETTLE
    since = min(before or now, now - LOOK_BACK) - OVERLAP
    return _Window(max(since, now - MAX_BACK), until)


class GapsHandler:
    """WorkKind.GAPS: the firm's own accounts, every 15 minutes of machine time."""

    kind = WorkKind.GAPS

    def __init__(self, poller: GapPoller) -> None:
        self._poller = poller

    async def next_due(self, uow: UnitOfWork) -> datetime | None:
        """When the next account is to be polled; a little later for each firm, so that they do not all come at once."""
        due = await self._poller.next_due(uow, uow.firm_id)
        if due is None or due <= uow.machine_now:
            return due
        return due + timedelta(seconds=random.uniform(0, 30))

    async def work(self, database: Database, context: CallContext) -> None:
        """Poll what is due, also of a suspended firm: what it has taken is recorded."""
        await self._poller.work(database, replace(context, upkeep=True))
