"""Taking a webhook in: account, signature, one transaction. What is answered OK is durable; what is forged is not stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from uuid import UUID

from dunwell_server.inbox import metrics
from dunwell_server.inbox.model import NewEvent, kept_headers, source_bucket
from dunwell_server.inbox.service import routing
from dunwell_server.inbox.service.accounts import Endpoint, Endpoints, Vault
from dunwell_server.inbox.service.routing import Route, Stored
from dunwell_server.kernel.clock import machine_now
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.kernel.ids import uuid7
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database
from dunwell_server.platform.failpoints import failpoint
from dunwell_server.platform.logging import get_logger
from dunwell_server.providers.abilities import SignatureRefused
from dunwell_server.providers.events import SignedEvent

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Webhook:
    """One webhook as the sidecar handed it on: raw bytes, headers with lower-case names, and the path's parts."""

    provider: str
    account_id: UUID | None
    """None: the platform's own account at the provider."""
    body: bytes
    headers: Mapping[str, str]
    source: str = ""


class Ingestor:
    """Takes webhooks in."""

    def __init__(self, database: Database, endpoints: Endpoints, vault: Vault) -> None:
        self._database = database
        self._endpoints = endpoints
        self._vault = vault

    async def ingest(self, context: CallContext, webhook: Webhook) -> Stored:
        """Verify and store. A repeat answers with the event stored before.

        Errors: RESOURCE_NOT_FOUND for an unknown provider or account, and for one without a secret; SIGNATURE_INVALID;
        the database's.
        """
        endpoint, signed = await self._verified(webhook)
        event = new_event(endpoint, signed, webhook.body, kept_headers(webhook.headers))
        stored = await self.store(context, endpoint, event)
        metrics.received.labels(webhook.provider, "duplicate" if stored.duplicate else "stored").inc()
        failpoint("webhook.ack")
        return stored

    async def store(self, context: CallContext, endpoint: Endpoint, event: NewEvent) -> Stored:
        """Keep a verified event. Neither a suspended firm nor an advancing clock keeps it out: it may tell of money."""
        context = replace(context, upkeep=True)
        account = endpoint.row
        if account.firm_id is not None:
            route = Route(account.firm_id)
        else:
            read = routing.read_event(endpoint.webhooks, event.body)
            route = await routing.find_firm(self._database, context.unbound(), account, read)
        failpoint("webhook.store")
        return await routing.store(self._database, context, event, route, self._vault)

    async def _verified(self, webhook: Webhook) -> tuple[Endpoint, SignedEvent]:
        failpoint("webhook.verify")
        endpoints = await self._endpoints.find(self._database, webhook.provider, webhook.account_id)
        try:
            return await _verify(endpoints, webhook)
        except (SignatureRefused, _NoEndpoint):
            # Perhaps the secret was rotated a moment ago, or the account made: the row decides, not our memory of it.
            again = await self._endpoints.find_again(self._database, webhook.provider, webhook.account_id)
        try:
            return await _verify(again, webhook)
        except SignatureRefused as error:
            self._count(webhook, webhook.provider, error.why)
            raise DunwellError(
                Reason.SIGNATURE_INVALID,
                "The webhook's signature was not made with a secret of the account, or too long ago.",
                metadata={"why": error.why},
            ) from None
        except _NoEndpoint as error:
            known = webhook.provider if self._endpoints.webhooks_of(webhook.provider) is not None else "unknown"
            self._count(webhook, known, error.why)
            raise DunwellError(
                Reason.RESOURCE_NOT_FOUND,
                "There is no such provider account with a webhook secret.",
                resource=("ProviderAccount", webhook.provider),
            ) from None

    @staticmethod
    def _count(webhook: Webhook, provider: str, why: str) -> None:
        metrics.refused.labels(provider, why, source_bucket(webhook.source)).inc()
        log.warning(
            "webhook_refused",
            provider=webhook.provider,
            reason=why,
            source=webhook.source or "unknown",
            bytes=len(webhook.body),
            account_id=str(webhook.account_id or "platform"),
        )


class _NoEndpoint(Exception):
    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


async def _verify(endpoints: tuple[Endpoint, ...], webhook: Webhook) -> tuple[Endpoint, SignedEvent]:
    """The first of the accounts that signed it."""
    now = machine_now()
    live = [(endpoint, secrets) for endpoint in endpoints if (secrets := endpoint.secrets(now))]
    if not live:
        raise _NoEndpoint("no_secret" if endpoints else "unknown_account")
    refusal: SignatureRefused | None = None
    for endpoint, secrets in live:
        try:
            signed = await endpoint.webhooks.verify(endpoint.account, secrets, webhook.body, webhook.headers, now)
        except SignatureRefused as error:
            refusal = refusal or error
        else:
            return endpoint, signed
    assert refusal is not None
    raise refusal


def new_event(
    endpoint: Endpoint, signed: SignedEvent, body: bytes, headers: Mapping[str, str], *, fetched: bool = False
) -> NewEvent:
    """An event of the account, ready to be stored."""
    return NewEvent(
        id=uuid7(),
        account_id=endpoint.row.id,
        provider=endpoint.row.provider,
        event_id=signed.event_id,
        type=signed.type,
        body=body,
        headers=headers,
        provider_time=signed.create_time,
        fetched=fetched,
    )
