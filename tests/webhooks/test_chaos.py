"""Webhooks under chaos: a real sidecar, RPC server, inbox and sandbox gateway; the books end as if every event had come once and in order."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from dunwell_server.billing.model import Invoice
from dunwell_server.inbox.ports import EventApplier
from dunwell_server.inbox.service.mirror import MirrorApplier
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.kernel.money import Money
from dunwell_server.payments.jobs.notices import payment_appliers
from dunwell_server.payments.jobs.refunding import Refunder
from dunwell_server.payments.model import PaymentMethod, idempotency_key, request_payment_id
from dunwell_server.payments.service import charges
from dunwell_server.payments.service.refund_notices import RefundNotices, RefundTotalNotices
from dunwell_server.platform.crypto import account_aad
from dunwell_server.platform.database import Database
from dunwell_server.platform.invariants import run_for_firm
from dunwell_server.platform.sealer import AuditSealer
from dunwell_server.providers.base import ChargeReferences, ChargeRequest
from dunwell_server.providers.registry import ProviderRegistry
from tests import support
from tests.integration.payments.world import START, VAULT, Workers, World, new_bus
from tests.providers.gateway import GatewayProcess, start_gateway
from tests.webhooks.chaos import Storm, in_order
from tests.webhooks.house import House, open_house, refused

EACH = int(os.environ.get("DUNWELL_CHAOS_PAYMENTS", "28"))
"""Payments of each kind."""
LEAST = 2000
"""Deliveries that a run has at least."""
KINDS = {
    "late success": "pm_sandbox_pendingThenSuccess",
    "late failure": "pm_sandbox_pendingThenFailure",
    "lost answer": "pm_sandbox_acceptThenDrop",
    "early event": "pm_card_visa",
}
"""What becomes of a payment, by the method that does it. "early event": the provider tells of it before it is in our book."""


@dataclass
class Book:
    """One firm's payments, made in the same order in every firm, and what delivers its events."""

    world: World
    account_id: UUID
    secret: str
    invoices: list[Invoice] = field(default_factory=list)
    early: list[tuple[Invoice, UUID]] = field(default_factory=list)
    """Invoices whose charge the provider knows and we do not yet, with the request ids under which it will be asked for."""

    @classmethod
    async def open(cls, world: World) -> Book:
        """The firm's account gets the secret with which the gateway signs."""
        secret = f"whsec_{world.account}"
        credentials = {"secret_key": f"sk_test_{world.account}", "webhook_secret": secret}
        sealed, key_id = VAULT.encrypt(credentials, account_aad(world.firm_id, "sandbox"))
        async with world.db.transaction(support.context(None)) as uow:
            account_id = await uow.fetch_value(
                "UPDATE control.provider_account SET credentials = %s, key_id = %s, version = version + 1 WHERE firm_id = %s RETURNING id",
                (sealed, key_id, world.firm_id),
            )
        return cls(world, account_id, secret)

    @property
    def path(self) -> str:
        return f"/webhooks/sandbox/{encode(Prefix.PROVIDER_ACCOUNT, self.account_id)}"

    async def fill(self) -> None:
        """Payments of every kind, of which none is known to have ended; then everything happens at the provider."""
        for kind, token in KINDS.items():
            client, [method] = await self.world.client(token, autopay=False)
            for number in range(EACH):
                invoice = await self.world.invoice(client, f"{100 + number}.00")
                self.invoices.append(invoice)
                if kind == "early event":
                    await self._at_the_provider_only(invoice, method)
                else:
                    await self.world.charge(invoice.id)
        await self.world.move(START + timedelta(days=10))

    async def _at_the_provider_only(self, invoice: Invoice, method: PaymentMethod) -> None:
        world, request_id = self.world, uuid4()
        payment_id = request_payment_id(world.firm_id, request_id)
        outcome = await world.workers.provider.charge(ChargeRequest(
            account=world._clock, key=idempotency_key(payment_id, 1),
            references=ChargeReferences(encode(Prefix.FIRM, world.firm_id), encode(Prefix.PAYMENT, payment_id)),
            money=Money("USD", invoice.total), method_reference=method.provider_reference,
            customer_reference=await world.scalar("SELECT provider_reference FROM provider_customer WHERE client_id = %s", invoice.client_id),
        ))  # fmt: skip
        assert outcome.money is not None
        self.early.append((invoice, request_id))

    async def become_known(self) -> None:
        """What the provider knew before us comes into our book: asked for, and not yet sent."""
        for invoice, request_id in self.early:
            async with self.world.db.transaction(replace(self.world.call(), request_id=request_id)) as uow:
                await charges.request_charge(uow, invoice.id, uuid4())

    async def events(self) -> list[bytes]:
        """Everything the provider has to tell, oldest first, as the bytes that it sends."""
        found: list[bytes] = []
        page: str | None = None
        while True:
            answer = await self.world.workers.provider.list_events(
                self.world._clock, START - timedelta(days=1), START + timedelta(days=90), page
            )
            found += [body for _, body in answer.events]
            page = answer.next_page
            if page is None:
                return list(reversed(found))

    async def state(self) -> list[tuple[Any, ...]]:
        """What has become of each invoice, and of its payments and their attempts."""
        rows = []
        for invoice in self.invoices:
            now = await self.world.invoice_now(invoice.id)
            payments = [
                (payment.state, payment.captured_minor, await self._attempts(payment.id))
                for payment in await self.world.payments(invoice.id)
            ]
            rows.append((now.state, now.amount_received, now.amount_due, payments))
        return rows

    async def _attempts(self, payment_id: UUID) -> Any:
        return await self.world.scalar(
            "SELECT array_agg(state || ':' || coalesce(failure_code, '') ORDER BY attempt_no) FROM attempt WHERE payment_id = %s",
            payment_id,
        )

    async def inbox(self) -> dict[str, int]:
        """How many of the firm's events are in which state."""
        async with self.world.db.transaction(self.world.context, write=False) as uow:
            rows = await uow.fetch_all("SELECT state, count(*) AS n FROM provider_event GROUP BY 1", ())
        return {row["state"]: row["n"] for row in rows}

    async def stored(self) -> dict[bytes, str]:
        """The bodies kept, by their hash, and what became of each."""
        async with self.world.db.transaction(self.world.context, write=False) as uow:
            rows = await uow.fetch_all("SELECT body_hash, state, result FROM provider_event", ())
        return {bytes(row["body_hash"]): f"{row['state']} {row['result']}" for row in rows}

    async def due_now(self) -> None:
        """Let the time until every next try pass."""
        async with self.world.db.transaction(self.world.call()) as uow:
            await uow.execute(
                "UPDATE provider_event SET next_attempt_time = clock_timestamp() WHERE state = 'RECEIVED' AND owner IS NULL",
                (),
            )


async def settle(house: House, *books: Book) -> None:
    """Until no event waits any more, however long its next try is away."""
    for _ in range(100):
        if all(["RECEIVED" not in await book.inbox() for book in books]):
            return
        for book in books:
            await book.due_now()
        await house.work(*(book.world.firm_id for book in books))
    raise AssertionError([await book.inbox() for book in books])


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """The sandbox gateway as a real process. It sends nothing itself: what it has to tell is delivered by the tests."""
    process = start_gateway(tmp_path_factory.mktemp("gateway"))
    yield process
    process.stop()


@pytest.fixture(scope="module")
async def db(database_urls: support.DatabaseUrls) -> AsyncIterator[Database]:
    """The module's database, wired for billing and payments."""
    database = await Database.open(database_urls.application, bus=new_bus(), max_size=12)
    yield database
    await database.close()


@pytest.fixture
async def workers(gateway: GatewayProcess) -> AsyncIterator[Workers]:
    """What charges and attaches."""
    made = Workers.at(gateway.url, timeout=5.0)
    yield made
    await made.provider.close()


@pytest.fixture
async def house(db: Database, workers: Workers, tmp_path: Path) -> AsyncIterator[House]:
    """What takes webhooks in, with every applier of payments."""
    registry = ProviderRegistry()
    registry.register("sandbox", lambda: workers.provider)
    appliers: list[EventApplier] = [
        MirrorApplier(), RefundNotices(), RefundTotalNotices(Refunder(workers.charger)), *payment_appliers(workers.charger.gateways),
    ]  # fmt: skip
    async with open_house(db, registry, VAULT, appliers, tmp_path) as made:
        yield made


async def test_chaos_ends_where_order_would_have(
    db: Database, gateway: GatewayProcess, workers: Workers, house: House
) -> None:
    seed = int(os.environ.get("DUNWELL_CHAOS_SEED", random.SystemRandom().randrange(1_000_000)))
    print(f"\nchaos seed {seed} (repeat with DUNWELL_CHAOS_SEED={seed})")
    calm, wild = [await Book.open(await World.create(db, gateway, workers)) for _ in range(2)]
    await asyncio.gather(calm.fill(), wild.fill())
    happened = {book.secret: await book.events() for book in (calm, wild)}
    http = house.sidecar.client

    # The quiet way: what is not in the book yet comes into it, then each event once, in order.
    await calm.become_known()
    await in_order(http, calm.path, calm.secret, happened[calm.secret])
    await settle(house, calm)

    nobody = f"/webhooks/sandbox/{encode(Prefix.PROVIDER_ACCOUNT, uuid7())}"
    storm = Storm(random.Random(seed), wild.path, calm.path, nobody, wild.secret)
    for body in happened[wild.secret]:
        storm.genuine(body)
        storm.forgeries(body)
    assert len(storm.deliveries) >= LEAST
    before, kept_by_calm = refused(), await calm.stored()
    async with house.working(calm.world.firm_id, wild.world.firm_id):
        counted = await storm.send(http, wild.become_known)
    await settle(house, wild)

    print(f"{len(happened[wild.secret])} events, {counted.total()} deliveries: {dict(counted.most_common())}")
    stored = await wild.stored()
    assert set(stored) == {sha256(body).digest() for body in happened[wild.secret]}, (
        "one was lost, or a forgery was kept"
    )
    assert {text.split()[0] for text in stored.values()} <= {"APPLIED", "IGNORED"}, stored
    assert await calm.stored() == kept_by_calm, "an event reached another firm"
    assert refused() - before == storm.refusals
    async with db.transaction(support.context(None), write=False) as uow:
        envelopes = await uow.fetch_value(
            "SELECT count(*) FROM control.inbox_envelope WHERE account_id = ANY(%s)",
            ([calm.account_id, wild.account_id],),
        )
    assert envelopes == len(happened[calm.secret]) + len(happened[wild.secret])
    ended = await wild.state()
    assert ended == await calm.state()
    assert {payment[0] for _, _, _, payments in ended for payment in payments} == {"SUCCEEDED", "FAILED"}
    sealer = AuditSealer(db)  # On a busy machine the storm lasts longer than an entry may wait for its seal.
    while await sealer.tick():
        pass
    for book in (calm, wild):
        assert book.world.movements == 3 * EACH, "what the provider took, by its own book"
        assert sum(received for _, received, _, _ in await book.state()) == sum(
            invoice.total for invoice in book.invoices if invoice not in book.invoices[EACH : 2 * EACH]
        )
        async with db.transaction(book.world.context, write=False) as uow:
            broken = [check for check in await run_for_firm(uow) if not check.ok]
        assert not broken, broken
