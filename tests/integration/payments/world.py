"""A firm on a test clock with clients and invoices, the real sandbox gateway, and the workers of payments, as production joins them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from dunwell_server.billing.lines import LineInput
from dunwell_server.billing.model import AutopayCadence, Client, Invoice
from dunwell_server.billing.ports import CollectionPlanner, TaxCalculator
from dunwell_server.billing.service.clients import NewClient, create_client
from dunwell_server.billing.service.collection import lock_invoices
from dunwell_server.billing.service.invoices import NewInvoice, create_invoice
from dunwell_server.billing.service.tax_rates import TableTaxCalculator
from dunwell_server.disputes import service as disputes
from dunwell_server.kernel.ids import Prefix, encode, uuid7
from dunwell_server.payments.jobs import (
    AttemptsHandler,
    Charger,
    Checker,
    CollectHandler,
    CollectionRunExecutor,
    Gateways,
    MethodKeeper,
)
from dunwell_server.payments.jobs.pages import PageKeeper, PagesHandler
from dunwell_server.payments.model import Payment, PaymentMethod
from dunwell_server.payments.planning import Planner
from dunwell_server.payments.service import autopay, charges, methods, queries, reactions
from dunwell_server.payments.service.queries import PaymentView
from dunwell_server.payments.store.payments import PaymentFilter
from dunwell_server.platform import runs
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.crypto import Vault, account_aad
from dunwell_server.platform.database import Database
from dunwell_server.platform.domain_events import Bus
from dunwell_server.providers.base import AccountMode, Credentials, ProviderAccount, ProviderUnavailable
from dunwell_server.providers.registry import ProviderRegistry
from dunwell_server.providers.sandbox import SandboxProvider
from tests import support
from tests.providers.gateway import GatewayProcess

START = datetime.fromisoformat("2026-03-02T09:00:00+00:00")
VAULT = Vault({"test": b"k" * 32})


def new_bus() -> Bus:
    """The bus as bootstrap fills it for billing, payments and disputes."""
    bus = Bus()
    bus.provide(CollectionPlanner, Planner())  # type: ignore[type-abstract]
    bus.provide(TaxCalculator, TableTaxCalculator())  # type: ignore[type-abstract]
    reactions.subscribe(bus)
    disputes.subscribe(bus)
    return bus


@dataclass
class Workers:
    """One job worker's share of payments."""

    provider: SandboxProvider
    charger: Charger
    checker: Checker
    collect: CollectHandler
    attempts: AttemptsHandler
    executor: CollectionRunExecutor
    keeper: MethodKeeper
    pages: PagesHandler

    @classmethod
    def at(cls, url: str, *, timeout: float = 1.5, batch: int = 100) -> Workers:
        """Workers that speak to the gateway at `url` and wait `timeout` seconds for it."""
        provider = SandboxProvider(url, total_timeout=timeout)
        registry = ProviderRegistry()
        registry.register("sandbox", lambda: provider)
        gateways = Gateways(registry, VAULT)
        charger = Charger(gateways)
        checker = Checker(charger)
        return cls(
            provider,
            charger,
            checker,
            CollectHandler(charger, batch=batch),
            AttemptsHandler(checker, batch=batch),
            CollectionRunExecutor(charger, checker, batch=batch),
            MethodKeeper(gateways),
            PagesHandler(PageKeeper(gateways)),
        )


@dataclass
class World:
    """One firm and its account at the sandbox."""

    db: Database
    gateway: GatewayProcess
    context: CallContext
    account: str
    workers: Workers
    now: datetime = START
    _clock: ProviderAccount = field(init=False)

    def __post_init__(self) -> None:
        credentials = Credentials({"secret_key": f"sk_test_{self.account}"})
        self._clock = ProviderAccount("clock", "sandbox", AccountMode.TEST, credentials)

    @classmethod
    async def create(cls, db: Database, gateway: GatewayProcess, workers: Workers, **settings: Any) -> World:
        """A new firm, its clock and its sandbox account standing at START."""
        context = await support.add_firm(db, clock=START, **settings)
        assert context.firm_id is not None
        world = cls(db, gateway, context, f"firm-{context.firm_id.hex}", workers)
        sealed, key_id = VAULT.encrypt(
            {"secret_key": f"sk_test_{world.account}"}, account_aad(context.firm_id, "sandbox")
        )
        async with db.transaction(support.context(None)) as uow:
            await uow.execute(
                "INSERT INTO control.provider_account (id, firm_id, provider, mode, credentials, key_id) VALUES (%s, %s, 'sandbox', 'TEST', %s, %s)",
                (uuid7(), context.firm_id, sealed, key_id),
            )
        await world._set_sandbox_clock(START)
        return world

    @property
    def firm_id(self) -> UUID:
        assert self.context.firm_id is not None
        return self.context.firm_id

    def call(self, person: str | None = None) -> CallContext:
        """A call with a request id of its own."""
        actor = replace(self.context.actor, person=person) if person else self.context.actor
        return replace(self.context, request_id=uuid4(), actor=actor)

    # What callers do ---------------------------------------------------------------------------------------------

    async def client(self, *tokens: str, autopay: bool = True, **options: Any) -> tuple[Client, list[PaymentMethod]]:
        """A client with methods attached in order (later ones are backups 1, 2, …), autopay on unless told otherwise."""
        async with self.db.transaction(self.call()) as uow:
            client = await create_client(uow, NewClient("Harbour Bakery", currency_code="USD"))
        attached = [await self.attach(client.id, token, backup_priority=place) for place, token in enumerate(tokens)]
        if autopay:
            await self.autopay(client.id, True, **options)
        return client, attached

    async def attach(
        self, client_id: UUID, token: str, *, make_default: bool = False, backup_priority: int = 0
    ) -> PaymentMethod:
        context = self.call()
        found = await self.workers.keeper.attach(self.db, context, client_id, token, backup_priority=backup_priority)
        async with self.db.transaction(context) as uow:
            return await methods.attach(
                uow, found.values, customer_reference=found.customer_reference, make_default=make_default
            )

    async def autopay(self, client_id: UUID, enabled: bool, **options: Any) -> autopay.AutopayChange:
        async with self.db.transaction(self.call()) as uow:
            return await autopay.switch_client(uow, client_id, enabled=enabled, **options)

    async def invoice(
        self, client: Client, amount: str = "120.00", *, due: date | None = None, terms: int | None = 0
    ) -> Invoice:
        new = NewInvoice(
            client.id, lines=(LineInput("Advice", Decimal(amount)),), due_date=due, payment_terms_days=terms
        )
        async with self.db.transaction(self.call()) as uow:
            return await create_invoice(uow, new, finalize=True)

    async def immediate(self, client: Client, amount: str = "120.00") -> Invoice:
        """An invoice that is collected at once."""
        await self.autopay(client.id, True, cadence=AutopayCadence.IMMEDIATE)
        return await self.invoice(client, amount)

    async def charge(self, invoice_id: UUID, context: CallContext | None = None, **options: Any) -> PaymentView:
        context = context or self.call()
        charger = self.workers.charger
        async with self.db.transaction(context) as uow:
            claim = await charges.request_charge(uow, invoice_id, charger.owner, **options)
        await charger.run(self.db, context, [claim])
        return await self.payment(claim.payment_id)

    # What workers do ---------------------------------------------------------------------------------------------

    async def work(self) -> None:
        """Everything that is due now, as the holder of the clock does it."""
        context = replace(self.context, holds_clock=True)
        for _ in range(50):
            busy = False
            for handler in (self.workers.collect, self.workers.attempts, self.workers.pages):
                async with self.db.transaction(context, write=False) as uow:
                    due = await handler.next_due(uow)
                if due is not None and due <= self.now:
                    busy = True
                    await handler.work(self.db, context)
            if not busy:
                return
        raise AssertionError("work at one instant does not end")

    async def next_due(self) -> datetime | None:
        async with self.db.transaction(self.context, write=False) as uow:
            handlers = (self.workers.collect, self.workers.attempts, self.workers.pages)
            dues = [await handler.next_due(uow) for handler in handlers]
        dues.append((await self.workers.provider.clock(self._clock)).next_due)
        return min((due for due in dues if due is not None), default=None)

    async def advance(self, to: datetime) -> list[datetime]:
        """Move the clock to `to`, doing what falls due on the way; the instants at which something was due."""
        steps = []
        await self.work()
        while (due := await self.next_due()) is not None and due <= to:
            await self.move(max(due, self.now))
            steps.append(self.now)
            await self.work()
        await self.move(to)
        return steps

    async def move(self, to: datetime) -> None:
        """Move both clocks and do nothing."""
        self.now = to
        await support.set_clock(self.db, self.firm_id, to)
        await self._set_sandbox_clock(to)

    async def _set_sandbox_clock(self, to: datetime) -> None:
        """Charges may time out; the world's own clock waits for a busy machine."""
        for _ in range(20):
            with suppress(ProviderUnavailable):
                await self.workers.provider.set_clock(self._clock, to)
                return
        await self.workers.provider.set_clock(self._clock, to)

    async def collection_run(self, *, dry_run: bool = False, **params: Any) -> runs.Run:
        """A collection run, executed by this world's workers."""
        run = await self.queue_run(dry_run=dry_run, **params)
        await self.workers.executor.execute(self.db, self.context, run)
        async with self.db.transaction(self.context, write=False) as uow:
            return await runs.get(uow, run.id)

    async def queue_run(self, *, dry_run: bool = False, **params: Any) -> runs.Run:
        async with self.db.transaction(self.context) as uow:
            return await runs.create(uow, runs.RunKind.COLLECTION, params, dry_run=dry_run, run_id=uuid7())

    async def items(self, run: runs.Run) -> dict[UUID, runs.RunItem]:
        async with self.db.transaction(self.context, write=False) as uow:
            found, _ = await runs.items_after(uow, run.id, runs.ItemCursor(), 1000, settled=True)
        return {item.subject_id: item for item in found}

    # What is seen ------------------------------------------------------------------------------------------------

    async def invoice_now(self, invoice_id: UUID) -> Invoice:
        async with self.db.transaction(self.context) as uow:
            [invoice] = await lock_invoices(uow, [invoice_id])
            return invoice

    async def payment(self, payment_id: UUID) -> PaymentView:
        async with self.db.transaction(self.context, write=False) as uow:
            return await queries.get_payment(uow, payment_id)

    async def payments(self, invoice_id: UUID) -> list[Payment]:
        """Payments that asked for the invoice's money, oldest first."""
        async with self.db.transaction(self.context, write=False) as uow:
            found = await queries.list_payments(
                uow, PaymentFilter(invoice_id=invoice_id), oldest_first=True, after=None, limit=100
            )
        return [view.payment for view in found]

    def moved(self, payment_id: UUID) -> int:
        """How many times the sandbox moved money for a payment, by its own book."""
        return sum(
            entry["count"]
            for key, entry in self.gateway.ledger(self.account, "key")["groups"].items()
            if f":{payment_id}:" in key
        )

    @property
    def movements(self) -> int:
        """How many times the sandbox moved money for this firm."""
        count: int = self.gateway.ledger(self.account)["movements"]
        return count

    async def scalar(self, statement: Any, *params: Any) -> Any:
        async with self.db.transaction(self.context, write=False) as uow:
            return await uow.fetch_value(statement, params)

    async def balances(self, client_id: UUID) -> tuple[int, int]:
        """What the client owes and holds as credit, by the ledger's stored balances."""
        async with self.db.transaction(self.context, write=False) as uow:
            row = await uow.fetch_one(
                "SELECT coalesce(sum(receivable_minor), 0)::bigint AS owed, coalesce(sum(credit_minor), 0)::bigint AS credit"
                " FROM client_balance WHERE firm_id = %s AND client_id = %s",
                (self.firm_id, client_id),
            )
        assert row is not None
        return row["owed"], row["credit"]

    async def actions(self, object_id: UUID) -> list[tuple[str, str]]:
        """Audit actions and severities of an object, oldest first."""
        async with self.db.transaction(self.context, write=False) as uow:
            rows = await uow.fetch_all(
                "SELECT action, severity FROM audit_event WHERE firm_id = %s AND object_id = %s ORDER BY sequence",
                (self.firm_id, object_id),
            )
        return [(row["action"], row["severity"]) for row in rows]


def client_text(client: Client) -> str:
    """The client's id as callers see it."""
    return encode(Prefix.CLIENT, client.id)
