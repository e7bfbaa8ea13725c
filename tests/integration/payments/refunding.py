"""A world in which payments are refunded: the refund workers beside the others, and what callers and tests ask of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from dunwell_server.billing.model import Client, Invoice
from dunwell_server.kernel.errors import DunwellError
from dunwell_server.payments.jobs.refunding import Refunder, RefundsHandler
from dunwell_server.payments.model import Allocation, Payment
from dunwell_server.payments.service import manual
from dunwell_server.payments.service.queries import PaymentView
from dunwell_server.payments.service.refunds import RefundOrder, get_refund, list_refunds, request_refund
from dunwell_server.payments.store.refunds import RefundFilter, RefundView
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.invariants import Movement, check_provider
from tests.integration.payments.world import World


class Refunds:
    """Refunds of one world."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.refunder = Refunder(world.workers.charger)
        self.handler = RefundsHandler(self.refunder)

    async def paid(self, amount: str = "120.00", token: str = "pm_card_visa") -> tuple[Client, Invoice, PaymentView]:
        """A client, its invoice, and the charge that paid it."""
        client, _ = await self.world.client(token, autopay=False)
        invoice = await self.world.invoice(client, amount)
        return client, invoice, await self.world.charge(invoice.id)

    async def received(self, client_id: UUID, amount: int, *parts: tuple[Invoice, int]) -> Payment:
        """Money that came outside any provider."""
        async with self.world.db.transaction(self.world.call()) as uow:
            return await manual.record_manual(
                uow, client_id, amount, "USD", method="BANK_TRANSFER",
                allocations=[Allocation(invoice.id, share) for invoice, share in parts],
            )  # fmt: skip

    async def ask(
        self,
        payment_id: UUID,
        amount: int | None = None,
        *,
        context: CallContext | None = None,
        send: bool = True,
        **options: Any,
    ) -> RefundView:
        """Ask for a refund and, unless told otherwise, send it as the caller's process does."""
        world = self.world
        context = context or world.call()
        order = RefundOrder(payment_id, amount, "USD" if amount else None, **options)
        async with world.db.transaction(context) as uow:
            requested = await request_refund(uow, order, self.refunder.owner, self.refunder.check_provider)
        if requested.claim is not None and send:
            await self.refunder.run(world.db, context, [requested.claim])
        return await self.now(requested.refund_id)

    async def now(self, refund_id: UUID) -> RefundView:
        async with self.world.db.transaction(self.world.context, write=False) as uow:
            return await get_refund(uow, refund_id)

    async def listed(self, **wanted: Any) -> list[RefundView]:
        async with self.world.db.transaction(self.world.context, write=False) as uow:
            return await list_refunds(uow, RefundFilter(**wanted), after=None, limit=100)

    async def work(self) -> None:
        """Everything about refunds that is due now, as the holder of the clock does it."""
        context = replace(self.world.context, holds_clock=True)
        for _ in range(20):
            due = await self.next_due()
            if due is None or due > self.world.now:
                return
            await self.handler.work(self.world.db, context)
        raise AssertionError("refund work at one instant does not end")

    async def next_due(self) -> datetime | None:
        async with self.world.db.transaction(self.world.context, write=False) as uow:
            return await self.handler.next_due(uow)

    async def advance(self, to: datetime) -> list[datetime]:
        """Move the clock to `to`, doing what falls due on the way; the instants at which something was."""
        steps = []
        while (due := await self.next_due()) is not None and due <= to:
            await self.world.move(max(due, self.world.now))
            steps.append(self.world.now)
            await self.work()
        await self.world.move(to)
        return steps

    def faults(self, *faults: dict[str, Any]) -> None:
        """What the sandbox does wrong from now on."""
        self.world.gateway.control("faults", account=self.world.account, faults=list(faults))

    def sent_back(self) -> dict[str, Any]:
        """How often and how much the sandbox has sent back, by its own refunds' ids."""
        groups: dict[str, Any] = self.world.gateway.ledger(self.world.account, "object", "refund")["groups"]
        return groups

    async def agree(self) -> None:
        """Provider and book tell of the same refunds."""
        movements = [
            Movement(reference, -entry["amounts"]["USD"], "USD")
            for reference, entry in self.sent_back().items()
            for _ in range(entry["count"])
        ]
        async with self.world.db.transaction(self.world.context, write=False) as uow:
            check = await check_provider(uow.fetch_all, movements, refunds=True)
        assert check.ok, check.rows

    async def accounts(self) -> dict[str, int]:
        """The firm's trial balance: debits minus credits by account, where not zero."""
        async with self.world.db.transaction(self.world.context, write=False) as uow:
            rows = await uow.fetch_all(
                "SELECT account, sum(amount_minor)::bigint AS balance FROM ledger_entry WHERE firm_id = %s GROUP BY 1"
                " HAVING sum(amount_minor) <> 0",
                (self.world.firm_id,),
            )
        return {row["account"]: row["balance"] for row in rows}

    async def notes(self, invoice_id: UUID) -> list[tuple[str, int]]:
        """Numbers and amounts of an invoice's credit notes."""
        async with self.world.db.transaction(self.world.context, write=False) as uow:
            rows = await uow.fetch_all(
                "SELECT number, amount_minor FROM credit_note WHERE firm_id = %s AND invoice_id = %s ORDER BY series_no",
                (self.world.firm_id, invoice_id),
            )
        return [(row["number"], row["amount_minor"]) for row in rows]


async def refused(work: Any) -> DunwellError:
    """The error that `work` ends with."""
    try:
        await work
    except DunwellError as error:
        return error
    raise AssertionError("was not refused")
