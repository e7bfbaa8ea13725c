"""Webhooks of real charges, duplicated, shuffled and forged: the books end as the gateway's book says, without asking it again."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from dunwell_server.billing.model import InvoiceState
from dunwell_server.inbox.jobs.applying import InboxHandler
from dunwell_server.inbox.service.accounts import Endpoints
from dunwell_server.inbox.service.applying import Appliers, Applying
from dunwell_server.inbox.service.ingest import Ingestor, Webhook
from dunwell_server.inbox.service.mirror import MirrorApplier
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.payments.jobs.notices import payment_appliers
from dunwell_server.payments.model import AttemptState
from dunwell_server.platform.context import Role, system_context
from dunwell_server.platform.crypto import account_aad
from dunwell_server.providers.registry import ProviderRegistry
from tests import support
from tests.integration.payments.world import START, VAULT, World

SECRET = "whsec_of_these_tests"
SIDECAR = support.context(None, role=Role.SIDECAR, method="ProviderEventService.IngestProviderEvent")
TOKENS = (
    "pm_card_visa",
    "pm_card_chargeDeclinedInsufficientFunds",
    "pm_sandbox_acceptThenTimeout",
    "pm_sandbox_acceptThenDrop",
)


class Post:
    """The way from the gateway's events to the books."""

    def __init__(self, world: World, account_id: UUID) -> None:
        registry = ProviderRegistry()
        registry.register("sandbox", lambda: world.workers.provider)
        endpoints = Endpoints(registry, VAULT)
        self.world, self.account_id = world, account_id
        self.ingestor = Ingestor(world.db, endpoints, VAULT)
        appliers = Appliers([MirrorApplier(), *payment_appliers(world.workers.charger.gateways)])
        self.inboxes = [InboxHandler(Applying(endpoints, appliers)) for _ in range(2)]

    async def send(self, body: bytes, secret: str = SECRET) -> None:
        stamp = int(datetime.now(UTC).timestamp())
        mac = hmac.new(secret.encode(), f"{stamp}.".encode() + body, hashlib.sha256).hexdigest()
        headers = {"dunwell-sandbox-signature": f"t={stamp},v1={mac}"}
        await self.ingestor.ingest(SIDECAR, Webhook("sandbox", self.account_id, body, headers))

    async def events(self) -> list[bytes]:
        """Everything that the gateway has to tell."""
        found: list[bytes] = []
        page = None
        while True:
            listed = await self.world.workers.provider.list_events(
                self.world._clock, START - timedelta(days=1), START + timedelta(days=365), page
            )
            found += [body for _, body in listed.events]
            page = listed.next_page
            if page is None:
                return found

    async def work(self) -> None:
        context = system_context(self.world.firm_id, "job:inbox")
        await asyncio.gather(*(inbox.work(self.world.db, context) for inbox in self.inboxes))


async def post_of(world: World) -> Post:
    credentials = {"secret_key": f"sk_test_{world.account}", "webhook_secret": SECRET}
    sealed, key_id = VAULT.encrypt(credentials, account_aad(world.firm_id, "sandbox"))
    async with world.db.transaction(support.context(None)) as uow:
        account_id = await uow.fetch_value(
            "UPDATE control.provider_account SET credentials = %s, key_id = %s, version = version + 1 WHERE firm_id = %s RETURNING id",
            (sealed, key_id, world.firm_id),
        )
    return Post(world, account_id)


@pytest.mark.parametrize("seed", [1, 2])
async def test_events_in_any_order_and_number_end_as_the_gateways_book(
    make_world: Callable[..., Awaitable[World]], seed: int
) -> None:
    chance = random.Random(seed)
    world = await make_world(approval_limits={"USD": 1000000})
    post = await post_of(world)
    invoices: dict[UUID, str] = {}
    for token in TOKENS * 3:
        client, _ = await world.client(token, autopay=False)
        invoices[(await world.invoice(client)).id] = token
    charged = await asyncio.gather(*(world.charge(invoice_id) for invoice_id in invoices))
    assert {view.attempts[-1].state for view in charged} == {
        AttemptState.SUCCEEDED, AttemptState.DECLINED, AttemptState.UNKNOWN,
    }  # fmt: skip

    deliveries: list[tuple[bytes, str]] = []
    for body in await post.events():
        deliveries += [(body, SECRET)] * chance.randint(1, 5)
        deliveries.append((body.replace(b"12000", b"99000").replace(b"failed", b"succeeded"), "guessed"))
    chance.shuffle(deliveries)
    refusals = []

    async def deliver() -> None:
        while deliveries:
            body, secret = deliveries.pop()
            try:
                await post.send(body, secret)
            except DunwellError as error:
                refusals.append(error.reason)
            if chance.random() < 0.3:
                await post.work()

    await asyncio.gather(deliver(), deliver(), deliver())
    for _ in range(10):
        await post.work()

    assert set(refusals) == {Reason.SIGNATURE_INVALID}
    for invoice_id, token in invoices.items():
        invoice = await world.invoice_now(invoice_id)
        declined = token == "pm_card_chargeDeclinedInsufficientFunds"
        assert (invoice.state is InvoiceState.PAID) is not declined, token
        [payment] = await world.payments(invoice_id)
        assert world.moved(payment.id) == (0 if declined else 1)
        assert payment.captured_minor == (0 if declined else 12000)
    left = await world.scalar("SELECT count(*) FROM provider_event WHERE state NOT IN ('APPLIED', 'IGNORED')")
    assert left == 0
    again = await post.events()
    for body in again:
        await post.send(body)
    assert await world.scalar("SELECT count(*) FROM provider_event") == len(again)


async def test_an_event_of_an_attempt_that_is_not_known_yet_waits_for_it(
    make_world: Callable[..., Awaitable[World]],
) -> None:
    world = await make_world()
    post = await post_of(world)
    client, _ = await world.client("pm_card_visa", autopay=False)
    view = await world.charge((await world.invoice(client)).id)
    [told] = [body for body in await post.events() if b"payment.succeeded" in body]
    early = told.replace(str(view.payment.id).encode(), b"01a1fcf2-0000-8000-8000-000000000000")
    assert early != told
    await post.send(early)
    await post.work()
    row = await world.scalar("SELECT last_error FROM provider_event WHERE state = 'RECEIVED' AND attempts = 1")
    assert "not known yet" in row
