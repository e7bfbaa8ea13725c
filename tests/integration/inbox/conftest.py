"""The inbox as bootstrap joins it, on a real database, with a provider that only sends webhooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest

from dunwell_server.inbox.jobs.applying import InboxHandler
from dunwell_server.inbox.jobs.gaps import GapPoller, GapsHandler
from dunwell_server.inbox.jobs.routing import RoutingLoop
from dunwell_server.inbox.model import StoredEvent
from dunwell_server.inbox.ports import EventApplier
from dunwell_server.inbox.service.accounts import Endpoints
from dunwell_server.inbox.service.applying import Appliers, Applying
from dunwell_server.inbox.service.ingest import Ingestor, Webhook
from dunwell_server.inbox.service.mirror import MirrorApplier
from dunwell_server.inbox.service.routing import Stored
from dunwell_server.inbox.store import events
from dunwell_server.kernel.ids import uuid7
from dunwell_server.platform.context import CallContext, Role, system_context
from dunwell_server.platform.crypto import Vault, account_aad
from dunwell_server.platform.database import Database, UnitOfWork
from tests import support
from tests.integration.inbox.toy import PaymentBook, ToyProvider, open_payment, registry_of, signed_headers

SECRET = "toy secret"
SIDECAR = support.context(None, role=Role.SIDECAR, method="ProviderEventService.IngestProviderEvent")


@dataclass
class House:
    """Every part of the inbox, and short ways to use it."""

    db: Database
    vault: Vault = field(default_factory=lambda: Vault({"test": b"k" * 32}))
    provider: ToyProvider = field(default_factory=ToyProvider)
    book: PaymentBook = field(default_factory=PaymentBook)

    def __post_init__(self) -> None:
        self.endpoints = Endpoints(registry_of(self.provider), self.vault)
        self.ingestor = Ingestor(self.db, self.endpoints, self.vault)
        self.poller = GapPoller(self.endpoints, self.ingestor)
        self.gaps = GapsHandler(self.poller)
        self.loop = RoutingLoop(self.db, self.endpoints, self.vault, self.poller)
        self.handler = self.worker([self.book])

    def worker(self, appliers: Sequence[EventApplier]) -> InboxHandler:
        """Another job worker's inbox."""
        return InboxHandler(Applying(self.endpoints, Appliers([*appliers, MirrorApplier()])))

    async def account(self, firm_id: UUID | None, *, mode: str = "TEST", **credentials: str) -> UUID:
        """An account at the toy provider, of a firm or of the platform."""
        values = {"webhook_secret": SECRET, **credentials}
        sealed, key_id = self.vault.encrypt(values, account_aad(firm_id, "toy"))
        account_id = uuid7()
        async with self.db.transaction(support.context(None)) as uow:
            await uow.execute(
                "INSERT INTO control.provider_account (id, firm_id, provider, mode, credentials, key_id) VALUES (%s, %s, 'toy', %s, %s, %s)",
                (account_id, firm_id, mode, sealed, key_id),
            )
        return account_id

    async def set_credentials(self, account_id: UUID, firm_id: UUID | None, **credentials: str) -> None:
        """What ConfigureProvider does."""
        sealed, key_id = self.vault.encrypt(credentials, account_aad(firm_id, "toy"))
        async with self.db.transaction(support.context(None)) as uow:
            await uow.execute(
                "UPDATE control.provider_account SET credentials = %s, key_id = %s, version = version + 1 WHERE id = %s",
                (sealed, key_id, account_id),
            )

    async def forget_accounts(self) -> None:
        """Platform accounts are one per mode: the next test makes its own."""
        async with self.db.transaction(support.context(None)) as uow:
            await uow.execute(
                "UPDATE control.provider_account SET state = 'DISABLED', provider = 'gone' WHERE firm_id IS NULL"
            )
            await uow.execute(
                "UPDATE control.inbox_envelope SET state = 'DISCARDED', next_attempt_time = NULL WHERE state = 'WAITING'"
            )

    async def send(
        self,
        account_id: UUID | None,
        body: bytes,
        *,
        secret: str = SECRET,
        when: datetime | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Stored:
        """One webhook."""
        given = {**signed_headers(secret, body, when), **(headers or {})}
        return await self.ingestor.ingest(SIDECAR, Webhook("toy", account_id, body, given, "203.0.113.7"))

    async def work(self, firm_id: UUID) -> None:
        """One turn of a job worker."""
        await self.handler.work(self.db, system_context(firm_id, "job:inbox"))

    async def event(self, firm_id: UUID, event_id: UUID) -> StoredEvent:
        async with self.db.transaction(support.context(firm_id), write=False) as uow:
            found = await events.get(uow, event_id)
        assert found is not None
        return found

    async def payment(self, firm_id: UUID, account_id: UUID, key: str) -> None:
        async with self.db.transaction(system_context(firm_id, "job:test", upkeep=True)) as uow:
            await open_payment(uow, account_id, key)

    async def rows(self, statement: Any, *values: Any, firm: UUID | None = None) -> list[dict[str, Any]]:
        async def read(uow: UnitOfWork) -> list[dict[str, Any]]:
            return await uow.fetch_all(statement, values)

        return await self.db.run(support.context(firm), read, write=False)

    async def change(self, statement: Any, *values: Any, firm: UUID | None = None) -> None:
        async with self.db.transaction(support.context(firm)) as uow:
            await uow.execute(statement, values)

    async def due_now(self, firm_id: UUID) -> None:
        """Let the time until every next try pass."""
        await self.change(
            "UPDATE provider_event SET next_attempt_time = clock_timestamp() WHERE state = 'RECEIVED'", firm=firm_id
        )


@pytest.fixture
def house(db: Database) -> House:
    return House(db)


async def firm_of(context: CallContext) -> UUID:
    assert context.firm_id is not None
    return context.firm_id
