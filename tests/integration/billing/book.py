"""A firm's book as the tests fill and read it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

import pytest

from dunwell_server.billing.lines import LineInput
from dunwell_server.billing.model import BillingInterval, Client, Engagement, Invoice, InvoiceState, PricingMode
from dunwell_server.billing.service import clients, collection, engagements, invoices
from dunwell_server.kernel.errors import DunwellError, Reason
from dunwell_server.ledger import store as ledger
from dunwell_server.platform.context import CallContext
from dunwell_server.platform.database import Database, UnitOfWork
from tests import support

T = TypeVar("T")
Work = Callable[[UnitOfWork], Awaitable[T]]


class Recorder:
    """Subscribes to billing's events in place of payments; may refuse one."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything, refuse nothing."""
        self.events: list[Any] = []
        self.refuse: type[Any] | None = None

    async def record(self, uow: UnitOfWork, event: Any) -> None:
        """Keep the event; COLLECTION_IN_PROGRESS for the type that is to be refused."""
        self.events.append(event)
        if self.refuse is type(event):
            raise DunwellError(Reason.COLLECTION_IN_PROGRESS, "An attempt is open.")

    def of(self, kind: type[T]) -> list[T]:
        """The events of one type, in order."""
        return [event for event in self.events if isinstance(event, kind)]


@dataclass
class Book:
    """One firm, each step in a transaction of its own."""

    db: Database
    context: CallContext
    recorder: Recorder
    _count: int = field(default=0)

    async def do(self, use_case: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """A use case in a transaction."""
        return await self.db.run(self.context, lambda uow: use_case(uow, *args, **kwargs))

    async def see(self, use_case: Callable[..., Awaitable[T]], *args: Any, **kwargs: Any) -> T:
        """A use case in a read-only transaction."""
        return await self.db.run(self.context, lambda uow: use_case(uow, *args, **kwargs), write=False)

    async def refused(self, use_case: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> DunwellError:
        """The error that a use case ends with; nothing may have been written."""
        before = await self.rows()
        with pytest.raises(DunwellError) as caught:
            await self.do(use_case, *args, **kwargs)
        assert await self.rows() == before
        return caught.value

    async def rows(self) -> dict[str, tuple[int, int]]:
        """How many rows and versions the firm has, by table: what a refusal must leave as it was."""
        statement = """
            SELECT 'client' AS what, count(*), sum(version) FROM client UNION ALL
            SELECT 'engagement', count(*), sum(version) FROM engagement UNION ALL
            SELECT 'invoice', count(*), sum(version) FROM invoice UNION ALL
            SELECT 'line', count(*), sum(amount_minor) FROM invoice_line UNION ALL
            SELECT 'coverage', count(*), count(release_time) FROM coverage UNION ALL
            SELECT 'ledger', count(*), sum(amount_minor) FROM ledger_entry UNION ALL
            SELECT 'audit', count(*), 0 FROM audit_event UNION ALL
            SELECT 'event', count(*), 0 FROM event UNION ALL
            SELECT 'series', count(*), sum(next_no) FROM invoice_series
        """
        async with self.db.transaction(self.context, write=False) as uow:
            return {row["what"]: (row["count"], row["sum"]) for row in await uow.fetch_all(statement)}

    async def client(self, **fields: Any) -> Client:
        """A client; without fields an ordinary one."""
        self._count += 1
        return await self.do(clients.create_client, clients.NewClient(**{"name": f"Client {self._count}", **fields}))

    async def engagement(self, client: Client, **fields: Any) -> Engagement:
        """A monthly engagement of 1,000.00 from 2026-01-01, in advance; `fields` say what differs."""
        new = engagements.NewEngagement(
            client_id=client.id, name="Bookkeeping", pricing_mode=PricingMode.PACKAGE, start_date=date(2026, 1, 1),
            fee_minor=100_000, fee_currency=client.currency_code, billing_interval=BillingInterval.MONTHLY,
        )  # fmt: skip
        return await self.do(engagements.create_engagement, replace(new, **fields))

    async def draft(self, client: Client, *prices: str, **fields: Any) -> Invoice:
        """A draft with one line for each price."""
        return await self.do(invoices.create_invoice, new_invoice(client, *prices, **fields), finalize=False)

    async def sent(self, client: Client, *prices: str, **fields: Any) -> Invoice:
        """A finalised invoice with one line for each price."""
        return await self.do(invoices.create_invoice, new_invoice(client, *prices, **fields), finalize=True)

    async def billed(self, engagement: Engagement, start: date, end: date, amount: int = 100_000) -> Invoice:
        """A sent invoice that covers one period of an engagement, written as a run writes it."""
        client = await self.see(clients.get_client, engagement.client_id)
        invoice = await self.draft(client, engagement_id=engagement.id)

        async def cover(uow: UnitOfWork) -> Invoice:
            params = {"firm": uow.firm_id, "invoice": invoice.id, "engagement": engagement.id, "amount": amount, "start": start,
                      "end": end, "price": Decimal(amount) / 100}  # fmt: skip
            await uow.execute(
                "INSERT INTO invoice_line (firm_id, invoice_id, line_no, kind, description, quantity, unit_price, amount_minor,"
                " period_start, period_end, engagement_id, in_advance) VALUES (%(firm)s, %(invoice)s, 1, 'PACKAGE', 'Fee', 1,"
                " %(price)s, %(amount)s, %(start)s, %(end)s, %(engagement)s, true)", params)  # fmt: skip
            await uow.execute(
                "UPDATE invoice SET line_count = 1, subtotal = %(amount)s, total = %(amount)s WHERE id = %(invoice)s",
                params,
            )
            await uow.execute(
                "INSERT INTO coverage (firm_id, invoice_id, line_no, engagement_id, component, period)"
                " VALUES (%(firm)s, %(invoice)s, 1, %(engagement)s, 'PACKAGE', daterange(%(start)s, %(end)s))", params)  # fmt: skip
            await uow.execute(
                "UPDATE engagement SET billed_through_date = %(end)s, next_bill_date = %(end)s WHERE id = %(engagement)s",
                params,
            )
            return await invoices.finalize_invoice(uow, invoice.id)

        return await self.do(cover)

    async def pay(self, invoice: Invoice, amount: int) -> collection.AppliedMoney:
        """Receive money for one invoice, as payments do."""

        async def receive(uow: UnitOfWork) -> collection.AppliedMoney:
            await collection.lock_invoices(uow, [invoice.id])
            (applied,) = await collection.apply_money(uow, {invoice.id: amount})
            return applied

        return await self.do(receive)

    async def get(self, invoice: Invoice | UUID) -> Invoice:
        """The invoice as it is now."""
        return await self.see(invoices.get_invoice, invoice.id if isinstance(invoice, Invoice) else invoice)

    async def set_clock(self, now: datetime) -> None:
        """Move the firm's test clock."""
        assert self.context.firm_id is not None
        await support.set_clock(self.db, self.context.firm_id, now)

    async def sql(self, statement: str, *params: Any) -> list[dict[str, Any]]:
        """Plain SQL as the application's role, in the firm."""
        async with self.db.transaction(self.context) as uow, uow.conn.cursor() as cursor:
            await cursor.execute(statement, params)
            if cursor.description is None:
                return []
            names = [column.name for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]

    async def trial(self) -> dict[str, int]:
        """The balances that are not zero, by account."""
        rows = await self.see(ledger.trial_balance)
        return {row["account"]: int(row["balance"]) for row in rows if row["balance"]}

    async def journal(self, object_id: UUID) -> tuple[list[str], list[str]]:
        """The audit actions and the event types of an object, in order."""
        actions = await self.sql("SELECT action FROM audit_event WHERE object_id = %s ORDER BY sequence", object_id)
        types = await self.sql("SELECT type FROM event WHERE object_id = %s ORDER BY object_seq", object_id)
        return [row["action"] for row in actions], [row["type"] for row in types]


def new_invoice(client: Client, *prices: str, **fields: Any) -> invoices.NewInvoice:
    """An invoice with one line for each price."""
    lines = tuple(LineInput(f"Item {position}", Decimal(price)) for position, price in enumerate(prices, 1))
    return invoices.NewInvoice(client.id, **{"lines": lines, **fields})


def field_of(error: DunwellError) -> str | None:
    """The one field that an error names."""
    return error.violations[0].field if error.violations else None


def sequence_of(invoice: Invoice) -> int:
    """The sequence in an invoice's number."""
    assert invoice.number is not None
    match = re.fullmatch(r".*-(\d+)", invoice.number)
    assert match is not None
    return int(match[1])


__all__ = ["Book", "InvoiceState", "Recorder", "field_of", "new_invoice", "sequence_of"]
